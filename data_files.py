"""Reading the tables that users give."""

import codecs
import contextlib
import csv
import gzip
import io
import re
import zlib
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from loguru import logger

import config
from cli import StepError

LARGEST = np.finfo(np.float32).max  # XGBoost computes with single precision
XGBOOST_NAMES = str.maketrans("[]<", "()_")  # as the model's code renames them for XGBoost
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SEPARATORS = [",", ";", "\t", "|", " "]
MISSING = ["", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "null", "NULL"]
# These mean it only in a column of numbers: among words, `None` or `-` often is one of them.
MISSING_NUMBER = [*MISSING, "None", "none", "NONE", "na", "NAN", "Null", "-", "--", ".", ".."]
# As pandas, R, spreadsheets and Parquet call them.
ROW_NUMBERS = re.compile(r"(Unnamed: 0(\.\d+)*|rownames|row\.names|__index_level_\d+__)?")
# The year first: of other dates nobody can tell whether the day or the month comes first.
DATE = r"\d{4}[-/]\d{1,2}[-/]\d{1,2}([T ]\d.*)?"
LIKE_A_NUMBER = r"[-+]?[$€£]?(\d{1,3}([,.' ]\d{3})+|\d+)([.,]\d*)?\s?[%$€£]?"  # 1,203.5 and 17,99 and 12 %
OTHER_KINDS = {
    "a spreadsheet or an archive": (b"\xd0\xcf\x11\xe0", b"PK\3", b"BZh", b"\xfd7z"),
    "a Feather file": (b"ARROW1", b"FEA1"),
    "an SQLite database": (b"SQLite format 3",),
}


def read_table(path, target=None, model=None):
    """Read a table of features and a two-valued target, given by the user.

    Columns of numbers, of true and false, of dates (the year first) and of few words are told apart. Row numbers are
    dropped. Columns without a value, and text that differs in more than half of the rows, are left out with a warning.

    Args:
        path: Path of a CSV file, which may be compressed with gzip, or of a Parquet file.
        target: Name of the target column. None means `target`, or the one of the model.
        model: None for a table to train on. For one that a trained model is to be used on, the model's metadata: its
            `target`, `classes` and `types`. The columns in `types`, and no others, are read as these kinds.

    Returns:
        A `pandas.DataFrame` with one row per example and the target as its last column, and the name of that column.
        Features are float64, boolean, datetime64 or str, missing where they have no value; the target is int64, float64
        or str. The index has the number of each row's line, in Parquet the row's.

    Raises:
        StepError: The table cannot be read or used: one line that begins with the path and says what to do.
    """
    types = model["types"] if model else []
    columns = [column["name"] for column in types]
    if target is None:
        target = model["target"] if model else "target"
    texts = {_plain(name) for name in [target, *_words(types)]}
    frame = next(_frames(path, texts.union(map(_plain, columns)), lambda name: _plain(name) in texts))
    frame.columns = [_tidy(name) for name in frame]
    target = _find_target(path, list(frame), target)
    frame = _without_row_numbers(path, frame, [*columns, target])
    if not len(frame):
        raise StepError(f"{path}: has no rows. Give a file with at least one example of each class.")
    labels = _labels(path, frame.pop(target), model)
    frame = frame if len(labels) == len(frame) else frame.loc[labels.index]
    if model:
        unknown = [name for name in frame if name not in [*columns, model["target"]]]
        if unknown:
            logger.warning(f"{path}: columns that the model does not know are ignored: {_quoted(unknown)}.")
        table, target = _of_kinds(path, frame, types), model["target"]
        return table.assign(**{target: labels}), target
    features = _check(path, frame, {name: _feature(frame[name], None) for name in frame})
    if left_out := [name for name in frame if name not in features]:
        logger.warning(f"{path}: left out, since empty, or text that hardly repeats: {_quoted(left_out)}.")
    if not features:
        raise StepError(f"{path}: has no features beside `{target}`. Add columns of numbers or of few words.")
    _refuse_twins(path, pd.Index(features).str.translate(XGBOOST_NAMES))
    table = pd.DataFrame(features, copy=False).assign(**{target: labels})
    _warn_of_doubtful(path, table, target)
    return table, target


def read_parts(path, types, rows=config.PART_ROWS):
    """Read a table to score, part by part, so that a file of any length needs no more memory than a part.

    Args:
        path: Path of a CSV file, which may be compressed with gzip, or of a Parquet file.
        types: The model's columns, from its metadata: a list of dicts with `name`, `kind` and, for words, `words`.
        rows: How many rows a part has at most.

    Yields:
        Two frames with one row per example and the index of `read_table`: the model's columns, as `read_table` gives
        them, and all other columns, as they stand in the file.

    Raises:
        StepError: The table cannot be read or used: one line that begins with the path and says what to do.
    """
    columns, empty = [column["name"] for column in types], True
    numbers = set(columns).difference(_words(types))
    for frame in _frames(path, set(map(_plain, columns)), lambda name: _tidy(name) not in numbers, rows):
        others = frame.loc[:, [_tidy(name) not in columns for name in frame]]
        features = _of_kinds(path, frame.rename(columns=_tidy), types)
        if len(frame):
            yield features, others
            empty = False
    if empty:
        raise StepError(f"{path}: has no rows to score.")


def two_classes(labels, positive_class=None, test_size=0.33):
    """Tell which class becomes 0 and which 1, and check that there is enough of both to split.

    Args:
        labels: The target column, a Series of two different values.
        positive_class: The one that becomes 1, as text; by default the rarer one, of two equal ones the last in order.
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
    if counts.min() * test_size < 1 or counts.min() * (1 - test_size) < config.N_FOLDS:
        raise StepError(
            f"The smaller class has {counts.min()} rows: too few for a test-size of {test_size} and training with "
            f"{config.N_FOLDS} folds. Give more data or another test-size."
        )
    positive = positive_class or str(counts.iloc[::-1].idxmin())
    return classes[::-1] if str(classes[0]) == positive else classes


def _quoted(names):
    """Names for a message."""
    return ", ".join(f"`{name}`" for name in names)


def _tidy(text):
    """Text in one line, without blanks at its ends."""
    return " ".join(text.split())


def _plain(name):
    """A name as it is compared with another."""
    return _tidy(name).strip(" '\"`").casefold()


def _words(types):
    """The names of the columns of words."""
    return [column["name"] for column in types if column["kind"] == "words"]


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
    except (OSError, EOFError, RuntimeError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise StepError(f"{path}: cannot be read: {reason}. Give the path of a CSV or Parquet file.") from None


def _open(path):
    """The file's bytes as a stream, decompressed."""
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if is_gzip else open(path, "rb")


def _read_parquet(path, rows):
    """Frames of all columns; those of lists without their values, for they are no features."""
    try:
        with _open(path) as stream, pq.ParquetFile(stream, pre_buffer=False, buffer_size=2**16) as file:
            first = 1
            for part in file.iter_batches(rows) if rows else [file.read()]:
                table = pa.table(part)
                for number, field in enumerate(table.schema):
                    if pa.types.is_nested(field.type):
                        table = table.set_column(number, field.name, pa.nulls(len(table)))
                    elif "binary" in str(field.type):
                        table = table.set_column(number, field.name, _as_text(path, field.name, table[number]))
                # a missing value makes floats of whole numbers, which long ones, such as of patients, do not survive
                whole = {"integer_object_nulls": bool(rows)}
                frame = table.to_pandas(ignore_metadata=True, date_as_object=False, **whole)
                frame.index = pd.RangeIndex(first, first + len(frame), name="row")
                first += len(frame)
                yield frame
    except (pa.ArrowException, OSError, ValueError) as error:
        raise StepError(f"{path}: cannot be read as Parquet: {_tidy(str(error))}") from None


def _as_text(path, name, column):
    """Bytes as text, which some programs write so."""
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        raise StepError(f"{path}: `{name}` holds bytes that are no text in UTF-8. Remove the column.") from None


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


def _of_kinds(path, frame, types):
    """The columns of a trained model, in its order, each of its kind."""
    kinds = {column["name"]: column["kind"] for column in types}
    if lacking := [name for name in kinds if name not in frame]:
        raise StepError(f"{path}: lacks columns that the model needs: {_quoted(lacking)}. Add them, even if empty.")
    _refuse_twins(path, frame.columns[frame.columns.isin(kinds)])
    return pd.DataFrame(_check(path, frame, {name: _feature(frame[name], kinds[name]) for name in kinds}), copy=False)


def _labels(path, column, model):
    """The target's values, as numbers where all are that, without the missing ones."""
    classes = model["classes"] if model else []
    text = column.astype("str").replace("", np.nan)
    for missing in [MISSING_NUMBER, MISSING, []]:  # `NA` is a class where without it there would be one only
        labels = text[~text.isin(set(missing).difference(classes))].dropna()
        numbers = pd.to_numeric(labels, errors="coerce").astype(float)
        if (numbers.abs() < 2**53).all():
            labels = numbers if (numbers % 1).any() else numbers.astype("int64")
        elif missing is MISSING_NUMBER:
            continue
        if model or labels.nunique() > 1:
            break
    if dropped := len(column) - len(labels):
        logger.warning(f"{path}: {dropped} rows without a value of `{column.name}` are dropped.")
    counts = labels.value_counts()
    shown = [f"{_tidy(str(label))[:30]} ({count})" for label, count in counts.head(5).items()]
    shown = ", ".join(shown) + ", …" * (len(counts) > 5)
    if model and not (len(counts) and counts.index.isin(classes).all()):
        raise StepError(f"{path}: `{column.name}` holds {shown or 'no value'}; the model knows {classes}.")
    if not model and len(counts) != 2:
        reason = f"`{column.name}` needs two classes, but has {len(counts)}{': ' * bool(shown)}{shown}"
        raise StepError(f"{path}: {reason}. Keep the rows of two, or make two of them.")
    return labels


def _feature(column, kind):
    """A column as values of a kind (None: the values decide), and which of them are not; None where it is of no use."""
    is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if is_number and kind in (None, "number"):
        return (column.astype(float), column.abs() > LARGEST) if kind or column.notna().any() else None
    text = column.astype("str")
    text = text.mask(text.str.strip().isin(MISSING))
    if kind == "words":
        return text, text.isna() & False
    counts = text.value_counts()
    counts = counts[~counts.index.str.strip().isin(MISSING_NUMBER)]
    kinds = _of_each_kind(counts.index.to_series())
    values = kinds[kind] if kind else max(kinds.values(), key=lambda values: values.notna().sum())
    if kind is None and values.isna().any():
        like_numbers = values.notna() | values.index.str.fullmatch(LIKE_A_NUMBER)
        total, others = counts.sum(), counts[~like_numbers].sum()
        # A slip of the pen must not make words of a column of numbers, nor a few digits numbers of words.
        slips = others <= max(1, total / 20) and others < total / 2
        many = like_numbers.sum() > 10 or len(counts) > total / 2
        if others and not (slips and many):
            return (text, text.isna() & False) if len(counts) <= total / 2 else None
    if not (kind or len(counts)):
        return None
    return values.reindex(text).set_axis(text.index), text.isin(values.index[values.isna()])


def _of_each_kind(words):
    """Words as numbers, truth values and dates: a Series of each, missing where a word is none."""
    words = words.str.strip()
    numbers = pd.to_numeric(words, errors="coerce").astype(float)
    truth = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    dates = pd.to_datetime(words.where(words.str.fullmatch(DATE)), format="ISO8601", utc=True, errors="coerce")
    return {
        "number": numbers.mask(numbers.abs() > LARGEST),
        "boolean": words.str.lower().map(truth).astype("boolean"),
        "date": dates.dt.tz_localize(None).astype("datetime64[us]"),  # which of the units it is depends on the values
    }


def _check(path, frame, features):
    """The values of each feature that is of use; refuse those of the wrong kind, naming the first of each column."""
    features = {name: feature for name, feature in features.items() if feature}
    wrong = []
    for name, (_, is_wrong) in features.items():
        if is_wrong.any():
            line = is_wrong.idxmax()
            wrong.append(f"{frame.index.name} {line}, column `{name}`: {str(frame[name][line])[:50]!r}")
    if wrong:
        hint = "Write numbers like -1234.5 (at most 3.4e38), dates like 2024-12-31, nothing for missing ones"
        raise StepError(f"{path}: not of its column's kind, or too large: {'; '.join(wrong)}. {hint}.")
    return {name: values for name, (values, _) in features.items()}


def _warn_of_doubtful(path, table, target):
    """Warn of features that may be the target in another form, or row numbers."""
    features, labels = table.drop(columns=target), table[target]
    numbers = features.select_dtypes(["float", "boolean"]).astype(float)
    low, high = numbers.groupby(labels).min(), numbers.groupby(labels).max()
    apart = (high.iloc[0] < low.iloc[1]) | (high.iloc[1] < low.iloc[0])
    telling = list(apart[apart].index)
    telling += [name for name in features.select_dtypes("str") if labels.groupby(features[name]).nunique().max() == 1]
    if telling := [name for name in telling if features[name].notna().mean() > 0.5]:
        logger.warning(f"{path}: alone tells the classes apart, so may be known only after them: {_quoted(telling)}.")
    if counting := [name for name in numbers if (numbers[name].diff().iloc[1:] == 1).all()]:
        logger.warning(f"{path}: grows by one from row to row, so may only number the rows: {_quoted(counting)}.")
