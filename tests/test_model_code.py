"""The code that is stored with a model: from rows as they stand in the file to what XGBoost sees, and to the answers."""

import datetime
import json
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from xgboost import XGBClassifier

from steps import model_code

NAN = math.nan
TYPES = [
    {"name": "size [mm]", "kind": "number"},
    {"name": "a<b", "kind": "words", "words": ["1", "é", "no"]},
    {"name": "sure", "kind": "boolean"},
    {"name": "day", "kind": "date"},
]
ROW = {"size [mm]": 1.5, "a<b": "é", "sure": True, "day": "1970-01-03"}
BERLIN = datetime.timezone(datetime.timedelta(hours=1))


def arrays(**columns):
    """A table as a server has it: a dict of arrays of objects."""
    table = {}
    for name, values in columns.items():
        table[name] = np.empty(len(values), dtype=object)
        table[name][:] = values
    return table


COLUMNS = {
    "one word in several forms": ("words", [1, 1.0, " 1 ", "1.0", "e\u0301", "\u00e9"], [0, 0, 0, 0, 1, 1]),
    "unknown and missing words": ("words", ["yes", "", None, NAN, pd.NA, "NO", "no"], [NAN] * 6 + [2]),
    "true and 1 are two words": ("words", [True, 1, 1.0], [NAN, 0, 0]),
    "numbers": ("number", [1, 2.5, None, NAN, np.float32(0.5), -3], [1, 2.5, NAN, NAN, 0.5, -3]),
    "whole numbers": ("number", [1, 2**53, 10**30], [1, 2.0**53, 1e30]),
    "decimals": ("number", [Decimal("1.5"), None, pd.NA], [1.5, NAN, NAN]),
    "true and false": ("boolean", [True, False, None, pd.NA], [1, 0, NAN, NAN]),
    "1 and 0": ("boolean", [1, 0, None], [1, 0, NAN]),
    "1.0 and 0.0": ("boolean", [1.0, 0.0, NAN], [1, 0, NAN]),
    "dates as text": ("date", ["1970-01-02", "1969/12/31", None, "1970-01-02T12:00+01:00"], [1, -1, NAN, 1 + 11 / 24]),
    "dates": ("date", [datetime.date(1970, 1, 2), None, datetime.date(9999, 12, 31)], [1, NAN, 2932896]),
    "times": ("date", [datetime.datetime(1970, 1, 2, 12), None, pd.NaT, NAN], [1.5, NAN, NAN, NAN]),
    "times with a zone": ("date", [datetime.datetime(1970, 1, 2, 1, tzinfo=BERLIN)], [1]),
} | {
    f"only {missing} for {kind}": (kind, [missing] * 2, [NAN, NAN])
    for kind, missing in [("number", None), ("boolean", NAN), ("date", pd.NA), ("words", None), ("date", pd.NaT)]
}  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_values(kind, values, expected):
    """The same in a DataFrame and in a dict of arrays."""
    types = [{"name": "x", "kind": kind, "words": ["1", "é", "no"]}]
    made = model_code.features(arrays(x=values), types)
    framed = model_code.features(pd.DataFrame({"x": values}, index=range(7, 7 + len(values))), types)
    np.testing.assert_array_equal(made[:, 0], expected)
    np.testing.assert_array_equal(framed, made)
    assert framed.index[0] == 7


def test_columns_of_pandas():
    """Their own types too, and as objects, which they become in pyfunc."""
    frame = pd.DataFrame({"sure": pd.array([True, None, False], "boolean"), "whole": pd.array([1, None, 0], "Int64")})
    frame["day"] = pd.to_datetime(pd.Series(["1970-01-02", None, "9999-12-31"]))
    types = [{"name": name, "kind": kind} for name, kind in zip(frame, ["boolean", "number", "date"], strict=True)]
    for table in [frame, frame.astype(object)]:
        made = model_code.features(table, types)
        np.testing.assert_array_equal(made, [[1, 1, 1], [NAN] * 3, [0, 0, 2932896]])


RIGHT = {"number": 1.5, "date": "2024-07-04", "boolean": True, "words": "no"}
REFUSED = {
    "infinity": ("number", -math.inf),
    "too large for XGBoost": ("number", 3.5e38),
    "too large for any": ("number", 10**400),
    "a word in numbers": ("number", "secret"),
    "true in numbers": ("number", True),
    "a number in dates": ("date", 20240704),
    "a number as text in dates": ("date", "20240704"),
    "no such day": ("date", "2024-02-30"),
    "the day first": ("date", "04-07-2024"),
    "2 in booleans": ("boolean", 2),
    "0.5 in booleans": ("boolean", 0.5),
} | {f"a list among {kind}": (kind, [value]) for kind, value in RIGHT.items()}


@pytest.mark.parametrize(("kind", "value"), REFUSED.values(), ids=REFUSED)
def test_refused(kind, value):
    """Alone, beside a missing value and beside a right one: the column is named, and never the value."""
    types = [{"name": "the column", "kind": kind, "words": ["no"]}]
    for values in [[value], [None, value], [RIGHT[kind], value]]:
        for table in [arrays(**{"the column": values}), pd.DataFrame({"the column": values})]:
            with pytest.raises(MlflowException, match="the column") as refused:
                model_code.features(table, types)
            assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
            assert str(value) not in str(refused.value)


def test_missing_columns_and_rows():
    for table in [pd.DataFrame([ROW]), arrays(**{name: [value] for name, value in ROW.items()})]:
        less, none = {name: table[name] for name in ["day", "size [mm]"]}, {name: table[name][:0] for name in ROW}
        for wrong, words in [(less, "Columns are missing: a<b, sure."), (none, "There are no rows.")]:
            with pytest.raises(MlflowException, match=words) as refused:
                model_code.features(wrong if isinstance(table, dict) else pd.DataFrame(wrong), TYPES)
            assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


def test_order_and_names():
    """Other columns and another order make no difference; the names are those that XGBoost takes."""
    frame = pd.DataFrame([ROW, {**ROW, "size [mm]": 2, "sure": None}], index=[5, 3])
    made = model_code.features(frame, TYPES)
    expected = {"size (mm)": [1.5, 2], "a_b": [1.0, 1], "sure": [1, NAN], "day": [2.0, 2]}
    pd.testing.assert_frame_equal(made, pd.DataFrame(expected, index=[5, 3]))
    pd.testing.assert_frame_equal(model_code.features(frame.iloc[:, ::-1].assign(more="x"), TYPES), made)
    XGBClassifier(n_estimators=1).fit(made, [0, 1])


def test_ratio():
    """Symmetry by texture, at the end; missing where it is infinite, too large or not defined."""
    types = [{"name": name, "kind": "number"} for name in ["mean texture", "mean symmetry", "other"]]
    texture, symmetry = [4.0, 0, 0, 1e-300, -1e-38, None, 2], [1.0, 1, 0, 1e38, 1e3, 1, None]
    table = arrays(**{"mean texture": texture, "mean symmetry": symmetry, "other": [0] * 7})
    made = model_code.features(table, types)
    assert made.shape == (7, 4)
    np.testing.assert_array_equal(made[:, 3], [0.25, *[NAN] * 6])
    assert list(model_code.features(pd.DataFrame(table), types))[3] == "symmetry per texture"
    assert model_code.features(table, types[1:]).shape == (7, 2)


def test_unknown_words():
    """Their share of all rows; a missing word is not unknown."""
    model = model_code.TableClassifier()
    model.about = {"types": TYPES}
    table = pd.DataFrame([{**ROW, "a<b": word} for word in ["no", "new", None, 1.0]], index=[4, 3, 2, 1])
    for rows in [table, {name: table[name].to_numpy(object) for name in table}]:
        assert model.unknown_words(rows, model.features(rows)) == {"a<b": 0.25}


ODD = ["no", "null", "1e3", "2024-07-04", "007", "12:30:45", "=", "é\u2028\x07😀", "a: 'b' #\n"]


@pytest.mark.parametrize("classes", [["no", "yes"], [4, 2], [0.5, 1.5]])
def test_answers(classes):
    """Those of the classifier, in the words of the file, to rows of any types: as they stand there, and as JSON has them."""
    words = {**TYPES[1], "words": sorted(map(model_code.as_word, ODD))}
    raw = pd.DataFrame({"a<b": [*ODD, None], "size [mm]": [*np.arange(9) / 3, NAN]})
    raw["sure"] = pd.array([True, None, False, False, True] * 2, "boolean")
    raw["day"] = pd.to_datetime(pd.Series(["9999-12-31", None, *["2024-07-04 12:30"] * 8]), format="ISO8601")
    model = model_code.TableClassifier()
    model.about = {"classes": classes, "types": [words, TYPES[0], *TYPES[2:]]}
    values = model.features(raw)
    model.classifier = XGBClassifier(n_estimators=5, min_child_weight=0).fit(values, np.arange(10) % 2)
    probabilities = model.classifier.predict_proba(values)
    assert len(np.unique(probabilities)) > 2
    answer = model.predict(None, raw)
    assert list(answer) == ["prediction", *(f"probability of {name}" for name in classes)]
    assert answer["prediction"].tolist() == [classes[place] for place in probabilities.argmax(axis=1)]
    assert {type(value) for value in answer["prediction"]} == {type(classes[0])}
    assert answer.dtypes.tolist() == [object, float, float]
    np.testing.assert_array_equal(answer.iloc[:, 1:], probabilities.astype(float))
    rows = json.loads(raw.to_json(orient="records", date_format="iso"))
    pd.testing.assert_frame_equal(model.predict(None, pd.DataFrame(rows, dtype=object)), answer)
    for number, row in enumerate(rows):
        one = model.predict(None, pd.DataFrame([{"more": 1, **row}], dtype=object))
        pd.testing.assert_frame_equal(one, answer.iloc[[number]].reset_index(drop=True))
