"""The own server: what it answers and refuses, and that it follows the alias without a failed or mixed answer."""

import contextlib
import json
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import requests
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.models import infer_signature
from support import refusal, tracking_server, wait_until

import config
import data_files
import servers
import utils

pytestmark = pytest.mark.slow
NAME, ALIAS = config.CLASSIFIER_MODEL, config.CHAMPION


class Server:
    """The server as a process, with a store of its own, and the versions of the model in it."""

    def __init__(self, project, client, url, log):
        self.project, self.client, self.url, self.log = project, client, url, log
        self.session = requests.Session()

    def post(self, body, session=None):
        """Send a text, or whatever JSON can say."""
        text = body if isinstance(body, str | bytes) else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        return (session or self.session).post(f"{self.url}/invocations", text, headers=headers, timeout=60)

    def ask(self, rows, session=None):
        """Send a frame, and give the answer."""
        response = self.post({"dataframe_records": records(rows)}, session)
        assert response.status_code == 200, response.text
        return response.json()

    def health(self):
        response = requests.get(f"{self.url}/health", timeout=60)
        assert response.status_code == 200
        return response.json()

    def move_alias(self, version):
        self.client.set_registered_model_alias(NAME, ALIAS, version)

    def serve(self, version):
        """Move the alias, and wait until the server has followed."""
        self.move_alias(version)
        wait_until(lambda: self.health().items() >= {"version": int(version), "problem": None}.items(), 30)

    def refuses(self, version, reason):
        """Move the alias to a version that the server must not take, and see that it says why and goes on."""
        before, rows = self.health()["version"], self.rows.head(3)
        answer = self.ask(rows)
        self.move_alias(version)
        problem = f"version {before} goes on: {NAME} {version} {reason}"
        wait_until(lambda: (self.health()["problem"] or "").startswith(problem), 30)
        assert self.ask(rows) == answer
        assert f"WARNING: {problem}" in self.log.read_text()


def records(rows):
    return rows.astype(object).where(rows.notna(), None).to_dict("records")


def register(project, frame, target, with_example=True, **options):
    """Train and register a version as the step does; gives its number and the classifier."""
    tags = {"target": target, "classes": json.dumps(sorted(frame[target].unique().tolist()))}
    encoding = data_files.learn_encoding(frame, tags)
    features, label = data_files.encode(frame, encoding)
    classifier = xgb.XGBClassifier(n_estimators=10, n_jobs=1, **options).fit(features, label)
    with mlflow.start_run():
        info = mlflow.xgboost.log_model(
            classifier,
            name="classifier",
            registered_model_name=NAME,
            signature=infer_signature(features, classifier.predict(features)),
            input_example=features.head(3) if with_example else None,
            pip_requirements=[],
            metadata=encoding,
        )
    return info.registered_model_version, classifier


@contextlib.contextmanager
def running(project, uri=None):
    port = servers.free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "steps.model_server", "--port", str(port)]
    with servers.server(command, f"{url}/health", project.folder, MLFLOW_TRACKING_URI=uri or project.uri) as log:
        yield Server(project, mlflow.MlflowClient(uri or project.uri), url, log)


@pytest.fixture(scope="module")
def store(trained, tmp_path_factory):
    """A copy of the trained project as the active store; its version 1 is the champion."""
    project = trained.copy(tmp_path_factory.mktemp("server"))
    project.client.set_registered_model_alias(NAME, ALIAS, 1)
    mlflow.set_tracking_uri(project.uri)
    yield project
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def server(store):
    """The server, with the training and test rows of its model, and the model itself."""
    run = store.newest("data_preprocessing")
    with running(store) as server:
        server.train, server.rows = utils.load_dataset(run, "train"), utils.load_dataset(run, "test")
        server.rows = server.rows.drop(columns="target")
        server.model = mlflow.xgboost.load_model(f"models:/{NAME}/1")
        yield server


def test_answers_are_those_of_the_model(server):
    """Whatever the order of the columns, and with one that the model does not know."""
    answer = server.ask(server.rows.iloc[:, ::-1].assign(unknown="x"))
    assert set(answer) == {"version", "classes", "predictions", "probabilities"}
    assert (answer["version"], answer["classes"]) == (1, [0, 1])
    expected = server.model.predict_proba(server.rows)
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=0, atol=1e-6)
    assert answer["predictions"] == server.model.predict(server.rows).tolist()


WRONG_VALUES = {
    "null": "null",
    "infinity": "Infinity",
    "minus infinity": "-Infinity",
    "not a number": "NaN",
    "too large for a double": "1e400",
    "too large for XGBoost": "3.5e38",
    "a long integer": "1" + 400 * "0",
    "a text": '"17.99"',
    "a truth value": "true",
    "a list": "[17.99]",
}


@pytest.mark.parametrize("value", WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_a_wrong_value_is_refused_by_its_column(server, value):
    """In the second row; the answer names the place, and repeats no value."""
    rows = records(server.rows.head(3))
    rows[1]["mean texture"] = "HERE"
    response = server.post(json.dumps({"dataframe_records": rows}).replace('"HERE"', value))
    assert response.status_code == 422
    (fault,) = response.json()["detail"]
    assert set(fault) == {"type", "loc", "msg"}
    assert fault["loc"] == ["body", "dataframe_records", 1, "mean texture"]
    assert "Infinity" not in response.text and "17.99" not in response.text and "1000" not in response.text


def test_missing_columns_are_named(server):
    response = server.post({"dataframe_records": records(server.rows.iloc[:2, 2:])})
    assert response.status_code == 422
    missing = [(fault["type"], fault["loc"][-1]) for fault in response.json()["detail"]]
    assert missing == [("missing", name) for name in server.rows.columns[:2]]


def test_limits(server):
    """Rows and bytes, with and without a length given beforehand; and bodies that are no question."""
    row = records(server.rows.head(1))
    assert len(server.ask(server.rows.head(1).iloc[[0] * config.BATCH_ROWS])["predictions"]) == config.BATCH_ROWS
    assert server.post({"dataframe_records": row * (config.BATCH_ROWS + 1)}).status_code == 422
    assert server.post({"dataframe_records": []}).status_code == 422
    large = b" " * (config.BODY_BYTES + 1)
    assert server.post(large).status_code == 413
    pieces = (large[start : start + 2**16] for start in range(0, len(large), 2**16))
    address, json_type = f"{server.url}/invocations", {"Content-Type": "application/json"}
    assert requests.post(address, data=pieces, headers=json_type, timeout=60).status_code == 413
    for body in ["", "{", "null", "[]", "1" * 5000, "[" * 100_000, '{"dataframe_records": {}}']:
        assert server.post(body).status_code in {400, 422}
    # a page in a browser can send such a body to this machine without asking
    body = json.dumps({"dataframe_records": row})
    assert requests.post(address, body, headers={"Content-Type": "text/plain"}, timeout=60).status_code == 422
    assert server.ask(server.rows.head(1))["version"] == 1


scalars = st.none() | st.booleans() | st.floats() | st.integers() | st.text()
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@settings(max_examples=max(150, settings.default.max_examples))  # at night more
@given(data=st.data())
def test_any_body(server, data):
    """No value makes the server fail; a question is answered exactly if all values are numbers that XGBoost has."""
    row = records(server.rows.head(1))[0]
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(row)), scalars, max_size=3))
    response = server.post({"dataframe_records": [{**row, **changes}]})
    valid = all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= float(data_files.LARGEST)
        for v in changes.values()
    )
    assert response.status_code == (200 if valid else 422), response.text
    if not valid:
        assert {fault["loc"][-1] for fault in response.json()["detail"]} <= set(changes)
    assert server.post(data.draw(anything)).status_code == 422


def schemathesis(server, *options):
    command = ["schemathesis", "run", f"{server.url}/openapi.json", "--no-color", "--seed=1", *options]
    result = server.project.run(*command)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def test_openapi_document(server):
    """It holds for whatever Schemathesis tries, and names the columns."""
    document = requests.get(f"{server.url}/openapi.json", timeout=60).json()
    row = document["components"]["schemas"]["Row"]
    assert list(row["properties"]) == list(server.rows) and set(row["required"]) <= set(server.rows)
    assert "dataframe_records" in document["components"]["schemas"]["Question"]["properties"]
    schemathesis(server, "--max-examples=10", "--phases=examples,fuzzing")


@pytest.mark.nightly
def test_openapi_document_for_a_minute(server):
    schemathesis(server, "--max-time=60")


def test_metrics_and_log(server):
    """Both count, and neither has a value of a request in it."""

    def count(text, name):
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    before = requests.get(f"{server.url}/metrics", timeout=60).text
    server.ask(server.rows.head(7).assign(**{"mean radius": 123.456789}))
    wrong = records(server.rows.head(1))
    wrong[0]["mean radius"] = "987.654321"
    assert server.post({"dataframe_records": wrong}).status_code == 422
    after = requests.get(f"{server.url}/metrics", timeout=60).text
    for name, more in [
        ('answers_total{status="200"}', 1), ('answers_total{status="422"}', 1), ('rows_total{version="1"}', 7),
    ]:  # fmt: skip
        assert count(after, name) - count(before, name) == more
    log = server.log.read_text()
    assert "200: 7 row(s) in " in log and ", version 1\n" in log
    assert "422: body.dataframe_records.0.mean radius: Input should be a valid number\n" in log
    assert "123.456789" not in log and "987.654321" not in log


def test_alias_moves_under_load(server):
    """Eight clients, a thousand answers: none fails, and the probabilities are those of the version that it names."""
    number, other = register(server.project, server.train.sample(frac=0.5, random_state=0), "target", max_depth=2)
    rows = server.rows.head(8)
    expected = {1: server.model.predict_proba(rows), number: other.predict_proba(rows)}
    assert np.abs(expected[1] - expected[number]).max(axis=1).min() > 1e-4  # they can be told apart
    stop, answers = threading.Event(), [[] for _ in range(8)]

    def work(client):
        with requests.Session() as session:
            while not stop.is_set():
                answers[client].append(server.ask(rows.iloc[[client]], session))

    def enough():
        return sum(map(len, answers)) >= 1000

    with ThreadPoolExecutor(8) as threads:
        try:
            futures = [threads.submit(work, client) for client in range(8)]
            while not enough() and not any(future.done() for future in futures):
                server.serve(number)
                server.serve(1)
        finally:
            stop.set()
        for future in futures:
            future.result()
    assert enough()
    versions = set()
    for client, theirs in enumerate(answers):
        for answer in theirs:
            versions.add(answer["version"])
            right = expected[answer["version"]][[client]]
            np.testing.assert_allclose(answer["probabilities"], right, rtol=0, atol=1e-6)
    assert versions == {1, number}


def test_a_version_that_cannot_be_served(server):
    """The one before it goes on, and says why; as soon as the alias is at a good version, all is well."""
    project, train = server.project, server.train
    broken, _ = register(project, train, "target")
    (project.model_folder(NAME, broken) / "model.ubj").unlink()
    server.refuses(broken, "cannot be loaded: ")
    (project.model_folder(NAME, broken) / "model.ubj").write_text("no model")
    server.refuses(broken, "cannot be loaded: ")
    fewer, _ = register(project, train.drop(columns="mean radius"), "target")
    server.refuses(fewer, "has other columns: start the server again.")
    named = train.assign(target=train["target"].map({0: "malignant", 1: "benign"}))
    classes, _ = register(project, named, "target")
    server.refuses(classes, "has other classes: start the server again.")
    raw, _ = register(project, train, "target", objective="binary:logitraw")
    server.refuses(raw, "answers its input example with no probabilities.")
    untried, _ = register(project, train, "target", with_example=False)
    server.refuses(untried, "was logged without a signature or input example.")

    project.client.delete_registered_model_alias(NAME, ALIAS)
    assert wait_until(lambda: server.health()["problem"], 30).startswith("version 1 goes on: ")
    server.serve(1)


def test_columns_in_another_order(server):
    number, classifier = register(server.project, server.train.iloc[:, ::-1], "target", max_depth=3)
    server.serve(number)
    answer = server.ask(server.rows)
    expected = classifier.predict_proba(server.rows.iloc[:, ::-1])
    np.testing.assert_allclose(answer["probabilities"], expected, rtol=0, atol=1e-6)
    server.serve(1)


def test_words(trained, tmp_path):
    """They are taken as in the file; a later version may know more of them, but none less."""
    project = trained.copy(tmp_path)
    generator = np.random.default_rng(0)
    passengers = pd.DataFrame(
        {
            "sex": generator.choice(["female", "male"], 200),
            "model_config": generator.choice(["Q", "S"], 200),
            "age": generator.uniform(1, 80, 200).round(),
        }
    )
    passengers["survived"] = np.where((passengers["sex"] == "female") ^ (passengers["age"] < 15), "yes", "no")
    passengers.loc[::10, ["model_config", "age"]] = np.nan
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(project.uri)
    try:
        number, classifier = register(project, passengers, "survived")
        more = passengers.assign(model_config=passengers["model_config"].mask(passengers["age"] > 60, "C"))
        larger, _ = register(project, more, "survived")
        smaller, _ = register(project, passengers[passengers["model_config"] != "Q"], "survived")
    finally:
        mlflow.set_tracking_uri(before)
    project.client.set_registered_model_alias(NAME, ALIAS, number)
    encoding = data_files.learn_encoding(passengers, {"target": "survived", "classes": '["no", "yes"]'})
    with running(project) as server:
        server.rows = rows = passengers.drop(columns="survived")
        answer = server.ask(rows)
        expected = classifier.predict_proba(data_files.encode(passengers, encoding)[0])
        np.testing.assert_allclose(answer["probabilities"], expected, rtol=0, atol=1e-6)
        assert answer["classes"] == ["no", "yes"] and set(answer["predictions"]) == {"no", "yes"}

        row = {"sex": "male", "model_config": "Q", "age": 30}
        replies = [
            server.post({"dataframe_records": [{**row, "model_config": value}]}).json() for value in ["X", None, "Q"]
        ]
        del row["model_config"]
        assert replies[0] == replies[1] == server.post({"dataframe_records": [row]}).json()
        for value in [None, 1]:
            refused = server.post({"dataframe_records": [{**row, "sex": value}]})
            assert refused.json()["detail"][0]["loc"] == ["body", "dataframe_records", 0, "sex"]

        server.serve(larger)
        server.refuses(smaller, "has other words: start the server again.")
        server.serve(number)  # the way back


def test_a_wrong_start(store):
    """One line, and exit code 1."""
    with contextlib.closing(servers.socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        said = refusal(store.step("model_server", "--port", port))
    assert said.startswith("The server cannot start: Address already in use ") and str(port) in said
    assert "port must be 0-65535" in refusal(store.step("model_server", "--port", 70000))
    said = refusal(store.step("model_server", "--alias", "nobody"))
    assert said == f"{NAME} has no nobody yet. Make one: mlflow run . -e main"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_told(store, number):
    port = servers.free_port()
    process = store.start(sys.executable, "-m", "steps.model_server", "--port", port)
    address = f"http://127.0.0.1:{port}/health"

    def answers():
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(address, timeout=5).ok

    try:
        wait_until(answers, 60)
        process.send_signal(number)
        assert process.wait(10) == 0
        assert "Traceback" not in process.said()
    finally:
        process.kill()


@pytest.mark.nightly
def test_a_tracking_server_that_goes_away(store, tmp_path):
    """It is followed like a database; while it is down, the last version goes on."""
    frame = utils.load_dataset(store.newest("data_preprocessing"), "train")
    rows = frame.drop(columns="target").head(20)
    try:
        with contextlib.ExitStack() as stack:
            with tracking_server(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts") as address:
                mlflow.set_tracking_uri(address)
                versions = [register(store, frame, "target", max_depth=depth) for depth in [2, 3]]
                mlflow.MlflowClient().set_registered_model_alias(NAME, ALIAS, versions[0][0])
                server = stack.enter_context(running(store, address))
                server.serve(versions[1][0])
            problem = wait_until(lambda: server.health()["problem"], 120)
            assert problem.startswith("version 2 goes on: ") and "Start the server, or correct its address." in problem
            expected = versions[1][1].predict_proba(rows)
            np.testing.assert_allclose(server.ask(rows)["probabilities"], expected, rtol=0, atol=1e-6)
    finally:
        mlflow.set_tracking_uri(store.uri)


@pytest.mark.nightly
def test_memory_after_ten_thousand_requests(server):
    (process,) = [p for p in psutil.Process().children(recursive=True) if "steps.model_server" in p.cmdline()]

    def ask_often(times):
        for _ in range(times):
            server.ask(server.rows.head(5))

    ask_often(1000)
    before = process.memory_info().rss
    ask_often(10_000)
    assert process.memory_info().rss - before < 10 * 2**20


@pytest.mark.nightly
def test_memory_after_thirty_versions(server):
    """What a version took is given back."""
    (process,) = [p for p in psutil.Process().children(recursive=True) if "steps.model_server" in p.cmdline()]
    number, _ = register(server.project, server.train, "target", max_depth=4)

    def move_often(times):
        for _ in range(times):
            server.serve(number)
            server.serve(1)

    move_often(3)
    before = process.memory_info().rss
    start = time.monotonic()
    move_often(15)
    assert process.memory_info().rss - before < 10 * 2**20, time.monotonic() - start
