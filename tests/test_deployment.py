"""After deployment: files are scored whole or not at all, and drift is seen where there is some, and only there."""

import hashlib
import json
import signal
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support import MODEL, Project, only_line, succeed, wait_until

import config
import utils

pytestmark = pytest.mark.slow


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
    data = "data_preprocessing --dataset train.csv --target outcome --name Cancer"
    project.steps(data, "hyperparameters_tuning --n-trials 1", "model_training")
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
    deployed.steps("batch_scoring --input new.parquet --output from_parquet.csv")
    return frame


def test_scores(deployed, scored, monkeypatch):
    """Those of the model, whatever the part that a row is in, beside the columns that the model does not use."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", deployed.uri)
    model, kept = mlflow.pyfunc.load_model("models:/CancerModel@champion"), ["patient", "note", "outcome"]
    wanted = model.predict(scored)
    unseen = model.predict(scored.loc[[3]].assign(ward=np.nan))["probability of ill"]
    assert wanted["probability of ill"][3] == pytest.approx(unseen[0], abs=1e-6)  # a word never seen is missing
    for name, place, first, step in [("scores.csv", "line", 2, 2), ("from_parquet.csv", "row", 1, 1)]:
        scores = pd.read_csv(deployed.folder / name, dtype={"patient": "str"})
        assert list(scores) == [place, *kept, "prediction", "probability of well", "probability of ill"]
        assert scores[place].tolist() == list(range(first, first + step * len(scored), step))
        pd.testing.assert_frame_equal(scores[kept], scored[kept], check_dtype=False)
        pd.testing.assert_frame_equal(scores[list(wanted)], wanted, check_dtype=False, rtol=0, atol=1e-6)


def test_run_of_a_scored_file(deployed, scored):
    """It has the file, what it was made of, and which version answered."""
    runs = {run.data.tags["scored"].rpartition("/")[2]: run for run in deployed.runs("tags.step = 'batch_scoring'")}
    for name, output in {"new.csv": "scores.csv", "new.parquet": "from_parquet.csv"}.items():
        run, made = runs[name], deployed.folder / output
        logged = Path(deployed.client.download_artifacts(run.info.run_id, f"scores/{output}"))
        assert logged.read_bytes() == made.read_bytes()
        digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in [deployed.folder / name, made]]
        assert [run.data.tags["digest"], run.data.tags["scores_digest"]] == digests
        assert run.inputs.dataset_inputs[0].dataset.digest == digests[0]
        assert run.data.tags["model_version"] == "models:/CancerModel/1"
        metrics, ill = run.data.metrics, (pd.read_csv(made)["prediction"] == "ill").mean()
        assert (metrics["rows"], metrics["share_of_class_1"]) == (len(scored), pytest.approx(ill))
        assert metrics["largest_share_of_unseen_words"] == pytest.approx(1 / len(scored))


def test_what_looks_wrong_in_a_scored_file(deployed):
    """Words that the model does not know, and one class for all rows, are said in a line each."""
    odd = patients(1, 8).assign(weight=110.0).loc[[0] * 40]
    odd["ward"] = ["attic"] * 3 + ["north "] * 37  # a blank makes no other word
    odd.to_csv(deployed.folder / "odd.csv", index=False)
    (said,) = deployed.steps("batch_scoring --input odd.csv --output odd_out.csv")
    assert "INFO: odd.csv: 40 rows scored by models:/CancerModel/1, 100.0% are 'ill'\n" in said
    words, one_class = [line for line in said.splitlines() if line.startswith("WARNING")]
    assert "odd.csv: rows with a word that the model does not know: ward 7.5 %" in words
    assert "odd.csv: all 40 rows got the same class" in one_class


def test_where_the_scores_go(deployed, tmp_path):
    """To where the user is, through a link, and with the mode of the file that was there."""
    patients(40, 8).to_csv(tmp_path / "in.csv", index=False)
    real = tmp_path / "real.csv"
    real.touch(0o600)
    (tmp_path / "out.csv").symlink_to(real)
    command = f"mlflow run {deployed.folder} -e batch-scoring -P input=in.csv -P output=out.csv --env-manager local"
    succeed(deployed.run(*command.split(), cwd=tmp_path, MLFLOW_TRACKING_URI=deployed.uri))
    assert len(pd.read_csv(real)) == 40 and real.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "out.csv").is_symlink() and not (deployed.folder / "out.csv").exists()


# A mistake, and the step with its options.
WRONG = {
    "batch-scoring needs two paths": "batch_scoring",
    "scores.csv: the output must be another file": "batch_scoring --input ./scores.csv --output scores.csv",
    "whose name ends in .csv": "batch_scoring --input new.csv --output scores.csv.gz",
    "none.csv: cannot be read: No such file": "batch_scoring --input none.csv --output scores.csv",
    "models:/None/1 cannot be used": "batch_scoring --input new.csv --output scores.csv --model-uri models:/None/1",
    "again.csv: has columns that the result will have: {'probability of ill'}": "batch_scoring --input again.csv --output scores.csv",
    f"late.csv: not of its column's kind, or too large: line {config.PART_ROWS + 11}, column `dose`: 'much'": "batch_scoring --input late.csv --output scores.csv",
    "no/out.csv: cannot be written: No such file": "batch_scoring --input new.csv --output no/out.csv",
    "drift-check needs a path": "drift_check",
    "short.csv: has 29 rows, which say little: give at least 30": "drift_check --input short.csv",
    "narrow.csv: lacks columns that the model needs: `dose`, `ward`": "drift_check --input narrow.csv",
    "models:/CancerModelBooster/1 cannot be used": "drift_check --input new.csv --model-uri models:/CancerModelBooster/1",
}  # fmt: skip


def test_wrong_input(deployed, scored):
    """One line, no file, no run; a file that was there stays as it was."""
    late = patients(config.PART_ROWS + 10, 2).astype({"dose": object})
    late.loc[len(late) - 1, "dose"] = "much"
    late.to_csv(deployed.folder / "late.csv", index=False)
    late.head(29).to_csv(deployed.folder / "short.csv", index=False)
    late.head(3).assign(**{"probability of ill": 1}).to_csv(deployed.folder / "again.csv", index=False)
    late.head(50).drop(columns=["ward", "dose"]).to_csv(deployed.folder / "narrow.csv", index=False)
    files, before = sorted(deployed.folder.iterdir()), (deployed.folder / "scores.csv").read_bytes()
    runs = len(deployed.runs(status=None))
    for words, (line, _) in zip(WRONG, deployed.try_steps(*WRONG.values()), strict=True):
        assert words in line
        assert "\n" not in line
    assert len(deployed.runs(status=None)) == runs
    assert sorted(deployed.folder.iterdir()) == files
    assert (deployed.folder / "scores.csv").read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="no Ctrl-C for another process")
def test_interrupted_scoring(deployed):
    """Ctrl-C in the middle of a long file leaves nothing."""
    head, *lines = patients(20_000, 3).to_csv(index=False).splitlines(keepends=True)
    (deployed.folder / "long.csv").write_text(head + 40 * "".join(lines))
    process = deployed.start(
        *["python", "-m", "steps.batch_scoring", "--input", "long.csv", "--output", "long_scores.csv"]
    )
    written = wait_until(lambda: list(deployed.folder.glob(".scoring-*/long_scores.csv")))
    wait_until(lambda: written[0].stat().st_size > 0)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT  # as a program ends that Ctrl-C has ended
    assert only_line(process.said()).startswith("Interrupted.")
    assert not list(deployed.folder.glob(".scoring-*"))
    assert not (deployed.folder / "long_scores.csv").exists()


# --- Drift


def test_drift(deployed):
    """Of each kind; and none in many rows that differ a little, though by no chance, nor in a few that differ by chance."""
    frame, many = patients(500, 6), patients(20_000, 4)
    changed = {
        "many.csv": (many.assign(height=many.height + 1.5, ward=many.ward + " "), set()),
        "few.csv": (patients(30, 5), set()),
        "scale.csv": (frame.assign(weight=frame.weight * 1.2), {"weight"}),
        "shares.csv": (frame.assign(ward=np.where(frame.index % 20, "north", "south")), {"ward"}),
        "unseen.csv": (frame.assign(ward=frame.ward.mask(frame.index % 14 == 0, "attic")), {"ward"}),
        "missing.csv": (frame.assign(dose=frame.dose.mask(frame.index % 4 == 0)), {"dose"}),
        # fewer than a Kolmogorov-Smirnov test would notice
        "gaps.csv": (frame.head(100).assign(weight=frame.weight.mask(frame.index % 6 == 0)), {"weight"}),
        "empty.csv": (frame.assign(height=np.nan, unit=np.nan), {"height", "unit"}),
        "answers.csv": (frame[frame.outcome == "ill"].drop(columns="outcome"), {"weight", "ward"}),
    }
    answer, tables, metrics = "probability of ill", {}, {}
    for name, (data, _) in changed.items():
        data.to_csv(deployed.folder / name, index=False)
    succeed(deployed.mlflow_run("drift-check", input="many.csv"))
    deployed.steps(*(f"drift_check --input {name}" for name in changed if name != "many.csv"))
    for name, (data, columns) in changed.items():
        (run,) = deployed.runs(f"tags.step = 'drift_check' and tags.checked LIKE '%{name}'")
        with open(deployed.client.download_artifacts(run.info.run_id, "drift/columns.json")) as file:
            table = tables[name] = pd.DataFrame(**json.load(file)).set_index("column")
        assert deployed.client.list_artifacts(run.info.run_id, "drift")[1].path == "drift/columns.png"
        assert set(table.index) == {"weight", "dose", "height", "ward", "unit", answer}
        assert set(table.index[table.drift]) - {answer} == columns
        assert run.data.tags["drift"] == ("yes" if columns else "no")
        metrics[name] = run.data.metrics
        assert (metrics[name]["rows"], metrics[name]["drifted_columns"]) == (len(data), table.drift.sum())
        assert metrics[name]["largest_distance"] == pytest.approx(table.distance.max())
        assert metrics[name]["answer_distance"] == pytest.approx(table.distance[answer])
    many, few = tables["many.csv"], tables["few.csv"]
    assert many.p_value["height"] < 0.001 and 0.05 < many.distance["height"] < 0.15
    assert many.distance["unit"] == 0 and many.distance["ward"] < 0.05 and many.unseen_now["ward"] == 0
    assert few.distance.max() > 0.15 and few.p_value.min() > 0.01
    mlflow.set_tracking_uri(deployed.uri)
    train = utils.load_dataset(deployed.newest("data_preprocessing"), "train")
    mlflow.set_tracking_uri(None)
    weights = stats.ks_2samp(train.weight, frame.weight * 1.2)
    assert tables["scale.csv"].distance["weight"] == pytest.approx(weights.statistic)
    assert tables["shares.csv"].distance["ward"] == pytest.approx(0.95 - (train.ward == "north").mean())
    assert tables["unseen.csv"].unseen_now["ward"] == pytest.approx(36 / 500)
    assert metrics["unseen.csv"]["largest_share_of_unseen_words"] == pytest.approx(36 / 500)
    missing = tables["missing.csv"].loc["dose", ["missing_before", "missing_now"]].tolist()
    assert missing == pytest.approx([train.dose.isna().mean(), changed["missing.csv"][0].dose.isna().mean()])
    assert metrics["missing.csv"]["largest_change_of_missing"] == pytest.approx(missing[1] - missing[0])
    assert tables["answers.csv"].drift[answer]


@pytest.mark.slow
def test_random_halves_have_not_drifted(tmp_path):
    """Also where many words are always new, and with a column of two values."""
    random, project = np.random.default_rng(0), Project(tmp_path)
    frame = pd.DataFrame({"size": random.normal(size=1200), "place": random.integers(250, size=1200)})
    frame["place"] = "place " + frame["place"].astype(str)
    frame["flag"] = random.random(1200) < 0.02
    frame["target"] = np.where(frame["size"] + random.normal(size=1200) > 0, "yes", "no")
    frame.head(600).to_csv(tmp_path / "train.csv", index=False)
    project.steps(
        "data_preprocessing --dataset train.csv --name Cancer", "hyperparameters_tuning --n-trials 1", "model_training"
    )
    for number in range(8):
        frame.tail(600).sample(300, random_state=number).to_csv(tmp_path / f"half_{number}.csv", index=False)
    project.steps(*(f"drift_check --model-uri models:/CancerModel/1 --input half_{number}.csv" for number in range(8)))
    runs = project.runs("tags.step = 'drift_check'")
    assert [run.data.tags["drift"] for run in runs] == ["no"] * 8
    assert min(run.data.metrics["largest_share_of_unseen_words"] for run in runs) > 0.1


def test_check_without_the_training_data(deployed):
    """A model of another place: its run does not say which data it was trained on."""
    patients(50, 7).to_csv(deployed.folder / "right.csv", index=False)
    run = deployed.newest("model_training")
    deployed.client.delete_tag(run.info.run_id, "data_run_id")
    ((said, _),) = deployed.try_steps("drift_check --input right.csv")
    deployed.client.set_tag(run.info.run_id, "data_run_id", run.data.tags["data_run_id"])
    assert "are not in this store: it was trained elsewhere, or the run is gone" in said and "\n" not in said
