"""How fast it is: measures tracking, steps, serving and the extractor side by side, and writes the results.

usage: python -m benchmarks.benchmark [--quick] [--out FOLDER]

What is compared takes turns, so that a busy moment of the machine hits all alike, and the ratios are those of
neighbours. Everything runs in a copy of the project in a temporary folder, with a store of its own.
"""

import argparse
import contextlib
import datetime
import functools
import http.client
import json
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import mlflow
import mlflow.pyfunc.scoring_server
import numpy as np
import optuna
import pandas as pd
import psutil
import xgboost as xgb
from mlflow.models import infer_signature

import config
import servers
import utils
from benchmarks import floors, postgres
from utils import StepError
from notebook_tools.extract import extract
from notebook_tools.run import copy_project

CORES = os.cpu_count()
# Variables that would lead to the user's own store, or set the threads that are to be compared.
FOREIGN_VARIABLES = {
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
}
UNTRACKED = "no MLflow"
IN_MEMORY = "study in memory, SQLite"
EXPLICIT, INFERRED = "explicit", "inferred by MLflow"
FLAVOURS = ["Booster", "XGBClassifier", "Booster as pyfunc", "XGBClassifier as pyfunc"]
FLOOR, SERVE = "floor: FastAPI and `inplace_predict`", "`mlflow models serve`"
REST, V2 = "MLServer, REST", "MLServer, V2"
ONE_THREAD, ALL_THREADS = "OMP_NUM_THREADS=1", f"OMP_NUM_THREADS={CORES}, as when unset"
NAMELESS = "signature without column names, rows as `inputs`"
PART = "part of `mlflow models serve`"
SLOW_STEPS = {"model_serving"}  # most of its time is the start of the server
CLIENTS = [1, 8]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        trials: Trials of a search.
        repeats: How often each search is timed.
        step_repeats: How often each step and each extraction is timed.
        slow_repeats: How often what takes longest is timed, and what hardly varies.
        at_once: How many of a step and its floor run at the same time; more than one spoils the figures.
        rounds: How often each server and flavour has its turn.
        requests: Requests in a turn.
        settings: Whether further servers are started, to see what settings bring.
        cells: Cells of the smaller notebook; the larger one has twice as many.
        shared_trials: Trials of a search by several workers.
        shared_repeats: How often such a search is timed.
    """

    trials: int
    repeats: int
    step_repeats: int
    slow_repeats: int
    at_once: int
    rounds: int
    requests: int
    settings: bool
    cells: int
    shared_trials: int
    shared_repeats: int


FULL = Effort(
    trials=config.N_TRIALS,
    repeats=3,
    step_repeats=2,
    slow_repeats=1,
    at_once=1,
    rounds=3,
    requests=48,
    settings=True,
    cells=1000,
    shared_trials=40,
    shared_repeats=2,
)
QUICK = Effort(
    trials=1,
    repeats=1,
    step_repeats=1,
    slow_repeats=1,
    at_once=CORES,
    rounds=1,
    requests=16,
    settings=False,
    cells=50,
    shared_trials=2,
    shared_repeats=1,
)


class Table(NamedTuple):
    """One table of the results.

    Attributes:
        key: Its name in `results.json`.
        title: Its heading in `results.md`.
        text: What it holds, for `results.md`.
        rows: A list of dicts, one a row, from column to value; a value may be a `spread`.
    """

    key: str
    title: str
    text: str
    rows: list


def spread(values):
    """Summarise repeated measurements.

    Args:
        values: Numbers, in any unit.

    Returns:
        A dict of the median, the lowest and the highest, in the same unit.
    """
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def ratios(values, base):
    """Compare measurements that took turns.

    Args:
        values: Numbers, in order of time.
        base: What they are compared with, in the same order and unit; it may have more.

    Returns:
        The `spread` of the ratio of each value to its neighbour.
    """
    return spread([value / other for value, other in zip(values, base, strict=False)])


def timed(call):
    """Time a call.

    Args:
        call: A function without arguments.

    Returns:
        A pair: seconds, and what it returned.
    """
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def take_turns(calls, repeats, slow=(), slow_repeats=1):
    """Time calls that take turns.

    Args:
        calls: A dict from name to a function without arguments.
        repeats: How often each is called.
        slow: Names of those that are called less often.
        slow_repeats: How often these are called.

    Returns:
        A pair of dicts from name: to the list of seconds, and to the list of what the calls returned.
    """
    seconds, results = {name: [] for name in calls}, {name: [] for name in calls}
    for repeat in range(repeats):
        for name, call in calls.items():
            if name not in slow or repeat < slow_repeats:
                duration, result = timed(call)
                seconds[name].append(duration)
                results[name].append(result)
    return seconds, results


def run(*command):
    """Run a command in the scratch copy, as from a shell.

    Args:
        *command: Its words.

    Returns:
        What it wrote to stdout.

    Raises:
        StepError: It failed.
    """
    variables = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    result = subprocess.run(command, env=variables, capture_output=True, text=True)
    if result.returncode:
        raise StepError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


# The whole pipeline


def measure_pipeline(effort):
    """Time the whole pipeline from an empty store, step by step.

    It comes first: the runs and models that it leaves behind are what the other questions need.

    Args:
        effort: The `Effort`.

    Returns:
        A list of one `Table`.
    """
    # a clone, as the user has one: MLflow and the steps ask git for the commit
    run("git", "init", "--quiet")
    run("git", "add", "--all")
    run("git", "-c", "user.name=benchmark", "-c", "user.email=", "commit", "--quiet", "--message", "benchmark")
    command = ["mlflow", "run", ".", "--env-manager", "local", "--experiment-name", config.EXPERIMENT]
    total, _ = timed(lambda: run(*command, "-P", f"n-trials={effort.trials}"))
    rows = []
    for step in config.RUN_NAMES:
        if step != "pipeline":
            info = utils.latest_run(step).info
            rows.append({"step": step, "seconds": (info.end_time - info.start_time) / 1000})
    between = total - sum(row["seconds"] for row in rows)
    rows += [{"step": "`mlflow run` and the pipeline around them", "seconds": between}]
    rows += [{"step": "all", "seconds": total}]
    for row in rows:
        row["share_percent"] = 100 * row["seconds"] / total
    return [
        Table(
            "pipeline",
            "The whole pipeline",
            f"`mlflow run .` once, from an empty store, with {effort.trials} trial(s). Each step is a process of its "
            "own; its seconds are those from the start to the end of its run, imports included.",
            rows,
        )
    ]


# What does tracking cost?


class LogEachRound(xgb.callback.TrainingCallback):
    """The way of many tutorials: one call to MLflow for each metric of each boosting round."""

    def after_iteration(self, model, epoch, evals_log):
        """Log the metrics of a round; the interface is that of XGBoost."""
        for name, values in evals_log["test"].items():
            mlflow.log_metric(name, values[-1][0], step=epoch)
        return False


def log_each_round(trial, script):
    """Do a trial with a nested run, logging each round.

    Args:
        trial: The `optuna.Trial`.
        script: The variables of `hyperparameters_tuning.py`, a dict.

    Returns:
        The accuracy after the last round.
    """
    with mlflow.start_run(run_name=f"Trial_{trial.number}", nested=True):
        accuracy = floors.cross_validate(trial, script, [LogEachRound()])
        mlflow.log_params(trial.params)
        mlflow.log_metric("accuracy", accuracy)
    return accuracy


def search(effort, folder, data_run, train, uri=None, objective=None):
    """Do the notebook's search for hyperparameters.

    Args:
        effort: The `Effort`.
        folder: The `pathlib.Path` of a folder for the study.
        data_run: The `mlflow.entities.Run` of the data.
        train: The training data, a `pandas.DataFrame`.
        uri: The tracking store, or None to track nothing.
        objective: A function of a trial and the script's variables; by default the script's own.

    Returns:
        The trials: a list of pairs of parameters and accuracy.
    """
    given = {"data_run": data_run, "train": train}
    if uri is None:
        study = floors.plain_study()
        script = floors.before_the_run("hyperparameters_tuning", search=None, study=study, **given)
        study.optimize(lambda trial: floors.cross_validate(trial, script), effort.trials)
    else:
        mlflow.set_tracking_uri(uri)
        options = ["--storage", str(folder / "optuna.journal"), "--study-name", str(uuid.uuid4())]
        script = floors.before_the_run("hyperparameters_tuning", options, **given)
        shared, own = script["search"], script["objective"]
        with shared.start_run(effort.trials, log_system_metrics=True):
            make = (lambda trial: objective(trial, script)) if objective else own
            shared.optimize(make, effort.trials)
            utils.log_dataset(train, data_run, "train", context="tuning")
            mlflow.log_params(shared.best_trial().params)
            mlflow.log_metric("accuracy", shared.best_trial().value)
        study = shared.study
    return [(trial.params, trial.value) for trial in study.trials]


def search_in_memory(effort, data_run, train, uri):
    """Do the notebook's search with its nested runs, in a study that no other process can join.

    Args:
        effort, data_run, train, uri: As for `search`.

    Returns:
        As `search`.
    """
    mlflow.set_tracking_uri(uri)
    study = floors.plain_study()
    given = {"data_run": data_run, "train": train, "search": None, "study": study}
    script = floors.before_the_run("hyperparameters_tuning", **given)
    with utils.start_step("hyperparameters_tuning", log_system_metrics=True):
        mlflow.set_tag("data_run_id", data_run.info.run_id)
        utils.log_dataset(train, data_run, "train", context="tuning")
        study.optimize(script["objective"], effort.trials)
        mlflow.log_params(study.best_params)
        mlflow.log_metric("accuracy", study.best_value)
    return [(trial.params, trial.value) for trial in study.trials]


def measure_tracking(effort, folder):
    """Time the search without MLflow, in the project's way and with a call each round, on SQLite and a server.

    Args:
        effort: The `Effort`.
        folder: The `pathlib.Path` of the scratch folder.

    Returns:
        A list of one `Table`.

    Raises:
        StepError: The ways do not give the same trials, so they do not compute the same.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    data_run = utils.latest_run("data_preprocessing")
    arguments = effort, folder, data_run, utils.load_split(data_run, "train")
    sqlite, port = mlflow.get_tracking_uri(), servers.free_port()
    server_uri = f"http://127.0.0.1:{port}"
    store = (folder / "server").resolve()
    store.mkdir()
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{store}/mlflow.db", "--artifacts-destination", store.as_uri()]
    ways = {
        UNTRACKED: lambda: search(*arguments),
        "this project, SQLite": lambda: search(*arguments, sqlite),
        "this project, server": lambda: search(*arguments, server_uri),
        IN_MEMORY: lambda: search_in_memory(effort, *arguments[2:], sqlite),
        "a call each round, SQLite": lambda: search(*arguments, sqlite, log_each_round),
        "a call each round, server": lambda: search(*arguments, server_uri, log_each_round),
    }
    with servers.server(command, f"{server_uri}/health", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        for uri in [server_uri, sqlite]:  # the first contact with a store takes longer
            mlflow.set_tracking_uri(uri)
            mlflow.set_experiment(config.EXPERIMENT)
        slow = [name for name in ways if "each round" in name]
        seconds, trials = take_turns(ways, effort.repeats, slow, effort.slow_repeats)
    mlflow.set_tracking_uri(sqlite)
    if any(trial != trials[UNTRACKED][0] for repeats in trials.values() for trial in repeats):
        raise StepError("The searches differ: floors.cross_validate does not do what the notebook does.")
    goals = {"this project, SQLite": 1.15, "this project, server": 1.25}
    rows = [
        {
            "way": name,
            "repeats": len(values),
            "seconds": spread(values),
            "ratio": ratios(values, seconds[UNTRACKED]),
            "goal": goals.get(name),
        }
        for name, values in seconds.items()
    ]
    return [
        Table(
            "tracking",
            "What tracking costs",
            f"The notebook's search, {effort.trials} seeded trial(s), in one process: without MLflow, in this "
            "project's way (one `log_batch` a trial), and with `log_metric` for each round, on SQLite and through a "
            "local server. All give the same trials. The ratio is to the search without MLflow.",
            rows,
        )
    ]


def measure_workers(effort):
    """Time the step `hyperparameters_tuning` with one and two workers, on a journal file and on PostgreSQL.

    Args:
        effort: The `Effort`.

    Returns:
        A list of one `Table`; empty where PostgreSQL is not installed.
    """
    if not postgres.find_programs():
        print("       left out: PostgreSQL is not installed")
        return []

    def tune(storage, workers):
        options = ["--n-trials", str(effort.shared_trials), "--workers", str(workers)]
        options += ["--storage", storage, "--study-name", str(uuid.uuid4())]
        return run(sys.executable, "hyperparameters_tuning.py", *options)

    with postgres.server() as url:
        storages = {"journal file": "workers.journal", "PostgreSQL": f"{url}/optuna"}
        ways = {
            (name, workers): functools.partial(tune, address, workers)
            for name, address in storages.items()
            for workers in [1, 2]
        }
        seconds, _ = take_turns(ways, effort.shared_repeats)
    rows = [
        {
            "storage": name,
            "workers": workers,
            "seconds": spread(values),
            "ratio": ratios(values, seconds[name, 1]),
            "ratio_to_journal": ratios(values, seconds["journal file", workers]),
        }
        for (name, workers), values in seconds.items()
    ]
    return [
        Table(
            "workers",
            "What more workers bring",
            f"The step `hyperparameters_tuning` as a process, {effort.shared_trials} trials on {CORES} cores, MLflow "
            "on SQLite. Starting Python, and the second worker's start, are included. The ratio is to one worker on "
            "the same storage. (What the shared study costs a single worker says the table of tracking: "
            f"*{IN_MEMORY}* is the same search in a study that nobody can join.)",
            rows,
        )
    ]


# What does a step cost?


def write_inputs(folder):
    """Write what the steps fetch from MLflow into a folder, for their floors.

    Args:
        folder: The `pathlib.Path` of an empty folder.
    """
    data_run, training_run = (utils.latest_run("data_preprocessing"), utils.latest_run("model_training"))
    for split in ["train", "test"]:
        utils.load_split(data_run, split).to_csv(folder / f"{split}.csv", index=False)
    for name, model in {"booster": config.BOOSTER_MODEL, "classifier": config.CLASSIFIER_MODEL}.items():
        version = utils.registered_version(model, training_run)
        shutil.copytree(mlflow.artifacts.download_artifacts(f"models:/{model}/{version}"), folder / name)
    # the same classifier, said to take an array instead of a DataFrame
    classifier = mlflow.xgboost.load_model(str(folder / "classifier"))
    rows = utils.load_split(data_run, "test").drop(columns=config.TARGET).to_numpy()
    signature = infer_signature(rows, classifier.predict(rows))
    requirements = utils.pinned("mlflow", "xgboost", "scikit-learn", "pandas")
    mlflow.xgboost.save_model(classifier, folder / "nameless", signature=signature, pip_requirements=requirements)
    best = utils.latest_run("hyperparameters_tuning").data.params
    (folder / "best.json").write_text(json.dumps(best))


def measure_steps(effort, inputs):
    """Time each step as a process against its floor.

    Args:
        effort: The `Effort`.
        inputs: The `pathlib.Path` of what `write_inputs` wrote.

    Returns:
        A list of two `Table`s: the steps, and imports alone.
    """
    seconds = {(step, kind): [] for step in floors.FLOORS for kind in ["step", "floor"]}

    def measure_step(step, kind):
        options = ["--n-trials", str(effort.trials)] if step == "hyperparameters_tuning" else []
        if kind == "step":
            # under the same name it would find a finished study
            options += ["--study-name", str(uuid.uuid4())] if options else []
            command = [sys.executable, f"{step}.py", *options]
        else:
            command = [sys.executable, "-m", "benchmarks.floors", str(inputs), step, *options]
        seconds[step, kind].append(timed(lambda: run(*command))[0])

    with ThreadPoolExecutor(effort.at_once) as threads:
        for repeat in range(effort.step_repeats):
            for step in floors.FLOORS:
                if step not in SLOW_STEPS or repeat < effort.slow_repeats:
                    list(threads.map(functools.partial(measure_step, step), ["step", "floor"]))
    rows = []
    for step in floors.FLOORS:
        floor = statistics.median(seconds[step, "floor"])
        rows.append(
            {
                "step": step,
                "seconds": spread(seconds[step, "step"]),
                "floor_seconds": spread(seconds[step, "floor"]),
                "ratio": ratios(seconds[step, "step"], seconds[step, "floor"]),
                "goal_seconds": 1.3 * floor + 1,
            }
        )

    modules = {"Python alone": "pass", "pandas": "import pandas", "scikit-learn": "import sklearn.metrics"}
    modules |= {"xgboost": "import xgboost", "optuna": "import optuna", "mlflow": "import mlflow"}
    modules |= {"config and utils": "import config, utils"}
    modules |= {"mlflow, and its store opened": "import mlflow; mlflow.search_experiments()"}
    packages = "from importlib.metadata import packages_distributions; packages_distributions()"
    modules |= {"which package each module is from": packages}
    calls = {name: functools.partial(run, sys.executable, "-c", statement) for name, statement in modules.items()}
    imports, _ = take_turns(calls, effort.slow_repeats)
    return [
        Table(
            "steps",
            "What a step costs",
            "Each script as a process, against its floor: the same imports and the same computation without an MLflow "
            "run, results in files. The goal is 1.3 times the floor plus one second. Beyond its floor each step opens "
            "the store, the first model that it logs or loads makes MLflow look up which package each installed module "
            "is from (both are in the next table), and the rest is what it records.",
            rows,
        ),
        Table(
            "imports",
            "What imports cost",
            "A process that imports and ends; each includes what the module itself imports. MLflow does what the last "
            "two rows measure by itself, and has no setting to leave it out.",
            [{"import": name, "seconds": spread(values)} for name, values in imports.items()],
        ),
    ]


def measure_log_model(effort, inputs):
    """Time `log_model` with explicit requirements and with requirements that MLflow infers.

    Args:
        effort: The `Effort`.
        inputs: The `pathlib.Path` of what `write_inputs` wrote.

    Returns:
        A list of one `Table`.
    """
    classifier = mlflow.xgboost.load_model(str(inputs / "classifier"))
    requirements = utils.pinned("mlflow", "xgboost", "scikit-learn", "pandas")
    mlflow.set_experiment("Benchmark")
    with mlflow.start_run():
        mlflow.xgboost.log_model(classifier, name="warm_up", pip_requirements=requirements)
        calls = {
            EXPLICIT: lambda: mlflow.xgboost.log_model(classifier, name="model", pip_requirements=requirements),
            INFERRED: lambda: mlflow.xgboost.log_model(classifier, name="model"),
        }
        seconds, _ = take_turns(calls, effort.repeats, [INFERRED], effort.slow_repeats)
    return [
        Table(
            "log_model",
            "What `log_model` costs",
            "Without explicit requirements MLflow starts a process that loads the model and looks at what it imports.",
            [
                {
                    "requirements": name,
                    "repeats": len(values),
                    "seconds": spread(values),
                    "ratio": ratios(values, seconds[EXPLICIT]),
                }
                for name, values in seconds.items()
            ],
        )
    ]


# What does serving cost?


class HttpClient:
    """A client that sends the same request again and again over one connection."""

    def __init__(self, method, url, body=None, content_type="application/json"):
        """Prepare the request.

        Args:
            method: "GET" or "POST".
            url: The address.
            body: Text to send.
            content_type: What it is.
        """
        parts = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self.request = method, parts.path, body and body.encode(), {"Content-Type": content_type}

    def __call__(self):
        """Send the request.

        Returns:
            The body of the answer, as bytes.

        Raises:
            StepError: The status is not 200.
        """
        self.connection.request(*self.request)
        response = self.connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise StepError(f"{self.request[1]} answered {response.status}: {answer[:500]}")
        return answer


def load(make_client, clients, requests):
    """Let several clients work at the same time.

    Args:
        make_client: A function without arguments that returns a client, which is one too.
        clients: How many, each in a thread of its own.
        requests: How many calls all of them make together.

    Returns:
        A pair: the list of the calls' milliseconds, and the calls made in a second.
    """
    barrier = threading.Barrier(clients)

    def work(_):
        client = make_client()
        for _ in range(2):  # not counted: it connects, and loads what is loaded late
            client()
        barrier.wait()
        start = time.perf_counter()
        milliseconds = [1000 * timed(client)[0] for _ in range(requests // clients)]
        return milliseconds, start, time.perf_counter()

    with ThreadPoolExecutor(clients) as threads:
        parts = list(threads.map(work, range(clients)))
    milliseconds = [value for part in parts for value in part[0]]
    duration = max(end for _, _, end in parts) - min(start for _, start, _ in parts)
    return milliseconds, len(milliseconds) / duration


@functools.cache
def in_process_calls(inputs):
    """Load the models.

    Args:
        inputs: The `pathlib.Path` of what `write_inputs` wrote.

    Returns:
        A dict from name to a function that takes rows, a `pandas.DataFrame`, and returns a function without arguments
        that predicts them.
    """
    booster, classifier = [mlflow.xgboost.load_model(str(inputs / name)) for name in ["booster", "classifier"]]
    booster_pyfunc, classifier_pyfunc = [
        mlflow.pyfunc.load_model(str(inputs / name)) for name in ["booster", "classifier"]
    ]
    inner, schema = classifier.get_booster(), classifier_pyfunc.metadata.get_input_schema()

    def invocations(frame):
        body = json.dumps(utils.as_request(frame))
        answer = mlflow.pyfunc.scoring_server.invocations
        return lambda: answer(body, "application/json", classifier_pyfunc, schema)

    def inplace_predict(frame):
        values = frame.to_numpy()
        return lambda: inner.inplace_predict(values)

    return {
        "Booster": lambda frame: lambda: booster.predict(xgb.DMatrix(frame)),
        "XGBClassifier": lambda frame: lambda: classifier.predict(frame),
        "Booster as pyfunc": lambda frame: lambda: booster_pyfunc.predict(frame),
        "XGBClassifier as pyfunc": lambda frame: lambda: classifier_pyfunc.predict(frame),
        "inplace_predict": inplace_predict,
        "invocations": invocations,
    }


def load_in_process(inputs, name, frame, clients, requests):
    """Let several threads of this process predict at the same time.

    Args:
        inputs: The `pathlib.Path` of what `write_inputs` wrote.
        name: A key of `in_process_calls`.
        frame: The rows, a `pandas.DataFrame`.
        clients, requests: As for `load`.

    Returns:
        As `load`.
    """
    return load(lambda: in_process_calls(inputs)[name](frame), clients, requests)


def in_process(stack, inputs, threads):
    """Start a process in which flavours are called.

    XGBoost looks up the number of threads when it is loaded, so each number needs a process of its own.

    Args:
        stack: The `contextlib.ExitStack` that ends the process.
        inputs: The `pathlib.Path` of what `write_inputs` wrote.
        threads: The number of threads.

    Returns:
        A dict from the names of `in_process_calls` to a function of rows, clients and requests that returns what
        `load` does.
    """
    pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # a process inherits it when it starts
    pool.submit(os.getpid).result()
    del os.environ["OMP_NUM_THREADS"]
    return {
        name: lambda *work, name=name: pool.submit(load_in_process, inputs, name, *work).result()
        for name in [*FLAVOURS, "inplace_predict", "invocations"]
    }


def split_body(frame):
    """Write rows in MLflow's form `dataframe_split`.

    Args:
        frame: A `pandas.DataFrame` of features.

    Returns:
        The body of a request, a JSON text.
    """
    return json.dumps(utils.as_request(frame))


def inputs_body(frame):
    """Write rows in MLflow's form `inputs`, one list a column; arguments and result are those of `split_body`."""
    return json.dumps({"inputs": frame.to_dict("list")})


def nameless_body(frame):
    """Write rows in MLflow's form `inputs` without column names; arguments and result are those of `split_body`."""
    return json.dumps({"inputs": frame.to_numpy().tolist()})


def csv_body(frame):
    """Write rows as CSV; arguments and result are those of `split_body`."""
    return frame.to_csv(index=False)


def v2_body(frame):
    """Write rows in the V2 protocol, one tensor a column; arguments and result are those of `split_body`."""
    columns = [
        {"name": name, "shape": [len(frame), 1], "datatype": "FP64", "data": column.tolist()}
        for name, column in frame.items()
    ]
    return json.dumps({"parameters": {"content_type": "pd"}, "inputs": columns})


@dataclass(frozen=True)
class Server:
    """A server, and the form in which it is sent rows.

    Attributes:
        url: The address that predicts.
        make_body: A function from a `pandas.DataFrame` to the body of a request, a text.
        content_type: What the body is.
    """

    url: str
    make_body: Callable
    content_type: str = "application/json"

    def __call__(self, frame, clients, requests):
        """Let clients send rows; arguments and result are those of `load_in_process`."""
        body = self.make_body(frame)
        return load(lambda: HttpClient("POST", self.url, body, self.content_type), clients, requests)

    def classes(self, frame):
        """Get the answer to one request.

        Args:
            frame: The rows, a `pandas.DataFrame`.

        Returns:
            The list of classes.
        """
        answer = json.loads(HttpClient("POST", self.url, self.make_body(frame), self.content_type)())
        return answer["predictions"] if "predictions" in answer else answer["outputs"][0]["data"]


def start_servers(effort, stack, inputs):
    """Start the servers, and some more of `mlflow models serve` with other settings.

    Args:
        effort: The `Effort`.
        stack: The `contextlib.ExitStack` that stops them.
        inputs: The `pathlib.Path` of what `write_inputs` wrote.

    Returns:
        A dict from pairs of server and setting to the server's address.
    """
    serve = ["mlflow", "models", "serve", "--env-manager", "local", "--host", "127.0.0.1", "--model-uri"]
    nameless, serve = [*serve, str(inputs / "nameless")], [*serve, config.CHAMPION_URI]
    floor = ["uvicorn", "benchmarks.floor_server:app", "--host", "127.0.0.1", "--log-level", "warning"]
    model = str(inputs / "classifier" / "model.ubj")
    addresses = {}

    def start(name, setting, command, health, ports=(), **variables):
        port = servers.free_port()
        url = f"http://127.0.0.1:{port}"
        variables |= {variable: str(servers.free_port()) for variable in ports}
        if name == REST:
            variables["MLSERVER_HTTP_PORT"] = str(port)
        else:
            command = [*command, "--port", str(port)]
        stack.enter_context(servers.server(command, f"{url}{health}", **variables))
        addresses[name, setting] = url

    start(SERVE, ONE_THREAD, serve, "/health")
    start(FLOOR, ONE_THREAD, floor, "/health", MODEL=model)
    start(
        REST,
        ONE_THREAD,
        ["docker/mlserve/.venv/bin/mlserver", "start", "docker/mlserve"],
        "/v2/models/cancer-model/ready",
        ["MLSERVER_GRPC_PORT", "MLSERVER_METRICS_PORT"],
    )
    if effort.settings:
        start(SERVE, ALL_THREADS, serve, "/health", OMP_NUM_THREADS=str(CORES))
        start(SERVE, "--workers 2", [*serve, "--workers", "2"], "/health")
        start(SERVE, NAMELESS, nameless, "/health")
    return addresses


def serving_targets(effort, stack, inputs):
    """Start all that predicts.

    Args:
        effort: The `Effort`.
        stack: The `contextlib.ExitStack` that stops it.
        inputs: The `pathlib.Path` of what `write_inputs` wrote.

    Returns:
        A dict from pairs of name and setting to a function of rows, clients and requests that returns what `load` does.
        With the setting `PART` they are what `mlflow models serve` is made of.
    """
    calls = in_process(stack, inputs, 1)
    targets = {(name, ONE_THREAD): calls[name] for name in FLAVOURS}
    targets |= {(name, PART): calls[name] for name in ["inplace_predict", "invocations"]}
    if effort.settings:
        targets["XGBClassifier", ALL_THREADS] = in_process(stack, inputs, CORES)["XGBClassifier"]
    addresses = start_servers(effort, stack, inputs)
    targets |= {key: Server(f"{url}/invocations", split_body) for key, url in addresses.items()}
    targets[V2, ONE_THREAD] = Server(f"{addresses[REST, ONE_THREAD]}/v2/models/cancer-model/infer", v2_body)
    if effort.settings:
        targets[SERVE, NAMELESS] = Server(targets[SERVE, NAMELESS].url, nameless_body)
    serve = addresses[SERVE, ONE_THREAD]
    targets[SERVE, "rows as `inputs`"] = Server(f"{serve}/invocations", inputs_body)
    targets[SERVE, "rows as CSV"] = Server(f"{serve}/invocations", csv_body, "text/csv")
    targets["ping", PART] = lambda frame, *work: load(lambda: HttpClient("GET", f"{serve}/ping"), *work)
    return targets


def measure_serving(effort, inputs):
    """Time the flavours in process and the servers, for one row and all, one client and eight.

    Args:
        effort: The `Effort`.
        inputs: The `pathlib.Path` of what `write_inputs` wrote.

    Returns:
        A list of three `Table`s: the comparison, what settings bring, and where the time of one row goes.

    Raises:
        StepError: A server answers otherwise than the model in this process.
    """
    test = pd.read_csv(inputs / "test.csv").drop(columns=config.TARGET)
    expected = in_process_calls(inputs)["XGBClassifier"](test)().tolist()
    loads = [(test.head(rows), clients) for rows in [1, len(test)] for clients in CLIENTS]
    measured = {}
    run("make", "--silent", "docker/mlserve/.venv/installed")
    with contextlib.ExitStack() as stack:
        targets = serving_targets(effort, stack, inputs)
        for (name, setting), target in targets.items():
            if isinstance(target, Server) and target.classes(test) != expected:
                raise StepError(f"{name}, {setting}: the answers differ from those of the model.")
        for _ in range(effort.rounds):
            for frame, clients in loads:
                for (name, setting), target in targets.items():
                    if setting != PART or (len(frame), clients) == (1, 1):
                        turns = measured.setdefault((name, setting, len(frame), clients), [])
                        turns.append(target(frame, clients, effort.requests))
    return serving_tables(measured, effort)


def serving_tables(measured, effort):
    """Make tables of the measurements.

    Args:
        measured: A dict from name, setting, rows and clients to what `load` returned in each turn.
        effort: The `Effort`.

    Returns:
        A list of three `Table`s: the comparison, what settings bring, and where the time of one row goes.
    """
    p50 = {key: [statistics.median(milliseconds) for milliseconds, _ in turns] for key, turns in measured.items()}

    def cost(key):
        # with several clients a call's time depends on how they happen to take turns
        return p50[key] if key[-1] == 1 else [1000 / rate for _, rate in measured[key]]

    rows, settings = [], {}
    for key, turns in measured.items():
        name, setting, n_rows, clients = key
        if setting == PART:
            continue
        if setting == ONE_THREAD:
            rows.append(
                {
                    "target": f"in process: {name}" if name in FLAVOURS else name,
                    "rows": n_rows,
                    "clients": clients,
                    "p50_ms": statistics.median(p50[key]),
                    "p99_ms": float(np.percentile([value for part, _ in turns for value in part], 99)),
                    "requests_per_second": statistics.median(rate for _, rate in turns),
                    "ratio": ratios(cost(key), cost((FLOOR, ONE_THREAD, n_rows, clients))),
                }
            )
        else:
            row = settings.setdefault((name, setting), {"target": name, "setting": setting})
            row[f"rows {n_rows}, clients {clients}"] = ratios(cost(key), cost((name, ONE_THREAD, n_rows, clients)))

    def median(name, setting=ONE_THREAD):
        return statistics.median(p50[name, setting, 1, 1])

    total = median(SERVE)
    ends = {
        "XGBoost's `inplace_predict`": median("inplace_predict", PART),
        "`XGBClassifier.predict` around it: DataFrame to array, probabilities to classes": median("XGBClassifier"),
        "`pyfunc` around that: input against the signature": median("XGBClassifier as pyfunc"),
        "from JSON to a DataFrame and back": median("invocations", PART),
    }
    costs = dict(zip(ends, np.diff([0, *ends.values()]).tolist(), strict=True))
    costs["HTTP: server, client and network (`GET /ping`)"] = median("ping", PART)
    costs["the rest: request body, hand-over to a thread"] = total - sum(costs.values())
    costs["all"] = total
    return [
        Table(
            "serving",
            "What serving costs",
            "Milliseconds a request (p50, p99) and requests a second. The ratio is to the floor, a bare FastAPI "
            "handler around `inplace_predict`, at the same load: of p50 with one client, of the time between two "
            f"answers with several. All with {ONE_THREAD}, rows as `dataframe_split`, "
            f"{effort.rounds * effort.requests} requests each. The goal for `mlflow models serve` is 1.5 for one row "
            "and one client.",
            rows,
        ),
        Table(
            "serving_settings",
            "What settings bring",
            f"The same, compared with the same target in the table above ({ONE_THREAD}, rows as `dataframe_split`, one "
            "worker): below 1 is faster.",
            list(settings.values()),
        ),
        Table(
            "serving_parts",
            "Where the time of one row goes",
            "`mlflow models serve`, one row, one client, taken apart: each part is the difference of two measurements.",
            [{"part": name, "ms": cost, "share_percent": 100 * cost / total} for name, cost in costs.items()],
        ),
    ]


# How fast is the extractor?


def write_notebook(path, cells):
    """Write a notebook whose cells are all tagged, for the scripts of the project in turn.

    Args:
        path: The `pathlib.Path` of the notebook, in jupytext's percent format.
        cells: How many.
    """
    with open(path, "w", encoding="utf-8") as file:
        for number in range(cells):
            file.write(f'# %% tags=["{config.SCRIPTS[number % len(config.SCRIPTS)]}"]\n')
            file.write(f"# hide from math import sqrt\nvalue_{number} = sqrt({number})\nprint(value_{number})\n\n")


def measure_extractor(effort, folder):
    """Time the extractor on a large notebook and on one of twice the size.

    Args:
        effort: The `Effort`.
        folder: The `pathlib.Path` of the scratch folder.

    Returns:
        A list of one `Table`.
    """
    calls = {}
    for cells in [effort.cells, 2 * effort.cells]:
        notebook, out = folder / f"cells_{cells}.py", folder / f"scripts_{cells}"
        write_notebook(notebook, cells)

        def extract_all(notebook=notebook, out=out):
            shutil.rmtree(out, ignore_errors=True)
            extract(notebook, out)

        extract_all()  # what is imported late
        calls[cells] = extract_all
    seconds, _ = take_turns(calls, 2 * effort.step_repeats)
    return [
        Table(
            "extractor",
            "How fast the extractor is",
            "A notebook with only tagged cells, in process. Twice the cells should take twice the time.",
            [
                {"tagged_cells": cells, "seconds": spread(values), "ratio": ratios(values, seconds[effort.cells])}
                for cells, values in seconds.items()
            ],
        )
    ]


def processor():
    """Name the processor.

    Returns:
        Its name, or its architecture where the system does not tell.
    """
    with contextlib.suppress(OSError):
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def surroundings():
    """Describe the machine and the versions.

    Returns:
        A dict.
    """
    packages = ["mlflow", "xgboost", "scikit-learn", "optuna", "pandas", "numpy", "fastapi", "uvicorn", "jupytext"]
    versions = dict(requirement.split("==") for requirement in utils.pinned(*packages))
    mlserver = re.search(r"^mlserver==(\S+)", Path("docker/mlserve/requirements.txt").read_text(), re.MULTILINE)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": CORES,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **versions, "mlserver": mlserver[1]},
    }


def as_text(value):
    """Write a value of a table.

    Args:
        value: A text, a number, a `spread`, or None.

    Returns:
        A short text: numbers have three digits, a spread has its lowest and highest in brackets where they differ.
    """
    if value is None:
        return ""
    if isinstance(value, dict):
        if value["lowest"] == value["highest"]:
            return as_text(value["median"])
        return f"{as_text(value['median'])} ({as_text(value['lowest'])} to {as_text(value['highest'])})"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def markdown(results):
    """Write the results as a page.

    Args:
        results: The dict that goes into `results.json`.

    Returns:
        The text of `results.md`.
    """
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        "<!-- Generated by benchmarks/benchmark.py from its measurements: do not edit, run `make benchmark`. -->",
        "",
        f"Measured on {results['date']} in {results['seconds'] / 60:.0f} minutes: {results['processor']}, "
        f"{results['cores']} cores, {results['memory_gib']} GiB, {results['system']}; {versions}. "
        "Values are medians, with the lowest and the highest in brackets. What is compared took turns, and each ratio "
        "is that of neighbours.",
    ]
    if results["quick"]:
        lines += ["", "**Made with `--quick`: the form is right, the figures mean nothing.**"]
    for table in results["tables"].values():
        columns = list(table["rows"][0])
        lines += ["", f"### {table['title']}", "", table["text"], ""]
        lines += [f"| {' | '.join(column.replace('_', ' ') for column in columns)} |"]
        texts = [isinstance(table["rows"][0][column], str) for column in columns]
        lines += [f"| {' | '.join('---' if text else '---:' for text in texts)} |"]
        lines += [f"| {' | '.join(as_text(row[column]) for column in columns)} |" for row in table["rows"]]
    return "\n".join(lines) + "\n"


def measure(effort, scratch):
    """Answer all questions.

    Args:
        effort: The `Effort`.
        scratch: The `pathlib.Path` of an empty folder.

    Returns:
        The list of `Table`s.
    """
    project, inputs = scratch / "project", scratch / "inputs"
    project.mkdir()
    inputs.mkdir()
    copy_project(project)
    os.chdir(project)
    for name in FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    start = time.monotonic()
    tables = []

    def ask(question, *arguments):
        print(f"{time.monotonic() - start:5.0f} s  {question.__name__}", flush=True)
        tables.extend(question(effort, *arguments))

    ask(measure_pipeline)
    write_inputs(inputs)
    ask(measure_tracking, scratch)
    ask(measure_workers)
    ask(measure_steps, inputs)
    ask(measure_log_model, inputs)
    ask(measure_serving, inputs)
    ask(measure_extractor, scratch)
    return tables


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: Its words; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.benchmark", description="Measure how fast the project is.")
    parser.add_argument("--quick", action="store_true", help="see that all works; the figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the results")
    options = parser.parse_args(arguments)
    out, home, start = options.out.resolve(), Path.cwd(), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            tables = measure(QUICK if options.quick else FULL, Path(scratch).resolve())
            results = {"quick": options.quick, **surroundings(), "seconds": time.monotonic() - start}
        finally:
            os.chdir(home)  # out of the folder that is removed
    results["tables"] = {table.key: table._asdict() for table in tables}
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(markdown(results), encoding="utf-8")
    print(f"{results['seconds']:5.0f} s  wrote results.json and results.md into {out}")


if __name__ == "__main__":
    main()
