# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import json

import mlflow
import numpy as np
import pandas as pd
import xgboost as xgb
from loguru import logger

import cli
import config
import utils
from cli import StepError

from mlflow.models import MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

import data_files

eval_dataset, training_run_id = None, None
eval_dataset, training_run_id = cli.arguments(
    "data-evaluation", "eval-dataset", "training-run-id"
)
training_run = utils.latest_run("model_training", training_run_id)
data_name = training_run.data.tags["name"]
model_name = f"{data_name}Model"
version = utils.registered_version(model_name, training_run)
info, model = utils.load_model(f"models:/{model_name}/{version}")
data_run = utils.data_run_of(info)
target, classes = info.metadata["target"], info.metadata["classes"]
if eval_dataset:
    table, _ = data_files.read_table(eval_dataset, model=info.metadata)
else:
    table = utils.load_dataset(data_run, "test")
source = eval_dataset or f"runs:/{data_run.info.run_id}/datasets/test.csv"

trained_on = utils.load_dataset(data_run, "train")
known = utils.known_rows(model.features(table), model.features(trained_on))
objections, champion, champion_info = [], utils.champion_version(model_name), None
if champion and champion != version:
    try:
        champion_info, champion_model = utils.load_model(f"models:/{model_name}/{champion}")
        utils.check_alike(champion_info, info)
        its_rows = utils.load_dataset(utils.data_run_of(champion_info), "train")
        its_rows = champion_model.features(its_rows)
        known |= utils.known_rows(champion_model.features(table), its_rows)
    except utils.EarlierVersion as error:
        logger.warning(f"{error} It counts as no champion.")
    except StepError as error:
        champion_info = None
        objections.append(f"The champion, version {champion}, cannot be compared: {error}")
rows = table[~known]

if rows[target].nunique() < 2:
    raise StepError(
        f"{source}: {known.sum()} of the {len(table)} rows were seen in training, and the others "
        f"are not of both classes. Give rows that are new to the model."
    )
logger.info(
    f"version {version} on {len(rows)} rows of {source}, class 1 is {classes[1]!r}; "
    f"{known.sum()} others were seen in training and are left out"
)

test_label = (rows[target] == classes[1]).astype(int)
test_data = utils.as_dataset(rows, source, "test", target)


def evaluate(classifier_id, values, model_id=None):
    """Evaluate a logged classifier, and note the metrics with the model around it."""
    data = utils.as_dataset(values.assign(**{target: test_label}), source, "features", target)
    options = {"label_list": [0, 1], "pos_label": 1}
    options["log_model_explainability"] = False  # SHAP comes below, in fewer seconds
    result = mlflow.models.evaluate(
        f"models:/{classifier_id}", data, model_type="classifier", evaluator_config=options
    )
    mlflow.log_metrics(result.metrics, dataset=test_data, model_id=model_id or classifier_id)
    return result


def losses(probability):
    """Return the log loss of each row."""
    right = np.where(test_label, probability, 1 - probability)
    return -np.log(np.clip(right, np.finfo(np.float32).eps, 1))


def difference(these, others):
    """Return the mean difference of losses, row by row, and its standard error."""
    return (these - others).mean(), (these - others).std(ddof=1) / len(these) ** 0.5


def log_difference(name, these, others):
    """Log both, with the test set that they were computed on."""
    mean, error = difference(these, others)
    mlflow.log_metrics({name: mean, f"{name}_standard_error": error}, dataset=test_data)


utils.set_experiment(data_name)
tags = {"step": "data_evaluation", "name": data_name, "training_run_id": training_run.info.run_id}
tags |= {"model_version": str(version), "eval_dataset": eval_dataset or "test set"}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}
tags |= {"champion_before": str(champion)}
with mlflow.start_run(run_name="Data_Evaluation", tags=tags) as run:
    mlflow.log_metric("rows_seen_in_training", known.sum())
    test_values = model.features(rows)
    result = evaluate(info.metadata["classifier_id"], test_values, info.model_id)
    loss = losses(model.answer(test_values).iloc[:, -1])  # the probability of class 1

    share = (trained_on[target] == classes[1]).mean()
    guess_loss = losses(np.full(len(rows), share))
    mlflow.log_metric("guessing_log_loss", guess_loss.mean(), dataset=test_data)
    log_difference("gain_over_guessing", guess_loss, loss)

    champion_loss = None
    if champion_info:
        with mlflow.start_run(run_name=f"Champion_Version_{champion}", nested=True):
            its_values = champion_model.features(rows)
            evaluate(champion_info.metadata["classifier_id"], its_values, champion_info.model_id)
        champion_loss = losses(champion_model.answer(its_values).iloc[:, -1])
        log_difference("loss_above_champion", loss, champion_loss)

import matplotlib.pyplot as plt
import shap

for word_column, unknown in model.unknown_words(rows, test_values).items():
    if unknown:
        logger.warning(
            f"{source}: {unknown:.1%} of the words in {word_column} are unknown to the model."
        )
few = test_values.head(2000)
shap_values = shap.TreeExplainer(model.classifier).shap_values(few)
seeded = np.random.default_rng(config.SEED)
shap.summary_plot(shap_values, few, max_display=10, show=False, rng=seeded)
mlflow.MlflowClient().log_figure(run.info.run_id, plt.gcf(), "shap_summary.png")
plt.close("all")


def gate(result, loss, champion_loss):
    """Return what speaks against a version: a list of sentences."""
    objections, (gain, error) = [], difference(guess_loss, loss)
    if len(loss) < config.LEAST_ROWS:
        objections.append(f"There are {len(loss)} rows to judge it on, not {config.LEAST_ROWS}.")
    if not (error > 0 and gain > config.GAIN_ERRORS * error):
        gained = f"{gain:.4f} ± {error:.4f}"
        objections.append(f"It is not clearly better than guessing: gain in log loss {gained}.")
    if champion_loss is not None and loss.mean() > champion_loss.mean():
        both = f"{loss.mean():.4f}, the champion's {champion_loss.mean():.4f}"
        objections.append(f"Its log loss on the same rows is {both}.")
    if least := config.LEAST_RECALL.get(classes[1]):
        limit = {"recall_score": MetricThreshold(threshold=least, greater_is_better=True)}
        try:
            mlflow.validate_evaluation_results(limit, result)
        except ModelValidationFailedException as failure:
            objections.append(f"Recall of {classes[1]}: {' '.join(str(failure).split())}")
    return objections


objections += gate(result, loss, champion_loss)

client = mlflow.MlflowClient()
if utils.champion_version(model_name) not in [champion, version]:
    objections.append("Meanwhile another version has become the champion: evaluate again.")
verdict = f"failed: {' '.join(objections)}" if objections else "passed"
if not objections:
    client.set_registered_model_alias(model_name, config.CHAMPION, version)
client.set_model_version_tag(model_name, version, "gate", verdict)
client.set_tag(run.info.run_id, "gate", verdict)
client.set_tag(run.info.run_id, "champion_after", str(utils.champion_version(model_name)))
card = f"""Trained on {training_run.data.tags["data"]}. Judged on {len(rows)} rows of
{eval_dataset or "its test set"}, digest {test_data.digest}: log loss {loss.mean():.4f} (guessing
{guess_loss.mean():.4f}), recall of {classes[1]} {result.metrics["recall_score"]:.3f}.
Limits: one split of one data set; words that it has not seen count as missing. Gate: {verdict}"""
client.update_model_version(model_name, version, description=" ".join(card.split()))

if objections:
    move = f"'{model_name}', '{config.CHAMPION}', {version}"
    logger.warning(
        f"Version {version} does not become the champion. {' '.join(objections)} (The limits are in "
        f"config.py.) To decide otherwise: mlflow.MlflowClient().set_registered_model_alias({move})"
    )
else:
    logger.info(f"Version {version} of {model_name} is the champion.")
