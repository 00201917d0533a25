"""The chapters run after the story, each alone, and the store holds what they promise."""

import re
import sys

import nbformat
import pytest
from support import MODEL, succeed

import config
from notebook_tools.run import chapters

pytestmark = pytest.mark.nightly  # `make test` has the story, this what goes on from it


@pytest.fixture(scope="module")
def after_chapters(walkthrough):
    """The walkthrough's project after `make chapters`."""
    walkthrough.champion = walkthrough.registry()[MODEL][1][config.CHAMPION]
    succeed(walkthrough.run(sys.executable, "-m", "notebook_tools.run", "--chapters"))
    return walkthrough


# What a chapter says, as regular expressions; 0 is the champion's version.
SAID = {
    "many_workers": [r"at least 20 finished: True\nall different: True"],
    "sharing": [
        r"version 1: same answers True\nversion 2: same answers True",
        r"without a password: 401\nwith one: 200\n",
        r"files left: \[\]",
        r"mlflow-artifacts:models/",
    ],
    "after_deployment": [
        r"gate: passed\nchampion: version 0, now version",
        r"by models:/CancerModel/0\n",
        r"the same file: True\ndifference: 0\.0\n",
        r"drift: yes\n",
        r"left by the last evaluation: version 0\nfound by the next one: version 0\n",
    ],
    "own_server": [r"at first: 200, version 0\n", r"and back: 200, version 0\n", r"(?s)422 \{'type': .*422 \{'type': "],
    "large_data": [r"one process +0\.9\d+ +(0\.0|\d\.\d+e-0)"],
    "failures": [r"(?s)(exit code 1: .*){3}", r"No such file"],
}


@pytest.mark.parametrize("chapter", chapters())
def test_chapter(after_chapters, chapter):
    """No cell failed, and it says what it should."""
    notebook = nbformat.read((after_chapters.folder / chapter).with_suffix(".ipynb"), as_version=4)
    cells, said = [cell for cell in notebook.cells if cell.cell_type == "code"], ""
    for cell in cells:
        failed = [output for output in cell.outputs if output.output_type == "error"]
        assert cell.execution_count
        assert bool(failed) == ("raises-exception" in cell.metadata.get("tags", []))
        said += "".join(each.get("text", "") or each.get("data", {}).get("text/plain", "") for each in cell.outputs)
    for words in SAID.get((after_chapters.folder / chapter).stem, []):
        assert re.search(re.sub(r"(?<=version )0|(?<=Model/)0", str(after_chapters.champion), words), said), words
    assert not (after_chapters.folder / "chapters" / "mlflow.db").exists()


def test_store(after_chapters):
    """The alias and the last runs are as before; what was scored and compared is there, each worker with its trials."""
    assert after_chapters.registry()[MODEL][1] == {config.CHAMPION: after_chapters.champion}
    made = {run.info.run_id for run in after_chapters.made}
    assert {after_chapters.newest(step).info.run_id for step in ["data_preprocessing", "model_training"]} <= made
    assert after_chapters.newest("batch_scoring").data.metrics["rows"] == 188
    drift = [run.data.tags["drift"] for run in after_chapters.runs("tags.step = 'drift_check'")]
    assert drift == ["yes", "no"]  # the newest first
    workers = after_chapters.runs("tags.step = 'hyperparameters_tuning' and tags.study LIKE '%'")
    trials = [len(after_chapters.runs(f"tags.mlflow.parentRunId = '{run.info.run_id}'")) for run in workers]
    assert len(trials) == 2 and all(trials) and sum(trials) in {20, 21}
