# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import argparse

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
parser = argparse.ArgumentParser(description="Serve a registered model, query it and compare its answers.")
parser.add_argument("--model-uri", default=config.CHAMPION_URI, help="the model, such as models:/NAME/VERSION")
parser.add_argument("--port", type=int, default=0, help="port of the server; 0 takes a free one")
args = parser.parse_args()
model_uri, port = args.model_uri, args.port

if not 0 <= port < 65536:
    raise StepError(f"port is {port}: give a number between 1 and 65535, or 0 for a free port.")

try:
    model_info = mlflow.models.get_model_info(model_uri)
    training_run = mlflow.get_run(model_info.run_id)
except (MlflowException, OSError) as error:
    reason = str(error).splitlines()[0]
    raise StepError(f"{model_uri}: there is no such model to serve: {reason} Make one: mlflow run . -e main") from None
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
test = utils.load_split(data_run, "test").drop(columns=config.TARGET)

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
