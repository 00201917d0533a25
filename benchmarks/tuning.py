"""Does tuning help? Runs the steps on many splits, and compares the log loss on rows that are new to all models.

usage: python -m benchmarks.tuning [--seeds FIRST LAST] [--out FILE]

The breast cancer data are split with each seed. The steps run as they are, each time in a store of their own. This is
no test: it takes minutes.
"""

import argparse
import contextlib
import json
import runpy
import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import xgboost as xgb
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import config

# None of them was used while the search was designed.
SEEDS = [1000, 1019]


def step(name):
    """Run a step in this process, and return its variables."""
    sys.argv = [name]
    return runpy.run_module(f"steps.{name}", run_name="__main__")


def compare(seed):
    """Run the steps on one split.

    Args:
        seed: Splits the rows, and seeds search and training.

    Returns:
        A dict: the log loss of each model on the test rows, how far the tuned one is behind the best with the standard
        error of that difference, and the verdict of the gate.
    """
    config.SEED = seed
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        data = step("data_preprocessing")
        step("hyperparameters_tuning")
        training = step("model_training")
        verdict = step("data_evaluation")["verdict"]
    tables = [data["train"], data["test"]]
    labels = [(table[data["target"]] == data["classes"][1]).astype(int) for table in tables]
    values = [data["features"](table, data["types"]) for table in tables]
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    answers = {
        "guessing": np.full(len(labels[1]), labels[0].mean()),
        "logistic": logistic.fit(values[0], labels[0]).predict_proba(values[1])[:, 1],
        "defaults": xgb.XGBClassifier().fit(values[0], labels[0]).predict_proba(values[1])[:, 1],
        "tuned": training["classifier"].predict_proba(values[1])[:, 1],
    }
    right = pd.DataFrame({name: np.where(labels[1], answer, 1 - answer) for name, answer in answers.items()})
    losses = -np.log(right.astype(float).clip(np.finfo(np.float32).eps, 1))
    behind = losses["tuned"] - losses[losses.mean().idxmin()]
    return {
        "data": "breast cancer",
        "seed": seed,
        "test_rows": len(losses),
        **losses.mean().round(5).to_dict(),
        "behind_best": round(behind.mean(), 5),
        "standard_error": round(behind.std(ddof=1) / len(behind) ** 0.5, 5),
        "gate": verdict,
    }


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: Its words; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.tuning", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs=2, default=SEEDS, metavar=("FIRST", "LAST"))
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    options = parser.parse_args(arguments)
    found = []
    for seed in range(options.seeds[0], options.seeds[1] + 1):
        found.append(compare(seed))
        print(json.dumps(found[-1]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
