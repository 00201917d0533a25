"""The whole notebook runs, and the store holds afterwards what the text promises."""

import json

import mlflow
import pandas as pd
import pytest

import config

pytestmark = pytest.mark.slow

STEPS = [step for step in config.RUN_NAMES if step != "pipeline"]


def first(project, step):
    """The first run of a step: the one that the notebook's own cells made."""
    return project.runs(f"tags.step = '{step}'")[-1]


def test_output_for_the_user(walkthrough):
    output = walkthrough.result.stdout
    for heading in ["Data preparation", "Hyperparameter tuning", "MLflow Projects", "Sharing the work"]:
        assert f"s  {heading}\n" in output
    assert "is the champion" in output
    assert "make ui" in output


def test_no_cell_failed_and_nothing_warned(walkthrough):
    cells = [cell for cell in walkthrough.executed.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.execution_count for cell in cells)
    assert not [output for output in outputs if output.output_type == "error"]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "Warning" not in text
    assert "Traceback" not in text
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) >= 6  # two of the tuning, four of the evaluation


def test_notebook_and_scripts_made_runs(walkthrough):
    runs = {run.data.tags["step"]: run for run in walkthrough.made if "step" in run.data.tags}
    assert {step: run.info.run_name for step, run in runs.items()} == config.RUN_NAMES
    steps = [run.data.tags["step"] for run in walkthrough.made if "step" in run.data.tags]
    # once in the notebook's cells, once in its pipeline, once in the pipeline in an environment of its own; and the
    # study that two workers continue has another tuning run
    expected = dict.fromkeys(STEPS, 3) | {"hyperparameters_tuning": 4}
    assert {step: steps.count(step) for step in STEPS} == expected
    assert steps.count("pipeline") == 2
    assert {run.info.status for run in walkthrough.made} == {"FINISHED"}
    experiment = walkthrough.client.get_experiment_by_name(config.EXPERIMENT)
    assert {run.info.experiment_id for run in walkthrough.made} == {experiment.experiment_id}


def test_data_preparation(walkthrough):
    run = first(walkthrough, "data_preprocessing")
    assert run.data.metrics == {"full_rows": 569, "train_rows": 381, "test_rows": 188}
    assert run.data.params["test_size"] == str(config.TEST_SIZE)
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


def test_tuning(walkthrough):
    run = first(walkthrough, "hyperparameters_tuning")
    trials = walkthrough.runs(f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    assert len(trials) == config.N_TRIALS
    ranges = {"max_depth": (2, 8), "alpha": (0.001, 0.05), "learning_rate": (0.005, 0.5), "num_boost_round": (30, 300)}
    for trial in trials:
        for name, (low, high) in ranges.items():
            assert low <= float(trial.data.params[name]) <= high
        rounds = int(trial.data.params["num_boost_round"])
        for name in ["auc", "error"]:
            history = walkthrough.client.get_metric_history(trial.info.run_id, name)
            assert sorted(metric.step for metric in history) == list(range(rounds))
            assert all(0 <= metric.value <= 1 for metric in history)
        last_error = max(walkthrough.client.get_metric_history(trial.info.run_id, "error"), key=lambda m: m.step).value
        assert trial.data.metrics["accuracy"] == pytest.approx(1 - last_error)
    best = max(trials, key=lambda trial: trial.data.metrics["accuracy"])
    assert run.data.metrics["accuracy"] == best.data.metrics["accuracy"]
    assert {name: run.data.params[name] for name in ranges} in [
        {name: trial.data.params[name] for name in ranges} for trial in trials
        if trial.data.metrics["accuracy"] == run.data.metrics["accuracy"]
    ]  # fmt: skip
    plots = {artifact.path for artifact in walkthrough.client.list_artifacts(run.info.run_id, "plots")}
    assert plots == {"plots/optimization_history.png", "plots/param_importances.png"}
    assert "system/cpu_utilization_percentage" in run.data.metrics
    assert run.data.tags["data_run_id"] == first(walkthrough, "data_preprocessing").info.run_id


def test_same_seed_same_trials(walkthrough):
    """The tuning of the notebook and that of the pipeline saw the same data: they made the same trials."""
    tuning = walkthrough.runs("tags.step = 'hyperparameters_tuning'")[-3:]
    results = []
    for run in tuning:
        trials = walkthrough.runs(f"tags.mlflow.parentRunId = '{run.info.run_id}'")
        results.append({t.info.run_name: (t.data.params, t.data.metrics["accuracy"]) for t in trials})
    assert results[1] == results[2]
    assert all(results[0][name] == results[1][name] for name in results[0])


def test_training(walkthrough):
    run = first(walkthrough, "model_training")
    data_run = first(walkthrough, "data_preprocessing")
    tuning_run = first(walkthrough, "hyperparameters_tuning")
    tags = run.data.tags
    assert tags["data_run_id"] == data_run.info.run_id
    assert tags["tuning_run_id"] == tuning_run.info.run_id
    assert tags["script"] == "model_training.py"
    assert "commit" in tags
    digests = {logged.dataset.name: logged.dataset.digest for logged in data_run.inputs.dataset_inputs}
    assert {"train": tags["train_digest"], "test": tags["test_digest"]} == digests
    assert digests == {logged.dataset.name: logged.dataset.digest for logged in run.inputs.dataset_inputs}
    for name in ["max_depth", "alpha", "learning_rate"]:
        assert float(run.data.params[name]) == float(tuning_run.data.params[name])
    # autologging: metrics of every round on both parts of the training data, and the importance plot
    history = walkthrough.client.get_metric_history(run.info.run_id, "validation-logloss")
    assert len(history) > config.EARLY_STOPPING_ROUNDS
    assert len(history) == len(walkthrough.client.get_metric_history(run.info.run_id, "train-logloss"))
    files = {artifact.path for artifact in walkthrough.client.list_artifacts(run.info.run_id)}
    assert "feature_importance_weight.png" in files
    assert run.data.metrics["test_accuracy"] > 0.9


@pytest.mark.parametrize("name", [config.BOOSTER_MODEL, config.CLASSIFIER_MODEL])
def test_registered_model(walkthrough, name):
    versions = walkthrough.client.search_model_versions(f"name = '{name}'")
    assert len(versions) == 3
    version = min(versions, key=lambda v: int(v.version))
    assert version.run_id == first(walkthrough, "model_training").info.run_id
    mlflow.set_tracking_uri(f"sqlite:///{walkthrough.folder}/mlflow.db")
    try:
        uri = f"models:/{name}/{version.version}"
        info = mlflow.models.get_model_info(uri)
        assert len(info.signature.inputs) == 31
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
    nested = walkthrough.runs(f"tags.mlflow.parentRunId = '{runs[-2].info.run_id}'")
    assert [n.info.run_name for n in nested] == ["Champion_Version_1"]
    assert "roc_auc" in nested[0].data.metrics
    passed = [int(r.data.tags["model_version"]) for r in runs if r.data.tags["gate"] == "passed"]
    assert walkthrough.registry()[config.CLASSIFIER_MODEL][1] == {config.CHAMPION: max(passed)}


def test_pipeline_runs_are_nested(walkthrough):
    for pipeline in walkthrough.runs("tags.step = 'pipeline'"):
        nested = walkthrough.runs(f"tags.mlflow.parentRunId = '{pipeline.info.run_id}'")
        assert [run.data.tags["step"] for run in reversed(nested)] == STEPS
