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
# This notebook takes one XGBoost model through its whole life on one machine: it prepares the data, tunes, trains,
# registers and evaluates the model, lets others run all that as an MLflow Project, and serves the model in four ways.
# The data are scikit-learn's breast cancer measurements: 569 tumours, 30 numbers about each, and the question is
# whether a tumour is benign (1) or malignant (0). You know scikit-learn; you need to know nothing about MLflow.

# %% [markdown]
# MLflow keeps the records of an experiment. Whatever produced a model (data, parameters, code) and whatever came out of
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
import inspect
import os
import sys
from pathlib import Path

import mlflow
import pandas as pd
from IPython.display import display

import config
import data_files
import servers
import utils

# Programs that MLflow starts for us must find this notebook's Python first.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

print(f"MLflow {mlflow.__version__}")

# %% [markdown]
# ## Your first run
#
# A model that XGBoost trains with its defaults, and how good it is: its log loss on three held-out folds of the
# training data (how far the predicted probabilities are from the truth; 0 is perfect), and beside it the area under the
# ROC curve and the share of right answers. Everything inside the `with` block goes into one run:

# %%
import xgboost as xgb
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import StratifiedKFold, cross_validate, train_test_split

frame = load_breast_cancer(as_frame=True).frame
train, test = train_test_split(frame, test_size=0.33, stratify=frame["target"], random_state=42)
features, label = train.drop(columns="target"), train["target"]
model = xgb.XGBClassifier()
scores = ["neg_log_loss", "roc_auc", "accuracy"]
folds = StratifiedKFold(n_splits=3, shuffle=True, random_state=42)

utils.set_experiment()  # mlflow.set_experiment("Cancer_Classification"), unless you have chosen one of your own
with mlflow.start_run(run_name="Baseline") as baseline_run:
    mlflow.log_params({"model": "XGBClassifier", "parameters": "defaults", "seed": 42})
    mlflow.log_input(mlflow.data.from_pandas(train, targets="target", name="train"), context="training")
    result = cross_validate(model, features, label, cv=folds, scoring=scores)
    mlflow.log_metric("logloss", -result["test_neg_log_loss"].mean())
    mlflow.log_metric("auc", result["test_roc_auc"].mean())
    mlflow.log_metric("accuracy", result["test_accuracy"].mean())
    model.fit(features, label)
    mlflow.xgboost.log_model(model, name="model", input_example=features.head(3))

# %% [markdown]
# That is the whole of it: parameters are what we chose, metrics are numbers that came out, the input is the data set,
# and the model is a folder of files. What we have written down can be asked for:

# %%
pd.Series(mlflow.get_run(baseline_run.info.run_id).data.metrics, name="baseline").to_frame()

# %% [markdown]
# This is the baseline that tuning has to beat. `utils.set_experiment` is `mlflow.set_experiment` with two more
# thoughts: it leaves the choice to you where you have made one, and it says in one line when the store cannot be used.

# %%
print(inspect.getsource(utils.set_experiment))

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
# Nobody has to start a server to *log* something. By default MLflow 3 keeps its records in two places in the folder
# where the code runs: `mlflow.db`, an SQLite database of runs, parameters, metrics and registered models; and
# `mlruns/`, a folder for the files that belong to them. The UI reads both.
#
# On the start page choose *Model training* at the top left, because MLflow opens with its other half, *GenAI*. Our
# experiment is under *Recent Experiments*.
#
# ![The start page of the MLflow UI](img/mlflow_main.png)

# %%
store = mlflow.get_tracking_uri()
print(store.replace(str(config.PROJECT_DIR), "(this folder)"))

# %% [markdown]
# ## Data preparation
#
# From here on, the cells that do the work carry a *tag*: the name of the step that they belong to. Later we collect
# the cells of each step into a script. A script takes its parameters from the command line, a notebook does not; so
# lines that start with `# hide` are comments here and code in the script.

# %% tags=["data_preprocessing"]
import json

import mlflow
from loguru import logger
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import config
import data_files
import utils

# %% [markdown]
# To work with data of your own, set `dataset` to the path of a CSV file. It needs a column `target` with two
# different values (or name another one), and numbers in all other columns. Every later step then works on that data.

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

# %% [markdown]
# `classes` holds the two values of the target; the second one is class 1, the one whose probability the model predicts:
# the last in order, unless `positive_class` names the other. We add one feature of our own: the ratio of mean symmetry
# to mean texture.

# %% tags=["data_preprocessing"]
data = utils.add_features(data)

# %%
print("classes 0 and 1:", classes)
data[[*data.columns[:3], *data.columns[-3:]]].head()

# %% [markdown]
# The split is *stratified*: both sets have the same share of benign tumours. It is *seeded*: the same data always
# split the same way, so results can be compared.

# %% tags=["data_preprocessing"]
train, test = train_test_split(data, test_size=test_size, stratify=data[target], random_state=config.SEED)
train, test = train.reset_index(drop=True), test.reset_index(drop=True)

# %% [markdown]
# The two data sets are logged as artifacts, so that later steps can load them, and as *dataset inputs*: MLflow then
# shows their columns and a *digest*, a short number computed from all values, which is the same for the same data.
# These two helpers do that:

# %%
print(inspect.getsource(utils.as_dataset), inspect.getsource(utils.log_dataset), sep="\n\n")

# %% tags=["data_preprocessing"]
utils.set_experiment()
tags = {"step": "data_preprocessing", "target": target, "classes": json.dumps(classes)}
with mlflow.start_run(run_name="Data_Preprocessing", tags=tags) as run:
    mlflow.log_params({"test_size": test_size, "seed": config.SEED, "data_source": dataset or "breast cancer"})
    mlflow.log_metrics({"full_rows": len(data), "train_rows": len(train), "test_rows": len(test)})
    train_data = utils.log_dataset(train, "train", target, context="training")
    test_data = utils.log_dataset(test, "test", target, context="testing")
    about = f"{dataset or 'breast cancer'}, {len(train)} training rows with digest {train_data.digest}"
    mlflow.set_tag("data", f"{about}, class 1 is {classes[1]!r}, class 0 is {classes[0]!r}")
logger.info(f"{about}, {len(test)} test rows, class 1 is {classes[1]!r}, class 0 is {classes[0]!r}")

# %%
pd.DataFrame(
    {
        name: {"rows": len(part), "share of class 1": (part[target] == classes[1]).mean()}
        for name, part in [("train", train), ("test", test)]
    }
).T

# %% [markdown]
# ## Hyperparameter tuning
#
# Which tree depth, which learning rate? Optuna makes a **trial** of one combination after the other and learns from
# the results where to look next; all trials together are a **study**. MLflow keeps each trial as a **nested run** of
# the tuning run.

# %% tags=["hyperparameters_tuning"]
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

# %% tags=["hyperparameters_tuning"]
n_trials, data_run_id, storage, study_name = 30, None, None, None
# hide n_trials, data_run_id, storage, study_name = utils.arguments(
# hide     "hyperparameters-tuning", "n-trials", "data-run-id", "storage", "study-name"
# hide )
if n_trials < 1:
    raise StepError(f"n-trials is {n_trials}: give a whole number of at least 1.")

# %% [markdown]
# A step finds the results of an earlier step in MLflow: the finished run with the step's tag that ended last, or the
# one whose ID is given. Steps share no variables and no files, which is why each of them can also run alone, on another
# day or another machine. Each says which run and which data it took.

# %% tags=["hyperparameters_tuning"]
data_run = utils.latest_run("data_preprocessing", data_run_id)
train = utils.load_dataset(data_run, "train")

# %%
print(inspect.getsource(utils.latest_run), inspect.getsource(utils.load_dataset), sep="\n\n")

# %% [markdown]
# XGBoost wants numbers: `encode` gives the features and the label, 0 or 1, and the *encoding* says how (for the cancer
# data there is nothing to do but to compare the target with class 1). A `DMatrix` is XGBoost's own form of data.

# %% tags=["hyperparameters_tuning"]
encoding = data_files.learn_encoding(train, data_run.data.tags)
features, label = data_files.encode(train, encoding)
dtrain = xgb.DMatrix(features, label=label)

# %% [markdown]
# These are the ranges to search; the learning rate on a logarithmic scale. For one trial Optuna suggests a value for
# each parameter, XGBoost cross-validates them on 3 folds of the training data, and the log loss on the held-out folds
# after the last boosting round is the result. Why not the accuracy? On these 381 rows it moves in steps of 0.26 %, too
# coarse to tell good from better; it is logged beside the log loss.
#
# Each boosting round has metrics of its own. `xgb.cv` returns them all, and they go to MLflow in a single batch: one by
# one they would take longer than the training itself.

# %% tags=["hyperparameters_tuning"]
ranges = {"max_depth": [2, 8], "alpha": [0.001, 0.05], "learning_rate": [0.005, 0.5], "num_boost_round": [30, 300]}


def objective(trial):
    params = {
        "max_depth": trial.suggest_int("max_depth", *ranges["max_depth"]),
        "alpha": trial.suggest_float("alpha", *ranges["alpha"]),
        "learning_rate": trial.suggest_float("learning_rate", *ranges["learning_rate"], log=True),
    }
    num_boost_round = trial.suggest_int("num_boost_round", *ranges["num_boost_round"])
    with mlflow.start_run(run_name=f"Trial_{trial.number}", nested=True) as trial_run:
        mlflow.log_params(trial.params)
        curves = xgb.cv(
            {"objective": "binary:logistic", "nthread": utils.threads(train), **params},
            dtrain,
            num_boost_round,
            nfold=config.N_FOLDS,
            stratified=True,
            metrics=["error", "auc", "logloss"],
            seed=config.SEED,
        )
        last = curves.iloc[-1]
        trial.set_user_attr("accuracy", 1 - last["test-error-mean"])
        trial.set_user_attr("auc", last["test-auc-mean"])
        now = int(time.time() * 1000)
        batch = [Metric("accuracy", trial.user_attrs["accuracy"], now, 0)]
        for name in ["auc", "logloss"]:
            batch += [Metric(name, value, now, step) for step, value in enumerate(curves[f"test-{name}-mean"])]
        mlflow.MlflowClient().log_batch(trial_run.info.run_id, batch)
    return last["test-logloss-mean"]


# %% [markdown]
# The study is in memory, and gone when the cell has ended: MLflow has it all. With a `storage` it can be resumed and
# shared (*Many workers, one study*). Then the sampler has no seed, since two workers with one seed would draw the same
# trials, and what the study is about is written into it, so that trials on other data or ranges never mix.

# %% tags=["hyperparameters_tuning"]
train_data = utils.as_dataset(train, f"runs:/{data_run.info.run_id}/datasets/train.csv", "train", encoding["target"])
study_name = study_name or f"tuning-{train_data.digest}"
study = optuna.create_study(
    direction="minimize",
    sampler=optuna.samplers.TPESampler(seed=None if storage else config.SEED, constant_liar=bool(storage)),
    storage=utils.open_storage(storage) if storage else None,
    study_name=study_name,
    load_if_exists=True,
)
about = {"data": train_data.digest, "objective": f"log loss, {config.N_FOLDS} folds", "ranges": ranges}
if study.user_attrs.get("about", about) != about:
    raise StepError(
        f"The study {study_name} is about {study.user_attrs['about']}, not {about}: give another study-name."
    )
study.set_user_attr("about", about)

# %% [markdown]
# The search itself. Its run gets the best parameters with their metrics, two plots of the search, and *system metrics*:
# what processor and memory were doing meanwhile, once a second.

# %% tags=["hyperparameters_tuning"]
mlflow.set_system_metrics_sampling_interval(1)
finished = len(study.get_trials(states=[TrialState.COMPLETE]))
enough = optuna.study.MaxTrialsCallback(n_trials, states=[TrialState.COMPLETE])

utils.set_experiment()
tags = {"step": "hyperparameters_tuning", "data_run_id": data_run.info.run_id, "data": data_run.data.tags["data"]}
if storage:
    tags["study"] = study_name
with mlflow.start_run(run_name="Hyperparameters_Search", log_system_metrics=True, tags=tags) as run:
    mlflow.log_input(train_data, context="tuning")
    mlflow.log_dict(ranges, "ranges.json")
    study.optimize(objective, max(n_trials - finished, 0), callbacks=[enough], show_progress_bar=True)
    with plt.rc_context():  # Optuna's plots change the style of all later ones
        mlflow.log_figure(plot_optimization_history(study).figure, "plots/optimization_history.png")
        if len({trial.value for trial in study.trials}) > 1:  # without a difference nothing can be important
            mlflow.log_figure(plot_param_importances(study).figure, "plots/param_importances.png")
    best = study.best_trial
    mlflow.log_params(best.params)
    mlflow.log_metrics({"logloss": best.value, **best.user_attrs})

chosen = ", ".join(f"{name} {value:.4g}" for name, value in best.params.items())
logger.info(f"best of {len(study.trials)} trials: log loss {best.value:.4f} with {chosen}")

# %% [markdown]
# Was it worth it? The baseline was measured on the same rows and the same folds (without the added feature):

# %%
baseline_loss = mlflow.get_run(baseline_run.info.run_id).data.metrics["logloss"]
print(
    f"log loss: {baseline_loss:.4f} with XGBoost's defaults, {study.best_value:.4f} with the best of {n_trials} trials"
)

# %%
study.trials_dataframe(attrs=("number", "value", "params")).sort_values("value").head(10)

# %% [markdown]
# The sampler draws its first ten trials at random and learns only from then on: a search of ten trials would be no more
# than a lottery.

# %% [markdown]
# ### Logging while XGBoost trains
#
# A long training should show its progress while it runs. XGBoost calls a `TrainingCallback` after each round, and the
# callback can log. It has a price, because each call waits for the database: this is why the trials above log in one
# batch.


# %%
class LogEachRound(xgb.callback.TrainingCallback):
    def after_iteration(self, model, epoch, evals_log):
        mlflow.log_metric("logloss", evals_log["train"]["logloss"][-1], step=epoch)
        return False  # True would stop the training


def train_for(callbacks):
    start = time.perf_counter()
    options = {"evals": [(dtrain, "train")], "callbacks": callbacks, "verbose_eval": False}
    xgb.train({"objective": "binary:logistic", "nthread": 1}, dtrain, 100, **options)
    return time.perf_counter() - start


with mlflow.start_run(run_name="Live_Metrics"):
    live = train_for([LogEachRound()])
silent = train_for([])

# %% tags=["volatile"]
print(f"100 rounds: {silent:.2f} s, and {live:.2f} s with a call to MLflow in each")

# %% [markdown]
# ## Reading the results in the UI
#
# In the UI, open the experiment. Each step is a run; unfold `Hyperparameters_Search`, and there are the trials, with
# what they tried and how good that was. (*Columns* chooses what the list shows.)
#
# ![The list of runs, with the trials unfolded](img/runs_list.png)
#
# The chart view draws one line per trial: with a small learning rate the log loss falls slowly; with a large one it is
# near its end after a few rounds, and may rise again.
#
# ![Charts of the trials' metrics, round by round](img/runs_charts.png)
#
# Select the trials and choose *Compare*. Each line is a trial again and runs through its parameters to its log loss.
# Where do the best trials run that the others do not?
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
    filter_string=f"tags.mlflow.parentRunId = '{run.info.run_id}'", order_by=["metrics.logloss ASC"], max_results=3
)
trials[["tags.mlflow.runName", "metrics.logloss", "metrics.accuracy", "params.max_depth", "params.num_boost_round"]]

# %% [markdown]
# ## Training and registering the model
#
# With the best parameters we train the final model, in the two forms that XGBoost offers: a `Booster`, its own, and
# an `XGBClassifier`, which follows scikit-learn. Both are registered, so that we can compare later how they are used.

# %% tags=["model_training"]
import mlflow
import xgboost as xgb
from loguru import logger
from mlflow.models import infer_signature
from sklearn.model_selection import train_test_split

import config
import data_files
import utils

data_run_id, tuning_run_id = None, None
# hide data_run_id, tuning_run_id = utils.arguments("model-training", "data-run-id", "tuning-run-id")

# %% [markdown]
# The tuning run must be one on this very data, hence the tag `data_run_id` in the search. If several searches share a
# study, the best of them counts. MLflow stores parameters as text, so each is turned back into a number by name.

# %% tags=["model_training"]
data_run = utils.latest_run("data_preprocessing", data_run_id)
tuning_run = utils.latest_run("hyperparameters_tuning", tuning_run_id, data_run_id=data_run.info.run_id)
study_name = tuning_run.data.tags.get("study")
if study_name and not tuning_run_id:
    tuning_run = utils.latest_run("hyperparameters_tuning", order_by="metrics.logloss ASC", study=study_name)
best = tuning_run.data.params
params = {
    "max_depth": int(best["max_depth"]),
    "alpha": float(best["alpha"]),
    "learning_rate": float(best["learning_rate"]),
}
num_boost_round = int(best["num_boost_round"])

# %% [markdown]
# The tuned number of rounds is the most that the training may use: it stops early when it no longer helps. To notice
# that, it needs data that it does not train on: a part of the *training* data, never the test set, which must stay
# unseen until the evaluation.

# %% tags=["model_training"]
train = utils.load_dataset(data_run, "train")
encoding = data_files.learn_encoding(train, data_run.data.tags)
features, label = data_files.encode(train, encoding)
fit_features, valid_features, fit_label, valid_label = train_test_split(
    features, label, test_size=config.VALIDATION_SIZE, stratify=label, random_state=config.SEED
)
dfit = xgb.DMatrix(fit_features, label=fit_label)
dvalid = xgb.DMatrix(valid_features, label=valid_label)

# %% [markdown]
# `autolog` makes MLflow watch XGBoost: it logs the parameters, the metrics of every round and the importance of the
# features by itself. We log the models ourselves, because we have more to say about them:
#
# - the **signature**, the columns and types that the model takes and returns, which MLflow checks when the model is
#   called through `pyfunc`,
# - an **input example**,
# - the **requirements** that it needs to run; MLflow could find them out itself, but takes many seconds to do so,
# - the **metadata**: here which words of the file became which numbers, so that nobody has to guess it later,
# - the name under which it is **registered**; each training makes a new version.
#
# The run also says what made it: its inputs are the data sets of the data preparation, its tags the runs that it built
# on. MLflow adds by itself who ran which script in which commit; in a notebook it cannot know the commit, and nowhere
# does it say whether files were changed since.

# %% tags=["model_training"]
requirements = utils.pinned_requirements("mlflow", "xgboost", "scikit-learn", "pandas")

utils.set_experiment()
tags = {"step": "model_training", "data_run_id": data_run.info.run_id, "tuning_run_id": tuning_run.info.run_id}
with mlflow.start_run(run_name="Model_Training", tags={**tags, "data": data_run.data.tags["data"]}) as run:
    mlflow.MlflowClient().log_inputs(run.info.run_id, data_run.inputs.dataset_inputs)

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
        signature=infer_signature(features, booster.predict(dvalid)),
        input_example=features.head(3),
        pip_requirements=requirements,
        metadata=encoding,
        tags={"class_0": encoding["classes"][0], "class_1": encoding["classes"][1]},
    )

    # The number of rounds has two names: num_boost_round of xgb.train is n_estimators of XGBClassifier.
    classifier = xgb.XGBClassifier(**params, n_estimators=booster.num_boosted_rounds(), n_jobs=utils.threads(train))
    classifier.fit(fit_features, fit_label)
    classifier_info = mlflow.xgboost.log_model(
        classifier,
        name="classifier",
        registered_model_name=config.CLASSIFIER_MODEL,
        signature=infer_signature(features, classifier.predict(valid_features)),
        input_example=features.head(3),
        pip_requirements=requirements,
        metadata=encoding,
        tags={"class_0": encoding["classes"][0], "class_1": encoding["classes"][1]},
    )

logger.info(
    f"registered {config.BOOSTER_MODEL} version {booster_info.registered_model_version} and "
    f"{config.CLASSIFIER_MODEL} version {classifier_info.registered_model_version}: "
    f"{booster.num_boosted_rounds()} of {num_boost_round} rounds, class 1 is {encoding['classes'][1]!r}"
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
import mlflow
from loguru import logger
from mlflow.exceptions import MlflowException
from mlflow.models import MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

import config
import data_files
import utils

eval_dataset, training_run_id = None, None
# hide eval_dataset, training_run_id = utils.arguments("data-evaluation", "eval-dataset", "training-run-id")

# %% [markdown]
# We ask for the version that the last training run registered, and for the data that this training run used: not
# just for the last version and the last data, which may belong to something else.

# %% tags=["data_evaluation"]
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
version = utils.registered_version(config.CLASSIFIER_MODEL, training_run)
model_uri = f"models:/{config.CLASSIFIER_MODEL}/{version}"
encoding = utils.model_encoding(model_uri)

# %% [markdown]
# A file from somewhere else is read as the model needs it: more columns than that do no harm, fewer do. Rows that the
# model was trained on prove nothing, so they are counted.

# %% tags=["data_evaluation"]
if eval_dataset:
    frame, _ = data_files.read_table(eval_dataset, encoding=encoding)
    seen = data_files.count_known_rows(frame, utils.load_dataset(data_run, "train"))
else:
    frame, seen = utils.load_dataset(data_run, "test"), 0
source = eval_dataset or f"runs:/{data_run.info.run_id}/datasets/test.csv"

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
champion_result, objections = None, []

utils.set_experiment()
tags = {"step": "data_evaluation", "training_run_id": training_run.info.run_id, "model_version": version}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}
with mlflow.start_run(run_name="Data_Evaluation", tags={**tags, "eval_dataset": eval_dataset or "test set"}) as run:
    empty = frame.columns[frame.isna().all()]
    if len(empty):
        logger.warning(f"There will be no SHAP plots, because there is not one value of {', '.join(empty)}.")
    result = evaluate(model_uri, explain=not len(empty))
    mlflow.log_metric("rows_seen_in_training", seen)
    if champion and champion != version:
        try:
            theirs = utils.model_encoding(champion_uri)
            if set(theirs["columns"]) == set(encoding["columns"]) and theirs["classes"] == encoding["classes"]:
                with mlflow.start_run(run_name=f"Champion_Version_{champion}", nested=True):
                    champion_result = evaluate(champion_uri, explain=False)
            else:
                objections.append(
                    f"The champion, version {champion}, has other columns or classes: no comparison is fair."
                )
        except (MlflowException, OSError) as error:
            objections.append(f"The champion, version {champion}, cannot be loaded: {utils.in_one_line(error)}")

logger.info(f"version {version} on {len(frame)} rows of {source}, class 1 is {encoding['classes'][1]!r}")

# %%
pd.Series(result.metrics, name="value").to_frame()

# %%
for plot in ["roc_curve_plot", "precision_recall_curve_plot", "confusion_matrix", "shap_beeswarm_plot"]:
    if plot in result.artifacts:
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
# alias moves to our new version only if it reaches every threshold, checked by MLflow, and if the current champion is
# not better on the same data.

# %%
pd.Series(config.THRESHOLDS, name="at least").to_frame()

# %% [markdown]
# Which error is the dangerous one? A cancer that is called benign. Benign is class 1, so that is a *false positive*,
# and the precision falls with each of them. The number of examples is there because on a handful of them a poor model
# is often right by chance.

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
except ModelValidationFailedException as failure:
    objections.append(f"{failure} (The thresholds are set in config.py.)")
if seen > len(frame) / 2:
    objections.append(f"{seen} of the {len(frame)} rows were seen in training: evaluate on others.")
if utils.champion_version() != champion:
    objections.append("Meanwhile another version has become the champion: evaluate again.")

client = mlflow.MlflowClient()
client.set_tag(run.info.run_id, "gate", "failed" if objections else "passed")
if objections:
    by_hand = (
        f"mlflow.MlflowClient().set_registered_model_alias('{config.CLASSIFIER_MODEL}', '{config.CHAMPION}', {version})"
    )
    reasons = " ".join(" ".join(objections).split())
    logger.warning(f"Version {version} does not become the champion. {reasons} To decide otherwise: {by_hand}")
else:
    client.set_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION, version)
    logger.info(f"Version {version} of {config.CLASSIFIER_MODEL} is the champion.")

# %% [markdown]
# Whoever uses the model asks for the champion, and never has to know its number:

# %%
model = mlflow.pyfunc.load_model(f"models:/{config.CLASSIFIER_MODEL}@{config.CHAMPION}")
model.predict(
    data_files.encode(frame, utils.model_encoding(f"models:/{config.CLASSIFIER_MODEL}@{config.CHAMPION}"))[0].head()
)

# %% [markdown]
# ## MLflow Projects
#
# So far everything happened in this notebook. A *project* is code that others can run without reading it first: a
# file `MLproject` that names its commands (**entry points**) and their parameters, and the environment that they
# need.
#
# ### From cells to scripts
#
# The commands of our project are scripts, and the scripts are our tagged cells, collected in the folder `steps/`.
# Nothing is written twice: change a cell, extract again, and the script follows.

# %%
from notebook_tools import extract

extract.main([])

# %%
print(Path("steps/model_training.py").read_text()[:900], "…")

# %% [markdown]
# The one line of a script that the notebook does not have is the one after `# hide`: the values of its parameters, as
# `MLproject` declares them, from the command line.
#
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
# mlflow run . -e hyperparameters-tuning -P n-trials=40 --env-manager local
# ```
#
# `--env-manager local` means: in the environment that is active now. Without it MLflow makes an environment from
# `conda.yaml` first. In place of `.` a git URL can stand, so a colleague needs no clone: MLflow fetches the project
# and runs it, and leaves the results in the folder in which the colleague is.
#
# `mlflow run` makes a run before the script starts, and `mlflow.start_run` in the script joins it: so each step is one
# run, however it was started.
#
# The entry point `main` is the pipeline: all steps in order, each as an MLflow run of its own below that of the
# pipeline, and each with the IDs of the runs that it builds on, so that two pipelines at a time do not mix. It too is
# made of cells of this notebook, which here go on with the data and the number of trials from above:

# %% tags=["pipeline"]
import mlflow
from mlflow.exceptions import ExecutionException

import config
import utils
from utils import StepError

# hide test_size, n_trials, dataset, target, positive_class = utils.arguments(
# hide     "main", "test-size", "n-trials", "dataset", "target", "positive-class"
# hide )


# %% tags=["pipeline"]
def run_step(entry_point, **parameters):
    given = {name.replace("_", "-"): value for name, value in parameters.items() if value is not None}
    experiment_id = mlflow.active_run().info.experiment_id
    try:
        step_run = mlflow.run(
            str(config.PROJECT_DIR), entry_point, parameters=given, experiment_id=experiment_id, env_manager="local"
        )
    except ExecutionException:
        raise StepError(f"The step {entry_point} failed, for the reason given above.") from None
    return step_run.run_id


utils.set_experiment()
with mlflow.start_run(run_name="Pipeline", tags={"step": "pipeline"}) as run:
    data_run_id = run_step(
        "data-preprocessing", test_size=test_size, dataset=dataset, target=target, positive_class=positive_class
    )
    tuning_run_id = run_step("hyperparameters-tuning", n_trials=n_trials, data_run_id=data_run_id)
    training_run_id = run_step("model-training", data_run_id=data_run_id, tuning_run_id=tuning_run_id)
    run_step("data-evaluation", training_run_id=training_run_id)
    run_step("flavour-comparison", training_run_id=training_run_id)
    run_step("model-customization", training_run_id=training_run_id)
    # the version that this pipeline has trained, champion or not
    version = utils.registered_version(config.CLASSIFIER_MODEL, mlflow.get_run(training_run_id))
    run_step("model-serving", model_uri=f"models:/{config.CLASSIFIER_MODEL}/{version}")

# %% [markdown]
# The same in an environment of its own: MLflow makes it from `conda.yaml`, with conda where there is conda and with
# `uv` where there is not, and keeps it for the next time.

# %%
import shutil

own_data = {"dataset": dataset, "target": target, "positive-class": positive_class} if dataset else {}
project_run = mlflow.run(
    ".",
    "main",
    parameters={"n-trials": 3, **{name: value for name, value in own_data.items() if value}},
    experiment_id=run.info.experiment_id,
    env_manager="conda" if shutil.which("conda") else "uv",
)
project_run.get_status()

# %% [markdown]
# Each run made a new version of the model. The alias is at the last one that passed the gate:

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
import time

import matplotlib.pyplot as plt
import mlflow
import pandas as pd
import xgboost as xgb

import config
import data_files
import utils

training_run_id = None
# hide training_run_id = utils.arguments("flavour-comparison", "training-run-id")

# %% tags=["flavour_comparison"]
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
booster_uri, classifier_uri = [
    f"models:/{name}/{utils.registered_version(name, training_run)}"
    for name in [config.BOOSTER_MODEL, config.CLASSIFIER_MODEL]
]
test = utils.load_dataset(data_run, "test").head(config.BATCH_ROWS)
test, _ = data_files.encode(test, utils.model_encoding(classifier_uri))
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
# If you need what only XGBoost's own object can do, such as the importance of features, reach it through any `pyfunc`
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
    axis.set(title=f"{rows} row(s)", xlabel="milliseconds per call (median, interquartile range)")

# %% tags=["flavour_comparison"]
utils.set_experiment()
tags = {"step": "flavour_comparison", "training_run_id": training_run.info.run_id}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}
with mlflow.start_run(run_name="Flavour_Comparison", tags=tags) as run:
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

model_uri, port = "models:/CancerModel@champion", 0
# hide model_uri, port = utils.arguments("model-serving", "model-uri", "port")

if not 0 <= port < 65536:
    raise StepError(f"port is {port}: give a number between 1 and 65535, or 0 for a free port.")

# %% tags=["model_serving"]
utils.check_store()
try:
    model_info = mlflow.models.get_model_info(model_uri)
except (MlflowException, OSError) as error:
    raise StepError(
        f"{model_uri}: there is no such model. Make one: mlflow run . -e main. {error}".splitlines()[0]
    ) from None
try:
    data_run = mlflow.get_run(mlflow.get_run(model_info.run_id).data.tags["data_run_id"])
except (MlflowException, KeyError):
    by_hand = f"mlflow models serve -m {model_uri} --env-manager local"
    raise StepError(
        f"{model_uri} was not trained here, so there are no rows to try it with. Serve it: {by_hand}"
    ) from None
rows = utils.load_dataset(data_run, "test")
rows, _ = data_files.encode(rows, utils.model_encoding(model_uri))

# %% tags=["model_serving"]
port = port or servers.free_port()
url = f"http://127.0.0.1:{port}"
command = ["mlflow", "models", "serve", "-m", model_uri, "--env-manager", "local", "--host", "127.0.0.1"]

utils.set_experiment()
tags = {"step": "model_serving", "data_run_id": data_run.info.run_id, "data": data_run.data.tags.get("data")}
with mlflow.start_run(run_name="Model_Serving", tags=tags) as run:
    mlflow.log_params({"model_uri": model_uri, "rows": len(rows)})
    predictions = []
    with servers.server([*command, "--port", str(port)], f"{url}/health"):
        for start in range(0, len(rows), config.BATCH_ROWS):
            body = utils.as_request(rows.iloc[start : start + config.BATCH_ROWS])
            response = requests.post(f"{url}/invocations", json=body, timeout=60)
            response.raise_for_status()
            predictions += response.json()["predictions"]
    served = np.array(predictions)
    difference = float(np.abs(served - mlflow.pyfunc.load_model(model_uri).predict(rows)).max())
    mlflow.log_metric("largest_difference", difference)
    if difference > 1e-6:
        raise StepError(f"{model_uri}: the server's answers differ from the model's by up to {difference}.")
logger.info(f"{model_uri}: {len(rows)} rows served, largest difference {difference:.1g}")

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
import subprocess

for command in [
    ["uv", "venv", "--quiet", "--allow-existing", "--python", ">=3.11,<3.13", "docker/mlserve/.venv"],
    ["uv", "pip", "install", "--quiet", "--python", "docker/mlserve/.venv", "-r", "docker/mlserve/requirements.txt"],
]:
    subprocess.run(command, check=True)

# %%
mlserver_ports = {f"MLSERVER_{name}_PORT": str(servers.free_port()) for name in ["HTTP", "GRPC", "METRICS"]}
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


# %% [markdown]
# The same rows go to MLflow's own address `/invocations`, and to that of the V2 protocol, which wants each column as
# a tensor with a name, a shape and a type. The server also describes itself (`/v2/models/cancer-model/docs` is a page
# to try it out) and counts its work for a monitoring system (`/metrics`).

# %%
v2_request = {
    "parameters": {"content_type": "pd"},
    "inputs": [
        {"name": name, "shape": [len(rows), 1], "datatype": "FP64", "data": column.tolist()}
        for name, column in rows.items()
    ],
}
with mlserver("docker/mlserve"):
    rest = requests.post(f"{mlserver_url}/invocations", json=utils.as_request(rows), timeout=60).json()
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
# One difference: where `mlflow models serve` answers a caller's mistake with status 400 and a reason, MLServer
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
from mlflow.models import Model


class CancerProbability(mlflow.pyfunc.PythonModel):
    """Answers with the probabilities of both classes."""

    def load_context(self, context):
        """Load the classifier when the server starts.

        Args:
            context: What MLflow stored with the model: `artifacts["classifier"]` is the classifier's folder.
        """
        self.classifier = mlflow.xgboost.load_model(context.artifacts["classifier"])
        self.words = (Model.load(context.artifacts["classifier"]).metadata or {}).get("words", {})

    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Predict probabilities.

        Args:
            context: As above.
            model_input: n rows of features, as they stand in the training data: words are words.
            params: Not used.

        Returns:
            An array of shape (n, 2): the probabilities of class 0 and class 1.

        Raises:
            MlflowException: There are no rows, or a value is infinite or too large; a server answers with status 400.
        """
        if model_input.empty:
            raise MlflowException.invalid_parameter_value("There are no rows to predict.")
        codes = {name: {word: code for code, word in enumerate(words)} for name, words in self.words.items()}
        model_input = model_input.assign(**{name: model_input[name].map(codes[name]) for name in codes}).astype(float)
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
extract.main([])

# %% tags=["model_customization"]
import mlflow
from loguru import logger
from mlflow.models import infer_signature

import config
import data_files
import utils

training_run_id = None
# hide training_run_id = utils.arguments("model-customization", "training-run-id")

# %% tags=["model_customization"]
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
classifier_uri = f"models:/{config.CLASSIFIER_MODEL}/{utils.registered_version(config.CLASSIFIER_MODEL, training_run)}"
encoding = utils.model_encoding(classifier_uri)
train = utils.load_dataset(data_run, "train")
features, _ = data_files.encode(train, encoding)
probabilities = mlflow.xgboost.load_model(classifier_uri).predict_proba(features)
example = train[encoding["columns"]].head(3)

utils.set_experiment()
tags = {"step": "model_customization", "training_run_id": training_run.info.run_id}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}
with mlflow.start_run(run_name="Model_Customization", tags=tags) as run:
    custom_info = mlflow.pyfunc.log_model(
        name="custom",
        python_model=str(config.PROJECT_DIR / "steps" / "custom_model.py"),
        artifacts={"classifier": classifier_uri},
        registered_model_name=config.CUSTOM_MODEL,
        signature=infer_signature(train[encoding["columns"]], probabilities),
        input_example=example,
        pip_requirements=utils.pinned_requirements("mlflow", "xgboost", "scikit-learn", "pandas", "loguru"),
        metadata={**encoding, "words": {}},  # it takes the words as they are
    )
logger.info(f"registered {config.CUSTOM_MODEL} version {custom_info.registered_model_version}")

# %% [markdown]
# Its answers are those of the classifier's `predict_proba`:

# %%
import tempfile

custom_uri = f"models:/{config.CUSTOM_MODEL}/{custom_info.registered_model_version}"
custom = mlflow.pyfunc.load_model(custom_uri)
pd.DataFrame({"custom model": custom.predict(example)[:, 1], "classifier": probabilities[:3, 1]})

# %% [markdown]
# `mlflow models serve` serves it like any other model. Wrong input is answered with status 400 and a reason:

# %%
raw_rows = utils.load_dataset(data_run, "test")[encoding["columns"]]
custom_command = ["mlflow", "models", "serve", "-m", custom_uri, "--env-manager", "local", "--host", "127.0.0.1"]
with servers.server([*custom_command, "--port", str(port)], f"{url}/health") as log:
    response = requests.post(f"{url}/invocations", json=utils.as_request(raw_rows), timeout=60)
    for wrong in [raw_rows.head(1).iloc[:, 1:], raw_rows.head(0)]:
        refusal = requests.post(f"{url}/invocations", json=utils.as_request(wrong), timeout=60)
        print(refusal.status_code, refusal.json()["message"].split("Error: ")[-1])
    request_log = [line for line in log.read_text().splitlines() if "row(s)" in line]

served_probabilities = np.array(response.json()["predictions"])
expected = mlflow.xgboost.load_model(classifier_uri).predict_proba(data_files.encode(raw_rows, encoding)[0])
print("like predict_proba:", np.allclose(served_probabilities, expected, atol=1e-6))

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
        response = requests.post(f"{mlserver_url}/invocations", json=utils.as_request(raw_rows), timeout=60)

print("like predict_proba:", np.allclose(response.json()["predictions"], expected, atol=1e-6))


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
            moving_model, name="classifier", registered_model_name="MovingModel", pip_requirements=requirements
        )


moving_model = mlflow.xgboost.load_model(classifier_uri)
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
mlflow.xgboost.load_model("models:/MovingModel/1").predict(features.head())

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
tracking_port = servers.free_port()
tracking_url = f"http://127.0.0.1:{tracking_port}"
command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(tracking_port), "--workers", "1"]
command += ["--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "mlruns"]


def tracking_server(folder):
    return servers.server(command, f"{tracking_url}/health", folder, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")


mlflow.set_tracking_uri(tracking_url)
with tracking_server(new):
    print(mlflow.get_logged_model(log_model(moving_id).model_id).artifact_location)

with tracking_server(move(new, "newer")):
    for version in [1, 2]:
        answers = mlflow.xgboost.load_model(f"models:/MovingModel/{version}").predict(features)
        print(f"version {version}: same answers", (answers == moving_model.predict(features)).all())

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
# Trials do not wait for each other, so several processes can make them at the same time, if they share the study. Give
# them a `storage`: on one machine a *journal file* is enough, a text file to which each process adds what it did. Here
# two searches, each with the same command, make 20 trials together:

# %%
journal = Path(tempfile.mkdtemp(), "optuna.journal")
workers = [
    mlflow.run(
        ".",
        "hyperparameters-tuning",
        parameters={"n-trials": 20, "storage": str(journal), "data-run-id": data_run.info.run_id},
        experiment_id=run.info.experiment_id,
        env_manager="local",
        synchronous=False,
    )
    for _ in range(2)
]
print("both finished:", all([worker.wait() for worker in workers]))

# %% [markdown]
# Each worker is a run of its own, with the trials that it made nested in it, and writes the best of the whole study at
# its end:

# %% tags=["volatile"]
searches = mlflow.search_runs(
    experiment_ids=[run.info.experiment_id],
    filter_string="tags.step = 'hyperparameters_tuning' and tags.study LIKE 'tuning-%'",
    max_results=2,
)
searches["trials made"] = [
    len(mlflow.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'"))
    for run_id in searches.run_id
]
searches[["tags.mlflow.runName", "trials made", "metrics.logloss", "tags.study"]]

# %% [markdown]
# Together they make at least 20 trials, and at most one more per further worker, since each begins a trial before it
# can know that another one is about to finish the last. The study is still in the file: the same command with a larger
# `n-trials` goes on from there, and so it does after a worker was killed. A study on other data or from other ranges is
# refused.

# %%
shared = optuna.load_study(study_name=None, storage=utils.open_storage(str(journal)))
made = shared.trials_dataframe(attrs=("params", "state"))
print(
    "at least 20:",
    (made.state == "COMPLETE").sum() >= 20,
    " all different:",
    not made.filter(like="params_").duplicated().any(),
)

# %% [markdown]
# Several machines need a database for the study and a tracking server for the runs. Then each of them gives the same
# command, with its own time to come and go:
#
# ```bash
# export MLFLOW_TRACKING_URI=http://127.0.0.1:5000
# mlflow run . -e hyperparameters-tuning -P n-trials=40 -P storage=postgresql://optuna@127.0.0.1/optuna
# ```
#
# A worker that is killed loses nothing: in the database each trial has a heartbeat, and when that stops, another worker
# does the trial again. `mlflow run` logs its parameters, so keep the password out of them: the environment variable
# `PGPASSWORD` or a file `~/.pgpass` tells it to PostgreSQL.

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
# This is how it is done with Dask, on a cluster of two servers. `read_csv` of Dask reads nothing yet: each worker
# reads its own part of the file when the training needs it. On a real cluster the address of the scheduler takes the
# place of `LocalCluster`, and the file lies where all workers can reach it.

# %%
import logging

import dask.dataframe as dd
import xgboost.dask
from distributed import Client, LocalCluster

data_run = utils.latest_run("data_preprocessing")
path = mlflow.artifacts.download_artifacts(run_id=data_run.info.run_id, artifact_path="datasets/train.csv")
train, test = utils.load_dataset(data_run, "train"), utils.load_dataset(data_run, "test")
encoding = data_files.learn_encoding(train, data_run.data.tags)
features, label = data_files.encode(train, encoding)
test_features, test_label = data_files.encode(test, encoding)
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
    dask_features, dask_label = (
        parts.drop(columns=encoding["target"]),
        parts[encoding["target"]] == encoding["classes"][1],
    )
    dask_train = xgboost.dask.DaskDMatrix(dask_client, dask_features, dask_label)
    dask_booster = xgboost.dask.train(dask_client, dask_params, dask_train, rounds)["booster"]
    print(parts.npartitions, "parts on", len(local_cluster.workers), "workers")

# %% [markdown]
# What comes out is an ordinary `Booster`: it needs no Dask to predict. It is logged and registered like the others.

# %%
with mlflow.start_run(run_name="Training_With_Dask"):
    mlflow.set_tag("data_run_id", data_run.info.run_id)
    mlflow.log_params({**dask_params, "num_boost_round": rounds})
    mlflow.MlflowClient().log_inputs(mlflow.active_run().info.run_id, data_run.inputs.dataset_inputs)
    dask_info = mlflow.xgboost.log_model(
        dask_booster,
        name="booster",
        registered_model_name=config.DASK_MODEL,
        signature=infer_signature(features, dask_booster.predict(xgb.DMatrix(features))),
        input_example=features.head(3),
        pip_requirements=requirements,
    )

# %% [markdown]
# Its answers beside those of a Booster trained on the same rows in this process, and of the registered models, which
# had other parameters and stopped early:

# %%
alone = xgb.train(dask_params, xgb.DMatrix(features, label=label), rounds)
answers = pd.DataFrame(
    {
        "Dask": mlflow.pyfunc.load_model(dask_info.model_uri).predict(test_features),
        "one process": alone.predict(xgb.DMatrix(test_features)),
        config.BOOSTER_MODEL: booster_pyfunc.predict(test_features),
    }
)
pd.DataFrame(
    {
        "accuracy": (answers > 0.5).eq(test_label, axis="index").mean(),
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
