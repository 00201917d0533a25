"""The own server: what it answers and refuses, and that it follows the alias without a failed or mixed answer."""

import contextlib
import json
import re
import signal
import socket
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
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType
from support import MODEL, ROOT, Project, passengers, wait_until

import config
import servers
import utils
from steps import model_code

pytestmark = pytest.mark.slow
ALIAS = config.CHAMPION
CODE = ROOT / "steps" / "model_code.py"
KINDS = {"age [years] <": "number", "fare": "number", "alone": "boolean", "boarded": "date"}


class Server:
    """The server as a process, and the registry that it follows."""

    def __init__(self, client, url, log):
        self.client, self.url, self.log = client, url, log

    def post(self, body, kind="application/json"):
        """Send a text, or a dict as JSON."""
        text = json.dumps(body) if isinstance(body, dict) else body
        return requests.post(f"{self.url}/invocations", text, headers={"Content-Type": kind}, timeout=60)

    def ask(self, rows):
        """Send a frame, and give the answer."""
        response = self.post({"dataframe_records": rows.to_dict("records")})
        assert response.status_code == 200, response.text
        return response.json()

    def health(self):
        return requests.get(f"{self.url}/health", timeout=60).json()

    def last_line(self):
        return self.log.read_text().splitlines()[-1]

    def serve(self, version):
        """Move the alias, and wait until the server has followed."""
        self.client.set_registered_model_alias(MODEL, ALIAS, version)
        wait_until(lambda: self.health().items() >= {"version": int(version), "problem": None}.items(), 30)


def register(frame, code=CODE, with_example=True, **options):
    """Train and register a version as the step does; gives its number."""
    raw, classes = frame.drop(columns="survived"), sorted(frame["survived"].unique())
    types = [{"name": name, "kind": KINDS.get(name, "words")} for name in raw]
    for column in types:
        if column["kind"] == "words":
            column["words"] = sorted(raw[column["name"]].dropna().unique())
    about = {"name": config.NAME, "target": "survived", "classes": classes, "types": types}
    options = {"n_estimators": 30, "min_child_weight": 0, "n_jobs": 1, **options}
    classifier = xgb.XGBClassifier(**options).fit(model_code.features(raw, types), frame["survived"] == classes[1])
    with mlflow.start_run(experiment_id="1"):
        info = mlflow.xgboost.log_model(classifier, name="classifier", pip_requirements=[], metadata=about)
        info = mlflow.pyfunc.log_model(
            name="tuned",
            python_model=str(code),
            artifacts={"classifier": info.model_uri},
            model_config={"sha256": model_code.sha256(mlflow.artifacts.download_artifacts(info.model_uri))},
            registered_model_name=MODEL,
            signature=ModelSignature(Schema([ColSpec(AnyType(), name) for name in raw])),
            input_example=raw.head(3) if with_example else None,
            pip_requirements=[],
            metadata={**about, "classifier_id": info.model_id},
        )
    return int(info.registered_model_version)


def expected(number, rows):
    """The probabilities that a version's classifier gives for a frame, without the server."""
    _, model = utils.load_model(f"models:/{MODEL}/{number}")
    return model.classifier.predict_proba(model.features(rows))


def check(answer, number, rows):
    """Check that an answer is that of a version."""
    assert answer["version"] == number
    np.testing.assert_allclose(answer["probabilities"], expected(number, rows), rtol=0, atol=1e-6)


@contextlib.contextmanager
def running(project, *options):
    """The server with its default model, or with what the options say."""
    port = servers.free_port()
    url, command = f"http://127.0.0.1:{port}", [sys.executable, "-m", "steps.model_server", "--port", str(port)]
    variables = {"MLFLOW_TRACKING_URI": project.uri, "TMPDIR": str(project.folder)}
    with servers.server([*command, *options], f"{url}/health", project.folder, **variables) as log:
        yield Server(project.client, url, log)


@pytest.fixture(scope="module")
def frame():
    """Rows of every kind of column, with names that are none in Python and none for XGBoost."""
    names = {"age": "age [years] <", "sex": "model_config", "deck": "class"}
    frame = passengers().rename(columns=names).replace({"class": {"A": "1", "B": "2"}}).astype(object)
    frame.loc[5::17, ["alone", "boarded", "model_config"]] = None
    return frame.where(frame.notna(), None)


@pytest.fixture(scope="module")
def project(frame, tmp_path_factory):
    """A project with one version, the champion, in its store, which is the active one."""
    project = Project(tmp_path_factory.mktemp("server"))
    mlflow.set_tracking_uri(project.uri)
    assert mlflow.create_experiment("server", (project.folder / "files").as_uri()) == "1"
    register(frame)
    project.client.set_registered_model_alias(MODEL, ALIAS, 1)
    yield project
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def server(project, frame):
    with running(project) as server:
        server.rows = frame.drop(columns="survived")
        server.row = server.rows.loc[0].to_dict()
        yield server


def test_answers_are_those_of_the_model(server):
    """Whatever the order of the columns, with one that the model does not know, and with missing values only."""
    answer = server.ask(server.rows.iloc[:, ::-1].assign(unknown="x"))
    assert set(answer) == {"version", "classes", "predictions", "probabilities"}
    assert answer["classes"] == ["no", "yes"]
    check(answer, 1, server.rows)
    whole = mlflow.pyfunc.load_model(f"models:/{MODEL}/1").predict(server.rows)
    assert answer["predictions"] == list(whole["prediction"]) and set(answer["predictions"]) == {"no", "yes"}
    nothing = server.rows.head(1).map(lambda value: None)
    check(server.ask(nothing), 1, nothing)


def test_values_in_all_spellings(server):
    """In one request; an unknown word counts as missing."""
    spellings = {
        "model_config": ["X", None, "", "Male", 1.5, True],
        "class": [1, 1.0, "1", " 1.0 ", True, None],
        "age [years] <": [30, 30.5, None, 0, -1, 1e38],
        "alone": [True, 1, 1.0, False, 0, None],
        "boarded": ["1912-04-15", "1912/04/15", "1912-04-15T02:00+02:00", "0001-01-01", "9999-12-31", None],
    }
    plain = {"model_config": [None] * 6, "class": ["1"] * 4 + [None] * 2, "alone": [True] * 3 + [False] * 2 + [None]}
    plain["boarded"] = ["1912-04-15"] * 3 + spellings["boarded"][3:]
    given, meant = [pd.DataFrame({**spellings, **columns, "fare": 7.0}, dtype=object) for columns in [{}, plain]]
    check(server.ask(given), 1, meant)


WRONG = {
    "age [years] <": ["Infinity", "NaN", "3.5e38", "-3.5e38", "4711" + 400 * "0", '"4711"', "true", "[4711]"],
    "alone": ['"true"', "4711"],
    "boarded": ["4711", '"4711"', '"15.04.4711"', '"4711-02-30"'],
    "model_config": ['["4711"]'],
    "class": ['{"4711": 4711}'],
}


@pytest.mark.parametrize(("column", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_a_wrong_value_is_refused_by_its_column(server, column, value):
    """In the second row; neither the answer nor the log repeats the value."""
    rows = [server.row, {**server.row, column: "HERE"}]
    response = server.post(json.dumps({"dataframe_records": rows}).replace('"HERE"', value))
    detail, status = response.json()["detail"], 400 if column == "boarded" and '"' in value else 422
    if status == 400:
        assert detail == "boarded: a value is not of its kind, date."
    else:
        (fault,) = detail
        assert set(fault) == {"type", "loc", "msg"} and fault["loc"] == ["body", "dataframe_records", 1, column]
    assert response.status_code == status and re.match(f"INFO: {status}: .*{re.escape(column)}", server.last_line())
    assert not re.search("4711|Infinity", response.text + server.last_line())


def test_missing_columns_are_named(server):
    response = server.post({"dataframe_records": server.rows.iloc[:2, 2:].to_dict("records")})
    missing = [(fault["type"], fault["loc"][-1]) for fault in response.json()["detail"]]
    assert response.status_code == 422 and missing == [("missing", name) for name in server.rows.columns[:2]]


def test_limits(server):
    """Rows and bytes, with and without a length given beforehand; and bodies that are no question."""
    assert server.post({"dataframe_records": [server.row] * config.BATCH_ROWS}).status_code == 200
    assert server.post({"dataframe_records": [server.row] * (config.BATCH_ROWS + 1)}).status_code == 422
    assert server.post({"dataframe_records": []}).status_code == 422
    large = b" " * (4 * 2**20 + 1)
    assert [server.post(body).status_code for body in [large[1:], large, iter([large])]] == [422, 413, 413]
    for body in ["{", "null", "[]", '{"dataframe_records": {}}', "1" * 5000, "[" * 100_000]:
        assert server.post(body).status_code in {400, 422}
    # a page in a browser can send such a body to this machine without asking
    assert server.post({"dataframe_records": [server.row]}, "text/plain").status_code == 422


def test_only_those_who_ask_this_machine(server):
    """A web page that gives this machine a name of its own gets no answer."""
    for host, status in [("localhost", 200), ("127.0.0.1:80", 200), ("attacker.example", 400)]:
        assert requests.get(f"{server.url}/health", headers={"Host": host}, timeout=5).status_code == status


def test_openapi_document(server):
    """It names the columns and all answers."""
    document = requests.get(f"{server.url}/openapi.json", timeout=60).json()
    assert set(document["paths"]["/invocations"]["post"]["responses"]) == {"200", "400", "413", "422"}
    row = document["components"]["schemas"]["Row"]
    assert list(row["properties"]) == row["required"] == list(server.rows)
    assert row["properties"]["class"]["examples"] == ["1", "2"]
    assert row["properties"]["boarded"]["anyOf"][0] == {"type": "string", "format": "date"}


def test_metrics_and_log(server):
    """Both count, and neither has a value of a request in it; of words that the model does not know, the share."""

    def count(name):
        text = requests.get(f"{server.url}/metrics", timeout=60).text
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    counted = {'answers_total{status="200"}': 2, 'answers_total{status="400"}': 1, 'answers_total{status="422"}': 1}
    counted |= {'rows_total{version="1"}': 8, "predict_seconds_count": 2}
    before = {name: count(name) for name in counted}
    rows = [{**server.row, "model_config": word, "class": "hidden"} for word in ["male", "secret", None, "female"]]
    server.ask(pd.DataFrame(rows, dtype=object))
    assert re.match(r"INFO: 200: 4 row\(s\) in [\d.]+ ms, version 1, ", server.last_line())
    assert server.last_line().endswith("model_config: 25 % unknown words, class: 100 % unknown words")
    server.ask(server.rows.head(4))
    assert server.last_line().endswith(" ms, version 1")
    for wrong in [{"fare": "987.654321"}, {"boarded": "secret"}]:
        server.post({"dataframe_records": [{**server.row, **wrong}]})
    assert {name: count(name) - before[name] for name in counted} == counted
    assert not re.search("secret|hidden|987", server.log.read_text())


def test_versions_that_follow(server, frame, tmp_path):
    """Eight clients ask all the time: no answer fails, and each is that of the version that it names.

    The versions have other code, columns in another order, more words, and an input example without a date.
    """
    text, old = CODE.read_text(), "columns[name] = as_numbers(table[name], column)"
    assert old in text
    (tmp_path / "model_code.py").write_text(text.replace(old, old.replace("= ", "= -")))
    numbers = [
        register(frame, code=tmp_path / "model_code.py"),
        register(frame.iloc[:, ::-1], max_depth=3),
        register(frame.assign(**{"class": frame["class"].mask(frame["fare"] > 40, "3")})),
        register(frame.sort_values("boarded", na_position="first"), max_depth=2),
        1,
    ]
    rows, done = server.rows.head(8), threading.Event()
    right = {number: expected(number, rows) for number in numbers}
    assert np.abs(right[1] - right[numbers[0]]).max() > 1e-3  # they can be told apart

    def work(client):
        versions = set()
        while not done.is_set():
            answer = server.ask(rows.iloc[[client]])
            np.testing.assert_allclose(answer["probabilities"][0], right[answer["version"]][client], rtol=0, atol=1e-6)
            versions.add(answer["version"])
        return versions

    with ThreadPoolExecutor(8) as threads:
        versions = threads.map(work, range(8))
        try:
            for number in numbers:
                server.serve(number)
        finally:
            done.set()
    assert set.union(*versions) == set(numbers)


def test_a_version_that_cannot_be_served(server, project, frame):
    """The one before it goes on, and says why; as soon as the alias is at a good version, all is well."""
    answer = server.ask(server.rows)

    def refuses(version, reason):
        server.client.set_registered_model_alias(MODEL, ALIAS, version)
        problem = f"version 1 goes on: {MODEL} {version} {reason}"
        wait_until(lambda: (server.health()["problem"] or "").startswith(problem), 30)
        assert server.ask(server.rows) == answer
        assert f"WARNING: {problem}" in server.log.read_text()

    refuses(register(frame.drop(columns="fare")), "has other columns: start the server again.")
    refuses(register(frame.replace({"survived": "yes"}, "so")), "has other classes: start the server again.")
    refuses(register(frame[frame["class"] != "1"]), "has other words: start the server again.")
    refuses(register(frame, objective="binary:logitraw"), "answers its input example with no probabilities.")
    refuses(register(frame, with_example=False), "was logged without an input example.")
    broken = register(frame)
    (file,) = project.model_folder(MODEL, broken).rglob("model.ubj")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    file.write_bytes(content)
    refuses(broken, "cannot be used: The classifier's file is damaged.")
    with mlflow.start_run(experiment_id="1"):
        classifier = xgb.XGBClassifier(n_estimators=1).fit([[1], [2]], [0, 1])
        info = mlflow.xgboost.log_model(classifier, name="old", registered_model_name=MODEL, pip_requirements=[])
    refuses(info.registered_model_version, "was not trained by this version of the project: train again")
    server.client.delete_registered_model_alias(MODEL, ALIAS)
    wait_until(lambda: server.health()["problem"].startswith("version 1 goes on: Registered model alias"), 30)
    server.serve(1)
    assert not list(project.folder.glob("tmp*/MLmodel"))  # what it downloads is removed


def test_a_version_by_its_number_stays(server, project, frame):
    """Wherever the alias is. It ends when told."""
    number = register(frame, max_depth=2)
    with running(project, "--model-uri", f"models:/{MODEL}/{number}") as other:
        server.serve(number)
        server.serve(1)
        time.sleep(2)
        assert other.health() == {"model_uri": f"models:/{MODEL}/{number}", "version": number, "problem": None}
        check(other.ask(server.rows), number, server.rows)
        assert "Traceback" not in other.log.read_text()
        process, address = process_of(other), ("127.0.0.1", int(other.url.rpartition(":")[2]))
        with socket.create_connection(address) as client:  # half a request does not keep it alive
            client.sendall(b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


def process_of(server):
    """The process of a server, by its port."""
    return next(p for p in psutil.Process().children() if server.url.rpartition(":")[2] in p.cmdline())


def test_it_waits_between_looks_at_the_alias(server):
    before = process_of(server).cpu_times().user
    time.sleep(2)
    assert process_of(server).cpu_times().user - before < 1


def test_a_wrong_start(project):
    """One line; tests/test_steps.py has what it is where no version has the alias."""
    name = f"models:/{MODEL}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = [f"--port {port}", "--port 70000", f"--model-uri {name}", f"--model-uri {name}/999"]
        said = project.try_steps(*(f"model_server {words}" for words in options))
    in_use, no_port, no_number, no_version = [line for line, _ in said]
    assert in_use.startswith("The server cannot start: Address already in use ") and str(port) in in_use
    assert no_port.startswith("The server cannot start: ") and "port must be 0-65535" in no_port
    assert no_number == f"{name}: give models:/NAME@ALIAS or models:/NAME/NUMBER."
    assert no_version.startswith(f"{MODEL} 999 cannot be loaded: ")
