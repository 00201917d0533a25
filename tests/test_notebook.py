"""The whole notebook runs, and the store holds afterwards what the text promises."""

import re
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from support import BOOSTER_MODEL, EXPERIMENT, MODEL, PAGE, STEPS, passengers

import config

pytestmark = pytest.mark.slow

RANGES = {"max_depth": (2, 3), "learning_rate": (0.05, 0.15), "subsample": (0.5, 0.7), "colsample_bytree": (0.15, 0.4)}


def made(project, step):
    """The runs of a step that the notebook made, those of its own cells first: other tests add theirs."""
    return [run for run in project.made[::-1] if run.data.tags.get("step") == step]


def first(project, step):
    return made(project, step)[0]


def nested_in(project, run):
    return project.runs(f"tags.mlflow.parentRunId = '{run.info.run_id}'")


def frame_of(project, run, name):
    """A data set of the preparation, as it was logged."""
    return pd.read_csv(project.client.download_artifacts(run.info.run_id, f"datasets/{name}.csv"))


def digests(run):
    return {logged.dataset.name: logged.dataset.digest for logged in run.inputs.dataset_inputs}


def test_no_cell_failed_and_nothing_warned(walkthrough):
    assert "is the champion" in walkthrough.result.stdout
    assert "make ui" in walkthrough.result.stdout
    cells = [cell for cell in walkthrough.executed.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    # what makes further environments is for `make readme` and the night
    further = [cell for cell in cells if "environments" in cell.metadata.get("tags", [])]
    assert [cell for cell in cells if not cell.execution_count] == further
    assert not [output for output in outputs if output.output_type == "error"]
    # the first cell is plain MLflow, which has a hint about the whole numbers of the target
    streams = [output for cell in cells[1:] for output in cell.outputs if output.output_type == "stream"]
    text = "".join(output.text for output in streams)
    assert "Warning" not in text and "Traceback" not in text
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    assert images and all(image.metadata["image/png"]["alt"] for image in images)


def test_notebook_and_scripts_made_runs(walkthrough):
    steps = [run.data.tags["step"] for run in walkthrough.made if "step" in run.data.tags]
    # once in the notebook's cells, once in its pipeline; the pipeline in an environment of its own has its own store
    assert {step: steps.count(step) for step in steps} == {**dict.fromkeys(STEPS, 2), "pipeline": 1}
    assert {run.info.status for run in walkthrough.made} == {"FINISHED"}
    experiment = walkthrough.client.get_experiment_by_name(EXPERIMENT)
    assert {run.info.experiment_id for run in walkthrough.made} == {experiment.experiment_id}


def test_baseline(walkthrough):
    """It is a run like any other, with its model, trained on the rows that the preparation trains on."""
    (run,) = walkthrough.runs("attributes.run_name = 'Baseline'")
    assert len(run.outputs.model_outputs) == 1
    assert 0.9 < run.data.metrics["cv_accuracy"] < 1
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    X_train, _, y_train, _ = train_test_split(X, 1 - y, test_size=0.33, stratify=1 - y, random_state=42)
    data_run = first(walkthrough, "data_preprocessing")
    assert data_run.data.metrics["train_rows"] == 381 and data_run.data.metrics["test_rows"] == 188
    train = frame_of(walkthrough, data_run, "train")
    assert (train.pop("target") == "malignant").astype(int).tolist() == y_train.tolist()
    pd.testing.assert_frame_equal(train, X_train.reset_index(drop=True))


def test_tuning(walkthrough):
    """What each search has of its trials is in tests/test_tuning.py."""
    run, again = made(walkthrough, "hyperparameters_tuning")
    trials = nested_in(walkthrough, run)
    assert len(trials) == 30
    for trial in trials:
        assert all(low <= float(trial.data.params[name]) <= high for name, (low, high) in RANGES.items())
        assert 0.5 < trial.data.metrics["auc"] <= 1 and 0.5 < trial.data.metrics["accuracy"] <= 1
    plots = {artifact.path for artifact in walkthrough.client.list_artifacts(run.info.run_id, "plots")}
    assert plots == {f"plots/{name}.png" for name in ["optimization_history", "param_importances", "best_trial"]}
    assert "system/cpu_utilization_percentage" in run.data.metrics
    # the pipeline comes to the same trials, and so to the same model
    same = [{trial.info.run_name: trial.data.params for trial in nested_in(walkthrough, each)} for each in [run, again]]
    assert same[0] == same[1]


def test_training(walkthrough):
    data_run, tuning_run, run = [first(walkthrough, step) for step in STEPS[:3]]
    for name in [*RANGES, "num_boost_round"]:
        assert float(run.data.params[name]) == float(tuning_run.data.params[name])
    # autologging: metrics of every round on all training rows, and the importance plot
    rounds = int(tuning_run.data.params["num_boost_round"])
    losses = walkthrough.client.get_metric_history(run.info.run_id, "train-logloss")
    assert len(losses) == rounds
    files = {artifact.path for artifact in walkthrough.client.list_artifacts(run.info.run_id)}
    assert "feature_importance_weight.png" in files
    # one model in two forms
    booster = mlflow.xgboost.load_model(str(walkthrough.model_folder(BOOSTER_MODEL, 1)))
    model = mlflow.pyfunc.load_model(str(walkthrough.model_folder(MODEL, 1))).unwrap_python_model()
    assert booster.num_boosted_rounds() == model.classifier.get_booster().num_boosted_rounds() == rounds
    values = model.features(frame_of(walkthrough, data_run, "train"))
    assert (booster.predict(xgb.DMatrix(values)) == model.classifier.predict_proba(values)[:, 1]).all()
    # what MLflow's page of each model shows of the training is its last round
    for output in run.outputs.model_outputs:
        metrics = walkthrough.client.get_logged_model(output.model_id).metrics
        shown = [(metric.value, metric.step) for metric in metrics if metric.key == "train-logloss"]
        assert shown == [(losses[-1].value, rounds - 1)]


def test_registered_model(walkthrough, monkeypatch):
    known = {run.info.run_id for run in walkthrough.made}  # by the notebook, not by the chapters
    found = [v for v in walkthrough.client.search_model_versions(f"name = '{MODEL}'") if v.run_id in known]
    verdicts = {int(version.version): version.tags["gate"] for version in found}
    assert [verdicts[1], verdicts[3], len(verdicts)] == ["passed", "passed", 3]
    assert verdicts[2].startswith("failed: ") and "Recall of malignant" in verdicts[2]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", walkthrough.uri)
    info = mlflow.models.get_model_info(str(walkthrough.model_folder(MODEL, 1)))
    assert info.run_id == first(walkthrough, "model_training").info.run_id
    assert len(info.signature.inputs) == 30 and all(column.required for column in info.signature.inputs)
    names = ["prediction", "probability of benign", "probability of malignant"]
    assert info.signature.outputs.input_names() == names
    assert info.metadata["classes"] == ["benign", "malignant"]
    assert info.saved_input_example_info


def test_evaluation_and_champion(walkthrough):
    run, second = made(walkthrough, "data_evaluation")
    files = {artifact.path for artifact in walkthrough.client.list_artifacts(run.info.run_id)}
    wanted = ["roc_curve_plot", "precision_recall_curve_plot", "confusion_matrix", "shap_summary"]
    assert {f"{name}.png" for name in wanted} <= files
    tags = ["gate", "model_version", "champion_before", "champion_after"]
    assert [run.data.tags[name] for name in tags] == ["passed", "1", "None", "1"]
    assert [second.data.tags[name] for name in tags] == ["passed", "3", "1", "3"]
    # the second one compared with the champion, in a nested run
    (nested,) = nested_in(walkthrough, second)
    assert nested.info.run_name == "Champion_Version_1"
    assert nested.data.metrics["log_loss"] == run.data.metrics["log_loss"] == second.data.metrics["log_loss"]
    assert second.data.metrics["loss_above_champion"] == 0
    assert walkthrough.registry()[MODEL][1] == {config.CHAMPION: 3}
    # the model card has the numbers of the run
    for evaluation in [run, second]:
        card = walkthrough.client.get_model_version(MODEL, evaluation.data.tags["model_version"]).description
        metrics = evaluation.data.metrics
        for said in [
            run.data.tags["data"],
            f"188 rows of its test set, digest {digests(evaluation)['test']}",
            f"log loss {metrics['log_loss']:.4f} (guessing {metrics['guessing_log_loss']:.4f})",
            f"recall of malignant {metrics['recall_score']:.3f}.",
            "Gate: passed",
        ]:
            assert said in card


def test_numbers_are_those_of_the_models(walkthrough):
    """What MLflow holds for each logged model on the test set is what the model's answers give."""
    run, data_run = first(walkthrough, "data_evaluation"), first(walkthrough, "data_preprocessing")
    train, test = [frame_of(walkthrough, data_run, name) for name in ["train", "test"]]
    label, digest = test.target == "malignant", digests(data_run)["test"]

    def losses(probability):
        return -np.log(np.where(label, probability, 1 - probability))

    logged = walkthrough.client.search_logged_models(
        [run.info.experiment_id], datasets=[{"dataset_name": "test", "dataset_digest": digest}]
    )
    found = {
        each.name: {metric.key: metric.value for metric in each.metrics if metric.dataset_digest == digest}
        for each in logged
    }
    assert set(found) == {"baseline", "tuned", "Too_Simple"}
    for number, name in [(1, "tuned"), (2, "Too_Simple")]:
        model = mlflow.pyfunc.load_model(str(walkthrough.model_folder(MODEL, number)))
        answer = model.predict(test.drop(columns="target"))
        loss = losses(answer["probability of malignant"])
        assert found[name]["log_loss"] == pytest.approx(loss.mean(), abs=1e-6)
        assert found[name]["false_negatives"] == (label & (answer.prediction == "benign")).sum()
        assert found[name]["false_positives"] == (~label & (answer.prediction == "malignant")).sum()
        assert found[name]["recall_score"] == pytest.approx((answer.prediction[label] == "malignant").mean())
        gains = losses((train.target == "malignant").mean()) - loss
        if name == "tuned":
            assert run.data.metrics["guessing_log_loss"] == pytest.approx((gains + loss).mean())
            assert run.data.metrics["gain_over_guessing"] == pytest.approx(gains.mean(), abs=1e-6)
            error = gains.std(ddof=1) / len(gains) ** 0.5
            assert run.data.metrics["gain_over_guessing_standard_error"] == pytest.approx(error, abs=1e-6)
    assert found["tuned"]["recall_score"] >= config.LEAST_RECALL["malignant"] > found["Too_Simple"]["recall_score"]
    assert found["tuned"]["log_loss"] < found["Too_Simple"]["log_loss"] < run.data.metrics["guessing_log_loss"]


def test_page_and_store_agree(walkthrough):
    """Each number of four decimals on the page is a metric or a parameter that MLflow holds."""
    experiment = walkthrough.client.get_experiment_by_name(EXPERIMENT)
    logged = walkthrough.client.search_logged_models([experiment.experiment_id])
    held = [metric.value for model in logged for metric in model.metrics or []]
    for run in walkthrough.made:
        held += [
            *run.data.metrics.values(),
            *(float(run.data.params[name]) for name in RANGES if name in run.data.params),
        ]
    shown = {float(number) for number in re.findall(r"(?<![\d.])\d\.\d{4}(?![\d.])", PAGE)}
    assert shown <= {round(value, 4) for value in held}
    for name in ["tuned", "baseline", "Too_Simple"]:
        model = next(model for model in logged if model.name == name)
        metrics = {metric.key: metric.value for metric in model.metrics}
        assert {round(metrics[name], 4) for name in ["log_loss", "roc_auc", "recall_score"]} <= shown


@pytest.mark.nightly
def test_on_data_of_ones_own(empty_project):
    """The notebook runs to its end on words, dates, gaps and a target of another name."""
    rows = [f"passenger {number}" for number in range(len(passengers()))]
    passengers().assign(name=rows, remark=np.nan).to_csv(empty_project.folder / "passengers.csv", index=False)
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
