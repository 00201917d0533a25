# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import time

import matplotlib.pyplot as plt
import mlflow
import optuna
import xgboost as xgb
from loguru import logger
from mlflow.entities import Metric
from optuna.trial import TrialState
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

import config
import data_files
import utils
from utils import StepError

n_trials, data_run_id, storage, study_name = 30, None, None, None
n_trials, data_run_id, storage, study_name = utils.arguments(
    "hyperparameters-tuning", "n-trials", "data-run-id", "storage", "study-name"
)

if n_trials < 1:
    raise StepError(f"n-trials is {n_trials}: give a whole number of at least 1.")

data_run = utils.latest_run("data_preprocessing", data_run_id)
train = utils.load_dataset(data_run, "train")
encoding = data_files.learn_encoding(train, data_run.data.tags)
features, label = data_files.encode(train, encoding)
dtrain = xgb.DMatrix(features, label=label)

ranges = {
    "max_depth": [2, 8],
    "alpha": [0.001, 0.05],
    "learning_rate": [0.005, 0.5],
    "num_boost_round": [30, 300],
}


def objective(trial):
    params = {
        "objective": "binary:logistic",
        "nthread": utils.threads(train),
        "max_depth": trial.suggest_int("max_depth", *ranges["max_depth"]),
        "alpha": trial.suggest_float("alpha", *ranges["alpha"]),
        "learning_rate": trial.suggest_float("learning_rate", *ranges["learning_rate"], log=True),
    }
    rounds = trial.suggest_int("num_boost_round", *ranges["num_boost_round"])
    folds = {"nfold": config.N_FOLDS, "stratified": True, "metrics": ["error", "auc", "logloss"]}
    with mlflow.start_run(run_name=f"Trial_{trial.number}", nested=True) as trial_run:
        mlflow.log_params(trial.params)
        curves = xgb.cv(params, dtrain, rounds, seed=config.SEED, **folds)
        last = curves.iloc[-1]
        trial.set_user_attr("accuracy", 1 - last["test-error-mean"])
        trial.set_user_attr("auc", last["test-auc-mean"])
        now = int(time.time() * 1000)
        batch = [Metric("accuracy", trial.user_attrs["accuracy"], now, 0)]
        for name in ["auc", "logloss"]:
            values = enumerate(curves[f"test-{name}-mean"])
            batch += [Metric(name, value, now, step) for step, value in values]
        mlflow.MlflowClient().log_batch(trial_run.info.run_id, batch)
    return last["test-logloss-mean"]


train_uri = f"runs:/{data_run.info.run_id}/datasets/train.csv"
train_data = utils.as_dataset(train, train_uri, "train", encoding["target"])
study_name = study_name or f"tuning-{train_data.digest}"
seed = None if storage else config.SEED
study = optuna.create_study(
    direction="minimize",
    sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=bool(storage)),
    storage=utils.open_storage(storage) if storage else None,
    study_name=study_name,
    load_if_exists=True,
)

goal = f"log loss, {config.N_FOLDS} folds"
about = {"data": train_data.digest, "objective": goal, "ranges": ranges}
known = study.user_attrs.get("about", about)
if known != about:
    raise StepError(f"Study {study_name} is about {known}, not {about}: give another study-name.")
study.set_user_attr("about", about)
finished = len(study.get_trials(states=[TrialState.COMPLETE]))
enough = optuna.study.MaxTrialsCallback(n_trials, states=[TrialState.COMPLETE])

utils.set_experiment()
mlflow.set_system_metrics_sampling_interval(1)
tags = {"step": "hyperparameters_tuning", "data_run_id": data_run.info.run_id}
tags |= {"data": data_run.data.tags["data"], **({"study": study_name} if storage else {})}
with mlflow.start_run(run_name="Hyperparameters_Search", log_system_metrics=True, tags=tags) as run:
    mlflow.log_input(train_data, context="tuning")
    mlflow.log_dict(ranges, "ranges.json")
    missing = max(n_trials - finished, 0)
    study.optimize(objective, missing, callbacks=[enough], show_progress_bar=True)
    best = study.best_trial
    mlflow.log_params(best.params)
    mlflow.log_metrics({"logloss": best.value, **best.user_attrs})

chosen = ", ".join(f"{name} {value:.4g}" for name, value in best.params.items())
logger.info(f"best of {len(study.trials)} trials: log loss {best.value:.4f} with {chosen}")

client = mlflow.MlflowClient()
with plt.rc_context():  # Optuna's plots change the style of all later ones
    history = plot_optimization_history(study).figure
    client.log_figure(run.info.run_id, history, "plots/optimization_history.png")
    if len({trial.value for trial in study.trials}) > 1:  # else nothing can be important
        importances = plot_param_importances(study).figure
        client.log_figure(run.info.run_id, importances, "plots/param_importances.png")
    plt.close("all")
