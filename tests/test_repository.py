"""What must agree with what: scripts with the notebook, MLproject with the scripts, versions with each other."""

import ast
import collections
import json
import re
import subprocess

import jupytext
import pandas as pd
import pytest
import yaml
from support import ROOT

from benchmarks import tuning
from notebook_tools.extract import find_settings
from notebook_tools.run import chapters

MLPROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
ENTRY_POINTS = MLPROJECT["entry_points"]


def test_every_step_has_an_entry_point():
    """Each script but the code of the models."""
    scripts = {re.search(r"python -m steps\.(\w+) ", entry["command"])[1] for entry in ENTRY_POINTS.values()}
    assert scripts == set(find_settings(ROOT)["scripts"]) - {"model_code", "custom_model"}


def our_code():
    """The Python files of the project, without the tests."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", ":!tests"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return listed.stdout.split()


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["ruff", "format", "--check", "--line-length=100", "modeling.py", *chapters()],
        ["bandit", "--quiet", "--configfile", "pyproject.toml", *our_code()],  # for security
    ],
    ids=["check", "format", "format of notebooks", "bandit"],
)
def test_linter(command):
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.nightly
@pytest.mark.parametrize("constraints", ["constraints.txt", "docker/mlserve/constraints.txt"])
def test_no_package_with_a_known_vulnerability(constraints):
    command = ["pip-audit", "--disable-pip", "--no-deps", "--format=json", "--progress-spinner=off", "--timeout=10"]
    result = subprocess.run([*command, "-r", ROOT / constraints], capture_output=True, text=True)
    packages = json.loads(result.stdout)["dependencies"] if result.stdout else []
    if not [package for package in packages if "skip_reason" not in package]:
        pytest.skip(f"pip-audit cannot reach its database: {result.stderr.strip()[-200:]}")
    assert {package["name"]: package["vulns"] for package in packages if package.get("vulns")} == {}


def test_no_code_reads_pickles():
    """Nothing of ours names a module that does, and each program of ours forbids MLflow to."""
    for name in our_code():
        tree = ast.parse((ROOT / name).read_text())
        words = {getattr(node, "id", getattr(node, "attr", "")) for node in ast.walk(tree)}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                words |= {alias.name for alias in node.names} | {getattr(node, "module", "")}
        assert not words & {"pickle", "cloudpickle", "joblib", "dill", "read_pickle", "to_pickle", "allow_pickle"}, name
    for name in find_settings(ROOT)["scripts"]:
        text = (ROOT / "steps" / f"{name}.py").read_text()
        assert "\nimport utils\n" in text or name.endswith(("model_code", "custom_model"))  # that forbids it


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
    assert {line for line in mlserver - project if not line.startswith(("mlserver", "gevent"))} == set()
    assert {line.split("==")[0] for line in mlserver & project} >= {
        "mlflow", "xgboost", "xgboost-cpu", "scikit-learn", "pandas", "numpy", "loguru"
    }  # fmt: skip
    pinned = re.findall(r"^([\w-]+==[\w.]+)", (folder / "constraints.txt").read_text(), re.MULTILINE)
    assert {line.split(";")[0].strip() for line in mlserver} <= set(pinned)


def test_what_the_page_says_of_other_splits():
    """The figures of the 20 splits, which no test makes anew, are those of the file."""
    splits = pd.read_json(ROOT / "benchmarks" / "tuning.json")
    assert splits.seed.tolist() == list(range(*tuning.SEEDS)) + tuning.SEEDS[1:]
    better, simple = (splits.tuned < splits.defaults).sum(), (splits.logistic < splits.tuned).sum()
    notebooks = "".join((ROOT / name).read_text() for name in ["modeling.py", *chapters()])
    (said,) = [cell for cell in notebooks.split("\n# %%") if "other splits" in cell]
    assert re.search(
        rf"\b{len(splits)} other\W.*defaults\W.*\b{better}\b.*logistic\W+regression.*\b{simple}\b", said, re.DOTALL
    )


def test_no_hidden_cell_moves_an_alias():
    """Whatever becomes the champion does so where a reader sees it."""
    calls = []
    for notebook in ["modeling.py", *chapters()]:
        for cell in jupytext.read(ROOT / notebook).cells:
            if cell.cell_type == "code" and "remove-input" in cell.metadata.get("tags", []):
                names = [node.attr for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Attribute)]
                calls += [name for name in names if name.endswith("registered_model_alias")]
    assert calls == []
