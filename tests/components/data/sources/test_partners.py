"""Files that belong together are cut into splits together."""

from pathlib import Path

import pytest

from components.data.sources.base import open_source
from components.data.sources.listing import NO_PICTURE
from tests.components.data.sources.conftest import config, lay, names, refusal, table


@pytest.mark.parametrize("layout", ["{side}/{split}/{name}", "{split}/{side}/{name}"])
@pytest.mark.parametrize("source", ["pairs", "masks"])
def test_partners_as_the_user_says(tmp_path: Path, layout: str, source: str) -> None:
    for split, name in (("one", "1.png"), ("two", "2.png"), ("more", "3.png")):
        for side in ("A", "B"):
            lay(tmp_path, layout.format(side=side, split=split, name=name))
    (tmp_path / "classes.csv").write_text("thing\n")
    options = {"image": "A", "target": "B"} if source == "pairs" else {"images": "A", "masks": "B"}
    opened = open_source(config(tmp_path, "train=one,test=two", source, **options))
    assert opened.splits == {"train": 1, "test": 1} and opened.locate("test", 0).endswith("2.png")
    assert opened.left_out in ({"more": 2}, {"A/more": 1, "B/more": 1})
    file = [layout.format(side="A", split=split, name=name) for split, name in (("one", "1.png"), ("two", "2.png"))]
    told = table(tmp_path / "s.csv", ("file", "split"), (file[0], "val"), (file[1], "train"))
    opened = open_source(config(tmp_path, told, source, **options))
    assert names(opened) == {"val": [file[0]], "train": [file[1]]}
    assert sum(opened.left_out.values()) == 2
    if layout.startswith("{side}"):
        for side in ("A", "B"):
            lay(tmp_path, f"{side}/train/x.png")
        assert "train is named as splits are" in refusal(config(tmp_path, None, source, **options))


def test_partners_by_a_table_are_each_others_alone(tmp_path: Path) -> None:
    lay(tmp_path, "A/0.png", "A/0.jpg", "A/1.png", "B/0.png", "B/1.png", "B/2.png", "C/3.png", "4.png")
    rows = [("file", "split"), ("A/0.png", "train"), ("A/1.png", "val")]
    data = config(tmp_path, table(tmp_path / "s.csv", *rows), "pairs", image="A", target="B")
    opened = open_source(data)
    assert (opened.splits, opened.left_out) == ({"train": 1, "val": 1}, {".": 1, "A": 1, "B": 1, "C": 1})
    table(tmp_path / "s.csv", *rows, ("A/0.jpg", "test"))
    assert "A/0.jpg and A/0.png have one partner, B/0.png: take one of them off" in refusal(data)
    table(tmp_path / "s.csv", *rows)
    lay(tmp_path, "B/1.jpg")
    assert "A/1.png has 2 partners (B/1.jpg, B/1.png) of the same name" in refusal(data)


def test_folders_of_one_split_may_hold_equal_names(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{side}/{folder}/1.png" for side in "AB" for folder in ("s1", "s2", "s3")))
    opened = open_source(config(tmp_path, "train=s1+s2,test=s3", "pairs", image="A", target="B"))
    assert names(opened) == {"train": ["train/s1/1.png", "train/s2/1.png"], "test": ["test/s3/1.png"]}


def test_what_lies_beside_partners_is_counted(tmp_path: Path) -> None:
    lay(tmp_path / "flat", "A/1.png", "B/1.png", "loose.png", "C/1.png")
    lay(tmp_path / "split", "Train/A/1.png", "Train/B/1.png", "Train/C/1.png", "Test/A/2.png", "Test/B/2.png")
    (tmp_path / "split" / "Test" / "A" / "what").write_bytes(b"?")
    flat, split = (
        open_source(config(tmp_path / name, None, "pairs", image="A", target="B")) for name in ("flat", "split")
    )
    assert (flat.splits, flat.left_out) == ({"train": 1}, {".": 1, "C": 1})
    assert (split.splits, split.left_out) == ({"train": 1, "test": 1}, {"Train": 1})
    assert split.passed_over.names == {NO_PICTURE: ["what"]}


def test_partners_in_split_folders_of_common_names(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{split}/{side}/1.png" for split in ("train", "dev") for side in "AB"), "docs/1.png")
    opened = open_source(config(tmp_path, None, "pairs", image="A", target="B"))
    assert (opened.splits, opened.left_out) == ({"train": 1, "val": 1}, {"docs": 1})
    assert opened.revision, "an earlier preparation without dev is not reused"
    lay(tmp_path, "val/A/1.png", "val/B/1.png")
    text = refusal(config(tmp_path, None, "pairs", image="A", target="B"))
    assert "several folders mean one split" in text and "--splits train=train,val=dev+val " in text
