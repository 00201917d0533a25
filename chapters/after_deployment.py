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
# A model is registered and bears the alias: now files come in that it has never seen. `mlflow models predict` scores
# what is ready for the model, codes in place of words and all columns there. The entry point `batch-scoring` takes a
# file *as it stands*: words are words, columns that the model does not know are ignored, the added feature is computed.
#
# ```bash
# mlflow run . -e batch-scoring -P input=new.csv -P output=scores.csv --env-manager local
# ```

# %%
import os
import sys

# JupyterLab starts a chapter in chapters/, where MLflow would begin a new, empty store.
os.chdir(next(folder for folder in [".", ".."] if os.path.exists(f"{folder}/MLproject")))
sys.path.insert(0, os.getcwd())

# %% tags=["batch_scoring"]
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
# hide input, output, model_uri = utils.arguments("batch-scoring", "input", "output", "model-uri")

# %% [markdown]
# Here the new file is made of scikit-learn's data, without the answers, and with a column that the model does not know:

# %%
import tempfile

from sklearn.datasets import load_breast_cancer

folder = tempfile.mkdtemp()
input, output = f"{folder}/new.csv", f"{folder}/scores.csv"
new = load_breast_cancer(as_frame=True).data.sample(200, random_state=1)
new.assign(patient=[f"patient {number}" for number in range(200)]).to_csv(input, index=False)

# %% [markdown]
# The model says itself how it wants the data. Rows are scored ten thousand at a time, and the result has the number of
# each row's line in the file, the class in the words of the training data, and the probability of class 1.

# %% tags=["batch_scoring"]
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

# %% [markdown]
# The file is written whole or not at all: under another name first, and renamed when it is complete. The run keeps a
# copy, and says which version answered.

# %% tags=["batch_scoring"]
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

# %%
pd.read_csv(output).head()
