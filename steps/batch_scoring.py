# Generated from chapters/after_deployment.py by notebook_tools/extract.py: do not edit, change the notebook.

import os

import mlflow
import numpy as np
import pandas as pd
from loguru import logger
from mlflow.exceptions import MlflowException
from tqdm.auto import tqdm

import data_files
import utils
from utils import StepError

input, output, model_uri = None, None, "models:/CancerModel@champion"
input, output, model_uri = utils.arguments("batch-scoring", "input", "output", "model-uri")

if not input or not output:
    raise StepError(
        "batch-scoring needs two paths: input, the file to score, and output, a CSV file."
    )
utils.check_store()
try:
    info = mlflow.models.get_model_info(model_uri)
    encoding = utils.model_encoding(model_uri)
    classifier = mlflow.xgboost.load_model(model_uri)
except (MlflowException, OSError) as error:
    raise StepError(f"{model_uri} cannot be used: {utils.in_one_line(error)}") from None
frame, _ = data_files.read_table(input, target=False, encoding=encoding)
features, _ = data_files.encode(frame, encoding)

starts = tqdm(range(0, len(features), 10_000), unit="10,000 rows")
parts = [classifier.predict_proba(features.iloc[start : start + 10_000])[:, 1] for start in starts]
probability = np.concatenate(parts)
classes = np.array(encoding["classes"])
scores = pd.DataFrame(
    {"prediction": classes[(probability > 0.5).astype(int)], "probability": probability},
    index=frame.index,
)

utils.set_experiment()
data = utils.as_dataset(features, input, "scored", None)
tags = {"step": "batch_scoring", "scored": input, "digest": data.digest, "model_id": info.model_id}
with mlflow.start_run(run_name="Batch_Scoring", tags=tags):
    versions = mlflow.search_model_versions(filter_string=f"run_id = '{info.run_id}'")
    named = [f"{v.name} {v.version}" for v in versions if v.source.endswith(info.model_id)]
    mlflow.set_tag("model_version", ", ".join(named))
    mlflow.log_input(data, context="scoring")
    share = float((probability > 0.5).mean())
    mlflow.log_metrics({"rows": len(scores), "share_of_class_1": share})
    try:
        scores.to_csv(f"{output}.part")
        os.replace(f"{output}.part", output)
    except OSError as error:
        raise StepError(f"{output}: cannot be written: {error.strerror or error}.") from None
    mlflow.log_artifact(output, "scores")
logger.info(
    f"{input}: {len(scores)} rows scored by {model_uri}, {share:.1%} are {encoding['classes'][1]!r}"
)
