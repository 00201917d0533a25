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

import timeit

training_run_id = None
training_run_id = cli.arguments("flavour-comparison", "training-run-id")
training_run = utils.latest_run("model_training", training_run_id)
model_name = f"{training_run.data.tags['name']}Model"
registered_uri = f"models:/{model_name}/{utils.registered_version(model_name, training_run)}"
booster_version = utils.registered_version(f"{model_name}Booster", training_run)
info, model = utils.load_model(registered_uri)
test = utils.load_dataset(utils.data_run_of(info), "test").drop(columns=info.metadata["target"])
test = test.head(config.BATCH_ROWS)
test_values = model.features(test)

classifier_uri = f"models:/{info.metadata['classifier_id']}"  # a logged model: it is not registered
booster = mlflow.xgboost.load_model(f"models:/{model_name}Booster/{booster_version}")
classifier = mlflow.xgboost.load_model(classifier_uri)
classifier_pyfunc = mlflow.pyfunc.load_model(classifier_uri)
registered = mlflow.pyfunc.load_model(registered_uri)

calls = {
    "Booster": lambda rows: booster.predict(xgb.DMatrix(test_values.head(rows))),
    "XGBClassifier": lambda rows: classifier.predict(test_values.head(rows)),
    "XGBClassifier as pyfunc": lambda rows: classifier_pyfunc.predict(test_values.head(rows)),
    "registered": lambda rows: registered.predict(test.head(rows)),
}
xgb.set_config(nthread=1)  # for few rows, threads cost more than they bring
latency = pd.DataFrame()
for form, call in calls.items():
    for count in [1, len(test)]:
        seconds = timeit.repeat(lambda: call(count), number=1, repeat=51)
        latency.loc[form, f"ms_{count}_rows"] = 1000 * pd.Series(seconds).median()

utils.set_experiment(training_run.data.tags["name"])
tags = {"step": "flavour_comparison", "training_run_id": training_run.info.run_id}
tags |= {name: training_run.data.tags[name] for name in ["name", "data", "data_run_id"]}
with mlflow.start_run(run_name="Flavour_Comparison", tags=tags) as run:
    for name, column in latency.items():
        mlflow.log_metrics({f"{name}/{form}": value for form, value in column.items()})
