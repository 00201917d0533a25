# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import json

import mlflow
import numpy as np
import pandas as pd
import xgboost as xgb
from loguru import logger

import cli
import config
import utils
from cli import StepError

import requests

import servers

port = 0  # a free one
model_uri, port = cli.arguments("serving-check", "model-uri", "port")

if not 0 <= port < 65536:
    raise StepError(f"port is {port}: give a number between 1 and 65535, or 0 for a free port.")

model_uri = utils.version_uri(model_uri)
info, _ = utils.load_model(model_uri)
data_run = utils.data_run_of(info)
rows = utils.load_dataset(data_run, "test").drop(columns=info.metadata["target"])
rows = rows.head(config.BATCH_ROWS)  # what one request may hold
port = port or servers.free_port()
url = f"http://127.0.0.1:{port}"
serve = f"mlflow models serve --env-manager local --host 127.0.0.1 --port {port} -m".split()

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
