"""The floor of serving: an HTTP handler around the champion's `features` and XGBoost's `inplace_predict`, no more.

usage: uvicorn benchmarks.floor_server:app
"""

import json

import numpy as np
from fastapi import FastAPI, Request, Response

import utils

app = FastAPI()
_, model = utils.load_model("models:/CancerModel@champion")
booster, classes = model.classifier.get_booster(), model.about["classes"]


@app.post("/invocations")
async def invocations(request: Request):
    """Predict the classes of rows.

    Args:
        request: Its body has the rows as they stand, numbers all of them, in MLflow's form `dataframe_split`.

    Returns:
        A response whose body has the classes, as `predictions`.
    """
    rows = json.loads(await request.body())["dataframe_split"]
    table = dict(zip(rows["columns"], np.array(rows["data"], dtype=float).T, strict=True))
    probabilities = booster.inplace_predict(model.features(table))
    return Response(json.dumps({"predictions": [classes[int(p > 0.5)] for p in probabilities]}))
