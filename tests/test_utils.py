"""What the steps share: parameters, data sets in runs, and the words of error messages."""

import signal
import sys

import matplotlib.pyplot as plt
import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

import config
import utils
from utils import StepError


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


PREPROCESSING = ["data-preprocessing", "test-size", "dataset", "target", "positive-class"]


def test_defaults_are_converted(parameters):
    assert parameters("", *PREPROCESSING) == [0.33, None, None, None]
    assert parameters("", "model-customization", "training-run-id") is None


def test_given_values_are_converted_and_in_the_order_of_the_names(parameters):
    order = ["data-preprocessing", "positive-class", "test-size", "target", "dataset"]
    assert parameters("--test-size 1e-1 --dataset a.csv --positive-class 1", *order) == ["1", 0.1, None, "a.csv"]


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


def test_data_set_comes_back_as_it_was(store, tmp_path):
    """To the last digit, and with the words None, NA and 007, which are no missing values and no numbers."""
    frame = pd.DataFrame(
        {
            "number": [0.1 + 0.2, 1 / 3, np.nan],
            "word": ["None", "NA", None],
            "code": ["007", "010", "1e3"],
            "line\nbreak": ['a "quoted", b', "ä\r\nb", " c "],
            "target": ["no", "yes", "no"],
        }
    ).astype({name: "str" for name in ["word", "code", "line\nbreak", "target"]})
    experiment = store.create_experiment("test", artifact_location=(tmp_path / "files").as_uri())
    with mlflow.start_run(experiment_id=experiment) as run:
        logged = utils.log_dataset(frame, "train", "target", "training")
    loaded = utils.load_dataset(mlflow.get_run(run.info.run_id), "train")
    pd.testing.assert_frame_equal(loaded, frame)
    assert utils.as_dataset(loaded, "", "train", "target").digest == logged.digest


def test_missing_number_becomes_null_in_a_request():
    frame = pd.DataFrame({"a": [1.5, np.nan], "b": ["x", None]})
    assert utils.as_request(frame) == {"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, "x"], [None, None]]}}


def test_threads():
    rows = config.ROWS_FOR_THREADS
    assert [utils.threads(pd.DataFrame(index=range(number))) for number in [rows - 1, rows]] == [1, 0]


def test_added_feature():
    frame = breast_cancer()
    frame.loc[0, "mean texture"] = 0
    added = utils.add_features(frame)["symmetry per texture"]
    assert added[1] == frame.loc[1, "mean symmetry"] / frame.loc[1, "mean texture"]
    assert np.isnan(added[0])
    assert utils.add_features(frame.drop(columns="mean texture")).equals(frame.drop(columns="mean texture"))


def test_column_names_are_no_formulas(tmp_path):
    """Matplotlib would refuse to draw these."""
    figure, axis = plt.subplots()
    axis.barh(["price in $", r"$\frac$", "$a$b$"], [1, 2, 3])
    figure.savefig(tmp_path / "plot.png")
    plt.close(figure)
