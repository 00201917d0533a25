# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import argparse

import mlflow
from mlflow.exceptions import ExecutionException

import config
import utils
from errors import StepError

test_size, n_trials, dataset = config.TEST_SIZE, config.N_TRIALS, None
parser = argparse.ArgumentParser(description="Run all steps in order, each with `mlflow run`.")
parser.add_argument("--test-size", type=float, default=config.TEST_SIZE, help="share of rows for testing")
parser.add_argument("--n-trials", type=int, default=config.N_TRIALS, help="how many combinations to try")
parser.add_argument("--dataset", type=utils.optional_path, help="CSV file in place of the breast cancer data")
args = parser.parse_args()
test_size, n_trials, dataset = args.test_size, args.n_trials, args.dataset

# A parameter that names a step stands for the ID of its run here, so that two pipelines at a time do not mix.
steps = {
    "data-preprocessing": {"test-size": test_size, **({"dataset": dataset} if dataset else {})},
    "hyperparameters-tuning": {"n-trials": n_trials, "data-run-id": "data-preprocessing"},
    "model-training": {"data-run-id": "data-preprocessing", "tuning-run-id": "hyperparameters-tuning"},
    "data-evaluation": {"training-run-id": "model-training"},
    "flavour-comparison": {"training-run-id": "model-training"},
    "model-customization": {"training-run-id": "model-training"},
    "model-serving": {},
}
run_ids = {}

with utils.start_step("pipeline") as run:
    for entry_point, parameters in steps.items():
        if entry_point == "model-serving" and not utils.champion():
            config.logger.warning("No model has reached the thresholds yet: there is no champion to serve.")
            continue
        try:
            step_run = mlflow.run(
                str(config.PROJECT_DIR),
                entry_point,
                parameters={name: run_ids.get(value, value) for name, value in parameters.items()},
                experiment_id=run.info.experiment_id,
                env_manager="local",
            )
            run_ids[entry_point] = step_run.run_id
        except ExecutionException:
            raise StepError(f"The step {entry_point} failed, for the reason given above.") from None
