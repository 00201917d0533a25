"""What happens when the store cannot be used, when a step is interrupted, and how errors are said."""

import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from functools import partial

import alembic.command
import mlflow
import pytest
import sqlalchemy
from IPython.core.interactiveshell import InteractiveShell
from mlflow.store.db.utils import _get_alembic_config, _get_latest_schema_revision
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from support import EXPERIMENT, only_line, refusal, succeed, survivors, wait_until

import cli
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
    """The path of a new store, with a deleted experiment of ours."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    client = mlflow.MlflowClient(f"sqlite:///{path}")
    client.delete_experiment(client.create_experiment(EXPERIMENT))
    return path


def said_of_store(folder, use=utils.set_experiment):
    """The one line that a function says within 15 seconds, leaving nothing behind."""
    before, began = sorted(folder.iterdir()), time.monotonic()
    with pytest.raises(StepError) as caught:
        use()
    assert time.monotonic() - began < 15
    assert sorted(folder.iterdir()) == before
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def sql(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(statement)


def file_store(path):
    path.unlink()
    folder = path.parent / "mlruns" / "0"
    folder.mkdir(parents=True)
    (folder / "meta.yaml").write_text(f"{{artifact_location: {folder}, experiment_id: '0', name: Default}}")


OLDER = "UPDATE alembic_version SET version_num = '181f10493468'"
BROKEN_STORES = {
    "file is not a database": (lambda path: path.write_bytes(b"garbage" * 10_000), "cannot be used"),
    "malformed": (lambda path: path.write_bytes(path.read_bytes()[:300_000]), "cannot be used"),
    "out-of-date": (lambda path: sql(path, OLDER), "mlflow db upgrade"),
    "deleted experiment": (lambda path: None, "mlflow experiments restore --experiment-id "),
    "filesystem tracking backend": (file_store, "mlflow migrate-filestore"),
}


@pytest.mark.parametrize("words", BROKEN_STORES)
def test_broken_store(folder, store, words):
    shutil.copy(store, folder)
    change, remedy = BROKEN_STORES[words]
    change(folder / "mlflow.db")
    line = said_of_store(folder)
    assert words in line and remedy in line


def test_store_in_an_empty_folder(folder):
    """The folder stays, and gets the database."""
    (folder / "runs").mkdir()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/runs/mlflow.db")
    utils.set_experiment()
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*.db")] == ["runs/mlflow.db"]


def test_store_of_an_older_mlflow(folder):
    """MLflow changes it without a word, as the page says: the older one cannot use it any more."""
    engine = sqlalchemy.create_engine(f"sqlite:///{folder}/mlflow.db")
    InitialBase.metadata.create_all(engine)
    settings = _get_alembic_config(str(engine.url))
    alembic.command.upgrade(settings, "bf29a5ff90ea")  # of 2025: tables are missing
    utils.set_experiment()
    with engine.connect() as connection:
        (version,) = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).one()
    assert version == _get_latest_schema_revision()


def test_unreachable_registry(folder, store, monkeypatch):
    """It is the registry that is named, and not the store that answers."""
    shutil.copy(store, folder)
    mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").restore_experiment("1")
    port = servers.free_port()
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"http://me:secret@127.0.0.1:{port}")
    assert said_of_store(folder, partial(utils.version_uri, "models:/A@b")).startswith(f"http://127.0.0.1:{port}: ")


@pytest.mark.slow
def test_store_in_use_by_another_program(folder, store):
    shutil.copy(store, folder)
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "Another program keeps the store busy" in said_of_store(folder)


START = "Start the server, or correct its address."
DRIVER = "No module named 'MySQLdb'."
ADDRESSES = {
    "127.0.0.1:5000": "",
    "mysql://someone:secret@127.0.0.1/mlflow": DRIVER,
    "http://someone:secret@127.0.0.1:{free}/name": START,
    "postgresql://someone:secret@127.0.0.1:{free}/name": START,
    "http://someone:secret@127.0.0.1:{silent}/name": START,
    "postgresql://someone:secret@127.0.0.1:{silent}/name": START,
}


@pytest.mark.parametrize("uri", [pytest.param(uri, marks=[pytest.mark.slow] * ("silent" in uri)) for uri in ADDRESSES])
def test_unreachable_store(folder, uri):
    """Whichever helper is the first to look."""
    uses = [utils.set_experiment, partial(utils.latest_run, "model_training"), partial(utils.load_model, "models:/A/1")]
    uses += [partial(utils.version_uri, "models:/A/1"), partial(utils.check_name, "A", "b", [0, 1], [])]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        address = uri.format(free=servers.free_port(), silent=silent.getsockname()[1])
        mlflow.set_tracking_uri(address)
        for use in uses[: 1 if "silent" in uri else None]:
            line = said_of_store(folder, use)
            assert line.startswith(f"{address.replace('someone:secret@', '')}: the store cannot be used. ")
            assert line.endswith(ADDRESSES[uri]) and "secret" not in line


@pytest.mark.slow
def test_full_or_read_only_disk(empty_project, tmp_path_factory, request):
    """The store lies on it, the project elsewhere. When there is room again, the step works."""
    small_disk = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", small_disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a file system here")
    request.addfinalizer(lambda: subprocess.run(["umount", "--lazy", small_disk], check=True))

    def step(options):
        subprocess.run(["mount", "-o", f"remount,{options}", small_disk], check=True)
        command = ["python", "-m", "steps.data_preprocessing"]
        return empty_project.run(*command, cwd=small_disk, PYTHONPATH=str(empty_project.folder))

    assert "Make room on the disk" in refusal(step("rw"))
    (small_disk / "mlflow.db").unlink()  # half of a new one, as the page says
    succeed(step("rw,size=2m"))
    assert "Make the folder writable, or choose another place." in refusal(step("ro"))
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    with contextlib.suppress(OSError), open(small_disk / "filler", "wb", buffering=0) as output:
        while True:
            output.write(bytes(1000))
    assert "Make room on the disk" in refusal(step("rw"))
    (small_disk / "filler").unlink()
    succeed(step("rw"))
    empty_project.folder = small_disk
    assert len(empty_project.runs()) == 2 and empty_project.runs(status="RUNNING") == []


# --- Interrupted steps: one line, the run has failed, no process is left

SEARCH = "hyperparameters_tuning"
# Of each kind of step: its run, the command, the signal and to whom: Ctrl-C reaches `mlflow run` and all below it.
INTERRUPTED = {
    "plain": ("data_evaluation", "python -m steps.data_evaluation", signal.SIGTERM, os.kill),
    "search": (SEARCH, f"python -m steps.{SEARCH} --n-trials 1000", signal.SIGINT, os.kill),
    "server": ("serving_check", "python -m steps.serving_check --model-uri models:/CancerModel/1", signal.SIGTERM, os.kill),
    "pipeline": ("pipeline", "python -m steps.pipeline --n-trials 1000", signal.SIGTERM, os.kill),
    "mlflow run": ("pipeline", "mlflow run . --env-manager local -Pn-trials=1000", signal.SIGINT, os.killpg),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("step", "command", "number", "kill"), INTERRUPTED.values(), ids=INTERRUPTED)
def test_interrupted_step(trained, tmp_path, step, command, number, kill):
    project = trained.copy(tmp_path)
    process, registry = project.start(*command.split()), project.registry()

    def is_ready():
        run = next(iter(project.runs(f"tags.step = '{step}'", "RUNNING")), None)
        trials = project.runs("attributes.run_name LIKE 'Trial_%'", "RUNNING")
        servers = [other for other in survivors(process) if "uvicorn" in other.name()]
        signs = {"data_evaluation": run and run.inputs.dataset_inputs, "serving_check": servers}
        return process.poll() is not None or (run and signs.get(step, trials))

    try:
        wait_until(is_ready)
        kill(process.pid, number)
        assert process.wait(60) != 0
        wait_until(lambda: not survivors(process), 15)
    finally:
        for survivor in survivors(process):
            survivor.kill()
    assert project.newest(step, status=None).info.status == "FAILED"
    # MLflow loses sight of a run that is interrupted while it begins or ends; of the many trials, one may be
    left = [run.info.run_name for run in project.runs(status="RUNNING")]
    assert left == [] or (len(left) == 1 and left[0].startswith("Trial_"))
    assert project.registry() == registry
    # the pipeline, its step and the program around both may say the same
    assert only_line("\n".join(dict.fromkeys(process.said().splitlines()))).startswith("Interrupted.")


# --- How errors are said


def os_error(number):
    return OSError(number, os.strerror(number), "a.csv")


SAID = [
    (StepError("x is 3: give 4."), r"x is 3: give 4\."),
    (KeyboardInterrupt(), r"Interrupted\. What was not finished is not used: run the step again\."),
    (os_error(errno.ENOSPC), r".*No space left on device: 'a.csv'"),
    (os_error(errno.EACCES), r".*Permission denied: 'a.csv'"),
    (os_error(errno.EROFS), r".*Read-only file system: 'a.csv'"),
    (os_error(errno.ENOENT), r"FileNotFoundError: .*"),  # as Python says it, with a traceback
]


@pytest.mark.parametrize(("error", "line"), SAID)
def test_said_in_one_line(capsys, error, line):
    cli.end_in_one_line(type(error), error, None)
    assert re.fullmatch(line + "\n", capsys.readouterr().err)


def test_errors_in_jupyter(capsys):
    """A mistake of the user is one line there too."""
    InteractiveShell().run_cell("from cli import StepError\nraise StepError('x is 3: give 4.')")
    assert capsys.readouterr().out == "StepError: x is 3: give 4.\n"
