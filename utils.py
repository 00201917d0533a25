"""What several steps share: runs, data sets and models in MLflow, and the logger."""

import csv
import hashlib
import json
import logging
import os
import re
import sys
import warnings
from importlib.metadata import distributions
from pathlib import Path

import matplotlib
import mlflow
import optuna
import pandas as pd
import psutil
import sqlalchemy
from loguru import logger
from mlflow import MlflowException
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.store.artifact.utils.models import get_model_name_and_version

import config
from cli import StepError
from store import in_one_line, open_store, without_password

# The experiment that the user has chosen, by name or by number. Read once: MLflow sets the number when we choose one.
CHOSEN_NAME, CHOSEN_ID = os.environ.get("MLFLOW_EXPERIMENT_NAME"), os.environ.get("MLFLOW_EXPERIMENT_ID")


# --- Runs


def set_experiment(data_name=config.NAME):
    """Choose the experiment for new runs: your own where you have set one, else that of the data.

    Under `mlflow run` the run exists already, and `mlflow.start_run` joins it.

    Args:
        data_name: What the data are called: the experiment is NAME_Classification.

    Raises:
        StepError: The store cannot be used.
    """
    open_store()
    name = CHOSEN_NAME or (None if CHOSEN_ID else f"{data_name}_Classification")
    if "MLFLOW_RUN_ID" not in os.environ:
        try:
            mlflow.set_experiment(name, None if name else CHOSEN_ID)
        except MlflowException as error:  # it was deleted, or there is no such number
            raise StepError(in_one_line(error)) from None


def experiments():
    """Return where to look for runs: a list with the ID of the experiment that the user has chosen, or None for all."""
    if CHOSEN_NAME:
        experiment = mlflow.get_experiment_by_name(CHOSEN_NAME)
        return [experiment.experiment_id] if experiment else []
    # `mlflow run` without a word about the experiment takes number 0, Default
    return [CHOSEN_ID] if CHOSEN_ID and not (CHOSEN_ID == "0" and "MLFLOW_RUN_ID" in os.environ) else None


def latest_run(step, run_id=None, order_by="attributes.end_time DESC", **tags):
    """Find the finished run of a step that ended last, or check the one that is named.

    Args:
        step: The value of the run's tag `step`.
        run_id: The ID of the run to take; where it is None, the one that ended last is taken.
        order_by: Another order, in the words of `mlflow.search_runs`.
        **tags: Further tags that the run must have, with their values.

    Returns:
        The `mlflow.entities.Run`.

    Raises:
        StepError: There is no such run, or the run with this ID is not one.
    """
    open_store()
    tags = {"step": step, **tags}
    run = named_run(run_id, tags) if run_id else first_finished(experiments(), tags, order_by)
    if not run:
        wanted = " and ".join(f"{name} {value}" for name, value in tags.items())
        where = " in the experiment that you have chosen" if CHOSEN_NAME or CHOSEN_ID else ""
        command = f"mlflow run . -e {step.replace('_', '-')} --env-manager local"
        raise StepError(f"There is no finished run with {wanted}{where}. First run: {command}")
    found = run.data.tags
    about = f"{run.info.run_name} {run.info.run_id} of {found.get('mlflow.user')}: {found.get('data')}"
    logger.info(f"{found.get('name')}: using {about}")
    return run


def first_finished(experiment_ids, tags, order_by="attributes.end_time DESC"):
    """Return the finished run with these tags that comes first, in some experiments or, where None, all; or None."""
    query = f"attributes.status = 'FINISHED' and tags.step = '{tags['step']}'"
    runs = mlflow.search_runs(
        experiment_ids, query, order_by=[order_by], output_format="list", search_all_experiments=experiment_ids is None
    )
    # in MLflow's filters a value cannot have both kinds of quotes
    return next((run for run in runs if tags.items() <= run.data.tags.items()), None)


def named_run(run_id, tags):
    """Return the run with this ID; raise StepError where it is not finished or has other tags."""
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        raise StepError(f"Run {run_id}: {in_one_line(error)} Give the ID of another run.") from None
    found = {**run.data.tags, "status": run.info.status, "lifecycle_stage": run.info.lifecycle_stage}
    for name, value in {**tags, "status": "FINISHED", "lifecycle_stage": "active"}.items():
        if found.get(name) != value:
            raise StepError(f"Run {run_id} has {name} {found.get(name)}, not {value}. Give the ID of another run.")
    return run


def started_in():
    """Return the folder that the user is in: `mlflow run` runs a script in that of the project."""
    above = psutil.Process().parents() if "MLFLOW_RUN_ID" in os.environ else []
    return next((process for process in above if process.name() != "bash"), psutil.Process()).cwd()


# --- Models in the registry


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
    versions = mlflow.search_model_versions(filter_string=f"name = '{name}' and run_id = '{run_id}'")
    if not versions:
        train = "mlflow run . -e model-training --env-manager local"
        raise StepError(f"{name} has no version of training run {run_id}. Train: {train}")
    return int(versions[0].version)


def version_uri(model_uri):
    """Look once which version has an alias, so that a step uses and records one and the same.

    Args:
        model_uri: The address of a model, such as "models:/CancerModel@champion" or "models:/CancerModel/latest".

    Returns:
        The address with the version's number; that of a folder or of a logged model as it is.

    Raises:
        StepError: No version has the alias: the line says which there are, what the gate said of each, and what to do.
            Or the address is none.
    """
    open_store()
    if not model_uri.startswith("models:/"):
        return model_uri
    client = mlflow.MlflowClient()
    try:
        found = get_model_name_and_version(client, model_uri)
        return "models:/" + "/".join(map(str, found))  # the number is an int in some stores
    except MlflowException as error:
        name, _, alias = model_uri.removeprefix("models:/").partition("@")
        if not alias:
            raise StepError(f"{model_uri} cannot be used: {in_one_line(error)}") from None
    versions = client.search_model_versions(f"name = '{name}'", max_results=5, order_by=["version_number DESC"])
    gates = [f" Version {each.version}: gate {each.tags.get('gate', 'not asked').rstrip('.')}." for each in versions]
    remedy = f"Train and evaluate one, as in `mlflow run . -e main --env-manager local`, or give models:/{name}/NUMBER"
    raise StepError(f"{name} has no version with the alias {alias}.{''.join(gates)} {remedy}")


class EarlierVersion(StepError):
    """A model that an earlier version of this project has trained, or somebody else."""


def load_model(model_uri):
    """Load a registered model of this project, with the code that is stored with it.

    Args:
        model_uri: Its address, such as "models:/CancerModel/1".

    Returns:
        The `mlflow.models.model.ModelInfo`, whose `metadata` has the model's target, classes and types, and the model,
        an object with the methods of `TableClassifier` (steps/model_code.py) as they were when it was trained.

    Raises:
        StepError: There is no such model, it cannot be loaded, or it is none that takes the table as it stands.
    """
    open_store()
    try:
        path = mlflow.artifacts.download_artifacts(model_uri)  # once, for an alias may move
        info = mlflow.models.get_model_info(path)
        if not {"name", "types"} <= set(info.metadata or {}):
            remedy = "train again, or serve it with `mlflow models serve`."
            raise EarlierVersion(f"{model_uri} was not trained by this version of the project: {remedy}")
        model = mlflow.pyfunc.load_model(path).unwrap_python_model() if "classifier_id" in info.metadata else None
    except (MlflowException, OSError, ValueError) as error:  # XGBoost's errors are ValueErrors
        raise StepError(f"{model_uri} cannot be used: {in_one_line(error)}") from None
    if not hasattr(model, "features"):
        raise StepError(f"{model_uri} cannot be used: give a version of {info.metadata['name']}Model.")
    return info, model


def data_run_of(info):
    """Get the run that prepared the data which a model was trained on.

    Args:
        info: The `mlflow.models.model.ModelInfo` of the model, from `load_model`.

    Returns:
        The `mlflow.entities.Run`.

    Raises:
        StepError: The store does not know it: the model was trained elsewhere.
    """
    try:
        return mlflow.get_run(mlflow.get_run(info.run_id).data.tags["data_run_id"])
    except (MlflowException, KeyError, TypeError):  # of no run, or of one of others
        reason = f"The data of {info.model_uri} are not in this store: it was trained elsewhere, or the run is gone."
        raise StepError(f"{reason} Give a version that was, or serve this one with `mlflow models serve`.") from None


def check_alike(info, other):
    """Check that two models can be compared: that they have the same columns and classes.

    Args:
        info: The `mlflow.models.model.ModelInfo` of one, from `load_model`.
        other: That of the other one.

    Raises:
        StepError: They have not.
    """
    columns = [{(column["name"], column["kind"]) for column in each.metadata["types"]} for each in (info, other)]
    if columns[0] != columns[1] or info.metadata["classes"] != other.metadata["classes"]:
        raise StepError("it has other columns or classes.")


def champion_version(model_name):
    """Return which version of a registered model is the champion.

    Args:
        model_name: The registered model's name.

    Returns:
        The version's number, or None where there is none yet.
    """
    models = mlflow.search_registered_models(filter_string=f"name = '{model_name}'")
    champion = models[0].aliases.get(config.CHAMPION) if models else None
    return int(champion) if champion else None


# --- Data


def data_name(given, path):
    """Choose what a data set is called, and with it the experiment and the registered models.

    Args:
        given: The name that the user has given, or None.
        path: The path of the user's table, or None for the breast cancer data.

    Returns:
        The name: the given one, else that of the file, without its endings, or `config.NAME`.

    Raises:
        StepError: MLflow could not have models of this name.
    """
    name = given or (re.sub(r"\W+", "_", Path(path).name.split(".")[0]).strip("_") if path else config.NAME)
    # CustomNAMEModel is the model on top of NAMEModel
    if not re.fullmatch(r"(?!Custom[^a-z])\w[\w .-]{0,99}", name):
        allowed = "letters, digits, blanks and _ . - (Custom before a name is for custom models)"
        raise StepError(f"{name!r} cannot be the name of data: give a `name` of {allowed}")
    if path and not given:
        logger.info(f"{path}: the data are called {name}, and the model {name}Model. Another one: give a `name`")
    return name


def check_name(name, target, classes, types):
    """Check that a name is not in use for other data: what has one name can replace each other at the gate.

    Args:
        name: What the data are called.
        target: The name of the target column.
        classes: The two classes, in order.
        types: What the columns are, as for `features`.

    Raises:
        StepError: The last finished preparation under this name had other columns, target or classes.
    """
    open_store()
    run = first_finished(None, {"step": "data_preprocessing", "name": name})
    if not run:
        return

    def content(types, target, classes):
        kinds = {column["name"]: column["kind"] for column in types}
        return {**kinds, "the target": target, "the classes, class 1 last (`positive-class`)": classes}

    earlier_types = from_run(run, "types.json", mlflow.artifacts.load_dict)
    earlier = content(earlier_types, run.data.tags["target"], json.loads(run.data.tags["classes"]))
    now = content(types, target, classes)
    other = ", ".join(what for what in {**earlier, **now} if earlier.get(what) != now.get(what))
    if other:
        remedy = f"Give another `name`; or, if those data are of no use: mlflow runs delete --run-id {run.info.run_id}"
        raise StepError(f"The name {name} is in use for data that differ in {other[:300]}. {remedy}")


def from_run(run, path, load):
    """Load an artifact of a run with one of MLflow's functions; raise StepError where it cannot be read."""
    try:
        return load(f"runs:/{run.info.run_id}/{path}")
    except (MlflowException, OSError) as error:  # its files are gone, or it is of an earlier version of the project
        raise StepError(f"The data of run {run.info.run_id} cannot be read. {in_one_line(error)}") from None


def as_dataset(frame, source, name, target):
    """Describe a data set for MLflow, with a digest over all rows (MLflow's own takes the first 10,000).

    Args:
        frame: The data set, a `pandas.DataFrame` of features and target.
        source: Where it is: a path, or an address such as "runs:/ID/FILE".
        name: What to call it.
        target: The name of the target column.

    Returns:
        The `mlflow.data.dataset.Dataset`, for `mlflow.log_input`. Its digest is equal for equal data.
    """
    digest = hashlib.sha256(pd.util.hash_pandas_object(frame, index=False).to_numpy())
    digest.update(repr(list(frame)).encode())
    # MLflow has no kind of source for the files of a run; that for local files can load them too
    source = LocalArtifactDatasetSource(source)
    dataset = mlflow.data.from_pandas(frame, source, target, name, digest.hexdigest()[:8])
    # a first value and a missing one for each column that has them say all; a million rows take MLflow 15 s
    rows = pd.concat([frame.bfill().head(1), frame.head(1).mask(frame.isna().any(), axis="columns")])
    dataset.schema = mlflow.models.infer_signature(rows).inputs
    return dataset


def log_dataset(frame, name, target, context):
    """Keep a data set with the active run: as a CSV file among its artifacts, and as a dataset input.

    Args:
        frame: The data set, a `pandas.DataFrame` of features and target.
        name: What to call it: the file is datasets/NAME.csv.
        target: The name of the target column.
        context: What it is used for, such as "training".

    Returns:
        The `mlflow.data.dataset.Dataset`.
    """
    text = frame.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)  # else a lone \r in a word would end the line
    mlflow.log_text(text, f"datasets/{name}.csv")
    uri = f"runs:/{mlflow.active_run().info.run_id}/datasets/{name}.csv"
    dataset = as_dataset(frame, uri, name, target)
    mlflow.log_input(dataset, context)
    return dataset


def load_dataset(run, name):
    """Load a data set that a run has kept with `log_dataset`.

    Args:
        run: The `mlflow.entities.Run`.
        name: "train" or "test".

    Returns:
        A `pandas.DataFrame` equal to the one that was logged: one row per example, features and target.

    Raises:
        StepError: It cannot be read.
    """
    columns = from_run(run, "types.json", mlflow.artifacts.load_dict)
    path = from_run(run, f"datasets/{name}.csv", mlflow.artifacts.download_artifacts)
    dtypes = {"words": "str", "number": "float", "boolean": "boolean", "date": "str"}
    dtypes = {column["name"]: dtypes[column["kind"]] for column in columns}
    if isinstance(json.loads(run.data.tags["classes"])[0], str):
        dtypes[run.data.tags["target"]] = "str"
    frame = pd.read_csv(path, dtype=dtypes, keep_default_na=False, na_values=[""])
    for date in [column["name"] for column in columns if column["kind"] == "date"]:
        frame[date] = pd.to_datetime(frame[date], format="ISO8601").astype("datetime64[us]")
    logged = next(data.dataset for data in run.inputs.dataset_inputs if data.dataset.name == name)
    logger.info(f"{name}: {len(frame)} rows, {frame.shape[1] - 1} columns, digest {logged.digest}")
    return frame


def known_rows(values, others):
    """Return which rows also stand in another data set.

    Args:
        values: The features of n rows, a `pandas.DataFrame`.
        others: The same features of other rows.

    Returns:
        A boolean Series of n values: whether an equal row is among the others.
    """
    hashes = [pd.util.hash_pandas_object(frame, index=False) for frame in (values, others)]
    return hashes[0].isin(hashes[1])


def threads(frame):
    """Return with how many threads XGBoost should train: one where sharing the work costs more than it brings.

    Args:
        frame: The training data, a `pandas.DataFrame`.

    Returns:
        1 for fewer than 10,000 rows, else 0: all cores, or `OMP_NUM_THREADS` where that is set.
    """
    return 1 if len(frame) < 10_000 else 0


def as_request(frame):
    """Make the body of a request to a model server's `/invocations`.

    Args:
        frame: A `pandas.DataFrame` of features, one row per example.

    Returns:
        A dict that can be sent as JSON, in MLflow's form `dataframe_split`; a missing number becomes null.
    """
    dates = {name: frame[name].astype("str") for name in frame.select_dtypes("datetime")}  # JSON has none
    frame = frame.assign(**dates)
    return {"dataframe_split": frame.astype(object).where(frame.notna(), None).to_dict("split", index=False)}


def pinned_requirements(*packages):
    """Name installed packages with their versions, as the requirements of a model.

    Args:
        *packages: Names of distributions, such as "mlflow".

    Returns:
        A list of requirements, such as "mlflow==3.17.2".
    """
    installed = {distribution.name: distribution.version for distribution in distributions()}
    # the build of XGBoost without GPU libraries has a name of its own
    names = [package if package in installed else f"{package}-cpu" for package in packages]
    return [f"{name}=={installed[name]}" for name in names]


# --- The studies of the tuning


def open_storage(address):
    """Open what several searches share: a file on one machine, or a database for many.

    Args:
        address: The path of a journal file, or the URL of a database, such as "postgresql://user@host/optuna".

    Returns:
        The Optuna storage. In a database each trial has a heartbeat: if its process dies, another one repeats it.

    Raises:
        StepError: It cannot be used. The line says why and what to do.
    """
    try:
        if "://" in address:
            # how often a worker shows that its trial is alive, and when another one takes it over, in seconds
            patience = {"heartbeat_interval": 5, "grace_period": 15}
            retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
            return optuna.storages.RDBStorage(address, **patience, heartbeat_stale_trial_callback=retry)
        path = Path(address).expanduser().absolute()
        if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):  # of a process that was killed
            raise StepError(f"{path} ends in half a line, as of a full disk: remove it: sed -i '$ d' '{path}'")
        logger.info(f"The study is in {path}")
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    except (OSError, ValueError, ImportError, RuntimeError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise StepError(f"{without_password(address)}: the storage cannot be used. {in_one_line(error)}") from None


def set_up():
    """Set up the logger, quiet the libraries and forbid pickles: the one effect of importing this module."""
    # One line per message. Through a function, because Jupyter changes sys.stderr from cell to cell.
    logger.remove()
    logger.add(lambda message: sys.stderr.write(message), format="{level}: {message}", level="INFO")
    # No model is ever loaded from a pickle: the programs that we start know it too.
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    # MLflow repeats a failed request for minutes. A server that is not back after half a minute will need our help.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    # PostgreSQL's library waits without an end for a server that does not answer.
    os.environ.setdefault("PGCONNECT_TIMEOUT", "5")
    # A proxy is for the world outside. What listens on this machine is asked directly, in either way to write it.
    direct = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").split(",")
    direct = ",".join(dict.fromkeys(filter(None, [*direct, "127.0.0.1", "localhost"])))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = direct
    # Programs that MLflow starts for us must find this Python first, also where its environment is not active.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # MLflow looks for git, and warns at length where there is none.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # Progress of copying a local file, and two lines with addresses for every trial.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # MLflow's remarks (its warnings still show), and those of the tool that makes its database.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # The traceback of each database error, which is raised too.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    # Its doubts about every two-valued target that it is shown.
    logging.getLogger("mlflow.models.evaluation.evaluators.classifier").setLevel(logging.ERROR)
    # A column may be called "$", which in a plot would begin a formula.
    matplotlib.rcParams["text.parse_math"] = False
    # Optuna says a line for each trial; there is a progress bar.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # "Experimental" things that exist since 2021, XGBoost's doubts before it refuses, a hint on whole-number columns.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message="Unknown data type: <class 'xgboost.core.DMatrix'>")
    warnings.filterwarnings("ignore", message="Hint: Inferred schema contains integer column")


set_up()
