# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import argparse
import json
import tempfile
from pathlib import Path

import mlflow
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import config
import data_files
import utils
from errors import StepError

test_size = config.TEST_SIZE
dataset = None
parser = argparse.ArgumentParser(description="Split the data into a train and a test set and log both.")
parser.add_argument("--test-size", type=float, default=config.TEST_SIZE, help="share of rows for testing")
parser.add_argument("--dataset", type=utils.optional_path, help="CSV file in place of the breast cancer data")
args = parser.parse_args()
test_size, dataset = args.test_size, args.dataset

if not 0 < test_size < 1:
    raise StepError(f"test-size is {test_size}: give a share between 0 and 1, such as {config.TEST_SIZE}.")

data = data_files.read_csv(dataset) if dataset else load_breast_cancer(as_frame=True).frame

target = data.pop(config.TARGET)
classes = sorted(target.unique().tolist())
if len(classes) != 2:
    few = ", ".join(map(repr, classes[:5]))
    raise StepError(f"{dataset}: `{config.TARGET}` needs two different values, but has {len(classes)}: {few}")

data = utils.add_features(data_files.as_numbers(data, dataset))
data[config.TARGET] = (target == classes[1]).astype(int)

fewest = data[config.TARGET].value_counts().min()
if fewest * test_size < 1 or fewest * (1 - test_size) < 2 * config.N_FOLDS:
    raise StepError(
        f"{dataset or 'The data'}: the smaller class has {fewest} row(s), and test-size {test_size} leaves too few of "
        f"them for training with {config.N_FOLDS} folds or for testing. Give more data or another test-size."
    )
train, test = train_test_split(data, test_size=test_size, stratify=data[config.TARGET], random_state=config.SEED)
train, test = train.reset_index(drop=True), test.reset_index(drop=True)

with utils.start_step("data_preprocessing") as run, tempfile.TemporaryDirectory() as folder:
    mlflow.log_params({"test_size": test_size, "seed": config.SEED, "data_source": dataset or "breast cancer"})
    mlflow.set_tag("classes", json.dumps(classes))
    mlflow.log_metrics({"full_rows": len(data), "train_rows": len(train), "test_rows": len(test)})
    for split, frame in {"train": train, "test": test}.items():
        path = Path(folder, f"{split}.csv")
        frame.to_csv(path, index=False)
        mlflow.log_artifact(path, "datasets")
        digest = utils.log_dataset(frame, run, split, context="preprocessing")
        config.logger.info(f"{split}: {len(frame)} rows, {frame.shape[1] - 1} features, digest {digest}")
