"""Every name, default and path of the project, and its logger."""

import logging
import os
import sys
import warnings
from pathlib import Path

from loguru import logger

PROJECT_DIR = Path(__file__).resolve().parent

EXPERIMENT = "Cancer_Classification"

# The steps: the tag of a step's cells, which is also its script's name, and the name of its MLflow run.
RUN_NAMES = {
    "data_preprocessing": "Data_Preprocessing",
    "hyperparameters_tuning": "Hyperparameters_Search",
    "model_training": "Model_Training",
    "data_evaluation": "Data_Evaluation",
    "flavour_comparison": "Flavour_Comparison",
    "model_customization": "Model_Customization",
    "model_serving": "Model_Serving",
    "pipeline": "Pipeline",
}
SCRIPTS = (*RUN_NAMES, "custom_model")  # a model as code: a script, but not a step

# Registered models, and the alias of the version in use.
BOOSTER_MODEL = "CancerModelBooster"
CLASSIFIER_MODEL = "CancerModel"
CUSTOM_MODEL = "CustomCancerModel"
DASK_MODEL = "CancerModelDask"
CHAMPION = "champion"
CHAMPION_URI = f"models:/{CLASSIFIER_MODEL}@{CHAMPION}"

TARGET = "target"
SEED = 42
TEST_SIZE = 0.33
N_TRIALS = 10
N_FOLDS = 3
VALIDATION_SIZE = 0.2
EARLY_STOPPING_ROUNDS = 20
ROWS_FOR_THREADS = 10_000
# How many rows go into one request to a server, and how many the flavours are compared on.
BATCH_ROWS = 1_000
# What a model must reach before it may become the champion: metrics of mlflow.models.evaluate, greater is better. On a
# handful of examples a poor model is often right by chance.
THRESHOLDS = {"accuracy_score": 0.9, "roc_auc": 0.95, "example_count": 30}
# The metric by which a new model is compared with the present champion; one of the above.
CHAMPION_METRIC = "accuracy_score"
# Every so often a worker shows in the database that its trial is alive; after so long without that, another redoes it.
HEARTBEAT_SECONDS = 5
LOST_AFTER_SECONDS = 15
# So long the other workers wait for the one that started the run to write the results into it.
RESULTS_AFTER_SECONDS = 60
# How long a server may take to get ready, in seconds.
SERVER_TIMEOUT = 180

# No model is ever loaded from a pickle: the programs that we start know it too.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

# MLflow repeats a failed request for minutes. A server that is not back after half a minute will need our help.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")

logger.remove()
logger.add(lambda message: sys.stderr.write(message), format="{level}: {message}", level="INFO")

# What MLflow and Optuna say by the way (database migrations, progress of copying a local file, hints on whole-number
# columns, "experimental" plots that exist since 2021) would bury what the steps say. Warnings of MLflow still show.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for every trial
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
# It shows the traceback of each database error, which is raised too.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
# It doubts every two-valued target that it is shown.
logging.getLogger("mlflow.models.evaluation.evaluators.classifier").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="Hint: Inferred schema contains integer column")
warnings.filterwarnings("ignore", message="optuna.visualization.matplotlib.* is experimental")
warnings.filterwarnings("ignore", message="The NumPy global RNG was seeded", category=FutureWarning)
