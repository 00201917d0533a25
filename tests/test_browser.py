"""The pictures of the README, and JupyterLab, in a real browser."""

import contextlib
import re
import secrets
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
import pytest
from PIL import Image

import servers
from notebook_tools import pictures

pytestmark = pytest.mark.slow


@pytest.fixture
def chromium():
    try:
        pictures.find_chromium()
    except pictures.PictureError as error:
        pytest.skip(str(error))


@pytest.mark.nightly
def test_pictures_of_the_ui(chromium, walkthrough, tmp_path, capsys):
    """A picture is a small PNG file as wide as the window, with more in it than a background."""
    assert pictures.main(["--store", str(walkthrough.folder), "--out", str(tmp_path / "img")]) == 0, capsys.readouterr()
    paths = list((tmp_path / "img").iterdir())
    assert len(paths) == 11
    for path in paths:
        assert path.stat().st_size < 200_000
        with Image.open(path) as image:
            assert image.width == pictures.WIDTH * pictures.SCALE
            assert 400 < image.height / pictures.SCALE < 1000
            assert len(image.convert("RGB").getcolors()) > 100


def test_no_picture_of_an_error_page(chromium, walkthrough, tmp_path):
    with pictures.mlflow_ui(walkthrough.folder) as (address, _):
        error_page = f"{address}/#/experiments/1/runs/0123456789abcdef/model-metrics"
        for picture, reason in [
            ((500, error_page, [("wait_for", "text='Page Not Found'")]), "the page says: Page Not Found"),
            ((500, "about:blank", []), "the picture is blank: 1 colours, 100% of it background"),
        ]:
            with pytest.raises(pictures.PictureError) as refused:
                pictures.take("wrong", picture, address, tmp_path)
            assert str(refused.value) == f"wrong: {reason}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variables", [{}, {"PATH": "", "CHROMIUM": ""}])
def test_no_picture_without_a_store_or_a_browser(empty_project, variables):
    result = empty_project.run(sys.executable, "-m", "notebook_tools.pictures", **({"CHROMIUM": "any"} | variables))
    no_store = f"{empty_project.folder}: holds no mlflow.db. Run the notebook: make walkthrough\n"
    assert result.stderr.startswith("error: no Chromium was found." if variables else f"error: {no_store}")
    assert result.returncode == 1
    assert not (empty_project.folder / "mlflow.db").exists()


@contextlib.contextmanager
def jupyterlab(folder):
    """JupyterLab in a folder, with the settings of a new user; yields its address, with the token."""
    port, token = servers.free_port(), secrets.token_hex()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", "--allow-root"]
    with tempfile.TemporaryDirectory() as home:
        places = ["JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"]
        variables = {place: str(Path(home, place)) for place in places}
        variables["MLFLOW_TRACKING_URI"] = ""  # the notebook's own store, whatever is set here
        with servers.server(command, f"{address}/api/status?token={token}", folder, **variables):
            yield f"{address}/lab?token={token}"


def test_jupyterlab(chromium, empty_project):
    """Open With › Notebook, Run All, Save: outputs are in modeling.ipynb, runs in the store, the source is as it was.

    The notebook is cut off after the first run, so that this takes seconds.
    """
    source = empty_project.folder / "modeling.py"
    source.write_text(source.read_text().split("# %% [markdown]\n# ## Data preparation")[0])
    # as after `make walkthrough`: the notebook is there already, and older than its source
    jupytext.write(jupytext.read(source), source.with_suffix(".ipynb"))
    source.touch()
    before = source.read_text()
    with jupyterlab(empty_project.folder) as address, pictures.new_page() as page:
        page.goto(address)
        page.get_by_role("button", name="No", exact=True).click()  # no news, thank you
        page.get_by_role("listitem", name=re.compile(r"modeling\.py")).click(button="right")
        page.get_by_text("Open With", exact=True).hover()
        page.get_by_role("menuitem", name="Notebook", exact=True).click()
        page.get_by_text("(ipykernel) | Idle").wait_for()  # cells that run before are dropped without a word
        assert page.locator(".jp-Dialog").all_inner_texts() == []
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.locator(".jp-OutputArea-output").filter(has_text="cv_logloss").first.wait_for(timeout=120_000)
        page.locator(".jp-Notebook").press("Control+s")
        page.get_by_text("Saving completed").wait_for()
        assert page.locator(".jp-Dialog").all_inner_texts() == []
    cells = nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert len(code) == 2
    assert all(cell.execution_count for cell in code)
    assert [run.info.run_name for run in empty_project.runs()] == ["Baseline"]
    assert source.read_text() == before
