"""What several test files share: scratch copies of the project, programs that run in them, and servers."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil
import requests
from mlflow.utils.file_utils import local_file_uri_to_path

import config
import servers
import utils
from notebook_tools.run import copy_project

ROOT = config.PROJECT_DIR
# The two pages of modeling.py.
PAGE = "".join((ROOT / name).read_text() for name in ["README.md", "SERVING.md"])
# What follows the name of the breast cancer data.
EXPERIMENT = "Cancer_Classification"
MODEL, BOOSTER_MODEL, CUSTOM_MODEL = "CancerModel", "CancerModelBooster", "CustomCancerModel"
# What the pipeline runs, in its order: as the runs' tags have them, and as entry points.
STEPS = ["data_preprocessing", "hyperparameters_tuning", "model_training", "data_evaluation", "flavour_comparison",
         "model_customization", "serving_check"]  # fmt: skip
PIPELINE = {step.replace("_", "-") for step in STEPS}

# Runs steps as scripts, one after the other, in one process, which has to import MLflow only once.
IN_ONE_PROCESS = """
import json, runpy, sys
for step, *options in json.loads(sys.argv[1]):
    sys.argv, said = [step, *options], ""
    try:
        runpy.run_module(f"steps.{step}", run_name="__main__")
    except Exception as error:  # what a script says on its way out
        if "StepError" not in [kind.__name__ for kind in type(error).__mro__]:
            raise
        assert sys.excepthook.__name__ == "end_in_one_line"
        said = str(error)
    print("\\f" + json.dumps(said), file=sys.stderr, flush=True)
"""


class Project:
    """A copy of the project in a folder of its own, with a store of its own."""

    def __init__(self, folder):
        self.folder = folder
        copy_project(folder)

    def copy(self, folder):
        """Another copy, which goes on from the same store; what the runs so far have logged stays where it is."""
        project = Project(folder)
        shutil.copy(self.folder / "mlflow.db", folder)
        return project

    @property
    def environment(self):
        """The variables of a shell in which the tests' environment is active and nothing is set for MLflow."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        return env | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]]), "OMP_NUM_THREADS": "1"}

    def run(self, *command, cwd=None, **variables):
        """Run a command in the project, as from a shell with the environment active."""
        env = self.environment | variables
        return subprocess.run(command, cwd=cwd or self.folder, env=env, capture_output=True, text=True, timeout=1200)

    def step(self, name, *options, **variables):
        """Run the script of a step without `mlflow run`."""
        return self.run("python", "-m", f"steps.{name}", *map(str, options), **variables)

    def try_steps(self, *commands, **variables):
        """Run scripts in one process: for each the line with which it fails ("" where not), and what it said before."""
        words = json.dumps([shlex.split(command) for command in commands])
        said = succeed(self.run("python", "-c", IN_ONE_PROCESS, words, **variables))
        parts = re.findall(r"(.*?)\f(.*?)\n", said, re.DOTALL)
        return [(json.loads(error), before) for before, error in parts]

    def steps(self, *commands, **variables):
        """Run scripts in one process, which must succeed: what each said."""
        tried = self.try_steps(*commands, **variables)
        assert [error for error, _ in tried] == [""] * len(commands)
        return [said for _, said in tried]

    def mlflow_run(self, entry_point, *options, **parameters):
        """Run `mlflow run . -e entry_point --env-manager local`; `test_size=0.5` becomes `-P test-size=0.5`."""
        words = [f"-P{name.replace('_', '-')}={value}" for name, value in parameters.items()]
        return self.run("mlflow", "run", ".", "-e", entry_point, "--env-manager", "local", *words, *options)

    def start(self, *command, **variables):
        """Start a program without waiting for it, in a session of its own; `said()` is what it wrote to stderr."""
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (read when the process has ended)
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=self.folder,
            env=self.environment | variables,
            stdout=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,
        )
        process.said = lambda: output.seek(0) or output.read()
        return process

    @property
    def uri(self):
        """The address of its store."""
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def client(self):
        return mlflow.MlflowClient(self.uri)

    def runs(self, filter_string="", status="FINISHED"):
        """All runs of the store with this status (None: with any), the newest first."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        parts = [filter_string, f"attributes.status = '{status}'" if status else ""]
        return self.client.search_runs(
            experiments, " and ".join(filter(None, parts)), order_by=["attributes.start_time DESC"]
        )

    def newest(self, step, status="FINISHED"):
        """The newest run of a step."""
        return self.runs(f"tags.step = '{step}'", status)[0]

    def model_folder(self, name, version):
        """Where the files of a registered version are."""
        model_id = self.client.get_model_version(name, str(version)).source.rpartition("/")[2]
        return Path(local_file_uri_to_path(self.client.get_logged_model(model_id).artifact_location))

    def registry(self):
        """What is registered: a dict from model name to its version numbers and aliases."""
        return {
            model.name: (
                sorted(int(v.version) for v in self.client.search_model_versions(f"name = '{model.name}'")),
                {alias: int(version) for alias, version in model.aliases.items()},
            )
            for model in self.client.search_registered_models()
        }


def succeed(result):
    """Check that a program has succeeded, and give what it wrote to stderr."""
    assert result.returncode == 0, result.stderr
    return result.stderr


def only_line(said):
    """The one line that a failing step says, among what all steps, MLflow and progress bars say."""
    assert "Traceback" not in said
    usual = ("INFO: ", "WARNING: ", "Successfully registered", "Registered model", "Created version", "Aborted!")
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(usual)]
    # `mlflow run` writes "2026/11/25 18:53:00 INFO mlflow.projects: …"
    lines = [line for line in lines if " mlflow." not in line[:40] and "%|" not in line]
    assert len(lines) == 1, said
    return lines[0]


def refusal(result):
    """The one line of a step that ends with exit code 1."""
    assert result.returncode == 1, result.stderr
    return only_line(result.stderr)


def survivors(process):
    """The processes that a program of `Project.start` has started and that run on after its end."""
    found = []
    for other in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(other.pid) == process.pid and other.status() != psutil.STATUS_ZOMBIE:
                found.append(other)
    return found


def wait_until(condition, seconds=120):
    """Wait until a function gives something true, and give that."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return result


@contextlib.contextmanager
def tracking_server(store, folder):
    """An MLflow tracking server that keeps runs in a database and files in a folder; yields its address."""
    address = f"http://127.0.0.1:{servers.free_port()}"
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(folder)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with servers.server(command, f"{address}/health", PATH=path, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        yield address


def v2_request(frame):
    """The body of a request to MLServer in the V2 protocol: text and gaps as BYTES, as V2 knows no missing number."""
    inputs = []
    for name, column in frame.items():
        values = column.astype(object).where(column.notna(), None).tolist()
        kind = "FP64" if column.dtype == float else "BYTES"
        inputs.append({"name": name, "shape": [len(frame), 1], "datatype": kind, "data": values})
    return {"parameters": {"content_type": "pd"}, "inputs": inputs}


# --- The doors of a model: what each server answers to the rows of a frame, as a frame


def post(address, body):
    """Send a body as JSON, and give what is answered."""
    response = requests.post(address, json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def ask_invocations(url, frame):
    """Ask MLflow's own address, which MLServer has too."""
    return pd.DataFrame(post(f"{url}/invocations", utils.as_request(frame))["predictions"])


def ask_v2(url, frame):
    """Ask MLServer in the V2 protocol."""
    outputs = post(f"{url}/v2/models/cancer-model/infer", v2_request(frame))["outputs"]
    return pd.DataFrame({output["name"]: output["data"] for output in outputs})


def ask_own_server(url, frame):
    """Ask the own server."""
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    said = post(f"{url}/invocations", {"dataframe_records": records})
    names = [f"probability of {name}" for name in said["classes"]]
    return pd.DataFrame(said["probabilities"], columns=names).assign(prediction=said["predictions"])


def passengers():
    """A table with words, gaps, true and false, dates, whole numbers and decimals."""
    rng = np.random.default_rng(0)
    rows = 300
    frame = pd.DataFrame(
        {
            "age": np.where(rng.random(rows) < 0.2, np.nan, rng.integers(1, 80, rows)),
            "fare": rng.gamma(2, 15, rows).round(2),
            "sex": rng.choice(["male", "female"], rows),
            "deck": rng.choice(["A", "B", None], rows),
            "alone": rng.choice([True, False], rows),
            "boarded": (pd.Timestamp("1912-04-10") + pd.to_timedelta(rng.integers(0, 9, rows), "D")).astype(str),
        }
    )
    return frame.assign(survived=np.where((frame.sex == "female") ^ (rng.random(rows) < 0.2), "yes", "no"))


# What passengers.csv is called, and what its champion is.
PASSENGERS_URI = "models:/passengersModel@champion"
# as a client has them: another order, a further column, an unknown word, gaps, whole numbers for decimals
RAW = pd.DataFrame(
    {
        "name": ["Ann", "Bob", "Cid"],
        "boarded": ["1912-04-11", "1912-04-14", None],
        "alone": [True, None, False],
        "deck": ["B", "Z", None],
        "sex": ["female", "male", "female"],
        "fare": [7, 31, 8],
        "age": [None, 40, 3],
    },
    dtype=object,
)


def check_answer_to_raw(answer):
    """Check a door's answer to RAW, to 1e-6: what is expected is computed by hand from the classifier and the types."""
    _, model = utils.load_model(PASSENGERS_URI)
    places = {column["name"]: column.get("words") for column in model.about["types"]}
    days = [(pd.Timestamp(day) - pd.Timestamp(0)).days if day else np.nan for day in RAW.boarded]
    values = pd.DataFrame(
        {
            "age": [np.nan, 40, 3],
            "fare": [7, 31, 8],
            "sex": [places["sex"].index(word) for word in RAW.sex],
            "deck": [places["deck"].index("B"), np.nan, np.nan],
            "alone": [1, np.nan, 0],
            "boarded": days,
        },
        dtype=float,
    )
    expected, classes = model.classifier.predict_proba(values), model.about["classes"]
    probabilities = answer[[f"probability of {name}" for name in classes]]
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-6)
    assert list(answer["prediction"]) == [classes[place] for place in expected.argmax(axis=1)]
