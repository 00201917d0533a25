"""Runs a step, and says as its last line how many seconds were spent in MLflow's store: of its floor that is no part.

usage: python -m benchmarks.store_time STEP [OPTION ...]

The store is what holds runs, models and files: a database and a folder. Counted is the time that the main thread spends
in calls to them; other threads, such as that of the system metrics, work while the step does something else. What
MLflow does outside of the store is not counted, nor are the processes that a step starts.
"""

import functools
import inspect
import runpy
import sys
import threading
import time

from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

STORES = [Tracking, Registry, LocalArtifactRepository, ModelsArtifactRepository, RunsArtifactRepository]
inside, seconds = False, 0.0


def timed(method):
    """Return a method that does the same, and whose time is counted, once where it calls others that are."""

    @functools.wraps(method)
    def call(*args, **options):
        global inside, seconds
        if inside or threading.current_thread() is not threading.main_thread():
            return method(*args, **options)
        inside, start = True, time.perf_counter()
        try:
            return method(*args, **options)
        finally:
            inside, seconds = False, seconds + time.perf_counter() - start

    return call


if __name__ == "__main__":
    for kind in {kind for store in STORES for kind in store.__mro__ if kind.__module__.startswith("mlflow.")}:
        for name, method in list(vars(kind).items()):
            if inspect.isfunction(method) and (name == "__init__" or not name.startswith("_")):
                setattr(kind, name, timed(method))
    del sys.argv[0]
    runpy.run_module(f"steps.{sys.argv[0]}", run_name="__main__")
    print(seconds)
