# Generated from modeling.py by notebook_tools/extract.py: do not edit, change the notebook.

import time

import mlflow
import numpy as np
import pandas as pd
from loguru import logger
from mlflow.exceptions import MlflowException
from mlflow.models import Model


class CancerProbability(mlflow.pyfunc.PythonModel):
    """Answers with the probabilities of both classes."""

    def load_context(self, context):
        """Load the classifier, which MLflow has stored as an artifact, when the server starts."""
        self.classifier = mlflow.xgboost.load_model(context.artifacts["classifier"])
        self.words = (Model.load(context.artifacts["classifier"]).metadata or {}).get("words", {})

    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Predict probabilities.

        Args:
            context: Not used, like `params`.
            model_input: n rows of features, as they stand in the training data: words are words.

        Returns:
            An array of shape (n, 2): the probabilities of class 0 and class 1.

        Raises:
            MlflowException: No rows, or an infinite or too large value: status 400 of a server.
        """
        if model_input.empty:
            raise MlflowException.invalid_parameter_value("There are no rows to predict.")
        start, features = time.perf_counter(), model_input.copy()
        for name, words in self.words.items():
            features[name] = features[name].map({word: code for code, word in enumerate(words)})
        features = features.astype(float)
        # XGBoost has numbers of single precision, and takes larger ones for infinite
        wrong = features.columns[(features.abs() > np.finfo(np.float32).max).any()]
        if len(wrong):
            reason = f"Infinite or too large values in: {', '.join(wrong)}"
            raise MlflowException.invalid_parameter_value(reason)
        answer = self.classifier.predict_proba(features)
        logger.info("{} row(s) in {:.1f} ms", len(answer), 1000 * (time.perf_counter() - start))
        return answer


mlflow.models.set_model(CancerProbability())
