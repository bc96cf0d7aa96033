"""Tables: encoding fitted on train alone, missing values, refusals."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck.data import IGNORE, DataBundle, load_data
from limbeck.errors import DataError, RecipeError

pd: Any = pytest.importorskip("pandas")


def frame(rows: int = 60) -> Any:
    generator = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "age": generator.normal(40, 10, rows),
            "city": [("Graz", "Linz", "Wien")[k % 3] for k in range(rows)],
            "flat": 7.0,
            "grade": ["ab"[k % 2] for k in range(rows)],
        }
    )


def save(folder: Path, table: Any, name: str = "table.csv") -> str:
    path = folder / name
    table.to_csv(path, index=False, sep="\t" if ".tsv" in name else ",")
    return str(path)


def inputs(bundle: DataBundle, part: str) -> torch.Tensor:
    view = bundle.splits[part]
    found = view.fetch(torch.arange(len(view))).inputs
    assert isinstance(found, torch.Tensor)
    return found


def test_numbers_are_standardised_by_train_alone(tmp_path: Path) -> None:
    table = frame()
    bundle = load_data("table", path=save(tmp_path, table), target="grade")
    assert bundle.feature_names == ("age", "city=Graz", "city=Linz", "city=Wien", "flat")
    assert bundle.class_names == ("a", "b")
    rows = bundle.record.train.numpy()
    age = table["age"].to_numpy()
    expected = (age - age[rows].mean()) / age[rows].std()
    for part in ("train", "validation", "test"):
        mine = expected[bundle.record[part].numpy()]
        assert inputs(bundle, part)[:, 0].numpy() == pytest.approx(mine, abs=1e-5)
        assert (inputs(bundle, part)[:, 4] == 0).all()
        assert (inputs(bundle, part)[:, 1:4].sum(1) == 1).all()


def test_missing_values(tmp_path: Path) -> None:
    table = frame()
    table["age"] = table["age"].round(3).astype(object)
    table.loc[::4, "age"] = "?"
    table.loc[::5, "city"] = ""
    table.loc[::6, "grade"] = "?"
    bundle = load_data("table", path=save(tmp_path, table), target="grade", test=0.3)
    assert bundle.feature_names[:3] == ("age", "age (missing)", "city=(missing)")
    rows = bundle.record.train.numpy()
    x = inputs(bundle, "train").numpy()
    holes = np.isin(rows, range(0, 60, 4))
    assert np.array_equal(x[:, 1] == 1, holes)
    known = table["age"].to_numpy()[rows][~holes].astype(float)
    filled = np.where(holes, np.median(known), 0.0)
    filled[~holes] = known
    assert x[:, 0] == pytest.approx((filled - filled.mean()) / filled.std(), abs=1e-4)
    assert np.array_equal(x[:, 2] == 1, np.isin(rows, range(0, 60, 5)))
    unlabelled = bundle.splits["train"].targets == IGNORE
    assert int(unlabelled.sum()) == 10  # validation and test drew only from labelled rows


def test_unseen_categories_and_ordinal_codes(tmp_path: Path) -> None:
    train = save(tmp_path, frame())
    later = frame(6)
    later.loc[0, "city"] = "Ulm"
    test = save(tmp_path, later, "later.csv")
    one = load_data("table", path=train, test_path=test, target="grade")
    assert inputs(one, "test")[0, 1:4].tolist() == [0, 0, 0]
    assert inputs(one, "test")[1, 1:4].tolist() == [0, 1, 0]
    codes = load_data("table", path=train, test_path=test, target="grade", categorical="ordinal")
    assert codes.feature_names == ("age", "city", "flat")
    assert inputs(codes, "test")[:, 1].tolist() == [-1, 0.5, 1, 0, 0.5, 1]


def test_regression_and_chosen_columns(tmp_path: Path) -> None:
    table = frame()
    table["zip"] = [8010 + k % 2 for k in range(60)]
    bundle = load_data(
        "table",
        path=save(tmp_path, table, "table.tsv.gz"),
        target=0,
        task="regression",
        drop=["flat"],
        categorical_columns=["zip"],
    )
    assert bundle.task == "regression"
    assert bundle.feature_names[-2:] == ("zip=8010", "zip=8011")
    assert "flat" not in bundle.feature_names
    view = bundle.splits["train"]
    expected = table["age"].to_numpy()[view.indices.numpy()]
    assert view.targets[:, 0].numpy() == pytest.approx(expected, rel=1e-5)


def test_parquet_and_whole_number_classes(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    table = frame().assign(level=[10 * (k % 3) for k in range(60)])
    path = tmp_path / "table.parquet"
    table.to_parquet(path)
    bundle = load_data("table", path=str(path), target="level")
    assert bundle.class_names == ("0", "10", "20")
    assert bundle.splits["test"].targets.tolist() == [
        int(k) % 3 for k in bundle.splits["test"].indices
    ]


def test_a_table_without_a_header(tmp_path: Path) -> None:
    path = str(tmp_path / "bare.csv")
    frame().to_csv(path, index=False, header=False)
    with pytest.raises(DataError, match=r"first line reads like values \(.*\): header: false\?"):
        load_data("table", path=path, target="grade")
    with pytest.raises(DataError, match=r"without a header columns are numbers, 0 to 3 \(-1"):
        load_data("table", path=path, target="grade", header=False)
    last = frame().columns.get_loc("grade")
    taken = load_data("table", path=path, target=last)
    assert "the first line was taken for names" in taken.describe()
    assert (
        "taken for names" not in load_data("table", path=path, target=last, header=False).describe()
    )


@pytest.mark.parametrize("categorical", ["onehot", "ordinal"])
def test_the_encoding_says_how_to_make_a_row(categorical: str, tmp_path: Path) -> None:
    table = frame().assign(age=[None if k % 7 == 0 else 20.0 + k for k in range(60)])
    path = save(tmp_path, table)
    bundle = load_data("table", path=path, target="grade", categorical=categorical)
    view = bundle.splits["test"]
    found = view.fetch(torch.arange(len(view)))
    for row, index in zip(found.inputs.double().tolist(), found.index.tolist(), strict=True):
        values: list[float] = []
        for one in bundle.encoding:
            cell = table.iloc[index][one["column"]]
            hole = cell is None or cell != cell
            if one["kind"] == "number":
                values.append(((one["missing"] if hole else cell) - one["mean"]) / one["std"])
                values += [float(hole)] if one["indicator"] else []
                continue
            words, word = one["categories"], "(missing)" if hole else str(cell)
            if categorical == "onehot":
                values += [float(word == other) for other in words]
            else:
                seen = word in words
                values.append(words.index(word) / max(len(words) - 1, 1) if seen else -1.0)
        assert row == pytest.approx(values, abs=1e-5)


def test_misuse_is_one_clear_line(tmp_path: Path) -> None:
    path = save(tmp_path, frame())
    with pytest.raises(DataError, match=r"no file .*gone"):
        load_data("table", path=str(tmp_path / "gone.csv"), target="x")
    with pytest.raises(DataError, match="unknown column 'grad': did you mean 'grade'"):
        load_data("table", path=path, target="grad")
    with pytest.raises(DataError, match="column 9: the table has 4 columns"):
        load_data("table", path=path, target=9)
    with pytest.raises(RecipeError, match=r"needs data\.target="):
        load_data("table", path=path)
    with pytest.raises(RecipeError, match="unknown categorical 'one-hot': did you mean 'onehot'"):
        load_data("table", path=path, target="grade", categorical="one-hot")
    with pytest.raises(DataError, match="'ab' is not a number"):
        load_data(
            "table", path=save(tmp_path, frame().assign(y="ab")), target="y", task="regression"
        )
    other = save(tmp_path, frame(6).assign(grade="c"), "other.csv")
    with pytest.raises(DataError, match="test, sample 0: class 'c' does not occur in train"):
        load_data("table", path=path, test_path=other, target="grade")
    dotted = frame(6).assign(grade=lambda f: f["grade"] + ".")
    with pytest.raises(DataError, match=r"class '\w\.' does not .* does; strip: '\.' takes"):
        load_data(
            "table", path=path, test_path=save(tmp_path, dotted, "dotted.csv"), target="grade"
        )
    short = save(tmp_path, frame(6).drop(columns="age"), "short.csv")
    with pytest.raises(DataError, match="the test table lacks the column 'age'"):
        load_data("table", path=save(tmp_path, frame()), test_path=short, target="grade")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="cannot be read as a table"):
        load_data("table", path=str(tmp_path / "empty.csv"), target=0)
    with pytest.raises(DataError, match="the value is infinite"):
        load_data("table", path=save(tmp_path, frame().assign(age=np.inf)), target="grade")


def test_what_other_rows_hold_changes_nothing_fitted(tmp_path: Path) -> None:
    """Validation and test rows are altered beyond recognition; the train inputs stay the same."""
    table = frame()
    before = load_data("table", path=save(tmp_path, table), target="grade")
    held = before.record
    for part, age, city in (("test", 1e6, "Ulm"), ("validation", np.nan, "?")):
        rows = held[part].numpy()
        table.loc[rows, "age"] = age
        table.loc[rows, "city"] = city
    after = load_data("table", path=save(tmp_path, table), target="grade")
    assert after.record.digest() == held.digest()
    assert after.feature_names == before.feature_names
    assert torch.equal(inputs(after, "train"), inputs(before, "train"))
    assert (inputs(after, "test")[:, 1:4] == 0).all()
    assert not torch.equal(inputs(after, "test"), inputs(before, "test"))


def test_train_rows_alone_say_that_a_column_is_numeric(tmp_path: Path) -> None:
    """One word in a test row makes the whole column text for the reader of the file."""
    table = frame()
    row = int(load_data("table", path=save(tmp_path, table), target="grade").record.test[0])
    table["age"] = table["age"].astype(object)
    table.loc[row, "age"] = "old"
    with pytest.raises(DataError, match=f"column 'age', row {row}: 'old' is not a number"):
        load_data("table", path=save(tmp_path, table), target="grade")
    table.loc[0, "age"] = table.loc[1, "age"] = "young"  # in train: a column of categories
    ages = load_data("table", path=save(tmp_path, table), target="grade", validation=1, test=1)
    assert "age=young" in ages.feature_names


def test_classes_that_are_no_whole_numbers(tmp_path: Path) -> None:
    table = frame().assign(level=[0.0, 1.0, 2.5] * 20)
    message = r"column 'level', row 2: label 2\.5 is not a whole number \(task='regression'"
    with pytest.raises(DataError, match=message):
        load_data("table", path=save(tmp_path, table), target="level")
    whole = frame().assign(level=[0.0, 1.0, None] * 20)
    bundle = load_data("table", path=save(tmp_path, whole), target="level")
    assert bundle.class_names == ("0", "1")


def test_damaged_files_and_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(save(tmp_path, frame(), "table.csv.gz"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read as a table") as caught:
        load_data("table", path=str(path), target="grade")
    assert "\n" not in str(caught.value)
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    if importlib.util.find_spec("pyarrow"):
        with pytest.raises(DataError, match="cannot be read as a table") as caught:
            load_data("table", path=str(tmp_path / "a.parquet"), target="grade")
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'limbeck\[tables\]'"):
        load_data("table", path=str(tmp_path / "a.parquet"), target="grade")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DataError, match=r"needs pandas: pip install 'limbeck\[tables\]'"):
        load_data("table", path=str(path), target="grade")


@pytest.mark.parametrize("value", [[1, 2], {"bytes": b"a", "path": "b"}, b"a"])
def test_columns_of_lists_or_images_are_not_categories(tmp_path: Path, value: Any) -> None:
    pytest.importorskip("pyarrow")
    path = str(tmp_path / "a.parquet")
    frame(60).assign(odd=[value] * 60).to_parquet(path)
    message = r"column 'odd' holds more than one value a row .*\{name: hf-dataset\}.*data\.drop="
    with pytest.raises(DataError, match=message):
        load_data("table", path=path, target="grade")
    assert "odd" not in load_data("table", path=path, target="grade", drop=["odd"]).feature_names
