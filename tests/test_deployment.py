"""After deployment: files are scored whole or not at all, drift is seen where there is some, and only there, and an
answer leads back to what made it."""

import hashlib
import json
import signal
import sys
from types import SimpleNamespace

import jupytext
import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from support import MODEL, ROOT, Project, only_line, succeed, wait_until

import config
import data_files
import utils
from benchmarks.rows import measure, write_data

pytestmark = pytest.mark.slow

# Runs steps one after the other, as scripts, in one process, which has to import MLflow only once.
STEPS = """
import json, runpy, sys
said = []
for step, *options in json.loads(sys.argv[1]):
    sys.argv = [step, *options]
    try:
        runpy.run_module(f"steps.{step}", run_name="__main__")
        said.append("")
    except Exception as error:  # what a script says on its way out
        said.append(str(error) if sys.excepthook.__name__ == "end_in_one_line" else "no script")
        assert type(error).__name__ == "StepError", error
print(json.dumps(said))
"""


def run_steps(project, *commands):
    """What each of the steps says at its end, "" where it succeeds."""
    result = project.run(sys.executable, "-c", STEPS, json.dumps(commands))
    succeed(result)
    return json.loads(result.stdout.splitlines()[-1])


def patients(rows, seed):
    """Made-up patients with numbers, words, missing values and a column of one value."""
    random = np.random.default_rng(seed)
    ill = random.random(rows) < 0.4
    frame = pd.DataFrame({"patient": [f"{number:06}" for number in range(rows)]})
    frame["weight"] = random.normal(70, 10, rows) + 8 * ill
    frame["dose"] = np.where(random.random(rows) < 0.1, np.nan, random.exponential(2, rows))
    frame["height"] = random.normal(170, 8, rows)
    frame["ward"] = np.where(random.random(rows) < 0.3 + 0.4 * ill, "north", "south")
    frame["unit"] = 1
    frame["outcome"] = np.where(ill, "ill", "well")
    return frame


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A project whose champion was trained on a file with words, and whose own code for features is gone since."""
    project = Project(tmp_path_factory.mktemp("deployed"))
    patients(4_000, 0).drop(columns="patient").to_csv(project.folder / "train.csv", index=False)
    # the name whose model the steps take by default
    data = ["--dataset", "train.csv", "--target", "outcome", "--name", "Cancer"]
    said = run_steps(
        project, ["data_preprocessing", *data], ["hyperparameters_tuning", "--n-trials", "1"], ["model_training"]
    )
    assert said == ["", "", ""]
    project.client.set_registered_model_alias(MODEL, config.CHAMPION, "1")
    (project.folder / "steps" / "model_code.py").write_text("raise AssertionError('not the copy in the model')\n")
    return project


# --- Scoring


@pytest.fixture(scope="module")
def scored(deployed):
    """A file of more than one part as CSV, with line breaks, and as Parquet, both scored; returns its frame."""
    frame = patients(config.PART_ROWS + 500, 1)
    frame.insert(3, "note", "seen\ntwice")
    frame.loc[3, "ward"], frame.loc[4, "ward"] = "attic", np.nan
    frame.to_csv(deployed.folder / "new.csv", index=False)
    frame.to_parquet(deployed.folder / "new.parquet")
    succeed(deployed.mlflow_run("batch-scoring", input="new.csv", output="scores.csv"))
    said = run_steps(deployed, ["batch_scoring", "--input", "new.parquet", "--output", "from_parquet.csv"])
    assert said == [""]
    return frame


def test_scores_are_those_of_the_model(deployed, scored, monkeypatch):
    """Whatever the part that a row is in; words never seen are missing values."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", deployed.uri)
    wanted = mlflow.pyfunc.load_model("models:/CancerModel@champion").predict(scored)
    unseen = mlflow.pyfunc.load_model("models:/CancerModel@champion").predict(scored.loc[[3]].assign(ward=np.nan))
    for name in ["scores.csv", "from_parquet.csv"]:
        scores = pd.read_csv(deployed.folder / name)
        pd.testing.assert_frame_equal(scores[list(wanted)], wanted, check_dtype=False, rtol=0, atol=1e-6)
        assert scores["probability of ill"][3] == pytest.approx(unseen["probability of ill"][0], abs=1e-6)
    ill = scores["probability of ill"]
    np.testing.assert_allclose(ill + scores["probability of well"], 1, atol=1e-6)
    assert scores.prediction.tolist() == np.where(ill > 0.5, "ill", "well").tolist()
    assert 0.6 < (scores.prediction == scored.outcome).mean() < 1


def test_scores_stand_beside_what_tells_the_rows(deployed, scored):
    """The columns that the model does not use are those of the file, and the line is where the row begins."""
    scores = pd.read_csv(deployed.folder / "scores.csv", dtype=str)
    answers = ["prediction", "probability of well", "probability of ill"]
    assert list(scores) == ["line", "patient", "note", "outcome", *answers]
    kept = ["patient", "note", "outcome"]
    pd.testing.assert_frame_equal(scores[kept], scored[kept].astype("str"))
    assert scores.line.astype(int).tolist() == list(range(2, 2 * len(scored) + 2, 2))
    rows = pd.read_csv(deployed.folder / "from_parquet.csv", dtype=str)
    pd.testing.assert_frame_equal(rows[kept], scores[kept])
    assert rows.row.astype(int).tolist() == list(range(1, len(scored) + 1))


def test_run_of_a_scored_file(deployed, scored):
    """It has the file, what it was made of, and which version answered."""
    runs = {run.data.tags["scored"]: run for run in deployed.runs("tags.step = 'batch_scoring'")}
    digests = {run.data.tags["digest"] for run in runs.values()}
    assert len(digests) == 2
    for run in runs.values():
        assert run.data.tags["model_version"] == "models:/CancerModel/1"
        assert run.data.metrics["rows"] == len(scored)
        assert run.data.metrics["largest_share_of_unseen_words"] == pytest.approx(1 / len(scored))
        assert run.inputs.dataset_inputs[0].dataset.digest == run.data.tags["digest"]
    run = next(run for name, run in runs.items() if name.endswith("new.csv"))
    logged = deployed.client.download_artifacts(run.info.run_id, "scores/scores.csv")
    with open(logged, "rb") as copy:
        assert copy.read() == (deployed.folder / "scores.csv").read_bytes()


def test_what_looks_wrong_in_a_scored_file(deployed):
    """Words that the model does not know, and one class for all rows, are said in a line each."""
    same = patients(1, 8).assign(weight=110.0, ward="north").loc[[0] * 40]
    same.to_csv(deployed.folder / "same.csv", index=False)
    odd = same.assign(ward=["attic"] * 3 + ["north "] * 37)  # a blank makes no other word
    odd.to_csv(deployed.folder / "odd.csv", index=False)
    said = {}
    for name in ["same", "odd"]:
        step = deployed.step("batch_scoring", "--input", f"{name}.csv", "--output", f"{name}_out.csv")
        said[name] = [line for line in succeed(step).splitlines() if line.startswith("WARNING")]
    (one_class,) = said["same"]
    assert "same.csv: all 40 rows got the same class" in one_class
    assert "odd.csv: rows with a word that the model does not know: ward 7.5 %" in said["odd"][0]
    assert deployed.newest("batch_scoring").data.metrics["largest_share_of_unseen_words"] == pytest.approx(3 / 40)


def leftovers(project):
    return sorted(path.name for path in project.folder.glob("*scor*")) + sorted(project.folder.glob(".scoring-*"))


def test_wrong_input_for_scoring(deployed, scored):
    """One line, no file, no run; a file that was there stays as it was."""
    rows = patients(config.PART_ROWS + 10, 2)
    rows.head(3).drop(columns="ward").to_csv(deployed.folder / "short.csv", index=False)
    rows.head(3).assign(**{"probability of ill": 1}).to_csv(deployed.folder / "again.csv", index=False)
    late = rows.astype({"dose": object})
    late.loc[len(late) - 1, "dose"] = "much"
    late.to_csv(deployed.folder / "late.csv", index=False)
    good, out = ["--input", "new.csv"], ["--output", "scores.csv"]
    cases = {
        "needs two paths": [],
        "needs two paths: input": ["--input", "./scores.csv", *out],
        "and output, another CSV file": [*good, "--output", "steps"],
        "none.csv: cannot be read: No such file": ["--input", "none.csv", *out],
        "models:/None/1 cannot be used": [*good, *out, "--model-uri", "models:/None/1"],
        "models:/CancerModelBooster/1 cannot be used": [*good, *out, "--model-uri", "models:/CancerModelBooster/1"],
        "short.csv: lacks columns that the model needs: `ward`": ["--input", "short.csv", *out],
        "again.csv: has columns that the result will have: {'probability of ill'}": ["--input", "again.csv", *out],
        f"late.csv: not of its column's kind, or too large: line {len(late) + 1}, column `dose`: 'much'": [
            "--input",
            "late.csv",
            *out,
        ],
        "no/out.csv: cannot be written: No such file": [*good, "--output", "no/out.csv"],
    }
    before, files = (deployed.folder / "scores.csv").read_bytes(), leftovers(deployed)
    runs = len(deployed.runs(status=None))
    said = run_steps(deployed, *(["batch_scoring", *options] for options in cases.values()))
    for words, line in zip(cases, said, strict=True):
        assert words in line
        assert "\n" not in line
    assert len(deployed.runs(status=None)) == runs
    assert leftovers(deployed) == files
    assert (deployed.folder / "scores.csv").read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="no Ctrl-C for another process")
def test_interrupted_scoring(deployed):
    """Ctrl-C in the middle of a long file leaves nothing."""
    head, *lines = patients(20_000, 3).to_csv(index=False).splitlines(keepends=True)
    (deployed.folder / "long.csv").write_text(head + 40 * "".join(lines))
    process = deployed.start(
        "python", "-m", "steps.batch_scoring", "--input", "long.csv", "--output", "long_scores.csv"
    )
    written = wait_until(lambda: list(deployed.folder.glob(".scoring-*/long_scores.csv")))
    wait_until(lambda: written[0].stat().st_size > 0)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT  # as a program ends that Ctrl-C has ended
    assert only_line(process.said()).startswith("Interrupted.")
    assert not list(deployed.folder.glob(".scoring-*"))
    assert not (deployed.folder / "long_scores.csv").exists()


@pytest.mark.parametrize("rows", [200_000, pytest.param(1_000_000, marks=pytest.mark.weekly)])
def test_memory_of_scoring(trained, tmp_path, rows, monkeypatch):
    """A longer file needs no more: its numbers alone would be 50 MB, or 250."""
    project = trained.copy(tmp_path)
    write_data(10_000, tmp_path / "some.csv")
    head, *lines = (tmp_path / "some.csv").read_text().splitlines(keepends=True)
    monkeypatch.chdir(tmp_path)
    peaks = []
    for count in [50_000, rows]:
        (tmp_path / "data.csv").write_text(head + count // 10_000 * "".join(lines))
        options = ["--input", "data.csv", "--output", "scores.csv", "--model-uri", "models:/CancerModel/1"]
        peaks.append(measure([sys.executable, "-m", "steps.batch_scoring", *options])["peak_mib"])
        with open("scores.csv") as file:
            assert sum(1 for _ in file) == count + 1
    assert project.newest("batch_scoring").data.metrics["rows"] == rows
    assert peaks[1] < peaks[0] + 25, peaks


# --- Drift


def drift_of(project, input):
    """The tags, the metrics and the table of the check of a file."""
    run = project.runs(f"tags.step = 'drift_check' and tags.checked LIKE '%{input}'")[0]
    with open(project.client.download_artifacts(run.info.run_id, "drift/columns.json")) as file:
        table = pd.DataFrame(**json.load(file)).set_index("column")
    assert project.client.list_artifacts(run.info.run_id, "drift")[1].path == "drift/columns.png"
    return run.data.tags, run.data.metrics, table


def test_no_drift(deployed):
    """Neither in many rows that differ a little, though by no chance, nor in a few that differ by chance."""
    many = patients(20_000, 4)
    many["height"] += 1.5
    many["ward"] += " "
    many.to_csv(deployed.folder / "many.csv", index=False)
    patients(30, 5).to_parquet(deployed.folder / "few.parquet")
    succeed(deployed.mlflow_run("drift-check", input="many.csv"))
    assert run_steps(deployed, ["drift_check", "--input", "few.parquet"]) == [""]

    tags, metrics, table = drift_of(deployed, "many.csv")
    assert tags["drift"] == "no"
    assert (metrics["rows"], metrics["drifted_columns"]) == (20_000, 0)
    assert set(table.index) == {"weight", "dose", "height", "ward", "unit", "probability of ill"}
    assert table.p_value["height"] < 0.001 and 0.05 < table.distance["height"] < 0.15
    assert table.distance["unit"] == 0
    assert table.distance["ward"] < 0.05 and table.unseen_words["ward"] == 0

    tags, metrics, table = drift_of(deployed, "few.parquet")
    assert tags["drift"] == "no"
    assert table.distance.max() > 0.15 and table.p_value.min() > 0.01


def test_drift(deployed):
    """Of each kind: another scale, other shares of words, words never seen, missing values, a column without values."""
    frame = patients(500, 6)
    changed = {
        "scale.csv": frame.assign(weight=frame.weight * 1.2),
        "shares.csv": frame.assign(ward=np.where(frame.index % 20, "north", "south")),
        "unseen.csv": frame.assign(ward=frame.ward.mask(frame.index % 14 == 0, "attic")),
        "missing.csv": frame.assign(dose=frame.dose.mask(frame.index % 4 == 0)),
        "empty.csv": frame.assign(height=np.nan, unit=np.nan),
        "answers.csv": frame[frame.outcome == "ill"].drop(columns="outcome"),
    }
    for name, data in changed.items():
        data.to_csv(deployed.folder / name, index=False)
    assert not any(run_steps(deployed, *(["drift_check", "--input", name] for name in changed)))
    found = {name: drift_of(deployed, name) for name in changed}
    assert {tags["drift"] for tags, _, _ in found.values()} == {"yes"}
    columns = {name: set(table.index[table.drift]) - {"probability of ill"} for name, (_, _, table) in found.items()}
    assert columns == {
        "scale.csv": {"weight"},
        "shares.csv": {"ward"},
        "unseen.csv": {"ward"},
        "missing.csv": {"dose"},
        "empty.csv": {"height", "unit"},
        "answers.csv": {"weight", "ward"},
    }
    assert found["scale.csv"][1]["drifted_columns"] == found["scale.csv"][2].drift.sum()
    assert found["unseen.csv"][2].unseen_words["ward"] == pytest.approx(36 / 500)
    assert found["unseen.csv"][1]["largest_share_of_unseen_words"] == pytest.approx(36 / 500)
    missing = found["missing.csv"][2].loc["dose"]
    assert missing.missing_before == pytest.approx(0.1, abs=0.02) and missing.missing_now > 0.25
    assert found["answers.csv"][2].drift["probability of ill"]


def test_wrong_input_for_the_check(deployed):
    """One line, and no run."""
    patients(29, 7).to_csv(deployed.folder / "short.csv", index=False)
    patients(50, 7).drop(columns=["ward", "dose"]).to_csv(deployed.folder / "narrow.csv", index=False)
    patients(50, 7).to_csv(deployed.folder / "right.csv", index=False)
    cases = {
        "drift-check needs a path": [],
        "short.csv: has 29 rows, which say little: give at least 30": ["--input", "short.csv"],
        "narrow.csv: lacks columns that the model needs: `dose`, `ward`": ["--input", "narrow.csv"],
        "none.csv: cannot be read: No such file": ["--input", "none.csv"],
        "models:/None/1 cannot be used": ["--input", "right.csv", "--model-uri", "models:/None/1"],
        "models:/CancerModelBooster/1 cannot be used": [
            "--input",
            "right.csv",
            "--model-uri",
            "models:/CancerModelBooster/1",
        ],
    }
    runs = len(deployed.runs(status=None))
    said = run_steps(deployed, *(["drift_check", *options] for options in cases.values()))
    for words, line in zip(cases, said, strict=True):
        assert words in line
        assert "\n" not in line
    assert len(deployed.runs(status=None)) == runs


def test_check_without_the_training_data(deployed):
    """A model of another place: its run does not say which data it was trained on."""
    patients(50, 7).to_csv(deployed.folder / "right.csv", index=False)
    run = deployed.newest("model_training")
    deployed.client.delete_tag(run.info.run_id, "data_run_id")
    (said,) = run_steps(deployed, ["drift_check", "--input", "right.csv"])
    deployed.client.set_tag(run.info.run_id, "data_run_id", run.data.tags["data_run_id"])
    assert "was not trained here, so its data are not known" in said
    assert "\n" not in said


# --- Where an answer comes from: the chapter's own cells


def cells_below(heading):
    """The code of the chapter's cells below a heading, up to the next one."""
    found, here = [], False
    for cell in jupytext.read(ROOT / "chapters" / "after_deployment.py").cells:
        if cell.cell_type == "code":
            found += [cell.source] * here
        elif headings := [line.strip("# ") for line in cell.source.splitlines() if line.startswith("##")]:
            here = headings[-1] == heading
    assert found
    return found


def ask_why(project, output, answer, monkeypatch):
    """The variables of the cells that say why one line of a scored file is as it is."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.uri)
    monkeypatch.chdir(project.folder)
    names = {"mlflow": mlflow, "np": np, "pd": pd, "hashlib": hashlib, "data_files": data_files, "utils": utils}
    names |= {"output": output, "answer": answer}
    (source,) = [cell for cell in cells_below("Scoring a file") if "def digest(" in cell]
    exec(source[source.index("def digest(") :], names)
    for cell in cells_below("Why this answer?"):
        exec(cell, names)
    return names


def check_explained(names, version):
    """The answer is computed again to the last digit, and the contributions add up to it."""
    line, contributions = names["line"], names["contributions"]
    assert names["model_uri"] == version
    assert names["again"] == line[names["answer"]]
    assert contributions.sum() == pytest.approx(names["margin"], abs=1e-4)
    assert 1 / (1 + np.exp(-contributions.sum())) == pytest.approx(line[names["answer"]], abs=1e-4)
    assert len(contributions) == len(names["values"].columns) + 1


def test_why_an_answer(deployed, scored, monkeypatch):
    """With words and missing values: from the line of the file to the runs that made the model, and to the features."""
    names = ask_why(deployed, "scores.csv", "probability of ill", monkeypatch)
    check_explained(names, "models:/CancerModel/1")
    assert names["scoring_run"].data.tags["scored"].endswith("new.csv")
    assert names["training_run"].info.run_id == deployed.newest("model_training").info.run_id
    assert names["search_run"].info.run_id == deployed.newest("hyperparameters_tuning").info.run_id
    assert "ward" in names["pushes"].index


def test_champion_of_a_time(trained, tmp_path, monkeypatch):
    """Three equal versions, and five evaluations that each move the alias; between two of them a file is scored."""
    project = trained.copy(tmp_path)
    assert run_steps(project, ["model_training"], ["model_training"]) == ["", ""]
    load_breast_cancer(as_frame=True).data.assign(patient="a").to_csv(tmp_path / "new.csv", index=False)
    order = [1, 2, 3, 1, 2]
    trainings = [project.client.get_model_version(MODEL, str(version)).run_id for version in order]
    steps = [["data_evaluation", "--training-run-id", run_id] for run_id in trainings]
    steps.insert(3, ["batch_scoring", "--input", "new.csv", "--output", "scores.csv"])
    assert not any(run_steps(project, *steps))

    names = ask_why(project, "scores.csv", "probability of malignant", monkeypatch)
    check_explained(names, f"models:/{MODEL}/3")
    assert names["training_run"].info.run_id == trainings[2]
    assert names["version"].tags["gate"] == "passed"
    project.client.delete_run(project.runs("tags.step = 'data_evaluation'")[-1].info.run_id)  # it counts all the same
    table, lookup = cells_below("Which version was the champion at that time?")
    exec(table, names)
    evaluations = names["evaluations"]
    assert evaluations["before"].tolist() == ["None", "1", "2", "3", "1"]
    assert evaluations["after"].tolist() == ["1", "2", "3", "1", "2"]
    exec(lookup, names)
    assert names["earlier"]["after"].iloc[-1] == names["later"]["before"].iloc[0] == "3"
    ends = evaluations["ended"].tolist()
    for version, start, end in zip(order, ends, [*ends[1:], ends[-1] + pd.Timedelta("1h")], strict=True):
        between = int((start + (end - start) / 2).timestamp() * 1000)
        names["scoring_run"] = SimpleNamespace(info=SimpleNamespace(start_time=between))
        exec(lookup, names)
        assert names["earlier"]["after"].iloc[-1] == str(version)
        assert names["later"]["before"].head(1).tolist() == [str(version)] * (start != ends[-1])
