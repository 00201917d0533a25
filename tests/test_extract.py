"""The extractor on small notebooks, good and bad."""

import ast
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import tokenize
from pathlib import Path

import jupytext
import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import config
from notebook_tools.extract import HIDE, main, unhide


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
    "tabs and spaces": (("if a:\n\tb\n        c",), ["cell 1, line 3", "tabs"]),
    "null byte": (("a = 1", "b = '\0'"), ["cell 2", "null byte"]),
    "nested too deeply": (("a = 1", "b = " + "-" * 20_000 + "1"), ["cell 2", "nested too deeply"]),
    "long line": (("a = (" + "1, " * 1000,), ["cell 1, line 1"]),
    "nothing left": (("", "# only a comment"), ["the cells tagged pipeline are empty"]),
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
    assert len(message) < 400
    for word in ["small.py", *words]:
        assert word in message
    assert (out / "model_training.py").read_bytes() == before
    assert [path.name for path in out.iterdir()] == ["model_training.py"]


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
        (ipynb({"source": None}), "null.ipynb", "cell 1, source: None is not"),
        (ipynb({"source": 5}), "number.ipynb", "cell 1, source: 5 is not"),
        (ipynb({"metadata": {"tags": None}}), "null.ipynb", "cell 1, metadata, tags: None is not"),
        (ipynb({"metadata": {"tags": "pipeline"}}), "text.ipynb", "cell 1, metadata, tags: 'pipeline' is not"),
        (ipynb({"metadata": {"tags": [1]}}), "number.ipynb", "cell 1, metadata, tags, 0: 1 is not"),
        (ipynb({"source": "%%bash\nls"}), "bash.ipynb", "cell 1, line 1: `%%bash`"),
        (ipynb({"source": "a = '\ud800'"}), "surrogate.ipynb", "cell 1, line 1: "),
        (percent(("", "a"), ('tags="pipeline"', "a")), "text.py", "tags: 'pipeline' is not of type 'array'"),
        (percent(("", "a"), ('tags=["pipeline"', "a")), "header.py", 'cell 2: its header is not like tags=["model_training"]'),
        (percent(('language="R" tags=["pipeline"]', "# x <- 1")), "r.py", "cell 1, line 1: `%%R`"),
        (percent(("", "a"), ("", "é")).encode("latin-1"), "latin.py", "line 5 is not UTF-8"),
        (TWO_CELLS.encode("utf-16"), "utf16.py", "line 1 is not UTF-8"),
        (percent(('tags=["pipeline"]', 'a = """\n\u2028"""')), "line_end.py", r"line 3 has '\u2028' in it"),
        (bytes(range(256)), "binary.ipynb", "is not UTF-8"),
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
    for end in ["\r\n", "\r"]:
        text = ipynb({"source": f"a = 1{end}# hide b = 2{end}"})
        assert notebook(text, "pipeline", name="windows.ipynb")[0] == 0
        assert (out / "pipeline.py").open(newline="").read().endswith("\n\na = 1\nb = 2\n")
        assert notebook(text, "pipeline", "--check", name="windows.ipynb")[0] == 0


def test_outputs_of_another_language_do_not_matter(notebook):
    picture = {"output_type": "display_data", "metadata": {}, "data": {"text/latex": "$x$", "text/plain": "[1] 1"}}
    for output in [picture, {"output_type": "unheard of"}]:
        _, out = notebook(ipynb({"outputs": [output]}, {"language_info": {"name": "ipython"}}), name="outputs.ipynb")
        assert (out / "pipeline.py").read_text().endswith("\n\na = 1\n")


def test_tabs_and_names_of_other_alphabets(notebook):
    _, out = notebook(percent(('tags=["pipeline"]', 'if größe:\n\tй = "\t😀"\n\t# hide 数 = й')))
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
        st.lists(st.sampled_from([*config.SCRIPTS[:3], "volatile", "not-ours"]), unique=True),
        st.lists(PIECES, max_size=5),
    ),
    min_size=1,
    max_size=6,
)
MANY = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def run_quietly(*arguments):
    """The extractor's exit code, with what it prints to stdout and to stderr."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def extract_in_turn(content, name):
    """Check, extract, extract again and check again; returns the scripts by name, none where the notebook is refused.

    Whatever the notebook: it is refused each time in one line and nothing is written, or it is extracted, a second
    extraction changes nothing, and `--check` finds a difference before the first and none after it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, name), Path(folder, "out")
        path.write_bytes(content)
        words = ["--notebook", path, "--out", out]
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
        assert run_quietly(*words)[1].endswith(": 0 script(s) changed\n")
        assert run_quietly(*words, "--check") == (0, "", "")
        assert {script.name: script.read_bytes() for script in out.iterdir()} == scripts
        return scripts


@MANY
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
            for tag in {*tags} & {*config.SCRIPTS}:
                expected.setdefault(f"{tag}.py", []).extend([code] if ast.parse(code).body else [])
    for name, text in [("n.ipynb", nbformat.writes(notebook)), ("n.py", jupytext.writes(notebook, "py:percent"))]:
        scripts = extract_in_turn(mark + text.replace("\n", line_end).encode(), name)
        if not all(expected.values()):
            assert scripts == {}  # a script without any statement is refused
            continue
        assert set(scripts) == set(expected)
        for script, codes in expected.items():
            lines = [line for line in scripts[script].decode().split("\n")[1:] if line]
            assert lines == [line for code in codes for line in code.split("\n") if line]


@MANY
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


HEADERS = ['# %% tags=["pipeline"]', "# %%", '# + tags=["pipeline"]', "# -", "# pipeline", "%time", "# hide x", "# ---"]
LINES = st.lists(st.sampled_from(HEADERS) | st.text(max_size=10))


@MANY
@given(st.text() | LINES.map("\n".join), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
def test_random_text_is_extracted_or_refused(text, encoding):
    for name in ["n.py", "n.ipynb"]:
        extract_in_turn(text.encode(encoding, errors="ignore"), name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.sampled_from(["tags", "name", "language"]), value),
    max_leaves=5,
)
CELL_FIELDS = st.sampled_from(["cell_type", "source", "metadata", "outputs", "id", "attachments"])
NOTEBOOK_FIELDS = st.sampled_from(["kernelspec", "language_info", "jupytext", "title"])


@MANY
@given(st.dictionaries(CELL_FIELDS, JSON, max_size=2), st.dictionaries(NOTEBOOK_FIELDS, JSON, max_size=1))
def test_random_structure_is_extracted_or_refused(cell, metadata):
    extract_in_turn(ipynb(cell, metadata).encode(), "n.ipynb")


def test_command_line():
    command = [sys.executable, "-m", "notebook_tools.extract", "--check"]
    assert subprocess.run(command, capture_output=True).returncode == 0
