"""Other machines and other people's habits: proxies, odd folders, taken ports, moved environments."""

import os
import re
import shutil
import socket
import subprocess
from urllib.parse import unquote

import pytest
import yaml
from support import ROOT, Project, refusal, succeed

import utils

MAKE = ["make", "--silent", "-o", ".venv/installed", "-o", "docker/mlserve/.venv/installed"]


@pytest.mark.parametrize(
    ("upper", "lower", "direct"),
    [
        ("", "", "127.0.0.1,localhost"),
        ("corp.example", "", "corp.example,127.0.0.1,localhost"),
        ("ignored.example", "localhost,corp.example", "localhost,corp.example,127.0.0.1"),
    ],
)
def test_no_proxy_is_completed(monkeypatch, upper, lower, direct):
    """What the user has set stays. Where both are set, programs take the one in small letters."""
    monkeypatch.setenv("NO_PROXY", upper)
    monkeypatch.setenv("no_proxy", lower)
    for _ in range(2):
        utils.set_up()
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == direct


# --- Folders, and where a command is given


@pytest.mark.slow
def test_odd_folder(tmp_path):
    """MLflow makes an empty folder of the encoded name beside it; in an ASCII terminal, inside another repository, under a strict umask."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    folder = tmp_path / "it's 50% of Müller & Söhne, #1"
    folder.mkdir()
    project = Project(folder)
    for command in ["mlflow run . -e data-preprocessing --env-manager local", "python -m steps.data_preprocessing"]:
        succeed(project.run("sh", "-c", f"umask 077; {command}", LC_ALL="C", PYTHONIOENCODING="ascii"))
    assert {unquote(path.name) for path in tmp_path.iterdir()} == {".git", folder.name}
    assert len(project.runs("tags.step = 'data_preprocessing'")) == 2
    assert len(list((folder / "mlruns").glob("*/*/artifacts/datasets/train.csv"))) == 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
def test_clone_of_somebody_else(tmp_path):
    """Git does not look into it: what needs git says so."""
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "clone"], check=True)
    project = Project(tmp_path / "clone")
    subprocess.run(["chown", "--recursive", "1234:1234", project.folder], check=True)
    line = refusal(project.run("python", "-m", "notebook_tools.readme"))
    assert line.startswith("error: git must say which files belong to the project. fatal: detected dubious ownership")


# --- make


@pytest.mark.parametrize("words", ["ui UI_PORT=", "tracking-server TRACKING_PORT=", "mlserve MLSERVE_PORT="])
def test_taken_port(tmp_path, words):
    shutil.copy(ROOT / "Makefile", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        target, *options = f"{words}{taken.getsockname()[1]}".split()
        result = subprocess.run([*MAKE, target, *options], cwd=tmp_path, capture_output=True, text=True)
    name, port = options[0].split("=")
    start = f"Port {port} is in use. Choose another one: make {target} {name}=...\n"
    assert result.stderr.startswith(start) and result.stderr.endswith("Error 1\n")
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]


@pytest.mark.parametrize(("target", "place"), [("serve", "--model-uri "), ("mlserve", "MLSERVER_MODEL_URI=")])
def test_make_serves_what_is_named(target, place):
    for words, uri in [([], "models:/CancerModel@champion"), (["MODEL_URI=models:/My Model/3"], "models:/My Model/3")]:
        command = [*MAKE, "--dry-run", target, *words]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert f"{place}'{uri}' " in said


def test_moved_environment_is_made_anew(tmp_path):
    project, command = Project(tmp_path), ["make", "--dry-run", ".venv/installed"]
    (tmp_path / ".venv").mkdir()
    for place, said in [(tmp_path.resolve(), "up to date"), ("/elsewhere/It's (mine)", "-m venv --clear .venv")]:
        (tmp_path / ".venv" / "installed").write_text(f"{place}\n")
        assert said in project.run(*command).stdout


def test_python_versions_agree():
    """What the Makefile takes is what the workflow tests, from the oldest to the newest."""
    pattern = r"\(3, (\d+)\) <= sys.version_info < \(3, (\d+)\)"
    first, beyond = re.search(pattern, (ROOT / "Makefile").read_text()).groups()
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == [f"3.{first}", f"3.{int(beyond) - 1}"]
    assert "llvmlite==0.3" not in (ROOT / "constraints.txt").read_text()  # of 2021, for Intel Macs


@pytest.mark.slow
def test_python_safe_path(empty_project):
    """With it set, Python does not look into the current folder."""
    succeed(empty_project.run(*MAKE, "check-readme", PYTHONSAFEPATH="1"))
