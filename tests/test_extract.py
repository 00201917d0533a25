"""The extractor on small notebooks, good and bad."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import jupytext
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from notebook_tools.extract import check_pair, main, read_notebook, unhide, write_whole

SCRIPTS = ["model_training", "pipeline"]


def percent(*cells):
    """A percent-format notebook of cells; a cell is (header, source)."""
    return "\n\n".join(f"# %% {header}\n{source}".replace(" \n", "\n", 1) for header, source in cells) + "\n"


def tagged(*sources):
    """A percent-format notebook of cells tagged `pipeline`."""
    return percent(*(('tags=["pipeline"]', source) for source in sources))


def ipynb(cell=None, **metadata):
    """The text of a notebook of one cell, a code cell tagged `pipeline` but for the given fields."""
    cell = {"cell_type": "code", "source": "a = 1", "metadata": {"tags": ["pipeline"]}, "outputs": [],
            "execution_count": None} | (cell or {})  # fmt: skip
    return json.dumps({"metadata": metadata, "cells": [cell], "nbformat": 4, "nbformat_minor": 4})


def write_settings(notebooks, scripts=SCRIPTS, out="out"):
    table = f"[tool.notebook-extract]\nnotebooks = {notebooks}\nout = {out!r}\nscripts = {scripts}\n"
    Path("pyproject.toml").write_text(table)


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Writes a notebook and the settings, and extracts; returns exit code and the folder of the scripts."""
    monkeypatch.chdir(tmp_path)

    def run(text, *arguments, name="small.py", scripts=SCRIPTS):
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        write_settings([name], scripts)
        return main(list(arguments)), Path("out")

    return run


TWO_CELLS = percent(
    ('tags=["model_training"]', "# hide import argparse\na = 1"),
    ("[markdown]", "# text"),
    ("step one, not (ours)", "not_ours = 1"),
    ('tags=["model_training", "other"]', "b = a"),
    ('tags=["pipeline"]', "c = 3"),
)
OLD = {"metadata": {"name": ""}, "nbformat": 3, "nbformat_minor": 0, "worksheets": [{"metadata": {}, "cells": [
    {"cell_type": "code", "collapsed": False, "input": ["# pipeline\n", "y = 2"], "language": "python",
     "metadata": {}, "outputs": []}]}]}  # fmt: skip
GOOD = {
    "first line for a tag": (
        percent(("", "\n \n# pipeline \nb = 2"), ("", "# pipeline and more"), ('tags=["any"]', "# pipeline\nc = 3")),
        "\nb = 2\n\nc = 3\n",
    ),
    "functions": (
        tagged("a = 1\n", "def f():\n    pass", "# text", "b = 2", "c = 3", "class A:\n    pass", "async def f():\n    d"),
        "\na = 1\n\n\ndef f():\n    pass\n\n\nb = 2\n\nc = 3\n\n\nclass A:\n    pass\n\n\nasync def f():\n    d\n",
    ),
    "comments that Jupytext takes for commands": (
        tagged("a = 1\n# rm -r mlruns\n# !ls\n# files = !ls\n# %matplotlib inline\n# a?\n# %%time"),
        "\na = 1\n# rm -r mlruns\n# !ls\n# files = !ls\n# %matplotlib inline\n# a?\n# %%time\n",
    ),
    "Windows": (b"\xef\xbb\xbf" + tagged("a = 1\n# hide b = 2").replace("\n", "\r\n").encode(), "\na = 1\nb = 2\n"),
    "other alphabets": (tagged('if größe:\n\tй = "\t😀"\n\t# hide 数 = й'), '\nif größe:\n\tй = "\t😀"\n\t数 = й\n'),
    "ipynb": (ipynb({"source": ["a = 1\r\n", "# hide b = 2\r# !ls"], "id": "a1"}, language_info={"name": "ipython"}),
              "\na = 1\nb = 2\n# !ls\n"),
    "ipynb, format 3": (json.dumps(OLD), "\ny = 2\n"),
    "ipynb, unknown output": (ipynb({"outputs": [{"output_type": "unheard of"}]}), "\na = 1\n"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), GOOD.values(), ids=GOOD)
def test_script(notebook, text, expected):
    name = "n.ipynb" if text[0] == "{" else "n.py"
    assert notebook(text, name=name, scripts=["pipeline"])[0] == 0
    header = f"# Generated from {name} by notebook_tools/extract.py: do not edit, change the notebook.\n"
    assert Path("out/pipeline.py").read_bytes().decode() == header + expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("# hide x = 1", "x = 1"),
        ("# hide if a:\n# hide     b = 1\n    c = 2", "if a:\n    b = 1\n    c = 2"),
        ("f(\n    # hide 1,\n    2,\n)", "f(\n    1,\n    2,\n)"),
        ('text = """\n# hide me not\n"""', 'text = """\n# hide me not\n"""'),
        ("x = 1  # hide y = 2", "x = 1  # hide y = 2"),
        ("# hidden treasure\n#hide z = 1", "# hidden treasure\n#hide z = 1"),
        ("# hide # hide x = 1", "# hide x = 1"),
        ("é = 'ü'\n# hide ö = 'ß'", "é = 'ü'\nö = 'ß'"),
    ],
)
def test_unhide(source, expected):
    assert unhide(source) == expected


def test_check_and_write(notebook, capsys):
    code, out = notebook(TWO_CELLS, "--check")
    assert code == 1
    assert not out.exists()
    assert notebook(TWO_CELLS, "pipeline.py")[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["__init__.py", "pipeline.py"]
    assert notebook(TWO_CELLS)[0] == 0
    assert capsys.readouterr().out.endswith("wrote out/model_training.py\nout: 1 file(s) changed\n")
    assert (out / "model_training.py").read_text().endswith("\n\nimport argparse\na = 1\n\nb = a\n")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert notebook(TWO_CELLS)[0] == notebook(TWO_CELLS, "--check")[0] == 0
    assert capsys.readouterr().out == "out: 0 file(s) changed\n"
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "pipeline.py").write_bytes(b"c = 4\n\xff")
    (out / "pipeline.py").chmod(0o755)
    (out / "__init__.py").unlink()
    assert notebook(TWO_CELLS, "--check")[0] == 1
    diff = capsys.readouterr().out
    assert "-c = 4\n" in diff and "+c = 3\n" in diff and '+"""Made from' in diff
    assert notebook(TWO_CELLS)[0] == 0
    assert (out / "pipeline.py").read_text().endswith("\n\nc = 3\n")
    assert [(out / f"{name}.py").stat().st_mode & 0o777 for name in SCRIPTS] == [0o644, 0o755]


def test_nobody_sees_half_a_file(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new" * 10_000 + "\ud800")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_file_that_no_notebook_makes(notebook, capsys):
    _, out = notebook(TWO_CELLS)
    (out / "old_step.py").write_text("a = 1\n")
    (out / "notes.txt").write_text("nobody's business")
    capsys.readouterr()
    text = TWO_CELLS.replace("c = 3", "c = 4")
    assert notebook(text)[0] == 2
    assert notebook(TWO_CELLS, "--check")[0] == 1
    said = "out/old_step.py: no notebook makes this file: remove it\n"
    assert capsys.readouterr() == (said, f"error: {said}")
    assert (out / "pipeline.py").read_text().endswith("c = 3\n")
    assert notebook(text, "pipeline")[0] == 0


def test_several_notebooks(notebook, capsys, monkeypatch):
    """From a folder below, and those in folders of folders; the nearest table counts."""
    notebook(tagged("a = 1").replace("pipeline", "model_training"), scripts=["model_training"])
    Path("nb/more/.ipynb_checkpoints").mkdir(parents=True)
    Path("nb/two.py").write_text(percent(("", "c = 3")))
    for folder in ["nb/more", "nb/more/.ipynb_checkpoints"]:
        Path(folder, "one.ipynb").write_text(ipynb())
    write_settings(["small.py", "nb/**/*.ipynb", "nb/*.py", "s*.py"])
    Path("nb/pyproject.toml").write_text("[tool.ruff]\nline-length = 120\n")
    monkeypatch.chdir("nb/more")
    assert main([]) == 0
    assert Path("../../out/pipeline.py").read_text().startswith("# Generated from nb/more/one.ipynb by ")
    monkeypatch.chdir("..")
    Path("two.py").write_text(tagged("b = 3"))
    capsys.readouterr()
    assert main([]) == 2
    assert capsys.readouterr().err == (
        "error: pipeline has cells in ../nb/more/one.ipynb and in ../nb/two.py: move them into one of the two\n"
    )
    write_settings(["two.py"], ["pipeline"], "made")
    assert main([]) == main(["--notebook", "two.py", "--out", "mine", "pipeline"]) == 0
    assert Path("made/pipeline.py").read_text() == Path("mine/pipeline.py").read_text()
    assert Path("made/pipeline.py").read_text().startswith("# Generated from two.py by ")


BAD_SETTINGS = [
    ("notebooks = [", "pyproject.toml: cannot be read: "),
    ("[[tool.notebook-extract]]", "cannot be read: "),
    ("", "needs notebooks = "),
    ('notebooks = ["small.py"]\nout = "out"\nscripts = "pipeline"', "needs notebooks = "),
    ('notebooks = ["other.py"]\nout = "out"\nscripts = ["pipeline"]', "no notebooks here or in"),
    ('notebooks = ["small.py"]\nout = "out"\nscripts = ["../a"]', "'../a' cannot be the name of a script"),
    ('notebooks = ["small.py"]\nout = "out"\nscripts = ["__init__"]', "'__init__' cannot be the name of a script"),
    ('notebooks = ["small.py"]\nout = "out"\nscripts = ["pipeline", "missing"]', "small.py: no cell is tagged missing"),
    ('notebooks = ["small.py"]\nout = "small.py/out"\nscripts = ["pipeline"]', "written: Not a directory"),
    ('notebooks = ["small.py"]\nout = "out/.."\nscripts = ["pipeline"]', "small.py: lies in the folder of the scripts"),
]


@pytest.mark.parametrize(("table", "word"), BAD_SETTINGS)
def test_bad_settings(notebook, capsys, table, word):
    notebook(TWO_CELLS)
    Path("pyproject.toml").write_text(f"[tool.notebook-extract]\n{table}\n")
    capsys.readouterr()
    Path("out/pipeline.py").write_text("")
    assert main([]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert word in message
    assert Path("out/pipeline.py").read_text() == ""
    assert Path("small.py").read_text() == TWO_CELLS


BAD = [
    (tagged("a = 1\n%matplotlib inline"), "cell 1, line 2: works in a notebook only, not in a script: `%matplotlib inline`"),
    (tagged("a = 1", "files = !ls"), "cell 2, line 1: works in a notebook only, not in a script: `files = !ls`"),
    (tagged("a = 1\na?"), "cell 1, line 2: works in a notebook only, not in a script: `a?`"),
    (tagged("a = 1", "a = 1\n\ndef f(:\n    pass"), "cell 2, line 3: invalid syntax: `def f(:`"),
    (tagged("a = 1\nb = '''open"), "cell 1, line 2: unterminated triple-quoted string literal"),
    (tagged("a = 1\n# hide this is no code"), "cell 1, line 2: un-hidden, this is not code (invalid syntax): `# hide this is no code`"),
    (tagged("await a"), "cell 1, line 1: 'await' outside function: `await a`"),
    (tagged("a = 1", "b = '\0'"), "cell 2, line 1: source code string cannot contain null bytes"),
    (tagged("a = 1", "b = " + "-" * 20_000 + "1"), "cell 2, line 1: nested too deeply: `b = ---"),
    (tagged("a = (" + "1, " * 1000), "cell 1, line 1: '(' was never closed: `a = (1, 1, "),
    (tagged("a = 1", "from __future__ import annotations"), "the cells tagged pipeline together, line 5: from __future__"),
    (tagged("a = 1") + "\n# %% step {1}\n", "cannot be read as a notebook: "),
    (percent(("", "a = 1")), "n.py: no cell is tagged pipeline"),
    (tagged("x") + "\n# %%tags=['pipeline']\ny = 2", "n.py: line 4: Jupytext would misread this: \"# %%tags=['pipeline']\""),
    (tagged('a = """\n\u2028"""'), "n.py: line 3: Jupytext would misread this: "),
    (tagged("é").encode("latin-1"), "n.py: cannot be read as a notebook: 'utf-8' codec"),
    ('# + tags=["pipeline"]\nx = 1\n\ny = 2\n', "n.py: is in the format 'light': begin each cell with `# %%`"),
    ("# Databricks notebook source\n# pipeline\nx = 1\n\ny = 2\n", "misread this: '# Databricks notebook source'"),
    ("{ no json", "n.ipynb: cannot be read as a notebook: "),
    (ipynb(kernelspec={"language": "R", "name": "ir"}), "n.ipynb: is a notebook in 'R', not in Python"),
    (ipynb(language_info={"name": "julia"}), "n.ipynb: is a notebook in 'julia', not in Python"),
    (ipynb({"source": None}), "n.ipynb: cannot be read as a notebook: "),
    (ipynb({"metadata": {"tags": "pipeline"}}), "cell 1: its source is no text, or its tags are no list"),
    (ipynb({"source": "%%bash\nls"}), "n.ipynb: cell 1, line 1: works in a notebook only, not in a script: `%%bash`"),
]  # fmt: skip
HEADERS = ['tags=["pipeline"', "tags=[pipeline]", 'tags: ["pipeline"]', 'Tag=["pipeline"]', '{"tags": ["pipeline"]']
BAD += [(tagged("x") + percent((header, "y = 2")), 'n.py: cell 2: its header is not like tags=["pipeline"]: `')
        for header in HEADERS]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), BAD)
def test_bad_notebook(notebook, capsys, text, words):
    """It is refused in one line that says where and why, and no script changes."""
    _, out = notebook(tagged("a = 1"), name="good.py", scripts=["pipeline"])
    before = {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert notebook(text, name="n.ipynb" if text[0] == "{" else "n.py", scripts=["pipeline"])[0] == 2
    message = capsys.readouterr().err
    assert message.startswith("error: n.") and message.count("\n") == 1
    assert words in message and len(message) < 400
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_missing_notebook(notebook, capsys):
    notebook(TWO_CELLS)
    assert main(["--notebook", "nowhere.py"]) == 2
    message = "error: nowhere.py: cannot be read as a notebook: No such file or directory\n"
    assert capsys.readouterr().err == message


def make_newer(path, other):
    time = Path(other).stat().st_mtime + 10
    os.utime(path, (time, time))


@pytest.mark.parametrize(
    "magics", [False, True]
)  # the pair may be ours, or one of Jupytext, which takes `# rm` for `rm`
@pytest.mark.parametrize(
    ("old", "new"), [("c = 3", "c = 4"), ("# text", "# other text"), ('"pipeline"', '"pipeline", "remove-input"')]
)
def test_changes_in_the_ipynb_are_not_lost(notebook, capsys, old, new, magics):
    """The command that the message gives brings them over; where the `.py` is newer, it counts."""
    text = TWO_CELLS + "\n# %%\n# rm -r mlruns\n"
    Path("small.py").write_text(text.replace(old, new))
    jupytext.write(read_notebook("small.py", magics), "small.ipynb")
    make_newer("small.ipynb", "small.py")
    check_pair("small.py")
    Path("small.py").write_text(text)
    make_newer("small.ipynb", "small.py")
    write_settings(["small.py"])
    assert main([]) == main(["--check"]) == 2
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


LINES = ['# %% tags=["pipeline"]', "# %%", '# + tags=["pipeline"]', "# -", "# pipeline", "%time", "# hide x", "# ---",
         "# %% step {1}", "files = !ls", "# rm -r x", "# hide legend", "'''"]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.sampled_from(["tags", "name", "language"]), value),
    max_leaves=5,
)
CELLS = st.dictionaries(st.sampled_from(["cell_type", "source", "metadata", "outputs", "id"]), JSON, max_size=2)
METADATA = st.dictionaries(st.sampled_from(["kernelspec", "language_info", "jupytext", "title"]), JSON, max_size=1)
TEXTS = st.text() | st.lists(st.sampled_from(LINES) | st.text(max_size=10)).map("\n".join)


@given(TEXTS | st.builds(lambda cell, metadata: ipynb(cell, **metadata), CELLS, METADATA))
def test_whatever_is_extracted_or_refused(text):
    """Refused in one line, and nothing is written; or extracted, and `--check` finds no difference afterwards."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path, out = Path(folder, "n.ipynb" if text[:1] == "{" else "n.py"), Path(folder, "out")
        path.write_text(text, encoding="utf-8")
        words = ["--notebook", str(path), "--out", str(out), "pipeline"]
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = main(words)
        if code:
            assert (code, said.getvalue()[:7], said.getvalue().count("\n")) == (2, "error: ", 1)
            assert not out.exists()
        else:
            assert main([*words, "--check"]) == 0


def test_the_scripts_of_the_project(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["--check"]) == 0, capsys.readouterr()


@pytest.mark.slow
def test_pre_commit_hook(notebook, tmp_path):
    """Another project uses the hook: pre-commit installs our package for it, which is the extractor alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) <= set((ROOT / "requirements.txt").read_text().splitlines())
    notebook(TWO_CELLS)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "."], check=True)
    command = ["pre-commit", "try-repo", str(ROOT), "notebook-extract", "--all-files", "--color", "never"]
    env = os.environ | {"PRE_COMMIT_HOME": str(tmp_path / "cache")}
    results = []
    for text in [Path("out/pipeline.py").read_text(), "c = 4\n"]:
        Path("out/pipeline.py").write_text(text)
        results.append(subprocess.run(command, env=env, capture_output=True, text=True))
    good, bad = results
    assert good.returncode == 0 and "Passed" in good.stdout, good.stdout + good.stderr
    assert bad.returncode == 1 and "+c = 3\n" in bad.stdout, bad.stdout + bad.stderr
    (package,) = {path.parent for path in tmp_path.glob("cache/**/site-packages/notebook_tools/extract.py")}
    assert {path.name for path in package.glob("*.*")} == {"__init__.py", "extract.py"}
    (program,) = package.parents[3].glob("bin/notebook-extract")
    assert subprocess.run([program, "--check"]).returncode == 1
