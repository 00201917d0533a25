"""Scratch copies of the project, with the commands that a user gives in them."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from notebook_tools.run import copy_project  # noqa: E402


class Project:
    """A copy of the project in a folder of its own, with a store of its own."""

    def __init__(self, folder):
        self.folder = folder
        copy_project(folder)

    def run(self, *command, cwd=None, **variables):
        """Run a command in the project, as from a shell with the environment active."""
        env = self.environment | variables
        return subprocess.run(command, cwd=cwd or self.folder, env=env, capture_output=True, text=True, timeout=1200)

    @property
    def environment(self):
        """The variables of a shell in which the tests' environment is active and nothing is set for MLflow."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
        return env

    def mlflow_run(self, entry_point, *options, **parameters):
        """Run `mlflow run . -e entry_point --env-manager local`; `test_size=0.5` becomes `-P test-size=0.5`."""
        words = [f"-P{name.replace('_', '-')}={value}" for name, value in parameters.items()]
        return self.run("mlflow", "run", ".", "-e", entry_point, "--env-manager", "local", *words, *options)

    @property
    def client(self):
        return mlflow.MlflowClient(f"sqlite:///{self.folder}/mlflow.db")

    def runs(self, filter_string="", status="FINISHED"):
        """All runs of the store with this status, newest first."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        parts = [filter_string, f"attributes.status = '{status}'" if status else ""]
        return self.client.search_runs(
            experiments, " and ".join(filter(None, parts)), order_by=["attributes.start_time DESC"]
        )

    def registry(self):
        """What is registered: a dict from model name to its version numbers and aliases."""
        return {
            model.name: (
                sorted(int(v.version) for v in self.client.search_model_versions(f"name = '{model.name}'")),
                {alias: int(version) for alias, version in model.aliases.items()},
            )
            for model in self.client.search_registered_models()
        }


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Two processes share the tests: those on one copy of the project stay together, and so do other files."""
    for item in items:
        shared = next((name for name in ["walkthrough", "trained"] if name in item.fixturenames), item.path.stem)
        item.add_marker(pytest.mark.xdist_group(shared))


@pytest.fixture
def empty_project(tmp_path):
    """A copy of the project in which nothing has run yet."""
    return Project(tmp_path)


@pytest.fixture(scope="session")
def walkthrough(tmp_path_factory):
    """A copy of the project in which the whole notebook has run, as `make walkthrough` does it."""
    project = Project(tmp_path_factory.mktemp("walkthrough"))
    project.result = project.run(sys.executable, "-m", "notebook_tools.run")
    assert project.result.returncode == 0, project.result.stdout + project.result.stderr
    # tests add runs of their own, and make the notebook anew
    project.made = project.runs(status=None)
    project.executed = nbformat.read(project.folder / "modeling.ipynb", as_version=4)
    return project


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A copy of the project in which the steps up to the training have run, each with `mlflow run`."""
    project = Project(tmp_path_factory.mktemp("trained"))
    for entry_point, parameters in {
        "data-preprocessing": {"test_size": 0.4},
        "hyperparameters-tuning": {"n_trials": 2},
        "model-training": {},
    }.items():
        result = project.mlflow_run(entry_point, **parameters)
        assert result.returncode == 0, result.stderr
    return project
