"""A tracking server: the steps work with it, and what it holds outlives a move of the project's folder."""

import contextlib
import shutil
import sqlite3

import jupytext
import mlflow
import pandas as pd
import psutil
import pytest
import requests
from mlflow.exceptions import MlflowException
from support import BOOSTER_MODEL, EXPERIMENT, MODEL, ROOT, Project
from test_commands import words_of

import config
import servers
import utils

pytestmark = pytest.mark.slow

CHAMPION_URI = f"models:/{MODEL}@{config.CHAMPION}"


@contextlib.contextmanager
def tracking_server(project):
    """`make tracking-server` in a project; yields the address."""
    port = servers.free_port()
    address = f"http://127.0.0.1:{port}"
    command = [*words_of("make tracking-server"), f"TRACKING_PORT={port}"]
    with servers.server(command, f"{address}/health", folder=project.folder, **project.environment):
        mlflow.set_tracking_uri(address)
        try:
            yield address
        finally:
            mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A project whose steps up to the champion ran with a tracking server, with what the champion answered."""
    folder = tmp_path_factory.mktemp("shared") / "project"
    folder.mkdir()
    project = Project(folder)
    steps = ["data_preprocessing", "hyperparameters_tuning --n-trials 2", "model_training", "data_evaluation"]
    with tracking_server(project) as address:
        for step in steps:
            result = project.run("python", "-m", *f"steps.{step}".split(), MLFLOW_TRACKING_URI=address)
            assert result.returncode == 0, result.stderr
        project.rows, project.answers = ask_champion()
    return project


def ask_champion():
    """Load the champion from the current store and the test set that belongs to it: the rows, and its answers."""
    model = mlflow.pyfunc.load_model(CHAMPION_URI)
    training_run = mlflow.get_run(model.metadata.run_id)
    rows = utils.load_dataset(mlflow.get_run(training_run.data.tags["data_run_id"]), "test").drop(columns="target")
    return rows, model.predict(rows)


def test_steps_leave_nothing_but_the_server_s_folder(shared):
    assert not (shared.folder / "mlflow.db").exists()
    assert not (shared.folder / "mlruns").exists()
    assert {path.name for path in (shared.folder / "tracking").iterdir()} >= {"mlflow.db", "mlruns"}


def test_moved_project(shared):
    """The folder gets another name: every run's files, every model and the source of every data set are found."""
    new = shared.folder.with_name("renamed")
    shared.folder.rename(new)
    shared.folder = new
    with tracking_server(shared) as address:
        rows, answers = ask_champion()
        assert len(rows) > 100
        assert rows.equals(shared.rows)
        assert answers.equals(shared.answers)
        mlflow.xgboost.load_model(f"models:/{BOOSTER_MODEL}/1")
        runs = mlflow.search_runs(experiment_names=[EXPERIMENT], output_format="list")
        steps = [run for run in runs if "step" in run.data.tags]
        assert len(steps) == 4
        for run in steps:
            assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
            assert run.data.tags["step"] == "model_training" or mlflow.MlflowClient().list_artifacts(run.info.run_id)
            for logged in run.inputs.dataset_inputs:
                frame = pd.read_csv(mlflow.data.get_source(logged).load())
                if logged.dataset.name in {"train", "test"}:  # the evaluation's has another form than its source
                    assert utils.as_dataset(frame, "", "", "target").digest == logged.dataset.digest
        # and it can go on
        result = shared.run("python", "-m", "steps.model_training", MLFLOW_TRACKING_URI=address)
        assert result.returncode == 0, result.stderr
        assert utils.champion_version(MODEL) == 1


def test_only_this_machine_is_answered(shared):
    with tracking_server(shared) as address:
        port = address.rpartition(":")[2]
        search = f"{address}/api/2.0/mlflow/experiments/search"
        for host in [f"127.0.0.1:{port}", f"localhost:{port}"]:
            assert requests.post(search, json={"max_results": 1}, headers={"Host": host}, timeout=10).status_code == 200
        for host in [
            "attacker.example",
            f"attacker.example:{port}",
            f"192.168.0.1:{port}",
            f"localhost.attacker.example:{port}",
        ]:
            refusal = requests.post(search, json={"max_results": 1}, headers={"Host": host}, timeout=10)
            assert (refusal.status_code, "Invalid Host header" in refusal.text) == (403, True), host
        listening = [
            connection
            for process in psutil.Process().children(recursive=True)
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert {(at.laddr.ip, str(at.laddr.port)) for at in listening} == {("127.0.0.1", port)}
        # no runners of background jobs
        names = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
        assert not [name for name in names if "mlflow.server.jobs" in name]


def notebook_function(name):
    """A function of one of the notebooks, with what stands in its cell."""
    notebooks = [ROOT / "modeling.py", *ROOT.glob("chapters/*.py")]
    cells = [cell for notebook in notebooks for cell in jupytext.read(notebook).cells]
    (source,) = [cell.source for cell in cells if f"def {name}(" in cell.source]
    namespace = {"sqlite3": sqlite3}
    exec(source[: source.index("\n\n\n", source.index(f"def {name}("))], namespace)  # without the calls below it
    return namespace[name]


def test_moved_local_store(trained, tmp_path):
    """What the notebook says of a local store: a move breaks it; a link, or new addresses, mend it; a server takes it."""
    change_addresses = notebook_function("change_addresses")
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    shutil.copy(trained.folder / "mlflow.db", old)
    shutil.copytree(trained.folder / "mlruns", old / "mlruns")
    change_addresses(old / "mlflow.db", trained.folder, old)  # the original stays where it is for the other tests
    try:
        mlflow.set_tracking_uri(f"sqlite:///{old}/mlflow.db")
        mlflow.MlflowClient().set_registered_model_alias(MODEL, config.CHAMPION, "1")
        rows, answers = ask_champion()

        old.rename(new)
        mlflow.set_tracking_uri(f"sqlite:///{new}/mlflow.db")
        with pytest.raises(MlflowException, match="No such artifact"):
            ask_champion()

        old.symlink_to(new)
        assert ask_champion()[1].equals(answers)
        old.unlink()

        change_addresses(new / "mlflow.db", old, new)
        assert ask_champion()[1].equals(answers)
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{new}/mlflow.db", "MLFLOW_EXPERIMENT_ID": "0"}  # where `trained` is
        step = trained.run("python", "-m", "steps.data_evaluation", **store)
        assert step.returncode == 0, step.stderr

        project = Project(tmp_path)
        new.rename(tmp_path / "tracking")
        change_addresses(tmp_path / "tracking" / "mlflow.db", new / "mlruns", "mlflow-artifacts:")
        with tracking_server(project):
            taken_rows, taken_answers = ask_champion()
            assert taken_rows.equals(rows) and taken_answers.equals(answers)
    finally:
        mlflow.set_tracking_uri(None)
