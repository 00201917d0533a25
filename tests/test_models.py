"""Flavours, the custom model and the servers: what they answer, refuse and leave behind."""

import concurrent.futures
import functools
import json
import signal
import subprocess
import sys

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import requests
from support import (
    CUSTOM_MODEL,
    MODEL,
    PASSENGERS_URI,
    RAW,
    ROOT,
    ask_invocations,
    ask_own_server,
    ask_v2,
    check_answer_to_raw,
    passengers,
    succeed,
)

import config
import utils
from cli import StepError
from servers import free_port, server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(walkthrough):
    """The walkthrough's store as the active one, with 50 rows of its test set as they stand in the file."""
    mlflow.set_tracking_uri(walkthrough.uri)
    run = walkthrough.runs("tags.step = 'data_preprocessing'")[-1]  # tests/test_commands.py has data of its own
    test = pd.read_csv(walkthrough.client.download_artifacts(run.info.run_id, "datasets/test.csv"))
    yield test.drop(columns="target").head(50)
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def uris(walkthrough, models):
    """The address of each form of the last model: they come from one training run."""
    newest = {name: f"models:/{name}/{versions[-1]}" for name, (versions, _) in walkthrough.registry().items()}
    info, _ = utils.load_model(newest[MODEL])
    return {**newest, "classifier": f"models:/{info.metadata['classifier_id']}"}


def mlflow_serve(uri, port):
    command = ["mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "--host", "127.0.0.1", "-p", str(port)]
    return server(command, f"http://127.0.0.1:{port}/health")


def mlserver(walkthrough, uri, port):
    """MLServer, from the walkthrough's folder."""
    folder = walkthrough.folder / "docker" / "mlserve"
    return server(
        [str(folder / ".venv" / "bin" / "mlserver"), "start", str(folder)],
        f"http://127.0.0.1:{port}/v2/models/cancer-model/ready",
        MLFLOW_TRACKING_URI=mlflow.get_tracking_uri(),
        MLSERVER_MODEL_URI=uri,
        MLSERVER_HTTP_PORT=str(port),
        MLSERVER_GRPC_PORT=str(free_port()),
        MLSERVER_METRICS_PORT=str(free_port()),
    )


# --- Every door gives one answer


@pytest.fixture(scope="module")
def doors(walkthrough, models, mlserver_environment, tmp_path_factory):
    """A model of the passengers behind each door: a dict from door to a function that gives the answers to rows."""
    project = walkthrough.copy(tmp_path_factory.mktemp("doors"))
    passengers().to_csv(project.folder / "passengers.csv", index=False)
    succeed(project.step("data_preprocessing", "--dataset", "passengers.csv", "--target", "survived"))
    succeed(project.step("hyperparameters_tuning", "--n-trials", 2))
    succeed(project.step("model_training"))
    project.client.set_registered_model_alias("passengersModel", config.CHAMPION, "1")
    previous = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(project.uri)
    ports = [free_port() for _ in range(3)]
    mlflow_url, mlserver_url, own_url = [f"http://127.0.0.1:{port}" for port in ports]
    own = [sys.executable, "-m", "steps.model_server", "--model-uri", PASSENGERS_URI, "--port", str(ports[2])]

    def predict(frame):
        (project.folder / "in.json").write_text(json.dumps(utils.as_request(frame)))
        command = f"mlflow models predict -m {PASSENGERS_URI} -i in.json -t json -o out.json --env-manager local"
        succeed(project.run(*command.split()))
        return pd.DataFrame(json.loads((project.folder / "out.json").read_text())["predictions"])

    def batch_scoring(frame):
        frame.to_csv(project.folder / "in.csv", index=False)
        succeed(
            project.step("batch_scoring", "--input", "in.csv", "--output", "out.csv", "--model-uri", PASSENGERS_URI)
        )
        return pd.read_csv(project.folder / "out.csv")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", walkthrough.environment["PATH"])
        with (
            mlflow_serve(PASSENGERS_URI, ports[0]),
            mlserver(walkthrough, PASSENGERS_URI, ports[1]),
            server(own, f"{own_url}/health", project.folder, MLFLOW_TRACKING_URI=project.uri),
        ):
            yield {
                "pyfunc": mlflow.pyfunc.load_model(PASSENGERS_URI).predict,
                "models predict": predict,
                "models serve": functools.partial(ask_invocations, mlflow_url),
                "MLServer": functools.partial(ask_invocations, mlserver_url),
                "MLServer, V2": functools.partial(ask_v2, mlserver_url),
                "own server": functools.partial(ask_own_server, own_url),
                "batch-scoring": batch_scoring,
            }
    mlflow.set_tracking_uri(previous)


DOORS = ["pyfunc", "models predict", "models serve", "MLServer", "MLServer, V2", "own server", "batch-scoring"]


@pytest.mark.parametrize("door", DOORS)
def test_every_door_gives_one_answer(doors, door):
    """The same raw rows, to 1e-6; tests/test_docker.py asks the containers the same."""
    check_answer_to_raw(doors[door](RAW))


@pytest.fixture(scope="module")
def servers(walkthrough, models, uris, mlserver_environment):
    """Both servers with the registered model, and one with the custom model: a dict from name to the address."""
    ports = [free_port() for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", walkthrough.environment["PATH"])
        with (
            mlflow_serve(uris[MODEL], ports[0]),
            mlflow_serve(uris[CUSTOM_MODEL], ports[1]),
            mlserver(walkthrough, uris[MODEL], ports[2]),
        ):
            yield {
                name: f"http://127.0.0.1:{port}"
                for name, port in zip(["mlflow", "custom", "mlserver"], ports, strict=True)
            }


def test_custom_model(models, uris, servers):
    """It answers with the same probabilities, and with class 1 from its threshold on."""
    registered = mlflow.pyfunc.load_model(uris[MODEL]).predict(models)
    custom = ask_invocations(servers["custom"], models)
    name = "probability of malignant"
    np.testing.assert_allclose(custom[name], registered[name], rtol=0, atol=1e-6)
    threshold = mlflow.pyfunc.load_model(uris[CUSTOM_MODEL]).model_config["threshold"]
    assert 0 < threshold <= 0.5
    assert ((custom["prediction"] == "malignant") == (custom[name] >= threshold)).all()


def test_flavours_have_their_times(walkthrough):
    """Each form, for one row and for many. (What they refuse is on the page: tests/test_cells.py runs those cells.)"""
    run = walkthrough.runs("tags.step = 'flavour_comparison'")[-1]
    forms = ["Booster", "XGBClassifier", "XGBClassifier as pyfunc", "registered"]
    wanted = {f"ms_{rows}_rows/{form}" for rows in [1, 188] for form in forms}
    assert set(run.data.metrics) == wanted
    assert all(0 < value < 1000 for value in run.data.metrics.values())


def test_no_pickle_anywhere(walkthrough):
    """All ran with MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false, and no logged model has a pickle in it."""
    code = "import os, utils; print(os.environ['MLFLOW_ALLOW_PICKLE_DESERIALIZATION'])"
    assert walkthrough.run("python", "-c", code).stdout == "false\n"
    files = [path for path in (walkthrough.folder / "mlruns").rglob("*") if path.is_file()]
    assert len(files) > 50
    assert not [path for path in files if path.suffix in {".pkl", ".pickle", ".joblib"}]
    # nor one under another name: from protocol 2 on a pickle begins with byte 128 and its protocol, and ends with "."
    contents = [path.read_bytes() for path in files]
    assert not [data for data in contents if data[:1] == b"\x80" and data[1:2] < b"\x06" and data[-1:] == b"."]
    assert {path.suffix for path in files if path.name.startswith("model.")} == {".ubj"}


WRONG_REQUESTS = {
    "broken JSON": {"data": '{"dataframe_split": ', "headers": {"content-type": "application/json"}},
    "empty body": {"data": "", "headers": {"content-type": "application/json"}},
    "wrong content type": {"data": "a,b\n1,2", "headers": {"content-type": "text/plain"}},
    "other JSON": {"json": {"rows": [1, 2, 3]}},
    "missing column": "missing column",
    "text in a number": "text",
}


def wrong_request(wrong, frame):
    if wrong == "missing column":
        return {"json": utils.as_request(frame.head(1).drop(columns="mean area"))}
    if wrong == "text":
        body = utils.as_request(frame.head(1))
        body["dataframe_split"]["data"][0][3] = "large"
        return {"json": body}
    return wrong


@pytest.mark.parametrize("wrong", WRONG_REQUESTS)
@pytest.mark.parametrize("name", ["mlflow", "custom", "mlserver"])
def test_wrong_request(servers, models, name, wrong):
    """The caller's mistake is answered as such, and the next good request gets its answer."""
    url = servers[name]
    response = requests.post(f"{url}/invocations", timeout=60, **wrong_request(WRONG_REQUESTS[wrong], models))
    # MLServer takes most mistakes of a caller for faults of its own
    assert response.status_code in ({400, 422, 500} if name == "mlserver" else {400, 415, 422})
    if response.status_code == 500:
        assert wrong != "missing column"
    assert response.text.strip()
    if name == "mlserver":
        assert "Traceback" not in response.text
    if wrong == "missing column":
        assert "mean area" in response.text
    assert len(ask_invocations(url, models)) == len(models)


@pytest.mark.parametrize("name", ["mlflow", "custom", "mlserver"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "There are no rows."),
        (1e999, "Infinite or too large values in: mean radius"),
        (-1e39, "Infinite or too large values in: mean radius"),
        (True, "mean radius: a value is not of its kind, number"),
        ("1912-04-11", "mean radius: a value is not of its kind, number"),
    ],
    ids=["no rows", "infinite", "too large", "true", "a date"],
)
def test_model_gives_a_reason(servers, models, name, value, reason):
    """With status 400, and without the value."""
    body = utils.as_request(models.head(0) if value is None else models.head(1))
    if value is not None:
        body["dataframe_split"]["data"][0][0] = value
    text, headers = json.dumps(body), {"content-type": "application/json"}
    response = requests.post(f"{servers[name]}/invocations", data=text, headers=headers, timeout=60)
    assert response.status_code == 400
    assert reason in response.text
    # MLflow repeats the caller's row before what the model says
    assert "1912-04-11" not in response.text.split("Error: ")[-1]


@pytest.mark.parametrize("name", ["mlflow", "mlserver"])
def test_many_rows_and_many_requests(servers, models, name):
    url = servers[name]
    many = pd.concat([models] * 2000, ignore_index=True)
    assert len(ask_invocations(url, many)) == 100_000
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask_invocations(url, models.head(1)), range(200)))
    assert len(answers) == 200
    assert all(answer.equals(answers[0]) for answer in answers)


def test_mlserver_describes_itself(servers, models):
    url = servers["mlserver"]
    document = requests.get(f"{url}/v2/models/cancer-model/docs/dataplane.json", timeout=60).json()
    assert "/v2/models/cancer-model/infer" in document["paths"]


def processes_of(text):
    """The command lines of processes that name a text."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if text in line:
            found.append(line)
    return found


def test_serving_check_on_a_given_port(walkthrough, uris):
    port = free_port()
    uri = uris[MODEL]
    result = walkthrough.mlflow_run("serving-check", model_uri=uri, port=port)
    assert result.returncode == 0, result.stderr
    run = walkthrough.runs("tags.step = 'serving_check'")[0]
    assert run.data.params["model_uri"] == uri
    assert run.data.metrics["largest_difference"] < 1e-6
    assert processes_of(f"--port {port}") == []


def refused(result):
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    said = [line for line in result.stderr.splitlines() if " mlflow." not in line and not line.startswith("INFO: ")]
    assert len(said) == 1, result.stderr
    return said[0]


def test_model_that_is_not_registered(walkthrough):
    assert "models:/NoSuchModel/7 cannot be used: " in refused(
        walkthrough.mlflow_run("serving-check", model_uri="models:/NoSuchModel/7")
    )
    assert walkthrough.runs(status="RUNNING") == []


def test_port_in_use(walkthrough, servers):
    port = servers["mlflow"].rsplit(":", 1)[1]
    assert f"Port {port} is in use" in refused(walkthrough.mlflow_run("serving-check", port=port))
    assert requests.get(f"{servers['mlflow']}/health", timeout=10).ok


def test_server_that_ends():
    command = [sys.executable, "-c", "print('starting'); raise SystemExit('an error: no model')"]
    with (
        pytest.raises(StepError, match="The server ended. It said: an error: no model"),
        server(command, f"http://127.0.0.1:{free_port()}/health"),
    ):
        pass


def test_server_that_never_gets_ready(monkeypatch):
    monkeypatch.setattr("servers.SERVER_TIMEOUT", 3)
    mark = f"never-ready-{free_port()}"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)', '{mark}'])"
    with (
        pytest.raises(StepError, match="was not healthy after 3 seconds"),
        server([sys.executable, "-c", child, mark], f"http://127.0.0.1:{free_port()}/health"),
    ):
        pass
    assert processes_of(mark) == []


def test_server_stops_when_the_caller_fails():
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with pytest.raises(ZeroDivisionError), server(command, f"http://127.0.0.1:{port}/"):
        assert processes_of(f"http.server {port}")
        1 / 0  # noqa: B018
    assert processes_of(f"http.server {port}") == []


def test_interrupted_step_leaves_no_server():
    """Ctrl-C while the server runs: the step stops it."""
    code = (
        "import signal, sys, servers; signal.signal(signal.SIGTERM, signal.default_int_handler); command = [sys.executable, '-m', 'http.server', sys.argv[1], '--bind', '127.0.0.1']\n"
        "with servers.server(command, f'http://127.0.0.1:{sys.argv[1]}/'):\n"
        "    print('up', flush=True); import time; time.sleep(600)"
    )
    for ending in ["SIGINT", "SIGTERM"]:
        port = str(free_port())
        process = subprocess.Popen(
            [sys.executable, "-c", code, port], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "up\n"
        process.send_signal(getattr(signal, ending))
        process.communicate(timeout=30)
        assert process.returncode != 0
        assert processes_of(f"http.server {port}") == []
