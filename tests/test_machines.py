"""Other machines and other people's habits: proxies, odd folders, taken ports, moved environments, broken kernels."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
import requests
import yaml
from support import MODEL, ROOT, Project, refusal, succeed, tracking_server

import config
import servers
import utils

MAKE = ["make", "--silent", "-o", ".venv/installed", "-o", "docker/mlserve/.venv/installed"]
DEAD = "http://127.0.0.1:9"  # nothing listens on the port "discard"


@pytest.fixture(scope="module")
def web():
    """A server of this machine, which answers each request; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


# --- Proxies


@pytest.mark.parametrize(
    ("upper", "lower", "direct"),
    [
        (None, None, "127.0.0.1,localhost"),
        ("corp.example", None, "corp.example,127.0.0.1,localhost"),
        (None, "corp.example", "corp.example,127.0.0.1,localhost"),
        ("ignored.example", "localhost,corp.example", "localhost,corp.example,127.0.0.1"),
    ],
)
def test_no_proxy_is_completed(monkeypatch, web, upper, lower, direct):
    """What the user has set stays. Where both are set, programs take the one in small letters."""
    for name, value in {"NO_PROXY": upper, "no_proxy": lower}.items():
        monkeypatch.setenv(name, value or "")
    monkeypatch.setenv("HTTP_PROXY", DEAD)
    monkeypatch.setenv("http_proxy", DEAD)
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get(f"http://192.0.2.1:{web}/", timeout=5)
    for _ in range(2):
        utils.set_up()
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == direct
    for host in ["127.0.0.1", "localhost"]:
        assert requests.get(f"http://{host}:{web}/", timeout=5).ok


@pytest.mark.parametrize("file", ["mlserve/Dockerfile", "tracking/docker-compose.yml", "server/docker-compose.yml"])
def test_health_check_past_a_proxy(web, file):
    text = (ROOT / "docker" / file).read_text()
    if file.endswith(".yml"):
        services = yaml.safe_load(text)["services"]
        server = services.get("model-server") or services["tracking-server"]
        *start, code = server["healthcheck"]["test"][1:]
    else:
        *start, code = json.loads(re.search(r"HEALTHCHECK.*? CMD (.*)", text.replace("\\\n", ""))[1])
    assert start == ["python", "-c"]
    environment = os.environ | {"http_proxy": DEAD, "HTTP_PROXY": DEAD, "no_proxy": "", "NO_PROXY": ""}

    def check(port):
        command = [sys.executable, "-c", re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", code)]
        return subprocess.run(command, env=environment, capture_output=True).returncode

    assert check(web) == 0
    assert check(servers.free_port()) == 1


@pytest.mark.slow
def test_steps_past_a_proxy(trained, tmp_path):
    """Our own requests to a server on this machine, and MLflow's to a local tracking server."""
    proxy = {"HTTP_PROXY": DEAD, "http_proxy": DEAD, "NO_PROXY": "", "no_proxy": "corp.example"}
    project = trained.copy(tmp_path)
    succeed(project.step("serving_check", "--model-uri", f"models:/{MODEL}/1", **proxy))
    with tracking_server(f"sqlite:///{tmp_path}/server.db", tmp_path / "artifacts") as address:
        succeed(project.step("data_preprocessing", MLFLOW_TRACKING_URI=address, **proxy))


# --- Folders, and where a command is given


@pytest.mark.slow
def test_odd_folder(tmp_path):
    """MLflow makes an empty folder of the encoded name beside it; in an ASCII terminal, inside another repository, under a strict umask."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    folder = tmp_path / "it's 50% of Müller & Söhne, #1"
    folder.mkdir()
    project = Project(folder)
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    command = "umask 077; mlflow run . -e data-preprocessing --env-manager local; exit $?"
    succeed(project.run("sh", "-c", command, **ascii_only))
    succeed(project.step("data_preprocessing", **ascii_only))
    assert {unquote(path.name) for path in tmp_path.iterdir()} == {".git", folder.name}
    for run in project.runs("tags.step = 'data_preprocessing'"):
        assert (folder / "mlruns" / run.info.experiment_id / run.info.run_id / "artifacts/datasets/train.csv").exists()
    assert len(project.runs("tags.step = 'data_preprocessing'")) == 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
def test_clone_of_somebody_else(tmp_path):
    """Git does not look into it; MLflow then knows no commit. What needs git says so."""
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "clone"], check=True)
    project = Project(tmp_path / "clone")
    subprocess.run(["chown", "--recursive", "1234:1234", project.folder], check=True)
    succeed(project.mlflow_run("data-preprocessing"))
    line = refusal(project.run("python", "-m", "notebook_tools.readme"))
    assert line.startswith("error: git must say which files belong to the project. fatal: detected dubious ownership")


# --- make


@pytest.mark.parametrize(
    ("target", "port"),
    [("ui", "UI_PORT"), ("tracking-server", "TRACKING_PORT")]
    + [("mlserve", f"MLSERVE_{name}PORT") for name in ["", "GRPC_", "METRICS_"]],
)
def test_taken_port(tmp_path, web, target, port):
    free = [f"MLSERVE_{name}PORT={servers.free_port()}" for name in ["", "GRPC_", "METRICS_"]]
    shutil.copy(ROOT / "Makefile", tmp_path)
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    command = [*MAKE, target, *free, f"{port}={web}"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    line, made = result.stderr.splitlines()
    assert line == f"Port {web} is in use. Choose another one: make {target} {port}=..."
    assert made.endswith("Error 1")
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]


@pytest.mark.parametrize(("target", "place"), [("serve", "--model-uri "), ("mlserve", "MLSERVER_MODEL_URI=")])
def test_make_serves_what_is_named(target, place):
    for words, uri in [([], "models:/CancerModel@champion"), (["MODEL_URI=models:/My Model/3"], "models:/My Model/3")]:
        command = [*MAKE, "--dry-run", target, *words]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert f"{place}'{uri}' " in said


def test_moved_environment_is_made_anew(tmp_path):
    folder = tmp_path / "My Project"
    (folder / ".venv").mkdir(parents=True)
    for name in ["Makefile", "requirements.txt", "constraints.txt", "pyproject.toml"]:
        shutil.copy(ROOT / name, folder)
    (folder / ".venv" / "installed").write_text(f"{folder.resolve()}\n")

    def said(folder):
        command = ["make", "--dry-run", ".venv/installed"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout

    assert "up to date" in said(folder)
    moved = folder.rename(tmp_path / "It's (mine)")
    assert "-m venv --clear .venv" in said(moved)


def test_python_versions_agree():
    """What the Makefile takes is what the workflow tests, from the oldest to the newest."""
    first, beyond = re.search(
        r"\(3, (\d+)\) <= sys.version_info < \(3, (\d+)\)", (ROOT / "Makefile").read_text()
    ).groups()
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == [f"3.{first}", f"3.{int(beyond) - 1}"]
    assert "llvmlite==0.3" not in (ROOT / "constraints.txt").read_text()  # of 2021, for Intel Macs


@pytest.mark.slow
def test_python_safe_path(empty_project):
    """With it set, Python does not look into the current folder."""
    succeed(empty_project.run(*MAKE, "check-readme", PYTHONSAFEPATH="1"))


@pytest.mark.slow
@pytest.mark.nightly
def test_devcontainer(tmp_path):
    """Its command, in a clone, makes an environment that works; its ports are those of the servers."""
    settings = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert set(settings["portsAttributes"]) == {str(port) for port in settings["forwardPorts"]}
    shown = (ROOT / "README.md").read_text() + (ROOT / "Makefile").read_text()
    assert all(f"127.0.0.1:{port}" in shown for port in settings["forwardPorts"])
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path], check=True)
    project = Project(tmp_path)
    succeed(project.run("sh", "-c", settings["postCreateCommand"]))
    program = settings["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    program = program.replace("${containerWorkspaceFolder}", str(tmp_path))
    result = project.run(program, "-c", "import sys, mlflow; print(sys.prefix)")
    assert result.stdout == f"{tmp_path}/.venv\n"


# --- Other versions of Python


def found_python(version):
    """A Python of this version that starts: one on the PATH, or one of pyenv's."""
    programs = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for program in filter(None, programs):
        if subprocess.run([program, "--version"], capture_output=True).returncode == 0:
            return program
    pytest.skip(f"there is no Python {version} here")


def assert_walked_through(result, project, version):
    """`make walkthrough` has run the whole notebook with this version, and what it made can be used."""
    assert result.returncode == 0, result.stdout + result.stderr
    notebook = nbformat.read(project.folder / "modeling.ipynb", as_version=4)
    assert notebook.metadata.language_info.version.startswith(f"{version}.")
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert config.CHAMPION in project.registry()[MODEL][1]


@pytest.mark.slow
@pytest.mark.weekly
@pytest.mark.parametrize(
    "version", [pytest.param(version, marks=pytest.mark.xdist_group(version)) for version in ["3.12", "3.13"]]
)
def test_walkthrough_with_another_python(tmp_path, version):
    project = Project(tmp_path)
    result = project.run("make", "walkthrough", f"PYTHON={found_python(version)}")
    assert_walked_through(result, project, version)


@pytest.mark.slow
@pytest.mark.weekly
@pytest.mark.xdist_group("fresh machine")
def test_walkthrough_on_a_fresh_machine(tmp_path):
    """A Debian with nothing but the Python of today, make and git, as a user who is not root."""
    if not hasattr(os, "getuid") or os.getuid() != 0 or not shutil.which("debootstrap"):
        pytest.skip("only root can make a machine in a folder, with debootstrap")
    machine = tmp_path / "machine"
    packages = "--include=python3,python3-venv,make,git,ca-certificates"
    script = "/usr/share/debootstrap/scripts/sid"  # an older debootstrap does not know the suite
    command = ["debootstrap", "--variant=minbase", packages, "forky", machine, "", script]  # from Debian's own mirror
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr
    certificates = "etc/ssl/certs/ca-certificates.crt"
    shutil.copy(f"/{certificates}", machine / certificates)
    subprocess.run(["chroot", machine, "useradd", "--create-home", "reader"], check=True)
    (machine / "home/reader/project").mkdir()
    project = Project(machine / "home/reader/project")
    subprocess.run(["chroot", machine, "chown", "--recursive", "reader", "/home/reader"], check=True)
    # in name spaces of their own, the mounts and all processes end with the command
    mounts = [f"mount --rbind /{folder} {machine}/{folder}" for folder in ["dev", "sys"]]
    variables = (
        f"HOME=/home/reader LANG=C.UTF-8 PATH=/usr/bin:/bin SSL_CERT_FILE=/{certificates} PIP_CERT=/{certificates}"
    )
    inside = f"chroot --userspec=reader {machine} env -i {variables} make -C /home/reader/project walkthrough"
    steps = " && ".join([*mounts, f"mount -t proc proc {machine}/proc", inside])
    result = project.run("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", steps, cwd="/")
    (python,) = machine.glob("usr/bin/python3.*[0-9]")
    assert_walked_through(result, project, python.name.removeprefix("python"))


# --- Kernels that do not start, or die


KERNELS = {"is not there": ["/no/such/python"], "ends at once": ["false"], "dies": None}


@pytest.mark.slow
@pytest.mark.parametrize("argv", KERNELS.values(), ids=KERNELS)
def test_broken_kernel(empty_project, argv):
    """One line, and an older result stays."""
    folder, name = empty_project.folder, "python3"
    if argv:
        name = "broken"
        (folder / "kernels" / name).mkdir(parents=True)
        spec = {"argv": argv, "display_name": name, "language": "python"}
        (folder / "kernels" / name / "kernel.json").write_text(json.dumps(spec))
    kernel = f"# ---\n# jupyter:\n#   kernelspec:\n#     display_name: x\n#     language: python\n#     name: {name}\n# ---\n\n"
    (folder / "short.ipynb").write_text("{}")
    (folder / "short.py").write_text(kernel + "# %%\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)\n")
    os.utime(folder / "short.ipynb", (0, 0))
    result = empty_project.run("python", "-m", "notebook_tools.run", "short.py", JUPYTER_PATH=str(folder))
    line = refusal(result)
    assert line.startswith("error: the kernel of short.py does not start, or has died: ")
    assert argv is None or (folder / "short.ipynb").read_text() == "{}"
