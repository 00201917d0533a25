"""The search: in memory, and on a journal file or a real PostgreSQL: gone on with, shared, killed, refused in one line."""

import re
import shutil
import signal
import socket
import time

import optuna
import postgres
import pytest
from optuna.trial import TrialState
from support import succeed, wait_until

import utils
from cli import StepError

pytestmark = pytest.mark.slow

SEARCH = ["python", "-m", "steps.hyperparameters_tuning"]


def study(storage):
    """The only study of a storage."""
    return optuna.load_study(study_name=None, storage=utils.open_storage(str(storage)))


def complete(storage):
    """Its finished trials."""
    return study(storage).get_trials(states=[TrialState.COMPLETE])


def all_differ(trials):
    return len({str(trial.params) for trial in trials}) == len(trials)


def made_in(project, search):
    """The runs of the trials that a search made, the first one first."""
    return project.runs(f"tags.mlflow.parentRunId = '{search.info.run_id}'")[::-1]


def test_same_seed_same_trials(trained, tmp_path):
    """Without a storage nothing is kept but the runs, and a second search begins with the same trials."""
    project = trained.copy(tmp_path)
    first = project.newest("hyperparameters_tuning")
    said, training_said = project.steps("hyperparameters_tuning --n-trials 4", "model_training")
    second = project.newest("hyperparameters_tuning")
    params = [[run.data.params for run in made_in(project, search)] for search in [first, second]]
    assert [len(trials) for trials in params] == [2, 4]
    assert params[0] == params[1][:2]
    assert len({str(trial) for trial in params[1]}) == 4
    assert "study" not in second.data.tags
    assert list(project.folder.glob("*journal*")) == []

    # the search has the best of its trials, each trial a curve per round
    best = min(made_in(project, second), key=lambda run: run.data.metrics["logloss"])
    rounds = int(best.data.metrics["num_boost_round"])
    assert second.data.params == {**best.data.params, "num_boost_round": str(rounds)}
    for name in ["logloss", "auc", "accuracy"]:
        assert second.data.metrics[name] == pytest.approx(best.data.metrics[name])
    curve = project.client.get_metric_history(best.info.run_id, "logloss")
    assert [metric.step for metric in curve] == list(range(1, rounds + 1))
    assert f"best of 4 trials: log loss {best.data.metrics['logloss']:.4f}" in said

    # training takes the search that ended last, and says which
    assert f"Cancer: using Hyperparameters_Search {second.info.run_id} of" in training_said
    training = project.newest("model_training").data
    assert training.tags["tuning_run_id"] == second.info.run_id
    for name, value in best.data.params.items():
        assert float(training.params[name]) == pytest.approx(float(value))


# --- With a storage


@pytest.fixture(scope="module")
def studied(trained, tmp_path_factory):
    """A project with a study of two trials in `my study.journal`."""
    project = trained.copy(tmp_path_factory.mktemp("studied"))
    project.steps("hyperparameters_tuning --n-trials 2 --storage 'my study.journal'")
    return project


@pytest.fixture
def project(studied, tmp_path):
    """A copy of it; `journal` is the path of the study."""
    project = studied.copy(tmp_path)
    project.journal = tmp_path / "my study.journal"
    shutil.copy(studied.folder / "my study.journal", project.journal)
    return project


@pytest.fixture(scope="module")
def database():
    """The URL of a PostgreSQL with the empty database `optuna`."""
    if not postgres.find_programs():
        pytest.skip("PostgreSQL is not installed")
    with postgres.server() as url:
        yield url


def test_search_goes_on(project):
    """A second start repeats nothing; more trials are nested in a run of their own. `~` and relative paths are that file."""
    first = project.newest("hyperparameters_tuning")
    assert re.fullmatch(r"tuning-[0-9a-f]{8}", first.data.tags["study"])
    search = "hyperparameters_tuning --n-trials 2 --storage '~/my study.journal'"
    (said,) = project.steps(search, HOME=str(project.folder))
    second = project.newest("hyperparameters_tuning")
    assert f"The study is in {project.journal}" in said
    assert made_in(project, second) == []
    assert len(study(project.journal).get_trials()) == 2

    command = ["mlflow", "run", "..", "-e", "hyperparameters-tuning", "--env-manager", "local", "-Pn-trials=5"]
    options = {"cwd": project.folder / "steps", "MLFLOW_TRACKING_URI": project.uri}
    succeed(project.run(*command, f"-Pstorage={project.journal}", **options))
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


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_two_workers_one_killed_and_another_start(project, request, kind):
    """The same command three times; what was killed harms nothing, and the number of trials is reached.

    On a database a worker repeats the trial of the killed one when its heartbeat has stopped.
    """
    settings = project.folder / "utils.py"
    text = settings.read_text()
    changed = text.replace('"heartbeat_interval": 5, "grace_period": 15', '"heartbeat_interval": 1, "grace_period": 2')
    assert changed != text
    settings.write_text(changed)
    storage, options = project.journal, ["--n-trials", 12, "--storage", project.journal]
    if kind == "database":
        storage = f"{request.getfixturevalue('database')}/optuna"
        options = ["--n-trials", 12, "--storage", storage, "--study-name", "shared"]
        project.steps(f"hyperparameters_tuning --n-trials 2 --storage {storage} --study-name shared")
    known = {run.info.run_id for run in project.runs("tags.step = 'hyperparameters_tuning'")}
    victim = project.start(*SEARCH, *options)
    wait_until(lambda: victim.poll() is not None or len(complete(storage)) > 2)
    assert victim.poll() is None, victim.said()
    victim.send_signal(signal.SIGSTOP)  # so that we know which trial it is in
    running = {"states": [TrialState.RUNNING]}
    while not (lost := [trial for trial in study(storage).get_trials(**running) if len(trial.params) == 4]):
        # it was between two, or had not yet drawn all parameters, by which we know it again
        victim.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        victim.send_signal(signal.SIGSTOP)
    victim.kill()
    victim.wait(60)
    assert len(complete(storage)) < 12
    time.sleep(2)  # the grace period
    workers = [project.start(*SEARCH, *options) for _ in range(2)]
    assert [worker.wait(300) for worker in workers] == [0, 0], [worker.said() for worker in workers]

    trials = complete(storage)
    assert 12 <= len(trials) <= 13  # at most one more per further worker
    assert all_differ(trials)
    if kind == "database":
        assert study(storage).trials[lost[0].number].state == TrialState.FAIL
        assert len([trial for trial in trials if lost[0].params.items() <= trial.params.items()]) == 1
    searches = project.runs("tags.step = 'hyperparameters_tuning'", status=None)
    new = [run for run in searches if run.info.run_id not in known]
    assert sorted(run.info.status for run in new) == ["FINISHED", "FINISHED", "RUNNING"]
    assert {run.data.tags["study"] for run in new} == {study(storage).study_name}
    made = [len(made_in(project, run)) for run in new]
    assert min(made) > 0
    assert sum(made) == len(trials) - 2
    # a finished search has written the best of the study, and the training takes the best of all searches
    searches = [run for run in searches if run.info.status == "FINISHED"]
    assert min(run.data.metrics["logloss"] for run in searches if run in new) == min(trial.value for trial in trials)
    project.steps("model_training")
    tuning = project.client.get_run(project.newest("model_training").data.tags["tuning_run_id"])
    assert tuning.data.metrics["logloss"] == min(run.data.metrics["logloss"] for run in searches)


def test_best_of_the_study_on_these_data_only(project):
    """A study of the same name in another file, on other data, is none of the training's business."""
    other = [run.info.run_id for run in project.runs("tags.step = 'hyperparameters_tuning'")]
    name = study(project.journal).study_name
    for run_id in other:
        project.client.log_metric(run_id, "logloss", 0.0)  # better than any
    search = f"hyperparameters_tuning --n-trials 1 --storage other.journal --study-name {name}"
    project.steps("data_preprocessing --test-size 0.2", search, "model_training")
    first = project.newest("hyperparameters_tuning").info.run_id
    assert project.newest("model_training").data.tags["tuning_run_id"] == first
    # of the searches of one study the best counts, not the last, unless one is named
    project.client.log_metric(first, "logloss", 0.0)
    project.steps(search, "model_training")
    last = project.newest("hyperparameters_tuning").info.run_id
    assert project.newest("model_training").data.tags["tuning_run_id"] == first != last
    project.steps(f"model_training --tuning-run-id {last}")
    assert project.newest("model_training").data.tags["tuning_run_id"] == last


def test_studies_of_others_are_refused(project, tmp_path):
    """One that says nothing about itself, or looks for the largest value: its best trial is not ours."""
    storage = utils.open_storage(str(tmp_path / "others.journal"))
    silent = optuna.create_study(storage=storage, study_name="silent")
    silent.add_trial(optuna.trial.create_trial(value=0.9))
    optuna.create_study(storage=storage, study_name="upward", direction="maximize")
    optuna.create_study(storage=storage, study_name="both", directions=["minimize", "minimize"])
    options = f"hyperparameters_tuning --n-trials 3 --storage '{tmp_path}/others.journal' --study-name"
    for line, _ in project.try_steps(*(f"{options} {name}" for name in ["silent", "upward", "both"])):
        assert line.endswith("give another study-name.")


def test_other_data_or_ranges_are_refused(project):
    """Under the name of a study, that is; without a name other data have a study of their own."""
    name = study(project.journal).study_name
    search = f"hyperparameters_tuning --n-trials 3 --storage '{project.journal}' --study-name {name}"
    own_study = f"hyperparameters_tuning --n-trials 1 --storage '{project.journal}'"
    known = len(project.runs(status=None))
    script = project.folder / "steps" / "hyperparameters_tuning.py"
    text = script.read_text()
    script.write_text(text.replace('"max_depth": [2, 3]', '"max_depth": [2, 12]'))
    ((ranges, _),) = project.try_steps(search)
    assert "[2, 12]" in ranges
    assert len(project.runs(status=None)) == known
    script.write_text(text)
    tried = project.try_steps("data_preprocessing --test-size 0.2", search, own_study)
    for line in [ranges, tried[1][0]]:
        assert line.startswith(f"Study {name} is about ")
        assert line.endswith("give another study-name.")
    assert tried[2][0] == ""
    studies = optuna.get_all_study_summaries(utils.open_storage(str(project.journal)))
    assert {each.study_name: each.n_trials for each in studies}.pop(name) == 2
    assert len(studies) == 2


def test_journal_that_ends_in_half_a_line(project):
    """As after a kill while it was written: one line with the remedy, and the remedy works."""
    with open(project.journal, "a") as journal:
        journal.write('{"op_code": 5, "worker_id": "')
    search = f"hyperparameters_tuning --n-trials 2 --storage '{project.journal}'"
    ((line, _),) = project.try_steps(search)
    succeed(project.run("sh", "-c", re.search(r"remove it: (sed .*)$", line)[1]))
    assert len(complete(project.journal)) == 2


# --- Storages that cannot be used


WRONG_STORAGES = {
    "nowhere/a.journal": "No such file or directory",
    ".": "Is a directory",
    "garbage": "Expecting value",
    "sqlite:///garbage": "file is not a database",
    "nosuchkind://someone:secret@127.0.0.1/optuna": "nosuchkind",
    "mysql://someone:secret@127.0.0.1/optuna": "Please install",
    "postgresql://someone:secret@127.0.0.1:1/optuna": "Connection refused.* Start the server, or correct its address.",
}


@pytest.mark.parametrize(("address", "words"), WRONG_STORAGES.items())
def test_wrong_storage(tmp_path, monkeypatch, address, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "garbage").write_bytes(b"no database and no journal\n" * 100)
    with pytest.raises(StepError, match=words) as caught:
        utils.open_storage(address).get_all_studies()
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert "secret" not in line
    assert [path.name for path in tmp_path.rglob("*")] == ["garbage"]


def test_silent_database():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(StepError, match="timeout expired"):
            utils.open_storage(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/optuna")
    assert time.monotonic() - began < 15
