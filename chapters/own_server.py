# ---
# jupyter:
#   jupytext:
#     comment_magics: false
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A server of your own
#
# *A chapter of [A model's life with MLflow](../README.md). Run `make walkthrough` first; then this notebook,
# `chapters/own_server.py`, runs alone.*
#
# `mlflow models serve` is one command, and any model can be behind it. But it does not say which version answered,
# keeps no count of what it was asked, and must be started again when the alias moves ([an open
# wish](https://github.com/mlflow/mlflow/issues/4039) since 2021). For one kind of model a web server of your own is not
# much work, and then all of that is in your hands. This one stands on what `mlflow models serve` stands on, FastAPI,
# Pydantic and uvicorn. Each of these commands starts it at http://127.0.0.1:8000, where `/docs` has a form to try it
# (whose scripts come from the internet):
#
# ```bash
# make serve
# docker compose -f docker/server/docker-compose.yml up --build
# ```
#
# They serve the champion of the breast cancer data. To serve another registered model, give its address: `make serve
# MODEL_URI=models:/NAME@ALIAS`, or `MODEL_URI=models:/NAME@ALIAS` before `docker compose`, or, without either,
# `python -m steps.model_server --model-uri models:/NAME@ALIAS`. The server follows the alias; a version that is given
# by its number, as in `models:/NAME/3`, stays.

# %%
import os

# JupyterLab starts a chapter in chapters/, where MLflow would begin a new, empty store.
if not os.path.exists("MLproject"):
    os.chdir("..")

# %% tags=["model_server"]
import contextlib
import re
import socket
import tempfile
import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import mlflow
import numpy as np
import prometheus_client
import uvicorn
import xgboost as xgb
from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from loguru import logger
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from pydantic import AfterValidator, BaseModel, FailFast, Field, WithJsonSchema, create_model
from starlette.exceptions import HTTPException

# hide import cli
import config
import utils
from cli import StepError

model_uri, host, port = "models:/CancerModel@champion", "127.0.0.1", 8000
# hide model_uri, host, port = cli.arguments("model-server", "model-uri", "host", "port")

# %% [markdown]
# ## Loading a version
#
# Which version has the alias is one question to the registry. (Where none has it, the server ends with a line that says
# which versions there are, why the gate refused each, and what to do.) The version is loaded from a copy of its files,
# which is removed at once: a server that runs for months will load many. With the model comes its `features`, the code
# that was stored when it was trained. The server has no code of its own that makes numbers of rows, so it cannot make
# other numbers than the training did. A version that cannot answer its own input example is not served.


# %% tags=["model_server"]
@dataclass(frozen=True)
class Version:
    number: int
    model: mlflow.pyfunc.PythonModel  # a TableClassifier, as it was when it was trained
    booster: xgb.Booster
    classes: list
    kinds: dict  # of each column: number, boolean, date or words
    words: dict  # of each column of words: those of the training data


def load_model(number):
    """Return a version's model, and what this makes of its input example."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            mlflow.artifacts.download_artifacts(f"models:/{name}/{number}", dst_path=folder)
            _, model = utils.load_model(folder)
            example = Model.load(folder).load_input_example(folder)
            if example is None:
                raise StepError(f"{folder} was logged without an input example.")
            return model, model.features(dict(example))
        except StepError as error:
            raise StepError(str(error).replace(folder, f"{name} {number}")) from None
        except (MlflowException, OSError) as error:
            reason = utils.in_one_line(error)
            raise StepError(f"{name} {number} cannot be loaded: {reason}") from None


def load(number):
    model, example = load_model(number)
    booster, types = model.classifier.get_booster(), model.about["types"]
    booster.set_param({"nthread": 1})  # for few rows more threads cost more than they bring
    answer = booster.inplace_predict(example)
    if answer.shape != (len(example),) or not ((answer >= 0) & (answer <= 1)).all():
        raise StepError(f"{name} {number} answers its input example with no probabilities.")
    return Version(
        number=number,
        model=model,
        booster=booster,
        classes=model.about["classes"],
        kinds={column["name"]: column["kind"] for column in types},
        words={column["name"]: column["words"] for column in types if "words" in column},
    )


# %% tags=["model_server"]
registered = re.fullmatch("models:/([^/]+)/([0-9]+)", utils.version_uri(model_uri))
if not registered:
    raise StepError(f"{model_uri}: give models:/NAME@ALIAS or models:/NAME/NUMBER.")
name, alias = registered[1], model_uri.partition("@")[2]  # without an alias: ""
first = load(int(registered[2]))
now = SimpleNamespace(version=first, problem=None)

# %% [markdown]
# ## What may be asked
#
# The form of a request is MLflow's own `dataframe_records`: a list of rows, each with its values by column, as they
# stand in the file. Its *type* is made from the kinds of the columns: Pydantic checks each value and names the row and
# the column where one is wrong, and `/docs` shows all columns. Numbers must be finite and fit XGBoost's single
# precision; true and false may be 1 and 0; a date is a text with the year first. A word may be any text, number or
# truth value: one that the model has never seen counts as missing. `null` is a missing value, in every column, but a
# column that is not there at all is a mistake. Columns that the model does not know are ignored.

# %% tags=["model_server"]
largest = float(np.finfo(np.float32).max)
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-largest, le=largest)]
Boolean = Annotated[Literal[True, False, 0, 1], AfterValidator(bool)]
Date = Annotated[str, WithJsonSchema({"type": "string", "format": "date"})]


def as_text(value):
    if not isinstance(value, str | int | float):  # True and False are of the type int, too
        raise ValueError("a word is a text, a number, true or false")
    return str(value)


Word = Annotated[
    Any, AfterValidator(as_text), WithJsonSchema({"type": ["string", "number", "boolean"]})
]

# %% [markdown]
# The fields are called f0, f1, … with the columns as aliases, since the name of a column may be none in Python.

# %% tags=["model_server"]
allowed = {"number": Number, "boolean": Boolean, "date": Date, "words": Word}
fields = {column: f"f{place}" for place, column in enumerate(first.kinds)}
types = {}
for column, kind in first.kinds.items():
    examples = first.words.get(column, [])[:10] or None
    types[fields[column]] = allowed[kind] | None, Field(alias=column, examples=examples)
Row = create_model("Row", **types)
Class = int | float | str


class Question(BaseModel):
    # of many wrong rows the first one is enough
    dataframe_records: Annotated[
        list[Row], Field(min_length=1, max_length=config.BATCH_ROWS), FailFast()
    ]


class Answer(BaseModel):
    version: int
    classes: list[Class]
    predictions: list[Class]
    probabilities: list[list[float]]


# %% [markdown]
# ## Answering
#
# An answer says which version gave it, the class of each row, and the probability of each class. `now.version` is read
# once: another version may take its place at any moment, and no answer may be made of two. The model's `features` gets
# a dict of arrays and makes one array of numbers, and XGBoost's `inplace_predict` takes that as it is: with data frames
# in their place, an answer to few rows would take several times as long.

# %% tags=["model_server"]
app = FastAPI(title=model_uri, max_body_size=4 * 2**20)  # 4 MiB
# no web page that gives this machine another name gets an answer
app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", host])
registry = prometheus_client.CollectorRegistry()
answers = prometheus_client.Counter("answers", "Answers", ["status"], registry=registry)
row_count = prometheus_client.Counter("rows", "Rows", ["version"], registry=registry)
duration = prometheus_client.Histogram("predict_seconds", "Predictions", registry=registry)


def record(status, text):
    answers.labels(status).inc()
    logger.info(f"{status}: {text}")


@app.post("/invocations", response_model=Answer, responses={400: {}, 413: {}})
async def invocations(question: Question):
    version, rows, start = now.version, question.dataframe_records, time.perf_counter()
    table = {}
    for column, field in fields.items():  # None among numbers becomes NaN
        kind = float if first.kinds[column] == "number" else object
        table[column] = np.array([getattr(row, field) for row in rows], dtype=kind)
    try:
        values = version.model.features(table)
    except MlflowException as error:  # it names the column and not the value
        raise HTTPException(400, error.message) from None
    probability = version.booster.inplace_predict(values).astype(float)
    seconds = time.perf_counter() - start
    duration.observe(seconds)
    row_count.labels(version.number).inc(len(rows))
    about = f"{len(rows)} row(s) in {1000 * seconds:.1f} ms, version {version.number}"
    for column, share in version.model.unknown_words(table, values).items():
        if share:
            about += f", {column}: {100 * share:.3g} % unknown words"
    record(200, about)
    answer = Answer(
        version=version.number,
        classes=version.classes,
        predictions=[version.classes[int(p > 0.5)] for p in probability],
        probabilities=np.column_stack([1 - probability, probability]).tolist(),
    )
    # as JSON already: FastAPI would check the answer once more
    return Response(answer.model_dump_json(), media_type="application/json")


# %% [markdown]
# A refusal says which place is wrong and why, never the value, which may belong to a patient. (FastAPI's own answer
# repeats it; and when it is Infinity, which JSON does not have, the answer itself fails.) A text that is no date is
# found by the model's `features`, which names the column alone. The log has a line for each request, without values
# too.


# %% tags=["model_server"]
@app.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError):
    detail = [{key: fault[key] for key in ["type", "loc", "msg"]} for fault in error.errors()]
    record(422, f"{'.'.join(map(str, detail[0]['loc']))}: {detail[0]['msg']}")
    return JSONResponse({"detail": detail}, 422)


@app.exception_handler(HTTPException)
async def count_refusal(request: Request, error: HTTPException):
    record(error.status_code, error.detail)
    return await http_exception_handler(request, error)


@app.get("/health")
async def health() -> dict[str, str | int | None]:
    return {"model_uri": model_uri, "version": now.version.number, "problem": now.problem}


@app.get("/metrics", response_class=Response)
async def metrics():
    kind = prometheus_client.CONTENT_TYPE_LATEST
    return Response(prometheus_client.generate_latest(registry), media_type=kind)


# %% [markdown]
# ## Following the alias
#
# Every few seconds a thread asks once which version has the alias, which works with every store. A new version is
# loaded beside the old one, which goes on answering, and takes over with a single assignment. Whatever is wrong with
# the new one, the old one stays, the log and `/health` say why, and the thread goes on trying.
#
# What the server has promised to those who ask it must hold too: the columns and their kinds, the classes, and the
# words that the first version knew (more are welcome). A version that breaks this needs a restart, of which they can be
# told.


# %% tags=["model_server"]
def check_promises(version):
    kept = {
        "columns": version.kinds == first.kinds,
        "classes": version.classes == first.classes,
        "words": all(
            set(words) <= set(version.words.get(column, []))
            for column, words in first.words.items()
        ),
    }
    if broken := [what for what in kept if not kept[what]]:
        others = " and ".join(broken)
        raise StepError(f"{name} {version.number} has other {others}: start the server again.")


def follow():
    while True:
        time.sleep(2)
        problem = None
        try:
            number = int(mlflow.MlflowClient().get_model_version_by_alias(name, alias).version)
            if number != now.version.number:
                version = load(number)
                check_promises(version)
                now.version = version
                logger.info(f"version {number} answers")
        except Exception as error:  # whatever it is, the server must go on
            problem = f"version {now.version.number} goes on: {utils.in_one_line(error)}"
        if problem and problem != now.problem:
            logger.warning(problem)
        now.problem = problem


def serve():
    try:
        listener = socket.create_server((host, port))
        # send at once: else each answer waits 40 ms for the client's acknowledgement
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", error)
        raise StepError(f"The server cannot start: {reason}. Give another host or port.") from None
    if alias:  # else there is nothing to follow
        threading.Thread(target=follow, daemon=True).start()
    at = f"http://{host}:{listener.getsockname()[1]}"
    logger.info(f"{model_uri}: version {first.number} answers at {at}/invocations; see {at}/docs")
    with contextlib.suppress(KeyboardInterrupt):  # the end, by Ctrl-C or SIGTERM
        # a client that has sent half a request does not keep the server alive
        options = {"log_level": "warning", "timeout_graceful_shutdown": 5}
        uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[listener])


# hide serve()

# %% [markdown]
# ## Asking it
#
# Here it is started as a process, at a free port, and asked about two rows of the test set that belongs to the model:

# %%
import json

import requests

import servers

client = mlflow.MlflowClient()
champion = client.get_model_version_by_alias(name, alias)
training_run = mlflow.get_run(champion.run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
rows = utils.load_dataset(data_run, "test")[list(first.kinds)]


def start():
    port = servers.free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["python", "-m", "steps.model_server", "--port", str(port)]
    return url, servers.server(command, f"{url}/health")


def question(frame):
    records = frame.to_json(orient="records", date_format="iso", double_precision=15)
    return {"dataframe_records": json.loads(records)}


url, server = start()
with server as log:
    response = requests.post(f"{url}/invocations", json=question(rows.head(2)), timeout=60)
    wrong = question(rows.head(1))
    del wrong["dataframe_records"][0][rows.columns[0]]
    wrong["dataframe_records"][0][rows.columns[1]] = [17.99]
    refusal = requests.post(f"{url}/invocations", json=wrong, timeout=60)
    health = requests.get(f"{url}/health", timeout=60)
    lines = log.read_text().splitlines()
print(response.json())

# %% [markdown]
# A question with a column missing and a list in place of a value, and what is in the log:

# %%
for fault in refusal.json()["detail"]:
    print(refusal.status_code, fault)

# %%
print(health.json(), *lines, sep="\n")

# %% [markdown]
# ## The way forward, and the way back
#
# To bring a version into use is one line, and so is to take it back: the server follows. The second version is here a
# copy of the champion, which is deleted in the end. What comes out, asked until the version changes:


# %%
def wait_for(number):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        answer = requests.post(f"{url}/invocations", json=question(rows.head(1)), timeout=60)
        if answer.json()["version"] == int(number):
            return f"{answer.status_code}, version {number}"
        time.sleep(0.1)
    return requests.get(f"{url}/health", timeout=60).json()


copy = client.copy_model_version(f"models:/{name}/{champion.version}", name)
url, server = start()
with server:
    print("at first:", wait_for(champion.version))
    client.set_registered_model_alias(name, alias, copy.version)
    print("forward: ", wait_for(copy.version))
    client.set_registered_model_alias(name, alias, champion.version)
    print("and back:", wait_for(champion.version))
client.delete_model_version(name, copy.version)

# %% [markdown]
# ## What it is not
#
# It is one process, which is enough for a small model: [How fast it is](performance.md) compares it with the other
# servers. It knows no users and speaks no HTTPS, and answers only those who ask for `localhost` or its `--host`: put a
# proxy before it that asks so, before you give it another `--host` than this machine.
