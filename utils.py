"""What several steps share: where runs go, finding earlier runs, data sets as artifacts, and the logger."""

import argparse
import contextlib
import csv
import errno
import hashlib
import json
import logging
import os
import re
import signal
import sqlite3
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import unquote

import matplotlib
import mlflow
import optuna
import pandas as pd
import sqlalchemy
import yaml
from loguru import logger
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

import config

# The experiment that the user has chosen, by name or by number. Read once: MLflow sets the number when we choose one.
CHOSEN_NAME, CHOSEN_ID = os.environ.get("MLFLOW_EXPERIMENT_NAME"), os.environ.get("MLFLOW_EXPERIMENT_ID")


class StepError(Exception):
    """A mistake that the user can fix: what is wrong and what to do, in one line."""

    def _render_traceback_(self):
        """Let Jupyter show the line alone."""
        return [f"StepError: {self}"]


# --- Scripts: parameters, and how they end


def arguments(entry_point, *names):
    """Read a script's parameters as `MLproject` declares them, and see to how the script ends.

    A mistake of the user, Ctrl-C, a full disk and a missing permission are said in one line; every other exception
    keeps its traceback. SIGTERM works like Ctrl-C. A notebook never calls this.

    Args:
        entry_point: The name of the entry point in `MLproject`.
        *names: The names of all its parameters, in the order in which their values are returned.

    Returns:
        The values, converted to the declared types; None where a parameter is empty. One value alone is no list.

    Raises:
        StepError: A value cannot be read.
    """
    sys.excepthook = end_in_one_line
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    declared = yaml.safe_load((config.PROJECT_DIR / "MLproject").read_text())["entry_points"][entry_point]["parameters"]
    if set(declared) != set(names):
        raise ValueError(f"MLproject declares {sorted(declared)} for {entry_point}, the script takes {sorted(names)}")
    parser = argparse.ArgumentParser(prog=f"python -m steps.{entry_point.replace('-', '_')}", exit_on_error=False)
    for name, parameter in declared.items():
        # argparse converts a default that is a text as if it had been given
        kind = {"int": int, "float": float, "path": given_path}.get(parameter["type"], str)
        default = str(parameter["default"])
        help = f"{parameter['description']} (default: {default or 'none'})".replace("%", "%%")
        parser.add_argument(f"--{name}", type=kind, default=default, help=help)
    try:
        given, unknown = parser.parse_known_args()
    except argparse.ArgumentError as error:
        raise StepError(f"{error}. For help: {parser.prog} --help") from None
    if unknown:
        raise StepError(f"{' '.join(unknown)}: no such parameter. For help: {parser.prog} --help")
    values = [getattr(given, name.replace("-", "_")) for name in names]
    values = [None if value == "" else value for value in values]
    return values[0] if len(values) == 1 else values


def given_path(text):
    """Read a parameter of type `path`: for an empty one `mlflow run` makes an empty folder …/param_N."""
    path = Path(text)
    return "" if path.name.startswith("param_") and path.is_dir() and not any(path.iterdir()) else text


def interrupt(number, frame):
    """End by a KeyboardInterrupt: `mlflow run` sends SIGTERM after Ctrl-C, which must not disturb the tidying up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # Python drops an exception that falls into a callback: raise it again
        signal.signal(signal.SIGALRM, interrupt)
        signal.alarm(config.INTERRUPT_AGAIN_SECONDS)
    raise KeyboardInterrupt


def end_in_one_line(kind, error, trace):
    """Say without a traceback what is no fault of the code: a hook for `sys.excepthook`."""
    full = error  # Optuna trips over a journal that cannot be written: the full disk is the error before
    while full and getattr(full, "errno", None) != errno.ENOSPC:
        full = full.__cause__ or full.__context__
    if isinstance(error, KeyboardInterrupt):
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        print("Interrupted. What was not finished is not used: run the step again.", file=sys.stderr)
    elif isinstance(error, StepError):
        print(error, file=sys.stderr)
    elif full or getattr(error, "errno", None) in {errno.EACCES, errno.EROFS}:
        print(in_one_line(full or error), file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# --- MLflow's store


def set_experiment(data_name=config.NAME):
    """Choose the experiment for new runs: your own where you have set one, else that of the data.

    Under `mlflow run` the run exists already, and `mlflow.start_run` joins it.

    Args:
        data_name: What the data are called: the experiment is NAME_Classification.

    Raises:
        StepError: The store cannot be used.
    """
    check_store()
    name = CHOSEN_NAME or (None if CHOSEN_ID else f"{data_name}_Classification")
    if "MLFLOW_RUN_ID" not in os.environ:
        try:
            mlflow.set_experiment(name, None if name else CHOSEN_ID)
        except MlflowException as error:  # it was deleted, or there is no such number
            raise StepError(in_one_line(error)) from None


def experiments():
    """Say where to look for runs: a list with the ID of the experiment that the user has chosen, or None for all."""
    if CHOSEN_NAME:
        experiment = mlflow.get_experiment_by_name(CHOSEN_NAME)
        return [experiment.experiment_id] if experiment else []
    # `mlflow run` without a word about the experiment takes number 0, Default
    return [CHOSEN_ID] if CHOSEN_ID and not (CHOSEN_ID == "0" and "MLFLOW_RUN_ID" in os.environ) else None


# What an error of a store means, and what to do about it.
REMEDIES = {
    r"No space left|disk is full|disk I/O error": "Make room on the disk, then run the step again.",
    r"readonly|Read-only|Permission denied|unable to open database file": (
        "Make the folder writable, or choose another place."
    ),
    r"not a database|malformed|already exists|duplicate column|no such table|no such column": (
        "The database is damaged or was never completed. Put back a copy of it, or move it away: a new one is made."
    ),
    r"database is locked": "Another program keeps the store busy: run the step again when that has ended.",
    r"No module named": "Install the driver of this database, such as mysqlclient or psycopg2-binary.",
    r"Connection|timed out|timeout expired|Max retries|could not translate host|API request to endpoint": (
        "Start the server, or correct its address."
    ),
    r"deleted experiment": (
        "Restore it: mlflow experiments restore --experiment-id NUMBER (mlflow experiments search --view deleted_only)"
    ),
    r"Run with id=\w+ not found": (
        "`mlflow run` made it in another folder, because the store's address is relative to where you are: "
        "export MLFLOW_TRACKING_URI=sqlite:////FOLDER/mlflow.db"
    ),
    r"filesystem tracking backend": (
        "Take old runs along: mlflow migrate-filestore --source mlruns --target sqlite:///mlflow.db, then "
        "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
    ),
}


def in_one_line(error):
    """Say in one line, without a password, what is wrong with a store and what to do."""
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
    return " ".join([without_password(reason)[:300].rstrip(".") + ".", *remedies[:1]])


def without_password(text):
    """Take the user's name and password out of the addresses in a text."""
    return re.sub(r"(?<!/)//(?!/)\S*@", "//", text)  # three or four slashes begin a path


def check_store():
    """Try whether MLflow's store can be written, before MLflow does, which would repeat it for minutes.

    Raises:
        StepError: It cannot. The line says why and what to do.
    """
    uri = mlflow.get_tracking_uri()
    folder, database = os.getcwd(), None
    if not uri.startswith(("http://", "https://")) and (unquote(folder) != folder or {"'", '"'} <= set(folder)):
        raise StepError(f"{folder}: MLflow cannot keep files in a folder of this name. Take the % or the quotes out.")
    try:
        if uri.startswith(("http://", "https://")):
            options = {"max_retries": 1, "backoff_factor": 0, "timeout": 5, "raise_on_status": False}
            http_request(get_default_host_creds(uri), "/health", "GET", **options)
        elif uri.startswith("sqlite:///"):
            path = Path(sqlalchemy.make_url(uri).database)
            encoded = Path(uri.removeprefix("sqlite:///")).parent
            if encoded != path.parent and "?" not in str(path):
                # MLflow makes the folder of the database, and forgets that in an address %20 means a space
                mlflow.set_tracking_uri(f"sqlite:///{path.as_posix()}")
                with contextlib.suppress(OSError):  # that of `mlflow run`; a folder that is not empty stays
                    encoded.rmdir()
            database = None if path.exists() else path
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("CREATE TABLE check_store (x)")
                connection.rollback()
        elif "://" in uri and not uri.startswith("file:"):
            sqlalchemy.create_engine(uri, connect_args={"connect_timeout": 5}).connect().close()
        mlflow.search_experiments(max_results=1)
        if "MLFLOW_RUN_ID" in os.environ:
            mlflow.get_run(os.environ["MLFLOW_RUN_ID"])
    except (MlflowException, OSError, ImportError, sqlite3.Error, sqlalchemy.exc.SQLAlchemyError) as error:
        if database and re.search("full|Run with id", str(error)):  # what was begun is of no use
            database.unlink(missing_ok=True)
        raise StepError(f"{without_password(uri)}: the store cannot be used. {in_one_line(error)}") from None


# --- Earlier runs, and the models in the registry


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
    check_store()
    tags = {"step": step, **tags}
    if run_id:
        run = named_run(run_id, tags)
    else:
        chosen = experiments()
        run = first_finished(chosen, tags, order_by)
        if not run:
            wanted = " and ".join(f"{name} {value}" for name, value in tags.items())
            where = "" if chosen is None else " in the experiment that you have chosen"
            command = f"mlflow run . -e {step.replace('_', '-')} --env-manager local"
            raise StepError(f"There is no finished run with {wanted}{where}. First run: {command}")
    tags = run.data.tags
    data = tags.setdefault("data", "data of an older version of this project")
    name = tags.setdefault("name", config.NAME)  # the only one that older versions knew
    logger.info(f"{name}: using {run.info.run_name} {run.info.run_id} of {tags.get('mlflow.user')}: {data}")
    return run


def first_finished(experiment_ids, tags, order_by="attributes.end_time DESC"):
    """Find the finished run with these tags that comes first, in some experiments or, where None, all; or None."""
    filters = ["attributes.status = 'FINISHED'", *(f"tags.{name} = '{value}'" for name, value in tags.items())]
    runs = mlflow.search_runs(
        experiment_ids,
        " and ".join(filters),
        search_all_experiments=experiment_ids is None,
        order_by=[order_by],
        max_results=1,
        output_format="list",
    )
    return runs[0] if runs else None


def named_run(run_id, tags):
    """Get the run with this ID if it is finished and has these tags; else say what is wrong with it."""
    remedy = "Give the ID of another run, or none for the last one."
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        raise StepError(f"Run {run_id}: {in_one_line(error)} {remedy}") from None
    wrong = [
        f"{name} {run.data.tags.get(name)}, not {value}"
        for name, value in tags.items()
        if run.data.tags.get(name) != value
    ]
    if wrong:
        raise StepError(f"Run {run_id} has {', '.join(wrong)}. {remedy}")
    if run.info.lifecycle_stage != "active":
        raise StepError(f"Run {run_id} is deleted. Restore it: mlflow runs restore --run-id {run_id}")
    if run.info.status != "FINISHED":
        raise StepError(f"Run {run_id} is {run.info.status}. {remedy}")
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
    versions = mlflow.search_model_versions(filter_string=f"name = '{name}' and run_id = '{run_id}'")
    if not versions:
        raise StepError(
            f"{name} has no version made by training run {run_id}. Train: mlflow run . -e model-training --env-manager "
            "local"
        )
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
    check_store()
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
    verdicts = [(version.version, version.tags.get("gate", "not asked").rstrip(".")) for version in versions]
    said = [f"{name} has no version with the alias {alias}.", *(f"Version {n}: gate {gate}." for n, gate in verdicts)]
    raise StepError(
        f"{' '.join(said)} Train and evaluate one, as `mlflow run . -e main --env-manager local` does with the breast "
        f"cancer data, or give one by its number: models:/{name}/NUMBER"
    )


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
    check_store()
    try:
        path = mlflow.artifacts.download_artifacts(model_uri)  # once, for an alias may move
        info = mlflow.models.get_model_info(path)
        if not {"name", "types"} <= set(info.metadata or {}):
            raise EarlierVersion(
                f"{model_uri} was not trained by this version of the project: train again, or serve it with "
                "`mlflow models serve`."
            )
        model = mlflow.pyfunc.load_model(path).unwrap_python_model() if "classifier_id" in info.metadata else None
    except (MlflowException, OSError, ValueError) as error:  # XGBoost's errors are ValueErrors
        raise StepError(f"{model_uri} cannot be used: {in_one_line(error)}") from None
    if not hasattr(model, "features"):
        raise StepError(
            f"{model_uri} cannot be used: it is another form of the model. Give a version of "
            f"{info.metadata['name']}Model."
        )
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
        raise StepError(
            f"Model {info.model_id or info.model_uri} was not trained here, so its data are not known. Give a version "
            "that was, or serve this one with `mlflow models serve`."
        ) from None


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
    """Tell which version of a registered model is the champion.

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
    if not re.fullmatch(r"\w[\w .-]{0,99}", name):
        raise StepError(f"{name!r} cannot be the name of data: give a `name` of letters, digits, blanks and _ . -")
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
        StepError: The last finished preparation under this name had other columns or classes. Or there are data of a
            name that differs by Custom: CustomNAMEModel, the model on top of NAMEModel, would be the model of both.
    """
    check_store()
    near = name.removeprefix("Custom") if name.startswith("Custom") else f"Custom{name}"
    if first_finished(None, {"step": "data_preprocessing", "name": near}):
        raise StepError(f"The name {name} is too near to {near}, which other data have. Give another `name`.")
    run = first_finished(None, {"step": "data_preprocessing", "name": name})
    if not run:
        return
    remove = f"mlflow runs delete --run-id {run.info.run_id}"
    try:
        earlier = {column["name"]: column["kind"] for column in load_types(run)}
    except StepError as error:
        raise StepError(f"{error} Its name is {name}, too. If those data are of no use: {remove}") from None
    earlier["the target"] = run.data.tags["target"]
    now = {column["name"]: column["kind"] for column in types} | {"the target": target}
    other = [column for column in {**earlier, **now} if earlier.get(column) != now.get(column)]
    if json.loads(run.data.tags["classes"]) != classes:
        other.append(f"the classes, class 1 last: {classes}, not {run.data.tags['classes']} (`positive-class`)")
    if other:
        raise StepError(
            f"The name {name} is in use for data that differ in {', '.join(other)[:300]}. Give another `name`; or, "
            f"if those data are of no use: {remove}"
        )


def load_types(run):
    """Load what the columns of a data set are, the list that `features` takes; raise StepError where it is gone."""
    return from_run(run, "types.json", mlflow.artifacts.load_dict)


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
    # one row with a missing value wherever a column has one says all; a million take MLflow 15 s
    one_row = frame.head(1).mask(frame.isna().any(), axis="columns")
    dataset.schema = mlflow.models.infer_signature(one_row).inputs
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
    kinds = {column["name"]: column["kind"] for column in load_types(run)}
    path = from_run(run, f"datasets/{name}.csv", mlflow.artifacts.download_artifacts)
    if isinstance(json.loads(run.data.tags["classes"])[0], str):
        kinds[run.data.tags["target"]] = "words"
    dtypes = {"words": "str", "number": "float", "boolean": "boolean"}
    frame = pd.read_csv(
        path,
        dtype={name: dtypes[kind] for name, kind in kinds.items() if kind in dtypes},
        parse_dates=[name for name, kind in kinds.items() if kind == "date"],
        date_format="ISO8601",
        keep_default_na=False,
        na_values=[""],
    )
    frame = frame.astype({name: "datetime64[us]" for name, kind in kinds.items() if kind == "date"})
    logged = next(data.dataset for data in run.inputs.dataset_inputs if data.dataset.name == name)
    logger.info(f"{name}: {len(frame)} rows, {frame.shape[1] - 1} columns, digest {logged.digest}")
    return frame


def known_rows(values, others):
    """Tell which rows also stand in another data set.

    Args:
        values: The features of n rows, a `pandas.DataFrame`.
        others: The same features of other rows.

    Returns:
        A boolean Series of n values: whether an equal row is among the others.
    """
    hashes = [pd.util.hash_pandas_object(frame, index=False) for frame in (values, others)]
    return hashes[0].isin(hashes[1])


def threads(frame):
    """Tell with how many threads XGBoost should train: one where sharing the work costs more than it brings.

    Args:
        frame: The training data, a `pandas.DataFrame`.

    Returns:
        1 for fewer than `config.ROWS_FOR_THREADS` rows, else 0: all cores, or `OMP_NUM_THREADS` where that is set.
    """
    return 1 if len(frame) < config.ROWS_FOR_THREADS else 0


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
    requirements = []
    for package in packages:
        try:
            requirements.append(f"{package}=={version(package)}")
        except PackageNotFoundError:  # the build of XGBoost without GPU libraries has a name of its own
            requirements.append(f"{package}-cpu=={version(f'{package}-cpu')}")
    return requirements


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
            patience = {"connect_args": {"connect_timeout": 5}} if address.startswith("postgresql") else {}
            return optuna.storages.RDBStorage(
                address,
                engine_kwargs=patience,
                heartbeat_interval=config.HEARTBEAT_SECONDS,
                grace_period=config.LOST_AFTER_SECONDS,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
            )
        path = Path(address).expanduser().absolute()
        if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
            raise StepError(
                f"{path} ends in half a line, of a process that was killed or of a full disk: "
                f"remove it: sed -i '$ d' '{path}'"
            )
        logger.info(f"The study is in {path}")
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    except (OSError, ValueError, ImportError, RuntimeError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise StepError(
            f"{without_password(address)}: the study's storage cannot be used. {in_one_line(error)}"
        ) from None


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
