"""The extractor on small notebooks, good and bad."""

import ast
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tokenize
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from notebook_tools.extract import HIDE, ExtractError, check_pair, main, read_notebook, unhide

SCRIPTS = ["model_training", "pipeline"]


def percent(*cells):
    """A percent-format notebook of cells; a cell is (header, source)."""
    return "\n\n".join(f"# %% {header}\n{source}".replace(" \n", "\n", 1) for header, source in cells) + "\n"


def write_settings(notebooks, scripts=SCRIPTS, out="out"):
    Path("pyproject.toml").write_text(
        f"[tool.notebook-extract]\nnotebooks = {notebooks}\nout = {out!r}\nscripts = {scripts}\n"
    )


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Writes a notebook and the settings, and extracts; returns exit code and the folder of the scripts."""
    monkeypatch.chdir(tmp_path)

    def run(text, *arguments, name="small.py", scripts=SCRIPTS):
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        write_settings([name], scripts)
        return main(list(arguments)), Path("out")

    return run


def tagged(source, tag="pipeline"):
    """A percent-format notebook of one tagged cell."""
    return percent((f'tags=["{tag}"]', source))


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
    assert header == "# Generated from small.py by notebook_tools/extract.py: do not edit, change the notebook."
    assert rest == ["\nimport argparse\na = 1\n\nb = a\n"]
    assert (out / "pipeline.py").read_text().endswith("\nc = 3\n")
    assert sorted(path.name for path in out.iterdir()) == ["__init__.py", "model_training.py", "pipeline.py"]
    assert ast.get_docstring(ast.parse((out / "__init__.py").read_text())).startswith("Made from the notebooks")


def test_first_line_comment_counts_as_tag(notebook):
    text = percent(
        ("", "# model_training\na = 1"),
        ("", "# model_training and more\nb = 2"),
        ("", "\n \n# pipeline\nc = 3"),
        ('tags=["parameters"]', "# pipeline\nd = 4"),
        ('tags=["remove-input", "model_training"]', "e = 5"),
    )
    _, out = notebook(text)
    assert (out / "model_training.py").read_text().endswith("\n\na = 1\n\ne = 5\n")
    assert (out / "pipeline.py").read_text().endswith("\n\nc = 3\n\nd = 4\n")


def test_ipynb_and_light_format(notebook):
    cells = [nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["pipeline"]})]
    cells.append(nbformat.v4.new_code_cell("# model_training\ny = 2"))
    _, out = notebook(nbformat.writes(nbformat.v4.new_notebook(cells=cells)), name="old.ipynb")
    assert (out / "pipeline.py").read_text().endswith("\n\nx = 1\n")
    assert (out / "model_training.py").read_text().endswith("\n\ny = 2\n")
    (out / "model_training.py").unlink()
    notebook('# + tags=["pipeline"]\nx = 5\n# -\n', name="light.py", scripts=["pipeline"])
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
    assert "out: 0 file(s) changed" in capsys.readouterr().out


def test_check(notebook, capsys):
    code, out = notebook(TWO_CELLS, "--check")
    assert code == 1
    assert not out.exists()
    notebook(TWO_CELLS)
    capsys.readouterr()
    assert notebook(TWO_CELLS, "--check")[0] == 0
    assert capsys.readouterr().out == ""
    (out / "pipeline.py").write_text("c = 4\n")
    (out / "__init__.py").unlink()
    assert notebook(TWO_CELLS, "--check")[0] == 1
    diff = capsys.readouterr().out
    assert "-c = 4\n" in diff
    assert "+c = 3\n" in diff
    assert '+"""Made from' in diff
    assert (out / "pipeline.py").read_text() == "c = 4\n"


def test_only_the_named_scripts(notebook):
    code, out = notebook(TWO_CELLS, "pipeline.py")
    assert code == 0
    assert sorted(path.name for path in out.iterdir()) == ["__init__.py", "pipeline.py"]
    assert notebook(TWO_CELLS, "pipeline", "--check")[0] == 0


def test_a_file_that_no_notebook_makes(notebook, capsys):
    _, out = notebook(TWO_CELLS)
    (out / "old_step.py").write_text("a = 1\n")
    (out / "notes.txt").write_text("nobody's business")
    text = TWO_CELLS.replace("c = 3", "c = 4")
    capsys.readouterr()
    assert notebook(text)[0] == 2
    assert capsys.readouterr().err == "error: out/old_step.py: no notebook makes this file: remove it\n"
    assert (out / "pipeline.py").read_text().endswith("c = 3\n")
    assert notebook(TWO_CELLS, "--check")[0] == 1
    assert capsys.readouterr().out == "out/old_step.py: no notebook makes this file: remove it\n"
    assert notebook(text, "pipeline")[0] == 0
    (out / "old_step.py").unlink()
    assert notebook(text, "--check")[0] == 0


def test_several_notebooks(notebook, capsys, monkeypatch):
    notebook(tagged("a = 1", "model_training"))
    Path("chapters", "more").mkdir(parents=True)
    Path("chapters/one.py").write_text(tagged("b = 2"))
    Path("chapters/two.py").write_text(percent(("", "c = 3")))
    write_settings(["small.py", "chapters/*.py"])
    monkeypatch.chdir("chapters/more")
    assert main([]) == 0
    monkeypatch.chdir("../..")
    assert Path("out/pipeline.py").read_text().startswith("# Generated from chapters/one.py by ")
    assert main(["--check"]) == 0
    Path("chapters/two.py").write_text(tagged("b = 3"))
    capsys.readouterr()
    assert main([]) == 2
    message = capsys.readouterr().err
    assert (
        message
        == "error: pipeline has cells in chapters/one.py and in chapters/two.py: move them into one of the two\n"
    )
    assert Path("out/pipeline.py").read_text().endswith("b = 2\n")


@pytest.mark.parametrize("out", [".", "folder/.."])
def test_a_notebook_is_never_overwritten(notebook, capsys, out):
    text = tagged("a = 1", "small")
    assert notebook(text, "--out", out, scripts=["small"])[0] == 2
    assert "small.py: lies in the folder of the scripts" in capsys.readouterr().err
    assert Path("small.py").read_text() == text
    assert not Path("__init__.py").exists()


def test_arguments_do_without_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("nb.py").write_text(TWO_CELLS)
    assert main(["--notebook", "nb.py", "--out", "made"]) == 2
    assert capsys.readouterr().err == (
        "error: no scripts given, neither here nor in [tool.notebook-extract] of a pyproject.toml\n"
    )
    assert main(["--notebook", str(tmp_path / "nb.py"), "--out", "made", "pipeline"]) == 0
    assert Path("made/pipeline.py").read_text().startswith("# Generated from nb.py by")


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ("notebooks = [", "cannot be read: "),
        ("[[tool.notebook-extract]]", "cannot be read: "),
        ("", "needs a list of names: notebooks = "),
        ('out = "out"\nscripts = ["pipeline"]', "needs a list of names: notebooks = "),
        ('notebooks = ["small.py"]\nout = "out"\nscripts = "pipeline"', "needs a list of names: scripts = "),
        ('notebooks = ["small.py"]\nout = "out"\nscripts = [1]', "needs a list of names: scripts = "),
        ('notebooks = ["small.py"]\nscripts = ["pipeline"]', 'needs the folder of the scripts: out = '),
        ('notebooks = ["other.py"]\nout = "out"\nscripts = ["pipeline"]', "names other.py: there is no such notebook"),
        ('notebooks = ["small.py"]\nout = "out"\nscripts = ["../a"]', "'../a' cannot be the name of a script"),
        ('notebooks = ["small.py"]\nout = "out"\nscripts = ["pipeline", "missing"]', "small.py: no cell is tagged missing"),
        ('notebooks = ["small.py"]\nout = "small.py/out"\nscripts = ["pipeline"]', "out: cannot be written: Not a directory"),
    ],
)  # fmt: skip
def test_bad_settings(notebook, capsys, table, word):
    notebook(TWO_CELLS)
    Path("pyproject.toml").write_text(f"[tool.notebook-extract]\n{table}\n")
    capsys.readouterr()
    Path("out/pipeline.py").write_text("")
    assert main([]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert word in message
    assert Path("out/pipeline.py").read_text() == ""


def test_settings_are_those_of_the_nearest_table(notebook, monkeypatch):
    notebook(TWO_CELLS)
    Path("inner").mkdir()
    Path("inner/pyproject.toml").write_text("[tool.ruff]\nline-length = 120\n")
    monkeypatch.chdir("inner")
    assert main(["--check"]) == 0
    write_settings(["nowhere.py"])
    assert main(["--check"]) == 2
    write_settings(["../small.py"], out="made")
    assert main([]) == 0
    assert Path("made/pipeline.py").read_text().startswith("# Generated from small.py by ")


def test_the_mode_of_a_script_stays(notebook):
    _, out = notebook(TWO_CELLS)
    (out / "pipeline.py").chmod(0o755)
    notebook(TWO_CELLS.replace("c = 3", "c = 4"))
    assert [(out / f"{name}.py").stat().st_mode & 0o777 for name in SCRIPTS] == [0o644, 0o755]


BAD = {
    "magic": (("a = 1\n%matplotlib inline",), ["cell 1, line 2: `%matplotlib inline` works in a notebook only"]),
    "shell": (("!ls 'it",), ["cell 1, line 1: `!ls 'it` works in a notebook only"]),
    "shell, assigned": (("a = 1", "files = !ls"), ["cell 2, line 1: `files = !ls` works in a notebook only"]),
    "shell, with options": (("rm -r mlruns",), ["cell 1, line 1: `rm -r mlruns` works in a notebook only"]),
    "help": (("a = 1\na?",), ["cell 1, line 2: `a?` works in a notebook only"]),
    "help, before": (("?a",), ["cell 1, line 1: `?a` works in a notebook only"]),
    "cell magic": (("a = 1", "%%time\nb = 2"), ["cell 2, line 1: `%%time` works in a notebook only"]),
    "no magic": (('a = """\n%d files\n"""\n# rm -r it\nb = = 2',), ["cell 1, line 5: invalid syntax: `b = = 2`"]),
    "syntax": (("a = 1", "a = 1\n\ndef f(:\n    pass"), ["cell 2, line 3", "def f(:"]),
    "string": (("a = 1\nb = '''open",), ["cell 1, line 2"]),
    "bracket": (("a = (1,\n2",), ["cell 1, line 1"]),
    "indent": (("if a:\n        b\n    c",), ["cell 1, line 3"]),
    "hidden": (
        ("a = 1\n# hide this is no code",),
        ["cell 1, line 2: un-hidden, this is not code", "`# hide this is no code`"],
    ),
    "hidden, one word": (("x = 1\n# hide legend",), ["cell 1, line 2: un-hidden, this is not code", "`# hide legend`"]),
    "hidden, words": (("# hide ticks, legend or grid",), ["cell 1, line 1: un-hidden, this is not code"]),
    "await": (("await a",), ["cell 1, line 1"]),
    "conflict": (("# model_training\na = 1",), ["cell 1, line 1", "model_training", "pipeline"]),
    "tabs and spaces": (("if a:\n\tb\n        c",), ["cell 1, line 3", "tabs"]),
    "null byte": (("a = 1", "b = '\0'"), ["cell 2", "null byte"]),
    "nested too deeply": (("a = 1", "b = " + "-" * 20_000 + "1"), ["cell 2", "nested too deeply"]),
    "long line": (("a = (" + "1, " * 1000,), ["cell 1, line 1"]),
    "nothing left": (("", "# only a comment"), ["the cells tagged pipeline are empty"]),
    "not together": (("a = 1", "from __future__ import annotations"), ["pipeline"]),
}


@pytest.mark.parametrize(("sources", "words"), BAD.values(), ids=BAD)
def test_bad_cell_is_refused_with_the_place(notebook, capsys, sources, words):
    _, out = notebook(tagged("a = 1", "model_training"), name="good.py", scripts=["model_training"])
    before = (out / "model_training.py").read_bytes()
    capsys.readouterr()
    cells = [('tags=["pipeline"]', source) for source in sources]
    code, out = notebook(percent(*cells, ('tags=["model_training"]', "a = 2")))
    message = capsys.readouterr().err
    assert code == 2
    assert message.count("\n") == 1
    assert len(message) < 400
    for word in ["small.py", *words]:
        assert word in message
    assert (out / "model_training.py").read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == ["__init__.py", "model_training.py"]


@pytest.mark.parametrize(
    "comment", ["# rm -r mlruns", "# copy of b", "# !ls", "# files = !ls", "# %matplotlib inline", "# a?", "# %%time"]
)
def test_a_comment_stays_a_comment(notebook, comment):
    for name, text in [("small.py", tagged(f"a = 1\n{comment}")), ("n.ipynb", ipynb({"source": f"a = 1\n{comment}"}))]:
        code, out = notebook(text, name=name, scripts=["pipeline"])
        assert code == 0
        assert (out / "pipeline.py").read_text().endswith(f"\n\na = 1\n{comment}\n")


@pytest.mark.parametrize(
    "header",
    ["Load the data (n=10)", "step {1}", "step {1: 2}", "{a}", "Tag the pipeline", "a == b", "[markdown] {1}", "x=y"],
)
def test_a_strange_title_elsewhere_stops_nothing(notebook, header):
    code, out = notebook(percent((header, "x = 1"), ('tags=["pipeline"]', "y = 2")), scripts=["pipeline"])
    assert code == 0
    assert (out / "pipeline.py").read_text().endswith("notebook.\n\ny = 2\n")


@pytest.mark.parametrize(
    "header",
    ['tags=["pipeline"', "tags=[pipeline]", 'tags: ["pipeline"]', 'tag=["pipeline"]', 'Tags=["pipeline"]',
     '{"tags": ["pipeline"]', 'step {1} tags=["pipeline"]', "tags=[“pipeline”]"],
)  # fmt: skip
def test_a_header_that_would_lose_a_cell(notebook, capsys, header):
    text = percent(('tags=["pipeline"]', "x = 1"), (header, "y = 2"))
    assert notebook(text, scripts=["pipeline"])[0] == 2
    assert 'small.py: cell 2: its header is not like tags=["pipeline"]: ' in capsys.readouterr().err


def test_a_header_without_a_space(notebook, capsys):
    text = percent(('tags=["model_training"]', "x = 1")) + '\n# %%tags=["pipeline"]\ny = 2\n'
    assert notebook(text, scripts=["model_training"])[0] == 2
    assert 'small.py: line 4: `# %%tags=["pipeline"]` needs a space after %%' in capsys.readouterr().err


OLD = {"metadata": {"name": ""}, "nbformat": 3, "nbformat_minor": 0, "worksheets": [{"metadata": {}, "cells": [
    {"cell_type": "code", "collapsed": False, "input": ["# pipeline\n", "y = 2"], "language": "python",
     "metadata": {}, "outputs": []}]}]}  # fmt: skip


def test_notebooks_of_other_formats(notebook):
    """Of nbformat 3, and of 4.4 with the identifiers that came with 4.5."""
    for text in [json.dumps(OLD), ipynb({"id": "a1", "source": ["y = 2"]})]:
        code, out = notebook(text, name="old.ipynb", scripts=["pipeline"])
        assert code == 0
        assert (out / "pipeline.py").read_text().endswith("\n\ny = 2\n")
        (out / "pipeline.py").unlink()


def write_pair(text, magics=False):
    """`small.py` and the notebook with its outputs, made from it and then newer."""
    Path("small.py").write_text(text)
    jupytext.write(read_notebook("small.py", magics), "small.ipynb")
    make_newer("small.ipynb", "small.py")


def make_newer(path, other):
    time = Path(other).stat().st_mtime + 10
    os.utime(path, (time, time))


@pytest.mark.parametrize(
    ("old", "new"), [("c = 3", "c = 4"), ("# text", "# other text"), ('"pipeline"', '"pipeline", "remove-input"')]
)
def test_changes_in_the_ipynb_are_not_lost(tmp_path, monkeypatch, capsys, old, new):
    """The command that the message gives brings them over; where the `.py` is newer, it counts."""
    monkeypatch.chdir(tmp_path)
    text = TWO_CELLS
    write_settings(["small.py"])
    write_pair(text.replace(old, new))
    Path("small.py").write_text(text)
    make_newer("small.ipynb", "small.py")
    for words in [[], ["--check"]]:
        assert main(words) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: small.ipynb: has changes that small.py lacks: bring them over with `")
    assert not Path("out").exists()
    make_newer("small.py", "small.ipynb")
    check_pair("small.py")
    make_newer("small.ipynb", "small.py")
    Path("jupytext.toml").write_text((ROOT / "jupytext.toml").read_text())
    command = re.search("`(.*)`", message)[1].split()
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    assert main([]) == 0
    assert new in Path("small.py").read_text()


@pytest.mark.parametrize("magics", [False, True])
def test_an_ipynb_without_changes_does_not_matter(tmp_path, monkeypatch, magics):
    """Whether we made it or Jupytext, which takes some comments for commands."""
    monkeypatch.chdir(tmp_path)
    write_pair(TWO_CELLS + "\n# %%\n# rm -r mlruns\n# %matplotlib inline\n", magics)
    check_pair("small.py")
    changed = read_notebook("small.ipynb")
    changed.cells[-1].source = changed.cells[-1].source.replace("mlruns", "data")
    jupytext.write(changed, "small.ipynb")
    make_newer("small.ipynb", "small.py")
    with pytest.raises(ExtractError):
        check_pair("small.py")


@pytest.mark.parametrize("text", ["", percent(("", "a = 1"))])
def test_nothing_tagged(notebook, capsys, text):
    assert notebook(text)[0] == 2
    assert "small.py: no cell is tagged" in capsys.readouterr().err


def ipynb(cell=None, metadata=None):
    """The text of a notebook of one cell, a code cell tagged `pipeline` but for the given fields."""
    cell = {"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["pipeline"]}, "outputs": [],
            "execution_count": None} | (cell or {})  # fmt: skip
    return json.dumps({"metadata": metadata or {}, "cells": [cell], "nbformat": 4, "nbformat_minor": 4})


@pytest.mark.parametrize(
    ("text", "name", "word"),
    [
        ("", "empty.ipynb", "is not a notebook"),
        ("{ no json", "broken.ipynb", "is not a notebook"),
        ('{"a": 1}', "other.ipynb", "is not a notebook"),
        ("[" * 100_000, "deep.ipynb", "is not a notebook"),
        ("text", "file.txt", "neither"),
        (ipynb(metadata={"kernelspec": {"language": "R", "name": "ir"}}), "r.ipynb", "in 'R', not in Python"),
        (ipynb(metadata={"language_info": {"name": "julia"}}), "julia.ipynb", "in 'julia', not in Python"),
        (ipynb(metadata={"language_info": {"name": "\n"}}), "lines.ipynb", "not in Python"),
        (ipynb(metadata={"kernelspec": None}), "null.ipynb", "metadata, kernelspec: None is not"),
        (ipynb({"cell_type": None}), "null.ipynb", "is not a notebook"),
        (ipynb({"id": "a", "source": None}), "masked.ipynb", "cell 1, source: None is not"),
        (ipynb({"id": "a", "source": {}}), "masked.ipynb", "cell 1, source: {} is not"),
        (ipynb({"id": "a", "metadata": {"tags": None}}), "masked.ipynb", "cell 1, metadata, tags: None is not"),
        (ipynb({"source": None}), "null.ipynb", "cell 1, source: None is not"),
        (ipynb({"source": 5}), "number.ipynb", "cell 1, source: 5 is not"),
        (ipynb({"metadata": {"tags": None}}), "null.ipynb", "cell 1, metadata, tags: None is not"),
        (ipynb({"metadata": {"tags": "pipeline"}}), "text.ipynb", "cell 1, metadata, tags: 'pipeline' is not"),
        (ipynb({"metadata": {"tags": [1]}}), "number.ipynb", "cell 1, metadata, tags, 0: 1 is not"),
        (ipynb({"source": "%%bash\nls"}), "bash.ipynb", "cell 1, line 1: `%%bash`"),
        (ipynb({"source": "a = '\ud800'"}), "surrogate.ipynb", "cell 1, line 1: "),
        (percent(("", "a"), ('tags="pipeline"', "a")), "text.py", "tags: 'pipeline' is not of type 'array'"),
        (percent(('language="R" tags=["pipeline"]', "# x <- 1")), "r.py", "cell 1, line 1: `%%R`"),
        (percent(("", "a"), ("", "é")).encode("latin-1"), "latin.py", "line 5 is not UTF-8"),
        (TWO_CELLS.encode("utf-16"), "utf16.py", "line 1 is not UTF-8"),
        (percent(('tags=["pipeline"]', 'a = """\n\u2028"""')), "line_end.py", r"line 3 has '\u2028' in it"),
        (bytes(range(256)), "binary.ipynb", "is not UTF-8"),
    ],
)  # fmt: skip
def test_not_a_notebook(notebook, capsys, text, name, word):
    code, out = notebook(text, name=name, scripts=["pipeline"])
    message = capsys.readouterr().err
    assert code == 2
    assert message.count("\n") == 1
    assert name in message
    assert word in message
    assert not out.exists()


def test_unknown_script_and_missing_notebook(notebook, capsys):
    code, out = notebook(TWO_CELLS, "nonsense")
    assert code == 2
    assert "no cell is tagged nonsense" in capsys.readouterr().err
    assert not out.exists()
    assert main(["--notebook", "nowhere.py"]) == 2
    assert "nowhere.py: cannot be read: No such file or directory" in capsys.readouterr().err


def test_windows_line_ends_and_byte_order_mark(notebook):
    _, out = notebook(TWO_CELLS)
    plain = (out / "model_training.py").read_bytes()
    notebook(b"\xef\xbb\xbf" + TWO_CELLS.replace("\n", "\r\n").encode())
    assert (out / "model_training.py").read_bytes() == plain
    for end in ["\r\n", "\r"]:
        text = ipynb({"source": f"a = 1{end}# hide b = 2{end}"})
        assert notebook(text, "pipeline", name="windows.ipynb")[0] == 0
        assert (out / "pipeline.py").open(newline="").read().endswith("\n\na = 1\nb = 2\n")
        assert notebook(text, "pipeline", "--check", name="windows.ipynb")[0] == 0


def test_outputs_of_another_language_do_not_matter(notebook):
    picture = {"output_type": "display_data", "metadata": {}, "data": {"text/latex": "$x$", "text/plain": "[1] 1"}}
    for output in [picture, {"output_type": "unheard of"}]:
        _, out = notebook(
            ipynb({"outputs": [output]}, {"language_info": {"name": "ipython"}}),
            name="outputs.ipynb",
            scripts=["pipeline"],
        )
        assert (out / "pipeline.py").read_text().endswith("\n\na = 1\n")


def test_tabs_and_names_of_other_alphabets(notebook):
    _, out = notebook(tagged('if größe:\n\tй = "\t😀"\n\t# hide 数 = й'), scripts=["pipeline"])
    assert (out / "pipeline.py").read_text("utf-8").endswith('\n\nif größe:\n\tй = "\t😀"\n\t数 = й\n')


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\xef\xbb\xbfc = 3\n"])
def test_a_damaged_script_is_made_anew(notebook, content):
    _, out = notebook(TWO_CELLS)
    good = (out / "pipeline.py").read_bytes()
    (out / "pipeline.py").write_bytes(content)
    assert notebook(TWO_CELLS, "--check")[0] == 1
    assert notebook(TWO_CELLS)[0] == 0
    assert (out / "pipeline.py").read_bytes() == good


def test_a_folder_in_place_of_a_script(notebook, capsys):
    _, out = notebook(TWO_CELLS)
    (out / "pipeline.py").unlink()
    (out / "pipeline.py").mkdir()
    capsys.readouterr()
    assert notebook(TWO_CELLS)[0] == 2
    assert capsys.readouterr().err == f"error: {out}/pipeline.py: cannot be read: Is a directory\n"


# Random notebooks. A piece of code is a pair: as it stands in the notebook, and as it should stand in the script.
WORDS = st.text("ab é#'\"\\{}%", max_size=8)
PIECES = st.one_of(
    st.sampled_from(
        [
            ("x = 1", "x = 1"),
            ("# hide y = 2", "y = 2"),
            ("if x:\n    pass\n    # hide y = 3", "if x:\n    pass\n    y = 3"),
            ("if x:\n\t# hide y = 3\n\tz = 4", "if x:\n\ty = 3\n\tz = 4"),
            ("f(\n    # hide 1,\n)", "f(\n    1,\n)"),
            ("# hide def f():\n# hide     return 5", "def f():\n    return 5"),
            ("def g(größe):\n    return größe", "def g(größe):\n    return größe"),
            ("", ""),
        ]
    ),
    WORDS.map(lambda words: (f"# hide # {words}", f"# {words}")),
    WORDS.map(lambda words: (f"x = {words!r}  # hide {words}",) * 2),
    WORDS.map(lambda words: ('x = r"""\n# hide ' + words.replace('"', "") + ' .\n"""',) * 2),
)
CELLS = st.lists(
    st.tuples(
        st.sampled_from(["code", "code", "markdown", "raw"]),
        st.lists(st.sampled_from([*SCRIPTS, "volatile", "not-ours"]), unique=True),
        st.lists(PIECES, max_size=5),
    ),
    min_size=1,
    max_size=6,
)


def run_quietly(*arguments):
    """The extractor's exit code, with what it prints to stdout and to stderr."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def extract_in_turn(content, name, wanted=("pipeline",)):
    """Check, extract, extract again and check again; returns the scripts by name, none where the notebook is refused.

    Whatever the notebook: it is refused each time in one line and nothing is written, or it is extracted, a second
    extraction changes nothing, and `--check` finds a difference before the first and none after it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, name), Path(folder, "out")
        path.write_bytes(content)
        words = ["--notebook", path, "--out", out, *wanted]
        before = run_quietly(*words, "--check")
        assert not out.exists()
        code, _, message = run_quietly(*words)
        if code:
            assert (code, message.count("\n"), message[:7]) == (2, 1, "error: ")
            assert before == (2, "", message)
            assert not out.exists()
            return {}
        assert before[0] == 1 and before[1].startswith("--- ")
        scripts = {script.name: script.read_bytes() for script in out.iterdir()}
        assert run_quietly(*words)[1].endswith(": 0 file(s) changed\n")
        assert run_quietly(*words, "--check") == (0, "", "")
        assert {script.name: script.read_bytes() for script in out.iterdir()} == scripts
        return scripts


@given(CELLS, st.sampled_from(["\n", "\r\n"]), st.sampled_from([b"", b"\xef\xbb\xbf"]))
def test_random_notebooks(cells, line_end, mark):
    """Each script has the code of its cells, in order, with what was hidden; from .ipynb and .py it is the same."""
    new = {
        "code": nbformat.v4.new_code_cell,
        "markdown": nbformat.v4.new_markdown_cell,
        "raw": nbformat.v4.new_raw_cell,
    }
    notebook = nbformat.v4.new_notebook()
    expected = {}
    for kind, tags, pieces in cells:
        source, code = ["\n".join(part) for part in zip(*pieces, strict=True)] or ["", ""]
        notebook.cells.append(new[kind](source, metadata={"tags": tags} if tags else {}))
        if kind == "code":
            assert unhide(source) == code
            for tag in {*tags} & {*SCRIPTS}:
                expected.setdefault(tag, []).extend([code] if ast.parse(code).body else [])
    for name, text in [("n.ipynb", nbformat.writes(notebook)), ("n.py", jupytext.writes(notebook, "py:percent"))]:
        scripts = extract_in_turn(mark + text.replace("\n", line_end).encode(), name, expected or ["pipeline"])
        if not expected or not all(expected.values()):
            assert scripts == {}  # a script without any statement is refused
            continue
        assert set(scripts) == {f"{script}.py" for script in expected} | {"__init__.py"}
        for script, codes in expected.items():
            lines = [line for line in scripts[f"{script}.py"].decode().split("\n")[1:] if line]
            assert lines == [line for code in codes for line in code.split("\n") if line]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", " ", "\t", "x = 1 ", "'''", '"""', "f('''", "\\"]),
            st.sampled_from([HIDE, HIDE, "# hide", "#  hide ", ""]),
            WORDS,
        )
    )
)
def test_unhiding_keeps_every_other_byte(lines):
    """Of whatever is Python, each line stays as it is, or loses the mark that it begins with."""
    source = "\n".join("".join(line) for line in lines)
    try:
        result = unhide(source).split("\n")
    except (SyntaxError, tokenize.TokenError):
        return
    for before, after in zip(source.split("\n"), result, strict=True):
        indent = before[: len(before) - len(before.lstrip())]
        assert after in {before, indent + before[len(indent) :].removeprefix(HIDE)}


HEADERS = ['# %% tags=["pipeline"]', "# %%", '# + tags=["pipeline"]', "# -", "# pipeline", "%time", "# hide x", "# ---",
           "# %% step {1}", "files = !ls", "# rm -r x", "# hide legend"]  # fmt: skip
LINES = st.lists(st.sampled_from(HEADERS) | st.text(max_size=10))


@given(st.text() | LINES.map("\n".join))
def test_random_text_is_extracted_or_refused(text):
    extract_in_turn(text.encode(errors="ignore"), "n.py")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.sampled_from(["tags", "name", "language"]), value),
    max_leaves=5,
)
CELL_FIELDS = st.sampled_from(["cell_type", "source", "metadata", "outputs", "id", "attachments"])
NOTEBOOK_FIELDS = st.sampled_from(["kernelspec", "language_info", "jupytext", "title"])


@given(st.dictionaries(CELL_FIELDS, JSON, max_size=2), st.dictionaries(NOTEBOOK_FIELDS, JSON, max_size=1))
def test_random_structure_is_extracted_or_refused(cell, metadata):
    extract_in_turn(ipynb(cell, metadata).encode(), "n.ipynb")


def test_the_scripts_of_the_project():
    command = [sys.executable, "-m", "notebook_tools.extract", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_package_has_the_versions_of_the_project():
    pinned = (ROOT / "requirements.txt").read_text().splitlines()
    assert set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]) <= set(pinned)


@pytest.mark.slow
def test_pre_commit_hook(notebook, tmp_path):
    """Another project uses the hook: pre-commit makes an environment and installs this checkout there."""
    notebook(TWO_CELLS)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "."], check=True)

    def run_hook():
        command = ["pre-commit", "try-repo", str(ROOT), "notebook-extract", "--all-files", "--color", "never"]
        env = os.environ | {"PRE_COMMIT_HOME": str(tmp_path / "cache")}
        result = subprocess.run(command, env=env, capture_output=True, text=True)
        return result.returncode, result.stdout + result.stderr

    code, said = run_hook()
    assert code == 0, said
    assert "Passed" in said
    Path("out/pipeline.py").write_text("c = 4\n")
    code, said = run_hook()
    assert code == 1, said
    assert "- exit code: 1" in said
    assert "+c = 3\n" in said
