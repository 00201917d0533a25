"""Every name and path of the project: constants that the notebooks, the steps and the tools share."""

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
# With fewer rows, sharing the work among threads costs more than it brings.
ROWS_FOR_THREADS = 10_000
# How many rows go into one request to a server, and how many the flavours are compared on.
BATCH_ROWS = 1_000
# How many rows of a file are read and scored at a time.
PART_ROWS = 20_000

# What the gate asks for. The gain over guessing must be this many standard errors (one-sided 1 %), on so many rows that
# no version compared was trained on; and for these classes, this share of their rows must be found (recall).
GAIN_ERRORS = 2.33
LEAST_ROWS = 30
LEAST_RECALL = {"malignant": 0.88}

# When new data have drifted from the training data: a p-value (corrected for the number of comparisons) says that a
# difference is no chance, and a limit that it is large enough to matter: of the distance of the values (0 to 1), of the
# change of the share of missing values, of the share of unseen words. Fewer rows than these say little.
DRIFT = {"p_value": 0.01, "distance": 0.15, "missing": 0.1, "unseen": 0.05, "rows": 30}

# In a database, how often a worker shows that its trial is alive, and when another one takes it over, in seconds.
HEARTBEAT_SECONDS = 5
LOST_AFTER_SECONDS = 15
# How long an interrupted step may tidy up before it is interrupted again, in seconds.
INTERRUPT_AGAIN_SECONDS = 15
# How long a server may take to get ready, in seconds.
SERVER_TIMEOUT = 180

# The own server: how often it asks which version is the champion, in seconds, and the largest body that it reads.
FOLLOW_SECONDS = 2
BODY_BYTES = 4 * 2**20
