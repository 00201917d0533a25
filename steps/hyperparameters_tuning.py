# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import json

import mlflow
import numpy as np
import pandas as pd
import xgboost as xgb
from loguru import logger

import cli
import config
import utils
from cli import StepError

import re
import unicodedata
from functools import lru_cache

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException


@lru_cache(maxsize=10_000, typed=True)
def as_word(value):
    """Return a word's text: 1.0 is 1, and blanks at the ends make no difference."""
    text = unicodedata.normalize("NFC", str(value)).strip()  # é has two forms in Unicode
    return re.sub(r"^(-?\d+)\.0$", r"\1", text)


# what a column may hold, in the words of pandas.api.types.infer_dtype
ACCEPTED = {
    "number": ["integer", "floating", "mixed-integer-float", "decimal"],
    "boolean": ["boolean", "integer", "floating"],
    "date": ["date", "datetime", "datetime64", "string"],
}
LARGEST = np.finfo(np.float32).max  # XGBoost takes larger numbers for infinite


def as_numbers(values, column):
    """Return a column as floats, NaN where missing; raise ValueError for another kind."""
    if column["kind"] == "number" and values.dtype == float:
        return np.asarray(values)
    missing = np.asarray(pd.isna(values))
    if column["kind"] == "words":
        places = {word: place for place, word in enumerate(column["words"])}
        pairs = zip(values, missing, strict=True)
        return np.array([np.nan if gap else places.get(as_word(v), np.nan) for v, gap in pairs])
    if missing.all():
        return np.full(len(values), np.nan)
    if pd.api.types.infer_dtype(values) not in ACCEPTED[column["kind"]]:
        raise ValueError
    if column["kind"] == "date":
        given = pd.Series(values).astype("str")
        dates = given.where(given.str.match(r"\d{4}[-/]"))
        dates = pd.to_datetime(dates, format="ISO8601", utc=True, errors="coerce")
        if (dates.isna() & ~missing).any():
            raise ValueError
        values = (dates - pd.Timestamp("1970-01-01", tz="UTC")) / pd.Timedelta(days=1)
    numbers = np.where(missing, np.nan, values).astype(float)
    if column["kind"] == "boolean" and not np.isin(numbers[~missing], [0, 1]).all():
        raise ValueError
    return numbers


def features(table, types):
    """Turn raw rows into what XGBoost sees.

    Args:
        table: n rows as they stand in the file: a DataFrame, or a dict of arrays.
        types: What the columns are, a list of dicts: `name`, `kind` and, for words, `words`.

    Returns:
        n rows of floats, in the order of `types`, with the ratio at the end: a DataFrame for a
        DataFrame, else an array.

    Raises:
        MlflowException: No rows, a column is missing, or a value is not of its column's kind.
    """
    refuse = MlflowException.invalid_parameter_value  # a server answers with status 400
    columns = {}
    if lacking := [column["name"] for column in types if column["name"] not in table]:
        raise refuse(f"Columns are missing: {', '.join(lacking)}.")
    for column in types:
        name = column["name"]
        try:
            columns[name] = as_numbers(table[name], column)
        except (TypeError, ValueError, OverflowError):
            raise refuse(f"{name}: a value is not of its kind, {column['kind']}.") from None
    if {"mean symmetry", "mean texture"} <= set(columns):  # features of your own go here
        with np.errstate(all="ignore"):
            ratio = columns["mean symmetry"] / columns["mean texture"]
        columns["symmetry per texture"] = np.where(np.abs(ratio) < LARGEST, ratio, np.nan)
    values = np.column_stack(list(columns.values()))
    if not len(values):
        raise refuse("There are no rows.")
    large = np.fmax.reduce(np.abs(values)) > LARGEST
    if large.any():
        names = ", ".join(np.array(list(columns))[large])
        raise refuse(f"Infinite or too large values in: {names}.")
    if not isinstance(table, pd.DataFrame):
        return values
    names = [name.translate(str.maketrans("[]<", "()_")) for name in columns]  # XGBoost's rule
    return pd.DataFrame(values, columns=names, index=table.index)


import time

import optuna
from mlflow.entities import Metric
from optuna.trial import TrialState
from sklearn.model_selection import RepeatedStratifiedKFold

n_trials, data_run_id, storage, study_name = 30, None, None, None
n_trials, data_run_id, storage, study_name = cli.arguments(
    "hyperparameters-tuning", "n-trials", "data-run-id", "storage", "study-name"
)

if n_trials < 1:
    raise StepError(f"n-trials is {n_trials}: give a whole number of at least 1.")

data_run = utils.latest_run("data_preprocessing", data_run_id)
train, target = utils.load_dataset(data_run, "train"), data_run.data.tags["target"]
types = mlflow.artifacts.load_dict(f"runs:/{data_run.info.run_id}/types.json")
classes = json.loads(data_run.data.tags["classes"])
values, label = features(train, types), (train[target] == classes[1]).astype(int)
dtrain = xgb.DMatrix(values, label=label)  # XGBoost's own form of data

ranges = {
    "max_depth": [2, 3],
    "learning_rate": [0.05, 0.15],
    "subsample": [0.5, 0.7],
    "colsample_bytree": [0.15, 0.4],
}
folds = RepeatedStratifiedKFold(
    n_splits=config.N_FOLDS, n_repeats=config.N_REPEATS, random_state=config.SEED
)
folds = list(folds.split(values, label))  # the same for each trial


def objective(trial):
    params = {
        "objective": "binary:logistic",
        "nthread": utils.threads(train),
        "max_depth": trial.suggest_int("max_depth", *ranges["max_depth"]),
        "learning_rate": trial.suggest_float("learning_rate", *ranges["learning_rate"], log=True),
        "subsample": trial.suggest_float("subsample", *ranges["subsample"]),
        "colsample_bytree": trial.suggest_float("colsample_bytree", *ranges["colsample_bytree"]),
    }
    with mlflow.start_run(run_name=f"Trial_{trial.number}", nested=True) as trial_run:
        mlflow.log_params(trial.params)
        curves = xgb.cv(
            params,
            dtrain,
            num_boost_round=config.MOST_ROUNDS,
            folds=folds,
            metrics=["error", "auc", "logloss"],
            early_stopping_rounds=config.EARLY_STOPPING_ROUNDS,  # watches the last of the metrics
            seed=config.SEED,
        )
        best, now = curves.iloc[-1], int(time.time() * 1000)
        trial.set_user_attr("accuracy", 1 - best["test-error-mean"])
        trial.set_user_attr("auc", best["test-auc-mean"])
        trial.set_user_attr("num_boost_round", len(curves))
        batch = [Metric("accuracy", trial.user_attrs["accuracy"], now, 0)]
        batch.append(Metric("num_boost_round", len(curves), now, 0))
        for name in ["auc", "logloss"]:
            curve = enumerate(curves[f"test-{name}-mean"], start=1)
            batch += [Metric(name, value, now, step) for step, value in curve]
        mlflow.MlflowClient().log_batch(trial_run.info.run_id, batch)
    return best["test-logloss-mean"]


train_uri = f"runs:/{data_run.info.run_id}/datasets/train.csv"
train_data = utils.as_dataset(train, train_uri, "train", target)
study_name = study_name or f"tuning-{train_data.digest}"
study = optuna.create_study(
    direction="minimize",
    # two workers with one seed would draw the same trials
    sampler=optuna.samplers.TPESampler(
        seed=None if storage else config.SEED, constant_liar=bool(storage)
    ),
    storage=utils.open_storage(storage) if storage else None,
    study_name=study_name,
    load_if_exists=True,
)
finished = len(study.get_trials(states=[TrialState.COMPLETE]))
enough = optuna.study.MaxTrialsCallback(n_trials, states=[TrialState.COMPLETE])

# what the study is about is written into it, so that trials on other data or from other ranges never mix
goal = f"log loss of the best round, {config.N_FOLDS} folds, {config.N_REPEATS} times"
subject = {"data": train_data.digest, "objective": goal, "ranges": ranges}
written = study.user_attrs.get("about", None if study.trials else subject)
if written != subject or study.directions != [optuna.study.StudyDirection.MINIMIZE]:
    raise StepError(
        f"Study {study_name} is about {written}, not {subject}: give another study-name."
    )
study.set_user_attr("about", subject)

utils.set_experiment(data_run.data.tags["name"])
mlflow.set_system_metrics_sampling_interval(1)
tags = {"step": "hyperparameters_tuning", "data_run_id": data_run.info.run_id}
tags |= {name: data_run.data.tags[name] for name in ["name", "data"]}
if storage:
    tags["study"] = study_name
with mlflow.start_run(run_name="Hyperparameters_Search", log_system_metrics=True, tags=tags) as run:
    mlflow.log_input(train_data, context="tuning")
    mlflow.log_dict(ranges, "ranges.json")
    missing = max(n_trials - finished, 0)
    study.optimize(objective, missing, callbacks=[enough], show_progress_bar=True)
    best = study.best_trial
    results = dict(best.user_attrs)
    chosen = {**best.params, "num_boost_round": results.pop("num_boost_round")}
    mlflow.log_params(chosen)
    mlflow.log_metrics({"logloss": best.value, **results})

shown = ", ".join(f"{name} {value:.4g}" for name, value in chosen.items())
logger.info(f"best of {len(study.trials)} trials: log loss {best.value:.4f} with {shown}")

import matplotlib.pyplot as plt
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances


def draw(client, run_id):
    with plt.rc_context():  # Optuna's plots change the style of all later ones
        history = plot_optimization_history(study).figure
        client.log_figure(run_id, history, "plots/optimization_history.png")
        if len({trial.value for trial in study.trials}) > 1:  # else nothing can be important
            importances = plot_param_importances(study).figure
            importances.set_layout_engine("constrained")
            client.log_figure(run_id, importances, "plots/param_importances.png")
        plt.close("all")
    # a third more rounds than the best trial took, to see what follows them
    params = {"objective": "binary:logistic", "nthread": utils.threads(train), **best.params}
    rounds = chosen["num_boost_round"]
    curves = xgb.cv(
        params, dtrain, rounds * 4 // 3, folds=folds, metrics="logloss", seed=config.SEED
    )
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, shown in [("train", "trained on"), ("test", "held out")]:
        axes[0].plot(range(1, len(curves) + 1), curves[f"{name}-logloss-mean"], label=shown)
    axes[0].legend()
    held_out = curves["test-logloss-mean"]
    around = held_out[held_out < 1.15 * held_out.min()]
    axes[1].plot(around.index + 1, around, color="C1")
    for axis, title in zip(axes, [f"Trial {best.number}", "Held out, its end"], strict=True):
        axis.axvline(rounds, color="gray", linestyle=":")
        axis.set(xlabel="boosting round", ylabel="log loss", title=title)
    client.log_figure(run_id, figure, "plots/best_trial.png")
    plt.close(figure)


draw(mlflow.MlflowClient(), run.info.run_id)
