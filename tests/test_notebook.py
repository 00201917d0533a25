"""The whole notebook runs, and the store holds afterwards what the text promises."""

import json
import re
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from support import BOOSTER_MODEL, EXPERIMENT, MODEL, passengers

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
    "serving_check": "Serving_Check",
}
RANGES = {"max_depth": (2, 3), "learning_rate": (0.05, 0.15), "subsample": (0.5, 0.7), "colsample_bytree": (0.15, 0.4)}


def first(project, step):
    """The first run of a step: the one that the notebook's own cells made."""
    return project.runs(f"tags.step = '{step}'")[-1]


def made(project, step):
    """The runs of a step that the notebook made, the newest first: other tests add theirs."""
    return [run for run in project.made if run.data.tags.get("step") == step]


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
    # what makes further environments is for `make readme` and the night
    further = [cell for cell in cells if "environments" in cell.metadata.get("tags", [])]
    assert [cell for cell in cells if not cell.execution_count] == further != []
    assert not [output for output in outputs if output.output_type == "error"]
    # the first cell is plain MLflow, which has a hint about the whole numbers of the target
    streams = [output for cell in cells[1:] for output in cell.outputs if output.output_type == "stream"]
    text = "".join(output.text for output in streams)
    assert "Warning" not in text
    assert "Traceback" not in text
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) == 3  # of the tuning, the training and the evaluation
    assert all(image.metadata["image/png"]["alt"] for image in images)


def test_notebook_and_scripts_made_runs(walkthrough):
    steps = [run.data.tags["step"] for run in walkthrough.made if "step" in run.data.tags]
    # once in the notebook's cells, once in its pipeline; the pipeline in an environment of its own has its own store
    assert {step: steps.count(step) for step in STEPS} == dict.fromkeys(STEPS, 2)
    assert steps.count("pipeline") == 1
    names = {run.data.tags["step"]: run.info.run_name for run in walkthrough.made if "step" in run.data.tags}
    assert names == STEPS | {"pipeline": "Pipeline"}
    assert {run.info.status for run in walkthrough.made} == {"FINISHED"}
    experiment = walkthrough.client.get_experiment_by_name(EXPERIMENT)
    assert {run.info.experiment_id for run in walkthrough.made} == {experiment.experiment_id}


def frame_of(project, run, name):
    """A data set of the preparation, as it was logged."""
    return pd.read_csv(project.client.download_artifacts(run.info.run_id, f"datasets/{name}.csv"))


def test_baseline(walkthrough):
    """It is a run like any other, with its data and its model, trained on the rows that the preparation trains on."""
    (run,) = walkthrough.runs("attributes.run_name = 'Baseline'")
    # and with what it was evaluated on, later
    assert {logged.dataset.name for logged in run.inputs.dataset_inputs} == {"train", "features", "test"}
    assert len(run.outputs.model_outputs) == 1
    assert 0.9 < run.data.metrics["cv_accuracy"] < 1
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    X_train, _, y_train, _ = train_test_split(X, 1 - y, test_size=0.33, stratify=1 - y, random_state=42)
    train = frame_of(walkthrough, first(walkthrough, "data_preprocessing"), "train")
    assert (train.pop("target") == "malignant").astype(int).tolist() == y_train.tolist()
    pd.testing.assert_frame_equal(train, X_train.reset_index(drop=True))


def test_data_preparation(walkthrough):
    run = first(walkthrough, "data_preprocessing")
    rows = {"full_rows": 569, "train_rows": 381, "test_rows": 188, "test_rows_in_training": 0}
    assert run.data.metrics == rows
    assert run.data.params["test_size"] == "0.33"
    assert json.loads(run.data.tags["classes"]) == ["benign", "malignant"]
    frames = {split: frame_of(walkthrough, run, split) for split in ["train", "test"]}
    data = pd.concat(frames.values())
    assert data.shape == (569, 31)  # as it stands in the file
    assert data.duplicated().sum() == 0
    types = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/types.json")
    assert types == [{"name": name, "kind": "number"} for name in data.columns.drop("target")]
    malignant = [(frame.target == "malignant").mean() for frame in frames.values()]
    assert abs(malignant[0] - malignant[1]) < 0.005
    digests = {}
    for logged in run.inputs.dataset_inputs:
        profile = json.loads(logged.dataset.profile)
        assert profile["num_rows"] == len(frames[logged.dataset.name])
        digests[logged.dataset.name] = logged.dataset.digest
    assert set(digests) == {"train", "test"}
    assert digests["train"] != digests["test"]
    assert f"381 training rows, digest {digests['train']}, class 1 is 'malignant'" in run.data.tags["data"]


def test_tuning(walkthrough):
    run = first(walkthrough, "hyperparameters_tuning")
    trials = trials_of(walkthrough, run)
    assert len(trials) == 30
    for trial in trials:
        for name, (low, high) in RANGES.items():
            assert low <= float(trial.data.params[name]) <= high
        rounds = int(trial.data.metrics["num_boost_round"])
        for name in ["auc", "logloss"]:
            history = walkthrough.client.get_metric_history(trial.info.run_id, name)
            assert sorted(metric.step for metric in history) == list(range(1, rounds + 1))
            if name == "logloss":  # the last round is the best one
                assert min(metric.value for metric in history) == trial.data.metrics["logloss"]
        assert 0.5 < trial.data.metrics["auc"] <= 1
        assert 0.5 < trial.data.metrics["accuracy"] <= 1
    best = min(trials, key=lambda trial: trial.data.metrics["logloss"])
    for name in ["logloss", "accuracy", "auc"]:
        assert run.data.metrics[name] == best.data.metrics[name]
    assert {name: run.data.params[name] for name in RANGES} == {name: best.data.params[name] for name in RANGES}
    assert int(run.data.params["num_boost_round"]) == best.data.metrics["num_boost_round"]
    plots = {artifact.path for artifact in walkthrough.client.list_artifacts(run.info.run_id, "plots")}
    assert plots == {f"plots/{name}.png" for name in ["optimization_history", "param_importances", "best_trial"]}
    assert "system/cpu_utilization_percentage" in run.data.metrics
    assert run.data.tags["data_run_id"] == first(walkthrough, "data_preprocessing").info.run_id
    assert "study" not in run.data.tags  # it was in memory


def test_pipeline_comes_to_the_same_model(walkthrough):
    """The search of the notebook and that of its pipeline: the same trials, parameters, model and numbers."""
    searches = made(walkthrough, "hyperparameters_tuning")
    params = [{run.info.run_name: run.data.params for run in trials_of(walkthrough, run)} for run in searches]
    assert len(params[0]) == 30
    assert params[0] == params[1]
    runs = made(walkthrough, "data_evaluation")
    for name in ["log_loss", "roc_auc", "recall_score", "guessing_log_loss"]:
        assert runs[0].data.metrics[name] == runs[1].data.metrics[name]
    assert runs[0].data.metrics["loss_above_champion"] == 0


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
    for name in [*RANGES, "num_boost_round"]:
        assert float(run.data.params[name]) == float(tuning_run.data.params[name])
    # autologging: metrics of every round on all training rows, and the importance plot
    rounds = int(tuning_run.data.params["num_boost_round"])
    assert len(walkthrough.client.get_metric_history(run.info.run_id, "train-logloss")) == rounds
    booster, version = (walkthrough.model_folder(name, 1) for name in [BOOSTER_MODEL, MODEL])
    booster = mlflow.xgboost.load_model(str(booster))
    model = mlflow.pyfunc.load_model(str(version)).unwrap_python_model()
    assert booster.num_boosted_rounds() == model.classifier.get_booster().num_boosted_rounds() == rounds
    # one model in two forms
    values = model.features(frame_of(walkthrough, data_run, "train"))
    equal = booster.predict(xgb.DMatrix(values)) == model.classifier.predict_proba(values)[:, 1]
    assert equal.all()
    # what MLflow's page of each model shows of the training is its last round
    last = walkthrough.client.get_metric_history(run.info.run_id, "train-logloss")[-1]
    for output in run.outputs.model_outputs:
        metrics = walkthrough.client.get_logged_model(output.model_id).metrics
        shown = [metric for metric in metrics if metric.key == "train-logloss"]
        assert [(metric.value, metric.step) for metric in shown] == [(last.value, rounds - 1)]
    files = {artifact.path for artifact in walkthrough.client.list_artifacts(run.info.run_id)}
    assert "feature_importance_weight.png" in files
    # the test set stays unseen until the evaluation
    assert not [name for name in run.data.metrics if "test" in name]


def test_registered_model(walkthrough, monkeypatch):
    known = {run.info.run_id for run in walkthrough.made}  # by the notebook, not by the chapters
    versions = {
        name: [v for v in walkthrough.client.search_model_versions(f"name = '{name}'") if v.run_id in known]
        for name in [MODEL, BOOSTER_MODEL]
    }
    # with the one that fails at the gate
    assert {name: len(found) for name, found in versions.items()} == {MODEL: 3, BOOSTER_MODEL: 2}
    training = first(walkthrough, "model_training").info.run_id
    verdicts = {int(v.version): v.tags["gate"] for v in versions[MODEL]}
    assert verdicts[1] == "passed"
    assert verdicts[2].startswith("failed: ") and "Recall of malignant" in verdicts[2]
    folder = walkthrough.model_folder(MODEL, 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", walkthrough.uri)
    info = mlflow.models.get_model_info(str(folder))
    assert info.run_id == training
    assert len(info.signature.inputs) == 30
    assert all(column.required for column in info.signature.inputs)
    assert info.signature.outputs.input_names() == [
        *["prediction", "probability of benign", "probability of malignant"]
    ]
    assert info.metadata["classes"] == ["benign", "malignant"]
    assert info.saved_input_example_info
    requirements = (folder / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in requirements][0] == "mlflow"
    assert len(requirements) == 4
    test = frame_of(walkthrough, first(walkthrough, "data_preprocessing"), "test")
    predicted = mlflow.pyfunc.load_model(str(folder)).predict(test.drop(columns="target"))
    assert (predicted["prediction"] == test.target).mean() > 0.9


def test_evaluation_and_champion(walkthrough):
    second, run = made(walkthrough, "data_evaluation")
    names = {artifact.path for artifact in walkthrough.client.list_artifacts(run.info.run_id)}
    wanted = ["roc_curve_plot", "precision_recall_curve_plot", "confusion_matrix", "shap_summary"]
    assert {f"{name}.png" for name in wanted} <= names
    assert run.data.tags["training_run_id"] == first(walkthrough, "model_training").info.run_id
    tags = ["gate", "model_version", "champion_before", "champion_after"]
    assert [run.data.tags[name] for name in tags] == ["passed", "1", "None", "1"]
    assert [second.data.tags[name] for name in tags] == ["passed", "3", "1", "3"]
    # the second one compared with the champion, in a nested run
    (nested,) = trials_of(walkthrough, second)
    assert nested.info.run_name == "Champion_Version_1"
    assert nested.data.metrics["log_loss"] == run.data.metrics["log_loss"]
    assert walkthrough.registry()[MODEL][1] == {config.CHAMPION: 3}
    # the model card has the numbers of the run
    for evaluation in [run, second]:
        version = walkthrough.client.get_model_version(MODEL, evaluation.data.tags["model_version"])
        digest = next(item.dataset.digest for item in evaluation.inputs.dataset_inputs if item.dataset.name == "test")
        metrics = evaluation.data.metrics
        for said in [
            run.data.tags["data"],
            f"188 rows of its test set, digest {digest}",
            f"log loss {metrics['log_loss']:.4f} (guessing {metrics['guessing_log_loss']:.4f})",
            f"recall of malignant {metrics['recall_score']:.3f}",
            "Gate: passed",
        ]:
            assert said in version.description


def test_numbers_are_those_of_the_models(walkthrough):
    """What MLflow holds for each logged model on the test set is what the model's answers give."""
    run = first(walkthrough, "data_evaluation")
    data_run = first(walkthrough, "data_preprocessing")
    digest = next(item.dataset.digest for item in data_run.inputs.dataset_inputs if item.dataset.name == "test")
    test = frame_of(walkthrough, data_run, "test")
    label = test.target == "malignant"

    def mean_loss(probability):
        right = np.where(label, probability, 1 - probability)
        return float(-np.log(right).mean())

    found = {
        logged.name: {metric.key: metric.value for metric in logged.metrics if metric.dataset_digest == digest}
        for logged in walkthrough.client.search_logged_models(
            [run.info.experiment_id], datasets=[{"dataset_name": "test", "dataset_digest": digest}]
        )
    }
    assert set(found) == {"baseline", "tuned", "Too_Simple"}
    share = (frame_of(walkthrough, data_run, "train").target == "malignant").mean()
    assert run.data.metrics["guessing_log_loss"] == pytest.approx(mean_loss(share))
    for number, name in [(1, "tuned"), (2, "Too_Simple")]:
        model = mlflow.pyfunc.load_model(str(walkthrough.model_folder(MODEL, number)))
        answer = model.predict(test.drop(columns="target"))
        assert found[name]["log_loss"] == pytest.approx(mean_loss(answer["probability of malignant"]), abs=1e-6)
        assert found[name]["false_negatives"] == (label & (answer.prediction == "benign")).sum()
        assert found[name]["false_positives"] == (~label & (answer.prediction == "malignant")).sum()
        assert found[name]["recall_score"] == pytest.approx((answer.prediction[label] == "malignant").mean())
    assert found["tuned"]["recall_score"] >= config.LEAST_RECALL["malignant"] > found["Too_Simple"]["recall_score"]
    assert found["tuned"]["log_loss"] < found["Too_Simple"]["log_loss"] < run.data.metrics["guessing_log_loss"]
    gain = run.data.metrics["gain_over_guessing"]
    assert gain == pytest.approx(run.data.metrics["guessing_log_loss"] - found["tuned"]["log_loss"], abs=1e-6)
    assert gain > config.GAIN_ERRORS * run.data.metrics["gain_over_guessing_standard_error"] > 0


def test_page_and_store_agree(walkthrough):
    """Each number about the models on the page is one that MLflow holds."""
    run = first(walkthrough, "data_evaluation")
    (baseline,) = walkthrough.runs("attributes.run_name = 'Baseline'")
    page = (walkthrough.folder / "README.md").read_text()
    text = "".join(
        str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
        for cell in walkthrough.executed.cells
        for output in cell.get("outputs", [])
    )
    held = {
        round(metric.value, 4)
        for logged in walkthrough.client.search_logged_models([run.info.experiment_id])
        for metric in logged.metrics or []
    } | {round(value, 4) for value in [*run.data.metrics.values(), *baseline.data.metrics.values()]}
    (table,) = [block for block in page.split("\n\n") if "false_negatives" in block and "Too_Simple" in block]
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", table)]
    assert len(numbers) == 16
    assert set(numbers) <= held
    (line,) = re.findall(r"^The baseline's log loss is .*", page, re.MULTILINE)
    assert line in text
    assert {float(number) for number in re.findall(r"-?\d\.\d{4}", line)} <= held


def test_pipeline_runs_are_nested(walkthrough):
    """All steps, in order; and it served the version that it had trained."""
    (pipeline,) = made(walkthrough, "pipeline")
    nested = {run.data.tags["step"]: run for run in reversed(trials_of(walkthrough, pipeline))}
    assert list(nested) == list(STEPS)
    evaluated = nested["data_evaluation"].data.tags["model_version"]
    assert nested["serving_check"].data.params["model_uri"] == f"models:/{MODEL}/{evaluated}"


@pytest.mark.nightly
def test_on_data_of_ones_own(empty_project):
    """The notebook runs to its end on words, dates, gaps and a target of another name."""
    frame = passengers()
    frame.insert(0, "name", [f"passenger {number}" for number in range(len(frame))])
    frame.insert(1, "remark", np.nan)
    frame.to_csv(empty_project.folder / "passengers.csv", index=False)
    notebook = empty_project.folder / "modeling.py"
    text = notebook.read_text()
    for old, new in [
        ("= 0.33, None, None, None, None\n", '= 0.33, "passengers.csv", "survived", "no", None\n'),
        ("storage, study_name = 30, None", "storage, study_name = 2, None"),
    ]:
        assert text.count(old) == 1
        text = text.replace(old, new)
    notebook.write_text(text)
    result = empty_project.run(sys.executable, "-m", "notebook_tools.run")
    assert result.returncode == 0, result.stdout + result.stderr
    for run in empty_project.runs("tags.step = 'data_preprocessing'"):
        assert "passengers.csv, 201 training rows" in run.data.tags["data"]
        assert run.data.tags["data"].endswith("class 1 is 'no'")
    # it is better than guessing, and there is no limit of recall for these classes
    evaluations = empty_project.runs("tags.step = 'data_evaluation'")
    assert [run.data.tags["gate"] for run in evaluations] == ["passed"] * 2
    assert empty_project.registry()["passengersModel"][1] == {config.CHAMPION: 3}
    assert MODEL not in empty_project.registry()
