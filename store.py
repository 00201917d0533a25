"""MLflow's store: whether it can be used, and what is wrong with it in one line."""

import re

import mlflow
import sqlalchemy
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from cli import StepError

# What to do about an error of a store, where the error itself does not tell.
REMEDIES = {
    r"No space left|disk is full|disk I/O error": "Make room on the disk, then run the step again.",
    r"readonly|Read-only|Permission denied|unable to open": "Make the folder writable, or choose another place.",
    r"database is locked": "Another program keeps the store busy: run the step again when that has ended.",
    r"[Cc]onnect|timed out|timeout|could not translate host|API request": "Start the server, or correct its address.",
    r"deleted experiment": "Restore it: mlflow experiments restore --experiment-id NUMBER "
    "(mlflow experiments search --view deleted_only)",
}


def open_store():
    """Make sure that MLflow's store can be written: MLflow itself would try for minutes. A new one is made.

    Raises:
        StepError: It cannot. The line says why and what to do.
    """
    for uri in dict.fromkeys([mlflow.get_tracking_uri(), mlflow.get_registry_uri()]):
        try:
            if uri.startswith(("http://", "https://")):
                http_request(get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=5)
            elif "://" in uri and not uri.startswith("file:"):
                with sqlalchemy.create_engine(uri).connect() as connection:
                    if uri.startswith("sqlite:"):  # only who writes notices a full disk
                        connection.exec_driver_sql("BEGIN IMMEDIATE")
                        connection.exec_driver_sql("CREATE TABLE try_to_write (x)")
                        connection.rollback()
            mlflow.search_experiments(max_results=1)
        except (mlflow.MlflowException, OSError, ImportError, sqlalchemy.exc.SQLAlchemyError) as error:
            raise StepError(f"{without_password(uri)}: the store cannot be used. {in_one_line(error)}") from None


def in_one_line(error):
    """Return what is wrong with a store and what to do, in one line without a password."""
    # SQLAlchemy begins with the class of the driver, and may first say when it noticed
    text = re.sub(r"^(\(([\w.]+|raised as .*)\)\s+)*", "", str(error).strip()) or type(error).__name__
    reason = text.splitlines()[0]
    remedies = [remedy for pattern, remedy in REMEDIES.items() if re.search(pattern, reason)]
    if "ConnectionPool" in reason:  # the cause is the last in a chain
        reason = reason.rsplit(": ", 1)[-1].rstrip("\"')")
    return " ".join([without_password(reason)[:300].rstrip(".") + ".", *remedies[:1]])


def without_password(text):
    """Return a text without the user names, passwords and queries of the addresses in it."""
    # three or four slashes begin a path; where it is not clear what belongs to the password, nothing is left
    return re.sub(r"(?<=://)(?!/)(\S*\?\S*@\S*|\S*@)|\?\S*=\S*", "", text)
