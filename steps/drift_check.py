# Generated from chapters/after_deployment.py by notebook_tools/extract.py: do not edit, change the notebook.

import matplotlib.pyplot as plt
import mlflow
import numpy as np
import pandas as pd
from loguru import logger
from scipy import stats

import cli
import config
import data_files
import utils
from cli import StepError

input, model_uri = None, "models:/CancerModel@champion"
input, model_uri = cli.arguments("drift-check", "input", "model-uri")
least_rows = 30  # fewer say little

if not input:
    raise StepError("drift-check needs a path: input, the file to compare with the training data.")
model_uri = utils.version_uri(model_uri)
info, model = utils.load_model(model_uri)
types, classes = info.metadata["types"], info.metadata["classes"]
data_run = utils.data_run_of(info)
train, test = utils.load_dataset(data_run, "train"), utils.load_dataset(data_run, "test")
new = pd.concat([part for part, _ in data_files.read_parts(input, types)])
if len(new) < least_rows:
    raise StepError(f"{input}: has {len(new)} rows, which say little: give at least {least_rows}.")


def seen(table, values):
    names = [column["name"] for column in types]
    samples = values.set_axis([*names, *values.columns[len(names) :]], axis="columns")
    for name, known in words.items():  # those that the model does not know as they stand
        known = samples[name].map(dict(enumerate(known))).astype(object)
        samples[name] = known.fillna(table[name])
    return samples


words = {column["name"]: column["words"] for column in types if column["kind"] == "words"}
train_values, test_values, new_values = map(model.features, [train, test, new])
before, now = seen(train, train_values), seen(new, new_values)
unseen_before = model.unknown_words(test, test_values)
unseen_now = model.unknown_words(new, new_values)


def compare(before, after, are_words):
    before, after = before.dropna(), after.dropna()
    if before.empty or after.empty:  # the share of missing values says it
        return np.nan, 1.0
    both = [before.value_counts(), after.value_counts()]
    counts = pd.concat(both, axis="columns", keys=[0, 1]).fillna(0)
    if len(counts) > 2 and not are_words:
        result = stats.ks_2samp(before, after, method="asymp")
        return result.statistic, result.pvalue
    rare = (stats.contingency.expected_freq(counts) < 5).any(axis=1)
    counts = pd.concat([counts[~rare], counts[rare].sum().to_frame().T])
    counts = counts[counts.sum(axis=1) > 0]
    test = stats.fisher_exact if counts.shape == (2, 2) else stats.chi2_contingency
    shares = counts / counts.sum()
    return (shares[0] - shares[1]).abs().sum() / 2, test(counts).pvalue


answer = f"probability of {classes[1]}"
samples = {name: (before[name], now[name]) for name in before}
samples[answer] = (model.answer(test_values)[answer], model.answer(new_values)[answer])
found = []
for name, (earlier, later) in samples.items():
    distance, p_value = compare(earlier, later, name in words)
    change, p_missing = compare(earlier.isna(), later.isna(), True)
    unseen = [unseen_before.get(name, 0.0), unseen_now.get(name, 0.0)]
    rows = [
        [share * len(of), (1 - share) * len(of)]
        for share, of in zip(unseen, [test, new], strict=True)
    ]
    found.append(
        {
            "column": name,
            "distance": distance,
            "p_value": p_value,
            "missing_before": earlier.isna().mean(),
            "missing_now": later.isna().mean(),
            "change_of_missing": change,
            "p_missing": p_missing,
            "unseen_before": unseen[0],
            "unseen_now": unseen[1],
            "p_unseen": stats.fisher_exact(np.round(rows).astype(int)).pvalue,
        }
    )
table = pd.DataFrame(found).set_index("column")

limits = {"p_value": 0.01, "distance": 0.15, "change_of_missing": 0.1, "change_of_unseen": 0.05}
p_values = ["p_value", "p_missing", "p_unseen"]
table[p_values] = stats.false_discovery_control(table[p_values], axis=None).reshape(-1, 3)
sizes = {"distance": "p_value", "change_of_missing": "p_missing", "change_of_unseen": "p_unseen"}
table["change_of_unseen"] = table.unseen_now - table.unseen_before
table["drift"] = False
for size, p_value in sizes.items():
    table["drift"] |= (table[size] >= limits[size]) & (table[p_value] < limits["p_value"])
table = table.sort_values(["drift", "distance"], ascending=False)
drifted = table.index[table.drift].tolist()

shown = [answer, *table.index.drop(answer)[:3]]
figure, axes = plt.subplots(1, len(shown), figsize=(11, 3), layout="constrained", squeeze=False)
for axis, name in zip(axes.flat, shown, strict=True):
    for label, values in zip(["before", "now"], samples[name], strict=True):
        values = values.dropna()
        values = values.sample(min(len(values), 10_000), random_state=config.SEED)
        if name in words:
            shares = values.value_counts(normalize=True).head(10)
            axis.plot(shares.index, shares, "o", alpha=0.6, label=label)
        elif len(values):
            axis.ecdf(values, label=label)
    axis.set_title(f"{name[:30]}{' (drift)' * (name in drifted)}", fontsize="small")
    axis.legend()
plt.close(figure)

data = utils.as_dataset(new, input, "incoming", None)
tags = {"step": "drift_check", "name": info.metadata["name"], "model_version": model_uri}
tags |= {"checked": input, "digest": data.digest, "model_id": info.model_id}
tags |= {"data_run_id": data_run.info.run_id, "drift": "yes" if drifted else "no"}
utils.set_experiment(info.metadata["name"])
with mlflow.start_run(run_name="Drift_Check", tags=tags) as run:
    mlflow.log_params(limits)
    mlflow.MlflowClient().log_inputs(run.info.run_id, data_run.inputs.dataset_inputs)
    mlflow.log_input(data, context="checking")
    mlflow.log_metrics(
        {
            "rows": len(new),
            "drifted_columns": len(drifted),
            "largest_distance": table.distance.max(),
            "answer_distance": table.distance[answer],
            "largest_change_of_missing": table.change_of_missing.max(),
            "largest_share_of_unseen_words": table.unseen_now.max(),
        }
    )
    mlflow.log_table(table.reset_index(), "drift/columns.json")
    mlflow.log_figure(figure, "drift/columns.png")
if drifted:
    logger.warning(f"{input}: has drifted from the training data of {model_uri}: {drifted}")
else:
    logger.info(f"{input}: {len(new)} rows are like the training data of {model_uri}")
