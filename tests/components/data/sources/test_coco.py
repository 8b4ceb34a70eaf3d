"""COCO: boxes, masks from polygons and run lengths against slow references, and lists that do not hold."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.data.images import decode_map
from components.data.sources.base import Broken
from components.data.sources.coco import fill_polygon, unpack_runs
from tests.components.data.sources.conftest import Array, open_with, refused, write_image

SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]


def content(**changes: Any) -> dict[str, Any]:
    """Two images of 12 x 8 pixels, the second without objects; ids and categories are not in order."""
    things = [
        {"id": 5, "image_id": 70, "category_id": 9, "bbox": [2, 1, 4, 4], "segmentation": [SQUARE], "iscrowd": 0},
        {
            "id": 6,
            "image_id": 70,
            "category_id": 3,
            "bbox": [0, 0, 12, 8.5],
            "segmentation": [[0, 0, 12, 0, 12, 8, 0, 8]],
        },
        {"id": 7, "image_id": 70, "category_id": 3, "bbox": [3, 3, 0, 2], "segmentation": []},
    ]
    images = [
        {"id": 70, "file_name": "a.png", "width": 12, "height": 8},
        {"id": 4, "file_name": "b.png", "width": 12, "height": 8},
    ]
    categories = [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}]
    return {"images": images, "annotations": things, "categories": categories} | changes


def small(root: Path, value: Any = None, name: str = "train2017") -> Path:
    """The layout of COCO; returns the list."""
    for seed, image in enumerate(("a.png", "b.png")):
        write_image(root / name / image, seed)
    path = root / "annotations" / f"instances_{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content() if value is None else value))
    return path


def with_segmentation(segmentation: Any, crowd: int = 0) -> dict[str, Any]:
    thing = {"id": 1, "image_id": 70, "category_id": 3, "bbox": [1, 1, 5, 5], "iscrowd": crowd}
    return content(annotations=[thing | {"segmentation": segmentation}])


def test_boxes_and_masks(tmp_path: Path, home: Path) -> None:
    small(tmp_path)
    small(tmp_path, name="val2017")
    source = open_with("coco", tmp_path)
    assert (source.splits, source.classes) == ({"train": 2, "val": 2}, ("dog", "cat"))
    sample = source.read("train", 0)
    assert json.loads(sample.members["boxes.json"]) == {"boxes": [[2, 1, 6, 5], [0, 0, 12, 8]], "labels": [1, 0]}
    assert source.revision == ""
    assert sample.changes == ("box without area dropped",)
    expected = np.full((8, 12), 1)
    expected[1:5, 2:6] = 2
    assert decode_map(sample.members["mask.png"]).tolist() == expected.tolist()
    empty = source.read("train", 1)
    assert json.loads(empty.members["boxes.json"]) == {"boxes": [], "labels": []}
    assert not decode_map(empty.members["mask.png"]).any()
    assert source.locate("val", 0) == "val2017/a.png"


def inside(corners: Array, x: float, y: float) -> bool:
    """The even-odd rule, one point at a time: cross the polygon on a ray to the right."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            crossings += 1
    return crossings % 2 == 1


@pytest.mark.parametrize("seed", range(5))
def test_polygons_against_one_pixel_at_a_time(seed: int) -> None:
    corners = np.random.default_rng(seed).uniform(-4, 24, (7, 2))
    expected = [[inside(corners, x + 0.5, y + 0.5) for x in range(20)] for y in range(16)]
    assert fill_polygon(corners, 16, 20).tolist() == expected


def packed(runs: list[int]) -> str:
    """The compressed text of run lengths, by the description of the format."""
    text = ""
    for k, run in enumerate(runs):
        value = run - (runs[k - 2] if k > 2 else 0)
        while True:
            bits, value = value & 31, value >> 5
            done = value == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if done else 32))
            if done:
                break
    return text


@pytest.mark.parametrize("runs", [[0, 96], [5, 3, 70, 1, 17], [1, 33, 2, 44, 3, 13], [96]])
def test_run_lengths(tmp_path: Path, home: Path, runs: list[int]) -> None:
    assert unpack_runs(packed(runs)) == runs
    column_by_column = [k % 2 for k, run in enumerate(runs) for _ in range(run)]
    expected = [[column_by_column[x * 8 + y] for x in range(12)] for y in range(8)]
    for number, counts in enumerate((runs, packed(runs))):
        small(tmp_path / str(number), with_segmentation({"size": [8, 12], "counts": counts}, crowd=1))
        sample = open_with("coco", tmp_path / str(number)).read("train", 0)
        assert decode_map(sample.members["mask.png"]).tolist() == expected
        found = json.loads(sample.members["boxes.json"])
        assert found["boxes"] == [], "crowds are no single objects"
        assert found["crowds"] == {"boxes": [[1, 1, 6, 6]], "labels": [0]}
        assert open_with("coco", tmp_path / str(number)).revision == "crowds;"


def test_the_text_of_run_lengths_as_others_write_it() -> None:
    """Worked out by hand: 6 is "6"; 100 = 3 * 32 + 4 is "T3" (4 + 32, then 3); 1 is "1"; 98 - 100 = -2 is "N"."""
    assert unpack_runs("6T31N") == [6, 100, 1, 98]


@pytest.mark.parametrize("wrong", [{"size": [8, 12], "counts": [5, 5]}, {"size": [12, 8], "counts": [96]}, [[1, 2, 3]]])
def test_a_segmentation_that_does_not_fit_is_a_broken_sample(tmp_path: Path, home: Path, wrong: Any) -> None:
    small(tmp_path, with_segmentation(wrong))
    (found,) = open_with("coco", tmp_path).read_many("train", [0])
    assert isinstance(found, Broken) and found.reason.startswith("its list has a segmentation that is neither")


def test_wrong_lists(tmp_path: Path, home: Path) -> None:
    thing = content()["annotations"][0]
    image = content()["images"][0]
    for changes, said in [
        ({"annotations": [thing | {"category_id": 1}]}, "annotation 5 has category 1, which the list lacks"),
        ({"annotations": [thing | {"image_id": 1}]}, "annotation 5 is for image 1, which the list lacks"),
        ({"images": [image | {"file_name": "../secret.png"}], "annotations": []}, "which leads elsewhere"),
        ({"categories": []}, "which the list lacks"),
        ({"images": [], "annotations": []}, "names 0 images and 2 categories"),
        (
            {"images": [*content()["images"], image | {"file_name": "c.png"}]},
            "1 images have the id of another: correct",
        ),
        ({"categories": [*content()["categories"], {"id": 3, "name": "cow"}]}, "1 categories have the id of another"),
        ({"annotations": [{"id": 1}]}, "is not a list of instances as COCO writes it (KeyError('category_id'))"),
    ]:
        path = small(tmp_path, content(**changes))
        text = refused("coco", tmp_path)
        assert text.startswith(str(path)) and said in text
    path.write_text("{")
    assert "is not a list of instances as COCO writes it (JSONDecodeError(" in refused("coco", tmp_path)
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_an_image_of_two_lists_is_refused(tmp_path: Path, home: Path) -> None:
    small(tmp_path, name="train")
    path = small(tmp_path, name="val")
    assert open_with("coco", tmp_path).splits == {"train": 2, "val": 2}  # of one name, in folders of their own
    (tmp_path / "train").rename(tmp_path / "images")
    shutil.rmtree(tmp_path / "val")
    assert f"2 images are listed for train and for val in {path.parent} (first: " in refused("coco", tmp_path)
    value = content()
    path.write_text(json.dumps(value | {"images": [i | {"file_name": "c.png"} for i in value["images"]]}))
    assert f"{tmp_path / 'images' / 'c.png'} is listed 2 times for val in {path.parent}" in refused("coco", tmp_path)


def test_wrong_folders(tmp_path: Path, home: Path) -> None:
    path = small(tmp_path)
    (tmp_path / "train2017" / "b.png").unlink()
    assert refused("coco", tmp_path).startswith(
        f"the train list names {tmp_path / 'train2017' / 'b.png'}, and there is"
    )
    write_image(tmp_path / "train2017" / "b.png", size=(10, 8))
    found = list(open_with("coco", tmp_path).read_many("train", [1]))
    assert isinstance(found[0], Broken) and found[0].reason == "it is 12 x 8 pixels by its list, and 10 x 8 in truth"
    small(tmp_path, content(categories=[{"id": 9, "name": "cow"}, {"id": 3, "name": "dog"}]), "val2017")
    assert refused("coco", tmp_path).startswith("the train and val lists in ")
    path.rename(path.with_name("instances_train.json"))
    path.with_name("instances_val2017.json").rename(path)
    assert refused("coco", tmp_path).startswith("two lists for the train split in ")
    path.rename(path.with_name("instances_mine.json"))
    assert "instances_mine.json is of no split: call it" in refused("coco", tmp_path)
    path.with_name("instances_mine.json").unlink()
    path.with_name("instances_train.json").unlink()
    assert refused("coco", tmp_path).startswith(
        f"no annotations/instances_train*.json in {tmp_path}: use --set data.root=PATH with"
    )


def bare(thing: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in thing.items() if key != "segmentation"} | changes


@pytest.mark.parametrize("nothing", [{}, {"segmentation": []}, {"segmentation": [[]]}])
def test_boxes_alone_have_no_mask(tmp_path: Path, home: Path, nothing: dict[str, Any]) -> None:
    things = [bare(thing, **nothing) for thing in content()["annotations"]]
    small(tmp_path, content(annotations=things))
    source = open_with("coco", tmp_path)
    assert "mask" not in source.fields and source.revision
    assert all("mask.png" not in source.read("train", k).members for k in range(source.splits["train"]))


def test_what_nobody_drew_is_unknown_in_the_mask(tmp_path: Path, home: Path) -> None:
    drawn = content()["annotations"][0] | {"bbox": [1, 1, 3, 2], "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]}
    boxed = bare(drawn, id=99, bbox=[2, 2, 6, 4])
    small(tmp_path, content(annotations=[drawn, boxed]))
    image = next(i for i, each in enumerate(content()["images"]) if each["id"] == drawn["image_id"])
    source = open_with("coco", tmp_path)
    mask = decode_map(source.read("train", image).members["mask.png"])
    expected = np.zeros_like(mask)
    expected[2:6, 2:8] = 255
    expected[1:3, 1:4] = mask[1, 1]
    assert mask[1, 1] in (1, 2) and mask.tolist() == expected.tolist()


def test_images_of_a_list_without_any_object_are_unknown(tmp_path: Path, home: Path) -> None:
    small(tmp_path)
    assert not open_with("coco", tmp_path).revision
    small(tmp_path, content(annotations=[]), "test2017")
    source = open_with("coco", tmp_path)
    assert source.revision and set(np.unique(decode_map(source.read("test", 0).members["mask.png"]))) == {255}
    assert set(np.unique(decode_map(source.read("train", 0).members["mask.png"]))) != {255}
