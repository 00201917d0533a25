"""Each entry point through `mlflow run`: alone, on data of one's own, from a git URL, and with wrong input."""

import ast
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.utils.file_utils import local_file_uri_to_path
from sklearn.datasets import load_breast_cancer, load_wine
from support import BOOSTER_MODEL, CUSTOM_MODEL, EXPERIMENT, MODEL, ROOT, only_line, refusal, succeed, wait_until
from test_deployment import run_steps

import config
import servers
from notebook_tools.run import chapters

ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
WINE = "wineModel"  # a model of wine.csv


def script_of(entry_point):
    return "pipeline" if entry_point == "main" else entry_point.replace("-", "_")


# --- Parameters


def shown_above(entry_point):
    """The names that visible cells of its notebook define above the line that reads the parameters."""
    names = set()
    for notebook in ["modeling.py", *chapters()]:
        for cell in jupytext.read(ROOT / notebook).cells:
            if f'"{entry_point}",' in cell.source and "# hide " in cell.source:
                return names
            if cell.cell_type == "code" and "remove-input" not in cell.metadata.get("tags", []):
                nodes = ast.walk(ast.parse(cell.source))
                names |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        names.clear()
    raise AssertionError(f"no cell reads the parameters of {entry_point}")


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_parameters_are_declared_once(entry_point):
    """The command passes each parameter on, the script takes them all, and the notebook has the same defaults.

    Where a cell goes on with a value from above, a reader has seen that.
    """
    declared, command = ENTRY_POINTS[entry_point]["parameters"], ENTRY_POINTS[entry_point]["command"]
    assert command.split("--")[0].strip() == f"python -m steps.{script_of(entry_point)}"
    assert re.findall(r"--(\S+) {(\S+)}", command) == [(name, name) for name in declared]

    statements = ast.parse((ROOT / "steps" / f"{script_of(entry_point)}.py").read_text()).body
    (read,) = [node for node in statements if isinstance(node, ast.Assign) and "cli.arguments" in ast.unparse(node)]
    taken = [argument.value for argument in read.value.args]
    assert taken == [entry_point, *declared]
    targets = ast.unparse(read.targets[0]).strip("()").split(", ")
    assert targets == [{"name": "data_name"}.get(name, name.replace("-", "_")) for name in declared]
    defaults = {target: d["default"] or None for target, d in zip(targets, declared.values(), strict=True)}
    shown = {}
    if entry_point != "main":  # of these, the cells of the steps have set each
        cell = statements[statements.index(read) - 1]
        values = ast.literal_eval(cell.value)
        names = ast.unparse(cell.targets[0]).strip("()").split(", ")
        shown = dict(zip(names, values if isinstance(values, tuple) else (values,), strict=True))
        assert shown
    assert {name: value or None for name, value in shown.items()}.items() <= defaults.items()
    if further := set(targets) - set(shown):
        assert further <= shown_above(entry_point)


def test_same_parameter_same_declaration():
    """A parameter of `main` that a step has too is the same there."""
    for name, declared in ENTRY_POINTS["main"]["parameters"].items():
        (step,) = [
            point
            for point in ["data-preprocessing", "hyperparameters-tuning"]
            if name in ENTRY_POINTS[point]["parameters"]
        ]
        other = ENTRY_POINTS[step]["parameters"][name]
        assert (declared["type"], declared["default"]) == (other["type"], other["default"])


@pytest.mark.slow
@pytest.mark.parametrize("entry_point", ["main", "hyperparameters-tuning"])
def test_help(entry_point):
    command = [sys.executable, "-m", f"steps.{script_of(entry_point)}", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    said = " ".join(result.stdout.split())
    for name, declared in ENTRY_POINTS[entry_point]["parameters"].items():
        assert f"--{name} " in said
        assert f"{declared['description']} (default: {declared['default'] or 'none'})" in said


# --- Each step alone


@pytest.mark.slow
def test_mlflow_run_makes_one_run_per_step(trained):
    """Without a word about the experiment it is in MLflow's default one; the script joins it and gives it its name."""
    steps = {
        run.data.tags.get("step"): run for run in trained.runs(status=None) if "mlflow.parentRunId" not in run.data.tags
    }
    data, tuning, training = (
        steps.pop(f"{step}") for step in ["data_preprocessing", "hyperparameters_tuning", "model_training"]
    )
    assert steps == {}
    for run, name in [(data, "Data_Preprocessing"), (tuning, "Hyperparameters_Search"), (training, "Model_Training")]:
        assert (run.info.run_name, run.info.status, run.info.experiment_id) == (name, "FINISHED", "0")
        assert run.data.tags["mlflow.project.entryPoint"] == run.data.tags["step"].replace("_", "-")
        assert run.data.tags.get("data_run_id", data.info.run_id) == data.info.run_id
        assert "breast cancer, 341 training rows, digest " in run.data.tags["data"]
        assert "class 1 is 'malignant'" in run.data.tags["data"]
    assert data.data.metrics == {"full_rows": 569, "train_rows": 341, "test_rows": 228, "test_rows_in_training": 0}
    assert training.data.tags["tuning_run_id"] == tuning.info.run_id
    assert not [name for name in training.data.metrics if "test" in name]  # the test set stays unseen
    # what they worked on are the same rows
    digests = {item.dataset.name: item.dataset.digest for item in data.inputs.dataset_inputs}
    assert {item.dataset.name: item.dataset.digest for item in training.inputs.dataset_inputs} == digests
    assert [item.dataset.digest for item in tuning.inputs.dataset_inputs] == [digests["train"]]
    assert trained.registry() == {BOOSTER_MODEL: ([1], {}), MODEL: ([1], {})}


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """The same with the model of the first training as champion."""
    project = trained.copy(tmp_path_factory.mktemp("evaluated"))
    project.said = succeed(project.mlflow_run("data-evaluation"))
    return project


@pytest.mark.slow
def test_evaluation(evaluated):
    run = evaluated.newest("data_evaluation")
    assert evaluated.registry()[MODEL] == ([1], {config.CHAMPION: 1})
    assert run.data.tags["gate"] == "passed"
    assert run.data.metrics["example_count"] == 228
    assert (
        f"version 1 on 228 rows of runs:/{run.data.tags['data_run_id']}/datasets/test.csv, class 1 is 'malignant'"
        in evaluated.said
    )
    assert f"Cancer: using Model_Training {run.data.tags['training_run_id']} of" in evaluated.said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry_point", "artifacts"), [("flavour-comparison", set()), ("model-customization", {"thresholds.json"})]
)
def test_step_after_training(evaluated, entry_point, artifacts):
    succeed(evaluated.mlflow_run(entry_point))
    run = evaluated.newest(entry_point.replace("-", "_"))
    assert run.data.tags["training_run_id"] == evaluated.newest("model_training").info.run_id
    assert run.data.tags["mlflow.project.entryPoint"] == entry_point
    assert {artifact.path for artifact in evaluated.client.list_artifacts(run.info.run_id)} == artifacts
    made = evaluated.client.search_model_versions(f"run_id = '{run.info.run_id}'")
    assert [version.name for version in made] == ([CUSTOM_MODEL] if entry_point == "model-customization" else [])


def git(folder, *words):
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
def test_git_url_from_an_empty_folder(empty_project, tmp_path_factory):
    """A colleague without a clone gets runs and files in the folder in which he is, and nothing else there."""
    for words in ["init -q", "add -A", "commit -qm .", "clone -q --bare . p.git"]:
        git(empty_project.folder, *words.split())
    head, port, empty = (
        git(empty_project.folder, "rev-parse", "HEAD"),
        servers.free_port(),
        tmp_path_factory.mktemp("empty"),
    )
    daemon = [
        "git",
        "daemon",
        "--listen=127.0.0.1",
        f"--port={port}",
        "--export-all",
        f"--base-path={empty_project.folder}",
    ]
    url = f"git://127.0.0.1:{port}/p.git"
    with subprocess.Popen(daemon) as server:
        try:
            wait_until(lambda: subprocess.run(["git", "ls-remote", url], capture_output=True).returncode == 0)
            for words in [["data-preprocessing"], ["hyperparameters-tuning", "-P", "n-trials=1"]]:
                succeed(empty_project.run("mlflow", "run", url, "-e", *words, "--env-manager", "local", cwd=empty))
        finally:
            server.terminate()
    assert {path.name for path in empty.iterdir()} == {"mlflow.db", "mlruns"}
    empty_project.folder = empty
    for step in ["data_preprocessing", "hyperparameters_tuning"]:
        assert empty_project.newest(step).data.tags["mlflow.source.git.commit"] == head


# --- Which run, which data


@pytest.mark.slow
def test_which_experiment(trained, tmp_path):
    """The run that ended last is taken, wherever it is; where the user has chosen an experiment, only that one counts."""
    project, mine = trained.copy(tmp_path), {"MLFLOW_EXPERIMENT_NAME": "mine"}

    def experiment(run):
        return project.client.get_experiment(run.info.experiment_id).name

    assert "in the experiment that you have chosen" in refusal(project.step("hyperparameters_tuning", **mine))
    succeed(project.step("data_preprocessing", "--test-size", 0.2, **mine))
    my_data = project.newest("data_preprocessing")
    succeed(project.step("data_preprocessing", "--test-size", 0.3))
    data = project.newest("data_preprocessing")
    assert [experiment(my_data), experiment(data)] == ["mine", EXPERIMENT]

    # a script wrote the data into the project's experiment, and `mlflow run` searches in Default
    said = succeed(project.mlflow_run("hyperparameters-tuning", n_trials=1))
    search = project.newest("hyperparameters_tuning")
    assert (experiment(search), search.data.tags["data_run_id"]) == ("Default", data.info.run_id)
    assert f"Cancer: using Data_Preprocessing {data.info.run_id} of" in said
    assert "breast cancer, 398 training rows, digest " in said

    # by name or by number, for scripts and for `mlflow run`
    by_number = {"MLFLOW_EXPERIMENT_ID": my_data.info.experiment_id}
    succeed(project.step("hyperparameters_tuning", "--n-trials", 1, **by_number))
    my_search = project.newest("hyperparameters_tuning")
    assert (experiment(my_search), my_search.data.tags["data_run_id"]) == ("mine", my_data.info.run_id)
    succeed(project.step("data_preprocessing"))  # newer, of somebody else
    succeed(project.mlflow_run("model-training", "--experiment-name", "mine"))
    training = project.newest("model_training")
    assert (experiment(training), training.data.tags["data_run_id"]) == ("mine", my_data.info.run_id)
    assert training.data.tags["tuning_run_id"] == my_search.info.run_id

    # that we have chosen the experiment for writing is no choice of the user's
    code = "import utils; utils.set_experiment(); print(utils.latest_run('hyperparameters_tuning').info.run_id)"
    result = project.run("python", "-c", code)
    succeed(result)
    assert result.stdout.strip() == my_search.info.run_id


@pytest.mark.slow
def test_named_runs(trained, tmp_path):
    """Training takes the runs that it is told, though there are newer ones, or says in one line what is wrong."""
    project = trained.copy(tmp_path)
    old_data, old_tuning = (
        project.newest(step).info.run_id for step in ["data_preprocessing", "hyperparameters_tuning"]
    )
    succeed(project.step("data_preprocessing", "--test-size", 0.2))
    new = project.newest("data_preprocessing").info.run_id
    line = refusal(project.step("model_training"))
    assert f"no finished run with step hyperparameters_tuning and data_run_id {new}" in line
    assert "First run: mlflow run . -e hyperparameters-tuning" in line
    line = refusal(project.step("model_training", "--data-run-id", new, "--tuning-run-id", old_tuning))
    assert f"Run {old_tuning} has data_run_id {old_data}, not {new}." in line
    succeed(project.step("model_training", "--data-run-id", old_data))
    tags = project.newest("model_training").data.tags
    assert (tags["data_run_id"], tags["tuning_run_id"]) == (old_data, old_tuning)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "earlier"), [("hyperparameters-tuning", "data-preprocessing"), ("data-evaluation", "model-training")]
)
def test_earlier_step_missing(empty_project, step, earlier):
    line = refusal(empty_project.mlflow_run(step))
    assert f"First run: mlflow run . -e {earlier}" in line
    assert [run.info.status for run in empty_project.runs(status=None)] == ["FAILED"]
    assert empty_project.registry() == {}


@pytest.mark.slow
def test_registered_model_deleted(evaluated, tmp_path):
    project = evaluated.copy(tmp_path)
    project.client.delete_registered_model(MODEL)
    assert "Train: mlflow run . -e model-training" in refusal(project.step("data_evaluation"))
    assert "CancerModel has no version with the alias champion. Train" in refusal(project.step("serving_check"))


@pytest.mark.slow
def test_champion_of_an_earlier_version(evaluated, tmp_path):
    """Its champion is refused in one line, the gate treats it as none and says so, and its data are not taken."""
    project, client = evaluated.copy(tmp_path), evaluated.client
    client = project.client
    files = shutil.copytree(project.model_folder(MODEL, 1), tmp_path / "old")
    described = yaml.safe_load((files / "MLmodel").read_text())
    described["metadata"] = {"target": "target", "classes": [0, 1], "columns": ["mean radius"], "words": {}}
    (files / "MLmodel").write_text(yaml.safe_dump(described))
    old = client.create_model_version(MODEL, str(files))
    client.set_registered_model_alias(MODEL, config.CHAMPION, old.version)
    line = refusal(project.step("serving_check"))
    assert line.startswith(
        f"models:/CancerModel/{old.version} was not trained by this version of the project: train again"
    )
    said = succeed(project.step("data_evaluation"))
    assert f"models:/CancerModel/{old.version} was not trained by this version" in said
    assert "It counts as no champion." in said
    assert project.registry()[MODEL][1] == {config.CHAMPION: 1}
    # its runs are there to be read, its data are prepared anew
    run = project.newest("data_preprocessing")
    (Path(local_file_uri_to_path(run.info.artifact_uri)) / "types.json").rename(tmp_path / "types.json")
    try:
        assert "cannot be read" in refusal(project.step("hyperparameters_tuning", "--n-trials", 1))
    finally:
        (tmp_path / "types.json").rename(Path(local_file_uri_to_path(run.info.artifact_uri)) / "types.json")


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


STEPS = ["data_preprocessing", "hyperparameters_tuning", "model_training", "data_evaluation", "flavour_comparison",
         "model_customization", "serving_check"]  # fmt: skip


@pytest.mark.slow
def test_pipeline_hands_on_a_zero(empty_project):
    """It is refused by the step, not taken for "not given"."""
    result = empty_project.step("pipeline", "--test-size", 0)
    assert result.returncode == 1
    assert "test-size is 0.0" in result.stderr


@pytest.mark.slow
def test_pipeline_uses_what_it_made(own_data):
    pipeline = own_data.newest("pipeline")
    steps = own_data.runs(f"tags.mlflow.parentRunId = '{pipeline.info.run_id}'", status=None)
    assert [run.data.tags["step"] for run in reversed(steps)] == STEPS
    assert {run.info.status for run in steps} == {"FINISHED"}
    of = {run.data.tags["step"]: run for run in steps}
    data_run_id, training_run_id = of["data_preprocessing"].info.run_id, of["model_training"].info.run_id
    assert {run.data.tags.get("data_run_id", data_run_id) for run in steps} == {data_run_id}
    assert own_data.newest("data_preprocessing").info.run_id != data_run_id  # the newer one of somebody else
    # said in so many words, for the newer one could have come before the search
    assert of["hyperparameters_tuning"].data.params["data-run-id"] == data_run_id
    for step in ["data_evaluation", "flavour_comparison", "model_customization"]:
        assert of[step].data.tags["training_run_id"] == training_run_id
    # it serves the version that it trained, on the rows that belong to it
    assert of["serving_check"].data.params["model_uri"] == f"models:/{WINE}/1"
    assert of["serving_check"].data.params["rows"] == "89"
    assert of["serving_check"].data.metrics["largest_difference"] < 1e-6


@pytest.mark.slow
def test_which_class_is_1(own_data):
    """The rarer is class 1 unless `positive-class` says otherwise; every step says it, and the model keeps it."""
    data_run = own_data.runs("tags.step = 'data_preprocessing' and params.data_source LIKE '%wine.csv'")[0]
    assert json.loads(data_run.data.tags["classes"]) == ["second grower", "other"]
    assert data_run.data.metrics == {"full_rows": 178, "train_rows": 89, "test_rows": 89, "test_rows_in_training": 0}
    lines = [line for line in own_data.said.splitlines() if line.startswith("INFO: ") and "class 1 is 'other'" in line]
    for start in [f"{own_data.folder}", "wine: using Data_Preprocessing", "wine: using Model_Training", "version 1 on"]:
        assert [line for line in lines if line.startswith(f"INFO: {start}")], start
    test = pd.read_csv(own_data.client.download_artifacts(data_run.info.run_id, "datasets/test.csv"))
    assert list(test.columns) == [*load_wine().feature_names, "cellar", "grower"]
    assert [set(test.grower), set(test.cellar)] == [
        {"second grower", "other"},
        {"old", "new"},
    ]  # as they stood in the file
    evaluation = own_data.newest("data_evaluation").data.metrics
    assert evaluation["true_positives"] + evaluation["false_negatives"] == (test.grower == "other").sum()
    version = own_data.client.get_model_version(WINE, "1")
    assert version.tags["classes"] == "['second grower', 'other']"


def by_hand(said):
    """The command that a closed gate offers."""
    return re.search(r"To decide otherwise: (\S+\(.*\))$", said, re.MULTILINE)[1]


@pytest.mark.slow
def test_other_columns_never_take_the_alias(evaluated, tmp_path):
    project = evaluated.copy(tmp_path)
    wine().to_csv(project.folder / "wine.csv")
    free_the_name(project, "--dataset", "wine.csv", "--target", "grower", "--name", "Cancer")
    train_anew(project, "--dataset", "wine.csv", "--target", "grower", "--name", "Cancer")
    said = succeed(project.step("data_evaluation"))
    assert project.registry()[MODEL] == ([1, 2], {config.CHAMPION: 1})
    (line,) = [line for line in said.splitlines() if "does not become the champion" in line]
    assert "The champion, version 1, cannot be compared: it has other columns or classes" in line
    # the way that the message names
    succeed(project.run("python", "-c", f"import mlflow; {by_hand(line)}"))
    assert project.registry()[MODEL][1] == {config.CHAMPION: 2}
    # with it as champion, a file of the same kind is evaluated, words and all
    more = wine().tail(100)
    more["proline"] += 1  # rows that no model was trained on
    more.to_csv(project.folder / "more.csv", index=False)
    training = project.client.get_model_version(MODEL, 2).run_id
    options = {"eval_dataset": "more.csv", "training_run_id": training}
    succeed(project.mlflow_run("data-evaluation", **options))
    evaluation = project.newest("data_evaluation").data
    assert evaluation.metrics["example_count"] == 100
    assert evaluation.metrics["accuracy_score"] > 0.9
    assert evaluation.tags["eval_dataset"].endswith("more.csv")

    # the files of the champion are gone: the version and the way out are named, and the way works
    shutil.rmtree(project.model_folder(MODEL, 2))
    training = project.client.get_model_version(MODEL, 1).run_id
    said = succeed(project.step("data_evaluation", "--training-run-id", training))
    assert "The champion, version 2, cannot be compared: models:/CancerModel/2 cannot be used: " in said
    assert project.registry()[MODEL][1] == {config.CHAMPION: 2}
    succeed(project.run("python", "-c", f"import mlflow; {by_hand(said)}"))
    assert project.registry()[MODEL][1] == {config.CHAMPION: 1}


def free_the_name(project, *options):
    """Do what the data preparation says where the name is in use for other data; returns the line that says it."""
    line = refusal(project.step("data_preprocessing", *options))
    command = line.rpartition("if those data are of no use: ")[2]
    assert command.startswith("mlflow runs delete --run-id "), line
    succeed(project.run(*command.split()))
    return line


def train_anew(project, *options):
    """The steps up to the training, with these options of the data preparation and one trial."""
    succeed(project.step("data_preprocessing", *options))
    succeed(project.step("hyperparameters_tuning", "--n-trials", 1))
    succeed(project.step("model_training"))


@pytest.mark.slow
def test_other_classes_never_take_the_alias(evaluated, tmp_path):
    """Whoever asks the champion for the probability of a benign tumour must not get that of a malignant one."""
    project = evaluated.copy(tmp_path)
    said = free_the_name(project, "--positive-class", "benign")
    assert "the classes, class 1 last: ['malignant', 'benign'], not" in said
    train_anew(project, "--positive-class", "benign")
    said = succeed(project.step("data_evaluation"))
    assert "The champion, version 1, cannot be compared: it has other columns or classes" in said
    assert project.registry()[MODEL] == ([1, 2], {config.CHAMPION: 1})


@pytest.mark.slow
def test_two_data_sets_in_one_store(trained, tmp_path):
    """In turn, each has its own experiment, models and champion, and is never judged beside the other's."""
    project, wine_csv = trained.copy(tmp_path), ["--dataset", "wine.csv", "--target", "grower"]
    wine().to_csv(project.folder / "wine.csv")
    newer = (
        breast_cancer().sample(frac=1, random_state=1).assign(**{"mean area": lambda frame: frame["mean area"] + 0.1})
    )
    newer.to_csv(project.folder / "newer.csv", index=False)

    # cancer data and their model are there; the wines go on from what was made last
    said = succeed(project.step("data_preprocessing", *wine_csv))
    assert "wine.csv: the data are called wine, and the model wineModel. Another one: give a `name`" in said
    cancer_training = project.newest("model_training").info.run_id
    assert not any(
        run_steps(
            project,
            ["data_evaluation", "--training-run-id", cancer_training],
            ["hyperparameters_tuning", "--n-trials", "1"],
            ["model_training"],
            ["data_evaluation"],
            # newer data of the same kind as the first
            ["data_preprocessing", "--dataset", "newer.csv", "--name", "Cancer"],
            ["hyperparameters_tuning", "--n-trials", "1"],
            ["model_training"],
            ["data_evaluation"],
            ["batch_scoring", "--input", "wine.csv", "--output", "out.csv", "--model-uri", f"models:/{WINE}@champion"],
        )
    )
    experiments = {experiment.experiment_id: experiment.name for experiment in project.client.search_experiments()}
    runs = [run for run in reversed(project.runs()) if "step" in run.data.tags]
    made = [(run.data.tags["name"], experiments[run.info.experiment_id]) for run in runs]
    assert {experiment for name, experiment in made if name == "wine"} == {"wine_Classification"}
    assert {experiment for name, experiment in made if name == "Cancer"} == {EXPERIMENT, "Default"}  # of `mlflow run`
    evaluations = [run for run in runs if run.data.tags["step"] == "data_evaluation"]
    before = [(run.data.tags["name"], run.data.tags["champion_before"]) for run in evaluations]
    assert before == [("Cancer", "None"), ("wine", "None"), ("Cancer", "1")]
    assert [run.info.run_id for run in evaluations if "loss_above_champion" in run.data.metrics] == [
        evaluations[2].info.run_id
    ]
    registry = project.registry()
    assert registry[WINE] == ([1], {config.CHAMPION: 1})
    assert registry[MODEL] == ([1, 2], {config.CHAMPION: int(evaluations[2].data.tags["champion_after"])})
    assert set(registry) == {MODEL, BOOSTER_MODEL, WINE, f"{WINE}Booster"}
    answers = [f"probability of {name}" for name in ["other", "second grower"]]
    assert set(answers) <= set(pd.read_csv(project.folder / "out.csv"))

    # a name stays with its data, however it comes about
    shutil.copy(project.folder / "wine.csv", project.folder / "Cancer.csv")
    known = len(project.runs(status=None))
    said = run_steps(
        project,
        ["data_preprocessing", *wine_csv, "--name", "Cancer"],
        ["data_preprocessing", "--dataset", "Cancer.csv", "--target", "grower"],
        ["data_preprocessing", "--name", "wine"],
        ["data_preprocessing", *wine_csv, "--positive-class", "other"],
    )
    for line, name in zip(said, ["Cancer", "Cancer", "wine", "wine"], strict=True):
        assert line.startswith(f"The name {name} is in use for data that differ in ")
        assert "\n" not in line
    assert len(project.runs(status=None)) == known
    assert {experiment.experiment_id for experiment in project.client.search_experiments()} == set(experiments)

    # an experiment that the user has chosen comes first, and a name of words survives `mlflow run`
    succeed(project.step("data_preprocessing", *wine_csv, MLFLOW_EXPERIMENT_NAME="mine"))
    run = project.newest("data_preprocessing")
    assert project.client.get_experiment(run.info.experiment_id).name == "mine"
    assert run.data.tags["name"] == "wine"
    succeed(project.mlflow_run("data-preprocessing", dataset="wine.csv", target="grower", name="Red wines 2.0"))
    assert project.newest("data_preprocessing").data.tags["name"] == "Red wines 2.0"


# --- The gate


def breast_cancer(**changes):
    bunch = load_breast_cancer(as_frame=True)
    return bunch.frame.assign(target=bunch.target_names[bunch.target]).assign(**changes)


def turned(target):
    return target.map({"benign": "malignant", "malignant": "benign"})


def unseen(project):
    """The rows that the model was not trained on, as they stood in the file."""
    run = project.newest("data_preprocessing")
    return pd.read_csv(project.client.download_artifacts(run.info.run_id, "datasets/test.csv"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda frame: frame.assign(target=turned(frame.target)), "not clearly better than guessing"),
        (lambda frame: frame.assign(target=turned(frame.target)), "Recall of malignant"),
        (lambda frame: frame.groupby("target").head(14), "There are 28 rows to judge it on, not 30."),
    ],
    ids=["answers turned round", "cancers missed", "few rows"],
)
def test_gate_stays_shut(evaluated, tmp_path, change, reason):
    """On data on which a model fails it does not become champion; the message has what it missed, and where that is set."""
    project = evaluated.copy(tmp_path)
    project.client.delete_registered_model_alias(MODEL, config.CHAMPION)
    change(unseen(project)).to_csv(tmp_path / "with space.csv", index=False)
    said = succeed(project.step("data_evaluation", "--eval-dataset", tmp_path / "with space.csv"))
    (line,) = [line for line in said.splitlines() if "does not become the champion" in line]
    assert reason in line
    assert "config.py" in line
    verdict = project.newest("data_evaluation").data.tags["gate"]
    assert verdict.startswith("failed: ") and reason in verdict
    assert project.client.get_model_version(MODEL, "1").tags["gate"] == verdict
    assert project.registry()[MODEL][1] == {}
    # whoever asks for the champion is told so
    line = refusal(project.step("serving_check"))
    assert line.startswith(f"CancerModel has no version with the alias champion. Version 1: gate {verdict} ")
    assert line.endswith("or give one by its number: models:/CancerModel/NUMBER")


@pytest.mark.slow
def test_champion_is_judged_by_its_own_features(empty_project):
    """The newer model knows a word more, which comes first: with its list the champion would take b for c.

    Both are compared on rows that neither was trained on.
    """
    project = empty_project

    def pipeline(words):
        frame = pd.DataFrame({"word": words, "noise": np.random.default_rng(0).random(len(words))})
        frame["target"] = np.where(frame.word == "c", "yes", "no")
        frame.to_csv(project.folder / "words.csv", index=False)
        train_anew(project, "--dataset", "words.csv")
        return succeed(project.step("data_evaluation"))

    assert "is the champion" in pipeline(["b", "c"] * 100)
    pipeline(["b", "c"] * 100 + ["a"] * 8)
    (beside,) = project.runs("attributes.run_name = 'Champion_Version_1'")
    assert beside.data.metrics["accuracy_score"] > 0.9
    newer, older = [run.info.run_id for run in project.runs("tags.step = 'data_preprocessing'")]
    test = pd.read_csv(project.client.download_artifacts(newer, "datasets/test.csv"))
    seen = test.noise.isin(pd.read_csv(project.client.download_artifacts(older, "datasets/train.csv")).noise).sum()
    assert 0 < seen < len(test)
    metrics = project.newest("data_evaluation").data.metrics
    assert metrics["rows_seen_in_training"] == seen
    assert metrics["example_count"] == beside.data.metrics["example_count"] == len(test) - seen


@pytest.mark.slow
def test_rows_seen_in_training_count_for_nothing(evaluated, tmp_path):
    """They are left out and their number is said; with fewer than 30 others the gate stays shut."""
    project = evaluated.copy(tmp_path)
    run = project.newest("data_preprocessing")
    train = pd.read_csv(project.client.download_artifacts(run.info.run_id, "datasets/train.csv"))
    for new, opens in [(29, False), (100, True)]:
        project.client.delete_registered_model_alias(MODEL, config.CHAMPION)
        pd.concat([unseen(project).head(new), train.head(50)]).to_csv(tmp_path / "eval.csv", index=False)
        said = succeed(project.step("data_evaluation", "--eval-dataset", "eval.csv"))
        assert f"version 1 on {new} rows of eval.csv" in said
        assert "50 others were seen in training and are left out" in said
        metrics = project.newest("data_evaluation").data.metrics
        assert (metrics["rows_seen_in_training"], metrics["example_count"]) == (50, new)
        assert (config.CHAMPION in project.registry()[MODEL][1]) == opens
    train.to_csv(tmp_path / "eval.csv", index=False)
    line = refusal(project.step("data_evaluation", "--eval-dataset", "eval.csv"))
    assert line.startswith("eval.csv: 341 of the 341 rows were seen in training")


@pytest.mark.slow
def test_worse_model_does_not_replace_the_champion(evaluated, tmp_path):
    """A model that was trained on half of the columns in disorder is better than guessing, and worse than the champion."""
    project = evaluated.copy(tmp_path)
    unseen(project).to_csv(project.folder / "real.csv", index=False)
    frame, rng = breast_cancer(), np.random.default_rng(0)
    for name in [name for name in frame if "worst" in name or "mean" in name]:
        frame[name] = rng.permutation(frame[name])
    frame.to_csv(project.folder / "disorder.csv", index=False)
    train_anew(project, "--dataset", "disorder.csv", "--name", "Cancer")
    settings = project.folder / "config.py"
    settings.write_text(settings.read_text().replace('{"malignant": 0.88}', "{}"))
    said = succeed(project.step("data_evaluation", "--eval-dataset", "real.csv"))
    (line,) = [line for line in said.splitlines() if "Version 2 does not become the champion" in line]
    assert "Its log loss on the same rows is " in line
    assert project.registry()[MODEL] == ([1, 2], {config.CHAMPION: 1})
    evaluation = project.newest("data_evaluation")
    (beside,) = project.runs(f"tags.mlflow.parentRunId = '{evaluation.info.run_id}'")
    ours, theirs = evaluation.data.metrics["log_loss"], beside.data.metrics["log_loss"]
    assert ours > theirs
    assert evaluation.data.metrics["loss_above_champion"] == pytest.approx(ours - theirs, abs=1e-6)


@pytest.mark.slow
def test_random_labels_make_no_champion(empty_project):
    """The same rows five times over: each test row has its twin in the training data, which is said and opens nothing."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.normal(size=(100, 4)), columns=list("abcd")).assign(target=rng.integers(2, size=100))
    pd.concat([frame] * 5).to_csv(empty_project.folder / "five.csv", index=False)
    said = succeed(empty_project.step("data_preprocessing", "--dataset", "five.csv"))
    rows, twins = re.search(r"(\d+) test rows, (\d+) of them equal to one in the training data", said).groups()
    assert int(twins) > 0.9 * int(rows)
    succeed(empty_project.step("hyperparameters_tuning", "--n-trials", 2))
    succeed(empty_project.step("model_training"))
    result = empty_project.step("data_evaluation")
    assert result.returncode == 1 or "does not become the champion" in result.stderr
    assert empty_project.registry()["fiveModel"][1] == {}


@pytest.mark.slow
def test_edited_cell(evaluated, tmp_path):
    """A model file that is not what the cells say is never registered."""
    project = evaluated.copy(tmp_path)
    script = project.folder / "steps" / "model_training.py"
    text = script.read_text()
    changed = text.replace('columns["mean symmetry"] / columns["mean texture"]', 'columns["mean symmetry"] * 0')
    assert changed != text
    script.write_text(changed)
    line = refusal(project.step("model_training"))
    assert line == "steps/model_code.py is not what the cells say. First: make scripts"
    assert project.registry()[MODEL] == ([1], {config.CHAMPION: 1})


@pytest.mark.slow
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


def foreign_model(project, name):
    """A model that somebody has made in another way, in a run or in a folder."""
    code = (
        "import sys, mlflow, pandas as pd; from sklearn.linear_model import LogisticRegression\n"
        "frame = pd.DataFrame({'a': [0.0, 1.0]}); model = LogisticRegression().fit(frame, [0, 1])\n"
        "options = {'input_example': frame, 'serialization_format': 'skops', 'pip_requirements': []}\n"
        "mlflow.sklearn.save_model(model, 'folder', **options)\n"
        "with mlflow.start_run(): mlflow.sklearn.log_model(model, name='m', registered_model_name='Theirs', **options)"
    )
    succeed(project.run("python", "-c", code))
    return name


@pytest.mark.slow
def test_serving_a_foreign_model(evaluated, tmp_path):
    """There are no rows to try it with: one line, with the command that serves it."""
    project = evaluated.copy(tmp_path)
    foreign_model(project, "Theirs")
    for uri in ["models:/Theirs/1", "folder", "models:/NoSuchModel/7"]:
        before = len(project.runs(status=None))
        line = refusal(project.step("serving_check", "--model-uri", uri))
        assert line.startswith(f"{uri} ")
        assert ("cannot be used: " if "NoSuch" in uri else "serve it with `mlflow models serve`") in line
        assert len(project.runs(status=None)) == before


@pytest.mark.slow
def test_serving_a_folder_of_ours(evaluated):
    folder = evaluated.model_folder(MODEL, 1)
    said = succeed(evaluated.step("serving_check", "--model-uri", folder))
    assert "228 rows served, largest difference 0" in said


# --- Bad input: one line, exit code 1, nothing registered, no alias moved


OTHER = breast_cancer().head(60)
WRONG_INPUT = {
    "test-size 0": ("data_preprocessing", {"test-size": 0}, None, "test-size is 0.0"),
    "test-size nan": ("data_preprocessing", {"test-size": "nan"}, None, "test-size is nan"),
    "test-size text": ("data_preprocessing", {"test-size": "half"}, None, "argument --test-size: invalid float value: 'half'"),
    "test-size too small": ("data_preprocessing", {"test-size": 0.001}, None, "too few"),
    "positive-class": ("data_preprocessing", {"positive-class": "bening"}, None, "positive-class is bening: give "),
    "name with a slash": ("data_preprocessing", {"name": "a/b"}, None, "'a/b' cannot be the name of data: give a `name`"),
    "name with a colon": ("data_preprocessing", {"name": "a:b"}, None, "'a:b' cannot be the name of data"),
    "name with a quote": ("data_preprocessing", {"name": "it's"}, None, "cannot be the name of data"),
    "name of a custom model": ("data_preprocessing", {"name": "CustomCancer"}, None, "'CustomCancer' cannot be the name of data"),
    "name of the pipeline": ("pipeline", {"name": "a/b"}, None, "'a/b' cannot be the name of data"),
    "name of other data": ("data_preprocessing", {"dataset": "data.csv", "name": "Cancer"}, OTHER.drop(columns="mean area"), "The name Cancer is in use for data that differ in mean area, the classes, "),
    "no trials": ("hyperparameters_tuning", {"n-trials": 0}, None, "n-trials is 0"),
    "half a trial": ("hyperparameters_tuning", {"n-trials": 2.5}, None, "argument --n-trials: invalid int value: '2.5'"),
    "unknown parameter": ("hyperparameters_tuning", {"trials": 3}, None, "unrecognized arguments: --trials 3. For help: "),
    "no such run": ("model_training", {"data-run-id": "nosuchrun"}, None, "Run nosuchrun: "),
    "port": ("serving_check", {"port": 99999}, None, "port is 99999"),
    "no such file": ("data_evaluation", {"eval-dataset": "nowhere.csv"}, None, "nowhere.csv: cannot be read: No such file"),
    "column missing": ("data_evaluation", {"eval-dataset": "data.csv"}, OTHER.drop(columns="mean area"), "mean area"),
    "text in numbers": ("data_evaluation", {"eval-dataset": "data.csv"}, OTHER.replace({"mean area": {1001.0: "big"}}), "big"),
    "one class": ("data_evaluation", {"eval-dataset": "data.csv"}, OTHER.assign(target="benign"), "data.csv: 39 of the 60 rows were seen in training"),
    "other classes": ("data_evaluation", {"eval-dataset": "data.csv"}, OTHER.assign(target=["a", "b"] * 30), "`target`"),
    "three classes": ("data_preprocessing", {"dataset": "data.csv"}, load_wine(as_frame=True).frame, "but has 3: "),
    "few rows": ("data_preprocessing", {"dataset": "data.csv"}, breast_cancer().head(22), "too few"),
    "no features": ("data_preprocessing", {"dataset": "data.csv"}, OTHER[["target"]], "feature"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("step", "options", "frame", "words"), WRONG_INPUT.values(), ids=WRONG_INPUT)
def test_wrong_input(evaluated, step, options, frame, words):
    """As scripts, which is faster than `mlflow run`; tests/test_data_files.py has many more files."""
    registry, known = evaluated.registry(), [run.info.run_id for run in evaluated.runs()]
    if frame is not None:
        frame.to_csv(evaluated.folder / "data.csv", index=False)
    line = refusal(evaluated.step(step, *(word for name, value in options.items() for word in [f"--{name}", value])))
    assert words in line
    assert evaluated.registry() == registry
    assert [run.info.run_id for run in evaluated.runs()] == known
    assert evaluated.runs(status="RUNNING") == []


@pytest.mark.slow
def test_wrong_input_of_the_pipeline(trained, tmp_path):
    """Through `mlflow run` the line is the same, and the pipeline adds its own; both runs have failed."""
    project = trained.copy(tmp_path)
    result = project.mlflow_run("main", test_size=7)
    assert result.returncode == 1
    first, second = [line for line in result.stderr.splitlines() if " mlflow." not in line]
    assert only_line(first).startswith("test-size is 7.0")
    assert second == "The step data-preprocessing failed, for the reason given above."
    assert len(project.runs(status="FAILED")) == 2
    assert project.runs(status="RUNNING") == []
    assert project.registry() == trained.registry()


@pytest.mark.slow
def test_port_in_use(evaluated):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"Port {port} is in use" in refusal(evaluated.step("serving_check", "--port", port))
    assert evaluated.newest("serving_check", "FAILED").info.status == "FAILED"
