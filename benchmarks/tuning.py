"""Does tuning help? Runs the steps on many splits, or on tables, and compares the log loss on rows new to all models.

usage: python -m benchmarks.tuning [--seeds FIRST LAST] [--shuffled N] [--trials N] [--out FILE] [TABLE ...]

Without a table the breast cancer data are split with each seed. A table is a CSV file with a column `target`. With
`--shuffled` the labels are mixed, so that there is nothing to learn: N data sets, of the tables and of the cancer data,
in turn. The steps run as they are, each time in a store of their own. This is no test: it takes minutes.
"""

import argparse
import contextlib
import json
import os
import runpy
import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import xgboost as xgb
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import config

# None of them was used while the search was designed.
SEEDS = [1000, 1019]


def step(name, *options):
    """Run a step in this process, and return its variables."""
    sys.argv = [name, *options]
    return runpy.run_module(f"steps.{name}", run_name="__main__")


def logistic_regression():
    """Make a logistic regression of scaled numbers, and of words as a column each."""
    numbers = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    words = OneHotEncoder(handle_unknown="ignore")
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")), (words, make_column_selector(dtype_include="str"))
    )
    return make_pipeline(columns, LogisticRegression(max_iter=5000))


def compare(dataset, seed, trials):
    """Run the steps on one split.

    Args:
        dataset: Path of a table; None for the breast cancer data.
        seed: Splits the rows, and seeds search and training.
        trials: How many trials the search makes.

    Returns:
        A dict: the log loss of each model on the test rows, how far the tuned one is behind the best with the standard
        error of that difference, and the verdict of the gate.
    """
    config.SEED = seed
    given = ["--dataset", str(dataset)] if dataset else []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        data = step("data_preprocessing", *given)
        step("hyperparameters_tuning", "--n-trials", str(trials))
        training = step("model_training")
        verdict = step("data_evaluation")["verdict"]
    words = [column["name"] for column in data["types"] if column["kind"] == "words"]
    tables, labels = [data["train"], data["test"]], []
    values, raw = [data["features"](table, data["types"]) for table in tables], []
    for table, numbers in zip(tables, values, strict=True):
        labels.append((table[data["target"]] == data["classes"][1]).astype(int))
        raw.append(numbers.assign(**{name: table[name].fillna("").astype("str") for name in words}))
    answers = {
        "guessing": np.full(len(labels[1]), labels[0].mean()),
        "logistic": logistic_regression().fit(raw[0], labels[0]).predict_proba(raw[1])[:, 1],
        "defaults": xgb.XGBClassifier().fit(values[0], labels[0]).predict_proba(values[1])[:, 1],
        "tuned": training["classifier"].predict_proba(values[1])[:, 1],
    }
    right = pd.DataFrame({name: np.where(labels[1], answer, 1 - answer) for name, answer in answers.items()})
    losses = -np.log(right.astype(float).clip(np.finfo(np.float32).eps, 1))
    behind = losses["tuned"] - losses[losses.mean().idxmin()]
    return {
        "data": Path(dataset).stem if dataset else "breast cancer",
        "seed": seed,
        "test_rows": len(losses),
        **losses.mean().round(5).to_dict(),
        "behind_best": round(behind.mean(), 5),
        "standard_error": round(behind.std(ddof=1) / len(behind) ** 0.5, 5),
        "gate": verdict,
    }


def shuffle(table, seed, folder):
    """Write 300 to 600 of a table's rows with mixed labels; returns the path."""
    rng = np.random.default_rng(seed)
    frame = pd.read_csv(table) if table else load_breast_cancer(as_frame=True).frame
    frame = frame.iloc[rng.permutation(len(frame))[: rng.integers(300, 601)]]
    path = Path(folder, f"{Path(table).stem if table else 'cancer'}_{seed}.csv")
    frame.assign(target=rng.permutation(frame["target"])).to_csv(path, index=False)
    return path


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: Its words; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="benchmarks.tuning", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs=2, default=SEEDS, metavar=("FIRST", "LAST"))
    parser.add_argument("--shuffled", type=int, default=0, metavar="N", help="so many data sets with mixed labels")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    parser.add_argument("tables", nargs="*", metavar="TABLE", type=os.path.abspath)
    options = parser.parse_args(arguments)
    first, last = options.seeds
    with tempfile.TemporaryDirectory() as folder:
        if options.shuffled:
            tables = [*options.tables, *[None] * options.shuffled][: options.shuffled]
            splits = [(shuffle(table, seed, folder), seed) for seed, table in enumerate(tables)]
        elif options.tables:
            splits = [(table, config.SEED) for table in options.tables]
        else:
            splits = [(None, seed) for seed in range(first, last + 1)]
        found = []
        for dataset, seed in splits:
            found.append(compare(dataset, seed, options.trials))
            print(json.dumps(found[-1]), flush=True)
            if options.out:
                options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
