"""The floor of each step: the same imports and the same computation, without a run of MLflow; results go to files.

usage: python -m benchmarks.floors STEP FOLDER N_TRIALS

FOLDER has what the step would fetch from MLflow: `train.csv`, `test.csv`, `best.json` and the models' folders `booster`
and `classifier`. Each floor says as JSON which metrics it found; the benchmark compares them with those of the step.
"""

import json
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
from loguru import logger  # noqa: F401 each step imports it

import config
import data_files  # noqa: F401 as above
import servers
import utils


def read(folder, name):
    """Read a data set: the features and the label."""
    frame = pd.read_csv(folder / f"{name}.csv")
    return frame.drop(columns="target"), frame["target"]


def data_preprocessing(folder, n_trials):
    """Split the data and write both parts."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    data = utils.add_features(load_breast_cancer(as_frame=True).frame)
    train, test = train_test_split(data, test_size=0.33, stratify=data["target"], random_state=config.SEED)
    train.to_csv(folder / "made_train.csv", index=False)
    test.to_csv(folder / "made_test.csv", index=False)
    return {"full_rows": len(data), "train_rows": len(train), "test_rows": len(test)}


def cross_validate(trial, features, label, callbacks=None):
    """Do what a trial of the tuning computes: the metrics after each round, a `pandas.DataFrame`."""
    import xgboost as xgb

    params = {
        "max_depth": trial.suggest_int("max_depth", 2, 8),
        "alpha": trial.suggest_float("alpha", 0.001, 0.05),
        "learning_rate": trial.suggest_float("learning_rate", 0.005, 0.5, log=True),
    }
    return xgb.cv(
        {"objective": "binary:logistic", "nthread": utils.threads(features), **params},
        xgb.DMatrix(features, label=label),
        trial.suggest_int("num_boost_round", 30, 300),
        nfold=config.N_FOLDS,
        stratified=True,
        metrics=["error", "auc", "logloss"],
        seed=config.SEED,
        callbacks=callbacks,
    )


def search(objective, n_trials):
    """Search with the tuning's sampler, in memory; returns the `optuna.Study`."""
    import optuna

    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=config.SEED))
    study.optimize(objective, n_trials)
    return study


def hyperparameters_tuning(folder, n_trials):
    """Search, and draw both plots."""
    import matplotlib.pyplot as plt
    import xgboost  # noqa: F401 as the step does, before the search
    from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

    data = read(folder, "train")
    study = search(lambda trial: cross_validate(trial, *data)["test-logloss-mean"].iloc[-1], n_trials)
    with plt.rc_context():
        plot_optimization_history(study).figure.savefig(folder / "optimization_history.png")
        if len({trial.value for trial in study.trials}) > 1:
            plot_param_importances(study).figure.savefig(folder / "param_importances.png")
    return {"logloss": study.best_value}


def model_training(folder, n_trials):
    """Train both models, save them and draw the importance of the features."""
    import matplotlib.pyplot as plt
    import xgboost as xgb
    from sklearn.model_selection import train_test_split

    features, label = read(folder, "train")
    params = json.loads((folder / "best.json").read_text())
    num_boost_round, threads = params.pop("num_boost_round"), utils.threads(features)
    fit_features, valid_features, fit_label, valid_label = train_test_split(
        features, label, test_size=config.VALIDATION_SIZE, stratify=label, random_state=config.SEED
    )
    dfit, dvalid = xgb.DMatrix(fit_features, label=fit_label), xgb.DMatrix(valid_features, label=valid_label)
    curves = {}
    booster = xgb.train(
        {"objective": "binary:logistic", "eval_metric": ["error", "logloss"], "nthread": threads, **params},
        dfit,
        num_boost_round,
        evals=[(dfit, "train"), (dvalid, "validation")],
        evals_result=curves,
        callbacks=[xgb.callback.EarlyStopping(rounds=config.EARLY_STOPPING_ROUNDS, save_best=True)],
        verbose_eval=False,
    )
    booster.save_model(folder / "made_booster.ubj")
    xgb.plot_importance(booster)
    plt.savefig(folder / "feature_importance.png")
    classifier = xgb.XGBClassifier(**params, n_estimators=booster.num_boosted_rounds(), n_jobs=threads)
    classifier.fit(fit_features, fit_label).save_model(folder / "made_classifier.ubj")
    losses = curves["validation"]["logloss"]
    # MLflow's autologging misses the round after which the training stops early
    return {"validation-logloss": losses[-1 if len(losses) == num_boost_round else -2]}


def data_evaluation(folder, n_trials):
    """Compute the metrics of `mlflow.models.evaluate` and draw its plots: of the model, and of the champion before."""
    import matplotlib.pyplot as plt
    import shap
    from mlflow.models.evaluation.lift_curve import plot_lift_curve
    from sklearn import metrics
    from sklearn.calibration import CalibrationDisplay

    features, label = read(folder, "test")

    def evaluate(name, explain):
        classifier = mlflow.xgboost.load_model(str(folder / "classifier"))
        predicted, probabilities = classifier.predict(features), classifier.predict_proba(features)
        positive = probabilities[:, 1]
        found = {
            "accuracy_score": metrics.accuracy_score(label, predicted),
            "precision_score": metrics.precision_score(label, predicted),
            "recall_score": metrics.recall_score(label, predicted),
            "f1_score": metrics.f1_score(label, predicted),
            "log_loss": metrics.log_loss(label, probabilities),
            "roc_auc": metrics.roc_auc_score(label, positive),
        }
        plots = {
            "roc": lambda: metrics.RocCurveDisplay.from_predictions(label, positive),
            "precision_recall": lambda: metrics.PrecisionRecallDisplay.from_predictions(label, positive),
            "lift": lambda: plot_lift_curve(label, probabilities, pos_label=1),
            "calibration": lambda: CalibrationDisplay.from_predictions(label, positive),
            "confusion_matrix": lambda: metrics.ConfusionMatrixDisplay.from_predictions(label, predicted),
        }
        if explain:
            explained = shap.Explainer(classifier, features)(features)
            plots |= {
                "shap_beeswarm": lambda: shap.plots.beeswarm(explained, show=False),
                "shap_summary": lambda: shap.summary_plot(explained, show=False),
                "shap_importance": lambda: shap.plots.bar(explained, show=False),
            }
        # the size and form of MLflow's plots
        form = {"figure.dpi": 175, "figure.figsize": (6, 4), "figure.autolayout": True, "font.size": 8}
        with plt.rc_context(form):
            for plot_name, plot in plots.items():
                plot()
                plt.savefig(folder / f"{name}_{plot_name}.png", bbox_inches="tight")
                plt.close("all")
        return found

    found = evaluate("model", explain=True)
    evaluate("champion", explain=False)
    return found


def flavour_comparison(folder, n_trials):
    """Load the models in four ways, see what they refuse, and time them on one row and on all."""
    import matplotlib.pyplot as plt
    import xgboost as xgb

    test, _ = read(folder, "test")
    models = [
        load(str(folder / name))
        for load in [mlflow.xgboost.load_model, mlflow.pyfunc.load_model]
        for name in ["booster", "classifier"]
    ]
    xgb.set_config(nthread=1)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3), sharey=True, layout="constrained")
    for axis, frame in zip(axes, [test.head(1), test], strict=True):
        seconds = [[] for _ in models]
        for _ in range(51):
            for number, model in enumerate(models):
                start = time.perf_counter()
                model.predict(frame if number else xgb.DMatrix(frame))
                seconds[number].append(time.perf_counter() - start)
        axis.barh(range(len(models)), pd.DataFrame(seconds).median(axis="columns"))
    figure.savefig(folder / "latency.png")
    refusals = 0
    for model in models:
        for wrong in [test.iloc[:, 1:], test.astype(str)]:
            try:
                model.predict(wrong)
            except Exception:
                refusals += 1
    (folder / "flavours.json").write_text(json.dumps(refusals))
    return {}


def model_customization(folder, n_trials):
    """Load the classifier and predict probabilities."""
    features, _ = read(folder, "train")
    mlflow.xgboost.load_model(str(folder / "classifier")).predict_proba(features)
    return {}


def model_serving(folder, n_trials):
    """Serve the classifier, query it, and compare with the model in this process."""
    import numpy as np
    import requests

    test, _ = read(folder, "test")
    classifier, port = str(folder / "classifier"), servers.free_port()
    command = ["mlflow", "models", "serve", "-m", classifier, "--env-manager", "local", "--host", "127.0.0.1"]
    with servers.server([*command, "--port", str(port)], f"http://127.0.0.1:{port}/health"):
        response = requests.post(f"http://127.0.0.1:{port}/invocations", json=utils.as_request(test), timeout=60)
    response.raise_for_status()
    served = np.array(response.json()["predictions"])
    return {"largest_difference": float(np.abs(served - mlflow.pyfunc.load_model(classifier).predict(test)).max())}


FLOORS = {
    floor.__name__: floor
    for floor in [
        data_preprocessing,
        hyperparameters_tuning,
        model_training,
        data_evaluation,
        flavour_comparison,
        model_customization,
        model_serving,
    ]
}

if __name__ == "__main__":
    print(json.dumps(FLOORS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
