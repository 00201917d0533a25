"""How fast it is: measures steps, tracking, many workers and serving side by side, and writes the results.

usage: python -m benchmarks.benchmark [--quick] [--out FOLDER]

What is compared takes turns, so that a busy moment of the machine hits all alike, and the ratios are those of
neighbours. Everything runs in a copy of the project in a temporary folder, with a store of its own.
"""

import argparse
import contextlib
import functools
import http.client
import io
import json
import os
import platform
import re
import runpy
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import mlflow
import numpy as np
import pandas as pd
import psutil
import requests
import xgboost as xgb

import servers
import utils
from notebook_tools.run import copy_project

# Variables that would lead to the user's own store, or set the threads that are to be compared.
FOREIGN_VARIABLES = ("MLFLOW_TRACKING_", "MLFLOW_REGISTRY_", "MLFLOW_EXPERIMENT_", "MLFLOW_RUN_", "OMP_")
# Trials of a search, and of one by several workers; requests in a server's turn; how often each has its turn.
FULL = SimpleNamespace(trials=10, worker_trials=30, requests=160, repeats=3)
QUICK = SimpleNamespace(trials=2, worker_trials=2, requests=16, repeats=1)


def spread(values):
    """Summarise repeated measurements: a dict of their median, the lowest and the highest."""
    return {"median": float(np.median(values)), "lowest": min(values), "highest": max(values)}


def ratios(values, base):
    """Compare what took turns: the `spread` of the ratio of each value to its neighbour."""
    return spread([value / other for value, other in zip(values, base, strict=True)])


def take_turns(calls, repeats):
    """Call functions in turn.

    Args:
        calls: A dict from name to a function without arguments.
        repeats: How often each is called.

    Returns:
        A dict from name to the list of what the calls returned.
    """
    results = [{name: call() for name, call in calls.items()} for _ in range(repeats)]
    return {name: [result[name] for result in results] for name in calls}


def run(*command):
    """Run a command in the current folder; returns the seconds that it took, and what it wrote to stdout."""
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return time.perf_counter() - start, result.stdout


# --- The tables: a docstring is the title and the text of the table, and has figures of the effort in it

STEPS = ["data_preprocessing", "hyperparameters_tuning", "model_training", "data_evaluation"]
STEPS += ["flavour_comparison", "model_customization", "serving_check"]


def measure_steps(effort):
    """What a step costs.

    Each script as a process, against its floor: the same process without the time that it spends in MLflow's store,
    which is an SQLite database and a folder of files. So importing MLflow, and what it does to describe and check a
    model, are in the floor too. The search makes {trials} trials.
    """

    def cost(step):
        options = ["--n-trials", str(effort.trials)] if step == "hyperparameters_tuning" else []
        seconds, said = run(sys.executable, "-m", "benchmarks.store_time", step, *options)
        return seconds, seconds - float(said.splitlines()[-1])

    for step in STEPS[:4]:  # not counted: what the other steps need, and a champion to compare with
        cost(step)
    rows = []
    for step, costs in take_turns({step: functools.partial(cost, step) for step in STEPS}, effort.repeats).items():
        seconds, floor_seconds = zip(*costs, strict=True)
        row = {"step": step, "seconds": spread(seconds), "floor_seconds": spread(floor_seconds)}
        rows.append({**row, "ratio": ratios(seconds, floor_seconds)})
    return rows


class LogEachRound(xgb.callback.TrainingCallback):
    """The way of many tutorials: one call to MLflow for each metric of each boosting round."""

    def after_iteration(self, model, epoch, evals_log):
        """Log the metrics of a round; the interface is that of XGBoost."""
        if mlflow.active_run():  # there is none when the step draws its plots
            for name in ["auc", "logloss"]:
                mlflow.log_metric(name, evals_log["test"][name][-1][0], step=epoch)
        return False


def search(uri, patch, trials):
    """Run the step that searches, in this process.

    Args:
        uri: Where MLflow's store is.
        patch: A patch, of `unittest.mock`, to run it with.
        trials: How many trials the search makes.

    Returns:
        The seconds from the beginning of the first trial to the end of the last one, and a list of what they found.
    """
    mlflow.set_tracking_uri(uri)
    words = ["hyperparameters_tuning", "--n-trials", str(trials)]
    with patch, mock.patch.object(sys, "argv", words), contextlib.redirect_stderr(io.StringIO()):
        trials = runpy.run_module("steps.hyperparameters_tuning", run_name="__main__")["study"].trials
    seconds = (trials[-1].datetime_complete - trials[0].datetime_start).total_seconds()
    return seconds, [(trial.params, trial.value, trial.user_attrs) for trial in trials]


@mock.patch.dict(os.environ)  # MLflow notes there where the runs went
def measure_tracking(effort):
    """What tracking costs.

    The step `hyperparameters_tuning`, {trials} seeded trials in one process, from the beginning of the first one to the
    end of the last: without MLflow (its functions that log do nothing), as it is, on SQLite and through a local server,
    and with `log_metric` for each round besides. All find the same trials. The ratio is to the search without MLflow.
    """
    here, uri = mlflow.get_tracking_uri(), f"http://127.0.0.1:{servers.free_port()}"
    logging = ["start_run", "MlflowClient", *(name for name in dir(mlflow) if name.startswith(("log_", "set_tag")))]
    cv = functools.partial(xgb.cv, callbacks=[LogEachRound()])
    ways = {
        "no MLflow": (here, mock.patch.multiple(mlflow, **dict.fromkeys(logging, mock.DEFAULT))),
        "one `log_batch` per trial, SQLite": (here, contextlib.nullcontext()),
        "one `log_batch` per trial, server": (uri, contextlib.nullcontext()),
        "one call per round, SQLite": (here, mock.patch.object(xgb, "cv", cv)),
    }
    command = f"mlflow server --host 127.0.0.1 --port {uri.rpartition(':')[2]} --workers 1 --backend-store-uri {here}"
    with servers.server(command.split(), f"{uri}/health", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        for way in ways.values():  # not counted: the first contact with a store takes longer
            search(*way, 1)
        calls = {name: functools.partial(search, *way, effort.trials) for name, way in ways.items()}
        results = take_turns(calls, effort.repeats)
    mlflow.set_tracking_uri(here)
    (_, expected), *_ = results["no MLflow"]
    if any(found != expected for repeated in results.values() for _, found in repeated):
        raise RuntimeError("The searches differ: the ways of tracking do not compute the same.")
    seconds = {name: [result[0] for result in repeated] for name, repeated in results.items()}
    return [
        {"way": name, "seconds": spread(values), "ratio": ratios(values, seconds["no MLflow"])}
        for name, values in seconds.items()
    ]


def measure_workers(effort):
    """What more workers bring.

    The step `hyperparameters_tuning` with a journal file: {worker_trials} trials by one process or by two that share
    the study, MLflow on SQLite. Starting Python is included. The trials are not seeded, so each search makes others.
    The ratio is to one worker.
    """

    def tune(workers):
        command = [sys.executable, "-m", "steps.hyperparameters_tuning", "--n-trials", str(effort.worker_trials)]
        command += ["--storage", f"{time.time_ns()}.journal"]
        start = time.perf_counter()
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(lambda _: run(*command), range(workers)))
        return time.perf_counter() - start

    seconds = take_turns({workers: functools.partial(tune, workers) for workers in [1, 2]}, effort.repeats)
    return [
        {"workers": workers, "seconds": spread(values), "ratio": ratios(values, seconds[1])}
        for workers, values in seconds.items()
    ]


def records_body(frame):
    """Write rows in MLflow's form `dataframe_records`."""
    return {"dataframe_records": frame.to_dict("records")}


def v2_body(frame):
    """Write rows of numbers in the V2 protocol, one tensor per column."""
    tensor = {"shape": [len(frame), 1], "datatype": "FP64"}
    columns = [{"name": name, **tensor, "data": column.tolist()} for name, column in frame.items()]
    return {"parameters": {"content_type": "pd"}, "inputs": columns}


def load(port, path, body, clients, count):
    """Let clients send a body at the same time, each over one connection.

    Returns:
        The median and the 99th percentile of the milliseconds that a request takes, and the seconds from one answer to
        the next, whoever gets it.
    """
    data = json.dumps(body).encode()

    def work(_):
        connection, moments = http.client.HTTPConnection("127.0.0.1", port, timeout=60), []
        for _ in range(3 + count // clients):
            connection.request("POST", path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            said = response.read()
            if response.status != 200:
                raise RuntimeError(f"{path} answered {response.status}: {said[:500]}")
            moments.append(time.perf_counter())
        return moments[2:]  # before, it connects, and the server loads what is loaded late

    with ThreadPoolExecutor(clients) as threads:
        moments = np.array(list(threads.map(work, range(clients))))
    return *np.percentile(1000 * np.diff(moments), [50, 99]), np.ptp(moments) / count


def start_servers(stack, model_uri):
    """Start all servers; returns a dict from name to the port, the path and the function that writes rows."""
    floor, own, serve, mlserver, grpc, metrics = [str(servers.free_port()) for _ in range(6)]
    variables = {"MLSERVER_HTTP_PORT": mlserver, "MLSERVER_GRPC_PORT": grpc, "MLSERVER_METRICS_PORT": metrics}
    variables["MLSERVER_MODEL_URI"] = model_uri
    serve_model = f"mlflow models serve --host 127.0.0.1 --env-manager local -m {model_uri}"
    commands = {
        f"{floor}/openapi.json": f"uvicorn benchmarks.floor_server:app --log-level warning --port {floor}",
        f"{own}/health": f"python -m steps.model_server --model-uri {model_uri} --port {own}",
        f"{serve}/health": f"{serve_model} --port {serve}",
        f"{mlserver}/v2/models/cancer-model/ready": "docker/mlserve/.venv/bin/mlserver start docker/mlserve",
    }
    for ready, command in commands.items():
        stack.enter_context(servers.server(command.split(), f"http://127.0.0.1:{ready}", **variables))
    return {
        "floor": (floor, "/invocations", utils.as_request),
        "own server": (own, "/invocations", records_body),
        "`mlflow models serve`": (serve, "/invocations", utils.as_request),
        "MLServer, REST": (mlserver, "/invocations", utils.as_request),
        "MLServer, V2": (mlserver, "/v2/models/cancer-model/infer", v2_body),
    }


def answer(port, path, body):
    """Ask a server once; returns the list of classes."""
    said = requests.post(f"http://127.0.0.1:{port}{path}", json=body, timeout=60).json()
    if "outputs" in said:  # V2: one for each column of the answer
        return next(output["data"] for output in said["outputs"] if output["name"] == "prediction")
    return [row["prediction"] if isinstance(row, dict) else row for row in said["predictions"]]


def measure_serving(effort):
    """What serving costs.

    One row as it stands in the file: milliseconds per request (p50, p99) and requests per second, in turns of
    {requests} requests, one thread for XGBoost. The floor is a bare FastAPI handler around the model's `features` and
    XGBoost's `inplace_predict`, and the ratio is that of the times from one answer to the next. Before, each server has
    answered the test set as the model does.
    """
    model_uri = "models:/CancerModel@champion"
    model = mlflow.pyfunc.load_model(model_uri)
    test = utils.load_dataset(utils.latest_run("data_preprocessing"), "test")
    test = test.drop(columns=model.metadata.metadata["target"])
    expected, row = model.predict(test)["prediction"].tolist(), test.head(1)
    run("make", "--silent", "docker/mlserve/.venv/installed")
    with contextlib.ExitStack() as stack:
        targets = start_servers(stack, model_uri)
        for name, (port, path, write) in targets.items():
            if answer(port, path, write(test)) != expected:
                raise RuntimeError(f"{name}: the answers differ from those of the model.")
        calls = {
            (clients, name): functools.partial(load, port, path, write(row), clients, effort.requests)
            for clients in [1, 8]
            for name, (port, path, write) in targets.items()
        }
        turns = take_turns(calls, effort.repeats)
    measured, rows = {name: list(zip(*each, strict=True)) for name, each in turns.items()}, []
    for (clients, name), (p50, p99, seconds) in measured.items():
        base = measured[clients, "floor"][-1]
        row = {"target": name, "clients": clients, "p50_ms": float(np.median(p50)), "p99_ms": float(np.median(p99))}
        rows.append({**row, "requests_per_second": 1 / float(np.median(seconds)), "ratio": ratios(seconds, base)})
    return rows


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
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **versions},
    }


def as_text(value):
    """Write a value of a table: numbers have three digits, a spread has its lowest and highest in brackets."""
    if isinstance(value, dict):
        median, lowest, highest = [as_text(value[name]) for name in ["median", "lowest", "highest"]]
        return median if value["lowest"] == value["highest"] else f"{median} ({lowest} to {highest})"
    return f"{float(f'{value:.3g}'):g}" if isinstance(value, float) else str(value)


def markdown(results):
    """Write the results as a page: the text of `results.md`."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        "<!-- Generated by benchmarks/benchmark.py from its measurements: do not edit, run `make benchmark`. -->\n",
        f"Measured on {results['date']} in {results['seconds'] / 60:.0f} minutes: {results['processor']}, "
        f"{results['cores']} cores, {results['memory_gib']} GiB, {results['system']}; {versions}. "
        "Values are medians, with the lowest and the highest in brackets. What is compared took turns, and each ratio "
        "is that of neighbours.",
    ]
    if results["quick"]:
        lines.append("\n**Made with `--quick`: the form is right, the figures mean nothing.**")
    for table in results["tables"].values():
        lines.append(f"\n### {table['title']}\n\n{table['text']}\n")
        frame = pd.DataFrame(table["rows"]).map(as_text)
        for cells in [frame.columns.str.replace("_", " "), ["---"] * frame.shape[1], *frame.to_numpy()]:
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def scratch_project():
    """Work in a copy of the project, in a temporary folder with a store of its own.

    Yields:
        Nothing. The current folder is that of the copy.
    """
    for name in [name for name in os.environ if name.startswith(FOREIGN_VARIABLES)]:
        del os.environ[name]
    utils.CHOSEN_NAME = utils.CHOSEN_ID = None  # which it has read from them
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        copy_project(Path(scratch))
        mlflow.set_tracking_uri(f"sqlite:///{scratch}/mlflow.db")
        yield


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
    with scratch_project():
        for measure in [measure_steps, measure_tracking, measure_workers, measure_serving]:  # the first one trains
            title, text = measure.__doc__.format(**vars(effort)).split(".\n\n")
            table = {"title": title, "text": " ".join(text.split()), "rows": measure(effort)}
            tables[measure.__name__.removeprefix("measure_")] = table
            print(f"{time.monotonic() - start:5.0f} s  {title}", flush=True)
        results = {"quick": options.quick, **surroundings(), "seconds": time.monotonic() - start, "tables": tables}
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (out / "results.md").write_text(markdown(results), encoding="utf-8")
    print(f"{results['seconds']:5.0f} s  wrote results.json and results.md into {out}")


if __name__ == "__main__":
    main()
