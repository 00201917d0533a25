# Generated from chapters/after_deployment.py by notebook_tools/extract.py: do not edit, change the notebook.

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
input, output, model_uri = utils.arguments("batch-scoring", "input", "output", "model-uri")

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
