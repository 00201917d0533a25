"""What each step costs as the data grow: runs the steps on more and more rows and writes the results.

usage: python -m benchmarks.rows [--sizes ROWS ...] [--out FOLDER]

Each step is a process, in a copy of the project in a temporary folder with a store of its own. Its memory is what it
and the processes that it started hold at the same time, looked at 20 times a second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from sklearn.datasets import load_breast_cancer

import config
import utils
from benchmarks.benchmark import STEPS, scratch_project, surroundings

SIZES = [569, 300_000]
TRIALS = 1
PARAMS = {"objective": "binary:logistic", "max_depth": 4, "learning_rate": 0.1}
ROUNDS = 100
MODEL = ["--model-uri", "models:/RowsModel/1"]
OPTIONS = dict.fromkeys(STEPS, []) | {
    "data_preprocessing": ["--dataset", "data.csv", "--name", "Rows"],
    "hyperparameters_tuning": ["--n-trials", str(TRIALS)],
    "serving_check": MODEL,
    "batch_scoring": ["--input", "data.csv", "--output", "scores.csv", *MODEL],
    "drift_check": ["--input", "data.csv", *MODEL],
}


def write_data(rows, path):
    """Write a CSV file with the columns of the breast cancer data.

    The rows are drawn from the real ones, with noise of half a standard deviation on each feature. So they are good
    for measuring, and for nothing else: a row of the test set often has its twin among those for training.

    Args:
        rows: How many.
        path: The file, a `pathlib.Path`.
    """
    frame = load_breast_cancer(as_frame=True).frame
    random = np.random.default_rng(config.SEED)
    data = frame.iloc[random.integers(len(frame), size=rows)].reset_index(drop=True)
    for name in frame.columns.drop("target"):
        data[name] += random.normal(scale=frame[name].std() / 2, size=rows)
    data.to_csv(path, index=False)


def train_alone(path):
    """Train on a CSV file in one process.

    Args:
        path: The file.
    """
    import xgboost as xgb

    train = pd.read_csv(path)
    dtrain = xgb.DMatrix(train.drop(columns="target"), label=train["target"])
    xgb.train({**PARAMS, "nthread": utils.threads(train)}, dtrain, ROUNDS)


def train_with_dask(path):
    """Train on a CSV file with a Dask worker for each core, on this machine.

    Args:
        path: The file; each worker reads its own part.
    """
    import dask.dataframe as dd
    import xgboost.dask as dxgb
    from distributed import Client, LocalCluster

    workers = os.cpu_count()
    options = {"n_workers": workers, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        train = dd.read_csv(path, blocksize=Path(path).stat().st_size // workers)
        dtrain = dxgb.DaskDMatrix(client, train.drop(columns="target"), train["target"])
        dxgb.train(client, PARAMS, dtrain, ROUNDS)


def measure(command):
    """Run a command and watch it.

    Args:
        command: Its words.

    Returns:
        A dict of its seconds and its peak memory in MiB.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryFile("w+") as output:
        start, peak = time.monotonic(), 0
        with psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
            while process.poll() is None:
                memory = 0
                for member in [process, *process.children(recursive=True)]:
                    try:
                        # for a moment each new process is the double of the one that starts it, and shares its memory
                        if member is process or member.cmdline() != member.parent().cmdline():
                            memory += member.memory_info().rss
                    except (psutil.NoSuchProcess, AttributeError):  # it, or its parent, has ended
                        continue
                peak = max(peak, memory)
                time.sleep(0.05)
        seconds = time.monotonic() - start
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output.read()}")
    return {"seconds": round(seconds, 2), "peak_mib": round(peak / 2**20)}


def measure_size(rows):
    """Run everything on data of one size, in the current folder.

    Args:
        rows: How many.

    Returns:
        A list of dicts: one for each step, and one for each way of training alone.
    """
    write_data(rows, Path("data.csv"))
    costs = []
    commands = {step: [sys.executable, "-m", f"steps.{step}", *options] for step, options in OPTIONS.items()}
    for way, function in {"one process": train_alone, "Dask": train_with_dask}.items():
        code = f"from benchmarks import rows; rows.{function.__name__}('data.csv')"
        commands[f"XGBoost alone, {way}"] = [sys.executable, "-c", code]
    for name, command in commands.items():
        costs.append({"step": name, "rows": rows, **measure(command)})
        print(f"{rows:>9} rows  {costs[-1]['seconds']:7.1f} s {costs[-1]['peak_mib']:7} MiB  {name}", flush=True)
    return costs


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: Its words; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.rows", description="Measure the steps as the data grow.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="how many rows, one number or more")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the results")
    options = parser.parse_args(arguments)
    out, start, costs = options.out.resolve(), time.monotonic(), []
    for rows in options.sizes:
        with scratch_project():
            costs += measure_size(rows)
            results = {**surroundings(), "seconds": time.monotonic() - start, "trials": TRIALS, "costs": costs}
    out.mkdir(parents=True, exist_ok=True)
    (out / "rows.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"{results['seconds']:.0f} s  wrote rows.json into {out}")


if __name__ == "__main__":
    main()
