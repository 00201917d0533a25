"""The whole notebook runs, and the store holds afterwards what the text promises."""

import json
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest

import config

pytestmark = pytest.mark.slow

# The tag of a step and the name of its runs, in the order of the pipeline.
STEPS = {
    "data_preprocessing": "Data_Preprocessing",
    "hyperparameters_tuning": "Hyperparameters_Search",
    "model_training": "Model_Training",
    "data_evaluation": "Data_Evaluation",
    "flavour_comparison": "Flavour_Comparison",
    "model_customization": "Model_Customization",
    "model_serving": "Model_Serving",
}
RANGES = {"max_depth": (2, 8), "alpha": (0.001, 0.05), "learning_rate": (0.005, 0.5), "num_boost_round": (30, 300)}


def first(project, step):
    """The first run of a step: the one that the notebook's own cells made."""
    return project.runs(f"tags.step = '{step}'")[-1]


def trials_of(project, run):
    return project.runs(f"tags.mlflow.parentRunId = '{run.info.run_id}'")


def test_output_for_the_user(walkthrough):
    output = walkthrough.result.stdout
    for heading in ["Your first run", "Data preparation", "Hyperparameter tuning", "MLflow Projects"]:
        assert f"s  {heading}\n" in output
    assert "is the champion" in output
    assert "make ui" in output


def test_no_cell_failed_and_nothing_warned(walkthrough):
    cells = [cell for cell in walkthrough.executed.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.execution_count for cell in cells)
    failed = [cell for cell in cells if any(output.output_type == "error" for output in cell.outputs)]
    wanted = [cell for cell in cells if "raises-exception" in cell.metadata.get("tags", [])]
    assert failed == wanted and len(wanted) == 3
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "Warning" not in text
    assert "Traceback" not in text
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) == 2  # of the tuning and of the evaluation
    assert all(image.metadata["image/png"]["alt"] for image in images)


def test_notebook_and_scripts_made_runs(walkthrough):
    steps = [run.data.tags["step"] for run in walkthrough.made if "step" in run.data.tags]
    # once in the notebook's cells, once in its pipeline, once in the pipeline in an environment of its own
    assert {step: steps.count(step) for step in STEPS} == dict.fromkeys(STEPS, 3)
    assert steps.count("pipeline") == 2
    names = {run.data.tags["step"]: run.info.run_name for run in walkthrough.made if "step" in run.data.tags}
    assert names == STEPS | {"pipeline": "Pipeline"}
    assert {run.info.status for run in walkthrough.made} == {"FINISHED"}
    experiment = walkthrough.client.get_experiment_by_name(config.EXPERIMENT)
    assert {run.info.experiment_id for run in walkthrough.made} == {experiment.experiment_id}


def test_baseline(walkthrough):
    """It is a run like any other, with its data and its model, and the search has beaten it."""
    (run,) = walkthrough.runs("attributes.run_name = 'Baseline'")
    assert [logged.dataset.name for logged in run.inputs.dataset_inputs] == ["train"]
    assert len(run.outputs.model_outputs) == 1
    assert 0.9 < run.data.metrics["accuracy"] < 1
    search = first(walkthrough, "hyperparameters_tuning")
    assert search.data.metrics["logloss"] < run.data.metrics["logloss"]


def test_data_preparation(walkthrough):
    run = first(walkthrough, "data_preprocessing")
    assert run.data.metrics == {"full_rows": 569, "train_rows": 381, "test_rows": 188}
    assert run.data.params["test_size"] == "0.33"
    assert json.loads(run.data.tags["classes"]) == [0, 1]
    frames = {}
    for split in ["train", "test"]:
        path = walkthrough.client.download_artifacts(run.info.run_id, f"datasets/{split}.csv")
        frames[split] = pd.read_csv(path)
    data = pd.concat(frames.values())
    assert data.shape == (569, 32)
    assert data.duplicated().sum() == 0
    ratio = data["mean symmetry"] / data["mean texture"]
    pd.testing.assert_series_equal(data["symmetry per texture"], ratio, check_names=False, rtol=1e-15)
    assert abs(frames["train"].target.mean() - frames["test"].target.mean()) < 0.005
    digests = {}
    for logged in run.inputs.dataset_inputs:
        profile = json.loads(logged.dataset.profile)
        assert profile["num_rows"] == len(frames[logged.dataset.name])
        digests[logged.dataset.name] = logged.dataset.digest
    assert set(digests) == {"train", "test"}
    assert digests["train"] != digests["test"]
    assert f"381 training rows, digest {digests['train']}, class 1 is 1" in run.data.tags["data"]


def test_tuning(walkthrough):
    run = first(walkthrough, "hyperparameters_tuning")
    trials = trials_of(walkthrough, run)
    assert len(trials) == 30
    for trial in trials:
        for name, (low, high) in RANGES.items():
            assert low <= float(trial.data.params[name]) <= high
        last = {}
        for name in ["auc", "logloss"]:
            history = walkthrough.client.get_metric_history(trial.info.run_id, name)
            assert sorted(metric.step for metric in history) == list(range(int(trial.data.params["num_boost_round"])))
            last[name] = max(history, key=lambda metric: metric.step).value
        assert 0.5 < last["auc"] <= 1
        assert 0.5 < trial.data.metrics["accuracy"] <= 1
        trial.logloss = last["logloss"]
    best = min(trials, key=lambda trial: trial.logloss)
    assert run.data.metrics["logloss"] == best.logloss
    assert run.data.metrics["accuracy"] == best.data.metrics["accuracy"]
    assert {name: run.data.params[name] for name in RANGES} == {name: best.data.params[name] for name in RANGES}
    plots = {artifact.path for artifact in walkthrough.client.list_artifacts(run.info.run_id, "plots")}
    assert plots == {"plots/optimization_history.png", "plots/param_importances.png"}
    assert "system/cpu_utilization_percentage" in run.data.metrics
    assert run.data.tags["data_run_id"] == first(walkthrough, "data_preprocessing").info.run_id
    assert "study" not in run.data.tags  # it was in memory


def test_same_seed_same_trials(walkthrough):
    """The search of the notebook and those of the pipelines saw the same data: they made the same trials."""
    alone = walkthrough.runs("tags.step = 'hyperparameters_tuning'")[-3:]
    params = [{run.info.run_name: run.data.params for run in trials_of(walkthrough, run)} for run in alone]
    assert [len(trials) for trials in params] == [3, 30, 30]
    assert params[1] == params[2]
    assert all(params[0][name] == params[1][name] for name in params[0])


def test_training(walkthrough):
    run = first(walkthrough, "model_training")
    data_run = first(walkthrough, "data_preprocessing")
    tuning_run = first(walkthrough, "hyperparameters_tuning")
    assert run.data.tags["data_run_id"] == data_run.info.run_id
    assert run.data.tags["tuning_run_id"] == tuning_run.info.run_id
    assert run.data.tags["data"] == data_run.data.tags["data"]
    digests = [
        {logged.dataset.name: logged.dataset.digest for logged in some.inputs.dataset_inputs}
        for some in [data_run, run]
    ]
    assert digests[0] == digests[1]
    for name in ["max_depth", "alpha", "learning_rate"]:
        assert float(run.data.params[name]) == float(tuning_run.data.params[name])
    # autologging: metrics of every round on both parts of the training data, and the importance plot
    history = walkthrough.client.get_metric_history(run.info.run_id, "validation-logloss")
    assert config.EARLY_STOPPING_ROUNDS < len(history) <= int(tuning_run.data.params["num_boost_round"])
    assert len(history) == len(walkthrough.client.get_metric_history(run.info.run_id, "train-logloss"))
    # both models keep the rounds up to the best one
    rounds = int(np.argmin([metric.value for metric in sorted(history, key=lambda metric: metric.step)])) + 1
    booster, classifier = (
        mlflow.xgboost.load_model(str(walkthrough.model_folder(name, 1)))
        for name in [config.BOOSTER_MODEL, config.CLASSIFIER_MODEL]
    )
    assert booster.num_boosted_rounds() == classifier.get_booster().num_boosted_rounds() == rounds
    files = {artifact.path for artifact in walkthrough.client.list_artifacts(run.info.run_id)}
    assert "feature_importance_weight.png" in files
    # the test set stays unseen until the evaluation
    assert not [name for name in run.data.metrics if "test" in name]


@pytest.mark.parametrize("name", [config.BOOSTER_MODEL, config.CLASSIFIER_MODEL])
def test_registered_model(walkthrough, name):
    made = {run.info.run_id for run in walkthrough.made}  # by the notebook, not by the chapters
    versions = walkthrough.client.search_model_versions(f"name = '{name}'")
    versions = [version for version in versions if version.run_id in made]
    assert len(versions) == (4 if name == config.CLASSIFIER_MODEL else 3)  # with the one that fails at the gate
    version = min(versions, key=lambda v: int(v.version))
    assert version.run_id == first(walkthrough, "model_training").info.run_id
    assert version.tags == {"class_0": "0", "class_1": "1"}
    mlflow.set_tracking_uri(f"sqlite:///{walkthrough.folder}/mlflow.db")
    try:
        uri = f"models:/{name}/{version.version}"
        info = mlflow.models.get_model_info(uri)
        assert len(info.signature.inputs) == 31
        assert all(column.required for column in info.signature.inputs)
        assert info.metadata["classes"] == [0, 1]
        assert info.metadata["words"] == {}
        assert info.saved_input_example_info
        requirements = (mlflow.artifacts.load_text(f"{uri}/requirements.txt")).split()
        assert [line.split("==")[0] for line in requirements][0] == "mlflow"
        assert len(requirements) == 4
        data_run = first(walkthrough, "data_preprocessing")
        test = pd.read_csv(walkthrough.client.download_artifacts(data_run.info.run_id, "datasets/test.csv"))
        predicted = mlflow.pyfunc.load_model(uri).predict(test.drop(columns="target"))
        assert ((predicted > 0.5) == test.target).mean() > 0.9
    finally:
        mlflow.set_tracking_uri(None)


def test_evaluation_and_champion(walkthrough):
    runs = walkthrough.runs("tags.step = 'data_evaluation'")[-3:]
    run = runs[-1]
    for name, least in config.THRESHOLDS.items():
        assert run.data.metrics[name] >= least
    names = {artifact.path for artifact in walkthrough.client.list_artifacts(run.info.run_id)}
    wanted = ["roc_curve_plot", "precision_recall_curve_plot", "confusion_matrix", "shap_beeswarm_plot"]
    assert {f"{name}.png" for name in wanted} <= names
    assert run.data.tags["gate"] == "passed"
    assert run.data.tags["training_run_id"] == first(walkthrough, "model_training").info.run_id
    # the later evaluations compared with the champion, in a nested run
    nested = trials_of(walkthrough, runs[-2])
    assert [n.info.run_name for n in nested] == ["Champion_Version_1"]
    assert "roc_auc" in nested[0].data.metrics
    passed = [int(r.data.tags["model_version"]) for r in runs if r.data.tags["gate"] == "passed"]
    assert walkthrough.registry()[config.CLASSIFIER_MODEL][1] == {config.CHAMPION: max(passed)}


def test_pipeline_runs_are_nested(walkthrough):
    """All steps, in order; and each served the version that its own pipeline had trained."""
    for pipeline in walkthrough.runs("tags.step = 'pipeline'"):
        nested = {run.data.tags["step"]: run for run in reversed(trials_of(walkthrough, pipeline))}
        assert list(nested) == list(STEPS)
        evaluated = nested["data_evaluation"].data.tags["model_version"]
        assert nested["model_serving"].data.params["model_uri"] == f"models:/{config.CLASSIFIER_MODEL}/{evaluated}"


@pytest.mark.nightly
def test_on_data_of_ones_own(empty_project):
    """The notebook runs to its end on words, dates, gaps and a target of another name that no model learns well."""
    rng = np.random.default_rng(0)
    rows = 300
    frame = pd.DataFrame(
        {
            "age": np.where(rng.random(rows) < 0.2, np.nan, rng.integers(1, 80, rows)),
            "fare": rng.gamma(2, 15, rows).round(2),
            "sex": rng.choice(["male", "female"], rows),
            "deck": rng.choice(["A", "B", None], rows),
            "alone": rng.choice(["True", "False"], rows),
            "boarded": pd.Timestamp("1912-04-10") + pd.to_timedelta(rng.integers(0, 3, rows), "D"),
            "name": [f"passenger {number}" for number in range(rows)],
            "remark": np.nan,
        }
    )
    frame["survived"] = np.where((frame.sex == "female") ^ (rng.random(rows) < 0.25), "yes", "no")
    frame.to_csv(empty_project.folder / "passengers.csv", index=False)
    notebook = empty_project.folder / "modeling.py"
    text = notebook.read_text()
    for old, new in [
        ("= 0.33, None, None, None\n", '= 0.33, "passengers.csv", "survived", "no"\n'),
        ("storage, study_name = 30, None", "storage, study_name = 2, None"),
        ('"n-trials": 3,', '"n-trials": 1,'),
    ]:
        assert text.count(old) == 1
        text = text.replace(old, new)
    notebook.write_text(text)
    result = empty_project.run(sys.executable, "-m", "notebook_tools.run")
    assert result.returncode == 0, result.stdout + result.stderr
    for run in empty_project.runs("tags.step = 'data_preprocessing'"):
        assert "passengers.csv, 201 training rows" in run.data.tags["data"]
        assert run.data.tags["data"].endswith("class 1 is 'no'")
    evaluations = empty_project.runs("tags.step = 'data_evaluation'")
    assert [run.data.tags["gate"] for run in evaluations] == ["failed"] * 3
    # by hand, so that the sections on serving have a champion to show
    assert empty_project.registry()[config.CLASSIFIER_MODEL][1] == {config.CHAMPION: 1}
