# Generated from chapters/own_server.py by notebook_tools/extract.py: do not edit, change the notebook.

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

import cli
import config
import utils
from cli import StepError

model_uri, host, port = "models:/CancerModel@champion", "127.0.0.1", 8000
model_uri, host, port = cli.arguments("model-server", "model-uri", "host", "port")


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


registered = re.fullmatch("models:/([^/]+)/([0-9]+)", utils.version_uri(model_uri))
if not registered:
    raise StepError(f"{model_uri}: give models:/NAME@ALIAS or models:/NAME/NUMBER.")
name, alias = registered[1], model_uri.partition("@")[2]  # without an alias: ""
first = load(int(registered[2]))
now = SimpleNamespace(version=first, problem=None)

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


serve()
