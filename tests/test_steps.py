"""Each entry point through `mlflow run`: alone, on data of one's own, from a git URL, and with wrong input."""

import ast
import json
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.datasets import load_breast_cancer, load_wine
from support import ROOT, only_line, refusal, succeed, wait_until

import config
import servers

ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


def script_of(entry_point):
    return "pipeline" if entry_point == "main" else entry_point.replace("-", "_")


# --- Parameters


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_parameters_are_declared_once(entry_point):
    """The command passes each parameter on, the script takes them all, and the cell shows the same defaults."""
    declared, command = ENTRY_POINTS[entry_point]["parameters"], ENTRY_POINTS[entry_point]["command"]
    assert command.split("--")[0].strip() == f"python -m steps.{script_of(entry_point)}"
    assert re.findall(r"--(\S+) {(\S+)}", command) == [(name, name) for name in declared]

    statements = ast.parse((ROOT / "steps" / f"{script_of(entry_point)}.py").read_text()).body
    (read,) = [node for node in statements if isinstance(node, ast.Assign) and "utils.arguments" in ast.unparse(node)]
    taken = [argument.value for argument in read.value.args]
    assert taken == [entry_point, *declared]
    targets = ast.unparse(read.targets[0]).strip("()").split(", ")
    assert targets == [name.replace("-", "_") for name in declared]
    # the notebook has no cell for those of `main`: there the values come from the cells above
    if entry_point != "main":
        shown = statements[statements.index(read) - 1]
        assert ast.unparse(shown.targets[0]) == ast.unparse(read.targets[0])
        values = ast.literal_eval(shown.value)
        values = values if isinstance(values, tuple) else (values,)
        assert values == tuple(None if d["default"] == "" else d["default"] for d in declared.values())


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
        assert "class 1 is 1" in run.data.tags["data"]
    assert data.data.metrics == {"full_rows": 569, "train_rows": 341, "test_rows": 228}
    assert training.data.tags["tuning_run_id"] == tuning.info.run_id
    assert not [name for name in training.data.metrics if "test" in name]  # the test set stays unseen
    # what they worked on are the same rows
    digests = {item.dataset.name: item.dataset.digest for item in data.inputs.dataset_inputs}
    assert {item.dataset.name: item.dataset.digest for item in training.inputs.dataset_inputs} == digests
    assert [item.dataset.digest for item in tuning.inputs.dataset_inputs] == [digests["train"]]
    assert trained.registry() == {config.BOOSTER_MODEL: ([1], {}), config.CLASSIFIER_MODEL: ([1], {})}


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """The same with the model of the first training as champion."""
    project = trained.copy(tmp_path_factory.mktemp("evaluated"))
    project.said = succeed(project.mlflow_run("data-evaluation"))
    return project


@pytest.mark.slow
def test_evaluation(evaluated):
    run = evaluated.newest("data_evaluation")
    assert evaluated.registry()[config.CLASSIFIER_MODEL] == ([1], {config.CHAMPION: 1})
    assert run.data.tags["gate"] == "passed"
    assert run.data.metrics["example_count"] == 228
    assert (
        f"version 1 on 228 rows of runs:/{run.data.tags['data_run_id']}/datasets/test.csv, class 1 is 1"
        in evaluated.said
    )
    assert f"Using Model_Training {run.data.tags['training_run_id']} of" in evaluated.said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry_point", "artifacts"), [("flavour-comparison", {"answers.json"}), ("model-customization", set())]
)
def test_step_after_training(evaluated, entry_point, artifacts):
    succeed(evaluated.mlflow_run(entry_point))
    run = evaluated.newest(entry_point.replace("-", "_"))
    assert run.data.tags["training_run_id"] == evaluated.newest("model_training").info.run_id
    assert run.data.tags["mlflow.project.entryPoint"] == entry_point
    assert {artifact.path for artifact in evaluated.client.list_artifacts(run.info.run_id)} == artifacts
    made = evaluated.client.search_model_versions(f"run_id = '{run.info.run_id}'")
    assert [version.name for version in made] == ([] if artifacts else [config.CUSTOM_MODEL])


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
    assert [experiment(my_data), experiment(data)] == ["mine", config.EXPERIMENT]

    # a script wrote the data into the project's experiment, and `mlflow run` searches in Default
    said = succeed(project.mlflow_run("hyperparameters-tuning", n_trials=1))
    search = project.newest("hyperparameters_tuning")
    assert (experiment(search), search.data.tags["data_run_id"]) == ("Default", data.info.run_id)
    assert f"Using Data_Preprocessing {data.info.run_id} of" in said
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
    project.client.delete_registered_model(config.CLASSIFIER_MODEL)
    assert "Train: mlflow run . -e model-training" in refusal(project.step("data_evaluation"))
    assert "Make one: mlflow run . -e main" in refusal(project.step("model_serving"))


@pytest.mark.slow
def test_runs_of_the_first_version(evaluated, tmp_path):
    """Its runs had fewer tags, and its models no metadata: all that is still taken, and goes on as before."""
    project = evaluated.copy(tmp_path)
    client, (model,) = project.client, project.client.search_model_versions(f"name = '{config.CLASSIFIER_MODEL}'")
    for run in project.runs("tags.step LIKE '%'"):
        for tag in {"data", "target", "classes"} & set(run.data.tags):
            client.delete_tag(run.info.run_id, tag)
    data_run = project.newest("data_preprocessing")
    client.set_tag(data_run.info.run_id, "classes", "[0, 1]")
    files = shutil.copytree(project.model_folder(config.CLASSIFIER_MODEL, 1), tmp_path / "old")
    described = yaml.safe_load((files / "MLmodel").read_text())
    del described["metadata"]
    (files / "MLmodel").write_text(yaml.safe_dump(described))
    old = client.create_model_version(config.CLASSIFIER_MODEL, str(files), project.newest("model_training").info.run_id)
    client.delete_model_version(config.CLASSIFIER_MODEL, model.version)
    client.set_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION, old.version)

    assert "is the champion" in succeed(project.step("data_evaluation"))
    assert project.newest("data_evaluation").data.tags["model_version"] == str(old.version)
    said = succeed(project.step("hyperparameters_tuning", "--n-trials", 1))
    assert "data of an older version of this project" in said
    succeed(project.step("model_training"))
    # the old champion is judged beside the new version, on the same rows
    said = succeed(project.step("data_evaluation"))
    assert "other columns" not in said
    new = project.newest("data_evaluation")
    (beside,) = project.runs(f"tags.mlflow.parentRunId = '{new.info.run_id}'")
    assert beside.data.metrics["accuracy_score"] > 0.9


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
         "model_customization", "model_serving"]  # fmt: skip


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
    assert of["model_serving"].data.params["model_uri"] == f"models:/{config.CLASSIFIER_MODEL}/2"
    assert of["model_serving"].data.params["rows"] == "89"
    assert of["model_serving"].data.metrics["largest_difference"] < 1e-6


@pytest.mark.slow
def test_which_class_is_1(own_data):
    """The last in order is class 1 unless `positive-class` says otherwise; every step says it, and the model keeps it."""
    data_run = own_data.runs("tags.step = 'data_preprocessing' and params.data_source LIKE '%wine.csv'")[0]
    assert json.loads(data_run.data.tags["classes"]) == ["second grower", "other"]
    assert data_run.data.metrics == {"full_rows": 178, "train_rows": 89, "test_rows": 89}
    lines = [line for line in own_data.said.splitlines() if line.startswith("INFO: ") and "class 1 is 'other'" in line]
    for start in [f"{own_data.folder}", "Using Data_Preprocessing", "Using Model_Training", "version 2 on"]:
        assert [line for line in lines if line.startswith(f"INFO: {start}")], start
    test = pd.read_csv(own_data.client.download_artifacts(data_run.info.run_id, "datasets/test.csv"))
    assert list(test.columns) == [*load_wine().feature_names, "cellar", "grower"]
    assert [set(test.grower), set(test.cellar)] == [
        {"second grower", "other"},
        {"old", "new"},
    ]  # as they stood in the file
    evaluation = own_data.newest("data_evaluation").data.metrics
    assert evaluation["true_positives"] + evaluation["false_negatives"] == (test.grower == "other").sum()
    version = own_data.client.get_model_version(config.CLASSIFIER_MODEL, "2")
    assert version.tags == {"class_0": "second grower", "class_1": "other"}


def by_hand(said):
    """The command that a closed gate offers."""
    return re.search(r"To decide otherwise: (\S+\(.*\))$", said, re.MULTILINE)[1]


@pytest.mark.slow
def test_other_columns_never_take_the_alias(own_data, tmp_path):
    assert own_data.registry()[config.CLASSIFIER_MODEL] == ([1, 2], {config.CHAMPION: 1})
    (line,) = [line for line in own_data.said.splitlines() if "does not become the champion" in line]
    assert "The champion, version 1, has other columns or classes" in line
    # the way that the message names
    project = own_data.copy(tmp_path)
    succeed(project.run("python", "-c", f"import mlflow; {by_hand(line)}"))
    assert project.registry()[config.CLASSIFIER_MODEL][1] == {config.CHAMPION: 2}
    # with it as champion, a file of the same kind is evaluated, words and all
    wine().tail(100).to_csv(project.folder / "more.csv", index=False)
    training = project.client.get_model_version(config.CLASSIFIER_MODEL, 2).run_id
    options = {"eval_dataset": "more.csv", "training_run_id": training}
    succeed(project.mlflow_run("data-evaluation", **options))
    evaluation = project.newest("data_evaluation").data
    assert evaluation.metrics["example_count"] == 100
    assert evaluation.metrics["accuracy_score"] > 0.9
    assert evaluation.tags["eval_dataset"].endswith("more.csv")

    # the files of the champion are gone: the version and the way out are named, and the way works
    shutil.rmtree(project.model_folder(config.CLASSIFIER_MODEL, 2))
    training = project.client.get_model_version(config.CLASSIFIER_MODEL, 1).run_id
    said = succeed(project.step("data_evaluation", "--training-run-id", training))
    assert "The champion, version 2, cannot be loaded: " in said
    assert project.registry()[config.CLASSIFIER_MODEL][1] == {config.CHAMPION: 2}
    succeed(project.run("python", "-c", f"import mlflow; {by_hand(said)}"))
    assert project.registry()[config.CLASSIFIER_MODEL][1] == {config.CHAMPION: 1}


def train_anew(project, *options):
    """The steps up to the training, with these options of the data preparation and one trial."""
    succeed(project.step("data_preprocessing", *options))
    succeed(project.step("hyperparameters_tuning", "--n-trials", 1))
    succeed(project.step("model_training"))


@pytest.mark.slow
def test_other_classes_never_take_the_alias(evaluated, tmp_path):
    """Whoever asks the champion for the probability of a benign tumour must not get that of a malignant one."""
    project = evaluated.copy(tmp_path)
    train_anew(project, "--positive-class", 0)
    said = succeed(project.step("data_evaluation"))
    assert "The champion, version 1, has other columns or classes" in said
    assert project.registry()[config.CLASSIFIER_MODEL] == ([1, 2], {config.CHAMPION: 1})


# --- The gate


def breast_cancer(**changes):
    return load_breast_cancer(as_frame=True).frame.assign(**changes)


def unseen(project):
    """The rows that the model was not trained on, as they stood in the file."""
    run = project.newest("data_preprocessing")
    return pd.read_csv(project.client.download_artifacts(run.info.run_id, "datasets/test.csv"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda frame: frame.assign(target=1 - frame.target), "accuracy_score"),
        (lambda frame: frame.groupby("target").head(14), "example_count"),
    ],
    ids=["answers turned round", "few rows"],
)
def test_gate_stays_shut(evaluated, tmp_path, change, reason):
    """On data on which a model fails it does not become champion; the message has what it missed, and where that is set."""
    project = evaluated.copy(tmp_path)
    project.client.delete_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION)
    change(unseen(project)).to_csv(tmp_path / "with space.csv", index=False)
    said = succeed(project.step("data_evaluation", "--eval-dataset", tmp_path / "with space.csv"))
    (line,) = [line for line in said.splitlines() if "does not become the champion" in line]
    assert reason in line
    assert "config.py" in line
    assert project.newest("data_evaluation").data.tags["gate"] == "failed"
    assert project.registry()[config.CLASSIFIER_MODEL][1] == {}


@pytest.mark.slow
def test_champion_is_judged_in_its_own_codes(empty_project):
    """The newer model knows a word more, which comes first: in its codes the champion would take b for c.

    The champion was trained on some of the rows that test the newer one, which is said.
    """
    project = empty_project

    def pipeline(words):
        frame = pd.DataFrame({"word": words, "noise": np.random.default_rng(0).random(len(words))})
        frame["target"] = np.where(frame.word == "c", "yes", "no")
        frame.to_csv(project.folder / "words.csv", index=False)
        train_anew(project, "--dataset", "words.csv")
        return succeed(project.step("data_evaluation"))

    assert "is the champion" in pipeline(["b", "c"] * 100)
    said = pipeline(["b", "c"] * 100 + ["a"] * 8)
    (beside,) = project.runs("attributes.run_name = 'Champion_Version_1'")
    assert beside.data.metrics["accuracy_score"] > 0.9
    newer, older = [run.info.run_id for run in project.runs("tags.step = 'data_preprocessing'")]
    test = pd.read_csv(project.client.download_artifacts(newer, "datasets/test.csv"))
    seen = test.noise.isin(pd.read_csv(project.client.download_artifacts(older, "datasets/train.csv")).noise).sum()
    assert 0 < seen < len(test)
    assert beside.data.metrics["rows_seen_in_training"] == seen
    assert project.newest("data_evaluation").data.metrics["rows_seen_in_training"] == 0
    assert (
        f"version 1, was trained on {seen} of these rows, version 2 on 0, so it looks better here than it is." in said
    )


@pytest.mark.slow
def test_rows_seen_in_training_open_no_gate(evaluated, tmp_path):
    """With most rows seen the gate stays shut; with few it opens, and their number is said."""
    project = evaluated.copy(tmp_path)
    run = project.newest("data_preprocessing")
    train = pd.read_csv(project.client.download_artifacts(run.info.run_id, "datasets/train.csv"))
    test = unseen(project)
    for known, opens in [(150, False), (50, True)]:
        project.client.delete_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION)
        frame = pd.concat([test.head(100), train.head(known)])
        frame.drop(columns="symmetry per texture").to_csv(tmp_path / "eval.csv", index=False)
        said = succeed(project.step("data_evaluation", "--eval-dataset", "eval.csv"))
        assert (f"{known} of the {100 + known} rows were seen in training" in said) != opens
        assert project.newest("data_evaluation").data.metrics["rows_seen_in_training"] == known
        assert (config.CHAMPION in project.registry()[config.CLASSIFIER_MODEL][1]) == opens


@pytest.mark.slow
def test_worse_model_does_not_replace_the_champion(evaluated, tmp_path):
    """A model that was trained on shuffled answers is worse on real ones, and stays out even without thresholds."""
    project = evaluated.copy(tmp_path)
    unseen(project).to_csv(project.folder / "real.csv", index=False)
    answers = np.random.default_rng(0).permutation(load_breast_cancer().target)
    breast_cancer(target=answers).to_csv(project.folder / "shuffled.csv", index=False)
    train_anew(project, "--dataset", "shuffled.csv")
    settings = project.folder / "config.py"
    text = settings.read_text()
    thresholds = next(line for line in text.splitlines() if line.startswith("THRESHOLDS = "))
    settings.write_text(text.replace(thresholds, 'THRESHOLDS = {"accuracy_score": 0.0}'))
    said = succeed(project.step("data_evaluation", "--eval-dataset", "real.csv"))
    assert "Version 2 does not become the champion. Metric accuracy_score" in said
    assert project.registry()[config.CLASSIFIER_MODEL] == ([1, 2], {config.CHAMPION: 1})
    evaluation = project.newest("data_evaluation")
    (beside,) = project.runs(f"tags.mlflow.parentRunId = '{evaluation.info.run_id}'")
    assert evaluation.data.metrics["accuracy_score"] < beside.data.metrics["accuracy_score"]


@pytest.mark.slow
def test_champion_chosen_meanwhile(evaluated, tmp_path):
    """A version that somebody else has brought into use during an evaluation was not compared with: it stays."""
    project = evaluated.copy(tmp_path)
    project.client.delete_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION)
    source = project.model_folder(config.CLASSIFIER_MODEL, 1).as_uri()
    other = project.client.create_model_version(config.CLASSIFIER_MODEL, source).version
    process = project.start("python", "-m", "steps.data_evaluation")
    wait_until(lambda: project.runs("tags.step = 'data_evaluation'", "RUNNING"))
    project.client.set_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION, other)
    assert process.wait(60) == 0
    assert "Meanwhile another version has become the champion" in process.said()
    assert project.newest("data_evaluation").data.tags["gate"] == "failed"
    assert project.registry()[config.CLASSIFIER_MODEL][1] == {config.CHAMPION: int(other)}


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
        line = refusal(project.step("model_serving", "--model-uri", uri))
        assert line.startswith(f"{uri}")
        remedy = "Make one: mlflow run . -e main" if "NoSuch" in uri else "serve it with `mlflow models serve`"
        assert remedy in line
        assert len(project.runs(status=None)) == before


@pytest.mark.slow
def test_serving_a_folder_of_ours(evaluated):
    folder = evaluated.model_folder(config.CLASSIFIER_MODEL, 1)
    said = succeed(evaluated.step("model_serving", "--model-uri", folder))
    assert "228 rows served, largest difference 0" in said


# --- Bad input: one line, exit code 1, nothing registered, no alias moved


OTHER = breast_cancer().head(60)
WRONG_INPUT = {
    "test-size 0": ("data_preprocessing", {"test-size": 0}, None, "test-size is 0.0"),
    "test-size nan": ("data_preprocessing", {"test-size": "nan"}, None, "test-size is nan"),
    "test-size text": ("data_preprocessing", {"test-size": "half"}, None, "argument --test-size: invalid float value: 'half'"),
    "test-size too small": ("data_preprocessing", {"test-size": 0.001}, None, "too few"),
    "positive-class": ("data_preprocessing", {"positive-class": "benign"}, None, "positive-class is benign: give "),
    "no trials": ("hyperparameters_tuning", {"n-trials": 0}, None, "n-trials is 0"),
    "half a trial": ("hyperparameters_tuning", {"n-trials": 2.5}, None, "argument --n-trials: invalid int value: '2.5'"),
    "unknown parameter": ("hyperparameters_tuning", {"trials": 3}, None, "--trials 3: no such parameter"),
    "no such run": ("model_training", {"data-run-id": "nosuchrun"}, None, "Run nosuchrun: "),
    "port": ("model_serving", {"port": 99999}, None, "port is 99999"),
    "no such file": ("data_evaluation", {"eval-dataset": "nowhere.csv"}, None, "nowhere.csv: cannot be read: No such file"),
    "column missing": ("data_evaluation", {"eval-dataset": "data.csv"}, OTHER.drop(columns="mean area"), "mean area"),
    "text in numbers": ("data_evaluation", {"eval-dataset": "data.csv"}, OTHER.replace({"mean area": {1001.0: "big"}}), "big"),
    "one class": ("data_evaluation", {"eval-dataset": "data.csv"}, OTHER.assign(target=1), "data.csv: has one class only"),
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
        assert f"Port {port} is in use" in refusal(evaluated.step("model_serving", "--port", port))
    assert evaluated.newest("model_serving", "FAILED").info.status == "FAILED"
