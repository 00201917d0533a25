"""What must agree with what: scripts with the notebook, MLproject with the scripts, versions with each other."""

import argparse
import ast
import collections
import json
import re
import runpy
import subprocess

import pytest
import yaml
from conftest import ROOT

import config
import utils
from notebook_tools.extract import extract

MLPROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
ENTRY_POINTS = MLPROJECT["entry_points"]


def test_scripts_are_what_the_notebook_says():
    assert extract(ROOT / "modeling.py", ROOT, check=True) == {}


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_linter(command):
    result = subprocess.run(["ruff", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_every_step_has_an_entry_point():
    scripts = {re.search(r"(\w+)\.py", entry["command"])[1] for entry in ENTRY_POINTS.values()}
    assert scripts == set(config.RUN_NAMES)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_mlproject_agrees_with_the_script(name, monkeypatch):
    class Stop(Exception):
        pass

    def stop(parser, *_):
        raise Stop(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    entry = ENTRY_POINTS[name]
    script = ROOT / re.search(r"\w+\.py", entry["command"])[0]
    with pytest.raises(Stop) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    actions = {
        action.option_strings[0].removeprefix("--"): action
        for action in stopped.value.args[0]._actions
        if action.dest != "help"
    }
    parameters = entry.get("parameters", {})
    assert set(actions) == set(parameters)
    for parameter, declared in parameters.items():
        action = actions[parameter]
        kinds = {float: "float", int: "int", None: "string", utils.optional_path: "path"}
        assert declared["type"] == kinds[action.type]
        assert declared["default"] == ("" if action.default is None else action.default)
        assert f"--{parameter} {{{parameter}}}" in entry["command"]


def our_code():
    """The Python files of the project, without the tests."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", ":!tests"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


def test_bandit():
    """A linter for security; pyproject.toml says which of its rules are off, and why."""
    command = ["bandit", "--quiet", "--configfile", "pyproject.toml", *our_code()]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("constraints", ["constraints.txt", "docker/mlserve/constraints.txt"])
def test_no_package_with_a_known_vulnerability(tmp_path, constraints):
    """Where the database cannot be reached, one package is enough to notice."""

    def audit(lines):
        (tmp_path / "audited.txt").write_text("\n".join(lines))
        command = ["pip-audit", "--disable-pip", "--no-deps", "--format=json", "--progress-spinner=off", "--timeout=10"]
        result = subprocess.run([*command, "-r", tmp_path / "audited.txt"], capture_output=True, text=True)
        if not result.stdout:
            pytest.skip(f"pip-audit: {result.stderr.strip().splitlines()[-1]}")
        return json.loads(result.stdout)["dependencies"]

    pinned = (ROOT / constraints).read_text().splitlines()
    first = audit([line for line in pinned if line.startswith("requests==")])[0]
    if "skip_reason" in first:
        pytest.skip(f"pip-audit: {first['skip_reason']}")
    found = {package["name"]: package["vulns"] for package in audit(pinned) if package.get("vulns")}
    assert found == {}


def test_no_code_reads_pickles():
    """Nothing of ours names a module that does, and each program of ours forbids MLflow to."""
    for name in our_code():
        tree = ast.parse((ROOT / name).read_text())
        words = {getattr(node, "id", getattr(node, "attr", "")) for node in ast.walk(tree)}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                words |= {alias.name for alias in node.names} | {getattr(node, "module", "")}
        assert not words & {"pickle", "cloudpickle", "joblib", "dill", "read_pickle", "to_pickle", "allow_pickle"}, name
    for name in [f"{step}.py" for step in config.RUN_NAMES]:
        assert "\nimport config\n" in (ROOT / name).read_text()  # which forbids it


def test_everything_listens_on_this_machine_only():
    """Each command of ours that starts a server names 127.0.0.1; Compose is looked at in test_docker.py."""
    servers = {"mlflow models serve -", "mlflow server -", "mlflow ui -", "uvicorn benchmarks", "mlserver start"}
    # these listen there by default, or by docker/mlserve/settings.json
    silent = {"mlflow ui -", "uvicorn benchmarks", "mlserver start"}
    assert json.loads((ROOT / "docker/mlserve/settings.json").read_text())["host"] == "127.0.0.1"
    found = collections.Counter()
    for name in [*our_code(), "Makefile"]:
        text = re.sub(r'",? *"', " ", (ROOT / name).read_text())  # lists of words too
        text = re.sub(r"\\\n\s*", "", text)
        for server in servers:
            for line in re.findall(rf"^[^#\n]*\b{server}.*$", text, re.MULTILINE):
                found[server] += 1
                assert "--host 127.0.0.1" in line or (server in silent and "--host" not in line), f"{name}: {line}"
        assert "0.0.0.0" not in text, name
    assert set(found) == servers, found


def test_one_list_of_versions():
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    assert conda["dependencies"][-1] == {"pip": ["-r requirements.txt"]}
    listed = re.findall(r"^([\w-]+)(?:\[\w+\])?(==[\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    wanted = [name + version for name, version in listed]
    pinned = re.findall(r"^([\w-]+==[\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert set(wanted) <= set(pinned)
    packages = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if re.match(r"\w", line)]
    assert len(packages) == len(wanted)  # each with its version


def test_mlserver_has_the_same_versions():
    folder = ROOT / "docker" / "mlserve"
    project, mlserver = (
        set(re.findall(r"^([\w-]+==[^#\n]+)", path.read_text(), re.MULTILINE))
        for path in (ROOT / "requirements.txt", folder / "requirements.txt")
    )
    assert {line for line in mlserver - project if not line.startswith("mlserver")} == set()
    assert {line.split("==")[0] for line in mlserver & project} >= {
        "mlflow", "xgboost", "xgboost-cpu", "scikit-learn", "pandas", "numpy", "loguru"
    }  # fmt: skip
    pinned = re.findall(r"^([\w-]+==[\w.]+)", (folder / "constraints.txt").read_text(), re.MULTILINE)
    assert {line.split(";")[0].strip() for line in mlserver} <= set(pinned)
