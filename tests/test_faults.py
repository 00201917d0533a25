"""What happens when steps are pinned, killed or run at the same time, and when the store is not as it should be.

The environment variable KILLS says how often each step is hit by each signal (default: once).
"""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

import mlflow
import pandas as pd
import psutil
import pytest
from conftest import ROOT, Project

import config
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
    assert not utils.is_dead(utils.this_process())


def test_process_that_ended_is_dead():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import utils; print(utils.this_process())"
    ended = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=True)
    assert utils.is_dead(ended.stdout.strip())


def test_number_taken_over_by_another_process():
    machine, pid, started = utils.this_process().split()
    assert utils.is_dead(f"{machine} {pid} {int(started) - 60}")


@pytest.mark.parametrize("process", [None, "", "elsewhere 1 0", f"{socket.gethostname()} 1 0"])
def test_nobody_knows_of_a_process_elsewhere(process):
    assert not utils.is_dead(process)


@pytest.mark.slow
def test_pinned_runs(project):
    """Training takes the runs that it is told, though there are newer ones, and says which."""
    old_data, old_tuning = newest(project, "data_preprocessing"), newest(project, "hyperparameters_tuning")
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
    below, alive = child(killed_id, {}), child(killed_id, {"process": utils.this_process()})
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


STEPS = {
    "data_preprocessing": data_sets,
    "hyperparameters_tuning": metric("accuracy"),
    "model_training": versions(config.BOOSTER_MODEL, config.CLASSIFIER_MODEL),
    "data_evaluation": metric("accuracy_score"),
    "flavour_comparison": artifact("latency.json"),
    "model_customization": versions(config.CUSTOM_MODEL),
    "model_serving": metric("largest_difference"),
}


def check_store(project, step, loaded):
    """Nothing in the store is a lie: finished runs are complete, versions can be loaded, the champion is one of them."""
    for run in project.runs(f"tags.step = '{step}'"):
        if run.info.run_id not in loaded:
            STEPS[step](project, run)
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
        study = ["--n-trials", 2, "--study-name", f"{step} {attempt}"]
        return ["python", f"{step}.py", *(study if step == "hyperparameters_tuning" else [])]

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
            wait_until(lambda process=process: not survivors(process), 15)
            new = [run for run in project.runs(f"tags.step = '{step}'", status=None) if run.info.run_id not in before]
            where = f"{number.name} after {moment:.2f} of {duration:.2f} s, exit code {code}, said: {said}"
            begun += bool(new)
            if number != signal.SIGKILL:
                assert {run.info.status for run in new} <= {"KILLED", "FAILED", "FINISHED"}, where
                lines = [line for line in said.splitlines() if not expected(line)]
                if new:
                    assert "Traceback" not in said, where
                    if new[0].info.status != "FINISHED":
                        assert len(lines) == 1 and "Interrupted" in lines[0] and code != 0, where
            check_store(project, step, loaded)
        began = time.monotonic()
        result = start(project, *words(attempt))
        assert result.wait() == 0, where + "\nthen: " + result.said()
        duration = (duration + time.monotonic() - began) / 2
        assert project.runs(status="RUNNING") == []
        check_store(project, step, loaded)
    with open(os.environ.get("KILLS_LOG", os.devnull), "a") as log:
        log.write(f"{step}: {killed} signals sent, {begun} of {3 * KILLS} after the run had begun\n")


def expected(line):
    """Lines of a step that has not failed: what it and MLflow's registry say, and progress bars."""
    return (
        not line.strip()
        or line.startswith(("INFO: ", "WARNING: ", "Successfully registered", "Registered model", "Created version"))
        or "%|" in line
    )
