"""README.md agrees with the notebook, and what it is made with does what it says."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from conftest import ROOT

from notebook_tools import readme

NOTEBOOK = jupytext.read(ROOT / "modeling.py")
TEXT = (ROOT / "README.md").read_text()


def test_readme_is_what_the_notebook_says():
    assert readme.problems(NOTEBOOK, TEXT, ROOT) == []
    assert readme.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('metrics=["auc", "error"]', 'metrics=["auc"]', "is not in it"),
        ("Which tree depth, which learning rate?", "Which learning rate?", "is not in it"),
        ("](img/runs_list.png)", "](img/no_such.png)", "there is no file img/no_such.png"),
        ("](#the-gate)", "](#the-fence)", "there is no section #the-fence"),
    ],
)
def test_a_changed_page_is_noticed(old, new, problem):
    assert old in TEXT
    found = readme.problems(NOTEBOOK, TEXT.replace(old, new, 1), ROOT)
    assert len(found) == 1
    assert problem in found[0]


def test_swapped_cells_are_noticed():
    notebook = jupytext.read(ROOT / "modeling.py")
    code = [number for number, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    one, two = code[3], code[4]
    notebook.cells[one], notebook.cells[two] = notebook.cells[two], notebook.cells[one]
    assert readme.problems(notebook, TEXT, ROOT)


def test_nothing_of_the_machine_is_in_it():
    assert not re.search(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", TEXT)
    assert "/tmp/" not in TEXT
    assert "%|" not in TEXT
    assert "\x1b" not in TEXT
    assert "Traceback" not in TEXT
    assert "Warning" not in TEXT


def test_no_picture_is_left_over():
    linked = set(re.findall(r"\]\((img/[^)]+)\)", TEXT))
    assert linked == {f"img/{path.name}" for path in (ROOT / "img").iterdir()}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("run 3c20904f7c39482ea2113bb02de0b3a1 of m-5a1a91f5921b4d93abe1a0623734e333", "run <id> of m-<id>"),
        ("code_model_3c20904f7c39482ea2113bb02de0b3a1:predict", "code_model_<id>:predict"),
        ("2026/11/24 06:41:28 INFO x", "<time> INFO x"),
        ("'2026-11-24 06:41:28.123456'", "'<time>'"),
        ("http://127.0.0.1:43021/ping", "http://127.0.0.1:<port>/ping"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("<object at 0x7f14ed848d90>", "<object>"),
        ("\x1b[31mred\x1b[39m", "red"),
        ("a\n 50%|█████     | 5/10 [00:03<00:03,  1.65it/s]\nb\n", "a\nb\n"),
        ("file:///scratch/project/mlruns/1", "file:///path/to/project/mlruns/1"),
        ("188 row(s) in 3.0 ms", "188 row(s) in <n> ms"),
        ("accuracy 0.9580, digest 4b7d0643, 381 rows", "accuracy 0.9580, digest 4b7d0643, 381 rows"),
        (
            "Using CPython 3.11.7 interpreter at: /x\nCreating virtual environment at: /y\n"
            "Using Python 3.11.7 environment at: /y\nResolved 1 package in 9ms\nPrepared 2 packages in 1.2s\n"
            "Installed 1 package in 20ms\n + pip==26.3\nINFO: train: 381 rows\n",
            "INFO: train: 381 rows\n",
        ),
    ],
)
def test_sanitise(output, expected):
    assert readme.sanitise(output, Path("/scratch/project")) == expected


def test_table():
    html = (
        "<table><thead><tr><th></th><th>a</th><th>b</th></tr><tr><th>name</th><th></th><th></th></tr></thead>"
        "<tbody><tr><th>x</th><td>1 | 2</td><td></td></tr></tbody></table>"
    )
    assert readme.markdown_table(html) == "| name | a | b |\n| --- | --- | --- |\n| x | 1 \\| 2 |  |"


def test_page_of_a_small_notebook(tmp_path):
    new = nbformat.v4
    stream = new.new_output("stream", name="stderr", text=f"10%|# | 1/10\rdone in {tmp_path}\n")
    bar = new.new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0%|"}
    )
    code = new.new_code_cell("x = 1\n\n\ny = 2", metadata={"tags": ["pipeline"]}, outputs=[bar, stream])
    volatile = new.new_code_cell(
        "z", metadata={"tags": ["volatile"]}, outputs=[new.new_output("execute_result", {"text/plain": "9"})]
    )
    notebook = new.new_notebook(
        cells=[new.new_markdown_cell("# Title"), new.new_markdown_cell("## One `a`"), code, volatile]
    )
    text, plots = readme.make_readme(notebook, tmp_path)
    assert plots == {}
    assert "- [One `a`](#one-a)" in text
    assert "*in `pipeline.py`:*\n\n```python\nx = 1\n\n\ny = 2\n```\n\n```text\ndone in /path/to/project\n```" in text
    assert text.index("<!-- volatile") < text.index("```text\n9\n```") < text.index("<!-- /volatile -->")
    assert "model_id" not in text
    assert "\n\n\n\n" not in text
