"""The floor of serving: an HTTP handler around XGBoost's `inplace_predict`, and nothing else.

usage: MODEL=PATH uvicorn benchmarks.floor_server:app
"""

import json
import os

import numpy as np
import xgboost as xgb
from fastapi import FastAPI, Request, Response

app = FastAPI()
booster = xgb.Booster(model_file=os.environ["MODEL"])


@app.get("/health")
async def health():
    """Answer that the server is ready.

    Returns:
        An empty response.
    """
    return Response()


@app.post("/invocations")
async def invocations(request: Request):
    """Predict the classes of rows.

    Args:
        request: Its body has the rows in MLflow's form `dataframe_split`, the columns in the model's order.

    Returns:
        A response whose body has the classes in the form of `mlflow models serve`.
    """
    rows = json.loads(await request.body())["dataframe_split"]["data"]
    probabilities = booster.inplace_predict(np.array(rows, dtype=float))
    return Response(json.dumps({"predictions": (probabilities > 0.5).astype(int).tolist()}))
