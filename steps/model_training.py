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


from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType

data_run_id, tuning_run_id = None, None
data_run_id, tuning_run_id = cli.arguments(
    "model-training", "data-run-id", "tuning-run-id"
)
data_run = utils.latest_run("data_preprocessing", data_run_id)
train, target = utils.load_dataset(data_run, "train"), data_run.data.tags["target"]
types = mlflow.artifacts.load_dict(f"runs:/{data_run.info.run_id}/types.json")
classes = json.loads(data_run.data.tags["classes"])
data_name = data_run.data.tags["name"]
model_name = f"{data_name}Model"
values, label = features(train, types), (train[target] == classes[1]).astype(int)
dtrain = xgb.DMatrix(values, label=label)

of_these_data = {"data_run_id": data_run.info.run_id, "order_by": "metrics.logloss ASC"}
tuning_run = utils.latest_run("hyperparameters_tuning", tuning_run_id, **of_these_data)
best = tuning_run.data.params
names = ["max_depth", "learning_rate", "subsample", "colsample_bytree"]
params = {name: json.loads(best[name]) for name in names}
rounds, threads = int(best["num_boost_round"]), utils.threads(train)

import hashlib
import logging
from pathlib import Path

from mlflow.models import Model


def sha256(folder):
    """Return the digest of a classifier's file, to notice when it is damaged."""
    return hashlib.sha256(Path(folder, "model.ubj").read_bytes()).hexdigest()


class TableClassifier(mlflow.pyfunc.PythonModel):
    """An XGBoost classifier that takes rows as they stand in the file."""

    def load_context(self, context):
        """Load the classifier, which MLflow has stored as an artifact."""
        folder = context.artifacts["classifier"]
        if sha256(folder) != context.model_config["sha256"]:  # XGBoost could take the server down
            raise MlflowException("The classifier's file is damaged.")
        self.classifier = mlflow.xgboost.load_model(folder)
        self.about = Model.load(folder).metadata

    def features(self, table):
        """Turn raw rows into what the classifier sees, with the code stored with this model."""
        return features(table, self.about["types"])  # the function, not this method

    def answer(self, values):
        """Return the answers to n rows of features: a DataFrame with n rows."""
        classes, probabilities = self.about["classes"], self.classifier.predict_proba(values)
        answer = {"prediction": [classes[place] for place in probabilities.argmax(axis=1)]}
        for place, name in enumerate(classes):
            answer[f"probability of {name}"] = probabilities[:, place].astype(float)
        return pd.DataFrame(answer).astype({"prediction": object})

    def unknown_words(self, table, values):
        """Return for each column of words the share of rows whose word the model does not know."""
        shares = {}
        for column, seen in zip(self.about["types"], np.asarray(values).T, strict=False):
            if column["kind"] == "words":
                unknown = pd.notna(table[column["name"]]) & np.isnan(seen)
                shares[column["name"]] = float(unknown.mean())
        return shares

    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Return for n rows as many answers: `prediction` and each `probability of …`."""
        values = self.features(model_input)
        for name, share in self.unknown_words(model_input, values).items():
            if share:
                logging.warning("%s: %.0f %% of the words are unknown", name, 100 * share)
        return self.answer(values)


about = {"name": data_name, "target": target, "classes": classes, "types": types}
packages = ["mlflow", "xgboost", "scikit-learn", "pandas"]
with_each = {"pip_requirements": utils.pinned_requirements(*packages), "metadata": about}
with_each["step"] = rounds - 1


def log_model(classifier, name):
    """Log a classifier and the model around it in the active run, and register the model."""
    classifier_info = mlflow.xgboost.log_model(
        classifier,
        name="classifier",
        signature=infer_signature(values, classifier.predict(values)),
        input_example=values.head(3),
        **with_each,
    )
    here = TableClassifier()  # as the cell above has it
    here.classifier, here.about = classifier, about
    raw, answer = train.drop(columns=target), here.answer(values)
    example = raw.head(3).astype(object)  # in JSON, NaN has to be None
    model_info = mlflow.pyfunc.log_model(
        name=name,
        python_model=str(config.PROJECT_DIR / "steps" / "model_code.py"),
        artifacts={"classifier": classifier_info.model_uri},
        model_config={
            "sha256": sha256(mlflow.artifacts.download_artifacts(classifier_info.model_uri))
        },
        signature=ModelSignature(
            inputs=Schema([ColSpec(AnyType(), column) for column in raw]),
            outputs=infer_signature(model_output=answer).outputs,
        ),
        input_example=example.where(example.notna(), None),
        **with_each | {"metadata": {**about, "classifier_id": classifier_info.model_id}},
    )
    stored = mlflow.pyfunc.load_model(model_info.model_uri).unwrap_python_model()
    if not (stored.features(raw).equals(values) and stored.answer(values).equals(answer)):
        raise StepError("steps/model_code.py is not what the cells say. First: make scripts")
    return mlflow.register_model(model_info.model_uri, model_name, tags={"classes": str(classes)})


utils.set_experiment(data_name)
tags = {"step": "model_training", "name": data_name, "data": data_run.data.tags["data"]}
tags |= {"data_run_id": data_run.info.run_id, "tuning_run_id": tuning_run.info.run_id}
with mlflow.start_run(run_name="Model_Training", tags=tags) as run:
    mlflow.MlflowClient().log_inputs(run.info.run_id, data_run.inputs.dataset_inputs)

    mlflow.xgboost.autolog(log_models=False, log_datasets=False)
    booster = xgb.train(
        {"objective": "binary:logistic", "seed": config.SEED, "nthread": threads, **params},
        dtrain,
        num_boost_round=rounds,
        evals=[(dtrain, "train")],
        verbose_eval=False,
    )
    mlflow.xgboost.autolog(disable=True)
    # the same once more, with the same parameters under scikit-learn's names
    same = {"n_estimators": rounds, "random_state": config.SEED, "n_jobs": threads, **params}
    classifier = xgb.XGBClassifier(**same).fit(values, label)
    model_version = log_model(classifier, "tuned")
    booster_info = mlflow.xgboost.log_model(
        booster,
        name="booster",
        registered_model_name=f"{model_name}Booster",
        signature=infer_signature(values, booster.predict(dtrain)),
        input_example=values.head(3),
        **with_each,
    )
booster_version = booster_info.registered_model_version
logger.info(
    f"registered {model_name} version {model_version.version} and {model_name}Booster version "
    f"{booster_version}: {rounds} rounds, {len(train)} rows"
)
