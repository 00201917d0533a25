"""The pages agree with the notebooks, and what makes them does what it says."""

import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from support import PAGE, ROOT

from notebook_tools import readme
from notebook_tools.extract import read_notebook

PAGES = [*readme.pages().values(), "SERVING.md"]
NOTEBOOK = read_notebook(ROOT / "modeling.py")


def test_pages_are_what_the_notebooks_say(capsys):
    assert readme.main(["--check"]) == 0, capsys.readouterr().err
    assert len(PAGES) >= 6


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('metrics=["error", "auc", "logloss"]', 'metrics=["auc"]', "is not in it"),
        ("Which tree depth, which learning rate?", "Which learning rate?", "is not in it"),
        ("](img/runs_list.png)", "](img/no_such.png)", "there is no file img/no_such.png"),
        ("import utils\n", "import utils\nprint(1)\n", "no cell has this line: print(1)"),
    ],
)
def test_a_changed_page_is_noticed(old, new, problem):
    assert old in PAGE
    found = readme.problems(NOTEBOOK, PAGE.replace(old, new, 1), ROOT)
    assert any(problem in line for line in found), found


def test_swapped_cells_are_noticed():
    notebook = read_notebook(ROOT / "modeling.py")
    one, two = [number for number, cell in enumerate(notebook.cells) if cell.cell_type == "code"][3:5]
    notebook.cells[one], notebook.cells[two] = notebook.cells[two], notebook.cells[one]
    assert readme.problems(notebook, PAGE, ROOT)


@pytest.mark.parametrize("page", PAGES)
def test_page_for_everybody(page):
    """Nothing of the machine is on it, nothing wider than a reader sees, and no picture without a description."""
    text = (ROOT / page).read_text()
    assert not re.search(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", text)
    for word in ["/tmp/", "%|", "\x1b", "Traceback", "Warning:", "# hide \n"]:
        assert word not in text
    blocks = re.findall(r"^```(?:python|text|bash)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert [line for block in blocks for line in block.splitlines() if len(line) > readme.WIDTH] == []
    assert all(len(alt) > 10 for alt in re.findall(r"!\[([^]]*)\]", text))


def test_no_picture_is_left_over():
    linked = set()
    for page in PAGES:
        names = re.findall(r"\]\((img/[^)]+)\)", (ROOT / page).read_text())
        linked |= {(ROOT / page).parent / name for name in names}
    assert linked == {*ROOT.glob("img/*"), *ROOT.glob("chapters/img/*")}


def test_sanitise():
    for output, expected in [
        ("3c20904f7c39482ea2113bb02de0b3a1 m-5a1a91f5921b4d93abe1a0623734e333", "<id> m-<id>"),
        ("'2026-11-24 06:41:28.123456' 2026/11/24 06:41:28 INFO x", "'<time>' <time> INFO x"),
        ("http://127.0.0.1:43021/ping, http://127.0.0.1:5000", "http://127.0.0.1:<port>/ping, http://127.0.0.1:5000"),
        ("a\n 50%|█████     | 5/10 [00:03<00:03,  1.65it/s]\nb\n", "a\nb\n"),
        ("/scratch/project/mlruns/1, 188 row(s) in 3.0 ms", "/path/to/project/mlruns/1, 188 row(s) in <n> ms"),
        ("accuracy 0.9580, digest 4b7d0643, 381 rows", "accuracy 0.9580, digest 4b7d0643, 381 rows"),
        ("Using Data 1 of a.user: cancer, 3 training rows", "Using Data 1: cancer, 3 training rows"),
    ]:
        assert readme.sanitise(output, Path("/scratch/project")) == expected


def test_table():
    """Levels of a header become one line, no value moves into the next column, and an empty first row is a row."""
    frame = pd.DataFrame({("s", "min"): ["", 2, "3 | 4"], ("s", "max"): ["", 5, 6]})
    frame.index = pd.MultiIndex.from_tuples([("x", 1), ("x", 2), ("y", 1)])
    table = readme.BeautifulSoup(frame.to_html(), "html.parser").table
    first, _, *lines = readme.markdown_table(table).splitlines()
    assert first.endswith("| s min | s max |")
    assert lines == ["| x | 1 |  |  |", "| x | 2 | 2 | 5 |", "| y | 1 | 3 \\| 4 | 6 |"]


def test_page_of_a_small_notebook(tmp_path):
    def shown(data, **metadata):
        return nbformat.v4.new_output("display_data", data, metadata=metadata)

    def code(source, *outputs, tags=()):
        return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)}, outputs=list(outputs))

    said = f"10%|# | 1/10\rdone in {tmp_path} with ```\n"
    stream = nbformat.v4.new_output("stream", name="stderr", text=said)
    bar = shown({"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "0%|"})
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no " * 300, traceback=["x"])
    two = "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>" * 2
    cells = [
        nbformat.v4.new_markdown_cell("# Title"),
        code("import x", tags=["pipeline", "remove-input"]),
        code("# hide x = read()\nx = 1", tags=["pipeline"]),
        code("y = 2\n# %%\n\n\n\n", bar, stream, shown({"text/html": two}), error, tags=["pipeline"]),
        code("z", shown({"text/plain": "9"}), tags=["volatile"]),
        code("plot()", shown({"image/png": "aGk="}, **{"image/png": {"alt": "A curve, rising"}})),
        code("print()", stream, tags=["remove-output"]),
        code("draw()", shown({"text/html": two.replace(">a<", ">b<")}), tags=["remove-input"]),
    ]
    text, plots = readme.make_page(nbformat.v4.new_notebook(cells=cells), tmp_path)
    assert plots == {"img/plot_a_curve_rising.png": b"hi"}
    assert text.split("ValueError")[0] == (
        "# Title\n\n*in `steps/pipeline.py`:*\n\n```python\nx = 1\n\ny = 2\n# %%\n```\n\n"
        "````text\ndone in /path/to/project with ```\n````\n\n"
        "| a |\n| --- |\n| 1 |\n\n| a |\n| --- |\n| 1 |\n\n```text\n"
    )
    lines = text[text.index("ValueError") :].split("```")[0].splitlines()
    assert len(lines) == 4 and lines[1] == "  …"
    assert text[text.index("```python\nz") :] == (
        "```python\nz\n```\n\n<!-- volatile: another run gives other figures -->\n\n```text\n9\n```\n\n"
        "<!-- /volatile -->\n\n```python\nplot()\n```\n\n![A curve, rising](img/plot_a_curve_rising.png)\n\n"
        "```python\nprint()\n```\n\n| b |\n| --- |\n| 1 |\n\n| b |\n| --- |\n| 1 |\n"
    )
