"""The cells of README.md and SERVING.md can be taken home: what is visible needs nothing that is hidden."""

import builtins
import dis
import re
import subprocess
import sys

import mlflow
import nbformat
import pytest
from support import EXPERIMENT, MODEL, PAGE, ROOT, Project, succeed

import config
from notebook_tools import readme
from notebook_tools.extract import read_notebook
from notebook_tools.run import execute

CODE = [cell for cell in read_notebook(ROOT / "modeling.py").cells if cell.cell_type == "code"]


def has(cell, tag):
    return tag in cell.metadata.get("tags", [])


def names(source):
    """The names that a cell takes from earlier ones, and those that it defines."""
    taken, defined, codes = set(), set(), [compile(source, "cell", "exec")]
    for code in codes:  # functions come after the cell's own lines: they look names up when they are called
        codes += [part for part in code.co_consts if hasattr(part, "co_code")]
        for step in dis.get_instructions(code):
            if step.opname == "STORE_NAME" and code is codes[0]:
                defined.add(step.argval)
            elif step.opname in ("LOAD_NAME", "LOAD_GLOBAL") and step.argval not in defined | set(dir(builtins)):
                taken.add(step.argval)
    return taken, defined


def test_names():
    inside = "def f(p):\n    return p + g + b\nb = 1\nclass A(m.C):\n    def n(self):\n        return e\n"
    taken, defined = names(f"import a.b\nc = a.b + d\nx = x + 1\n{inside}for i in range(3):\n    print([j for j in k])")
    assert taken - {"__name__"} == set("dxgmek")
    assert defined == set("acxfbAi")


def test_few_cells_are_hidden():
    assert sum(has(cell, "remove-input") for cell in CODE) <= 15


def test_visible_cells_stand_alone():
    """Each name that a visible cell takes was last defined in a visible one, imports included."""
    visible, hidden = {"__name__"}, set()
    for cell in CODE:
        taken, defined = names(cell.source)
        if has(cell, "remove-input"):
            hidden |= defined
        else:
            assert taken <= visible, (taken - visible, cell.source)
            assert not taken & hidden, (taken & hidden, cell.source)
            visible |= defined
            hidden -= defined


def blocks(page):
    """The Python blocks of a page, each with the texts and tables that follow it before the next one."""
    page = re.sub(r"<!-- volatile.*?<!-- /volatile -->", "", page, flags=re.DOTALL)
    found = []
    for part in re.split(r"^```python\n", page, flags=re.MULTILINE)[1:]:
        source, rest = part.split("\n```\n", 1)
        shown = re.findall(r"^```text\n(.*?)\n```$|((?:^\|.*\n)+)", rest, re.DOTALL | re.MULTILINE)
        found.append((source, [text or table.strip() for text, table in shown]))
    return found


@pytest.mark.slow
def test_visible_cells_come_to_the_same(tmp_path, monkeypatch):
    """All Python on the page, top to bottom in a fresh kernel, with no hidden cell: what it prints is on the page."""
    for name in ["MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    project = Project(tmp_path)
    further = [readme.without_hidden(cell.source) for cell in CODE if has(cell, "environments")]
    page = [block for block in blocks(PAGE) if block[0] not in further]
    assert len(page) > 40
    # what these cells print is not shown on the page
    quiet = {readme.without_hidden(cell.source) for cell in CODE if has(cell, "remove-output") or has(cell, "volatile")}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source, _ in page])
    execute(notebook, project.folder)
    for cell, (source, shown) in zip(notebook.cells, page, strict=True):
        if any(part in source for part in quiet):
            cell.outputs = []
        alone = nbformat.v4.new_notebook(cells=[cell])
        for _, printed in blocks(readme.make_page(alone, project.folder)[0]):
            for text in printed:
                if text.startswith("<Figure "):  # of autologging: empty, and a hidden cell closes it
                    continue
                assert any(text in other for other in shown), (source, text, shown)
    assert project.registry()[MODEL][1] == {config.CHAMPION: 3}


@pytest.mark.slow
def test_first_run_in_an_empty_folder(tmp_path):
    """With nothing installed but what the page says."""
    (cell,) = [cell for cell in CODE if "Baseline" in cell.source and "cross_validate(" in cell.source]
    (tmp_path / "first.py").write_text(cell.source)
    environment = tmp_path / "environment"
    install = ["uv", "pip", "install", "--quiet", "--python", environment, "--constraint", ROOT / "constraints.txt"]
    for command in [
        ["uv", "venv", "--quiet", "--python", sys.executable, environment],
        [*install, "--constraint", ROOT / "requirements.txt", "mlflow", "xgboost", "scikit-learn"],
        [environment / "bin" / "python", "first.py"],
    ]:
        succeed(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    assert 0 < run.data.metrics["cv_logloss"] < 0.2
