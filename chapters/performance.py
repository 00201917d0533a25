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
# # How fast it is
#
# *A chapter of [A model's life with MLflow](../README.md). Run `make walkthrough` first; then this notebook,
# `chapters/performance.py`, runs alone.*
#
# What does all this cost? `make benchmark` measures it; these are its figures for one machine, and
# [benchmarks/results.md](../benchmarks/results.md) has all of them. Compare ratios, not seconds: another machine has
# other seconds. Each figure is the median of three measurements.

# %%
import os

# JupyterLab starts a chapter in chapters/, where MLflow would begin a new, empty store.
if not os.path.exists("MLproject"):
    os.chdir("..")

# %%
import json
from pathlib import Path

import pandas as pd

results = json.loads(Path("benchmarks/results.json").read_text())
tables = {key: pd.json_normalize(table["rows"]) for key, table in results["tables"].items()}
print(f"{results['processor']}, {results['cores']} cores, measured on {results['date']}")

# %% [markdown]
# ## Tracking
#
# A search of ten trials: with MLflow's functions replaced by ones that do nothing, with one `log_batch` per trial as in
# the notebook, and with a call for each metric of each boosting round besides, as many tutorials do it.

# %%
tables["tracking"][["way", "seconds.median", "ratio.median"]].round(2)

# %% [markdown]
# ### Logging while XGBoost trains
#
# A long training should show its progress while it runs. XGBoost calls a `TrainingCallback` after each round, and that
# can log. Each call waits for the database:

# %%
import time

import mlflow
import xgboost as xgb
from sklearn.datasets import load_breast_cancer

import utils

dtrain = xgb.DMatrix(*load_breast_cancer(return_X_y=True))


class LogEachRound(xgb.callback.TrainingCallback):
    def after_iteration(self, model, epoch, evals_log):
        mlflow.log_metric("logloss", evals_log["train"]["logloss"][-1], step=epoch)
        return False  # True would stop the training


def seconds_with(*callbacks):
    start = time.perf_counter()
    watched = {"evals": [(dtrain, "train")], "verbose_eval": False, "callbacks": callbacks}
    xgb.train({"objective": "binary:logistic", "nthread": 1}, dtrain, 100, **watched)
    return time.perf_counter() - start


utils.set_experiment()
with mlflow.start_run(run_name="Live_Metrics"):
    live = seconds_with(LogEachRound())

# %% tags=["volatile"]
print(f"100 rounds: {seconds_with():.2f} s, and {live:.2f} s with a call to MLflow in each")

# %% [markdown]
# ## The steps
#
# Each as a process, beside its *floor*: the same process without the time that it spends in MLflow's store, a database
# and a folder of files. Importing MLflow, and what it does to describe and to check a model, are in the floor too.

# %%
tables["steps"][["step", "seconds.median", "floor_seconds.median", "ratio.median"]].round(2)

# %% [markdown]
# ## Serving
#
# One row as it stands in the file, sent to each server by one client and by eight at a time. The *floor* is a bare
# FastAPI handler around the model's `features` and XGBoost's `inplace_predict`. p50 is the time that half of the
# requests stay below, p99 that of 99 in a hundred; the ratio is that of the times from one answer to the next. The own
# server has [a chapter of its own](own_server.md).

# %%
columns = ["target", "clients", "p50_ms", "p99_ms", "requests_per_second", "ratio.median"]
tables["serving"][columns].round(2)
