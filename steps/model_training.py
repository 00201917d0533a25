# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import mlflow
import xgboost as xgb
from loguru import logger
from mlflow.models import infer_signature
from sklearn.model_selection import train_test_split

import config
import data_files
import utils

data_run_id, tuning_run_id = None, None
data_run_id, tuning_run_id = utils.arguments("model-training", "data-run-id", "tuning-run-id")
data_run = utils.latest_run("data_preprocessing", data_run_id)
these = {"data_run_id": data_run.info.run_id}
tuning_run = utils.latest_run("hyperparameters_tuning", tuning_run_id, **these)

if "study" in tuning_run.data.tags and not tuning_run_id:
    these["study"] = tuning_run.data.tags["study"]
    tuning_run = utils.latest_run("hyperparameters_tuning", order_by="metrics.logloss ASC", **these)

best = tuning_run.data.params
params = {name: float(best[name]) for name in ["alpha", "learning_rate"]}
params["max_depth"] = int(best["max_depth"])
num_boost_round = int(best["num_boost_round"])

train = utils.load_dataset(data_run, "train")
encoding = data_files.learn_encoding(train, data_run.data.tags)
features, label = data_files.encode(train, encoding)
fit_features, valid_features, fit_label, valid_label = train_test_split(
    features, label, test_size=config.VALIDATION_SIZE, stratify=label, random_state=config.SEED
)
dfit = xgb.DMatrix(fit_features, label=fit_label)
dvalid = xgb.DMatrix(valid_features, label=valid_label)
fixed = {"objective": "binary:logistic", "eval_metric": ["error", "logloss"]}
fixed["nthread"] = utils.threads(train)

requirements = utils.pinned_requirements("mlflow", "xgboost", "scikit-learn", "pandas")
with_each = {
    "input_example": features.head(3),
    "pip_requirements": requirements,
    "metadata": encoding,
    "tags": {f"class_{number}": str(name) for number, name in enumerate(encoding["classes"])},
}

utils.set_experiment()
tags = {"step": "model_training", "data": data_run.data.tags["data"]}
tags |= {"data_run_id": data_run.info.run_id, "tuning_run_id": tuning_run.info.run_id}
with mlflow.start_run(run_name="Model_Training", tags=tags) as run:
    mlflow.MlflowClient().log_inputs(run.info.run_id, data_run.inputs.dataset_inputs)

    mlflow.xgboost.autolog(log_models=False, log_datasets=False)
    booster = xgb.train(
        {**fixed, **params},
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
        signature=infer_signature(features, booster.predict(dvalid)),
        **with_each,
    )

    # num_boost_round of xgb.train is n_estimators of XGBClassifier
    rounds = booster.num_boosted_rounds()
    classifier = xgb.XGBClassifier(**params, n_estimators=rounds, n_jobs=utils.threads(train))
    classifier.fit(fit_features, fit_label)
    classifier_info = mlflow.xgboost.log_model(
        classifier,
        name="classifier",
        registered_model_name=config.CLASSIFIER_MODEL,
        signature=infer_signature(features, classifier.predict(valid_features)),
        **with_each,
    )

logger.info(
    f"registered {config.BOOSTER_MODEL} version {booster_info.registered_model_version} and "
    f"{config.CLASSIFIER_MODEL} version {classifier_info.registered_model_version}: "
    f"{rounds} of {num_boost_round} rounds"
)
