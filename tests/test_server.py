"""The own server: what it answers and refuses, and that it follows the alias without a failed or mixed answer."""

import contextlib
import json
import re
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
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType
from support import MODEL, PASSENGERS_URI, ROOT, refusal, tracking_server, wait_until

import config
import servers
import utils
from steps import model_code

pytestmark = pytest.mark.slow
ALIAS = config.CHAMPION
CHAMPION_URI, PASSENGERS = f"models:/{MODEL}@{ALIAS}", "passengersModel"
CODE = ROOT / "steps" / "model_code.py"


class Server:
    """The server as a process, with a store of its own, and the versions of the model in it."""

    def __init__(self, project, client, url, log, model):
        self.project, self.client, self.url, self.log, self.model = project, client, url, log, model
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

    def process(self):
        port = self.url.rpartition(":")[2]
        (process,) = [p for p in psutil.Process().children(recursive=True) if port in p.cmdline()]
        return process

    def move_alias(self, version):
        self.client.set_registered_model_alias(self.model, ALIAS, version)

    def serve(self, version):
        """Move the alias, and wait until the server has followed."""
        self.move_alias(version)
        wait_until(lambda: self.health().items() >= {"version": int(version), "problem": None}.items(), 30)

    def refuses(self, version, reason):
        """Move the alias to a version that the server must not take, and see that it says why and goes on."""
        before, rows = self.health()["version"], self.rows.head(3)
        answer = self.ask(rows)
        self.move_alias(version)
        problem = f"version {before} goes on: {self.model} {version} {reason}"
        wait_until(lambda: (self.health()["problem"] or "").startswith(problem), 30)
        assert self.ask(rows) == answer
        assert f"WARNING: {problem}" in self.log.read_text()


def records(rows):
    """The rows as JSON has them: words, true and false, dates as text, null."""
    return json.loads(rows.to_json(orient="records", date_format="iso", double_precision=15))


def register(frame, target, with_example=True, code=CODE, name=config.NAME, **options):
    """Train and register a version as the step does; gives its number."""
    kinds = {"f": "number", "b": "boolean", "M": "date"}
    raw, classes = frame.drop(columns=target), sorted(frame[target].unique())
    example = raw.head(3).astype(object)
    types = [{"name": name, "kind": kinds.get(raw[name].dtype.kind, "words")} for name in raw]
    for column in types:
        if column["kind"] == "words":
            column["words"] = sorted({model_code.as_word(word) for word in raw[column["name"]].dropna()})
    about = {"name": name, "target": target, "classes": classes, "types": types}
    values, label = model_code.features(raw, types), frame[target] == classes[1]
    classifier = xgb.XGBClassifier(**{"n_estimators": 10, "n_jobs": 1, **options}).fit(values, label)
    with mlflow.start_run():
        info = mlflow.xgboost.log_model(classifier, name="classifier", pip_requirements=[], metadata=about)
        info = mlflow.pyfunc.log_model(
            name="tuned",
            python_model=str(code),
            artifacts={"classifier": info.model_uri},
            registered_model_name=f"{name}Model",
            signature=ModelSignature(Schema([ColSpec(AnyType(), name) for name in raw])),
            input_example=example.where(example.notna(), None) if with_example else None,
            pip_requirements=[],
            metadata={**about, "classifier_id": info.model_id},
        )
    return info.registered_model_version


def expected(number, rows, model=MODEL):
    """The probabilities that a version's classifier gives for a frame, without the server."""
    _, model = utils.load_model(f"models:/{model}/{number}")
    return model.classifier.predict_proba(model.features(rows))


def check(answer, number, rows, model=MODEL):
    """Check that an answer is that of a version."""
    assert answer["version"] == number
    np.testing.assert_allclose(answer["probabilities"], expected(number, rows, model), rtol=0, atol=1e-6)


@contextlib.contextmanager
def running(project, uri=None, model_uri=None, program=("-m", "steps.model_server"), **variables):
    """The server with the model of an address, or with its default."""
    port = servers.free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, *program, "--port", str(port)] + (["--model-uri", model_uri] if model_uri else [])
    variables["MLFLOW_TRACKING_URI"] = uri or project.uri
    with servers.server(command, f"{url}/health", project.folder, **variables) as log:
        model = re.match("models:/([^/@]+)", model_uri or CHAMPION_URI)[1]
        yield Server(project, mlflow.MlflowClient(uri or project.uri), url, log, model)


@pytest.fixture(scope="module")
def store(trained, tmp_path_factory):
    """A copy of the trained project as the active store; its version 1 is the champion."""
    project = trained.copy(tmp_path_factory.mktemp("server"))
    project.client.set_registered_model_alias(MODEL, ALIAS, 1)
    mlflow.set_tracking_uri(project.uri)
    yield project
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def server(store):
    """The server, with the training and test rows of its model."""
    run = store.newest("data_preprocessing")
    with running(store) as server:
        server.train, server.rows = utils.load_dataset(run, "train"), utils.load_dataset(run, "test")
        server.rows = server.rows.drop(columns="target")
        yield server


@pytest.fixture(scope="module")
def passengers():
    """Rows of every kind of column, with names that are none in Python and none for XGBoost."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "sex": generator.choice(["female", "male"], 200),
            "model_config": generator.choice(["Q", "S"], 200),
            "class": generator.choice(["1", "2", "deck"], 200),
            "age [years] <": generator.uniform(1, 80, 200).round(),
            "alone": pd.array(generator.choice([True, False], 200), dtype="boolean"),
            "boarded": pd.Timestamp("1912-04-10") + pd.to_timedelta(generator.integers(0, 900, 200), "D"),
        }
    )
    wins = (frame["sex"] == "female") ^ (frame["age [years] <"] < 15) ^ (frame["boarded"] > "1913")
    wins ^= (frame["class"] == "1") & frame["alone"].astype(bool)
    frame["survived"] = np.where(wins ^ (frame["model_config"] == "Q") & (frame["class"] == "2"), "yes", "no")
    for place, name in enumerate(frame.columns[1:6]):
        frame.loc[place::17, name] = pd.NaT if name == "boarded" else None
    return frame


@pytest.fixture(scope="module")
def ship(store, passengers, tmp_path_factory):
    """The server with a model of passengers, under their name, in a store of its own."""
    project = store.copy(tmp_path_factory.mktemp("ship"))
    mlflow.set_tracking_uri(project.uri)
    number = register(passengers, "survived", name="passengers", n_estimators=30, min_child_weight=0)
    project.client.set_registered_model_alias(PASSENGERS, ALIAS, number)
    with running(project, model_uri=PASSENGERS_URI) as server:
        server.number, server.rows = int(number), passengers.drop(columns="survived")
        yield server
    mlflow.set_tracking_uri(store.uri)


@pytest.fixture
def at_sea(ship, store):
    """The same, while its store is the active one."""
    mlflow.set_tracking_uri(ship.project.uri)
    yield ship
    mlflow.set_tracking_uri(store.uri)


def test_answers_are_those_of_the_model(server):
    """Whatever the order of the columns, and with one that the model does not know."""
    answer = server.ask(server.rows.iloc[:, ::-1].assign(unknown="x"))
    assert set(answer) == {"version", "classes", "predictions", "probabilities"}
    assert answer["classes"] == ["benign", "malignant"]
    check(answer, 1, server.rows)
    whole = mlflow.pyfunc.load_model(f"models:/{MODEL}/1").predict(server.rows)
    assert answer["predictions"] == list(whole["prediction"])
    np.testing.assert_allclose(answer["probabilities"], whole.iloc[:, 1:], rtol=0, atol=1e-6)


def test_missing_values_and_whole_numbers(server):
    """Null is a missing value in every column, though none was missing in the training data."""
    rows = server.rows.head(8).round().mask(np.eye(8, 30, dtype=bool))
    sent = [{name: value if value is None else int(value) for name, value in row.items()} for row in records(rows)]
    answer = server.post({"dataframe_records": sent}).json()
    check(answer, 1, rows)
    assert answer == server.ask(rows)
    check(server.ask(rows.head(1) * np.nan), 1, rows.head(1) * np.nan)


WRONG_VALUES = {
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
    large = b" " * (4 * 2**20 + 1)
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
    """No value makes the server fail; a question is answered exactly if each value is missing or fits XGBoost."""
    row = records(server.rows.head(1))[0]
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(row)), scalars, max_size=3))
    response = server.post({"dataframe_records": [{**row, **changes}]})
    valid = all(
        v is None or (isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= float(model_code.LARGEST))
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
    assert list(row["properties"]) == row["required"] == list(server.rows)
    assert "dataframe_records" in document["components"]["schemas"]["Question"]["properties"]
    schemathesis(server, "--max-examples=10", "--phases=examples,fuzzing")


@pytest.mark.weekly
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
    number = int(register(server.train.sample(frac=0.5, random_state=0), "target", max_depth=2))
    rows = server.rows.head(8)
    right = {version: expected(version, rows) for version in [1, number]}
    assert np.abs(right[1] - right[number]).max(axis=1).min() > 1e-4  # they can be told apart
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
            theirs = right[answer["version"]][[client]]
            np.testing.assert_allclose(answer["probabilities"], theirs, rtol=0, atol=1e-6)
    assert versions == {1, number}


def test_a_version_that_cannot_be_served(server):
    """The one before it goes on, and says why; as soon as the alias is at a good version, all is well."""
    project, train = server.project, server.train
    broken = register(train, "target")
    (file,) = project.model_folder(MODEL, broken).rglob("model.ubj")
    file.unlink()
    server.refuses(broken, "cannot be used: ")
    file.write_text("no model")
    server.refuses(broken, "cannot be used: ")
    fewer = register(train.drop(columns="mean radius"), "target")
    server.refuses(fewer, "has other columns: start the server again.")
    texts = register(train.assign(**{"mean radius": "large"}), "target")
    server.refuses(texts, "has other columns: start the server again.")
    classes = register(train.assign(target=train["target"].replace("malignant", "bad")), "target")
    server.refuses(classes, "has other classes: start the server again.")
    raw = register(train, "target", objective="binary:logitraw")
    server.refuses(raw, "answers its input example with no probabilities.")
    untried = register(train, "target", with_example=False)
    server.refuses(untried, "was logged without an input example.")
    with mlflow.start_run():
        classifier = xgb.XGBClassifier(n_estimators=1).fit(train[["mean radius"]], train["target"] == "benign")
        info = mlflow.xgboost.log_model(classifier, name="old", registered_model_name=MODEL, pip_requirements=[])
    server.refuses(info.registered_model_version, "was not trained by this version of the project: train again")

    project.client.delete_registered_model_alias(MODEL, ALIAS)
    assert wait_until(lambda: server.health()["problem"], 30).startswith("version 1 goes on: ")
    server.serve(1)


def test_columns_in_another_order(server):
    number = int(register(server.train.iloc[:, ::-1], "target", max_depth=3))
    server.serve(number)
    check(server.ask(server.rows), number, server.rows)
    server.serve(1)


def test_features_are_those_of_the_version(server, tmp_path):
    """Each version is asked with the code that is stored with it: here one makes another feature."""
    text, old = CODE.read_text(), 'columns["mean symmetry"] / columns["mean texture"]'
    assert old in text
    (tmp_path / "model_code.py").write_text(text.replace(old, old.replace("/", "-")))
    numbers = [int(register(server.train, "target", code=code)) for code in [CODE, tmp_path / "model_code.py"]]
    assert np.abs(expected(numbers[0], server.rows) - expected(numbers[1], server.rows)).max() > 1e-3
    for number in [*numbers, 1]:
        server.serve(number)
        check(server.ask(server.rows), number, server.rows)


def test_rows_as_they_stand_in_the_file(at_sea):
    answer = at_sea.ask(at_sea.rows)
    check(answer, at_sea.number, at_sea.rows, PASSENGERS)
    assert answer["classes"] == ["no", "yes"] and set(answer["predictions"]) == {"no", "yes"}
    model = mlflow.pyfunc.load_model(f"models:/{PASSENGERS}/{at_sea.number}")
    for rows in [at_sea.rows, pd.DataFrame(records(at_sea.rows))]:
        assert answer["predictions"] == list(model.predict(rows)["prediction"])


def test_dates_far_away(ship):
    row = records(ship.rows.head(1))[0]
    assert [probability(ship, row, boarded=date) for date in ["0001-01-01", "9999-12-31"]]


def test_an_input_example_with_a_missing_date(at_sea, passengers):
    number = int(register(passengers.sort_values("boarded", na_position="first"), "survived", name="passengers"))
    try:
        at_sea.serve(number)
        check(at_sea.ask(at_sea.rows), number, at_sea.rows, PASSENGERS)
    finally:
        at_sea.serve(at_sea.number)


def probability(server, row, **changes):
    """The answer to one row, with some columns changed."""
    answer = server.post({"dataframe_records": [{**row, **changes}]})
    assert answer.status_code == 200, answer.text
    return answer.json()["probabilities"]


SAME = {
    "an unknown word is missing": ("model_config", ["X", None, "", "q", 7, 1.5, True]),
    "a word may be a number": ("class", [1, 1.0, "1", " 1.0 "]),
    "a whole number": ("age [years] <", [30, 30.0]),
    "true": ("alone", [True, 1, 1.0]),
    "false": ("alone", [False, 0, 0.0]),
    "a date": ("boarded", ["1912-04-15", "1912/04/15", "1912-04-15T00:00:00.000", "1912-04-15T02:00:00+02:00"]),
}


@pytest.mark.parametrize(("column", "values"), SAME.values(), ids=SAME)
def test_values_that_are_the_same(ship, column, values):
    rows = records(ship.rows.dropna().head(30))
    answers = []
    for value in values:
        response = ship.post({"dataframe_records": [{**row, column: value} for row in rows]})
        assert response.status_code == 200, response.text
        answers.append(response.json())
    assert all(answer == answers[0] for answer in answers)
    others = [probability(ship, row) for row in rows]
    assert others != [[each] for each in answers[0]["probabilities"]]  # the column matters


def test_many_spellings_in_one_request(ship):
    """Each row is answered as if it had been asked alone."""
    row = records(ship.rows.dropna().head(1))[0]
    column = {"class": [True, 1, 1.0, "1", None, 2], "alone": [True, 0, None, 1, False, 0.0]}
    rows = [{**row, **dict(zip(column, values, strict=True))} for values in zip(*column.values(), strict=True)]
    together = ship.post({"dataframe_records": rows}).json()["probabilities"]
    assert together == [probability(ship, row)[0] for row in rows]


WRONG_KINDS = {
    "a text among numbers": ("age [years] <", "4711", 422),
    "true among numbers": ("age [years] <", True, 422),
    "a text for true": ("alone", "true", 422),
    "another number for true": ("alone", 4711, 422),
    "a number for a date": ("boarded", 4711, 422),
    "no date": ("boarded", "4711", 400),
    "the day first": ("boarded", "15.04.4711", 400),
    "no such day": ("boarded", "4711-02-30", 400),
    "a list for a word": ("sex", ["4711"], 422),
    "an object for a word": ("class", {"4711": 4711}, 422),
}


@pytest.mark.parametrize(("column", "value", "status"), WRONG_KINDS.values(), ids=WRONG_KINDS)
def test_a_value_of_another_kind_is_refused_by_its_column(ship, column, value, status):
    rows = records(ship.rows.head(3))
    rows[1][column] = value
    response = ship.post({"dataframe_records": rows})
    assert response.status_code == status
    detail = response.json()["detail"]
    if status == 422:
        assert [fault["loc"] for fault in detail] == [["body", "dataframe_records", 1, column]]
    else:
        assert detail.startswith(f"{column}: ") and "date" in detail
    assert "4711" not in response.text
    line = ship.log.read_text().splitlines()[-1]
    assert line.startswith(f"INFO: {status}: ") and column in line and "4711" not in line


@pytest.mark.parametrize("column", ["sex", "age [years] <", "alone", "boarded"])
def test_a_column_of_each_kind_must_be_there(ship, column):
    response = ship.post({"dataframe_records": records(ship.rows.head(1).drop(columns=column))})
    assert response.status_code == 422
    (fault,) = response.json()["detail"]
    assert (fault["type"], fault["loc"][-1]) == ("missing", column)


def test_unknown_words_are_in_the_log(ship):
    """Their share, and not the words."""
    ship.ask(ship.rows.head(4).assign(sex=["male", "secret", None, "female"], model_config="hidden"))
    line = ship.log.read_text().splitlines()[-1]
    assert line.endswith(f"version {ship.number}, sex: 25 % unknown words, model_config: 100 % unknown words")
    ship.ask(ship.rows.head(4))
    assert ship.log.read_text().splitlines()[-1].endswith(f"version {ship.number}")


@settings(max_examples=max(150, settings.default.max_examples))
@given(data=st.data())
def test_any_value_of_each_kind(ship, data):
    """None makes the server fail, and whatever is a word or missing is answered."""
    row = records(ship.rows.head(1))[0]
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(row)), scalars | anything, min_size=1, max_size=3))
    response = ship.post({"dataframe_records": [{**row, **changes}]})
    assert response.status_code in {200, 400, 422}, response.text
    words = {"sex", "model_config", "class"}
    good = {name for name, value in changes.items() if value is None or (name in words and not is_nested(value))}
    if good == set(changes):
        assert response.status_code == 200, response.text
    elif response.status_code == 422:
        assert {fault["loc"][-1] for fault in response.json()["detail"]} <= set(changes) - good


def is_nested(value):
    return isinstance(value, list | dict)


def test_openapi_document_of_each_kind(ship):
    document = requests.get(f"{ship.url}/openapi.json", timeout=60).json()
    row = document["components"]["schemas"]["Row"]
    assert list(row["properties"]) == row["required"] == list(ship.rows)
    assert row["properties"]["class"]["examples"] == ["1", "2", "deck"]
    schemathesis(ship, "--max-examples=10", "--phases=examples,fuzzing")


def test_words_of_later_versions(at_sea, passengers):
    """A later version may know more words, but none less."""
    passengers = passengers.sort_values("boarded")
    more = passengers.assign(model_config=passengers["model_config"].mask(passengers["age [years] <"] > 60, "C"))
    larger = register(more, "survived", name="passengers")
    smaller = register(passengers[passengers["model_config"] != "Q"], "survived", name="passengers")
    at_sea.serve(larger)
    at_sea.refuses(smaller, "has other words: start the server again.")
    at_sea.serve(at_sea.number)  # the way back


def test_a_wrong_start(store):
    """One line, and exit code 1."""
    with contextlib.closing(servers.socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        said = refusal(store.step("model_server", "--port", port))
    assert said.startswith("The server cannot start: Address already in use ") and str(port) in said
    assert "port must be 0-65535" in refusal(store.step("model_server", "--port", 70000))
    said = refusal(store.step("model_server", "--model-uri", f"models:/{MODEL}"))
    assert said == f"models:/{MODEL}: give models:/NAME@ALIAS or models:/NAME/NUMBER."
    said = refusal(store.step("model_server", "--model-uri", f"models:/{MODEL}/999"))
    assert said.startswith(f"{MODEL} 999 cannot be loaded: ")


def test_no_version_with_the_alias(ship, tmp_path):
    """One line: which versions there are, why the gate refused each, and both ways out."""
    project = ship.project.copy(tmp_path)
    number = project.registry()[PASSENGERS][0][-1]
    project.client.set_model_version_tag(PASSENGERS, str(number), "gate", "failed: too few rows.")
    project.client.delete_registered_model_alias(PASSENGERS, ALIAS)
    said = refusal(project.step("model_server", "--model-uri", PASSENGERS_URI))
    start = f"{PASSENGERS} has no version with the alias {ALIAS}. Version {number}: gate failed: too few rows. "
    assert said.startswith(start)
    assert "mlflow run . -e main " in said and said.endswith(f"models:/{PASSENGERS}/NUMBER")
    project.client.delete_registered_model(PASSENGERS)
    said = refusal(project.step("model_server", "--model-uri", PASSENGERS_URI))
    assert said.startswith(f"{PASSENGERS} has no version with the alias {ALIAS}. Train ")


def test_a_version_by_its_number_stays(server):
    """Wherever the alias is."""
    number = int(register(server.train, "target", max_depth=2))
    uri = f"models:/{MODEL}/{number}"
    with running(server.project, model_uri=uri) as other:
        for version in [number, 1]:
            server.serve(version)
            time.sleep(2)
            assert other.health() == {"model_uri": uri, "version": number, "problem": None}
            check(other.ask(server.rows), number, server.rows)


# The server, which says when it waits and when it asks for the alias.
TELLING = """
import runpy, sys, time
from mlflow.tracking._model_registry.client import ModelRegistryClient

def telling(word, function):
    def tell(*given):
        if word == "look" or given == (2,):
            sys.stderr.write(word + chr(10))
        return function(*given)
    return tell

time.sleep = telling("wait", time.sleep)
ModelRegistryClient.get_model_version_by_alias = telling("look", ModelRegistryClient.get_model_version_by_alias)
runpy.run_module("steps.model_server", run_name="__main__")
"""


def test_one_look_at_the_alias(server):
    """At the start, and after each wait, be the version a new one or not."""
    number = int(register(server.train, "target", max_depth=2))
    with running(server.project, program=["-c", TELLING]) as other:
        other.serve(number)
        other.serve(1)
        words = [line for line in other.log.read_text().splitlines() if line in {"look", "wait"}]
    assert len(words) >= 5
    assert set(words[::2]) == {"look"} and set(words[1::2]) == {"wait"}


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
    rows, copies = frame.drop(columns="target").head(20), tmp_path / "copies"
    copies.mkdir()
    try:
        with contextlib.ExitStack() as stack:
            with tracking_server(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artifacts") as address:
                mlflow.set_tracking_uri(address)
                versions = [register(frame, "target", max_depth=depth) for depth in [2, 3]]
                right = expected(versions[1], rows)
                mlflow.MlflowClient().set_registered_model_alias(MODEL, ALIAS, versions[0])
                server = stack.enter_context(running(store, address, TMPDIR=str(copies)))
                server.serve(versions[1])
                assert not list(copies.rglob("*.*"))  # what it downloads is removed
            problem = wait_until(lambda: server.health()["problem"], 120)
            assert problem.startswith("version 2 goes on: ") and "Start the server, or correct its address." in problem
            np.testing.assert_allclose(server.ask(rows)["probabilities"], right, rtol=0, atol=1e-6)
    finally:
        mlflow.set_tracking_uri(store.uri)


@pytest.mark.weekly
def test_memory_after_ten_thousand_requests(server):
    process = server.process()

    def ask_often(times):
        for _ in range(times):
            server.ask(server.rows.head(5))

    ask_often(1000)
    before = process.memory_info().rss
    ask_often(10_000)
    assert process.memory_info().rss - before < 10 * 2**20


@pytest.mark.weekly
def test_memory_after_thirty_versions(server):
    """What a version took is given back."""
    process = server.process()
    number = register(server.train, "target", max_depth=4)

    def move_often(times):
        for _ in range(times):
            server.serve(number)
            server.serve(1)

    move_often(3)
    before = process.memory_info().rss
    start = time.monotonic()
    move_often(15)
    assert process.memory_info().rss - before < 10 * 2**20, time.monotonic() - start
