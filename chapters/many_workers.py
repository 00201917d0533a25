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
# # Many workers, one study
#
# *A chapter of [A model's life with MLflow](../README.md). Run `make walkthrough` first; then this notebook,
# `chapters/many_workers.py`, runs alone.*
#
# Trials do not wait for each other, so several processes can make them at the same time, if they share the study. Give
# them a `storage`: on one machine a *journal file* is enough, a text file to which each process adds what it did. Here
# two searches, each with the same command, make 20 trials together:

# %%
import os

# JupyterLab starts a chapter in chapters/, where MLflow would begin a new, empty store.
if not os.path.exists("MLproject"):
    os.chdir("..")

# %%
import json
import tempfile
from pathlib import Path

import mlflow
import optuna
import pandas as pd

import utils

utils.set_experiment()
data_run = utils.latest_run("data_preprocessing", name="Cancer")
journal = Path(tempfile.mkdtemp(), "optuna.journal")

# %% tags=["remove-output"]
workers = [
    mlflow.run(
        ".",
        "hyperparameters-tuning",
        parameters={"n-trials": 20, "storage": str(journal), "data-run-id": data_run.info.run_id},
        experiment_id=data_run.info.experiment_id,
        env_manager="local",
        synchronous=False,
    )
    for _ in range(2)
]

# %% tags=["volatile"]
print("both finished:", all([worker.wait() for worker in workers]))

# %% [markdown]
# Each worker is a run of its own, with the trials that it made nested in it, and writes the best of the whole study at
# its end:

# %% tags=["volatile"]
searches = mlflow.search_runs(
    search_all_experiments=True,
    filter_string="tags.step = 'hyperparameters_tuning' and tags.study LIKE 'tuning-%'",
    max_results=2,
)
trials = [
    mlflow.search_runs(
        search_all_experiments=True, filter_string=f"tags.mlflow.parentRunId = '{run_id}'"
    )
    for run_id in searches.run_id
]
searches["trials made"] = [len(made) for made in trials]
searches[["tags.mlflow.runName", "trials made", "metrics.logloss", "tags.study"]]

# %% [markdown]
# Together they make at least 20 trials, and at most one more per further worker, since each begins a trial before it
# can know that another one is about to finish the last. No trial is made twice:

# %%
study = optuna.load_study(study_name=None, storage=utils.open_storage(str(journal)))
made = study.trials_dataframe(attrs=("params", "state"))
print("at least 20 finished:", (made.state == "COMPLETE").sum() >= 20)
print("all different:", not made.filter(like="params_").duplicated().any())

# %% [markdown]
# The study is still in the file: the same command with a larger `n-trials` goes on from there, and so it does after a
# worker was killed. A study on other data or from other ranges is refused. The training takes the search that ended
# last; if that shared a study, the best of that study.
#
# ## Several machines
#
# They need a database for the study and a tracking server for the runs. Then each of them gives the same command, with
# its own time to come and go:
#
# ```bash
# export MLFLOW_TRACKING_URI=http://127.0.0.1:5000
# mlflow run . -e hyperparameters-tuning -P n-trials=40 \
#     -P storage=postgresql://optuna@127.0.0.1/optuna
# ```
#
# A worker that is killed loses nothing: in the database each trial has a heartbeat, and when that stops, another worker
# does the trial again. `mlflow run` logs its parameters, so keep the password out of them: the environment variable
# `PGPASSWORD` or a file `~/.pgpass` tells it to PostgreSQL. Let one worker begin before the others: the first one makes
# the tables in an empty database.
#
# Docker brings database, server and workers together (see [Sharing](sharing.md)):
#
# ```bash
# N_TRIALS=20 docker compose -f docker/tracking/docker-compose.yml up --build --scale tuning-worker=4
# ```
#
# ## What it brings
#
# Two workers are not twice as fast: the second starts some seconds later, and the cores are shared. These are the
# figures for 30 trials on two cores and a journal file, from start to end:

# %%
results = json.loads(Path("benchmarks/results.json").read_text())
workers_table = pd.json_normalize(results["tables"]["workers"]["rows"])
workers_table[["workers", "seconds.median", "ratio.median"]].round(2)
