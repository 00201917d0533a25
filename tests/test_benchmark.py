"""The benchmark runs to its end, writes what the page reads and leaves no traces; its times are never looked at."""

import json
import math
import sys
import threading
from types import SimpleNamespace

import pytest
from support import PIPELINE, ROOT

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


def test_figures_are_brief_and_ratios_those_of_neighbours():
    assert benchmark.as_text({"median": 1.2345, "lowest": 1.1, "highest": 123.4}) == "1.23 (1.1 to 123)"
    assert [benchmark.as_text(value) for value in [1234.5, 0.01234, 2, "two"]] == ["1230", "0.0123", "2", "two"]
    assert benchmark.ratios([2, 8], [1, 2]) == {"median": 3, "lowest": 2, "highest": 4}


def test_time_in_the_store_counts_once(monkeypatch):
    """A call within a call adds nothing, and one in another thread is not counted."""
    now = [0]
    monkeypatch.setattr(store_time, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(store_time, "seconds", 0)

    @store_time.timed
    def call(seconds):
        now[0] += seconds
        return seconds

    def call_in_thread():
        thread = threading.Thread(target=call, args=[5])
        thread.start()
        thread.join()

    with pytest.raises(ZeroDivisionError):
        store_time.timed(lambda: [call(1), call(2), 1 / 0])()
    assert store_time.seconds == 3
    now[0] += 10  # between the calls
    call_in_thread()
    assert call(1) == 1
    assert store_time.seconds == 4


@pytest.mark.nightly
def test_quick_run(empty_project, tmp_path_factory):
    """That all searches find the same trials, and all servers answer as the model, the benchmark itself checks."""
    out = tmp_path_factory.mktemp("results")
    empty_project.run("git", "init", "--quiet")  # git tells which files belong to the project
    before = set(empty_project.folder.rglob("*"))
    result = empty_project.run(sys.executable, "-m", "benchmarks.benchmark", "--quick", "--out", str(out))
    assert result.returncode == 0, result.stdout + result.stderr
    made = set(empty_project.folder.rglob("*")) - before
    assert [path for path in made if "__pycache__" not in path.parts] == []  # nothing of the user is touched
    results, text = json.loads((out / "results.json").read_text()), (out / "results.md").read_text()
    assert labels(results) == labels(COMMITTED)
    assert results["quick"] is True and "--quick" in text
    assert text == benchmark.markdown(results)
    figures = [value for table in results["tables"].values() for row in table["rows"] for value in row.values()]
    for value in figures:
        if isinstance(value, dict):
            assert 0 < value["lowest"] <= value["median"] <= value["highest"] < math.inf
    assert all(0 < value < math.inf for value in figures if isinstance(value, int | float))
    for key in ["tracking", "workers", "serving"]:  # what all others are compared with is in the first row
        assert results["tables"][key]["rows"][0]["ratio"]["median"] == 1
    for row in results["tables"]["steps"]["rows"]:  # some time was spent in the store, and not all of it
        assert row["ratio"]["lowest"] > 1


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
