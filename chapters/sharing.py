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
# # Sharing the work
#
# *A chapter of [A model's life with MLflow](../README.md). Run `make walkthrough` first; then this notebook,
# `chapters/sharing.py`, runs alone.*
#
# The store in this folder serves one person, as long as the folder stays where it is: MLflow notes the place of each
# file as an *absolute* path. When the folder is renamed, or a colleague reaches it by another path, the runs and their
# metrics are still there, but not their files and models. All that follows happens in a scratch folder, with one small
# model; your own store is left alone.

# %%
import os

# JupyterLab starts a chapter in chapters/, where MLflow would begin a new, empty store.
if not os.path.exists("MLproject"):
    os.chdir("..")

# %%
import contextlib
import secrets
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path

import mlflow
import requests
import xgboost as xgb
from sklearn.datasets import load_breast_cancer

import servers
import utils

own_store = mlflow.get_tracking_uri()
features, label = load_breast_cancer(return_X_y=True, as_frame=True)
model = xgb.XGBClassifier(n_estimators=20).fit(features, label)
requirements = utils.pinned_requirements("mlflow", "xgboost", "scikit-learn", "pandas")


@contextlib.contextmanager
def at(address):  # and back again, whatever happens
    mlflow.set_tracking_uri(address)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(own_store)


def sqlite(folder):
    return f"sqlite:///{(folder / 'mlflow.db').as_posix()}"


def log_model():
    with mlflow.start_run(run_name="Moving"):
        return mlflow.xgboost.log_model(
            model, name="model", registered_model_name="Moving", pip_requirements=requirements
        )


def move(folder, name):
    moved = shutil.move(folder, folder.with_name(name))
    return Path(moved)


# %% [markdown]
# ## A store that moves
#
# A model in a store, and then the folder is renamed:

# %%
old = Path(tempfile.mkdtemp(), "old")
old.mkdir()
with at(sqlite(old)):
    place = str(old / "mlruns")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("Moving", artifact_location=place))
    log_model()

new = move(old, "new")

# %% tags=["raises-exception"]
with at(sqlite(new)):
    mlflow.xgboost.load_model("models:/Moving/1")

# %% [markdown]
# MLflow has no command that fixes this. On the same machine a link at the old place does (`ln -s NEW OLD`). For good,
# the addresses in the database can be corrected. MLflow does not document its tables; these four statements are right
# for MLflow 3.17. Stop every program that uses the store first, and keep a copy of `mlflow.db`:

# %%
ADDRESSES = [
    "UPDATE experiments SET artifact_location = replace(artifact_location, :old, :new)",
    "UPDATE runs SET artifact_uri = replace(artifact_uri, :old, :new)",
    "UPDATE logged_models SET artifact_location = replace(artifact_location, :old, :new)",
    "UPDATE model_versions SET storage_location = replace(storage_location, :old, :new)",
]


def change_addresses(database, old, new):
    connection = sqlite3.connect(database)
    with connection:
        for statement in ADDRESSES:
            connection.execute(statement, {"old": str(old), "new": str(new)})
    connection.close()


change_addresses(new / "mlflow.db", old, new)
with at(sqlite(new)):
    print(mlflow.xgboost.load_model("models:/Moving/1").predict(features.head()))

# %% [markdown]
# ## A tracking server
#
# As soon as a second person or a second machine needs the runs, or wherever the folder may move, let a *tracking
# server* keep the store. Everybody asks the server, for files too, whose addresses now begin with
# `mlflow-artifacts:/`: only the server knows where they are. To try it on this machine, start one (it keeps its store
# in the folder `tracking/`):
#
# ```bash
# make tracking-server
# ```
#
# and tell MLflow about it in each terminal that is to use it. That is all: steps, notebook and `mlflow models serve`
# work as before.
#
# ```bash
# export MLFLOW_TRACKING_URI=http://127.0.0.1:5000
# ```
#
# Local runs can be taken along: copy `mlflow.db` and `mlruns/` to where the server keeps its store, and change the
# addresses once more. The next cell does so with our small store. Then it logs another model through the server, moves
# the server's folder, and loads both:

# %%
change_addresses(new / "mlflow.db", new / "mlruns", "mlflow-artifacts:")
port = servers.free_port()
address = f"http://127.0.0.1:{port}"
command = f"mlflow server --host 127.0.0.1 --port {port} --workers 1"
command += " --backend-store-uri sqlite:///mlflow.db --artifacts-destination mlruns"


def tracking_server(folder, *options, **variables):
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **variables}
    return servers.server([*command.split(), *options], f"{address}/health", folder, **variables)


with tracking_server(new), at(address):
    mlflow.set_experiment("Moving")
    print(mlflow.get_logged_model(log_model().model_id).artifact_location)

with tracking_server(move(new, "newer")), at(address):
    for version in [1, 2]:
        loaded = mlflow.xgboost.load_model(f"models:/Moving/{version}")
        same = (loaded.predict(features) == model.predict(features)).all()
        print(f"version {version}: same answers", same)

# %% [markdown]
# ## PostgreSQL
#
# A team will want a database server below it. Docker brings both, and workers for the tuning as well; choose a password
# for the database:
#
# ```bash
# export POSTGRES_PASSWORD=...
# docker compose -f docker/tracking/docker-compose.yml up --build
# ```
#
# This starts the server at http://127.0.0.1:5000 and prepares the data; [Many workers](many_workers.md) goes on from
# there. MLflow cannot copy an SQLite store into PostgreSQL. Since everything here is seeded, running the pipeline once
# more against the new server gives the same models.
#
# ## Users and passwords
#
# Both servers answer this machine only, and refuse a request whose `Host` is another one, so that no web page can reach
# them through your browser. They know no users. MLflow's own way is the application `basic-auth` (it needs `pip install
# "mlflow[auth]"`, and two secrets of your choice); before other machines may ask, put HTTPS in front, since passwords
# travel with each request.

# %%
server_secrets = {
    "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(),
    "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.token_hex(),
}
with tracking_server(new.with_name("newer"), "--app-name", "basic-auth", **server_secrets):
    search = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
    print("without a password:", requests.get(search, timeout=60).status_code)
    # MLflow's own client reads MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD
    admin = ("admin", server_secrets["MLFLOW_AUTH_ADMIN_PASSWORD"])
    print("with one:", requests.get(search, auth=admin, timeout=60).status_code)

# %% [markdown]
# ## Cleaning up
#
# Deleted runs only disappear from the lists. `mlflow gc` removes them for good, with their files (with
# `--logged-model-ids` it does the same for models):

# %%
scratch = Path(tempfile.mkdtemp())
store = sqlite(scratch)
with at(store):
    place = str(scratch / "mlruns")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("Clean", artifact_location=place))
    with mlflow.start_run() as run:
        mlflow.log_text("a file", "note.txt")
    mlflow.delete_run(run.info.run_id)
command = f"mlflow gc --backend-store-uri {store} --tracking-uri {store}"
subprocess.run(command.split(), check=True, capture_output=True)
print("files left:", [path.name for path in scratch.rglob("note.txt")])

# %% [markdown]
# ## Runs of MLflow 2
#
# Before version 3.7 MLflow kept runs as files in `mlruns/`. It no longer uses such a folder, and says so; one command
# takes the runs along (here an old store is made first):

# %%
old = Path(tempfile.mkdtemp())
code = """
import mlflow
mlflow.set_experiment("Old")
with mlflow.start_run(run_name="Old_Run"):
    mlflow.log_metric("x", 1)
"""
older = {**os.environ, "MLFLOW_TRACKING_URI": "file:mlruns", "MLFLOW_ALLOW_FILE_STORE": "true"}
subprocess.run(["python", "-c", code], cwd=old, env=older, check=True)

command = "mlflow migrate-filestore --source mlruns --target sqlite:///mlflow.db"
subprocess.run(command.split(), cwd=old, check=True, capture_output=True)
with at(sqlite(old)):
    found = mlflow.search_runs(search_all_experiments=True)
found[["tags.mlflow.runName", "metrics.x"]]

# %% [markdown]
# Copying single experiments or models from one server to another is what the separate package `mlflow-export-import`
# does; it lags behind MLflow, so try it on a copy first.
#
# With a cluster and a registry of images, `mlflow run --backend kubernetes` can start any step as a Kubernetes job;
# that was not tried here.
