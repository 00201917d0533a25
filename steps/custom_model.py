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
        """Load the classifier when the server starts.

        Args:
            context: What MLflow stored with the model: its artifact "classifier" is a folder.
        """
        self.classifier = mlflow.xgboost.load_model(context.artifacts["classifier"])
        self.words = (Model.load(context.artifacts["classifier"]).metadata or {}).get("words", {})

    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Predict probabilities.

        Args:
            context: As above.
            model_input: n rows of features, as they stand in the training data: words are words.
            params: Not used.

        Returns:
            An array of shape (n, 2): the probabilities of class 0 and class 1.

        Raises:
            MlflowException: There are no rows, or a value is infinite or too large; a server then
                answers with status 400.
        """
        if model_input.empty:
            raise MlflowException.invalid_parameter_value("There are no rows to predict.")
        codes = {
            name: {word: code for code, word in enumerate(words)}
            for name, words in self.words.items()
        }
        model_input = model_input.assign(
            **{name: model_input[name].map(codes[name]) for name in codes}
        ).astype(float)
        # XGBoost has numbers of single precision, and takes larger ones for infinite
        infinite = model_input.columns[(model_input.abs() > np.finfo(np.float32).max).any()]
        if len(infinite):
            raise MlflowException.invalid_parameter_value(
                f"Infinite or too large values in: {', '.join(infinite)}"
            )
        start = time.perf_counter()
        probabilities = self.classifier.predict_proba(model_input)
        logger.info(
            "{} row(s) in {:.1f} ms", len(model_input), 1000 * (time.perf_counter() - start)
        )
        return probabilities


mlflow.models.set_model(CancerProbability())
