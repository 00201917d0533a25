"""How fast it is: measures steps, tracking, many workers and serving side by side, and writes the results.

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
import math
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import mlflow
import numpy as np
import psutil
import xgboost as xgb
from mlflow.entities import Metric

import config
import servers
import utils
from benchmarks import floors, postgres
from notebook_tools.run import copy_project

CORES = os.cpu_count()
# Variables that would lead to the user's own store, or set the threads that are to be compared.
FOREIGN_VARIABLES = [
    *["MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"],
    *["OMP_NUM_THREADS", "OMP_WAIT_POLICY"],
]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        trials: Trials of a search.
        pairs: How often the search is timed without MLflow and with it.
        repeats: How often the other ways of tracking, the steps and the workers are timed.
        worker_trials: Trials of a search by several workers.
        turns: How often each server has its turn.
        requests: Requests in a turn.
    """

    trials: int
    pairs: int
    repeats: int
    worker_trials: int
    turns: int
    requests: int


FULL = Effort(trials=10, pairs=9, repeats=2, worker_trials=40, turns=3, requests=160)
QUICK = Effort(trials=2, pairs=1, repeats=1, worker_trials=2, turns=1, requests=16)


@dataclass(frozen=True)
class Table:
    """A table of the results.

    Attributes:
        title: Its heading in `results.md`.
        text: What it holds, for `results.md`.
        rows: A list of dicts, one per row, from column to value; a value may be a `spread`.
    """

    title: str
    text: str
    rows: list


def spread(values):
    """Summarise repeated measurements: a dict of their median, the lowest and the highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def ratios(values, base):
    """Compare what took turns: the `spread` of the ratio of each value to its neighbour; `base` may have more."""
    return spread([value / other for value, other in zip(values, base, strict=False)])


def take_turns(calls, repeats):
    """Time calls that take turns.

    Args:
        calls: A dict from name to a function without arguments.
        repeats: How often each is called: a dict from name to number.

    Returns:
        A pair of dicts from name: to the list of seconds, and to the list of what the calls returned.
    """
    seconds, results = {name: [] for name in calls}, {name: [] for name in calls}
    for repeat in range(max(repeats.values())):
        for name, call in calls.items():
            if repeat < repeats[name]:
                start = time.perf_counter()
                results[name].append(call())
                seconds[name].append(time.perf_counter() - start)
    return seconds, results


def run(*command):
    """Run a command in the current folder; returns what it wrote to stdout."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


# --- What does a step cost?


def write_inputs(folder):
    """Write what the steps fetch from MLflow into a folder, for their floors."""
    data_run, training_run = utils.latest_run("data_preprocessing"), utils.latest_run("model_training")
    for name in ["train", "test"]:
        utils.load_dataset(data_run, name).to_csv(folder / f"{name}.csv", index=False)
    for name, model in {"booster": config.BOOSTER_MODEL, "classifier": config.CLASSIFIER_MODEL}.items():
        version = utils.registered_version(model, training_run)
        shutil.copytree(mlflow.artifacts.download_artifacts(f"models:/{model}/{version}"), folder / name)
    best = mlflow.get_run(training_run.data.tags["tuning_run_id"]).data.params
    best = {name: float(best[name]) if name in {"alpha", "learning_rate"} else int(best[name]) for name in best}
    (folder / "best.json").write_text(json.dumps(best))


def measure_steps(effort, inputs):
    """Time each step as a process against its floor, and see that both find the same metrics."""

    def command(step):
        options = ["--n-trials", str(effort.trials)] if step == "hyperparameters_tuning" else []
        return [sys.executable, "-m", f"steps.{step}", *options]

    for step in ["data_preprocessing", "hyperparameters_tuning", "model_training", "data_evaluation"]:
        run(*command(step))  # what the other steps need, and a champion to compare with
    write_inputs(inputs)
    calls = {}
    for step in floors.FLOORS:
        floor = [sys.executable, "-m", "benchmarks.floors", step, str(inputs), str(effort.trials)]
        calls |= {
            (step, "step"): functools.partial(run, *command(step)),
            (step, "floor"): functools.partial(run, *floor),
        }
    seconds, results = take_turns(calls, dict.fromkeys(calls, effort.repeats))
    rows = []
    for step in floors.FLOORS:
        logged = utils.latest_run(step).data.metrics
        for name, value in json.loads(results[step, "floor"][-1]).items():
            if not math.isclose(value, logged[name], abs_tol=1e-9):
                raise RuntimeError(f"{step}: the floor has {name} {value}, the step {logged[name]}.")
        rows.append(
            {
                "step": step,
                "seconds": spread(seconds[step, "step"]),
                "floor_seconds": spread(seconds[step, "floor"]),
                "ratio": ratios(seconds[step, "step"], seconds[step, "floor"]),
            }
        )
    return Table(
        "What a step costs",
        "Each script as a process, against its floor: the same imports and the same computation without an MLflow run, "
        f"results in files. The search makes {effort.trials} trials.",
        rows,
    )


# --- What does tracking cost?

UNTRACKED, TRACKED = "no MLflow", "one `log_batch` per trial, SQLite"


def log_in_one_batch(trial, data):
    """Do a trial as the notebook does: all rounds in one `log_batch`."""
    with mlflow.start_run(run_name=f"Trial_{trial.number}", nested=True) as trial_run:
        curves = floors.cross_validate(trial, *data)
        mlflow.log_params(trial.params)
        now = int(time.time() * 1000)
        batch = [Metric("accuracy", 1 - curves["test-error-mean"].iloc[-1], now, 0)]
        for name in ["auc", "logloss"]:
            batch += [Metric(name, value, now, step) for step, value in enumerate(curves[f"test-{name}-mean"])]
        mlflow.MlflowClient().log_batch(trial_run.info.run_id, batch)
    return curves["test-logloss-mean"].iloc[-1]


class LogEachRound(xgb.callback.TrainingCallback):
    """The way of many tutorials: one call to MLflow for each metric of each boosting round."""

    def after_iteration(self, model, epoch, evals_log):
        """Log the metrics of a round; the interface is that of XGBoost."""
        for name in ["auc", "logloss"]:
            mlflow.log_metric(name, evals_log["test"][name][-1][0], step=epoch)
        return False


def log_each_round(trial, data):
    """Do a trial with a call for each round."""
    with mlflow.start_run(run_name=f"Trial_{trial.number}", nested=True):
        curves = floors.cross_validate(trial, *data, [LogEachRound()])
        mlflow.log_params(trial.params)
        mlflow.log_metric("accuracy", 1 - curves["test-error-mean"].iloc[-1])
    return curves["test-logloss-mean"].iloc[-1]


def measure_tracking(effort, inputs):
    """Time the search without MLflow, with one `log_batch` per trial and with a call per round."""
    data = floors.read(inputs, "train")
    sqlite, port = mlflow.get_tracking_uri(), servers.free_port()
    server_uri = f"http://127.0.0.1:{port}"

    def untracked():
        study = floors.search(lambda trial: floors.cross_validate(trial, *data)["test-logloss-mean"].iloc[-1], trials)
        return [(trial.params, trial.value) for trial in study.trials]

    def tracked(uri, objective):
        mlflow.set_tracking_uri(uri)
        with mlflow.start_run(run_name="Hyperparameters_Search", log_system_metrics=True):
            study = floors.search(lambda trial: objective(trial, data), trials)
            mlflow.log_params(study.best_params)
            mlflow.log_metric("logloss", study.best_value)
        return [(trial.params, trial.value) for trial in study.trials]

    ways = {
        UNTRACKED: untracked,
        TRACKED: lambda: tracked(sqlite, log_in_one_batch),
        "one `log_batch` per trial, server": lambda: tracked(server_uri, log_in_one_batch),
        "one call per round, SQLite": lambda: tracked(sqlite, log_each_round),
    }
    # the others take longer, and differ by more than the noise
    repeats = {name: effort.pairs if name in {UNTRACKED, TRACKED} else 1 for name in ways}
    repeats["one `log_batch` per trial, server"] = effort.repeats
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (
        tempfile.TemporaryDirectory() as store,
        servers.server(command, f"{server_uri}/health", store, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
    ):
        trials = 1
        for way in ways.values():  # not counted: the first contact with a store takes longer
            way()
        trials = effort.trials
        seconds, found = take_turns(ways, repeats)
    mlflow.set_tracking_uri(sqlite)
    if any(each != found[UNTRACKED][0] for repeated in found.values() for each in repeated):
        raise RuntimeError("The searches differ: floors.cross_validate does not do what the notebook does.")
    rows = [
        {
            "way": name,
            "repeats": len(values),
            "seconds": spread(values),
            "ratio": ratios(values, seconds[UNTRACKED]),
            "goal": 1.2 if name == TRACKED else None,
        }
        for name, values in seconds.items()
    ]
    return Table(
        "What tracking costs",
        f"The notebook's search, {effort.trials} seeded trials in one process and in memory: without MLflow, with "
        "nested runs and one `log_batch` per trial as in the notebook, on SQLite and through a local server, and with "
        "`log_metric` for each round. All find the same trials. The ratio is to the search without MLflow.",
        rows,
    )


# --- What do more workers bring?


def measure_workers(effort, _):
    """Time one and two workers, each with the same command and storage: a journal file, and PostgreSQL if installed."""

    def tune(storage, workers):
        command = [sys.executable, "-m", "steps.hyperparameters_tuning", "--n-trials", str(effort.worker_trials)]
        command += ["--storage", storage, "--study-name", str(uuid.uuid4())]
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(lambda _: run(*command), range(workers)))

    addresses = {"journal file": "workers.journal"}
    with postgres.server() if postgres.find_programs() else contextlib.nullcontext() as url:
        if url:
            addresses["PostgreSQL"] = f"{url}/optuna"
            utils.open_storage(addresses["PostgreSQL"])  # makes the tables, which two workers must not do at once
        ways = {
            (name, workers): functools.partial(tune, address, workers)
            for name, address in addresses.items()
            for workers in [1, 2]
        }
        seconds, _ = take_turns(ways, dict.fromkeys(ways, effort.repeats))
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
    return Table(
        "What more workers bring",
        f"The step `hyperparameters_tuning` with a storage: {effort.worker_trials} trials on {CORES} cores, by one "
        "process or by two that share the study, MLflow on SQLite. Starting Python is included. The trials are not "
        "seeded, so each search makes others. The first ratio is to one worker on the same storage.",
        rows,
    )


# --- What does serving cost?

FLOOR = "floor: FastAPI and `inplace_predict`"
OWN = "own server"


def split_body(frame):
    """Write rows in MLflow's form `dataframe_split`, a JSON text."""
    return json.dumps(utils.as_request(frame))


def records_body(frame):
    """Write rows in MLflow's form `dataframe_records`, a JSON text."""
    return json.dumps({"dataframe_records": frame.astype(object).where(frame.notna(), None).to_dict("records")})


def v2_body(frame):
    """Write rows in the V2 protocol, one tensor per column, a JSON text."""
    columns = [
        {"name": name, "shape": [len(frame), 1], "datatype": "FP64", "data": column.tolist()}
        for name, column in frame.items()
    ]
    return json.dumps({"parameters": {"content_type": "pd"}, "inputs": columns})


class Client:
    """A client that sends the same rows again and again over one connection."""

    def __init__(self, url, body):
        parts = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self.request = "POST", parts.path, body.encode(), {"Content-Type": "application/json"}

    def __call__(self):
        """Send the rows; returns the answer's body as bytes."""
        self.connection.request(*self.request)
        response = self.connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{self.request[1]} answered {response.status}: {answer[:500]}")
        return answer


def load(url, body, clients, requests):
    """Let clients send rows at the same time; returns the milliseconds of each request, and the requests per second."""
    barrier = threading.Barrier(clients)

    def work(_):
        client = Client(url, body)
        for _ in range(2):  # not counted: it connects, and loads what is loaded late
            client()
        barrier.wait()
        moments = [time.perf_counter()]
        for _ in range(requests // clients):
            client()
            moments.append(time.perf_counter())
        return moments

    with ThreadPoolExecutor(clients) as threads:
        parts = list(threads.map(work, range(clients)))
    milliseconds = [1000 * value for moments in parts for value in np.diff(moments)]
    return milliseconds, len(milliseconds) / (max(part[-1] for part in parts) - min(part[0] for part in parts))


def start_servers(stack, inputs):
    """Start all servers; returns a dict from name to the address that predicts and the function that writes rows."""
    floor, own, serve, mlserver, grpc, metrics = [str(servers.free_port()) for _ in range(6)]
    model = inputs / "classifier"
    commands = {
        f"{floor}/health": ["uvicorn", "benchmarks.floor_server:app", "--log-level", "warning", "--port", floor],
        f"{own}/health": [sys.executable, "-m", "steps.model_server", "--port", own],
        f"{serve}/health": [
            *["mlflow", "models", "serve", "--host", "127.0.0.1", "--env-manager", "local"],
            *["-m", str(model), "--port", serve],
        ],
        f"{mlserver}/v2/models/cancer-model/ready": ["docker/mlserve/.venv/bin/mlserver", "start", "docker/mlserve"],
    }
    variables = {
        "MODEL": str(model / "model.ubj"),
        "MLSERVER_HTTP_PORT": mlserver,
        "MLSERVER_GRPC_PORT": grpc,
        "MLSERVER_METRICS_PORT": metrics,
    }
    for healthy, command in commands.items():
        stack.enter_context(servers.server(command, f"http://127.0.0.1:{healthy}", **variables))
    return {
        FLOOR: (f"http://127.0.0.1:{floor}/invocations", split_body),
        OWN: (f"http://127.0.0.1:{own}/invocations", records_body),
        "`mlflow models serve`": (f"http://127.0.0.1:{serve}/invocations", split_body),
        "MLServer, REST": (f"http://127.0.0.1:{mlserver}/invocations", split_body),
        "MLServer, V2": (f"http://127.0.0.1:{mlserver}/v2/models/cancer-model/infer", v2_body),
    }


def answer(url, body):
    """Ask a server once; returns the list of classes."""
    said = json.loads(Client(url, body)())
    return said["predictions"] if "predictions" in said else said["outputs"][0]["data"]


def measure_serving(effort, inputs):
    """Time the servers with one row, one client and eight, and see that they answer as the model in this process."""
    features, _ = floors.read(inputs, "test")
    expected = mlflow.xgboost.load_model(str(inputs / "classifier")).predict(features).tolist()
    measured, row = {}, features.head(1)
    run("make", "--silent", "docker/mlserve/.venv/installed")
    with contextlib.ExitStack() as stack:
        targets = start_servers(stack, inputs)
        for name, (url, write) in targets.items():
            if answer(url, write(features)) != expected:
                raise RuntimeError(f"{name}: the answers differ from those of the model.")
        for _ in range(effort.turns):
            for clients in [1, 8]:
                for name, (url, write) in targets.items():
                    turns = measured.setdefault((name, clients), [])
                    turns.append(load(url, write(row), clients, effort.requests))

    def cost(name, clients):
        # with several clients a request's time depends on how they happen to take turns
        turns = measured[name, clients]
        return [statistics.median(part) if clients == 1 else 1 / rate for part, rate in turns]

    rows = [
        {
            "target": name,
            "rows": 1,
            "clients": clients,
            "p50_ms": statistics.median(value for part, _ in turns for value in part),
            "p99_ms": float(np.percentile([value for part, _ in turns for value in part], 99)),
            "requests_per_second": statistics.median(rate for _, rate in turns),
            "ratio": ratios(cost(name, clients), cost(FLOOR, clients)),
        }
        for (name, clients), turns in measured.items()
    ]
    return Table(
        "What serving costs",
        "One row: milliseconds per request (p50, p99) and requests per second, "
        f"{effort.turns * effort.requests} requests each, one thread for XGBoost. The ratio is to the floor, a bare "
        "FastAPI handler around `inplace_predict`: of p50 with one client, of the time between two answers with eight.",
        rows,
    )


# --- The results


def surroundings():
    """Describe the machine and the versions.

    Returns:
        A dict with `date`, `processor`, `cores`, `memory_gib`, `system` and `versions`.
    """
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        processor = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[1]
    packages = ["mlflow", "xgboost", "scikit-learn", "optuna", "pandas", "numpy", "fastapi", "uvicorn"]
    versions = dict(requirement.split("==") for requirement in utils.pinned_requirements(*packages))
    requirements = Path("docker/mlserve/requirements.txt").read_text()
    versions["mlserver"] = re.search(r"^mlserver==(\S+)", requirements, re.MULTILINE)[1]
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "processor": processor,
        "cores": CORES,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **versions},
    }


def as_text(value):
    """Write a value of a table: numbers have three digits, a spread has its lowest and highest in brackets."""
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
    """Write the results as a page: the text of `results.md`."""
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
        lines += ["", f"### {table['title']}", "", f"{table['text']} (Measured in {table['seconds']:.0f} s.)", ""]
        lines += [f"| {' | '.join(column.replace('_', ' ') for column in columns)} |"]
        texts = [isinstance(table["rows"][0][column], str) for column in columns]
        lines += [f"| {' | '.join('---' if text else '---:' for text in texts)} |"]
        lines += [f"| {' | '.join(as_text(row[column]) for column in columns)} |" for row in table["rows"]]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def scratch_project():
    """Work in a copy of the project, in a temporary folder with a store of its own.

    Yields:
        The `pathlib.Path` of an empty folder beside it. The current folder is that of the copy.
    """
    home = Path.cwd()
    for name in FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with tempfile.TemporaryDirectory() as scratch:
        project, beside = Path(scratch).resolve() / "project", Path(scratch).resolve() / "inputs"
        project.mkdir()
        beside.mkdir()
        copy_project(project)
        os.chdir(project)
        mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
        try:
            yield beside
        finally:
            os.chdir(home)  # out of the folder that is removed


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: Its words; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.benchmark", description="Measure how fast the project is.")
    parser.add_argument("--quick", action="store_true", help="see that all works; the figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the results")
    options = parser.parse_args(arguments)
    effort, out, start, tables = QUICK if options.quick else FULL, options.out.resolve(), time.monotonic(), {}
    with scratch_project() as inputs:
        for measure in [measure_steps, measure_tracking, measure_workers, measure_serving]:  # the first writes `inputs`
            begun = time.monotonic()
            table = measure(effort, inputs)
            key = measure.__name__.removeprefix("measure_")
            tables[key] = {**asdict(table), "seconds": time.monotonic() - begun}
            print(f"{tables[key]['seconds']:5.0f} s  {table.title}", flush=True)
        results = {"quick": options.quick, **surroundings(), "seconds": time.monotonic() - start, "tables": tables}
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(markdown(results), encoding="utf-8")
    print(f"{results['seconds']:5.0f} s  wrote results.json and results.md into {out}")


if __name__ == "__main__":
    main()
