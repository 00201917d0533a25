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

from mlflow.exceptions import ExecutionException


test_size, n_trials, dataset, target, positive_class, data_name = cli.arguments(
    "main", "test-size", "n-trials", "dataset", "target", "positive-class", "name"
)
def run_step(entry_point, **parameters):
    known = {name: value for name, value in parameters.items() if value is not None}
    given = {name.replace("_", "-"): value for name, value in known.items()}
    experiment_id = mlflow.active_run().info.experiment_id
    options = {"experiment_id": experiment_id, "env_manager": "local"}
    try:
        return mlflow.run(str(config.PROJECT_DIR), entry_point, parameters=given, **options).run_id
    except ExecutionException:
        raise StepError(f"The step {entry_point} failed, for the reason given above.") from None


data_name = utils.data_name(data_name, dataset)
own_data = {"dataset": dataset, "target": target, "positive_class": positive_class}
utils.set_experiment(data_name)
with mlflow.start_run(run_name="Pipeline", tags={"step": "pipeline", "name": data_name}) as run:
    data_run_id = run_step("data-preprocessing", test_size=test_size, name=data_name, **own_data)
    tuning_run_id = run_step("hyperparameters-tuning", n_trials=n_trials, data_run_id=data_run_id)
    builds_on = {"data_run_id": data_run_id, "tuning_run_id": tuning_run_id}
    training_run_id = run_step("model-training", **builds_on)
    for entry_point in ["data-evaluation", "flavour-comparison", "model-customization"]:
        run_step(entry_point, training_run_id=training_run_id)
    # the version that this pipeline has trained, champion or not
    version = utils.registered_version(f"{data_name}Model", mlflow.get_run(training_run_id))
    run_step("serving-check", model_uri=f"models:/{data_name}Model/{version}")
