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

from sklearn.model_selection import StratifiedKFold, cross_val_predict

training_run_id = None
training_run_id = cli.arguments("model-customization", "training-run-id")
training_run = utils.latest_run("model_training", training_run_id)
model_name = f"{training_run.data.tags['name']}Model"
registered_uri = f"models:/{model_name}/{utils.registered_version(model_name, training_run)}"
info, model = utils.load_model(registered_uri)
train = utils.load_dataset(utils.data_run_of(info), "train")
is_class_1 = train.pop(info.metadata["target"]) == info.metadata["classes"][1]

names = ["max_depth", "learning_rate", "subsample", "colsample_bytree"]
params = {name: json.loads(training_run.data.params[name]) for name in names}
params["n_estimators"] = int(training_run.data.params["num_boost_round"])
same = xgb.XGBClassifier(random_state=config.SEED, n_jobs=utils.threads(train), **params)
folds = StratifiedKFold(config.N_FOLDS, shuffle=True, random_state=config.SEED)
held_out = cross_val_predict(
    same, model.features(train), is_class_1, cv=folds, method="predict_proba"
)[:, 1]
costs = pd.DataFrame({"threshold": [0.05, 0.1, 0.2, 0.3, 0.4, 0.5]})
costs["missed"] = [int((is_class_1 & (held_out < at)).sum()) for at in costs["threshold"]]
costs["false_alarms"] = [int((~is_class_1 & (held_out >= at)).sum()) for at in costs["threshold"]]
costs["cost"] = 10 * costs["missed"] + costs["false_alarms"]
threshold = float(costs.loc[costs["cost"].idxmin(), "threshold"])

utils.set_experiment(info.metadata["name"])
tags = {"step": "model_customization", "training_run_id": training_run.info.run_id}
tags |= {name: training_run.data.tags[name] for name in ["name", "data", "data_run_id"]}
packages = ["mlflow", "xgboost", "scikit-learn", "pandas", "loguru"]
example = train.head(3).astype(object)
with mlflow.start_run(run_name="Model_Customization", tags=tags) as run:
    mlflow.log_param("threshold", threshold)
    mlflow.log_table(costs, "thresholds.json")
    custom_info = mlflow.pyfunc.log_model(
        name="custom",
        python_model=str(config.PROJECT_DIR / "steps" / "custom_model.py"),
        artifacts={"model": registered_uri},
        model_config={"threshold": threshold},
        registered_model_name=f"Custom{model_name}",
        signature=info.signature,
        input_example=example.where(example.notna(), None),
        pip_requirements=utils.pinned_requirements(*packages),
        metadata=info.metadata,
    )
custom_uri = f"models:/Custom{model_name}/{custom_info.registered_model_version}"
logger.info(f"{custom_uri}: {info.metadata['classes'][1]!r} from a probability of {threshold} on")
