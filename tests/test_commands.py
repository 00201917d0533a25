"""Every shell command that README.md shows is run here or by another test, or the reason why not is given."""

import re
import shlex

import pytest
from conftest import ROOT

import servers

TEXT = (ROOT / "README.md").read_text()
SHOWN = {
    line.strip()
    for block in re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
}

# These end by themselves.
RUN = ["jupytext --to ipynb modeling.py", "mlflow run . -e hyperparameters-tuning -P n-trials=20 --env-manager local"]
# These are servers: the address that answers when they are ready.
SERVE = {
    "make ui": "http://127.0.0.1:5000/health",
    "mlflow ui --workers 1": "http://127.0.0.1:5000/health",
    "mlflow models serve -m models:/CancerModel@champion --env-manager local --port 5001": "http://127.0.0.1:5001/health",
    "make tracking-server": "http://127.0.0.1:5000/health",
    "make mlserve": "http://127.0.0.1:8080/v2/models/cancer-model/ready",
}
TRACKING = "docker compose -f docker/tracking/docker-compose.yml up --build"
PROJECT = "docker compose -f mlproject_docker/docker-compose.yml run --rm --build mlproject"
ELSEWHERE = {
    "make walkthrough": "the fixture `walkthrough`, by the command behind it",
    PROJECT: "tests/test_docker.py",
    f"{PROJECT} hyperparameters-tuning -P n-trials=20": "tests/test_docker.py",
    "docker compose -f docker/mlserve/docker-compose.yml up --build": "tests/test_docker.py",
    "export MLFLOW_TRACKING_URI=http://127.0.0.1:5000": "tests/test_tracking.py, at a port of its own",
    "export POSTGRES_PASSWORD=...": "tests/test_docker.py",
    TRACKING: "tests/test_docker.py",
    f"N_TRIALS=20 {TRACKING} --scale tuning-worker=4": "tests/test_docker.py, with two workers",
    "mlflow run . -e hyperparameters-tuning -P n-trials=40 -P storage=postgresql://optuna@127.0.0.1/optuna": (
        "tests/test_shared_study.py, on a database and a server of its own"
    ),
}
NOT_RUN = {
    "mlflow run . -e model-training --backend kubernetes --backend-config kubernetes_config.json": "needs a cluster",
    "conda env create -f conda.yaml": "needs conda",
    "conda activate mlflow-walkthrough": "needs conda",
    "python -m venv .venv": "the same as `make .venv/installed`, which made the environment of these tests",
    "source .venv/bin/activate": "as above",
    "pip install -r requirements.txt": "as above",
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
    result = walkthrough.run(*words_of(command))
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("command", "address"), SERVE.items(), ids=SERVE)
def test_server(walkthrough, monkeypatch, command, address):
    monkeypatch.chdir(walkthrough.folder)
    monkeypatch.setenv("PATH", walkthrough.environment["PATH"])
    with servers.server(words_of(command), address) as log:
        assert "Traceback" not in log.read_text()
