"""The pictures of the README, and JupyterLab, in a real browser."""

import sys

import jupytext
import pytest
from PIL import Image

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
        assert 500 < image.height / pictures.SCALE < 1000
        assert len(image.convert("RGB").getcolors()) > 100


def test_pictures_of_the_ui(chromium, walkthrough, tmp_path):
    paths = pictures.take_mlflow_pictures(chromium, walkthrough.folder, tmp_path / "img")
    assert [path.stem for path in paths] == list(pictures.MLFLOW_PICTURES)
    for path in paths:
        check_picture(path)


def test_picture_of_mlserver(chromium, walkthrough, tmp_path):
    check_picture(pictures.take_mlserver(chromium, walkthrough.folder, tmp_path))


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


def test_jupyterlab(chromium, empty_project, tmp_path_factory):
    # As after `make walkthrough`: the notebook is there already, and older than its source.
    source = empty_project.folder / "modeling.py"
    jupytext.write(jupytext.read(source), source.with_suffix(".ipynb"))
    source.touch()
    before = source.read_text()
    path = pictures.take_jupyterlab(chromium, empty_project.folder, tmp_path_factory.mktemp("img"))
    check_picture(path)
    # Run All and Save left the outputs in modeling.ipynb, the runs in the store, and the source as it was.
    pictures.check_executed(empty_project.folder / "modeling.ipynb")
    assert "data_evaluation" in {run.data.tags.get("step") for run in empty_project.runs()}
    assert source.read_text() == before
