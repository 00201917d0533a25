"""Copies of the project that several test files use."""

import signal
import sys

import nbformat
import pytest
from hypothesis import HealthCheck, settings
from support import Project, succeed

# What a shell has put into the background ignores Ctrl-C, and so would the programs that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Made-up input: the same hundred examples in each run.
settings.register_profile("same", deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
settings.load_profile("same")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Two processes share the tests: those on one copy of the project stay together, and so do other files.

    A test with a mark `xdist_group` of its own goes to whichever process is free.
    """
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
def mlserver_environment(walkthrough):
    """The walkthrough's folder with MLServer's environment in it, as `make mlserve` makes it; a notebook run does not."""
    succeed(walkthrough.run("make", "-o", ".venv/installed", "docker/mlserve/.venv/installed"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A copy of the project in which the steps up to the training have run, each with `mlflow run`.

    Tests that change the store do so in a copy: `trained.copy(tmp_path)`.
    """
    project = Project(tmp_path_factory.mktemp("trained"))
    succeed(project.mlflow_run("data-preprocessing", test_size=0.4))
    succeed(project.mlflow_run("hyperparameters-tuning", n_trials=2))
    succeed(project.mlflow_run("model-training"))
    return project
