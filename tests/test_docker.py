"""The images, built and used as a user would: the pipeline runs in one, the servers serve its model.

And the first of them as a tracking server with workers.
"""

import functools
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import mlflow
import pytest
import requests
import support
import yaml
from support import PASSENGERS_URI, PIPELINE, RAW, ROOT, Project, check_answer_to_raw

import config
import servers
import utils

# The folder of each image, with the name of its service in docker-compose.yml.
IMAGES = {"mlproject_docker": "mlproject", "docker/mlserve": "mlserver"}
TRACKING, OWN_SERVER = "docker/tracking", "docker/server"  # these use the first image
PASSWORD = "p:w@d/%1"  # must not end up in an address, where it would need quoting
# The files in the project must belong to the user who starts the containers; for root we take somebody else.
USER = (os.getuid(), os.getgid()) if hasattr(os, "getuid") and os.getuid() else (1234, 1234)


def ask(*command):
    """Run a command of Docker and return what it says, with its exit code."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return result.returncode, (result.stdout + result.stderr).strip()


DOCKER = shutil.which("docker") and ask("docker", "version")[0] == 0
COMPOSE = ["docker", "compose"] if DOCKER and ask("docker", "compose", "version")[0] == 0 else ["docker-compose"]
REASON = "Docker's daemon cannot be reached"
needs_docker = [
    pytest.mark.slow,
    pytest.mark.nightly,
    pytest.mark.docker,
    pytest.mark.skipif(not DOCKER, reason=REASON),
]


class Containers(Project):
    """A copy of the project in which Compose is used. What a user has built or started elsewhere stays as it is."""

    def __init__(self, folder):
        super().__init__(folder)
        self.port, self.metrics_port, self.own_port = [servers.free_port() for _ in range(3)]

    def compose(self, folder, *words, returncode=0, **variables):
        """Run Compose with the file of one folder; gives what it said, without its errors where there is none."""
        if USER[0] != os.getuid():
            for path in [self.folder, *self.folder.rglob("*")]:
                os.chown(path, *USER)
        variables |= {"PWD": str(self.folder), "HOST_USER": f"{USER[0]}:{USER[1]}", "SERVE_PORT": str(self.own_port)}
        variables |= {"MLSERVE_METRICS_PORT": str(self.metrics_port), "POSTGRES_PASSWORD": PASSWORD}
        variables |= dict.fromkeys(["MLSERVE_PORT", "TRACKING_PORT"], str(self.port))
        command = [*COMPOSE, "--project-name", self.name(folder), "--file", f"{folder}/docker-compose.yml", *words]
        result = self.run(*command, **variables)
        assert result.returncode == returncode, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout + result.stderr * (returncode != 0)

    def name(self, folder):
        return f"test{os.getpid()}{IMAGES.get(folder, Path(folder).name)}"

    def image(self, folder):
        """Tell the image's name: it joins two names, older versions of Compose with `_`, newer ones with `-`."""
        names = ask("docker", "images", "--format", "{{.Repository}}")[1]
        return re.search(f"^{self.name(folder)}[_-]{IMAGES[folder]}$", names, re.MULTILINE)[0]

    def up(self, folder, *words, **variables):
        """Start the server of one folder and wait until it is healthy; give its container."""
        self.compose(folder, "up", "--detach", "--build", *words, **variables)
        container, health = self.compose(folder, "ps", "--quiet").strip(), "{{.State.Health.Status}}"
        support.wait_until(lambda: ask("docker", "inspect", "--format", health, container)[1] == "healthy", 180)
        return container


def published(container):
    """The ports of this machine through which a container is reached, and its user's number."""
    ports = yaml.safe_load(ask("docker", "inspect", "--format", "{{json .NetworkSettings.Ports}}", container)[1])
    at = {(place["HostIp"], int(place["HostPort"])) for places in ports.values() for place in places or []}
    return at, ask("docker", "exec", container, "id", "-u")[1]


@pytest.fixture(scope="module")
def containers(tmp_path_factory):
    """A copy of the project in which both images are built."""
    project = Containers(tmp_path_factory.mktemp("containers"))
    try:
        for folder in IMAGES:
            project.compose(folder, "build")
        yield project
    finally:
        for folder in IMAGES:
            project.compose(folder, "down", "--rmi", "all", "--volumes", "--remove-orphans")


@pytest.fixture(scope="module")
def pipeline(containers):
    """The same project, after the pipeline has run in a container, on the passengers; its store is the active one."""
    support.passengers().to_csv(containers.folder / "passengers.csv", index=False)
    data = ["-Pdataset=passengers.csv", "-Ptarget=survived", "-Pn-trials=2"]
    containers.compose("mlproject_docker", "run", "--rm", "mlproject", "main", *data)
    made = [path.stat() for path in [containers.folder / "mlflow.db", *(containers.folder / "mlruns").rglob("*")]]
    containers.owners = {(file.st_uid, file.st_gid) for file in made}
    mlflow.set_tracking_uri(containers.uri)
    yield containers
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize("folder", [*IMAGES, TRACKING, OWN_SERVER])
def test_files_are_plain(folder):
    text = "".join(
        path.read_text() for path in [*(ROOT / folder).glob("docker*.yml"), *(ROOT / folder).glob("Dockerfile")]
    )
    compose = yaml.safe_load((ROOT / folder / "docker-compose.yml").read_text())
    assert set(compose) <= {"services", "volumes", "x-step"}  # what both the old and the new Compose take
    for service in compose["services"].values():
        assert all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port) for port in service.get("ports", []))
    assert ("${MODEL_URI:-models:/CancerModel@champion}" in text) == (folder in {"docker/mlserve", OWN_SERVER})
    assert ("build_opener(ProxyHandler({})).open(" in text) == (folder != "mlproject_docker")  # the health check
    assert ("${POSTGRES_PASSWORD:?choose a password" in text) == (folder == TRACKING)
    assert set(compose.get("volumes", [])) == ({"postgres", "artifacts"} if folder == TRACKING else set())
    if folder in IMAGES:
        assert re.findall(r"^FROM (.*)", text, re.MULTILINE) == ["python:3.11-slim"]
        assert "--mount" not in text and "# syntax" not in text
        before = text[text.index("FROM") : text.index("RUN pip install")]  # a change of code installs nothing again
        assert re.findall("^COPY .*", before, re.MULTILINE) == ["COPY requirements.txt constraints.txt ./"]


class TestImages:
    pytestmark = needs_docker

    @pytest.mark.parametrize("folder", IMAGES)
    def test_image(self, containers, folder):
        """It is small, holds no secret and no library for GPUs, is not root and cannot change itself."""
        image = containers.image(folder)
        assert int(ask("docker", "image", "inspect", "--format", "{{.Size}}", image)[1]) < 1.7e9
        made = ask("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)[1]
        made += ask("docker", "image", "inspect", "--format", "{{json .Config.Env}}", image)[1]
        assert "pip install" in made and "PATH" in made
        assert not re.search(r"(?i)password|passwd|secret|token|api_?key|credential|://[^/\s]*@", made)
        compiled = "python -c 'import mlflow, os; print(os.path.exists(mlflow.__cached__))'"
        command = f"id -u; test -w . && echo writable || echo fixed; {compiled}; ls -Ax | xargs; pip list"
        said = ask("docker", "run", "--rm", "--network=none", "--entrypoint=sh", image, "-c", command)[1].splitlines()
        assert said[:3] == ["1000", "fixed", "True"]
        files = {"steps", "MLproject", "conda.yaml", "requirements.txt", "constraints.txt"}
        files |= {path.name for path in ROOT.glob("*.py")} - {"modeling.py"}
        assert set(said[3].split()) == (files if folder == "mlproject_docker" else {"model-settings.json"})
        packages = "\n".join(said[4:])
        assert "xgboost-cpu" in packages and not re.search(r"(?i)nvidia|cuda|nccl", packages)

    def test_runs_are_in_the_store_of_the_host(self, pipeline):
        """They belong to the user, the champion answers here, and no container or network is left behind."""
        steps = [run.data.tags["step"] for run in pipeline.runs() if "step" in run.data.tags]
        assert sorted(steps) == sorted(step.replace("-", "_") for step in {"pipeline", *PIPELINE})
        assert pipeline.runs(status="FAILED") == []
        assert pipeline.registry()["passengersModel"] == ([1], {config.CHAMPION: 1})
        assert pipeline.owners == {USER}
        check_answer_to_raw(mlflow.pyfunc.load_model(PASSENGERS_URI).predict(RAW))
        for kind in [["ps", "--all"], ["network", "ls"]]:
            assert ask("docker", *kind, "--quiet", "--filter", f"name={pipeline.name('mlproject_docker')}") == (0, "")

    def test_what_fails(self, containers, tmp_path):
        """A step, and an image without a folder or a store."""
        step = ["run", "--rm", "mlproject", "data-preprocessing", "-Ptest-size=2"]
        assert "test-size is 2" in containers.compose("mlproject_docker", *step, returncode=1)
        code, said = ask("docker", "run", "--rm", containers.image("mlproject_docker"))
        assert (code, said) == (1, "User 1000 may not write to /opt/mlproject: set HOST_USER, see docker-compose.yml")
        said = Containers(tmp_path).compose("docker/mlserve", "run", "--rm", "mlserver", returncode=1)
        assert f"{tmp_path}/mlflow.db is missing" in said

    @pytest.mark.parametrize("folder", ["docker/mlserve", OWN_SERVER])
    def test_server(self, pipeline, folder):
        """The same raw rows and answer as in tests/test_models.py; for this machine only, not as root, and it stops."""
        ports, doors = [pipeline.port, pipeline.metrics_port], [support.ask_invocations, support.ask_v2]
        if folder == OWN_SERVER:
            ports, doors = [pipeline.own_port], [support.ask_own_server]
        try:
            container = pipeline.up(folder, MODEL_URI=PASSENGERS_URI)
            for door in doors:
                check_answer_to_raw(door(f"http://127.0.0.1:{ports[0]}", RAW))
            assert requests.get(f"http://127.0.0.1:{ports[-1]}/metrics", timeout=60).ok
            assert published(container) == ({("127.0.0.1", port) for port in ports}, str(USER[0]))
            start = time.monotonic()
            pipeline.compose(folder, "stop")
            assert time.monotonic() - start < 10  # by itself, before Docker kills it
            assert ask("docker", "inspect", "--format", "{{.State.ExitCode}}", container)[1] == "0"
        finally:
            pipeline.compose(folder, "down", "--rmi", "local")


@pytest.mark.nightly
class TestTracking:
    pytestmark = needs_docker

    @pytest.fixture(scope="class")
    def tracking(self, containers, tmp_path_factory):
        """The tracking server with its database; two workers have made four trials, and a model was trained."""
        project = Containers(tmp_path_factory.mktemp("tracking"))
        compose = functools.partial(project.compose, TRACKING)
        try:
            compose("up", "--detach", "--build")
            assert compose("ps", "--quiet", "tuning-worker") == ""
            compose("up", "--detach", "--scale", "tuning-worker=2", N_TRIALS="4")
            workers = compose("ps", "--all", "--quiet", "tuning-worker").split()
            assert ask("docker", "wait", *workers)[1].split() == ["0", "0"]
            for step in ["model-training", "data-evaluation"]:
                compose("run", "--rm", "tuning-worker", step)
            mlflow.set_tracking_uri(f"http://127.0.0.1:{project.port}")
            yield project
        finally:
            mlflow.set_tracking_uri(None)
            compose("down", "--rmi", "local", "--volumes", "--remove-orphans")

    def test_workers_share_one_study(self, tracking):
        """Each worker is a run of its own; together they make four trials, or one more that both began."""
        searches = mlflow.search_runs(["0"], "tags.step = 'hyperparameters_tuning'", output_format="list")
        assert [search.info.status for search in searches] == ["FINISHED", "FINISHED"]
        assert len({search.data.tags["study"] for search in searches}) == 1
        filters = [f"tags.mlflow.parentRunId = '{search.info.run_id}'" for search in searches]
        trials = [trial for each in filters for trial in mlflow.search_runs(["0"], each, output_format="list")]
        assert len({tuple(sorted(trial.data.params.items())) for trial in trials}) == len(trials) in {4, 5}

    def test_closed_to_others(self, tracking):
        """The password is not written down; only this machine reaches the server, and none the database."""
        assert utils.champion_version(support.MODEL) == 1
        ids = [tracking.compose(TRACKING, "ps", "--quiet", name).strip() for name in ["tracking-server", "postgres"]]
        written = [str(run.to_dictionary()) for run in mlflow.search_runs(["0"], output_format="list")]
        assert PASSWORD not in " ".join([*written, ask("docker", "top", ids[0])[1], tracking.compose(TRACKING, "logs")])
        assert published(ids[0]) == ({("127.0.0.1", tracking.port)}, "1000") and published(ids[1])[0] == set()
        search = f"http://127.0.0.1:{tracking.port}/api/2.0/mlflow/experiments/search?max_results=1"
        for host, status in [("tracking-server:5000", 200), ("attacker.example", 403), ("tracking-server", 403)]:
            assert requests.get(search, headers={"Host": host}, timeout=10).status_code == status
