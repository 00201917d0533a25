# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import json

import mlflow
import pandas as pd
import xgboost as xgb
from loguru import logger
from sklearn.model_selection import StratifiedKFold, cross_val_predict

import config
import utils

training_run_id = None
training_run_id = utils.arguments("model-customization", "training-run-id")
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
version = utils.registered_version(config.MODEL, training_run)
info, model = utils.load_model(f"models:/{config.MODEL}/{version}")
train, about = utils.load_dataset(data_run, "train"), info.metadata
params = ["max_depth", "learning_rate", "subsample", "colsample_bytree"]
params = {name: json.loads(training_run.data.params[name]) for name in params}
rounds = int(training_run.data.params["num_boost_round"])
packages = ["mlflow", "xgboost", "scikit-learn", "pandas", "loguru"]
tags = {"step": "model_customization", "training_run_id": training_run.info.run_id}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}

is_class_1 = (train[about["target"]] == about["classes"][1]).to_numpy()
folds = StratifiedKFold(config.N_FOLDS, shuffle=True, random_state=config.SEED)
same = xgb.XGBClassifier(n_estimators=rounds, random_state=config.SEED, **params)
held_out = cross_val_predict(
    same, model.features(train), is_class_1, cv=folds, method="predict_proba"
)[:, 1]
costs = []
for at in [0.05, 0.1, 0.2, 0.3, 0.4, 0.5]:
    missed = int((is_class_1 & (held_out < at)).sum())
    alarms = int((~is_class_1 & (held_out >= at)).sum())
    costs.append([at, missed, alarms, 10 * missed + alarms])
costs = pd.DataFrame(costs, columns=["threshold", "missed", "false_alarms", "cost"])
threshold = float(costs.loc[costs["cost"].idxmin(), "threshold"])

example = train.drop(columns=about["target"]).head(3).astype(object)

utils.set_experiment()
with mlflow.start_run(run_name="Model_Customization", tags=tags) as run:
    mlflow.log_param("threshold", threshold)
    mlflow.log_table(costs, "thresholds.json")
    custom_info = mlflow.pyfunc.log_model(
        name="custom",
        python_model=str(config.PROJECT_DIR / "steps" / "custom_model.py"),
        artifacts={"model": f"models:/{config.MODEL}/{version}"},
        model_config={"threshold": threshold},
        registered_model_name=config.CUSTOM_MODEL,
        signature=info.signature,
        input_example=example.where(example.notna(), None),
        pip_requirements=utils.pinned_requirements(*packages),
        metadata=about,
    )
logger.info(
    f"registered {config.CUSTOM_MODEL} version {custom_info.registered_model_version}: "
    f"{about['classes'][1]!r} from a probability of {threshold} on"
)
