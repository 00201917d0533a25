"""Makes README.md, and the plots in img/, from the notebook, executed in a folder of its own with an empty store.

usage: python -m notebook_tools.readme [--check]
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

import yaml
from bs4 import BeautifulSoup
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor, Preprocessor

import config
from notebook_tools.extract import find_settings, read_notebook
from notebook_tools.run import copy_project, execute

README = config.PROJECT_DIR / "README.md"
SCRIPTS = find_settings(config.PROJECT_DIR)["scripts"]

# What differs from run to run and means nothing to a reader, and what stands in its place.
VARYING = [
    (r"\x1b\[[0-9;]*m", ""),  # colours
    (r"\[[\d:]+\] Task \[xgboost\.dask-\d+\]:\S+ got rank \d+\n*", ""),  # workers, in any order
    # what uv says when it makes an environment, which it keeps for the next time
    (r"(?m)^(Using .*Python .* at: .*|Creating virtual environment at: .*| [+~-] \S+==\S+)\n", ""),
    (r"(?m)^(Resolved|Prepared|Installed|Uninstalled|Audited) \d+ packages? in .*\n", ""),
    (r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", "<id>"),  # runs and models
    (r"\b\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d([.,]\d+)?", "<time>"),
    (r"(127\.0\.0\.1|localhost):\d{5}\b", r"\1:<port>"),
    (r" at 0x[0-9a-f]+", ""),
    (r"\b\d+\.\d ms\b", "<n> ms"),
]
FRONT_MATTER = """\
To run it, on Linux or macOS with Python 3.11 to 3.13:

```bash
make walkthrough
make ui
```

The first command runs everything on this page, in some minutes; the second shows the results in the browser.
`make test` runs the tests. This page is made from a run of [modeling.py](modeling.py), not written by hand.

![The runs of the experiment in the MLflow UI](img/runs_list.png)

**Contents**

{contents}

**Entry points**, to be run with `mlflow run . -e NAME`:

| entry point | parameters |
| --- | --- |
{entry_points}"""
PROGRESS_BAR = re.compile(r"^.*\d+%\|.*\|.*\n?", re.MULTILINE)


def sanitise(text, folder):
    """Take out of an output what differs from run to run.

    Args:
        text: The output.
        folder: The `pathlib.Path` of the folder that the notebook ran in.

    Returns:
        The text without progress bars and colours, with `<id>`, `<time>` and `<port>` in place of their values and
        `/path/to/project` in place of the folder.
    """
    text = PROGRESS_BAR.sub("", text).replace(str(folder), "/path/to/project")
    for pattern, replacement in VARYING:
        text = re.sub(pattern, replacement, text)
    return text


def markdown_table(html):
    """Turn the HTML of a DataFrame into a Markdown table.

    Args:
        html: HTML with one table.

    Returns:
        The table in Markdown; its first row is the heading.
    """
    rows = [
        [cell.get_text().strip().replace("|", "\\|") for cell in row.find_all(["th", "td"])]
        for row in BeautifulSoup(html, "html.parser").find_all("tr")
    ]
    if len(rows) > 1 and not any(rows[1][1:]):  # the name of the index stands in a row of its own
        rows[0][0] = rows.pop(1)[0]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


class PrepareOutputs(Preprocessor):
    """Names each cell's script and makes its outputs fit for a page that never changes without a reason."""

    def __init__(self, folder, **options):
        super().__init__(**options)
        self.folder = folder

    def preprocess_cell(self, cell, resources, index):
        """Prepare one cell, as nbconvert calls it."""
        if cell.cell_type != "code":
            return cell, resources
        cell.metadata.script = next((tag for tag in cell.metadata.get("tags", []) if tag in SCRIPTS), None)
        kept = []
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = sanitise(output.text, self.folder)
                if output.text.strip():
                    kept.append(output)
                continue
            data = output.data
            if "application/vnd.jupyter.widget-view+json" in data:
                continue  # a progress bar
            if "image/png" in data:
                output.data = {"image/png": data["image/png"]}
            elif "<table" in data.get("text/html", ""):
                output.data = {"text/markdown": markdown_table(data["text/html"])}
            else:
                output.data = {"text/plain": sanitise(data["text/plain"], self.folder)}
            kept.append(output)
        cell.outputs = kept
        return cell, resources


def anchor(heading):
    """Make the address of a section within the page, as code hosts do.

    Args:
        heading: The text of its heading.

    Returns:
        The address, without `#`.
    """
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def front_matter(notebook):
    """Make what stands between the title and the first section: commands, a picture, contents and entry points.

    Args:
        notebook: The `nbformat.NotebookNode`.

    Returns:
        Markdown text.
    """
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    contents = [f"- [{heading}](#{anchor(heading)})" for heading in re.findall(r"^## (.+)$", text, re.MULTILINE)]
    rows = []
    for name, entry in yaml.safe_load((config.PROJECT_DIR / "MLproject").read_text())["entry_points"].items():
        parameters = []
        for parameter, declared in entry.get("parameters", {}).items():
            default = "optional" if declared["default"] == "" else f"default {declared['default']}"
            parameters.append(f"`{parameter}` ({declared['type']}, {default})")
        rows.append(f"| `{name}` | {', '.join(parameters) or 'none'} |")
    return FRONT_MATTER.format(contents="\n".join(contents), entry_points="\n".join(rows))


def make_readme(notebook, folder):
    """Turn an executed notebook into the page.

    Args:
        notebook: The `nbformat.NotebookNode` with its outputs.
        folder: The `pathlib.Path` of the folder that it ran in.

    Returns:
        The Markdown text, and a dict from the path of each plot, relative to the page, to its PNG bytes.
    """
    exporter = MarkdownExporter(
        extra_template_basedirs=[str(Path(__file__).parent)],
        template_name="readme_template",
        preprocessors=[CoalesceStreamsPreprocessor(), PrepareOutputs(folder)],
    )
    resources = {"output_files_dir": "img", "unique_key": "output"}
    text, resources = exporter.from_notebook_node(notebook, resources=resources)
    title, rest = text.lstrip().split("\n## ", 1)
    text = f"{title.rstrip()}\n\n{front_matter(notebook)}\n\n## {rest.rstrip()}\n"
    # no more than one empty line in a row, except in code
    text = re.sub(r"(^```.*?^```$)|\n{3,}", lambda found: found[1] or "\n\n", text, flags=re.MULTILINE | re.DOTALL)
    return text, resources["outputs"]


def problems(notebook, text, folder):
    """Compare a page with the notebook, without executing anything.

    Args:
        notebook: The `nbformat.NotebookNode`.
        text: The page.
        folder: The `pathlib.Path` that links on the page are relative to.

    Returns:
        A list of lines that each say what is wrong.
    """
    found, position = [], 0
    for number, cell in enumerate(notebook.cells, start=1):
        block = f"```python\n{cell.source}\n```" if cell.cell_type == "code" else cell.source
        place = text.find(block, position)
        if place < 0:
            found.append(f"cell {number} is not in it, or not in its place: {cell.source.splitlines()[0]}")
        else:
            position = place + len(block)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    anchors = {f"#{anchor(heading)}" for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        if target.startswith("http"):
            continue
        if target.startswith("#"):
            if target not in anchors:
                found.append(f"there is no section {target}")
        elif not (folder / target).exists():
            found.append(f"there is no file {target}")
    return found


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: Its words; by default those of the process.

    Returns:
        The exit code: 0, or 1 where `--check` found README.md out of date.
    """
    parser = argparse.ArgumentParser(prog="notebook_tools.readme", description="Make README.md from the notebook.")
    parser.add_argument("--check", action="store_true", help="execute nothing, compare README.md with the notebook")
    options = parser.parse_args(arguments)
    notebook = read_notebook(config.PROJECT_DIR / "modeling.py")
    if options.check:
        found = problems(notebook, README.read_text(encoding="utf-8"), config.PROJECT_DIR)
        for line in found:
            print(f"README.md: {line}. Run: make readme", file=sys.stderr)
        return 1 if found else 0

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder).resolve()
        copy_project(folder)
        execute(notebook, folder)
        text, plots = make_readme(notebook, folder)
    for old in config.PROJECT_DIR.glob("img/output_*.png"):
        old.unlink()
    (config.PROJECT_DIR / "img").mkdir(exist_ok=True)
    for path, content in plots.items():
        (config.PROJECT_DIR / path).write_bytes(content)
    README.write_text(text, encoding="utf-8", newline="\n")
    print(f"wrote README.md and {len(plots)} plots")
    return 0


if __name__ == "__main__":
    sys.exit(main())
