"""Reading the CSV files that users give."""

import codecs
import csv
import json
import gzip
import io
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

import config
from utils import StepError


def read_text(path):
    """Read a text file, given by the user, that may be compressed with gzip.

    Args:
        path: Path of the file.

    Returns:
        Its bytes, and the encoding of these.

    Raises:
        StepError: The file cannot be read, or is neither UTF-8 nor UTF-16 with a byte-order mark.
    """
    try:
        data = Path(path).read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise StepError(f"{path}: no such file. Give the path of a CSV file.") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise StepError(f"{path}: cannot be read: {reason}. Give the path of a CSV file.") from None
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
        end = text.find("\0")  # the file is damaged, or in an encoding that we do not know
        line = text.count("\n", 0, end) + 1
    except UnicodeDecodeError as error:
        end, line = error.start, data.count(b"\n", 0, error.start) + 1
    if end >= 0:
        raise StepError(f"{path}: line {line} is not text in UTF-8. Save the file as CSV in that encoding.")
    return data, encoding


def read_csv(path):
    """Read a CSV file of features and a two-valued target, given by the user.

    Values may be separated by commas, semicolons or tabs. Row numbers, which pandas and spreadsheets write into a first
    column without a name, and lines and columns without any value or name are dropped.

    Args:
        path: Path of the file. Its columns are features, which hold numbers (empty means missing), and `target`.

    Returns:
        A `pandas.DataFrame` with one row per example, all columns as they stand in the file. Its index has the number
        of each row's line.

    Raises:
        StepError: The file is missing, empty or no CSV, has columns of no or the same name, or no usable `target`.
    """
    data, encoding = read_text(path)
    try:
        for separator in [",", ";", "\t"]:
            lines = csv.reader(io.TextIOWrapper(io.BytesIO(data), encoding, newline=""), delimiter=separator)
            above = 0
            while not any(names := next(lines)):
                above = lines.line_num
            names = [name.strip() for name in names]
            if "target" in names:
                break
        else:
            line = " ".join(" ".join(names).split())
            seen = line if len(line) < 80 else f"{line[:50]} … {line[-20:]}"
            raise StepError(f"{path}: has no column `{'target'}`. Its first line should name it, but is: {seen}")
        options = {"skiprows": above, "skip_blank_lines": False, "skipinitialspace": True, "low_memory": False}
        frame = pd.read_csv(io.BytesIO(data), sep=separator, encoding=encoding, **options)
    except StopIteration:
        raise StepError(f"{path}: is empty. Give a file with at least one example of each class.") from None
    except (csv.Error, ValueError) as error:  # also those of pandas' own parser
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        if quote := re.match(r"EOF inside string starting at row (\d+)", reason):
            reason = f"a quotation mark in line {int(quote[1]) + 1} is never closed"
        raise StepError(f"{path}: cannot be read as CSV: {reason}.") from None

    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes the first value as the name of its row
        raise StepError(f"{path}: line {above + 2} has more values than the line above it has names. Name all columns.")
    frame.columns = names
    frame.index += above + 2
    frame = frame.dropna(how="all")
    row_numbers = [number == 0 or column.isna().all() for number, (_, column) in enumerate(frame.items())]
    named = frame.columns != ""
    if not (named | row_numbers).all():
        number = (named | row_numbers).argmin() + 1
        raise StepError(f"{path}: column {number} has no name. Name it in line {above + 1}, or remove it.")
    frame = frame.loc[:, named & ~frame.columns.str.fullmatch(r"Unnamed: \d+")]
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise StepError(f"{path}: more than one column is called `{twice}`. Rename or remove one.")
    if frame.empty:
        raise StepError(f"{path}: has no rows. Give a file with at least one example of each class.")
    if len(frame.columns) == 1:
        raise StepError(f"{path}: has no feature columns beside `{'target'}`.")
    if frame["target"].isna().any():
        row = frame.index[frame["target"].isna()][0]
        raise StepError(f"{path}: line {row} has no `{'target'}`. Fill it in or remove the line.")
    return frame


def as_numbers(features, path):
    """Turn features into numbers.

    Args:
        features: A `pandas.DataFrame` as `read_csv` returns it, without the target.
        path: Where they come from, for the error message.

    Returns:
        The same frame with every column as float64.

    Raises:
        StepError: A feature has a name that XGBoost refuses, or holds text or a number that is infinite or too large.
    """
    refused = [name for name in features if set(str(name)) & set("[]<")]
    if refused:
        raise StepError(f"{path}: XGBoost takes no column names with [, ] or <: rename {', '.join(refused)}.")
    numbers = {}
    for name, column in features.items():
        try:
            numbers[name] = pd.to_numeric(column, errors="coerce").astype(float)
        except OverflowError:  # a whole number of hundreds of digits; as text it becomes infinite
            numbers[name] = pd.to_numeric(column.astype(str), errors="coerce").astype(float)
        # XGBoost computes with numbers of single precision
        wrong = (numbers[name].isna() & column.notna()) | (numbers[name].abs() > np.finfo(np.float32).max)
        if wrong.any():
            line = wrong.idxmax()
            raise StepError(
                f"{path}: line {line}, column `{name}`: {str(column[line])[:50]!r} is not a number up to 3.4e38, "
                "written like -1234.5. Mend the value, or encode or remove the column."
            )
    return pd.DataFrame(numbers, index=features.index)


def two_classes(column, positive_class=None, test_size=0.0):
    """Tell which values of the target are class 0 and class 1, and check that there are enough of both."""
    if not 0 < test_size < 1:
        raise StepError(f"test-size is {test_size}: give a share between 0 and 1, such as 0.33.")
    counts = column.value_counts().sort_index()
    classes = counts.index.tolist()
    if len(classes) != 2:
        few = ", ".join(f"{value!r} {count} times" for value, count in counts.head(10).items())
        raise StepError(f"`{column.name}` needs two different values, but has {len(classes)}: {few}")
    if positive_class is not None:
        chosen = [value for value in classes if str(value) == positive_class]
        if not chosen:
            raise StepError(f"positive-class is {positive_class}: give {classes[0]!r} or {classes[1]!r}.")
        classes.sort(key=lambda value: value == chosen[0])
    if counts.min() * test_size < 1 or counts.min() * (1 - test_size) < 2 * config.N_FOLDS:
        raise StepError(
            f"The smaller class has {counts.min()} row(s), and test-size {test_size} leaves too few of them for training "
            f"with {config.N_FOLDS} folds or for testing. Give more data or another test-size."
        )
    return classes


def count_known_rows(frame, train):
    """Count the rows that are equal to one of the training data in all columns that both have."""
    return int(frame.merge(train.drop_duplicates(), how="left", indicator=True)["_merge"].eq("both").sum())


def learn_encoding(train, tags):
    target, classes = tags.get("target"), json.loads(tags["classes"])
    if target is None:
        target, classes = "target", [0, 1]
    return {"target": target, "classes": classes, "columns": [c for c in train if c != target], "words": {}}


def encode(frame, encoding):
    label = None
    if encoding["target"] in frame:
        label = (frame[encoding["target"]] == encoding["classes"][1]).astype(int)
    return frame[encoding["columns"]], label


def read_table(path, target=None, encoding=None):
    frame = read_csv(path)
    t = frame.pop("target")
    return as_numbers(frame, path).assign(target=t).reset_index(drop=True), "target"
