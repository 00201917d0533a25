# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import timeit

import mlflow
import pandas as pd
import xgboost as xgb

import config
import utils

training_run_id = None
training_run_id = utils.arguments("flavour-comparison", "training-run-id")
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
model_uri = f"models:/{config.MODEL}/{utils.registered_version(config.MODEL, training_run)}"
booster_version = utils.registered_version(config.BOOSTER_MODEL, training_run)
info, model = utils.load_model(model_uri)
test = utils.load_dataset(data_run, "test").drop(columns=info.metadata["target"])
test = test.head(config.BATCH_ROWS)
test_values = model.features(test)

booster_uri = f"models:/{config.BOOSTER_MODEL}/{booster_version}"
classifier_uri = f"models:/{info.metadata['classifier_id']}"  # a logged model: it is not registered
booster = mlflow.xgboost.load_model(booster_uri)
classifier = mlflow.xgboost.load_model(classifier_uri)
classifier_pyfunc = mlflow.pyfunc.load_model(classifier_uri)
registered = mlflow.pyfunc.load_model(model_uri)

models = {
    "Booster": booster,
    "XGBClassifier": classifier,
    "XGBClassifier as pyfunc": classifier_pyfunc,
    "registered": registered,
}
inputs = {
    "the test set": lambda frame: frame,
    "a column too few": lambda frame: frame.iloc[:, 1:],
    "a column too many": lambda frame: frame.assign(further=1.0),
    "columns in another order": lambda frame: frame.iloc[:, ::-1],
    "numbers as text": lambda frame: frame.astype(str),
    "whole numbers": lambda frame: frame.fillna(0).round().astype(int),
}


def predict(model, frame):
    return model.predict(xgb.DMatrix(frame) if isinstance(model, xgb.Booster) else frame)


def outcome(name, change):
    try:
        frame = change(test if name == "registered" else test_values)
        answer = predict(models[name], frame)
    except Exception as error:
        return f"refused: {type(error).__name__}"
    first = answer["prediction"].iloc[0] if name == "registered" else f"{answer[0]:.3g}"
    return f"{first}, …"


def milliseconds(name, count):
    frame = (test if name == "registered" else test_values).head(count)
    seconds = timeit.repeat(lambda: predict(models[name], frame), number=1, repeat=51)
    return 1000 * pd.Series(seconds).median()


xgb.set_config(nthread=1)  # for few rows, threads cost more than they bring
answers, latency = pd.DataFrame(), pd.DataFrame()
for name in models:
    for given, change in inputs.items():
        answers.loc[given, name] = outcome(name, change)
    for count in [1, len(test)]:
        latency.loc[name, f"ms_{count}_rows"] = milliseconds(name, count)

utils.set_experiment()
tags = {"step": "flavour_comparison", "training_run_id": training_run.info.run_id}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}
with mlflow.start_run(run_name="Flavour_Comparison", tags=tags) as run:
    mlflow.log_table(answers.rename_axis("given").reset_index(), "answers.json")
    for name, column in latency.items():
        mlflow.log_metrics({f"{name}/{form}": value for form, value in column.items()})
