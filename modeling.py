# ---
# jupyter:
#   jupytext:
#     comment_magics: false
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A model's life with MLflow
#
# **Take one XGBoost model from a data set to a served endpoint with MLflow, on your own machine, and take the code
# home.** It is for data scientists who know scikit-learn; you need to know nothing about MLflow. You need Linux or a
# Mac with Apple silicon (for Windows see *The MLflow UI*), Python 3.11 to 3.14, `git`, `make` and 2 GB of disk. With
# this repository's address for `URL`:
#
# ```bash
# git clone URL mlflow-walkthrough && cd mlflow-walkthrough
# make walkthrough
# make ui
# ```
#
# - **After one minute** all packages are installed, in `.venv`, and your first run is recorded.
# - **After five minutes** `make walkthrough` has run the cells of this page and the [next](SERVING.md) (but for a few
#   that need environments of their own): a model is tuned, trained, registered, evaluated and served, and `make ui`
#   shows it all at http://127.0.0.1:5000.
# - **After an hour** you have read the two pages, and know which cells to copy. All outputs come from a run of the
#   notebook [modeling.py](modeling.py).
#
# ```mermaid
# flowchart LR
#   data[Data] --> tune[Tune] --> train[Train] -- registers a version --> registry[(Registry)]
#   registry --> gate{Gate} -- moves the alias --> champion([champion])
#   champion --> serve[Serve]
#   champion --> score[Score a file]
# ```
#
# An editor that knows [development containers](.devcontainer/devcontainer.json) opens the folder with all installed.

# %% [markdown]
# ## Your first run
#
# MLflow keeps the records of an experiment. What went into a model (data, parameters, code) and what came out
# (metrics, plots, the model itself) is stored in a **run**. Runs are collected in an **experiment**. A model worth
# keeping becomes a **version** of a **registered model**.
#
# The data here are scikit-learn's breast cancer measurements: 569 tumours, 30 numbers about each. Is a tumour malignant
# or benign? Class 1 is the one that is looked for, malignant; scikit-learn's own file has 1 for benign, hence the
# `1 -`. We start with XGBoost's defaults, measured on held-out folds of the training data: the log loss (how far the
# probabilities are from the truth; 0 is perfect), the area under the ROC curve and the share of right answers. What
# happens in the `with` block goes into one run. This cell needs no file of this project: it also runs in an empty
# folder, after `pip install mlflow xgboost scikit-learn`.

# %% tags=["remove-output"]
import mlflow
import xgboost as xgb
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import StratifiedKFold, cross_validate, train_test_split

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
y = 1 - y  # 1 = malignant
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=0.33, stratify=y, random_state=42
)
baseline = xgb.XGBClassifier()
folds = StratifiedKFold(n_splits=5, shuffle=True, random_state=42)
scores = ["neg_log_loss", "roc_auc", "accuracy"]

mlflow.set_experiment("Cancer_Classification")
with mlflow.start_run(run_name="Baseline") as baseline_run:
    mlflow.log_params({"model": "XGBClassifier", "parameters": "defaults", "seed": 42})
    data = mlflow.data.from_pandas(X_train.assign(target=y_train), targets="target", name="train")
    mlflow.log_input(data, "training")
    result = cross_validate(baseline, X_train, y_train, cv=folds, scoring=scores)
    mlflow.log_metric("cv_logloss", -result["test_neg_log_loss"].mean())
    mlflow.log_metric("cv_auc", result["test_roc_auc"].mean())
    mlflow.log_metric("cv_accuracy", result["test_accuracy"].mean())
    baseline.fit(X_train, y_train)
    baseline_info = mlflow.xgboost.log_model(
        baseline, name="baseline", input_example=X_train.head(3)
    )

# %% [markdown]
# Parameters are what we chose, metrics are numbers that came out, the input is the data set, and the model is a folder
# of files. What was written down can be asked for:

# %%
mlflow.get_run(baseline_run.info.run_id).data.metrics

# %% [markdown]
# Tuning has to beat this baseline, on the test set and not on these folds. Nobody looks at the test set until then.

# %% [markdown]
# ## The MLflow UI
#
# `make ui` shows all that we log in the browser. It is `mlflow ui --workers 1` in the environment that `make` has
# installed. To give `mlflow` commands yourself, activate that environment first, once in each terminal:
#
# ```bash
# source .venv/bin/activate
# ```
#
# Open http://127.0.0.1:5000 (macOS may hold this port; another one: `make ui UI_PORT=5050`) and choose *Model training*
# at the top left, because MLflow opens with its other half, *GenAI*. Our experiment is under *Recent Experiments*.
#
# ![The start page of the MLflow UI, with our experiment](img/mlflow_main.png)
#
# No server is needed to *log* something. By default MLflow writes to the folder where the code runs: `mlflow.db`, an
# SQLite database of runs, parameters, metrics and registered models; and `mlruns/`, the files that belong to them,
# their **artifacts**. The UI reads both.
#
# To follow in Jupyter, run `jupyter lab`, right-click `modeling.py` and choose *Open With › Notebook*. (Remove
# `mlflow.db` and `mlruns/` before, or the numbers of versions go on from those of `make walkthrough`.) The notebook is
# a Python file because text can be reviewed and merged; Jupytext keeps its outputs beside it, in `modeling.ipynb`.
#
# Without `make`, install with one of these commands (on Windows activate with `.venv\Scripts\activate`), and run the
# notebook with `python -m notebook_tools.run`:
#
# ```bash
# python -m venv .venv && source .venv/bin/activate && pip install -r requirements.txt
# ```
#
# ```bash
# conda env create -f conda.yaml && conda activate mlflow-walkthrough
# ```

# %% [markdown]
# ## Data preparation
#
# From here on, the cells that do the work belong to a *step*, and *MLflow Projects* shows how they become scripts: the
# line *in `steps/…`* above a cell names its script, also for the cells below it (but for those that only look at
# results). `cli`, `config`, `utils`, `data_files` and `servers` are files of this project. Not shown are plots, checks
# of parameters, and lines that only report.

# %% tags=["data_preprocessing", "hyperparameters_tuning", "model_training", "data_evaluation", "pipeline", "flavour_comparison", "serving_check", "model_customization"]
import json

import mlflow
import numpy as np
import pandas as pd
import xgboost as xgb
from loguru import logger

# hide import cli
import config
import utils
from cli import StepError

# %% tags=["data_preprocessing"]
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import data_files

test_size, dataset, target, positive_class, data_name = 0.33, None, None, None, None
# hide test_size, dataset, target, positive_class, data_name = cli.arguments(
# hide     "data-preprocessing", "test-size", "dataset", "target", "positive-class", "name"
# hide )
# %% tags=["data_preprocessing"]
data_name = utils.data_name(data_name, dataset)
if dataset:
    data, target = data_files.read_table(dataset, target)
else:
    bunch = load_breast_cancer(as_frame=True)
    data, target = bunch.frame, "target"
    data[target] = bunch.target_names[bunch.target]  # malignant, benign
classes = data_files.two_classes(data[target], positive_class, test_size)
train, test = train_test_split(
    data, test_size=test_size, stratify=data[target], random_state=config.SEED
)
train, test = train.reset_index(drop=True), test.reset_index(drop=True)

# %% [markdown]
# It is the split of the first run, so the baseline has not seen these test rows either. For data of your own, set
# `dataset` to the path of a CSV or Parquet file, and `target` to a column with two values. Class 1 is the rarer one,
# unless `positive_class` names the other. The name of the breast cancer data is `Cancer`, hence `Cancer_Classification`
# and `CancerModel`; own data are called like the file (or as `data_name` says).

# %% [markdown]
# ### From the table to what XGBoost sees
#
# XGBoost wants numbers. What a column is (numbers, true and false, dates, words), and which words it has, is learned
# from the training rows, once: `types` goes with the data and with each model trained on them. (The cell imports what
# is imported already, because it begins a file that has to stand alone.)

# %% tags=["data_preprocessing", "hyperparameters_tuning", "model_training", "model_code"]
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


# %% tags=["data_preprocessing"]
# by the letter of the pandas dtype; `read_table` has made floats of whole numbers
kinds = {"f": "number", "b": "boolean", "M": "date"}
types = [
    {"name": name, "kind": kinds.get(train[name].dtype.kind, "words")}
    for name in train.columns.drop(target)
]
for column in types:
    if column["kind"] == "words":
        column["words"] = sorted({as_word(word) for word in train[column["name"]].dropna()})

# %% [markdown]
# `features` is the one place that turns raw rows into what XGBoost sees. Training stores it *with the model*, so that
# whoever has the model can give it rows as they stand in the file. It adds one column, mean symmetry divided by mean
# texture, to show that features of your own travel with the model. The rest is for tables with words, dates and gaps: a
# word becomes its place in the list, which trees can split on; an unknown word is missing. A value that is not of its
# column's kind is refused, naming the column and never the value, which may belong to a patient.

# %% tags=["data_preprocessing", "hyperparameters_tuning", "model_training", "model_code"]
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


# %% [markdown]
# The two data sets are logged as artifacts that later steps load, and as *dataset inputs*: MLflow then shows their
# columns and a *digest*, a short number computed from all values (`log_dataset`, in [utils.py](utils.py), does both;
# `check_name` refuses a name that other data have). Rows of the test set that also stand in the training data prove
# nothing: they are counted here, and left out at the evaluation.

# %% tags=["data_preprocessing"]
known = int(utils.known_rows(features(test, types), features(train, types)).sum())
utils.check_name(data_name, target, classes, types)

utils.set_experiment(data_name)  # Cancer_Classification, unless you have chosen another one
tags = {"step": "data_preprocessing", "name": data_name}
tags |= {"target": target, "classes": json.dumps(classes)}
source = dataset or "breast cancer"
with mlflow.start_run(run_name="Data_Preprocessing", tags=tags) as run:
    mlflow.log_params({"test_size": test_size, "seed": config.SEED, "data_source": source})
    mlflow.log_metrics({"full_rows": len(data), "train_rows": len(train), "test_rows": len(test)})
    mlflow.log_metric("test_rows_in_training", known)
    mlflow.log_dict(types, "types.json")
    train_data = utils.log_dataset(train, "train", target, context="training")
    test_data = utils.log_dataset(test, "test", target, context="testing")
    about = f"{source}, {len(train)} training rows, digest {train_data.digest}"
    mlflow.set_tag("data", f"{about}, class 1 is {classes[1]!r}")
logger.info(f"{about}, class 0 is {classes[0]!r}, class 1 is {classes[1]!r}")
logger.info(f"{len(test)} test rows, {known} of them equal to one in the training data")

# %% [markdown]
# ![In the UI, the run with one of its data sets opened: rows, digest, columns and their types](img/data_set.png)

# %% [markdown]
# ## Hyperparameter tuning
#
# Which tree depth, which learning rate? Optuna makes a **trial** of one combination after the other and learns from
# the results where to look next; all are a **study**. In MLflow each trial is a **nested run** of the tuning run.
#
# A step finds the results of an earlier step in MLflow: (`utils.latest_run`) the finished run whose tag `step` has that
# name and that ended last, or the one whose ID is given. Steps share no variables and no files, so each can also run
# alone, on another day or another machine.

# %% tags=["hyperparameters_tuning"]
import time

import optuna
from mlflow.entities import Metric
from optuna.trial import TrialState
from sklearn.model_selection import RepeatedStratifiedKFold

n_trials, data_run_id, storage, study_name = 30, None, None, None
# hide n_trials, data_run_id, storage, study_name = cli.arguments(
# hide     "hyperparameters-tuning", "n-trials", "data-run-id", "storage", "study-name"
# hide )
# %% tags=["hyperparameters_tuning", "remove-input"]
if n_trials < 1:
    raise StepError(f"n-trials is {n_trials}: give a whole number of at least 1.")

# %% tags=["hyperparameters_tuning"]
data_run = utils.latest_run("data_preprocessing", data_run_id)
train, target = utils.load_dataset(data_run, "train"), data_run.data.tags["target"]
types = mlflow.artifacts.load_dict(f"runs:/{data_run.info.run_id}/types.json")
classes = json.loads(data_run.data.tags["classes"])
values, label = features(train, types), (train[target] == classes[1]).astype(int)
dtrain = xgb.DMatrix(values, label=label)  # XGBoost's own form of data

# %% [markdown]
# These are the ranges to search. They *regularise*: shallow trees that each see a part of the rows and columns, since
# on a few hundred rows a model overfits easily. For one trial Optuna suggests a value for each parameter, and XGBoost
# cross-validates them on held-out folds of the training data. It stops early, where more boosting rounds no longer
# help: the last line that `xgb.cv` returns is the best round. Its log loss is the result of the trial, and the number
# of lines is the number of rounds of the final model. (The accuracy only counts right and wrong; the log loss also sees
# how sure the model was.)
#
# The metrics of all rounds go to MLflow in a single batch: one by one they would take longer than the training itself
# ([How fast it is](chapters/performance.md) has the figures, and a callback that logs while XGBoost trains).

# %% tags=["hyperparameters_tuning"]
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


# %% [markdown]
# The study is in memory and ends with this notebook; MLflow has all that came out of it. (With a `storage` it can be
# resumed and shared, and `finished`, `enough` and `missing` are needed only then: [Many
# workers](chapters/many_workers.md).) The run of the search gets the best parameters with their metrics, plots, and
# *system metrics*: what processor and memory were doing meanwhile, once a second.

# %% tags=["hyperparameters_tuning"]
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

# %% tags=["hyperparameters_tuning", "remove-input"]
# what the study is about is written into it, so that trials on other data or from other ranges never mix
goal = f"log loss of the best round, {config.N_FOLDS} folds, {config.N_REPEATS} times"
subject = {"data": train_data.digest, "objective": goal, "ranges": ranges}
written = study.user_attrs.get("about", None if study.trials else subject)
if written != subject or study.directions != [optuna.study.StudyDirection.MINIMIZE]:
    raise StepError(
        f"Study {study_name} is about {written}, not {subject}: give another study-name."
    )
study.set_user_attr("about", subject)

# %% tags=["hyperparameters_tuning"]
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

# %% tags=["hyperparameters_tuning", "remove-input"]
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

# %% tags=["remove-input"]
from IPython.display import display

plot = mlflow.artifacts.load_image(f"runs:/{run.info.run_id}/plots/best_trial.png")
display(plot, metadata={"image/png": {"alt": "Log loss of the best trial, round by round"}})

# %% [markdown]
# These are the curves of the chosen trial, run on past its best round. On held-out rows the loss has its least value at
# the best round (the dotted line), and turns up again, a little, after it. Is that better than the baseline? In
# cross-validation it is, with 0.0958 against 0.1157 on other folds, but that proves little: the search has chosen what
# is best there. The evaluation on the test set will say.
#
# The best values lie near the upper ends of their ranges. In a project of your own you would widen the ranges and
# search again. Here the ranges were fixed beforehand, on splits of the training rows and on other tables.

# %% [markdown]
# ## Reading the results in the UI
#
# In the UI, open the experiment. Each step is a run; unfold `Hyperparameters_Search`, and there are the trials, with
# what they tried and how good that was. (*Columns* chooses what is shown.)
#
# ![The runs of the experiment in the MLflow UI](img/runs_list.png)
#
# The chart view draws one line per trial, up to its best round: with a small learning rate it is long.
#
# ![Log loss and AUC of the trials, round by round](img/runs_charts.png)
#
# Select the trials and choose *Compare*. Each line is a trial and runs through three parameters to its log loss (blue
# is low). Most of the best ones have a high learning rate and see many columns. But the picture shows where the sampler
# went, and not why a trial was good: the first ten are drawn at random, the others go where earlier ones were good.
#
# ![The trials compared, as lines through their parameters](img/compare_runs_counter_plot.png)
#
# The tab *System metrics* of the search shows how busy the processor was, and how much memory was in use.
#
# ![Processor and memory during the search](img/system_metrics.png)
#
# Whatever the UI shows, code can ask for too. These are the three best trials:

# %%
found = mlflow.search_runs(
    filter_string=f"tags.mlflow.parentRunId = '{run.info.run_id}'",
    order_by=["metrics.logloss ASC"],
    max_results=3,
)
found[["tags.mlflow.runName", "metrics.logloss", "metrics.accuracy", "params.max_depth"]]

# %% [markdown]
# ## Training and registering the model
#
# With the best parameters, and the number of rounds that was best on the held-out folds, the final model is trained on
# *all* training rows. XGBoost offers it in two forms: a `Booster`, its own, and an `XGBClassifier`, which follows
# scikit-learn. Both know 0 and 1 only, and 1 means malignant. People will use neither, but a third model around the
# classifier, which takes rows as they stand in the file. (The second page compares all three.) Of all searches on these
# data the best one counts, unless you give the ID of another. MLflow stores parameters as text: each is made a number
# again.

# %% tags=["model_training", "remove-output"]
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType

data_run_id, tuning_run_id = None, None
# hide data_run_id, tuning_run_id = cli.arguments(
# hide     "model-training", "data-run-id", "tuning-run-id"
# hide )
data_run = utils.latest_run("data_preprocessing", data_run_id)
train, target = utils.load_dataset(data_run, "train"), data_run.data.tags["target"]
types = mlflow.artifacts.load_dict(f"runs:/{data_run.info.run_id}/types.json")
classes = json.loads(data_run.data.tags["classes"])
data_name = data_run.data.tags["name"]
model_name = f"{data_name}Model"
values, label = features(train, types), (train[target] == classes[1]).astype(int)
dtrain = xgb.DMatrix(values, label=label)

of_these_data = {"data_run_id": data_run.info.run_id, "order_by": "metrics.logloss ASC"}
tuning_run = utils.latest_run("hyperparameters_tuning", tuning_run_id, **of_these_data)
best = tuning_run.data.params
names = ["max_depth", "learning_rate", "subsample", "colsample_bytree"]
params = {name: json.loads(best[name]) for name in names}
rounds, threads = int(best["num_boost_round"]), utils.threads(train)

# %% [markdown]
# Now the model that takes the table as it stands. `pyfunc` is MLflow's one way to call any kind of model, and a
# `PythonModel` one of your own kind. A *model from code* is a Python file that MLflow stores with the model and runs
# again when the model is loaded; nothing is pickled. This one holds `features` from above and a class around it, and
# imports packages only, never modules of this project, which may have changed by then. Its *artifact* is the XGBoost
# classifier, whose *metadata* say what the columns and the classes are.

# %% tags=["model_training", "model_code"]
import hashlib
import logging
from pathlib import Path

from mlflow.models import Model


def sha256(folder):
    """Return the digest of a classifier's file, to notice when it is damaged."""
    return hashlib.sha256(Path(folder, "model.ubj").read_bytes()).hexdigest()


class TableClassifier(mlflow.pyfunc.PythonModel):
    """An XGBoost classifier that takes rows as they stand in the file."""

    def load_context(self, context):
        """Load the classifier, which MLflow has stored as an artifact."""
        folder = context.artifacts["classifier"]
        if sha256(folder) != context.model_config["sha256"]:  # XGBoost could take the server down
            raise MlflowException("The classifier's file is damaged.")
        self.classifier = mlflow.xgboost.load_model(folder)
        self.about = Model.load(folder).metadata

    def features(self, table):
        """Turn raw rows into what the classifier sees, with the code stored with this model."""
        return features(table, self.about["types"])  # the function, not this method

    def answer(self, values):
        """Return the answers to n rows of features: a DataFrame with n rows."""
        classes, probabilities = self.about["classes"], self.classifier.predict_proba(values)
        answer = {"prediction": [classes[place] for place in probabilities.argmax(axis=1)]}
        for place, name in enumerate(classes):
            answer[f"probability of {name}"] = probabilities[:, place].astype(float)
        return pd.DataFrame(answer).astype({"prediction": object})

    def unknown_words(self, table, values):
        """Return for each column of words the share of rows whose word the model does not know."""
        shares = {}
        for column, seen in zip(self.about["types"], np.asarray(values).T, strict=False):
            if column["kind"] == "words":
                unknown = pd.notna(table[column["name"]]) & np.isnan(seen)
                shares[column["name"]] = float(unknown.mean())
        return shares

    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Return for n rows as many answers: `prediction` and each `probability of …`."""
        values = self.features(model_input)
        for name, share in self.unknown_words(model_input, values).items():
            if share:
                logging.warning("%s: %.0f %% of the words are unknown", name, 100 * share)
        return self.answer(values)


# %% tags=["model_code"]
mlflow.models.set_model(TableClassifier())  # which object of the file is the model

# %% [markdown]
# We log each model with a **signature**, columns and types that MLflow checks when the model is called through
# `pyfunc`; an **input example**; the **requirements** that it needs to run; and **metadata**: what the columns and
# classes were. MLflow's `step` is the boosting round whose metrics become the model's, the last.
#
# The model around the classifier is logged as its *file*, `steps/model_code.py`, which is made of the cells above. Its
# signature names the columns as `AnyType`: with types MLflow would convert values, or refuse whole numbers in a column
# of decimals, before the model sees them. If a cell was edited and `make scripts` forgotten, cell and file differ: that
# is checked before a version is registered. The name under which a model is **registered** is what its users know; each
# training makes a new *version* of it.

# %% tags=["model_training"]
about = {"name": data_name, "target": target, "classes": classes, "types": types}
packages = ["mlflow", "xgboost", "scikit-learn", "pandas"]
with_each = {"pip_requirements": utils.pinned_requirements(*packages), "metadata": about}
with_each["step"] = rounds - 1


def log_model(classifier, name):
    """Log a classifier and the model around it in the active run, and register the model."""
    classifier_info = mlflow.xgboost.log_model(
        classifier,
        name="classifier",
        signature=infer_signature(values, classifier.predict(values)),
        input_example=values.head(3),
        **with_each,
    )
    here = TableClassifier()  # as the cell above has it
    here.classifier, here.about = classifier, about
    raw, answer = train.drop(columns=target), here.answer(values)
    example = raw.head(3).astype(object)  # in JSON, NaN has to be None
    model_info = mlflow.pyfunc.log_model(
        name=name,
        python_model=str(config.PROJECT_DIR / "steps" / "model_code.py"),
        artifacts={"classifier": classifier_info.model_uri},
        model_config={
            "sha256": sha256(mlflow.artifacts.download_artifacts(classifier_info.model_uri))
        },
        signature=ModelSignature(
            inputs=Schema([ColSpec(AnyType(), column) for column in raw]),
            outputs=infer_signature(model_output=answer).outputs,
        ),
        input_example=example.where(example.notna(), None),
        **with_each | {"metadata": {**about, "classifier_id": classifier_info.model_id}},
    )
    stored = mlflow.pyfunc.load_model(model_info.model_uri).unwrap_python_model()
    if not (stored.features(raw).equals(values) and stored.answer(values).equals(answer)):
        raise StepError("steps/model_code.py is not what the cells say. First: make scripts")
    return mlflow.register_model(model_info.model_uri, model_name, tags={"classes": str(classes)})


# %% [markdown]
# `autolog` makes MLflow watch XGBoost: it logs the parameters, the loss of each round and the importance of the
# features by itself. It is switched off before the second training, which would be logged once more. The run also says
# what made it: its inputs are the data sets of the preparation, its tags the runs that it built on. MLflow adds who ran
# which script in which commit; in a notebook it cannot know the commit.

# %% tags=["model_training", "remove-output"]
utils.set_experiment(data_name)
tags = {"step": "model_training", "name": data_name, "data": data_run.data.tags["data"]}
tags |= {"data_run_id": data_run.info.run_id, "tuning_run_id": tuning_run.info.run_id}
with mlflow.start_run(run_name="Model_Training", tags=tags) as run:
    mlflow.MlflowClient().log_inputs(run.info.run_id, data_run.inputs.dataset_inputs)

    mlflow.xgboost.autolog(log_models=False, log_datasets=False)
    booster = xgb.train(
        {"objective": "binary:logistic", "seed": config.SEED, "nthread": threads, **params},
        dtrain,
        num_boost_round=rounds,
        evals=[(dtrain, "train")],
        verbose_eval=False,
    )
    mlflow.xgboost.autolog(disable=True)
    # the same once more, with the same parameters under scikit-learn's names
    same = {"n_estimators": rounds, "random_state": config.SEED, "n_jobs": threads, **params}
    classifier = xgb.XGBClassifier(**same).fit(values, label)
    model_version = log_model(classifier, "tuned")
    booster_info = mlflow.xgboost.log_model(
        booster,
        name="booster",
        registered_model_name=f"{model_name}Booster",
        signature=infer_signature(values, booster.predict(dtrain)),
        input_example=values.head(3),
        **with_each,
    )
booster_version = booster_info.registered_model_version
logger.info(
    f"registered {model_name} version {model_version.version} and {model_name}Booster version "
    f"{booster_version}: {rounds} rounds, {len(train)} rows"
)

# %% [markdown]
# A logged model is a folder. Its file `MLmodel` says how to load it, in one or several **flavours**. The UI shows it,
# and beside it the code, the classifier among the artifacts, the requirements and the input example.
#
# ![The files of the model in the UI](img/model_artifacts.png)
#
# Autologging has drawn how often the trees split on each feature. It is a picture among the artifacts of the run:

# %% tags=["remove-input"]
plot = mlflow.artifacts.load_image(f"runs:/{run.info.run_id}/feature_importance_weight.png")
display(plot, metadata={"image/png": {"alt": "How often the trees split on each feature"}})

# %% [markdown]
# ## Evaluating the model
#
# Training made a new version of `CancerModel`. Is it good enough to be used? The evaluation runs on the test set, or on
# any other file with the same columns (set `eval_dataset`). It takes the version that the last training run registered,
# and the data that this training run used: the last version and the last data may belong to something else.
# `utils.load_model` returns what MLflow knows of a version, and its `TableClassifier`, which has more than `predict`.

# %% tags=["data_evaluation", "remove-output"]
from mlflow.models import MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

import data_files

eval_dataset, training_run_id = None, None
# hide eval_dataset, training_run_id = cli.arguments(
# hide     "data-evaluation", "eval-dataset", "training-run-id"
# hide )
training_run = utils.latest_run("model_training", training_run_id)
data_name = training_run.data.tags["name"]
model_name = f"{data_name}Model"
version = utils.registered_version(model_name, training_run)
info, model = utils.load_model(f"models:/{model_name}/{version}")
data_run = utils.data_run_of(info)
target, classes = info.metadata["target"], info.metadata["classes"]
if eval_dataset:
    table, _ = data_files.read_table(eval_dataset, model=info.metadata)
else:
    table = utils.load_dataset(data_run, "test")
source = eval_dataset or f"runs:/{data_run.info.run_id}/datasets/test.csv"

# %% [markdown]
# If there is a champion already (the version in use, see *The gate*), it is judged beside the new one. Rows that a
# model was trained on prove nothing: a row whose features equal those of a training row of either is left out.

# %% tags=["data_evaluation", "remove-output"]
trained_on = utils.load_dataset(data_run, "train")
known = utils.known_rows(model.features(table), model.features(trained_on))
objections, champion, champion_info = [], utils.champion_version(model_name), None
if champion and champion != version:
    try:
        champion_info, champion_model = utils.load_model(f"models:/{model_name}/{champion}")
        utils.check_alike(champion_info, info)
        its_rows = utils.load_dataset(utils.data_run_of(champion_info), "train")
        its_rows = champion_model.features(its_rows)
        known |= utils.known_rows(champion_model.features(table), its_rows)
    except utils.EarlierVersion as error:
        logger.warning(f"{error} It counts as no champion.")
    except StepError as error:
        champion_info = None
        objections.append(f"The champion, version {champion}, cannot be compared: {error}")
rows = table[~known]

# %% tags=["data_evaluation", "remove-input"]
if rows[target].nunique() < 2:
    raise StepError(
        f"{source}: {known.sum()} of the {len(table)} rows were seen in training, and the others "
        f"are not of both classes. Give rows that are new to the model."
    )
logger.info(
    f"version {version} on {len(rows)} rows of {source}, class 1 is {classes[1]!r}; "
    f"{known.sum()} others were seen in training and are left out"
)

# %% [markdown]
# `mlflow.models.evaluate` computes the usual metrics of a classifier and draws the usual plots. It can ask only known
# kinds of models for probabilities, so it gets the plain classifier, with features made by the version's own code.
# Called with `models:/m-…`, the address of a *logged model*, it links each metric with the classifier and with the data
# set; we log them for the model around it too.
#
# How much is a difference worth? The log loss is a mean over few rows, and so is the difference of two log losses,
# taken row by row: its *standard error* says how far it may be off by chance.

# %% tags=["data_evaluation"]
test_label = (rows[target] == classes[1]).astype(int)
test_data = utils.as_dataset(rows, source, "test", target)


def evaluate(classifier_id, values, model_id=None):
    """Evaluate a logged classifier, and note the metrics with the model around it."""
    data = utils.as_dataset(values.assign(**{target: test_label}), source, "features", target)
    options = {"label_list": [0, 1], "pos_label": 1}
    options["log_model_explainability"] = False  # SHAP comes below, in fewer seconds
    result = mlflow.models.evaluate(
        f"models:/{classifier_id}", data, model_type="classifier", evaluator_config=options
    )
    mlflow.log_metrics(result.metrics, dataset=test_data, model_id=model_id or classifier_id)
    return result


def losses(probability):
    """Return the log loss of each row."""
    right = np.where(test_label, probability, 1 - probability)
    return -np.log(np.clip(right, np.finfo(np.float32).eps, 1))


def difference(these, others):
    """Return the mean difference of losses, row by row, and its standard error."""
    return (these - others).mean(), (these - others).std(ddof=1) / len(these) ** 0.5


def log_difference(name, these, others):
    """Log both, with the test set that they were computed on."""
    mean, error = difference(these, others)
    mlflow.log_metrics({name: mean, f"{name}_standard_error": error}, dataset=test_data)


# %% [markdown]
# The least that a model must beat is guessing with the shares that the classes have in the training data.

# %% tags=["data_evaluation"]
utils.set_experiment(data_name)
tags = {"step": "data_evaluation", "name": data_name, "training_run_id": training_run.info.run_id}
tags |= {"model_version": str(version), "eval_dataset": eval_dataset or "test set"}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}
tags |= {"champion_before": str(champion)}
with mlflow.start_run(run_name="Data_Evaluation", tags=tags) as run:
    mlflow.log_metric("rows_seen_in_training", known.sum())
    test_values = model.features(rows)
    result = evaluate(info.metadata["classifier_id"], test_values, info.model_id)
    loss = losses(model.answer(test_values).iloc[:, -1])  # the probability of class 1

    share = (trained_on[target] == classes[1]).mean()
    guess_loss = losses(np.full(len(rows), share))
    mlflow.log_metric("guessing_log_loss", guess_loss.mean(), dataset=test_data)
    log_difference("gain_over_guessing", guess_loss, loss)

    champion_loss = None
    if champion_info:
        with mlflow.start_run(run_name=f"Champion_Version_{champion}", nested=True):
            its_values = champion_model.features(rows)
            evaluate(champion_info.metadata["classifier_id"], its_values, champion_info.model_id)
        champion_loss = losses(champion_model.answer(its_values).iloc[:, -1])
        log_difference("loss_above_champion", loss, champion_loss)

# %% tags=["data_evaluation", "remove-input"]
import matplotlib.pyplot as plt
import shap

for word_column, unknown in model.unknown_words(rows, test_values).items():
    if unknown:
        logger.warning(
            f"{source}: {unknown:.1%} of the words in {word_column} are unknown to the model."
        )
few = test_values.head(2000)
shap_values = shap.TreeExplainer(model.classifier).shap_values(few)
seeded = np.random.default_rng(config.SEED)
shap.summary_plot(shap_values, few, max_display=10, show=False, rng=seeded)
mlflow.MlflowClient().log_figure(run.info.run_id, plt.gcf(), "shap_summary.png")
plt.close("all")

# %% [markdown]
# Now the other models on the same rows: the baseline of the first run, and one that is too simple, a single tree with a
# single split. That one is logged and registered like any other, and gets the next version.

# %% tags=["remove-output"]
stump = xgb.XGBClassifier(n_estimators=1, max_depth=1).fit(values, label)
with mlflow.start_run(run_name="Too_Simple", tags={"data_run_id": data_run.info.run_id}):
    simple_version = log_model(stump, "Too_Simple").version
    simple_info, simple_model = utils.load_model(f"models:/{model_name}/{simple_version}")
    simple_id = simple_info.metadata["classifier_id"]
    simple_result = evaluate(simple_id, test_values, simple_info.model_id)
    simple_loss = losses(simple_model.answer(test_values).iloc[:, -1])
if dataset is None:  # the baseline knows the cancer data only
    with mlflow.start_run(run_id=baseline_run.info.run_id):  # the first run, to add to it
        its_values = rows[baseline_info.signature.inputs.input_names()]
        evaluate(baseline_info.model_id, its_values)
        baseline_loss = losses(baseline.predict_proba(its_values)[:, 1])
        log_difference("loss_above_tuned", baseline_loss, loss)

# %% [markdown]
# The models around a classifier, and the baseline, now know their own numbers. The UI lists them (*Models* in the menu
# of the experiment); each metric names the data set that it was measured on.
#
# ![The logged models, each with its metrics on the test set](img/logged_models.png)
#
# Code can ask for them too, the best first. Guessing is no model; its log loss is a metric of the evaluation. The last
# two columns count the errors at a threshold of 0.5: false negatives are missed cancers, false positives false alarms.

# %%
found = mlflow.search_logged_models(
    datasets=[{"dataset_name": "test", "dataset_digest": test_data.digest}],
    order_by=[{"field_name": "metrics.log_loss", "ascending": True}],
    output_format="list",
)
models = {}
for logged in found:
    on_test = [metric for metric in logged.metrics if metric.dataset_name == "test"]
    models[logged.name] = {metric.key: metric.value for metric in on_test}
evaluation = mlflow.get_run(run.info.run_id).data.metrics
models["guessing"] = {"log_loss": evaluation["guessing_log_loss"]}
shown = ["log_loss", "roc_auc", "recall_score", "false_negatives", "false_positives"]
pd.DataFrame(models).T[shown].round(4)

# %% [markdown]
# Is the tuned model better? (It also has one feature more.) This is the difference in log loss, row by row, ± its
# standard error:

# %%
if dataset is None:
    metrics = mlflow.get_run(baseline_run.info.run_id).data.metrics
    above, error = metrics["loss_above_tuned"], metrics["loss_above_tuned_standard_error"]
    print(f"The baseline's log loss is {above:.4f} above that of the tuned model, ± {error:.4f}")

# %% [markdown]
# On this test set the tuned model is ahead, by not quite two standard errors, which count the chance in these 188 rows
# only. One split proves little: on 20 other splits the tuned model was better than the defaults in 16, and a logistic
# regression was better than the tuned model in 17 ([Does tuning help?](chapters/tuning.md)). XGBoost is the example
# here.
#
# ROC curve and confusion matrix are among the plots of `evaluate`:

# %% tags=["remove-input"]
figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
for axis, plot in zip(axes, ["roc_curve_plot", "confusion_matrix"], strict=True):
    axis.imshow(result.artifacts[plot].content)
    axis.axis("off")
plt.close(figure)
display(figure, metadata={"image/png": {"alt": "ROC curve and confusion matrix of the test set"}})

# %% [markdown]
# The step draws the SHAP plot itself: SHAP divides each answer among the features. Each row is a feature and each dot a
# tumour; the colour is the feature's value, and the place how far it moved the answer to malignant (right) or benign.
#
# ![The SHAP plot among the artifacts of the evaluation](img/shap_plot.png)

# %% [markdown]
# ## The gate
#
# A registered version is not used by anyone yet. Users load the version that has the **alias** `champion`, and the gate
# moves the alias to our version if nothing speaks against it:
#
# - It is better than guessing, by more than chance: the gain is above 2.33 standard errors (one-sided 1 %).
# - Its log loss is not above the champion's on the same rows. (With a tolerance, versions could get a little worse each
#   time; the standard error of the difference is logged.)
# - It finds enough of the class whose error is the dangerous one. A cancer called benign is worse than a false alarm,
#   so the **recall** of *malignant*, the share of cancers that are found, must be at least 0.88.
# - There are at least 30 rows to judge it on.
#
# These limits stand in `config.py`, and were fixed before any test set was looked at. 0.88 is a choice, to be made by
# those who bear the errors; for a class of your own, add it to `LEAST_RECALL`. The limit of the recall is written in
# MLflow's own way, as a `MetricThreshold`; the others compare losses, and are plain code.


# %% tags=["data_evaluation"]
def gate(result, loss, champion_loss):
    """Return what speaks against a version: a list of sentences."""
    objections, (gain, error) = [], difference(guess_loss, loss)
    if len(loss) < config.LEAST_ROWS:
        objections.append(f"There are {len(loss)} rows to judge it on, not {config.LEAST_ROWS}.")
    if not (error > 0 and gain > config.GAIN_ERRORS * error):
        gained = f"{gain:.4f} ± {error:.4f}"
        objections.append(f"It is not clearly better than guessing: gain in log loss {gained}.")
    if champion_loss is not None and loss.mean() > champion_loss.mean():
        both = f"{loss.mean():.4f}, the champion's {champion_loss.mean():.4f}"
        objections.append(f"Its log loss on the same rows is {both}.")
    if least := config.LEAST_RECALL.get(classes[1]):
        limit = {"recall_score": MetricThreshold(threshold=least, greater_is_better=True)}
        try:
            mlflow.validate_evaluation_results(limit, result)
        except ModelValidationFailedException as failure:
            objections.append(f"Recall of {classes[1]}: {' '.join(str(failure).split())}")
    return objections


objections += gate(result, loss, champion_loss)

# %% [markdown]
# The verdict is a tag of the version, and the run of the evaluation says which version had the alias before and after.
# A short **model card** goes where users of the model look, into the description of the version:

# %% tags=["data_evaluation", "remove-output"]
client = mlflow.MlflowClient()
if utils.champion_version(model_name) not in [champion, version]:
    objections.append("Meanwhile another version has become the champion: evaluate again.")
verdict = f"failed: {' '.join(objections)}" if objections else "passed"
if not objections:
    client.set_registered_model_alias(model_name, config.CHAMPION, version)
client.set_model_version_tag(model_name, version, "gate", verdict)
client.set_tag(run.info.run_id, "gate", verdict)
client.set_tag(run.info.run_id, "champion_after", str(utils.champion_version(model_name)))
card = f"""Trained on {training_run.data.tags["data"]}. Judged on {len(rows)} rows of
{eval_dataset or "its test set"}, digest {test_data.digest}: log loss {loss.mean():.4f} (guessing
{guess_loss.mean():.4f}), recall of {classes[1]} {result.metrics["recall_score"]:.3f}.
Limits: one split of one data set; words that it has not seen count as missing. Gate: {verdict}"""
client.update_model_version(model_name, version, description=" ".join(card.split()))

# %% tags=["data_evaluation", "remove-input"]
if objections:
    move = f"'{model_name}', '{config.CHAMPION}', {version}"
    logger.warning(
        f"Version {version} does not become the champion. {' '.join(objections)} (The limits are in "
        f"config.py.) To decide otherwise: mlflow.MlflowClient().set_registered_model_alias({move})"
    )
else:
    logger.info(f"Version {version} of {model_name} is the champion.")

# %%
print(client.get_model_version(model_name, version).description)

# %% [markdown]
# Our model has passed. A **challenger** has to be at least as good; the tree with a single split is not:

# %%
objections = gate(simple_result, simple_loss, loss)
client.set_model_version_tag(model_name, simple_version, "gate", f"failed: {' '.join(objections)}")
print(*objections, sep="\n")

# %% [markdown]
# Whoever uses the model asks for the champion, and never has to know its number. (On data of your own the gate may
# refuse the version: then it is used by its number.)

# %%
has_champion = utils.champion_version(model_name) is not None
model_uri = f"models:/{model_name}" + (f"@{config.CHAMPION}" if has_champion else f"/{version}")
mlflow.pyfunc.load_model(model_uri).predict(table.drop(columns=target).head(3))

# %% [markdown]
# Suppose that somebody moves the alias by hand all the same, and the complaints come in. The way back, a **rollback**,
# is one line. (The tag `champion_after` of the last evaluation says which version it was.)

# %%
if has_champion:
    good = utils.champion_version(model_name)
    client.set_registered_model_alias(model_name, config.CHAMPION, simple_version)  # oh no
    client.set_registered_model_alias(model_name, config.CHAMPION, good)  # the way back

# %% [markdown]
# ## MLflow Projects
#
# So far everything happened in this notebook. A *project* is code that others can run without reading it first: a
# file `MLproject` names its commands (**entry points**), their parameters, and the environment that they need.
#
# ### From cells to scripts
#
# The commands of our project are scripts, and the scripts are our cells: each carries the names of its scripts as tags.
# Nothing is written twice: change a cell, extract again (`make scripts`), and the script follows. A script needs one
# thing that a notebook does not: parameters from the command line. So the cell that sets them holds a line that starts
# with `# hide`, a comment here and code in the script. (Elsewhere this page leaves these lines out.) Here is such a
# cell, and the idea of the extractor, which checks each cell too and writes all of the folder `steps/`:

# %%
from pathlib import Path

import jupytext

made = Path("steps/serving_check.py").read_text()
cells = jupytext.read("modeling.py").cells
tagged = [cell.source for cell in cells if "serving_check" in cell.metadata.get("tags", [])]
script = "\n".join(tagged).replace("# hide ", "")
print(tagged[1])
print("all lines are in the script:", set(script.splitlines()) <= set(made.splitlines()))

# %% [markdown]
# ### The environment
#
# *Exporting* an environment disappoints. `conda env export` writes down builds that exist for one operating system
# only; with `--from-history` it forgets what pip installed; `pip freeze` does not tell what you need from what came
# along. So we keep two short files by hand, `requirements.txt` (the packages that we import) and `conda.yaml` (the
# Python version, and a reference to `requirements.txt`), and let a tool make the third: `constraints.txt`, the version
# of every package below those (`make constraints`).
#
# ### The MLproject file
#
# Each entry point has parameters and a command. This is one of them (the whole file is [MLproject](MLproject); its
# key `description` is for `--help`, MLflow ignores it):

# %%
lines = Path("MLproject").read_text().splitlines()
start = lines.index("  model-training:")
print(*lines[start : start + 5], sep="\n")

# %% [markdown]
# ### Running the entry points
#
# In a terminal, with the environment active (`source .venv/bin/activate`), one step is run like the first of these
# commands. The second runs all steps, on a table of yours:
#
# ```bash
# mlflow run . -e hyperparameters-tuning -P n-trials=40 --experiment-name Cancer_Classification \
#     --env-manager local
# mlflow run . -P dataset=mine.csv -P target=LABEL --env-manager local
# ```
#
# `--env-manager local` means: in the environment that is active now. Without it MLflow makes an environment from
# `conda.yaml` first, which needs conda; if you have none, give `--env-manager uv`. In place of `.` a git URL can stand,
# so a colleague needs no clone: the results are left in the folder in which the colleague is.
#
# `mlflow run` makes a run before the script starts, and `mlflow.start_run` in the script joins it: so each step is one
# run, however it was started. Without `--experiment-name` the run goes to the experiment *Default*, also with a table
# of yours. A step looks for earlier runs in the experiment that you name, else in all. From Python it is one call. We
# delete the run, so that no later step takes its data as the latest:

# %% tags=["remove-output"]
half = mlflow.run(
    ".",
    "data-preprocessing",
    parameters={"test-size": 0.5},
    experiment_name="Cancer_Classification",
    env_manager="local",
)

# %%
print(half.get_status(), mlflow.get_run(half.run_id).data.metrics)
mlflow.delete_run(half.run_id)

# %% [markdown]
# The entry point `main` is the pipeline: all steps in order, each as a run below that of the pipeline, and each with
# the IDs of the runs that it builds on, so that two pipelines at a time do not mix. It too is made of cells of this
# notebook, which here go on with the data and the number of trials from above:

# %% tags=["pipeline", "remove-output"]
from mlflow.exceptions import ExecutionException


# hide test_size, n_trials, dataset, target, positive_class, data_name = cli.arguments(
# hide     "main", "test-size", "n-trials", "dataset", "target", "positive-class", "name"
# hide )
def run_step(entry_point, **parameters):
    known = {name: value for name, value in parameters.items() if value is not None}
    given = {name.replace("_", "-"): value for name, value in known.items()}
    experiment_id = mlflow.active_run().info.experiment_id
    options = {"experiment_id": experiment_id, "env_manager": "local"}
    try:
        return mlflow.run(str(config.PROJECT_DIR), entry_point, parameters=given, **options).run_id
    except ExecutionException:
        raise StepError(f"The step {entry_point} failed, for the reason given above.") from None


data_name = utils.data_name(data_name, dataset)
own_data = {"dataset": dataset, "target": target, "positive_class": positive_class}
utils.set_experiment(data_name)
with mlflow.start_run(run_name="Pipeline", tags={"step": "pipeline", "name": data_name}) as run:
    data_run_id = run_step("data-preprocessing", test_size=test_size, name=data_name, **own_data)
    tuning_run_id = run_step("hyperparameters-tuning", n_trials=n_trials, data_run_id=data_run_id)
    builds_on = {"data_run_id": data_run_id, "tuning_run_id": tuning_run_id}
    training_run_id = run_step("model-training", **builds_on)
    for entry_point in ["data-evaluation", "flavour-comparison", "model-customization"]:
        run_step(entry_point, training_run_id=training_run_id)
    # the version that this pipeline has trained, champion or not
    version = utils.registered_version(f"{data_name}Model", mlflow.get_run(training_run_id))
    run_step("serving-check", model_uri=f"models:/{data_name}Model/{version}")

# %% [markdown]
# A model that answers like the champion passes the gate, so the alias is now at the pipeline's version. The search is
# seeded, and the pipeline has come to the very model of this notebook, to the last digit:

# %%
by_parent = f"tags.mlflow.parentRunId = '{run.info.run_id}' and tags.step = 'data_evaluation'"
again = mlflow.search_runs(filter_string=by_parent, output_format="list")[0].data.metrics
for name in ["log_loss", "roc_auc", "recall_score"]:
    print(name, evaluation[name], again[name])

# %% [markdown]
# ![A pipeline in the list of runs, unfolded](img/pipeline_run.png)
#
# `CancerModel` has three versions by now: the notebook's, the one that is too simple, and the pipeline's.
#
# ![The versions of the model in the registry, one with the alias champion](img/registry.png)
#
# When this page was made, the same was run in an environment of its own too (`--env-manager uv`), with a short search,
# and in a store that was thrown away.

# %% tags=["environments", "remove-output", "remove-input"]
import os
import shutil
import subprocess
import tempfile

manager = "conda" if shutil.which("conda") else "uv"
given = {"n-trials": 2, "test-size": test_size, "name": data_name}
given |= {name.replace("_", "-"): value for name, value in own_data.items() if value}
options = [f"-P{name}={value}" for name, value in given.items()]
with tempfile.TemporaryDirectory() as folder:
    scratch = {"MLFLOW_TRACKING_URI": f"sqlite:///{Path(folder, 'mlflow.db').as_posix()}"}
    there = mlflow.MlflowClient(scratch["MLFLOW_TRACKING_URI"])
    files = Path(folder, "files").as_uri()
    scratch_id = there.create_experiment("Environment", artifact_location=files)
    command = f"mlflow run . --env-manager {manager} --experiment-id {scratch_id}"
    subprocess.run([*command.split(), *options], env={**os.environ, **scratch}, check=True)

# %% [markdown]
# ## Using the champion
#
# [The model in use](SERVING.md) is the second page of this notebook. It goes on from here: the forms in which the model
# can be loaded and what each call costs; `mlflow models serve`, and MLServer; scoring a file; a model of your own with
# another threshold; and containers.

# %% [markdown]
# ## Sharing the work
#
# - **git** carries the code: `modeling.py`, and `steps/` with it. Not the runs: `mlflow.db` grows with each of them,
#   cannot be merged, and is therefore in `.gitignore`.
# - **A second local store** keeps experiments of your own apart: `export MLFLOW_TRACKING_URI=sqlite:///other.db` before
#   a command.
# - **A tracking server** keeps one store for many people and machines: start it with `make tracking-server` (it has the
#   port of `make ui`: stop that first), and then `export MLFLOW_TRACKING_URI=http://127.0.0.1:5000`. [Sharing](chapters/sharing.md) has
#   it, and PostgreSQL, passwords and what happens when a store is moved.
#
# Further chapters, each a notebook and a page of its own (`make chapters` runs them): [Does tuning
# help?](chapters/tuning.md), [Many workers on one study](chapters/many_workers.md), [After
# deployment](chapters/after_deployment.md), [A server of your own](chapters/own_server.md), [Large
# data](chapters/large_data.md), [How fast it is](chapters/performance.md), and [What happens when
# …](chapters/failures.md), with many errors and what to do.
#
# ## What is where
#
# | | |
# | --- | --- |
# | `modeling.py` | this notebook: change it, then `make scripts` |
# | `steps/` | the scripts, made from the notebook: never change them |
# | `chapters/` | further notebooks, and the pages made from them |
# | `config.py` | names, paths, limits |
# | `utils.py`, `data_files.py`, `servers.py` | runs, data and models; tables that you bring; starting servers |
# | `cli.py`, `store.py` | parameters and endings of scripts; whether MLflow's store can be used |
# | `MLproject`, `conda.yaml`, `requirements.txt`, `constraints.txt` | commands and environment |
# | `mlproject_docker/`, `docker/` | images and compose files |
# | `notebook_tools/`, `benchmarks/`, `tests/` | makes scripts, pages and pictures; measures; checks (`make test`) |
#
# `make readme` copies the project into an empty folder, runs the notebook there, and turns it into Markdown with
# nbconvert; IDs and times are replaced. Commands in a terminal are not run with the page: tests run each of them,
# except those that need conda, your repository's address or a Mac. A browser takes the pictures (`make pictures`). A
# test compares page and notebook.
#
# All runs and models are in `mlflow.db` and `mlruns/`: remove both, and MLflow begins anew. `make clean` leaves them.

# %% [markdown]
# <!-- page: SERVING.md -->
#
# # The model in use
#
# *The second page of [A model's life with MLflow](README.md). Its cells are those of the same notebook,
# [modeling.py](modeling.py), and go on where the first page ended, with its imports and variables.* The last training
# is now that of the pipeline, so the model here is version 3. The pipeline has run the steps of this page once already.
#
# ## Flavours
#
# One model in three forms: the `Booster`, the `XGBClassifier`, and the registered model around it. All have the flavour
# `python_function` (`mlflow.pyfunc`), which gives every kind of model the same `predict`; the first two also have
# `xgboost`, which gives back what they are.

# %% tags=["flavour_comparison", "remove-output"]
import timeit

training_run_id = None
# hide training_run_id = cli.arguments("flavour-comparison", "training-run-id")
training_run = utils.latest_run("model_training", training_run_id)
model_name = f"{training_run.data.tags['name']}Model"
registered_uri = f"models:/{model_name}/{utils.registered_version(model_name, training_run)}"
booster_version = utils.registered_version(f"{model_name}Booster", training_run)
info, model = utils.load_model(registered_uri)
test = utils.load_dataset(utils.data_run_of(info), "test").drop(columns=info.metadata["target"])
test = test.head(config.BATCH_ROWS)
test_values = model.features(test)

classifier_uri = f"models:/{info.metadata['classifier_id']}"  # a logged model: it is not registered
booster = mlflow.xgboost.load_model(f"models:/{model_name}Booster/{booster_version}")
classifier = mlflow.xgboost.load_model(classifier_uri)
classifier_pyfunc = mlflow.pyfunc.load_model(classifier_uri)
registered = mlflow.pyfunc.load_model(registered_uri)

# %% [markdown]
# The `Booster` wants a `DMatrix` of features and answers with the probability of class 1, malignant. The
# `XGBClassifier` wants a DataFrame of them and answers with 0 or 1, where 1 is malignant. Through `pyfunc` the input is
# checked against the signature, and the order of columns does not matter. The registered model takes the rows of the
# file, without the added feature:

# %%
print(booster.predict(xgb.DMatrix(test_values.head(3))))
print(classifier.predict(test_values.head(3)))
print(classifier_pyfunc.predict(test_values.head(3).iloc[:, ::-1]))
registered.predict(test.head(3).iloc[:, ::-1])

# %% [markdown]
# What they refuse, and how: a `DMatrix` is good for the `Booster` only, which takes nothing else. For a table from a
# file MLflow's own check is too strict: the classifier's signature has `double`, and whole numbers, as they come from
# many a file, are refused. The registered model checks each value by itself.

# %%
few = test_values.head(3)
for given, call in {
    "Booster, a frame": lambda: booster.predict(few),
    "XGBClassifier, a DMatrix": lambda: classifier.predict(xgb.DMatrix(few)),
    "pyfunc, a DMatrix": lambda: classifier_pyfunc.predict(xgb.DMatrix(few)),
    "pyfunc, whole numbers": lambda: classifier_pyfunc.predict(few.round().astype(int)),
    "registered, whole numbers": lambda: registered.predict(test.head(3).round().astype(int)),
}.items():
    try:
        print(f"{given}: {len(call())} answers")
    except Exception as error:
        print(f"{given}: {type(error).__name__}: {str(error)[:55]}")

# %% [markdown]
# What does a call cost? For one row and for many, the median of 51 calls. `pyfunc` adds the check of the input; the
# registered model makes the features, too:

# %% tags=["flavour_comparison", "remove-output"]
calls = {
    "Booster": lambda rows: booster.predict(xgb.DMatrix(test_values.head(rows))),
    "XGBClassifier": lambda rows: classifier.predict(test_values.head(rows)),
    "XGBClassifier as pyfunc": lambda rows: classifier_pyfunc.predict(test_values.head(rows)),
    "registered": lambda rows: registered.predict(test.head(rows)),
}
xgb.set_config(nthread=1)  # for few rows, threads cost more than they bring
latency = pd.DataFrame()
for form, call in calls.items():
    for count in [1, len(test)]:
        seconds = timeit.repeat(lambda: call(count), number=1, repeat=51)
        latency.loc[form, f"ms_{count}_rows"] = 1000 * pd.Series(seconds).median()

utils.set_experiment(training_run.data.tags["name"])
tags = {"step": "flavour_comparison", "training_run_id": training_run.info.run_id}
tags |= {name: training_run.data.tags[name] for name in ["name", "data", "data_run_id"]}
with mlflow.start_run(run_name="Flavour_Comparison", tags=tags) as run:
    for name, column in latency.items():
        mlflow.log_metrics({f"{name}/{form}": value for form, value in column.items()})

# %% tags=["volatile"]
latency.round(1)

# %% [markdown]
# ## Serving with `mlflow models serve`
#
# A model that is registered can be served over HTTP with one command, in a terminal with the environment active:
#
# ```bash
# mlflow models serve -m models:/CancerModel@champion --env-manager local --port 5001
# ```
#
# The step `serving-check` does the same from Python: it starts the server, waits until it is healthy, sends it the test
# set, compares its answers with those of the same model in this process, and stops it. `model_uri` is the champion's
# address; `version_uri` looks once which version has the alias, so that all this is about one version.

# %% tags=["serving_check"]
import requests

import servers

port = 0  # a free one
# hide model_uri, port = cli.arguments("serving-check", "model-uri", "port")
# %% tags=["serving_check", "remove-input"]
if not 0 <= port < 65536:
    raise StepError(f"port is {port}: give a number between 1 and 65535, or 0 for a free port.")

# %% tags=["serving_check", "remove-output"]
model_uri = utils.version_uri(model_uri)
info, _ = utils.load_model(model_uri)
data_run = utils.data_run_of(info)
rows = utils.load_dataset(data_run, "test").drop(columns=info.metadata["target"])
rows = rows.head(config.BATCH_ROWS)  # what one request may hold
port = port or servers.free_port()
url = f"http://127.0.0.1:{port}"
serve = f"mlflow models serve --env-manager local --host 127.0.0.1 --port {port} -m".split()

# %% [markdown]
# Rows are sent as they stand in the file, in the form `dataframe_split`: the names of the columns once, then the rows.
# This is the body for two rows of two columns:

# %%
print(json.dumps(utils.as_request(rows.iloc[:2, :2])))

# %% tags=["serving_check"]
utils.set_experiment(info.metadata["name"])
tags = {"step": "serving_check", "name": info.metadata["name"]}
tags |= {"data_run_id": data_run.info.run_id, "data": data_run.data.tags["data"]}
with mlflow.start_run(run_name="Serving_Check", tags=tags) as run:
    mlflow.log_params({"model_uri": model_uri, "rows": len(rows)})
    with servers.server([*serve, model_uri], f"{url}/health"):
        body = utils.as_request(rows)
        response = requests.post(f"{url}/invocations", json=body, timeout=60)
        response.raise_for_status()
    predictions = response.json()["predictions"]
    served, here = pd.DataFrame(predictions), mlflow.pyfunc.load_model(model_uri).predict(rows)
    largest = float((served.iloc[:, 1:] - here.iloc[:, 1:]).abs().max(axis=None))
    mlflow.log_metric("largest_difference", largest)
    if largest > 1e-6 or list(served["prediction"]) != list(here["prediction"]):
        raise StepError(f"{model_uri}: the server's answers differ by up to {largest}.")
logger.info(f"{model_uri}: {len(rows)} rows served, largest difference {largest:.1g}")

# %% [markdown]
# First the classes, in the words of the file, then all that is in one answer:

# %%
print([answer["prediction"] for answer in predictions[:5]])
print(predictions[0])

# %% [markdown]
# The same question with `curl`, in another terminal, while the server of the first command runs:
# `serving_input_example.json` lies beside every model that was logged with an input example, and is fetched first.
#
# ```bash
# mlflow artifacts download -u models:/CancerModel@champion/serving_input_example.json -d .
# curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \
#     -d @serving_input_example.json
# ```
#
# A caller's mistake, such as a column that is missing or a text in a column of numbers, is answered with status 400 and
# the name of the column. A plain list of numbers, without names, is refused, because the signature has names.

# %% [markdown]
# ## Scoring a file
#
# Often no server is needed. One command reads a CSV file of yours, here `in.csv`, with the columns of the training data
# but the target, and writes the answers. (pandas guesses the types there: `01` becomes 1. The entry point
# `batch-scoring` reads the columns as the model knows them: [After deployment](chapters/after_deployment.md).)
#
# ```bash
# mlflow models predict -m models:/CancerModel@champion -i in.csv -t csv -o out.json \
#     --env-manager local
# ```

# %% [markdown]
# Are the requirements that were logged with the model enough to run it? The same from Python, with `env_manager="uv"`:
# MLflow makes an environment of nothing but those, and asks the model there. This takes a minute the first time:

# %% tags=["environments", "remove-output"]
import tempfile

folder = tempfile.mkdtemp()
given, answers = f"{folder}/in.csv", f"{folder}/out.json"
rows.head(100).to_csv(given, index=False)
mlflow.models.predict(
    model_uri, input_path=given, content_type="csv", output_path=answers, env_manager="uv"
)

# %% tags=["environments"]
scored = json.loads(Path(answers).read_text())["predictions"]
print(len(scored), "answers, like those of the server:", scored == predictions[:100])

# %% [markdown]
# ## Serving with MLServer
#
# MLServer is another model server, with a protocol (V2) that other servers speak too. Know its state: the company
# behind it is being wound up, its last release needs Python below 3.13, and MLflow removed its own integration in 2026.
# The successor is a container that MLflow itself makes (`mlflow models build-docker`). This command makes an
# environment for MLServer, and serves the champion on port 8080:
#
# ```bash
# make mlserve
# ```
#
# `docker/mlserve/model-settings.json` names the runtime, and the variable `MLSERVER_MODEL_URI` says which model. The
# second cell does the same from Python, at free ports, and needs the environment that `make mlserve` has made:

# %%
print(Path("docker/mlserve/model-settings.json").read_text())

# %% tags=["environments", "remove-input", "remove-output"]
subprocess.run(["make", "docker/mlserve/.venv/installed"], check=True)

# %% tags=["environments"]
ports = {f"MLSERVER_{kind}_PORT": str(servers.free_port()) for kind in ["HTTP", "GRPC", "METRICS"]}
mlserver = f"http://127.0.0.1:{ports['MLSERVER_HTTP_PORT']}"
with servers.server(
    ["docker/mlserve/.venv/bin/mlserver", "start", "docker/mlserve"],
    f"{mlserver}/v2/models/cancer-model/ready",
    MLFLOW_TRACKING_URI=mlflow.get_tracking_uri(),
    MLSERVER_MODEL_URI=model_uri,
    **ports,
):
    answer = requests.post(f"{mlserver}/invocations", json=body, timeout=60).json()
print("/invocations gives the same:", answer["predictions"] == predictions)

# %% [markdown]
# Its V2 protocol has another address, which wants each column as a tensor; `/v2/models/cancer-model/docs` has a form to
# try it. Some mistakes of a caller, such as broken JSON, MLServer answers with status 500.

# %% [markdown]
# ## A custom model
#
# A model of your own can be built on the registered one. Here: a **decision threshold** in place of 0.5, because a
# missed cancer and a false alarm do not weigh the same, and a log line for each request, without the values in it.
# `model_config` is stored with the model, so another threshold needs no other code.

# %% tags=["custom_model"]
import time

import mlflow
import numpy as np
import pandas as pd
from loguru import logger


class CancerScreening(mlflow.pyfunc.PythonModel):
    """The registered model with another threshold."""

    def load_context(self, context):
        """Load the registered model, which is an artifact of this one."""
        self.model = mlflow.pyfunc.load_model(context.artifacts["model"])
        self.threshold = context.model_config["threshold"]

    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Predict like the registered model, but class 1 from the threshold on."""
        start, answer = time.perf_counter(), self.model.predict(model_input)
        classes = np.array(self.model.metadata.metadata["classes"], dtype=object)
        answer["prediction"] = classes[(answer.iloc[:, -1] >= self.threshold).astype(int)]
        logger.info("{} row(s) in {:.1f} ms", len(answer), 1000 * (time.perf_counter() - start))
        return answer


mlflow.models.set_model(CancerScreening())

# %% [markdown]
# The threshold is chosen on held-out folds of the *training* data: for each threshold we count the cancers that are
# missed and the false alarms. That a missed cancer weighs as much as ten false alarms is a decision, and not one of
# data science.

# %% tags=["model_customization", "remove-output"]
from sklearn.model_selection import StratifiedKFold, cross_val_predict

training_run_id = None
# hide training_run_id = cli.arguments("model-customization", "training-run-id")
training_run = utils.latest_run("model_training", training_run_id)
model_name = f"{training_run.data.tags['name']}Model"
registered_uri = f"models:/{model_name}/{utils.registered_version(model_name, training_run)}"
info, model = utils.load_model(registered_uri)
train = utils.load_dataset(utils.data_run_of(info), "train")
is_class_1 = train.pop(info.metadata["target"]) == info.metadata["classes"][1]

names = ["max_depth", "learning_rate", "subsample", "colsample_bytree"]
params = {name: json.loads(training_run.data.params[name]) for name in names}
params["n_estimators"] = int(training_run.data.params["num_boost_round"])
same = xgb.XGBClassifier(random_state=config.SEED, n_jobs=utils.threads(train), **params)
folds = StratifiedKFold(config.N_FOLDS, shuffle=True, random_state=config.SEED)
held_out = cross_val_predict(
    same, model.features(train), is_class_1, cv=folds, method="predict_proba"
)[:, 1]
costs = pd.DataFrame({"threshold": [0.05, 0.1, 0.2, 0.3, 0.4, 0.5]})
costs["missed"] = [int((is_class_1 & (held_out < at)).sum()) for at in costs["threshold"]]
costs["false_alarms"] = [int((~is_class_1 & (held_out >= at)).sum()) for at in costs["threshold"]]
costs["cost"] = 10 * costs["missed"] + costs["false_alarms"]
threshold = float(costs.loc[costs["cost"].idxmin(), "threshold"])

# %%
costs

# %% tags=["model_customization"]
utils.set_experiment(info.metadata["name"])
tags = {"step": "model_customization", "training_run_id": training_run.info.run_id}
tags |= {name: training_run.data.tags[name] for name in ["name", "data", "data_run_id"]}
packages = ["mlflow", "xgboost", "scikit-learn", "pandas", "loguru"]
example = train.head(3).astype(object)
with mlflow.start_run(run_name="Model_Customization", tags=tags) as run:
    mlflow.log_param("threshold", threshold)
    mlflow.log_table(costs, "thresholds.json")
    custom_info = mlflow.pyfunc.log_model(
        name="custom",
        python_model=str(config.PROJECT_DIR / "steps" / "custom_model.py"),
        artifacts={"model": registered_uri},
        model_config={"threshold": threshold},
        registered_model_name=f"Custom{model_name}",
        signature=info.signature,
        input_example=example.where(example.notna(), None),
        pip_requirements=utils.pinned_requirements(*packages),
        metadata=info.metadata,
    )
custom_uri = f"models:/Custom{model_name}/{custom_info.registered_model_version}"
logger.info(f"{custom_uri}: {info.metadata['classes'][1]!r} from a probability of {threshold} on")

# %% [markdown]
# `mlflow models serve` serves it like any other model. What it finds in the test set goes to its run, too:

# %%
data_run = utils.data_run_of(info)
test = utils.load_dataset(data_run, "test")
is_class_1 = test.pop(info.metadata["target"]) == info.metadata["classes"][1]
with servers.server([*serve, custom_uri], f"{url}/health") as log:
    response = requests.post(f"{url}/invocations", json=utils.as_request(test), timeout=60)
    log_line = next(line for line in log.read_text().splitlines() if "row(s)" in line)
called = pd.DataFrame(response.json()["predictions"])["prediction"] == info.metadata["classes"][1]
errors = {"missed": (is_class_1 & ~called).sum(), "false_alarms": (~is_class_1 & called).sum()}
mlflow.log_metrics(errors, run_id=run.info.run_id)
print("in the log:", log_line.split(" | ")[-1])
print(mlflow.get_run(run.info.run_id).data.metrics)

# %% [markdown]
# To let MLServer serve this model in place of the other, name it: `make mlserve MODEL_URI=models:/CustomCancerModel/2`.
# To serve a newer version of the *same* model nothing changes at all: the alias moves, and the server is started again.
# (One that follows the alias by itself, and says which version answered, is in [A server of your
# own](chapters/own_server.md).)

# %% [markdown]
# ## Containers
#
# A container carries the environment along: nothing but Docker with its Compose plugin is needed on the machine that
# runs it. There are two images, one with the steps and one with MLServer. In the folder of the project, the first of
# these commands runs the whole pipeline, the second one step (what follows the name of the step goes to `mlflow run`),
# and the third puts the champion behind MLServer, at http://127.0.0.1:8080 until Ctrl-C:
#
# ```bash
# docker compose -f mlproject_docker/docker-compose.yml run --rm --build mlproject
# docker compose -f mlproject_docker/docker-compose.yml run --rm --build mlproject \
#     hyperparameters-tuning -P n-trials=20
# docker compose -f docker/mlserve/docker-compose.yml up --build
# ```
#
# The code is in the image, the runs are not: the container sees this folder under *the same absolute path* as the host
# does, because MLflow notes the place of each file as an absolute path. A file for `-P dataset=` must lie in this
# folder too. What a container writes belongs to user 1000: if `id -u` says something else, put `HOST_USER=$(id -u):$(id
# -g)` before the command. On Windows, give these commands in WSL. With docker-compose 1.29, `run` has no `--build`:
# give `docker-compose -f … build` first.
