"""Which file is of which split: by names that leave no doubt, and else as the user says, never by a guess."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.config import DataConfig
from components.data.planning import NOTHING, Known, plan_parts, revision_of_cut, split_sizes
from components.data.records import check_extends
from components.data.shards import Index
from components.data.sources.base import Source, open_source
from components.data.sources.listing import NO_PICTURE
from components.errors import UserError
from pipelines.data.raw_data import content_of
from pipelines.prepare import prepare_step
from pipelines.recipes import load_places
from tests.components.data.sources.conftest import write_image

TWO = ("cat/1.png", "dog/1.png")


def lay(root: Path, *names: str) -> None:
    for name in names:
        write_image(root / name, sum(map(ord, name)))


def config(root: Path, splits: str | None = None, source: str = "folder", **options: Any) -> DataConfig:
    return DataConfig(source=source, root=str(root), splits=splits, options=options)


def refusal(data: DataConfig) -> str:
    with pytest.raises(UserError) as caught:
        open_source(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(source: Source) -> dict[str, list[str]]:
    return {split: [source.locate(split, k) for k in range(count)] for split, count in source.splits.items()}


def table(path: Path, *rows: tuple[str, ...]) -> str:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


@pytest.mark.parametrize("val", ["dev", "Holdout", "eval", "valid"])
def test_common_names_of_splits_work_by_themselves(tmp_path: Path, val: str) -> None:
    lay(tmp_path, *(f"{split}/{name}" for split in ("Train", val, "test") for name in TWO))
    source = open_source(config(tmp_path))
    assert (source.splits, source.classes) == ({"train": 2, "val": 2, "test": 2}, ("cat", "dog"))
    assert bool(source.revision) == (val != "valid"), "what was once read as classes is prepared again"


@pytest.mark.parametrize(
    ("there", "said", "advice"),
    [
        (["train/a/1.png", "test/a/1.png", "docs/1.png"], "docs is not", "--splits train=train,test=test "),
        (["train/a/1.png", "dev/a/1.png", "1.png"], "what lies loose (", "--splits train=train,val=dev "),
        (["train/a/1.png", "unlabeled/1.png"], "unlabeled is not", "--splits train=train "),
        (["a/1.png", "unlabeled/1.png"], "nobody knows which split unlabeled is", "--splits train=a+unlabeled "),
        (["train/1.png", "val/1.png", "dev/1.png"], "several folders mean one", "--splits train=train,val=dev+val "),
        (["val/a/1.png", "test/a/1.png"], "none is the training split", "--splits train="),
        (["test/a/1.png"], "test is named as splits are, and none is", "--splits train=test "),
        (["train_images/1.png", "test_images/1.png"], "speak of", "--splits train=train_images,test=test_images "),
        (
            ["cat/train/1.png", "cat/test/1.png", "dog/train/1.png"],
            "folders in cat are",
            "--splits train=train,test=te",
        ),
        (["train_1.png", "train_2.png", "test_1.png"], "the names of all files speak of splits", "--splits FILE.csv"),
        (
            ["trainA/1.png", "trainB/1.png", "testA/1.png"],
            "several folders",
            "--splits train=trainA+trainB,test=testA ",
        ),
        (["TrainImages/1.png", "TestImages/1.png"], "speak of", "--splits train=TrainImages,test=TestImages "),
        (["trainimages/1.png", "testimages/1.png"], "speak of", "--splits train=trainimages,test=testimages "),
        (["images/1.png", "test_images/1.png"], "images is not", "--splits train=images,test=test_images "),
        (
            ["data/train_images/1.png", "data/test_images/1.png"],
            "in data are",
            "--splits train=train_images,test=test_",
        ),
        (
            ["data/images/train/1.png", "data/images/test/1.png"],
            "in data/images are",
            "--splits train=train,test=test ",
        ),
        (["a/images/train/1.png", "b/images/test/1.png"], "in a/images are", "--splits train=train,test=test "),
        (["data/images/1.png", "data/test/1.png"], "in data are", "--splits train=images,test=test "),
        (["a/train/1.png", "b/old/test/1.png"], "in a are", "a table of files, --splits FILE.csv"),
        (["cat/1.png", "cat/test/1.png", "dog/1.png"], "in cat are", "--splits FILE.csv"),
    ],
)
def test_a_doubt_is_refused_with_what_to_type(tmp_path: Path, there: list[str], said: str, advice: str) -> None:
    lay(tmp_path, *there)
    (tmp_path / "README.md").write_text("so that a lone folder is not entered")
    text = refusal(config(tmp_path))
    assert text.startswith(str(tmp_path)) and said in text and advice in text and "--splits classes" in text
    assert open_source(config(tmp_path, "classes")).splits == {"train": len(there)}
    if typed := re.search(r"--splits (\S*=\S*)", text):
        assert "train" in open_source(config(tmp_path, typed[1])).splits, "what is advised works"


@pytest.mark.parametrize("train", ["trainset", "TrainSet"])
def test_joined_names_of_splits_work_by_themselves(tmp_path: Path, train: str) -> None:
    lay(tmp_path, *(f"{split}/{name}" for split in (train, "testset") for name in TWO))
    assert open_source(config(tmp_path)).splits == {"train": 2, "test": 2}


def test_a_lone_training_folder_is_all_there_is(tmp_path: Path) -> None:
    lay(tmp_path, "train_images/1.png", "train_images/2.png")
    (tmp_path / "README.md").write_text("no images")
    assert open_source(config(tmp_path)).splits == {"train": 2}


@pytest.mark.parametrize("train", ["a_train", "train"])
def test_a_link_does_not_bring_test_images_into_training(tmp_path: Path, train: str) -> None:
    lay(tmp_path / "all", "1.png", "2.png", "test/3.png")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / train).symlink_to(tmp_path / "all")
    (tmp_path / "links" / "test").symlink_to(tmp_path / "all" / "test")
    data = config(tmp_path / "links")
    if train == "train":
        assert names(open_source(data)) == {"train": ["train/1.png", "train/2.png"], "test": ["test/3.png"]}
    else:
        assert "the pictures of test lie in another folder too" in refusal(data)


def test_names_that_only_sound_like_splits_stay_classes(tmp_path: Path) -> None:
    lay(tmp_path, "test tubes/1.png", "flasks/1.png", "holdall/1.png")
    assert open_source(config(tmp_path)).classes == ("flasks", "holdall", "test tubes")


def test_folders_as_the_user_says(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{top}/{name}" for top in ("one", "Two", "three") for name in TWO), "docs/1.png", "logo.png")
    source = open_source(config(tmp_path, "train=one+two,test=three"))
    assert (source.splits, source.classes) == ({"train": 4, "test": 2}, ("cat", "dog"))
    assert names(source)["train"] == ["Two/cat/1.png", "Two/dog/1.png", "one/cat/1.png", "one/dog/1.png"]
    assert source.left_out == {".": 1, "docs": 1}
    assert "has no folder of --splits: 'thre': did you mean 'three'?" in refusal(config(tmp_path, "train=one,val=thre"))


def test_split_folders_below_the_classes(tmp_path: Path) -> None:
    lay(tmp_path, "cat/train/1.png", "cat/dev/2.png", "dog/train/1.png", "dog/dev/2.png", "dog/old/3.png")
    source = open_source(config(tmp_path, "train=train,val=dev"))
    assert (source.splits, source.classes) == ({"train": 2, "val": 2}, ("cat", "dog"))
    assert source.left_out == {"dog/old": 1}
    assert source.read("val", 1).members["cls"] == b"1"


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


def test_a_data_set_grows_only_with_the_same_splits(tmp_path: Path) -> None:
    lay(tmp_path, "train/1.png", "dev/1.png")
    told, guessed = config(tmp_path, "train=train,val=dev"), config(tmp_path)
    for there, wanted in ((told, guessed), (guessed, told)):
        source = open_source(wanted)
        index = Index(source=there.model_dump(mode="json", exclude={"root", "url"}), fields=source.fields, splits={})
        with pytest.raises(UserError, match=r"prepared with data.splits="):
            check_extends(index, source, wanted, "there")
    check_extends(index, open_source(guessed), guessed, "there")


@pytest.mark.parametrize("source", ["shapes", "cifar10", "mnist", "coco", "voc"])
def test_who_cannot_be_told_says_so(tmp_path: Path, source: str) -> None:
    assert refusal(config(tmp_path, "train=a", source)) == (
        f"source {source!r} cannot be told its splits: leave out --splits train=a (data.splits); "
        "those that can: folder, masks, pairs, unpaired"
    )


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


def test_halves_are_cut_into_splits_only_without_a_doubt(tmp_path: Path) -> None:
    lay(tmp_path, "train/1.png", "test/1.png", "docs/1.png")
    assert "docs is not" in refusal(config(tmp_path, None, "pairs"))
    opened = open_source(config(tmp_path, "train=train,test=test", "pairs"))
    assert (names(opened), opened.left_out) == ({"train": ["train/1.png"], "test": ["test/1.png"]}, {"docs": 1})


def test_two_domains_as_the_user_says(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{name}{side}/1.png" for name in ("train", "dev", "extra") for side in "AB"))
    opened = open_source(config(tmp_path, None, "unpaired"))
    assert opened.splits == {"train": 1, "val": 1, "other_train": 1, "other_val": 1}
    assert opened.left_out == {"extraA": 1, "extraB": 1}
    opened = open_source(config(tmp_path, "train=train+extra,test=dev", "unpaired", image="B"))
    assert names(opened)["train"] == ["trainB/1.png", "extraB/1.png"] and names(opened)["other_test"] == ["devA/1.png"]
    rows = [("file", "split"), ("extraA/1.png", "train"), ("devB/1.png", "train"), ("devA/1.png", "test")]
    opened = open_source(config(tmp_path, table(tmp_path / "s.csv", *rows), "unpaired"))
    assert names(opened) == {"train": ["extraA/1.png"], "test": ["devA/1.png"], "other_train": ["devB/1.png"]}
    assert sum(opened.left_out.values()) == 3
    lay(tmp_path, "valA/1.png")
    assert "several folders mean one split" in refusal(config(tmp_path, None, "unpaired"))


def test_a_class_never_loses_its_only_training_sample(tmp_path: Path) -> None:
    lay(
        tmp_path,
        *(f"{label}/{k}.png" for label in ("big", "wide") for k in range(18)),
        *(f"one{k}/1.png" for k in range(4)),
    )
    changed = 0
    for seed in range(12):
        data = config(tmp_path).model_copy(update={"validation": 0.3, "seed": seed})
        source = open_source(data)
        labels = source.labels("train")
        assert labels is not None
        took = {
            part.split: part.take(source, seed, 0, part.stop - part.start, 0)
            for part in plan_parts(source, data, NOTHING)
        }
        assert sorted(took["train"] + took["val"]) == list(range(40)) and len(took["val"]) == 12
        assert set(labels[list(took["train"])]) == set(range(6))
        changed += bool(revision_of_cut(source, data))
    assert 0 < changed < 12, "only a cut that lost a class is another one"


def test_where_every_class_has_one_image_nothing_can_be_held_back(tmp_path: Path) -> None:
    lay(tmp_path, *(f"one{k}/1.png" for k in range(5)))
    data = config(tmp_path).model_copy(update={"validation": 0.4})
    with pytest.raises(UserError, match=r"so that every class keeps one to learn from"):
        split_sizes(open_source(data), data)


def test_a_new_class_of_a_grown_data_set_goes_to_training(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{label}/{k}.png" for label in ("a", "b") for k in range(9)), "c/1.png")
    data = config(tmp_path)
    source = open_source(data)
    known = Known(1, {"train": {f"{x}/{k}.png" for x in "ab" for k in range(9)}}, {"train": 17, "val": 1}, {"train": 1})
    assert [(part.split, part.start, part.stop) for part in plan_parts(source, data, known)] == [("train", 0, 1)]


def test_cuts_that_lose_nothing_keep_their_samples(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{label}/{k}.png" for label in ("a", "b") for k in range(10)))
    data = config(tmp_path)
    labelled, bare = open_source(data), open_source(data)
    bare.labels = lambda split: None  # type: ignore[method-assign]  # as every source was before
    for part, other in zip(plan_parts(labelled, data), plan_parts(bare, data), strict=True):
        size = part.stop - part.start
        assert part.take(labelled, 0, 0, size, 0) == other.take(bare, 0, 0, size, 0)
    assert np.bincount(labelled.labels("train")).tolist() == [10, 10]  # type: ignore[arg-type]  # it has labels


def test_the_option_of_the_command_line() -> None:
    assert load_places("folder", "x", splits="train=a").data.splits == "train=a"
    assert "splits" not in load_places("folder", "x").data.model_dump()
