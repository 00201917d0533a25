"""Makes the scripts of the project from the tagged cells of the notebook.

usage: python -m notebook_tools.extract [--notebook PATH] [--out DIR] [--check] [SCRIPT ...]
"""

import argparse
import ast
import contextlib
import difflib
import io
import os
import sys
import tempfile
import tokenize
import warnings
from pathlib import Path

import jupytext
from nbformat.validator import ValidationError, iter_validate

import config

HIDE = "# hide "
# What jupytext takes for the end of a line, and Python does not.
OTHER_LINE_ENDS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class ExtractError(Exception):
    """What is wrong with the notebook or the call, in one line."""


def read_notebook(path):
    """Read a notebook.

    Args:
        path: A `.ipynb` file, or a `.py` file in any format of jupytext.

    Returns:
        The `nbformat.NotebookNode`.

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
    if path.suffix == ".py":
        for number, line in enumerate(text.split("\n"), start=1):
            for character in set(OTHER_LINE_ENDS) & set(line):
                raise ExtractError(
                    f"{path}: line {number} has {character!r} in it: write it as an escape, or remove it"
                )
    try:
        with warnings.catch_warnings():  # of cells without an id, and of formats from long ago
            warnings.simplefilter("ignore")
            notebook = jupytext.reads(text, fmt=path.suffix[1:])
            errors = list(iter_validate(notebook))
    except ValidationError as error:
        raise ExtractError(f"{path}: is not a notebook: {invalid(error)}") from None
    except Exception as error:  # whatever jupytext and nbformat raise on a file that is not a notebook
        raise ExtractError(f"{path}: is not a notebook: {' '.join(str(error).split())[:200]}") from None
    if "cells" not in notebook or "metadata" not in notebook:
        raise ExtractError(f"{path}: is not a notebook of format 4")
    for error in errors:
        # neither outputs, whoever made them, nor the name of a kernel get into a script
        if "outputs" not in error.absolute_path and error.validator != "required":
            raise ExtractError(f"{path}: is not a notebook: {invalid(error)}")
    metadata = notebook.metadata
    language = metadata.get("kernelspec", {}).get("language") or metadata.get("language_info", {}).get("name")
    if language and str(language).lower() not in {"python", "ipython"}:
        raise ExtractError(f"{path}: is a notebook in {language!r}, not in Python")
    return notebook


def invalid(error):
    """Say what is wrong with the structure of a notebook.

    Args:
        error: The `nbformat.ValidationError`.

    Returns:
        The place and the reason, in one line.
    """
    place = list(error.absolute_path)
    if place[:1] == ["cells"] and len(place) > 1:
        place[:2] = [f"cell {place[1] + 1}"]
    return f"{', '.join(map(str, place))}: {' '.join(error.message.split())[:100]}"


def cells_by_script(notebook, path):
    """Collect the code cells of each script.

    A cell belongs to a script by its Jupyter cell tags, or by a first line `# NAME` with a name of the step table.

    Args:
        notebook: The `nbformat.NotebookNode`.
        path: Its path, for the error message.

    Returns:
        A dict from script name to a list of pairs: the cell's number in the notebook, from 1, and its source.

    Raises:
        ExtractError: The header of a cell cannot be read, or its first line says something else than its tags.
    """
    scripts = {}
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type != "code":
            continue
        if "incorrectly_encoded_metadata" in cell.metadata:  # jupytext's name for what it cannot read
            header = cell.metadata["incorrectly_encoded_metadata"]
            raise ExtractError(f'{path}: cell {number}: its header is not like tags=["model_training"]: `{header}`')
        names = [tag for tag in cell.metadata.get("tags", []) if tag.isidentifier()]
        source = cell.source.replace("\r\n", "\n").replace("\r", "\n")
        first_line, _, rest = source.partition("\n")
        marker = first_line.removeprefix("# ").rstrip()
        if first_line.startswith("# ") and marker in config.SCRIPTS:
            if names not in ([], [marker]):
                raise ExtractError(f"{path}: cell {number}, line 1: says `{marker}`, but is tagged {', '.join(names)}")
            names, source = [marker], "\n" + rest  # an empty line keeps the line numbers
        for name in names:
            scripts.setdefault(name, []).append((number, source))
    return scripts


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


def checked_source(source, place):
    """Un-hide the source of one cell and make sure that it is Python.

    Args:
        source: The source of the cell.
        place: The notebook and the cell, for the error message.

    Returns:
        The source as it goes into the script.

    Raises:
        ExtractError: The cell is not Python.
    """
    try:
        try:
            code = unhide(source)
        except tokenize.TokenError:
            code = source  # the compiler knows better where the mistake is
        compile(code, place, "exec", dont_inherit=True)
        return code
    except SyntaxError as error:
        line, reason = error.lineno or 1, error.msg
    except (MemoryError, RecursionError):
        line, reason = 1, "nested too deeply"
    except ValueError as error:  # a null byte
        line, reason = 1, str(error)
    lines = source.split("\n")
    for number, text in enumerate(lines[:line], start=1):
        if text.lstrip().startswith(("%", "!")):
            raise ExtractError(
                f"{place}, line {number}: `{text.strip()[:100]}` works in a notebook only, not in a script"
            )
    text = lines[min(line, len(lines)) - 1].strip()[:100].encode(errors="backslashreplace").decode()
    raise ExtractError(f"{place}, line {line}: {reason}: `{text}`")


def make_script(name, cells, path):
    """Make the text of one script.

    Args:
        name: The script's name, without `.py`.
        cells: Pairs of cell number and source, in notebook order.
        path: The notebook's path.

    Returns:
        The text, which ends with a newline.

    Raises:
        ExtractError: A cell, or all of them together, are not Python, or they are empty.
    """
    text = f"# Generated from {Path(path).name} by notebook_tools/extract.py: do not edit, change the notebook.\n"
    after_definition = False
    for number, source in cells:
        code = checked_source(source, f"{path}: cell {number}").strip("\n")
        statements = ast.parse(code).body
        if statements:
            # two blank lines around functions and classes, one elsewhere
            text += "\n\n" if after_definition or isinstance(statements[0], DEFINITIONS) else "\n"
            text += code + "\n"
            after_definition = isinstance(statements[-1], DEFINITIONS)
    if text.count("\n") == 1:
        raise ExtractError(f"{path}: the cells tagged {name} are empty")
    try:
        compile(text, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ExtractError(f"{path}: the cells tagged {name} do not go together: {error.msg}") from None
    return text


def write(path, text):
    """Write a file in one step, so that nobody ever sees half of it.

    Args:
        path: The file's `pathlib.Path`.
        text: Its new content.
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


def extract(notebook_path, out, scripts=(), check=False):
    """Extract scripts from a notebook, or compare those on disk with it.

    Args:
        notebook_path: Path of the notebook.
        out: Path of the folder of the scripts.
        scripts: Names of scripts; by default all of the step table that the notebook has cells for.
        check: Write nothing and return the differences instead.

    Returns:
        A dict from the path of each script that was, or with `check` would be, changed to a unified diff.

    Raises:
        ExtractError: Nothing was written, because something is wrong with the notebook or the call.
    """
    out = Path(out)
    cells = cells_by_script(read_notebook(notebook_path), notebook_path)
    names = [name.removesuffix(".py") for name in scripts] or [name for name in config.SCRIPTS if name in cells]
    for name in names:
        if name not in cells:
            known = ", ".join(sorted(cells)) or "none at all"
            raise ExtractError(f"{notebook_path}: no cell is tagged {name}; there are: {known}")
    if not names:
        raise ExtractError(f"{notebook_path}: no cell is tagged with the name of a script")
    texts = {out / f"{name}.py": make_script(name, cells[name], notebook_path) for name in names}
    if not scripts:  # a script whose cells are gone must not stay behind unnoticed
        for name in config.SCRIPTS:
            if name not in cells and (out / f"{name}.py").exists():
                raise ExtractError(f"{notebook_path}: no cell is tagged {name}, but {out / name}.py exists: remove it")

    changes = {}
    for path, text in texts.items():
        try:
            old = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        except OSError as error:
            raise ExtractError(f"{path}: cannot be read: {error.strerror}") from None
        if text != old:
            diff = difflib.unified_diff(
                old.splitlines(keepends=True),
                text.splitlines(keepends=True),
                str(path),
                f"{notebook_path} ({path.stem})",
            )
            changes[path] = "".join(diff)
    if not check:
        try:
            out.mkdir(parents=True, exist_ok=True)
            for path in changes:
                write(path, texts[path])
        except OSError as error:
            raise ExtractError(f"{out}: cannot be written: {error.strerror}") from None
    return changes


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: Its words; by default those of the process.

    Returns:
        The exit code: 0, 1 where `--check` found a difference, 2 where the notebook or the call is wrong.
    """
    parser = argparse.ArgumentParser(prog="notebook_tools.extract", description="Make scripts from tagged cells.")
    parser.add_argument(
        "--notebook", type=Path, default=config.PROJECT_DIR / "modeling.py", help="default: modeling.py"
    )
    parser.add_argument("--out", type=Path, default=config.PROJECT_DIR, help="folder of the scripts")
    parser.add_argument(
        "--check", action="store_true", help="write nothing, show what differs, exit with 1 if any does"
    )
    parser.add_argument("scripts", metavar="SCRIPT", nargs="*", help="default: every script of the step table")
    options = parser.parse_args(arguments)
    with contextlib.suppress(ValueError):  # shorter messages
        options.notebook = options.notebook.relative_to(Path.cwd())
    try:
        changes = extract(options.notebook, options.out, options.scripts, options.check)
    except ExtractError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.check:
        print("".join(changes.values()), end="")
        return 1 if changes else 0
    for path in changes:
        print(f"wrote {path.name}")
    print(f"{options.notebook.name}: {len(changes)} script(s) changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
