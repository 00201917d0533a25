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
# # When the data grow
#
# *A chapter of [A model's life with MLflow](../README.md). Run `make walkthrough` first; then this notebook,
# `chapters/large_data.py`, runs alone.*
#
# All steps but `batch-scoring` keep their data in memory. How far does that go? `make benchmark` runs them on 569 rows
# and on 300 thousand of the same columns: drawn from the real ones, with noise. Each step is a process; what it costs
# are its seconds and the most memory that it held, each measured once. (*XGBoost alone* is the training of 100 rounds
# without MLflow, once in one process and once on a Dask cluster, of which more below. The search makes one trial. For
# other sizes: `python -m benchmarks.rows --sizes 1000000 --out FOLDER`.)

# %%
import os

# JupyterLab starts a chapter in chapters/, where MLflow would begin a new, empty store.
if not os.path.exists("MLproject"):
    os.chdir("..")

# %%
import json
import logging
from pathlib import Path

import dask.dataframe as dd
import mlflow
import pandas as pd
import xgboost as xgb
import xgboost.dask
from distributed import Client, LocalCluster
from mlflow.models import infer_signature

import utils

growth = json.loads(Path("benchmarks/rows.json").read_text())
print(
    f"{growth['processor']}, {growth['cores']} cores, {growth['memory_gib']} GiB, {growth['date']}"
)
costs = pd.DataFrame(growth["costs"])
table = costs.pivot(index="step", columns="rows", values=["seconds", "peak_mib"])
table = table.reindex(costs.step.unique())
table.columns = [
    f"{rows:,} rows: {'MiB' if unit == 'peak_mib' else unit}" for unit, rows in table.columns
]
table.round().astype(int)

# %% [markdown]
# Memory grows with the data and not faster, or not at all where a file is scored in parts. Where a part of the rows is
# enough, the steps take a part: SHAP explains at most 2,000 rows, the flavours are compared on at most 1,000, and so
# many are sent to a server. Time goes where all rows must pass: through text when the CSV files are written, and
# through XGBoost for each fold of each trial. The one trial of this table trains ten models of up to 1,000 rounds. With
# so many rows, search on a sample of them, with fewer folds, or let many workers share the trials.
#
# ## On a cluster
#
# When the rows no longer fit into one machine, XGBoost trains on a cluster: each worker holds a part of the rows, and
# before each split of each tree the workers add up what they found. Dask and Spark can both run this. It pays when one
# machine has too little memory or too few cores. On one machine, as in the last two lines of the table, the workers
# share the same cores: they can read a large file in parts at the same time, and pay for that with memory, because each
# of them brings its own copy of the libraries.
#
# This is how it is done with Dask, on a cluster of two processes. `read_csv` of Dask reads nothing yet: each worker
# reads its own part of the file when the training needs it, and turns it into features with the code stored with the
# model that was trained last. For that it needs MLflow and XGBoost, but no file of this project. On a real cluster the
# address of the scheduler takes the place of `LocalCluster`, and the file and MLflow's store are where all workers can
# reach them.

# %%
training_run = utils.latest_run("model_training", name="Cancer")
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
version = utils.registered_version("CancerModel", training_run)
model_uri = f"models:/CancerModel/{version}"
trained, model = utils.load_model(model_uri)
about = {name: trained.metadata[name] for name in ["name", "target", "classes", "types"]}
target, positive = about["target"], about["classes"][1]

train, test = utils.load_dataset(data_run, "train"), utils.load_dataset(data_run, "test")
values, test_values = model.features(train), model.features(test)
params, rounds = {"objective": "binary:logistic", "max_depth": 4, "learning_rate": 0.1}, 100

path = mlflow.artifacts.download_artifacts(
    run_id=data_run.info.run_id, artifact_path="datasets/train.csv"
)
dtypes = {"number": "float", "boolean": "boolean", "words": "str", "date": "str"}
dtypes = {column["name"]: dtypes[column["kind"]] for column in about["types"]}
dtypes[target] = type(positive)


def features(part):
    return mlflow.pyfunc.load_model(model_uri).unwrap_python_model().features(part)


cluster = LocalCluster(
    n_workers=2,
    threads_per_worker=1,
    host="127.0.0.1",
    dashboard_address="127.0.0.1:0",  # any free port
    silence_logs=logging.ERROR,
)
with cluster, Client(cluster) as client, xgb.config_context(verbosity=0):
    parts = dd.read_csv(
        path,
        blocksize=Path(path).stat().st_size // 2,
        dtype=dtypes,
        keep_default_na=False,
        na_values=[""],
    )
    part_values = parts.map_partitions(features, meta=values.head(0))
    labels = (parts[target] == positive).astype(int)
    dtrain = xgboost.dask.DaskDMatrix(client, part_values, labels)
    booster = xgboost.dask.train(client, params, dtrain, rounds)["booster"]
    print(parts.npartitions, "parts on", len(cluster.workers), "workers")

# %% [markdown]
# What comes out is an ordinary `Booster`: it needs no Dask to predict. It is logged and registered like the others.

# %%
utils.set_experiment()
with mlflow.start_run(run_name="Training_With_Dask") as run:
    mlflow.set_tag("data_run_id", data_run.info.run_id)
    mlflow.log_params({**params, "num_boost_round": rounds})
    mlflow.MlflowClient().log_inputs(run.info.run_id, data_run.inputs.dataset_inputs)
    info = mlflow.xgboost.log_model(
        booster,
        name="booster",
        registered_model_name="CancerModelDask",
        signature=infer_signature(values, booster.predict(xgb.DMatrix(values))),
        input_example=values.head(3),
        pip_requirements=utils.pinned_requirements("mlflow", "xgboost", "scikit-learn", "pandas"),
        metadata=about,
    )

# %% [markdown]
# Its answers beside those of a Booster trained on the same rows in this process:

# %%
alone = xgb.train(params, xgb.DMatrix(values, label=train[target] == positive), rounds)
answers = pd.DataFrame(
    {
        "Dask": mlflow.pyfunc.load_model(info.model_uri).predict(test_values),
        "one process": alone.predict(xgb.DMatrix(test_values)),
    }
)
pd.DataFrame(
    {
        "accuracy": (answers > 0.5).eq(test[target] == positive, axis="index").mean(),
        "largest difference": answers.sub(answers["Dask"], axis="index").abs().max(),
    }
)
