"""Tables as users have them: read where it is clear what is meant, else refused with the place."""

import gzip
import io
import re
import sqlite3
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from loguru import logger

import data_files
from cli import StepError

GOOD = "size,weight,target\n1.5,2,0\n2.5,,1\n-3e2,4,0\n"
FRAME = pd.DataFrame({"size": [1.5, 2.5, -300], "weight": [2, np.nan, 4], "target": [0, 1, 0]})


@pytest.fixture
def said():
    """What is logged, line by line."""
    lines = []
    handler = logger.add(lambda message: lines.append(message.strip()), format="{level}: {message}")
    yield lines
    logger.remove(handler)


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads a file of the given content, CSV or a frame for Parquet; returns the frame."""
    monkeypatch.chdir(tmp_path)  # so that messages begin with "data"

    def read(content, target=None, model=None):
        if isinstance(content, pd.DataFrame):
            content.to_parquet("data")
        else:
            Path("data").write_bytes(content if isinstance(content, bytes) else content.encode())
        if target is False:
            return pd.concat(features for features, _ in data_files.read_parts("data", model["types"]))
        return data_files.read_table("data", target, model)[0]

    return read


def column(values, name="x"):
    """A CSV table with a column of these values, quoted, and a target, in lines 2 and below."""
    rows = [f'"{value}",{number % 2}\n' for number, value in enumerate(values)]
    return f"{name},target\n" + "".join(rows)


def table(**columns):
    """A table with these columns and a target, as Parquet keeps it."""
    frame = pd.DataFrame(columns)
    return frame.assign(target=np.arange(len(frame)) % 2)


def zipped(*names):
    """A ZIP archive with the good table under each of these names."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, GOOD)
    return stream.getvalue()


def numbered(start, name, step=1):
    """The good table with row numbers in front, as pandas and R write them."""
    head, *rows = GOOD.splitlines()
    return "\n".join([f"{name},{head}", *(f"{start + step * number},{row}" for number, row in enumerate(rows))])


def with_notes(length):
    """The good table with a column of long texts, which is left out."""
    head, *rows = GOOD.splitlines()
    return "\n".join([f"{head},note", *(f"{row},{number}{length * 'x'}" for number, row in enumerate(rows))])


ACCEPTED = {
    "plain": GOOD,
    "long texts": with_notes(200_000),
    "byte-order mark": GOOD.encode("utf-8-sig"),
    "UTF-16": GOOD.encode("utf-16"),
    "UTF-16, tabs": GOOD.replace(",", "\t").encode("utf-16"),
    "semicolons": GOOD.replace(",", ";"),
    "tabs": GOOD.replace(",", "\t"),
    "bars": GOOD.replace(",", "|"),
    "blanks for separators": GOOD.replace(",,", ",NA,").replace(",", "   "),
    "blanks at both ends": GOOD.replace(",,", ",NA,").replace(",", " ").replace("\n", " \n "),
    "line that names the separator": "sep=;\n" + GOOD.replace(",", ";"),
    "the same, of Windows": "SEP=;\r\n" + GOOD.replace(",", ";").replace("\n", "\r\n"),
    "unusual separator, named": "sep=^\n" + GOOD.replace(",", "^"),
    "Windows line ends": GOOD.replace("\n", "\r\n"),
    "old Mac line ends": GOOD.replace("\n", "\r"),
    "no line end at the end": GOOD.rstrip(),
    "gzip": gzip.compress(GOOD.encode()),
    "Parquet": FRAME,
    "Parquet with row numbers": FRAME.set_index(pd.Index([7, 3, 9])),
    "Parquet with a column as index": FRAME.set_index("weight"),
    "row numbers of pandas": numbered(0, ""),
    "row numbers of R": numbered(1, '""'),
    "row numbers of Rdatasets": numbered(1, "rownames"),
    "row numbers of row numbers": "\n".join(
        f"{number},{row}" if number else f",{row}" for number, row in enumerate(numbered(0, "Unnamed: 0").splitlines())
    ),
    "row numbers after a selection": numbered(10, "", step=7),
    "empty columns at the end": GOOD.replace("\n", ",,\n"),
    "empty lines": "\n\n" + GOOD.replace("\n", "\n\n") + ",,\n",
    "blanks around values": GOOD.replace(",", " , "),
    "blanks before quotation marks": GOOD.replace("2.5", '"2.5"').replace(",4", ', "4"').replace(",target", ', "target"'),
    "quoted": "\n".join(",".join(f'"{value}"' for value in line.split(",")) for line in GOOD.splitlines()),
    "target as floating point number": GOOD.replace("0\n", "0.000\n").replace("1\n", "1.0\n"),
} | {f"missing as {word}": GOOD.replace(",,", f",{word},") for word in data_files.MISSING_NUMBER}  # fmt: skip


@pytest.mark.parametrize("content", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(read, content):
    frame = read(content)
    pd.testing.assert_frame_equal(frame.reset_index(drop=True), FRAME, check_exact=True)
    if not isinstance(content, pd.DataFrame):
        assert frame.index.name == "line"


NO, YES = "no", "yes"
day = pd.Timestamp
COLUMNS = {
    "words": (["a", "b", "a", "b"], ["a", "b", "a", "b"]),
    "words of digits and one of letters": (["4", "6", "rotary", "4", "6", "4"], ["4", "6", "rotary", "4", "6", "4"]),
    "a word for missing": ([YES, "NA", YES, "?", NO, NO, ""], [YES, None, YES, None, NO, NO, None]),
    "None is a word among words": (["None", "Driver"] * 2, ["None", "Driver"] * 2),
    "so is -": (["+", "-"] * 2, ["+", "-"] * 2),
    "but a missing value among numbers": (["1", "None", "-", ".", "2.5"], [1, None, None, None, 2.5]),
    "true and false": (["true", "FALSE", "", "True"], [True, False, None, True]),
    "True and False": (["True", "False", "True"], [True, False, True]),
    "true, false, 1 and 0": (["true", "0", "-", "1.0", "false"], [True, False, None, True, False]),
    "true, false and another word": (["true", "false", "maybe"] * 2, ["true", "false", "maybe"] * 2),
    "1 and 0": (["1", "0", "1"], [1, 0, 1]),
    "dates": (["1970-01-02", "1969-12-31", ""], [day("1970-01-02"), day("1969-12-31"), None]),
    "dates with slashes": (["1970/01/11", "1970/1/2"], [day("1970-01-11"), day("1970-01-02")]),
    "dates and times": (
        ["1970-01-02 12:00", "1970-01-02T06:00:00Z", "1970-01-03T01:00:00.5+01:00"],
        [day("1970-01-02 12:00"), day("1970-01-02 06:00"), day("1970-01-03 00:00:00.5")],
    ),
    "first and last dates": (["9999-12-31", "None", "0001-01-01"], [day("9999-12-31"), None, day("0001-01-01")]),
    "nanoseconds": (["2020-01-01 00:00:00.123456789", "2020-01-02"], [day("2020-01-01 00:00:00.123456"), day("2020-01-02")]),
    "times": (["06:00", "18:00"] * 2, ["06:00", "18:00"] * 2),
    "dates of which nobody can tell the month": (["1/2/2020", "2/1/2020"] * 2, ["1/2/2020", "2/1/2020"] * 2),
    "ranges": (["40-49", "0-2"] * 2, ["40-49", "0-2"] * 2),
    "seasons": (["2003-04", "2011-12"] * 2, ["2003-04", "2011-12"] * 2),
    "large whole numbers": ([2**70, -(2**63), 5], [2**70, -(2**63), 5]),
    "nearly too large": (["-3.4e38", "1"], [-3.4e38, 1]),
    "signs and exponents": (["+1.5", "1E3", ".5", "-0"], [1.5, 1000, 0.5, 0]),
    "leading zeros": (["007", "010"], [7, 10]),
    "one value only": (["3", "3", "3"], [3, 3, 3]),
    "quotation marks and separators": (['a, ""b""', "c;d"] * 2, ['a, "b"', "c;d"] * 2),
    "all digits exact": ([0.1 + 0.2, 1 / 3, 1e-300, 5e-324], [0.1 + 0.2, 1 / 3, 1e-300, 5e-324]),
}  # fmt: skip


@pytest.mark.parametrize(("values", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_what_becomes_of_a_column(read, values, expected):
    dtype = {str: "str", bool: "boolean", pd.Timestamp: "datetime64[us]"}.get(type(expected[0]), float)
    wanted = pd.Series(expected, dtype=dtype, name="x")
    frame = read(column(values))
    pd.testing.assert_series_equal(frame.x.reset_index(drop=True), wanted, check_exact=True)
    texts = pd.Series([str(value).replace('""', '"') for value in values])
    pd.testing.assert_series_equal(read(table(x=texts)).x.reset_index(drop=True), wanted, check_exact=True)


def test_columns_of_parquet(read, said):
    days = pd.to_datetime(["1970-01-02 00:00", "1970-01-03 12:00", None])
    frame = read(
        table(
            whole=[1, 2, 3],
            truth=[True, False, True],
            unsure=pd.array([True, None, False], "boolean"),
            missing=pd.array([1, None, 3], "Int64"),
            time=days,
            zoned=days.tz_localize("Europe/Berlin"),
            date=pd.Series(days).dt.date,
            span=days - pd.Timestamp(0),
            code=pd.Categorical([5, 6, 5]),
            lists=[[1], [2], [1]],
            raw=[b"a", b"a", b"a"],
        )
    )
    hour = pd.Timedelta(hours=1)
    wanted = pd.DataFrame(
        {
            "whole": [1.0, 2, 3],
            "truth": pd.array([True, False, True], "boolean"),
            "unsure": pd.array([True, None, False], "boolean"),
            "missing": [1, np.nan, 3],
            "time": days,
            "zoned": days - hour,
            "date": days.floor("D"),
            "code": [5.0, 6, 5],
            "target": [0, 1, 0],
        },
        index=pd.RangeIndex(1, 4, name="row"),
    ).astype({name: "datetime64[us]" for name in ["time", "zoned", "date"]})
    pd.testing.assert_frame_equal(frame, wanted)
    assert sum("`span`, `lists`, `raw`" in line for line in said) == 1


def test_categories_of_parquet(read):
    assert read(table(x=pd.Categorical(["a", "b", None, "b", "a"]))).x.dropna().tolist() == ["a", "b", "b", "a"]


def test_what_is_left_out_is_named_in_one_line(read, said):
    rows = "\n".join(f"{n % 3},n{n},,word {n // 2},{n % 2}" for n in range(10))
    frame = read(f"x,name,nothing,often,target\n{rows}\n")
    assert list(frame) == ["x", "often", "target"]
    assert said == ["WARNING: data: left out, since empty, or text that hardly repeats: `name`, `nothing`."]


TARGETS = {
    "words": ([NO, YES, NO], None, [NO, YES, NO]),
    "letters beyond ASCII": (["gutartig", "bösartig"], None, ["gutartig", "bösartig"]),
    "numbers": (["2", "4", "2"], None, [2, 4, 2]),
    "fractions": (["0.5", "1.5"], None, [0.5, 1.5]),
    "true and false": (["TRUE", "FALSE"], None, ["TRUE", "FALSE"]),
    "None is a class": (["None", "Some", "None"], None, ["None", "Some", "None"]),
    "so is NA": (["NA", "SA", "NA"], None, ["NA", "SA", "NA"]),
    "unless there are two others": ([NO, "NA", YES, NO], 1, [NO, YES, NO]),
    "missing numbers": (["0", "", "1", "NA", "?"], 3, [0, 1]),
    "empty": ([NO, "", YES, ""], 2, [NO, YES]),
}


@pytest.mark.parametrize(("values", "dropped", "expected"), TARGETS.values(), ids=TARGETS)
def test_target(read, said, values, dropped, expected):
    texts = ["x,target", *(f"{3 * n % 5},{value}" for n, value in enumerate(values))]
    for content in ["\n".join(texts), pd.DataFrame({"x": np.arange(len(values)) * 3 % 5, "target": values})]:
        said.clear()
        frame = read(content)
        assert frame.target.tolist() == expected
        assert [line for line in said if "dropped" in line] == [
            f"WARNING: data: {dropped} rows without a value of `target` are dropped."
        ] * bool(dropped)


def test_target_of_parquet(read):
    assert read(pd.DataFrame({"x": [1, 2], "target": [True, False]})).target.tolist() == ["True", "False"]
    assert read(pd.DataFrame({"x": [1, 2, 3], "target": [1.0, None, 0]})).target.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("header", "target", "found", "is_said"),
    [
        ("Target", None, "Target", True),
        ("'target'", None, "'target'", True),
        ("diagnosis", "diagnosis", "diagnosis", False),
        ("Diagnosis", "diagnosis", "Diagnosis", True),
        ("size [mm]", "size [mm]", "size [mm]", False),
        ('" size\n(mm)"', "size (mm)", "size (mm)", False),
    ],
)
def test_name_of_the_target(tmp_path, said, header, target, found, is_said):
    path = tmp_path / "data"
    path.write_text(f"a,{header}\n3,0\n5,1\n4,1\n")
    frame, name = data_files.read_table(path, target)
    assert name == found
    assert frame[name].tolist() == [0, 1, 1]
    assert (f"INFO: {path}: the target is the column `{found}`." in said) == is_said


def test_names_stay_as_they_are(read):
    frame = read(GOOD.replace("size", "size [mm]").replace("weight", "weight<5"))
    assert list(frame) == ["size [mm]", "weight<5", "target"]


def test_windows_1252(read, said):
    frame = read(column(["größer", "klein"] * 2, "Maß").encode("cp1252"))
    assert frame["Maß"].tolist() == ["größer", "klein"] * 2
    assert "WARNING: data: is not in UTF-8, but seems to be in Windows-1252" in said[0]


def test_row_names_are_left_out_with_a_warning(read, said):
    frame = read('"",x,target\n"Mazda RX4",3,0\n"Fiat 128",1,1\n')
    assert list(frame) == ["x", "target"]
    assert "WARNING: data: column 1, ``, is taken for the rows' names and left out." in said


def test_a_real_column_called_unnamed_is_kept(read):
    assert list(read("Unnamed: 0,a,Unnamed: 2,target\n17.5,1,30,0\n18.5,5,31,1\n")) == [
        "Unnamed: 0",
        "a",
        "Unnamed: 2",
        "target",
    ]


def test_lines(read):
    """The index has the lines of the file, after empty lines and line breaks inside of quotes too."""
    content = 'note,b,target\n"a\nb",5,0\n\n"a\r\nb",3,1\nc,6,0\nc,7,\nc,8,1\n'
    assert read(content).index.tolist() == [2, 5, 7, 9]
    assert read("\n\n" + content.replace('"', "").replace("a\n", "").replace("a\r\n", "")).index.tolist() == [
        4,
        6,
        7,
        9,
    ]
    assert read(content.encode("utf-16")).index.tolist() == [2, 5, 7, 9]
    assert read("sep=,\n" + content).index.tolist() == [3, 6, 8, 10]


def test_doubtful_features(read, said):
    rows = "\n".join(
        f"{n},{n * 7 % 5},{n % 2 * 3 + n / 100},{'ab'[n % 2]},{'ab'[n % 3 % 2]},{n % 2}" for n in range(12)
    )
    read(f"id,x,leak,word,other,target\n{rows}\n")
    assert said == [
        "WARNING: data: alone tells the classes apart, so may be known only after them: `leak`, `word`.",
        "WARNING: data: grows by one from row to row, so may only number the rows: `id`.",
    ]


def test_ordinary_tables_are_read_in_silence(read, said):
    read("x,y,target\n3,5,0\n1,6,1\n2,,1\n1,7,0\n")
    read("word,target\na,0\na,1\nb,0\nb,1\n")
    read("touching,target\n1,0\n2,0\n2,1\n3,1\n")
    read("rare,y,target\na,3,0\na,2,0\n,4,1\n,1,0\n,2,1\n")
    assert said == []


def with_value(value):
    """Numbers with an empty line, and this value in line 14."""
    return "size,weight,target\n1,1,0\n\n" + "".join(f"{n},{n / 4},{n % 2}\n" for n in range(10)) + f'2,"{value}",1\n'


NOT_A_NUMBER = {
    "text": ("big", "'big'"),
    "thousands separator": ("1,203.5", "'1,203.5'"),
    "decimal comma": ("17,99", "'17,99'"),
    "underscore": ("1_000", "'1_000'"),
    "percent": ("12%", "'12%'"),
    "hexadecimal": ("0x1F", "'0x1F'"),
    "date": ("2024-01-01", "'2024-01-01'"),
    "complex": ("1+2j", "'1+2j'"),
    "infinite": ("inf", "'inf'"),
    "minus infinity": ("-Infinity", "'-inf'"),
    "too large for XGBoost": ("3.5e38", "'3.5e+38'"),
    "too large for any": ("9" * 400, "'inf'"),
    "very long": ("x" * 200_000, "'" + "x" * 50 + "'"),
}


@pytest.mark.parametrize(("value", "shown"), NOT_A_NUMBER.values(), ids=NOT_A_NUMBER)
def test_value_that_is_not_a_number(read, value, shown):
    with pytest.raises(StepError) as refused:
        read(with_value(value))
    said = f"data: not of its column's kind, or too large: line 14, column `weight`: {shown}. Write"
    assert said in str(refused.value)


SLIPS = {
    "one in a hundred": ([*range(99), "x"], "'x'"),
    "five": ([*range(95), *"xxyyz"], "'x'"),
    "six": ([*range(94), *"xxyyzz"], None),
    "one in a hundred, of different numbers that repeat": ([*(n % 20 for n in range(99)), "x"], "'x'"),
    "the only value": (["x", "", ""], None),
    "one of two": ([1, "x", 1, "x"], "words"),
    "one in a hundred, of few different numbers": ([*(n % 10 for n in range(99)), "x"], "words"),
    "six in a hundred, of more": ([*(n % 20 for n in range(94)), *"xxxxxx"], "words"),
}


@pytest.mark.parametrize(("values", "expected"), SLIPS.values(), ids=SLIPS)
def test_a_few_words_among_numbers(read, said, values, expected):
    """They are mistakes where numbers are many and different; few different ones may be names of kinds."""
    if expected == "words":
        assert read(column(values)).x.tolist() == [str(value) for value in values]
    elif expected:
        with pytest.raises(StepError, match=f"line {values.index('x') + 2}, column `x`: {expected}. Write"):
            read(column(values))
    else:
        with pytest.raises(StepError, match="no features"):
            read(column(values))
        assert "hardly repeats: `x`" in said[0]


def test_words_stay_as_they_are_in_a_long_file(read):
    """Without `low_memory=False` pandas would read parts of the column as numbers."""
    values = ["1", "02"] * 200_000 + ["a", "true"] * 200_000
    assert read(column(values)).x.unique().tolist() == ["1", "02", "a", "true"]


def test_target_in_place_of_row_numbers(read):
    assert read("rownames,x\n1,5\n2,6\n", "rownames").rownames.tolist() == [1, 2]


def test_all_bad_columns_are_named_at_once(read):
    with pytest.raises(StepError, match="line 3, column `a`: '1,5'; line 2, column `c`: 'inf'. Write"):
        read('a,b,c,target\n1,2,inf,0\n"1,5",3,2,1\n')
    with pytest.raises(StepError, match="row 2, column `b`: 'inf'. Write"):
        read(table(a=[1.0, 2], b=[1.0, np.inf]))
    with pytest.raises(StepError, match="line 4, column `b`: 'bad'. Write"):
        read('a,note,b,target\n1,"2\n",5,0\n2,3,bad,1\n3,4,6,0\n')
    with pytest.raises(StepError, match="line 13, column `x`: '2020-02-30'. Write"):
        read(column([*(f"2020-01-{day}" for day in range(10, 21)), "2020-02-30"]))


NAMES = "but the header has 3 names: name all columns"
TEXT = "is not text"
REFUSED = {
    "empty": ("", "is empty"),
    "only empty lines": ("\n\n,,\n", "is empty"),
    "only a header": (GOOD.splitlines()[0], "has no rows"),
    "only a header and commas": (GOOD.splitlines()[0] + "\n,,\n\n", "has no rows"),
    "no header": (GOOD.split("\n", 1)[1], "no column `target`. Rename one, or say which it is. The columns are: 1.5, 2, 0"),
    "a comment before the header": ("# of May\n" + GOOD, "The columns are: # of May"),
    "a long header without target": (",".join(f"x{n}" for n in range(1000)), "The columns are: x0, x1, x2"),
    "Parquet without target": (pd.DataFrame({"a": [1]}), "no column `target`"),
    "a name over two lines": ('"a\nb",c\n1,2\n', "The columns are: a b, c"),
    "classes over two lines": ('x,target\n1,"a\nb"\n2,c\n3,d\n', "has 3: a b (1), c (1), d (1)"),
    "two that may be meant": ("a,Target,TARGET\n1,2,3\n", "no column `target`"),
    "only a target": ("target\n0\n1\n", "has no features beside `target`"),
    "only names": (column(["Ann", "Bob", "Cid"]), "has no features beside `target`"),
    "three classes": ("x,target\n1,a\n2,b\n3,c\n4,a\n", "`target` needs two classes, but has 3: a (2), b (1), c (1). Keep"),
    "many classes": (column(range(9)).replace(",0\n", ",3\n,7\n,8\n,9\n,2\n"), "but has 6: 3 (5), 7 (5), 8 (5), 9 (5), 2 (5), …. Keep"),
    "one class": ("x,target\n1,a\n2,a\n", "`target` needs two classes, but has 1: a (2). Keep"),
    "no class": ("x,target\n1,\n2,\n", "`target` needs two classes, but has 0. Keep"),
    "None is one of three": ("x,target\n1,None\n2,Some\n3,Marked\n", "but has 3: None (1), Some (1), Marked (1)"),
    "a long line": (GOOD.replace("-3e2", "-3e2,7"), f"line 4 has 4 values, {NAMES}"),
    "a long line after a line break": (GOOD.replace("2.5", '"\n2.5"').replace("-3e2", "-3e2,7"), f"line 5 has 4 values, {NAMES}"),
    "a name too few": ("id,dose,target\n10,5.5,0,1\n20,6.5,1,0\n", f"line 2 has 4 values, {NAMES}"),
    "a name too few, and numbered rows": ("id,dose,target\n1,5.5,0,1\n2,6.5,1,0\n3,7.5,0,1\n", f"line 2 has 4 values, {NAMES}"),
    "a separator too many": ("year,dose,target\n2001,5.5,0,\n2002,6.5,1,\n", f"line 2 has 4 values, {NAMES}"),
    "a name too few, blanks": ("id dose target\n1 5.5 0 1\n", f"line 2 has 4 values, {NAMES}"),
    "an open quotation mark": (GOOD.replace("-3e2", '"-3e2'), "a quotation mark in line 4 is never closed"),
    "a column twice": (GOOD.replace("size", "weight"), "more than one column is called `weight`"),
    "a column twice but for blanks": (GOOD.replace("size", "weight "), "more than one column is called `weight`"),
    "a column twice for XGBoost": ("a[,a(,target\n1,2,0\n3,1,1\n", "more than one column is called `a(`"),
    "target twice": (GOOD.replace("size", "target"), "more than one column is called `target`"),
    "a column without a name": (GOOD.replace("weight", ""), "column 2 has no name. Give it one"),
    "the first column without a name": (",b,target\n17.5,1,0\n18.5,2,1\n", "column 1 has no name. Give it one"),
    "whole numbers without a name": ("b,,target\n17,1,0\n18,2,1\n", "column 2 has no name. Give it one"),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), f"line 1 {TEXT}"),
    "half of UTF-16": (GOOD.encode("utf-16")[:-1], f"line 1 {TEXT}"),
    "a null byte": (GOOD.replace("2.5", "2\0"), f"line 3 {TEXT}"),
    "a hole": (GOOD + "\0" * 4096, f"line 5 {TEXT}"),
    "binary": (bytes(range(255, 0, -1)), f"line 1 {TEXT}"),
    "half of a gzip": (gzip.compress(GOOD.encode())[:-20], "cannot be read: Compressed file ended"),
    "a damaged gzip": (gzip.compress(GOOD.encode())[:10] + b"damaged" * 9, "cannot be read: Error -3"),
    "another file in gzip": (gzip.compress(bytes(range(255, 0, -1))), f"line 1 {TEXT}"),
    "Excel": (zipped("[Content_Types].xml", "xl/workbook.xml"), "this is a spreadsheet or an archive: save the table as CSV or Parquet"),
    "old Excel": (bytes.fromhex("d0cf11e0a1b11ae1") + bytes(100), "this is a spreadsheet or an archive"),
    "JSON": ('{"size":[' + "1,2," * 100 + "]}", "has no column `target`"),
    "a web page": ("<!DOCTYPE html><title>404</title>", "has no column `target`"),
    "half of Parquet": (b"PAR1" + bytes(50), "cannot be read as Parquet: "),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(read, content, words):
    with pytest.raises(StepError) as refused:
        read(content)
    message = str(refused.value)
    assert message.startswith("data: ")
    assert words in message
    assert "\n" not in message
    assert len(message) < 250


def test_other_kinds_as_libraries_write_them(tmp_path):
    FRAME.to_feather(tmp_path / "feather")
    with sqlite3.connect(tmp_path / "sqlite") as connection:
        connection.execute("CREATE TABLE a (b)")
    connection.close()
    for kind, name in {"feather": "a Feather file", "sqlite": "an SQLite database"}.items():
        with pytest.raises(StepError, match=f"{kind}: this is {name}: save the table as CSV or Parquet"):
            data_files.read_table(tmp_path / kind)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.csv", "No such file"),
        (".", "Is a directory"),
        ("/dev/null/data.csv", "Not a directory"),
        ("/proc/self/mem", "Input/output error"),
        ("null\0byte", "embedded null byte"),
    ],
)
def test_unreadable(path, words):
    with pytest.raises(StepError, match=f"cannot be read: {words}.*Give the path"):
        data_files.read_table(path)


TRAIN = """n,kind,day,sure,target
1,b,1970-01-02,True,bad
2,a,1970-01-03,False,good
3,c,1970-01-02,,good
,b,,True,good
1,a,,True,bad
1,a,,False,bad
1,c,,False,bad
"""


MODEL = {
    "target": "target",
    "classes": ["bad", "good"],
    "types": [
        {"name": "n", "kind": "number"},
        {"name": "kind", "kind": "words", "words": ["a", "b", "c"]},
        {"name": "day", "kind": "date"},
        {"name": "sure", "kind": "boolean"},
    ],
}
TYPES = MODEL["types"]


def test_table_to_train_on(read):
    frame = read(TRAIN)
    assert frame.dtypes.astype(str).to_dict() == {
        "n": "float64",
        "kind": "str",
        "day": "datetime64[us]",
        "sure": "boolean",
        "target": "str",
    }
    pd.testing.assert_frame_equal(read(TRAIN, None, MODEL), frame)


def test_column_may_have_any_name(read):
    model = {"target": "target", "classes": [0, 1], "types": [{"name": "self", "kind": "words", "words": ["a"]}]}
    assert read("self,cls,target\nb,1,0\n", None, model)["self"].tolist() == ["b"]


def test_table_for_a_trained_model(read, said):
    """One row, other order, words that look like numbers or were never seen, further columns, one class."""
    content = "Unnamed: 0,day,more,target,kind,n,sure\n0,1970-01-05,x,good,7,NA,1\n1,,y,good,b,2,\n"
    frame = read(content, None, MODEL)
    wanted = {
        "n": [np.nan, 2],
        "kind": pd.Series(["7", "b"], dtype="str"),
        "day": pd.Series([day("1970-01-05"), None], dtype="datetime64[us]"),
        "sure": pd.array([True, None], "boolean"),
        "target": pd.Series(["good", "good"], dtype="str"),
    }
    pd.testing.assert_frame_equal(frame.reset_index(drop=True), pd.DataFrame(wanted))
    assert said == ["WARNING: data: columns that the model does not know are ignored: `more`."]


def test_other_types_of_parquet_for_a_trained_model(read):
    """Numbers among words, whole numbers and none at all are of the kinds that the model knows."""
    columns = {"n": [True, False], "kind": [1, 2], "day": [None, None], "sure": [1.0, np.nan]}
    frame = read(table(**columns | {"n": [1, 2]}).assign(target=["good", "bad"]), None, MODEL)
    assert frame.kind.tolist() == ["1", "2"]
    assert frame.dtypes.astype(str).tolist() == ["float64", "str", "datetime64[us]", "boolean", "str"]
    assert frame.sure.tolist() == [True, pd.NA]
    with pytest.raises(StepError, match="row 1, column `n`: 'True'. Write"):
        read(table(**columns), False, MODEL)


@pytest.mark.parametrize("rows", ["n;kind;day;sure\n1;a;;\n", "n;kind;day;sure;target\n1;a;;;who knows\n"])
def test_table_to_score(read, said, rows):
    assert list(read(rows, False, MODEL)) == ["n", "kind", "day", "sure"]
    assert said == []


MANY = "\n".join(["patient,n,kind,day,sure,note", *(f'00{i},{i},{"abc"[i % 3]},,,"NA\n{i}"' for i in range(5))])


def parts_of(path, content, rows=2):
    """How long the parts of a file are, and the two frames that they make together."""
    if isinstance(content, pd.DataFrame):
        content.to_parquet(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    features, others = zip(*data_files.read_parts(path, TYPES, rows), strict=True)
    return [len(part) for part in features], pd.concat(features), pd.concat(others)


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("encode", [bytes, gzip.compress, lambda content: content.decode().encode("utf-16")])
def test_parts_of_a_file(tmp_path, said, encode, rows):
    """What the model does not use stays as it stands, and the lines are those of the file."""
    sizes, features, others = parts_of(tmp_path / "data", encode(MANY.encode()), rows)
    assert sizes == {1: [1] * 5, 2: [2, 2, 1], 100: [5]}[rows]
    assert features[["n", "kind"]].to_dict("list") == {"n": [0, 1, 2, 3, 4], "kind": [*"abcab"]}
    assert features[["day", "sure"]].isna().all(axis=None)
    assert features.dtypes.astype(str).tolist() == ["float64", "str", "datetime64[us]", "boolean"]
    assert others.to_dict("list") == {"patient": [f"00{i}" for i in range(5)], "note": [f"NA\n{i}" for i in range(5)]}
    assert features.index.tolist() == others.index.tolist() == [2, 4, 6, 8, 10]
    assert features.index.name == "line"
    assert said == []


def test_parts_are_those_of_the_whole(read, tmp_path):
    """Missing values, an empty line, dates, and a target, which is no feature, in a file without quotation marks."""
    content = TRAIN.replace("1,a,,True,bad\n", "?,a,NA,,bad\n\n", 1)
    sizes, features, others = parts_of(tmp_path / "data", content)
    whole = read(content, None, MODEL)
    pd.testing.assert_frame_equal(features, whole.drop(columns="target"))
    assert others.target.tolist() == whole.target.tolist()
    assert sizes == [2, 2, 1, 2]


def test_parts_of_parquet(tmp_path):
    """Long numbers of patients stay whole, though one is missing."""
    dates = pd.to_datetime(["2024-01-01", None, "2024-01-03"])
    frame = pd.DataFrame({"n": [1.0, 2, np.nan], "kind": ["a", None, "c"], "day": dates, "sure": [True, False, None]})
    frame["patient"] = pd.array([2**62 + 1, None, 7], dtype="Int64")
    sizes, features, others = parts_of(tmp_path / "data", frame)
    assert sizes == [2, 1]
    assert features.astype(object).fillna("").to_dict("list") == {
        "n": [1, 2, ""],
        "kind": ["a", "", "c"],
        "day": [day("2024-01-01"), "", day("2024-01-03")],
        "sure": [True, False, ""],
    }
    assert others.patient.tolist() == [2**62 + 1, None, 7]
    assert (features.index.name, features.index.tolist()) == ("row", [1, 2, 3])


HEAD = "n,kind,day,sure\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HEAD, "has no rows to score."),
        (HEAD + "\n\n", "has no rows to score."),
        ("n,kind,sure\n1,a,\n", "lacks columns that the model needs: `day`."),
        ("a,b\n1,2\n", "lacks columns that the model needs: `n`, `kind`, `day`, `sure`."),
        ("n,n,kind,day,sure\n1,2,a,,\n", "more than one column is called `n`."),
        (HEAD + "1,a,,\n2,a,,\n3,a,,\n4,a,,\nx,a,,\n", "line 6, column `n`: 'x'."),
        (HEAD + "1,a,,\n2,a,,\n3,a,,\n4,a,,,5\n", "line 5 has 5 values, but the header has 4 names"),
        (HEAD + "1,a,,2\n", "line 2, column `sure`: '2'."),
        (HEAD + "1,a,20240704,\n", "line 2, column `day`: '20240704'."),
        (pd.DataFrame({"n": [1], "kind": ["a"], "sure": None}), "lacks columns that the model needs: `day`."),
        (pd.DataFrame({"n": [1, 2, np.inf], "kind": "a", "day": None, "sure": None}), "row 3, column `n`: 'inf'."),
        (pd.DataFrame({"n": [1], "kind": "a", "day": 1, "sure": None}), "row 1, column `day`: '1'."),
    ],
)
def test_refused_parts(tmp_path, content, words):
    with pytest.raises(StepError) as refused:
        parts_of(tmp_path / "data", content)
    assert words in str(refused.value)


def test_target_of_another_name(read):
    frame = read(TRAIN.replace("target", "outcome"), "outcome", MODEL)
    pd.testing.assert_frame_equal(frame, read(TRAIN, None, MODEL))


def test_classes_of_a_trained_model(read):
    """`NA` is a class where the model knows it as one."""
    content, types = "x,target\n5,NA\n1,SA\n2,\n", [{"name": "x", "kind": "number"}]
    for classes, found in [(["NA", "SA"], ["NA", "SA"]), (["EU", "SA"], ["SA"])]:
        model = {"target": "target", "classes": classes, "types": types}
        assert read(content, None, model).target.tolist() == found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("n,target\n1,good\n", "lacks columns that the model needs: `kind`, `day`, `sure`. Add them"),
        ("n,kind,day,sure\n1,a,,\n", "has no column `target`"),
        (TRAIN.replace("bad", "benign"), "`target` holds benign (4), good (3); the model knows ['bad', 'good']"),
        (
            TRAIN.replace("bad", "0").replace("good", "1"),
            "`target` holds 0 (4), 1 (3); the model knows ['bad', 'good']",
        ),
        ("n,kind,day,sure,target\n1,a,,,\n", "`target` holds no value; the model knows"),
        (
            "n,kind,day,sure,target\nx,a,yesterday,maybe,good\n",
            "line 2, column `n`: 'x'; line 2, column `day`: 'yesterday'; line 2, column `sure`: 'maybe'. Write",
        ),
        (TRAIN.replace("1970-01-03", "1970-02-30"), "line 3, column `day`: '1970-02-30'"),
    ],
)
def test_refused_for_a_trained_model(read, content, words):
    with pytest.raises(StepError) as refused:
        read(content, None, MODEL)
    assert str(refused.value).startswith("data: ")
    assert words in str(refused.value)


# Tables that say clearly what they are: numbers, dates, true and false, or words of letters that are none of these, each
# at least twice.
words = st.text(st.characters(categories=["L"], max_codepoint=0x2FFF), min_size=1).map(lambda word: f"w{word}")
floats = st.floats(-3.4e38, 3.4e38, width=64) | st.just(np.nan)
truths = st.sampled_from([True, False, None])
dates = st.datetimes() | st.none()
dtypes = {words: "str", floats: "float", truths: "boolean", dates: "datetime64[us]"}


@st.composite
def tables(draw):
    size = 2 * draw(st.integers(1, 10))
    names = draw(st.lists(words, min_size=1, max_size=4, unique_by=str.casefold))
    frame = {}
    for name in names:
        values = draw(st.sampled_from([*dtypes]))
        half = draw(st.lists(values, min_size=size // 2, max_size=size // 2))
        frame[name] = pd.Series(2 * half, dtype=dtypes[values])
        assume(frame[name].notna().any())
    classes = draw(st.lists(words, min_size=2, max_size=2, unique=True) | st.just([0, 1]) | st.just([-1, 2.5]))
    return pd.DataFrame({**frame, "target": classes * (size // 2)})


ways = [("csv", separator, encoding) for separator in ",;\t|" for encoding in ["utf-8", "utf-8-sig", "utf-16"]]


@given(frame=tables(), way=st.sampled_from([*ways, ("parquet", None, None)]))
def test_made_up_table_comes_back(tmp_path, frame, way):
    kind, separator, encoding = way
    for _ in range(2):  # what was read can be written and read again
        if kind == "csv":
            frame.to_csv(tmp_path / "data", index=False, sep=separator, encoding=encoding)
        else:
            frame.to_parquet(tmp_path / "data")
        again, _ = data_files.read_table(tmp_path / "data")
        pd.testing.assert_frame_equal(again.reset_index(drop=True), frame.reset_index(drop=True), check_exact=True)
        frame = again


cells = st.lists(st.sampled_from([*"ab,;\"'\n 1.", "\r\n"]), max_size=6).map("".join)


@given(rows=st.lists(st.tuples(cells, st.booleans()), min_size=2, max_size=8))
def test_lines_are_those_of_the_file(tmp_path, rows):
    """Whatever stands in a quoted cell, each row's line in the file begins with the row's number."""
    lines = ["number,cell,target\n"]
    for number, (cell, empty) in enumerate(rows):
        quoted = cell.replace('"', '""')
        lines.append(f'{100 + number},"{quoted}",{number % 2}\n' + "\n" * empty)
    content = "".join(lines)
    (tmp_path / "data").write_text(content, newline="")
    try:
        frame, _ = data_files.read_table(tmp_path / "data")
    except StepError as error:  # the made-up cells may look like numbers with mistakes
        assert "not of its column's kind" in str(error)
        return
    at = content.split("\n")
    assert [at[line - 1].split(",")[0] for line in frame.index] == [str(int(number)) for number in frame.number]


@pytest.mark.parametrize(
    ("labels", "chosen", "classes"),
    [
        (["yes", "no"] * 20, None, ["no", "yes"]),
        (["yes", "no", "yes"] * 20, None, ["yes", "no"]),
        (["yes", "no", "no"] * 20, None, ["no", "yes"]),
        (["yes", "no", "yes"] * 20, "yes", ["no", "yes"]),
        (["yes", "no"] * 20, "no", ["yes", "no"]),
        ([2, 4] * 20, None, [2, 4]),
        ([2, 4] * 20, "2", [4, 2]),
        ([2, 10, 10] * 20, None, [10, 2]),
        ([0.5, 1.5, 1.5] * 20, "1.5", [0.5, 1.5]),
    ],
)
def test_positive_class(labels, chosen, classes):
    """Class 1 is the one that is named, else the rarer one, of two equal ones the last in order."""
    assert data_files.two_classes(pd.Series(labels), chosen) == classes


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        (["a", "b"] * 20, {"positive_class": "c"}, "positive-class is c: give 'a' or 'b'."),
        (["a", "b"] * 20, {"test_size": 1.0}, "test-size is 1.0: give a share"),
        (["a", "b"] * 20, {"test_size": -1}, "test-size is -1: give a share"),
        (["a", *["b"] * 20], {}, "The smaller class has 1 rows: too few"),
        (["a", "b"] * 10, {"test_size": 0.9}, "too few for a test-size of 0.9"),
    ],
)
def test_refused_classes(labels, options, said):
    with pytest.raises(StepError, match=re.escape(said)):
        data_files.two_classes(pd.Series(labels), **options)
