"""The benchmark runs to its end, writes what the page reads and leaves no traces; its times are never looked at."""

import json
import math
import re
import sys
import threading
from types import SimpleNamespace

import pytest
from support import PIPELINE, ROOT, Project

import config
from benchmarks import benchmark, store_time

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
    assert {row["step"] for row in COMMITTED["tables"]["steps"]["rows"]} == set(benchmark.STEPS) == STEPS
    assert COMMITTED["quick"] is False
    assert (ROOT / "benchmarks" / "results.md").read_text() == benchmark.markdown(COMMITTED)


def test_markdown_shows_figures_briefly():
    assert benchmark.as_text({"median": 1.2345, "lowest": 1.1, "highest": 123.4}) == "1.23 (1.1 to 123)"
    assert benchmark.as_text({"median": 1.0, "lowest": 1.0, "highest": 1.0}) == "1"
    assert [benchmark.as_text(value) for value in [1234.5, 0.01234, 2, "two"]] == ["1230", "0.0123", "2", "two"]


def test_ratios_are_those_of_neighbours():
    assert benchmark.ratios([2, 8], [1, 2]) == {"median": 3, "lowest": 2, "highest": 4}


def test_time_in_the_store_counts_once(monkeypatch):
    """A call within a call, or beside it in another thread, adds nothing; one of the system metrics is not counted."""
    clock = SimpleNamespace(now=0)
    monkeypatch.setattr(store_time, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(store_time, "seconds", 0)

    @store_time.timed
    def call(seconds):
        clock.now += seconds

    def call_in_thread(name):
        thread = threading.Thread(target=call, args=[1], name=name)
        thread.start()
        thread.join()

    call(1)
    assert store_time.seconds == 1
    clock.now += 10  # between the calls
    store_time.timed(lambda: [call(1), call(2), call_in_thread("any")])()
    assert store_time.seconds == 1 + 4
    call_in_thread("SystemMetricsMonitor")
    assert store_time.seconds == 1 + 4
    with pytest.raises(ZeroDivisionError):
        store_time.timed(lambda: [call(1), 1 / 0])()
    call(1)
    assert store_time.seconds == 1 + 4 + 2


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
    """That all searches find the same trials, and all servers answer as the model, the benchmark itself checks."""

    def test_same_tables_as_the_committed_ones(self, quick):
        _, results, _ = quick
        assert labels(results) == labels(COMMITTED)
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
        for key in ["tracking", "workers", "serving"]:  # what all others are compared with is in the first row
            assert results["tables"][key]["rows"][0]["ratio"]["median"] == 1
        for row in results["tables"]["steps"]["rows"]:  # some time was spent in the store, and not all of it
            assert row["ratio"]["lowest"] > 1

    def test_results_md(self, quick):
        _, results, text = quick
        assert "--quick" in text
        assert text == benchmark.markdown(results)

    def test_nothing_of_the_user_is_touched(self, quick):
        assert quick[0] == set()


@pytest.mark.weekly
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
