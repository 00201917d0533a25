# Generated from chapters/own_server.py by notebook_tools/extract.py: do not edit, change the notebook.

import contextlib
import socket
import tempfile
import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated

import mlflow
import numpy as np
import prometheus_client
import uvicorn
import xgboost as xgb
from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from loguru import logger
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from pydantic import BaseModel, FailFast, Field, create_model
from starlette.exceptions import HTTPException

import config
import data_files
import utils
from utils import StepError

name, alias, host, port = "CancerModel", "champion", "127.0.0.1", 8000
name, alias, host, port = utils.arguments("model-server", "name", "alias", "host", "port")


@dataclass(frozen=True)
class Version:
    number: int
    columns: list
    optional: set  # the columns that had missing values in the training data
    classes: list
    codes: dict  # of each column of words: the number of each word
    booster: xgb.Booster


def current_number():
    return int(mlflow.MlflowClient().get_model_version_by_alias(name, alias).version)


def load(number):
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = mlflow.artifacts.download_artifacts(f"models:/{name}/{number}", dst_path=folder)
            model, info = mlflow.xgboost.load_model(path), Model.load(path)
            example, encoding = info.load_input_example(path), utils.model_encoding(path)
        except (MlflowException, OSError, xgb.core.XGBoostError) as error:
            reason = utils.in_one_line(error)
            raise StepError(f"{name} {number} cannot be loaded: {reason}") from None
    if info.signature is None or example is None:
        raise StepError(f"{name} {number} was logged without a signature or input example.")
    booster = model if isinstance(model, xgb.Booster) else model.get_booster()
    booster.set_param({"nthread": 1})  # for few rows more threads cost more than they bring
    columns = encoding["columns"]
    answer = booster.inplace_predict(example[columns].to_numpy(float))
    if answer.shape != (len(example),) or not ((answer >= 0) & (answer <= 1)).all():
        raise StepError(f"{name} {number} answers its input example with no probabilities.")
    return Version(
        number=number,
        columns=columns,
        optional={column.name for column in info.signature.inputs if not column.required},
        classes=encoding["classes"],
        codes={
            column: {word: code for code, word in enumerate(words)}
            for column, words in encoding["words"].items()
        },
        booster=booster,
    )


utils.check_store()
try:
    first = load(current_number())
except MlflowException:
    raise StepError(f"{name} has no {alias} yet. Make one: mlflow run . -e main") from None
now = SimpleNamespace(version=first, problem=None)

largest = float(data_files.LARGEST)
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-largest, le=largest)]
fields = {column: f"f{number}" for number, column in enumerate(first.columns)}
types = {}
for column, field in fields.items():
    kind = str if column in first.codes else Number
    options = {"alias": column, "examples": list(first.codes.get(column, []))[:10] or None}
    if column in first.optional:
        types[field] = kind | None, Field(None, **options)
    else:
        types[field] = kind, Field(**options)
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


app = FastAPI(title=f"{name}@{alias}", max_body_size=config.BODY_BYTES)
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
    table = [[getattr(row, fields[column]) for column in version.columns] for row in rows]
    for column, codes in version.codes.items():
        place = version.columns.index(column)
        for values in table:
            values[place] = codes.get(values[place])  # None, that is missing, for an unseen word
    probability = version.booster.inplace_predict(np.array(table, dtype=float)).astype(float)
    seconds = time.perf_counter() - start
    duration.observe(seconds)
    row_count.labels(version.number).inc(len(rows))
    record(200, f"{len(rows)} row(s) in {1000 * seconds:.1f} ms, version {version.number}")
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
    status = {"name": name, "alias": alias, "version": now.version.number}
    return {**status, "problem": now.problem}


@app.get("/metrics", response_class=Response)
async def metrics():
    kind = prometheus_client.CONTENT_TYPE_LATEST
    return Response(prometheus_client.generate_latest(registry), media_type=kind)


def check_promises(version):
    kept = {
        "columns": set(version.columns) == set(first.columns),
        "classes": version.classes == first.classes,
        "words": version.codes.keys() == first.codes.keys()
        and all(
            first.codes[column].keys() <= version.codes[column].keys() for column in first.codes
        ),
    }
    if broken := [what for what in kept if not kept[what]]:
        others = " and ".join(broken)
        raise StepError(f"{name} {version.number} has other {others}: start the server again.")


def follow():
    while True:
        time.sleep(config.FOLLOW_SECONDS)
        problem = None
        try:
            number = current_number()
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
    threading.Thread(target=follow, daemon=True).start()
    at = f"http://{host}:{listener.getsockname()[1]}"
    logger.info(f"{name} version {first.number} answers at {at}/invocations; see {at}/docs")
    with contextlib.suppress(KeyboardInterrupt):  # the end, by Ctrl-C or SIGTERM
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


serve()
