"""One Optuna study for any number of processes: where it is kept, whose turn it is, and what if a process dies.

Optuna's storage is what the workers have in common. Each takes the next trial from there until the study has as many
finished trials as it should. So a search can be stopped, killed, and taken up again at any time.
"""

import contextlib
import datetime
import os
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from pathlib import Path

import mlflow
import optuna
import sqlalchemy
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from tqdm.auto import tqdm

import config
import errors
import processes
import utils
from errors import StepError

PROCESS = "process"  # the user attribute of a trial that names the process which makes it

# Heartbeats, and repeating the trials that lack one, have been "experimental" since 2021.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
# A trial that is left to another worker is no failure to warn of, and a true failure ends the step.
optuna.logging.set_verbosity(optuna.logging.ERROR)


class Sampler(optuna.samplers.TPESampler):
    """Draws each trial from a seed of its own.

    With one seed for all trials each worker, and each new start, would draw the same ones again.
    """

    def before_trial(self, study, trial):
        """Seed the sampler for a new trial.

        Args:
            study: The `optuna.Study`.
            trial: The `optuna.trial.FrozenTrial` that is about to get its parameters.
        """
        super().__init__(seed=config.SEED + trial.number)
        super().before_trial(study, trial)


class NotNeeded(Exception):
    """Other workers have taken all trials that were left."""


class AlreadyFinished(Exception):
    """Another process has written the results into the run."""


class SharedStudy:
    """A study that other processes may be working on as well.

    Attributes:
        study: The `optuna.Study`.
    """

    def __init__(self, data_run, suggest, address=None, name=None):
        """Join a study, or begin it.

        Args:
            data_run: The `mlflow.entities.Run` of the step `data_preprocessing` with the study's data.
            suggest: A function that gets an `optuna.Trial` and asks it for all parameters.
            address: The storage: the URL of a database, such as "postgresql://user@host/optuna", or the path of a
                journal file. By default a journal file beside MLflow's store.
            name: The study's name; by default the same data run has the same study.

        Raises:
            StepError: The storage cannot be used, or the study is one on other data or with other ranges.
        """
        self.data_run = data_run
        self.address = address or default_storage()
        if "://" not in self.address:
            self.address = str(Path(self.address).absolute())
        self.name = name or f"tuning-{data_run.info.run_id}"
        self.joined = None
        with self.errors_in_one_line():
            self.storage = open_storage(self.address)
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=self.name,
                direction="maximize",
                sampler=Sampler(),
                load_if_exists=True,
            )
            self.check_data()
            self.check_ranges(suggest)

    def check_data(self):
        """Refuse to mix trials on different data in one study.

        Raises:
            StepError: The study was begun on other data.
        """
        begun_on, present = self.study.user_attrs.get("data_run_id"), self.data_run.info.run_id
        if begun_on is None:
            self.study.set_user_attr("data_run_id", present)
        elif begun_on != present:
            raise StepError(
                f"The study {self.name} is on the data of run {begun_on}, not of {present}: "
                "give another --study-name, or that run as --data-run-id."
            )

    def check_ranges(self, suggest):
        """Refuse to mix trials from different ranges in one study.

        Args:
            suggest: As for the class.

        Raises:
            StepError: The study's trials were drawn from other ranges.
        """
        for trial in self.study.get_trials(states=[TrialState.COMPLETE])[:1]:
            again = optuna.trial.FixedTrial(trial.params)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a value outside the new range
                with contextlib.suppress(ValueError):  # a parameter that the study does not have
                    suggest(again)
            if again.distributions != trial.distributions:
                raise StepError(
                    f"The study {self.name} has trials from other parameter ranges and cannot go on with these: "
                    "give another --study-name."
                )

    @contextlib.contextmanager
    def errors_in_one_line(self):
        """Say in one line, without a password, that the storage cannot be used.

        Raises:
            StepError: In place of the error of a database or a file.
        """
        try:
            yield
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:
            cause = error.__cause__ or error
            reason = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
            raise StepError(
                f"{errors.without_password(self.address)}: the study's storage cannot be used: {reason}. "
                "What is finished is kept: mend that and give the same command again."
            ) from None

    def claim(self, what):
        """Take a task that one process alone shall do.

        Of several processes only one can create a study of a given name: it holds no trials, and means nothing else.

        Args:
            what: The name of the task.

        Returns:
            A pair: whether it is ours, and the `optuna.Study` that says so.
        """
        name = f"{self.name}, {what}"
        with self.errors_in_one_line():
            try:
                return True, optuna.create_study(storage=self.storage, study_name=name)
            except optuna.exceptions.DuplicatedStudyError:
                return False, optuna.load_study(storage=self.storage, study_name=name)

    @contextlib.contextmanager
    def start_run(self, n_trials, **options):
        """Start the run that the trials are nested in, or join it where another process has started it.

        Each number of trials has its run: who asks for more trials than a finished run has, starts another one. Only
        one process writes the results into the run: in the others the `with` statement ends after `optimize`.

        Args:
            n_trials: How many finished trials the study shall have in the end.
            **options: Further arguments of `mlflow.start_run`, for the process that starts the run.

        Yields:
            The active `mlflow.ActiveRun`.

        Raises:
            StepError: The run is no longer in MLflow's store.
        """
        first, note = self.claim(f"run of {n_trials} trials")
        run_id = None if first else wait_for_attribute(note, "run_id")
        with contextlib.ExitStack() as self.until_finished:
            if run_id is None:
                with utils.start_step("hyperparameters_tuning", **options) as run:
                    mlflow.set_tags({"study": self.name, "data_run_id": self.data_run.info.run_id})
                    with self.errors_in_one_line():
                        note.set_user_attr("run_id", run.info.run_id)
                    yield run
            else:
                with self.join_run(run_id) as run, contextlib.suppress(AlreadyFinished):
                    self.joined = run
                    yield run

    @contextlib.contextmanager
    def join_run(self, run_id):
        """Make a run the active one that another process has started.

        Args:
            run_id: Its ID.

        Yields:
            The active `mlflow.ActiveRun`.

        Raises:
            StepError: The run is not in MLflow's store.
        """
        client = mlflow.MlflowClient()
        try:
            started = client.get_run(run_id)
        except MlflowException:
            started = None
        if started is None or started.info.lifecycle_stage == LifecycleStage.DELETED:
            raise StepError(
                f"The study {self.name} belongs to run {run_id}, which MLflow's store does not have (any more): "
                "give another --study-name, or set MLFLOW_TRACKING_URI to the store that has it."
            )
        # `mlflow run` has made a run for this process, which then only says where the results are.
        own_run_id = os.environ.pop("MLFLOW_RUN_ID", None)
        if own_run_id:
            client.update_run(own_run_id, name="Tuning_Worker")
            client.set_tag(own_run_id, "tuning_run_id", run_id)
        finished = started.info.status == "FINISHED"
        if not finished and processes.is_dead(started.data.tags.get("process")):
            client.set_tag(run_id, "process", processes.this_process())  # the run goes on as ours
        mlflow.set_experiment(experiment_id=started.info.experiment_id)
        try:
            with utils.open_run(run_id=run_id) as run:
                if finished:  # and stays so: a training may be looking for it at this moment
                    client.update_run(run_id, status="FINISHED")
                yield run
        finally:
            if finished:  # also after an interrupt: the results are in it
                client.update_run(run_id, status="FINISHED")

    def wait_for_results(self, run_id, n_trials):
        """Leave it to one process to write the results into the run that several have joined.

        Args:
            run_id: The run's ID.
            n_trials: As for `optimize`.

        Raises:
            AlreadyFinished: Another process has done it; else this one has to.
        """
        deadline = time.monotonic() + config.RESULTS_AFTER_SECONDS
        while True:
            run = mlflow.get_run(run_id)
            writer = run.data.tags.get("process")
            if run.info.status == "FINISHED":
                raise AlreadyFinished
            if writer == processes.this_process():
                return
            too_late = time.monotonic() > deadline
            if too_late or run.info.status != "RUNNING" or processes.is_dead(writer):
                ours, _ = self.claim(f"results of {n_trials} trials")
                if ours or too_late:
                    return
            time.sleep(0.5)

    def optimize(self, objective, n_trials, workers=1, dask_scheduler=None):
        """Make trials, beside any other workers, until the study has as many finished ones as it should.

        Args:
            objective: The function that makes a trial, as for `optuna.Study.optimize`.
            n_trials: How many finished trials the study shall have in the end.
            workers: How many processes make them. On this machine this process is one of them, and each has its share
                of the cores.
            dask_scheduler: The address of the scheduler of a Dask cluster, such as "tcp://host:8786". All workers are
                placed there, and this process only waits.

        Raises:
            StepError: The storage cannot be used any more, or the workers on the cluster have failed.
            KeyboardInterrupt: The user has interrupted.
            AlreadyFinished: For `start_run`.
        """
        options = {
            "--n-trials": n_trials,
            "--data-run-id": self.data_run.info.run_id,
            "--storage": self.address,
            "--study-name": self.name,
        }
        words = ["hyperparameters_tuning.py", *(str(word) for option in options.items() for word in option)]
        # The workers see in the run that all is done: so they are waited for when it has ended.
        if dask_scheduler:
            check = self.until_finished.enter_context(on_cluster(dask_scheduler, workers, words))
            self.make_trials(None, n_trials, check)
        else:
            self.until_finished.enter_context(on_this_machine(workers - 1, words))
            self.make_trials(objective, n_trials)
        if self.joined:
            self.wait_for_results(self.joined.info.run_id, n_trials)

    def make_trials(self, objective, n_trials, while_waiting=lambda: None):
        """Make trials in this process until the study has as many finished ones as it should.

        Args:
            objective: As for `optimize`; None leaves all trials to other processes.
            n_trials: As for `optimize`.
            while_waiting: What to do again and again while others make the last trials.

        Raises:
            StepError, KeyboardInterrupt: As for `optimize`.
        """

        def limited(trial):
            trial.set_user_attr(PROCESS, processes.this_process())
            before = [other for other in self.study.get_trials(deepcopy=False) if other.number < trial.number]
            if sum(other.state != TrialState.FAIL for other in before) >= n_trials:
                raise NotNeeded
            return objective(trial)

        finished = 0
        with self.errors_in_one_line(), tqdm(total=n_trials, unit="trial") as progress:
            try:
                while True:
                    self.redo_lost_trials()
                    states = [trial.state for trial in self.study.get_trials(deepcopy=False)]
                    finished, running = states.count(TrialState.COMPLETE), states.count(TrialState.RUNNING)
                    progress.update(min(finished, n_trials) - progress.n)
                    if finished >= n_trials:
                        break
                    if objective and finished + running < n_trials:
                        try:
                            self.study.optimize(limited, n_trials=1, catch=(NotNeeded,))
                        except (ValueError, AssertionError) as error:
                            # What Optuna says when this process has slept for so long that its trial was taken for
                            # lost, and given to another.
                            if not str(error).startswith(("Cannot tell a", "Should not reach")):
                                raise
                    else:
                        while_waiting()
                        time.sleep(0.5)  # others make the last trials; should one of them die, its trial is ours
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"Interrupted with {finished} of {n_trials} trials finished. They are kept: "
                    "to go on, give the same command again."
                ) from None
            self.close_lost_runs()

    def redo_lost_trials(self):
        """Find the trials whose process has died, and queue them again."""
        fail_stale_trials(self.study)  # in a database, by their heartbeat
        patience = datetime.timedelta(seconds=config.LOST_AFTER_SECONDS)
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):
            process = trial.user_attrs.get(PROCESS)
            # a process can also die before it has left its name, or its first heartbeat
            lost = processes.is_dead(process) if process else datetime.datetime.now() - trial.datetime_start > patience
            if lost:
                # an error means that another worker was first
                with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    redo(self.study, trial)

    def close_lost_runs(self):
        """End the nested runs of lost trials, whose processes can no longer do it."""
        active = mlflow.active_run().info
        failed = {str(trial.number) for trial in self.study.get_trials(states=[TrialState.FAIL])}
        nested = mlflow.search_runs(
            [active.experiment_id], f"tags.mlflow.parentRunId = '{active.run_id}'", output_format="list"
        )
        for run in nested:
            if run.data.tags.get("trial") in failed and run.info.status in ("RUNNING", "FINISHED"):
                mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")

    def best_trial(self):
        """Find the best trial; of equally good ones the first, so that all workers name the same.

        Returns:
            An `optuna.trial.FrozenTrial`.
        """
        return max(self.study.get_trials(states=[TrialState.COMPLETE]), key=lambda trial: trial.value)


def default_storage():
    """Say where a study is kept if nothing else is asked for.

    Returns:
        The path of a journal file: beside MLflow's database where that is a file, else in the project's folder.
    """
    store = mlflow.get_tracking_uri()
    is_file = store.startswith("sqlite:///")
    folder = Path(store.removeprefix("sqlite:///")).absolute().parent if is_file else config.PROJECT_DIR
    return str(folder / "optuna.journal")


def open_storage(address):
    """Open what the workers have in common.

    Args:
        address: As for `SharedStudy`.

    Returns:
        The Optuna storage. In a database each trial has a heartbeat, by which other machines notice its end.

    Raises:
        StepError: The database was made by another version of Optuna.
    """
    if "://" not in address:
        return JournalStorage(JournalFileBackend(address, lock_obj=JournalFileOpenLock(address, grace_period=10)))
    patience = {"connect_args": {"connect_timeout": 10}} if address.startswith("postgresql") else {}
    options = {
        "engine_kwargs": {"pool_pre_ping": True, **patience},
        "heartbeat_interval": config.HEARTBEAT_SECONDS,
        "grace_period": config.LOST_AFTER_SECONDS,
        "heartbeat_stale_trial_callback": redo,
    }
    # In an empty database each worker makes the tables, or finds them half made by another one: only once they are
    # there is a failure one.
    for _ in range(10):
        with contextlib.suppress(sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError, RuntimeError):
            return RDBStorage(address, **options)
        time.sleep(0.5)
    try:
        return RDBStorage(address, **options)
    except RuntimeError as error:  # the tables of another version of Optuna
        raise StepError(" ".join(str(error).split())) from None


def redo(study, trial):
    """Queue a lost trial again, with the same parameters.

    Args:
        study: The `optuna.Study`.
        trial: The `optuna.trial.FrozenTrial`, which is already marked as failed.
    """
    trial.user_attrs.pop(PROCESS, None)
    RetryHeartbeatStaleTrialCallback()(study, trial)


def wait_for_attribute(study, name):
    """Wait until another process has noted something in a study.

    Args:
        study: The `optuna.Study`.
        name: The name of the user attribute.

    Returns:
        Its value, or None if that process seems to have died before.
    """
    deadline = time.monotonic() + config.LOST_AFTER_SECONDS
    while name not in study.user_attrs and time.monotonic() < deadline:
        time.sleep(0.2)
    return study.user_attrs.get(name)


def variables_of_a_worker():
    """Say what the environment of a further worker must hold.

    Returns:
        A dict of variables: where MLflow's store is, and that one progress bar is enough.
    """
    return {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), "TQDM_DISABLE": "1"}


@contextlib.contextmanager
def on_this_machine(count, words):
    """Run workers as processes, each with its share of the cores.

    They end by themselves when the study is finished; where an error comes first they are stopped.

    Args:
        count: How many.
        words: Their command line, after the name of the interpreter.
    """
    cores = max(1, (os.cpu_count() or 1) // (count + 1))
    environment = {**os.environ, **variables_of_a_worker(), "OMP_NUM_THREADS": str(cores)}
    environment.pop("MLFLOW_RUN_ID", None)
    command = [sys.executable, *words]
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(count)]
        options = {"cwd": config.PROJECT_DIR, "env": environment, "stderr": subprocess.STDOUT}
        workers = [subprocess.Popen(command, stdout=log, **options) for log in logs]
        try:
            yield
            codes = [worker.wait() for worker in workers]
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait()
        for code, log in zip(codes, logs, strict=True):
            if code:
                log.seek(0)
                config.logger.warning(f"A worker ended with code {code}. It said: {last_line(log.read())}")


@contextlib.contextmanager
def on_cluster(scheduler, count, words):
    """Run workers on the machines of a Dask cluster, which need this project's packages, but not its files.

    Dask only places them. What they have in common is in the storage, so a lost machine loses no trial.

    Args:
        scheduler: The address of the cluster's scheduler.
        count: How many.
        words: Their command line, after the name of the interpreter.

    Yields:
        A function that raises a `StepError` once all of them have failed.

    Raises:
        StepError: The cluster cannot be reached, or has no workers.
    """
    import distributed  # only who uses it waits for its import

    try:
        client = distributed.Client(scheduler, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise StepError(f"{scheduler}: no Dask scheduler can be reached there: {error}") from None
    names = ["config.py", "errors.py", "processes.py", "utils.py", "shared_study.py", "hyperparameters_tuning.py"]
    files = {name: (config.PROJECT_DIR / name).read_text(encoding="utf-8") for name in names}
    variables = variables_of_a_worker()
    stop = f"stop-{uuid.uuid4()}"

    def work():  # defined here, so that Dask sends the function and not the name of this module
        import os
        import subprocess
        import sys
        import tempfile
        from pathlib import Path

        import distributed

        threads = str(distributed.get_worker().state.nthreads)
        environment = {**os.environ, **variables, "OMP_NUM_THREADS": threads}
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
            for name, text in files.items():
                Path(folder, name).write_text(text, encoding="utf-8")
            worker = subprocess.Popen(
                [sys.executable, *words], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            while worker.poll() is None:
                if distributed.Event(stop).wait(timeout=1):
                    worker.terminate()
            log.seek(0)
            return worker.returncode, log.read()

    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise StepError(f"{scheduler}: this Dask cluster has no workers. Start some: dask worker {scheduler}")
        futures = [client.submit(work, key=f"{stop}-{number}") for number in range(count)]

        def check():
            if all(future.done() for future in futures):
                last = futures[-1]
                said = last.result()[1] if last.status == "finished" else str(last.exception())
                raise StepError(f"All workers on the Dask cluster have ended. The last said: {last_line(said)}")

        try:
            yield check
            client.gather(futures, errors="skip")
        finally:
            distributed.Event(stop, client=client).set()


def last_line(text):
    """Find what a program said last.

    Args:
        text: Its output.

    Returns:
        The last line that is not empty.
    """
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")
