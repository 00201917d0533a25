"""Tables as users have them: read where it is clear what is meant, else refused with the place."""

import gzip
import re
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
day = pd.Timestamp


@pytest.fixture
def said():
    """What is logged, line by line."""
    lines = []
    handler = logger.add(lambda message: lines.append(message.strip()), format="{level}: {message}")
    yield lines
    logger.remove(handler)


def write(content):
    """Write `data`: text or bytes as they are, a frame as Parquet."""
    if isinstance(content, pd.DataFrame):
        content.to_parquet("data")
    else:
        Path("data").write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # so that messages begin with "data"


def read(content, target=None, model=None):
    """The frame of a file of this content."""
    write(content)
    return data_files.read_table("data", target, model)[0]


def parts(content):
    """A file read to score, two rows at a time: how long the parts are, and the two frames that they make together."""
    write(content)
    features, others = zip(*data_files.read_parts("data", MODEL["types"], 2), strict=True)
    return [len(part) for part in features], pd.concat(features), pd.concat(others)


def column(values):
    """A CSV table with a column of these values, quoted, and a target, in lines 2 and below."""
    return "x,target\n" + "".join(f'"{value}",{number % 2}\n' for number, value in enumerate(values))


def table(**columns):
    """A table with these columns and a target, as Parquet keeps it."""
    frame = pd.DataFrame(columns)
    return frame.assign(target=np.arange(len(frame)) % 2)


def numbered(start, name, step=1, text=GOOD):
    """A table with row numbers in front, as pandas and R write them."""
    head, *rows = text.splitlines()
    return "\n".join([f"{name},{head}", *(f"{start + step * number},{row}" for number, row in enumerate(rows))])


ACCEPTED = {
    "byte-order mark, no line end at the end": GOOD.rstrip().encode("utf-8-sig"),
    "UTF-16, tabs": GOOD.replace(",", "\t").encode("utf-16"),
    "semicolons, gzip": gzip.compress(GOOD.replace(",", ";").encode()),
    "bars, old Mac line ends": GOOD.replace(",", "|").replace("\n", "\r"),
    "blanks for separators": GOOD.replace(",,", ",NA,").replace(",", "   ").replace("\n", " \n "),
    "line that names the separator": "SEP=^\r\n" + GOOD.replace(",", "^").replace("\n", "\r\n"),
    "blanks before quotation marks": GOOD.replace("2.5", ' "2.5" ').replace(",4", ', "4"').replace(",target", ', "target"'),
    "Parquet with row numbers": FRAME.set_index(pd.Index([7, 3, 9])),
    "Parquet with a column as index": FRAME.set_index("weight"),
    "row numbers of R": numbered(1, '""'),
    "row numbers of Rdatasets": numbered(1, "rownames"),
    "row numbers of row numbers": numbered(0, "", text=numbered(0, "Unnamed: 0")),
    "row numbers after a selection": numbered(10, "", step=7),
    "empty columns and lines": "\n\n" + GOOD.replace("\n", ",,\n\n") + ",,\n",
    "long texts, which are left out": GOOD.replace("\n", f",{200_000 * 'x'}\n", 1).replace("0\n", "0,a\n").replace("1\n", "1,b\n"),
    "target as floating point number": GOOD.replace("0\n", "0.000\n").replace("1\n", "1.0\n"),
} | {f"missing as {word}": GOOD.replace(",,", f",{word},") for word in data_files.MISSING_NUMBER}  # fmt: skip


@pytest.mark.parametrize("content", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(content):
    frame = read(content)
    pd.testing.assert_frame_equal(frame.reset_index(drop=True), FRAME, check_exact=True)
    assert frame.index.name == ("row" if isinstance(content, pd.DataFrame) else "line")


COLUMNS = {
    "words of digits and one of letters": (["4", "6", "rotary", "4", "6", "4"], ["4", "6", "rotary", "4", "6", "4"]),
    "a word for missing": (["yes", "NA", "yes", "?", "no", "no", ""], ["yes", None, "yes", None, "no", "no", None]),
    "None and - are words among words": (["None", "Driver", "-"] * 2, ["None", "Driver", "-"] * 2),
    "but missing values among numbers": (["1", "None", "-", ".", "2.5"], [1, None, None, None, 2.5]),
    "true and false": (["true", "FALSE", "", "True"], [True, False, None, True]),
    "1 and 0": (["1", "0", "1"], [1, 0, 1]),
    "true, false, 1 and 0": (["true", "0", "-", "1.0", "false"], [True, False, None, True, False]),
    "dates": (["1970-01-02", "1969/12/31", ""], [day("1970-01-02"), day("1969-12-31"), None]),
    "times": (["1970-01-02T06:00:00Z", "1970-01-03 01:00:00.5+01:00"], [day("1970-01-02 06:00"), day("1970-01-03 00:00:00.5")]),
    "first and last dates": (["9999-12-31", "None", "0001-01-01"], [day("9999-12-31"), None, day("0001-01-01")]),
    "dates of which nobody can tell the month": (["1/2/2020", "2/1/2020"] * 2, ["1/2/2020", "2/1/2020"] * 2),
    "ranges and seasons": (["40-49", "2003-04"] * 2, ["40-49", "2003-04"] * 2),
    "large whole numbers": ([2**70, -(2**63), 5], [2**70, -(2**63), 5]),
    "signs, exponents and leading zeros": (["+1.5", "1E3", ".5", "-0", "007"], [1.5, 1000, 0.5, 0, 7]),
    "quotation marks and separators": (['a, ""b""', "c;d"] * 2, ['a, "b"', "c;d"] * 2),
    "all digits exact": ([0.1 + 0.2, 1 / 3, -3.4e38, 5e-324], [0.1 + 0.2, 1 / 3, -3.4e38, 5e-324]),
}  # fmt: skip


@pytest.mark.parametrize(("values", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_what_becomes_of_a_column(values, expected):
    dtype = {str: "str", bool: "boolean", pd.Timestamp: "datetime64[us]"}.get(type(expected[0]), float)
    wanted = pd.Series(expected, dtype=dtype, name="x")
    texts = pd.Series([str(value).replace('""', '"') for value in values])
    for content in [column(values), table(x=texts)]:
        pd.testing.assert_series_equal(read(content).x.reset_index(drop=True), wanted, check_exact=True)


def test_columns_of_parquet(said):
    days = pd.to_datetime(["1970-01-02 00:00", "1970-01-03 12:00", None])
    kept = {
        "whole": ([1, 2, 3], [1.0, 2, 3]),
        "unsure": (pd.array([True, None, False], "boolean"),) * 2,
        "missing": (pd.array([1, None, 3], "Int64"), [1, np.nan, 3]),
        "time": (days, days),
        "zoned": (days.tz_localize("Europe/Berlin"), days - pd.Timedelta(hours=1)),
        "date": (pd.Series(days).dt.date, days.floor("D")),
        "code": (pd.Categorical([5, 6, 5]), [5.0, 6, 5]),
        "word": (pd.Categorical(["a", None, "a"]), pd.Series(["a", None, "a"], dtype="str")),
        "binary": (
            ["é".encode(), None, "é".encode()],
            pd.Series(["é", None, "é"], dtype="str"),
        ),  # as Impala writes text
    }
    useless = {"span": days - pd.Timestamp(0), "lists": [[1], [2], [1]]}
    frame = read(table(**{name: given for name, (given, _) in kept.items()}, **useless))
    wanted = pd.DataFrame({name: values for name, (_, values) in kept.items()} | {"target": [0, 1, 0]})
    wanted = wanted.astype({name: "datetime64[us]" for name in ["time", "zoned", "date"]})
    pd.testing.assert_frame_equal(frame, wanted.set_axis(pd.RangeIndex(1, 4, name="row")))
    assert sum("`span`, `lists`" in line for line in said) == 1


TARGETS = {
    "words": (["gut", "bösartig", "gut"], None, ["gut", "bösartig", "gut"]),
    "numbers": (["2", "4", "2"], None, [2, 4, 2]),
    "fractions": (["0.5", "1.5"], None, [0.5, 1.5]),
    "None is a class": (["None", "Some", "None"], None, ["None", "Some", "None"]),
    "so is NA": (["NA", "SA", "NA"], None, ["NA", "SA", "NA"]),
    "unless there are two others": (["no", "NA", "yes", "no"], 1, ["no", "yes", "no"]),
    "missing numbers": (["0", "", "1", "NA", "?"], 3, [0, 1]),
    "true and false": ([True, False], None, ["True", "False"]),
}


@pytest.mark.parametrize(("values", "dropped", "expected"), TARGETS.values(), ids=TARGETS)
def test_target(said, values, dropped, expected):
    texts = ["x,target", *(f"{3 * n % 5},{value}" for n, value in enumerate(values))]
    for content in ["\n".join(texts), pd.DataFrame({"x": np.arange(len(values)) * 3 % 5, "target": values})]:
        said.clear()
        assert read(content).target.tolist() == expected
        line = f"WARNING: data: {dropped} rows without a value of `target` are dropped."
        assert [line for line in said if "dropped" in line] == [line] * bool(dropped)


@pytest.mark.parametrize(
    ("header", "target", "found"),
    [("'Target'", None, "'Target'"), ('" size\n[mm]"', "size [mm]", "size [mm]"), ("rownames", "Rownames", "rownames")],
)
def test_name_of_the_target(said, header, target, found):
    write(f"weight<5,{header}\n3,1\n5,2\n4,2\n")
    frame, name = data_files.read_table("data", target)
    assert [name, *frame] == [found, "weight<5", found]
    assert frame[name].tolist() == [1, 2, 2]
    assert (f"INFO: data: the target is the column `{found}`." in said) == (found != target)


def test_windows_1252(said):
    frame = read(column(["größer", "klein"] * 2).encode("cp1252"))
    assert frame.x.tolist() == ["größer", "klein"] * 2
    assert "WARNING: data: is not in UTF-8, but seems to be in Windows-1252" in said[0]


def test_lines():
    """The index has the lines of the file, after empty lines and line breaks inside of quotes too."""
    content = 'note,b,target\n"a\nb",5,0\n\n"a\r\nb",3,1\nc,6,0\nc,7,\nc,8,1\n'
    plain = content.replace('"', "").replace("a\n", "").replace("a\r\n", "")
    assert read(content.encode("utf-16")).index.tolist() == [2, 5, 7, 9]
    assert read("sep=,\n" + content).index.tolist() == [3, 6, 8, 10]
    assert read("\n\n" + plain).index.tolist() == [4, 6, 7, 9]


USELESS = "".join(f"{n % 3},n{n},,word {n // 2},{n % 2}\n" for n in range(10))
DOUBTFUL = "".join(
    f"{n},{n * 7 % 5},{n % 2 * 3 + n / 100},{'ab'[n % 2]},{'ab'[n % 3 % 2]},{n % 2}\n" for n in range(12)
)
APART = "alone tells the classes apart, so may be known only after them: `leak`, `word`."
COUNTS = "grows by one from row to row, so may only number the rows: `id`."
SAID = {
    f"x,name,nothing,often,target\n{USELESS}": (["x", "often"], ["left out, since empty, or text that hardly repeats: `name`, `nothing`."]),
    '"",x,target\n"Mazda RX4",3,0\n"Fiat 128",1,1\n"RX4",2,0\n"F",2,1\n': (["x"], ["column 1, ``, is taken for the rows' names and left out."]),
    f"id,x,leak,word,other,target\n{DOUBTFUL}": (["id", "x", "leak", "word", "other"], [APART, COUNTS]),
    "Unnamed: 0,a,target\n17.5,1,0\n18.5,5,1\n18.7,5,0\n18.1,1,1\n": (["Unnamed: 0", "a"], []),
    "x,word,target\n3,a,0\n1,a,1\n2,b,1\n1,b,0\n": (["x", "word"], []),
    "touching,target\n1,0\n2,0\n2,1\n3,1\n": (["touching"], []),
    "rare,y,target\na,3,0\na,2,0\n,4,1\n,1,0\n,2,1\n": (["rare", "y"], []),
}  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), SAID.items(), ids=[content[:9] for content in SAID])
def test_what_is_said_of_columns(said, content, expected):
    """What is left out or doubtful, in one line each; ordinary tables are read in silence."""
    names, lines = expected
    assert list(read(content)) == [*names, "target"]
    assert said == [f"WARNING: data: {line}" for line in lines]


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
def test_a_few_words_among_numbers(said, values, expected):
    """They are mistakes where numbers are many and different; few different ones may be names of kinds."""
    if expected == "words":
        assert read(column(values)).x.tolist() == [str(value) for value in values]
    else:
        place = f"line {values.index('x') + 2}, column `x`: {expected}. Write"
        with pytest.raises(StepError, match=place if expected else "no features"):
            read(column(values))
        assert ["hardly repeats: `x`" in line for line in said] == [True] * (not expected)


def with_value(value):
    """Numbers with an empty line, and this value in line 14."""
    return "size,weight,target\n1,1,0\n\n" + "".join(f"{n},{n / 4},{n % 2}\n" for n in range(10)) + f'2,"{value}",1\n'


NAMES = "but the header has 3 names: name all columns"
REFUSED = {
    "empty": ("\n\n,,\n", "is empty"),
    "Parquet without target": (pd.DataFrame({"a": [1]}), "no column `target`"),
    "only a header": (GOOD.splitlines()[0] + "\n,,\n\n", "has no rows"),
    "no header": (GOOD.split("\n", 1)[1], "no column `target`. Rename one, or say which it is. The columns are: 1.5, 2, 0"),
    "two that may be meant": ("a,Target,TARGET\n1,2,3\n", "no column `target`"),
    "only a target": ("target\n0\n1\n", "has no features beside `target`"),
    "three classes": ('x,target\n1,"a\nb"\n2,c\n3,d\n4,c\n', "`target` needs two classes, but has 3: c (2), a b (1), d (1). Keep"),
    "many classes": ("x,target\n" + "".join(f"1,{n}\n" for n in range(3, 9)), "but has 6: 3 (1), 4 (1), 5 (1), 6 (1), 7 (1), …. Keep"),
    "one class": ("x,target\n1,a\n2,a\n", "`target` needs two classes, but has 1: a (2). Keep"),
    "a long line after a line break": (GOOD.replace("2.5", '"\n2.5"').replace("-3e2", "-3e2,7"), f"line 5 has 4 values, {NAMES}"),
    "a name too few": ("id,dose,target\n10,5.5,0,1\n20,6.5,1,0\n", f"line 2 has 4 values, {NAMES}"),
    "a separator too many": ("year,dose,target\n2001,5.5,0,\n2002,6.5,1,\n", f"line 2 has 4 values, {NAMES}"),
    "an open quotation mark": (GOOD.replace("-3e2", '"-3e2'), "a quotation mark in line 4 is never closed"),
    "a column twice but for blanks": (GOOD.replace("size", "weight "), "more than one column is called `weight`"),
    "a column twice for XGBoost": ("a[,a(,target\n1,2,0\n3,1,1\n", "more than one column is called `a(`"),
    "a column without a name": (GOOD.replace("weight", ""), "column 2 has no name. Give it one"),
    "the first column without a name": (",b,target\n17.5,1,0\n18.5,2,1\n", "column 1 has no name. Give it one"),
    "half of UTF-16": (GOOD.encode("utf-16")[:-1], "line 1 is not text"),
    "a hole": (GOOD + "\0" * 4096, "line 5 is not text"),
    "a damaged gzip": (gzip.compress(GOOD.encode())[:10] + b"damaged" * 9, "cannot be read: Error -3"),
    "half of a gzip": (gzip.compress(GOOD.encode())[:-20], "cannot be read: Compressed file ended"),
    "Excel": (b"PK\3\4" + bytes(100), "this is a spreadsheet or an archive: save the table as CSV or Parquet"),
    "Feather": (b"ARROW1" + bytes(100), "this is a Feather file"),
    "SQLite": (b"SQLite format 3\0", "this is an SQLite database"),
    "half of Parquet": (b"PAR1" + bytes(50), "cannot be read as Parquet: "),
    "no such day": (column([*(f"2020-01-{day}" for day in range(10, 21)), "2020-02-30"]), "line 13, column `x`: '2020-02-30'. Write"),
    "wrong values in two columns": ('a,b,c,target\n1,2,inf,0\n"1,5",3,2,1\n', "line 3, column `a`: '1,5'; line 2, column `c`: 'inf'. Write"),
    "bytes in Parquet": (table(a=[1.0, 2], raw=[b"a", b"\xff"]), "`raw` holds bytes that are no text in UTF-8"),
    "an infinite value in Parquet": (table(a=[1.0, 2], b=[1.0, np.inf]), "row 2, column `b`: 'inf'. Write"),
} | {
    f"{value[:9]} among numbers": (with_value(value), f"line 14, column `weight`: '{shown}'. Write")
    for value, shown in [("x" * 200_000, "x" * 50), ("3.5e38", "3.5e+38"), ("-Infinity", "-inf"), ("9" * 400, "inf")]
    + [(value, value) for value in ["big", "1,203.5", "17,99", "1_000", "12%", "0x1F", "2024-01-01"]]
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(content, words):
    with pytest.raises(StepError, match=rf"^data: .*{re.escape(words)}") as refused:
        read(content)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("path", "words"), [("nowhere.csv", "No such file"), (".", "Is a directory"), ("null\0byte", "embedded null byte")]
)
def test_unreadable(path, words):
    with pytest.raises(StepError, match=f"cannot be read: {words}.*Give the path"):
        data_files.read_table(path)


# --- For a model that is trained

TRAIN = """n,kind,day,sure,target
1,b,1970-01-02,True,bad
2,a,1970-01-03,False,good
3,c,1970-01-02,,good
,b,,True,good
1,a,,True,bad
1,a,,False,bad
1,c,,False,bad
"""
KINDS = {"n": "number", "kind": "words", "day": "date", "sure": "boolean"}
TYPES = [{"name": name, "kind": kind, "words": ["a", "b", "c"]} for name, kind in KINDS.items()]
MODEL = {"target": "target", "classes": ["bad", "good"], "types": TYPES}
DTYPES = {"n": "float64", "kind": "str", "day": "datetime64[us]", "sure": "boolean"}


def test_same_table_for_training_and_evaluation():
    """And to score: missing values, an empty line, dates, and a target, which is no feature."""
    frame = read(TRAIN)
    assert frame.dtypes.astype(str).to_dict() == DTYPES | {"target": "str"}
    pd.testing.assert_frame_equal(read(TRAIN, None, MODEL), frame)
    pd.testing.assert_frame_equal(read(TRAIN.replace("target", "outcome"), "outcome", MODEL), frame)
    content = TRAIN.replace("1,a,,True,bad\n", "?,a,NA,,bad\n\n", 1)
    sizes, features, others = parts(content)
    whole = read(content, None, MODEL)
    pd.testing.assert_frame_equal(features, whole.drop(columns="target"))
    assert (others.target.tolist(), sizes) == (whole.target.tolist(), [2, 2, 1, 2])


def test_table_for_a_trained_model(said):
    """One row, other order, words that look like numbers or were never seen, further columns, one class."""
    frame = read("Unnamed: 0,day,more,target,kind,n,sure\n0,1970-01-05,x,good,7,NA,1\n1,,y,good,b,2,\n", None, MODEL)
    wanted = {"n": [np.nan, 2], "kind": ["7", "b"], "day": [day("1970-01-05"), None], "sure": [True, None]}
    wanted = pd.DataFrame(wanted).astype(DTYPES).assign(target=pd.Series(["good", "good"], dtype="str"))
    pd.testing.assert_frame_equal(frame.reset_index(drop=True), wanted)
    assert said == ["WARNING: data: columns that the model does not know are ignored: `more`."]


def test_classes_of_a_trained_model():
    """`NA` is a class where the model knows it as one; a column may have any name."""
    model = {"target": "target", "types": [{"name": "self", "kind": "words", "words": ["a"]}]}
    for classes, found in [(["NA", "SA"], ["NA", "SA"]), (["EU", "SA"], ["SA"])]:
        frame = read("self,target\nb,NA\n1,SA\n2,\n", None, {**model, "classes": classes})
        assert frame.target.tolist() == found


@pytest.mark.parametrize("encode", [str.encode, lambda text: gzip.compress(text.encode("utf-16"))])
def test_parts_of_a_file(said, encode):
    """What the model does not use stays as it stands, and the lines are those of the file."""
    rows = (f'00{i},{i},{"abc"[i % 3]},,,"NA\n{i}"' for i in range(5))
    sizes, features, others = parts(encode("\n".join(["patient,n,kind,day,sure,note", *rows])))
    assert sizes == [2, 2, 1]
    assert features[["n", "kind"]].to_dict("list") == {"n": [0, 1, 2, 3, 4], "kind": [*"abcab"]}
    assert features[["day", "sure"]].isna().all(axis=None)
    assert features.dtypes.astype(str).to_dict() == DTYPES
    assert others.to_dict("list") == {"patient": [f"00{i}" for i in range(5)], "note": [f"NA\n{i}" for i in range(5)]}
    assert features.index.tolist() == others.index.tolist() == [2, 4, 6, 8, 10]
    assert features.index.name == "line"
    assert said == []


def test_parts_of_parquet():
    """Long numbers of patients stay whole, though one is missing; other types are of the kinds that the model knows."""
    frame = pd.DataFrame({"n": [1, 2, 3], "kind": [1, None, 2], "day": [None] * 3, "sure": [1.0, 0, np.nan]})
    frame["patient"] = pd.array([2**62 + 1, None, 7], dtype="Int64")
    sizes, features, others = parts(frame.astype({"kind": "Int64"}))
    assert sizes == [2, 1]
    assert features.dtypes.astype(str).to_dict() == DTYPES
    assert features.astype(object).fillna("").drop(columns="day").to_numpy().tolist() == [
        [1, "1", True],
        [2, "", False],
        [3, "2", ""],
    ]
    assert others.patient.tolist() == [2**62 + 1, None, 7]
    assert (features.index.name, features.index.tolist()) == ("row", [1, 2, 3])


HEAD, ONE = "n,kind,day,sure,target\n", {"n": [1], "kind": "a", "day": None, "sure": None, "target": "good"}
REFUSED_FOR_A_MODEL = {
    "a column missing": ("n,kind,sure,target\n1,a,,good\n", "lacks columns that the model needs: `day`. Add them"),
    "a column twice": ("n,n,kind,day,sure,target\n1,2,a,,,good\n", "more than one column is called `n`."),
    "wrong in a later part": (HEAD + "1,a,,,bad\n" * 4 + "x,a,,,bad\n", "line 6, column `n`: 'x'."),
    "a long line in a later part": (HEAD + "1,a,,,bad\n" * 3 + "4,a,,,bad,5\n", "line 5 has 6 values, but the header has 5"),
    "another boolean and date": (HEAD + "1,a,20240704,2,bad\n", "line 2, column `day`: '20240704'; line 2, column `sure`: '2'."),
    "an infinite number": (pd.DataFrame({**ONE, "n": [np.inf]}), "row 1, column `n`: 'inf'."),
    "true as a number": (pd.DataFrame({**ONE, "n": [True]}), "row 1, column `n`: 'True'."),
    "a number as date": (pd.DataFrame({**ONE, "day": 1}), "row 1, column `day`: '1'."),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), REFUSED_FOR_A_MODEL.values(), ids=REFUSED_FOR_A_MODEL)
def test_refused_for_a_trained_model(content, words):
    for reader in [lambda: read(content, None, MODEL), lambda: parts(content)]:
        with pytest.raises(StepError, match=f"^data: .*{re.escape(words)}"):
            reader()


REFUSED_LABELS = {
    HEAD.replace("target", "x") + "1,a,,,\n": "has no column `target`",
    TRAIN.replace("bad", "0").replace("good", "1"): "`target` holds 0 (4), 1 (3); the model knows ['bad', 'good']",
    HEAD + "1,a,,,\n": "`target` holds no value; the model knows",
}


@pytest.mark.parametrize(("content", "words"), REFUSED_LABELS.items(), ids=REFUSED_LABELS.values())
def test_refused_labels_for_a_trained_model(content, words):
    with pytest.raises(StepError, match=f"^data: {re.escape(words)}"):
        read(content, None, MODEL)


def test_no_rows_to_score():
    with pytest.raises(StepError, match="^data: has no rows to score."):
        parts(HEAD + "\n\n")


# --- Made-up tables that say clearly what they are: numbers, dates, true and false, or words, each at least twice

words = st.text(st.characters(categories=["L"], max_codepoint=0x2FFF), min_size=1).map(lambda word: f"w{word}")
floats = st.floats(-3.4e38, 3.4e38, width=64) | st.just(np.nan)
dtypes = {words: "str", floats: "float", st.sampled_from([True, False, None]): "boolean"}
dtypes[st.datetimes() | st.none()] = "datetime64[us]"


@given(data=st.data(), separator=st.sampled_from(",;\t|"), encoding=st.sampled_from(["utf-8", "utf-16"]))
def test_made_up_table_comes_back(data, separator, encoding):
    half, frame = data.draw(st.integers(1, 10)), {}
    for name in data.draw(st.lists(words, min_size=1, max_size=4, unique_by=str.casefold)):
        values = data.draw(st.sampled_from([*dtypes]))
        column = data.draw(st.lists(values, min_size=half, max_size=half))
        frame[name] = pd.Series(2 * column, dtype=dtypes[values])
        assume(frame[name].notna().any())
    frame = pd.DataFrame({**frame, "target": data.draw(st.sampled_from([[0, 1], [-1, 2.5], ["wa", "wb"]])) * half})
    again = read(frame.to_csv(index=False, sep=separator).encode(encoding))
    pd.testing.assert_frame_equal(again.reset_index(drop=True), frame, check_exact=True)


# --- The two classes


def test_positive_class():
    """Class 1 is the one that is named, else the rarer one, of two equal ones the last in order."""
    two_classes = data_files.two_classes
    assert two_classes(pd.Series(["yes", "no"] * 20)) == ["no", "yes"]
    assert two_classes(pd.Series(["yes", "no", "yes"] * 20)) == ["yes", "no"]
    assert two_classes(pd.Series(["yes", "no", "yes"] * 20), "yes") == ["no", "yes"]
    assert two_classes(pd.Series([2, 10, 10] * 20)) == [10, 2]
    assert two_classes(pd.Series([0.5, 1.5] * 20), "0.5") == [1.5, 0.5]
    assert two_classes(pd.Series(["a", "b"] * 10), test_size=0.5) == ["a", "b"]  # just enough to train on
    assert two_classes(pd.Series(["a", "b"] * 10), test_size=0.1) == ["a", "b"]  # just enough to test on


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        (20, {"positive_class": "c"}, "positive-class is c: give 'a' or 'b'."),
        (20, {"test_size": 1.0}, "test-size is 1.0: give a share"),
        (20, {"test_size": 0.0}, "test-size is 0.0: give a share"),
        (20, {"test_size": float("nan")}, "test-size is nan: give a share"),
        (49, {"test_size": 0.9}, "The smaller class has 49 rows: too few for a test-size of 0.9"),
        (9, {"test_size": 0.1}, "The smaller class has 9 rows: too few for a test-size of 0.1"),
    ],
)
def test_refused_classes(rows, options, said):
    with pytest.raises(StepError, match=re.escape(said)):
        data_files.two_classes(pd.Series(["a"] * rows + ["b"] * 50), **options)
