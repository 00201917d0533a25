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
# **Take one XGBoost model from a data set to a served endpoint with MLflow, on your own machine.** You know
# scikit-learn; you need to know nothing about MLflow. You need Linux or a Mac with Apple silicon, Python 3.11 to 3.14
# (3.15 has to wait for MLflow), `git` and `make`, and 2 GB of disk. With this repository's address for `URL`:
#
# ```bash
# git clone URL mlflow-walkthrough && cd mlflow-walkthrough
# make walkthrough
# make ui
# ```
#
# The first `make` installs everything into `.venv` (about a minute) and runs this page from top to bottom (about five);
# the second shows the results at http://127.0.0.1:5000. Every line of this page was run:
# it is made from the notebook [modeling.py](modeling.py).
#
# ```mermaid
# flowchart LR
#   data[Data] --> tune[Tune] --> train[Train] --> gate{Gate} --> registry[(Registry)]
#   registry --> serve[Serve]
#   registry --> score[Score a file]
#   click data "#data-preparation"
#   click tune "#hyperparameter-tuning"
#   click train "#training-and-registering-the-model"
#   click gate "#the-gate"
#   click registry "#training-and-registering-the-model"
#   click serve "#serving-with-mlflow-models-serve"
#   click score "#scoring-a-file"
# ```
#
# | You will learn | in | minutes |
# | --- | --- | --- |
# | what a run is, and where MLflow keeps it | [Your first run](#your-first-run), [The MLflow UI](#the-mlflow-ui) | 3 |
# | to record data so that a result can be traced back | [Data preparation](#data-preparation) | 3 |
# | to tune with Optuna, each trial a nested run | [Hyperparameter tuning](#hyperparameter-tuning) | 6 |
# | to log, sign and register a model | [Training](#training-and-registering-the-model) | 4 |
# | to let only good models into use, and to go back | [Evaluation](#evaluating-the-model), [The gate](#the-gate) | 4 |
# | to hand it all to others as commands | [MLflow Projects](#mlflow-projects) | 5 |
# | what the forms of one model take and refuse | [Flavours](#flavours) | 3 |
# | to serve it, and to score files | [Serving](#serving-with-mlflow-models-serve) and the sections after it | 6 |
# | what comes when one machine is not enough | [Sharing the work](#sharing-the-work), [chapters/](chapters/) | |
#
# ![The runs of the experiment in the MLflow UI](img/runs_list.png)

# %% [markdown]
# ## Your first run
#
# MLflow keeps the records of an experiment. Whatever produced a model (data, parameters, code) and whatever came out of
# it (metrics, plots, the model itself) is stored in a **run**; runs are collected in an **experiment**; a model worth
# keeping becomes a **version** of a **registered model**.
#
# The data here are scikit-learn's breast cancer measurements: 569 tumours, 30 numbers about each, and the question is
# whether a tumour is benign (1) or malignant (0). We start with XGBoost's defaults, and measure them on three held-out
# folds of the training data: the log loss (how far the probabilities are from the truth; 0 is perfect), the area under
# the ROC curve and the share of right answers. What happens in the `with` block goes into one run:

# %%
import mlflow
import pandas as pd
import xgboost as xgb
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import StratifiedKFold, cross_validate, train_test_split

import utils

frame = load_breast_cancer(as_frame=True).frame
train, test = train_test_split(frame, test_size=0.33, stratify=frame["target"], random_state=42)
features, label = train.drop(columns="target"), train["target"]
model = xgb.XGBClassifier()
folds = StratifiedKFold(n_splits=3, shuffle=True, random_state=42)
scores = ["neg_log_loss", "roc_auc", "accuracy"]

utils.set_experiment()  # mlflow.set_experiment("Cancer_Classification"), unless you have chosen one
with mlflow.start_run(run_name="Baseline") as baseline_run:
    mlflow.log_params({"model": "XGBClassifier", "parameters": "defaults", "seed": 42})
    mlflow.log_input(mlflow.data.from_pandas(train, targets="target", name="train"), "training")
    result = cross_validate(model, features, label, cv=folds, scoring=scores)
    mlflow.log_metric("logloss", -result["test_neg_log_loss"].mean())
    mlflow.log_metric("auc", result["test_roc_auc"].mean())
    mlflow.log_metric("accuracy", result["test_accuracy"].mean())
    model.fit(features, label)
    mlflow.xgboost.log_model(model, name="model", input_example=features.head(3))

# %% [markdown]
# That is the whole of it. Parameters are what we chose, metrics are numbers that came out, the input is the data set,
# and the model is a folder of files. What was written down can be asked for:

# %%
mlflow.get_run(baseline_run.info.run_id).data.metrics

# %% [markdown]
# This is the baseline that tuning has to beat.
#
# To follow in Jupyter, run `.venv/bin/jupyter lab`, right-click `modeling.py` and choose *Open With › Notebook*. The
# notebook is a Python file because text can be reviewed and merged; Jupytext keeps its outputs beside it, in
# `modeling.ipynb` (`jupytext --to ipynb modeling.py` makes that file too). Without `make`, on Windows for instance,
# make an environment in one of these ways, and run the notebook in it with `python -m notebook_tools.run`:
#
# ```bash
# conda env create -f conda.yaml && conda activate mlflow-walkthrough
# python -m venv .venv && source .venv/bin/activate && pip install -r requirements.txt
# ```

# %% [markdown]
# ## The MLflow UI
#
# Everything that we log can be looked at in the browser. `make ui` starts this command:
#
# ```bash
# mlflow ui --workers 1
# ```
#
# Open http://127.0.0.1:5000 (macOS may hold this port; another one: `make ui UI_PORT=5050`) and choose *Model training*
# at the top left, because MLflow opens with its other half, *GenAI*. Our experiment is under *Recent Experiments*.
#
# ![The start page of the MLflow UI, with our experiment](img/mlflow_main.png)
#
# No server is needed to *log* something. By default (since version 3.7) MLflow keeps its records in two places in the
# folder where the code runs: `mlflow.db`, an SQLite database of runs, parameters, metrics and registered models; and
# `mlruns/`, a folder for the files that belong to them. The UI reads both.

# %% tags=["remove-input"]
import inspect
import os
import sys
from pathlib import Path

from IPython.display import display

import config
import data_files
import servers

# Programs that MLflow starts for us must find this notebook's Python first.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def show(helper):
    """Print the source of a helper without its docstring."""
    print(inspect.getsource(helper).replace(f'    """{helper.__doc__}"""\n', ""))


store = mlflow.get_tracking_uri()
print("MLflow", mlflow.__version__, store.replace(str(config.PROJECT_DIR), "(this folder)"))

# %% [markdown]
# ## Data preparation
#
# From here on, the cells that do the work carry a *tag*: the name of the step that they belong to. *MLflow Projects*
# shows how they become scripts. This page leaves out imports, checks of parameters and the drawing of plots.

# %% tags=["data_preprocessing", "remove-input"]
import json

import mlflow
from loguru import logger
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import config
import data_files
import utils

# %% [markdown]
# To work with data of your own, set `dataset` to the path of a CSV or Parquet file with a two-valued column `target`
# (or name another one). Every later step then works on that data. `classes` holds the two values; the second one is
# class 1, the one whose probability the model predicts: the last in order, unless `positive_class` names the other.
#
# We add one feature of our own, the ratio of mean symmetry to mean texture, and split. The split is *stratified*: both
# sets have the same share of benign tumours. It is *seeded*: the same data always split the same way.

# %% tags=["data_preprocessing"]
test_size, dataset, target, positive_class = 0.33, None, None, None
# hide test_size, dataset, target, positive_class = utils.arguments(
# hide     "data-preprocessing", "test-size", "dataset", "target", "positive-class"
# hide )
# %% tags=["data_preprocessing"]
if dataset:
    data, target = data_files.read_table(dataset, target)
else:
    data, target = load_breast_cancer(as_frame=True).frame, "target"
classes = data_files.two_classes(data[target], positive_class, test_size)
data = utils.add_features(data)
train, test = train_test_split(
    data, test_size=test_size, stratify=data[target], random_state=config.SEED
)
train, test = train.reset_index(drop=True), test.reset_index(drop=True)

# %% [markdown]
# The two data sets are logged as artifacts, so that later steps can load them, and as *dataset inputs*: MLflow then
# shows their columns and a *digest*, a short number computed from all values, which is the same for the same data. Two
# helpers (in `utils.py`) do that in each step:

# %% tags=["remove-input"]
show(utils.as_dataset)
show(utils.log_dataset)

# %% tags=["data_preprocessing"]
utils.set_experiment()
tags = {"step": "data_preprocessing", "target": target, "classes": json.dumps(classes)}
source = dataset or "breast cancer"
with mlflow.start_run(run_name="Data_Preprocessing", tags=tags) as run:
    mlflow.log_params({"test_size": test_size, "seed": config.SEED, "data_source": source})
    mlflow.log_metrics({"full_rows": len(data), "train_rows": len(train), "test_rows": len(test)})
    train_data = utils.log_dataset(train, "train", target, context="training")
    test_data = utils.log_dataset(test, "test", target, context="testing")
    about = f"{source}, {len(train)} training rows, digest {train_data.digest}"
    about = f"{about}, class 1 is {classes[1]!r}"
    mlflow.set_tag("data", about)
logger.info(f"{about}, class 0 is {classes[0]!r}, {len(test)} test rows")

# %% [markdown]
# In the UI, open the run and choose one of its data sets:
#
# ![The training data of the run, opened: rows, digest, columns and their types](img/data_set.png)

# %% [markdown]
# ## Hyperparameter tuning
#
# Which tree depth, which learning rate? Optuna makes a **trial** of one combination after the other and learns from
# the results where to look next; all are a **study**. In MLflow each trial is a **nested run** of the tuning run.

# %% tags=["hyperparameters_tuning", "remove-input"]
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

# %% [markdown]
# A step finds the results of an earlier step in MLflow: the finished run with the step's tag that ended last, or the
# one whose ID is given. Steps share no variables and no files, which is why each of them can also run alone, on another
# day or another machine. Each says which run and which data it took.
#
# XGBoost wants numbers: `encode` gives the features, and the label as 0 or 1; the *encoding* says which word became
# which number, and goes with the model from here on. A `DMatrix` is XGBoost's own form of data.

# %% tags=["hyperparameters_tuning"]
n_trials, data_run_id, storage, study_name = 30, None, None, None
# hide n_trials, data_run_id, storage, study_name = utils.arguments(
# hide     "hyperparameters-tuning", "n-trials", "data-run-id", "storage", "study-name"
# hide )
# %% tags=["hyperparameters_tuning", "remove-input"]
if n_trials < 1:
    raise StepError(f"n-trials is {n_trials}: give a whole number of at least 1.")

# %% tags=["hyperparameters_tuning"]
data_run = utils.latest_run("data_preprocessing", data_run_id)
train = utils.load_dataset(data_run, "train")
encoding = data_files.learn_encoding(train, data_run.data.tags)
features, label = data_files.encode(train, encoding)
dtrain = xgb.DMatrix(features, label=label)

# %% tags=["remove-input"]
show(utils.load_dataset)
show(data_files.encode)

# %% [markdown]
# These are the ranges to search, the learning rate on a logarithmic scale. For one trial Optuna suggests a value for
# each parameter, XGBoost cross-validates them on 3 folds of the training data, and the log loss on the held-out folds
# after the last boosting round is the result. Why not the accuracy? On these 381 rows it moves in steps of 0.26 %, too
# coarse to tell good from better; it is logged beside the log loss.
#
# `xgb.cv` returns the metrics of each boosting round. They go to MLflow in a single batch: one by one they would take
# longer than the training itself.

# %% tags=["hyperparameters_tuning"]
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


# %% [markdown]
# The study is in memory and ends with this notebook; MLflow has all that came out of it. With a `storage` it can be
# resumed and shared (see [Many workers](chapters/many_workers.md)); then the sampler has no seed, since two workers
# with one seed would draw the same trials, and what the study is about is written into it, so that trials on other data
# or from other ranges never mix.

# %% tags=["hyperparameters_tuning"]
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

# %% tags=["hyperparameters_tuning", "remove-input"]
goal = f"log loss, {config.N_FOLDS} folds"
about = {"data": train_data.digest, "objective": goal, "ranges": ranges}
known = study.user_attrs.get("about", about)
if known != about:
    raise StepError(f"Study {study_name} is about {known}, not {about}: give another study-name.")
study.set_user_attr("about", about)
finished = len(study.get_trials(states=[TrialState.COMPLETE]))
enough = optuna.study.MaxTrialsCallback(n_trials, states=[TrialState.COMPLETE])

# %% [markdown]
# The search itself. Its run gets the best parameters with their metrics, two plots of the search, and *system metrics*:
# what processor and memory were doing meanwhile, once a second.

# %% tags=["hyperparameters_tuning"]
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

# %% tags=["hyperparameters_tuning", "remove-input"]
client = mlflow.MlflowClient()
with plt.rc_context():  # Optuna's plots change the style of all later ones
    history = plot_optimization_history(study).figure
    client.log_figure(run.info.run_id, history, "plots/optimization_history.png")
    if len({trial.value for trial in study.trials}) > 1:  # else nothing can be important
        importances = plot_param_importances(study).figure
        client.log_figure(run.info.run_id, importances, "plots/param_importances.png")
    plt.close("all")

# %% tags=["remove-input"]
plot = mlflow.artifacts.load_image(f"runs:/{run.info.run_id}/plots/param_importances.png")
display(plot, metadata={"image/png": {"alt": "How much each parameter mattered to the log loss"}})

# %% [markdown]
# Was it worth it? The baseline was measured on the same rows and the same folds (without the added feature):

# %%
baseline_loss = mlflow.get_run(baseline_run.info.run_id).data.metrics["logloss"]
print(f"log loss: defaults {baseline_loss:.4f}, best trial {study.best_value:.4f}")

# %% [markdown]
# The sampler draws its first ten trials at random and learns only then: a search of ten trials would be a lottery.
#
# ### Logging while XGBoost trains
#
# A long training should show its progress while it runs. XGBoost calls a `TrainingCallback` after each round, and that
# can log. It has a price, since each call waits for the database: therefore the trials above log in one batch.


# %%
class LogEachRound(xgb.callback.TrainingCallback):
    def after_iteration(self, model, epoch, evals_log):
        mlflow.log_metric("logloss", evals_log["train"]["logloss"][-1], step=epoch)
        return False  # True would stop the training


def seconds_with(*callbacks):
    start = time.perf_counter()
    watched = {"evals": [(dtrain, "train")], "verbose_eval": False, "callbacks": callbacks}
    xgb.train({"objective": "binary:logistic", "nthread": 1}, dtrain, 100, **watched)
    return time.perf_counter() - start


with mlflow.start_run(run_name="Live_Metrics"):
    live = seconds_with(LogEachRound())
# %% tags=["volatile"]
print(f"100 rounds: {seconds_with():.2f} s, and {live:.2f} s with a call to MLflow in each")

# %% [markdown]
# ## Reading the results in the UI
#
# In the UI, open the experiment. Each step is a run; unfold `Hyperparameters_Search`, and there are the trials, with
# what they tried and how good that was, as in the picture at the top of this page. (*Columns* chooses what is shown.)
#
# The chart view draws one line per trial: with a small learning rate the log loss falls slowly; with a large one it is
# near its end after a few rounds, and may rise again.
#
# ![Log loss and AUC of the trials, round by round](img/runs_charts.png)
#
# Select the trials and choose *Compare*. Each line is a trial and runs through its parameters to its log loss (blue is
# low). Where do the best trials run that the others do not? Here they all have shallow trees and many rounds: a second
# search would narrow `max_depth` to 2 to 4 and raise the limit of `num_boost_round`, at which the best trials stand.
#
# ![The trials compared, as lines through their parameters](img/compare_runs_counter_plot.png)
#
# The tab *System metrics* of the tuning run shows how busy the processor was, and how much memory was in use.
#
# ![Processor and memory during the search](img/system_metrics.png)
#
# Whatever the UI shows, code can ask for too. These are the three best trials, found with a search in MLflow:

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
# With the best parameters we train the final model, in the two forms that XGBoost offers: a `Booster`, its own, and
# an `XGBClassifier`, which follows scikit-learn. Both are registered, so that we can compare later how they are used.

# %% tags=["model_training", "remove-input"]
import mlflow
import xgboost as xgb
from loguru import logger
from mlflow.models import infer_signature
from sklearn.model_selection import train_test_split

import config
import data_files
import utils

# %% [markdown]
# The tuning run must be one on this very data, hence the tag `data_run_id` in the search. If several searches share a
# study, the best of them counts. MLflow stores parameters as text, so each is turned back into a number by name. Of
# each trial we kept the parameters and metrics, a few kilobytes, and no model: from its parameters any of them can be
# trained again, and only the best one is.
#
# The tuned number of rounds is the most that the training may use: it stops early when more no longer helps. To notice
# that, it needs data that it does not train on: a part of the *training* data, never the test set, which must stay
# unseen until the evaluation.

# %% tags=["model_training", "remove-output"]
data_run_id, tuning_run_id = None, None
# hide data_run_id, tuning_run_id = utils.arguments("model-training", "data-run-id", "tuning-run-id")
data_run = utils.latest_run("data_preprocessing", data_run_id)
these = {"data_run_id": data_run.info.run_id}
tuning_run = utils.latest_run("hyperparameters_tuning", tuning_run_id, **these)
# %% tags=["model_training", "remove-input"]
if "study" in tuning_run.data.tags and not tuning_run_id:
    these["study"] = tuning_run.data.tags["study"]
    tuning_run = utils.latest_run("hyperparameters_tuning", order_by="metrics.logloss ASC", **these)
# %% tags=["model_training", "remove-output"]
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

# %% [markdown]
# `autolog` makes MLflow watch XGBoost: it logs the parameters, the metrics of every round and the importance of the
# features by itself. We log the models ourselves, because we have more to say about them: the **signature**, columns
# and types that MLflow checks when the model is called through `pyfunc`; an **input example**; the **requirements**
# that it needs to run (MLflow could find them out, which takes many seconds); as **metadata** our encoding, so that
# nobody has to guess later which word became which number; and the name under which it is **registered**: each training
# makes a new version. Any other file can be an artifact too: a plot (`mlflow.log_figure`), a dict (`log_dict`), a table
# (`log_table`), a folder (`log_artifacts`).
#
# The run also says what made it: its inputs are the train and test data of the data preparation, its tags the runs that
# it built on. MLflow adds who ran which script in which commit; in a notebook it cannot know the commit, and nowhere
# does it say whether files were changed since.

# %% tags=["model_training"]
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

# %% tags=["model_training", "remove-input"]
logger.info(
    f"registered {config.BOOSTER_MODEL} version {booster_info.registered_model_version} and "
    f"{config.CLASSIFIER_MODEL} version {classifier_info.registered_model_version}: "
    f"{rounds} of {num_boost_round} rounds"
)

# %% [markdown]
# A logged model is a folder. Its file `MLmodel` says how to load it: a model can have several **flavours**, here
# `xgboost`, which gives back the XGBoost object, and `python_function`, which gives every kind of model the same
# `predict`.

# %% tags=["remove-input"]
import yaml

# %%
model_uri = f"models:/{config.CLASSIFIER_MODEL}/{classifier_info.registered_model_version}"
mlmodel = yaml.safe_load(mlflow.artifacts.load_text(f"{model_uri}/MLmodel"))
print(yaml.safe_dump(mlmodel["flavors"]))

# %% [markdown]
# The UI shows the file, and beside it the others: the model (`model.ubj`), its requirements and the input example.
#
# ![The files of the model in the UI](img/model_artifacts.png)
#
# It also shows what autologging took down, here both losses in one chart (*Configure* adds a metric to a chart). The
# loss keeps falling on the data that the Booster was trained on, while on the validation data it turns after the rounds
# that were kept (the log line above counts them): this is why training stops early.
#
# ![Log loss on training and validation data, round by round](img/model_metrics.png)

# %% [markdown]
# ## Evaluating the model
#
# Training made a new version of `CancerModel`. Is it good enough to be used? The evaluation runs on the test set, or
# on any other file with the same columns (set `eval_dataset`).

# %% tags=["data_evaluation", "remove-input"]
import mlflow
from loguru import logger
from mlflow.exceptions import MlflowException
from mlflow.models import MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

import config
import data_files
import utils
from utils import StepError

# %% [markdown]
# We ask for the version that the last training run registered, and for the data that this training run used: not
# just for the last version and the last data, which may belong to something else. A file from somewhere else is read as
# the model needs it. Rows that a model was trained on prove nothing, so they are counted; for the champion too, which
# may have been trained on another split.

# %% tags=["data_evaluation", "remove-output"]
eval_dataset, training_run_id = None, None
# hide eval_dataset, training_run_id = utils.arguments("data-evaluation", "eval-dataset", "training-run-id")
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
version = utils.registered_version(config.CLASSIFIER_MODEL, training_run)
model_uri = f"models:/{config.CLASSIFIER_MODEL}/{version}"
encoding = utils.model_encoding(model_uri)

# %% tags=["data_evaluation", "remove-input", "remove-output"]
objections = []
if eval_dataset:
    frame, target = data_files.read_table(eval_dataset, encoding=encoding)
    if frame[target].nunique() < 2:
        raise StepError(f"{eval_dataset}: has one class only. Give rows of both classes.")
else:
    frame = utils.load_dataset(data_run, "test")
source = eval_dataset or f"runs:/{data_run.info.run_id}/datasets/test.csv"
empty = ", ".join(frame.columns[frame.isna().all()])
if empty:
    logger.warning(f"There will be no SHAP plots, because there is not one value of {empty}.")


def rows_seen(version):
    client = mlflow.MlflowClient()
    try:
        trained = client.get_run(client.get_model_version(config.CLASSIFIER_MODEL, version).run_id)
        its_data_run = client.get_run(trained.data.tags["data_run_id"])
        return data_files.count_known_rows(frame, utils.load_dataset(its_data_run, "train"))
    except (MlflowException, KeyError, OSError):  # it was not trained here, or its runs are gone
        return 0


seen = data_files.count_known_rows(frame, utils.load_dataset(data_run, "train"))
if eval_dataset and seen > len(frame) / 2:
    objections.append(f"{seen} of the {len(frame)} rows were seen in training: evaluate on others.")

# %% [markdown]
# `mlflow.models.evaluate` computes the usual metrics of a classifier, draws the usual plots, and explains the
# predictions with SHAP values. If there is a champion already, it is evaluated on the same data, in a nested run; each
# model gets the data in its own encoding.


# %% tags=["data_evaluation"]
def evaluate(uri, explain):
    features, label = data_files.encode(frame, utils.model_encoding(uri))
    data = utils.as_dataset(features.assign(label=label), source, "evaluation", "label")
    options = {"label_list": [0, 1], "pos_label": 1, "log_model_explainability": explain}
    return mlflow.models.evaluate(uri, data, model_type="classifier", evaluator_config=options)


champion = utils.champion_version()
champion_uri = f"models:/{config.CLASSIFIER_MODEL}/{champion}"
champion_result = None

utils.set_experiment()
tags = {"step": "data_evaluation", "training_run_id": training_run.info.run_id}
tags |= {"model_version": str(version), "eval_dataset": eval_dataset or "test set"}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}
with mlflow.start_run(run_name="Data_Evaluation", tags=tags) as run:
    result = evaluate(model_uri, explain=not empty)
    mlflow.log_metric("rows_seen_in_training", seen)
    if champion and champion != version:
        try:
            theirs = utils.model_encoding(champion_uri)
            same_columns = set(theirs["columns"]) == set(encoding["columns"])
            if same_columns and theirs["classes"] == encoding["classes"]:
                with mlflow.start_run(run_name=f"Champion_Version_{champion}", nested=True):
                    champion_result = evaluate(champion_uri, explain=False)
                    champion_seen = rows_seen(champion)
                    mlflow.log_metric("rows_seen_in_training", champion_seen)
            else:
                objections.append(
                    f"The champion, version {champion}, has other columns or classes."
                )
        except (MlflowException, OSError) as error:
            reason = utils.in_one_line(error)
            objections.append(f"The champion, version {champion}, cannot be loaded: {reason}")

# %% tags=["data_evaluation", "remove-input"]
logger.info(
    f"version {version} on {len(frame)} rows of {source}, class 1 is {encoding['classes'][1]!r}"
)
if champion_result and champion_seen > seen:
    logger.warning(
        f"The champion, version {champion}, was trained on {champion_seen} of these rows, version "
        f"{version} on {seen}, so it looks better here than it is. Evaluate on rows new to both."
    )

# %%
shown = ["accuracy_score", "precision_score", "recall_score", "roc_auc", "log_loss"]
pd.Series(result.metrics, name="value")[shown].to_frame()

# %% tags=["remove-input"]
import matplotlib.pyplot as plt

figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
for axis, plot in zip(axes, ["roc_curve_plot", "confusion_matrix"], strict=True):
    axis.imshow(result.artifacts[plot].content)
    axis.axis("off")
plt.close(figure)
display(figure, metadata={"image/png": {"alt": "ROC curve and confusion matrix of the test set"}})

# %% [markdown]
# These plots and others are artifacts of the run. In the SHAP plot each dot is a tumour: its colour says how large the
# feature is, its place how far that pushes the answer towards benign (right) or malignant (left).
#
# ![The SHAP plot among the artifacts of the evaluation](img/shap_plot.png)

# %% [markdown]
# ## The gate
#
# A registered version is not used by anyone yet. Users load the version that bears the **alias** `champion`, and the
# alias moves to our version only if it reaches every threshold, and if the champion is not better on the same data.
#
# Which error is the dangerous one? A cancer that is called benign. Benign is class 1, so that is a *false positive*,
# and the precision falls with each of them. The number of examples is there because on a handful of them a poor model
# is often right by chance. The thresholds stand in `config.py`:

# %% tags=["remove-input"]
print(config.THRESHOLDS)

# %% tags=["data_evaluation"]
thresholds = {
    name: MetricThreshold(threshold=least, greater_is_better=True)
    for name, least in config.THRESHOLDS.items()
}
if champion_result:
    thresholds[config.CHAMPION_METRIC] = MetricThreshold(
        threshold=config.THRESHOLDS[config.CHAMPION_METRIC],
        min_relative_change=0.0,
        greater_is_better=True,
    )
try:
    mlflow.validate_evaluation_results(thresholds, result, champion_result)
except ModelValidationFailedException as failure:
    objections.append(f"{failure} (The thresholds are set in config.py.)")
if utils.champion_version() not in [champion, version]:
    objections.append("Meanwhile another version has become the champion: evaluate again.")

client = mlflow.MlflowClient()
client.set_tag(run.info.run_id, "gate", "failed" if objections else "passed")
if objections:
    reasons = " ".join(" ".join(objections).split())
    alias = f"'{config.CLASSIFIER_MODEL}', '{config.CHAMPION}', {version}"
    logger.warning(
        f"Version {version} does not become the champion. {reasons} To decide otherwise: "
        f"mlflow.MlflowClient().set_registered_model_alias({alias})"
    )
else:
    client.set_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION, version)
    logger.info(f"Version {version} of {config.CLASSIFIER_MODEL} is the champion.")

# %% [markdown]
# Our model has passed. Whoever uses the model asks for the champion, and never has to know its number:

# %% tags=["remove-input"]
# Data of your own may miss thresholds that were made for cancer: the sections below need a champion to show.
if not utils.champion_version():
    client.set_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION, version)

# %%
champion_uri = f"models:/{config.CLASSIFIER_MODEL}@{config.CHAMPION}"
mlflow.pyfunc.load_model(champion_uri).predict(features.head())

# %% [markdown]
# And a model that **fails**? This one, a single tree with a single split, gets a version like any other, but no alias:

# %%
simple = xgb.XGBClassifier(n_estimators=1, max_depth=1).fit(fit_features, fit_label)
with mlflow.start_run(run_name="Too_Simple"):
    simple_info = mlflow.xgboost.log_model(
        simple, name="classifier", registered_model_name=config.CLASSIFIER_MODEL, **with_each
    )
    simple_version = simple_info.registered_model_version
    simple_result = evaluate(f"models:/{config.CLASSIFIER_MODEL}/{simple_version}", explain=False)
try:
    mlflow.validate_evaluation_results(thresholds, simple_result, result)
except ModelValidationFailedException as failure:
    print(f"Version {simple_version} fails:\n{failure}")

# %% [markdown]
# Suppose that somebody moves the alias by hand all the same, and the complaints come in. **The way back** is one line,
# and whoever loads the champion next has the good version again:

# %%
client.set_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION, simple_version)  # oh no
client.set_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION, version)  # the way back

# %% [markdown]
# ![The versions of the model in the registry, one with the alias champion](img/registry.png)

# %% [markdown]
# ## MLflow Projects
#
# So far everything happened in this notebook. A *project* is code that others can run without reading it first: a
# file `MLproject` names its commands (**entry points**), their parameters, and the environment that they need.
#
# ### From cells to scripts
#
# The commands of our project are scripts, and the scripts are our tagged cells. Nothing is written twice: change a
# cell, extract again, and the script follows. A script needs one thing that a notebook does not: parameters from the
# command line. So the cell that sets them holds a line that starts with `# hide`, a comment here and code in the script
# (and left out on this page; it has nothing to do with Quarto's `#| hide`). Here is the idea in a few lines, compared
# with what the real extractor makes, `python -m notebook_tools.extract`, which checks each cell too and writes all of
# the folder `steps/`:

# %%
import jupytext
from notebook_tools import extract

notebook = jupytext.read("modeling.py")
cells = [
    cell.source for cell in notebook.cells if "model_training" in cell.metadata.get("tags", [])
]
lines = "\n\n".join(cells).splitlines()
script = [line.removeprefix("# hide ") for line in lines if line.strip()]

extract.main([])
made = [line for line in Path("steps/model_training.py").read_text().splitlines() if line.strip()]
print("hidden in the notebook:", *[line for line in lines if line.startswith("# hide ")])
print("the real extractor made the same lines:", made[1:] == script)

# %% [markdown]
# ### The environment
#
# The environment should be the one in which the code was tried out, but *exporting* it disappoints:
#
# ```bash
# conda env export > conda.yaml
# conda env export --from-history > conda.yaml
# pip freeze > requirements.txt
# ```
#
# The first writes down each package with its build number, which exists for one operating system only; the second
# forgets what pip installed; the third lists everything that happens to be installed, and does not tell what you need
# from what came along. So we keep two short files by hand, `requirements.txt` (the packages that we import, with their
# versions) and `conda.yaml` (the Python version, and a reference to `requirements.txt`), and let a tool make the third:
# `constraints.txt`, the version of every package below those, for all platforms (`make constraints`).
#
# ### The MLproject file
#
# Each entry point has parameters and a command. Two of them (the whole file is [MLproject](MLproject); its
# key `description` is for `--help`, MLflow ignores it):

# %%
project = yaml.safe_load(Path("MLproject").read_text())
two = {name: project["entry_points"][name] for name in ["model-training", "data-evaluation"]}
print(yaml.safe_dump(two, sort_keys=False, default_flow_style=None, width=80))

# %% [markdown]
# ### Running the entry points
#
# In a terminal, one step is run like this:
#
# ```bash
# mlflow run . -e hyperparameters-tuning -P n-trials=40 --env-manager local
# mlflow run . -e data-evaluation -P eval-dataset=more.csv --env-manager local
# ```
#
# `--env-manager local` means: in the environment that is active now. Without it MLflow makes an environment from
# `conda.yaml` first. In place of `.` a git URL can stand, so a colleague needs no clone: MLflow fetches the project
# and runs it, and leaves the results in the folder in which the colleague is.
#
# `mlflow run` makes a run before the script starts, and `mlflow.start_run` in the script joins it: so each step is one
# run, however it was started. Its experiment is *Default*, unless you give one with `--experiment-name` or set
# `MLFLOW_EXPERIMENT_NAME`; the steps then stay in the experiment that you have chosen, and else find each other's runs
# in all experiments.
#
# The entry point `main` is the pipeline: all steps in order, each as an MLflow run of its own below that of the
# pipeline, and each with the IDs of the runs that it builds on, so that two pipelines at a time do not mix. It too is
# made of cells of this notebook, which here go on with the data and the number of trials from above:

# %% tags=["pipeline", "remove-input"]
import mlflow
from mlflow.exceptions import ExecutionException

import config
import utils
from utils import StepError

# hide test_size, n_trials, dataset, target, positive_class = utils.arguments(
# hide     "main", "test-size", "n-trials", "dataset", "target", "positive-class"
# hide )


# %% tags=["pipeline", "remove-output"]
def run_step(entry_point, **parameters):
    known = {name: value for name, value in parameters.items() if value is not None}
    given = {name.replace("_", "-"): value for name, value in known.items()}
    experiment_id = mlflow.active_run().info.experiment_id
    options = {"experiment_id": experiment_id, "env_manager": "local"}
    try:
        return mlflow.run(str(config.PROJECT_DIR), entry_point, parameters=given, **options).run_id
    except ExecutionException:
        raise StepError(f"The step {entry_point} failed, for the reason given above.") from None


own_data = {"dataset": dataset, "target": target, "positive_class": positive_class}
utils.set_experiment()
with mlflow.start_run(run_name="Pipeline", tags={"step": "pipeline"}) as run:
    data_run_id = run_step("data-preprocessing", test_size=test_size, **own_data)
    tuning_run_id = run_step("hyperparameters-tuning", n_trials=n_trials, data_run_id=data_run_id)
    builds_on = {"data_run_id": data_run_id, "tuning_run_id": tuning_run_id}
    training_run_id = run_step("model-training", **builds_on)
    for entry_point in ["data-evaluation", "flavour-comparison", "model-customization"]:
        run_step(entry_point, training_run_id=training_run_id)
    # the version that this pipeline has trained, champion or not
    version = utils.registered_version(config.CLASSIFIER_MODEL, mlflow.get_run(training_run_id))
    run_step("model-serving", model_uri=f"models:/{config.CLASSIFIER_MODEL}/{version}")

# %% [markdown]
# The same was then run in an environment of its own (`env_manager="uv"`): MLflow makes it from `conda.yaml`, with conda
# where there is conda and with `uv` where there is not, and keeps it for the next time. Either fetches the Python that
# `conda.yaml` names; a machine that has none and may not fetch one leaves this out.

# %% tags=["remove-output", "remove-input"]
import shutil
import subprocess


def has_python(versions):  # on this machine, or where uv can fetch it
    command = ["uv", "run", "--no-project", "--python", versions, "python", "--version"]
    return subprocess.run(command, capture_output=True).returncode == 0


manager = "conda" if shutil.which("conda") else "uv"
few = {
    "n-trials": 3,
    **{name.replace("_", "-"): value for name, value in own_data.items() if value},
}
if manager == "uv" and not has_python("3.11"):
    print("Left out: Python 3.11, which conda.yaml names, is neither here nor can uv fetch it.")
else:
    mlflow.run(
        ".", "main", parameters=few, experiment_id=run.info.experiment_id, env_manager=manager
    )

# %% [markdown]
# Each pipeline made a new version of the model; the alias is at the last one that passed the gate.
#
# ![A pipeline in the list of runs, unfolded](img/pipeline_run.png)

# %% [markdown]
# ## Flavours
#
# One model, four ways to call it: each of the two registered models can be loaded as what it is (`mlflow.xgboost`), or
# as a `python_function` (`mlflow.pyfunc`), which is called alike for every kind of model.

# %% tags=["flavour_comparison", "remove-input"]
import timeit

import mlflow
import pandas as pd
import xgboost as xgb

import config
import data_files
import utils

# %% tags=["flavour_comparison", "remove-input", "remove-output"]
training_run_id = None
# hide training_run_id = utils.arguments("flavour-comparison", "training-run-id")
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
booster_uri, classifier_uri = [
    f"models:/{name}/{utils.registered_version(name, training_run)}"
    for name in [config.BOOSTER_MODEL, config.CLASSIFIER_MODEL]
]
test = utils.load_dataset(data_run, "test").head(config.BATCH_ROWS)
test, _ = data_files.encode(test, utils.model_encoding(classifier_uri))

# %% tags=["flavour_comparison"]
booster = mlflow.xgboost.load_model(booster_uri)
classifier = mlflow.xgboost.load_model(classifier_uri)
booster_pyfunc = mlflow.pyfunc.load_model(booster_uri)
classifier_pyfunc = mlflow.pyfunc.load_model(classifier_uri)

# %% [markdown]
# The `Booster` wants a `DMatrix` and answers with the probability of class 1:

# %%
booster.predict(xgb.DMatrix(test.head(3)))

# %% tags=["raises-exception"]
booster.predict(test.head(3))

# %% [markdown]
# The `XGBClassifier` wants a DataFrame and answers with classes. It wants its columns in their order:

# %%
classifier.predict(test.head(3))

# %% tags=["raises-exception"]
classifier.predict(test.head(3).iloc[:, 1:])

# %% [markdown]
# Through `pyfunc` both take a DataFrame, and each still gives its own kind of answer. Only here the input is checked
# against the signature: a missing column is named, and the order of columns does not matter.

# %%
booster_pyfunc.predict(test.head(3)), classifier_pyfunc.predict(test.head(3).iloc[:, ::-1])

# %% tags=["raises-exception"]
classifier_pyfunc.predict(test.head(3).iloc[:, 1:])

# %% [markdown]
# All four ways with the same wrong inputs (*refused* names the error). What a call costs, the median of 51, is among
# the metrics of the run `Flavour_Comparison`.


# %% tags=["flavour_comparison", "remove-input", "remove-output"]
models = {
    "Booster": booster,
    "XGBClassifier": classifier,
    "Booster as pyfunc": booster_pyfunc,
    "XGBClassifier as pyfunc": classifier_pyfunc,
}
inputs = {
    "the test set": test,
    "a column too few": test.iloc[:, 1:],
    "a column too many": test.assign(further=1.0),
    "columns in another order": test.iloc[:, ::-1],
    "numbers as text": test.astype(str),
}


def predict(model, frame):
    return model.predict(xgb.DMatrix(frame) if isinstance(model, xgb.Booster) else frame)


def outcome(model, frame):
    try:
        return f"{predict(model, frame)[0]:.3g}, …"
    except Exception as error:
        return f"refused: {type(error).__name__}"


def milliseconds(model, rows):
    seconds = timeit.repeat(lambda: predict(model, test.head(rows)), number=1, repeat=51)
    return 1000 * pd.Series(seconds).median()


xgb.set_config(nthread=1)  # for few rows, threads cost more than they bring
answers, latency = pd.DataFrame(), pd.DataFrame()
for name, model in models.items():
    for given, values in inputs.items():
        answers.loc[given, name] = outcome(model, values)
    for count in [1, len(test)]:
        latency.loc[name, f"ms_{count}_rows"] = milliseconds(model, count)

utils.set_experiment()
tags = {"step": "flavour_comparison", "training_run_id": training_run.info.run_id}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}
with mlflow.start_run(run_name="Flavour_Comparison", tags=tags) as run:
    mlflow.log_table(answers.rename_axis("given").reset_index(), "answers.json")
    for name, column in latency.items():
        mlflow.log_metrics({f"{name}/{model}": value for model, value in column.items()})

# %% tags=["remove-input"]
answers

# %% [markdown]
# What only XGBoost's own object can do, such as the importance of features, is reached through any `pyfunc` model with
# `get_raw_model()`:

# %%
inner = classifier_pyfunc.get_raw_model().get_booster()
pd.Series(inner.get_score(importance_type="gain")).nlargest(3).index.tolist()

# %% [markdown]
# ## Serving with `mlflow models serve`
#
# A model that is registered can be served over HTTP with one command:
#
# ```bash
# mlflow models serve -m models:/CancerModel@champion --env-manager local --port 5001
# ```
#
# The next cells do the same from Python: start the server as a process, wait until it is healthy, send it the test
# set, compare its answers with those of the same model in this process, and stop it, whatever happens.

# %% tags=["model_serving", "remove-input"]
import mlflow
import numpy as np
import requests
from loguru import logger
from mlflow.exceptions import MlflowException

import config
import data_files
import servers
import utils
from utils import StepError

# %% tags=["model_serving"]
model_uri, port = "models:/CancerModel@champion", 0
# hide model_uri, port = utils.arguments("model-serving", "model-uri", "port")
# %% tags=["model_serving", "remove-input"]
if not 0 <= port < 65536:
    raise StepError(f"port is {port}: give a number between 1 and 65535, or 0 for a free port.")
utils.check_store()
try:
    model_info = mlflow.models.get_model_info(model_uri)
except (MlflowException, OSError) as error:
    reason = str(error).splitlines()[0].rstrip(".")
    raise StepError(
        f"{model_uri}: no such model: {reason}. Make one: mlflow run . -e main"
    ) from None
try:
    data_run = mlflow.get_run(mlflow.get_run(model_info.run_id).data.tags["data_run_id"])
except (MlflowException, KeyError, TypeError):  # of no run, or of one of others
    reason = "was not trained here, so there are no rows to try it with"
    raise StepError(f"{model_uri} {reason}: serve it with `mlflow models serve`.") from None

# %% tags=["model_serving", "remove-output"]
rows = utils.load_dataset(data_run, "test")
rows, _ = data_files.encode(rows, utils.model_encoding(model_uri))
port = port or servers.free_port()
url = f"http://127.0.0.1:{port}"
serve = f"mlflow models serve --env-manager local --host 127.0.0.1 --port {port} -m".split()

# %% [markdown]
# Rows are sent in the form `dataframe_split`: the names of the columns once, then the rows, here a thousand at most in
# one request. This is the body for two rows of two columns:

# %%
print(json.dumps(utils.as_request(rows.iloc[:2, :2])))

# %% tags=["model_serving"]
utils.set_experiment()
tags = {"step": "model_serving", "data_run_id": data_run.info.run_id}
tags |= {"data": data_run.data.tags.get("data", "")}
with mlflow.start_run(run_name="Model_Serving", tags=tags) as run:
    mlflow.log_params({"model_uri": model_uri, "rows": len(rows)})
    predictions = []
    with servers.server([*serve, model_uri], f"{url}/health"):
        for start in range(0, len(rows), config.BATCH_ROWS):
            body = utils.as_request(rows.iloc[start : start + config.BATCH_ROWS])
            response = requests.post(f"{url}/invocations", json=body, timeout=60)
            response.raise_for_status()
            predictions += response.json()["predictions"]
    served = np.array(predictions)
    difference = float(np.abs(served - mlflow.pyfunc.load_model(model_uri).predict(rows)).max())
    mlflow.log_metric("largest_difference", difference)
    if difference > 1e-6:
        raise StepError(f"{model_uri}: the server's answers differ by up to {difference}.")
logger.info(f"{model_uri}: {len(rows)} rows served, largest difference {difference:.1g}")

# %% [markdown]
# The same question with `curl`, while a server runs at port 5001: `serving_input_example.json` lies beside every model
# that was logged with an input example.
#
# ```bash
# curl http://127.0.0.1:5001/invocations --json @serving_input_example.json
# ```
#
# The answer is 0 or 1, whatever the classes are called in your file; which word is class 1 stands in the tags of the
# version. The server takes codes in place of words, and the added feature must be in the request: it does not know how
# we made it. A plain list of numbers, without names, is refused, because the signature has names.

# %% [markdown]
# ## Scoring a file
#
# Often no server is needed. One command reads a CSV file, ready for the model, and writes the answers (a file as it
# stands, with words and further columns, is for the entry point `batch-scoring`:
# [After deployment](chapters/after_deployment.md)):
#
# ```bash
# mlflow models predict -m models:/CancerModel@champion -i in.csv -t csv -o out.json \
#     --env-manager local
# ```

# %%
import tempfile

with tempfile.TemporaryDirectory() as folder:
    given, answers = Path(folder, "in.csv").as_posix(), Path(folder, "out.json").as_posix()
    rows.head(100).to_csv(given, index=False)
    options = {"content_type": "csv", "output_path": answers, "env_manager": "local"}
    mlflow.models.predict(model_uri, input_path=given, **options)
    scored = json.loads(Path(answers).read_text())["predictions"]
print(len(scored), "answers, like those of the server:", scored == served[:100].tolist())

# %% [markdown]
# ## Serving with MLServer
#
# MLServer is another model server, with a protocol (V2) that other servers speak too. Know its state before you choose
# it: the company behind it is being wound up, its last release needs Python below 3.13 and older packages than ours,
# and MLflow removed its own integration in 2026. The successor is a container that MLflow itself makes (`mlflow models
# build-docker`, or `generate-dockerfile` to look at it first). MLServer lives in an environment of its own, which this
# command makes; then it serves the champion on port 8080:
#
# ```bash
# make mlserve
# ```

# %% tags=["remove-input"]
has_mlserver = has_python(">=3.11,<3.13")
if has_mlserver:
    for command in [
        "uv venv --quiet --allow-existing --python >=3.11,<3.13 docker/mlserve/.venv",
        "uv pip install --quiet --python docker/mlserve/.venv -r docker/mlserve/requirements.txt",
    ]:
        subprocess.run(command.split(), check=True)
else:
    print("MLServer is left out: Python 3.11 or 3.12 is neither here nor can uv fetch it.")

# %% [markdown]
# The same rows go to MLflow's own address `/invocations`, and to that of the V2 protocol, which wants each column as
# a tensor with a name, a shape and a type:

# %% tags=["remove-input"]
mlserver_ports = {
    f"MLSERVER_{n}_PORT": str(servers.free_port()) for n in ["HTTP", "GRPC", "METRICS"]
}
mlserver_url = f"http://127.0.0.1:{mlserver_ports['MLSERVER_HTTP_PORT']}"
mlserver_program = f"docker/mlserve/.venv/{'Scripts' if os.name == 'nt' else 'bin'}/mlserver"


def mlserver(folder):
    return servers.server(
        [mlserver_program, "start", str(folder)],
        f"{mlserver_url}/v2/models/cancer-model/ready",
        MLFLOW_TRACKING_URI=store,
        MLSERVER_HOST="127.0.0.1",
        **mlserver_ports,
    )


# %%
columns = rows.astype(object).where(rows.notna(), None).items()
v2_request = {
    "parameters": {"content_type": "pd"},
    "inputs": [
        {"name": name, "shape": [len(rows), 1], "datatype": "FP64", "data": column.tolist()}
        for name, column in columns
    ],
}
if has_mlserver:
    with mlserver("docker/mlserve"):
        body, address = utils.as_request(rows), f"{mlserver_url}/invocations"
        rest = requests.post(address, json=body, timeout=60).json()
        address = f"{mlserver_url}/v2/models/cancer-model/infer"
        v2 = requests.post(address, json=v2_request, timeout=60).json()
    print("/invocations gives the same:", rest["predictions"] == served.tolist())
    print("V2 gives the same:", v2["outputs"][0]["data"] == served.tolist())

# %% [markdown]
# The page `/v2/models/cancer-model/docs` lists the addresses of the model, with a form to try each of them:
#
# ![The model's page in MLServer](img/mlserver.png)
#
# Where `mlflow models serve` answers a caller's mistake with status 400 and a reason, MLServer answers
# some of them, such as broken JSON, with status 500.

# %% [markdown]
# ## A custom model
#
# A server that answers with classes hides how sure the model is. With a model of our own we decide what goes in and
# out. A *model from code* is a Python file that MLflow stores and runs again when the model is loaded; nothing is
# pickled. It imports packages only, never modules of this project, which may have changed by then. This one has the
# classifier as its artifact, takes words as they stand in the file, answers with both probabilities, refuses input that
# cannot be right, and logs each request without the values in it, since those belong to a patient.

# %% tags=["custom_model", "remove-input"]
import time

import mlflow
import numpy as np
import pandas as pd
from loguru import logger
from mlflow.exceptions import MlflowException
from mlflow.models import Model


# %% tags=["custom_model"]
class CancerProbability(mlflow.pyfunc.PythonModel):
    """Answers with the probabilities of both classes."""

    def load_context(self, context):
        """Load the classifier, which MLflow has stored as an artifact, when the server starts."""
        self.classifier = mlflow.xgboost.load_model(context.artifacts["classifier"])
        self.words = (Model.load(context.artifacts["classifier"]).metadata or {}).get("words", {})

    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Predict probabilities.

        Args:
            context: Not used, like `params`.
            model_input: n rows of features, as they stand in the training data: words are words.

        Returns:
            An array of shape (n, 2): the probabilities of class 0 and class 1.

        Raises:
            MlflowException: No rows, or an infinite or too large value: status 400 of a server.
        """
        if model_input.empty:
            raise MlflowException.invalid_parameter_value("There are no rows to predict.")
        start, features = time.perf_counter(), model_input.copy()
        for name, words in self.words.items():
            features[name] = features[name].map({word: code for code, word in enumerate(words)})
        features = features.astype(float)
        # XGBoost has numbers of single precision, and takes larger ones for infinite
        wrong = features.columns[(features.abs() > np.finfo(np.float32).max).any()]
        if len(wrong):
            reason = f"Infinite or too large values in: {', '.join(wrong)}"
            raise MlflowException.invalid_parameter_value(reason)
        answer = self.classifier.predict_proba(features)
        logger.info("{} row(s) in {:.1f} ms", len(answer), 1000 * (time.perf_counter() - start))
        return answer


mlflow.models.set_model(CancerProbability())

# %% tags=["model_customization", "remove-input"]
import mlflow
from loguru import logger
from mlflow.models import infer_signature

import config
import data_files
import utils

# %% tags=["model_customization", "remove-input", "remove-output"]
training_run_id = None
# hide training_run_id = utils.arguments("model-customization", "training-run-id")
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
version = utils.registered_version(config.CLASSIFIER_MODEL, training_run)
classifier_uri = f"models:/{config.CLASSIFIER_MODEL}/{version}"
encoding = utils.model_encoding(classifier_uri)
train = utils.load_dataset(data_run, "train")
features, _ = data_files.encode(train, encoding)
probabilities = mlflow.xgboost.load_model(classifier_uri).predict_proba(features)
raw = train[encoding["columns"]]
packages = ["mlflow", "xgboost", "scikit-learn", "pandas", "loguru"]
tags = {"step": "model_customization", "training_run_id": training_run.info.run_id}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}

# %% tags=["model_customization"]
utils.set_experiment()
with mlflow.start_run(run_name="Model_Customization", tags=tags) as run:
    custom_info = mlflow.pyfunc.log_model(
        name="custom",
        python_model=str(config.PROJECT_DIR / "steps" / "custom_model.py"),
        artifacts={"classifier": classifier_uri},
        registered_model_name=config.CUSTOM_MODEL,
        signature=infer_signature(raw, probabilities),
        input_example=raw.head(3),
        pip_requirements=utils.pinned_requirements(*packages),
        metadata={**encoding, "words": {}},  # it takes the words as they are
    )
logger.info(f"registered {config.CUSTOM_MODEL} version {custom_info.registered_model_version}")

# %% [markdown]
# `mlflow models serve` serves it like any other model. Its answers are those of the classifier's `predict_proba`, and
# wrong input is answered with status 400 and a reason:

# %% tags=["remove-input", "remove-output"]
custom_uri = f"models:/{config.CUSTOM_MODEL}/{custom_info.registered_model_version}"
raw = utils.load_dataset(data_run, "test")[encoding["columns"]]
classifier = mlflow.xgboost.load_model(classifier_uri)
expected = classifier.predict_proba(data_files.encode(raw, encoding)[0])

# %%
with servers.server([*serve, custom_uri], f"{url}/health") as log:
    response = requests.post(f"{url}/invocations", json=utils.as_request(raw), timeout=60)
    for wrong in [raw.head(1).iloc[:, 1:], raw.head(0)]:
        refusal = requests.post(f"{url}/invocations", json=utils.as_request(wrong), timeout=60)
        print(refusal.status_code, refusal.json()["message"].split("Error: ")[-1][:80])
    request_log = [line for line in log.read_text().splitlines() if "row(s)" in line]
print("like predict_proba:", np.allclose(response.json()["predictions"], expected, atol=1e-6))
print("in the log:", request_log[0].split(" | ")[-1])

# %% [markdown]
# To let MLServer serve this model in place of the classifier, give its address in `model-settings.json`. To serve a
# newer version of the *same* model nothing changes at all: the alias moves, and the server is started again. (One that
# follows the alias by itself, and says which version answered, is in [A server of your own](chapters/own_server.md).)

# %% tags=["remove-input"]
settings = json.loads(Path("docker/mlserve/model-settings.json").read_text())
settings["parameters"]["uri"] = custom_uri
if has_mlserver:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy("docker/mlserve/settings.json", folder)
        Path(folder, "model-settings.json").write_text(json.dumps(settings))
        with mlserver(folder):
            body = utils.as_request(raw)
            answer = requests.post(f"{mlserver_url}/invocations", json=body, timeout=60)
    print("MLServer too:", np.allclose(answer.json()["predictions"], expected, atol=1e-6))

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
# The code is in the image, the runs are not: the container sees this folder under *the same absolute path* as the
# host does, because MLflow notes the place of each file as an absolute path. So `make ui` shows the runs, and the
# models load here. A file for `-P dataset=` must lie in this folder too. What a container writes belongs to user 1000,
# the first user of most Linux machines. If `id -u` says something else, put `HOST_USER=$(id -u):$(id -g)` before the
# command. On Windows, give these commands in WSL. With the older docker-compose 1.29, `run` has no `--build`: give
# `docker-compose -f … build` first.

# %% [markdown]
# ## Sharing the work
#
# - **git** carries the code: `modeling.py`, and `steps/` with it. Not the runs: `mlflow.db` grows with each of them,
#   cannot be merged, and is therefore in `.gitignore`.
# - **A second local store** keeps trials apart: `export MLFLOW_TRACKING_URI=sqlite:///other.db` before a command.
# - **A tracking server** keeps one store for many people and machines: start it with `make tracking-server`, and then
#   `export MLFLOW_TRACKING_URI=http://127.0.0.1:5000`. [Sharing](chapters/sharing.md) has it, and PostgreSQL, passwords
#   and what happens when a store is moved.
#
# Further chapters, each a notebook and a page of its own (`make chapters` runs them): [Many workers on one
# study](chapters/many_workers.md), [After deployment](chapters/after_deployment.md), [A server of your
# own](chapters/own_server.md), [Large data](chapters/large_data.md), [How fast it is](chapters/performance.md), and
# [What happens when …](chapters/failures.md), with every error that we know and what to do.
#
# ## How this page is made
#
# `make readme` copies the project into an empty folder, runs this notebook there with nbclient, and turns it into
# Markdown with nbconvert; what differs from run to run, such as IDs and times, is replaced. The pictures are taken by a
# browser (`make pictures`). A test compares page and notebook, so neither can change alone. In short:
#
# ```bash
# jupytext --to ipynb modeling.py
# jupyter nbconvert --to markdown --execute modeling.ipynb
# ```
#
# ## What is where
#
# | | |
# | --- | --- |
# | `modeling.py` | this notebook: change it, then `make scripts` |
# | `steps/` | the scripts, made from the notebook: never change them |
# | `chapters/` | further notebooks, and the pages made from them |
# | `config.py` | names, paths, thresholds |
# | `utils.py`, `data_files.py`, `servers.py` | helpers: runs and data sets; tables that you bring; starting servers |
# | `MLproject`, `conda.yaml`, `requirements.txt`, `constraints.txt` | commands and environment |
# | `mlproject_docker/`, `docker/` | images and compose files |
# | `notebook_tools/`, `benchmarks/`, `tests/` | makes scripts, pages and pictures; measures; checks (`make test`) |
#
# ## Start over
#
# All runs and models are in `mlflow.db` and `mlruns/`: remove both, and MLflow begins anew. `make clean` removes the
# environments too, and leaves the runs.
