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
# # After deployment
#
# *A chapter of [A model's life with MLflow](../README.md). Run `make walkthrough` first; then this notebook,
# `chapters/after_deployment.py`, runs alone.*
#
# A model is registered and bears the alias: now files come in that it has never seen. This chapter scores them, notices
# when they are no longer like the data that the model learned from, and trains a new one on newer data.

# %%
import os
import sys

# JupyterLab starts a chapter in chapters/, where MLflow would begin a new, empty store.
os.chdir(next(folder for folder in [".", ".."] if os.path.exists(f"{folder}/MLproject")))
sys.path.insert(0, os.getcwd())

# Programs that MLflow starts for us must find this notebook's Python first.
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])

# %% [markdown]
# ## Scoring a file
#
# `mlflow models predict` scores what is ready for the model, codes in place of words and all columns there. The entry
# point `batch-scoring` takes a file *as it stands*: words are words, the added feature is computed, columns that the
# model does not know may be there too.
#
# ```bash
# mlflow run . -e batch-scoring -P input=new.csv -P output=scores.csv --env-manager local
# ```

# %% tags=["batch_scoring"]
import hashlib
import os
import tempfile

import mlflow
import numpy as np
from loguru import logger
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.exceptions import MlflowException
from tqdm.auto import tqdm

import data_files
import utils
from utils import StepError

input, output, model_uri = None, None, "models:/CancerModel@champion"
# hide input, output, model_uri = utils.arguments("batch-scoring", "input", "output", "model-uri")

# %% [markdown]
# Our new file has the tumours of the test set, which the model was not trained on, without the answers and without the
# added feature, but with a column that the model does not know:

# %%
data_run = utils.latest_run("data_preprocessing")
new = utils.load_dataset(data_run, "test").drop(columns=["target", "symmetry per texture"])
new.insert(0, "patient", [f"patient {number}" for number in range(len(new))])
folder = tempfile.mkdtemp()
input, output = f"{folder}/new.csv", f"{folder}/scores.csv"
new.to_csv(input, index=False)

# %% [markdown]
# The model says itself how it wants the data.

# %% tags=["batch_scoring"]
same = input and output and os.path.realpath(input) == os.path.realpath(output)
if not input or not output or same or os.path.isdir(output):
    raise StepError(
        "batch-scoring needs two paths: input, the file to score, and output, another CSV file."
    )
utils.check_store()
try:
    info = mlflow.models.get_model_info(model_uri)
    encoding = utils.model_encoding(model_uri)
    classifier = mlflow.xgboost.load_model(model_uri)
except (MlflowException, OSError) as error:
    raise StepError(f"{model_uri} cannot be used: {utils.in_one_line(error)}") from None
if not hasattr(classifier, "predict_proba"):
    raise StepError(
        f"{model_uri} cannot be used: it is no classifier. Give a version of CancerModel."
    )


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


# %% [markdown]
# The file is read and scored part by part, so one of a million rows needs no more memory than a short one. The result
# has each row's line in the file, the columns that the model does not use (they tell which row it is), the class in the
# words of the training data, and the probability of class 1.
#
# It is written whole or not at all: in a folder of its own beside `output`, which goes away whatever happens, and put
# in its place when it is complete. The run keeps a copy and says which version answered.

# %% tags=["batch_scoring"]
try:
    unfinished = tempfile.TemporaryDirectory(dir=os.path.dirname(output) or ".", prefix=".scoring-")
except OSError as error:
    raise StepError(f"{output}: cannot be written: {error.strerror}.") from None
rows, positive = 0, 0
with unfinished as place:
    path = os.path.join(place, os.path.basename(output))
    with open(path, "w", newline="", encoding="utf-8") as file, tqdm(unit=" rows", delay=1) as bar:
        for features, others in data_files.read_parts(input, encoding):
            if taken := {"prediction", "probability", features.index.name}.intersection(others):
                raise StepError(
                    f"{input}: has columns that the result will have: {taken}. Rename them."
                )
            codes, _ = data_files.encode(features, encoding)
            probability = classifier.predict_proba(codes)[:, 1]
            is_positive = (probability > 0.5).astype(int)
            prediction = np.array(encoding["classes"])[is_positive]
            scores = others.assign(prediction=prediction, probability=probability)
            scores.to_csv(file, header=not rows)
            rows, positive = rows + len(scores), positive + int(is_positive.sum())
            bar.update(len(scores))

    versions = mlflow.search_model_versions(filter_string=f"run_id = '{info.run_id}'")
    tags = {
        "step": "batch_scoring",
        "model_version": ", ".join(
            f"{v.name} {v.version}" for v in versions if v.source.endswith(info.model_id)
        ),
        "model_id": info.model_id,
        "scored": input,
        "digest": digest(input),
        "scores_digest": digest(path),
    }
    data = MetaDataset(
        LocalArtifactDatasetSource(input), "scored", tags["digest"], info.signature.inputs
    )
    utils.set_experiment()
    with mlflow.start_run(run_name="Batch_Scoring", tags=tags) as run:
        mlflow.log_input(data, context="scoring")
        mlflow.log_metrics({"rows": rows, "share_of_class_1": positive / rows})
        mlflow.log_artifact(path, "scores")
        os.replace(path, output)
logger.info(
    f"{input}: {rows} rows scored by {tags['model_version']}, "
    f"{positive / rows:.1%} are {encoding['classes'][1]!r}"
)

# %%
import pandas as pd

pd.read_csv(output).head()

# %% [markdown]
# ## Are the data still the same?
#
# Nobody tells us whether these answers are right: the biopsies come later, if at all. But we can see whether the new
# tumours look like those that the champion was trained on. If they do not (another device, another hospital, another
# unit), its test results say nothing about them: the data have **drifted**. `drift-check` compares a file, scored or
# about to be, with the champion's training data:
#
# ```bash
# mlflow run . -e drift-check -P input=new.csv --env-manager local
# ```

# %% tags=["drift_check"]
import matplotlib.pyplot as plt
import mlflow
import numpy as np
import pandas as pd
from loguru import logger
from mlflow.exceptions import MlflowException
from scipy import stats

import config
import data_files
import utils
from utils import StepError

input, model_uri = None, "models:/CancerModel@champion"
# hide input, model_uri = utils.arguments("drift-check", "input", "model-uri")

# %%
input = f"{folder}/new.csv"

# %% [markdown]
# From the model we come to its training run, from there to the run that prepared the data, and to the data.

# %% tags=["drift_check"]
if not input:
    raise StepError("drift-check needs a path: input, the file to compare with the training data.")
utils.check_store()
try:
    info = mlflow.models.get_model_info(model_uri)
    encoding = utils.model_encoding(model_uri)
    classifier = mlflow.xgboost.load_model(model_uri)
    data_run_id = mlflow.get_run(info.run_id).data.tags.get("data_run_id")
    if not (data_run_id and hasattr(classifier, "predict_proba")):
        raise StepError(f"{model_uri}: is no classifier of the step model-training. Give another.")
    data_run = mlflow.get_run(data_run_id)
    train, test = utils.load_dataset(data_run, "train"), utils.load_dataset(data_run, "test")
except (MlflowException, OSError) as error:
    raise StepError(f"{model_uri} cannot be used: {utils.in_one_line(error)}") from None
new = pd.concat([features for features, _ in data_files.read_parts(input, encoding)])
if len(new) < config.DRIFT["rows"]:
    raise StepError(
        f"{input}: has {len(new)} rows, which say little: give at least {config.DRIFT['rows']}."
    )

# %% [markdown]
# Two samples of one column are compared with SciPy. For numbers it is the Kolmogorov-Smirnov test; its *distance* is
# the largest gap between the two cumulative distributions, 0 for equal ones and 1 where they do not overlap. For words
# it is the chi-square test, and the distance is the share of rows that would have to hold another word, 0 to 1 as well.
# (Cramér's V would be more usual, but it shrinks when one sample is much larger than the other.) The share of missing
# values is compared in the same way.


# %% tags=["drift_check"]
def compare(before, after, words):
    before, after = before.dropna(), after.dropna()
    if before.empty or after.empty:  # the share of missing values says it
        return np.nan, 1.0
    if not words:
        result = stats.ks_2samp(before, after, method="asymp")
        return result.statistic, result.pvalue
    counts = pd.concat([before.value_counts(), after.value_counts()], axis=1, keys=[0, 1]).fillna(0)
    shares = counts / counts.sum()
    return (shares[0] - shares[1]).abs().sum() / 2, stats.chi2_contingency(counts).pvalue


# %% [markdown]
# Beside the columns we compare what comes out, the champion's probabilities. Not with those of the training data, of
# which a model is always too sure, but with those of the test set.


# %% tags=["drift_check"]
def probability(frame):
    return pd.Series(classifier.predict_proba(data_files.encode(frame, encoding)[0])[:, 1])


answer = f"probability of {encoding['classes'][1]}"
samples = {name: (train[name], new[name]) for name in encoding["columns"]}
samples[answer] = (probability(test), probability(new))
found = []
for name, (before, after) in samples.items():
    words = encoding["words"].get(name)
    distance, p_value = compare(before, after, words)
    _, p_missing = compare(before.isna().astype(float), after.isna().astype(float), None)
    found.append(
        {
            "column": name,
            "distance": distance,
            "p_value": p_value,
            "missing_before": before.isna().mean(),
            "missing_now": after.isna().mean(),
            "p_missing": p_missing,
            "unseen_words": (after.notna() & ~after.isin(words)).mean() if words else 0.0,
        }
    )
table = pd.DataFrame(found).set_index("column")

# %% [markdown]
# When is a difference a drift? A *p-value* alone is a poor judge: with thousands of rows the smallest difference is no
# chance, and among so many comparisons some p-values are small by chance. So they are corrected for their number (the
# false discovery rate), and the difference must also be large enough to matter. This is in `config.py`:

# %%
pd.Series(config.DRIFT, name="value").to_frame()

# %% tags=["drift_check"]
p_values = ["p_value", "p_missing"]
table[p_values] = stats.false_discovery_control(table[p_values], axis=None).reshape(-1, 2)
limits = config.DRIFT
change = (table.missing_now - table.missing_before).abs()
table["drift"] = (
    ((table.distance >= limits["distance"]) & (table.p_value < limits["p_value"]))
    | ((change >= limits["missing"]) & (table.p_missing < limits["p_value"]))
    | (table.unseen_words >= limits["unseen"])
)
table = table.sort_values(["drift", "distance"], ascending=False)
drifted = table.index[table.drift].tolist()

# %% [markdown]
# The table, and a plot of the answers and the three columns that differ most, go into a run, whose tag `drift` is *yes*
# or *no*. So whatever starts the check, a scheduler for instance, can ask MLflow what came out.

# %% tags=["drift_check"]
shown = [answer, *table.index.drop(answer)[:3]]
figure, axes = plt.subplots(1, len(shown), figsize=(11, 3), layout="constrained", squeeze=False)
for axis, name in zip(axes.flat, shown, strict=True):
    for label, values in zip(["before", "now"], samples[name], strict=True):
        values = values.dropna()
        values = values.sample(min(len(values), 10_000), random_state=config.SEED)
        if name in encoding["words"]:
            shares = values.value_counts(normalize=True).head(10)
            axis.plot(shares.index, shares, "o", alpha=0.6, label=label)
        elif len(values):
            axis.ecdf(values, label=label)
    axis.set_title(f"{name[:30]}{' (drift)' * (name in drifted)}", fontsize="small")
    axis.legend()
plt.close(figure)

data = utils.as_dataset(new, input, "incoming", None)
tags = {"step": "drift_check", "checked": input, "digest": data.digest, "model_id": info.model_id}
tags |= {"data_run_id": data_run_id, "drift": "yes" if drifted else "no"}
utils.set_experiment()
with mlflow.start_run(run_name="Drift_Check", tags=tags) as run:
    mlflow.log_params(limits)
    mlflow.MlflowClient().log_inputs(run.info.run_id, data_run.inputs.dataset_inputs)
    mlflow.log_input(data, context="checking")
    mlflow.log_metrics(
        {
            "rows": len(new),
            "drifted_columns": len(drifted),
            "largest_distance": table.distance.max(),
            "answer_distance": table.distance[answer],
            "largest_change_of_missing": change.max(),
            "largest_share_of_unseen_words": table.unseen_words.max(),
        }
    )
    mlflow.log_table(table.reset_index(), "drift/columns.json")
    mlflow.log_figure(figure, "drift/columns.png")
if drifted:
    logger.warning(f"{input}: has drifted from the training data of {model_uri}: {drifted}")
else:
    logger.info(f"{input}: {len(new)} rows are like the training data of {model_uri}")

# %%
table.head(3).round(3)

# %% [markdown]
# ## Another device
#
# A second laboratory sends its measurements. What nobody has told us: its microscope measures the texture differently,
# and one size by another rule (made up here: two columns are multiplied). This time the check runs as a command, and
# what it found is read from MLflow:


# %% tags=["remove-output"]
def elsewhere(measured):
    shifted = {
        "worst area": measured["worst area"] * 1.4,
        "mean texture": measured["mean texture"] * 1.3,
    }
    return measured.assign(**shifted)


def run_step(entry_point, **parameters):
    given = {name.replace("_", "-"): value for name, value in parameters.items()}
    step = mlflow.run(
        ".",
        entry_point,
        parameters=given,
        experiment_id=run.info.experiment_id,
        env_manager="local",
    )
    return step.run_id


elsewhere(pd.read_csv(f"{folder}/new.csv")).to_csv(f"{folder}/second_lab.csv", index=False)
drift_run_id = run_step("drift-check", input=f"{folder}/second_lab.csv")

# %%
print("drift:", mlflow.get_run(drift_run_id).data.tags["drift"])
columns = mlflow.load_table("drift/columns.json", run_ids=[drift_run_id]).set_index("column")
columns[columns.drift].round(3)

# %%
from IPython.display import display

plot = mlflow.artifacts.load_image(f"runs:/{drift_run_id}/drift/columns.png")
display(plot, metadata={"image/png": {"alt": "The answers and three columns, before and now"}})

# %% [markdown]
# ## Retraining, through the same gate
#
# What now? First ask the laboratory: often the right answer to a drift is to repair the data. Suppose that it is here
# to stay, and that the biopsies of the first tumours from there have come in. Then a new model is trained on the newer
# data, with the entry points of the story and a short search:

# %% tags=["remove-output"]
from sklearn.datasets import load_breast_cancer

newer = f"{folder}/newer.csv"
elsewhere(load_breast_cancer(as_frame=True).frame).to_csv(newer, index=False)

before = utils.champion_version()
data_run_id = run_step("data-preprocessing", dataset=newer)
tuning_run_id = run_step("hyperparameters-tuning", n_trials=5, data_run_id=data_run_id)
training_run_id = run_step("model-training", data_run_id=data_run_id, tuning_run_id=tuning_run_id)
evaluation_run_id = run_step("data-evaluation", training_run_id=training_run_id)

# %% [markdown]
# The gate asks what it always asks: does the new version reach every threshold, and is the champion not better *on the
# same data*, here the newer ones?

# %%
evaluation = mlflow.get_run(evaluation_run_id)
champion_run = mlflow.search_runs(
    [run.info.experiment_id],
    f"tags.mlflow.parentRunId = '{evaluation_run_id}'",
    output_format="list",
)[0]
print("gate:", evaluation.data.tags["gate"])
print(f"champion: version {before}, now version {utils.champion_version()}")
pd.DataFrame(
    {
        f"version {before}": champion_run.data.metrics,
        f"version {evaluation.data.tags['model_version']}": evaluation.data.metrics,
    }
).loc[list(config.THRESHOLDS)]

# %% [markdown]
# Only the accuracy (`CHAMPION_METRIC` in `config.py`) is compared with the champion's. Look at the other rows too: a
# version may win by accuracy and lose in precision, which means more cancers called benign. And the old model knows the
# old device: if both keep sending files, the newer data should hold rows of both.
#
# The second laboratory was made up. So the alias goes back, and the runs on its data are deleted, that no later step
# takes them for the last ones (`mlflow gc` would remove them for good):

# %%
client = mlflow.MlflowClient()
client.set_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION, before)
for run_id in [data_run_id, tuning_run_id, training_run_id, evaluation_run_id]:
    client.delete_run(run_id)

# %% [markdown]
# ## The circle
#
# ```mermaid
# flowchart LR
#   file[New file] --> score[Score] --> drift{Drift?}
#   drift -- no --> file
#   drift -- yes --> labels[Newer data, with answers] --> retrain[Retrain] --> gate{Gate}
#   gate -- passed --> alias[The alias moves] --> score
#   gate -- failed --> champion[The champion stays] --> score
# ```
#
# Scoring, checking, retraining and the gate are commands of this project, and each leaves a run. What starts them, a
# scheduler or a person, is up to you; the alias is all that they share.
