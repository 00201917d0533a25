"""CSV files of users, as they come: read where it is clear what is meant, else refused with the place."""

import gzip

import numpy as np
import pandas as pd
import pytest

import data_files
import utils
from utils import StepError

GOOD = "size,weight,target\n1.5,2,0\n2.5,,1\n-3e2,4,0\n"
FRAME = {"size": [1.5, 2.5, -300.0], "weight": [2.0, np.nan, 4.0], "target": [0, 1, 0]}


@pytest.fixture
def read(tmp_path):
    """Reads a file of the given content, as the steps do; returns features as numbers, with the target."""

    def read(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        frame = data_files.read_csv(path)
        target = frame.pop("target")
        return data_files.as_numbers(frame, path).assign(target=target)

    return read


ACCEPTED = {
    "plain": GOOD,
    "byte-order mark": GOOD.encode("utf-8-sig"),
    "UTF-16": GOOD.encode("utf-16"),
    "UTF-16, tabs": GOOD.replace(",", "\t").encode("utf-16"),
    "semicolons": GOOD.replace(",", ";"),
    "tabs": GOOD.replace(",", "\t"),
    "Windows line ends": GOOD.replace("\n", "\r\n"),
    "old Mac line ends": GOOD.replace("\n", "\r"),
    "no line end at the end": GOOD.rstrip(),
    "gzip": gzip.compress(GOOD.encode()),
    "row numbers": "\n".join(f"{n},{line}" if n else f",{line}" for n, line in enumerate(GOOD.splitlines())),
    "row numbers of row numbers": "\n".join(
        f"{n},{line}" if n else f"Unnamed: 0,{line}" for n, line in enumerate(GOOD.splitlines())
    ),
    "empty columns at the end": GOOD.replace("\n", ",,\n"),
    "empty lines": "\n\n" + GOOD.replace("\n", "\n\n") + ",,\n",
    "blanks": GOOD.replace(",", " , "),
    "quoted": "\n".join(",".join(f'"{value}"' for value in line.split(",")) for line in GOOD.splitlines()),
    "words for missing": GOOD.replace(",,", ",NaN,"),
    "target as floating point number": GOOD.replace("0\n", "0.0\n").replace("1\n", "1.0\n"),
    "target true or false": GOOD.replace("0\n", "False\n").replace("1\n", "True\n"),
}


@pytest.mark.parametrize("content", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(read, content):
    frame = read(content).reset_index(drop=True)
    pd.testing.assert_frame_equal(frame, pd.DataFrame(FRAME), check_dtype=False)
    assert set(map(str, frame.dtypes[["size", "weight"]])) == {"float64"}


@pytest.mark.parametrize("words", [["no", "yes"], ["gutartig", "bösartig"], ["1", "2"]])
def test_target_in_words(read, words):
    frame = read(GOOD.replace(",1\n", f",{words[1]}\n").replace(",0\n", f",{words[0]}\n"))
    assert [str(value) for value in frame.target] == [words[0], words[1], words[0]]


def test_truth_values_and_large_numbers(read):
    frame = read(f"a,b,target\nTrue,{2**70},0\nFalse,-3.4e38,1\n")
    assert frame.a.tolist() == [1, 0]
    assert frame.b.tolist() == [2**70, -3.4e38]


def with_value(value):
    """A file with an empty line, and this value in line 4."""
    return f"size,weight,target\n1,1,0\n\n2,{value},1\n"


NOT_A_NUMBER = {
    "text": ("big", "'big'"),
    "thousands separator": ('"1,203.5"', "'1,203.5'"),
    "decimal comma": ('"17,99"', "'17,99'"),
    "underscore": ("1_000", "'1_000'"),
    "percent": ("12%", "'12%'"),
    "hexadecimal": ("0x1F", "'0x1F'"),
    "date": ("2024-01-01", "'2024-01-01'"),
    "complex": ("1+2j", "'1+2j'"),
    "infinite": ("inf", "'inf'"),
    "minus infinity": ("-Infinity", "'-inf'"),
    "too large": ("1e308", "'1e+308'"),
    "too large for XGBoost": ("3.5e38", "'3.5e+38'"),
    "too large for any": ("9" * 400, "'" + "9" * 50 + "'"),
    "very long": ("x" * 10_000, "'" + "x" * 50 + "'"),
}


@pytest.mark.parametrize(("value", "shown"), NOT_A_NUMBER.values(), ids=NOT_A_NUMBER)
def test_value_that_is_not_a_number(read, value, shown):
    with pytest.raises(StepError) as refused:
        read(with_value(value))
    assert f"data.csv: line 4, column `weight`: {shown} is not a number up to 3.4e38" in str(refused.value)


UTF8 = "is not text in UTF-8"
REFUSED = {
    "empty": ("", "is empty"),
    "only empty lines": ("\n\n,,\n", "is empty"),
    "only a header": (GOOD.splitlines()[0], "has no rows"),
    "only a header and commas": (GOOD.splitlines()[0] + "\n,,\n\n", "has no rows"),
    "no header": (GOOD.split("\n", 1)[1], "no column `target`. Its first line should name it, but is: 1.5,2,0"),
    "a comment before the header": ("# of May\n" + GOOD, "no column `target`. Its first line should name it, but is: # of May"),
    "a long header without target": (",".join(f"x{n}" for n in range(1000)), "but is: x0,x1,x2"),
    "other separator": (GOOD.replace(",", "|"), "but is: size|weight|target"),
    "other case": (GOOD.replace("target", "Target"), "but is: size,weight,Target"),
    "HTML": ("<!DOCTYPE html><title>404</title>", "but is: <!DOCTYPE html>"),
    "JSON in one long line": ('{"size":[' + "1,2," * 100_000 + "]}", "field larger than field limit"),
    "only a target": ("target\n0\n1\n", "has no feature columns beside `target`"),
    "a missing target": (GOOD.replace("1\n", "\n"), "line 3 has no `target`"),
    "a missing target after empty lines": ("\n" + GOOD.replace("1\n", "\n\n\n"), "line 4 has no `target`"),
    "a short line": (GOOD.replace("2.5,,1", "2.5"), "line 3 has no `target`"),
    "a long line": (GOOD.replace("-3e2", "-3e2,7"), "Expected 3 fields in line 4, saw 4"),
    "all lines long": (GOOD.replace(",", ",7,").replace("size,7,", "size,").replace("t,7,t", "t,t"), "line 2 has more values"),
    "an open quotation mark": (GOOD.replace("-3e2", '"-3e2'), "a quotation mark in line 4 is never closed"),
    "a column twice": (GOOD.replace("size", "weight"), "more than one column is called `weight`"),
    "a column twice but for blanks": (GOOD.replace("size", "weight "), "more than one column is called `weight`"),
    "target twice": (GOOD.replace("size", "target"), "more than one column is called `target`"),
    "a column without a name": (GOOD.replace("weight", ""), "column 2 has no name. Name it in line 1"),
    "brackets": (GOOD.replace("size", "size [mm]"), "rename size [mm]"),
    "Latin-1": (GOOD.replace("1\n", "bösartig\n").encode("latin-1"), f"line 3 {UTF8}"),
    "Latin-1 in the header": (GOOD.replace("size", "größe").encode("latin-1"), f"line 1 {UTF8}"),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), f"line 1 {UTF8}"),
    "half of UTF-16": (GOOD.encode("utf-16")[:-1], f"line 4 {UTF8}"),
    "a null byte": (GOOD.replace("2.5", "2\0"), f"line 3 {UTF8}"),
    "a hole": (GOOD + "\0" * 4096, f"line 5 {UTF8}"),
    "binary": (bytes(range(255, 0, -1)), f"line 1 {UTF8}"),
    "a spreadsheet": (b"PK\x03\x04" + bytes(100), f"line 1 {UTF8}"),
    "half of a gzip": (gzip.compress(GOOD.encode())[:-20], "cannot be read: Compressed file ended"),
    "a damaged gzip": (gzip.compress(GOOD.encode())[:10] + b"damaged" * 9, "cannot be read: Error -3"),
    "another file in gzip": (gzip.compress(bytes(range(255, 0, -1))), f"line 1 {UTF8}"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(read, tmp_path, content, words):
    with pytest.raises(StepError) as refused:
        read(content)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path}/data.csv: ")
    assert words in message
    assert "\n" not in message
    assert len(message) < len(str(tmp_path)) + 250


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.csv", "no such file"),
        (".", "cannot be read: Is a directory"),
        ("/dev/null/data.csv", "cannot be read: Not a directory"),
        ("/proc/self/mem", "cannot be read: Input/output error"),
    ],
)
def test_unreadable(path, words):
    with pytest.raises(StepError) as refused:
        data_files.read_csv(path)
    assert words in str(refused.value)


def test_ratio_of_nothing_is_missing():
    """Division by a texture of zero must not put an infinite number into the data."""
    frame = pd.DataFrame({"mean symmetry": [0.1, 0.1, 0.0, 1e38], "mean texture": [10, 0, 0, 1e-300]})
    ratio = utils.add_features(frame)["symmetry per texture"]
    assert ratio[0] == 0.01
    assert ratio[1:].isna().all()
