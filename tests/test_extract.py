"""The extractor on small notebooks, good and bad."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import jupytext
import pytest
from support import ROOT

from notebook_tools.extract import check_pair, main, read_notebook, write_whole
from notebook_tools.run import copy_project

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


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_settings(notebooks, scripts=SCRIPTS, out="out"):
    table = f"[tool.notebook-extract]\nnotebooks = {notebooks}\nout = {out!r}\nscripts = {scripts}\n"
    Path("pyproject.toml").write_text(table)


def extract(text, *arguments, scripts=SCRIPTS):
    """Write a notebook and the settings, and extract; returns the exit code."""
    name = "n.ipynb" if text[:1] == "{" else "n.py"
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    write_settings([name], scripts)
    return main(list(arguments))


TWO_CELLS = percent(
    ('tags=["model_training"]', "# hide import argparse\na = 1"),
    ("[markdown]", "# text"),
    ("step one, not (ours)", "not_ours = 1"),
    ('tags=["model_training", "other"]', "b = a"),
    ('tags=["pipeline"]', "c = 3"),
)
GOOD = [
    # a comment that begins its line becomes code, whatever is around it
    (tagged("# hide if a:\n# hide     b = 1\n    c = 2\nf(\n    # hide 1,\n    2,\n)", "# hide # hide x = 1"),
     "\nif a:\n    b = 1\n    c = 2\nf(\n    1,\n    2,\n)\n"),
    (tagged('x = """\n# hide me not\n"""  # hide nor me\n# hidden y\n#hide z = 1'),
     '\nx = """\n# hide me not\n"""  # hide nor me\n# hidden y\n#hide z = 1\n'),
    # the first line for a tag
    (percent(("", "\n \n# pipeline \nb = 2"), ("", "# pipeline and more"), ('tags=["any"]', "# pipeline\nc = 3")),
     "\nb = 2\n\nc = 3\n"),
    # two empty lines around functions and classes
    (tagged("a = 1\n", "def f():\n    pass", "# text", "b = 2", "c = 3", "class A:\n    pass", "async def f():\n    d"),
     "\na = 1\n\n\ndef f():\n    pass\n\n\nb = 2\n\nc = 3\n\n\nclass A:\n    pass\n\n\nasync def f():\n    d\n"),
    # comments that Jupytext takes for commands
    (tagged("a = 1\n# rm -r mlruns\n# !ls\n# a?\n# %%time"), "\na = 1\n# rm -r mlruns\n# !ls\n# a?\n# %%time\n"),
    (b"\xef\xbb\xbf" + tagged("a = 1\n# hide b = 2").replace("\n", "\r\n").encode(), "\na = 1\nb = 2\n"),
    (tagged('if größe:\n\tй = "\t😀"\n\t# hide 数 = й'), '\nif größe:\n\tй = "\t😀"\n\t数 = й\n'),
    (ipynb({"source": ["a = 1\r\n", "# hide b = 2\r# !ls"], "id": "a1"}, language_info={"name": "ipython"}),
     "\na = 1\nb = 2\n# !ls\n"),
    (ipynb({"outputs": [{"output_type": "unheard of"}]}), "\na = 1\n"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), GOOD)
def test_script(text, expected):
    assert extract(text, scripts=["pipeline"]) == 0
    header, script = Path("out/pipeline.py").read_bytes().decode().split("\n", 1)
    assert re.fullmatch(r"# Generated from n\.(py|ipynb) by .* do not edit, change the notebook\.", header)
    assert script == expected


def test_check_and_write(capsys):
    out = Path("out")
    assert extract(TWO_CELLS, "--check") == 1
    assert not out.exists()
    assert extract(TWO_CELLS, "pipeline.py") == 0
    assert sorted(path.name for path in out.iterdir()) == ["__init__.py", "pipeline.py"]
    assert extract(TWO_CELLS) == 0
    assert capsys.readouterr().out.endswith("wrote out/model_training.py\nout: 1 file(s) changed\n")
    assert (out / "model_training.py").read_text().endswith("\n\nimport argparse\na = 1\n\nb = a\n")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert extract(TWO_CELLS) == extract(TWO_CELLS, "--check") == 0
    assert capsys.readouterr().out == "out: 0 file(s) changed\n"
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "pipeline.py").write_bytes(b"c = 4\n\xff")
    (out / "pipeline.py").chmod(0o755)
    (out / "__init__.py").unlink()
    assert extract(TWO_CELLS, "--check") == 1
    assert re.search(r'\+"""Made from.*-c = 4\n.*\+c = 3\n', capsys.readouterr().out, re.DOTALL)
    assert extract(TWO_CELLS) == 0
    assert (out / "pipeline.py").read_text().endswith("\n\nc = 3\n")
    assert [(out / f"{name}.py").stat().st_mode & 0o777 for name in SCRIPTS] == [0o644, 0o755]


def test_nobody_sees_half_a_file(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new" * 10_000 + "\ud800")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_file_that_no_notebook_makes(capsys):
    extract(TWO_CELLS)
    Path("out/old_step.py").write_text("a = 1\n")
    Path("out/notes.txt").write_text("nobody's business")
    capsys.readouterr()
    text = TWO_CELLS.replace("c = 3", "c = 4")
    assert extract(text) == 2
    assert extract(TWO_CELLS, "--check") == 1
    said = "out/old_step.py: no notebook makes this file: remove it\n"
    assert capsys.readouterr() == (said, f"error: {said}")
    assert Path("out/pipeline.py").read_text().endswith("c = 3\n")
    assert extract(text, "pipeline") == 0


def test_several_notebooks(capsys, monkeypatch):
    """From a folder below, and those in folders of folders; the nearest table counts."""
    Path("nb/more/.ipynb_checkpoints").mkdir(parents=True)
    Path("small.py").write_text(TWO_CELLS.replace("pipeline", "other"))
    Path("nb/two.py").write_text(percent(("", "c = 3")))
    for folder in ["nb/more", "nb/more/.ipynb_checkpoints"]:
        Path(folder, "one.ipynb").write_text(ipynb())
    write_settings(["small.py", "nb/**/*.ipynb", "nb/*.py", "s*.py"])
    Path("nb/pyproject.toml").write_text("[tool.ruff]\nline-length = 120\n")
    monkeypatch.chdir("nb")
    assert main([]) == 0
    assert Path("../out/pipeline.py").read_text().startswith("# Generated from nb/more/one.ipynb by ")
    Path("two.py").write_text(tagged("b = 3"))
    capsys.readouterr()
    assert main([]) == 2
    words = "error: pipeline has cells in ../nb/more/one.ipynb and in ../nb/two.py: move them into one of the two\n"
    assert capsys.readouterr().err == words
    write_settings(["two.py"], ["pipeline"], "made")
    assert main([]) == main(["--notebook", "more/one.ipynb", "--out", "mine", "pipeline"]) == 0
    assert Path("made/pipeline.py").read_text().startswith("# Generated from two.py by ")
    assert Path("mine/pipeline.py").read_text().startswith("# Generated from more/one.ipynb by ")
    assert main(["--notebook", "nowhere.py"]) == 2
    assert capsys.readouterr().err == "error: nowhere.py: cannot be read as a notebook: No such file or directory\n"


SETTINGS = [
    ("notebooks = [", "pyproject.toml: cannot be read: "),
    ("[[tool.notebook-extract]]", "cannot be read: "),
    ("", "needs notebooks = "),
    ('notebooks = ["n.py"]\nout = "out"\nscripts = "pipeline"', "needs notebooks = "),
    ('notebooks = ["other.py"]\nout = "out"\nscripts = ["pipeline"]', "no notebooks here or in"),
    ('notebooks = ["n.py"]\nout = "out"\nscripts = ["../a"]', "'../a' cannot be the name of a script"),
    ('notebooks = ["n.py"]\nout = "out"\nscripts = ["__init__"]', "'__init__' cannot be the name of a script"),
    ('notebooks = ["n.py"]\nout = "out"\nscripts = ["pipeline", "missing"]', "n.py: no cell is tagged missing"),
    ('notebooks = ["n.py"]\nout = "n.py/out"\nscripts = ["pipeline"]', "written: Not a directory"),
    ('notebooks = ["n.py"]\nout = "out/.."\nscripts = ["pipeline"]', "n.py: lies in the folder of the scripts"),
]


BAD = [
    (tagged("a = 1\n%matplotlib inline"), "cell 1, line 2: works in a notebook only, not in a script: `%matplotlib inline`"),
    (tagged("a = 1", "files = !ls"), "cell 2, line 1: works in a notebook only, not in a script: `files = !ls`"),
    (tagged("a = 1\na?"), "cell 1, line 2: works in a notebook only, not in a script: `a?`"),
    (tagged("a = 1", "a = 1\n\ndef f(:\n    pass"), "cell 2, line 3: invalid syntax: `def f(:`"),
    (tagged("a = 1\n# hide this is no code"), "cell 1, line 2: un-hidden, this is not code (invalid syntax): `# hide this is no code`"),
    (tagged("await a"), "cell 1, line 1: 'await' outside function: `await a`"),
    (tagged("a = 1", "b = '\0'"), "cell 2, line 1: source code string cannot contain null bytes"),
    (tagged("a = 1", "b = " + "-" * 10_000 + "1"), "cell 2, line 1: nested too deeply: `b = ---"),
    (tagged("a = (" + "1, " * 1000), "cell 1, line 1: '(' was never closed: `a = (1, 1, "),
    (tagged("a = 1", "from __future__ import annotations"), "the cells tagged pipeline together, line 5: from __future__"),
    (tagged("a = 1") + "\n# %% step {1}\n", "cannot be read as a notebook: "),
    (percent(("", "a = 1")), "n.py: no cell is tagged pipeline"),
    (tagged("x") + "\n# %%tags=['pipeline']\ny = 2", "n.py: line 4: Jupytext would misread this: \"# %%tags=['pipeline']\""),
    (tagged('a = """\n\u2028"""'), "n.py: line 3: Jupytext would misread this: "),
    (tagged("é").encode("latin-1"), "n.py: cannot be read as a notebook: 'utf-8' codec"),
    ('# + tags=["pipeline"]\nx = 1\n\ny = 2\n', "n.py: is in the format 'light': begin each cell with `# %%`"),
    ("# Databricks notebook source\n# pipeline\nx = 1\n\ny = 2\n", "misread this: '# Databricks notebook source'"),
    (ipynb(kernelspec={"language": "R", "name": "ir"}), "n.ipynb: is a notebook in 'R', not in Python"),
    (ipynb(language_info={"name": "julia"}), "n.ipynb: is a notebook in 'julia', not in Python"),
    (ipynb({"source": None}), "n.ipynb: cannot be read as a notebook: "),
    (ipynb({"metadata": {"tags": "pipeline"}}), "cell 1: its source is no text, or its tags are no list"),
]  # fmt: skip
HEADERS = ['tags=["pipeline"', "tags=[pipeline]", 'tags: ["pipeline"]', 'Tag=["pipeline"]', '{"tags": ["pipeline"]']
BAD += [(tagged("x") + percent((header, "y = 2")), 'n.py: cell 2: its header is not like tags=["pipeline"]: `')
        for header in HEADERS]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [(text, None, words) for text, words in BAD] + [(TWO_CELLS, *row) for row in SETTINGS],
)
def test_refused(capsys, text, settings, words):
    """In one line that says where and why, and no script changes."""
    extract(TWO_CELLS)
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    extract(text, "--check", scripts=["pipeline"])
    if settings is not None:
        Path("pyproject.toml").write_text(f"[tool.notebook-extract]\n{settings}\n")
    capsys.readouterr()
    assert main([]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert words in message and len(message) < 400
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before


@pytest.mark.parametrize(
    ("old", "new", "magics"),  # the pair may be ours, or one of Jupytext, which takes `# rm` for `rm`
    [("c = 3", "c = 4", False), ("# text", "# other text", True), ('"pipeline"', '"pipeline", "remove-input"', True)],
)
def test_changes_in_the_ipynb_are_not_lost(capsys, old, new, magics):
    """The command that the message gives brings them over; where the `.py` is newer, it counts."""
    text = TWO_CELLS + "\n# %%\n# rm -r mlruns\n"
    source, pair = Path("n.py"), Path("n.ipynb")
    source.write_text(text.replace(old, new))
    jupytext.write(read_notebook(source, magics), pair)
    os.utime(source, (0, 0))
    check_pair(source)
    source.write_text(text)
    check_pair(source)
    os.utime(source, (0, 0))
    write_settings(["n.py"])
    assert main([]) == main(["--check"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: n.ipynb: has changes that n.py lacks: bring them over with `")
    assert not Path("out").exists()
    Path("jupytext.toml").write_text((ROOT / "jupytext.toml").read_text())
    subprocess.run([sys.executable, "-m", *re.search("`(.*)`", message)[1].split()], check=True, capture_output=True)
    assert main([]) == 0
    assert new in source.read_text()


def test_the_scripts_of_the_project(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["--check"]) == 0, capsys.readouterr()


@pytest.mark.slow
def test_pre_commit_hook(tmp_path, monkeypatch):
    """Another project uses the hook: pre-commit installs our package for it, which is the extractor alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) <= set((ROOT / "requirements.txt").read_text().splitlines())
    copy_project(tmp_path)
    subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", "dist"], check=True)
    (wheel,) = Path("dist").glob("*.whl")
    modules = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    assert modules == {"notebook_tools/__init__.py", "notebook_tools/extract.py"}
    Path("other").mkdir()
    monkeypatch.chdir("other")
    extract(TWO_CELLS)
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run(["git", "add", "."], check=True)
    command = ["pre-commit", "try-repo", str(ROOT), "notebook-extract", "--all-files", "--color", "never"]
    env = os.environ | {"PRE_COMMIT_HOME": str(tmp_path / "cache")}
    for script, code, word in [(Path("out/pipeline.py").read_text(), 0, "Passed"), ("c = 4\n", 1, "+c = 3\n")]:
        Path("out/pipeline.py").write_text(script)
        result = subprocess.run(command, env=env, capture_output=True, text=True)
        assert result.returncode == code and word in result.stdout, result.stdout + result.stderr
