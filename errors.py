"""What a user reads when something is wrong: one line that says what, and what to do."""

import re
import sqlite3
import sys
from pathlib import Path

import mlflow
import sqlalchemy
from mlflow.exceptions import MlflowException


class StepError(SystemExit):
    """A mistake that the user can mend: what is wrong and what to do, in one line.

    As a `SystemExit` it ends a script with that line on stderr, exit code 1 and no traceback, and as an exception
    it marks the active run FAILED.
    """


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
    return " ".join([without_password(reason)[:300].rstrip(".") + ".", *remedies[:1]])


def without_password(text):
    """Take the user's name and password out of the addresses in a text.

    Args:
        text: A URL, or a message with URLs in it.

    Returns:
        The text without them.
    """
    return re.sub(r"(?<!/)//(?!/)\S*@", "//", text)  # three or four slashes begin a path


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
