"""Makes scripts from the tagged cells of notebooks.

usage: python -m notebook_tools.extract [--check] [--notebook PATH] [--out DIR] [SCRIPT ...]

What to make stands in pyproject.toml, in the current folder or in the nearest one above it that has this table:

    [tool.notebook-extract]
    notebooks = ["modeling.py", "chapters/**/*.ipynb"]
    out = "steps"                               # a folder for the scripts alone
    scripts = ["model_training", "pipeline"]    # the tags of their cells

Arguments replace what stands there; then nothing is said about other files in the folder. A cell may name its script in
its first line instead of a tag, as `# model_training`. `# hide CODE` in a cell becomes `CODE` in the script.

This module imports nothing of the project: it is a package, and a pre-commit hook, of its own.
"""

import argparse
import ast
import contextlib
import difflib
import glob
import io
import os
import re
import shlex
import sys
import tempfile
import tokenize
import tomllib
import warnings
from pathlib import Path

import jupytext

HIDE = "# hide "
PACKAGE = '"""Made from the notebooks by notebook_tools/extract.py: do not edit, change the notebooks."""\n'
# What Jupytext reads in another way than it is meant: a header without a space, a Databricks notebook, and characters
# that it takes for the end of a line.
ODD_LINE = re.compile(r"(?m)^# ?(%%tags\W|Databricks notebook source).*|.*[\v\f\x1c-\x1e\x85\u2028\u2029].*")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class ExtractError(Exception):
    """What is wrong with the notebook or the call, in one line."""


def read_notebook(path, magics=False):
    """Read a notebook.

    Args:
        path: A `.ipynb` file, or a `.py` file in the percent format.
        magics: Of a `.py` file, take comments such as `# !ls`, `# %time` and `# rm -r mlruns` for commands, as Jupytext
            does by default. Otherwise they stay comments.

    Returns:
        The `nbformat.NotebookNode`, of format 4.

    Raises:
        ExtractError: The file is missing, is no notebook, or is one of another format or language.
    """
    path = Path(path)
    try:
        # utf-8-sig: some editors begin a file with a byte-order mark
        text = path.read_text(encoding="utf-8-sig")
        with warnings.catch_warnings(action="ignore"):  # of cells without an id, and of formats from long ago
            notebook = jupytext.reads(text, {"extension": path.suffix, "comment_magics": magics}, as_version=4)
        metadata = notebook.metadata
        language = metadata.get("kernelspec", {}).get("language") or metadata.get("language_info", {}).get("name")
        for number, cell in enumerate(notebook.cells, start=1):
            if not isinstance(cell.source, str) or not isinstance(cell.metadata.get("tags", []), list):
                raise TypeError(f"cell {number}: its source is no text, or its tags are no list")
    except Exception as error:  # whatever Jupytext raises on a file that is not a notebook
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise ExtractError(f"{path}: cannot be read as a notebook: {reason}") from None
    if str(language or "python").lower() not in {"python", "ipython"}:
        raise ExtractError(f"{path}: is a notebook in {language!r}, not in Python")
    if path.suffix != ".ipynb":
        if odd := ODD_LINE.search(text):
            line = text.count("\n", 0, odd.start()) + 1
            raise ExtractError(f"{path}: line {line}: Jupytext would misread this: {odd[0].strip()[:100]!r}")
        form = metadata["jupytext"]["text_representation"]["format_name"]
        if form not in {"percent", "hydrogen"}:
            raise ExtractError(f"{path}: is in the format {form!r}: begin each cell with `# %%`, or save it as .ipynb")
    return notebook


def check_pair(path):
    """Make sure that no change waits in the `.ipynb` file beside a `.py` notebook.

    An editor without Jupytext saves the `.ipynb` alone; whoever went on from the `.py` would lose what was changed.

    Args:
        path: The notebook. Only of a `.py` file anything is checked.

    Raises:
        ExtractError: The `.ipynb` is newer, and has other cells or tags.
    """
    path = Path(path)
    pair = path.with_suffix(".ipynb")
    if path == pair or not path.exists() or not pair.exists() or pair.stat().st_mtime <= path.stat().st_mtime:
        return

    def cells(notebook):
        return [(cell.cell_type, cell.source.strip(), cell.metadata.get("tags", [])) for cell in notebook.cells]

    # Jupytext reads the commands in a .py file, and we do not: the pair may have been written by either.
    if cells(read_notebook(pair)) not in [cells(read_notebook(path, magics)) for magics in (False, True)]:
        sync = f"jupytext --sync {shlex.quote(str(pair))}"
        raise ExtractError(f"{pair}: has changes that {path.name} lacks: bring them over with `{sync}`, or remove it")


def unhide(source):
    """Turn `# hide …` comments into code.

    Args:
        source: Python source.

    Returns:
        The source with the mark removed from each comment that begins its line with it; strings stay as they are.

    Raises:
        SyntaxError, tokenize.TokenError: The source is not Python.
    """
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.start
        if token.type == tokenize.COMMENT and token.string.startswith(HIDE) and not token.line[:column].strip():
            lines[row - 1] = lines[row - 1][:column] + token.string.removeprefix(HIDE)
    return "\n".join(lines)


def _tagged_cells(notebook, path, scripts):
    """Yield the code cells of the scripts: the script's name, the cell's number, from 1, and its source."""
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            continue
        source = cell.source.replace("\r\n", "\n").replace("\r", "\n")
        names = list(cell.metadata.get("tags", []))
        first = re.match(r"\s*^# (\w+)[ \t]*$", source, re.MULTILINE)
        if first and first[1] in scripts:
            names.append(first[1])
            source = "\n" * first[0].count("\n") + source[first.end() :]  # keeps the line numbers
        # A header that Jupytext did not read as tags: harmless, unless a script would lose the cell.
        header = " ".join(f"{key}={value}" for key, value in cell.metadata.items() if key != "tags")
        for name in scripts:
            if name in names:
                yield name, number, source
            elif re.search(rf"\btags?\W*[=:\[].*\b{name}\b", header, re.IGNORECASE):
                raise ExtractError(f'{path}: cell {number}: its header is not like tags=["{name}"]: `{header[:100]}`')


def _checked_source(source, place):
    """Un-hide the source of one cell, make sure that it is Python, and return it with its statements."""
    code = source
    try:
        with contextlib.suppress(tokenize.TokenError):  # the compiler knows better where the mistake is
            code = unhide(source)
        tree = ast.parse(code)
        compile(tree, place, "exec", dont_inherit=True)
        return code, tree.body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:  # ValueError: a null byte
        line = getattr(error, "lineno", None) or 1
        reason = getattr(error, "msg", str(error) or "nested too deeply")
    text, unhidden = ["".join(part.split("\n")[line - 1 : line]).strip()[:100] for part in (source, code)]
    if text != unhidden:
        reason = f"un-hidden, this is not code ({reason})"
    elif text.startswith(("!", "%", "?")) or text.endswith("?") or "= !" in text:
        reason = "works in a notebook only, not in a script"
    raise ExtractError(f"{place}, line {line}: {reason}: `{text}`")


def _script(name, cells, path, label):
    """Make the text of one script from pairs of cell number and source; its first line calls the notebook `label`."""
    text = f"# Generated from {label} by notebook_tools/extract.py: do not edit, change the notebook.\n"
    after_definition = False
    for number, source in cells:
        code, statements = _checked_source(source, f"{path}: cell {number}")
        if statements:
            # two blank lines around functions and classes, one elsewhere
            text += "\n\n" if after_definition or isinstance(statements[0], DEFINITIONS) else "\n"
            text += code.strip("\n") + "\n"
            after_definition = isinstance(statements[-1], DEFINITIONS)
    _checked_source(text, f"{path}: the cells tagged {name} together")
    return text


def write_whole(path, text):
    """Write a file in one step, so that nobody ever sees half of it.

    Args:
        path: The `pathlib.Path` of the file; it keeps its permissions.
        text: What it is to hold.

    Raises:
        OSError: It cannot be written. What was there before is there still.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, path.stat().st_mode if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def extract(notebooks, out, scripts, root=".", check=False, whole=True):
    """Make scripts from notebooks, or compare those on disk with them.

    Args:
        notebooks: Paths of the notebooks.
        out: Path of the folder of the scripts. It gets an `__init__.py` as well.
        scripts: Names of the scripts, which are the tags of their cells. Each comes from one of the notebooks.
        root: Folder from which the first line of a script names its notebook.
        check: Write nothing and return the differences instead.
        whole: The folder is for these scripts: another `.py` file in it is an error, or with `check` a difference.

    Returns:
        A dict from the path of each file that was, or with `check` would be, changed to a unified diff, or to a remark
        where no notebook makes the file.

    Raises:
        ExtractError: Nothing was written, because something is wrong with a notebook, the folder or the call.
    """
    out = Path(out)
    if odd := [name for name in scripts if not str(name).isidentifier() or name == "__init__"]:
        raise ExtractError(f"{odd[0]!r} cannot be the name of a script: take letters, digits and _")
    texts, found = {out / "__init__.py": PACKAGE}, {}
    for path in map(Path, notebooks):
        if path.resolve().parent == out.resolve():
            raise ExtractError(f"{path}: lies in the folder of the scripts: give them a folder of their own")
        notebook = read_notebook(path)
        check_pair(path)
        cells = {}
        for name, *cell in _tagged_cells(notebook, path, scripts):
            cells.setdefault(name, []).append(cell)
            if found.setdefault(name, path) != path:
                raise ExtractError(f"{name} has cells in {found[name]} and in {path}: move them into one of the two")
        label = Path(os.path.relpath(path, root)).as_posix()
        texts |= {out / f"{name}.py": _script(name, cells[name], path, label) for name in cells}
    if missing := [name for name in scripts if name not in found]:
        raise ExtractError(f"{', '.join(map(str, notebooks))}: no cell is tagged {missing[0]}")

    changes = {}
    try:
        for path, text in texts.items():
            old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
            if text != old:
                lines = [content.splitlines(keepends=True) for content in (old, text)]
                changes[path] = "".join(difflib.unified_diff(*lines, str(path), "made from the notebooks"))
        for path in sorted(out.glob("*.py")):
            if whole and path not in texts:
                changes[path] = f"{path}: no notebook makes this file: remove it\n"
                if not check:
                    raise ExtractError(changes[path].strip())
        if not check:
            out.mkdir(parents=True, exist_ok=True)
            for path in changes:
                write_whole(path, texts[path])
    except OSError as error:
        raise ExtractError(f"{path}: cannot be read or written: {error.strerror}") from None
    return changes


def find_settings(folder):
    """Read `[tool.notebook-extract]` in the pyproject.toml of a folder, or of the nearest one above that has the table.

    Args:
        folder: The `pathlib.Path` of the folder.

    Returns:
        The arguments `notebooks`, `out`, `scripts` and `root` of `extract` as a dict; an empty one where there is no
        such table.

    Raises:
        ExtractError: A pyproject.toml cannot be read, or its table is not as it should be.
    """
    for root in [folder.absolute(), *folder.absolute().parents]:
        path = root / "pyproject.toml"
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (OSError, ValueError) as error:
            raise ExtractError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
        table = table.get("tool", {}).get("notebook-extract")
        if table is None:
            continue
        kinds = {"notebooks": list, "out": str, "scripts": list}
        if not isinstance(table, dict) or any(not isinstance(table.get(key), kind) for key, kind in kinds.items()):
            raise ExtractError(f'{path}: [tool.notebook-extract] needs notebooks = ["…"], out = "…", scripts = ["…"]')
        root = Path(os.path.relpath(root))  # shorter messages
        names = [name for part in table["notebooks"] for name in sorted(glob.glob(part, root_dir=root, recursive=True))]
        notebooks = [root / name for name in dict.fromkeys(names)]
        return {"notebooks": notebooks, "out": root / table["out"], "scripts": table["scripts"], "root": root}
    return {}


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: Its words; by default those of the process.

    Returns:
        The exit code: 0, 1 where `--check` found a difference, 2 where a notebook or the call is wrong.
    """
    parser = argparse.ArgumentParser(prog="notebook_tools.extract", description="Make scripts from tagged cells.")
    parser.add_argument("--notebook", type=Path, action="append", help="may be given several times")
    parser.add_argument("--out", type=Path, help="folder of the scripts")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, show what differs, exit with 1 if any does"
    )
    parser.add_argument("scripts", metavar="SCRIPT", nargs="*", help="default: all that pyproject.toml names")
    options = parser.parse_args(arguments)
    scripts = [name.removesuffix(".py") for name in options.scripts]
    given = {"notebooks": options.notebook, "out": options.out, "scripts": scripts}
    try:
        settings = find_settings(Path.cwd()) | {key: value for key, value in given.items() if value}
        if missing := [key for key in given if not settings.get(key)]:
            raise ExtractError(f"no {missing[0]} here or in [tool.notebook-extract] of a pyproject.toml")
        changes = extract(**settings, check=options.check, whole=not (options.notebook or options.scripts))
    except ExtractError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.check:
        print("".join(changes.values()), end="")
        return 1 if changes else 0
    for path in changes:
        print(f"wrote {path.as_posix()}")
    print(f"{settings['out'].as_posix()}: {len(changes)} file(s) changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
