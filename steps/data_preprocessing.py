# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import json

import mlflow
from loguru import logger
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import config
import data_files
import utils

test_size, dataset, target, positive_class = 0.33, None, None, None
test_size, dataset, target, positive_class = utils.arguments(
    "data-preprocessing", "test-size", "dataset", "target", "positive-class"
)

if dataset:
    data, target = data_files.read_table(dataset, target)
else:
    data, target = load_breast_cancer(as_frame=True).frame, "target"
classes = data_files.two_classes(data[target], positive_class, test_size)
data = utils.add_features(data)
train, test = train_test_split(
    data, test_size=test_size, stratify=data[target], random_state=config.SEED
)
train, test = train.reset_index(drop=True), test.reset_index(drop=True)

utils.set_experiment()
tags = {"step": "data_preprocessing", "target": target, "classes": json.dumps(classes)}
source = dataset or "breast cancer"
with mlflow.start_run(run_name="Data_Preprocessing", tags=tags) as run:
    mlflow.log_params({"test_size": test_size, "seed": config.SEED, "data_source": source})
    mlflow.log_metrics({"full_rows": len(data), "train_rows": len(train), "test_rows": len(test)})
    train_data = utils.log_dataset(train, "train", target, context="training")
    test_data = utils.log_dataset(test, "test", target, context="testing")
    about = f"{source}, {len(train)} training rows, digest {train_data.digest}"
    about = f"{about}, class 1 is {classes[1]!r}"
    mlflow.set_tag("data", about)
logger.info(f"{about}, class 0 is {classes[0]!r}, {len(test)} test rows")
