"""A table says which file is in which split: what it may say, and what it is told where it is wrong."""

from pathlib import Path

import pytest

from components.data.planning import Known, plan_parts
from components.data.sources.base import open_source
from components.errors import UserError
from pipelines.data.raw_data import content_of
from pipelines.prepare import prepare_step
from tests.components.data.sources.conftest import config, lay, names, refusal, table


def test_a_table_of_files(tmp_path: Path) -> None:
    lay(tmp_path, *(f"train_{k}.png" for k in range(3)), "test_1.png", "more/1.png")
    rows: list[tuple[str, ...]] = [
        ("file", "split", "label"),
        ("train_0.png", "train", "b"),
        ("train_1.png", "train", "a"),
    ]
    told = table(tmp_path / "s.csv", *rows, ("test_1.png", "TEST", "b"))
    source = open_source(config(tmp_path, told))
    assert names(source) == {"train": ["train_0.png", "train_1.png"], "test": ["test_1.png"]}
    labels = source.labels("train")
    assert source.classes == ("a", "b") and labels is not None and labels.tolist() == [1, 0]
    assert source.read("test", 0).members["cls"] == b"1"
    assert source.left_out == {".": 1, "more": 1}
    cases: list[tuple[list[tuple[str, ...]], str]] = [
        ([("file", "split", "lable")], "line 1: the columns are file,split,lable: they must be"),
        ([*rows, ("gone.png", "train", "a")], f"line 4: no image gone.png in {tmp_path}"),
        ([*rows, ("test_1.png", "tset", "a")], "line 4: 'tset' is no split"),
        ([*rows, ("train_0.png", "val", "a")], "line 4: train_0.png was in line 2 before"),
        ([*rows, ("test_1.png", "test", "")], "line 4: no label, and other lines have one"),
        ([*rows, ("test_1.png", "test")], "line 4: 2 values for the 3 columns"),
        ([("file", "split"), ("test_1.png", "test")], "no file of the training split"),
    ]
    for wrong, said in cases:
        assert said in refusal(config(tmp_path, table(tmp_path / "w.csv", *wrong)))
    assert "cannot be read (No such file" in refusal(config(tmp_path, "none.csv"))


def test_folders_named_as_splits_are_no_classes_of_a_table(tmp_path: Path) -> None:
    lay(tmp_path, "train/1.png", "dev/1.png", "dev/2.png")
    rows = [("train/1.png", "train"), ("dev/1.png", "train"), ("dev/2.png", "val")]
    assert "add the column label" in refusal(config(tmp_path, table(tmp_path / "s.csv", ("file", "split"), *rows)))
    told = table(tmp_path / "s.csv", ("file", "split", "label"), *((*row, "") for row in rows))
    assert open_source(config(tmp_path, told)).classes == ()


def test_a_changed_table_is_another_preparation(tmp_path: Path) -> None:
    lay(tmp_path / "raw", "1.png", "2.png", "3.png")
    rows = [("file", "split"), ("1.png", "train"), ("2.png", "train"), ("3.png", "val")]
    data = config(tmp_path / "raw", table(tmp_path / "s.csv", *rows))
    before = (content_of(data), prepare_step(data).config)
    assert before == (content_of(data), prepare_step(data).config)
    table(tmp_path / "s.csv", *rows[:2], ("2.png", "val"), rows[3])
    assert content_of(data) != before[0] and prepare_step(data).config != before[1]
    assert content_of(config(tmp_path / "raw")) != before[0]


def test_a_sample_never_changes_its_split_by_a_table(tmp_path: Path) -> None:
    lay(tmp_path, "1.png", "2.png", "3.png")
    data = config(tmp_path, table(tmp_path / "s.csv", ("file", "split"), ("1.png", "val"), ("2.png", "train")))
    known = Known(1, {"train": {"1.png"}}, {"train": 1}, {"train": 1})
    with pytest.raises(UserError, match=r"1.png was prepared as of the train split and is now of val"):
        plan_parts(open_source(data), data, known)
