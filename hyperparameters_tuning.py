# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import argparse
import time

import mlflow
import xgboost as xgb
from mlflow.entities import Metric, Param
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

import config
import utils
from errors import StepError
from shared_study import SharedStudy

n_trials, data_run_id = config.N_TRIALS, None
storage, study_name, workers, dask_scheduler = None, None, 1, None
parser = argparse.ArgumentParser(description="Search for good hyperparameters, one nested run a trial.")
parser.add_argument("--n-trials", type=int, default=config.N_TRIALS, help="finished trials in the end")
parser.add_argument("--data-run-id", help="run of the data preparation to use; the newest if not given")
parser.add_argument("--storage", help="Optuna storage URL, or path of a journal file")
parser.add_argument("--study-name", help="study to join; if not given, that of the data")
parser.add_argument("--workers", type=int, default=1, help="how many processes make trials")
parser.add_argument("--dask-scheduler", help="tcp://HOST:PORT of a cluster to place them on")
args = parser.parse_args()
n_trials, data_run_id = args.n_trials, args.data_run_id
storage, study_name, workers, dask_scheduler = args.storage, args.study_name, args.workers, args.dask_scheduler

if n_trials < 1:
    raise StepError(f"n-trials is {n_trials}: give a whole number of at least 1.")
if workers < 1:
    raise StepError(f"workers is {workers}: give a whole number of at least 1.")

data_run = utils.latest_run("data_preprocessing", data_run_id)
train = utils.load_split(data_run, "train")
dtrain = xgb.DMatrix(train.drop(columns=config.TARGET), label=train[config.TARGET])


def suggest(trial):
    return {
        "max_depth": trial.suggest_int("max_depth", 2, 8),
        "alpha": trial.suggest_float("alpha", 0.001, 0.05),
        "learning_rate": trial.suggest_float("learning_rate", 0.005, 0.5, log=True),
        "num_boost_round": trial.suggest_int("num_boost_round", 30, 300),
    }


def objective(trial):
    params = suggest(trial)
    num_boost_round = params.pop("num_boost_round")
    tags = {"trial": str(trial.number)}
    with utils.open_run(run_name=f"Trial_{trial.number}", nested=True, tags=tags) as trial_run:
        history = xgb.cv(
            {"objective": "binary:logistic", "nthread": utils.threads(train, workers), **params},
            dtrain,
            num_boost_round,
            nfold=config.N_FOLDS,
            stratified=True,
            metrics=["auc", "error"],
            seed=config.SEED,
        )
        accuracy = 1 - history["test-error-mean"].iloc[-1]
        now = int(time.time() * 1000)
        metrics = [Metric("accuracy", accuracy, now, 0)]
        for name in ["auc", "error"]:
            metrics += [Metric(name, value, now, step) for step, value in enumerate(history[f"test-{name}-mean"])]
        chosen = [Param(name, str(value)) for name, value in trial.params.items()]
        mlflow.MlflowClient().log_batch(trial_run.info.run_id, metrics, chosen)
    return accuracy


mlflow.set_system_metrics_sampling_interval(1)
search = SharedStudy(data_run, suggest, storage, study_name)
study = search.study

with search.start_run(n_trials, log_system_metrics=True) as run:
    search.optimize(objective, n_trials, workers, dask_scheduler)

    utils.log_dataset(train, data_run, "train", context="tuning")
    mlflow.log_params(search.best_trial().params)
    mlflow.log_metric("accuracy", search.best_trial().value)
    history_plot = plot_optimization_history(study).figure
    mlflow.log_figure(history_plot, "plots/optimization_history.png")
    if len({trial.value for trial in study.trials}) > 1:  # without a difference nothing can be important
        importance_plot = plot_param_importances(study).figure
        mlflow.log_figure(importance_plot, "plots/param_importances.png")

best = search.best_trial()
chosen = ", ".join(f"{name} {value:.4g}" for name, value in best.params.items())
config.logger.info(f"best of {n_trials} trials: accuracy {best.value:.4f} with {chosen}")
