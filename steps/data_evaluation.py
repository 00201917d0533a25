# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import mlflow
from loguru import logger
from mlflow.exceptions import MlflowException
from mlflow.models import MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

import config
import data_files
import utils
from utils import StepError

eval_dataset, training_run_id = None, None
eval_dataset, training_run_id = utils.arguments("data-evaluation", "eval-dataset", "training-run-id")
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
version = utils.registered_version(config.CLASSIFIER_MODEL, training_run)
model_uri = f"models:/{config.CLASSIFIER_MODEL}/{version}"
encoding = utils.model_encoding(model_uri)

objections = []
if eval_dataset:
    frame, target = data_files.read_table(eval_dataset, encoding=encoding)
    if frame[target].nunique() < 2:
        raise StepError(f"{eval_dataset}: has one class only. Give rows of both classes.")
else:
    frame = utils.load_dataset(data_run, "test")
source = eval_dataset or f"runs:/{data_run.info.run_id}/datasets/test.csv"
empty = ", ".join(frame.columns[frame.isna().all()])
if empty:
    logger.warning(f"There will be no SHAP plots, because there is not one value of {empty}.")


def rows_seen(version):
    client = mlflow.MlflowClient()
    try:
        trained = client.get_run(client.get_model_version(config.CLASSIFIER_MODEL, version).run_id)
        its_data_run = client.get_run(trained.data.tags["data_run_id"])
        return data_files.count_known_rows(frame, utils.load_dataset(its_data_run, "train"))
    except (MlflowException, KeyError, OSError):  # it was not trained here, or its runs are gone
        return 0


seen = data_files.count_known_rows(frame, utils.load_dataset(data_run, "train"))
if eval_dataset and seen > len(frame) / 2:
    objections.append(f"{seen} of the {len(frame)} rows were seen in training: evaluate on others.")


def evaluate(uri, explain):
    features, label = data_files.encode(frame, utils.model_encoding(uri))
    data = utils.as_dataset(features.assign(label=label), source, "evaluation", "label")
    options = {"label_list": [0, 1], "pos_label": 1, "log_model_explainability": explain}
    return mlflow.models.evaluate(uri, data, model_type="classifier", evaluator_config=options)


champion = utils.champion_version()
champion_uri = f"models:/{config.CLASSIFIER_MODEL}/{champion}"
champion_result = None

utils.set_experiment()
tags = {"step": "data_evaluation", "training_run_id": training_run.info.run_id}
tags |= {"model_version": str(version), "eval_dataset": eval_dataset or "test set"}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}
with mlflow.start_run(run_name="Data_Evaluation", tags=tags) as run:
    result = evaluate(model_uri, explain=not empty)
    mlflow.log_metric("rows_seen_in_training", seen)
    if champion and champion != version:
        try:
            theirs = utils.model_encoding(champion_uri)
            same_columns = set(theirs["columns"]) == set(encoding["columns"])
            if same_columns and theirs["classes"] == encoding["classes"]:
                with mlflow.start_run(run_name=f"Champion_Version_{champion}", nested=True):
                    champion_result = evaluate(champion_uri, explain=False)
                    champion_seen = rows_seen(champion)
                    mlflow.log_metric("rows_seen_in_training", champion_seen)
            else:
                objections.append(
                    f"The champion, version {champion}, has other columns or classes."
                )
        except (MlflowException, OSError) as error:
            reason = utils.in_one_line(error)
            objections.append(f"The champion, version {champion}, cannot be loaded: {reason}")

logger.info(
    f"version {version} on {len(frame)} rows of {source}, class 1 is {encoding['classes'][1]!r}"
)
if champion_result and champion_seen > seen:
    logger.warning(
        f"The champion, version {champion}, was trained on {champion_seen} of these rows, version "
        f"{version} on {seen}, so it looks better here than it is. Evaluate on rows new to both."
    )

thresholds = {
    name: MetricThreshold(threshold=least, greater_is_better=True)
    for name, least in config.THRESHOLDS.items()
}
if champion_result:
    thresholds[config.CHAMPION_METRIC] = MetricThreshold(
        threshold=config.THRESHOLDS[config.CHAMPION_METRIC],
        min_relative_change=0.0,
        greater_is_better=True,
    )
try:
    mlflow.validate_evaluation_results(thresholds, result, champion_result)
except ModelValidationFailedException as failure:
    objections.append(f"{failure} (The thresholds are set in config.py.)")
if utils.champion_version() not in [champion, version]:
    objections.append("Meanwhile another version has become the champion: evaluate again.")

client = mlflow.MlflowClient()
client.set_tag(run.info.run_id, "gate", "failed" if objections else "passed")
if objections:
    reasons = " ".join(" ".join(objections).split())
    alias = f"'{config.CLASSIFIER_MODEL}', '{config.CHAMPION}', {version}"
    logger.warning(
        f"Version {version} does not become the champion. {reasons} To decide otherwise: "
        f"mlflow.MlflowClient().set_registered_model_alias({alias})"
    )
else:
    client.set_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION, version)
    logger.info(f"Version {version} of {config.CLASSIFIER_MODEL} is the champion.")
