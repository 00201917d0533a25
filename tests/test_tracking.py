"""A tracking server: the steps work with it, and what it holds outlives a move of the project's folder."""

import contextlib

import mlflow
import pandas as pd
import psutil
import pytest
import requests
from support import BOOSTER_MODEL, EXPERIMENT, MODEL, Project, succeed
from test_commands import words_of

import config
import servers
import utils

pytestmark = pytest.mark.slow
DEAD = "http://127.0.0.1:9"  # nothing listens on the port "discard"


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


def ask_champion():
    """Load the champion from the current store and the test set that belongs to it: the rows, and its answers."""
    model = mlflow.pyfunc.load_model(f"models:/{MODEL}@{config.CHAMPION}")
    training_run = mlflow.get_run(model.metadata.run_id)
    rows = utils.load_dataset(mlflow.get_run(training_run.data.tags["data_run_id"]), "test").drop(columns="target")
    return rows, model.predict(rows)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A project whose steps up to the champion ran with a tracking server, past a proxy for the world outside."""
    folder = tmp_path_factory.mktemp("shared") / "project"
    folder.mkdir()
    project = Project(folder)
    proxy = {"HTTP_PROXY": DEAD, "http_proxy": DEAD, "NO_PROXY": "", "no_proxy": "corp.example"}
    steps = ["data_preprocessing", "hyperparameters_tuning --n-trials 2", "model_training", "data_evaluation"]
    with tracking_server(project) as address:
        for step in [*steps, f"serving_check --model-uri models:/{MODEL}/1"]:
            succeed(project.step(*step.split(), MLFLOW_TRACKING_URI=address, **proxy))
        project.rows, project.answers = ask_champion()
    assert not {"mlflow.db", "mlruns"} & {path.name for path in folder.iterdir()}
    assert {path.name for path in (folder / "tracking").iterdir()} >= {"mlflow.db", "mlruns"}
    return project


def test_moved_project(shared):
    """The folder gets another name: every run's files, every model and the source of every data set are found."""
    new = shared.folder.with_name("renamed")
    shared.folder.rename(new)
    shared.folder = new
    with tracking_server(shared) as address:
        rows, answers = ask_champion()
        assert len(rows) > 100 and rows.equals(shared.rows) and answers.equals(shared.answers)
        mlflow.xgboost.load_model(f"models:/{BOOSTER_MODEL}/1")
        runs = mlflow.search_runs(experiment_names=[EXPERIMENT], output_format="list")
        assert all(run.info.artifact_uri.startswith("mlflow-artifacts:/") for run in runs)
        logged = [logged for run in runs for logged in run.inputs.dataset_inputs]
        logged = [each for each in logged if each.dataset.name in {"train", "test"}]  # the evaluation has other forms
        frames = [pd.read_csv(mlflow.data.get_source(each).load()) for each in logged]
        digests = {utils.as_dataset(frame, "", "", "target").digest for frame in frames}
        assert len(logged) >= 4 and digests <= {each.dataset.digest for each in logged}
        succeed(shared.step("model_training", MLFLOW_TRACKING_URI=address))  # and it can go on
        assert utils.champion_version(MODEL) == 1
        check_closed_to_others(address)


def check_closed_to_others(address):
    """Check that the server, which has no runners of background jobs, is reached from this machine only."""
    port = address.rpartition(":")[2]
    search, most = f"{address}/api/2.0/mlflow/experiments/search", {"max_results": 1}
    hosts = ["127.0.0.1", "localhost", "attacker.example", "192.168.0.1", "localhost.attacker.example"]
    said = [requests.post(search, json=most, headers={"Host": f"{host}:{port}"}, timeout=10) for host in hosts]
    assert [answer.status_code for answer in said] == [200, 200, 403, 403, 403]
    family = psutil.Process().children(recursive=True)
    listening = [at.laddr for each in family for at in each.net_connections("tcp") if at.status == "LISTEN"]
    assert {(at.ip, str(at.port)) for at in listening} == {("127.0.0.1", port)}
    assert not [process for process in family if "mlflow.server.jobs" in " ".join(process.cmdline())]
