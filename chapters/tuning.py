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
# # Does tuning help?
#
# *A chapter of [A model's life with MLflow](../README.md). It reads figures that are in the repository, and runs
# alone.*
#
# One test set of 188 rows says little about a search: with another split the result is another one. So the steps of the
# walkthrough (preparation, search, training) were run on 20 splits of the breast cancer data. Each time the rows were
# split anew, the search had its 30 trials on the training rows, and the test rows were looked at once, at the end. The
# design of the search was frozen before, and none of these splits had a part in it. `make tuning` does it again.
#
# Beside the tuned model stand the baseline, XGBoost's defaults, and a logistic regression, which is the first thing
# that one should try on a small table.

# %%
import os

# JupyterLab starts a chapter in chapters/, where MLflow would begin a new, empty store.
if not os.path.exists("MLproject"):
    os.chdir("..")

# %%
import pandas as pd

splits = pd.read_json("benchmarks/tuning.json").set_index("seed")
splits[["guessing", "logistic", "defaults", "tuned"]].agg(["mean", "min", "max"]).round(4)

# %% [markdown]
# How sure is the difference? The splits share their rows, so 20 differences are not 20 independent ones, and the usual
# standard error is too small. Nadeau and Bengio ([2003](https://doi.org/10.1023/A:1024068626366)) correct it: in place
# of 1/n stands 1/n plus the ratio of test rows to training rows.

# %%
train_rows, test_rows, n = 381, 188, len(splits)
rows = []
for other in ["defaults", "logistic", "guessing"]:
    gain = splits[other] - splits["tuned"]
    error = gain.std() * (1 / n + test_rows / train_rows) ** 0.5
    rows.append([other, f"{(gain > 0).sum()} of {n}", gain.mean(), error])
pd.DataFrame(
    rows, columns=["tuned against", "better in", "mean gain in log loss", "corrected error"]
).round(4)

# %% [markdown]
# What does that say?
#
# - **Tuning helps, probably.** The tuned model is better than the defaults on most of the splits. But the mean gain is
#   about as large as its corrected standard error: 20 splits of one table cannot show more.
# - **The logistic regression is better than both.** The classes of this table can be told apart almost by a straight
#   line, and with 381 rows to learn from, trees have to find that line in steps. Who had only this table to care for
#   would take the simple model. The walkthrough stays with XGBoost, since what it shows is the life of a model that has
#   to be tuned; the gate and all that follows are the same for either.
# - **On the page's own split** the difference is larger than the mean here. That is chance: nobody chose the split for
#   it, and nobody should choose a model by it.
