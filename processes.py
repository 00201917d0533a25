"""Processes: leaving a step when a signal comes, telling whether another process still runs, running a server."""

import contextlib
import ctypes
import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

import psutil
import requests

import config
from errors import StepError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
repeats = []  # the timers of interrupts that will come again


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
