"""What happens when steps are pinned, killed or run at the same time, and when the store is not as it should be.

The environment variable KILLS says how often each step is hit by each signal (default: once).
"""

import contextlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

import mlflow
import pandas as pd
import psutil
import pytest
import sqlalchemy
from conftest import ROOT, Project
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

import config
import errors
import servers
import utils

KILLS = int(os.environ.get("KILLS", "1"))
SMALL = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in which the steps up to the evaluation have run as scripts."""
    project = Project(tmp_path_factory.mktemp("faults"))
    for words in [
        ["data_preprocessing.py"],
        ["hyperparameters_tuning.py", "--n-trials", "2"],
        ["model_training.py"],
        ["data_evaluation.py"],
    ]:
        result = project.run("python", *words, **SMALL)
        assert result.returncode == 0, result.stderr
    return project


def start(project, *words, **variables):
    """Start a program in the project without waiting for it, in a session of its own."""
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (read when the process has ended)
    process = subprocess.Popen(
        [str(word) for word in words],
        cwd=project.folder,
        env=project.environment | SMALL | variables,
        stdout=subprocess.DEVNULL,
        stderr=output,
        start_new_session=True,
    )
    process.said = lambda: output.seek(0) or output.read()
    return process


def survivors(process):
    """The processes that a program has started and that run on after its end."""
    found = []
    for other in psutil.process_iter():
        try:
            if os.getsid(other.pid) == process.pid and other.status() != psutil.STATUS_ZOMBIE:
                found.append(other)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return found


def wait_until(condition, seconds=120):
    """Wait until a function gives something true, and give that."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return result


def newest(project, step, status="FINISHED"):
    return project.runs(f"tags.step = '{step}'", status=status)[0]


def test_process_that_runs_is_not_dead():
    assert not processes.is_dead(processes.this_process())


def test_process_that_ended_is_dead():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import processes; print(processes.this_process())"
    ended = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    assert processes.is_dead(ended.stdout.strip())


def test_number_taken_over_by_another_process():
    machine, pid, started = processes.this_process().split()
    assert processes.is_dead(f"{machine} {pid} {int(started) - 60}")


@pytest.mark.parametrize("process", [None, "", "elsewhere 1 0", f"{socket.gethostname()} 1 0"])
def test_nobody_knows_of_a_process_elsewhere(process):
    assert not processes.is_dead(process)


@pytest.mark.parametrize("password", ["secret", "se/cret", "se@cret", "secret" * 60])
def test_password_is_not_said(password):
    address = f"postgresql://someone:{password}@127.0.0.1:5432/mlflow"
    assert errors.without_password(address) == "postgresql://127.0.0.1:5432/mlflow"
    said = errors.in_one_line(OSError(f"{address}: connection refused"))
    assert said.startswith("postgresql://127.0.0.1:5432/mlflow: connection refused.")


def test_path_is_said_as_it_is():
    assert errors.without_password("sqlite:////home/me@work/mlflow.db") == "sqlite:////home/me@work/mlflow.db"


@pytest.mark.slow
def test_pinned_runs(project):
    """Training takes the runs that it is told, though there are newer ones, and says which."""
    old_data, old_tuning = (newest(project, "data_preprocessing"), newest(project, "hyperparameters_tuning"))
    pins = {"data_run_id": old_data.info.run_id, "tuning_run_id": old_tuning.info.run_id}
    assert project.run("python", "data_preprocessing.py", "--test-size", "0.2").returncode == 0
    new_id = newest(project, "data_preprocessing").info.run_id
    try:
        # under `mlflow run` the training is in another experiment, and finds nothing but what it is told
        result = project.mlflow_run("model-training", **pins)
        assert result.returncode == 0, result.stderr
        tags = newest(project, "model_training").data.tags
        assert {name: tags[name] for name in pins} == pins

        refused = [
            (["--data-run-id", "nosuchrun"], "There is no run nosuchrun."),
            (["--data-run-id", pins["tuning_run_id"]], "is not one of data_preprocessing."),
            (
                ["--data-run-id", new_id, "--tuning-run-id", pins["tuning_run_id"]],
                f"data_run_id {pins['data_run_id']}, not",
            ),
            (["--data-run-id", new_id], f"Run {new_id} is FAILED."),
        ]
        for words, said in refused:
            project.client.set_terminated(new_id, "FAILED" if "FAILED" in said else "FINISHED")
            result = project.run("python", "model_training.py", *words)
            assert result.returncode == 1
            assert said in result.stderr
            assert len(result.stderr.splitlines()) == 1
    finally:
        project.client.delete_run(new_id)
    result = project.run("python", "hyperparameters_tuning.py", "--data-run-id", new_id)
    assert result.stderr == f"Run {new_id} is deleted. Restore it: mlflow runs restore --run-id {new_id}\n"


@pytest.mark.slow
def test_dead_run_is_closed_by_the_next_start(project):
    """With what is below it; a run of the same step that still works, and a trial with a live process, are left alone."""

    def serving():
        process = start(project, "python", "model_serving.py", "--model-uri", f"models:/{config.CLASSIFIER_MODEL}/1")
        known = [run.info.run_id for run in running()]
        return process, wait_until(lambda: [run.info.run_id for run in running() if run.info.run_id not in known])[0]

    def running():
        return project.runs("tags.step = 'model_serving'", status="RUNNING")

    def child(parent, tags):
        tags = {"mlflow.parentRunId": parent, **tags}
        return project.client.create_run(project.client.get_run(parent).info.experiment_id, tags=tags).info.run_id

    killed, killed_id = serving()
    below, alive = child(killed_id, {}), child(killed_id, {"process": processes.this_process()})
    below_that = child(below, {})
    wait_until(lambda: len(survivors(killed)) > 1)  # the server
    killed.kill()
    killed.wait()
    wait_until(lambda: not survivors(killed), 15)
    working, working_id = serving()
    try:
        wait_until(lambda: len(survivors(working)) > 1)
        os.kill(working.pid, signal.SIGSTOP)  # so that it cannot end too early
        third, _ = serving()
        assert third.wait() == 0, third.said()
        statuses = {run.info.run_id: run.info.status for run in project.runs(status=None)}
        assert [statuses[run_id] for run_id in [killed_id, below, below_that]] == ["KILLED"] * 3
        assert [statuses[run_id] for run_id in [working_id, alive]] == ["RUNNING"] * 2
    finally:
        os.kill(working.pid, signal.SIGCONT)
        assert working.wait() == 0, working.said()
        project.client.set_terminated(alive)


# What a finished run of each step must have left behind, as a function of the project and the run.
def data_sets(project, run):
    for split in ["train", "test"]:
        frame = pd.read_csv(project.client.download_artifacts(run.info.run_id, f"datasets/{split}.csv"))
        assert len(frame) == run.data.metrics[f"{split}_rows"]
    assert len(run.inputs.dataset_inputs) == 2


def versions(*names):
    def check(project, run):
        for name in names:
            assert len(project.client.search_model_versions(f"name = '{name}' and run_id = '{run.info.run_id}'")) == 1

    return check


def metric(name):
    return lambda project, run: run.data.metrics[name]


def artifact(path):
    return lambda project, run: project.client.download_artifacts(run.info.run_id, path)


def all_steps(project, run):
    nested = project.runs(f"tags.mlflow.parentRunId = '{run.info.run_id}'", status=None)
    assert [child.data.tags["step"] for child in reversed(nested)] == [step for step in STEPS if step != "pipeline"]
    assert {child.info.status for child in nested} == {"FINISHED"}


STEPS = {
    "data_preprocessing": data_sets,
    "hyperparameters_tuning": metric("accuracy"),
    "model_training": versions(config.BOOSTER_MODEL, config.CLASSIFIER_MODEL),
    "data_evaluation": metric("accuracy_score"),
    "flavour_comparison": artifact("latency.json"),
    "model_customization": versions(config.CUSTOM_MODEL),
    "model_serving": metric("largest_difference"),
    "pipeline": all_steps,
}


def check_store(project, loaded):
    """Nothing in the store is a lie: finished runs are complete, versions can be loaded, the champion is one of them."""
    for run in project.runs():
        if run.info.run_id not in loaded and "step" in run.data.tags:
            STEPS[run.data.tags["step"]](project, run)
            loaded.add(run.info.run_id)
    for name, (numbers, aliases) in project.registry().items():
        assert set(aliases.values()) <= set(numbers)
        for number in numbers:
            if (name, number) not in loaded:
                mlflow.pyfunc.load_model(f"models:/{name}/{number}")
                loaded.add((name, number))


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_random_moment(project, step, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.folder}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{project.folder}/mlflow.db")
    rng = random.Random(f"{config.SEED} {step}")
    loaded, begun, killed = set(), 0, 0

    def words(attempt):
        options = {
            "hyperparameters_tuning": ["--n-trials", 2, "--study-name", f"{step} {attempt}"],
            "pipeline": ["--n-trials", 1],
        }
        return ["python", f"{step}.py", *options.get(step, [])]

    began = time.monotonic()
    result = start(project, *words("first"))
    assert result.wait() == 0, result.said()
    duration = time.monotonic() - began
    for attempt in range(KILLS):
        for number in [signal.SIGTERM, signal.SIGINT, signal.SIGKILL]:
            before = {run.info.run_id for run in project.runs(status=None)}
            moment = rng.uniform(0.2, 1) * duration
            process = start(project, *words(attempt))
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                killed += 1
            code, said = process.wait(60), process.said()
            # a step whose pipeline gets SIGKILL knows nothing of that, and goes on to its end
            patience = 60 if (step, number) == ("pipeline", signal.SIGKILL) else 15
            wait_until(lambda process=process: not survivors(process), patience)
            new = [run for run in project.runs(f"tags.step = '{step}'", status=None) if run.info.run_id not in before]
            where = f"{number.name} after {moment:.2f} of {duration:.2f} s, exit code {code}, said: {said}"
            begun += bool(new)
            if number != signal.SIGKILL:
                assert {run.info.status for run in new} <= {"KILLED", "FAILED", "FINISHED"}, where
                lines = [line for line in said.splitlines() if not expected(line)]
                if step == "pipeline":  # the step at hand says the same, and MLflow speaks too
                    lines = list({line for line in lines if " mlflow.projects: " not in line})
                if new:
                    assert "Traceback" not in said, where
                    if new[0].info.status != "FINISHED":
                        assert len(lines) == 1 and "Interrupted" in lines[0] and code != 0, where
            check_store(project, loaded)
        began = time.monotonic()
        result = start(project, *words(attempt))
        assert result.wait() == 0, where + "\nthen: " + result.said()
        duration = (duration + time.monotonic() - began) / 2
        assert project.runs(status="RUNNING") == []
        check_store(project, loaded)
    with open(os.environ.get("KILLS_LOG", os.devnull), "a") as log:
        log.write(f"{step}: {killed} signals sent, {begun} of {3 * KILLS} after the run had begun\n")


def expected(line):
    """Lines of a step that has not failed: what it and MLflow's registry say, and progress bars."""
    return (
        not line.strip()
        or line.startswith(("INFO: ", "WARNING: ", "Successfully registered", "Registered model", "Created version"))
        or "%|" in line
    )


def said_in_one_line(result):
    """The only line that a failing step says."""
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if not expected(line)]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.slow
def test_swallowed_interrupt_comes_again(tmp_path):
    """An exception in a callback of Python's own does not reach the step."""
    script = tmp_path / "swallow.py"
    script.write_text(f"""
import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
import servers

class Callback:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

with processes.signals(processes.interrupt):
    Callback()
    print("went on", flush=True)
    time.sleep(60)
""")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert result.stdout == "went on\n"
    assert "Interrupted" in said_in_one_line(result)


@pytest.mark.slow
def test_interrupt_in_a_transaction(tmp_path):
    """It leaves the database locked, by ourselves, until what was interrupted is forgotten."""
    script = tmp_path / "transaction.py"
    script.write_text(f"""
import os, signal, sqlite3, sys, time
sys.path.insert(0, {str(ROOT)!r})
import mlflow
import utils

mlflow.set_tracking_uri("sqlite:///{tmp_path}/mlflow.db")

def write():
    connection = sqlite3.connect("{tmp_path}/mlflow.db")
    connection.execute("BEGIN IMMEDIATE")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

with utils.open_run():
    write()
""")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert "Interrupted" in said_in_one_line(result)
    runs = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["0"])
    assert [run.info.status for run in runs] == ["KILLED"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_pipeline(project, number):
    """Ctrl-C reaches `mlflow run`, the pipeline and its step at once, SIGTERM the pipeline alone: none goes on."""
    if number == signal.SIGINT:
        process = start(project, "mlflow", "run", ".", "-e", "main", "--env-manager", "local", "-Pn-trials=1000")
    else:
        process = start(project, "python", "pipeline.py", "--n-trials", "1000")
    try:
        wait_until(lambda: project.runs("tags.step = 'hyperparameters_tuning'", status="RUNNING"))
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait(60) != 0
        wait_until(lambda: not survivors(process), 15)
        assert project.runs(status="RUNNING") == []
        # `mlflow run` writes its own word over that of the run
        ended = "FAILED" if number == signal.SIGINT else "KILLED"
        assert newest(project, "pipeline", status=None).info.status == ended
        if number == signal.SIGTERM:
            assert "Traceback" not in process.said()
    finally:
        for survivor in survivors(process):
            survivor.kill()


@pytest.mark.slow
def test_four_at_once_in_an_empty_folder(empty_project):
    """None finds a database that another is still making, and none waits in vain for its turn to write."""
    sizes = ["0.2", "0.3", "0.4", "0.5"]
    processes = [start(empty_project, "python", "data_preprocessing.py", "--test-size", size) for size in sizes]
    assert [process.wait() for process in processes] == [0] * 4, [process.said() for process in processes]
    runs = empty_project.runs()
    assert sorted(run.data.params["test_size"] for run in runs) == sizes
    for run in runs:
        data_sets(empty_project, run)
    assert [path.name for path in empty_project.folder.glob("mlflow.db*")] == ["mlflow.db"]


@pytest.mark.slow
def test_two_pipelines_and_a_preprocessing_at_once(project):
    """Each training has used the data and the tuning of its own pipeline, by their IDs and by their digests."""
    known = {run.info.run_id for run in project.runs(status=None)}
    sizes = {"0.25": 143, "0.45": 257}
    pipelines = [start(project, "python", "pipeline.py", "--n-trials", "1", "--test-size", size) for size in sizes]
    wait_until(
        lambda: [
            run
            for run in project.runs("tags.step = 'hyperparameters_tuning'", status=None)
            if run.info.run_id not in known
        ]
    )
    between = start(project, "python", "data_preprocessing.py", "--test-size", "0.35")
    for process in [*pipelines, between]:
        assert process.wait() == 0, process.said()
        assert "locked" not in process.said()

    new = {run.info.run_id: run for run in project.runs() if run.info.run_id not in known}
    of = {step: [run for run in new.values() if run.data.tags.get("step") == step] for step in STEPS}
    assert [len(runs) for runs in of.values()] == [3, *[2] * 7]

    def digests(run):
        return {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs}

    for training in of["model_training"]:
        data, tuning = (new[training.data.tags["data_run_id"]], new[training.data.tags["tuning_run_id"]])
        assert tuning.data.tags["data_run_id"] == data.info.run_id
        assert digests(training) == digests(data)
        assert digests(tuning) == {"train": digests(data)["train"]}
        parent = training.data.tags["mlflow.parentRunId"]
        assert {run.data.tags["mlflow.parentRunId"] for run in [data, tuning]} == {parent}
        for step in ["data_evaluation", "flavour_comparison", "model_customization"]:
            mine = [run for run in of[step] if run.data.tags["mlflow.parentRunId"] == parent]
            assert [run.data.tags["training_run_id"] for run in mine] == [training.info.run_id]
    trained_on = [new[run.data.tags["data_run_id"]] for run in of["model_training"]]
    assert sorted(run.data.metrics["test_rows"] for run in trained_on) == sorted(sizes.values())


def write_garbage(folder):
    (folder / "mlflow.db").write_bytes(random.Random(0).randbytes(50_000))


def new_store(folder):
    path = folder / "mlflow.db"
    utils.make_store(path)
    return path


def cut_off(folder):
    path = new_store(folder)
    path.write_bytes(path.read_bytes()[:300_000])


def of_version(revision):
    def change(folder):
        with contextlib.closing(sqlite3.connect(new_store(folder))) as connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", [revision])
            connection.commit()

    return change


def half_made(folder):
    engine = sqlalchemy.create_engine(f"sqlite:///{folder}/mlflow.db")
    InitialBase.metadata.create_all(engine)
    with engine.begin() as connection:  # the first of many changes, not yet noted as done
        connection.execute(sqlalchemy.text("ALTER TABLE metrics ADD COLUMN step BIGINT DEFAULT 0 NOT NULL"))


def deleted_experiment(folder):
    client = mlflow.MlflowClient(f"sqlite:///{new_store(folder)}")
    client.delete_experiment(client.create_experiment(config.EXPERIMENT))


BROKEN_STORES = {
    "garbage": (write_garbage, "file is not a database", "mv mlflow.db"),
    "cut off": (cut_off, "malformed", "mv mlflow.db"),
    "half made": (half_made, "duplicate column", "mv mlflow.db"),
    "older": (of_version("181f10493468"), "older MLflow", "mlflow db upgrade sqlite:///"),
    "newer": (of_version("fedcba987654"), "newer", "install that one"),
    "deleted experiment": (deleted_experiment, "is deleted", "mlflow experiments restore --experiment-id 1"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "words", "remedy"), BROKEN_STORES.values(), ids=BROKEN_STORES)
def test_broken_store(empty_project, make, words, remedy):
    make(empty_project.folder)
    line = said_in_one_line(empty_project.run("python", "data_preprocessing.py", **SMALL))
    assert words in line
    assert remedy in line


@pytest.fixture
def silent_server():
    """The port of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "postgresql"])
@pytest.mark.parametrize("state", ["down", "silent"])
def test_unreachable_store(empty_project, silent_server, scheme, state):
    port = silent_server if state == "silent" else servers.free_port()
    uri = f"{scheme}://someone:secret@127.0.0.1:{port}/name"
    line = said_in_one_line(empty_project.run("python", "data_preprocessing.py", MLFLOW_TRACKING_URI=uri, **SMALL))
    assert line.startswith(f"{scheme}://127.0.0.1:{port}/name: the store cannot be used. ")
    assert line.endswith("Start the server, or correct MLFLOW_TRACKING_URI.")
    assert "secret" not in line


@pytest.fixture
def small_disk(tmp_path):
    """An empty file system of two megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a file system here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)  # our own connection to the store is still open


@pytest.mark.slow
def test_full_or_read_only_disk(empty_project, small_disk):
    """The store lies on it, the project elsewhere. When there is room again, the step works."""
    script = empty_project.folder / "data_preprocessing.py"

    def step():
        return empty_project.run("python", str(script), cwd=small_disk, **SMALL)

    def remount(*options):
        subprocess.run(["mount", "-o", ",".join(["remount", *options]), small_disk], check=True)

    remount("ro")
    assert "Read-only file system" in said_in_one_line(step())
    remount("rw", "size=400k")
    assert "full" in said_in_one_line(step())
    assert list(small_disk.iterdir()) == []
    remount("size=2m")
    assert step().returncode == 0
    remount("ro")
    assert "readonly" in said_in_one_line(step())
    remount("rw")
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as output:
        while True:
            output.write(bytes(1000))
    assert "Make room" in said_in_one_line(step())
    filler.unlink()
    assert step().returncode == 0
    empty_project.folder = small_disk
    for run in empty_project.runs():
        data_sets(empty_project, run)
    assert empty_project.runs(status="RUNNING") == []


@pytest.mark.slow
def test_deleted_registered_model(project):
    """(The last test with this copy of the project.)"""
    project.client.delete_registered_model(config.CLASSIFIER_MODEL)
    for step in ["data_evaluation", "flavour_comparison", "model_customization"]:
        line = said_in_one_line(project.run("python", f"{step}.py", **SMALL))
        assert line.endswith("Train: mlflow run . -e model-training")
    assert "mlflow run . -e main" in said_in_one_line(project.run("python", "model_serving.py", **SMALL))
