# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import time

import matplotlib.pyplot as plt
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

xgb.set_config(nthread=1)  # for few rows, threads cost more than they bring
dmatrix = xgb.DMatrix(test)
calls = {
    "Booster": lambda: booster.predict(dmatrix),
    "XGBClassifier": lambda: classifier.predict(test),
    "Booster as pyfunc": lambda: booster_pyfunc.predict(test),
    "XGBClassifier as pyfunc": lambda: classifier_pyfunc.predict(test),
}
answers = {name: call() for name, call in calls.items()}

wrong_calls = {
    ("Booster", "a DataFrame"): lambda: booster.predict(test),
    ("Booster", "a missing column"): lambda: booster.predict(xgb.DMatrix(test.iloc[:, 1:])),
    ("XGBClassifier", "a missing column"): lambda: classifier.predict(test.iloc[:, 1:]),
    ("XGBClassifier", "columns in another order"): lambda: classifier.predict(test.iloc[:, ::-1]),
    ("XGBClassifier", "text"): lambda: classifier.predict(test.astype(str)),
    ("Booster as pyfunc", "a DMatrix"): lambda: booster_pyfunc.predict(dmatrix),
    ("XGBClassifier as pyfunc", "a missing column"): lambda: classifier_pyfunc.predict(test.iloc[:, 1:]),
    ("XGBClassifier as pyfunc", "text"): lambda: classifier_pyfunc.predict(test.astype(str)),
    ("XGBClassifier as pyfunc", "columns in another order"): lambda: classifier_pyfunc.predict(test.iloc[:, ::-1]),
}
refusals = []
for (name, given), call in wrong_calls.items():
    try:
        call()
        refusal = "accepted"
    except Exception as error:
        reason = str(error).split("Error: ")[-1].replace(str(list(test.columns)), "[…]")  # the reason without the data
        refusal = f"{type(error).__name__}: {' '.join(reason.split())[:80]}"
    refusals.append({"flavour": name, "given": given, "result": refusal})
refusals = pd.DataFrame(refusals)
refused = refusals[refusals.result != "accepted"].groupby("flavour").given.agg(", ".join)

flavours = pd.DataFrame(
    {
        "loaded with": ["mlflow.xgboost", "mlflow.xgboost", "mlflow.pyfunc", "mlflow.pyfunc"],
        "takes": ["DMatrix", "DataFrame", "DataFrame", "DataFrame"],
        "returns": [f"{answer.dtype}, such as {answer[0]:.3g}" for answer in answers.values()],
        "refuses": [refused[name] for name in calls],
    },
    index=pd.Index(calls, name="flavour"),
)


def time_calls(frame, repeats=50):
    timed = {
        "Booster": lambda: booster.predict(xgb.DMatrix(frame)),
        "XGBClassifier": lambda: classifier.predict(frame),
        "Booster as pyfunc": lambda: booster_pyfunc.predict(frame),
        "XGBClassifier as pyfunc": lambda: classifier_pyfunc.predict(frame),
    }
    milliseconds = {name: [] for name in timed}
    for repeat in range(repeats + 1):
        for name, call in timed.items():
            start = time.perf_counter()
            call()
            if repeat:  # the first is the warm-up
                milliseconds[name].append(1000 * (time.perf_counter() - start))
    quartiles = pd.DataFrame(milliseconds).quantile([0.25, 0.5, 0.75]).T
    return pd.DataFrame(
        {
            "rows": len(frame),
            "median ms": quartiles[0.5],
            "spread ms": quartiles[0.75] - quartiles[0.25],
            "ratio to fastest": quartiles[0.5] / quartiles[0.5].min(),
        }
    )


latency = pd.concat([time_calls(test.head(1)), time_calls(test)]).rename_axis("flavour")

figure, axes = plt.subplots(1, 2, figsize=(10, 3), sharey=True, layout="constrained")
for axis, (rows, part) in zip(axes, latency.groupby("rows"), strict=True):
    axis.barh(part.index, part["median ms"], xerr=part["spread ms"])
    axis.set(title=f"{rows} row(s)", xlabel="milliseconds per call (median, interquartile range)")

utils.set_experiment()
tags = {"step": "flavour_comparison", "training_run_id": training_run.info.run_id}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}
with mlflow.start_run(run_name="Flavour_Comparison", tags=tags) as run:
    mlflow.log_figure(figure, "latency.png")
    for name, table in {"flavours": flavours, "refusals": refusals, "latency": latency}.items():
        mlflow.log_table(table.reset_index(), f"{name}.json")
    for (name, row), rows in zip(latency.iterrows(), latency.rows, strict=True):
        mlflow.log_metric(f"ms_{rows}_rows/{name}", row["median ms"])
