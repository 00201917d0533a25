# ---
# jupyter:
#   jupytext:
#     comment_magics: false
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What happens when …
#
# *A chapter of [A model's life with MLflow](../README.md).*
#
# Many errors; each line of this table is a test. Messages are one line, the exit code tells that something failed, and
# a step that failed leaves no data, model or alias that a later step could take for finished.
#
# | What happens | What you see, and what to do |
# | --- | --- |
# | A step gets Ctrl-C or SIGTERM | One line. Its run is `FAILED`, its server stops. |
# | A step is killed at once (SIGKILL) | Its run stays `RUNNING`; no step takes it for finished. Delete it in the UI. |
# | `batch-scoring` is killed at once | Its file is whole or not there; a folder `.scoring-…` is left beside it. |
# | A pipeline is killed at once (SIGKILL) | The step at hand still ends, no further one begins. |
# | A search is interrupted | It is lost, unless it had a `storage`: then the same command goes on. |
# | The interrupt falls into the start or end of a trial | MLflow loses sight of this one run: it may stay `RUNNING`. |
# | One of several workers is killed | The others go on; in a database one of them repeats its trial. |
# | A study is of other data or ranges, or of others | Refused: *give another study-name*. |
# | A journal file ends in half a line | One line, with the command that removes it. |
# | Two pipelines run in one store | Each trains on its own data and search. |
# | A database or server does not answer | One line within 15 seconds. Start it, or correct the address. |
# | The disk is full, the folder read-only | One line that says so. Make room, or the folder writable. |
# | … while the first `mlflow.db` was made | Remove it, too: it is half a one. |
# | `mlflow.db` is damaged | One line that says so. Put back a copy of it, or move it away. |
# | `mlflow.db` is of an older MLflow | MLflow changes it without a word and locks the older one out: keep a copy. |
# | … which had the same tables | One line, with `mlflow db upgrade …`. |
# | There is an old file store in `mlruns/` | One line, with `mlflow migrate-filestore …`. |
# | The experiment was deleted | *Restore it: mlflow experiments restore …* |
# | The registered model was deleted | *Train: mlflow run . -e model-training --env-manager local* |
# | The champion's files are gone | The gate stays shut and names the version and the way out. |
# | A model has other columns or classes than the champion | The alias stays; the message says how to move it. |
# | An evaluation file holds training rows | They are left out; with fewer than 30 others the gate stays shut. |
# | The champion was trained on rows of the new test set | Both models are compared on the other rows. |
# | The champion is of an earlier version of this project | It counts as none, which is said: train again. |
# | A cell of the model was edited, its script not | Training stops and registers nothing: *make scripts*. |
# | An ID of a run is wrong | One line says why: missing, unfinished, of another step, of other data. |
# | The folder of a local store is renamed | Runs stay, models are not found: see *Sharing the work*. |
# | A port is in use | One line, exit code 1: give another with `UI_PORT=`, `SERVE_PORT=`, … |
# | Columns of a file have drifted | `drift-check` names them and tags its run `drift: yes`. |
# | A new champion does not fit the server, or is damaged | The old version goes on answering; `/health` says why. |
# | A client has sent half a request when the server is told to end | It ends, within ten seconds. |
# | A web page asks the own server by another name | Status 400: the request's `Host` is not this machine. |
# | A CSV has `;`, tabs, UTF-16 or row numbers | It is read, also with gzip; and Parquet is. |
# | It is a spreadsheet, a database, … | *this is an SQLite database: save the table as CSV or Parquet.* |
# | It has words, dates, true and false | They are used as they are; the model keeps what each column is. |
# | It has numbers like `17,99` or infinity | *line 2, column `mean radius`: '17,99' …*, all such columns at once. |
# | Its header has a name too few | Refused: pandas would shift all columns. |
# | It has one class only, or lacks a column | Refused with the reason; the champion stays the champion. |
# | A column alone tells the classes apart | A warning: it may be known only after them. |
# | It has fewer than 30 examples | They are evaluated, and the gate stays shut: the champion stays too. |
# | A request has an infinite or huge number | Status 400, with the column's name (MLServer's V2: 500). |
# | A cell has a syntax error | *modeling.py: cell 12, line 3: invalid syntax*; no script is written. |
# | A web page asks the tracking server | 403: the request's `Host` is not this machine. |

# %% [markdown]
# For instance:

# %%
import os

# JupyterLab starts a chapter in chapters/, where MLflow would begin a new, empty store.
if not os.path.exists("MLproject"):
    os.chdir("..")

# %%
import subprocess
import sys

step = [sys.executable, "-m", "steps.data_preprocessing"]
for words in ["--test-size 2", "--test-size large", "--dataset no_such.csv"]:
    ended = subprocess.run([*step, *words.split()], capture_output=True, text=True)
    print(f"{words}\n    exit code {ended.returncode}: {ended.stderr.strip()}")
