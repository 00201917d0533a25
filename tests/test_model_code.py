"""The code that is stored with a model: from rows as they stand in the file to what XGBoost sees, and to the answers."""

import datetime
import json
import math
from decimal import Decimal
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import AnyType
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


def arrays(**columns):
    """A table as a server has it: a dict of arrays of objects."""
    table = {}
    for name, values in columns.items():
        table[name] = np.empty(len(values), dtype=object)
        table[name][:] = values
    return table


def numbers(kind, *values, words=("1", "é", "no")):
    """What becomes of one column's values; the same in a DataFrame and in a dict of arrays."""
    types = [{"name": "x", "kind": kind, "words": list(words)}]
    made = model_code.features(arrays(x=values), types)
    framed = model_code.features(pd.DataFrame({"x": list(values)}, index=range(7, 7 + len(values))), types)
    np.testing.assert_array_equal(framed, made)
    assert framed.index[0] == 7
    return made[:, 0].tolist()


def same(found, expected):
    np.testing.assert_array_equal(found, expected)


BERLIN = datetime.timezone(datetime.timedelta(hours=1))
COLUMNS = {
    "one word in several forms": ("words", [1, 1.0, " 1 ", "1.0", "e\u0301", "\u00e9"], [0, 0, 0, 0, 1, 1]),
    "unknown and missing words": ("words", ["yes", "", None, NAN, pd.NA, "NO", "no"], [NAN] * 6 + [2]),
    "numbers": ("number", [1, 2.5, None, NAN, np.float32(0.5), -3], [1, 2.5, NAN, NAN, 0.5, -3]),
    "whole numbers": ("number", [1, 2**53, 10**30], [1, 2.0**53, 1e30]),
    "decimals": ("number", [Decimal("1.5"), None], [1.5, NAN]),
    "true and false": ("boolean", [True, False, None], [1, 0, NAN]),
    "1 and 0": ("boolean", [1, 0, None], [1, 0, NAN]),
    "1.0 and 0.0": ("boolean", [1.0, 0.0, NAN], [1, 0, NAN]),
    "dates as text": ("date", ["1970-01-02", "1969/12/31", None, "1970-01-02T12:00+01:00"], [1, -1, NAN, 1 + 11 / 24]),
    "dates": ("date", [datetime.date(1970, 1, 2), None, datetime.date(9999, 12, 31)], [1, NAN, 2932896]),
    "times": ("date", [datetime.datetime(1970, 1, 2, 12), None, pd.NaT], [1.5, NAN, NAN]),
    "times with a zone": ("date", [datetime.datetime(1970, 1, 2, 1, tzinfo=BERLIN)], [1]),
} | {  # whatever means missing, alone and beside a value, as JSON, CSV and pandas have it
    f"{missing} among {kind}": (kind, [missing, value], [NAN, number])
    for kind, value, number in [("number", 1, 1), ("boolean", True, 1), ("date", "1970-01-02", 1), ("words", "no", 2)]
    for missing in [None, NAN, pd.NA]
} | {
    f"only {missing} for {kind}": (kind, [missing] * 2, [NAN, NAN])
    for kind in ["number", "boolean", "date", "words"]
    for missing in [None, NAN, pd.NA, pd.NaT]
}  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_values(kind, values, expected):
    same(numbers(kind, *values), expected)


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("boolean", pd.array([True, None, False], "boolean")),
        ("number", pd.array([1, None, 0], "Int64")),
        ("boolean", pd.Series([None] * 3, dtype="str")),
        ("date", pd.Series([NAN] * 3)),
        ("date", pd.to_datetime(pd.Series(["1970-01-02", None, "9999-12-31"]))),
    ],
)
def test_columns_of_pandas(kind, column):
    """Their own types too, and as objects, which they become in pyfunc."""
    types = [{"name": "x", "kind": kind}]
    frame = pd.DataFrame({"x": column})
    expected = [NAN] * 3 if frame.x.isna().all() else [1, NAN, 2932896 if kind == "date" else 0]
    for table in [frame, frame.astype(object)]:
        same(model_code.features(table, types)["x"], expected)


REFUSED = {
    "infinity": ("number", math.inf),
    "minus infinity": ("number", -math.inf),
    "too large for XGBoost": ("number", 1e39),
    "too large for any": ("number", 10**400),
    "a word in numbers": ("number", "secret"),
    "a number as text": ("number", "1.5"),
    "true in numbers": ("number", True),
    "a date in numbers": ("number", datetime.date(2024, 7, 4)),
    "a time in numbers": ("number", datetime.datetime(2024, 7, 4)),
    "a number in dates": ("date", 20240704),
    "a number as text in dates": ("date", "20240704"),
    "no such day": ("date", "2024-02-30"),
    "the day first": ("date", "04-07-2024"),
    "2 in booleans": ("boolean", 2),
    "0.5 in booleans": ("boolean", 0.5),
    "text in booleans": ("boolean", "true"),
    "a list of numbers": ("number", [1.5]),
    "a list of words": ("words", ["no"]),
    "a list of truth values": ("boolean", [True]),
    "a list of dates": ("date", ["2024-07-04"]),
}


@pytest.mark.parametrize(("kind", "value"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("others", [[], [None], ["right"]])
def test_refused(kind, value, others):
    """The column is named, and never the value."""
    right = {"number": 1.5, "date": "2024-07-04", "boolean": True, "words": "no"}[kind]
    values = [right if other else None for other in others] + [value]
    types = [{"name": "the column", "kind": kind, "words": ["no"]}]
    for table in [arrays(**{"the column": values}), pd.DataFrame({"the column": values})]:
        with pytest.raises(MlflowException, match="the column") as refused:
            model_code.features(table, types)
        assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
        assert str(value) not in str(refused.value)


def test_missing_columns_and_rows():
    for table in [pd.DataFrame([ROW]), arrays(**{name: [value] for name, value in ROW.items()})]:
        less = {name: table[name] for name in ["day", "size [mm]"]}
        none = {name: table[name][:0] for name in ROW}
        frames = [less, none] if isinstance(table, dict) else [pd.DataFrame(less), pd.DataFrame(none)]
        for wrong, words in zip(frames, ["Columns are missing: a<b, sure.", "There are no rows."], strict=True):
            with pytest.raises(MlflowException, match=words) as refused:
                model_code.features(wrong, TYPES)
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
    same(made[:, 3], [0.25, *[NAN] * 6])
    assert list(model_code.features(pd.DataFrame(table), types))[3] == "symmetry per texture"
    assert model_code.features(table, types[1:]).shape == (7, 2)


def test_unknown_words():
    """Their share of all rows; a missing word is not unknown."""
    model = model_code.TableClassifier()
    model.about = {"types": TYPES}
    table = pd.DataFrame([{**ROW, "a<b": word} for word in ["no", "new", None, 1.0]], index=[4, 3, 2, 1])
    for rows in [table, {name: table[name].to_numpy(object) for name in table}]:
        assert model.unknown_words(rows, model.features(rows)) == {"a<b": 0.25}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A new store, with nothing pickled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        folder = tmp_path_factory.mktemp("store")
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        assert mlflow.create_experiment("test", (folder / "files").as_uri()) == "1"
        yield
        mlflow.set_tracking_uri(None)


def logged(raw, types, classes, code=model_code.__file__):
    """A classifier, and the model around it as pyfunc loads it, logged as `log_model` of the notebook does it."""
    about = {"target": "target", "classes": classes, "types": types}
    values = model_code.features(raw, types)
    classifier = XGBClassifier(n_estimators=5, min_child_weight=0).fit(values, np.arange(len(raw)) % 2)
    example = raw.head(3).astype(object)
    with mlflow.start_run(experiment_id="1"):  # set_experiment would outlast this store
        info = mlflow.xgboost.log_model(
            classifier,
            name="classifier",
            signature=infer_signature(values, classifier.predict(values)),
            input_example=values.head(3),
            pip_requirements=["xgboost"],
            metadata=about,
        )
        outputs = {"prediction": classes[:1], **{f"probability of {name}": [0.5] for name in classes}}
        model = mlflow.pyfunc.log_model(
            name="tuned",
            python_model=str(code),
            artifacts={"classifier": info.model_uri},
            signature=ModelSignature(
                inputs=Schema([ColSpec(AnyType(), column) for column in raw]),
                outputs=infer_signature(pd.DataFrame(outputs)).inputs,
            ),
            input_example=example.where(example.notna(), None),  # MLflow would write NaT as a text
            pip_requirements=["xgboost"],
            metadata={**about, "classifier_id": info.model_id},
        )
    return classifier, mlflow.pyfunc.load_model(model.model_uri)


ODD = ["no", "null", "1e3", "2024-07-04", "007", "12:30:45", "=", "é\u2028\x07😀", "a: 'b' #\n"]


@pytest.mark.parametrize("classes", [["no", "yes"], [4, 2], [0.5, 1.5]])
def test_logged_model(store, classes):
    """It takes rows of any types, and its answers are those of the classifier, in the words of the file."""
    types = [
        {"name": "a<b", "kind": "words", "words": sorted(map(model_code.as_word, ODD))},
        *(each for each in TYPES if each["name"] != "a<b"),
    ]
    raw = pd.DataFrame({"a<b": [*ODD, None], "size [mm]": [*np.arange(9) / 3, NAN], "target_": range(10)})
    raw["sure"] = pd.array([True, None, False, False, True] * 2, "boolean")
    raw["day"] = pd.to_datetime(pd.Series(["9999-12-31", None, *["2024-07-04 12:30"] * 8]), format="ISO8601")
    raw = raw.drop(columns="target_")
    classifier, model = logged(raw, types, classes)
    probabilities = classifier.predict_proba(model_code.features(raw, types))
    assert len(np.unique(probabilities)) > 2
    answer = model.predict(raw)
    assert list(answer) == ["prediction", *(f"probability of {name}" for name in classes)]
    assert answer["prediction"].tolist() == [classes[place] for place in probabilities.argmax(axis=1)]
    assert {type(value) for value in answer["prediction"]} == {type(classes[0])}
    assert answer.dtypes.tolist() == [object, float, float]
    same(answer.iloc[:, 1:], probabilities.astype(float))
    example = mlflow.artifacts.load_dict(f"{model.metadata.artifact_path}/serving_input_example.json")
    example = pd.DataFrame(**example["dataframe_split"], dtype=object)
    pd.testing.assert_frame_equal(model.predict(example), answer.head(3))
    # the same rows as JSON has them: dates are texts, nothing is null
    rows = json.loads(raw.to_json(orient="records", date_format="iso"))
    pd.testing.assert_frame_equal(model.predict(pd.DataFrame(rows, dtype=object)), answer)
    for number in range(10):
        one = model.predict(pd.DataFrame([{"more": 1, **rows[number]}], dtype=object))
        pd.testing.assert_frame_equal(one, answer.iloc[[number]].reset_index(drop=True))
    whole = [{**row, "size [mm]": 1, "sure": 1} for row in rows]
    decimal = [{**row, "size [mm]": 1.0, "sure": True} for row in rows]
    pd.testing.assert_frame_equal(model.predict(pd.DataFrame(whole)), model.predict(pd.DataFrame(decimal)))
    with pytest.raises(MlflowException, match="size \\[mm\\]: a value is not of its kind, number"):
        model.predict(raw.assign(**{"size [mm]": "secret"}))


def test_each_version_has_its_own_code(store, tmp_path):
    """Two versions in one process, of which one adds another ratio."""
    types = [{"name": name, "kind": "number"} for name in ["mean texture", "mean symmetry"]]
    raw = pd.DataFrame({"mean texture": [4.0, 8, 2, 1], "mean symmetry": [1.0, 2, 3, 4]})
    code, ratio = Path(model_code.__file__).read_text(), 'columns["mean symmetry"] / columns["mean texture"]'
    assert code.count(ratio) == 1
    (tmp_path / "changed.py").write_text(code.replace(ratio, 'columns["mean texture"] - columns["mean symmetry"]'))
    models = [logged(raw, types, [0, 1], path)[1] for path in [model_code.__file__, tmp_path / "changed.py"]]
    (tmp_path / "changed.py").unlink()
    for model, expected in zip(models, [[0.25, 0.25, 1.5, 4], [3, 6, -1, -3]], strict=True):
        assert len(model.predict(raw)) == 4
        same(model.unwrap_python_model().features(raw)["symmetry per texture"], expected)


def test_true_and_one_are_two_words():
    types = [{"name": "answer", "kind": "words", "words": ["1", "True"]}]
    values = model_code.features({"answer": np.array([True, 1, 1.0, None], dtype=object)}, types)
    np.testing.assert_array_equal(values[:, 0], [1, 0, 0, np.nan])
