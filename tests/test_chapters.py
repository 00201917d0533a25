"""The chapters run after the story, each alone, and the store holds what they promise."""

import re
import sys

import mlflow
import nbformat
import numpy as np
import pytest
import xgboost as xgb
from support import MODEL

import config
import utils
from notebook_tools.run import chapters

pytestmark = pytest.mark.nightly  # `make test` has the story, this what goes on from it


@pytest.fixture(scope="module")
def after_chapters(walkthrough):
    """The walkthrough's project after `make chapters`."""
    walkthrough.champion = walkthrough.registry()[MODEL][1][config.CHAMPION]
    result = walkthrough.run(sys.executable, "-m", "notebook_tools.run", "--chapters")
    assert result.returncode == 0, result.stdout + result.stderr
    return walkthrough


@pytest.mark.parametrize("chapter", chapters())
def test_no_cell_failed(after_chapters, chapter):
    notebook = nbformat.read((after_chapters.folder / chapter).with_suffix(".ipynb"), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count
            failed = [output for output in cell.outputs if output.output_type == "error"]
            assert bool(failed) == ("raises-exception" in cell.metadata.get("tags", []))
    assert not (after_chapters.folder / "chapters" / "mlflow.db").exists()


def output_of(after_chapters, chapter):
    notebook = nbformat.read(after_chapters.folder / "chapters" / f"{chapter}.ipynb", as_version=4)
    return "".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def test_workers_on_one_study(after_chapters):
    """Each is a run of its own, no trial is made twice, and both name a best."""
    workers = [run for run in after_chapters.runs("tags.step = 'hyperparameters_tuning'") if "study" in run.data.tags]
    assert len(workers) == 2
    assert len({run.data.tags["study"] for run in workers}) == 1
    made = [after_chapters.runs(f"tags.mlflow.parentRunId = '{run.info.run_id}'") for run in workers]
    assert all(made)
    trials = made[0] + made[1]
    assert 20 <= len(trials) <= 21
    assert len({tuple(sorted(trial.data.params.items())) for trial in trials}) == len(trials)
    assert len({trial.info.run_name for trial in trials}) == len(trials)
    assert "at least 20 finished: True\nall different: True" in output_of(after_chapters, "many_workers")


def test_sharing(after_chapters):
    said = output_of(after_chapters, "sharing")
    for line in [
        "version 1: same answers True",
        "version 2: same answers True",
        "without a password: 401",
        "with one: 200",
        "files left: []",
    ]:
        assert line in said
    assert "mlflow-artifacts:models/" in said


def test_after_deployment(after_chapters):
    """A file like the training data passes, another is noticed, and the alias and the last runs are as before."""
    run = after_chapters.newest("batch_scoring")
    assert run.data.metrics["rows"] == 188
    assert run.data.tags["model_version"] == f"models:/{MODEL}/{after_chapters.champion}"
    second_lab, first = after_chapters.runs("tags.step = 'drift_check'")
    assert [first.data.tags["drift"], second_lab.data.tags["drift"]] == ["no", "yes"]
    assert after_chapters.registry()[MODEL][1] == {config.CHAMPION: after_chapters.champion}
    said = output_of(after_chapters, "after_deployment")
    assert f"gate: passed\nchampion: version {after_chapters.champion}, now version" in said
    assert f"by models:/{MODEL}/{after_chapters.champion}\n" in said
    assert "the same file: True\ndifference: 0.0\n" in said
    both = "left by the last evaluation: version {0}\nfound by the next one: version {0}\n"
    assert both.format(after_chapters.champion) in said
    runs = after_chapters.runs(status=None)  # those on the second laboratory's data are gone, with all below them
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs} - {None}
    assert parents <= {run.info.run_id for run in runs}
    for step in ["data_preprocessing", "model_training", "data_evaluation"]:
        assert after_chapters.newest(step).info.run_id in {run.info.run_id for run in after_chapters.made}


def test_own_server(after_chapters):
    """It followed the alias to a copy and back, and the registry is as before."""
    champion = after_chapters.registry()[MODEL][1][config.CHAMPION]
    said = output_of(after_chapters, "own_server")
    assert f"at first: 200, version {champion}\n" in said
    assert f"and back: 200, version {champion}\n" in said
    forward = int(re.search(r"forward:  200, version (\d+)", said)[1])
    assert forward not in after_chapters.registry()[MODEL][0]
    assert said.count("422 {'type': ") == 2


def test_failures(after_chapters):
    said = output_of(after_chapters, "failures")
    assert said.count("exit code 1: ") == 3
    assert "No such file" in said


def test_model_trained_on_a_cluster(after_chapters, monkeypatch):
    """It loads without Dask, and predicts as a Booster that is trained on the same rows in one process."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{after_chapters.folder}/mlflow.db")
    uri = "models:/CancerModelDask/1"
    info = mlflow.models.get_model_info(uri)
    assert len(info.signature.inputs) == 31
    assert info.saved_input_example_info
    requirements = [line.split("==")[0] for line in mlflow.artifacts.load_text(f"{uri}/requirements.txt").split()]
    assert requirements[0] == "mlflow"
    assert not {"dask", "distributed"} & set(requirements)
    run = mlflow.get_run(info.run_id)
    data_run = mlflow.get_run(run.data.tags["data_run_id"])
    digests = [{item.dataset.name: item.dataset.digest for item in r.inputs.dataset_inputs} for r in [data_run, run]]
    assert digests[0] == digests[1]

    _, model = utils.load_model(f"models:/{MODEL}/{after_chapters.champion}")
    about = info.metadata
    assert about == {name: model.about[name] for name in ["name", "target", "classes", "types"]}
    train, rows = utils.load_dataset(data_run, "train"), utils.load_dataset(data_run, "test").head(50)
    features, rows = model.features(train), model.features(rows)
    label = train[about["target"]] == about["classes"][1]
    params = {"objective": run.data.params["objective"], "max_depth": int(run.data.params["max_depth"])}
    params["learning_rate"] = float(run.data.params["learning_rate"])
    alone = xgb.train(params, xgb.DMatrix(features, label=label), int(run.data.params["num_boost_round"]))
    code = (
        "import sys; sys.modules['dask'] = sys.modules['distributed'] = None\n"
        "import mlflow, pandas as pd\n"
        "print(*mlflow.pyfunc.load_model(sys.argv[1]).predict(pd.read_csv(sys.argv[2])))"
    )
    rows.to_csv(after_chapters.folder / "fifty.csv", index=False)
    result = after_chapters.run("python", "-c", code, uri, "fifty.csv")
    assert result.returncode == 0, result.stderr
    predicted = np.array(result.stdout.split(), dtype=float)
    np.testing.assert_allclose(predicted, alone.predict(xgb.DMatrix(rows)), rtol=0, atol=1e-3)
