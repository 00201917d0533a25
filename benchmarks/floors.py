"""The floor of each step, as a process: the same imports and the same computation, without an MLflow run.

usage: python -m benchmarks.floors FOLDER STEP [OPTION OF THE SCRIPT ...]

FOLDER has what the step would fetch from MLflow (`train.csv`, `test.csv`, the models' folders `booster` and
`classifier`) and gets what it would log.
"""

import ast
import json
import sys
from pathlib import Path

import config

IMPORTS = (ast.Import, ast.ImportFrom)


def assigned_names(statement):
    """Tell which names a statement assigns.

    Args:
        statement: An `ast.stmt`.

    Returns:
        A set of names; those of an import or a definition are not among them.
    """
    if isinstance(statement, (*IMPORTS, ast.FunctionDef)):
        return set()
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def before_the_run(step, options=(), **given):
    """Execute the part of a step's script that comes before its MLflow run: the imports, and what is computed first.

    So a floor uses the step's own code wherever it can, and cannot fall behind it.

    Args:
        step: The step's name, a key of `config.RUN_NAMES`.
        options: The script's command line.
        **given: Values of variables that the script would fetch from MLflow; statements that assign them are left out.

    Returns:
        The script's variables, a dict.
    """
    script = config.PROJECT_DIR / f"{step}.py"
    body = ast.parse(script.read_text(encoding="utf-8")).body
    end = next(number for number, statement in enumerate(body) if isinstance(statement, ast.With))
    body = [statement for statement in body[:end] if not assigned_names(statement) & set(given)]
    variables = dict(given)
    arguments, sys.argv = sys.argv, [str(script), *options]
    try:
        exec(compile(ast.Module(body, type_ignores=[]), script, "exec"), variables)  # nosec B102: our own script
    finally:
        sys.argv = arguments
    return variables


def plain_study():
    """Make a study in memory that draws the same trials as the project's.

    Returns:
        The `optuna.Study`.
    """
    import optuna

    from shared_study import Sampler

    return optuna.create_study(direction="maximize", sampler=Sampler())


def cross_validate(trial, script, callbacks=None):
    """Do what a trial of the tuning computes, without MLflow.

    The script's own `objective` starts a run, so it is written again here. The benchmark compares the results.

    Args:
        trial: The `optuna.Trial`.
        script: The variables of `hyperparameters_tuning.py`, a dict.
        callbacks: Callbacks of XGBoost.

    Returns:
        The accuracy after the last round.
    """
    import xgboost as xgb

    import utils

    params = script["suggest"](trial)
    num_boost_round = params.pop("num_boost_round")
    history = xgb.cv(
        {"objective": "binary:logistic", "nthread": utils.threads(script["train"]), **params},
        script["dtrain"],
        num_boost_round,
        nfold=config.N_FOLDS,
        stratified=True,
        metrics=["auc", "error"],
        seed=config.SEED,
        callbacks=callbacks,
    )
    return 1 - history["test-error-mean"].iloc[-1]


def data_preprocessing(folder, options):
    """Split the data and write both parts.

    Args:
        folder: The `pathlib.Path` of the folder with what the step needs.
        options: The script's command line.
    """
    script = before_the_run("data_preprocessing", options)
    for split in ["train", "test"]:
        script[split].to_csv(folder / f"made_{split}.csv", index=False)


def hyperparameters_tuning(folder, options):
    """Search, and draw both plots.

    Args:
        folder, options: As above.
    """
    import pandas as pd

    train = pd.read_csv(folder / "train.csv")
    study = plain_study()
    script = before_the_run("hyperparameters_tuning", options, data_run=None, train=train, search=None, study=study)
    study.optimize(lambda trial: cross_validate(trial, script), script["n_trials"])
    script["plot_optimization_history"](study).figure.savefig(folder / "optimization_history.png")
    if len({trial.value for trial in study.trials}) > 1:
        script["plot_param_importances"](study).figure.savefig(folder / "param_importances.png")


def model_training(folder, options):
    """Train both models, save them and draw the importance of the features.

    Args:
        folder, options: As above; the folder has the parameters in `best.json` too.
    """
    import matplotlib.pyplot as plt
    import pandas as pd
    import xgboost as xgb
    from sklearn.metrics import accuracy_score

    import utils

    train, test = pd.read_csv(folder / "train.csv"), pd.read_csv(folder / "test.csv")
    best = json.loads((folder / "best.json").read_text())
    script = before_the_run(
        "model_training", options, data_run=None, tuning_run=None, best=best, train=train, test=test
    )
    booster = xgb.train(
        {
            "objective": "binary:logistic",
            "eval_metric": ["error", "logloss"],
            "nthread": utils.threads(train),
            **script["params"],
        },
        script["dfit"],
        script["num_boost_round"],
        evals=[(script["dfit"], "train"), (script["dvalid"], "validation")],
        callbacks=[xgb.callback.EarlyStopping(rounds=config.EARLY_STOPPING_ROUNDS, save_best=True)],
        verbose_eval=False,
    )
    booster.save_model(folder / "made_booster.ubj")
    importance = booster.get_score(importance_type="weight")
    figure, axes = plt.subplots(layout="tight")
    axes.barh(list(importance), list(importance.values()))
    figure.savefig(folder / "feature_importance.png")

    classifier = xgb.XGBClassifier(
        **script["params"], n_estimators=booster.num_boosted_rounds(), n_jobs=utils.threads(train)
    )
    classifier.fit(script["fit_features"], script["fit_target"])
    classifier.save_model(folder / "made_classifier.ubj")
    accuracy_score(test[config.TARGET], classifier.predict(test.drop(columns=config.TARGET)))


def data_evaluation(folder, options):
    """Compute the metrics that `mlflow.models.evaluate` computes, and draw its plots.

    Args:
        folder, options: As above.
    """
    import mlflow
    import pandas as pd

    test = pd.read_csv(folder / "test.csv")
    features, target = test.drop(columns=config.TARGET), test[config.TARGET]
    fetched = ["training_run", "data_run", "version", "model_uri", "source", "evaluation_data", "client", "champion"]
    given = dict.fromkeys(fetched)
    before_the_run("data_evaluation", options, frame=test, columns=list(features), **given)

    # mlflow.models.evaluate imports these when it is called
    import matplotlib.pyplot as plt
    import shap
    from mlflow.models.evaluation.lift_curve import plot_lift_curve
    from sklearn import metrics
    from sklearn.calibration import CalibrationDisplay

    def evaluate(name, explain):
        classifier = mlflow.xgboost.load_model(str(folder / "classifier"))
        predicted, probabilities = classifier.predict(features), classifier.predict_proba(features)
        for score in [metrics.accuracy_score, metrics.precision_score, metrics.recall_score, metrics.f1_score]:
            score(target, predicted)
        metrics.log_loss(target, probabilities)
        metrics.roc_auc_score(target, probabilities[:, 1])
        metrics.average_precision_score(target, probabilities[:, 1])
        plots = {
            "roc": lambda: metrics.RocCurveDisplay.from_predictions(target, probabilities[:, 1]),
            "precision_recall": lambda: metrics.PrecisionRecallDisplay.from_predictions(target, probabilities[:, 1]),
            "lift": lambda: plot_lift_curve(target, probabilities, pos_label=1),
            "calibration": lambda: CalibrationDisplay.from_predictions(target, probabilities[:, 1]),
            "confusion_matrix": lambda: metrics.ConfusionMatrixDisplay.from_predictions(target, predicted),
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

    evaluate("model", explain=True)
    evaluate("champion", explain=False)  # in the benchmark there is one already, which the script evaluates too


def flavour_comparison(folder, options):
    """Compare the flavours; all of that the script computes before its run.

    Args:
        folder, options: As above.
    """
    import pandas as pd

    script = before_the_run(
        "flavour_comparison",
        options,
        training_run=None,
        data_run=None,
        test=pd.read_csv(folder / "test.csv").drop(columns=config.TARGET),
        booster_uri=str(folder / "booster"),
        classifier_uri=str(folder / "classifier"),
    )
    script["figure"].savefig(folder / "latency.png")
    for name in ["flavours", "refusals", "latency"]:
        script[name].reset_index().to_json(folder / f"{name}.json", orient="split")


def model_customization(folder, options):
    """Load the classifier and predict probabilities; the script's run only logs.

    Args:
        folder, options: As above.
    """
    before_the_run("model_customization", options, training_run=None, classifier_uri=str(folder / "classifier"))


def model_serving(folder, options):
    """Serve the classifier, query it, and compare with the model in this process.

    Args:
        folder, options: As above.
    """
    import mlflow
    import numpy as np
    import pandas as pd
    import requests

    import processes
    import utils

    test = pd.read_csv(folder / "test.csv").drop(columns=config.TARGET)
    script = before_the_run(
        "model_serving",
        options,
        model_uri=str(folder / "classifier"),
        model_info=None,
        training_run=None,
        data_run=None,
        test=test,
        port=servers.free_port(),
    )
    with servers.server([*script["command"], "--port", str(script["port"])], f"{script['url']}/health"):
        response = requests.post(f"{script['url']}/invocations", json=utils.as_request(test), timeout=60)
    response.raise_for_status()
    expected = mlflow.pyfunc.load_model(script["model_uri"]).predict(test)
    np.testing.assert_allclose(response.json()["predictions"], expected, atol=1e-6)


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
    FLOORS[sys.argv[2]](Path(sys.argv[1]), sys.argv[3:])
