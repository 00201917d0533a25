"""Runs a notebook from top to bottom, shows where it is, and says at the end what came out.

usage: python -m notebook_tools.run [--environments] [--chapters | NOTEBOOK ...]
"""

import argparse
import shutil
import subprocess
import sys
import time

import jupytext
import mlflow
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import config
from notebook_tools.extract import ExtractError, check_pair, read_notebook, write_whole


def chapters():
    """Name the notebooks of the chapters: their paths, relative to the project."""
    return sorted(path.relative_to(config.PROJECT_DIR).as_posix() for path in config.PROJECT_DIR.glob("chapters/*.py"))


def copy_project(folder):
    """Copy the project's files, without what was made on this machine.

    Args:
        folder: The `pathlib.Path` of an existing folder.

    Raises:
        SystemExit: Git does not say which files they are.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=config.PROJECT_DIR, capture_output=True, text=True)
    if listed.returncode:  # a ZIP file without .git, or a clone that belongs to somebody else
        sys.exit(f"error: git must say which files belong to the project. {' '.join(listed.stderr.split())}")
    for name in listed.stdout.split("\0"):
        if (config.PROJECT_DIR / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(config.PROJECT_DIR / name, folder / name)


def execute(notebook, folder, environments=False):
    """Execute all cells of a notebook, printing each section's heading on the way.

    Args:
        notebook: The `nbformat.NotebookNode`; its cells get their outputs.
        folder: The `pathlib.Path` of the folder to run in.
        environments: Whether cells with the tag `environments`, which make further environments, are run too.

    Raises:
        CellExecutionError: A cell failed.
        NoSuchKernel, RuntimeError: The kernel does not start, or has died.
    """
    start = time.monotonic()

    def show_section(cell, cell_index):
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else []:
            if line.startswith(("# ", "## ")):
                print(f"{time.monotonic() - start:5.0f} s  {line.lstrip('# ')}", flush=True)

    client = NotebookClient(
        notebook,
        resources={"metadata": {"path": folder}},
        on_cell_start=show_section,
        skip_cells_with_tag="" if environments else "environments",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # the kernel warns about each local connection
    )
    client.execute()


def run(source, environments=False):
    """Run a notebook in its folder and keep the result beside it, as `.ipynb`.

    Args:
        source: The `pathlib.Path` of the notebook.
        environments: As for `execute`.

    Returns:
        The exit code: 0, 1 where a cell failed, 2 where the notebook cannot be run as it is.
    """
    result = source.with_suffix(".ipynb")
    try:
        check_pair(source)
        notebook = read_notebook(source)
    except ExtractError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    code = 1
    try:
        execute(notebook, source.parent, environments)
        code = 0
    except CellExecutionError as error:
        print(f"error: a cell of {source.name} failed; its output is in {result.name}\n{error}", file=sys.stderr)
    finally:
        if any(cell.get("execution_count") for cell in notebook.cells):
            write_whole(result, jupytext.writes(notebook, "ipynb"))
            source.touch()  # Jupyter takes the inputs from the newer file of the pair
    return code


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: Its words; by default those of the process.

    Returns:
        The exit code: 0, or that of the first notebook that did not run to its end.
    """
    parser = argparse.ArgumentParser(prog="notebook_tools.run", description="Run notebooks from top to bottom.")
    parser.add_argument("--chapters", action="store_true", help="run all chapters; needs the runs of modeling.py")
    parser.add_argument("--environments", action="store_true", help="run the cells that make further environments too")
    parser.add_argument("notebooks", metavar="NOTEBOOK", nargs="*", help="default: modeling.py")
    options = parser.parse_args(arguments)
    for name in chapters() if options.chapters else options.notebooks or ["modeling.py"]:
        if code := run(config.PROJECT_DIR / name, options.environments):
            return code
    runs = mlflow.search_runs(experiment_names=[f"{config.NAME}_Classification"], output_format="list")
    models = [f"{model.name} {dict(model.aliases)}" for model in mlflow.MlflowClient().search_registered_models()]
    print(f"\n{len(runs)} runs. Registered models, and which version is the champion: {', '.join(models)}")
    print("The outputs are in the .ipynb beside each notebook. To look at the runs: make ui")
    return 0


if __name__ == "__main__":
    sys.exit(main())
