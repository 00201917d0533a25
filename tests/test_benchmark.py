"""The benchmark runs to its end, writes what the page reads and leaves no traces; its times are never looked at."""

import json
import math
import re
import sys

import pytest
from support import PIPELINE, ROOT, Project

import config
from benchmarks import benchmark, postgres

STEPS = {name.replace("-", "_") for name in PIPELINE}
COMMITTED = json.loads((ROOT / "benchmarks" / "results.json").read_text())


def labels(results):
    """What a run of the benchmark measures: of each table the columns, and of each row the values that are no figures."""
    tables = {}
    for key, table in results["tables"].items():
        rows = [[value for value in row.values() if isinstance(value, str)] for row in table["rows"]]
        tables[key] = [list(table["rows"][0]), *rows]
    return tables


def test_results_are_of_the_current_benchmark():
    """The committed figures cover every step, and results.md says the same as results.json."""
    assert {row["step"] for row in COMMITTED["tables"]["steps"]["rows"]} == STEPS
    assert COMMITTED["quick"] is False
    assert (ROOT / "benchmarks" / "results.md").read_text() == benchmark.markdown(COMMITTED)


def test_markdown_shows_figures_briefly():
    assert benchmark.as_text({"median": 1.2345, "lowest": 1.1, "highest": 123.4}) == "1.23 (1.1 to 123)"
    assert benchmark.as_text({"median": 1.0, "lowest": 1.0, "highest": 1.0}) == "1"
    assert benchmark.as_text(None) == ""


def test_ratios_are_those_of_neighbours():
    assert benchmark.ratios([2, 8], [1, 2, 100]) == {"median": 3, "lowest": 2, "highest": 4}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a quick run of the benchmark left in the user's folder, and its results."""
    project, out = Project(tmp_path_factory.mktemp("benchmark")), tmp_path_factory.mktemp("results")
    project.run("git", "init", "--quiet")  # git tells which files belong to the project
    before = set(project.folder.rglob("*"))
    result = project.run(sys.executable, "-m", "benchmarks.benchmark", "--quick", "--out", str(out))
    assert result.returncode == 0, result.stdout + result.stderr
    made = {path for path in set(project.folder.rglob("*")) - before if "__pycache__" not in path.parts}
    return made, json.loads((out / "results.json").read_text()), (out / "results.md").read_text()


@pytest.mark.nightly
class TestQuickRun:
    """That the floors compute what the steps do, and the servers answer as the model, the benchmark itself checks."""

    def test_same_tables_as_the_committed_ones(self, quick):
        _, results, _ = quick
        expected = labels(COMMITTED)
        if not postgres.find_programs():
            expected["workers"] = [row for row in expected["workers"] if row != ["PostgreSQL"]]
        assert labels(results) == expected
        assert results["quick"] is True
        requirements = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
        assert results["versions"]["mlflow"] == requirements["mlflow"]

    def test_figures(self, quick):
        _, results, _ = quick
        for table in results["tables"].values():
            for row in table["rows"]:
                for value in row.values():
                    if isinstance(value, dict):
                        assert 0 < value["lowest"] <= value["median"] <= value["highest"] < math.inf
                    elif isinstance(value, int | float):
                        assert 0 < value < math.inf
        first = {"tracking": ["ratio"], "serving": ["ratio"], "workers": ["ratio", "ratio_to_journal"]}
        for key, columns in first.items():  # what all others are compared with
            row = results["tables"][key]["rows"][0]
            assert [row[column]["median"] for column in columns] == [1] * len(columns)

    def test_results_md(self, quick):
        _, results, text = quick
        assert "--quick" in text
        assert text == benchmark.markdown(results)

    def test_nothing_of_the_user_is_touched(self, quick):
        assert quick[0] == set()


@pytest.mark.nightly
def test_steps_on_more_rows(tmp_path, empty_project):
    """More rows than go into one request: each step works, and is in the results."""
    empty_project.run("git", "init", "--quiet")  # git tells which files belong to the project
    rows = 4 * config.BATCH_ROWS
    command = ["-m", "benchmarks.rows", "--sizes", str(rows), "--out", str(tmp_path / "results")]
    result = empty_project.run(sys.executable, *command)
    assert result.returncode == 0, result.stdout + result.stderr
    results = json.loads((tmp_path / "results" / "rows.json").read_text())
    committed = json.loads((ROOT / "benchmarks" / "rows.json").read_text())
    assert list(results) == list(committed)
    names = [cost["step"] for cost in results["costs"]]
    assert names == list(dict.fromkeys(cost["step"] for cost in committed["costs"]))
    assert set(names) > STEPS
    for cost in results["costs"]:
        assert cost["rows"] == rows
        assert cost["seconds"] > 0
        assert cost["peak_mib"] > 100  # no process with pandas is smaller: it was looked at, with its children
