"""Boxes: stored and read back, cut, and moved as the pictures of the same sample are."""

import json
from pathlib import Path

import numpy as np
import pytest

from components.data.boxes import (
    Objects,
    clean_boxes,
    clean_objects,
    crop_boxes,
    pack_boxes,
    pack_objects,
    scale_boxes,
    unpack_boxes,
    unpack_objects,
)
from components.data.dataset import ShardedDataset
from components.data.images import BrokenImage, encode_png
from components.data.shards import Index, write_shard
from components.data.sources.base import Sample

BOXES = np.array([[1, 2, 3, 4], [0.5, 0.25, 7.1234567, 8]])


def test_stored_and_read_back() -> None:
    data = pack_boxes(BOXES, [3, 0])
    assert data == b'{"boxes":[[1,2,3,4],[0.5,0.25,7.123,8]],"labels":[3,0]}'
    boxes_K4, labels_K = unpack_boxes(data)
    assert np.abs(boxes_K4 - BOXES).max() < 1e-3 and labels_K.tolist() == [3, 0]
    assert unpack_boxes(pack_boxes([], []))[0].shape == (0, 4)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"boxes":[[1,2,3]],"labels":[1]}', b'{"boxes":[],"labels":[1]}'])
def test_what_is_no_text_of_boxes(data: bytes) -> None:
    with pytest.raises(BrokenImage):
        unpack_boxes(data)


def test_flags_are_written_where_there_are_any_and_crowds_apart() -> None:
    boxes_K4 = [[0, 0, 4, 4], [1, 1, 9, 9], [2, 2, 3, 3]]
    objects = Objects.of(boxes_K4, [5, 6, 7], [True, False, False], [False, True, False])
    data = pack_objects(objects)
    assert json.loads(data) == {
        "boxes": [[0, 0, 4, 4], [2, 2, 3, 3]],
        "labels": [5, 7],
        "difficult": [1, 0],
        "crowds": {"boxes": [[1, 1, 9, 9]], "labels": [6]},
    }
    assert pack_objects(Objects.of(boxes_K4, [5, 6, 7])) == pack_boxes(boxes_K4, [5, 6, 7])
    again = unpack_objects(data)
    assert again.labels_K.tolist() == [5, 7, 6] and again.boxes_K4[2].tolist() == [1, 1, 9, 9]
    assert again.difficult_K.tolist() == [True, False, False] and again.crowd_K.tolist() == [False, False, True]
    assert unpack_boxes(data)[1].tolist() == [5, 7], "crowds are no single objects"
    cut, changes = clean_objects(Objects.of([[3, 3, 3, 5], [0, 0, 99, 2]], [0, 1], [False, True]), 10, 10)
    assert json.loads(cut) == {"boxes": [[0, 0, 10, 2]], "labels": [1], "difficult": [1]} and len(changes) == 1
    half = unpack_objects(data).scaled((10, 10), (5, 20))
    assert half.boxes_K4[1].tolist() == [1, 4, 1.5, 6] and half.crowd_K.tolist() == again.crowd_K.tolist()


@pytest.mark.parametrize(
    "more", ['"difficult":[1]', '"difficult":1', '"crowds":[1]', '"crowds":{"boxes":[[0,0,1,1]],"labels":[]}']
)
def test_flags_that_do_not_fit_are_broken(more: str) -> None:
    with pytest.raises(BrokenImage):
        unpack_objects(f'{{"boxes":[[0,0,1,1],[0,0,2,2]],"labels":[0,1],{more}}}'.encode())


def test_raw_boxes_are_cut_and_counted() -> None:
    data, changes = clean_boxes([[-5, 2, 30, 9], [4, 4, 4, 6], [25, 0, 30, 5], [1, 1, 2, 2]], [0, 1, 2, 3], 20, 8)
    assert json.loads(data) == {"boxes": [[0, 2, 20, 8], [1, 1, 2, 2]], "labels": [0, 3]}
    assert changes == ("box without area dropped",) * 2


def test_scaled() -> None:
    boxes_K4, _ = scale_boxes((np.array([[10.0, 20, 30, 40]]), np.array([0])), (100, 200), (50, 50))
    assert boxes_K4.tolist() == [[5, 5, 15, 10]]


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (64, 64)])
@pytest.mark.parametrize(
    ("size", "margin", "corner"), [(32, 0, None), (32, 8, (0, 8)), (32, 8, None), (100, 12, (5, 1))]
)
def test_boxes_lie_where_the_pictures_show_them(
    tmp_path: Path, width: int, height: int, size: int, margin: int, corner: tuple[int, int] | None
) -> None:
    """A white rectangle on black, through shards, crop and resize: its box is found again in the pixels."""
    image = np.zeros((height, width, 3), np.uint8)
    image[28:44, 22:40] = 255
    members = {"png": encode_png(image), "mask.png": encode_png(image[:, :, 0] // 255)}
    members["boxes.json"] = pack_boxes([[22, 28, 40, 44], [0, 0, 1, 1]], [1, 0])
    entry = write_shard([Sample("k", members | {"target.png": members["png"]})], tmp_path / "train-0.tar")
    assert entry is not None
    fields = {"image": "png", "target": "target.png", "mask": "mask.png", "boxes": "boxes.json"}
    index = Index(source={}, fields=fields, classes=("a", "b"), splits={"train": (entry,)})
    data = ShardedDataset(
        index, "train", lambda name: tmp_path / name, size, ("image", "target", "mask"), margin=margin
    )
    batch = data.get(np.array([0]), None if corner is None else np.array([corner]))
    boxes_K4, labels_K = data.boxes(0, corner)
    assert labels_K[0] == 1
    for shown_HW in (batch["image"][0, 0] > 127, batch["target"][0, 1] > 127, batch["mask"][0] == 1):
        rows, columns = (np.flatnonzero(shown_HW.any(dim).numpy()) for dim in (1, 0))
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(boxes_K4[0] - found).max() <= 1


def test_what_the_crop_leaves_out_is_dropped() -> None:
    boxes = np.array([[0.0, 0, 9, 9], [5, 0, 15, 10], [40, 5, 60, 20]]), np.array([0, 1, 2])
    boxes_K4, labels_K = crop_boxes(boxes, (60, 40), 20, (0, 0), 20)
    assert labels_K.tolist() == [1, 2]
    assert boxes_K4.tolist() == [[0, 0, 2.5, 5], [15, 2.5, 20, 10]]
