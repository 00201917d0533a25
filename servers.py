"""Servers as processes of their own: start one, wait until it is healthy, stop it."""

import contextlib
import os
import socket
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path

import psutil
import requests

from cli import StepError

# How long a server may take to get ready, in seconds.
SERVER_TIMEOUT = 180


def free_port():
    """Find a port of this machine that no server listens on.

    Returns:
        Its number.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def server(command, health_url, folder=None, **environment):
    """Run a server as a process of its own: start it, wait until it is healthy, and stop it whatever happens.

    Args:
        command: The words of the command.
        health_url: An address on this machine that answers with status 200 when the server is healthy.
        folder: The folder to run it in; by default the current one.
        **environment: Variables to set for the process.

    Yields:
        The `pathlib.Path` of the file that the server's output is written to.

    Raises:
        StepError: The port is taken, or the server ended or did not get healthy in `SERVER_TIMEOUT` seconds. The
            message has what the server said of the reason.
    """
    port = urllib.parse.urlsplit(health_url).port
    with socket.socket() as client:
        if client.connect_ex(("127.0.0.1", port)) == 0:
            raise StepError(f"Port {port} is in use. Choose another one, or stop the server that uses it.")
    # for few rows the threads of XGBoost cost more than they bring
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "server.log")
        with open(log, "w") as output:
            process = psutil.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            wait_until_healthy(process, health_url, log)
            yield log
        finally:
            stop(process)


def wait_until_healthy(process, health_url, log):
    """Wait until a server answers.

    Args:
        process: The server's `psutil.Popen`.
        health_url: The address that answers with status 200 when it is healthy.
        log: The `pathlib.Path` of the server's output.

    Raises:
        StepError: It ended, or `SERVER_TIMEOUT` seconds went by.
    """
    deadline = time.monotonic() + SERVER_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            if requests.get(health_url, timeout=5).ok:
                return
        time.sleep(0.2)
    lines = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
    # a server that fails often goes on to say that it shut down
    telling = [line for line in lines if "error" in line.lower()] or lines
    reason = f"was not healthy after {SERVER_TIMEOUT} seconds" if process.poll() is None else "ended"
    raise StepError(f"The server {reason}. It said: {telling[-1].strip()}")


def stop(process):
    """End a server that we started and the processes that it started, by force if they take more than ten seconds.

    Args:
        process: Its `psutil.Popen`.
    """
    family = [process]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.terminate()
    for member in psutil.wait_procs(family, timeout=10)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
