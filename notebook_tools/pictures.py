"""Takes the README's pictures in a real browser: of MLflow's UI over a finished walkthrough.

usage: python -m notebook_tools.pictures [--store FOLDER] [--out FOLDER] [NAME ...]
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

import mlflow
from PIL import Image
from playwright.sync_api import Error as BrowserError
from playwright.sync_api import sync_playwright

import config
import servers
from cli import StepError

# One and a half picture points to a point of the page: sharp on good screens, and legible at the width of a README.
WIDTH, SCALE = 1120, 1.5
EXPERIMENT, MODEL = f"{config.NAME}_Classification", f"{config.NAME}Model"
ERROR_TEXT = re.compile(
    r"Page Not Found|does not exist| not found\.|[Ww]ent wrong|artifact failed|Can't load|Unable to load|Server Error"
)


class PictureError(Exception):
    """Why there is no picture, in one line."""


# --- What to take. A step is a selector to click; or the name of a method of Playwright's `Locator`, a selector and
# what else it takes; or "click all" or "gone" and a selector.

SIDEBAR, COLUMNS = "[aria-label='Toggle sidebar']", "text='Columns'"
NODE, CHECKBOX = ".du-bois-light-tree-treenode", ".du-bois-light-tree-checkbox"
CHART = "[data-testid='experiment-view-compare-runs-card']"
ESCAPE = ("press", "body", "Escape")
# Put away what would stand in the way of every picture: the assistant, a notice, and the menu for GenAI.
STYLE = "[data-assistant-ui] { display: none !important }"
PREPARE = [
    ("wait_for", "text='Recent Experiments'"),
    ("dispatch_event", "[data-component-id='mlflow.assistant.chat_panel.close']", "click"),
    "text='Model training'",
    "[aria-label='Close alert']",
]


def unfold(run_id, nested_id):
    """Unfold a run in the list of runs, so that those nested in it show."""
    return [f".ag-row[row-id='{run_id}'] button", ("wait_for", f".ag-row[row-id='{nested_id}']")]


def choose_columns(*names):
    """Change which columns the list of runs shows."""
    return [COLUMNS, *(f"{NODE}:has(:text-is('{name}')) {CHECKBOX}" for name in names), ESCAPE]


def wide_column(name):
    """Make a column of the list of runs as wide as needed."""
    return ("dblclick", f".ag-header-cell[col-id$='`{name}`'] .ag-header-cell-resize")


def search_charts(pattern):
    """Have only the three charts shown whose metrics match a regular expression, and wait until they are drawn."""
    drawn = ("wait_for", f"{CHART} >> nth=2 >> .js-plotly-plot .trace")
    return [("fill", "[placeholder='Search metric charts']", pattern), ("gone", f"{CHART} >> nth=3"), drawn]


def ui_pictures(client, address):
    """List the pictures of MLflow's UI.

    Args:
        client: The `mlflow.MlflowClient` of the store.
        address: The address of the UI.

    Returns:
        A dict from the name of each picture to its height, its address and the steps from there.

    Raises:
        PictureError: The store lacks what they are to show.
    """
    experiment = client.get_experiment_by_name(EXPERIMENT)

    def runs(which):
        finished, order = f"{which} and attributes.status = 'FINISHED'", ["attributes.start_time ASC"]
        found = client.search_runs([experiment.experiment_id], finished, order_by=order) if experiment else []
        if not found:
            raise PictureError(f"no finished run with {which} was found. Run the notebook: make walkthrough")
        return [run.info.run_id for run in found]

    # the first runs are those that the notebook's own cells made
    names = ["data_preprocessing", "hyperparameters_tuning", "model_training", "data_evaluation"]
    data, search, training, evaluation = [runs(f"tags.step = '{name}'")[0] for name in names]
    pipeline = runs("tags.step = 'pipeline'")[-1]
    of_search, of_pipeline = [f"tags.mlflow.parentRunId = '{run_id}'" for run_id in (search, pipeline)]
    trials, steps = runs(of_search), runs(of_pipeline)
    model = client.search_model_versions(f"name = '{MODEL}' and run_id = '{training}'")[0].source.rpartition("/")[2]
    sets = {item.dataset.name: item.dataset.digest for item in client.get_run(data).inputs.dataset_inputs}
    test = f"Dataset: test (#{sets['test']})"
    kept = ["Model attributes", "Metrics", test, "log_loss", "recall_score", "false_negatives"]
    others = NODE + "".join(f":not(:has(:text-is('{name}')))" for name in kept)

    here, search_row = f"{address}/#/experiments/{experiment.experiment_id}", f".ag-row[row-id='{search}']"
    in_order = f"{here}/runs?orderByKey=attributes.start_time&orderByAsc=true"
    compared = f"runs={quote(json.dumps(trials))}&experiments={quote(json.dumps([experiment.experiment_id]))}"
    return {
        "mlflow_main": (560, address, [("wait_for", f"a:has-text('{EXPERIMENT}')")]),
        "runs_list": (720, in_order, [
            SIDEBAR, *unfold(search, trials[0]), *choose_columns("Dataset", "Source", "Models"),
            *choose_columns("accuracy", "logloss", "num_boost_round", "learning_rate", "max_depth"),
            wide_column("Run Name"), wide_column("max_depth"),
        ]),
        "data_set": (600, f"{here}/runs/{data}", [
            SIDEBAR, "text=train (", ("wait_for", "[placeholder='Search fields']"), ("wait_for", "text='mean radius'"),
        ]),
        "runs_charts": (700, f"{here}/runs?compareRunsMode=CHART&searchFilter={quote(of_search)}", [
            SIDEBAR, *unfold(search, trials[-1]),
            "[data-testid='experiment-view-runs-visibility-column-header']", "text='Show all runs'",
            # the search itself has no rounds
            ("dispatch_event", f"{search_row} .is-visibility-toggle-checkbox", "click"),
            *search_charts("^(auc|logloss|num_boost_round)$"),
            ("wait_for", ".js-plotly-plot .scatterlayer .trace >> nth=59"),
        ]),
        "registry": (700, f"{address}/#/models/{MODEL}", [("wait_for", f"text='@ {config.CHAMPION}'")]),
        "pipeline_run": (570, f"{in_order}&searchFilter={quote(of_pipeline)}", [
            SIDEBAR, *unfold(pipeline, steps[-1]), *choose_columns("Source", "Models"), wide_column("Run Name"),
        ]),
        "compare_runs_counter_plot": (720, f"{address}/#/compare-runs?{compared}", [
            ("wait_for", ".js-plotly-plot .parcoords"),
            "role=combobox >> nth=1", ".du-bois-light-select-item-option[title='logloss']", ESCAPE,
            "role=combobox >> nth=1", ".du-bois-light-select-item-option[title='accuracy']", ESCAPE,  # put away
        ]),
        "system_metrics": (640, f"{here}/runs/{search}/system-metrics", [SIDEBAR, *search_charts("cpu|memory")]),
        "model_artifacts": (720, f"{here}/models/{model}/artifacts", ["text='MLmodel'", ("wait_for", "text=flavors:")]),
        "logged_models": (455, f"{here}/models", [
            SIDEBAR, COLUMNS, f"{NODE}:has(:text-is('{test}')) .du-bois-light-tree-switcher",
            ("wait_for", "text='true_positives'"), ("click all", f"{others} {CHECKBOX}"), ESCAPE,
            ".ag-header-cell:has(:text('Created'))",  # the oldest first
            ("wait_for", ".ag-row[row-index='0']:has(:text-is('baseline'))"), ("wait_for", "text='Too_Simple'"),
        ]),
        "shap_plot": (720, f"{here}/runs/{evaluation}/artifacts/shap_summary.png", [("wait_for", "img[src^='blob:']")]),
    }  # fmt: skip


# --- Taking one picture


def find_chromium():
    """Find the installed Chromium.

    Returns:
        The path of the program: that in the environment variable CHROMIUM, else the first that is on PATH.

    Raises:
        PictureError: There is none.
    """
    names = ["chromium", "chromium-browser", "google-chrome"]
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        raise PictureError("no Chromium was found. Install it, or set the variable CHROMIUM to the path of its program")
    return found


@contextlib.contextmanager
def new_page():
    """Run Chromium for as long as a `with` statement lasts.

    Yields:
        Playwright's `Page`, a window with nothing kept from an earlier one.

    Raises:
        PictureError: There is no Chromium, or it does not start.
    """
    program = find_chromium()
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=program)
        except BrowserError as error:
            raise PictureError(f"{program} does not start: {error.message.splitlines()[0]}") from None
        with chromium:
            size = {"width": WIDTH, "height": 1400}  # the longest list of columns is seen whole
            page = chromium.new_page(viewport=size, device_scale_factor=SCALE, locale="en-GB")
            page.set_default_timeout(30_000)
            yield page


def do(page, step):
    """Do one step on a page."""
    action, place, *more = ("click", step) if isinstance(step, str) else step
    if action == "click all":
        for found in page.locator(place).all():
            found.click()
    elif action == "gone":
        page.locator(place).wait_for(state="detached")
    else:
        getattr(page.locator(place).first, action)(*more)


def settled_screenshot(page):
    """Photograph the visible part of a page as soon as it no longer changes."""
    # Neither a pointer's tooltip nor the frame around the last thing clicked belongs into the picture.
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    last = None
    for _ in range(20):
        shot = page.screenshot(animations="disabled", style=STYLE)
        if shot == last:
            return Image.open(io.BytesIO(shot)).convert("RGB")
        last = shot
        page.wait_for_timeout(700)
    raise PictureError("the page kept changing")


def save(image, path):
    """Store an image that shows something as a small PNG file."""
    colours = image.getcolors(image.width * image.height)
    background = max(count for count, _ in colours) / (image.width * image.height)
    if len(colours) < 100 or background > 0.97:  # an empty page of the UI, which still has its menu
        raise PictureError(f"the picture is blank: {len(colours)} colours, {background:.0%} of it background")
    # This method keeps the colours of thin lines, and with `kmeans` those of large areas too.
    palette = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    palette.save(content := io.BytesIO(), "PNG", optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())


def take(name, picture, root, out):
    """Take one picture.

    Args:
        name: The name of the picture, which becomes that of its file.
        picture: Its height, its address and the steps from there.
        root: The address of the start page. There is put away what would stand in the way of every picture.
        out: The folder of the picture, a `pathlib.Path`.

    Returns:
        The path of the file.

    Raises:
        PictureError: The page does not come up with what it should show, is an error page or is blank. The message
            names the picture.
    """
    height, address, steps = picture
    failed = None
    try:
        with new_page() as page:
            try:
                for start, part in [(root, PREPARE), (address, steps)]:
                    page.goto(start)
                    for step in part:
                        do(page, step)
                page.set_viewport_size({"width": WIDTH, "height": height})
                image = settled_screenshot(page)
            except BrowserError as error:
                failed = " ".join(error.message.split())[:300]
            errors = [line for line in page.inner_text("body").splitlines() if ERROR_TEXT.search(line)]
        if errors or failed:  # what stands on the page says more than what was waited for in vain
            raise PictureError(f"the page says: {errors[0].strip()}" if errors else failed)
        save(image, out / f"{name}.png")
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    return out / f"{name}.png"


@contextlib.contextmanager
def mlflow_ui(folder):
    """Run MLflow's UI over the store in a folder for as long as a `with` statement lasts.

    Args:
        folder: The folder of `mlflow.db` and `mlruns/`.

    Yields:
        The address of the UI, and an `mlflow.MlflowClient` of the store.

    Raises:
        PictureError: There is no store.
        StepError: The UI does not start.
    """
    database = Path(folder).resolve() / "mlflow.db"
    if not database.is_file():
        raise PictureError(f"{folder}: holds no mlflow.db. Run the notebook: make walkthrough")
    store, port = f"sqlite:///{database.as_posix()}", str(servers.free_port())
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", port, "--backend-store-uri", store]
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with servers.server(command, f"http://127.0.0.1:{port}/health", folder, **variables):
        yield f"http://127.0.0.1:{port}", mlflow.MlflowClient(store)


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: Its words; by default those of the process.

    Returns:
        The exit code: 0, or 1 where a picture could not be taken.
    """
    parser = argparse.ArgumentParser(prog="notebook_tools.pictures", description="Take the pictures of the README.")
    parser.add_argument("--store", type=Path, default=config.PROJECT_DIR, help="folder of mlflow.db and mlruns/")
    parser.add_argument("--out", type=Path, default=config.PROJECT_DIR / "img", help="folder of the pictures")
    parser.add_argument("names", metavar="NAME", nargs="*", help="default: all of them")
    options = parser.parse_args(arguments)
    try:
        find_chromium()
        with mlflow_ui(options.store) as (address, client):
            pictures = ui_pictures(client, address)
            if unknown := set(options.names) - set(pictures):
                raise PictureError(f"there is no picture {min(unknown)}; there are: {', '.join(pictures)}")
            for name in options.names or pictures:
                path = take(name, pictures[name], address, options.out)
                print(f"{path}: {path.stat().st_size // 1000} kB", flush=True)
    except (PictureError, StepError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
