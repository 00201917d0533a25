"""Every shell command that README.md shows is run here or by another test, or the reason why not is given."""

import json
import re
import shlex

import mlflow
import pytest
from sklearn.datasets import load_breast_cancer
from support import ROOT

import servers
from notebook_tools import readme

SHOWN = {
    line.strip()
    for page in readme.pages().values()
    for block in re.findall(r"^```bash\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    for line in re.sub(r"\\\n\s*", "", block).splitlines()
    if line.strip() and not line.startswith("#")
}

# These end by themselves.
RUN = [
    "jupytext --to ipynb modeling.py",
    "mlflow run . -e hyperparameters-tuning -P n-trials=40 --env-manager local",
    "mlflow run . -e data-evaluation -P eval-dataset=more.csv --env-manager local",
    "mlflow models predict -m models:/CancerModel@champion -i in.csv -t csv -o out.json --env-manager local",
]
# These are servers: the address that answers when they are healthy.
SERVE = {
    "make ui": "http://127.0.0.1:5000/health",
    "mlflow ui --workers 1": "http://127.0.0.1:5000/health",
    "mlflow models serve -m models:/CancerModel@champion --env-manager local --port 5001": "http://127.0.0.1:5001/health",
    "make tracking-server": "http://127.0.0.1:5000/health",
    "make serve": "http://127.0.0.1:8000/health",
    "make mlserve": "http://127.0.0.1:8080/v2/models/cancer-model/ready",
}
TRACKING = "docker compose -f docker/tracking/docker-compose.yml up --build"
PROJECT = "docker compose -f mlproject_docker/docker-compose.yml run --rm --build mlproject"
ELSEWHERE = {
    "mlflow run . -e batch-scoring -P input=new.csv -P output=scores.csv --env-manager local": "tests/test_deployment.py",
    "mlflow run . -e drift-check -P input=new.csv --env-manager local": "tests/test_deployment.py",
    "make walkthrough": "the fixture `walkthrough`, by the command behind it",
    "curl http://127.0.0.1:5001/invocations --json @serving_input_example.json": "test_curl",
    PROJECT: "tests/test_docker.py",
    f"{PROJECT} hyperparameters-tuning -P n-trials=20": "tests/test_docker.py",
    "docker compose -f docker/mlserve/docker-compose.yml up --build": "tests/test_docker.py",
    "docker compose -f docker/server/docker-compose.yml up --build": "tests/test_docker.py",
    "export MLFLOW_TRACKING_URI=http://127.0.0.1:5000": "tests/test_tracking.py, at a port of its own",
    "export POSTGRES_PASSWORD=...": "tests/test_docker.py",
    TRACKING: "tests/test_docker.py",
    f"N_TRIALS=20 {TRACKING} --scale tuning-worker=4": "tests/test_docker.py, with two workers",
    "mlflow run . -e hyperparameters-tuning -P n-trials=40 -P storage=postgresql://optuna@127.0.0.1/optuna": (
        "tests/test_tuning.py, on a database and a server of its own"
    ),
}
NOT_RUN = {
    "git clone URL mlflow-walkthrough && cd mlflow-walkthrough": "needs the address",
    "conda env create -f conda.yaml && conda activate mlflow-walkthrough": "needs conda",
    "python -m venv .venv && source .venv/bin/activate && pip install -r requirements.txt": (
        "the same as `make .venv/installed`, which made the environment of these tests"
    ),
    "conda env export > conda.yaml": "shown because it disappoints; needs conda",
    "conda env export --from-history > conda.yaml": "as above",
    "pip freeze > requirements.txt": "as above",
    "jupyter nbconvert --to markdown --execute modeling.ipynb": "runs the whole notebook once more",
}


def test_every_command_is_known():
    assert {*RUN, *SERVE, *ELSEWHERE, *NOT_RUN} == SHOWN


def words_of(command):
    """The words of a command, with the environment of these tests in place of one that make would install."""
    words = shlex.split(command)
    installed = ["-o", ".venv/installed", "-o", "docker/mlserve/.venv/installed"]
    return [words[0], *installed, *words[1:]] if words[0] == "make" else words


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_command(walkthrough, command):
    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.frame.assign(target=bunch.target_names[bunch.target])
    frame.sample(100, random_state=0).to_csv(walkthrough.folder / "more.csv", index=False)
    frame.head(100).to_csv(walkthrough.folder / "in.csv", index=False)
    result = walkthrough.run(*words_of(command))
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("command", "address"), SERVE.items(), ids=SERVE)
def test_server(walkthrough, monkeypatch, command, address):
    monkeypatch.chdir(walkthrough.folder)
    monkeypatch.setenv("PATH", walkthrough.environment["PATH"])
    with servers.server(words_of(command), address) as log:
        assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_curl(walkthrough, monkeypatch):
    """The input example that lies beside the model is a request that the server answers."""
    monkeypatch.setenv("PATH", walkthrough.environment["PATH"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{walkthrough.folder}/mlflow.db")
    port = servers.free_port()
    uri = "models:/CancerModel/1"
    example = mlflow.artifacts.download_artifacts(f"{uri}/serving_input_example.json")
    command = f"mlflow models serve -m {uri} --env-manager local --host 127.0.0.1 --port {port}"
    with servers.server(command.split(), f"http://127.0.0.1:{port}/health"):
        curl = ["curl", "--silent", f"http://127.0.0.1:{port}/invocations", "--json", f"@{example}"]
        result = walkthrough.run(*curl)
    assert len(json.loads(result.stdout)["predictions"]) == 3
