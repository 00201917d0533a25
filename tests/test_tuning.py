"""The search: alone and in memory, and with a storage: gone on with, shared, killed, or refused in one line.

On a journal file, and on a real PostgreSQL with a real tracking server.
"""

import re
import shutil
import signal
import socket
import time

import mlflow
import optuna
import postgres
import pytest
from optuna.trial import TrialState
from support import EXPERIMENT, Project, refusal, succeed, tracking_server, wait_until

import servers
import utils
from cli import StepError

SEARCH = ["python", "-m", "steps.hyperparameters_tuning"]


def study(storage):
    """The only study of a storage."""
    return optuna.load_study(study_name=None, storage=utils.open_storage(str(storage)))


def complete(storage):
    """Its finished trials."""
    return study(storage).get_trials(states=[TrialState.COMPLETE])


def all_differ(trials):
    return len({str(trial.params) for trial in trials}) == len(trials)


def made_in(project, search, status="FINISHED"):
    """The runs of the trials that a search made, the first one first."""
    return project.runs(f"tags.mlflow.parentRunId = '{search.info.run_id}'", status)[::-1]


# --- In memory


@pytest.mark.slow
def test_same_seed_same_trials(trained, tmp_path):
    """Without a storage nothing is kept but the runs, and a second search begins with the same trials."""
    project = trained.copy(tmp_path)
    first = project.newest("hyperparameters_tuning")
    said = succeed(project.step("hyperparameters_tuning", "--n-trials", 4))
    second = project.newest("hyperparameters_tuning")
    params = [[run.data.params for run in made_in(project, search)] for search in [first, second]]
    assert [len(trials) for trials in params] == [2, 4]
    assert params[0] == params[1][:2]
    assert len({str(trial) for trial in params[1]}) == 4
    assert "study" not in second.data.tags
    assert list(project.folder.glob("*journal*")) == []

    # the search has the best of its trials, each trial a curve per round
    trials = made_in(project, second)
    best = min(trials, key=lambda run: run.data.metrics["logloss"])
    rounds = int(best.data.metrics["num_boost_round"])
    assert second.data.params == {**best.data.params, "num_boost_round": str(rounds)}
    for name in ["logloss", "auc", "accuracy"]:
        assert second.data.metrics[name] == pytest.approx(best.data.metrics[name])
    curve = project.client.get_metric_history(best.info.run_id, "logloss")
    assert [metric.step for metric in curve] == list(range(1, rounds + 1))
    assert f"best of 4 trials: log loss {best.data.metrics['logloss']:.4f}" in said

    # training takes the search that ended last, and says which
    said = succeed(project.step("model_training"))
    assert f"Cancer: using Hyperparameters_Search {second.info.run_id} of" in said
    training = project.newest("model_training").data
    assert training.tags["tuning_run_id"] == second.info.run_id
    assert training.params["max_depth"] == best.data.params["max_depth"]


# --- On a journal file


@pytest.fixture(scope="module")
def studied(trained, tmp_path_factory):
    """A project with a study of two trials in `my study.journal`."""
    project = trained.copy(tmp_path_factory.mktemp("studied"))
    succeed(project.step("hyperparameters_tuning", "--n-trials", 2, "--storage", "my study.journal"))
    return project


@pytest.fixture
def project(studied, tmp_path):
    """A copy of it; `journal` is the path of the study."""
    project = studied.copy(tmp_path)
    project.journal = tmp_path / "my study.journal"
    shutil.copy(studied.folder / "my study.journal", project.journal)
    return project


@pytest.mark.slow
def test_search_goes_on(project):
    """A second start repeats nothing; more trials are nested in a run of their own. `~` and relative paths are that file."""
    first = project.newest("hyperparameters_tuning")
    assert re.fullmatch(r"tuning-[0-9a-f]{8}", first.data.tags["study"])
    options = ["--n-trials", 2, "--storage", "~/my study.journal"]
    said = succeed(project.step("hyperparameters_tuning", *options, HOME=str(project.folder)))
    second = project.newest("hyperparameters_tuning")
    assert f"The study is in {project.journal}" in said
    assert made_in(project, second) == []
    assert len(study(project.journal).get_trials()) == 2

    subfolder = project.folder / "steps"
    command = ["mlflow", "run", "..", "-e", "hyperparameters-tuning", "--env-manager", "local", "-Pn-trials=5"]
    store = {"MLFLOW_TRACKING_URI": project.uri}
    succeed(project.run(*command, f"-Pstorage={project.journal}", cwd=subfolder, **store))
    third = project.newest("hyperparameters_tuning")
    assert [len(made_in(project, search)) for search in [first, second, third]] == [2, 0, 3]
    assert len(complete(project.journal)) == 5
    assert all_differ(complete(project.journal))
    assert {search.data.tags["study"] for search in [first, second, third]} == {study(project.journal).study_name}
    # each writes the best of the whole study at its end
    for search, number in [(first, 2), (second, 2), (third, 5)]:
        best = min(complete(project.journal)[:number], key=lambda trial: trial.value)
        assert search.data.metrics["logloss"] == best.value
        assert {name: float(search.data.params[name]) for name in best.params} == pytest.approx(best.params)


@pytest.mark.slow
def test_two_workers_one_killed_and_another_start(project):
    """The same command three times; what was killed harms nothing, and the number of trials is reached."""
    command = [*SEARCH, "--n-trials", 12, "--storage", project.journal]
    known = {run.info.run_id for run in project.runs("tags.step = 'hyperparameters_tuning'", status=None)}
    victim = project.start(*command)
    wait_until(lambda: len(complete(project.journal)) > 2)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait(60) == -signal.SIGKILL
    assert len(complete(project.journal)) < 12
    workers = [project.start(*command), project.start(*command)]
    assert [worker.wait(300) for worker in workers] == [0, 0], [worker.said() for worker in workers]

    trials = complete(project.journal)
    assert 12 <= len(trials) <= 13  # at most one more per further worker
    assert all_differ(trials)
    new = [
        run for run in project.runs("tags.step = 'hyperparameters_tuning'", status=None) if run.info.run_id not in known
    ]
    assert sorted(run.info.status for run in new) == ["FINISHED", "FINISHED", "RUNNING"]
    assert {run.data.tags["study"] for run in new} == {study(project.journal).study_name}
    made = [len(made_in(project, run)) for run in new]
    assert min(made) > 0
    assert sum(made) == len(trials) - 2

    # training takes the best that a finished search of the study has written
    succeed(project.step("model_training"))
    finished = [run for run in project.runs("tags.step = 'hyperparameters_tuning'") if "study" in run.data.tags]
    best = min(run.data.metrics["logloss"] for run in finished)
    assert best == min(trial.value for trial in trials)
    tuning = project.client.get_run(project.newest("model_training").data.tags["tuning_run_id"])
    assert tuning.data.metrics["logloss"] == best


@pytest.mark.slow
def test_best_of_the_study_on_these_data_only(project):
    """A study of the same name in another file, on other data, is none of the training's business."""
    other = [run.info.run_id for run in project.runs("tags.step = 'hyperparameters_tuning'")]
    name = study(project.journal).study_name
    for run_id in other:
        project.client.log_metric(run_id, "logloss", 0.0)  # better than any
    succeed(project.step("data_preprocessing", "--test-size", 0.2))
    options = ["--n-trials", 1, "--storage", "other.journal", "--study-name", name]
    succeed(project.step("hyperparameters_tuning", *options))
    succeed(project.step("model_training"))
    first = project.newest("hyperparameters_tuning").info.run_id
    assert project.newest("model_training").data.tags["tuning_run_id"] == first
    # of the searches of one study the best counts, not the last
    succeed(project.step("hyperparameters_tuning", *options))
    project.client.log_metric(first, "logloss", 0.0)
    succeed(project.step("model_training"))
    assert project.newest("hyperparameters_tuning").info.run_id != first
    assert project.newest("model_training").data.tags["tuning_run_id"] == first


@pytest.mark.slow
def test_other_data_or_ranges_are_refused(project):
    """Under the name of a study, that is; without a name other data have a study of their own."""
    name = study(project.journal).study_name
    options = ["--n-trials", 3, "--storage", project.journal, "--study-name", name]
    known = len(project.runs(status=None))
    script = project.folder / "steps" / "hyperparameters_tuning.py"
    text = script.read_text()
    script.write_text(text.replace('"max_depth": [2, 3]', '"max_depth": [2, 12]'))
    line = refusal(project.step("hyperparameters_tuning", *options))
    assert line.startswith(f"Study {name} is about ")
    assert "[2, 12]" in line
    assert line.endswith("give another study-name.")
    script.write_text(text)
    assert len(project.runs(status=None)) == known

    succeed(project.step("data_preprocessing", "--test-size", 0.2))
    line = refusal(project.step("hyperparameters_tuning", *options))
    assert line.startswith(f"Study {name} is about ")
    assert line.endswith("give another study-name.")
    assert len(complete(project.journal)) == 2
    succeed(project.step("hyperparameters_tuning", "--n-trials", 1, "--storage", project.journal))
    assert len(optuna.get_all_study_names(utils.open_storage(str(project.journal)))) == 2


@pytest.mark.slow
def test_journal_that_ends_in_half_a_line(project):
    """As after a kill while it was written: one line with the remedy, and the remedy works."""
    with open(project.journal, "a") as journal:
        journal.write('{"op_code": 5, "worker_id": "')
    options = ["--n-trials", 2, "--storage", project.journal]
    line = refusal(project.step("hyperparameters_tuning", *options))
    remedy = re.search(r"remove it: (sed .*)$", line)[1]
    succeed(project.run("sh", "-c", remedy))
    assert len(complete(project.journal)) == 2
    succeed(project.step("hyperparameters_tuning", *options))


@pytest.mark.slow
def test_sqlite_as_storage(project):
    """A database that is a file is one more kind of storage."""
    options = ["--n-trials", 1, "--storage", "sqlite:///optuna.db"]
    succeed(project.step("hyperparameters_tuning", *options))
    assert len(complete(f"sqlite:///{project.folder}/optuna.db")) == 1


# --- Storages that cannot be used


def garbage(folder):
    (folder / "garbage").write_bytes(b"no database and no journal\n" * 100)
    return folder / "garbage"


WRONG_STORAGES = {
    "no such folder": (lambda folder: folder / "nowhere" / "a.journal", "No such file or directory"),
    "a folder": (lambda folder: folder, "Is a directory"),
    "no journal": (garbage, "Expecting value"),
    "no database": (lambda folder: f"sqlite:///{garbage(folder)}", "file is not a database"),
    "no such kind": (lambda folder: "nosuchkind://someone:secret@127.0.0.1/optuna", "nosuchkind"),
    "no driver": (lambda folder: "mysql://someone:secret@127.0.0.1/optuna", "Please install"),
    "down": (
        lambda folder: f"postgresql://someone:secret@127.0.0.1:{servers.free_port()}/optuna",
        "Connection refused",
    ),
}


@pytest.mark.parametrize(("storage", "words"), WRONG_STORAGES.values(), ids=WRONG_STORAGES)
def test_wrong_storage(tmp_path, storage, words):
    address = str(storage(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StepError) as caught:
        utils.open_storage(address).get_all_studies()
    line = str(caught.value)
    assert words in line
    assert len(line.splitlines()) == 1
    assert not {"secret", "MLFLOW_TRACKING_URI", "mlflow.db"} & set(re.findall(r"[\w.]+", line))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_silent_database():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(StepError, match="timeout expired"):
            utils.open_storage(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/optuna")
    assert time.monotonic() - began < 15


@pytest.mark.slow
def test_wrong_storage_of_a_step(project):
    known = len(project.runs(status=None))
    options = ["--storage", f"postgresql://someone:secret@127.0.0.1:{servers.free_port()}/optuna"]
    line = refusal(project.step("hyperparameters_tuning", *options))
    assert line.startswith("postgresql://127.0.0.1")
    assert line.endswith("Start the server, or correct its address.")
    assert "secret" not in line
    assert len(project.runs(status=None)) == known


# --- On PostgreSQL, with a tracking server


@pytest.fixture(scope="module")
def database():
    """The URL of a PostgreSQL with the empty databases `optuna` and `mlflow`."""
    if not postgres.find_programs():
        pytest.skip("PostgreSQL is not installed")
    with postgres.server() as url:
        yield url


@pytest.mark.slow
def test_workers_on_a_database(database, tmp_path):
    """Of two workers one is killed: the other one repeats its trial when the heartbeat has stopped."""
    project = Project(tmp_path)
    settings = project.folder / "utils.py"
    text = settings.read_text()
    changed = text.replace('"heartbeat_interval": 5, "grace_period": 15', '"heartbeat_interval": 1, "grace_period": 2')
    assert changed != text
    settings.write_text(changed)
    storage = f"{database}/optuna"
    with tracking_server(f"{database}/mlflow", tmp_path / "artifacts") as address:
        client, store = mlflow.MlflowClient(address), {"MLFLOW_TRACKING_URI": address}
        succeed(project.step("data_preprocessing", **store))
        command = [*SEARCH, "--storage", storage, "--n-trials"]
        victim = project.start(*command, 1000, **store)
        wait_until(lambda: victim.poll() is not None or optuna.get_all_study_names(storage))
        wait_until(lambda: victim.poll() is not None or len(complete(storage)) >= 2)
        assert victim.poll() is None, victim.said()
        victim.send_signal(signal.SIGSTOP)  # so that we know which trial it is in
        while not [trial for trial in study(storage).get_trials(states=[TrialState.RUNNING]) if len(trial.params) == 4]:
            # it was between two, or had not yet drawn all parameters, by which we know it again
            victim.send_signal(signal.SIGCONT)
            time.sleep(0.1)
            victim.send_signal(signal.SIGSTOP)
        (lost,) = study(storage).get_trials(states=[TrialState.RUNNING])
        victim.kill()
        victim.wait(60)
        time.sleep(2)  # the grace period
        n_trials = len(complete(storage)) + 5
        workers = [project.start(*command, n_trials, **store) for _ in range(2)]
        assert [worker.wait(300) for worker in workers] == [0, 0], [worker.said() for worker in workers]

        trials = study(storage).get_trials()
        finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        assert n_trials <= len(finished) <= n_trials + 1
        assert all_differ(finished)
        assert trials[lost.number].state == TrialState.FAIL
        again = [trial for trial in finished if lost.params.items() <= trial.params.items()]
        assert len(again) == 1
        assert [
            trial
            for trial in trials
            if optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(trial) == lost.number
        ]

        experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
        searches = client.search_runs([experiment], "tags.step = 'hyperparameters_tuning'")
        assert sorted(run.info.status for run in searches) == ["FINISHED", "FINISHED", "RUNNING"]
        assert {run.data.tags["study"] for run in searches} == {study(storage).study_name}
        succeed(project.step("model_training", **store))
        (training,) = client.search_runs([experiment], "tags.step = 'model_training'")
        best = client.get_run(training.data.tags["tuning_run_id"])
        assert best.data.metrics["logloss"] == min(trial.value for trial in finished)
    assert not (tmp_path / "mlflow.db").exists()
