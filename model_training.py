# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import argparse

import mlflow
import xgboost as xgb
from mlflow.models import infer_signature
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split

import config
import utils

data_run_id, tuning_run_id = None, None
parser = argparse.ArgumentParser(description="Train and register the Booster and the classifier.")
parser.add_argument("--data-run-id", help="run of the data preparation to use; the newest if not given")
parser.add_argument("--tuning-run-id", help="tuning run to use; the newest on these data if not given")
args = parser.parse_args()
data_run_id, tuning_run_id = args.data_run_id, args.tuning_run_id

data_run = utils.latest_run("data_preprocessing", data_run_id)
tuning_run = utils.latest_run("hyperparameters_tuning", tuning_run_id, data_run_id=data_run.info.run_id)
best = tuning_run.data.params
params = {
    "max_depth": int(best["max_depth"]),
    "alpha": float(best["alpha"]),
    "learning_rate": float(best["learning_rate"]),
}
num_boost_round = int(best["num_boost_round"])

train, test = utils.load_split(data_run, "train"), utils.load_split(data_run, "test")
features, target = train.drop(columns=config.TARGET), train[config.TARGET]
fit_features, valid_features, fit_target, valid_target = train_test_split(
    features, target, test_size=config.VALIDATION_SIZE, stratify=target, random_state=config.SEED
)
dfit = xgb.DMatrix(fit_features, label=fit_target)
dvalid = xgb.DMatrix(valid_features, label=valid_target)

requirements = utils.pinned("mlflow", "xgboost", "scikit-learn", "pandas")
example = features.head(3)

with utils.start_step("model_training") as run:
    mlflow.set_tags({"data_run_id": data_run.info.run_id, "tuning_run_id": tuning_run.info.run_id})
    mlflow.set_tag("train_digest", utils.log_dataset(train, data_run, "train", context="training"))
    mlflow.set_tag("test_digest", utils.log_dataset(test, data_run, "test", context="testing"))

    mlflow.xgboost.autolog(log_models=False, log_datasets=False)
    booster = xgb.train(
        {
            "objective": "binary:logistic",
            "eval_metric": ["error", "logloss"],
            "nthread": utils.threads(train),
            **params,
        },
        dfit,
        num_boost_round,
        evals=[(dfit, "train"), (dvalid, "validation")],
        callbacks=[xgb.callback.EarlyStopping(rounds=config.EARLY_STOPPING_ROUNDS, save_best=True)],
        verbose_eval=False,
    )
    mlflow.xgboost.autolog(disable=True)
    booster_info = mlflow.xgboost.log_model(
        booster,
        name="booster",
        registered_model_name=config.BOOSTER_MODEL,
        signature=infer_signature(example, booster.predict(xgb.DMatrix(example))),
        input_example=example,
        pip_requirements=requirements,
    )

    # The number of rounds has two names: num_boost_round of xgb.train is n_estimators of XGBClassifier.
    classifier = xgb.XGBClassifier(**params, n_estimators=booster.num_boosted_rounds(), n_jobs=utils.threads(train))
    classifier.fit(fit_features, fit_target)
    classifier_info = mlflow.xgboost.log_model(
        classifier,
        name="classifier",
        registered_model_name=config.CLASSIFIER_MODEL,
        signature=infer_signature(example, classifier.predict(example)),
        input_example=example,
        pip_requirements=requirements,
    )
    test_accuracy = accuracy_score(test[config.TARGET], classifier.predict(test.drop(columns=config.TARGET)))
    mlflow.log_metric("test_accuracy", test_accuracy)

config.logger.info(
    f"registered {config.BOOSTER_MODEL} version {booster_info.registered_model_version} and "
    f"{config.CLASSIFIER_MODEL} version {classifier_info.registered_model_version}: "
    f"{booster.num_boosted_rounds()} rounds, accuracy on the test set {test_accuracy:.4f}"
)
