# Generated from chapters/after_deployment.py by notebook_tools/extract.py: do not edit, change the notebook.

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

import cli
import data_files
import utils
from cli import StepError

input, output, model_uri = None, None, "models:/CancerModel@champion"
input, output, model_uri = cli.arguments("batch-scoring", "input", "output", "model-uri")

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
