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

ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


def test_every_step_has_an_entry_point():
    """Each script but the code of the models."""
    scripts = {re.search(r"python -m steps\.(\w+) ", entry["command"])[1] for entry in ENTRY_POINTS.values()}
    assert scripts == set(find_settings(ROOT)["scripts"]) - {"model_code", "custom_model"}


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_parameters_are_declared_once(entry_point):
    """The command passes each parameter on, the script takes them all, and the notebook has the same defaults."""
    declared = ENTRY_POINTS[entry_point]["parameters"]
    assert all(parameter["description"] for parameter in declared.values())
    script = "pipeline" if entry_point == "main" else entry_point.replace("-", "_")
    words = [f"--{name} {{{name}}}" for name in declared]
    assert ENTRY_POINTS[entry_point]["command"].split() == f"python -m steps.{script} {' '.join(words)}".split()
    statements = ast.parse((ROOT / "steps" / f"{script}.py").read_text()).body
    (read,) = [node for node in statements if isinstance(node, ast.Assign) and "cli.arguments" in ast.unparse(node)]
    assert [argument.value for argument in read.value.args] == [entry_point, *declared]
    targets = ast.unparse(read.targets[0]).strip("()").split(", ")
    assert targets == [{"name": "data_name"}.get(name, name.replace("-", "_")) for name in declared]
    if entry_point != "main":  # of these, the cells of the steps have set each
        cell = statements[statements.index(read) - 1]
        values, names = ast.literal_eval(cell.value), ast.unparse(cell.targets[0]).strip("()").split(", ")
        shown = dict(zip(names, values if isinstance(values, tuple) else (values,), strict=True))
        defaults = {target: d["default"] or None for target, d in zip(targets, declared.values(), strict=True)}
        assert {name: value or None for name, value in shown.items()}.items() <= defaults.items()


def test_same_parameter_same_declaration():
    """A parameter of `main` that a step has too is the same there."""
    steps = ENTRY_POINTS["data-preprocessing"]["parameters"] | ENTRY_POINTS["hyperparameters-tuning"]["parameters"]
    for name, declared in ENTRY_POINTS["main"]["parameters"].items():
        assert (declared["type"], declared["default"]) == (steps[name]["type"], steps[name]["default"])


def our_code():
    """The Python files of the project, without the tests."""
    command = ["git", "ls-files", "*.py", ":!tests"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


LINTERS = {
    "ruff": "ruff check",
    "format": "ruff format --check",
    "format of notebooks": f"ruff format --check --line-length=100 modeling.py {' '.join(chapters())}",
    "security": f"bandit --quiet --configfile pyproject.toml {' '.join(our_code())}",
}


@pytest.mark.parametrize("command", LINTERS.values(), ids=LINTERS)
def test_linter(command):
    result = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


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


def pinned(path):
    """The packages of a file that have a version, each with it."""
    return set(re.findall(r"^([\w-]+(?:\[\w+\])?==[\w.]+)", (ROOT / path).read_text(), re.MULTILINE))


def test_one_list_of_versions():
    """What is required has a version, which the constraints have too; MLServer's environment has the same ones."""
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    assert conda["dependencies"][-1] == {"pip": ["-r requirements.txt"]}
    project, mlserver = pinned("requirements.txt"), pinned("docker/mlserve/requirements.txt")
    assert len(re.findall(r"^\w", (ROOT / "requirements.txt").read_text(), re.MULTILINE)) == len(project)
    assert {re.sub(r"\[\w+\]", "", line) for line in project} <= pinned("constraints.txt")
    assert mlserver <= pinned("docker/mlserve/constraints.txt")
    assert {line.split("==")[0] for line in mlserver - project} <= {"mlserver", "mlserver-mlflow", "gevent"}
    names = {"mlflow", "xgboost", "scikit-learn", "pandas", "numpy", "loguru"}
    assert names <= {line.split("==")[0] for line in mlserver & project}


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
    cells = [cell for name in ["modeling.py", *chapters()] for cell in jupytext.read(ROOT / name).cells]
    hidden = [cell for cell in cells if cell.cell_type == "code" and "remove-input" in cell.metadata.get("tags", [])]
    nodes = [node for cell in hidden for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Attribute)]
    assert nodes and not [node.attr for node in nodes if node.attr.endswith("registered_model_alias")]
