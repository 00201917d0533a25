# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import matplotlib.pyplot as plt
import mlflow
import numpy as np
import shap
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
version = utils.registered_version(config.MODEL, training_run)
info, model = utils.load_model(f"models:/{config.MODEL}/{version}")
target, classes = info.metadata["target"], info.metadata["classes"]
if eval_dataset:
    table, _ = data_files.read_table(eval_dataset, model=info.metadata)
else:
    table = utils.load_dataset(data_run, "test")
source = eval_dataset or f"runs:/{data_run.info.run_id}/datasets/test.csv"


def training_rows(info):
    """Load the rows that a registered version was trained on."""
    data_run_id = mlflow.get_run(info.run_id).data.tags["data_run_id"]
    return utils.load_dataset(mlflow.get_run(data_run_id), "train")


trained_on = training_rows(info)
known = utils.known_rows(model.features(table), model.features(trained_on))
objections, champion, champion_info = [], utils.champion_version(), None
if champion and champion != version:
    try:
        champion_info, champion_model = utils.load_model(f"models:/{config.MODEL}/{champion}")
        utils.check_alike(champion_info, info)
        its_rows = champion_model.features(training_rows(champion_info))
        known |= utils.known_rows(champion_model.features(table), its_rows)
    except utils.EarlierVersion as error:
        logger.warning(f"{error} It counts as no champion.")
    except (StepError, MlflowException, KeyError) as error:
        champion_info, reason = None, utils.in_one_line(error)
        objections.append(f"The champion, version {champion}, is no measure: {reason}")
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


def losses(probability):
    """Return the log loss of each row."""
    right = np.where(test_label, probability, 1 - probability)
    return -np.log(np.clip(right, np.finfo(np.float32).eps, 1))


def evaluate(classifier_id, values, model_id=None):
    """Evaluate a logged classifier, and note the metrics with the model around it."""
    data = utils.as_dataset(values.assign(**{target: test_label}), source, "features", target)
    options = {"label_list": [0, 1], "pos_label": 1, "log_model_explainability": False}
    result = mlflow.models.evaluate(
        f"models:/{classifier_id}", data, model_type="classifier", evaluator_config=options
    )
    mlflow.log_metrics(result.metrics, dataset=test_data, model_id=model_id or classifier_id)
    return result


def log_difference(name, difference):
    """Log the mean of a difference, row by row, and how far it may be off by chance."""
    mlflow.log_metric(name, difference.mean(), dataset=test_data)
    error = difference.std(ddof=1) / len(difference) ** 0.5
    mlflow.log_metric(f"{name}_standard_error", error, dataset=test_data)


utils.set_experiment()
tags = {"step": "data_evaluation", "training_run_id": training_run.info.run_id}
tags |= {"model_version": str(version), "eval_dataset": eval_dataset or "test set"}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}
tags |= {"champion_before": str(champion)}
with mlflow.start_run(run_name="Data_Evaluation", tags=tags) as run:
    mlflow.log_metric("rows_seen_in_training", known.sum())
    test_values = model.features(rows)
    result = evaluate(info.metadata["classifier_id"], test_values, info.model_id)
    loss = losses(model.answer(test_values).iloc[:, -1])

    share = (trained_on[target] == classes[1]).mean()
    guess_loss = losses(np.full(len(rows), share))
    mlflow.log_metric("guessing_log_loss", guess_loss.mean(), dataset=test_data)
    log_difference("gain_over_guessing", guess_loss - loss)

    champion_loss = None
    if champion_info:
        with mlflow.start_run(run_name=f"Champion_Version_{champion}", nested=True):
            its_values = champion_model.features(rows)
            evaluate(champion_info.metadata["classifier_id"], its_values, champion_info.model_id)
        champion_loss = losses(champion_model.answer(its_values).iloc[:, -1])
        log_difference("loss_above_champion", loss - champion_loss)

for name, unknown in model.unknown_words(rows, test_values).items():
    if unknown:
        logger.warning(f"{source}: {unknown:.1%} of the words in {name} are unknown to the model.")
few = test_values.head(2000)
shap_values = shap.TreeExplainer(model.classifier).shap_values(few)
seeded = np.random.default_rng(config.SEED)
shap.summary_plot(shap_values, few, max_display=10, show=False, rng=seeded)
mlflow.MlflowClient().log_figure(run.info.run_id, plt.gcf(), "shap_summary.png")
plt.close("all")


def gate(result, loss, champion_loss):
    """Return what speaks against a version: a list of sentences."""
    objections, gain = [], guess_loss - loss
    error = gain.std(ddof=1) / len(gain) ** 0.5
    if len(loss) < config.LEAST_ROWS:
        objections.append(f"There are {len(loss)} rows to judge it on, not {config.LEAST_ROWS}.")
    if not (error > 0 and gain.mean() > config.GAIN_ERRORS * error):
        gained = f"{gain.mean():.4f} ± {error:.4f}"
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
if utils.champion_version() not in [champion, version]:
    objections.append("Meanwhile another version has become the champion: evaluate again.")
verdict = f"failed: {' '.join(objections)}" if objections else "passed"
if not objections:
    client.set_registered_model_alias(config.MODEL, config.CHAMPION, version)
client.set_model_version_tag(config.MODEL, version, "gate", verdict)
client.set_tag(run.info.run_id, "gate", verdict)
client.set_tag(run.info.run_id, "champion_after", str(utils.champion_version()))

if objections:
    alias = f"'{config.MODEL}', '{config.CHAMPION}', {version}"
    logger.warning(
        f"Version {version} does not become the champion. {' '.join(objections)} (The limits are in "
        f"config.py.) To decide otherwise: mlflow.MlflowClient().set_registered_model_alias({alias})"
    )
else:
    logger.info(f"Version {version} of {config.MODEL} is the champion.")
