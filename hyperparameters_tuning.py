# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import argparse
import time

import mlflow
import optuna
import xgboost as xgb
from mlflow.entities import Metric, Param
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

import config
import utils

n_trials = config.N_TRIALS
data_run_id = None
parser = argparse.ArgumentParser(description="Search for good hyperparameters, one nested run a trial.")
parser.add_argument("--n-trials", type=int, default=config.N_TRIALS, help="how many combinations to try")
parser.add_argument("--data-run-id", help="run of the data preparation to use; the newest if not given")
args = parser.parse_args()
n_trials, data_run_id = args.n_trials, args.data_run_id

if n_trials < 1:
    raise utils.StepError(f"n-trials is {n_trials}: give a whole number of at least 1.")

data_run = utils.latest_run("data_preprocessing", data_run_id)
train = utils.load_split(data_run, "train")
dtrain = xgb.DMatrix(train.drop(columns=config.TARGET), label=train[config.TARGET])


def objective(trial):
    params = {
        "max_depth": trial.suggest_int("max_depth", 2, 8),
        "alpha": trial.suggest_float("alpha", 0.001, 0.05),
        "learning_rate": trial.suggest_float("learning_rate", 0.005, 0.5, log=True),
    }
    num_boost_round = trial.suggest_int("num_boost_round", 30, 300)
    with mlflow.start_run(run_name=f"Trial_{trial.number}", nested=True) as run:
        history = xgb.cv(
            {"objective": "binary:logistic", "nthread": utils.threads(train), **params},
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
        mlflow.MlflowClient().log_batch(run.info.run_id, metrics, chosen)
    return accuracy


optuna.logging.set_verbosity(optuna.logging.WARNING)
mlflow.set_system_metrics_sampling_interval(1)
study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=config.SEED))

with utils.start_step("hyperparameters_tuning", log_system_metrics=True) as run:
    mlflow.set_tag("data_run_id", data_run.info.run_id)
    utils.log_dataset(train, data_run, "train", context="tuning")
    study.optimize(objective, n_trials, show_progress_bar=True)
    mlflow.log_params(study.best_params)
    mlflow.log_metric("accuracy", study.best_value)

    history_plot = plot_optimization_history(study).figure
    mlflow.log_figure(history_plot, "plots/optimization_history.png")
    if len({trial.value for trial in study.trials}) > 1:  # without a difference nothing can be important
        importance_plot = plot_param_importances(study).figure
        mlflow.log_figure(importance_plot, "plots/param_importances.png")

best = ", ".join(f"{name} {value:.4g}" for name, value in study.best_params.items())
config.logger.info(f"best of {n_trials} trials: accuracy {study.best_value:.4f} with {best}")
