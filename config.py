"""Names, paths and limits that several parts of the project share; what one part uses stands there."""

from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent

# What the breast cancer data are called. Experiment and registered models follow the name of the data:
# Cancer_Classification, CancerModel, CancerModelBooster, CustomCancerModel. Own data bring a name of their own.
NAME = "Cancer"
# The alias of the version in use.
CHAMPION = "champion"

SEED = 42
# The search measures each trial on so many folds, drawn anew so many times.
N_FOLDS, N_REPEATS = 5, 2
# Boosting goes on while the held-out loss has got better within so many rounds, and at most so far.
EARLY_STOPPING_ROUNDS, MOST_ROUNDS = 30, 1000
# How many rows go into one request to a server, and how many the flavours are compared on.
BATCH_ROWS = 1_000
# How many rows of a file are read and scored at a time.
PART_ROWS = 20_000

# What the gate asks for. The gain over guessing must be this many standard errors (one-sided 1 %), on so many rows that
# no version compared was trained on; and for these classes, this share of their rows must be found (recall).
GAIN_ERRORS = 2.33
LEAST_ROWS = 30
LEAST_RECALL = {"malignant": 0.88}
