"""Reading the tables that users give, and the codes that a model needs for their words."""

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import config
from utils import StepError, add_features, logger

LARGEST = np.finfo(np.float32).max  # XGBoost computes with single precision
XGBOOST_NAMES = str.maketrans("[]<", "()_")  # it takes no names with the characters on the left
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SEPARATORS = [",", ";", "\t", "|", " "]
MISSING = ["", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "null", "NULL"]
# These mean it only in a column of numbers: among words, `None` or `-` often is one of them.
MISSING_NUMBER = [*MISSING, "None", "none", "NONE", "na", "NAN", "Null", "-", "--", ".", ".."]
# As pandas, R, spreadsheets and Parquet call them.
ROW_NUMBERS = re.compile(r"(Unnamed: 0(\.\d+)*|rownames|row\.names|__index_level_\d+__)?")
# The year first: of other dates nobody can tell whether the day or the month comes first.
DATE = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}([T ]\d.*)?"
TIME = r"(-?\d+ days? )?\d+:\d\d(:\d\d(\.\d+)?)?"
LIKE_A_NUMBER = r"[-+]?[$€£]?(\d{1,3}([,.' ]\d{3})+|\d+)([.,]\d*)?\s?[%$€£]?"  # 1,203.5 and 17,99 and 12 %
OTHER_KINDS = {
    "an Excel file": (b"\xd0\xcf\x11\xe0",),
    "a Feather file": (b"ARROW1", b"FEA1"),
    "an SQLite database": (b"SQLite format 3",),
    "an HDF5 file": (b"\x89HDF",),
    "a pickle": (b"\x80\x04", b"\x80\x05"),
    "an R data file": (b"RDX", b"X\n\0\0"),
    "a JSON file": (b"{", b"[{"),
    "a web page": (b"<!DOCTYPE", b"<!doctype", b"<html"),
}


def read_table(path, target=None, encoding=None):
    """Read a table of features and a two-valued target, given by the user.

    Columns of numbers, of true and false, of dates (the year first) and of times become numbers; columns of few words
    stay words. Row numbers are dropped. Columns without a value, and text that differs in more than half of the rows,
    are left out with a warning.

    Args:
        path: Path of a CSV file, which may be compressed, or of a Parquet file.
        target: Name of the target column. None means `target`, or the one of the encoding.
        encoding: None for a table to train on. For one that a trained model is to be used on, what `learn_encoding`
            gave for it: the model's columns, and no others, are read as it needs them.

    Returns:
        A `pandas.DataFrame` with one row per example and the target as its last column, and the name of that column.
        Features are float64 (times in days, dates in days since 1970) or str, NaN where missing; the target is int64,
        float64 or str. The index has the number of each row's line, in Parquet the row's.

    Raises:
        StepError: The table cannot be read or used: one line that begins with the path and says what to do.
    """
    columns = encoding["columns"] if encoding else []
    if target is None:
        target = encoding["target"] if encoding else "target"
    texts = {_plain(name) for name in [target, *(encoding["words"] if encoding else [])]}
    frame = next(_frames(path, texts.union(map(_plain, columns)), lambda name: _plain(name) in texts))
    renamed = [name for name in frame if set(name) & set("[]<")]
    frame.columns = [_for_xgboost(name) for name in frame]
    if renamed and not encoding:
        logger.warning(f"{path}: XGBoost takes no names with [, ] or <: they become (, ) and _ in {_quoted(renamed)}.")
    target = _find_target(path, list(frame), target.translate(XGBOOST_NAMES))
    frame = _without_row_numbers(path, frame, [*columns, target])
    if not len(frame):
        raise StepError(f"{path}: has no rows. Give a file with at least one example of each class.")
    labels = _labels(path, frame.pop(target), encoding)
    frame = frame if len(labels) == len(frame) else frame.loc[labels.index]
    if encoding:
        unknown = [name for name in frame if name not in [*columns, encoding["target"]]]
        if unknown:
            logger.warning(f"{path}: columns that the model does not know are ignored: {_quoted(unknown)}.")
        table, target = _as_the_model_needs(path, frame, encoding), encoding["target"]
        return table.assign(**{target: labels}), target
    features = {name: _feature(frame[name], None) for name in frame}
    _check_numbers(path, frame, features)
    if left_out := [name for name, column in features.items() if column is None]:
        logger.warning(f"{path}: left out, since empty, or text that hardly repeats: {_quoted(left_out)}.")
    features = {name: column for name, column in features.items() if column is not None}
    if not features:
        raise StepError(f"{path}: has no features beside `{target}`. Add columns of numbers or of few words.")
    table = pd.DataFrame(features, copy=False).assign(**{target: labels})
    _warn_of_doubtful(path, table, target)
    return table, target


def read_parts(path, encoding, rows=config.PART_ROWS):
    """Read a table to score, part by part, so that a file of any length needs no more memory than a part.

    Args:
        path: Path of a CSV file, which may be compressed, or of a Parquet file.
        encoding: What `learn_encoding` gave for the model.
        rows: How many rows a part has at most.

    Yields:
        Two frames with one row per example and the index of `read_table`: the model's columns, as `read_table` gives
        them, and all other columns, as they stand in the file.

    Raises:
        StepError: The table cannot be read or used: one line that begins with the path and says what to do.
    """
    columns, empty = encoding["columns"], True
    numbers = set(columns).difference(encoding["words"])
    for frame in _frames(path, set(map(_plain, columns)), lambda name: _for_xgboost(name) not in numbers, rows):
        others = frame.loc[:, [_for_xgboost(name) not in columns for name in frame]]
        features = _as_the_model_needs(path, frame.rename(columns=_for_xgboost), encoding)
        if len(frame):
            yield features, others
            empty = False
    if empty:
        raise StepError(f"{path}: has no rows to score.")


def two_classes(labels, positive_class=None, test_size=0.33):
    """Tell which class becomes 0 and which 1, and check that there is enough of both to split.

    Args:
        labels: The target column, a Series of two different values.
        positive_class: The one that becomes 1, as text; by default the last in order.
        test_size: The share of rows for testing.

    Returns:
        The two classes, in a list.

    Raises:
        StepError: There is no such class, no such share, or too few rows of one class.
    """
    if not 0 < test_size < 1:
        raise StepError(f"test-size is {test_size}: give a share between 0 and 1, such as 0.33.")
    counts = labels.value_counts().sort_index()
    classes = counts.index.tolist()
    if positive_class not in (None, *map(str, classes)):
        raise StepError(f"positive-class is {positive_class}: give {classes[0]!r} or {classes[1]!r}.")
    if counts.min() * test_size < 1 or counts.min() * (1 - test_size) < 2 * config.N_FOLDS:
        raise StepError(
            f"The smaller class has {counts.min()} rows: too few for a test-size of {test_size} and training with "
            f"{config.N_FOLDS} folds. Give more data or another test-size."
        )
    return classes[::-1] if str(classes[0]) == positive_class else classes


def count_known_rows(frame, train):
    """Count the rows of a table that are among the training data.

    Args:
        frame: The table, n rows.
        train: The training data; compared are the columns that both have.

    Returns:
        How many rows of the table are equal to one of the training data.
    """
    common = [name for name in train if name in frame]
    is_number = pd.api.types.is_numeric_dtype
    numbers = {name: float for name in common if is_number(frame[name]) and is_number(train[name])}
    rows, known = (pd.util.hash_pandas_object(table[common].astype(numbers), index=False) for table in (frame, train))
    return int(rows.isin(known).sum())


def learn_encoding(train, tags):
    """Learn how words become numbers for a model.

    Args:
        train: The training data, a frame as `read_table` returns it.
        tags: The tags of the run that prepared them: its `target`, and its `classes` as JSON. (Before there was a tag
            `target`, the run had put 0 and 1 in their place.)

    Returns:
        A dict that can be stored as JSON: the `target`, its `classes`, the features' names as `columns`, and for each
        column of `words` the sorted list of them.
    """
    target, classes = tags.get("target", "target"), json.loads(tags["classes"]) if "target" in tags else [0, 1]
    features = train.drop(columns=target)
    words = {name: sorted(features[name].dropna().unique()) for name in features.select_dtypes("str")}
    return {"target": target, "classes": classes, "columns": list(features), "words": words}


def encode(frame, encoding):
    """Put a model's codes in the place of words.

    Args:
        frame: A frame as `read_table` returns it, with all columns of the encoding; the target may be absent.
        encoding: What `learn_encoding` gave for the model.

    Returns:
        The features, a float64 frame in which a word is its number in the model's list, and a word that is not in the
        list is NaN. The labels, a Series of 0 and 1, or None without a target.

    Raises:
        StepError: The target holds a value that is neither class.
    """
    features = frame[encoding["columns"]].copy()
    for name, words in encoding["words"].items():
        features[name] = features[name].map({word: code for code, word in enumerate(words)})
    features = features.astype(float)
    if encoding["target"] not in frame:
        return features, None
    label = frame[encoding["target"]].map(dict(zip(encoding["classes"], [0, 1], strict=True)))
    if label.isna().any():
        wrong = _tidy(str(frame[encoding["target"]][label.isna()].iloc[0]))[:30]
        known = f"the model knows {encoding['classes']}"
        raise StepError(f"`{encoding['target']}` holds `{wrong}`; {known}.")
    return features, label.astype(int)


def _quoted(names):
    """Names for a message."""
    return ", ".join(f"`{name}`" for name in names)


def _tidy(text):
    """Text in one line, without blanks at its ends."""
    return " ".join(text.split())


def _plain(name):
    """A name as it is compared with another."""
    return _tidy(name).strip(" '\"`").casefold().translate(XGBOOST_NAMES)


def _for_xgboost(name):
    """A name as it is used for a feature."""
    return _tidy(name).translate(XGBOOST_NAMES)


def _frames(path, known, is_text, rows=None):
    """The file's rows: frames of so many, or of all. `known` are names to look for, `is_text` says what stays text."""
    try:
        with _open(path) as stream:
            start = stream.read(20)
        for kind, starts in OTHER_KINDS.items():
            if start.startswith(starts):
                raise StepError(f"{path}: this is {kind}: save the table as CSV or Parquet.")
        frames = _read_parquet(path, rows) if start.startswith(b"PAR1") else _read_csv(path, known, is_text, rows)
        yield from frames
    except (OSError, EOFError, RuntimeError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise StepError(f"{path}: cannot be read: {reason}. Give the path of a CSV or Parquet file.") from None


def _open(path):
    """The file's bytes as a stream, decompressed."""
    with open(path, "rb") as file:
        start = file.read(3)
    openers = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7z": lzma.open, b"PK\3": _unzip}
    return next((opener for mark, opener in openers.items() if start.startswith(mark)), open)(path, "rb")


def _unzip(path, mode):
    """The one file in a ZIP archive; from a spreadsheet, which is one too, the first bytes of the old format."""
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if {"[Content_Types].xml", "content.xml"} & set(names):
        return io.BytesIO(OTHER_KINDS["an Excel file"][0])
    if len(names) != 1:
        raise zipfile.BadZipFile(f"it holds {len(names)} files instead of one")
    return archive.open(names[0])


def _read_parquet(path, rows):
    """Frames of all columns; those of lists and of bytes without their values, for they are no features."""
    try:
        with _open(path) as stream, pq.ParquetFile(stream, pre_buffer=False, buffer_size=2**16) as file:
            first = 1
            for part in file.iter_batches(rows) if rows else [file.read()]:
                table = pa.table(part)
                for number, field in enumerate(table.schema):
                    if pa.types.is_nested(field.type) or "binary" in str(field.type):
                        table = table.set_column(number, field.name, pa.nulls(len(table)))
                # a missing value makes floats of whole numbers, which long ones, such as of patients, do not survive
                whole = {"integer_object_nulls": bool(rows)}
                frame = table.to_pandas(ignore_metadata=True, date_as_object=False, **whole)
                frame.index = pd.RangeIndex(first, first + len(frame), name="row")
                first += len(frame)
                yield frame
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StepError(f"{path}: cannot be read as Parquet: {_tidy(str(error))}") from None


def _read_csv(path, known, is_text, rows):
    """Frames of all columns as pandas takes them, or as text."""
    codec, length, quoted = _look_through(path)
    separators, before = SEPARATORS, 0
    with _text(path, codec) as text:
        if declared := re.fullmatch(r"sep=(.)\r?\n", text.readline(), re.IGNORECASE):
            separators, before = [declared[1]], 1  # spreadsheets write and read this line
    try:
        # The separator is the one that makes most of the names that are looked for.
        headers = {separator: _header(path, codec, separator, before) for separator in separators}
        separator = max(separators, key=lambda each: len(known.intersection(map(_plain, headers[each][1]))))
        skip, names, values_below = headers[separator]
        if not known.intersection(map(_plain, names)):
            yield pd.DataFrame(columns=names)  # the caller says what is missing
            return
        if values_below > len(names):  # pandas would take the first column for row numbers, or drop the last
            raise ValueError
        text_columns = {number: is_text(name) for number, name in enumerate(names)}
        options = {"header": None, "skiprows": skip, "names": list(text_columns), "low_memory": False}
        options |= {"skip_blank_lines": False, "skipinitialspace": True, "keep_default_na": False}
        options |= {"na_values": {number: [""] if text else MISSING for number, text in text_columns.items()}}
        options |= {"dtype": {number: "str" for number, text in text_columns.items() if text}}
        records = islice(_records(path, codec, separator), skip, None)
        first = skip + 1
        with _text(path, codec) as text:
            parts = pd.read_csv(text, sep=r"\s+" if separator == " " else separator, chunksize=rows, **options)
            for frame in parts if rows else [parts]:
                lines = range(first, first + len(frame))
                if quoted and (rows or skip + len(frame) != length):  # line breaks inside of quotes
                    lines = [line for line, _ in islice(records, len(frame))]
                first += len(frame)
                yield frame.set_axis(names, axis=1).set_axis(pd.Index(lines, name="line")).dropna(how="all")
    except ValueError as error:  # also those of pandas' parser
        raise StepError(
            f"{path}: cannot be read as CSV: {_fault(path, codec, separator, len(names), error)}."
        ) from None


def _text(path, codec):
    """The file's text as a stream."""
    return io.TextIOWrapper(_open(path), codec, newline="")


def _look_through(path):
    """How the text is encoded, how many lines it has, and whether there are quotation marks in it."""
    with _open(path) as stream:
        unicode = "utf-16" if stream.read(2) in UTF16_MARKS else "utf-8-sig"
    for codec, errors, no_text in [(unicode, "strict", "\0"), ("cp1252", "replace", "[\0\ufffd]")]:
        lines, end, quoted, empty = 0, "\n", False, True
        with contextlib.suppress(UnicodeDecodeError), _open(path) as stream:
            for text in codecs.iterdecode(iter(partial(stream.read, 2**20), b""), codec, errors):
                if wrong := re.search(no_text, text):
                    line = lines + text.count("\n", 0, wrong.start()) + 1
                    raise StepError(f"{path}: line {line} is not text. Save the table as CSV in UTF-8, or as Parquet.")
                lines, end, quoted = lines + text.count("\n"), text[-1], quoted or '"' in text
                empty = empty and not re.search(r"[^\s,;|]", text)
            break
    if empty:
        raise StepError(f"{path}: is empty. Give a file with at least one example of each class.")
    if codec == "cp1252":
        logger.warning(f"{path}: is not in UTF-8, but seems to be in Windows-1252. Look at letters like ä, é and ñ.")
    return codec, lines + (end != "\n"), quoted


def _records(path, codec, separator):
    """The number of the first line, and the values, of each record; an empty line is one too."""
    csv.field_size_limit(2**31 - 1)  # pandas has no limit
    with _text(path, codec) as lines:
        lines = (line.strip() + "\n" for line in lines) if separator == " " else lines
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        line = 1
        for values in reader:
            yield line, values
            line = reader.line_num + 1


def _header(path, codec, separator, before):
    """How many records there are down to the header, its names, and how many values the record below it has."""
    records = islice(_records(path, codec, separator), before, None)
    for number, (_, names) in enumerate(records, start=before + 1):
        if any(name.strip() for name in names):
            _, below = next(records, (None, []))
            return number, [_tidy(name) for name in names], len(below)
    return 0, [], 0


def _fault(path, codec, separator, width, error):
    """What is wrong with a CSV file, with the line where it is."""
    for line, values in _records(path, codec, separator):
        if len(values) > width:
            return f"line {line} has {len(values)} values, but the header has {width} names: name all columns"
    if "EOF inside string" in str(error):
        return f"a quotation mark in line {line} is never closed"
    return _tidy(str(error))


def _find_target(path, names, target):
    """The name of the target column, which may be written a little differently."""
    alike = [name for name in names if _plain(name) == _plain(target)]
    if target in names:
        return target
    if len(alike) != 1:
        shown = ", ".join(names)
        shown = shown if len(shown) < 80 else f"{shown[:50]} … {shown[-20:]}"
        raise StepError(f"{path}: has no column `{target}`. Rename one, or say which it is. The columns are: {shown}")
    logger.info(f"{path}: the target is the column `{alike[0]}`.")
    return alike[0]


def _without_row_numbers(path, frame, needed):
    """The frame without row numbers, and without columns that have neither name nor value."""
    kept = []
    for number, name in enumerate(frame.columns):
        if name in needed or not ROW_NUMBERS.fullmatch(name):
            kept.append(number)
            continue
        values = frame.iloc[:, number].dropna()
        is_number = pd.api.types.is_numeric_dtype(values)
        whole = not (is_number and (values % 1).any())
        if len(values) and not (values.is_unique and whole and (name or not kept)):
            if not name:
                raise StepError(f"{path}: column {number + 1} has no name. Give it one, or remove the column.")
            kept.append(number)
        elif len(values) and not (is_number and (values.diff().iloc[1:] == 1).all()):
            logger.warning(f"{path}: column {number + 1}, `{name}`, is taken for the rows' names and left out.")
    frame = frame.iloc[:, kept]
    _refuse_twins(path, frame.columns)
    return frame


def _refuse_twins(path, names):
    """Refuse columns of one name."""
    if twice := sorted(set(names[names.duplicated()])):
        raise StepError(f"{path}: more than one column is called {_quoted(twice)}. Rename or remove one.")


def _as_the_model_needs(path, frame, encoding):
    """The columns of a trained model, in its order, as numbers and words."""
    needed = frame.columns[frame.columns.isin(encoding["columns"])]
    _refuse_twins(path, needed)
    features = {name: _feature(frame[name], name in encoding["words"]) for name in needed}
    _check_numbers(path, frame, features)
    table = add_features(pd.DataFrame(features, copy=False))
    if lacking := [name for name in encoding["columns"] if name not in table]:
        raise StepError(f"{path}: lacks columns that the model needs: {_quoted(lacking)}. Add them, even if empty.")
    return table[encoding["columns"]]


def _labels(path, column, encoding):
    """The target's values, as numbers where all are that, without the missing ones."""
    classes = encoding["classes"] if encoding else []
    text = column.astype("str").replace("", np.nan)
    for missing in [MISSING_NUMBER, MISSING, []]:  # `NA` is a class where without it there would be one only
        labels = text[~text.isin(set(missing).difference(classes))].dropna()
        numbers = pd.to_numeric(labels, errors="coerce").astype(float)
        if (numbers.abs() < 2**53).all():
            labels = numbers if (numbers % 1).any() else numbers.astype("int64")
        elif missing is MISSING_NUMBER:
            continue
        if encoding or labels.nunique() > 1:
            break
    if dropped := len(column) - len(labels):
        logger.warning(f"{path}: {dropped} rows without a value of `{column.name}` are dropped.")
    counts = labels.value_counts()
    shown = [f"{_tidy(str(label))[:30]} ({count})" for label, count in counts.head(5).items()]
    shown = ", ".join(shown) + ", …" * (len(counts) > 5)
    if encoding and not (len(counts) and counts.index.isin(classes).all()):
        raise StepError(f"{path}: `{column.name}` holds {shown or 'no value'}; the model knows {classes}.")
    if not encoding and len(counts) != 2:
        reason = f"`{column.name}` needs two classes, but has {len(counts)}{': ' * bool(shown)}{shown}"
        raise StepError(f"{path}: {reason}. Keep the rows of two, or make two of them.")
    return labels


def _feature(column, is_words):
    """A column as numbers or words; None where it is of no use.

    `is_words` says which of both; None, that the values decide. What should be a number and is none becomes infinite.
    """
    if pd.api.types.is_numeric_dtype(column) and not is_words:
        return column.astype(float) if is_words is False or column.notna().any() else None
    text = column.astype("str")
    text = text.mask(text.str.strip().isin(MISSING))
    if is_words:
        return text
    counts = text.value_counts()
    counts = counts[~counts.index.str.strip().isin(MISSING_NUMBER)]
    numbers = _numbers(counts.index.to_series())
    if is_words is None and numbers.isna().any():
        like_numbers = numbers.notna() | numbers.index.str.fullmatch(LIKE_A_NUMBER)
        total, others = counts.sum(), counts[~like_numbers].sum()
        # A slip of the pen must not make words of a column of numbers, nor a few digits numbers of words.
        slips = others <= max(1, total / 20) and others < total / 2
        many = like_numbers.sum() > 10 or len(counts) > total / 2
        if others and not (slips and many):
            return text if len(counts) <= total / 2 else None
    return text.map(numbers.fillna(np.inf)).astype(float) if is_words is False or len(counts) else None


def _numbers(words):
    """Words as numbers, truth values, dates or times, whichever most of them are; NaN for those that are not."""
    words = words.str.strip()
    day = pd.Timedelta(days=1)
    dates = pd.to_datetime(words.where(words.str.fullmatch(DATE)), format="ISO8601", utc=True, errors="coerce")
    times = words.where(words.str.count(":") == 2, words + ":00").where(words.str.fullmatch(TIME))
    kinds = [
        pd.to_numeric(words, errors="coerce").astype(float),
        words.str.lower().map({"true": 1.0, "false": 0.0}).astype(float),
        (dates - pd.Timestamp(0, tz="UTC")) / day,
        pd.to_timedelta(times, errors="coerce") / day,
    ]
    return max(kinds, key=lambda kind: kind.notna().sum())


def _check_numbers(path, frame, features):
    """Refuse values that are no numbers, or too large ones, naming the first one of each column."""
    wrong = []
    for name, values in features.items():
        if values is not None and values.dtype == float and (large := values.abs() > LARGEST).any():
            line = large.idxmax()
            wrong.append(f"{frame.index.name} {line}, column `{name}`: {str(frame[name][line])[:50]!r}")
    if wrong:
        hint = "Write numbers like -1234.5 (at most 3.4e38), dates like 2024-12-31, nothing for missing ones"
        raise StepError(f"{path}: no number among numbers, or too large: {'; '.join(wrong)}. {hint}.")


def _warn_of_doubtful(path, table, target):
    """Warn of features that may be the target in another form, or row numbers."""
    features, labels = table.drop(columns=target), table[target]
    numbers = features.select_dtypes("float")
    low, high = numbers.groupby(labels).min(), numbers.groupby(labels).max()
    apart = (high.iloc[0] < low.iloc[1]) | (high.iloc[1] < low.iloc[0])
    telling = list(apart[apart].index)
    telling += [name for name in features.select_dtypes("str") if labels.groupby(features[name]).nunique().max() == 1]
    if telling := [name for name in telling if features[name].notna().mean() > 0.5]:
        logger.warning(f"{path}: alone tells the classes apart, so may be known only after them: {_quoted(telling)}.")
    if counting := [name for name in numbers if (numbers[name].diff().iloc[1:] == 1).all()]:
        logger.warning(f"{path}: grows by one from row to row, so may only number the rows: {_quoted(counting)}.")
