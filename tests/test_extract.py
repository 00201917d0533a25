"""The extractor on small notebooks, good and bad."""

import json
import subprocess
import sys

import nbformat
import pytest

from notebook_tools.extract import main, unhide


def percent(*cells):
    """A percent-format notebook of cells; a cell is (header, source)."""
    return "\n\n".join(f"# %% {header}\n{source}".replace(" \n", "\n", 1) for header, source in cells) + "\n"


@pytest.fixture
def notebook(tmp_path):
    """Writes a notebook and extracts from it; returns exit code and the folder of the scripts."""

    def run(text, *arguments, name="small.py"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        out = tmp_path / "out"
        return main(["--notebook", str(path), "--out", str(out), *arguments]), out

    return run


TWO_CELLS = percent(
    ('tags=["model_training"]', "# hide import argparse\na = 1"),
    ("[markdown]", "# text"),
    ("", "not_ours = 1"),
    ('tags=["model_training"]', "b = a"),
    ('tags=["pipeline"]', "c = 3"),
)


def test_cells_of_one_tag_are_joined_in_order(notebook):
    code, out = notebook(TWO_CELLS)
    assert code == 0
    header, *rest = (out / "model_training.py").read_text().split("\n", 1)
    assert header.startswith("# Generated from small.py")
    assert rest == ["\nimport argparse\na = 1\n\nb = a\n"]
    assert (out / "pipeline.py").read_text().endswith("\nc = 3\n")
    assert sorted(path.name for path in out.iterdir()) == ["model_training.py", "pipeline.py"]


def test_first_line_comment_counts_as_tag(notebook):
    text = percent(("", "# model_training\na = 1"), ("", "# model_training and more\nb = 2"), ("", "# pipeline\nc = 3"))
    _, out = notebook(text)
    assert (out / "model_training.py").read_text().endswith("\n\na = 1\n")
    assert "b = 2" not in "".join(path.read_text() for path in out.iterdir())


def test_ipynb_and_light_format(notebook):
    cells = [nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["pipeline"]})]
    cells.append(nbformat.v4.new_code_cell("# model_training\ny = 2"))
    _, out = notebook(nbformat.writes(nbformat.v4.new_notebook(cells=cells)), name="old.ipynb")
    assert (out / "pipeline.py").read_text().endswith("\n\nx = 1\n")
    assert (out / "model_training.py").read_text().endswith("\n\ny = 2\n")
    (out / "model_training.py").unlink()
    notebook('# + tags=["pipeline"]\nx = 5\n# -\n', name="light.py")
    assert (out / "pipeline.py").read_text().endswith("\n\nx = 5\n")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("# hide x = 1", "x = 1"),
        ("if a:\n    # hide b = 1\n    c = 2", "if a:\n    b = 1\n    c = 2"),
        ("# hide if a:\n# hide     b = 1", "if a:\n    b = 1"),
        ("f(\n    # hide 1,\n    2,\n)", "f(\n    1,\n    2,\n)"),
        ('text = """\n# hide me not\n"""', 'text = """\n# hide me not\n"""'),
        ("x = '# hide y'", "x = '# hide y'"),
        ("x = 1  # hide y = 2", "x = 1  # hide y = 2"),
        ("# hidden treasure\n#hide z = 1", "# hidden treasure\n#hide z = 1"),
        ("# hide # hide x = 1", "# hide x = 1"),
        ("é = 'ü'\n# hide ö = 'ß'", "é = 'ü'\nö = 'ß'"),
    ],
)
def test_unhide(source, expected):
    assert unhide(source) == expected


def test_writing_twice_changes_nothing(notebook, capsys):
    _, out = notebook(TWO_CELLS)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert notebook(TWO_CELLS)[0] == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert "0 script(s) changed" in capsys.readouterr().out


def test_check(notebook, capsys):
    code, out = notebook(TWO_CELLS, "--check")
    assert code == 1
    assert not out.exists()
    notebook(TWO_CELLS)
    capsys.readouterr()
    assert notebook(TWO_CELLS, "--check")[0] == 0
    assert capsys.readouterr().out == ""
    (out / "pipeline.py").write_text("c = 4\n")
    assert notebook(TWO_CELLS, "--check")[0] == 1
    diff = capsys.readouterr().out
    assert "-c = 4\n" in diff
    assert "+c = 3\n" in diff
    assert (out / "pipeline.py").read_text() == "c = 4\n"


def test_only_the_named_scripts(notebook):
    code, out = notebook(TWO_CELLS, "pipeline.py")
    assert code == 0
    assert [path.name for path in out.iterdir()] == ["pipeline.py"]


BAD = {
    "magic": (("a = 1\n# %matplotlib inline",), ["cell 1, line 2", "%matplotlib"]),
    "shell": (("# !ls 'it",), ["cell 1, line 1", "!ls"]),
    "cell magic": (("a = 1", "# %%time\nb = 2"), ["cell 2, line 1", "%%time"]),
    "syntax": (("a = 1", "a = 1\n\ndef f(:\n    pass"), ["cell 2, line 3", "def f(:"]),
    "string": (("a = 1\nb = '''open",), ["cell 1, line 2"]),
    "bracket": (("a = (1,\n2",), ["cell 1, line 1"]),
    "indent": (("if a:\n        b\n    c",), ["cell 1, line 3"]),
    "hidden": (("a = 1\n# hide this is no code",), ["cell 1, line 2"]),
    "await": (("await a",), ["cell 1, line 1"]),
    "conflict": (("# model_training\na = 1",), ["cell 1, line 1", "model_training", "pipeline"]),
    "not together": (("a = 1", "from __future__ import annotations"), ["pipeline"]),
}


@pytest.mark.parametrize(("sources", "words"), BAD.values(), ids=BAD)
def test_bad_cell_is_refused_with_the_place(notebook, capsys, sources, words):
    _, out = notebook(percent(('tags=["model_training"]', "a = 1")), name="good.py")
    before = (out / "model_training.py").read_bytes()
    capsys.readouterr()
    cells = [('tags=["pipeline"]', source) for source in sources]
    code, out = notebook(percent(*cells, ('tags=["model_training"]', "a = 2")))
    message = capsys.readouterr().err
    assert code == 2
    assert message.count("\n") == 1
    for word in ["small.py", *words]:
        assert word in message
    assert (out / "model_training.py").read_bytes() == before
    assert [path.name for path in out.iterdir()] == ["model_training.py"]


@pytest.mark.parametrize("text", ["", percent(("", "a = 1"))])
def test_nothing_tagged(notebook, capsys, text):
    assert notebook(text)[0] == 2
    assert "small.py: no cell is tagged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "name", "word"),
    [
        ("{ no json", "broken.ipynb", "is not a notebook"),
        ('{"a": 1}', "other.ipynb", "is not a notebook"),
        ("text", "file.txt", "neither"),
        (json.dumps({"metadata": {"kernelspec": {"language": "R", "name": "ir", "display_name": "R"}}, "cells": [],
                     "nbformat": 4, "nbformat_minor": 4}), "r.ipynb", "in R, not in Python"),
    ],
)  # fmt: skip
def test_not_a_notebook(notebook, capsys, text, name, word):
    code, out = notebook(text, name=name)
    message = capsys.readouterr().err
    assert code == 2
    assert message.count("\n") == 1
    assert name in message
    assert word in message
    assert not out.exists()


def test_unknown_script_and_missing_notebook(notebook, capsys):
    code, out = notebook(TWO_CELLS, "nonsense")
    assert code == 2
    assert "nonsense" in capsys.readouterr().err
    assert not out.exists()
    assert main(["--notebook", "nowhere.py"]) == 2
    assert "nowhere.py: cannot be read: No such file or directory" in capsys.readouterr().err


def test_a_script_without_cells_is_noticed(notebook, capsys):
    notebook(TWO_CELLS)
    capsys.readouterr()
    assert notebook(percent(('tags=["pipeline"]', "c = 3")), "--check")[0] == 2
    assert "model_training" in capsys.readouterr().err


def test_windows_line_ends_and_byte_order_mark(notebook):
    _, out = notebook(TWO_CELLS)
    plain = (out / "model_training.py").read_bytes()
    notebook(b"\xef\xbb\xbf" + TWO_CELLS.replace("\n", "\r\n").encode())
    assert (out / "model_training.py").read_bytes() == plain


def test_command_line():
    command = [sys.executable, "-m", "notebook_tools.extract", "--check"]
    assert subprocess.run(command, capture_output=True).returncode == 0
