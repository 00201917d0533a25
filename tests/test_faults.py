"""What happens when runs are pinned, killed, or at the same time, and when the store is not as it should be."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT

import utils


def start(project, script, *words, **variables):
    """Start a script in the project without waiting for it, in a process group of its own."""
    env = project.environment | {"OMP_NUM_THREADS": "1", "MLFLOW_EXPERIMENT_ID": "0"} | variables
    return subprocess.Popen(
        [sys.executable, script, *words],
        cwd=project.folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_run(project, step, status="RUNNING"):
    """Wait until a run of a step has this status, and give its ID."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = project.runs(f"tags.step = '{step}'", status=status)
        if found:
            return found[0].info.run_id
        time.sleep(0.1)
    raise AssertionError(f"no {status} run of {step}")


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
def test_pinned_runs(trained):
    """Training takes the runs that it is told, though there are newer ones, and says which."""
    old_data = trained.runs("tags.step = 'data_preprocessing'")[-1].info.run_id
    old_tuning = trained.runs("tags.step = 'hyperparameters_tuning'")[-1].info.run_id
    newer = trained.run("python", "data_preprocessing.py", "--test-size", "0.2")
    assert newer.returncode == 0, newer.stderr
    try:
        result = trained.mlflow_run("model-training", data_run_id=old_data, tuning_run_id=old_tuning)
        assert result.returncode == 0, result.stderr
        tags = trained.runs("tags.step = 'model_training'")[0].data.tags
        assert (tags["data_run_id"], tags["tuning_run_id"]) == (old_data, old_tuning)

        new_data = trained.runs("tags.step = 'data_preprocessing'")[0].info.run_id
        refused = [
            (["--data-run-id", "nosuchrun"], "There is no run nosuchrun."),
            (["--data-run-id", old_tuning], f"Run {old_tuning} is not one of data_preprocessing."),
            (["--data-run-id", new_data, "--tuning-run-id", old_tuning], f"data_run_id {old_data}, not {new_data}"),
            (["--data-run-id", new_data], f"Run {new_data} is FAILED."),
        ]
        for words, said in refused:
            trained.client.set_terminated(new_data, "FAILED" if "FAILED" in said else "FINISHED")
            result = trained.run("python", "model_training.py", *words)
            assert result.returncode == 1
            assert said in result.stderr
            assert len(result.stderr.splitlines()) == 1
    finally:
        trained.client.delete_run(trained.runs("tags.step = 'data_preprocessing'", status=None)[0].info.run_id)


@pytest.mark.slow
def test_killed_run_is_closed_by_the_next_start(trained):
    """With its trial; a run of the same step that still works is left alone."""
    killed = start(trained, "hyperparameters_tuning.py", "--n-trials", "1000")
    killed_id = wait_for_run(trained, "hyperparameters_tuning")
    wait_for = time.monotonic() + 60
    while not trained.runs(f"tags.mlflow.parentRunId = '{killed_id}'", status="FINISHED"):
        assert time.monotonic() < wait_for
        time.sleep(0.2)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    working = start(trained, "hyperparameters_tuning.py", "--n-trials", "1000")
    try:
        deadline = time.monotonic() + 60
        while trained.client.get_run(killed_id).info.status == "RUNNING":
            assert time.monotonic() < deadline
            time.sleep(0.2)
        working_id = wait_for_run(trained, "hyperparameters_tuning")
        result = trained.run("python", "hyperparameters_tuning.py", "--n-trials", "1", MLFLOW_EXPERIMENT_ID="0")
        assert result.returncode == 0, result.stderr
        assert trained.client.get_run(killed_id).info.status == "KILLED"
        assert trained.client.get_run(working_id).info.status == "RUNNING"
        below = trained.runs(f"tags.mlflow.parentRunId = '{killed_id}'", status=None)
        assert {run.info.status for run in below} <= {"FINISHED", "KILLED"}
    finally:
        os.killpg(working.pid, signal.SIGKILL)
        working.communicate()
        assert (
            trained.run("python", "hyperparameters_tuning.py", "--n-trials", "1", MLFLOW_EXPERIMENT_ID="0").returncode
            == 0
        )
    assert trained.runs(status="RUNNING") == []
