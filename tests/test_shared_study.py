"""Many workers on one study: exact counts, nothing lost when one is killed, and refusals in one line.

On a journal file, and on a real PostgreSQL with a real tracking server.
"""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import mlflow
import optuna
import pytest
from conftest import Project
from optuna.trial import TrialState

import config
import servers
import shared_study
from benchmarks import postgres

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database():
    """The URL of a PostgreSQL with the empty databases `optuna` and `mlflow`."""
    if not postgres.find_programs():
        pytest.skip("PostgreSQL is not installed")
    with postgres.server() as url:
        yield url


@pytest.fixture(scope="module")
def shared_project(database, tmp_path_factory):
    """A copy of the project whose runs are on a tracking server, with prepared data."""
    project = Project(tmp_path_factory.mktemp("shared"))
    port = servers.free_port()
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"{database}/mlflow",
        "--artifacts-destination",
        str(project.folder / "artifacts"),
    ]
    with servers.server(command, f"http://127.0.0.1:{port}/health", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        project.tracking_uri = f"http://127.0.0.1:{port}"
        project.storage = f"{database}/optuna"
        result = project.run("python", "data_preprocessing.py", MLFLOW_TRACKING_URI=project.tracking_uri)
        assert result.returncode == 0, result.stderr
        yield project


@pytest.fixture(scope="module")
def with_data(tmp_path_factory):
    """A copy of the project with prepared data and the default store."""
    project = Project(tmp_path_factory.mktemp("with_data"))
    result = project.run("python", "data_preprocessing.py")
    assert result.returncode == 0, result.stderr
    return project


@pytest.fixture
def prepared(with_data, tmp_path):
    """The same with a store of its own; the data stay where they are."""
    project = Project(tmp_path)
    shutil.copy(with_data.folder / "mlflow.db", tmp_path)
    project.tracking_uri = f"sqlite:///{tmp_path}/mlflow.db"
    project.storage = str(tmp_path / "optuna.journal")
    return project


def start(project, *options, **variables):
    """Start a worker in the background; on the default store and storage nothing is said of them."""
    env = project.environment | variables
    if project.tracking_uri.startswith("http"):
        env["MLFLOW_TRACKING_URI"] = project.tracking_uri
        options = ["--storage", project.storage, *options]
    command = [sys.executable, "hyperparameters_tuning.py", *options]
    return subprocess.Popen(command, cwd=project.folder, env=env, stderr=subprocess.PIPE, text=True)


def finish(*workers):
    """Wait for workers, which all must succeed."""
    said = [worker.communicate(timeout=600)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(workers), "\n".join(said)


def study(project, name=None):
    """The project's study, or its only one that holds trials."""
    storage = shared_study.open_storage(project.storage)
    names = [found for found in optuna.get_all_study_names(storage) if ", " not in found]
    if name is None:
        (name,) = names
    return optuna.load_study(storage=storage, study_name=name)


def wait_for_trials(project, enough, name=None):
    """Wait until the study's trials satisfy a condition, and give them."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            trials = study(project, name).get_trials()
        except (ValueError, KeyError):  # not begun yet
            trials = []
        if enough(trials):
            return trials
        time.sleep(0.02)
    raise AssertionError(f"not reached in time: {trials}")


def running_in(trials, worker):
    """The trial that a worker is making."""
    pids = {trial.number: trial.user_attrs.get(shared_study.PROCESS, "- 0").split()[1] for trial in trials}
    return [trial for trial in trials if trial.state == TrialState.RUNNING and pids[trial.number] == str(worker.pid)]


def finished(trials):
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def check(project, n_trials, name=None):
    """The study has exactly so many finished trials, and MLflow has them as nested runs of one parent."""
    trials = study(project, name).get_trials()
    complete = {str(trial.number) for trial in finished(trials)}
    assert len(complete) == n_trials, [trial.state for trial in trials]
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    client = mlflow.MlflowClient(project.tracking_uri)
    experiment = client.get_experiment_by_name(config.EXPERIMENT).experiment_id
    runs = client.search_runs([experiment], "tags.step = 'hyperparameters_tuning'")
    if name:
        runs = [run for run in runs if run.data.tags.get("study") == name]
    (parent,) = runs
    assert parent.info.status == "FINISHED"
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {run.data.tags["trial"] for run in children if run.info.status == "FINISHED"} == complete
    assert len([run for run in children if run.info.status == "FINISHED"]) == n_trials
    assert {run.info.status for run in children} <= {"FINISHED", "FAILED", "KILLED"}
    best = max(finished(trials), key=lambda trial: trial.value)
    assert parent.data.metrics["accuracy"] == best.value
    assert {name: float(parent.data.params[name]) for name in best.params} == pytest.approx(best.params)
    return parent, children


def test_second_start_repeats_nothing(prepared):
    finish(start(prepared, "--n-trials", "3"))
    before = check(prepared, 3)
    finish(start(prepared, "--n-trials", "3"))
    after = check(prepared, 3)
    assert before[0].info.run_id == after[0].info.run_id
    assert len(study(prepared).get_trials()) == 3


def test_more_trials_have_a_run_of_their_own(prepared):
    finish(start(prepared, "--n-trials", "2"))
    finish(start(prepared, "--n-trials", "5"))
    assert len(study(prepared).get_trials()) == 5
    newest, older = prepared.runs("tags.step = 'hyperparameters_tuning'")
    children = [prepared.runs(f"tags.mlflow.parentRunId = '{run.info.run_id}'") for run in [older, newest]]
    assert [len(runs) for runs in children] == [2, 3]
    best = study(prepared).best_value
    assert newest.data.metrics["accuracy"] == best


def test_the_same_trials_whether_interrupted_or_not(prepared):
    """A study that was stopped and taken up again has the same trials as one that was not."""
    finish(start(prepared, "--n-trials", "6", "--study-name", "whole"))
    finish(start(prepared, "--n-trials", "2", "--study-name", "parts"))
    finish(start(prepared, "--n-trials", "6", "--study-name", "parts"))
    whole, parts = [[t.params for t in study(prepared, name).get_trials()] for name in ["whole", "parts"]]
    assert whole == parts
    assert len({str(params) for params in whole}) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_search_goes_on(prepared, number):
    worker = start(prepared, "--n-trials", "6")
    wait_for_trials(prepared, lambda trials: len(finished(trials)) >= 2 and running_in(trials, worker))
    worker.send_signal(number)
    said = worker.communicate(timeout=60)[1]
    assert worker.returncode != 0
    assert "Traceback" not in said
    kept = finished(study(prepared).get_trials())
    assert 2 <= len(kept) < 6
    if number != signal.SIGKILL:
        assert f"{len(kept)} of 6 trials finished" in said.splitlines()[-1]
    finish(start(prepared, "--n-trials", "6"))
    check(prepared, 6)
    again = finished(study(prepared).get_trials())
    assert [trial.datetime_complete for trial in again[: len(kept)]] == [trial.datetime_complete for trial in kept]


def test_workers_of_one_machine(prepared):
    finish(start(prepared, "--n-trials", "24", "--workers", "2"))
    check(prepared, 24)
    makers = {trial.user_attrs[shared_study.PROCESS] for trial in finished(study(prepared).get_trials())}
    assert len(makers) >= 2


def test_two_workers_and_a_late_one_through_mlflow_run(shared_project):
    """As two colleagues would do it: each `mlflow run` joins the study and its run."""
    project, name = shared_project, "two"
    results = []

    def run():
        variables = {"MLFLOW_TRACKING_URI": project.tracking_uri, "MLFLOW_EXPERIMENT_NAME": config.EXPERIMENT}
        command = ["mlflow", "run", ".", "-e", "hyperparameters-tuning", "--env-manager", "local"]
        command += ["-P", "n-trials=12", "-P", f"storage={project.storage}", "-P", f"study-name={name}"]
        results.append(project.run(*command, **variables))

    workers = [threading.Thread(target=run) for _ in range(3)]
    for worker in workers[:2]:
        worker.start()
    wait_for_trials(project, lambda trials: len(finished(trials)) >= 2, name)
    workers[2].start()
    for worker in workers:
        worker.join()
    assert [result.returncode for result in results] == [0, 0, 0], [result.stderr for result in results]
    parent, _ = check(project, 12, name)
    client = mlflow.MlflowClient(project.tracking_uri)
    own = client.search_runs([parent.info.experiment_id], f"tags.tuning_run_id = '{parent.info.run_id}'")
    assert {(run.info.run_name, run.info.status) for run in own} == {("Tuning_Worker", "FINISHED")}
    assert len(own) == 2


def test_four_workers_one_killed_and_one_late(shared_project):
    project, name = shared_project, "four"
    workers = [start(project, "--n-trials", "24", "--study-name", name) for _ in range(4)]
    victim = workers.pop()
    trials = wait_for_trials(project, lambda trials: running_in(trials, victim) and len(trials) > 4, name)
    (lost,) = running_in(trials, victim)
    victim.kill()
    victim.communicate()
    finish(*workers, start(project, "--n-trials", "24", "--study-name", name))
    parent, children = check(project, 24, name)
    trials = study(project, name).get_trials()
    if trials[lost.number].state == TrialState.FAIL:  # it may just have ended before the kill
        (again,) = [trial for trial in trials if trial.system_attrs.get("failed_trial") == lost.number]
        assert again.state == TrialState.COMPLETE
        assert again.params.items() >= lost.params.items()
        assert {run.info.status for run in children if run.data.tags["trial"] == str(lost.number)} <= {"KILLED"}
    # training reads what the study found
    tuned = dict(parent.data.params)
    result = project.run("python", "model_training.py", MLFLOW_TRACKING_URI=project.tracking_uri)
    assert result.returncode == 0, result.stderr
    client = mlflow.MlflowClient(project.tracking_uri)
    (training,) = client.search_runs([parent.info.experiment_id], "tags.step = 'model_training'")
    assert training.data.tags["tuning_run_id"] == parent.info.run_id
    assert training.data.params["max_depth"] == tuned["max_depth"]


def test_worker_that_slept_too_long(shared_project):
    """Its trial is given to another; when it wakes up, it does not count twice."""
    project, name = shared_project, "sleeper"
    sleeper = start(project, "--n-trials", "6", "--study-name", name)
    wait_for_trials(project, lambda trials: running_in(trials, sleeper), name)
    sleeper.send_signal(signal.SIGSTOP)
    try:
        finish(start(project, "--n-trials", "6", "--study-name", name))
    finally:
        sleeper.send_signal(signal.SIGCONT)
    finish(sleeper)
    check(project, 6, name)


def test_workers_on_a_dask_cluster(shared_project):
    """Of two machines one is lost: the other one does its trials as well."""
    distributed = pytest.importorskip("distributed")
    project, name = shared_project, "dask"
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", security=None
    ) as cluster:
        options = ["--n-trials", "12", "--study-name", name, "--workers", "2"]
        worker = start(project, *options, "--dask-scheduler", cluster.scheduler_address)
        wait_for_trials(project, lambda trials: len(finished(trials)) >= 3, name)
        next(iter(cluster.workers.values())).process.process._process.kill()
        finish(worker)
    check(project, 12, name)


def refusal(project, *options, **variables):
    """What a worker says that must fail: soon, and not after the minutes that MLflow would try for by itself."""
    worker = start(project, *options, **variables)
    said = worker.communicate(timeout=60)[1]  # 15 seconds at most, and the start on a busy machine
    assert worker.returncode == 1
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if not line.startswith("INFO")]
    assert len(lines) == 1, said
    return lines[0]


def silent_port():
    """A port that takes connections and never answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def test_unreachable_database(prepared):
    address = f"postgresql://someone:secret@127.0.0.1:{servers.free_port()}/optuna"
    line = refusal(prepared, "--storage", address)
    assert line.startswith("postgresql://127.0.0.1")
    assert "Connection refused" in line
    assert "secret" not in line
    with silent_port() as listener:
        line = refusal(prepared, "--storage", f"postgresql://127.0.0.1:{listener.getsockname()[1]}/optuna")
        assert "timeout expired" in line
    assert prepared.runs("tags.step = 'hyperparameters_tuning'", status=None) == []


def test_unreachable_tracking_server(prepared):
    address = f"http://127.0.0.1:{servers.free_port()}"
    assert address in refusal(prepared, MLFLOW_TRACKING_URI=address)


def test_storage_that_cannot_be_written(prepared):
    line = refusal(prepared, "--storage", str(prepared.folder / "nowhere" / "study.journal"))
    assert "nowhere/study.journal" in line
    assert "No such file or directory" in line


def test_other_ranges_are_refused(prepared):
    finish(start(prepared, "--n-trials", "1"))
    script = prepared.folder / "hyperparameters_tuning.py"
    script.write_text(script.read_text().replace('"max_depth", 2, 8', '"max_depth", 2, 12'))
    assert "other parameter ranges" in refusal(prepared, "--n-trials", "2")
    assert prepared.runs(status="RUNNING") == []
    check(prepared, 1)


def test_other_data_are_refused(prepared):
    finish(start(prepared, "--n-trials", "1", "--study-name", "mine"))
    assert prepared.run("python", "data_preprocessing.py", "--test-size", "0.5").returncode == 0
    assert "--study-name" in refusal(prepared, "--n-trials", "2", "--study-name", "mine")


def test_run_that_is_gone(prepared):
    finish(start(prepared, "--n-trials", "1"))
    parent, _ = check(prepared, 1)
    prepared.client.delete_run(parent.info.run_id)
    assert parent.info.run_id in refusal(prepared, "--n-trials", "1")


@pytest.mark.parametrize(("option", "value"), [("--workers", "0"), ("--dask-scheduler", "tcp://127.0.0.1:9")])
def test_wrong_option(prepared, option, value):
    assert value.split(":")[0] in refusal(prepared, option, value)
    assert prepared.runs("tags.step = 'hyperparameters_tuning'") == []
    assert prepared.runs(status="RUNNING") == []
