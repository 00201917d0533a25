"""Makes scripts from the tagged cells of notebooks.

usage: python -m notebook_tools.extract [--check] [--notebook PATH] [--out DIR] [SCRIPT ...]

What to make stands in pyproject.toml, in the current folder or in the nearest one above it that has this table:

    [tool.notebook-extract]
    notebooks = ["modeling.py", "chapters/*.py"]
    out = "steps"                               # a folder for the scripts alone
    scripts = ["model_training", "pipeline"]    # the tags of their cells

Arguments replace what stands there; then nothing is said about other files in the folder. A cell may name its script in
its first line instead of a tag, as `# model_training`. `# hide CODE` in a cell becomes `CODE` in the script.
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
from unittest import mock

import jupytext
import jupytext.cell_reader
from jupytext.magics import is_magic
from jupytext.stringparser import StringParser
from nbformat.validator import ValidationError, iter_validate

HIDE = "# hide "
PACKAGE = '"""Made from the notebooks by notebook_tools/extract.py: do not edit, change the notebooks."""\n'
# What jupytext takes for the end of a line, and Python does not.
OTHER_LINE_ENDS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"
# Of these alone are remarks that happen to be Python, such as `# hide legend` or `# hide ticks, legend and grid`.
WORDS = (ast.Name, ast.Attribute, ast.Tuple, ast.BoolOp, ast.boolop, ast.Compare, ast.cmpop, ast.expr_context)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class ExtractError(Exception):
    """What is wrong with the notebook or the call, in one line."""


def read_notebook(path, magics=False):
    """Read a notebook.

    Args:
        path: A `.ipynb` file, or a `.py` file in any format of jupytext.
        magics: Of a `.py` file, take comments such as `# !ls`, `# %time` and `# rm -r mlruns` for commands, as Jupytext
            does unless the file's header says `comment_magics: false`. By default they stay comments.

    Returns:
        The `nbformat.NotebookNode`, of format 4.

    Raises:
        ExtractError: The file is missing, is no notebook, or is one of another language than Python.
    """
    path = Path(path)
    if path.suffix not in {".py", ".ipynb"}:
        raise ExtractError(f"{path}: is neither a .py nor an .ipynb file")
    try:
        # utf-8-sig: some editors begin a file with a byte-order mark
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ExtractError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ExtractError(f"{path}: line {line} is not UTF-8: save the file in that encoding") from None
    fmt = {"extension": path.suffix}
    if path.suffix == ".py":
        if not magics:
            fmt["comment_magics"] = False
        for number, line in enumerate(text.split("\n"), start=1):
            if re.match(r"# ?%%tags\W", line):  # no header for Jupytext: the code would go to the cell before
                raise ExtractError(f"{path}: line {number}: `{line.strip()[:100]}` needs a space after %%")
            for character in set(OTHER_LINE_ENDS) & set(line):
                raise ExtractError(
                    f"{path}: line {number} has {character!r} in it: write it as an escape, or remove it"
                )
    try:
        with (
            warnings.catch_warnings(),  # of cells without an id, and of formats from long ago
            mock.patch.object(jupytext.cell_reader, "text_to_metadata", _text_to_metadata),
        ):
            warnings.simplefilter("ignore")
            notebook = jupytext.reads(text, fmt=fmt, as_version=4)
            errors = list(iter_validate(_what_scripts_take(notebook)))
    except ValidationError as error:
        raise ExtractError(f"{path}: is not a notebook: {_reason(error)}") from None
    except Exception as error:  # whatever jupytext and nbformat raise on a file that is not a notebook
        raise ExtractError(f"{path}: is not a notebook: {' '.join(str(error).split())[:200]}") from None
    for error in errors:
        if error.validator != "required":
            raise ExtractError(f"{path}: is not a notebook: {_reason(error)}")
    metadata = notebook.metadata
    language = metadata.get("kernelspec", {}).get("language") or metadata.get("language_info", {}).get("name")
    if language and str(language).lower() not in {"python", "ipython"}:
        raise ExtractError(f"{path}: is a notebook in {language!r}, not in Python")
    return notebook


def _what_scripts_take(notebook):
    """The notebook without outputs, IDs and unknown fields: of each cell validation names one fault, maybe in those."""
    cells = []
    for cell in notebook.cells:
        more = {"outputs": [], "execution_count": None} if cell.cell_type == "code" else {}
        cells.append({"cell_type": cell.cell_type, "source": cell.get("source", ""), "metadata": cell.metadata, **more})
    return {"cells": cells, "metadata": notebook.metadata, "nbformat": 4, "nbformat_minor": 4}


def _text_to_metadata(text, allow_title=False, original=jupytext.cell_reader.text_to_metadata):
    """Read a cell's header as Jupytext does, but take `step {1}` for a title: Jupytext stumbles over such sets."""
    title, metadata = original(text, allow_title)
    readable = isinstance(metadata, dict) and all(isinstance(key, str) for key in metadata)
    return (title, metadata) if readable else (text.strip(), {})


def _reason(error):
    """Say in one line which place of a notebook is wrong, and why."""
    place = list(error.absolute_path)
    if place[:1] == ["cells"] and len(place) > 1:
        place[:2] = [f"cell {place[1] + 1}"]
    return f"{', '.join(map(str, place))}: {' '.join(error.message.split())[:100]}"


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
        return [(c.cell_type, c.get("source", "").strip(), c.metadata.get("tags", [])) for c in notebook.cells]

    # Jupytext reads the commands in a .py file, and we do not: the pair may have been written by either.
    if cells(read_notebook(pair)) not in [cells(read_notebook(path, magics)) for magics in (False, True)]:
        sync = f"jupytext --sync {shlex.quote(str(pair))}"
        raise ExtractError(f"{pair}: has changes that {path.name} lacks: bring them over with `{sync}`, or remove it")


def _cells_by_script(notebook, path, scripts):
    """Collect for each of the scripts its code cells: pairs of the cell's number, from 1, and its source."""
    cells = {}
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            continue
        names = [tag for tag in cell.metadata.get("tags", []) if tag in scripts]
        lines = cell.get("source", "").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        first = next((index for index, line in enumerate(lines) if line.strip()), 0)
        marker = lines[first].removeprefix("# ").rstrip()
        if lines[first].startswith("# ") and marker in scripts:
            if names not in ([], [marker]):
                raise ExtractError(
                    f"{path}: cell {number}, line {first + 1}: says `{marker}`, but is tagged {', '.join(names)}"
                )
            names, lines[first] = [marker], ""  # an empty line keeps the line numbers
        # A header that Jupytext could not read, or read as a title: harmless, unless a script would lose the cell.
        header = " ".join(f"{key}={value}" for key, value in cell.metadata.items() if key != "tags")
        for name in scripts:
            if name not in names and re.search(rf"\btags?\W*[=:\[].*\b{name}\b", header, re.IGNORECASE):
                raise ExtractError(f'{path}: cell {number}: its header is not like tags=["{name}"]: `{header[:100]}`')
        for name in names:
            cells.setdefault(name, []).append((number, "\n".join(lines)))
    return cells


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


def _checked_source(source, place):
    """Un-hide the source of one cell, make sure that it is Python, and return it with its statements."""
    lines, code, unhidden = source.split("\n"), source, set()
    try:
        with contextlib.suppress(tokenize.TokenError):  # the compiler knows better where the mistake is
            code = unhide(source)
        pairs = zip(lines, code.split("\n"), strict=True)
        unhidden = {number for number, (before, after) in enumerate(pairs, start=1) if before != after}
        compile(code, place, "exec", dont_inherit=True)
        tree = ast.parse(code)
        for node in ast.walk(tree):
            idle = isinstance(node, ast.Expr) and all(isinstance(part, WORDS) for part in ast.walk(node.value))
            if idle and node.lineno in unhidden:
                raise SyntaxError("it does nothing", (place, node.lineno, None, None))
        return code, tree.body
    except SyntaxError as error:
        line, reason = error.lineno or 1, error.msg
    except (MemoryError, RecursionError):
        line, reason = 1, "nested too deeply"
    except ValueError as error:  # a null byte
        line, reason = 1, str(error)
    quotes = StringParser("python")
    for number, text in enumerate(lines[:line], start=1):
        command = text.lstrip().startswith("!") or is_magic(text, "python", explicitly_code=True)
        if command and not text.lstrip().startswith("#") and not quotes.is_quoted():
            raise ExtractError(
                f"{place}, line {number}: `{text.strip()[:100]}` works in a notebook only, not in a script"
            )
        quotes.read_line(text)
    if line in unhidden:
        reason = f"un-hidden, this is not code ({reason})"
    text = lines[min(line, len(lines)) - 1].strip()[:100].encode(errors="backslashreplace").decode()
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
    if text.count("\n") == 1:
        raise ExtractError(f"{path}: the cells tagged {name} are empty")
    try:
        compile(text, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ExtractError(f"{path}: the cells tagged {name} do not go together: {error.msg}") from None
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


def extract(notebooks, out, scripts, root=None, check=False, whole=True):
    """Make scripts from notebooks, or compare those on disk with them.

    Args:
        notebooks: Paths of the notebooks.
        out: Path of the folder of the scripts. It gets an `__init__.py` as well.
        scripts: Names of the scripts, which are the tags of their cells. Each comes from one of the notebooks.
        root: Folder from which the first line of a script names its notebook; without it, by the file's name alone.
        check: Write nothing and return the differences instead.
        whole: The folder is for these scripts: another `.py` file in it is an error, or with `check` a difference.

    Returns:
        A dict from the path of each file that was, or with `check` would be, changed to a unified diff, or to a remark
        where no notebook makes the file.

    Raises:
        ExtractError: Nothing was written, because something is wrong with a notebook, the folder or the call.
    """
    out = Path(out)
    for name in scripts:
        if not name.isidentifier() or name == "__init__":
            raise ExtractError(f"{name!r} cannot be the name of a script: take letters, digits and _")
    texts, found = {out / "__init__.py": PACKAGE}, {}
    for path in map(Path, notebooks):
        if path.resolve().parent == out.resolve():
            raise ExtractError(f"{path}: lies in the folder of the scripts: give them a folder of their own")
        notebook = read_notebook(path)
        check_pair(path)
        label = Path(os.path.relpath(path, root or path.parent)).as_posix()
        label = path.name if label.startswith("../") else label
        for name, cells in _cells_by_script(notebook, path, scripts).items():
            if name in found:
                raise ExtractError(f"{name} has cells in {found[name]} and in {path}: move them into one of the two")
            found[name] = path
            texts[out / f"{name}.py"] = _script(name, cells, path, label)
    for name in scripts:
        if name not in found:
            raise ExtractError(f"{', '.join(map(str, notebooks))}: no cell is tagged {name}")

    changes = {}
    for path, text in texts.items():
        try:
            old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        except OSError as error:
            raise ExtractError(f"{path}: cannot be read: {error.strerror}") from None
        if text != old:
            lines = [content.splitlines(keepends=True) for content in (old, text)]
            changes[path] = "".join(difflib.unified_diff(*lines, str(path), "made from the notebooks"))
    for path in sorted(out.glob("*.py")):
        if whole and path not in texts:
            changes[path] = f"{path}: no notebook makes this file: remove it\n"
            if not check:
                raise ExtractError(changes[path].strip())
    if not check:
        try:
            out.mkdir(parents=True, exist_ok=True)
            for path in changes:
                write_whole(path, texts[path])
        except OSError as error:
            raise ExtractError(f"{out}: cannot be written: {error.strerror}") from None
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
        if not path.is_file():
            continue
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("notebook-extract")
        except (OSError, ValueError) as error:
            raise ExtractError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
        if table is None:
            continue
        table = table if isinstance(table, dict) else {}
        for key in ["notebooks", "scripts"]:
            if not isinstance(table.get(key), list) or not all(isinstance(value, str) for value in table[key]):
                raise ExtractError(f'{path}: [tool.notebook-extract] needs a list of names: {key} = ["…"]')
        if not isinstance(table.get("out"), str):
            raise ExtractError(f'{path}: [tool.notebook-extract] needs the folder of the scripts: out = "…"')
        root = Path(os.path.relpath(root))  # shorter messages
        notebooks = []
        for pattern in table["notebooks"]:
            names = sorted(glob.glob(pattern, root_dir=root))
            if not names:
                raise ExtractError(f"{path}: [tool.notebook-extract] names {pattern}: there is no such notebook")
            notebooks += [root / name for name in names]
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
    given = {
        "notebooks": options.notebook,
        "out": options.out,
        "scripts": [name.removesuffix(".py") for name in options.scripts],
    }
    try:
        settings = find_settings(Path.cwd()) | {key: value for key, value in given.items() if value}
        for key in given:
            if not settings.get(key):
                raise ExtractError(f"no {key} given, neither here nor in [tool.notebook-extract] of a pyproject.toml")
        whole = not (options.notebook or options.scripts)
        changes = extract(**settings, check=options.check, whole=whole)
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
