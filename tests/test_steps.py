"""The steps: which runs and data they take, what the gate lets through, and what they say to wrong input."""

import json
import re
import shutil
import socket
import subprocess

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression
from support import BOOSTER_MODEL, EXPERIMENT, MODEL, ROOT, STEPS, only_line, succeed, wait_until

import config
import servers

pytestmark = pytest.mark.slow

WINE = "wineModel"  # a model of wine.csv
WINE_CSV = "--dataset wine.csv --target grower"


def test_help(empty_project):
    said = " ".join(empty_project.step("pipeline", "--help").stdout.split())
    declared_for = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]["main"]["parameters"]
    for name, declared in declared_for.items():
        assert f"--{name} " in said
        assert f"{declared['description']} (default: {declared['default'] or 'none'})" in said


# --- Each step alone


def test_mlflow_run_makes_one_run_per_step(trained):
    """Without a word about the experiment it is in MLflow's default one; the script joins it and gives it its name."""
    runs = [run for run in trained.runs(status=None)[::-1] if "mlflow.parentRunId" not in run.data.tags]
    assert [run.data.tags["step"] for run in runs] == STEPS[:3]
    data, tuning, training = runs
    for run, name in zip(runs, ["Data_Preprocessing", "Hyperparameters_Search", "Model_Training"], strict=True):
        assert (run.info.run_name, run.info.status, run.info.experiment_id) == (name, "FINISHED", "0")
        assert run.data.tags.get("data_run_id", data.info.run_id) == data.info.run_id
        assert "breast cancer, 341 training rows, digest " in run.data.tags["data"]
        assert run.data.tags["data"].endswith(", class 1 is 'malignant'")
    assert data.data.metrics == {"full_rows": 569, "train_rows": 341, "test_rows": 228, "test_rows_in_training": 0}
    assert training.data.tags["tuning_run_id"] == tuning.info.run_id
    assert not [name for name in training.data.metrics if "test" in name]  # the test set stays unseen
    # what they worked on are the same rows
    digests = [{item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs} for run in runs]
    assert digests == [digests[0], {"train": digests[0]["train"]}, digests[0]]
    assert trained.registry() == {BOOSTER_MODEL: ([1], {}), MODEL: ([1], {})}


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """The same with the model of the first training as champion."""
    project = trained.copy(tmp_path_factory.mktemp("evaluated"))
    (said,) = project.steps("data_evaluation")
    assert "version 1 on 228 rows of runs:/" in said
    assert project.registry()[MODEL] == ([1], {config.CHAMPION: 1})
    return project


def test_git_url_from_an_empty_folder(empty_project, tmp_path_factory):
    """A colleague without a clone gets runs and files in the folder in which he is, and nothing else there."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost"]
    for words in ["init -q", "add -A", "commit -qm .", "clone -q --bare . p.git"]:
        succeed(empty_project.run(*git, *words.split()))
    head = empty_project.run("git", "rev-parse", "HEAD").stdout.strip()
    port, empty = servers.free_port(), tmp_path_factory.mktemp("empty")
    url, base = f"git://127.0.0.1:{port}/p.git", f"--base-path={empty_project.folder}"
    with subprocess.Popen(["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all", base]) as server:
        try:
            wait_until(lambda: subprocess.run(["git", "ls-remote", url], capture_output=True).returncode == 0)
            command = ["mlflow", "run", url, "-e", "data-preprocessing", "--env-manager", "local"]
            succeed(empty_project.run(*command, cwd=empty))
        finally:
            server.terminate()
    assert {path.name for path in empty.iterdir()} == {"mlflow.db", "mlruns"}
    empty_project.folder = empty
    assert empty_project.newest("data_preprocessing").data.tags["mlflow.source.git.commit"] == head


# --- Which run, which data


def test_which_experiment(trained, tmp_path):
    """The run that ended last is taken, wherever it is; where the user has chosen an experiment, only that one counts."""
    project, mine = trained.copy(tmp_path), {"MLFLOW_EXPERIMENT_NAME": "mine"}

    def experiment(run):
        return project.client.get_experiment(run.info.experiment_id).name

    commands = ["hyperparameters_tuning", "data_preprocessing --test-size 0.2"]
    refused, made = [error for error, _ in project.try_steps(*commands, **mine)]
    assert "in the experiment that you have chosen" in refused and made == ""
    my_data = project.newest("data_preprocessing")
    project.steps("data_preprocessing --test-size 0.3")
    data = project.newest("data_preprocessing")
    assert [experiment(my_data), experiment(data)] == ["mine", EXPERIMENT]
    # a script wrote the data into the project's experiment, and `mlflow run` searches in Default
    said = succeed(project.mlflow_run("hyperparameters-tuning", n_trials=1))
    search = project.newest("hyperparameters_tuning")
    assert (experiment(search), search.data.tags["data_run_id"]) == ("Default", data.info.run_id)
    assert f"Cancer: using Data_Preprocessing {data.info.run_id} of" in said
    assert "breast cancer, 398 training rows, digest " in said
    # by number or by name, for scripts and for `mlflow run`
    project.steps("hyperparameters_tuning --n-trials 1", MLFLOW_EXPERIMENT_ID=my_data.info.experiment_id)
    my_search = project.newest("hyperparameters_tuning")
    assert (experiment(my_search), my_search.data.tags["data_run_id"]) == ("mine", my_data.info.run_id)
    succeed(project.mlflow_run("model-training", "--experiment-name", "mine"))
    training = project.newest("model_training")
    assert (experiment(training), training.data.tags["data_run_id"]) == ("mine", my_data.info.run_id)
    assert training.data.tags["tuning_run_id"] == my_search.info.run_id


def test_named_runs(trained, tmp_path):
    """Training takes the runs that it is told, though there are newer ones, or says in one line what is wrong."""
    project = trained.copy(tmp_path)
    old_data, old_tuning = [project.newest(step).info.run_id for step in STEPS[:2]]
    project.steps("data_preprocessing --test-size 0.2")
    new = project.newest("data_preprocessing").info.run_id
    mixed, old = f"--data-run-id {new} --tuning-run-id {old_tuning}", f"--data-run-id {old_data}"
    tried = project.try_steps("model_training", f"model_training {mixed}", f"model_training {old}")
    assert f"no finished run with step hyperparameters_tuning and data_run_id {new}. First run: mlflow" in tried[0][0]
    assert f"Run {old_tuning} has data_run_id {old_data}, not {new}." in tried[1][0]
    tags = project.newest("model_training").data.tags
    assert (tags["data_run_id"], tags["tuning_run_id"]) == (old_data, old_tuning)


# --- Data of one's own, in a store that has the cancer champion


def wine():
    """Wines of two classes in words, with a feature in words, row numbers and missing values."""
    frame = load_wine(as_frame=True).frame.rename(columns={"target": "grower"})
    frame["grower"] = np.where(frame.grower == 1, "second grower", "other")
    frame["cellar"] = np.where(frame.proline > 700, "old", "new")
    frame.loc[::10, "malic_acid"] = np.nan
    frame["magnesium"] = frame["magnesium"].astype(int)
    return frame


@pytest.fixture(scope="module")
def own_data(evaluated, tmp_path_factory):
    """A pipeline on the wines, while somebody else prepares the cancer data; "other" is class 1 by choice."""
    project = evaluated.copy(tmp_path_factory.mktemp("own_data"))
    wine().to_csv(project.folder / "wine.csv")
    options = {"dataset": "wine.csv", "target": "grower", "positive-class": "other", "n-trials": 2, "test-size": 0.5}
    words = [f"-P{name}={value}" for name, value in options.items()]
    known = len(project.runs("tags.step = 'hyperparameters_tuning'", status=None))
    pipeline = project.start("mlflow", "run", ".", "--env-manager", "local", *words)
    wait_until(lambda: len(project.runs("tags.step = 'hyperparameters_tuning'", status=None)) > known)
    succeed(project.step("data_preprocessing"))
    assert pipeline.wait(300) == 0, pipeline.said()
    project.said = pipeline.said()
    return project


def test_pipeline_uses_what_it_made(own_data):
    pipeline = own_data.newest("pipeline")
    steps = own_data.runs(f"tags.mlflow.parentRunId = '{pipeline.info.run_id}'", status=None)[::-1]
    assert [run.data.tags["step"] for run in steps] == STEPS
    assert {run.info.status for run in steps} == {"FINISHED"}
    of = {run.data.tags["step"]: run for run in steps}
    data_run_id, training_run_id = of["data_preprocessing"].info.run_id, of["model_training"].info.run_id
    assert {run.data.tags.get("data_run_id", data_run_id) for run in steps} == {data_run_id}
    assert own_data.newest("data_preprocessing").info.run_id != data_run_id  # the newer one of somebody else
    # said in so many words, for the newer one could have come before the search
    assert of["hyperparameters_tuning"].data.params["data-run-id"] == data_run_id
    assert {run.data.tags.get("training_run_id", training_run_id) for run in steps} == {training_run_id}
    # it serves the version that it trained, on the rows that belong to it
    assert of["serving_check"].data.params["model_uri"] == f"models:/{WINE}/1"
    assert of["serving_check"].data.params["rows"] == "89"
    assert of["serving_check"].data.metrics["largest_difference"] < 1e-6
    forms = ["Booster", "XGBClassifier", "XGBClassifier as pyfunc", "registered"]
    times = of["flavour_comparison"].data.metrics
    assert set(times) == {f"ms_{rows}_rows/{form}" for rows in [1, 89] for form in forms}
    assert all(0 < value < 1000 for value in times.values())


def test_which_class_is_1(own_data):
    """The rarer is class 1 unless `positive-class` says otherwise; every step says it, and the model keeps it."""
    data_run = own_data.runs("tags.step = 'data_preprocessing' and params.data_source LIKE '%wine.csv'")[0]
    assert json.loads(data_run.data.tags["classes"]) == ["second grower", "other"]
    lines = [line for line in own_data.said.splitlines() if line.startswith("INFO: ") and "class 1 is 'other'" in line]
    for start in [f"{own_data.folder}", "wine: using Data_Preprocessing", "wine: using Model_Training", "version 1 on"]:
        assert [line for line in lines if line.startswith(f"INFO: {start}")], start
    test = pd.read_csv(own_data.client.download_artifacts(data_run.info.run_id, "datasets/test.csv"))
    assert [{*test.grower}, {*test.cellar}] == [{"second grower", "other"}, {"old", "new"}]  # as they stood in the file
    evaluation = own_data.newest("data_evaluation").data.metrics
    assert evaluation["true_positives"] + evaluation["false_negatives"] == (test.grower == "other").sum()
    assert own_data.client.get_model_version(WINE, "1").tags["classes"] == "['second grower', 'other']"


def test_other_columns_never_take_the_alias(evaluated, tmp_path):
    """Nor do other classes, as tests/test_utils.py has it. The ways out that the lines name work."""
    project = evaluated.copy(tmp_path)
    wine().to_csv(project.folder / "wine.csv")
    project.client.delete_run(project.newest("data_preprocessing").info.run_id)  # the way to free the name
    train = ["hyperparameters_tuning --n-trials 1", "model_training", "data_evaluation"]
    said = project.steps(f"data_preprocessing {WINE_CSV} --name Cancer", *train)
    assert "champion. The champion, version 1, cannot be compared: it has other columns or classes" in said[3]
    assert project.registry()[MODEL] == ([1, 2], {config.CHAMPION: 1})

    def decide_otherwise(said):
        mlflow.set_tracking_uri(project.uri)
        eval(re.search(r"To decide otherwise: (mlflow\.\S+\(.*\))$", said, re.MULTILINE)[1])
        mlflow.set_tracking_uri(None)

    decide_otherwise(said[3])
    assert project.registry()[MODEL][1] == {config.CHAMPION: 2}
    # the files of the champion are gone
    shutil.rmtree(project.model_folder(MODEL, 2))
    training = project.client.get_model_version(MODEL, 1).run_id
    (said,) = project.steps(f"data_evaluation --training-run-id {training}")
    assert "The champion, version 2, cannot be compared: models:/CancerModel/2 cannot be used: " in said
    assert project.registry()[MODEL][1] == {config.CHAMPION: 2}
    decide_otherwise(said)
    assert project.registry()[MODEL][1] == {config.CHAMPION: 1}


def test_two_data_sets_in_one_store(trained, tmp_path):
    """In turn, each has its own experiment, models and champion, and is never judged beside the other's."""
    project = trained.copy(tmp_path)
    wine().to_csv(project.folder / "wine.csv")
    shutil.copy(project.folder / "wine.csv", project.folder / "Cancer.csv")
    newer = breast_cancer().sample(frac=1, random_state=1)
    newer.assign(**{"mean area": newer["mean area"] + 0.1}).to_csv(project.folder / "newer.csv", index=False)
    cancer_training = project.newest("model_training").info.run_id
    train = ["hyperparameters_tuning --n-trials 1", "model_training", "data_evaluation"]
    said = project.steps(
        # cancer data and their model are there; the wines go on from what was made last
        f"data_preprocessing {WINE_CSV}",
        f"data_evaluation --training-run-id {cancer_training}",
        *train,
        # newer data of the same kind as the first
        "data_preprocessing --dataset newer.csv --name Cancer",
        *train,
        f"batch_scoring --input wine.csv --output out.csv --model-uri models:/{WINE}@champion",
    )
    assert "wine.csv: the data are called wine, and the model wineModel. Another one: give a `name`" in said[0]
    experiments = {experiment.experiment_id: experiment.name for experiment in project.client.search_experiments()}
    runs = [run for run in reversed(project.runs()) if "step" in run.data.tags]
    made = [(run.data.tags["name"], experiments[run.info.experiment_id]) for run in runs]
    assert {experiment for name, experiment in made if name == "wine"} == {"wine_Classification"}
    assert {experiment for name, experiment in made if name == "Cancer"} == {EXPERIMENT, "Default"}  # of `mlflow run`
    evaluations = [run.data for run in runs if run.data.tags["step"] == "data_evaluation"]
    before = [(run.tags["name"], run.tags["champion_before"]) for run in evaluations]
    assert before == [("Cancer", "None"), ("wine", "None"), ("Cancer", "1")]
    assert ["loss_above_champion" in run.metrics for run in evaluations] == [False, False, True]
    registry = project.registry()
    assert registry[WINE] == ([1], {config.CHAMPION: 1})
    assert registry[MODEL] == ([1, 2], {config.CHAMPION: int(evaluations[2].tags["champion_after"])})
    assert set(registry) == {MODEL, BOOSTER_MODEL, WINE, f"{WINE}Booster"}
    answers = [f"probability of {name}" for name in ["other", "second grower"]]
    assert set(answers) <= set(pd.read_csv(project.folder / "out.csv"))

    # a name stays with its data, however it comes about
    known = len(project.runs(status=None))
    tried = project.try_steps(
        f"data_preprocessing {WINE_CSV} --name Cancer",
        "data_preprocessing --dataset Cancer.csv --target grower",
        "data_preprocessing --name wine",
        f"data_preprocessing {WINE_CSV} --positive-class other",
    )
    for (line, _), name in zip(tried, ["Cancer", "Cancer", "wine", "wine"], strict=True):
        assert line.startswith(f"The name {name} is in use for data that differ in ")
        assert "\n" not in line
    assert len(project.runs(status=None)) == known
    assert {experiment.experiment_id for experiment in project.client.search_experiments()} == set(experiments)

    # a name of words survives `mlflow run`
    succeed(project.mlflow_run("data-preprocessing", dataset="wine.csv", target="grower", name="Red wines 2.0"))
    assert project.newest("data_preprocessing").data.tags["name"] == "Red wines 2.0"


# --- The gate


def breast_cancer():
    bunch = load_breast_cancer(as_frame=True)
    return bunch.frame.assign(target=bunch.target_names[bunch.target])


def logged(project, name):
    """A data set of the newest preparation, as it stood in the file."""
    run = project.newest("data_preprocessing")
    return pd.read_csv(project.client.download_artifacts(run.info.run_id, f"datasets/{name}.csv"))


def test_gate_stays_shut(evaluated, tmp_path):
    """Where a model misses the cancers it does not become champion; the message says why, and where that is set."""
    project = evaluated.copy(tmp_path)
    project.client.delete_registered_model_alias(MODEL, config.CHAMPION)
    test = logged(project, "test")
    test = test.assign(target=test.target.map({"benign": "malignant", "malignant": "benign"}))
    test.to_csv(project.folder / "with space.csv", index=False)
    (_, said), (refused, _) = project.try_steps("data_evaluation --eval-dataset 'with space.csv'", "serving_check")
    verdict = project.newest("data_evaluation").data.tags["gate"]
    assert verdict.startswith("failed: It is not clearly better than guessing")
    assert "Recall of malignant" in verdict
    (line,) = [line for line in said.splitlines() if "does not become the champion" in line]
    assert verdict.removeprefix("failed: ") in line and "config.py" in line
    assert project.client.get_model_version(MODEL, "1").tags["gate"] == verdict
    assert project.registry()[MODEL][1] == {}
    # whoever asks for the champion is told so
    assert refused.startswith(f"CancerModel has no version with the alias champion. Version 1: gate {verdict} ")
    assert refused.endswith(", or give models:/CancerModel/NUMBER")


def test_rows_seen_in_training_count_for_nothing(evaluated, tmp_path):
    """They are left out and their number is said; with fewer than 30 others the gate stays shut."""
    project = evaluated.copy(tmp_path)
    project.client.delete_registered_model_alias(MODEL, config.CHAMPION)
    train, test = logged(project, "train"), logged(project, "test")
    for new in [0, 29, 30]:
        pd.concat([test.head(new), train.head(50)]).to_csv(project.folder / f"{new}.csv", index=False)
    tried = project.try_steps(*[f"data_evaluation --eval-dataset {new}.csv" for new in [0, 29, 30]])
    assert tried[0][0].startswith("0.csv: 50 of the 50 rows were seen in training")
    evaluations = [run.data for run in project.runs("tags.step = 'data_evaluation'")[1::-1]]
    for new, (_, said), run in zip([29, 30], tried[1:], evaluations, strict=True):
        assert f"version 1 on {new} rows of {new}.csv" in said
        assert "50 others were seen in training and are left out" in said
        assert (run.metrics["rows_seen_in_training"], run.metrics["example_count"]) == (50, new)
    assert [run.tags["gate"] for run in evaluations] == ["failed: There are 29 rows to judge it on, not 30.", "passed"]
    assert [run.tags["champion_after"] for run in evaluations] == ["None", "1"]


def test_worse_model_does_not_replace_the_champion(empty_project):
    """Each is judged by its own features, on rows that neither was trained on.

    The newer one knows a word more, which comes first: with its list the champion would take b for c. It is better than
    guessing, though it has learnt from wrong answers.
    """
    project, rng, commands = empty_project, np.random.default_rng(0), []
    for name, words, wrong in [("old", [], 0), ("new", ["a"] * 8, 0.2), ("real", ["a"] * 8, 0)]:
        words = ["b", "c"] * 100 + words
        frame = pd.DataFrame({"word": words, "noise": rng.random(len(words))})
        frame["target"] = np.where((frame.word == "c") ^ (rng.random(len(frame)) < wrong), "yes", "no")
        frame.to_csv(project.folder / f"{name}.csv", index=False)
        if name != "real":
            commands += [f"data_preprocessing --dataset {name}.csv --name words", "hyperparameters_tuning --n-trials 1"]
            commands += ["model_training", "data_evaluation --eval-dataset real.csv"]
    files = [pd.read_csv(project.folder / f"{name}.csv") for name in ["real", "old", "new"]]
    pd.concat([files[0], files[1].tail(30), files[2].tail(50)]).to_csv(project.folder / "real.csv", index=False)
    said = project.steps(*commands)
    assert "is the champion" in said[3]
    newer, older = project.runs("tags.step = 'data_preprocessing'")
    trained_on = [project.client.download_artifacts(run.info.run_id, "datasets/train.csv") for run in [older, newer]]
    real, noise = pd.read_csv(project.folder / "real.csv"), [pd.read_csv(path).noise for path in trained_on]
    seen = [real.noise.isin(part).sum() for part in noise]
    assert min(seen) > 0
    (beside,) = project.runs("attributes.run_name = 'Champion_Version_1'")
    evaluation = project.newest("data_evaluation")
    metrics, theirs = evaluation.data.metrics, beside.data.metrics
    assert metrics["rows_seen_in_training"] == sum(seen)
    assert metrics["example_count"] == theirs["example_count"] == len(real) - sum(seen)
    assert theirs["accuracy_score"] > 0.9
    assert 0 < metrics["log_loss"] - theirs["log_loss"] == pytest.approx(metrics["loss_above_champion"], abs=1e-6)
    reason = f"Its log loss on the same rows is {metrics['log_loss']:.4f}, the champion's {theirs['log_loss']:.4f}."
    assert evaluation.data.tags["gate"] == f"failed: {reason}"
    assert "Version 2 does not become the champion" in said[7]
    assert project.registry()["wordsModel"] == ([1, 2], {config.CHAMPION: 1})


def test_random_labels_make_no_champion(empty_project):
    """The same rows five times over: each test row has its twin in the training data, which is said and opens nothing."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.normal(size=(100, 4)), columns=list("abcd")).assign(target=rng.integers(2, size=100))
    pd.concat([frame] * 5).to_csv(empty_project.folder / "five.csv", index=False)
    commands = ["data_preprocessing --dataset five.csv", "hyperparameters_tuning --n-trials 2", "model_training"]
    tried = empty_project.try_steps(*commands, "data_evaluation")
    assert [error for error, _ in tried[:3]] == [""] * 3
    rows, twins = re.search(r"(\d+) test rows, (\d+) of them equal to one in the training data", tried[0][1]).groups()
    assert int(twins) > 0.9 * int(rows)
    assert tried[3][0] or "does not become the champion" in tried[3][1]
    assert empty_project.registry()["fiveModel"] == ([1], {})


def test_edited_cell(evaluated, tmp_path):
    """A model file that is not what the cells say is never registered."""
    project = evaluated.copy(tmp_path)
    script = project.folder / "steps" / "model_training.py"
    ratio, text = 'columns["mean symmetry"] / columns["mean texture"]', script.read_text()
    assert ratio in text
    script.write_text(text.replace(ratio, 'columns["mean symmetry"] * 0'))
    ((line, _),) = project.try_steps("model_training")
    assert line == "steps/model_code.py is not what the cells say. First: make scripts"
    assert project.registry()[MODEL] == ([1], {config.CHAMPION: 1})


def test_champion_chosen_meanwhile(evaluated, tmp_path):
    """A version that somebody else has brought into use during an evaluation was not compared with: it stays."""
    project = evaluated.copy(tmp_path)
    project.client.delete_registered_model_alias(MODEL, config.CHAMPION)
    source = project.model_folder(MODEL, 1).as_uri()
    other = project.client.create_model_version(MODEL, source).version
    process = project.start("python", "-m", "steps.data_evaluation")
    wait_until(lambda: project.runs("tags.step = 'data_evaluation'", "RUNNING"))
    project.client.set_registered_model_alias(MODEL, config.CHAMPION, other)
    assert process.wait(60) == 0
    assert "Meanwhile another version has become the champion" in process.said()
    assert project.newest("data_evaluation").data.tags["gate"].startswith("failed: Meanwhile")
    assert project.registry()[MODEL][1] == {config.CHAMPION: int(other)}


# --- Models of others


def test_models_of_others(evaluated, tmp_path):
    """There are no rows to try them with: one line, with the command that serves them. As a champion one counts as none."""
    project = evaluated.copy(tmp_path)
    frame = pd.DataFrame({"a": [0.0, 1.0]})
    options = {"input_example": frame, "serialization_format": "skops", "pip_requirements": []}
    mlflow.sklearn.save_model(LogisticRegression().fit(frame, [0, 1]), str(project.folder / "folder"), **options)
    project.client.create_registered_model("Theirs")
    for name in ["Theirs", MODEL]:
        project.client.create_model_version(name, (project.folder / "folder").as_uri())
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        wrong = {
            "--model-uri models:/Theirs/1": "models:/Theirs/1 was not trained by this version of the project: train again, "
            "or serve it with `mlflow models serve`",
            "--model-uri models:/NoSuchModel/7": "models:/NoSuchModel/7 cannot be used: ",
            f"--port {port}": f"Port {port} is in use",
        }
        folder = f"serving_check --model-uri {evaluated.model_folder(MODEL, 1)}"
        tried = project.try_steps(*[f"serving_check {options}" for options in wrong], folder)
    assert all(error.startswith(words) for (error, _), words in zip(tried, wrong.values(), strict=False))
    assert tried[3][0] == "" and "228 rows served, largest difference 0" in tried[3][1]
    checks = project.runs("tags.step = 'serving_check'", status=None)
    assert [run.info.status for run in checks] == ["FINISHED", "FAILED"]

    project.client.set_registered_model_alias(MODEL, config.CHAMPION, "2")
    (said,) = project.steps("data_evaluation")
    assert "models:/CancerModel/2 was not trained by this version" in said and "It counts as no champion." in said
    assert project.registry()[MODEL][1] == {config.CHAMPION: 1}
    project.client.delete_registered_model(MODEL)
    ((error, _),) = project.try_steps("data_evaluation")
    assert "Train: mlflow run . -e model-training" in error


# --- Bad input: one line, nothing registered, no alias moved

OTHER = breast_cancer().head(60)
FILES = {
    "less": OTHER.drop(columns="mean area"),
    "one": OTHER.assign(target="benign"),
    "other": OTHER.assign(target=["a", "b"] * 30),
}
WRONG_INPUT = {
    "data_preprocessing --test-size 0": "test-size is 0.0",
    "data_preprocessing --positive-class bening": "positive-class is bening: give ",
    "data_preprocessing --name a/b": "'a/b' cannot be the name of data: give a `name`",
    "data_preprocessing --name CustomCancer": "'CustomCancer' cannot be the name of data",
    "pipeline --name a/b": "'a/b' cannot be the name of data",
    "hyperparameters_tuning --n-trials 0": "n-trials is 0",
    "hyperparameters_tuning --n-trials 2.5": "argument --n-trials: invalid int value: '2.5'",
    "model_training --data-run-id nosuchrun": "Run nosuchrun: ",
    "serving_check --port 65536": "port is 65536",
    "serving_check --port -1": "port is -1",
    "data_evaluation --eval-dataset less.csv": "`mean area`",
    "data_evaluation --eval-dataset one.csv": "one.csv: 39 of the 60 rows were seen in training",
    "data_evaluation --eval-dataset other.csv": "`target`",
}


def test_wrong_input(evaluated):
    """tests/test_data_files.py has many more files."""
    registry, known = evaluated.registry(), [run.info.run_id for run in evaluated.runs()]
    for name, frame in FILES.items():
        frame.to_csv(evaluated.folder / f"{name}.csv", index=False)
    errors = [error for error, _ in evaluated.try_steps(*WRONG_INPUT)]
    said = dict(zip(WRONG_INPUT, errors, strict=True))
    assert {command: line for command, line in said.items() if WRONG_INPUT[command] not in line or "\n" in line} == {}
    assert evaluated.registry() == registry
    assert [run.info.run_id for run in evaluated.runs()] == known
    assert evaluated.runs(status="RUNNING") == []


def test_wrong_input_of_the_pipeline(trained, tmp_path):
    """Through `mlflow run` the line is the same, and the pipeline adds its own; both runs have failed. 0 is a value."""
    project = trained.copy(tmp_path)
    result = project.mlflow_run("main", test_size=0)
    assert result.returncode == 1
    first, second = [line for line in result.stderr.splitlines() if " mlflow." not in line]
    assert only_line(first).startswith("test-size is 0.0")
    assert second == "The step data-preprocessing failed, for the reason given above."
    assert len(project.runs(status="FAILED")) == 2
    assert project.runs(status="RUNNING") == []
    assert project.registry() == trained.registry()
