"""What the steps share: parameters, the words of errors, runs, names and data sets."""

import json
import subprocess
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest
from loguru import logger

import cli
import config
import store
import utils
from cli import StepError

# --- Parameters of scripts


@pytest.fixture
def parameters(monkeypatch):
    """Read the parameters of the preparation as its script does."""

    def read(words):
        monkeypatch.setattr(sys, "argv", ["script", *words.split()])
        return cli.arguments("data-preprocessing", "name", "test-size", "dataset", "target", "positive-class")

    return read


def test_values_are_converted_and_in_the_order_of_the_names(parameters):
    assert parameters("") == [None, 0.33, None, None, None]
    words = "--test-size 1e-1 --dataset a.csv --name 2 --positive-class 1"
    assert parameters(words) == ["2", 0.1, "a.csv", None, "1"]


def test_one_value_alone_is_no_list(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", "--training-run-id", "abc"])
    assert cli.arguments("flavour-comparison", "training-run-id") == "abc"


def test_empty_path_of_mlflow_run(parameters, tmp_path):
    """For an empty path `mlflow run` makes an empty folder param_N; what is in one is somebody's."""
    empty = tmp_path / "param_1"
    empty.mkdir()
    assert parameters(f"--dataset {empty}")[2] is None
    (empty / "a.csv").touch()
    assert parameters(f"--dataset {empty}")[2] == str(empty)


@pytest.mark.parametrize("words", ["--test-size half", "--rows 3", "stray", "--test-size"])
def test_wrong_parameters(parameters, words):
    with pytest.raises(StepError, match=r"^[^\n]+\. For help: python -m steps.data_preprocessing --help$"):
        parameters(words)


def test_starting_a_server_needs_nothing_heavy():
    code = "import sys, servers; sys.exit(not {'mlflow', 'optuna', 'pandas'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=config.PROJECT_DIR).returncode == 0


# --- Errors of a store


ADDRESSES = {
    "postgresql://me:se@/cret@db:5432/mlflow": "postgresql://db:5432/mlflow",
    "postgresql://db/mlflow?user=me&password=secret": "postgresql://db/mlflow",
    "postgresql://db/mlflow?password=secret@secret": "postgresql://",
    "postgresql://me:secret?@db/mlflow": "postgresql://",
    "sqlite:////home/me@work/mlflow.db": "sqlite:////home/me@work/mlflow.db",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_password_is_not_said(address):
    assert store.without_password(address) == ADDRESSES[address]
    line = store.in_one_line(OSError(f"{address} : Connection refused\nmore"))
    assert line == f"{ADDRESSES[address]} : Connection refused. Start the server, or correct its address."


def test_error_of_a_database_in_one_line():
    """What SQLAlchemy puts before it and after it is left out."""
    words = "(raised as a result of Query-invoked autoflush; consider (this))\n(sqlite3.OperationalError) database is locked"
    line = store.in_one_line(Exception(f"{words}\n[SQL: INSERT]"))
    assert line == "database is locked. Another program keeps the store busy: run the step again when that has ended."
    assert store.in_one_line(KeyError()) == "KeyError."


# --- Runs


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a new store, which is the current one."""
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(None)


def add_run(client, status, end, **tags):
    """A run with this status, end and tags; returns its ID."""
    run_id = client.create_run("0", tags=tags).info.run_id
    client.set_terminated(run_id, status, end)
    return run_id


def test_the_run_that_ended_last(client):
    """Runs that failed, have another tag or are of another step do not count; a tag may have quotes."""
    tags = {"step": "model_training", "study": """o'hara's "study" """}
    last, first = [add_run(client, "FINISHED", end, **tags) for end in [20, 10]]
    add_run(client, "FAILED", 30, **tags)
    newest = add_run(client, "FINISHED", 40, step="model_training")
    add_run(client, "FINISHED", 50, step="data_evaluation")
    assert utils.latest_run("model_training").info.run_id == newest
    assert utils.latest_run(**tags).info.run_id == last
    assert utils.latest_run("model_training", first).info.run_id == first
    with pytest.raises(StepError, match="no finished run with step model_training and study mine. First run: mlflow "):
        utils.latest_run("model_training", study="mine")


def test_wrong_run(client):
    """One line says what is wrong with it."""
    failed = add_run(client, "FAILED", 1, step="model_training")
    deleted = add_run(client, "FINISHED", 1, step="model_training")
    client.delete_run(deleted)
    wrong = {failed: "has status FAILED, not", deleted: "has lifecycle_stage deleted, not", "nosuchrun": ": "}
    for run_id, words in wrong.items():
        with pytest.raises(StepError, match=f"^Run {run_id} ?{words}.*Give the ID of another run.$"):
            utils.latest_run("model_training", run_id)
    with pytest.raises(StepError, match=f"^Run {failed} has step model_training, not data_evaluation. "):
        utils.latest_run("data_evaluation", failed)


# --- What data are called

NAMES = {
    (None, None): "Cancer",
    (None, "/data/-été of [1].csv.gz"): "été_of_1",
    ("Red wines 2.0", "wine.csv"): "Red wines 2.0",
    ("x" * 100, None): "x" * 100,
}


@pytest.mark.parametrize(("given", "path"), NAMES)
def test_name_of_data(client, tmp_path, given, path):
    """The one that is given, else that of the file, which is said. It can have models and a champion."""
    said = []
    sink = logger.add(said.append, format="{message}")
    name = utils.data_name(given, path)
    logger.remove(sink)
    assert name == NAMES[given, path]
    assert [f"the data are called {name}, " in line for line in said] == [True] * bool(path and not given)
    for model in [f"{name}Model", f"Custom{name}Model"]:
        client.create_registered_model(model)
        assert utils.champion_version(model) is None
        client.create_model_version(model, str(tmp_path))
        client.set_registered_model_alias(model, config.CHAMPION, "1")
        assert utils.champion_version(model) == 1
        for version in [f"@{config.CHAMPION}", "/latest", "/1"]:
            assert utils.version_uri(f"models:/{model}{version}") == f"models:/{model}/1"


@pytest.mark.parametrize(
    "given", ["a/b", "a:b", "it's", 'a"b', "a%b", "a\n", " a", "-a", ".", "a" * 101, "CustomShips"]
)
def test_name_that_cannot_be_used(given):
    """MLflow refuses it; or, as CustomShipsModel, it would be that of the model on top of another."""
    with pytest.raises(StepError, match=r"^[^\n]* cannot be the name of data: give a `name` of letters, [^\n]*$"):
        utils.data_name(given, None)


TYPES = [{"name": "size", "kind": "number"}, {"name": "ward", "kind": "words", "words": ["a"]}]
DATA = {"target": "outcome", "classes": ["no", "yes"], "types": TYPES}
# Newer data under a name have the same columns and classes; words and the order of columns may differ.
SAME = {**DATA, "types": [{"name": "ward", "kind": "words", "words": ["b"]}, TYPES[0]]}
OTHER = {
    "ward, day": {"types": [TYPES[0], {"name": "ward", "kind": "number"}, {"name": "day", "kind": "date"}]},
    "size, ward, column 0": {"types": [{"name": f"column {number}", "kind": "number"} for number in range(1000)]},
    "the target": {"target": "result"},
    "the classes, class 1 last": {"classes": ["yes", "no"]},
}


def test_name_in_use(client, tmp_path):
    experiment = client.create_experiment("wards", artifact_location=(tmp_path / "files").as_uri())
    tags = {"step": "data_preprocessing", "name": "Ward", "target": "outcome", "classes": '["no", "yes"]'}
    run_id = client.create_run(experiment, tags=tags).info.run_id
    client.log_dict(run_id, TYPES, "types.json")
    client.set_terminated(run_id)
    utils.check_name("Ward", **SAME)
    for words, change in OTHER.items():
        with pytest.raises(StepError, match=f"^The name Ward is in use for data that differ in {words}") as said:
            utils.check_name("Ward", **{**DATA, **change})
        assert str(said.value).endswith(f"mlflow runs delete --run-id {run_id}")
        assert "\n" not in str(said.value) and len(str(said.value)) < 600
    client.delete_run(run_id)  # the way out that the line names
    utils.check_name("Ward", **{**DATA, **change})


# --- Data sets in runs


def test_data_set_is_described_as_mlflow_does_it():
    """The columns' types, and which may miss a value, are those that MLflow finds by looking at every value."""
    frame = pd.DataFrame({"a": [1.0, 2.0, np.nan], "b": [1.0, 2.0, 3.0], "word": ["x", None, "y"], "target": [0, 1, 0]})
    schema = utils.as_dataset(frame, "data.csv", "test", "target").schema
    assert schema == mlflow.models.infer_signature(frame).inputs
    assert [column.name for column in schema.inputs if not column.required] == ["a", "word"]


def test_digest_is_that_of_all_rows():
    frame = pd.DataFrame({"a": np.arange(20_000.0), "target": 0})
    frames = [frame, frame.copy(), frame.rename(columns={"a": "b"}), frame.replace({"a": {19_999.0: 0.5}})]
    assert len({utils.as_dataset(each, "data.csv", "test", "target").digest for each in frames}) == 3


@pytest.mark.parametrize("target", [["no", "yes", "no"], [2, 4, 2], [0.5, 1.5, 0.5]])
def test_data_set_comes_back_as_it_was(client, tmp_path, target):
    """To the last digit, and with the words None, NA, 007 and True, which are no missing values and no numbers."""
    words = {
        "word": ["None", "NA", None],
        "code": ["007", "True", '"1",\n'],
        "ä\n": ["\r", "x", " c "],
        "no": [None] * 3,
    }
    columns = {
        "number": pd.Series([0.1 + 0.2, -3.4e38, np.nan]),
        "sure": pd.array([True, None, False], "boolean"),
        "time": pd.to_datetime(pd.Series(["0001-01-01", "9999-12-31 12:30:00.5", None]), format="ISO8601"),
    }
    kinds = {**dict.fromkeys(words, "words"), "number": "number", "sure": "boolean", "time": "date"}
    frame = pd.DataFrame({**{name: pd.Series(values, dtype="str") for name, values in words.items()}, **columns})
    frame["target"] = pd.Series(target, dtype="str" if target[0] == "no" else None)
    experiment = client.create_experiment(tmp_path.name, artifact_location=(tmp_path / "files").as_uri())
    tags = {"target": "target", "classes": json.dumps(sorted(set(target)))}
    with mlflow.start_run(experiment_id=experiment, tags=tags) as run:
        mlflow.log_dict([{"name": name, "kind": kind} for name, kind in kinds.items()], "types.json")
        logged = utils.log_dataset(frame, "train", "target", "training")
    loaded = utils.load_dataset(mlflow.get_run(run.info.run_id), "train")
    pd.testing.assert_frame_equal(loaded, frame, check_exact=True)
    assert utils.as_dataset(loaded, "", "train", "target").digest == logged.digest


def test_known_rows():
    """Which rows stand in the other set too, in whatever row, with missing values in the same places."""
    others = pd.DataFrame({"x": [1.0, 2.0, np.nan, 2.0], "y": [0.0, 1.0, 2.0, 1.0]})
    values = pd.DataFrame({"x": [2.0, 2.0, np.nan, np.nan], "y": [1.0, 0.0, 2.0, 1.0]}, index=[7, 8, 7, 9])
    known = utils.known_rows(values, others)
    assert known.tolist() == [True, False, True, False]
    assert utils.known_rows(values, others.head(0)).tolist() == [False] * 4


def test_missing_number_becomes_null_in_a_request():
    frame = pd.DataFrame({"a": [1.5, np.nan], "b": ["x", None]})
    assert utils.as_request(frame) == {"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, "x"], [None, None]]}}
