"""What several steps share: starting a step's run, finding earlier runs, logging data."""

import atexit
import contextlib
import functools
import gc
import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
import time
import traceback
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil
import sqlalchemy
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

import config
import errors
import processes
from errors import StepError


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


@contextlib.contextmanager
def open_run(**options):
    """Start a run whose end is written down whatever happens: FINISHED, FAILED, or KILLED by Ctrl-C or SIGTERM.

    Args:
        **options: Arguments of `mlflow.start_run`.

    Yields:
        The `mlflow.ActiveRun`.
    """
    with processes.signals(processes.interrupt):
        try:
            with processes.signals_held():
                run = mlflow.start_run(**options)
            yield run
            if processes.repeats:
                raise KeyboardInterrupt
            with processes.signals_held():
                mlflow.end_run()
        except BaseException as error:
            # a library may swallow it, or make an error of its own of it
            interrupted = isinstance(error, KeyboardInterrupt) or bool(processes.repeats)
            # what was interrupted may hold a transaction open, and so keep the end of the run out of the database
            if interrupted:
                cause = error
                while cause:
                    traceback.clear_frames(cause.__traceback__)
                    cause = cause.__context__
                gc.collect()
            # a failing end would hide the first error, which is the one that matters
            with processes.signals_ignored(), contextlib.suppress(MlflowException):
                for child in psutil.Process().children() if interrupted else []:
                    processes.stop(child)
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
    tags = {"step": step, "script": f"{step}.py", "commit": git_commit(), "process": processes.this_process()}
    return open_run(run_name=config.RUN_NAMES[step], tags=tags, **options)


@functools.cache
def open_store(uri):
    """Try whether MLflow's store can be used, before MLflow does, which would repeat it for minutes.

    Args:
        uri: The tracking URI.

    Raises:
        StepError: It cannot. (Other errors of a store are put in one line by `errors.say_in_one_line`.)
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
        raise StepError(
            f"{errors.without_password(uri)}: the store cannot be used. {errors.in_one_line(error)}"
        ) from None
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


# Of a run that is still open when Python ends, MLflow would say that it is finished.
atexit.register(mlflow.end_run, "FAILED")


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
    dead = [
        run for run in running if run.data.tags.get("step") == step and processes.is_dead(run.data.tags.get("process"))
    ]
    for run in dead:  # grows on the way
        mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")
        below = [child for child in running if child.data.tags.get("mlflow.parentRunId") == run.info.run_id]
        for child in below:
            process = child.data.tags.get("process")
            if child not in dead and (process is None or processes.is_dead(process)):
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


def threads(frame, workers=1):
    """Tell with how many threads XGBoost should train.

    Args:
        frame: The training data, a `pandas.DataFrame`.
        workers: How many processes of this machine train at the same time.

    Returns:
        1 for few rows, where sharing the work costs more than it brings, else this process's share of the cores; 0
        means all of them, or `OMP_NUM_THREADS` where that is set.
    """
    if len(frame) < config.ROWS_FOR_THREADS:
        return 1
    return 0 if workers == 1 else max(1, (os.cpu_count() or 1) // workers)


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
