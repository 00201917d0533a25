# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import argparse

import mlflow
from mlflow.models import infer_signature

import config
import utils

training_run_id = None
parser = argparse.ArgumentParser(description="Register a model that answers with probabilities.")
parser.add_argument("--training-run-id", help="training run with the classifier; the newest if not given")
training_run_id = parser.parse_args().training_run_id

training_run = utils.latest_run("model_training", training_run_id)
classifier_uri = f"models:/{config.CLASSIFIER_MODEL}/{utils.registered_version(config.CLASSIFIER_MODEL, training_run)}"
loaded = mlflow.pyfunc.load_model(classifier_uri)
example = loaded.input_example
probabilities = loaded.get_raw_model().predict_proba(example)

with utils.start_step("model_customization") as run:
    mlflow.set_tags({"data_run_id": training_run.data.tags["data_run_id"], "training_run_id": training_run.info.run_id})
    custom_info = mlflow.pyfunc.log_model(
        name="custom",
        python_model=str(config.PROJECT_DIR / "custom_model.py"),
        artifacts={"classifier": classifier_uri},
        registered_model_name=config.CUSTOM_MODEL,
        signature=infer_signature(example, probabilities),
        input_example=example,
        pip_requirements=utils.pinned("mlflow", "xgboost", "scikit-learn", "pandas", "loguru"),
    )
config.logger.info(f"registered {config.CUSTOM_MODEL} version {custom_info.registered_model_version}")
