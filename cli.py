"""Scripts: their parameters, and how they end. Nothing heavy is imported here."""

import argparse
import errno
import signal
import sys
from pathlib import Path

import yaml

import config


class StepError(Exception):
    """A mistake that the user can fix: what is wrong and what to do, in one line."""

    def _render_traceback_(self):
        """Let Jupyter show the line alone."""
        return [f"StepError: {self}"]


class Parser(argparse.ArgumentParser):
    """A parser that raises `StepError` where argparse would write its usage and exit."""

    def error(self, message):
        raise StepError(f"{message}. For help: {self.prog} --help")


def arguments(entry_point, *names):
    """Read a script's parameters as `MLproject` declares them, and see to how the script ends.

    A mistake of the user, Ctrl-C, a full disk and a missing permission are reported in one line; every other exception
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
    parser = Parser(prog=f"python -m steps.{entry_point.replace('-', '_')}")
    types = {"int": int, "float": float, "path": given_path, "string": str}
    for name, parameter in declared.items():
        default = str(parameter["default"])  # argparse converts it as if it had been given
        help = f"{parameter['description']} (default: {default or 'none'})".replace("%", "%%")
        parser.add_argument(f"--{name}", type=types[parameter["type"]], default=default, help=help)
    given = {name: None if value == "" else value for name, value in vars(parser.parse_args()).items()}
    values = [given[name.replace("-", "_")] for name in names]
    return values[0] if len(values) == 1 else values


def given_path(text):
    """Return a parameter of type `path`: for an empty one `mlflow run` makes an empty folder …/param_N."""
    path = Path(text)
    return "" if path.name.startswith("param_") and path.is_dir() and not any(path.iterdir()) else text


def interrupt(number, frame):
    """Raise KeyboardInterrupt: `mlflow run` sends SIGTERM after Ctrl-C, which must not disturb the tidying up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def end_in_one_line(kind, error, trace):
    """Write without a traceback what is no fault of the code: a hook for `sys.excepthook`."""
    if isinstance(error, KeyboardInterrupt):
        print("Interrupted. What was not finished is not used: run the step again.", file=sys.stderr)
    elif isinstance(error, StepError) or getattr(error, "errno", None) in {errno.ENOSPC, errno.EACCES, errno.EROFS}:
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
