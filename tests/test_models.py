"""Flavours, the custom model and the servers: what they answer, refuse and leave behind."""

import concurrent.futures
import json
import shutil
import signal
import subprocess
import sys

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import requests
import xgboost as xgb
from support import ROOT, v2_request

import config
import utils
from servers import free_port, server
from utils import StepError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(walkthrough):
    """The walkthrough's store as the active one, with 50 rows of its test set."""
    mlflow.set_tracking_uri(f"sqlite:///{walkthrough.folder}/mlflow.db")
    run = walkthrough.runs("tags.step = 'data_preprocessing'")[0]
    test = pd.read_csv(walkthrough.client.download_artifacts(run.info.run_id, "datasets/test.csv"))
    yield test.drop(columns="target").head(50)
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def uris(walkthrough, models):
    """The newest version of each registered model; they come from one training run."""
    newest = {name: f"models:/{name}/{versions[-1]}" for name, (versions, _) in walkthrough.registry().items()}
    assert {config.BOOSTER_MODEL, config.CLASSIFIER_MODEL, config.CUSTOM_MODEL} <= set(newest)
    # the notebook customizes the model of its last training: take that one for the other two
    custom = mlflow.get_run(mlflow.models.get_model_info(newest[config.CUSTOM_MODEL]).run_id)
    for name in [config.BOOSTER_MODEL, config.CLASSIFIER_MODEL]:
        training = mlflow.get_run(custom.data.tags["training_run_id"])
        newest[name] = f"models:/{name}/{utils.registered_version(name, training)}"
    return newest


def mlflow_serve(uri, port):
    command = ["mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "--host", "127.0.0.1", "-p", str(port)]
    return server(command, f"http://127.0.0.1:{port}/health")


def mlserver(walkthrough, uri, port, folder):
    """MLServer in the environment that the notebook made, with the one line of its settings that names the model."""
    source = walkthrough.folder / "docker" / "mlserve"
    settings = json.loads((source / "model-settings.json").read_text())
    settings["parameters"]["uri"] = uri
    shutil.copy(source / "settings.json", folder)
    (folder / "model-settings.json").write_text(json.dumps(settings))
    return server(
        [str(source / ".venv" / "bin" / "mlserver"), "start", str(folder)],
        f"http://127.0.0.1:{port}/v2/models/cancer-model/ready",
        MLFLOW_TRACKING_URI=mlflow.get_tracking_uri(),
        MLSERVER_HTTP_PORT=str(port),
        MLSERVER_GRPC_PORT=str(free_port()),
        MLSERVER_METRICS_PORT=str(free_port()),
    )


@pytest.fixture(scope="module")
def servers(walkthrough, models, uris, tmp_path_factory):
    """Both servers, with the classifier and with the custom model: a dict from (server, model) to the address."""
    ports = [free_port() for _ in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", walkthrough.environment["PATH"])
        with (
            mlflow_serve(uris[config.CLASSIFIER_MODEL], ports[0]),
            mlflow_serve(uris[config.CUSTOM_MODEL], ports[1]),
            mlserver(walkthrough, uris[config.CLASSIFIER_MODEL], ports[2], tmp_path_factory.mktemp("classifier")),
            mlserver(walkthrough, uris[config.CUSTOM_MODEL], ports[3], tmp_path_factory.mktemp("custom")),
        ):
            names = [("mlflow", "classifier"), ("mlflow", "custom"), ("mlserver", "classifier"), ("mlserver", "custom")]
            yield {name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}


def ask(url, frame):
    response = requests.post(f"{url}/invocations", json=utils.as_request(frame), timeout=60)
    assert response.status_code == 200, response.text
    return np.array(response.json()["predictions"])


def test_parity(models, uris, servers):
    """On the same 50 rows all paths agree: classes exactly, probabilities within 1e-6."""
    classifier = mlflow.xgboost.load_model(uris[config.CLASSIFIER_MODEL])
    classes, probabilities = classifier.predict(models), classifier.predict_proba(models)[:, 1]
    assert set(classes) == {0, 1}
    close = {"rtol": 0, "atol": 1e-6}

    booster = mlflow.xgboost.load_model(uris[config.BOOSTER_MODEL])
    np.testing.assert_allclose(booster.predict(xgb.DMatrix(models)), probabilities, **close)
    booster_pyfunc = mlflow.pyfunc.load_model(uris[config.BOOSTER_MODEL])
    np.testing.assert_allclose(booster_pyfunc.predict(models), probabilities, **close)
    assert (mlflow.pyfunc.load_model(uris[config.CLASSIFIER_MODEL]).predict(models) == classes).all()
    custom = mlflow.pyfunc.load_model(uris[config.CUSTOM_MODEL])
    np.testing.assert_allclose(custom.predict(models)[:, 1], probabilities, **close)

    for name in ["mlflow", "mlserver"]:
        assert (ask(servers[name, "classifier"], models) == classes).all()
        np.testing.assert_allclose(ask(servers[name, "custom"], models)[:, 1], probabilities, **close)
    v2 = requests.post(
        f"{servers['mlserver', 'custom']}/v2/models/cancer-model/infer", json=v2_request(models), timeout=60
    )
    output = v2.json()["outputs"][0]
    np.testing.assert_allclose(np.reshape(output["data"], output["shape"])[:, 1], probabilities, **close)


def test_flavours_refuse_what_the_table_says(walkthrough, models, uris):
    """The table that the step has logged holds for the models of today, and each call has its time."""
    run = walkthrough.runs("tags.step = 'flavour_comparison'")[-1]
    path = walkthrough.client.download_artifacts(run.info.run_id, "answers.json")
    table = pd.read_json(path, orient="split").set_index("given")
    wrong = {
        "a column too few": models.iloc[:, 1:],
        "a column too many": models.assign(further=1.0),
        "columns in another order": models.iloc[:, ::-1],
        "numbers as text": models.astype(str),
    }
    assert set(table.index) == {"the test set", *wrong}
    loaded = {
        "Booster": mlflow.xgboost.load_model(uris[config.BOOSTER_MODEL]),
        "XGBClassifier": mlflow.xgboost.load_model(uris[config.CLASSIFIER_MODEL]),
        "Booster as pyfunc": mlflow.pyfunc.load_model(uris[config.BOOSTER_MODEL]),
        "XGBClassifier as pyfunc": mlflow.pyfunc.load_model(uris[config.CLASSIFIER_MODEL]),
    }
    assert set(table.columns) == set(loaded)
    for name, model in loaded.items():
        assert "refused" not in table.loc["the test set", name]
        for given, frame in wrong.items():
            said = table.loc[given, name]
            try:
                model.predict(xgb.DMatrix(frame) if name == "Booster" else frame)
            except Exception as error:
                assert said == f"refused: {type(error).__name__}"
            else:
                assert not said.startswith("refused")
    assert table.loc["columns in another order"].str.startswith("refused").tolist() == [True, True, False, False]
    assert isinstance(loaded["XGBClassifier as pyfunc"].get_raw_model(), xgb.XGBClassifier)
    for rows in [1, 188]:
        assert all(run.data.metrics[f"ms_{rows}_rows/{name}"] > 0 for name in loaded)


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
@pytest.mark.parametrize("model", ["classifier", "custom"])
@pytest.mark.parametrize("name", ["mlflow", "mlserver"])
def test_wrong_request(servers, models, name, model, wrong):
    """The caller's mistake is answered as such, and the next good request gets its answer."""
    url = servers[name, model]
    response = requests.post(f"{url}/invocations", timeout=60, **wrong_request(WRONG_REQUESTS[wrong], models))
    # MLServer takes most mistakes of a caller for faults of its own
    assert response.status_code in ({400, 415, 422} if name == "mlflow" else {400, 422, 500})
    if response.status_code == 500:
        assert wrong != "missing column"
    assert response.text.strip()
    if name == "mlserver":
        assert "Traceback" not in response.text
    if wrong == "missing column":
        assert "mean area" in response.text
    assert len(ask(url, models)) == len(models)


@pytest.mark.parametrize("name", ["mlflow", "mlserver"])
@pytest.mark.parametrize("frame", ["empty", "infinite", "too large"])
def test_custom_model_gives_a_reason(servers, models, name, frame):
    body = utils.as_request(models.head(0) if frame == "empty" else models.head(1))
    if frame != "empty":
        body["dataframe_split"]["data"][0][0] = 1e999 if frame == "infinite" else -1e39
    text = json.dumps(body)
    headers = {"content-type": "application/json"}
    response = requests.post(f"{servers[name, 'custom']}/invocations", data=text, headers=headers, timeout=60)
    assert response.status_code >= 400
    if name == "mlflow":
        assert response.status_code < 500
    assert ("no rows" if frame == "empty" else "Infinite or too large values in: mean radius") in response.text


@pytest.mark.parametrize("name", ["mlflow", "mlserver"])
def test_many_rows_and_many_requests(servers, models, name):
    url = servers[name, "custom"]
    many = pd.concat([models] * 2000, ignore_index=True)
    assert len(ask(url, many)) == 100_000
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(url, models.head(1)), range(200)))
    assert len(answers) == 200
    assert all((answer == answers[0]).all() for answer in answers)


def test_mlserver_describes_itself(servers, models):
    url = servers["mlserver", "classifier"]
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


def test_model_serving_on_a_given_port(walkthrough, uris):
    port = free_port()
    uri = uris[config.CUSTOM_MODEL]
    result = walkthrough.mlflow_run("model-serving", model_uri=uri, port=port)
    assert result.returncode == 0, result.stderr
    run = walkthrough.runs("tags.step = 'model_serving'")[0]
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
    assert "models:/NoSuchModel/7: no such model" in refused(
        walkthrough.mlflow_run("model-serving", model_uri="models:/NoSuchModel/7")
    )
    assert walkthrough.runs(status="RUNNING") == []


def test_port_in_use(walkthrough, servers):
    port = servers["mlflow", "classifier"].rsplit(":", 1)[1]
    assert f"Port {port} is in use" in refused(walkthrough.mlflow_run("model-serving", port=port))
    assert requests.get(f"{servers['mlflow', 'classifier']}/health", timeout=10).ok


def test_server_that_ends():
    command = [sys.executable, "-c", "print('starting'); raise SystemExit('an error: no model')"]
    with (
        pytest.raises(StepError, match="The server ended. It said: an error: no model"),
        server(command, f"http://127.0.0.1:{free_port()}/health"),
    ):
        pass


def test_server_that_never_gets_ready(monkeypatch):
    monkeypatch.setattr(config, "SERVER_TIMEOUT", 3)
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
