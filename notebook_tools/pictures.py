"""Takes the README's pictures in a real browser: of MLflow's UI over a finished walkthrough.

usage: python -m notebook_tools.pictures [--store FOLDER] [--out FOLDER] [NAME ...]
"""

import argparse
import contextlib
import io
import json
import os
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
WIDTH, HEIGHT, SCALE = 1120, 720, 1.5
EXPERIMENT, MODEL = f"{config.NAME}_Classification", f"{config.NAME}Model"
MAX_BYTES = 200_000
# An empty page of the UI, which still has its menu, stays below these.
MIN_COLOURS, MAX_BACKGROUND = 100, 0.97
WAIT = 30_000  # milliseconds, for any one thing that a page shows
RUN_ALL_WAIT = 1_200_000

FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ERROR_TEXTS = [
    "Page Not Found",
    "does not exist",
    " not found.",
    "Something went wrong",
    "went wrong with this section",
    "Loading artifact failed",
    "Can't load",
    "Unable to load",
    "Internal Server Error",
]


class PictureError(Exception):
    """Why there is no picture, in one line."""


# --- Programs that the pictures need


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
def browser():
    """Run Chromium for as long as a `with` statement lasts.

    Yields:
        Playwright's `Browser`.

    Raises:
        PictureError: There is no Chromium, or it does not start.
    """
    program = find_chromium()
    # Chromium refuses to run as root with its sandbox. It only ever sees servers of our own here.
    as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=program, args=FLAGS + as_root)
        except BrowserError as error:
            raise PictureError(f"{program} does not start: {error.message.splitlines()[0]}") from None
        try:
            yield chromium
        finally:
            chromium.close()


def new_page(chromium, **options):
    """Open a browser window with nothing kept from an earlier one.

    Args:
        chromium: Playwright's `Browser`.
        **options: Further arguments of its `new_context`.

    Returns:
        Playwright's `Page`. Closing its `context` closes the window.
    """
    size = {"width": WIDTH, "height": HEIGHT}
    context = chromium.new_context(viewport=size, device_scale_factor=SCALE, locale="en-GB", **options)
    context.set_default_timeout(WAIT)
    return context.new_page()


# --- Taking one picture


def refuse_errors(page):
    """Make sure that a page shows no error.

    Args:
        page: Playwright's `Page`.

    Raises:
        PictureError: It does; the message is what stands on the page.
    """
    for line in page.inner_text("body").splitlines():
        if any(text in line for text in ERROR_TEXTS):
            raise PictureError(f"the page says: {line.strip()}")


def settled_screenshot(page):
    """Photograph a page as soon as it no longer changes.

    Args:
        page: Playwright's `Page`.

    Returns:
        A `PIL.Image.Image` of the visible part.

    Raises:
        PictureError: The page kept changing.
    """
    # Neither a pointer's tooltip nor the frame around the last thing clicked belongs into the picture.
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    last = None
    for _ in range(20):
        shot = page.screenshot(animations="disabled")
        if shot == last:
            return Image.open(io.BytesIO(shot)).convert("RGB")
        last = shot
        page.wait_for_timeout(700)
    raise PictureError("the page kept changing")


def refuse_blank(image):
    """Make sure that an image shows something.

    Args:
        image: A `PIL.Image.Image` in RGB.

    Raises:
        PictureError: Hardly anything but background.
    """
    colours = image.getcolors(image.width * image.height)
    background = max(count for count, _ in colours) / (image.width * image.height)
    if len(colours) < MIN_COLOURS or background > MAX_BACKGROUND:
        raise PictureError(f"the picture is blank: {len(colours)} colours, {background:.0%} of it background")


def save(image, path):
    """Store an image as a small PNG file.

    Args:
        image: A `PIL.Image.Image` in RGB.
        path: The file's `pathlib.Path`; its folder is made where it is missing.

    Raises:
        PictureError: The file would be too large.
    """
    content = io.BytesIO()
    # This method keeps the colours of thin lines, and with `kmeans` those of large areas too.
    palette = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    palette.save(content, "PNG", optimize=True)
    if content.tell() > MAX_BYTES:
        raise PictureError(f"the file would have {content.tell()} bytes, more than {MAX_BYTES}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())


def take(name, show, page, out):
    """Take one picture.

    Args:
        name: The name of the picture, which becomes that of its file.
        show: A function of the page: it leads the browser to what the picture is to show, waits until that is
            there, and returns texts that must be readable on the page.
        page: Playwright's `Page`.
        out: The folder of the picture, a `pathlib.Path`.

    Returns:
        The path of the file.

    Raises:
        PictureError: The page does not come up with what it should show, is an error page or is blank. The message
            names the picture.
    """
    try:
        try:
            texts = show(page)
        except BrowserError as error:
            refuse_errors(page)  # says more than what was waited for in vain
            raise PictureError(" ".join(error.message.split())[:300]) from None
        image = settled_screenshot(page)
        refuse_errors(page)
        for text in texts:
            if not page.get_by_text(text).locator("visible=true").count():
                raise PictureError(f"the page does not show the text {text!r}")
        refuse_blank(image)
        save(image, out / f"{name}.png")
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    return out / f"{name}.png"


# --- The pictures of MLflow's UI: each a function of the page and the store, listed in MLFLOW_PICTURES below


class Store:
    """The store of a walkthrough, and the UI that shows it."""

    def __init__(self, folder, address):
        self.address = address
        self.client = mlflow.MlflowClient(f"sqlite:///{(Path(folder) / 'mlflow.db').as_posix()}")
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if not experiment:
            raise PictureError(f"{folder}: has no experiment {EXPERIMENT}. Run the notebook: make walkthrough")
        self.experiment_id = experiment.experiment_id

    def search(self, filter_string):
        """Find the finished runs of the experiment that match a filter, oldest first."""
        finished = f"{filter_string} and attributes.status = 'FINISHED'"
        return self.client.search_runs([self.experiment_id], finished, order_by=["attributes.start_time ASC"])

    def run_id(self, step):
        """Find the run of a step: the first, which is the one that the notebook's own cells made."""
        runs = self.search(f"tags.step = '{step}'")
        if not runs:
            raise PictureError(f"no finished run of {step} was found. Run the notebook: make walkthrough")
        return runs[0].info.run_id

    def trials(self):
        """Find the trials of the tuning run."""
        return self.search(f"tags.mlflow.parentRunId = '{self.run_id('hyperparameters_tuning')}'")

    def model_id(self):
        """Find the model that the training run logged and registered."""
        run_id = self.run_id("model_training")
        versions = self.client.search_model_versions(f"name = '{MODEL}' and run_id = '{run_id}'")
        if not versions:
            raise PictureError(f"the training run registered no {MODEL}")
        return versions[0].source.removeprefix("models:/")

    def open(self, page, path=""):
        """Open a page of the experiment."""
        page.goto(f"{self.address}/#/experiments/{self.experiment_id}/{path}")


def prepare(page, store):
    """Put away what would stand in the way of every picture: the assistant, a notice, and the menu for GenAI.

    Args:
        page: Playwright's `Page`.
        store: The `Store`.
    """
    page.add_init_script("""addEventListener("DOMContentLoaded", () => {
        const style = document.createElement("style");
        style.textContent = "[data-assistant-ui] { display: none !important }";
        document.head.append(style);
    })""")
    page.goto(store.address)
    page.get_by_text("Recent Experiments").wait_for()
    page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").dispatch_event("click")
    page.get_by_text("Model training", exact=True).click()
    page.get_by_label("Close alert").click()


def search_charts(page, pattern, count):
    """Have only some of the charts shown.

    Args:
        page: Playwright's `Page`, with a page of charts.
        pattern: A regular expression for the metrics' names.
        count: How many charts match.
    """
    page.get_by_placeholder("Search metric charts").fill(pattern)
    wait_for_charts(page, count)


def wait_for_charts(page, count):
    """Wait until the charts of a page are drawn.

    Args:
        page: Playwright's `Page`, with a page of charts.
        count: How many of them there should be.
    """
    charts = page.locator("[data-testid='experiment-view-compare-runs-card']")
    charts.nth(count).wait_for(state="detached")
    for number in range(count):
        charts.nth(number).locator(".js-plotly-plot .trace").first.wait_for()


def set_height(page, height):
    """Make the window as high as what is worth showing.

    Args:
        page: Playwright's `Page`.
        height: In points of the page.
    """
    page.set_viewport_size({"width": WIDTH, "height": height})


def unfold(page, store, run_id):
    """Unfold a run in the list of runs, so that those nested in it show.

    Args:
        page: Playwright's `Page`, with the list of runs.
        store: The `Store`.
        run_id: The run's ID.
    """
    nested = store.search(f"tags.mlflow.parentRunId = '{run_id}'")
    page.locator(f".ag-row[row-id='{run_id}']").get_by_role("button").first.click()
    page.locator(f".ag-row[row-id='{nested[0].info.run_id}']").first.wait_for()


def mlflow_main(page, store):
    """The start page."""
    set_height(page, 560)
    page.goto(store.address)
    page.get_by_role("link", name=EXPERIMENT).wait_for()
    return ["Welcome to MLflow", "Recent Experiments", EXPERIMENT]


def column(page, name):
    """An entry in the list of columns that can be shown."""
    return page.locator(".du-bois-light-tree-treenode").filter(has=page.get_by_text(name, exact=True))


def choose_columns(page, away, wanted):
    """Change which columns the list of runs shows, and make them as wide as needed."""
    page.get_by_text("Columns", exact=True).click()
    for name in [*away, *wanted]:
        column(page, name).locator(".du-bois-light-tree-checkbox").first.click()
    page.keyboard.press("Escape")
    for name in ["Run Name", *wanted[-1:]]:
        page.locator(f".ag-header-cell[col-id$='`{name}`'] .ag-header-cell-resize").dblclick()


def runs_list(page, store):
    """The runs of the experiment in the order in which they were made, the trials with what they tried."""
    store.open(page, "runs?orderByKey=attributes.start_time&orderByAsc=true")
    page.get_by_label("Toggle sidebar").click()
    unfold(page, store, store.run_id("hyperparameters_tuning"))
    wanted = ["accuracy", "logloss", "num_boost_round", "learning_rate", "max_depth"]
    choose_columns(page, ["Dataset", "Source", "Models"], wanted)
    return ["Baseline", "Hyperparameters_Search", "Trial_0", "logloss", "learning_rate"]


def pipeline_run(page, store):
    """The last pipeline, with its steps below it."""
    set_height(page, 570)
    run_id = store.search("tags.step = 'pipeline'")[-1].info.run_id
    only = quote(f"tags.mlflow.parentRunId = '{run_id}'")
    store.open(page, f"runs?orderByKey=attributes.start_time&orderByAsc=true&searchFilter={only}")
    page.get_by_label("Toggle sidebar").click()
    unfold(page, store, run_id)
    choose_columns(page, ["Source", "Models"], [])
    return ["Pipeline", "Data_Preprocessing", "Model_Training", "Serving_Check"]


def registry(page, store):
    """The versions of the model, one with the alias."""
    set_height(page, 700)
    page.goto(f"{store.address}/#/models/{MODEL}")
    page.get_by_text(f"@ {config.CHAMPION}").first.wait_for()
    return [MODEL, "Version 1", f"@ {config.CHAMPION}"]


def data_set(page, store):
    """The training data, opened from the run that made them."""
    set_height(page, 600)
    store.open(page, f"runs/{store.run_id('data_preprocessing')}")
    page.get_by_label("Toggle sidebar").click()
    page.get_by_text("train (").click()
    page.get_by_text("Search fields").or_(page.get_by_placeholder("Search fields")).first.wait_for()
    return ["2 datasets used", "mean radius", "double"]


def runs_charts(page, store):
    """The metrics of all trials, round by round."""
    set_height(page, 700)
    only = quote(f"tags.mlflow.parentRunId = '{store.run_id('hyperparameters_tuning')}'")
    store.open(page, f"runs?compareRunsMode=CHART&searchFilter={only}")
    page.get_by_label("Toggle sidebar").click()
    search = page.locator(f".ag-row[row-id='{store.run_id('hyperparameters_tuning')}']")
    search.get_by_role("button").first.click()  # unfold it
    page.get_by_text("Trial_29", exact=True).first.wait_for()
    page.locator("[data-testid='experiment-view-runs-visibility-column-header']").click()
    page.get_by_text("Show all runs").click()
    search.locator(".is-visibility-toggle-checkbox").dispatch_event("click")  # it has no rounds
    search_charts(page, "^(auc|logloss|num_boost_round)$", 3)
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length >= 60")
    return ["auc", "logloss", "num_boost_round"]


def compare_runs_counter_plot(page, store):
    """The trials as lines through their parameters, coloured by a metric."""
    trials = quote(json.dumps([run.info.run_id for run in store.trials()]))
    page.goto(f"{store.address}/#/compare-runs?runs={trials}&experiments={quote(json.dumps([store.experiment_id]))}")
    page.locator(".js-plotly-plot .parcoords").first.wait_for()
    for name in ["logloss", "accuracy"]:  # the last one is put away
        page.get_by_role("combobox").nth(1).click()
        page.locator(f".du-bois-light-select-item-option[title='{name}']").click()
        page.keyboard.press("Escape")
    return [f"Comparing {len(store.trials())} Runs", "Parallel Coordinates Plot"]


def system_metrics(page, store):
    """What processor and memory did during the tuning run."""
    set_height(page, 640)
    store.open(page, f"runs/{store.run_id('hyperparameters_tuning')}/system-metrics")
    page.get_by_label("Toggle sidebar").click()
    search_charts(page, "cpu|memory", 3)
    return ["Hyperparameters_Search", "cpu_utilization_percentage"]


def model_artifacts(page, store):
    """The MLmodel file of the registered model."""
    store.open(page, f"models/{store.model_id()}/artifacts")
    page.get_by_text("MLmodel", exact=True).click()
    page.get_by_text("flavors:").wait_for()
    return ["flavors:", "python_function"]


def logged_models(page, store):
    """The logged models of the notebook's own cells, with their metrics on the test set."""
    set_height(page, 1400)  # the list of columns is long
    store.open(page, "models")
    page.get_by_label("Toggle sidebar").click()
    page.get_by_text("Columns", exact=True).click()
    page.get_by_text("Dataset: features").first.wait_for()
    (test,) = {
        f"{item.dataset.name} (#{item.dataset.digest})"
        for item in store.client.get_run(store.run_id("data_preprocessing")).inputs.dataset_inputs
        if item.dataset.name == "test"
    }
    column(page, f"Dataset: {test}").locator(".du-bois-light-tree-switcher").first.click()
    page.get_by_text("true_positives", exact=True).first.wait_for()
    kept = ["", "Model attributes", "Metrics", f"Dataset: {test}", "log_loss", "recall_score", "false_negatives"]
    for title in page.locator(".du-bois-light-tree-treenode").all_inner_texts():
        if title not in kept:
            column(page, title).locator(".du-bois-light-tree-checkbox").first.click()
    page.keyboard.press("Escape")
    page.locator(".ag-header-cell").filter(has=page.get_by_text("Created")).first.click()  # the oldest first
    page.locator(".ag-row").filter(has=page.get_by_text("baseline", exact=True)).and_(
        page.locator("[row-index='0']")
    ).first.wait_for()
    set_height(page, 455)  # those of the pipeline come below
    return ["tuned", "Too_Simple", test, "log_loss", "false_negatives"]


def shap_plot(page, store):
    """The SHAP plot among the artifacts of the evaluation."""
    store.open(page, f"runs/{store.run_id('data_evaluation')}/artifacts/shap_summary.png")
    page.wait_for_function("[...document.images].some(image => image.complete && image.naturalWidth > 300)")
    return ["Data_Evaluation", "shap_summary.png"]


MLFLOW_PICTURES = {
    show.__name__: show
    for show in [
        mlflow_main,
        runs_list,
        data_set,
        runs_charts,
        registry,
        pipeline_run,
        compare_runs_counter_plot,
        system_metrics,
        model_artifacts,
        logged_models,
        shap_plot,
    ]
}


@contextlib.contextmanager
def mlflow_ui(folder):
    """Run MLflow's UI over the store in a folder for as long as a `with` statement lasts.

    Args:
        folder: The folder of `mlflow.db` and `mlruns/`.

    Yields:
        The `Store`.

    Raises:
        PictureError: There is no store, or the UI does not start.
    """
    if not (Path(folder) / "mlflow.db").is_file():
        raise PictureError(f"{folder}: holds no mlflow.db. Run the notebook: make walkthrough")
    port = servers.free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", str(port)]
    store = f"sqlite:///{(Path(folder) / 'mlflow.db').resolve().as_posix()}"
    command += ["--backend-store-uri", store]
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with servers.server(command, f"{address}/health", folder, **variables):
        yield Store(folder, address)


def take_mlflow_pictures(chromium, folder, out, names=tuple(MLFLOW_PICTURES)):
    """Take pictures of MLflow's UI.

    Args:
        chromium: Playwright's `Browser`.
        folder: The folder of `mlflow.db` and `mlruns/`.
        out: The folder of the pictures, a `pathlib.Path`.
        names: Which pictures.

    Returns:
        A list of the files' paths.

    Raises:
        PictureError: One of them, which the message names, cannot be taken.
    """
    paths = []
    with mlflow_ui(folder) as store:
        for name in names:

            def show(page, name=name):
                prepare(page, store)
                return MLFLOW_PICTURES[name](page, store)

            page = new_page(chromium)
            paths.append(take(name, show, page, out))
            page.context.close()
    return paths


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: Its words; by default those of the process.

    Returns:
        The exit code: 0, or 1 where a picture could not be taken.
    """
    known = list(MLFLOW_PICTURES)
    parser = argparse.ArgumentParser(prog="notebook_tools.pictures", description="Take the pictures of the README.")
    parser.add_argument(
        "--store", type=Path, default=config.PROJECT_DIR, help="folder of mlflow.db and mlruns/; default: the project"
    )
    parser.add_argument("--out", type=Path, default=config.PROJECT_DIR / "img", help="default: img/")
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"default: all of {', '.join(known)}")
    options = parser.parse_args(arguments)
    names = options.names or known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"there is no picture {unknown[0]}; there are: {', '.join(known)}")
    try:
        with browser() as chromium:
            paths = take_mlflow_pictures(chromium, options.store, options.out, names)
    except (PictureError, StepError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in paths:
        print(f"{path}: {path.stat().st_size // 1000} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
