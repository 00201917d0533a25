"""Every shell command that the pages show is run here or by another test, or the reason why not is given."""

import json
import re
import shlex
import sys

import pytest
from support import ROOT, succeed

import servers
from notebook_tools import readme

SHOWN = {
    line.strip()
    for page in [*readme.pages().values(), "SERVING.md"]
    for block in re.findall(r"^```bash\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    for line in re.sub(r"\\\n\s*", "", block).splitlines()
    if line.strip() and not line.startswith("#")
}

# These are servers: the address that answers when they are healthy.
SERVE = {
    "make ui": "http://127.0.0.1:5000/health",
    "mlflow models serve -m models:/CancerModel@champion --env-manager local --port 5001": "http://127.0.0.1:5001/health",
    "make tracking-server": "http://127.0.0.1:5000/health",
    "make serve": "http://127.0.0.1:8000/health",
    "make mlserve": "http://127.0.0.1:8080/v2/models/cancer-model/ready",
}
# These go on from a server that is up.
CLIENT = [
    "mlflow artifacts download -u models:/CancerModel@champion/serving_input_example.json -d .",
    "curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' -d @serving_input_example.json",
]
TRACKING = "docker compose -f docker/tracking/docker-compose.yml up --build"
PROJECT = "docker compose -f mlproject_docker/docker-compose.yml run --rm --build mlproject"
TUNING = "mlflow run . -e hyperparameters-tuning -P n-trials=40"
ELSEWHERE = {
    "mlflow run . -P dataset=mine.csv -P target=LABEL --env-manager local": "tests/test_steps.py, own_data",
    f"{TUNING} --experiment-name Cancer_Classification --env-manager local": "tests/test_steps.py, test_which_experiment",
    f"{TUNING} -P storage=postgresql://optuna@127.0.0.1/optuna": "tests/test_tuning.py, on a database of its own",
    "mlflow models predict -m models:/CancerModel@champion -i in.csv -t csv -o out.json --env-manager local": "tests/test_models.py",
    "mlflow run . -e batch-scoring -P input=new.csv -P output=scores.csv --env-manager local": "tests/test_deployment.py",
    "mlflow run . -e drift-check -P input=new.csv --env-manager local": "tests/test_deployment.py",
    "make walkthrough": "the fixture `walkthrough`, by the command behind it",
    PROJECT: "tests/test_docker.py",
    f"{PROJECT} hyperparameters-tuning -P n-trials=20": "tests/test_docker.py",
    "docker compose -f docker/mlserve/docker-compose.yml up --build": "tests/test_docker.py",
    "docker compose -f docker/server/docker-compose.yml up --build": "tests/test_docker.py",
    "export MLFLOW_TRACKING_URI=http://127.0.0.1:5000": "tests/test_tracking.py, at a port of its own",
    "export POSTGRES_PASSWORD=...": "tests/test_docker.py",
    TRACKING: "tests/test_docker.py",
    f"N_TRIALS=20 {TRACKING} --scale tuning-worker=4": "tests/test_docker.py, with two workers",
}  # fmt: skip
IN_A_COPY = [  # test_environment and test_by_hand
    "source .venv/bin/activate",
    "python -m venv .venv && source .venv/bin/activate && pip install -r requirements.txt",
]
NOT_RUN = {
    "git clone URL mlflow-walkthrough && cd mlflow-walkthrough": "needs the address",
    "conda env create -f conda.yaml && conda activate mlflow-walkthrough": "needs conda",
}


def test_every_command_is_known():
    assert {*SERVE, *CLIENT, *ELSEWHERE, *IN_A_COPY, *NOT_RUN} == SHOWN


def words_of(command):
    """The words of a command, with the environment of these tests in place of one that make would install."""
    words = shlex.split(command)
    installed = ["-o", ".venv/installed", "-o", "docker/mlserve/.venv/installed"]
    return [words[0], *installed, *words[1:]] if words[0] == "make" else words


@pytest.mark.slow
@pytest.mark.parametrize(("command", "address"), SERVE.items(), ids=SERVE)
def test_server(walkthrough, mlserver_environment, command, address):
    """The input example that lies beside the model is a request that `mlflow models serve` answers."""
    with servers.server(words_of(command), address, walkthrough.folder, **walkthrough.environment) as log:
        assert "Traceback" not in log.read_text()
        if ":5001" in address:
            download, curl = CLIENT
            succeed(walkthrough.run(*download.split()))
            assert len(json.loads(walkthrough.run(*shlex.split(curl)).stdout)["predictions"]) == 3


def test_environment(empty_project):
    """What the page says to activate has the programs that the page uses."""
    activate, _ = IN_A_COPY
    (empty_project.folder / ".venv").symlink_to(sys.prefix)
    succeed(empty_project.run("bash", "-c", f"{activate} && command -v mlflow jupyter jupytext", PATH="/usr/bin:/bin"))


@pytest.mark.nightly
def test_by_hand(empty_project):
    """The environment and the notebook without `make`, in the words of the page."""
    _, install = IN_A_COPY
    short = "n_trials, data_run_id, storage, study_name = 30,"
    notebook = empty_project.folder / "modeling.py"
    assert short in notebook.read_text()
    notebook.write_text(notebook.read_text().replace(short, short.replace("30", "5")))
    succeed(empty_project.run("bash", "-c", f"{install} && python -m notebook_tools.run"))
    assert empty_project.registry()["CancerModel"][0] == [1, 2, 3]
