"""What the steps share: parameters, data sets in runs, and the words of error messages."""

import json
import re
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import mlflow
import numpy as np
import pandas as pd
import pytest
from loguru import logger
from mlflow.utils.file_utils import local_file_uri_to_path
from sklearn.datasets import load_breast_cancer

import config
import data_files
import utils
from cli import StepError


@pytest.fixture
def parameters(monkeypatch):
    """Read parameters as a script does; what that changes in the process is put back."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    before = signal.getsignal(signal.SIGTERM)

    def read(words, *names):
        monkeypatch.setattr(sys, "argv", ["script", *words.split()])
        return utils.arguments(*names)

    yield read
    signal.signal(signal.SIGTERM, before)


PREPROCESSING = ["data-preprocessing", "test-size", "dataset", "target", "positive-class", "name"]


def test_defaults_are_converted(parameters):
    assert parameters("", *PREPROCESSING) == [0.33, None, None, None, None]
    assert parameters("", "model-customization", "training-run-id") is None


def test_given_values_are_converted_and_in_the_order_of_the_names(parameters):
    order = ["data-preprocessing", "positive-class", "name", "test-size", "target", "dataset"]
    words = "--test-size 1e-1 --dataset a.csv --name 2 --positive-class 1"
    assert parameters(words, *order) == ["1", "2", 0.1, None, "a.csv"]


def test_empty_path_of_mlflow_run(parameters, tmp_path):
    """For an empty path `mlflow run` makes an empty folder param_N; what is in one is somebody's."""
    empty = tmp_path / "param_1"
    empty.mkdir()
    assert parameters(f"--dataset {empty}", *PREPROCESSING)[1] is None
    (empty / "a.csv").touch()
    assert parameters(f"--dataset {empty}", *PREPROCESSING)[1] == str(empty)


@pytest.mark.parametrize("words", ["--test-size half", "--rows 3", "stray", "--test-size"])
def test_wrong_parameters(parameters, words):
    with pytest.raises(StepError, match=r"For help: python -m steps.data_preprocessing --help$"):
        parameters(words, *PREPROCESSING)


def test_script_and_declaration_differ(parameters):
    with pytest.raises(ValueError, match="MLproject declares"):
        parameters("", "data-preprocessing", "test-size")


@pytest.mark.parametrize("password", ["secret", "se/cret", "se@cret", "secret" * 60])
def test_password_is_not_said(password):
    address = f"postgresql://someone:{password}@127.0.0.1:5432/mlflow"
    assert utils.without_password(address) == "postgresql://127.0.0.1:5432/mlflow"
    said = utils.in_one_line(OSError(f"{address}: Connection refused"))
    assert said.startswith("postgresql://127.0.0.1:5432/mlflow: Connection refused.")


def test_path_is_said_as_it_is():
    assert utils.without_password("sqlite:////home/me@work/mlflow.db") == "sqlite:////home/me@work/mlflow.db"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A client of a new store, which is the current one."""
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(None)


def test_the_run_that_ended_last(store):
    """In whatever experiment, and whichever began first; runs that failed or have other tags do not count."""
    other = store.create_experiment("other")
    tags = {"step": "model_training", "data": "some"}
    late = store.create_run(other, tags=tags, start_time=1).info.run_id
    early = store.create_run("0", tags=tags, start_time=2).info.run_id
    store.set_terminated(early, end_time=10)
    store.set_terminated(late, end_time=20)
    store.set_terminated(store.create_run("0", tags=tags).info.run_id, "FAILED", end_time=30)
    store.set_terminated(store.create_run("0", tags={"step": "data_evaluation"}).info.run_id, end_time=30)
    store.create_run("0", tags=tags)
    assert utils.latest_run("model_training").info.run_id == late
    assert utils.latest_run("model_training", early).info.run_id == early
    with pytest.raises(StepError, match="no finished run with step model_training and study mine"):
        utils.latest_run("model_training", study="mine")


def test_wrong_run(store):
    """One line says what is wrong with it."""
    run_id = store.create_run("0", tags={"step": "model_training"}).info.run_id
    said = {
        f"Run {run_id} is RUNNING": lambda: None,
        f"Run {run_id} is FAILED": lambda: store.set_terminated(run_id, "FAILED"),
        f"Run {run_id} is deleted. Restore it: mlflow runs restore --run-id {run_id}": lambda: store.delete_run(run_id),
    }
    for words, change in said.items():
        change()
        with pytest.raises(StepError, match=words):
            utils.latest_run("model_training", run_id)
    with pytest.raises(StepError, match=f"Run {run_id} has step model_training, not data_evaluation"):
        utils.latest_run("data_evaluation", run_id)
    with pytest.raises(StepError, match="Run nosuchrun: "):
        utils.latest_run("model_training", "nosuchrun")


# --- What data are called

NAMES = {
    (None, None): "Cancer",
    (None, "wine.csv"): "wine",
    (None, "/data/sets/patients of 2024.csv.gz"): "patients_of_2024",
    (None, "-été [1].parquet"): "été_1",
    ("Mine", "wine.csv"): "Mine",
    ("Red wines 2.0", None): "Red wines 2.0",
}


@pytest.mark.parametrize(("given", "path"), NAMES)
def test_name_of_data(given, path):
    """The one that is given, else that of the file, which is said."""
    lines = []
    sink = logger.add(lines.append, format="{message}")
    name = utils.data_name(given, path)
    logger.remove(sink)
    assert name == NAMES[given, path]
    said = [f"{path}: the data are called {name}, and the model {name}Model. Another one: give a `name`\n"]
    assert lines == (said if path and not given else [])


@pytest.mark.parametrize(
    ("given", "path"),
    [(name, None) for name in ["a/b", "a:b", "it's", 'a"b', "a`b", "a%b", "a\n", " a", "-a", ".", "a" * 101]]
    + [(None, name) for name in [".csv", "---.csv"]],
)
def test_name_that_mlflow_could_not_use(given, path):
    with pytest.raises(StepError, match=r"^[^\n]* cannot be the name of data: give a `name` of letters, [^\n]*$"):
        utils.data_name(given, path)


@pytest.mark.parametrize("name", [*NAMES.values(), "a.b-c_d", "7", "x" * 100])
def test_name_that_mlflow_can_use(store, tmp_path, name):
    """Every name that is let through can have an experiment, models, a champion, and runs that are found again."""
    assert utils.data_name(name, None) == name
    experiment = store.create_experiment(f"{name}_Classification")
    run_id = store.create_run(experiment, tags={"step": "model_training", "name": name}).info.run_id
    store.set_terminated(run_id)
    assert utils.latest_run("model_training", name=name).info.run_id == run_id
    for model in [f"{name}Model", f"{name}ModelBooster", f"Custom{name}Model"]:
        store.create_registered_model(model)
        assert utils.champion_version(model) is None
        store.create_model_version(model, str(tmp_path))
        store.set_registered_model_alias(model, config.CHAMPION, "1")
        assert utils.champion_version(model) == 1
        for uri in [f"models:/{model}@{config.CHAMPION}", f"models:/{model}/latest", f"models:/{model}/1"]:
            assert utils.version_uri(uri) == f"models:/{model}/1"


TYPES = [{"name": "size", "kind": "number"}, {"name": "ward", "kind": "words", "words": ["a"]}]
DATA = {"target": "outcome", "classes": ["no", "yes"], "types": TYPES}


def prepared(store, folder, name, *, target, classes, types, status="FINISHED"):
    """A run that prepared such data."""
    experiment = store.create_experiment(f"{folder.name}_{name}", artifact_location=(folder / "files").as_uri())
    tags = {"step": "data_preprocessing", "name": name, "target": target, "classes": json.dumps(classes)}
    run = store.create_run(experiment, tags=tags)
    store.log_dict(run.info.run_id, types, "types.json")
    store.set_terminated(run.info.run_id, status)
    return run.info.run_id


def test_name_in_use(store, tmp_path):
    """Newer data under the name have the same columns and classes; words may differ. Other data are refused in a line."""
    run_id = prepared(store, tmp_path, "Ward", **DATA)
    utils.check_name("Ward", **DATA)
    utils.check_name("Ward", **{**DATA, "types": [{"name": "ward", "kind": "words", "words": ["b"]}, TYPES[0]]})
    utils.check_name("Another", **{**DATA, "types": TYPES[:1]})
    for change, words in [
        ({"types": TYPES[:1]}, "ward"),
        ({"types": [*TYPES, {"name": "day", "kind": "date"}]}, "day"),
        ({"types": [TYPES[0], {"name": "ward", "kind": "number"}]}, "ward"),
        ({"target": "result"}, "the target"),
        ({"classes": ["yes", "no"]}, "the classes, class 1 last: ['yes', 'no'], not"),
        ({"classes": ["no", "maybe"], "types": TYPES[1:]}, "size, the classes"),
        ({"types": [{"name": f"column {number}", "kind": "number"} for number in range(1000)]}, "size, ward, column 0"),
    ]:
        with pytest.raises(
            StepError, match=f"^The name Ward is in use for data that differ in {re.escape(words)}"
        ) as said:
            utils.check_name("Ward", **{**DATA, **change})
        assert str(said.value).endswith(f"mlflow runs delete --run-id {run_id}")
        assert "\n" not in str(said.value) and len(str(said.value)) < 600
    store.delete_run(run_id)  # the way out that the line names
    utils.check_name("Ward", **{**DATA, "types": TYPES[:1]})


def test_names_that_would_share_a_model(store, tmp_path):
    """CustomersModel is the model of customers, or the one on top of ersModel."""
    prepared(store, tmp_path, "Customers", **DATA)
    prepared(store, tmp_path, "CustomCustomers", **{**DATA, "target": "x"})
    for name, near in [("ers", "Customers"), ("CustomCustomers", "Customers")]:
        with pytest.raises(StepError, match=rf"^The name {name} is too near to {near}, .* Give another `name`\.$"):
            utils.check_name(name, **DATA)
    utils.check_name("CustomersOfOurs", **DATA)


def test_name_of_data_whose_files_are_gone(store, tmp_path):
    """Whether other data have this name cannot be known; the line has the way out."""
    run_id = prepared(store, tmp_path, "Gone", **DATA)
    folder = Path(local_file_uri_to_path(store.get_run(run_id).info.artifact_uri))
    shutil.rmtree(folder)
    with pytest.raises(StepError, match=rf"^The data of run {run_id} cannot be read.* Its name is Gone, too.") as said:
        utils.check_name("Gone", **DATA)
    assert str(said.value).endswith(f"mlflow runs delete --run-id {run_id}")
    store.delete_run(run_id)
    utils.check_name("Gone", **DATA)


def test_name_of_a_preparation_that_failed(store, tmp_path):
    prepared(store, tmp_path, "Failed", status="FAILED", **DATA)
    utils.check_name("Failed", **{**DATA, "types": TYPES[:1]})


# --- Data sets in runs


def breast_cancer():
    return load_breast_cancer(as_frame=True).frame.head(200)


def test_data_set_is_described_as_mlflow_does_it():
    """The columns' types, and which may miss a value, are those that MLflow finds by looking at every value."""
    frame = breast_cancer()
    frame.loc[150, "mean area"] = np.nan
    dataset = utils.as_dataset(frame, "data.csv", "test", "target")
    assert dataset.schema == mlflow.models.infer_signature(frame).inputs
    assert [column.name for column in dataset.schema.inputs if not column.required] == ["mean area"]


def test_digest_is_that_of_all_rows():
    frame = pd.DataFrame({"a": np.arange(20_000.0), "target": 0})
    digests = {
        utils.as_dataset(changed, "data.csv", "test", "target").digest
        for changed in [frame, frame.copy(), frame.rename(columns={"a": "b"}), frame.replace({"a": {19_999.0: 0.5}})]
    }
    assert len(digests) == 3


def kept_and_loaded(store, folder, frame, types):
    """A data set as it comes back from a run, and whether its digest is that of the one that was kept."""
    experiment = store.create_experiment(folder.name, artifact_location=(folder / "files").as_uri())
    tags = {"target": "target", "classes": json.dumps(sorted(frame["target"].unique().tolist()))}
    with mlflow.start_run(experiment_id=experiment, tags=tags) as run:
        mlflow.log_dict([{"name": name, "kind": kind} for name, kind in types.items()], "types.json")
        logged = utils.log_dataset(frame, "train", "target", "training")
    loaded = utils.load_dataset(mlflow.get_run(run.info.run_id), "train")
    return loaded, utils.as_dataset(loaded, "", "train", "target").digest == logged.digest


@pytest.mark.parametrize("target", [["no", "yes", "no"], [2, 4, 2], [0.5, 1.5, 0.5]])
def test_data_set_comes_back_as_it_was(store, tmp_path, target):
    """To the last digit, and with the words None, NA, 007 and True, which are no missing values and no numbers."""
    words = {
        "word": ["None", "NA", None],
        "code": ["007", "010", "1e3"],
        "truth": ["True", "False", "1.0"],
        "line\nbreak": ['a "quoted", b', "ä\r\nb", " c "],
        "unknown": [None, None, None],
    }
    columns = {
        "number": pd.Series([0.1 + 0.2, 1 / 3, np.nan]),
        "large": pd.Series([-3.4e38, 5e-324, 2.0**70]),
        "sure": pd.array([True, None, False], "boolean"),
        "day": pd.to_datetime(pd.Series(["1970-01-02", "9999-12-31", None])),
        "time": pd.to_datetime(pd.Series(["0001-01-01", "2024-07-04 12:30:00.5", "2024-07-04"]), format="ISO8601"),
    }
    kinds = {"number": "number", "large": "number", "sure": "boolean", "day": "date", "time": "date"}
    frame = pd.DataFrame({**{name: pd.Series(values, dtype="str") for name, values in words.items()}, **columns})
    frame["target"] = pd.Series(target, dtype="str" if target[0] == "no" else None)
    loaded, is_same = kept_and_loaded(store, tmp_path, frame, {**dict.fromkeys(words, "words"), **kinds})
    pd.testing.assert_frame_equal(loaded, frame, check_exact=True)
    assert is_same


def test_users_table_comes_back_as_it_was_read(store, tmp_path):
    """From the file to the run and back, with what stands in no row of a set."""
    path = tmp_path / "table.csv"
    rows = ["a,True,9999-12-31,1.5,no", "NA,,,,yes", '"b\r",False,2024-07-04 12:30,1e-300,yes', "None,,2024-07-04,7,no"]
    path.write_text("\n".join(["word,sure,day,number,target", *rows, *rows]), newline="")
    table, _ = data_files.read_table(path)
    types = {"word": "words", "sure": "boolean", "day": "date", "number": "number"}
    for name, rows in {"all": table, "none": table.iloc[[1, 5]]}.items():
        folder = tmp_path / f"{tmp_path.name}_{name}"
        loaded, is_same = kept_and_loaded(store, folder, rows.reset_index(drop=True), types)
        pd.testing.assert_frame_equal(loaded, rows.reset_index(drop=True), check_exact=True)
        assert is_same


def test_data_set_that_cannot_be_read(store):
    """Its files are gone, or were never there."""
    run_id = store.create_run("0", tags={"target": "target", "classes": "[0, 1]"}).info.run_id
    with pytest.raises(StepError, match=f"^The data of run {run_id} cannot be read. "):
        utils.load_dataset(mlflow.get_run(run_id), "train")


def test_known_rows():
    """Which rows stand in the other set too, in whatever row, with missing values in the same places."""
    others = pd.DataFrame({"x": [1.0, 2.0, np.nan, 2.0], "y": [0.0, 1.0, 2.0, 1.0]})
    values = pd.DataFrame({"x": [2.0, 2.0, np.nan, np.nan], "y": [1.0, 0.0, 2.0, 1.0]}, index=[7, 8, 7, 9])
    known = utils.known_rows(values, others)
    assert known.tolist() == [True, False, True, False]
    assert values[~known.to_numpy()].y.tolist() == [0, 1]
    assert utils.known_rows(values, others.head(0)).tolist() == [False] * 4


def test_models_that_can_be_compared():
    """Those of the same columns, in whatever order and of whatever words, and the same classes in the same order."""
    types = [{"name": "x", "kind": "number"}, {"name": "w", "kind": "words", "words": ["a", "b"]}]
    about = {"target": "target", "classes": ["no", "yes"], "types": types}
    same = {**about, "types": [{"name": "w", "kind": "words", "words": ["c"]}, types[0]]}
    utils.check_alike(SimpleNamespace(metadata=about), SimpleNamespace(metadata=same))
    for other in [
        {"types": types[:1]},
        {"types": [*types, {"name": "y", "kind": "number"}]},
        {"types": [{"name": "x", "kind": "date"}, types[1]]},
        {"types": [{"name": "z", "kind": "number"}, types[1]]},
        {"classes": ["yes", "no"]},
        {"classes": ["no", "maybe"]},
    ]:
        with pytest.raises(StepError, match="it has other columns or classes"):
            utils.check_alike(SimpleNamespace(metadata=about), SimpleNamespace(metadata={**about, **other}))


def test_missing_number_becomes_null_in_a_request():
    frame = pd.DataFrame({"a": [1.5, np.nan], "b": ["x", None]})
    assert utils.as_request(frame) == {"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, "x"], [None, None]]}}


def test_threads():
    rows = config.ROWS_FOR_THREADS
    assert [utils.threads(pd.DataFrame(index=range(number))) for number in [rows - 1, rows]] == [1, 0]


def test_column_names_are_no_formulas(tmp_path):
    """Matplotlib would refuse to draw these."""
    figure, axis = plt.subplots()
    axis.barh(["price in $", r"$\frac$", "$a$b$"], [1, 2, 3])
    figure.savefig(tmp_path / "plot.png")
    plt.close(figure)
