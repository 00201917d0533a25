"""What happens when the store cannot be used, when a step is interrupted, and how errors are said."""

import contextlib
import errno
import http.server
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlflow
import nbformat
import pandas as pd
import psutil
import pytest
import sqlalchemy
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from mlflow.utils.file_utils import local_file_uri_to_path
from nbclient import NotebookClient
from sklearn.datasets import load_breast_cancer
from support import EXPERIMENT, MODEL, ROOT, only_line, refusal, succeed, survivors, wait_until

import cli
import config
import servers
import utils
from cli import StepError

# --- Stores that cannot be used


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder as the current one, with nothing set for MLflow."""
    for name in ["MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)
    yield tmp_path
    mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # MLflow sets it with the experiment


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The path of a new store."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def garbage(path):
    path.write_bytes(random.Random(0).randbytes(50_000))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:300_000])


def half_made(path):
    path.unlink()
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    InitialBase.metadata.create_all(engine)
    with engine.begin() as connection:  # the first of many changes, not yet noted as done
        connection.execute(sqlalchemy.text("ALTER TABLE metrics ADD COLUMN step BIGINT DEFAULT 0 NOT NULL"))


def of_version(revision):
    def change(path):
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", [revision])

    return change


def deleted_experiment(path):
    client = mlflow.MlflowClient(f"sqlite:///{path}")
    client.delete_experiment(client.create_experiment(EXPERIMENT))


BROKEN_STORES = {
    "garbage": (garbage, "file is not a database", "move it away: a new one is made"),
    "cut off": (cut_off, "malformed", "move it away: a new one is made"),
    "half made": (half_made, "duplicate column", "move it away: a new one is made"),
    "older": (of_version("181f10493468"), "older MLflow", "mlflow db upgrade sqlite:///"),
    "newer": (of_version("fedcba987654"), "newer", "install that one"),
}


def test_store_in_an_empty_folder(folder):
    """The folder stays, and gets the database."""
    (folder / "runs").mkdir()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/runs/mlflow.db")
    utils.set_experiment()
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*.db")] == ["runs/mlflow.db"]


def said_of_store(folder):
    """The one line that `set_experiment` says within 15 seconds, leaving nothing behind."""
    before, began = sorted(folder.iterdir()), time.monotonic()
    with pytest.raises(StepError) as caught:
        utils.set_experiment()
    assert time.monotonic() - began < 15
    assert sorted(folder.iterdir()) == before
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(("change", "words", "remedy"), BROKEN_STORES.values(), ids=BROKEN_STORES)
def test_broken_store(folder, store, change, words, remedy):
    shutil.copy(store, folder)
    change(folder / "mlflow.db")
    line = said_of_store(folder)
    assert words in line
    assert remedy in line


def test_restored_experiment_can_be_used(folder, store):
    shutil.copy(store, folder)
    deleted_experiment(folder / "mlflow.db")
    assert "mlflow experiments restore --experiment-id " in said_of_store(folder)
    mlflow.MlflowClient().restore_experiment("1")
    utils.set_experiment()


@pytest.mark.slow
def test_store_in_use_by_another_program(folder, store):
    shutil.copy(store, folder)
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "Another program keeps the store busy" in said_of_store(folder)


@pytest.mark.parametrize("uri", [None, "mlruns"])
def test_old_file_store(folder, uri):
    experiment = folder / "mlruns" / "0"
    experiment.mkdir(parents=True)
    (experiment / "meta.yaml").write_text(
        f"artifact_location: file://{experiment}\nexperiment_id: '0'\nlifecycle_stage: active\nname: Default\n"
    )
    mlflow.set_tracking_uri(uri)
    line = said_of_store(folder)
    assert "mlflow migrate-filestore --source " in line
    assert "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db" in line


@pytest.mark.parametrize("uri", ["127.0.0.1:5000", "localhost:5000/"])
def test_address_without_http(folder, uri):
    mlflow.set_tracking_uri(uri)
    assert said_of_store(folder).startswith(f"{uri}: the store cannot be used. ")


def test_missing_driver(folder):
    mlflow.set_tracking_uri("mysql://someone:secret@127.0.0.1/mlflow")
    line = said_of_store(folder)
    assert line.startswith("mysql://127.0.0.1/mlflow: the store cannot be used. No module named 'MySQLdb'.")
    assert line.endswith("Install the driver of this database, such as mysqlclient or psycopg2-binary.")


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
@pytest.mark.parametrize("state", ["down", pytest.param("silent", marks=pytest.mark.slow)])
def test_unreachable_store(folder, scheme, state):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        port = silent.getsockname()[1] if state == "silent" else servers.free_port()
        mlflow.set_tracking_uri(f"{scheme}://someone:secret@127.0.0.1:{port}/name")
        line = said_of_store(folder)
    assert line.startswith(f"{scheme}://127.0.0.1:{port}/name: the store cannot be used. ")
    assert line.endswith("Start the server, or correct its address.")
    assert "secret" not in line


def test_server_of_another_kind(folder):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        mlflow.set_tracking_uri(f"http://127.0.0.1:{other.server_port}")
        try:
            assert said_of_store(folder).endswith("Start the server, or correct its address.")
        finally:
            other.shutdown()


@pytest.mark.slow
def test_step_without_a_store(empty_project):
    """A step that works before it writes, and one that first looks for a run: the same line, exit code 1."""
    uri, before = f"http://127.0.0.1:{servers.free_port()}", sorted(empty_project.folder.iterdir())
    for step in ["data_preprocessing", "model_training"]:
        began = time.monotonic()
        line = refusal(empty_project.step(step, MLFLOW_TRACKING_URI=uri))
        assert line.startswith(f"{uri}: the store cannot be used. ")
        assert time.monotonic() - began < 15
    assert {path.name for path in empty_project.folder.iterdir()} - {"__pycache__"} == {path.name for path in before}


@pytest.fixture
def small_disk(tmp_path):
    """An empty file system of 400 kilobytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a file system here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.slow
def test_full_or_read_only_disk(empty_project, small_disk):
    """The store lies on it, the project elsewhere. When there is room again, the step works."""

    def step():
        variables = {"PYTHONPATH": str(empty_project.folder)}
        return empty_project.run("python", "-m", "steps.data_preprocessing", cwd=small_disk, **variables)

    def remount(*options):
        subprocess.run(["mount", "-o", ",".join(["remount", *options]), small_disk], check=True)

    assert "Make room on the disk" in refusal(step())
    assert list(small_disk.iterdir()) == []
    remount("ro")
    assert "Make the folder writable, or choose another place." in refusal(step())
    remount("rw", "size=2m")
    succeed(step())
    remount("ro")
    assert "Make the folder writable, or choose another place." in refusal(step())
    remount("rw")
    with contextlib.suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as output:
        while True:
            output.write(bytes(1000))
    assert "Make room on the disk" in refusal(step())
    (small_disk / "filler").unlink()
    succeed(step())
    empty_project.folder = small_disk
    assert len(empty_project.runs()) == 2
    assert empty_project.runs(status="RUNNING") == []


@pytest.fixture
def project(trained, tmp_path):
    return trained.copy(tmp_path)


@pytest.mark.slow
def test_full_disk_under_a_journal(project, small_disk):
    """It is full in the middle of a search, which has failed then. With half a line less, the next search goes on."""
    journal = small_disk / "optuna.journal"
    subprocess.run(["mount", "-o", "remount,size=12k", small_disk], check=True)
    options = ["--n-trials", 30, "--storage", journal]
    assert "Make room on the disk" in refusal(project.step("hyperparameters_tuning", *options))
    assert project.runs(status="RUNNING") == []
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
    line = refusal(project.step("hyperparameters_tuning", *options))
    assert "of a full disk" in line
    subprocess.run(line.rpartition(": ")[2], shell=True, check=True)
    assert "INFO: best of 3" in succeed(project.step("hyperparameters_tuning", *options))


# --- Interrupted steps: one line, the run has failed, no process is left


def interrupt(project, process, step, number, ready, group=False):
    """Send a signal to a step whose run is there and that is ready, and check how it ends."""
    try:
        wait_until(lambda: process.poll() is not None or (project.runs(f"tags.step = '{step}'", "RUNNING") and ready()))
        assert process.poll() is None, process.said()
        (os.killpg if group else os.kill)(process.pid, number)
        assert process.wait(60) != 0
        wait_until(lambda: not survivors(process), 15)
    finally:
        for survivor in survivors(process):
            survivor.kill()
    assert project.newest(step, status=None).info.status == "FAILED"
    # MLflow loses sight of a run that is interrupted while it begins or ends; of the many trials, one may be
    left = [run.info.run_name for run in project.runs(status="RUNNING")]
    assert left == [] or (len(left) == 1 and left[0].startswith("Trial_"))
    # the pipeline, its step and the program around both may say the same
    said = "\n".join(dict.fromkeys(process.said().splitlines()))
    assert only_line(said).startswith("Interrupted.")


@pytest.mark.slow
def test_interrupted_plain_step(project):
    process = project.start("python", "-m", "steps.data_evaluation")
    evaluating = lambda: project.newest("data_evaluation", "RUNNING").inputs.dataset_inputs  # noqa: E731
    interrupt(project, process, "data_evaluation", signal.SIGTERM, evaluating)
    assert project.registry()[MODEL] == ([1], {})


@pytest.mark.slow
def test_interrupted_search(project):
    """Its trials are runs too."""
    process = project.start("python", "-m", "steps.hyperparameters_tuning", "--n-trials", 1000)
    known = len(project.runs())
    interrupt(project, process, "hyperparameters_tuning", signal.SIGINT, ready=lambda: len(project.runs()) > known)


@pytest.mark.slow
def test_interrupted_while_a_trial_begins(project):
    """MLflow has written the run, but does not know it yet, and leaves it as it is. The search has failed all the same."""
    code = """if True:
        import os, runpy, signal, mlflow
        create_run = mlflow.MlflowClient.create_run
        def interrupted(*arguments, **options):
            run = create_run(*arguments, **options)
            if run.info.run_name == "Trial_2":
                os.kill(os.getpid(), signal.SIGINT)
            return run
        mlflow.MlflowClient.create_run = interrupted
        runpy.run_module("steps.hyperparameters_tuning", run_name="__main__")
    """
    known = project.newest("hyperparameters_tuning").info.run_id
    result = project.run("python", "-c", code)
    assert result.returncode == -signal.SIGINT
    assert only_line(result.stderr).startswith("Interrupted.")
    assert [run.info.run_name for run in project.runs(status="RUNNING")] == ["Trial_2"]
    assert project.newest("hyperparameters_tuning", status=None).info.status == "FAILED"
    assert project.newest("hyperparameters_tuning").info.run_id == known


@pytest.mark.slow
def test_interrupted_server_step(project):
    process = project.start("python", "-m", "steps.serving_check", "--model-uri", f"models:/{MODEL}/1")
    interrupt(
        project,
        process,
        "serving_check",
        signal.SIGTERM,
        ready=lambda: any("uvicorn" in other.name() for other in survivors(process)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_pipeline(project, number):
    """Ctrl-C reaches `mlflow run`, the pipeline and its step at once, SIGTERM the pipeline alone: none goes on."""
    command = ["mlflow", "run", ".", "--env-manager", "local", "-Pn-trials=1000"]
    if number == signal.SIGTERM:
        command = ["python", "-m", "steps.pipeline", "--n-trials", 1000]
    searching = lambda: project.runs("tags.step = 'hyperparameters_tuning'", "RUNNING")  # noqa: E731
    interrupt(project, project.start(*command), "pipeline", number, searching, group=number == signal.SIGINT)


@pytest.mark.slow
def test_interrupt_that_python_drops(tmp_path):
    """One that falls into a destructor is lost, and the SIGTERM after it is ignored: it is raised again."""
    code = """if True:
        import os, signal, sys, time
        import cli
        sys.argv = ["x"]
        cli.arguments("flavour-comparison", "training-run-id")
        class Lost:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
        del [Lost()][:]
        os.kill(os.getpid(), signal.SIGTERM)
        print("goes on", flush=True)
        time.sleep(30)
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=25)
    assert result.stdout == "goes on\n"
    assert result.returncode == -signal.SIGINT
    assert result.stderr.splitlines()[-1].startswith("Interrupted.")


# --- Killed steps: what is finished is whole, and the same command then works

FOR_KILLS = {
    "data_preprocessing": [],
    "hyperparameters_tuning": ["--n-trials", 5],
    "model_training": [],
    "data_evaluation": [],
    "flavour_comparison": [],
    "model_customization": [],
    "serving_check": [],
    "batch_scoring": ["--input", "rows.csv", "--output", "scores.csv"],
    "drift_check": ["--input", "rows.csv"],
}


def contents(run):
    """What a run holds, by name; without the metrics of the system, for which a run may be too short."""
    folder = Path(local_file_uri_to_path(run.info.artifact_uri))
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    data_sets = [data.dataset.name for data in run.inputs.dataset_inputs]
    metrics = sorted(name for name in run.data.metrics if not name.startswith("system/"))
    return metrics, sorted(run.data.params), sorted(run.data.tags), data_sets, files


@pytest.mark.slow
@pytest.mark.weekly
@pytest.mark.parametrize("step", FOR_KILLS)
def test_killed_at_random(project, step):
    """Three times, at any moment from the beginning of its work to the time when that would have ended."""
    project.client.set_registered_model_alias(MODEL, config.CHAMPION, "1")
    rows = load_breast_cancer(as_frame=True).data
    rows.to_csv(project.folder / "rows.csv", index=False)
    scores = project.folder / "scores.csv"
    succeed(project.step(step, *FOR_KILLS[step]))
    whole = project.newest(step)
    of_step = f"tags.step = '{step}' and attributes.start_time >= {whole.info.start_time}"
    seconds = (whole.info.end_time - whole.info.start_time) / 1000
    for _ in range(3):
        scores.unlink(missing_ok=True)
        for left in project.folder.glob(".scoring-*"):
            shutil.rmtree(left)
        known = len(project.runs(of_step, status=None))
        process = project.start("python", "-m", f"steps.{step}", *FOR_KILLS[step])
        try:
            # the scoring works before its run begins
            wait_until(lambda n=known: len(project.runs(of_step, None)) > n or [*project.folder.glob("*scor*")])
            moment = random.uniform(0, seconds)
            print(f"killed after {moment:.3f} of {seconds:.3f} s")
            time.sleep(moment)
        finally:
            for member in survivors(process):
                member.kill()
            process.wait()
        for run in project.runs(of_step):
            assert contents(run) == contents(whole)
        for name, (versions, aliases) in project.registry().items():
            assert set(aliases.values()) <= set(versions)
            for version in versions:
                assert (project.model_folder(name, version) / "MLmodel").exists()
        assert not scores.exists() or len(pd.read_csv(scores)) == len(rows)
    succeed(project.step(step, *FOR_KILLS[step]))
    assert contents(project.newest(step)) == contents(whole)


@pytest.mark.slow
@pytest.mark.weekly
def test_killed_pipeline(project):
    """The step at hand still ends, no further one begins."""
    known = len(project.runs("tags.step = 'hyperparameters_tuning'"))
    process = project.start("python", "-m", "steps.pipeline", "--n-trials", 30)
    try:
        wait_until(lambda: project.runs("tags.step = 'hyperparameters_tuning'", "RUNNING"))
        process.kill()
        process.wait()
        wait_until(lambda: not survivors(process))
    finally:
        for member in survivors(process):
            member.kill()
    assert len(project.runs("tags.step = 'hyperparameters_tuning'")) == known + 1
    assert [run.data.tags["step"] for run in project.runs(status="RUNNING")] == ["pipeline"]
    assert project.registry()[MODEL] == ([1], {})


# --- Servers


def test_server_is_ended_and_nothing_else():
    """When the caller is interrupted, the server and what it started end; another child of ours goes on."""
    child = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'http.server', sys.argv[1], '--bind', '127.0.0.1'])"
    port = str(servers.free_port())
    mine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            servers.server([sys.executable, "-c", child, port], f"http://127.0.0.1:{port}/"),
        ):
            family = [process for process in psutil.Process().children(recursive=True) if port in process.cmdline()]
            assert len(family) == 2
            raise KeyboardInterrupt
        assert not any(process.is_running() for process in family)
        assert mine.poll() is None
    finally:
        mine.kill()
        mine.wait()


# --- How errors are said


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StepError("x is 3: give 4."), "x is 3: give 4."),
        (KeyboardInterrupt(), "Interrupted. What was not finished is not used: run the step again."),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.csv"), "No space left on device: 'a.csv'. Make room"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a.csv"), "Permission denied: 'a.csv'. Make the"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "a.csv"), "Read-only file system: 'a.csv'. Make the"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_said_in_one_line(capsys, error, line):
    cli.end_in_one_line(type(error), error, None)
    said = capsys.readouterr().err
    assert line in said
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_other_exceptions_keep_their_traceback(empty_project):
    script = empty_project.folder / "steps" / "data_preprocessing.py"
    script.write_text(script.read_text() + "\n1 / 0\n")
    result = empty_project.step("data_preprocessing")
    assert result.returncode == 1
    assert "Traceback (most recent call last):" in result.stderr
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.slow
def test_errors_in_jupyter(tmp_path):
    """A mistake of the user is one line there too, everything else keeps its traceback."""
    sources = [
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import utils",
        "utils.latest_run('model_training')",
        "def divide(): return 1 / 0\ndivide()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    options = {"resources": {"metadata": {"path": tmp_path}}, "extra_arguments": ["--IPKernelApp.log_level=ERROR"]}
    NotebookClient(notebook, allow_errors=True, **options).execute()
    first, second, third = [cell.outputs for cell in notebook.cells]
    assert first == []
    (error,) = [output for output in second if output.output_type == "error"]
    (line,) = error.traceback
    assert line.startswith("StepError: There is no finished run with step model_training.")
    assert "\n" not in line
    (error,) = third
    assert "divide()" in "".join(error.traceback)
    assert error.ename == "ZeroDivisionError"
