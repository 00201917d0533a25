# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import timeit

import mlflow
import pandas as pd
import xgboost as xgb

import config
import data_files
import utils

training_run_id = None
training_run_id = utils.arguments("flavour-comparison", "training-run-id")
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
booster_uri, classifier_uri = [
    f"models:/{name}/{utils.registered_version(name, training_run)}"
    for name in [config.BOOSTER_MODEL, config.CLASSIFIER_MODEL]
]
test = utils.load_dataset(data_run, "test").head(config.BATCH_ROWS)
test, _ = data_files.encode(test, utils.model_encoding(classifier_uri))

booster = mlflow.xgboost.load_model(booster_uri)
classifier = mlflow.xgboost.load_model(classifier_uri)
booster_pyfunc = mlflow.pyfunc.load_model(booster_uri)
classifier_pyfunc = mlflow.pyfunc.load_model(classifier_uri)

models = {
    "Booster": booster,
    "XGBClassifier": classifier,
    "Booster as pyfunc": booster_pyfunc,
    "XGBClassifier as pyfunc": classifier_pyfunc,
}
inputs = {
    "the test set": test,
    "a column too few": test.iloc[:, 1:],
    "a column too many": test.assign(further=1.0),
    "columns in another order": test.iloc[:, ::-1],
    "numbers as text": test.astype(str),
}


def predict(model, frame):
    return model.predict(xgb.DMatrix(frame) if isinstance(model, xgb.Booster) else frame)


def outcome(model, frame):
    try:
        return f"{predict(model, frame)[0]:.3g}, …"
    except Exception as error:
        return f"refused: {type(error).__name__}"


def milliseconds(model, rows):
    seconds = timeit.repeat(lambda: predict(model, test.head(rows)), number=1, repeat=51)
    return 1000 * pd.Series(seconds).median()


xgb.set_config(nthread=1)  # for few rows, threads cost more than they bring
answers, latency = pd.DataFrame(), pd.DataFrame()
for name, model in models.items():
    for given, values in inputs.items():
        answers.loc[given, name] = outcome(model, values)
    for count in [1, len(test)]:
        latency.loc[name, f"ms_{count}_rows"] = milliseconds(model, count)

utils.set_experiment()
tags = {"step": "flavour_comparison", "training_run_id": training_run.info.run_id}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}
with mlflow.start_run(run_name="Flavour_Comparison", tags=tags) as run:
    mlflow.log_table(answers.rename_axis("given").reset_index(), "answers.json")
    for name, column in latency.items():
        mlflow.log_metrics({f"{name}/{model}": value for model, value in column.items()})
