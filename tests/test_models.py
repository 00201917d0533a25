"""The models behind each door, and servers as processes: what they answer, refuse and leave behind."""

import functools
import json
import sys

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import requests
import support
from support import PASSENGERS_URI, RAW, succeed

import config
import utils
from cli import StepError
from servers import free_port, server

pytestmark = pytest.mark.slow


# --- Every door gives one answer


@pytest.fixture(scope="module")
def project(walkthrough, mlserver_environment, tmp_path_factory):
    """A store with a model of the passengers as champion, and the custom model on top of it."""
    project = walkthrough.copy(tmp_path_factory.mktemp("doors"))
    support.passengers().to_csv(project.folder / "passengers.csv", index=False)
    prepare = "data_preprocessing --dataset passengers.csv --target survived"
    project.steps(prepare, "hyperparameters_tuning --n-trials 2", "model_training", "model_customization")
    project.client.set_registered_model_alias("passengersModel", config.CHAMPION, "1")
    mlflow.set_tracking_uri(project.uri)
    yield project
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def urls(walkthrough, project):
    """The three servers of that model: a dict from name to the address."""
    ports = {name: str(free_port()) for name in ["mlflow", "mlserver", "own"]}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    serve = f"mlflow models serve -m {PASSENGERS_URI} --env-manager local --host 127.0.0.1 -p {ports['mlflow']}".split()
    folder = walkthrough.folder / "docker" / "mlserve"
    names = ["MLSERVER_GRPC_PORT", "MLSERVER_METRICS_PORT"]
    settings = {"MLFLOW_TRACKING_URI": project.uri, "MLSERVER_MODEL_URI": PASSENGERS_URI}
    settings |= {"MLSERVER_HTTP_PORT": ports["mlserver"], **{name: str(free_port()) for name in names}}
    own = [sys.executable, "-m", "steps.model_server", "--model-uri", PASSENGERS_URI, "--port", ports["own"]]
    mlserver = [folder / ".venv" / "bin" / "mlserver", "start", folder]
    with (
        server(serve, f"{urls['mlflow']}/health", **project.environment, MLFLOW_TRACKING_URI=project.uri),
        server(mlserver, f"{urls['mlserver']}/v2/models/cancer-model/ready", **settings),
        server(own, f"{urls['own']}/health", project.folder, MLFLOW_TRACKING_URI=project.uri),
    ):
        yield urls


@pytest.fixture(scope="module")
def doors(project, urls):
    """A dict from door to a function that gives the answers to rows."""

    def predict(frame):
        frame.to_csv(project.folder / "in.csv", index=False)
        command = f"mlflow models predict -m {PASSENGERS_URI} -i in.csv -t csv -o out.json --env-manager local"
        succeed(project.run(*command.split()))
        return pd.DataFrame(json.loads((project.folder / "out.json").read_text())["predictions"])

    def batch_scoring(frame):
        frame.to_csv(project.folder / "in.csv", index=False)
        project.steps(f"batch_scoring --input in.csv --output out.csv --model-uri {PASSENGERS_URI}")
        return pd.read_csv(project.folder / "out.csv")

    return {
        "pyfunc": mlflow.pyfunc.load_model(PASSENGERS_URI).predict,
        "models predict": predict,
        "models serve": functools.partial(support.ask_invocations, urls["mlflow"]),
        "MLServer": functools.partial(support.ask_invocations, urls["mlserver"]),
        "MLServer, V2": functools.partial(support.ask_v2, urls["mlserver"]),
        "own server": functools.partial(support.ask_own_server, urls["own"]),
        "batch-scoring": batch_scoring,
    }


DOORS = ["pyfunc", "models predict", "models serve", "MLServer", "MLServer, V2", "own server", "batch-scoring"]


@pytest.mark.parametrize("door", DOORS)
def test_every_door_gives_one_answer(doors, door):
    """The same raw rows, to 1e-6; tests/test_docker.py asks the containers the same."""
    support.check_answer_to_raw(doors[door](RAW))


WRONG = {
    "There are no rows.": lambda row: row.head(0),
    "age": lambda row: row.drop(columns="age"),
    "Infinite or too large values in: fare": lambda row: row.assign(fare=1e999),
    "fare: a value is not of its kind, number": lambda row: row.assign(fare="secret"),
}


@pytest.mark.parametrize(("reason", "change"), WRONG.items(), ids=WRONG)
@pytest.mark.parametrize("name", ["mlflow", "mlserver"])  # for the own server: tests/test_server.py
def test_model_gives_a_reason(urls, name, reason, change):
    """With status 400, without the value; and the next good request gets its answer."""
    body, headers = json.dumps(utils.as_request(change(RAW.head(1)))), {"content-type": "application/json"}
    response = requests.post(f"{urls[name]}/invocations", data=body, headers=headers, timeout=60)
    assert response.status_code == 400
    # MLflow repeats the caller's row before what the model says
    said = response.text.split("Error: ")[-1]
    assert reason in said and "secret" not in said
    assert len(support.ask_invocations(urls[name], RAW)) == len(RAW)


def test_custom_model(project):
    """It answers with the same probabilities, and with class 1 from the cheapest of its thresholds on."""
    rows = support.passengers().drop(columns="survived")
    registered, custom = [
        mlflow.pyfunc.load_model(f"models:/{name}/1") for name in ["passengersModel", "CustompassengersModel"]
    ]
    run, threshold = project.newest("model_customization"), custom.model_config["threshold"]
    costs = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/thresholds.json")
    costs = pd.DataFrame(costs["data"], columns=costs["columns"])
    assert costs.threshold.tolist() == [0.05, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert (costs.cost == 10 * costs.missed + costs.false_alarms).all()
    assert costs.missed.is_monotonic_increasing and costs.false_alarms.is_monotonic_decreasing
    assert costs.cost.min() == costs.cost[costs.threshold == threshold].item() < costs.cost.max()
    assert run.data.params["threshold"] == str(threshold)
    classes = registered.metadata.metadata["classes"]
    plain, answer = registered.predict(rows), custom.predict(rows)
    names = [f"probability of {name}" for name in classes]
    np.testing.assert_array_equal(answer[names], plain[names])
    assert answer.prediction.tolist() == np.where(plain[names[1]] >= threshold, classes[1], classes[0]).tolist()
    assert answer.prediction.tolist() != plain.prediction.tolist()


def test_no_pickle_anywhere(walkthrough):
    """All ran with MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false, and no logged model has a pickle in it."""
    code = "import os, utils; print(os.environ['MLFLOW_ALLOW_PICKLE_DESERIALIZATION'])"
    assert walkthrough.run("python", "-c", code).stdout == "false\n"
    files = [path for path in (walkthrough.folder / "mlruns").rglob("*") if path.is_file()]
    assert {path.suffix for path in files if path.name.startswith("model.")} == {".ubj"}
    # from protocol 2 on a pickle begins with byte 128 and its protocol, and ends with "."
    contents = [path.read_bytes() for path in files]
    assert not [data for data in contents if data[:1] == b"\x80" and data[1:2] < b"\x06" and data[-1:] == b"."]


# --- Servers as processes


def processes_of(text):
    """The command lines of processes that name a text."""
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if text in line]


def test_server_that_ends():
    command = [sys.executable, "-c", "print('starting\\nan error: no model\\nshut down'); raise SystemExit"]
    health = f"http://127.0.0.1:{free_port()}/health"
    with pytest.raises(StepError, match="The server ended. It said: an error: no model"), server(command, health):
        pass


def test_server_that_never_gets_ready(monkeypatch):
    monkeypatch.setattr("servers.SERVER_TIMEOUT", 3)
    mark = f"never-ready-{free_port()}"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)', '{mark}'])"
    command, health = [sys.executable, "-c", child, mark], f"http://127.0.0.1:{free_port()}/health"
    with pytest.raises(StepError, match="was not healthy after 3 seconds"), server(command, health):
        pass
    assert processes_of(mark) == []


def test_server_stops_when_the_caller_fails():
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with pytest.raises(ZeroDivisionError), server(command, f"http://127.0.0.1:{port}/"):
        assert processes_of(f"http.server {port}")
        1 / 0  # noqa: B018
    assert processes_of(f"http.server {port}") == []
