"""Which file is of which split: by names that leave no doubt, and else as the user says, never by a guess."""

import re
from pathlib import Path

import numpy as np
import pytest

from components.data.planning import NOTHING, Known, plan_parts, revision_of_cut, split_sizes
from components.data.records import check_extends
from components.data.shards import Index
from components.data.sources.base import open_source
from components.errors import UserError
from pipelines.recipes import load_places
from tests.components.data.sources.conftest import config, lay, names, refusal, table

TWO = ("cat/1.png", "dog/1.png")


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
        "those that can: folder, masks, pairs, unpaired, webdataset"
    )


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
