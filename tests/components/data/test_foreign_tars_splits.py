"""Which sample of others' tars is in which split: by names, by the user's word, or held back, of every class."""

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from components.config import DataConfig
from components.data.dataset import ShardedDataset
from components.data.foreign_tars import index_of, look_into
from components.data.images import encode_png
from components.data.labels import check_labels_seen, say_unseen, unseen_labels
from components.data.reader import Shard
from components.data.shards import Index
from components.errors import UserError

Labels = dict[str, list[int]]  # tar: label of every sample


def write(folder: Path, tars: Labels, start: int = 0) -> None:
    """Every sample of all tars is a grey of its own, from ``start``."""
    folder.mkdir(exist_ok=True)
    number = start
    for name, labels in tars.items():
        with tarfile.open(folder / name, "w") as tar:
            for label in labels:
                members = {"png": encode_png(np.full((8, 8, 3), number, np.uint8)), "cls": str(label).encode()}
                for extension, data in members.items():
                    info = tarfile.TarInfo(f"{number:04d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                number += 1


def index(folder: Path, **config: object) -> Index:
    facts = [look_into(path, path.name) for path in sorted(folder.glob("*.tar"))]
    return index_of(facts, DataConfig.parse({"source": "shards", **config}), "HERE")


def read(folder: Path, index: Index, split: str) -> tuple[list[int], list[int]]:
    """(greys, labels)."""
    data = ShardedDataset(index, split, lambda name: folder / name, 8, ("image", "label"))
    batch = data.get(np.arange(len(data)))
    return batch["image"][:, 0, 0, 0].tolist(), batch["label"].tolist()


def splits_of(folder: Path, **config: object) -> dict[str, set[str]]:
    found = index(folder, **config).splits
    return {split: {entry.name for entry in entries} for split, entries in found.items()}


def refused(folder: Path, **config: object) -> str:
    with pytest.raises(UserError) as caught:
        index(folder, **config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SORTED = {f"part-{c}.tar": [c] * 30 for c in range(6)}
MIXED = {f"part-{t}.tar": [k % 6 for k in range(30)] for t in range(6)}


@pytest.mark.parametrize("tars", [SORTED, MIXED])
def test_of_every_class_a_share_is_held_back(tmp_path: Path, tars: Labels) -> None:
    write(tmp_path, tars)
    found = index(tmp_path)
    (train, train_labels), (val, val_labels) = (read(tmp_path, found, split) for split in ("train", "val"))
    assert sorted(train + val) == list(range(180)) and len(val) == 18
    assert set(Counter(val_labels).values()) == {3} and set(val_labels) == set(train_labels) == set(range(6))
    assert found.splits["train"][0].samples == 27  # every tar has its share in both
    assert found.labels == {
        "train": {str(k): n for k, n in sorted(Counter(train_labels).items())},
        "val": {str(k): 3 for k in range(6)},
    }
    assert read(tmp_path, index(tmp_path, seed=1), "val")[0] != val
    assert index(tmp_path).to_bytes() == found.to_bytes()
    assert len(index(tmp_path, validation=0.5).splits["val"]) == 6


def test_a_class_keeps_its_last_sample_in_training(tmp_path: Path) -> None:
    write(tmp_path, {"a.tar": [0, 1, 2, 3, 3], "b.tar": [4, 5, 5]})
    for validation in (0.1, 0.5, 0.9):
        train = read(tmp_path, index(tmp_path, validation=validation), "train")[1]
        assert set(train) == set(range(6))
    write(tmp_path / "single", {"a.tar": [0, 1, 2]})
    assert "3 samples cannot be cut into training and validation" in refused(tmp_path / "single")


def test_one_tar_is_cut(tmp_path: Path) -> None:
    write(tmp_path, {"all.tar": [k % 2 for k in range(20)]})
    assert index(tmp_path).samples("val") == 2 and splits_of(tmp_path) == {"train": {"all.tar"}, "val": {"all.tar"}}


def test_a_sample_that_does_not_decode_is_not_replaced_by_one_of_the_other_split(tmp_path: Path) -> None:
    write(tmp_path, {"all.tar": [0] * 20})
    found = index(tmp_path, validation=0.5)
    greys = read(tmp_path, found, "train")[0]
    png = encode_png(np.full((8, 8, 3), greys[0], np.uint8))
    path = tmp_path / "all.tar"
    path.write_bytes(path.read_bytes().replace(png, bytes(len(png))))
    data = ShardedDataset(found, "train", lambda name: tmp_path / name, 8)
    assert data.get(np.arange(10))["image"][:, 0, 0, 0].tolist() == [greys[1], *greys[1:]]


def test_the_training_split_is_limited_by_class_and_tar(tmp_path: Path) -> None:
    write(tmp_path, SORTED)
    few = index(tmp_path, samples=60)
    train, labels = read(tmp_path, few, "train")
    assert len(set(train)) == 60 and set(Counter(labels).values()) == {10}
    assert few.splits["val"] == index(tmp_path).splits["val"] and few.labels is not None
    assert few.labels["train"] == {str(k): 10 for k in range(6)}
    assert index(tmp_path, samples=10_000).splits == index(tmp_path).splits


TWO = {"train-000.tar": [0, 1], "train-001.tar": [0, 1]}


@pytest.mark.parametrize(
    ("other", "suggested"),
    [
        ("foo-000.tar", "train=foo+train"),
        ("extra-000.tar", "train=extra+train"),
        ("unlabeled.tar", "train=train+unlabeled"),
        ("trainval.tar", "train=train+trainval"),
    ],
)
def test_tars_that_are_of_no_split_beside_those_that_are(tmp_path: Path, other: str, suggested: str) -> None:
    write(tmp_path, TWO | {other: [0, 1]})
    said = refused(tmp_path)
    assert f"of no known split: {other};" in said and f"--set data.splits={suggested};" in said
    assert splits_of(tmp_path, splits=suggested)["train"] == {*TWO, other}  # what is suggested works
    assert splits_of(tmp_path, splits="classes")["train"] == {*TWO, other}
    stem = other.removesuffix(".tar")
    assert splits_of(tmp_path, splits=f"train=train,val={stem}") == {"train": set(TWO), "val": {other}}


def test_names_of_splits(tmp_path: Path) -> None:
    write(tmp_path, TWO | {"holdout-000.tar": [0], "testing-1.tar": [1]})
    assert splits_of(tmp_path) == {"train": set(TWO), "val": {"holdout-000.tar"}, "test": {"testing-1.tar"}}
    write(tmp_path / "both", {"test-train.tar": [0, 1]})
    assert "the name of test-train.tar speaks of test and train" in refused(tmp_path / "both")
    write(tmp_path / "none", {"test-0.tar": [0, 1], "val-0.tar": [0]})
    assert "no tar is of the training split (test-0.tar, val-0.tar)" in refused(tmp_path / "none")
    assert index(tmp_path / "none", splits="classes").samples("train") == 2
    write(tmp_path / "pile", {"unlabeled-0.tar": [0, 0], "unlabeled-1.tar": [0, 0]})
    assert index(tmp_path / "pile").samples("train") == 3  # a pile, and its name is right


def test_what_the_user_says(tmp_path: Path) -> None:
    write(tmp_path, {f"part-{k:03d}.tar": [0, 1] for k in range(4)})
    assert splits_of(tmp_path, splits="train=part-000+part-001,val=part-002.tar") == {
        "train": {"part-000.tar", "part-001.tar"},
        "val": {"part-002.tar"},
    }
    assert splits_of(tmp_path, splits="train=part,test=part-003")["test"] == {"part-003.tar"}  # the longer name counts
    assert "no tar is called parts" in refused(tmp_path, splits="train=part,val=parts")
    assert "a split is made of whole tars" in refused(tmp_path, splits="files.csv")


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    for label, said in ((99999999999999999999, "labels are numbers from 0"), (2119789, "is 2119789, and there are 3")):
        write(tmp_path, {"a.tar": [0, 0, label]})
        assert said in refused(tmp_path)
    write(tmp_path, {"a.tar": [0, 0, 21840]})  # a part of ImageNet-21k
    assert len(index(tmp_path).classes) == 21841


def test_joined_tars_are_read_to_the_end(tmp_path: Path) -> None:
    write(tmp_path / "a", {"a.tar": [0, 1, 2, 3, 4]})
    write(tmp_path / "b", {"b.tar": [0, 1, 2, 3, 4, 5, 6]}, start=5)
    first, second = (tmp_path / "a" / "a.tar").read_bytes(), (tmp_path / "b" / "b.tar").read_bytes()
    path = tmp_path / "train.tar"
    path.write_bytes(first + second)
    assert Shard(path).keys == [f"{k:04d}" for k in range(12)]
    found = index(tmp_path)
    assert sorted(read(tmp_path, found, "train")[0] + read(tmp_path, found, "val")[0]) == list(range(12))
    for damaged, said in (
        (first + second[:1500], "is truncated after 6 samples"),
        (first + second[:100], "is truncated after 5 samples"),
        (first + b"no header" * 100, "is not a tar file, or damaged"),
        (first[:-10240], "is truncated after"),
        (first + first, "belongs to a key that occurred before"),
    ):
        path.write_bytes(damaged)
        assert said in refused(tmp_path)


def test_labels_of_one_split_that_another_does_not_have(tmp_path: Path) -> None:
    write(tmp_path, {"train.tar": [0, 0, 1], "val.tar": [0, 2, 2, 3], "test.tar": [4, 5]})
    found = unseen_labels(index(tmp_path))
    assert found == {
        "val": {"samples": 3, "of": 4, "classes": ["2", "3"]},
        "test": {"samples": 2, "of": 2, "classes": ["4", "5"]},
    }
    assert say_unseen(found)[0] == (
        "val: 3 of 4 samples are of 2 classes of which training has no sample (2, 3): no encoder can score on them"
    )
    check_labels_seen(found, ["train", "val"])
    with pytest.raises(UserError, match=r"^no class of the test split occurs in training \(test has 4, 5\)"):
        check_labels_seen(found)
    write(tmp_path / "good", {"train.tar": [0, 1], "val.tar": [1]})
    assert unseen_labels(index(tmp_path / "good")) == {}
