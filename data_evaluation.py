# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import argparse
import json

import mlflow
from mlflow.models import MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

import config
import data_files
import utils
from errors import StepError

eval_dataset, training_run_id = None, None
parser = argparse.ArgumentParser(description="Evaluate the newest model and let it become the champion.")
parser.add_argument("--eval-dataset", type=utils.optional_path, help="CSV file in place of the test set")
parser.add_argument("--training-run-id", help="training run with the model; the newest if not given")
args = parser.parse_args()
eval_dataset, training_run_id = args.eval_dataset, args.training_run_id

training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
version = utils.registered_version(config.CLASSIFIER_MODEL, training_run)
model_uri = f"models:/{config.CLASSIFIER_MODEL}/{version}"
columns = mlflow.models.get_model_info(model_uri).signature.inputs.input_names()

if eval_dataset:
    frame = data_files.read_csv(eval_dataset)
    target = frame.pop(config.TARGET)
    needed = frame.columns.isin(columns)
    features = utils.add_features(data_files.as_numbers(frame.loc[:, needed], eval_dataset))
    missing = [name for name in columns if name not in features]
    if missing:
        raise StepError(f"{eval_dataset}: lacks the column(s) {', '.join(missing)}. Add them.")
    classes = json.loads(data_run.data.tags["classes"])
    if sorted(target.unique().tolist()) != classes:
        raise StepError(f"{eval_dataset}: `{config.TARGET}` must hold both {classes[0]!r} and {classes[1]!r}.")
    if not needed.all():
        config.logger.warning(f"{eval_dataset}: ignoring the column(s) {', '.join(frame.columns[~needed])}")
    frame = features[columns].assign(**{config.TARGET: (target == classes[1]).astype(int)}).reset_index(drop=True)
else:
    frame = utils.load_split(data_run, "test")
source = eval_dataset or f"runs:/{data_run.info.run_id}/datasets/test.csv"
evaluation_data = utils.as_dataset(frame, source, "evaluation" if eval_dataset else "test")


def evaluate(uri, explain):
    options = {"label_list": [0, 1], "pos_label": 1, "log_model_explainability": explain}
    return mlflow.models.evaluate(uri, evaluation_data, model_type="classifier", evaluator_config=options)


client = mlflow.MlflowClient()
champion = utils.champion()
champion_uri = f"models:/{config.CLASSIFIER_MODEL}/{champion}"
champion_result = None

with utils.start_step("data_evaluation") as run:
    mlflow.set_tags({"data_run_id": data_run.info.run_id, "training_run_id": training_run.info.run_id})
    mlflow.set_tags({"model_version": version, "eval_dataset": eval_dataset or "test set"})
    empty = frame.columns[frame.isna().all()]
    if len(empty):
        config.logger.warning(f"There will be no SHAP plots, because there is not one value of {', '.join(empty)}.")
    result = evaluate(model_uri, explain=not len(empty))
    if champion and champion != version:
        needed = mlflow.models.get_model_info(champion_uri).signature.inputs.input_names()
        if set(needed) <= set(frame):
            with utils.open_run(run_name=f"Champion_Version_{champion}", nested=True):
                champion_result = evaluate(champion_uri, explain=False)
        else:
            config.logger.warning(f"The champion, version {champion}, needs other columns and cannot be compared.")

thresholds = {
    name: MetricThreshold(threshold=least, greater_is_better=True) for name, least in config.THRESHOLDS.items()
}
if champion_result:
    thresholds[config.CHAMPION_METRIC] = MetricThreshold(
        threshold=config.THRESHOLDS[config.CHAMPION_METRIC], min_relative_change=0.0, greater_is_better=True
    )

try:
    mlflow.validate_evaluation_results(thresholds, result, champion_result)
    if utils.champion() != champion:
        raise ModelValidationFailedException("meanwhile another version has become it. Evaluate again.")
except ModelValidationFailedException as failure:
    client.set_tag(run.info.run_id, "gate", "failed")
    config.logger.warning(f"Version {version} does not become the champion: {failure}")
else:
    client.set_tag(run.info.run_id, "gate", "passed")
    client.set_registered_model_alias(config.CLASSIFIER_MODEL, config.CHAMPION, version)
    config.logger.info(f"Version {version} of {config.CLASSIFIER_MODEL} is the champion.")
