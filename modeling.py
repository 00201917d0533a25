# ---
# jupyter:
#   jupytext:
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
# This notebook takes one XGBoost model through its whole life on one machine: it prepares the data, tunes, trains,
# registers and evaluates the model, lets others run all that as an MLflow Project, and serves the model in four ways.
# The data are scikit-learn's breast cancer measurements: 569 tumours, 30 numbers about each, and the question is
# whether a tumour is benign (1) or malignant (0). You know scikit-learn; you need to know nothing about MLflow.

# %% [markdown]
# MLflow keeps the books of an experiment. Whatever produced a model (data, parameters, code) and whatever came out of
# it (metrics, plots, the model itself) is stored in a **run**; runs are collected in an **experiment**; a model worth
# keeping becomes a **version** of a **registered model**.

# %% [markdown]
# ## Preparing the environment
#
# The shortest way, on Linux and macOS, needs Python 3.11, 3.12 or 3.13 and `make`. It makes a virtual environment in
# `.venv` and runs this notebook from top to bottom:
#
# ```bash
# make walkthrough
# ```
#
# With conda:
#
# ```bash
# conda env create -f conda.yaml
# conda activate mlflow-walkthrough
# ```
#
# With pip, in a virtual environment of your own:
#
# ```bash
# python -m venv .venv
# source .venv/bin/activate
# pip install -r requirements.txt
# ```
#
# On Windows the second line is `.venv\Scripts\activate`. Without `make`, `python -m notebook_tools.run` runs the
# notebook in the environment that is active.
#
# The notebook is kept as a Python file, `modeling.py`, because text can be reviewed and merged. Jupytext makes a
# notebook of it:
#
# ```bash
# jupytext --to ipynb modeling.py
# ```
#
# In JupyterLab there is no need to: right-click `modeling.py`, choose *Open With › Notebook*. The two files are
# paired (see `jupytext.toml`): what you change in one is saved to both. Choose *Run › Run All Cells*; nothing has to
# be started by hand.
#
# ![The notebook in JupyterLab](img/jupyterlab.png)

# %%
import os
import sys
from pathlib import Path

import mlflow
import pandas as pd
from IPython.display import display

import config
import processes
import utils

# Programs that MLflow starts for us must find this notebook's Python first.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

print(f"MLflow {mlflow.__version__}")

# %% [markdown]
# ## The MLflow UI
#
# Everything that we log can be looked at in the browser. Start the UI in a terminal, in the folder of this project,
# and open http://127.0.0.1:5000:
#
# ```bash
# mlflow ui --workers 1
# ```
#
# (`make ui` does the same from `.venv`. One worker process is enough for one reader and saves memory.)
#
# Nobody has to start a server to *log* something. By default MLflow 3 keeps its books in two places in the folder
# where the code runs: `mlflow.db`, an SQLite database of runs, parameters, metrics and registered models; and
# `mlruns/`, a folder for the files that belong to them. The UI reads both.
#
# On the start page choose *Model training* at the top left, because MLflow opens with its other half, *GenAI*. Our
# experiment is under *Recent Experiments*.
#
# ![The start page of the MLflow UI](img/mlflow_main.png)

# %%
mlflow.set_experiment(config.EXPERIMENT)
store = mlflow.get_tracking_uri()
print(store.replace(str(config.PROJECT_DIR), "(this folder)"))

# %% [markdown]
# ## Data preparation
#
# From here on, the cells that do the work carry a *tag*: the name of the step that they belong to. Later we collect
# the cells of each step into a script. A script needs arguments, a notebook does not; so lines that start with `#
# hide` are comments here and code in the script.

# %% tags=["data_preprocessing"]
# hide import argparse
import json
import tempfile
from pathlib import Path

import mlflow
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import config
import data_files
import utils
from errors import StepError

# %% [markdown]
# To work with data of your own, set `dataset` to the path of a CSV file. It needs a column `target` with two
# different values, and numbers in all other columns. Every later step then works on that data.

# %% tags=["data_preprocessing"]
test_size = config.TEST_SIZE
dataset = None
# hide parser = argparse.ArgumentParser(description="Split the data into a train and a test set and log both.")
# hide parser.add_argument("--test-size", type=float, default=config.TEST_SIZE, help="share of rows for testing")
# hide parser.add_argument("--dataset", type=utils.optional_path, help="CSV file in place of the breast cancer data")
# hide args = parser.parse_args()
# hide test_size, dataset = args.test_size, args.dataset

if not 0 < test_size < 1:
    raise StepError(f"test-size is {test_size}: give a share between 0 and 1, such as {config.TEST_SIZE}.")

# %% tags=["data_preprocessing"]
data = data_files.read_csv(dataset) if dataset else load_breast_cancer(as_frame=True).frame

# %% [markdown]
# The target becomes 0 and 1 if it is not already, and the features become floating point numbers, so that a model is
# never surprised by a missing value in a column of whole numbers. We add one feature of our own: the ratio of mean
# symmetry to mean texture.

# %% tags=["data_preprocessing"]
target = data.pop(config.TARGET)
classes = sorted(target.unique().tolist())
if len(classes) != 2:
    few = ", ".join(map(repr, classes[:5]))
    raise StepError(f"{dataset}: `{config.TARGET}` needs two different values, but has {len(classes)}: {few}")

data = utils.add_features(data_files.as_numbers(data, dataset))
data[config.TARGET] = (target == classes[1]).astype(int)

# %%
data[[*data.columns[:3], *data.columns[-3:]]].head()

# %% [markdown]
# The split is *stratified*: both sets have the same share of benign tumours. It is *seeded*: the same data always
# split the same way, so results can be compared.

# %% tags=["data_preprocessing"]
fewest = data[config.TARGET].value_counts().min()
if fewest * test_size < 1 or fewest * (1 - test_size) < 2 * config.N_FOLDS:
    raise StepError(
        f"{dataset or 'The data'}: the smaller class has {fewest} row(s), and test-size {test_size} leaves too few of "
        f"them for training with {config.N_FOLDS} folds or for testing. Give more data or another test-size."
    )
train, test = train_test_split(data, test_size=test_size, stratify=data[config.TARGET], random_state=config.SEED)
train, test = train.reset_index(drop=True), test.reset_index(drop=True)

# %% [markdown]
# Now the first run. Parameters are what we chose, metrics are numbers that came out, artifacts are files. The two
# data sets are logged as artifacts, so that later steps can load them, and as *dataset inputs*: MLflow then shows
# their columns and a digest that is the same for the same data.

# %% tags=["data_preprocessing"]
with utils.start_step("data_preprocessing") as run, tempfile.TemporaryDirectory() as folder:
    mlflow.log_params({"test_size": test_size, "seed": config.SEED, "data_source": dataset or "breast cancer"})
    mlflow.set_tag("classes", json.dumps(classes))
    mlflow.log_metrics({"full_rows": len(data), "train_rows": len(train), "test_rows": len(test)})
    for split, frame in {"train": train, "test": test}.items():
        path = Path(folder, f"{split}.csv")
        frame.to_csv(path, index=False)
        mlflow.log_artifact(path, "datasets")
        digest = utils.log_dataset(frame, run, split, context="preprocessing")
        config.logger.info(f"{split}: {len(frame)} rows, {frame.shape[1] - 1} features, digest {digest}")

# %%
pd.DataFrame({"rows": [len(train), len(test)], "benign": [train.target.mean(), test.target.mean()]}, ["train", "test"])

# %% [markdown]
# ## Hyperparameter tuning
#
# Which tree depth, which learning rate? Optuna makes a **trial** of one combination after the other and learns from
# the results where to look next. MLflow keeps each trial as a **nested run** of the tuning run.

# %% tags=["hyperparameters_tuning"]
# hide import argparse
import time

import mlflow
import xgboost as xgb
from mlflow.entities import Metric, Param
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

import config
import utils
from errors import StepError
from shared_study import SharedStudy

# %% tags=["hyperparameters_tuning"]
n_trials, data_run_id = config.N_TRIALS, None
storage, study_name, workers, dask_scheduler = None, None, 1, None
# hide parser = argparse.ArgumentParser(description="Search for good hyperparameters, one nested run a trial.")
# hide parser.add_argument("--n-trials", type=int, default=config.N_TRIALS, help="finished trials in the end")
# hide parser.add_argument("--data-run-id", help="run of the data preparation to use; the newest if not given")
# hide parser.add_argument("--storage", help="Optuna storage URL, or path of a journal file")
# hide parser.add_argument("--study-name", help="study to join; if not given, that of the data")
# hide parser.add_argument("--workers", type=int, default=1, help="how many processes make trials")
# hide parser.add_argument("--dask-scheduler", help="tcp://HOST:PORT of a cluster to place them on")
# hide args = parser.parse_args()
# hide n_trials, data_run_id = args.n_trials, args.data_run_id
# hide storage, study_name, workers, dask_scheduler = args.storage, args.study_name, args.workers, args.dask_scheduler

if n_trials < 1:
    raise StepError(f"n-trials is {n_trials}: give a whole number of at least 1.")
if workers < 1:
    raise StepError(f"workers is {workers}: give a whole number of at least 1.")

# %% [markdown]
# A step finds the results of an earlier step in MLflow: the newest finished run that carries the step's tag, or the
# one whose ID is given. Steps share no variables and no files, which is why each of them can also run alone, on
# another day or another machine.

# %% tags=["hyperparameters_tuning"]
data_run = utils.latest_run("data_preprocessing", data_run_id)
train = utils.load_split(data_run, "train")
dtrain = xgb.DMatrix(train.drop(columns=config.TARGET), label=train[config.TARGET])


# %% [markdown]
# These are the parameters of a trial and the ranges to search, two of them on a logarithmic scale:


# %% tags=["hyperparameters_tuning"]
def suggest(trial):
    return {
        "max_depth": trial.suggest_int("max_depth", 2, 8),
        "alpha": trial.suggest_float("alpha", 0.001, 0.05),
        "learning_rate": trial.suggest_float("learning_rate", 0.005, 0.5, log=True),
        "num_boost_round": trial.suggest_int("num_boost_round", 30, 300),
    }


# %% [markdown]
# One trial: Optuna suggests the parameters, XGBoost cross-validates them on 3 folds of the training data, and the
# accuracy on the held-out folds after the last boosting round is the result. Each round has two metrics. Writing them
# one by one would take longer than the training itself, so they go to MLflow in a single batch. (`utils.open_run` is
# `mlflow.start_run` which also writes down the end of the run when it is interrupted.)


# %% tags=["hyperparameters_tuning"]
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


# %% [markdown]
# The search itself. The parent run gets the best parameters and their accuracy, two plots of the search, and *system
# metrics*: what processor and memory were doing meanwhile, once a second.
#
# Optuna keeps the study in a file, `optuna.journal`. If this cell is interrupted, run it again: finished trials are
# not repeated. With `workers = 2` two processes share the trials. The module `shared_study.py` does the book-keeping
# for that; there is more about it under *Many workers, one study*.

# %% tags=["hyperparameters_tuning"]
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

# %%
study.trials_dataframe(attrs=("number", "value", "params")).sort_values("value", ascending=False)

# %% [markdown]
# ## Reading the results in the UI
#
# In the UI, open the experiment. Each step is a run; unfold `Hyperparameters_Search`, and there are the trials, with
# what they tried and how accurate that was. (*Columns* chooses what the list shows.)
#
# ![The list of runs, with the trials unfolded](img/runs_list.png)
#
# The chart view draws one line a trial: with a small learning rate `auc` rises and `error` falls slowly; with a large
# one both are near their end after a few rounds.
#
# ![Charts of the trials' metrics, round by round](img/runs_charts.png)
#
# Select the trials and choose *Compare*. Each line is a trial again and runs through its parameters to its accuracy;
# red is better. Where do the best trials run that the blue ones do not?
#
# ![The trials compared](img/compare_runs_counter_plot.png)
#
# The tab *System metrics* of the tuning run shows what the machine was doing: how busy its processor was, and how
# much of its memory was in use.
#
# ![System metrics of the tuning run](img/system_metrics.png)
#
# Whatever the UI shows, code can ask for too. These are the three best trials, found with a search in MLflow:

# %%
trials = mlflow.search_runs(
    filter_string=f"tags.mlflow.parentRunId = '{run.info.run_id}'", order_by=["metrics.accuracy DESC"], max_results=3
)
trials[["tags.mlflow.runName", "metrics.accuracy", "metrics.auc", "params.max_depth", "params.num_boost_round"]]

# %% [markdown]
# ## Training and registering the model
#
# With the best parameters we train the final model, in the two forms that XGBoost offers: a `Booster`, its own, and
# an `XGBClassifier`, which follows scikit-learn. Both are registered, so that we can compare later how they are used.

# %% tags=["model_training"]
# hide import argparse

import mlflow
import xgboost as xgb
from mlflow.models import infer_signature
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split

import config
import utils

data_run_id, tuning_run_id = None, None
# hide parser = argparse.ArgumentParser(description="Train and register the Booster and the classifier.")
# hide parser.add_argument("--data-run-id", help="run of the data preparation to use; the newest if not given")
# hide parser.add_argument("--tuning-run-id", help="tuning run to use; the newest on these data if not given")
# hide args = parser.parse_args()
# hide data_run_id, tuning_run_id = args.data_run_id, args.tuning_run_id

# %% [markdown]
# The tuning run must be one on this very data, hence the tag `data_run_id` in the search. MLflow stores parameters as
# text, so each is turned back into a number by name.

# %% tags=["model_training"]
data_run = utils.latest_run("data_preprocessing", data_run_id)
tuning_run = utils.latest_run("hyperparameters_tuning", tuning_run_id, data_run_id=data_run.info.run_id)
best = tuning_run.data.params
params = {
    "max_depth": int(best["max_depth"]),
    "alpha": float(best["alpha"]),
    "learning_rate": float(best["learning_rate"]),
}
num_boost_round = int(best["num_boost_round"])

# %% [markdown]
# Boosting stops early when it no longer helps. To notice that, it needs data that it does not train on: a part of the
# *training* data, never the test set, which must stay unseen until the evaluation.

# %% tags=["model_training"]
train, test = utils.load_split(data_run, "train"), utils.load_split(data_run, "test")
features, target = train.drop(columns=config.TARGET), train[config.TARGET]
fit_features, valid_features, fit_target, valid_target = train_test_split(
    features, target, test_size=config.VALIDATION_SIZE, stratify=target, random_state=config.SEED
)
dfit = xgb.DMatrix(fit_features, label=fit_target)
dvalid = xgb.DMatrix(valid_features, label=valid_target)

# %% [markdown]
# `autolog` makes MLflow watch XGBoost: it logs the parameters, the metrics of every round and the importance of the
# features by itself. We log the models ourselves, because we have more to say about them:
#
# - the **signature**, the columns and types that the model takes and returns, which MLflow checks at every
#   prediction,
# - an **input example**,
# - the **requirements** that it needs to run; MLflow could find them out itself, but takes many seconds to do so,
# - the name under which it is **registered**; each training makes a new version.
#
# The run also says what made it: the tags name the data and the tuning run, their digests, the script and the commit.

# %% tags=["model_training"]
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

# %% [markdown]
# A logged model is a folder. Its file `MLmodel` says how to load it: a model can have several **flavours**, here
# `xgboost`, which gives back the XGBoost object, and `python_function`, which gives every kind of model the same
# `predict`.

# %%
model_uri = f"models:/{config.CLASSIFIER_MODEL}/{classifier_info.registered_model_version}"
print(Path(mlflow.artifacts.download_artifacts(f"{model_uri}/MLmodel")).read_text())

# %% [markdown]
# The UI shows the same file, and beside it the others: the model itself (`model.ubj`), its requirements and the input
# example.
#
# ![The files of the model in the UI](img/model_artifacts.png)
#
# It also shows what autologging took down. The loss keeps falling on the data that the Booster was trained on, while
# on the validation data it turns after some rounds: this is why training stops early.
#
# ![The metrics of the training run](img/model_metrics.png)

# %% [markdown]
# ## Evaluating the model
#
# Training made a new version of `CancerModel`. Is it good enough to be used? The evaluation runs on the test set, or
# on any other CSV file with the same columns (set `eval_dataset`).

# %% tags=["data_evaluation"]
# hide import argparse
import json

import mlflow
from mlflow.models import MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

import config
import data_files
import utils
from errors import StepError

eval_dataset, training_run_id = None, None
# hide parser = argparse.ArgumentParser(description="Evaluate the newest model and let it become the champion.")
# hide parser.add_argument("--eval-dataset", type=utils.optional_path, help="CSV file in place of the test set")
# hide parser.add_argument("--training-run-id", help="training run with the model; the newest if not given")
# hide args = parser.parse_args()
# hide eval_dataset, training_run_id = args.eval_dataset, args.training_run_id

# %% [markdown]
# We ask for the version that the newest training run registered, and for the data that this training run used: not
# just for the last version and the last data, which may belong to something else.

# %% tags=["data_evaluation"]
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
version = utils.registered_version(config.CLASSIFIER_MODEL, training_run)
model_uri = f"models:/{config.CLASSIFIER_MODEL}/{version}"
columns = mlflow.models.get_model_info(model_uri).signature.inputs.input_names()

# %% [markdown]
# A file from somewhere else is read with care. The model's signature says which columns are needed; more than those
# do no harm, fewer do.

# %% tags=["data_evaluation"]
if eval_dataset:
    frame = data_files.read_csv(eval_dataset)
    target = frame.pop(config.TARGET)
    needed = frame.columns.isin(columns)
    features = utils.add_features(data_files.as_numbers(frame.loc[:, needed], eval_dataset))
    missing = [name for name in columns if name not in features]
    if missing:
        raise StepError(f"{eval_dataset}: lacks the column(s) {', '.join(missing)}. Add them.")
    classes = json.loads(data_run.data.tags["classes"])
    if sorted(target.unique().tolist()) != classes:
        raise StepError(f"{eval_dataset}: `{config.TARGET}` must hold both {classes[0]!r} and {classes[1]!r}.")
    if not needed.all():
        config.logger.warning(f"{eval_dataset}: ignoring the column(s) {', '.join(frame.columns[~needed])}")
    frame = features[columns].assign(**{config.TARGET: (target == classes[1]).astype(int)}).reset_index(drop=True)
else:
    frame = utils.load_split(data_run, "test")
source = eval_dataset or f"runs:/{data_run.info.run_id}/datasets/test.csv"
evaluation_data = utils.as_dataset(frame, source, "evaluation" if eval_dataset else "test")

# %% [markdown]
# `mlflow.models.evaluate` computes the usual metrics of a classifier, draws the usual plots, and explains the
# predictions with SHAP values. If there is a champion already, it is evaluated on the same data, in a nested run.


# %% tags=["data_evaluation"]
def evaluate(uri, explain):
    options = {"label_list": [0, 1], "pos_label": 1, "log_model_explainability": explain}
    return mlflow.models.evaluate(uri, evaluation_data, model_type="classifier", evaluator_config=options)


client = mlflow.MlflowClient()
champion = utils.champion()
champion_uri = f"models:/{config.CLASSIFIER_MODEL}/{champion}"
champion_result = None

with utils.start_step("data_evaluation") as run:
    mlflow.set_tags({"data_run_id": data_run.info.run_id, "training_run_id": training_run.info.run_id})
    mlflow.set_tags({"model_version": version, "eval_dataset": eval_dataset or "test set"})
    empty = frame.columns[frame.isna().all()]
    if len(empty):
        config.logger.warning(f"There will be no SHAP plots, because there is not one value of {', '.join(empty)}.")
    result = evaluate(model_uri, explain=not len(empty))
    if champion and champion != version:
        needed = mlflow.models.get_model_info(champion_uri).signature.inputs.input_names()
        if set(needed) <= set(frame):
            with utils.open_run(run_name=f"Champion_Version_{champion}", nested=True):
                champion_result = evaluate(champion_uri, explain=False)
        else:
            config.logger.warning(f"The champion, version {champion}, needs other columns and cannot be compared.")

# %%
pd.Series(result.metrics, name="value").to_frame()

# %%
for plot in ["roc_curve_plot", "precision_recall_curve_plot", "confusion_matrix", "shap_beeswarm_plot"]:
    display(result.artifacts[plot].content)

# %% [markdown]
# The plots are artifacts of the run. In the last one each dot is a tumour: its colour says how large the feature is,
# its place how far that pushes the answer towards benign (right) or malignant (left).
#
# ![The SHAP plot in the UI](img/shap_plot.png)

# %% [markdown]
# ## The gate
#
# A registered version is not used by anyone yet. Users load the version that bears the **alias** `champion`, and the
# alias moves to our new version only if it reaches every threshold in `config.py`, checked by MLflow, and if the
# present champion is not better on the same data. One threshold is the number of examples, since on a handful of them
# a poor model is often right by chance.

# %% tags=["data_evaluation"]
thresholds = {
    name: MetricThreshold(threshold=least, greater_is_better=True) for name, least in config.THRESHOLDS.items()
}
if champion_result:
    thresholds[config.CHAMPION_METRIC] = MetricThreshold(
        threshold=config.THRESHOLDS[config.CHAMPION_METRIC], min_relative_change=0.0, greater_is_better=True
    )

try:
    mlflow.validate_evaluation_results(thresholds, result, champion_result)
    if utils.champion() != champion:
        raise ModelValidationFailedException("meanwhile another version has become it. Evaluate again.")
except ModelValidationFailedException as failure:
    client.set_tag(run.info.run_id, "gate", "failed")
    config.logger.warning(f"Version {version} does not become the champion: {failure}")
else:
    client.set_tag(run.info.run_id, "gate", "passed")
    client.set_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION, version)
    config.logger.info(f"Version {version} of {config.CLASSIFIER_MODEL} is the champion.")

# %% [markdown]
# Whoever uses the model asks for the champion, and never has to know its number:

# %%
model = mlflow.pyfunc.load_model(f"models:/{config.CLASSIFIER_MODEL}@{config.CHAMPION}")
model.predict(frame.drop(columns=config.TARGET).head())

# %% [markdown]
# ## MLflow Projects
#
# So far everything happened in this notebook. A *project* is code that others can run without reading it first: a
# file `MLproject` that names its commands (**entry points**) and their parameters, and the environment that they
# need.
#
# ### From cells to scripts
#
# The commands of our project are scripts, and the scripts are our tagged cells. Nothing is written twice: change a
# cell, extract again, and the script follows.

# %%
# !python -m notebook_tools.extract

# %%
print(Path("model_training.py").read_text()[:900], "…")

# %% [markdown]
# ### The environment
#
# The environment should be the one in which the code was tried out, but *exporting* it disappoints. `conda env
# export` writes down each package with its build number, which exists for one operating system only; with
# `--from-history` it forgets what pip installed. `pip freeze` lists everything that happens to be installed, and does
# not tell what you need from what came along.
#
# So we keep two short files by hand and let a tool make the third:
#
# - `requirements.txt`: the packages that we import, with their versions.
# - `conda.yaml`: the Python version, and a reference to `requirements.txt`.
# - `constraints.txt`: the version of every package below those, for all platforms, made by `make constraints`.

# %%
print(Path("conda.yaml").read_text())

# %% [markdown]
# ### The MLproject file

# %%
print(Path("MLproject").read_text())

# %% [markdown]
# ### Running the entry points
#
# In a terminal, one step is run like this:
#
# ```bash
# mlflow run . -e hyperparameters-tuning -P n-trials=20 --env-manager local
# ```
#
# `--env-manager local` means: in the environment that is active now. Without it MLflow makes an environment from
# `conda.yaml` first. In place of `.` a git URL can stand, so a colleague needs no clone: MLflow fetches the project
# and runs it, and leaves the results in the folder in which the colleague is.
#
# The entry point `main` is the pipeline: all steps in order, each as an MLflow run of its own below that of the
# pipeline. It too is made of cells of this notebook:

# %% tags=["pipeline"]
# hide import argparse

import mlflow
from mlflow.exceptions import ExecutionException

import config
import utils
from errors import StepError

test_size, n_trials, dataset = config.TEST_SIZE, config.N_TRIALS, None
# hide parser = argparse.ArgumentParser(description="Run all steps in order, each with `mlflow run`.")
# hide parser.add_argument("--test-size", type=float, default=config.TEST_SIZE, help="share of rows for testing")
# hide parser.add_argument("--n-trials", type=int, default=config.N_TRIALS, help="how many combinations to try")
# hide parser.add_argument("--dataset", type=utils.optional_path, help="CSV file in place of the breast cancer data")
# hide args = parser.parse_args()
# hide test_size, n_trials, dataset = args.test_size, args.n_trials, args.dataset

# A parameter that names a step stands for the ID of its run here, so that two pipelines at a time do not mix.
steps = {
    "data-preprocessing": {"test-size": test_size, **({"dataset": dataset} if dataset else {})},
    "hyperparameters-tuning": {"n-trials": n_trials, "data-run-id": "data-preprocessing"},
    "model-training": {"data-run-id": "data-preprocessing", "tuning-run-id": "hyperparameters-tuning"},
    "data-evaluation": {"training-run-id": "model-training"},
    "flavour-comparison": {"training-run-id": "model-training"},
    "model-customization": {"training-run-id": "model-training"},
    "model-serving": {},
}
run_ids = {}

# %% tags=["pipeline"]
with utils.start_step("pipeline") as run:
    for entry_point, parameters in steps.items():
        if entry_point == "model-serving" and not utils.champion():
            config.logger.warning("No model has reached the thresholds yet: there is no champion to serve.")
            continue
        try:
            step_run = mlflow.run(
                str(config.PROJECT_DIR),
                entry_point,
                parameters={name: run_ids.get(value, value) for name, value in parameters.items()},
                experiment_id=run.info.experiment_id,
                env_manager="local",
            )
            run_ids[entry_point] = step_run.run_id
        except ExecutionException:
            raise StepError(f"The step {entry_point} failed, for the reason given above.") from None

# %% [markdown]
# The same in an environment of its own: MLflow makes it from `conda.yaml`, with conda where there is conda and with
# `uv` where there is not, and keeps it for the next time.

# %%
import shutil

mlflow.run(
    ".",
    "main",
    parameters={"n-trials": 3},
    experiment_name=config.EXPERIMENT,
    env_manager="conda" if shutil.which("conda") else "uv",
).get_status()

# %% [markdown]
# Each run made a new version of the model. On the same data the same parameters gave the same model, so no champion
# was better than its successor, and the alias moved along:

# %%
versions = client.search_model_versions(f"name = '{config.CLASSIFIER_MODEL}'")
aliases = client.get_registered_model(config.CLASSIFIER_MODEL).aliases
print("versions:", sorted(int(version.version) for version in versions), "aliases:", aliases)

# %% [markdown]
# ## Flavours: the same model, four ways to call it
#
# Both registered models can be loaded in two ways: as what they are (`mlflow.xgboost`), or as a `python_function`
# (`mlflow.pyfunc`), which is called alike for every kind of model.

# %% tags=["flavour_comparison"]
# hide import argparse
import time

import matplotlib.pyplot as plt
import mlflow
import pandas as pd
import xgboost as xgb

import config
import utils

training_run_id = None
# hide parser = argparse.ArgumentParser(description="Compare what the flavours take, return, refuse and cost.")
# hide parser.add_argument("--training-run-id", help="training run with the models; the newest if not given")
# hide training_run_id = parser.parse_args().training_run_id

# %% tags=["flavour_comparison"]
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
test = utils.load_split(data_run, "test").drop(columns=config.TARGET).head(config.BATCH_ROWS)

booster_uri, classifier_uri = [
    f"models:/{name}/{utils.registered_version(name, training_run)}"
    for name in [config.BOOSTER_MODEL, config.CLASSIFIER_MODEL]
]
booster = mlflow.xgboost.load_model(booster_uri)
classifier = mlflow.xgboost.load_model(classifier_uri)
booster_pyfunc = mlflow.pyfunc.load_model(booster_uri)
classifier_pyfunc = mlflow.pyfunc.load_model(classifier_uri)

# %% [markdown]
# The `Booster` wants a `DMatrix`, XGBoost's own form of data, and answers with the probability of class 1. The
# `XGBClassifier` wants a DataFrame and answers with classes. Through `pyfunc` both take a DataFrame, and each still
# gives its own kind of answer:

# %% tags=["flavour_comparison"]
xgb.set_config(nthread=1)  # for few rows, threads cost more than they bring
dmatrix = xgb.DMatrix(test)
calls = {
    "Booster": lambda: booster.predict(dmatrix),
    "XGBClassifier": lambda: classifier.predict(test),
    "Booster as pyfunc": lambda: booster_pyfunc.predict(test),
    "XGBClassifier as pyfunc": lambda: classifier_pyfunc.predict(test),
}
answers = {name: call() for name, call in calls.items()}

# %%
pd.DataFrame(answers).head()

# %% [markdown]
# What does each refuse? We give each of them wrong input and keep the error that it raises. A `pyfunc` model checks
# its input against the signature: it names the column that is missing and does not care about the order of columns.

# %% tags=["flavour_comparison"]
wrong_calls = {
    ("Booster", "a DataFrame"): lambda: booster.predict(test),
    ("Booster", "a missing column"): lambda: booster.predict(xgb.DMatrix(test.iloc[:, 1:])),
    ("XGBClassifier", "a missing column"): lambda: classifier.predict(test.iloc[:, 1:]),
    ("XGBClassifier", "columns in another order"): lambda: classifier.predict(test.iloc[:, ::-1]),
    ("XGBClassifier", "text"): lambda: classifier.predict(test.astype(str)),
    ("Booster as pyfunc", "a DMatrix"): lambda: booster_pyfunc.predict(dmatrix),
    ("XGBClassifier as pyfunc", "a missing column"): lambda: classifier_pyfunc.predict(test.iloc[:, 1:]),
    ("XGBClassifier as pyfunc", "text"): lambda: classifier_pyfunc.predict(test.astype(str)),
    ("XGBClassifier as pyfunc", "columns in another order"): lambda: classifier_pyfunc.predict(test.iloc[:, ::-1]),
}
refusals = []
for (name, given), call in wrong_calls.items():
    try:
        call()
        refusal = "accepted"
    except Exception as error:
        reason = str(error).split("Error: ")[-1].replace(str(list(test.columns)), "[…]")  # the reason without the data
        refusal = f"{type(error).__name__}: {' '.join(reason.split())[:80]}"
    refusals.append({"flavour": name, "given": given, "result": refusal})
refusals = pd.DataFrame(refusals)
refused = refusals[refusals.result != "accepted"].groupby("flavour").given.agg(", ".join)

# %%
with pd.option_context("display.max_colwidth", None):
    display(refusals)

# %% [markdown]
# Who needs what only XGBoost's own object can do, such as the importance of features, reaches it through any `pyfunc`
# model with `get_raw_model()`:

# %%
inner = classifier_pyfunc.get_raw_model().get_booster()
pd.Series(inner.get_score(importance_type="gain"), name="gain").nlargest(5).to_frame()

# %% [markdown]
# All in one table:

# %% tags=["flavour_comparison"]
flavours = pd.DataFrame(
    {
        "loaded with": ["mlflow.xgboost", "mlflow.xgboost", "mlflow.pyfunc", "mlflow.pyfunc"],
        "takes": ["DMatrix", "DataFrame", "DataFrame", "DataFrame"],
        "returns": [f"{answer.dtype}, such as {answer[0]:.3g}" for answer in answers.values()],
        "refuses": [refused[name] for name in calls],
    },
    index=pd.Index(calls, name="flavour"),
)

# %%
flavours

# %% [markdown]
# ## What the flavours cost
#
# We time the four, for one row and for the whole test set (or 1,000 rows of it). Each is called once before (warm), and
# then they take turns, so that a busy moment of the machine hits all of them alike. Making the `DMatrix` belongs to the
# price of the Booster.


# %% tags=["flavour_comparison"]
def time_calls(frame, repeats=50):
    timed = {
        "Booster": lambda: booster.predict(xgb.DMatrix(frame)),
        "XGBClassifier": lambda: classifier.predict(frame),
        "Booster as pyfunc": lambda: booster_pyfunc.predict(frame),
        "XGBClassifier as pyfunc": lambda: classifier_pyfunc.predict(frame),
    }
    milliseconds = {name: [] for name in timed}
    for repeat in range(repeats + 1):
        for name, call in timed.items():
            start = time.perf_counter()
            call()
            if repeat:  # the first is the warm-up
                milliseconds[name].append(1000 * (time.perf_counter() - start))
    quartiles = pd.DataFrame(milliseconds).quantile([0.25, 0.5, 0.75]).T
    return pd.DataFrame(
        {
            "rows": len(frame),
            "median ms": quartiles[0.5],
            "spread ms": quartiles[0.75] - quartiles[0.25],
            "ratio to fastest": quartiles[0.5] / quartiles[0.5].min(),
        }
    )


latency = pd.concat([time_calls(test.head(1)), time_calls(test)]).rename_axis("flavour")

# %% tags=["volatile"]
latency.round(2)

# %% tags=["flavour_comparison", "volatile"]
figure, axes = plt.subplots(1, 2, figsize=(10, 3), sharey=True, layout="constrained")
for axis, (rows, part) in zip(axes, latency.groupby("rows"), strict=True):
    axis.barh(part.index, part["median ms"], xerr=part["spread ms"])
    axis.set(title=f"{rows} row(s)", xlabel="milliseconds a call (median, interquartile range)")

# %% tags=["flavour_comparison"]
with utils.start_step("flavour_comparison") as run:
    mlflow.set_tags({"data_run_id": data_run.info.run_id, "training_run_id": training_run.info.run_id})
    mlflow.log_figure(figure, "latency.png")
    for name, table in {"flavours": flavours, "refusals": refusals, "latency": latency}.items():
        mlflow.log_table(table.reset_index(), f"{name}.json")
    for (name, row), rows in zip(latency.iterrows(), latency.rows, strict=True):
        mlflow.log_metric(f"ms_{rows}_rows/{name}", row["median ms"])

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
# set, compare its answers with those of the same model in this process, and stop it, whatever happens. Rows are sent
# in the form `dataframe_split`: the names of the columns once, then the rows, a thousand at most in one request.

# %% tags=["model_serving"]
# hide import argparse

import mlflow
import numpy as np
import requests
from mlflow.exceptions import MlflowException

import config
import processes
import utils
from errors import StepError

model_uri = config.CHAMPION_URI
port = 0
# hide parser = argparse.ArgumentParser(description="Serve a registered model, query it and compare its answers.")
# hide parser.add_argument("--model-uri", default=config.CHAMPION_URI, help="the model, such as models:/NAME/VERSION")
# hide parser.add_argument("--port", type=int, default=0, help="port of the server; 0 takes a free one")
# hide args = parser.parse_args()
# hide model_uri, port = args.model_uri, args.port

if not 0 <= port < 65536:
    raise StepError(f"port is {port}: give a number between 1 and 65535, or 0 for a free port.")

# %% tags=["model_serving"]
try:
    model_info = mlflow.models.get_model_info(model_uri)
    training_run = mlflow.get_run(model_info.run_id)
except (MlflowException, OSError) as error:
    reason = str(error).splitlines()[0]
    raise StepError(f"{model_uri}: there is no such model to serve: {reason} Make one: mlflow run . -e main") from None
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
test = utils.load_split(data_run, "test").drop(columns=config.TARGET)

# %% tags=["model_serving"]
port = port or processes.free_port()
url = f"http://127.0.0.1:{port}"
command = ["mlflow", "models", "serve", "-m", model_uri, "--env-manager", "local", "--host", "127.0.0.1"]

with utils.start_step("model_serving") as run:
    mlflow.log_params({"model_uri": model_uri, "rows": len(test)})
    predictions = []
    with processes.server([*command, "--port", str(port)], f"{url}/health"):
        for start in range(0, len(test), config.BATCH_ROWS):
            rows = test.iloc[start : start + config.BATCH_ROWS]
            response = requests.post(f"{url}/invocations", json=utils.as_request(rows), timeout=60)
            response.raise_for_status()
            predictions += response.json()["predictions"]
    served = np.array(predictions)
    difference = float(np.abs(served - mlflow.pyfunc.load_model(model_uri).predict(test)).max())
    mlflow.log_metric("largest_difference", difference)
    if difference > 1e-6:
        raise StepError(f"{model_uri}: the server's answers differ from the model's by up to {difference}.")
config.logger.info(f"{model_uri}: {len(test)} rows served, largest difference {difference:.1g}")

# %%
served[:5]

# %% [markdown]
# ## Serving with MLServer
#
# MLServer is a model server of its own, with a protocol (V2) that other servers speak too. It reads the model's
# address from `model-settings.json`. Its development has come to rest and it needs Python 3.11 or 3.12 and older
# packages than ours, so it lives in an environment of its own. This makes the environment and starts the server on
# port 8080 (without `make`, on Windows for instance, use the container below):
#
# ```bash
# make mlserve
# ```

# %%
print(Path("docker/mlserve/model-settings.json").read_text())

# %%
# !uv venv --quiet --allow-existing --python ">=3.11,<3.13" docker/mlserve/.venv
# !uv pip install --quiet --python docker/mlserve/.venv -r docker/mlserve/requirements.txt

# %%
mlserver_ports = {f"MLSERVER_{name}_PORT": str(processes.free_port()) for name in ["HTTP", "GRPC", "METRICS"]}
mlserver_url = f"http://127.0.0.1:{mlserver_ports['MLSERVER_HTTP_PORT']}"
mlserver_program = f"docker/mlserve/.venv/{'Scripts' if os.name == 'nt' else 'bin'}/mlserver"


def mlserver(folder):
    return processes.server(
        [mlserver_program, "start", str(folder)],
        f"{mlserver_url}/v2/models/cancer-model/ready",
        MLFLOW_TRACKING_URI=store,
        MLSERVER_HOST="127.0.0.1",
        **mlserver_ports,
    )


# %% [markdown]
# The same rows go to MLflow's own address `/invocations`, and to that of the V2 protocol, which wants each column as
# a tensor with a name, a shape and a type. The server also describes itself (`/v2/models/cancer-model/docs` is a page
# to try it out) and counts its work for a monitoring system (`/metrics`).

# %%
v2_request = {
    "parameters": {"content_type": "pd"},
    "inputs": [
        {"name": name, "shape": [len(test), 1], "datatype": "FP64", "data": column.tolist()}
        for name, column in test.items()
    ],
}
with mlserver("docker/mlserve"):
    rest = requests.post(f"{mlserver_url}/invocations", json=utils.as_request(test), timeout=60).json()
    v2 = requests.post(f"{mlserver_url}/v2/models/cancer-model/infer", json=v2_request, timeout=60).json()
    openapi = requests.get(f"{mlserver_url}/v2/models/cancer-model/docs/dataplane.json", timeout=60).json()
    metrics_url = f"http://127.0.0.1:{mlserver_ports['MLSERVER_METRICS_PORT']}/metrics"
    metrics = requests.get(metrics_url, timeout=60).text

print("/invocations gives the same:", rest["predictions"] == served.tolist())
print("V2 gives the same:", v2["outputs"][0]["data"] == served.tolist())
print("described:", len(openapi["paths"]), "addresses, such as", "/v2/models/cancer-model/infer")
print("counted:", *[line for line in metrics.splitlines() if line.startswith("model_infer_request_success_total")])

# %% [markdown]
# The page `/v2/models/cancer-model/docs` lists the addresses of the model, with a form to try each of them:
#
# ![The model's page in MLServer](img/mlserver.png)
#
# Know one difference: where `mlflow models serve` answers a caller's mistake with status 400 and a reason, MLServer
# answers some of them, such as broken JSON, with status 500 and *Internal Server Error*. (With `debug` on, its default,
# it would answer them with a traceback, which is for us and not for callers.)

# %% [markdown]
# ## A custom model
#
# A server that answers with classes hides how sure the model is. With a model of our own we decide what goes in and
# out. A *model from code* is a Python file that MLflow stores and runs again when the model is loaded; nothing is
# pickled. This one has the classifier as its artifact, answers with both probabilities, refuses input that cannot be
# right, and logs each request without the values in it, since those belong to a patient.

# %% tags=["custom_model"]
import time

import mlflow
import numpy as np
import pandas as pd
from loguru import logger
from mlflow.exceptions import MlflowException


class CancerProbability(mlflow.pyfunc.PythonModel):
    """Answers with the probabilities of both classes."""

    def load_context(self, context):
        """Load the classifier when the server starts.

        Args:
            context: What MLflow stored with the model: `artifacts["classifier"]` is the classifier's folder.
        """
        self.classifier = mlflow.xgboost.load_model(context.artifacts["classifier"])

    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Predict probabilities.

        Args:
            context: As above.
            model_input: n rows of features, of the columns that the classifier was trained on.
            params: Not used.

        Returns:
            An array of shape (n, 2): the probabilities of class 0 and class 1.

        Raises:
            MlflowException: There are no rows, or a value is infinite or too large; a server answers with status 400.
        """
        if model_input.empty:
            raise MlflowException.invalid_parameter_value("There are no rows to predict.")
        # XGBoost computes with numbers of single precision, and takes larger ones for infinite without a word
        infinite = model_input.columns[(model_input.abs() > np.finfo(np.float32).max).any()]
        if len(infinite):
            raise MlflowException.invalid_parameter_value(f"Infinite or too large values in: {', '.join(infinite)}")
        start = time.perf_counter()
        probabilities = self.classifier.predict_proba(model_input)
        logger.info("{} row(s) in {:.1f} ms", len(model_input), 1000 * (time.perf_counter() - start))
        return probabilities


mlflow.models.set_model(CancerProbability())

# %% [markdown]
# The file must be there before it can be logged, so we extract this cell first.

# %%
# !python -m notebook_tools.extract custom_model

# %% tags=["model_customization"]
# hide import argparse

import mlflow
from mlflow.models import infer_signature

import config
import utils

training_run_id = None
# hide parser = argparse.ArgumentParser(description="Register a model that answers with probabilities.")
# hide parser.add_argument("--training-run-id", help="training run with the classifier; the newest if not given")
# hide training_run_id = parser.parse_args().training_run_id

# %% tags=["model_customization"]
training_run = utils.latest_run("model_training", training_run_id)
classifier_uri = f"models:/{config.CLASSIFIER_MODEL}/{utils.registered_version(config.CLASSIFIER_MODEL, training_run)}"
loaded = mlflow.pyfunc.load_model(classifier_uri)
example = loaded.input_example
probabilities = loaded.get_raw_model().predict_proba(example)

with utils.start_step("model_customization") as run:
    mlflow.set_tags({"data_run_id": training_run.data.tags["data_run_id"], "training_run_id": training_run.info.run_id})
    custom_info = mlflow.pyfunc.log_model(
        name="custom",
        python_model=str(config.PROJECT_DIR / "custom_model.py"),
        artifacts={"classifier": classifier_uri},
        registered_model_name=config.CUSTOM_MODEL,
        signature=infer_signature(example, probabilities),
        input_example=example,
        pip_requirements=utils.pinned("mlflow", "xgboost", "scikit-learn", "pandas", "loguru"),
    )
config.logger.info(f"registered {config.CUSTOM_MODEL} version {custom_info.registered_model_version}")

# %% [markdown]
# Its answers are those of the classifier's `predict_proba`:

# %%
import tempfile

custom_uri = f"models:/{config.CUSTOM_MODEL}/{custom_info.registered_model_version}"
custom = mlflow.pyfunc.load_model(custom_uri)
pd.DataFrame({"custom model": custom.predict(example)[:, 1], "classifier": probabilities[:, 1]})

# %% [markdown]
# `mlflow models serve` serves it like any other model. Wrong input is answered with status 400 and a reason:

# %%
custom_command = ["mlflow", "models", "serve", "-m", custom_uri, "--env-manager", "local", "--host", "127.0.0.1"]
with processes.server([*custom_command, "--port", str(port)], f"{url}/health") as log:
    response = requests.post(f"{url}/invocations", json=utils.as_request(test), timeout=60)
    for wrong in [test.head(1).drop(columns="mean area"), test.head(0)]:
        refusal = requests.post(f"{url}/invocations", json=utils.as_request(wrong), timeout=60)
        print(refusal.status_code, refusal.json()["message"].split("Error: ")[-1])
    request_log = [line for line in log.read_text().splitlines() if "row(s)" in line]

served_probabilities = np.array(response.json()["predictions"])
print("like predict_proba:", np.allclose(served_probabilities, classifier.predict_proba(test), atol=1e-6))

# %% tags=["volatile"]
print(*request_log, sep="\n")

# %% [markdown]
# To let MLServer serve this model in place of the classifier, one line of `model-settings.json` changes. (To serve a
# newer version of the *same* model nothing changes at all: the alias moves, and the server is started again.)

# %%
settings = json.loads(Path("docker/mlserve/model-settings.json").read_text())
settings["parameters"]["uri"] = custom_uri
with tempfile.TemporaryDirectory() as folder:
    shutil.copy("docker/mlserve/settings.json", folder)
    Path(folder, "model-settings.json").write_text(json.dumps(settings))
    with mlserver(folder):
        response = requests.post(f"{mlserver_url}/invocations", json=utils.as_request(test), timeout=60)

print("like predict_proba:", np.allclose(response.json()["predictions"], classifier.predict_proba(test), atol=1e-6))


# %% [markdown]
# ## Containers
#
# A container carries the environment along: nothing but Docker with its Compose plugin is needed on the machine that
# runs it. There are two images, one with the steps and one with MLServer. In the folder of the project, the first of
# these commands runs the whole pipeline, the second one step; what follows the name of the step goes to `mlflow run`:
#
# ```bash
# docker compose -f mlproject_docker/docker-compose.yml run --rm --build mlproject
# docker compose -f mlproject_docker/docker-compose.yml run --rm --build mlproject hyperparameters-tuning -P n-trials=20
# ```
#
# The code is in the image, the runs are not: the container sees this folder under *the same absolute path* as the
# host does, because MLflow notes the place of each file as an absolute path. So `make ui` shows the runs, and the
# models load here. A CSV file for `-P dataset=` must lie in this folder too.
#
# The champion behind MLServer, at http://127.0.0.1:8080 until Ctrl-C:
#
# ```bash
# docker compose -f docker/mlserve/docker-compose.yml up --build
# ```
#
# When the alias has moved, start it again; for another model, change the line in `model-settings.json` first. The
# files that a container writes belong to user 1000, the first user of most Linux machines. If `id -u` says something
# else, put `HOST_USER=$(id -u):$(id -g)` before the command. On Windows, give these commands in WSL. With the older
# docker-compose 1.29, `run` has no `--build`: give `docker-compose -f … build` first.

# %% [markdown]
# ## How fast it is
#
# What does all this cost? `make benchmark` measures it; these are its figures for one machine, and
# [benchmarks/results.md](benchmarks/results.md) has all of them. First tracking: the tuning of this notebook without
# MLflow, with one `log_batch` a trial as above, and with a call for each boosting round, as many tutorials do it.

# %%
results = json.loads(Path("benchmarks/results.json").read_text())
tables = {key: pd.json_normalize(table["rows"]) for key, table in results["tables"].items()}
print(f"{results['processor']}, {results['cores']} cores, measured on {results['date']}")
tables["tracking"][["way", "seconds.median", "ratio.median"]].round(2)

# %% [markdown]
# Then the steps, each as a process, beside its *floor*: the same imports and the same computation without an MLflow
# run.

# %%
tables["steps"][["step", "seconds.median", "floor_seconds.median", "ratio.median"]].round(2)

# %% [markdown]
# And one row sent to each server by one client, beside a bare FastAPI handler around XGBoost's `inplace_predict`:

# %%
serving = tables["serving"]
one_row = serving[(serving.rows == 1) & (serving.clients == 1)]
one_row[["target", "p50_ms", "p99_ms", "requests_per_second", "ratio.median"]].round(2)

# %% [markdown]
# ## Sharing the work
#
# The store in this folder serves one person, as long as the folder stays where it is: MLflow notes the place of each
# file as an *absolute* path. When the folder is renamed, or a colleague reaches it by another path, the runs and their
# metrics are still there, but not their files and models. Here is a store with one model, in a folder that then moves:

# %%
import sqlite3
import tempfile


def move(folder, name):
    moved = shutil.copytree(folder, folder.with_name(name))
    shutil.rmtree(folder / "mlruns")
    return moved


def log_model(experiment_id):
    with mlflow.start_run(experiment_id=experiment_id, run_name="Moving"):
        return mlflow.xgboost.log_model(
            classifier,
            name="classifier",
            registered_model_name="MovingModel",
            signature=classifier_info.signature,
            pip_requirements=requirements,
        )


old = Path(tempfile.mkdtemp(), "old")
old.mkdir()
mlflow.set_tracking_uri(f"sqlite:///{(old / 'mlflow.db').as_posix()}")
moving_id = mlflow.create_experiment("Moving", artifact_location=str(old / "mlruns" / "1"))
log_model(moving_id)

new = move(old, "new")
mlflow.set_tracking_uri(f"sqlite:///{(new / 'mlflow.db').as_posix()}")
try:
    mlflow.xgboost.load_model("models:/MovingModel/1")
except Exception as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# MLflow has no command that mends this. On the same machine a link at the old place does (`ln -s NEW OLD`). For good,
# the addresses in the database can be corrected. MLflow does not document its tables; these four statements are right
# for MLflow 3.17. Stop every program that uses the store first, and keep a copy of `mlflow.db`:

# %%
updates = """
UPDATE experiments SET artifact_location = replace(artifact_location, :old, :new);
UPDATE runs SET artifact_uri = replace(artifact_uri, :old, :new);
UPDATE logged_models SET artifact_location = replace(artifact_location, :old, :new);
UPDATE model_versions SET storage_location = replace(storage_location, :old, :new)
"""


def change_addresses(database, old, new):
    connection = sqlite3.connect(database)
    with connection:
        for update in updates.split(";"):
            connection.execute(update, {"old": str(old), "new": str(new)})
    connection.close()


change_addresses(new / "mlflow.db", old, new)
mlflow.xgboost.load_model("models:/MovingModel/1").predict(example)

# %% [markdown]
# ### A tracking server
#
# As soon as a second person or a second machine needs the runs, or wherever the folder may move, let a *tracking
# server* keep the store. Everybody asks the server, for files too, whose addresses now begin with
# `mlflow-artifacts:/`: only the server knows where they are. To try it on this machine, start one (it keeps its store
# in the folder `tracking/`):
#
# ```bash
# make tracking-server
# ```
#
# and tell MLflow about it in each terminal that is to use it. That is all: steps, notebook and `mlflow models serve`
# work as before.
#
# ```bash
# export MLFLOW_TRACKING_URI=http://127.0.0.1:5000
# ```
#
# Local runs can be taken along: copy `mlflow.db` and `mlruns/` to where the server keeps its store, and change the
# addresses once more. The next cell does so with our small store. Then it logs another model through the server, moves
# the server's folder, and loads both:

# %%
change_addresses(new / "mlflow.db", new / "mlruns", "mlflow-artifacts:")
tracking_port = processes.free_port()
tracking_url = f"http://127.0.0.1:{tracking_port}"
command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(tracking_port), "--workers", "1"]
command += ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "mlruns"]


def tracking_server(folder):
    return processes.server(command, f"{tracking_url}/health", folder, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")


mlflow.set_tracking_uri(tracking_url)
with tracking_server(new):
    print(mlflow.get_logged_model(log_model(moving_id).model_id).artifact_location)

with tracking_server(move(new, "newer")):
    for version in [1, 2]:
        answers = mlflow.xgboost.load_model(f"models:/MovingModel/{version}").predict(features)
        print(f"version {version}: same answers", (answers == classifier.predict(features)).all())

mlflow.set_tracking_uri(store)

# %% [markdown]
# A team will want PostgreSQL below the server. Docker brings both, and workers for the tuning as well; choose a
# password for the database:
#
# ```bash
# export POSTGRES_PASSWORD=...
# docker compose -f docker/tracking/docker-compose.yml up --build
# N_TRIALS=20 docker compose -f docker/tracking/docker-compose.yml up --build --scale tuning-worker=4
# ```
#
# The first `up` starts the server at http://127.0.0.1:5000 and prepares the data; the second also starts four workers,
# which make 20 trials together. MLflow cannot copy an SQLite store into PostgreSQL. Since everything here is seeded,
# running the pipeline once more against the new server gives the same models.
#
# Both servers answer this machine only, and refuse a request whose `Host` is another one, so that no web page can reach
# them through your browser. They know no users: before other machines may ask them, put a proxy with HTTPS and a login
# in front.
#
# ### Kubernetes
#
# With a cluster and a registry of images, `mlflow run` can start any step as a Kubernetes job. We have not run this
# here; it needs `pip install kubernetes docker`, a tracking server that the cluster reaches, and in `MLproject` the
# line `docker_env: {image: NAME}`, with the image of `mlproject_docker/Dockerfile`, in place of `conda_env`. The
# configuration names the cluster, the registry and a template of the job:
#
# ```bash
# mlflow run . -e model-training --backend kubernetes --backend-config kubernetes_config.json
# ```

# %% [markdown]
# ## Many workers, one study
#
# Trials do not wait for each other, so several processes can make them at the same time, if they agree on who makes
# which. On one machine the file `optuna.journal` is enough for that. The study of this notebook goes on here: it had
# 10 finished trials, and two workers add to them until there are 20.

# %%
mlflow.run(
    ".",
    "hyperparameters-tuning",
    parameters={"n-trials": 20, "workers": 2, "data-run-id": search.data_run.info.run_id},
    experiment_name=config.EXPERIMENT,
    env_manager="local",
).get_status()

# %%
print(study.trials_dataframe().state.value_counts())
print("all different:", study.trials_dataframe().filter(like="params_").drop_duplicates().shape[0])

# %% [markdown]
# Several machines need a database for the study and a tracking server for the runs. Then each of them gives the same
# command, with its own time to come and go:
#
# ```bash
# export MLFLOW_TRACKING_URI=http://127.0.0.1:5000
# mlflow run . -e hyperparameters-tuning -P n-trials=40 -P storage=postgresql://optuna@127.0.0.1/optuna
# ```
#
# The first to come starts the run, the others nest their trials in it, and together they make exactly 40. A worker
# that is killed loses nothing: in the database each trial has a heartbeat, and when that stops, another worker does
# the trial again. If all are killed, the same command goes on where they stopped. A study on other data, or from other
# parameter ranges, is refused.
#
# `mlflow run` logs its parameters, so keep the password out of them: the environment variable `PGPASSWORD` or a file
# `~/.pgpass` tells it to PostgreSQL. Who has a Dask cluster adds `-P workers=8 -P dask-scheduler=tcp://HOST:8786`:
# Dask then places eight workers on its machines, which need the packages of this project and nothing else.

# %% [markdown]
# Two workers are not twice as fast: the second starts some seconds later, and the cores are shared. These are the
# figures for 40 trials on two cores, from start to end:

# %%
tables["workers"][["storage", "workers", "seconds.median", "ratio.median"]].round(2)

# %% [markdown]
# ## When the data grow
#
# All steps keep their data in memory. How far does that go? `make benchmark-rows` runs them on 569 rows, on 100
# thousand and on a million of the same columns: drawn from the real ones, with noise. Each step is a process; what it
# costs are its seconds and the most memory that it held. (*XGBoost alone* is the training of 100 rounds without MLflow,
# once in one process and once on a Dask cluster, of which more below. The search makes 2 trials.)

# %%
growth = json.loads(Path("benchmarks/rows.json").read_text())
print(f"{growth['processor']}, {growth['cores']} cores, {growth['memory_gib']} GiB, measured on {growth['date']}")
costs = pd.DataFrame(growth["costs"])
table = costs.pivot(index="step", columns="rows", values=["seconds", "peak_mib"]).reindex(costs.step.unique())
table.columns = [f"{rows:,} rows: {'MiB' if unit == 'peak_mib' else unit}" for unit, rows in table.columns]
table.round().astype(int)

# %% [markdown]
# Memory grows with the data and not faster: a million rows fit into the memory of a laptop. Where a part of the rows
# is enough, the steps take a part: SHAP explains at most 2,000 rows, the flavours are compared on at most 1,000, and a
# server gets its rows in requests of 1,000. Time goes where all rows must pass: through text when the CSV files are
# written, and through XGBoost for each fold of each trial. With a million rows, search on a sample of them or let many
# workers share the trials.
#
# When the rows no longer fit into one machine, XGBoost trains on a cluster: each worker holds a part of the rows, and
# before each split of each tree the workers add up what they found. Dask and Spark can both run this. It pays when one
# machine has too little memory or too few cores. On one machine, as in the last two lines of the table, the workers
# share the same cores: they can read a large file in parts at the same time, and pay for that with memory, because each
# of them brings its own copy of the libraries.
#
# This is how it is done with Dask, on a cluster of two processes. `read_csv` of Dask reads nothing yet: each worker
# reads its own part of the file when the training needs it. On a real cluster the address of the scheduler takes the
# place of `LocalCluster`, and the file lies where all workers can reach it.

# %%
import logging

import dask.dataframe as dd
import xgboost.dask
from distributed import Client, LocalCluster

data_run = utils.latest_run("data_preprocessing")
path = mlflow.artifacts.download_artifacts(run_id=data_run.info.run_id, artifact_path="datasets/train.csv")
train, test = utils.load_split(data_run, "train"), utils.load_split(data_run, "test")
features, example = train.drop(columns=config.TARGET), train.drop(columns=config.TARGET).head(3)
dask_params, rounds = {"objective": "binary:logistic", "max_depth": 4, "learning_rate": 0.1}, 100

local_cluster = LocalCluster(
    n_workers=2,
    threads_per_worker=1,
    host="127.0.0.1",
    dashboard_address="127.0.0.1:0",  # any free port
    silence_logs=logging.ERROR,
)
with local_cluster, Client(local_cluster) as dask_client, xgb.config_context(verbosity=0):
    parts = dd.read_csv(path, blocksize=Path(path).stat().st_size // 2)
    dask_train = xgboost.dask.DaskDMatrix(dask_client, parts.drop(columns=config.TARGET), parts[config.TARGET])
    dask_booster = xgboost.dask.train(dask_client, dask_params, dask_train, rounds)["booster"]
    print(parts.npartitions, "parts on", len(local_cluster.workers), "workers")

# %% [markdown]
# What comes out is an ordinary `Booster`: it needs no Dask to predict. It is logged and registered like the others.

# %%
with mlflow.start_run(run_name="Training_With_Dask"):
    mlflow.set_tag("data_run_id", data_run.info.run_id)
    mlflow.log_params({**dask_params, "num_boost_round": rounds})
    utils.log_dataset(train, data_run, "train", context="training")
    dask_info = mlflow.xgboost.log_model(
        dask_booster,
        name="booster",
        registered_model_name=config.DASK_MODEL,
        signature=infer_signature(example, dask_booster.predict(xgb.DMatrix(example))),
        input_example=example,
        pip_requirements=requirements,
    )

# %% [markdown]
# Its answers beside those of a Booster trained on the same rows in this process, and of the registered models, which
# had other parameters and stopped early:

# %%
alone = xgb.train(dask_params, xgb.DMatrix(features, label=train[config.TARGET]), rounds)
test_features = test.drop(columns=config.TARGET)
answers = pd.DataFrame(
    {
        "Dask": mlflow.pyfunc.load_model(dask_info.model_uri).predict(test_features),
        "one process": alone.predict(xgb.DMatrix(test_features)),
        config.BOOSTER_MODEL: booster_pyfunc.predict(test_features),
    }
)
pd.DataFrame(
    {
        "accuracy": (answers > 0.5).eq(test[config.TARGET], axis="index").mean(),
        "largest difference from Dask": answers.sub(answers["Dask"], axis="index").abs().max(),
    }
)

# %% [markdown]
# ## What happens when …
#
# Each line of this table is a test. Messages are one line, the exit code tells that something failed, and a step that
# failed leaves no data, model or alias that a later step could take for finished.
#
# | What happens | What you see, and what to do |
# | --- | --- |
# | A step gets Ctrl-C or SIGTERM | One line. Its run is `KILLED` (`FAILED` under `mlflow run`), its server stops. |
# | A step is killed at once (SIGKILL) | Its run stays `RUNNING` until the step's next start, which makes it `KILLED`. |
# | A pipeline is killed at once (SIGKILL) | The step at hand still ends, no further one begins; then as above. |
# | A search is interrupted | *Interrupted with 4 of 10 trials finished*: the same command goes on. |
# | One of several workers is killed | Another one repeats its trial; the nested run becomes `KILLED`. |
# | A search has new data or ranges | It is a study of its own, or refused: give another `--study-name`. |
# | Two pipelines run in one store | Each trains on its own data and search (`--data-run-id`, `--tuning-run-id`). |
# | A database or server does not answer | One line within 15 seconds. Start it, or correct the address. |
# | The disk is full, the folder read-only | One line that says so. Make room, or the folder writable. |
# | `mlflow.db` is damaged | *Put back a copy of it, or begin a new one: mv mlflow.db mlflow.db.broken* |
# | `mlflow.db` is of another MLflow | One line, with `mlflow db upgrade …` where that helps. |
# | The experiment was deleted | *Restore it: mlflow experiments restore --experiment-id …* |
# | The registered model was deleted | *Train: mlflow run . -e model-training* |
# | An ID of a run is wrong | One line says why: missing, unfinished, of another step, of other data. |
# | The folder of a local store is renamed | Runs stay, models are not found: see *Sharing the work*. |
# | A CSV has `;`, tabs, UTF-16 or row numbers | It is read, also gzipped. |
# | It has decimal commas, text, infinity | *data.csv: line 2, column `mean radius`: '17,99' is not a number …* |
# | It has one class only, or lacks a column | Refused with the reason; the champion stays the champion. |
# | It has fewer than 30 examples | They are evaluated, and the gate stays shut: the champion stays too. |
# | A request has an infinite or huge number | The custom model answers 400 and names the column. |
# | A cell has a syntax error | *modeling.py: cell 12, line 3: invalid syntax*; no script is written. |
# | A web page asks the tracking server | 403: the request's `Host` is not this machine. |
