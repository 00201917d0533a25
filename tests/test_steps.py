"""Each entry point through `mlflow run`: alone, on data of one's own, from a git URL, and with wrong input."""

import subprocess
import time

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_wine

import config
import servers
import utils

pytestmark = pytest.mark.slow


def only_line(result):
    """What a failing step says: one line, without a traceback, among the lines of `mlflow run` and argparse."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if " mlflow." not in line and not line.startswith("INFO: ")]
    said = [line for line in lines if not line.startswith(("usage: ", " "))]
    assert len(said) == 1, result.stderr
    return said[0]


def test_plain_mlflow_run_joins_its_run(trained):
    """Without --experiment-name a run is made in MLflow's default experiment: the steps work there too."""
    steps = {run.data.tags["step"]: run for run in trained.runs() if "step" in run.data.tags}
    assert set(steps) == {"data_preprocessing", "hyperparameters_tuning", "model_training"}
    assert {run.info.experiment_id for run in steps.values()} == {"0"}
    assert {step: run.info.run_name for step, run in steps.items()} == {step: config.RUN_NAMES[step] for step in steps}
    assert steps["data_preprocessing"].data.metrics["test_rows"] == 228
    assert steps["model_training"].data.tags["mlflow.project.entryPoint"] == "model-training"
    assert trained.registry()[config.CLASSIFIER_MODEL] == ([1], {})


def test_evaluation_alone(trained):
    result = trained.mlflow_run("data-evaluation")
    assert result.returncode == 0, result.stderr
    assert trained.registry()[config.CLASSIFIER_MODEL][1] == {config.CHAMPION: 1}


def breast_cancer(**changes):
    frame = load_breast_cancer(as_frame=True).frame.head(200)
    return frame.assign(**changes)


def test_evaluation_of_a_file(trained, tmp_path):
    """Row numbers and further columns are ignored, the added feature is computed, whatever a spreadsheet saves."""
    path = tmp_path / "with space.csv"
    frame = breast_cancer(patient="A. N. Other", **{"mean area": np.nan})
    frame.rename(columns={"mean area": " mean area "}).to_csv(path, sep="\t", encoding="utf-16")
    result = trained.mlflow_run("data-evaluation", eval_dataset=path)
    assert result.returncode == 0, result.stderr
    assert "ignoring the column(s) patient" in result.stderr
    assert "no SHAP plots, because there is not one value of mean area" in result.stderr
    run = trained.runs("tags.step = 'data_evaluation'")[0]
    assert run.data.metrics["example_count"] == 200
    assert run.data.tags["eval_dataset"] == str(path)


def reversed_answers(frame):
    return frame.assign(target=1 - frame.target)


def one_of_each_class(frame):
    return frame.groupby("target").head(1)


@pytest.mark.parametrize("change", [reversed_answers, one_of_each_class])
def test_gate_keeps_a_better_champion(trained, tmp_path, change):
    """On data with the answers turned around, or on two rows, no model passes the thresholds, and the alias stays."""
    trained.client.set_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION, "1")
    path = tmp_path / "evaluation.csv"
    change(breast_cancer()).to_csv(path, index=False)
    result = trained.mlflow_run("data-evaluation", eval_dataset=path)
    assert result.returncode == 0, result.stderr
    assert "does not become the champion" in result.stderr
    assert trained.runs("tags.step = 'data_evaluation'")[0].data.tags["gate"] == "failed"
    assert trained.registry()[config.CLASSIFIER_MODEL][1] == {config.CHAMPION: 1}


def test_worse_model_does_not_replace_the_champion(empty_project):
    """A second model, trained on little data with shuffled targets, passes no gate while a good champion stands."""
    project = empty_project
    assert project.mlflow_run("main", n_trials=1).returncode == 0
    assert project.registry()[config.CLASSIFIER_MODEL] == ([1], {config.CHAMPION: 1})
    frame = load_breast_cancer(as_frame=True).frame
    frame["target"] = np.random.default_rng(0).permutation(frame.target)
    frame.to_csv(project.folder / "shuffled.csv", index=False)
    # as a relative path: mlflow run makes it absolute
    assert project.mlflow_run("main", n_trials=1, dataset="shuffled.csv").returncode == 0
    assert project.registry()[config.CLASSIFIER_MODEL] == ([1, 2], {config.CHAMPION: 1})


def test_data_of_ones_own(empty_project):
    """The whole pipeline on other columns, with a target in words, missing values and row numbers."""
    project = empty_project
    frame = load_wine(as_frame=True).frame
    frame["target"] = np.where(frame.target == 1, "second grower", "other")
    frame.loc[::10, "malic_acid"] = np.nan
    frame["magnesium"] = frame["magnesium"].astype(int)
    frame.to_csv(project.folder / "wine.csv")
    result = project.mlflow_run("main", n_trials=2, test_size=0.5, dataset="wine.csv")
    assert result.returncode == 0, result.stderr
    data_run = project.runs("tags.step = 'data_preprocessing'")[0]
    assert data_run.data.metrics == {"full_rows": 178, "train_rows": 89, "test_rows": 89}
    assert data_run.data.tags["classes"] == '["other", "second grower"]'
    train = pd.read_csv(project.client.download_artifacts(data_run.info.run_id, "datasets/train.csv"))
    assert list(train.columns) == [*load_wine().feature_names, "target"]
    assert set(train.target) == {0, 1}
    evaluation = project.runs("tags.step = 'data_evaluation'")[0]
    assert evaluation.data.metrics["accuracy_score"] > 0.8
    # and a file of the same kind is evaluated, words and all
    frame.head(100).to_csv(project.folder / "more.csv", index=False)
    result = project.mlflow_run("data-evaluation", eval_dataset="more.csv")
    assert result.returncode == 0, result.stderr


@pytest.fixture
def git_url(empty_project):
    """The address of a git server on this machine that has the project."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost"]
    for command in [["init", "-q"], ["add", "-A"], ["commit", "-qm", "."], ["clone", "-q", "--bare", ".", "p.git"]]:
        subprocess.run([*git, *command], cwd=empty_project.folder, check=True)
    port = servers.free_port()
    daemon = [
        "git",
        "daemon",
        "--listen=127.0.0.1",
        f"--port={port}",
        "--export-all",
        f"--base-path={empty_project.folder}",
    ]
    with subprocess.Popen(daemon) as server:
        url = f"git://127.0.0.1:{port}/p.git"
        while subprocess.run(["git", "ls-remote", url], capture_output=True).returncode:
            assert server.poll() is None
            time.sleep(0.2)
        yield url
        server.terminate()


def test_git_url_from_an_empty_folder(git_url, empty_project, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    for words in [["data-preprocessing"], ["hyperparameters-tuning", "-P", "n-trials=1"], ["model-training"]]:
        result = empty_project.run("mlflow", "run", git_url, "-e", *words, "--env-manager", "local", cwd=empty)
        assert result.returncode == 0, result.stderr
    assert {path.name for path in empty.iterdir()} == {"mlflow.db", "mlruns", "optuna.journal"}
    command = ["git", "rev-parse", "HEAD"]
    head = subprocess.run(command, cwd=empty_project.folder, capture_output=True, text=True).stdout.strip()
    empty_project.folder = empty
    assert empty_project.registry()[config.CLASSIFIER_MODEL][0] == [1]
    assert empty_project.runs("tags.step = 'model_training'")[0].data.tags["commit"] == head


def test_script_without_mlflow_run(empty_project):
    result = empty_project.run("python", "data_preprocessing.py")
    assert result.returncode == 0, result.stderr
    run = empty_project.runs()[0]
    assert empty_project.client.get_experiment(run.info.experiment_id).name == config.EXPERIMENT


@pytest.mark.parametrize(
    ("step", "earlier"),
    [
        ("hyperparameters_tuning", "data-preprocessing"),
        ("model_training", "data-preprocessing"),
        ("data_evaluation", "model-training"),
    ],
)
def test_earlier_step_missing(empty_project, step, earlier):
    line = only_line(empty_project.mlflow_run(step.replace("_", "-")))
    assert f"mlflow run . -e {earlier}" in line
    assert [run.info.status for run in empty_project.runs(status=None)] == ["FAILED"]
    assert empty_project.registry() == {}


WRONG_PARAMETERS = {
    "test-size 0": ("data-preprocessing", {"test_size": 0}, "test-size is 0.0"),
    "test-size 1": ("data-preprocessing", {"test_size": 1}, "test-size is 1.0"),
    "test-size nan": ("data-preprocessing", {"test_size": "nan"}, "test-size is nan"),
    "test-size text": ("data-preprocessing", {"test_size": "half"}, "invalid float value: 'half'"),
    "test-size too small": ("data-preprocessing", {"test_size": 0.0001}, "too few"),
    "no trials": ("hyperparameters-tuning", {"n_trials": 0}, "n-trials is 0"),
    "half a trial": ("hyperparameters-tuning", {"n_trials": 2.5}, "invalid int value: '2.5'"),
}


@pytest.mark.parametrize(("entry_point", "parameters", "words"), WRONG_PARAMETERS.values(), ids=WRONG_PARAMETERS)
def test_wrong_parameter(trained, entry_point, parameters, words):
    before, failed = trained.registry(), len(trained.runs(status="FAILED"))
    result = trained.mlflow_run(entry_point, **parameters)
    assert words in only_line(result)
    assert trained.registry() == before
    assert trained.runs(status="RUNNING") == []
    assert len(trained.runs(status="FAILED")) == failed + 1


def test_wrong_parameter_of_the_pipeline(trained):
    failed = len(trained.runs(status="FAILED"))
    result = trained.mlflow_run("main", test_size=7)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    said = [line for line in result.stderr.splitlines() if " mlflow." not in line]
    assert [line.split(":")[0] for line in said] == [
        "test-size is 7.0",
        "The step data-preprocessing failed, for the reason given above.",
    ]
    assert len(trained.runs(status="FAILED")) == failed + 2  # the pipeline and the step
    assert trained.runs(status="RUNNING") == []


def test_data_set_is_described_as_mlflow_does_it():
    """The columns' types, and which may miss a value, are those that MLflow finds by looking at every value."""
    frame = breast_cancer()
    frame.loc[150, "mean area"] = np.nan
    dataset = utils.as_dataset(frame, "data.csv", "test")
    assert dataset.schema == mlflow.models.infer_signature(frame).inputs
    assert [column.name for column in dataset.schema.inputs if not column.required] == ["mean area"]


def test_digest_is_that_of_all_rows():
    frame = pd.DataFrame({"a": np.arange(20_000.0), "target": 0})
    digests = {
        utils.as_dataset(changed, "data.csv", "test").digest
        for changed in [frame, frame.copy(), frame.rename(columns={"a": "b"}), frame.replace({"a": {19_999.0: 0.5}})]
    }
    assert len(digests) == 3


WRONG_FILES = {
    "no target": (breast_cancer().drop(columns="target").to_csv(index=False), "has no column `target`"),
    "missing column": (breast_cancer().drop(columns="mean area").to_csv(index=False), "lacks the column(s) mean area"),
    "text": (breast_cancer().replace({"mean area": {1001.0: "big"}}).to_csv(index=False), "line 2, column `mean area`: 'big'"),
    "decimal commas": (breast_cancer().to_csv(index=False, sep=";", decimal=","), "line 2, column `mean radius`: '17,99'"),
    "one class": (breast_cancer(target=1).to_csv(index=False), "must hold both 0 and 1"),
    "other classes": (breast_cancer(target=["a", "b"] * 100).to_csv(index=False), "must hold both 0 and 1"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_wrong_evaluation_file(trained, tmp_path, content, words):
    """Those of them that the evaluation itself must notice; tests/test_data_files.py has many more."""
    before, failed = trained.registry(), len(trained.runs(status="FAILED"))
    path = tmp_path / "data.csv"
    path.write_text(content)
    line = only_line(trained.mlflow_run("data-evaluation", eval_dataset=path))
    assert line.startswith(f"{path}: ")
    assert words in line
    assert trained.registry() == before
    assert trained.runs(status="RUNNING") == []
    assert len(trained.runs(status="FAILED")) == failed + 1


def test_evaluation_file_that_is_not_there(trained):
    before = trained.registry()
    result = trained.mlflow_run("data-evaluation", eval_dataset="nowhere.csv")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "no such file" in result.stderr
    assert trained.registry() == before


WRONG_DATA = {
    "three classes": (load_wine(as_frame=True).frame, "needs two different values, but has 3: 0, 1, 2"),
    "text": (breast_cancer(hospital="St. Mary"), "column `hospital`: 'St. Mary'"),
    "few rows": (breast_cancer().head(22), "leaves too few"),
    "bad names": (breast_cancer(**{"area [mm2]": 1.0}), "area [mm2]"),
    "no features": (breast_cancer()[["target"]], "no feature"),
}


@pytest.mark.parametrize(("frame", "words"), WRONG_DATA.values(), ids=WRONG_DATA)
def test_wrong_data_set(empty_project, tmp_path, frame, words):
    path = tmp_path / "data.csv"
    frame.to_csv(path, index=False)
    # run as a script: faster than `mlflow run`, which the other tests use
    result = empty_project.run("python", "data_preprocessing.py", "--dataset", str(path))
    assert words in only_line(result)
    assert "mlflow.db" not in [path.name for path in empty_project.folder.iterdir()]
