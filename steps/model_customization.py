# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import mlflow
from loguru import logger
from mlflow.models import infer_signature

import config
import data_files
import utils

training_run_id = None
training_run_id = utils.arguments("model-customization", "training-run-id")
training_run = utils.latest_run("model_training", training_run_id)
data_run = mlflow.get_run(training_run.data.tags["data_run_id"])
version = utils.registered_version(config.CLASSIFIER_MODEL, training_run)
classifier_uri = f"models:/{config.CLASSIFIER_MODEL}/{version}"
encoding = utils.model_encoding(classifier_uri)
train = utils.load_dataset(data_run, "train")
features, _ = data_files.encode(train, encoding)
probabilities = mlflow.xgboost.load_model(classifier_uri).predict_proba(features)
raw = train[encoding["columns"]]
packages = ["mlflow", "xgboost", "scikit-learn", "pandas", "loguru"]
tags = {"step": "model_customization", "training_run_id": training_run.info.run_id}
tags |= {"data_run_id": data_run.info.run_id, "data": training_run.data.tags["data"]}

utils.set_experiment()
with mlflow.start_run(run_name="Model_Customization", tags=tags) as run:
    custom_info = mlflow.pyfunc.log_model(
        name="custom",
        python_model=str(config.PROJECT_DIR / "steps" / "custom_model.py"),
        artifacts={"classifier": classifier_uri},
        registered_model_name=config.CUSTOM_MODEL,
        signature=infer_signature(raw, probabilities),
        input_example=raw.head(3),
        pip_requirements=utils.pinned_requirements(*packages),
        metadata={**encoding, "words": {}},  # it takes the words as they are
    )
logger.info(f"registered {config.CUSTOM_MODEL} version {custom_info.registered_model_version}")
