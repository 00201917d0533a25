"""What must agree with what: scripts with the notebook, MLproject with the scripts, versions with each other."""

import argparse
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
