"""VOC: boxes as the shards count them, lists that must name what is there, and annotations that do not hold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.config import DataConfig
from components.data.dataset import ShardedDataset
from components.data.images import decode_map
from components.data.sources.base import Broken, Sample
from tests.components.data.conftest import Prepare
from tests.components.data.sources.conftest import open_with, refused, write_image

Thing = tuple[str, int, int, int, int]


def annotation(*things: Thing, size: tuple[int, int] = (12, 8)) -> str:
    objects = "".join(
        f"<object><name>{name}</name><part><name>head</name></part><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, left, top, right, bottom in things
    )
    width, height = size
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"


def small(root: Path, *names: str) -> Path:
    """Images of 12 x 8 pixels, each with a cat and a dog, all in the training list."""
    for seed, name in enumerate(names):
        write_image(root / "JPEGImages" / f"{name}.png", seed)
        add(root / "Annotations" / f"{name}.xml", annotation(("dog", 1, 1, 12, 8), ("cat", 3, 2, 5, 6)))
    add(root / "ImageSets" / "Main" / "train.txt", "\n".join(names) + "\n\n")
    return root


def add(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def boxes_of(sample: Sample | Broken) -> Any:
    assert isinstance(sample, Sample)
    return json.loads(sample.members["boxes.json"])


def test_boxes_count_from_zero_and_exclude_their_end(tmp_path: Path) -> None:
    small(tmp_path, "a", "c", "b")
    add(tmp_path / "ImageSets" / "Main" / "train.txt", "a\nc\n")
    add(tmp_path / "ImageSets" / "Main" / "val.txt", "b")
    source = open_with("voc", tmp_path)
    assert (source.splits, source.classes) == ({"train": 2, "val": 1}, ("cat", "dog"))
    assert "mask" not in source.fields
    sample = source.read("train", 0)
    assert boxes_of(sample) == {"boxes": [[0, 0, 12, 8], [2, 1, 5, 6]], "labels": [1, 0]}
    assert (source.locate("val", 0), sample.changes) == ("JPEGImages/b.png", ())


def test_boxes_without_area_are_dropped_and_those_too_large_cut(tmp_path: Path) -> None:
    small(tmp_path, "a")
    things = [("cat", 5, 2, 5, 2), ("cat", 0, 0, 99, 5), ("dog", 13, 1, 20, 4), ("dog", 6, 6, 4, 8)]
    add(tmp_path / "Annotations" / "a.xml", annotation(*things))
    sample = open_with("voc", tmp_path).read("train", 0)
    assert boxes_of(sample) == {"boxes": [[0, 0, 12, 5]], "labels": [0]}
    assert sample.changes == ("box without area dropped",) * 3


def test_difficult_objects_are_marked_and_data_with_one_is_prepared_anew(tmp_path: Path) -> None:
    small(tmp_path, "a", "b")
    assert open_with("voc", tmp_path).revision == ""
    path = tmp_path / "Annotations" / "a.xml"
    first, _, second = path.read_text().partition("</object>")
    path.write_text(
        f"{first}<difficult>1</difficult></object>{second.replace('<part>', '<difficult>0</difficult><part>')}"
    )
    source = open_with("voc", tmp_path)
    assert boxes_of(source.read("train", 0))["difficult"] == [1, 0]
    assert "difficult" not in boxes_of(source.read("train", 1))
    assert source.revision == "difficult objects;"


def test_masks_where_all_have_one(tmp_path: Path) -> None:
    small(tmp_path, "a", "b")
    mask = np.array([[0, 1, 2, 255] * 3] * 8, np.uint8)
    write_image(tmp_path / "SegmentationClass" / "a.png", mask)
    assert "mask" not in open_with("voc", tmp_path).fields
    add(tmp_path / "ImageSets" / "Segmentation" / "train.txt", "a")
    source = open_with("voc", tmp_path, sets="Segmentation")
    assert np.array_equal(decode_map(source.read("train", 0).members["mask.png"]), mask)
    write_image(tmp_path / "SegmentationClass" / "a.png", mask % 4 + 1)
    assert refused("voc", tmp_path, sets="Segmentation").startswith("mask a.png has value 4, and there are 2 classes")
    write_image(tmp_path / "SegmentationClass" / "a.png", mask[:4])
    assert refused("voc", tmp_path, sets="Segmentation").startswith("the mask of a is 12 x 4 and its image 12 x 8")


def test_classes_may_be_named(tmp_path: Path) -> None:
    small(tmp_path, "a")
    source = open_with("voc", tmp_path, classes=["dog", "cat", "cow"])
    assert source.classes == ("dog", "cat", "cow")
    assert boxes_of(source.read("train", 0))["labels"] == [0, 1]
    said = refused("voc", tmp_path, classes=["cats", "cow"])
    assert said.startswith("unknown class in a.xml (see data.options.classes) 'dog'") and said.endswith(": cats, cow")


def test_lists_name_what_is_there(tmp_path: Path) -> None:
    small(tmp_path, "a", "b")
    path = tmp_path / "ImageSets" / "Main" / "train.txt"
    add(path, "a\nc\nd\n")
    assert refused("voc", tmp_path).startswith(
        f"{path} names 2 images that are not in {tmp_path / 'JPEGImages'} (first: c)"
    )
    add(path, "a\nb\na\n")
    assert refused("voc", tmp_path) == f"a is listed 2 times for train in {path.parent}: once would be right"
    add(path, "a\nb\n")
    add(path.with_name("val.txt"), "b\n")
    assert refused("voc", tmp_path).startswith(
        f"1 images are listed for train and for val in {path.parent} (first: b): a score on images that were trained on"
    )
    path.with_name("val.txt").unlink()
    (tmp_path / "Annotations" / "b.xml").unlink()
    said = f"1 images have no annotation (first: {tmp_path / 'Annotations' / 'b.xml'}): add it, or take the image away"
    assert refused("voc", tmp_path) == said
    assert refused("voc", tmp_path, sets="main").startswith("unknown folder of ImageSets 'main': did you mean 'Main'?")
    path.rename(path.with_name("trainval.txt"))
    assert refused("voc", tmp_path).startswith(f"no train.txt in {path.parent}")
    assert refused("voc", tmp_path / "ImageSets").startswith(f"no folder JPEGImages in {tmp_path / 'ImageSets'}")


@pytest.mark.parametrize("other", ["a.jpg", "more/a.png"])
def test_two_images_of_one_name_are_refused(tmp_path: Path, other: str) -> None:
    small(tmp_path, "a", "b")
    path = tmp_path / "JPEGImages" / other
    path.parent.mkdir(exist_ok=True)
    write_image(path)
    said = refused("voc", tmp_path)
    assert "have one name: remove one of them" in said and "a.png" in said and other in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation><object>", "b.xml is not XML: "),
        (annotation(size=(24, 16)), "b.xml is for 24 x 16 pixels, the image has 12 x 8"),
        (
            annotation(("cat", 1, 1, 3, 3)).replace("<xmax>3</xmax>", ""),
            "its annotation has an object without bndbox/xmax",
        ),
        (annotation(("cat", 1, 1, 3, 3)).replace("<xmax>3", "<xmax>much"), "its annotation has a box with xmax 'much'"),
        ('<!DOCTYPE a [<!ENTITY b "bb">]>' + annotation(), "b.xml defines entities"),
    ],
)
def test_a_broken_annotation_is_one_broken_sample(tmp_path: Path, text: str, reason: str) -> None:
    small(tmp_path, "a", "b")
    add(tmp_path / "Annotations" / "b.xml", text)
    found = list(open_with("voc", tmp_path).read_many("train", [0, 1]))
    assert isinstance(found[0], Sample) and isinstance(found[1], Broken)
    assert found[1].name == "JPEGImages/b.png" and found[1].reason.startswith(reason)


def test_images_in_no_list_are_counted_and_lists_are_text(tmp_path: Path) -> None:
    small(tmp_path, "a", "b", "c")
    add(tmp_path / "ImageSets" / "Main" / "train.txt", "\ufeffa\n")
    source = open_with("voc", tmp_path)
    assert (source.splits, source.left_out) == ({"train": 1}, {"JPEGImages": 2})
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes("café\n".encode("latin-1"))
    assert "train.txt is no text in UTF-8 (byte 3)" in refused("voc", tmp_path)


def test_without_lists_every_image_is_a_training_image(tmp_path: Path) -> None:
    small(tmp_path, "a", "b")
    (tmp_path / "ImageSets").rename(tmp_path / "Other")
    assert open_with("voc", tmp_path).splits == {"train": 2}


def test_the_real_bccd(shared_data: Path, tmp_path: Path, home: Path, prepare: Prepare) -> None:
    config = DataConfig(
        source="voc", root=str(shared_data / "bccd" / "bccd.tar"), resize=120, encode="jpeg", quality=80
    )
    index = prepare(config, tmp_path)
    assert {split: index.samples(split) for split in index.splits} == {"train": 205, "val": 87}
    assert index.classes == ("Platelets", "RBC", "WBC")
    assert index.converted == {"box without area dropped": 2, "resized": 292}
    counts = np.zeros(3, int)
    bluer = []
    for split in index.splits:
        data = ShardedDataset(index, split, lambda name: tmp_path / name, 96)
        picture_B3HW = data.get(np.arange(len(data)))["image"].float()
        violet_BHW = picture_B3HW[:, 2] - picture_B3HW[:, 1]
        for k in range(len(data)):
            counts += np.bincount(json.loads(data.member(k, "boxes"))["labels"], minlength=3)
            boxes_K4, labels_K = data.boxes(k)
            for left, top, right, bottom in boxes_K4[labels_K == 2].round().astype(int).tolist():
                bluer.append(bool(violet_BHW[k, top:bottom, left:right].mean() > violet_BHW[k].mean()))
    assert counts.sum() == 3943 - 2 and counts[2] == 301
    assert np.mean(bluer) > 0.95, "the nuclei of white cells are violet, and nothing else is"
