"""What several steps share: starting a step's run, finding earlier runs, reading and logging data."""

import atexit
import codecs
import contextlib
import csv
import ctypes
import functools
import gc
import gzip
import hashlib
import io
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.parse
import warnings
import zlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil
import requests
import sqlalchemy
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

import config


class StepError(SystemExit):
    """A mistake that the user can mend: what is wrong and what to do, in one line.

    As a `SystemExit` it ends a script with that line on stderr, exit code 1 and no traceback, and as an exception
    it marks the active run FAILED.
    """


def optional_path(text):
    """Read an optional path from the command line.

    `mlflow run` hands an empty parameter of type `path` to the script as an empty folder of its own making
    (`…/param_0`): that means "not given".

    Args:
        text: What stands on the command line.

    Returns:
        The path as a string, or None where none was given.
    """
    path = Path(text)
    if not text or (path.name.startswith("param_") and path.is_dir() and not any(path.iterdir())):
        return None
    return text


def git_commit():
    """Tell which commit of the project is running.

    Returns:
        The commit's hash, with "-dirty" behind it where files were changed since; empty outside a git clone.
    """
    if not shutil.which("git"):
        return ""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(describe, cwd=config.PROJECT_DIR, capture_output=True, text=True).stdout.strip()


SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def signals(handler):
    """Let a function receive Ctrl-C and SIGTERM for a while.

    Args:
        handler: As for `signal.signal`.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one receives signals
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def interrupt(number, frame):
    """Leave what is being done by a `KeyboardInterrupt`: a signal handler.

    Where a library swallows that, it comes again, until the tidying up has begun.
    """
    send = signal.raise_signal if os.name == "nt" else functools.partial(os.kill, os.getpid())
    again = threading.Timer(5, send, [number])
    again.daemon = True
    again.start()
    repeats.append(again)
    raise KeyboardInterrupt


repeats = []


@contextlib.contextmanager
def signals_ignored():
    """Tidy up without being interrupted."""
    with signals(signal.SIG_IGN):
        while repeats:
            repeats.pop().cancel()
        yield


@contextlib.contextmanager
def signals_held():
    """Let Ctrl-C and SIGTERM wait until a run is opened or closed, for half of that would be a false entry."""
    came = []
    with signals(lambda number, frame: came.append(number)):
        yield
    if came:
        signal.raise_signal(came[0])


@contextlib.contextmanager
def open_run(**options):
    """Start a run whose end is written down whatever happens: FINISHED, FAILED, or KILLED by Ctrl-C or SIGTERM.

    Args:
        **options: Arguments of `mlflow.start_run`.

    Yields:
        The `mlflow.ActiveRun`.
    """
    with signals(interrupt):
        try:
            with signals_held():
                run = mlflow.start_run(**options)
            yield run
            if repeats:
                raise KeyboardInterrupt
            with signals_held():
                mlflow.end_run()
        except BaseException as error:
            # a library may swallow it, or make an error of its own of it
            interrupted = isinstance(error, KeyboardInterrupt) or bool(repeats)
            # what was interrupted may hold a transaction open, and so keep the end of the run out of the database
            if interrupted:
                cause = error
                while cause:
                    traceback.clear_frames(cause.__traceback__)
                    cause = cause.__context__
                gc.collect()
            # a failing end would hide the first error, which is the one that matters
            with signals_ignored(), contextlib.suppress(MlflowException):
                for child in psutil.Process().children() if interrupted else []:
                    stop(child)
                mlflow.end_run("KILLED" if interrupted else "FAILED")
            if interrupted and not isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise


def start_step(step, **options):
    """Start the MLflow run of a step.

    Under `mlflow run` the run exists already: the step joins it, in whatever experiment it is, and names it. Else
    a new run starts in the project's experiment.

    Args:
        step: The step's name, a key of `config.RUN_NAMES`.
        **options: Further arguments of `mlflow.start_run`.

    Returns:
        A context manager that gives the active run, to be used in a `with` statement.

    Raises:
        StepError: The store cannot be used.
    """
    open_store(mlflow.get_tracking_uri())
    close_dead_runs(step)
    if "MLFLOW_RUN_ID" not in os.environ:
        mlflow.set_experiment(config.EXPERIMENT)
    tags = {"step": step, "script": f"{step}.py", "commit": git_commit(), "process": this_process()}
    return open_run(run_name=config.RUN_NAMES[step], tags=tags, **options)


@functools.cache
def open_store(uri):
    """Try whether MLflow's store can be used, before MLflow does, which would repeat it for minutes.

    Args:
        uri: The tracking URI.

    Raises:
        StepError: It cannot. (Other errors of a store are put in one line by `say_in_one_line`.)
    """
    try:
        if uri.startswith(("http://", "https://")):
            options = {"max_retries": 1, "backoff_factor": 0, "timeout": 5, "raise_on_status": False}
            http_request(get_default_host_creds(uri), "/health", "GET", **options)
        elif uri.startswith("sqlite:///"):
            path = Path(sqlalchemy.make_url(uri).database)
            if not path.exists():
                make_store(path)
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master")
        elif uri.startswith("postgresql"):
            engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": 5})
            engine.connect().close()
        experiment = mlflow.get_experiment_by_name(config.EXPERIMENT)
    except (MlflowException, OSError, sqlite3.Error, sqlalchemy.exc.SQLAlchemyError) as error:
        raise StepError(f"{without_password(uri)}: the store cannot be used. {in_one_line(error)}") from None
    if experiment and experiment.lifecycle_stage == LifecycleStage.DELETED and "MLFLOW_RUN_ID" not in os.environ:
        restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        raise StepError(f"The experiment {config.EXPERIMENT} is deleted. Restore it: {restore}")


def make_store(path):
    """Make MLflow's SQLite database under another name, and give it its own when it is complete.

    MLflow makes it in many steps. Another process, or the next one after a kill, would find it half made.

    Args:
        path: The database's `pathlib.Path`, at which there is no file yet.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # slow, and needed once

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as folder:
        draft = Path(folder, path.name)
        store = SqlAlchemyStore(f"sqlite:///{draft.as_posix()}", "./mlruns")
        store.engine.dispose()
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(draft, path)


# What an error means, and what to do about it.
REMEDIES = {
    r"No space left|disk is full|disk I/O error": "Make room on the disk, then run the step again.",
    r"readonly|Read-only|Permission denied|unable to open database file": (
        "Make the folder writable, or set MLFLOW_TRACKING_URI to another store."
    ),
    r"not a database|malformed|already exists|duplicate column|no such table|no such column": (
        "The database is damaged or was never completed. Put back a copy of it, or begin a new one: "
        "mv mlflow.db mlflow.db.broken"
    ),
    r"database is locked": "Another program keeps the store busy: run the step again when that has ended.",
    r"Connection|timed out|timeout expired|Max retries|could not translate host|API request to endpoint": (
        "Start the server, or correct MLFLOW_TRACKING_URI."
    ),
}


def in_one_line(error):
    """Say in one line what is wrong with the store and what to do.

    Args:
        error: An exception of MLflow, a database, a file or a connection.

    Returns:
        The text.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # SQLAlchemy may begin with when it noticed, and always names the driver's class
    reason = next((line for line in lines if not line.startswith("(raised as a result")), lines[0])
    reason = re.sub(r"^\([\w.]+\) ", "", reason)
    schema = re.search(r"out-of-date database schema \(found version (\w+)", reason)
    if schema:
        migrations = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
        if list(migrations.glob(f"{schema[1]}_*.py")):
            return f"It was made by an older MLflow. Copy it, then: mlflow db upgrade {mlflow.get_tracking_uri()}"
        return f"It was made by another MLflow than {mlflow.__version__}, a newer one it seems: install that one."
    remedies = [remedy for pattern, remedy in REMEDIES.items() if re.search(pattern, reason)]
    if "ConnectionPool" in reason:  # the cause is the last in a chain
        reason = reason.rsplit(": ", 1)[-1].rstrip("\"')")
    return " ".join([without_password(reason[:300]).rstrip(".") + ".", *remedies[:1]])


def without_password(text):
    """Take the user's name and password out of the addresses in a text.

    Args:
        text: A URL, or a message with URLs in it.

    Returns:
        The text without them.
    """
    return re.sub("//[^/@ ]*@", "//", text)


def say_in_one_line(kind, error, trace):
    """Say without a traceback what is no fault of the code: a hook for `sys.excepthook`.

    Args:
        kind: The exception's class.
        error: The exception.
        trace: Its traceback.
    """
    if isinstance(error, KeyboardInterrupt):
        print(str(error) or "Interrupted. What was not finished is not used: run the step again.", file=sys.stderr)
    elif isinstance(error, (MlflowException, OSError, sqlite3.Error, sqlalchemy.exc.SQLAlchemyError)):
        print(in_one_line(error), file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = say_in_one_line
# Of a run that is still open when Python ends, MLflow would say that it is finished.
atexit.register(mlflow.end_run, "FAILED")
# An interrupt that comes in a callback, of a garbage collection for instance, is lost there; it comes again.
sys.unraisablehook = lambda lost: lost.exc_type is KeyboardInterrupt or sys.__unraisablehook__(lost)


def this_process():
    """Name this process in a way that tells later whether it still runs: the value of the tag `process` of a run.

    Returns:
        Its machine, number and start time, with spaces between them.
    """
    return f"{machine()} {os.getpid()} {psutil.Process().create_time():.0f}"


def machine():
    """Name this machine, and on Linux the container, since the numbers of processes have a meaning only there.

    Returns:
        A text without spaces.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # other systems have neither
        parts.append(os.readlink("/proc/self/ns/pid"))
        parts.append(Path("/etc/machine-id").read_text().strip())
    return "/".join(parts)


def is_dead(process):
    """Tell whether a process is known to have ended.

    Args:
        process: What `this_process` said in that process, or None.

    Returns:
        True if it was a process of this machine and runs no more; False if it runs, or if nobody can know.
    """
    if not process or process.split()[0] != machine():
        return False
    _, pid, start = process.split()
    try:
        found = psutil.Process(int(pid))
        # a process that took over the number is another one; some seconds, because the clock may have been set
        return found.status() == psutil.STATUS_ZOMBIE or abs(found.create_time() - float(start)) > 5
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def experiments():
    """Say where a step looks for runs.

    Returns:
        The IDs of the present run's experiment, if `mlflow run` made that run, and of the project's own.
    """
    project = mlflow.get_experiment_by_name(config.EXPERIMENT)
    found = [os.environ.get("MLFLOW_EXPERIMENT_ID"), project and project.experiment_id]
    return list(dict.fromkeys(filter(None, found)))


def close_dead_runs(step):
    """Mark runs of a step as KILLED whose process was killed before it could do so.

    Trials and other runs below them, which have no process of their own, are closed with them.

    Args:
        step: The step's name, a key of `config.RUN_NAMES`.
    """
    running = mlflow.search_runs(experiments(), "attributes.status = 'RUNNING'", output_format="list")
    dead = [run for run in running if run.data.tags.get("step") == step and is_dead(run.data.tags.get("process"))]
    for run in dead:  # grows on the way
        mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")
        below = [child for child in running if child.data.tags.get("mlflow.parentRunId") == run.info.run_id]
        for child in below:
            process = child.data.tags.get("process")
            if child not in dead and (process is None or is_dead(process)):
                dead.append(child)


def latest_run(step, run_id=None, **tags):
    """Find the newest finished run of a step, or check the one that the user names.

    The experiment of the present run is searched first, then the project's own.

    Args:
        step: The step's name, a key of `config.RUN_NAMES`.
        run_id: The ID of the run to take; where it is empty or None, the newest is taken.
        **tags: Tags that the run must have, with their values.

    Returns:
        The `mlflow.entities.Run`.

    Raises:
        StepError: No such run has finished yet, or the run with this ID is not one.
    """
    open_store(mlflow.get_tracking_uri())
    if run_id:
        return checked_run(step, run_id, tags)
    wanted = [f"tags.{name} = '{value}'" for name, value in {"step": step, **tags}.items()]
    for experiment in experiments():
        runs = mlflow.search_runs(
            [experiment],
            " and ".join([*wanted, "attributes.status = 'FINISHED'"]),
            order_by=["attributes.start_time DESC"],
            max_results=1,
            output_format="list",
        )
        if runs:
            return runs[0]
    made_with = "".join(f" with {name} {value}" for name, value in tags.items())
    entry_point = step.replace("_", "-")
    raise StepError(f"No finished run of {step}{made_with} was found. First run: mlflow run . -e {entry_point}")


def checked_run(step, run_id, tags):
    """Get a run by its ID and check that it is what a step can use.

    Args:
        step: The name of the step that it must be a run of.
        run_id: The run's ID.
        tags: A dict of tags that it must have, with their values.

    Returns:
        The `mlflow.entities.Run`.

    Raises:
        StepError: There is no such run, it is deleted or has not finished, or it is of another step or other data.
    """
    remedy = f"Give the ID of a finished run of {step}, or none for the newest."
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ["RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"]:
            raise
        raise StepError(f"There is no run {run_id}. {remedy}") from None
    if "step" not in run.data.tags and "tuning_run_id" in run.data.tags:  # a worker, of a search that another began
        return checked_run(step, run.data.tags["tuning_run_id"], tags)
    if run.data.tags.get("step") != step:
        raise StepError(f"Run {run_id} is not one of {step}. {remedy}")
    if run.info.lifecycle_stage == LifecycleStage.DELETED:
        raise StepError(f"Run {run_id} is deleted. Restore it: mlflow runs restore --run-id {run_id}")
    if run.info.status != "FINISHED":
        raise StepError(f"Run {run_id} is {run.info.status}. {remedy}")
    for name, value in tags.items():
        if run.data.tags.get(name) != value:
            raise StepError(f"Run {run_id} has the {name} {run.data.tags.get(name)}, not {value}. {remedy}")
    return run


def registered_version(name, training_run):
    """Find the version of a registered model that a training run made.

    Args:
        name: The registered model's name.
        training_run: The `mlflow.entities.Run` of the step `model_training`.

    Returns:
        The version's number.

    Raises:
        StepError: The registry has no such version.
    """
    run_id = training_run.info.run_id
    versions = mlflow.MlflowClient().search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if not versions:
        raise StepError(f"{name} has no version made by training run {run_id}. Train: mlflow run . -e model-training")
    return int(versions[0].version)


def champion():
    """Tell which version of the classifier is the champion.

    Returns:
        The version's number, or None where there is none yet.
    """
    models = mlflow.MlflowClient().search_registered_models(f"name = '{config.CLASSIFIER_MODEL}'")
    aliases = models[0].aliases if models else {}
    return int(aliases[config.CHAMPION]) if config.CHAMPION in aliases else None


def read_text(path):
    """Read a text file, given by the user, that may be compressed with gzip.

    Args:
        path: Path of the file.

    Returns:
        Its bytes, and the encoding of these.

    Raises:
        StepError: The file cannot be read, or is neither UTF-8 nor UTF-16 with a byte-order mark.
    """
    try:
        data = Path(path).read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise StepError(f"{path}: no such file. Give the path of a CSV file.") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise StepError(f"{path}: cannot be read: {reason}. Give the path of a CSV file.") from None
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
        end = text.find("\0")  # the file is damaged, or in an encoding that we do not know
        line = text.count("\n", 0, end) + 1
    except UnicodeDecodeError as error:
        end, line = error.start, data.count(b"\n", 0, error.start) + 1
    if end >= 0:
        raise StepError(f"{path}: line {line} is not text in UTF-8. Save the file as CSV in that encoding.")
    return data, encoding


def read_csv(path):
    """Read a CSV file of features and a two-valued target, given by the user.

    Values may be separated by commas, semicolons or tabs. Row numbers, which pandas and spreadsheets write into a first
    column without a name, and lines and columns without any value or name are dropped.

    Args:
        path: Path of the file. Its columns are features, which hold numbers (empty means missing), and `target`.

    Returns:
        A `pandas.DataFrame` with one row per example, all columns as they stand in the file. Its index has the number
        of each row's line.

    Raises:
        StepError: The file is missing, empty or no CSV, has columns of no or the same name, or no usable `target`.
    """
    data, encoding = read_text(path)
    try:
        for separator in [",", ";", "\t"]:
            lines = csv.reader(io.TextIOWrapper(io.BytesIO(data), encoding, newline=""), delimiter=separator)
            above = 0
            while not any(names := next(lines)):
                above = lines.line_num
            names = [name.strip() for name in names]
            if config.TARGET in names:
                break
        else:
            line = " ".join(" ".join(names).split())
            seen = line if len(line) < 80 else f"{line[:50]} … {line[-20:]}"
            raise StepError(f"{path}: has no column `{config.TARGET}`. Its first line should name it, but is: {seen}")
        options = {"skiprows": above, "skip_blank_lines": False, "skipinitialspace": True, "low_memory": False}
        frame = pd.read_csv(io.BytesIO(data), sep=separator, encoding=encoding, **options)
    except StopIteration:
        raise StepError(f"{path}: is empty. Give a file with at least one example of each class.") from None
    except (csv.Error, ValueError) as error:  # also those of pandas' own parser
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        if quote := re.match(r"EOF inside string starting at row (\d+)", reason):
            reason = f"a quotation mark in line {int(quote[1]) + 1} is never closed"
        raise StepError(f"{path}: cannot be read as CSV: {reason}.") from None

    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes the first value as the name of its row
        raise StepError(f"{path}: line {above + 2} has more values than the line above it has names. Name all columns.")
    frame.columns = names
    frame.index += above + 2
    frame = frame.dropna(how="all")
    row_numbers = [number == 0 or column.isna().all() for number, (_, column) in enumerate(frame.items())]
    named = frame.columns != ""
    if not (named | row_numbers).all():
        number = (named | row_numbers).argmin() + 1
        raise StepError(f"{path}: column {number} has no name. Name it in line {above + 1}, or remove it.")
    frame = frame.loc[:, named & ~frame.columns.str.fullmatch(r"Unnamed: \d+")]
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise StepError(f"{path}: more than one column is called `{twice}`. Rename or remove one.")
    if frame.empty:
        raise StepError(f"{path}: has no rows. Give a file with at least one example of each class.")
    if len(frame.columns) == 1:
        raise StepError(f"{path}: has no feature columns beside `{config.TARGET}`.")
    if frame[config.TARGET].isna().any():
        row = frame.index[frame[config.TARGET].isna()][0]
        raise StepError(f"{path}: line {row} has no `{config.TARGET}`. Fill it in or remove the line.")
    return frame


def as_numbers(features, path):
    """Turn features into numbers.

    Args:
        features: A `pandas.DataFrame` as `read_csv` returns it, without the target.
        path: Where they come from, for the error message.

    Returns:
        The same frame with every column as float64.

    Raises:
        StepError: A feature has a name that XGBoost refuses, or holds text or a number that is infinite or too large.
    """
    refused = [name for name in features if set(str(name)) & set("[]<")]
    if refused:
        raise StepError(f"{path}: XGBoost takes no column names with [, ] or <: rename {', '.join(refused)}.")
    numbers = {}
    for name, column in features.items():
        try:
            numbers[name] = pd.to_numeric(column, errors="coerce").astype(float)
        except OverflowError:  # a whole number of hundreds of digits; as text it becomes infinite
            numbers[name] = pd.to_numeric(column.astype(str), errors="coerce").astype(float)
        # XGBoost computes with numbers of single precision
        wrong = (numbers[name].isna() & column.notna()) | (numbers[name].abs() > np.finfo(np.float32).max)
        if wrong.any():
            line = wrong.idxmax()
            raise StepError(
                f"{path}: line {line}, column `{name}`: {str(column[line])[:50]!r} is not a number up to 3.4e38, "
                "written like -1234.5. Mend the value, or encode or remove the column."
            )
    return pd.DataFrame(numbers, index=features.index)


def add_features(frame):
    """Add the feature `symmetry per texture` to breast cancer data that does not have it yet.

    It is missing where the texture is missing or zero.

    Args:
        frame: A `pandas.DataFrame`, one row per example.

    Returns:
        The frame with the feature as its last column; other data comes back as it is.
    """
    name = "symmetry per texture"
    if name in frame or not {"mean symmetry", "mean texture"} <= set(frame.columns):
        return frame
    ratio = frame["mean symmetry"] / frame["mean texture"]
    return frame.assign(**{name: ratio.where(np.isfinite(ratio))})


def load_split(data_run, split):
    """Load one of the two data sets that a data preparation run left behind.

    Args:
        data_run: The `mlflow.entities.Run` of the step `data_preprocessing`.
        split: "train" or "test".

    Returns:
        A `pandas.DataFrame`: one row per example, features as float64, `target` as 0 or 1.
    """
    path = mlflow.artifacts.download_artifacts(run_id=data_run.info.run_id, artifact_path=f"datasets/{split}.csv")
    return pd.read_csv(path)


def threads(frame, processes=1):
    """Tell with how many threads XGBoost should train.

    Args:
        frame: The training data, a `pandas.DataFrame`.
        processes: How many processes of this machine train at the same time.

    Returns:
        1 for few rows, where sharing the work costs more than it brings, else this process's share of the cores; 0
        means all of them, or `OMP_NUM_THREADS` where that is set.
    """
    if len(frame) < config.ROWS_FOR_THREADS:
        return 1
    return 0 if processes == 1 else max(1, (os.cpu_count() or 1) // processes)


def insist(write, *args, **kwargs):
    """Write what other processes may be writing too, at this moment.

    The database of a tracking server refuses the second of two equal rows. Tried again, MLflow finds the row in place.

    Args:
        write: A function such as `mlflow.set_tag`.
        *args: Its arguments.
        **kwargs: Its arguments by name.

    Raises:
        MlflowException: The server refused it each of five times.
    """
    for _ in range(4):
        try:
            return write(*args, **kwargs)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
        time.sleep(random.uniform(0, 0.5))  # so that they do not meet again
    return write(*args, **kwargs)


def as_dataset(frame, source, name):
    """Describe a data set for MLflow.

    Left to itself MLflow looks at every single value to tell the types of the columns, 40 seconds for a million rows,
    and takes the digest of the first 10,000 rows only.

    Args:
        frame: The data set, a `pandas.DataFrame` of features and `target`.
        source: Where it comes from: a path, or an address such as "runs:/ID/FILE", which outlives a move of the store.
        name: What to call it.

    Returns:
        The `mlflow.data.dataset.Dataset`. Its digest is equal for equal data.
    """
    digest = hashlib.sha256(pd.util.hash_pandas_object(frame, index=False).to_numpy())
    digest.update(repr(list(frame)).encode())
    # a row that has a missing value in each column that has one anywhere
    row = frame.head(1).mask(frame.isna().any(), axis="columns")
    with warnings.catch_warnings():  # hints on whole-number columns (the target)
        warnings.simplefilter("ignore", UserWarning)
        # MLflow has no kind of source for the files of a run. The one for local files can load them too.
        dataset = mlflow.data.from_pandas(
            frame,
            source=LocalArtifactDatasetSource(source),
            targets=config.TARGET,
            name=name,
            digest=digest.hexdigest()[:8],
        )
        dataset.schema = mlflow.models.infer_signature(row).inputs
    return dataset


def log_dataset(frame, data_run, split, context):
    """Log one of the two data sets of a data preparation run as an input of the active run.

    Args:
        frame: The data set, a `pandas.DataFrame` of features and `target`.
        data_run: The `mlflow.entities.Run` of the step `data_preprocessing` that holds it as an artifact.
        split: "train" or "test".
        context: What the active run uses it for: "preprocessing", "tuning", "training" or "testing".

    Returns:
        The data set's digest, equal for equal data.
    """
    dataset = as_dataset(frame, f"runs:/{data_run.info.run_id}/datasets/{split}.csv", split)
    insist(mlflow.log_input, dataset, context=context)
    return dataset.digest


def free_port():
    """Find a port of this machine that no server listens on.

    Returns:
        Its number.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def end_with_us():
    """Let Linux end a process that we start when we end, even by SIGKILL; other systems have no such thing."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


END_WITH_US = end_with_us if sys.platform == "linux" else None


@contextlib.contextmanager
def server(command, health_url, folder=None, **environment):
    """Run a server as a process of its own: start it, wait until it is ready, and stop it whatever happens.

    Args:
        command: The words of the command.
        health_url: An address on this machine that answers with status 200 when the server is ready.
        folder: The folder to run it in; by default the present one.
        **environment: Variables to set for the process.

    Yields:
        The `pathlib.Path` of the file that the server's output is written to.

    Raises:
        StepError: The port is taken, or the server ended or did not get ready in `config.SERVER_TIMEOUT` seconds. The
            message has what the server said of the reason.
    """
    port = urllib.parse.urlsplit(health_url).port
    with socket.socket() as client:
        if client.connect_ex(("127.0.0.1", port)) == 0:
            raise StepError(f"Port {port} is in use. Choose another one, or stop the server that uses it.")
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "server.log")
        # for few rows the threads of XGBoost cost more than they bring
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        # SIGTERM would end us without a word to the server; as an exception it is one more way out of the `try`
        active = signal.getsignal(signal.SIGTERM) is interrupt
        with contextlib.nullcontext() if active else signals(interrupt), open(log, "w") as output:
            process = psutil.Popen(
                command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=variables, preexec_fn=END_WITH_US
            )
            try:
                wait_until_ready(process, health_url, log)
                yield log
            finally:
                with signals_ignored():
                    stop(process)


def wait_until_ready(process, health_url, log):
    """Wait until a server answers.

    Args:
        process: The server's `psutil.Popen`.
        health_url: The address that answers with status 200 when it is ready.
        log: The `pathlib.Path` of the server's output.

    Raises:
        StepError: It ended, or `config.SERVER_TIMEOUT` seconds went by.
    """
    deadline = time.monotonic() + config.SERVER_TIMEOUT
    while True:
        with contextlib.suppress(requests.RequestException):
            if requests.get(health_url, timeout=5).ok:
                return
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            # a server that fails often goes on to say that it shut down
            telling = [line for line in lines if "error" in line.lower()] or lines
            reason = "ended" if ended else f"was not ready after {config.SERVER_TIMEOUT} seconds"
            raise StepError(f"The server {reason}. It said: {telling[-1].strip()}")
        time.sleep(0.2)


def stop(process):
    """End a process and those that it started, by force if it takes more than ten seconds.

    Args:
        process: A `psutil.Process` or `psutil.Popen` that we have started.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        for member in psutil.wait_procs(family, timeout=10)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


def as_request(frame):
    """Make the body of a request to a model server's `/invocations`.

    Args:
        frame: A `pandas.DataFrame` of features, one row per example.

    Returns:
        A dict that can be sent as JSON, in MLflow's form `dataframe_split`; a missing number becomes null.
    """
    rows = frame.astype(object).where(frame.notna(), None)
    return {"dataframe_split": rows.to_dict("split", index=False)}


def pinned(*packages):
    """Name installed packages with their versions, as the requirements of a model.

    Args:
        *packages: Names of distributions, such as "mlflow".

    Returns:
        A list of requirements, such as "mlflow==3.17.2".
    """
    requirements = []
    for package in packages:
        try:
            requirements.append(f"{package}=={version(package)}")
        except PackageNotFoundError:  # the build of XGBoost without GPU libraries has a name of its own
            requirements.append(f"{package}-cpu=={version(f'{package}-cpu')}")
    return requirements
