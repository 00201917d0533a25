"""The two images, built and used as a user would: the pipeline runs in one, the other serves its model.

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
import yaml
from support import (
    BOOSTER_MODEL,
    MODEL,
    PASSENGERS_URI,
    PIPELINE,
    RAW,
    ROOT,
    Project,
    ask_invocations,
    ask_own_server,
    ask_v2,
    check_answer_to_raw,
    passengers,
    v2_request,
)

import config
import servers
import utils

# The folder of each image, with the name of its service in docker-compose.yml.
IMAGES = {"mlproject_docker": "mlproject", "docker/mlserve": "mlserver"}
TRACKING, OWN_SERVER = "docker/tracking", "docker/server"  # these use the first image
STEPS = {"pipeline", *PIPELINE}
CHAMPION_URI = f"models:/{MODEL}@{config.CHAMPION}"
PASSWORD = "p:w@d/%1"  # must not end up in an address, where it would need quoting
# The files in the project must belong to the user who starts the containers; for root we take somebody else.
USER = (os.getuid(), os.getgid()) if hasattr(os, "getuid") and os.getuid() else (1234, 1234)


def ask(*command):
    """Run a command of Docker and return what it says, with its exit code."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return result.returncode, (result.stdout + result.stderr).strip()


if shutil.which("docker") and ask("docker", "compose", "version")[0] == 0:
    COMPOSE = ["docker", "compose"]
else:
    COMPOSE = ["docker-compose"]


def missing():
    """Say what is missing to try the images; empty where nothing is."""
    if not shutil.which("docker"):
        return "Docker is not installed"
    code, said = ask("docker", "version", "--format", "{{.Server.Version}}")
    if code:
        return f"Docker's daemon cannot be reached: {said.splitlines()[-1]}"
    return "" if shutil.which(COMPOSE[0]) else "Docker Compose is not installed"


MISSING = missing()
needs_docker = [pytest.mark.slow, pytest.mark.docker, pytest.mark.skipif(MISSING != "", reason=MISSING)]


class Containers(Project):
    """A copy of the project in which Compose is used. What a user has built or started elsewhere stays as it is."""

    def __init__(self, folder):
        super().__init__(folder)
        self.port, self.metrics_port, self.own_port = [servers.free_port() for _ in range(3)]

    def compose(self, folder, *words, **variables):
        """Run Compose with the file of one folder."""
        if USER[0] != os.getuid():
            for path in [self.folder, *self.folder.rglob("*")]:
                os.chown(path, *USER)
        return self.run(
            *COMPOSE, "--project-name", self.name(folder), "--file", f"{folder}/docker-compose.yml", *words,
            PWD=str(self.folder), HOST_USER=f"{USER[0]}:{USER[1]}",
            MLSERVE_PORT=str(self.port), MLSERVE_METRICS_PORT=str(self.metrics_port), TRACKING_PORT=str(self.port),
            SERVE_PORT=str(self.own_port),
            **variables,
        )  # fmt: skip

    def serve(self, folder, *words, **variables):
        """Start the server of one folder and wait until it is healthy; give its container."""
        result = self.compose(folder, "up", "--detach", *words, **variables)
        assert result.returncode == 0, result.stdout + result.stderr
        container = self.container(folder)
        deadline = time.monotonic() + 180
        while (status := ask("docker", "inspect", "--format", "{{.State.Health.Status}}", container)[1]) != "healthy":
            assert status == "starting" and time.monotonic() < deadline, ask("docker", "logs", container)[1][-5000:]
            time.sleep(1)
        return container

    def name(self, folder):
        return f"test{os.getpid()}{IMAGES.get(folder, Path(folder).name)}"

    def image(self, folder):
        """Tell the image's name: it joins two names, older versions of Compose with `_`, newer ones with `-`."""
        names = ask("docker", "images", "--format", "{{.Repository}}")[1].splitlines()
        return next(name for name in names if re.fullmatch(f"{self.name(folder)}[_-]{IMAGES[folder]}", name))

    def layers(self, folder):
        return ask("docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", self.image(folder))[1].split(
            ","
        )

    def container(self, folder, *service):
        return self.compose(folder, "ps", "--quiet", *service, POSTGRES_PASSWORD=PASSWORD).stdout.strip()


@pytest.fixture(scope="module")
def containers(tmp_path_factory):
    """A copy of the project in which both images are built."""
    project = Containers(tmp_path_factory.mktemp("containers"))
    try:
        for folder in IMAGES:
            result = project.compose(folder, "build")
            assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        yield project
    finally:
        for folder in IMAGES:
            project.compose(folder, "down", "--rmi", "all", "--volumes", "--remove-orphans")


@pytest.fixture(scope="module")
def pipeline(containers):
    """The same project, after the pipeline has run in a container."""
    containers.result = containers.compose("mlproject_docker", "run", "--rm", "mlproject", "main", "-Pn-trials=2")
    assert containers.result.returncode == 0, containers.result.stdout + containers.result.stderr
    paths = [containers.folder / "mlflow.db", *(containers.folder / "mlruns").rglob("*")]
    containers.owners = {(path.stat().st_uid, path.stat().st_gid) for path in paths}
    return containers


def ask_champion():
    """Load the champion from the current store and the test set that belongs to it: the rows, and its answers."""
    model = mlflow.pyfunc.load_model(CHAMPION_URI)
    data_run_id = mlflow.get_run(model.metadata.run_id).data.tags["data_run_id"]
    rows = utils.load_dataset(mlflow.get_run(data_run_id), "test").drop(columns="target")
    return rows, model.predict(rows)


@pytest.fixture(scope="module")
def champion(pipeline):
    """The model that the container made, loaded on the host, with rows of the test set and its answers."""
    mlflow.set_tracking_uri(f"sqlite:///{pipeline.folder}/mlflow.db")
    try:
        return ask_champion()
    finally:
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def server(pipeline, champion):
    """The project with the server up; its address on the host is `url`."""
    pipeline.url = f"http://127.0.0.1:{pipeline.port}"
    try:
        pipeline.serve("docker/mlserve")
        yield pipeline
    finally:
        pipeline.compose("docker/mlserve", "down")


@pytest.fixture(scope="module")
def ship(containers, tmp_path_factory):
    """The containers' doors to the champion of another project, a model of the passengers: a dict as in test_models."""
    project = Containers(tmp_path_factory.mktemp("ship"))
    passengers().to_csv(project.folder / "passengers.csv", index=False)
    data = ["-Pdataset=passengers.csv", "-Ptarget=survived"]
    for step in [["data-preprocessing", *data], ["hyperparameters-tuning", "-Pn-trials=2"], ["model-training"]]:
        result = project.compose("mlproject_docker", "run", "--rm", "mlproject", *step)
        assert result.returncode == 0, result.stdout + result.stderr
    project.client.set_registered_model_alias("passengersModel", config.CHAMPION, "1")
    mlserver_url, own_url = [f"http://127.0.0.1:{port}" for port in [project.port, project.own_port]]
    mlflow.set_tracking_uri(project.uri)
    try:
        for folder in ["docker/mlserve", OWN_SERVER]:
            project.serve(folder, MODEL_URI=PASSENGERS_URI)
        yield {
            "MLServer": functools.partial(ask_invocations, mlserver_url),
            "MLServer, V2": functools.partial(ask_v2, mlserver_url),
            "own server": functools.partial(ask_own_server, own_url),
        }
    finally:
        mlflow.set_tracking_uri(None)
        project.compose("docker/mlserve", "down")
        project.compose(OWN_SERVER, "down", "--rmi", "all")


@pytest.mark.parametrize("folder", [*IMAGES, TRACKING, OWN_SERVER])
def test_files_are_plain(folder):
    compose = yaml.safe_load((ROOT / folder / "docker-compose.yml").read_text())
    assert set(compose) <= {"services", "volumes", "x-step"}  # what both the old and the new Compose take
    for service in compose["services"].values():
        assert all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port) for port in service.get("ports", []))
    if folder not in IMAGES:
        return
    dockerfile = (ROOT / folder / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)", dockerfile, re.MULTILINE) == ["python:3.11-slim"]
    assert "--mount" not in dockerfile and "# syntax" not in dockerfile


class TestImages:
    pytestmark = needs_docker

    @pytest.mark.parametrize("folder", IMAGES)
    def test_is_small_and_holds_no_secret(self, containers, folder):
        image = containers.image(folder)
        assert int(ask("docker", "image", "inspect", "--format", "{{.Size}}", image)[1]) < 1.7e9
        history = ask("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)[1]
        settings = ask("docker", "image", "inspect", "--format", "{{json .Config.Env}}", image)[1]
        assert "pip install" in history and "PATH" in settings
        assert not re.search(r"(?i)password|passwd|secret|token|api_?key|credential|://[^/\s]*@", history + settings)
        packages = ask("docker", "run", "--rm", "--network=none", "--entrypoint=pip", image, "list")[1]
        assert "xgboost-cpu" in packages
        assert not re.search(r"(?i)nvidia|cuda|nccl", packages)

    @pytest.mark.parametrize("folder", IMAGES)
    def test_is_not_root_and_cannot_change_itself(self, containers, folder):
        compiled = "python -c 'import mlflow, os; print(os.path.exists(mlflow.__cached__))'"
        command = f"id -u; test -w . && echo writable || echo fixed; {compiled}; ls -A"
        code, said = ask("docker", "run", "--rm", "--entrypoint=sh", containers.image(folder), "-c", command)
        assert code == 0, said
        user, state, is_compiled, *files = said.splitlines()
        assert (user, state, is_compiled) == ("1000", "fixed", "True")
        if folder == "mlproject_docker":
            code = {path.name for path in ROOT.glob("*.py")} - {"modeling.py"}
            assert set(files) == code | {"steps", "MLproject", "conda.yaml", "requirements.txt", "constraints.txt"}
        else:
            assert files == ["model-settings.json"]

    @pytest.mark.parametrize(
        "folder, file", [("mlproject_docker", "utils.py"), ("docker/mlserve", "model-settings.json")]
    )
    def test_a_change_of_code_does_not_install_the_packages_again(self, containers, folder, file):
        before = containers.layers(folder)
        path = containers.folder / ("" if folder == "mlproject_docker" else folder) / file
        text = path.read_text()
        path.write_text(text + "\n")
        start = time.monotonic()
        assert containers.compose(folder, "build").returncode == 0
        seconds = time.monotonic() - start
        after = containers.layers(folder)
        changed = ask("docker", "images", "--quiet", containers.image(folder))[1]
        path.write_text(text)
        assert containers.compose(folder, "build").returncode == 0
        ask("docker", "rmi", changed)
        assert 1 <= len(set(before) - set(after)) <= 3  # the copies, and the layer of their permissions
        assert seconds < 60


class TestPipeline:
    pytestmark = needs_docker

    def test_runs_are_in_the_store_of_the_host(self, pipeline):
        steps = [run.data.tags["step"] for run in pipeline.runs() if "step" in run.data.tags]
        assert sorted(steps) == sorted(step.replace("-", "_") for step in STEPS)
        assert pipeline.runs(status="FAILED") == []
        (search,) = pipeline.runs("tags.step = 'hyperparameters_tuning'")
        assert len(pipeline.runs(f"tags.mlflow.parentRunId = '{search.info.run_id}'")) == 2
        registry = pipeline.registry()
        assert registry[MODEL] == ([1], {config.CHAMPION: 1})
        assert registry[BOOSTER_MODEL] == ([1], {})

    def test_files_belong_to_the_user(self, pipeline):
        assert pipeline.owners == {USER}

    def test_model_loads_on_the_host(self, champion):
        rows, answers = champion
        assert len(answers) == len(rows) > 100
        assert set(answers["prediction"]) == {"benign", "malignant"}

    def test_nothing_is_left_behind(self, pipeline):
        name = pipeline.name("mlproject_docker")
        assert ask("docker", "ps", "--all", "--quiet", "--filter", f"name={name}") == (0, "")
        assert ask("docker", "network", "ls", "--quiet", "--filter", f"name={name}") == (0, "")

    def test_one_step(self, pipeline):
        before = len(pipeline.runs("tags.step = 'data_preprocessing'"))
        words = ["run", "--rm", "mlproject", "data-preprocessing", "-P", "test-size=0.4"]
        result = pipeline.compose("mlproject_docker", *words)
        assert result.returncode == 0, result.stderr
        runs = pipeline.runs("tags.step = 'data_preprocessing'")
        assert len(runs) == before + 1
        assert runs[0].data.params["test_size"] == "0.4"

    def test_a_failing_step_fails_the_command(self, pipeline):
        result = pipeline.compose("mlproject_docker", "run", "--rm", "mlproject", "data-preprocessing", "-Ptest-size=2")
        assert result.returncode == 1
        assert "test-size is 2" in result.stdout + result.stderr

    def test_without_a_folder_to_write_to(self, containers):
        code, said = ask("docker", "run", "--rm", containers.image("mlproject_docker"))
        assert (code, said) == (1, "User 1000 may not write to /opt/mlproject: set HOST_USER, see docker-compose.yml")


class TestServer:
    pytestmark = needs_docker

    def test_without_a_store(self, containers, tmp_path):
        result = Containers(tmp_path).compose("docker/mlserve", "run", "--rm", "mlserver")
        assert result.returncode == 1
        assert f"{tmp_path}/mlflow.db is missing" in result.stdout + result.stderr

    def test_answers_as_the_model_does(self, server, champion):
        rows, answers = champion
        response = requests.post(f"{server.url}/invocations", json=utils.as_request(rows), timeout=60)
        assert response.json()["predictions"] == answers.to_dict("records")

    def test_answers_in_the_v2_protocol(self, server, champion):
        rows, answers = champion
        url = f"{server.url}/v2/models/cancer-model/infer"
        outputs = requests.post(url, json=v2_request(rows), timeout=60).json()["outputs"]
        assert {output["name"]: output["data"] for output in outputs} == answers.to_dict("list")

    def test_metrics(self, server):
        assert "python_info" in requests.get(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=60).text

    def test_only_this_machine_reaches_it_and_it_is_not_root(self, server):
        container = server.container("docker/mlserve")
        ports = yaml.safe_load(ask("docker", "inspect", "--format", "{{json .NetworkSettings.Ports}}", container)[1])
        published = {(port, at["HostIp"], int(at["HostPort"])) for port in ports for at in ports[port] or []}
        assert published == {("8080/tcp", "127.0.0.1", server.port), ("8082/tcp", "127.0.0.1", server.metrics_port)}
        assert ask("docker", "exec", container, "id", "-u") == (0, str(USER[0]))

    def test_stops(self, server):
        container = server.container("docker/mlserve")
        start = time.monotonic()
        assert server.compose("docker/mlserve", "stop").returncode == 0
        assert time.monotonic() - start < 10  # by itself, before Docker kills it
        assert ask("docker", "inspect", "--format", "{{.State.Status}}", container)[1] == "exited"
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{server.url}/v2/health/ready", timeout=5)


class TestOwnServer:
    pytestmark = needs_docker

    def test_answers_with_the_version_and_stops(self, pipeline, champion):
        """In the image of the steps, as another user than root, seen from this machine only."""
        rows, answers = champion
        try:
            container = pipeline.serve(OWN_SERVER, "--build")
            records = rows.astype(object).where(rows.notna(), None).to_dict("records")
            url = f"http://127.0.0.1:{pipeline.own_port}/invocations"
            answer = requests.post(url, json={"dataframe_records": records}, timeout=60).json()
            assert answer["predictions"] == answers["prediction"].tolist()
            assert answer["version"] == pipeline.registry()[MODEL][1][config.CHAMPION]
            ports = ask("docker", "inspect", "--format", "{{json .NetworkSettings.Ports}}", container)[1]
            published = [(at["HostIp"], int(at["HostPort"])) for at in yaml.safe_load(ports)["8000/tcp"]]
            assert published == [("127.0.0.1", pipeline.own_port)]
            assert ask("docker", "exec", container, "id", "-u") == (0, str(USER[0]))
            start = time.monotonic()
            assert pipeline.compose(OWN_SERVER, "stop").returncode == 0
            assert time.monotonic() - start < 10  # by itself, before Docker kills it
            assert ask("docker", "inspect", "--format", "{{.State.ExitCode}}", container)[1] == "0"
        finally:
            pipeline.compose(OWN_SERVER, "down", "--rmi", "all")


class TestDoors:
    pytestmark = needs_docker

    @pytest.mark.parametrize("door", ["MLServer", "MLServer, V2", "own server"])
    def test_every_door_gives_one_answer(self, ship, door):
        """The same raw rows and answer as in tests/test_models.py, of another model than that of the compose files."""
        check_answer_to_raw(ship[door](RAW))


@pytest.fixture(scope="module")
def tracking(containers, tmp_path_factory):
    """The tracking server with its database; two workers have made four trials, and a model was trained."""
    project = Containers(tmp_path_factory.mktemp("tracking"))
    project.url = f"http://127.0.0.1:{project.port}"

    def compose(*words, **variables):
        result = project.compose(TRACKING, *words, POSTGRES_PASSWORD=PASSWORD, **variables)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout.split()

    project.up = compose
    try:
        compose("up", "--detach", "--build")
        project.workers_without_scale = compose("ps", "--quiet", "tuning-worker")
        compose("up", "--detach", "--scale", "tuning-worker=2", N_TRIALS="4")
        project.workers = compose("ps", "--all", "--quiet", "tuning-worker")
        project.codes = ask("docker", "wait", *project.workers)[1].split()
        for step in ["model-training", "data-evaluation"]:
            compose("run", "--rm", "tuning-worker", step)
        mlflow.set_tracking_uri(project.url)
        yield project
    finally:
        mlflow.set_tracking_uri(None)
        compose("down", "--rmi", "local", "--volumes", "--remove-orphans")


@pytest.mark.nightly
class TestTracking:
    pytestmark = needs_docker

    def test_without_a_password(self, containers):
        result = containers.compose(TRACKING, "up", "--detach")
        assert result.returncode != 0
        assert "choose a password for the database" in result.stderr

    def test_workers_share_one_study(self, tracking):
        """Each worker is a run of its own; together they make four trials, or one more that both began."""
        assert tracking.workers_without_scale == []
        assert (len(tracking.workers), tracking.codes) == (2, ["0", "0"])
        searches = mlflow.search_runs(["0"], "tags.step = 'hyperparameters_tuning'", output_format="list")
        assert [search.info.status for search in searches] == ["FINISHED", "FINISHED"]
        assert len({search.data.tags["study"] for search in searches}) == 1
        trials = [
            trial
            for search in searches
            for trial in mlflow.search_runs(
                ["0"], f"tags.mlflow.parentRunId = '{search.info.run_id}'", output_format="list"
            )
        ]
        assert len(trials) in {4, 5}
        assert len({tuple(sorted(trial.data.params.items())) for trial in trials}) == len(trials)
        query = "SELECT state, count(*) FROM trials GROUP BY state"
        psql = ["psql", "--username=mlflow", "--dbname=optuna", "--tuples-only", "--no-align", f"--command={query}"]
        assert ask("docker", "exec", tracking.container(TRACKING, "postgres"), *psql) == (0, f"COMPLETE|{len(trials)}")
        # the one that ended last has seen all trials, and the training takes the best of the study
        best = min(trial.data.metrics["logloss"] for trial in trials)
        assert min(search.data.metrics["logloss"] for search in searches) == pytest.approx(best)
        (training,) = mlflow.search_runs(["0"], "tags.step = 'model_training'", output_format="list")
        chosen = next(search for search in searches if search.info.run_id == training.data.tags["tuning_run_id"])
        assert chosen.data.metrics["logloss"] == pytest.approx(best)

    def test_champion_loads_here(self, tracking):
        rows, answers = ask_champion()
        assert len(answers) == len(rows) > 100
        assert set(answers["prediction"]) == {"benign", "malignant"}

    def test_the_password_is_not_written_down(self, tracking):
        for run in mlflow.search_runs(["0"], output_format="list"):
            assert PASSWORD not in str(run.to_dictionary())
        logs = tracking.compose(TRACKING, "logs", POSTGRES_PASSWORD=PASSWORD)
        assert PASSWORD not in logs.stdout + logs.stderr
        server = tracking.container(TRACKING, "tracking-server")
        assert PASSWORD not in ask("docker", "top", server)[1]

    def test_only_this_machine_reaches_it_and_it_is_not_root(self, tracking):
        published = {}
        for service in ["tracking-server", "postgres"]:
            container = tracking.container(TRACKING, service)
            ports = yaml.safe_load(
                ask("docker", "inspect", "--format", "{{json .NetworkSettings.Ports}}", container)[1]
            )
            published[service] = [(at["HostIp"], int(at["HostPort"])) for port in ports for at in ports[port] or []]
        assert published == {"tracking-server": [("127.0.0.1", tracking.port)], "postgres": []}
        container = tracking.container(TRACKING, "tracking-server")
        assert ask("docker", "exec", container, "id", "-u") == (0, "1000")

    def test_a_foreign_host_is_refused(self, tracking):
        address = f"{tracking.url}/api/2.0/mlflow/experiments/search"
        answers = {
            host: requests.post(address, json={"max_results": 1}, headers={"Host": host}, timeout=10).status_code
            for host in [f"127.0.0.1:{tracking.port}", "tracking-server:5000", "attacker.example", "tracking-server"]
        }
        assert list(answers.values()) == [200, 200, 403, 403], answers

    def test_what_is_stored_outlives_the_containers(self, tracking):
        before = ask_champion()
        tracking.up("down")
        tracking.up("up", "--detach")
        after = ask_champion()
        assert before[0].equals(after[0]) and before[1].equals(after[1])
        assert len(mlflow.search_runs(["0"], "tags.step = 'data_preprocessing'", output_format="list")) == 1
