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


@pytest.fixture(scope="module")
def chromium():
    try:
        pictures.find_chromium()
    except pictures.PictureError as error:
        pytest.skip(str(error))
    with pictures.browser() as chromium:
        yield chromium


def check_picture(path):
    """A picture is a small PNG file as wide as the window, with more in it than a background."""
    assert path.suffix == ".png"
    assert path.stat().st_size < pictures.MAX_BYTES == 200_000
    with Image.open(path) as image:
        assert image.width == pictures.WIDTH * pictures.SCALE
        assert 400 < image.height / pictures.SCALE < 1000
        assert len(image.convert("RGB").getcolors()) > 100


@pytest.mark.nightly
def test_pictures_of_the_ui(chromium, walkthrough, tmp_path):
    paths = pictures.take_mlflow_pictures(chromium, walkthrough.folder, tmp_path / "img")
    assert [path.stem for path in paths] == list(pictures.MLFLOW_PICTURES)
    for path in paths:
        check_picture(path)


def test_no_picture_of_an_error_page(chromium, walkthrough, tmp_path):
    with pictures.mlflow_ui(walkthrough.folder) as store:

        def no_such_run(page):
            store.open(page, "runs/0123456789abcdef/model-metrics")
            page.get_by_text("Page Not Found").wait_for()
            return []

        def no_such_text(page):
            page.goto(store.address)
            page.get_by_text("Recent Experiments").wait_for()
            return ["Not a word of this"]

        def nothing(page):
            page.goto("about:blank")
            return []

        reasons = {
            no_such_run: "the page says: Page Not Found",
            no_such_text: "the page does not show the text 'Not a word of this'",
            nothing: "the picture is blank: 1 colours, 100% of it background",
        }
        for show, reason in reasons.items():
            page = pictures.new_page(chromium)
            with pytest.raises(pictures.PictureError) as refused:
                pictures.take("wrong", show, page, tmp_path)
            page.context.close()
            assert str(refused.value) == f"wrong: {reason}"
    assert list(tmp_path.iterdir()) == []


def test_no_picture_of_an_empty_store(chromium, empty_project):
    result = empty_project.run(sys.executable, "-m", "notebook_tools.pictures")
    folder = empty_project.folder
    assert result.stderr == f"error: {folder}: holds no mlflow.db. Run the notebook: make walkthrough\n"
    assert result.returncode == 1
    assert not (folder / "mlflow.db").exists()


def test_no_picture_without_a_browser(empty_project):
    result = empty_project.run(sys.executable, "-m", "notebook_tools.pictures", PATH="", CHROMIUM="")
    assert result.stderr.startswith("error: no Chromium was found.")
    assert result.returncode == 1


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
    with jupyterlab(empty_project.folder) as address:
        page = pictures.new_page(chromium)
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
        page.context.close()
    cells = [cell for cell in nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells]
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert len(code) == 2
    assert all(cell.execution_count for cell in code)
    assert [run.info.run_name for run in empty_project.runs()] == ["Baseline"]
    assert source.read_text() == before
