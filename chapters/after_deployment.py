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
# when they are no longer like the data that the model learned from, trains a new one on newer data, and finds out where
# a single answer came from.

# %%
import os

# JupyterLab starts a chapter in chapters/, where MLflow would begin a new, empty store.
if not os.path.exists("MLproject"):
    os.chdir("..")

# %% [markdown]
# ## Scoring a file
#
# `mlflow models predict` takes rows as they stand too, but pandas guesses what the columns are: `01` becomes 1, and the
# word `None` a missing value. The entry point `batch-scoring` reads each column as the kind that the model knows, names
# the line of a value that does not fit, and keeps the columns that the model does not use. It needs no more memory for
# a long file than for a short one. (For a model on data of your own, give `-P model-uri=models:/NAMEModel@champion` as
# well.)
#
# ```bash
# mlflow run . -e batch-scoring -P input=new.csv -P output=scores.csv --env-manager local
# ```

# %% tags=["batch_scoring"]
import hashlib
import os
import shutil
import tempfile
from collections import Counter

import mlflow
import pandas as pd
from loguru import logger
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource
from tqdm.auto import tqdm

# hide import cli
import data_files
import utils
from cli import StepError

input, output, model_uri = None, None, "models:/CancerModel@champion"
# hide input, output, model_uri = cli.arguments("batch-scoring", "input", "output", "model-uri")

# %% [markdown]
# Our new file has the tumours of the test set, which the model was not trained on, without the answers, but with a
# column that the model does not know:

# %%
data_run = utils.latest_run("data_preprocessing", name="Cancer")
new = utils.load_dataset(data_run, "test").drop(columns="target")
new.insert(0, "patient", [f"patient {number}" for number in range(len(new))])
folder = tempfile.mkdtemp()
input, output = f"{folder}/new.csv", f"{folder}/scores.csv"
new.to_csv(input, index=False)

# %% [markdown]
# `version_uri` looks once which version has the alias; `load_model` gives back the model with the code that is stored
# with it: its `features` turn rows into what its classifier sees, and its metadata say what the columns and the classes
# are.

# %% tags=["batch_scoring"]
if not input or not output:
    raise StepError("batch-scoring needs two paths: input, the file to score, and output.")
output = os.path.realpath(os.path.join(utils.started_in(), output))  # what a link leads to
if output == os.path.realpath(input) or not output.endswith(".csv") or os.path.isdir(output):
    raise StepError(f"{output}: the output must be another file, whose name ends in .csv.")
model_uri = utils.version_uri(model_uri)
info, model = utils.load_model(model_uri)
types, classes = info.metadata["types"], info.metadata["classes"]


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


# %% [markdown]
# The file is read and scored part by part. The result has each row's line in the file, the columns that the model does
# not use (they tell which row it is), the class in the words of the training data, and the probability of each class.
# Words that the model does not know are missing values to it: the run has the largest share of them in any column, and
# the last lines name the columns.
#
# It is written whole or not at all: in a folder of its own beside `output`, which goes away whatever happens, and put
# in its place when it is complete. The run keeps a copy and says which version answered.

# %% tags=["batch_scoring"]
try:
    unfinished = tempfile.TemporaryDirectory(dir=os.path.dirname(output), prefix=".scoring-")
except OSError as error:
    raise StepError(f"{output}: cannot be written: {error.strerror}.") from None
rows, positive, unknown, given = 0, 0, Counter(), Counter()
with unfinished as place:
    path = os.path.join(place, os.path.basename(output))
    with open(path, "w", newline="", encoding="utf-8") as file, tqdm(unit=" rows", delay=1) as bar:
        for part, others in data_files.read_parts(input, types):
            values = model.features(part)
            answers = model.answer(values).set_axis(part.index)
            if taken := {*answers, part.index.name}.intersection(others):
                raise StepError(
                    f"{input}: has columns that the result will have: {taken}. Rename them."
                )
            scores = pd.concat([others, answers], axis="columns")
            scores.to_csv(file, header=not rows)
            rows += len(scores)
            positive += int((answers["prediction"] == classes[1]).sum())
            for name, share in model.unknown_words(part, values).items():
                unknown[name] += share * len(part)
                given[name] += part[name].notna().sum()
            bar.update(len(scores))

    unknown = {name: count / rows for name, count in unknown.items()}
    tags = {
        "step": "batch_scoring",
        "name": info.metadata["name"],
        "model_version": model_uri,
        "model_id": info.model_id,
        "scored": input,
        "digest": digest(input),
        "scores_digest": digest(path),
    }
    data = MetaDataset(
        LocalArtifactDatasetSource(input), "scored", tags["digest"], info.signature.inputs
    )
    utils.set_experiment(info.metadata["name"])
    with mlflow.start_run(run_name="Batch_Scoring", tags=tags) as run:
        mlflow.log_input(data, context="scoring")
        mlflow.log_metrics({"rows": rows, "share_of_class_1": positive / rows})
        mlflow.log_metric("largest_share_of_unseen_words", max(unknown.values(), default=0))
        mlflow.log_artifact(path, "scores")
        if os.path.exists(output):
            shutil.copymode(output, path)
        os.replace(path, output)
logger.info(
    f"{input}: {rows} rows scored by {tags['model_version']}, "
    f"{positive / rows:.1%} are {classes[1]!r}"
)
if shares := [f"{name} {100 * share:.3g} %" for name, share in unknown.items() if share]:
    logger.warning(f"{input}: rows with a word that the model does not know: {', '.join(shares)}")
if strange := [name for name in given if 0 < given[name] == round(unknown[name] * rows)]:
    logger.warning(f"{input}: no row has a word that the model knows in: {', '.join(strange)}")
if rows > 1 and positive in (0, rows):
    logger.warning(f"{input}: all {rows} rows got the same class: is that the right file?")

# %%
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
from scipy import stats

# hide import cli
import config
import data_files
import utils
from cli import StepError

input, model_uri = None, "models:/CancerModel@champion"
# hide input, model_uri = cli.arguments("drift-check", "input", "model-uri")
least_rows = 30  # fewer say little

# %%
input = f"{folder}/new.csv"

# %% [markdown]
# From the model we come to its training run, from there to the run that prepared the data, and to the data.

# %% tags=["drift_check"]
if not input:
    raise StepError("drift-check needs a path: input, the file to compare with the training data.")
model_uri = utils.version_uri(model_uri)
info, model = utils.load_model(model_uri)
types, classes = info.metadata["types"], info.metadata["classes"]
data_run = utils.data_run_of(info)
train, test = utils.load_dataset(data_run, "train"), utils.load_dataset(data_run, "test")
new = pd.concat([part for part, _ in data_files.read_parts(input, types)])
if len(new) < least_rows:
    raise StepError(f"{input}: has {len(new)} rows, which say little: give at least {least_rows}.")

# %% [markdown]
# What is compared is what the classifier sees, from the model's own `features`: with the added feature, and with dates
# as numbers of days. Only words stay words.


# %% tags=["drift_check"]
def seen(table, values):
    names = [column["name"] for column in types]
    samples = values.set_axis([*names, *values.columns[len(names) :]], axis="columns")
    for name, known in words.items():  # those that the model does not know as they stand
        known = samples[name].map(dict(enumerate(known))).astype(object)
        samples[name] = known.fillna(table[name])
    return samples


words = {column["name"]: column["words"] for column in types if column["kind"] == "words"}
train_values, test_values, new_values = map(model.features, [train, test, new])
before, now = seen(train, train_values), seen(new, new_values)
unseen_before = model.unknown_words(test, test_values)
unseen_now = model.unknown_words(new, new_values)

# %% [markdown]
# Two samples of one column are compared with SciPy. For numbers it is the Kolmogorov-Smirnov test; its *distance* is
# the largest gap between the two cumulative distributions, 0 for equal ones and 1 where they do not overlap. For words
# it is the chi-square test, and the distance is the share of rows that would have to hold another word, 0 to 1 as well.
# (Cramér's V would be more usual, but it shrinks when one sample is much larger than the other.) Rare words count as
# one, since that test wants five rows of each. What has two values, as missing or not, is compared with Fisher's exact
# test.


# %% tags=["drift_check"]
def compare(before, after, are_words):
    before, after = before.dropna(), after.dropna()
    if before.empty or after.empty:  # the share of missing values says it
        return np.nan, 1.0
    both = [before.value_counts(), after.value_counts()]
    counts = pd.concat(both, axis="columns", keys=[0, 1]).fillna(0)
    if len(counts) > 2 and not are_words:
        result = stats.ks_2samp(before, after, method="asymp")
        return result.statistic, result.pvalue
    rare = (stats.contingency.expected_freq(counts) < 5).any(axis=1)
    counts = pd.concat([counts[~rare], counts[rare].sum().to_frame().T])
    counts = counts[counts.sum(axis=1) > 0]
    test = stats.fisher_exact if counts.shape == (2, 2) else stats.chi2_contingency
    shares = counts / counts.sum()
    return (shares[0] - shares[1]).abs().sum() / 2, test(counts).pvalue


# %% [markdown]
# Beside the columns we compare what comes out, the champion's probabilities. Not with those of the training data, of
# which a model is always too sure, but with those of the test set.

# %% tags=["drift_check"]
answer = f"probability of {classes[1]}"
samples = {name: (before[name], now[name]) for name in before}
samples[answer] = (model.answer(test_values)[answer], model.answer(new_values)[answer])
found = []
for name, (earlier, later) in samples.items():
    distance, p_value = compare(earlier, later, name in words)
    change, p_missing = compare(earlier.isna(), later.isna(), True)
    unseen = [unseen_before.get(name, 0.0), unseen_now.get(name, 0.0)]
    rows = [
        [share * len(of), (1 - share) * len(of)]
        for share, of in zip(unseen, [test, new], strict=True)
    ]
    found.append(
        {
            "column": name,
            "distance": distance,
            "p_value": p_value,
            "missing_before": earlier.isna().mean(),
            "missing_now": later.isna().mean(),
            "change_of_missing": change,
            "p_missing": p_missing,
            "unseen_before": unseen[0],
            "unseen_now": unseen[1],
            "p_unseen": stats.fisher_exact(np.round(rows).astype(int)).pvalue,
        }
    )
table = pd.DataFrame(found).set_index("column")

# %% [markdown]
# When is a difference a drift? A *p-value* alone is a poor judge: with thousands of rows the smallest difference is no
# chance, and among so many comparisons some p-values are small by chance. So they are corrected for their number (the
# false discovery rate), and the difference must also be large enough to matter: the *distance*, the change of the share
# of *missing* values, or that of *unseen* words. (Some words of a column with many are always new. So their share is
# compared with that of the test set, which the model has not learned words from either.)

# %% tags=["drift_check"]
limits = {"p_value": 0.01, "distance": 0.15, "change_of_missing": 0.1, "change_of_unseen": 0.05}
p_values = ["p_value", "p_missing", "p_unseen"]
table[p_values] = stats.false_discovery_control(table[p_values], axis=None).reshape(-1, 3)
sizes = {"distance": "p_value", "change_of_missing": "p_missing", "change_of_unseen": "p_unseen"}
table["change_of_unseen"] = table.unseen_now - table.unseen_before
table["drift"] = False
for size, p_value in sizes.items():
    table["drift"] |= (table[size] >= limits[size]) & (table[p_value] < limits["p_value"])
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
        if name in words:
            shares = values.value_counts(normalize=True).head(10)
            axis.plot(shares.index, shares, "o", alpha=0.6, label=label)
        elif len(values):
            axis.ecdf(values, label=label)
    axis.set_title(f"{name[:30]}{' (drift)' * (name in drifted)}", fontsize="small")
    axis.legend()
plt.close(figure)

data = utils.as_dataset(new, input, "incoming", None)
tags = {"step": "drift_check", "name": info.metadata["name"], "model_version": model_uri}
tags |= {"checked": input, "digest": data.digest, "model_id": info.model_id}
tags |= {"data_run_id": data_run.info.run_id, "drift": "yes" if drifted else "no"}
utils.set_experiment(info.metadata["name"])
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
            "largest_change_of_missing": table.change_of_missing.max(),
            "largest_share_of_unseen_words": table.unseen_now.max(),
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
        "worst area": measured["worst area"] * 0.7,
        "mean texture": measured["mean texture"] * 0.75,
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
# data, with the entry points of the story, and with as long a search as there: what may become the champion should not
# be the best of a few trials.

# %% tags=["remove-output"]
from sklearn.datasets import load_breast_cancer

bunch = load_breast_cancer(as_frame=True)
measured = bunch.frame.assign(target=bunch.target_names[bunch.target])
elsewhere(measured).to_csv(f"{folder}/newer.csv", index=False)

data_run_id = run_step("data-preprocessing", dataset=f"{folder}/newer.csv", name="Cancer")
tuning_run_id = run_step("hyperparameters-tuning", data_run_id=data_run_id)
training_run_id = run_step("model-training", data_run_id=data_run_id, tuning_run_id=tuning_run_id)
evaluation_run_id = run_step("data-evaluation", training_run_id=training_run_id)

# %% [markdown]
# The gate asks what it always asks: is the new version clearly better than guessing, does it find enough of the
# cancers, and is its log loss not above the champion's *on the same rows*? These are the rows of the newer test set
# that neither of the two was trained on.


# %%
def nested_runs(run_id):
    below = f"tags.mlflow.parentRunId = '{run_id}'"
    return mlflow.search_runs([run.info.experiment_id], below, output_format="list")


evaluation = mlflow.get_run(evaluation_run_id)
tags, metrics = evaluation.data.tags, evaluation.data.metrics
champion_run = nested_runs(evaluation_run_id)[0]  # Champion_Version_N
print("gate:", tags["gate"])
print(f"champion: version {tags['champion_before']}, now version {tags['champion_after']}")
above, error = metrics["loss_above_champion"], metrics["loss_above_champion_standard_error"]
print(f"log loss above the champion's: {above:.4f} ± {error:.4f}")
gain, error = metrics["gain_over_guessing"], metrics["gain_over_guessing_standard_error"]
print(f"gain over guessing: {gain:.4f} ± {error:.4f}")
pd.DataFrame(
    {
        f"version {tags['champion_before']}": champion_run.data.metrics,
        f"version {tags['model_version']}": metrics,
    }
).loc[["log_loss", "recall_score", "false_negatives", "false_positives"]].round(4)

# %% [markdown]
# Only the log loss is compared with the champion's. Look at the other rows too: a version may have the lower loss and
# still call more cancers benign. And the old model knows the old device: if both keep sending files, the newer data
# should hold rows of both.

# %% [markdown]
# ## Why this answer?
#
# Some day somebody asks about one line of `scores.csv`. By then another version is the champion, as it is here since
# the retraining. But MLflow leads from the answer back to everything that made it.
#
# The digest of the scored file finds the run that wrote it, and the run names the version that answered. (An answer of
# [a server of your own](own_server.md) names its version itself.)

# %%
line = pd.read_csv(output).iloc[0]
scoring_run = mlflow.search_runs(
    search_all_experiments=True,
    filter_string=f"tags.scores_digest = '{digest(output)}'",
    output_format="list",
)[0]  # the last one, where several have written the same
model_uri = scoring_run.data.tags["model_version"]
print(f"{line['patient']}: {line['prediction']}, {answer} {line[answer]:.4f}, by {model_uri}")

# %% [markdown]
# The source of a registered version is a logged model, and that knows its training run. The training run names the
# search that its parameters are from, its data sets with their digests, and the commit:

# %%
client = mlflow.MlflowClient()
version = client.get_model_version(*model_uri.removeprefix("models:/").split("/"))
logged_model = mlflow.get_logged_model(version.source.removeprefix("models:/"))
training_run = mlflow.get_run(logged_model.source_run_id)
search_run = mlflow.get_run(training_run.data.tags["tuning_run_id"])
print("gate:", version.tags.get("gate"))
print("logged model:", logged_model.model_id)
print("training run:", training_run.info.run_id)
print(f"search: {search_run.info.run_id}, log loss {search_run.data.metrics['logloss']:.4f}")
for logged in training_run.inputs.dataset_inputs:
    print(f"data set {logged.dataset.name}: digest {logged.dataset.digest}")
print("commit:", training_run.data.tags.get("mlflow.source.git.commit"))

# %% [markdown]
# (MLflow notes the commit of a script that runs in a git clone. A notebook has none, and the folder in which this page
# was made is no clone.) The parameters stand beside what autologging and `mlflow run` have added:

# %%
dict(sorted(training_run.data.params.items()))

# %% [markdown]
# Does that version still give this answer? The run of the scoring has the path and the digest of the file that was
# scored, but not its rows: so keep such files. The row goes through the model once more:

# %%
info, model = utils.load_model(model_uri)
scored = scoring_run.data.tags["scored"]
print("the same file:", digest(scored) == scoring_run.data.tags["digest"])
parts = data_files.read_parts(scored, info.metadata["types"])
row = pd.concat([part for part, _ in parts]).loc[[line["line"]]]
values = model.features(row)
again = model.answer(values)[answer].iloc[0]
print("difference:", again - line[answer])

# %% [markdown]
# What pushed it there? XGBoost splits an answer into one *contribution* per feature, and one more that is the same for
# all rows, the last. (The plot of the evaluation shows the same SHAP values.) They are in **log odds**, and they sum to
# the *margin*, the log odds of the answer. A positive contribution pushes towards class 1, *malignant*. The five
# largest:

# %%
import xgboost as xgb

booster, matrix = model.classifier.get_booster(), xgb.DMatrix(values)
contributions = booster.predict(matrix, pred_contribs=True)[0]
margin = booster.predict(matrix, output_margin=True)[0]
print(f"sum {contributions.sum():.4f}, margin {margin:.4f}")
print(f"as a probability: {1 / (1 + np.exp(-margin)):.4f}")
pushes = pd.DataFrame({"value": values.iloc[0], "contribution": contributions[:-1]})
pushes.sort_values("contribution", key=abs, ascending=False).head().round(4)

# %% [markdown]
# This is what the model did with this row. It is not what makes a tumour malignant: of two columns that say nearly the
# same, the trees may have used either.
#
# ### Which version was the champion at that time?
#
# An answer of `mlflow models serve` names no version: there the question is which one was the champion when the server
# was started. Each evaluation has noted the champion before and after it. Those whose runs are deleted count too, since
# what they moved was moved:

# %%
from mlflow.entities import ViewType

found = mlflow.search_runs(
    search_all_experiments=True,
    filter_string="tags.step = 'data_evaluation' and tags.name = 'Cancer'",
    run_view_type=ViewType.ALL,
    order_by=["attributes.end_time ASC"],
)
noted = ["end_time", "tags.model_version", "tags.champion_before", "tags.champion_after"]
evaluations = found[noted].dropna()  # without those that were interrupted
evaluations.columns = ["ended", "version", "before", "after"]
print(evaluations.to_string(index=False))

# %% [markdown]
# The champion of a time is the version that the last evaluation before it has left, if the next one has found the same.
# For the time of the scoring:

# %%
then = pd.Timestamp(scoring_run.info.start_time, unit="ms", tz="UTC")
earlier, later = evaluations[evaluations["ended"] <= then], evaluations[evaluations["ended"] > then]
print("left by the last evaluation: version", *earlier["after"].tail(1))
print("found by the next one: version", *later["before"].head(1))

# %% [markdown]
# How far can this be trusted? The alias moves some seconds after the end of the run. And a move by hand, in code or in
# the UI, leaves no run: those of the walkthrough are not in the table, nor will be the one that comes next. Where the
# two versions differ, somebody has moved the alias in between, and nobody knows when. (Run this chapter a second time
# to see that.) Where they are the same, it may have gone there and back. So let only evaluations move the alias, or let
# each answer name its version.
#
# ## The way back
#
# The second laboratory was made up. So the alias goes back, and the runs on its data are deleted, that no later step
# takes them for the last ones (`mlflow gc` would remove them for good). The new version stays, without the alias:

# %%
client.set_registered_model_alias("CancerModel", "champion", tags["champion_before"])
for run_id in [data_run_id, tuning_run_id, training_run_id, evaluation_run_id]:
    for nested in nested_runs(run_id):
        client.delete_run(nested.info.run_id)
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
