# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import json

import mlflow
import numpy as np
import pandas as pd
import xgboost as xgb
from loguru import logger

import cli
import config
import utils
from cli import StepError

from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import data_files

test_size, dataset, target, positive_class, data_name = 0.33, None, None, None, None
test_size, dataset, target, positive_class, data_name = cli.arguments(
    "data-preprocessing", "test-size", "dataset", "target", "positive-class", "name"
)

data_name = utils.data_name(data_name, dataset)
if dataset:
    data, target = data_files.read_table(dataset, target)
else:
    bunch = load_breast_cancer(as_frame=True)
    data, target = bunch.frame, "target"
    data[target] = bunch.target_names[bunch.target]  # malignant, benign
classes = data_files.two_classes(data[target], positive_class, test_size)
train, test = train_test_split(
    data, test_size=test_size, stratify=data[target], random_state=config.SEED
)
train, test = train.reset_index(drop=True), test.reset_index(drop=True)

import re
import unicodedata
from functools import lru_cache

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException


@lru_cache(maxsize=10_000, typed=True)
def as_word(value):
    """Return a word's text: 1.0 is 1, and blanks at the ends make no difference."""
    text = unicodedata.normalize("NFC", str(value)).strip()  # é has two forms in Unicode
    return re.sub(r"^(-?\d+)\.0$", r"\1", text)


# by the letter of the pandas dtype; `read_table` has made floats of whole numbers
kinds = {"f": "number", "b": "boolean", "M": "date"}
types = [
    {"name": name, "kind": kinds.get(train[name].dtype.kind, "words")}
    for name in train.columns.drop(target)
]
for column in types:
    if column["kind"] == "words":
        column["words"] = sorted({as_word(word) for word in train[column["name"]].dropna()})

# what a column may hold, in the words of pandas.api.types.infer_dtype
ACCEPTED = {
    "number": ["integer", "floating", "mixed-integer-float", "decimal"],
    "boolean": ["boolean", "integer", "floating"],
    "date": ["date", "datetime", "datetime64", "string"],
}
LARGEST = np.finfo(np.float32).max  # XGBoost takes larger numbers for infinite


def as_numbers(values, column):
    """Return a column as floats, NaN where missing; raise ValueError for another kind."""
    if column["kind"] == "number" and values.dtype == float:
        return np.asarray(values)
    missing = np.asarray(pd.isna(values))
    if column["kind"] == "words":
        places = {word: place for place, word in enumerate(column["words"])}
        pairs = zip(values, missing, strict=True)
        return np.array([np.nan if gap else places.get(as_word(v), np.nan) for v, gap in pairs])
    if missing.all():
        return np.full(len(values), np.nan)
    if pd.api.types.infer_dtype(values) not in ACCEPTED[column["kind"]]:
        raise ValueError
    if column["kind"] == "date":
        given = pd.Series(values).astype("str")
        dates = given.where(given.str.match(r"\d{4}[-/]"))
        dates = pd.to_datetime(dates, format="ISO8601", utc=True, errors="coerce")
        if (dates.isna() & ~missing).any():
            raise ValueError
        values = (dates - pd.Timestamp("1970-01-01", tz="UTC")) / pd.Timedelta(days=1)
    numbers = np.where(missing, np.nan, values).astype(float)
    if column["kind"] == "boolean" and not np.isin(numbers[~missing], [0, 1]).all():
        raise ValueError
    return numbers


def features(table, types):
    """Turn raw rows into what XGBoost sees.

    Args:
        table: n rows as they stand in the file: a DataFrame, or a dict of arrays.
        types: What the columns are, a list of dicts: `name`, `kind` and, for words, `words`.

    Returns:
        n rows of floats, in the order of `types`, with the ratio at the end: a DataFrame for a
        DataFrame, else an array.

    Raises:
        MlflowException: No rows, a column is missing, or a value is not of its column's kind.
    """
    refuse = MlflowException.invalid_parameter_value  # a server answers with status 400
    columns = {}
    if lacking := [column["name"] for column in types if column["name"] not in table]:
        raise refuse(f"Columns are missing: {', '.join(lacking)}.")
    for column in types:
        name = column["name"]
        try:
            columns[name] = as_numbers(table[name], column)
        except (TypeError, ValueError, OverflowError):
            raise refuse(f"{name}: a value is not of its kind, {column['kind']}.") from None
    if {"mean symmetry", "mean texture"} <= set(columns):  # features of your own go here
        with np.errstate(all="ignore"):
            ratio = columns["mean symmetry"] / columns["mean texture"]
        columns["symmetry per texture"] = np.where(np.abs(ratio) < LARGEST, ratio, np.nan)
    values = np.column_stack(list(columns.values()))
    if not len(values):
        raise refuse("There are no rows.")
    large = np.fmax.reduce(np.abs(values)) > LARGEST
    if large.any():
        names = ", ".join(np.array(list(columns))[large])
        raise refuse(f"Infinite or too large values in: {names}.")
    if not isinstance(table, pd.DataFrame):
        return values
    names = [name.translate(str.maketrans("[]<", "()_")) for name in columns]  # XGBoost's rule
    return pd.DataFrame(values, columns=names, index=table.index)


known = int(utils.known_rows(features(test, types), features(train, types)).sum())
utils.check_name(data_name, target, classes, types)

utils.set_experiment(data_name)  # Cancer_Classification, unless you have chosen another one
tags = {"step": "data_preprocessing", "name": data_name}
tags |= {"target": target, "classes": json.dumps(classes)}
source = dataset or "breast cancer"
with mlflow.start_run(run_name="Data_Preprocessing", tags=tags) as run:
    mlflow.log_params({"test_size": test_size, "seed": config.SEED, "data_source": source})
    mlflow.log_metrics({"full_rows": len(data), "train_rows": len(train), "test_rows": len(test)})
    mlflow.log_metric("test_rows_in_training", known)
    mlflow.log_dict(types, "types.json")
    train_data = utils.log_dataset(train, "train", target, context="training")
    test_data = utils.log_dataset(test, "test", target, context="testing")
    about = f"{source}, {len(train)} training rows, digest {train_data.digest}"
    mlflow.set_tag("data", f"{about}, class 1 is {classes[1]!r}")
logger.info(f"{about}, class 0 is {classes[0]!r}, class 1 is {classes[1]!r}")
logger.info(f"{len(test)} test rows, {known} of them equal to one in the training data")
