"""Makes README.md, SERVING.md, the chapters' pages and all plots, from the notebooks, executed in an empty folder.

usage: python -m notebook_tools.readme [--check]
"""

import argparse
import re
import shutil
import sys
import tempfile
import textwrap
from base64 import b64decode
from pathlib import Path

from bs4 import BeautifulSoup
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor, TagRemovePreprocessor

import config
from notebook_tools.extract import find_settings, read_notebook
from notebook_tools.run import chapters, copy_project, execute

SCRIPTS = find_settings(config.PROJECT_DIR)["scripts"]
WIDTH = 100  # of a line of code or output, in characters

# What differs from run to run and means nothing to a reader, and what stands in its place.
VARYING = [
    (r"(?m)^.*\d+%\|.*\|.*\n?", ""),  # progress bars
    (r"(Registered model|Successfully registered|Created version) .*'.*\n", ""),  # our own lines say which version
    (r"\[[\d:]+\] Task \[xgboost\.dask-\d+\]:\S+ got rank \d+\n*", ""),  # workers, in any order
    (r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", "<id>"),  # runs and models
    (r"\b\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d([.,]\d+)?", "<time>"),
    (r"(127\.0\.0\.1|localhost):\d{5}\b", r"\1:<port>"),
    (re.escape(tempfile.gettempdir()) + r"\Wtmp\w+", "/path/to/scratch"),
    (r" of \S+: (?=.* training rows)", ": "),  # who ran it
    (r"\b\d+\.\d ms\b", "<n> ms"),
]
NEXT_PAGE = re.compile(r"^<!-- page: (\S+) -->$", re.MULTILINE)  # in a notebook: another page begins
FENCE = re.compile(r"^(`{3,}).*?^\1$", re.DOTALL | re.MULTILINE)
FENCE_OR_GAP = re.compile(rf"{FENCE.pattern}|\n{{3,}}", FENCE.flags)


def sanitise(text, folder):
    """Take out of an output what differs from run to run.

    Args:
        text: The output.
        folder: The `pathlib.Path` of the folder that the notebook ran in.

    Returns:
        The text without progress bars and colours, with `<id>`, `<time>` and `<port>` in place of their values and
        `/path/to/project` in place of the folder.
    """
    text = text.replace(str(folder), "/path/to/project")
    for pattern, replacement in VARYING:
        text = re.sub(pattern, replacement, text)
    return text


def markdown_table(table):
    """Turn one HTML table of pandas into Markdown.

    Args:
        table: The `bs4` element. Levels of a header become one line, cells that span several rows are repeated.

    Returns:
        The table in Markdown.
    """
    rows = table.find_all("tr")
    grid = [[] for _ in rows]
    for number, row in enumerate(rows):
        for cell in row.find_all(["th", "td"]):
            text = " ".join(cell.get_text().split()).replace("|", "\\|")
            # what spans rows stands at their beginning: the index
            for line in grid[number : number + int(cell.get("rowspan", 1))]:
                line += [text] * int(cell.get("colspan", 1))
    levels = len(table.thead.find_all("tr")) if table.thead else 1
    head = [" ".join(dict.fromkeys(filter(None, parts))) for parts in zip(*grid[:levels], strict=True)]
    lines = [head, ["---"] * len(head), *grid[levels:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def wrapped(text):
    """Break the lines of an output that are too wide for the page."""
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_on_hyphens=False).fill
    return "\n".join(map(wrap, text.split("\n")))


def without_hidden(source):
    """Leave out the lines that are meant for scripts."""
    return "\n".join(line for line in source.split("\n") if not line.startswith("# hide "))


def caption(scripts):
    """Say which scripts a cell goes into; None for a cell of the notebook alone."""
    if len(scripts) > 1:
        return "`steps/model_code.py` and others" if "model_code" in scripts else "all steps"
    return f"`steps/{scripts[0]}.py`" if scripts else None


class Page(Preprocessor):
    """Makes cells and outputs fit for a page that never changes without a reason."""

    def __init__(self, folder, **options):
        super().__init__(**options)
        self.folder = folder
        self.plots = {}

    def preprocess(self, notebook, resources):
        """Prepare all cells, as nbconvert calls it, and make one block of neighbours of one script."""
        cells, last = [], None
        for cell in notebook.cells:
            if cell.cell_type == "code":
                tags = cell.metadata.get("tags", [])
                cell.outputs = self.outputs(cell.outputs)
                if "transient" in cell.metadata:  # its input is not shown
                    cells += [cell] if cell.outputs else []
                    continue
                cell.metadata.script = caption([tag for tag in tags if tag in SCRIPTS])
                cell.metadata.begins = cell.metadata.script not in (None, last)
                last = cell.metadata.script or last
                cell.source = without_hidden(cell.source)
            before = cells[-1] if cells and cells[-1].cell_type == cell.cell_type == "code" else None
            if before and not before.outputs and before.metadata.get("script") == cell.metadata.script:
                cell.source = f"{before.source}\n\n{cell.source}"
                cell.metadata.tags = list({*before.metadata.get("tags", []), *cell.metadata.get("tags", [])})
                cell.metadata.begins = before.metadata.begins
                cells.pop()
            cells.append(cell)
        notebook.cells = cells
        return notebook, resources

    def outputs(self, outputs):
        """Keep of the outputs what a reader wants to see, as text or Markdown."""
        kept = []
        for output in outputs:
            if output.output_type == "error":
                message = wrapped(sanitise(f"{output.ename}: {output.evalue}", self.folder)).split("\n")
                if len(message) > 4:  # what matters is said first or last
                    message[1:-2] = ["  …"]
                output = {"output_type": "stream", "name": "stderr", "text": "\n".join(message)}
            elif output.output_type == "stream":
                output.text = wrapped(sanitise(output.text, self.folder))
                if not output.text.strip():
                    continue
            elif "application/vnd.jupyter.widget-view+json" in output.data:
                continue  # a progress bar
            elif "image/png" in output.data:
                alt = output.metadata.get("image/png", {}).get("alt", "A plot")
                name = f"img/plot_{re.sub(r'[^a-z0-9]+', '_', alt.lower()).strip('_')}.png"
                self.plots[name] = b64decode(output.data["image/png"])
                output.data = {"text/markdown": f"![{alt}]({name})"}
            elif "<table" in output.data.get("text/html", ""):
                tables = BeautifulSoup(output.data["text/html"], "html.parser").find_all("table")
                text = "\n\n".join(map(markdown_table, tables))
                output.data = {"text/markdown": sanitise(text, self.folder)}
            elif "text/plain" in output.data:
                output.data = {"text/plain": wrapped(sanitise(output.data["text/plain"], self.folder))}
            else:
                continue
            kept.append(output)
        return kept


def make_page(notebook, folder):
    """Turn an executed notebook into a page.

    Args:
        notebook: The `nbformat.NotebookNode` with its outputs; it is changed.
        folder: The `pathlib.Path` of the folder that it ran in.

    Returns:
        The Markdown text, and a dict from the path of each plot, relative to the page, to its PNG bytes.
    """
    page = Page(folder)
    # what other tools understand too
    tags = TagRemovePreprocessor(remove_input_tags={"remove-input"}, remove_all_outputs_tags={"remove-output"})
    exporter = MarkdownExporter(
        extra_template_basedirs=[str(Path(__file__).parent)],
        template_name="readme_template",
        preprocessors=[tags, CoalesceStreamsPreprocessor(), page],
    )
    text, _ = exporter.from_notebook_node(notebook)
    # no more than one empty line in a row, except in code
    text = FENCE_OR_GAP.sub(lambda found: found[0] if found[1] else "\n\n", text + "\n")
    return text.strip() + "\n", page.plots


def problems(notebook, text, folder):
    """Compare a page with the notebook, without executing anything.

    Args:
        notebook: The `nbformat.NotebookNode`, without outputs; it is changed.
        text: The page.
        folder: The `pathlib.Path` that links on the page are relative to.

    Returns:
        A list of lines that each say what is wrong.
    """
    expected, _ = make_page(notebook, folder)
    lines = iter(text.splitlines())  # the search for each line goes on where that for the last one ended
    lost = [line for line in expected.splitlines() if line.strip() and line not in lines]
    found = [f"this line is not in it, or not in its place: {line}" for line in lost[:1]]
    shown = "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    found += [f"no cell has this line: {line}" for line in {*shown.splitlines()} - {*expected.splitlines()}]
    for target in re.findall(r"\]\(([^)]+)\)", FENCE.sub("", text)):
        if not target.startswith("http") and not (folder / target).exists():
            found.append(f"there is no file {target}")
    return found


def pages():
    """Name all pages: a dict from the path of each notebook to that of its page, both relative to the project."""
    return {"modeling.py": "README.md"} | {path: path.replace(".py", ".md") for path in chapters()}


def split(text, page):
    """Return the pages that one notebook makes: a dict from the path of each to its text."""
    first, *others = re.split(r"^(?=<!-- page: )", text, flags=re.MULTILINE)
    return {page: first} | {NEXT_PAGE.match(other)[1]: other for other in others}


def make_all():
    """Execute all notebooks, then write their pages and plots in place of the old ones."""
    made = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder, story = Path(scratch).resolve() / "project", Path(scratch, "after the story")
        copy_project(folder)
        for path, page in pages().items():
            if made:  # each chapter begins where the story ended, whatever other chapters did
                shutil.rmtree(folder)
                shutil.copytree(story, folder, symlinks=True)
            notebook = read_notebook(config.PROJECT_DIR / path)
            execute(notebook, (folder / path).parent, environments=True)
            if not made:
                shutil.copytree(folder, story, symlinks=True)
            made[config.PROJECT_DIR / page] = make_page(notebook, folder)
    for old in [*config.PROJECT_DIR.glob("img/plot_*"), *config.PROJECT_DIR.glob("chapters/img/plot_*")]:
        old.unlink()
    for page, (text, plots) in made.items():
        for name, part in split(text, page.name).items():
            page.with_name(name).write_text(part, encoding="utf-8", newline="\n")
        for name, content in plots.items():
            (page.parent / name).write_bytes(content)


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: Its words; by default those of the process.

    Returns:
        The exit code: 0, or what `--check` found out of date, a text, with which the process ends with 1.
    """
    parser = argparse.ArgumentParser(prog="notebook_tools.readme", description="Make the pages from the notebooks.")
    parser.add_argument("--check", action="store_true", help="execute nothing, compare the pages with the notebooks")
    options = parser.parse_args(arguments)
    if options.check:
        found = []
        for path, page in pages().items():
            notebook, file = read_notebook(config.PROJECT_DIR / path), config.PROJECT_DIR / page
            further = NEXT_PAGE.findall("\n".join(cell.source for cell in notebook.cells))
            files = [each for each in [file, *map(file.with_name, further)] if each.exists()]
            text = "".join(each.read_text(encoding="utf-8") for each in files)
            found += [f"{page}: {line}. Run: make readme" for line in problems(notebook, text, file.parent)]
        return "\n".join(found) or 0
    make_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
