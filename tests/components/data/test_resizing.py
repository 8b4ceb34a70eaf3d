"""Resizing and re-encoding while preparing: formats, sizes, and that everything stays where it belongs."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.config import DataConfig
from components.data.boxes import pack_boxes, unpack_boxes
from components.data.dataset import ShardedDataset
from components.data.images import IMAGE_EXTENSIONS, decode_full, decode_map, encode, encode_png, image_size
from components.data.resizing import refit
from components.data.sources.base import Sample
from tests.components.data.conftest import Prepare

FIELDS = {
    "image": IMAGE_EXTENSIONS,
    "target": "target.jpg;target.png;target.webp",
    "mask": "mask.png",
    "edges": "edges.png",
    "boxes": "boxes.json",
    "label": "cls",
}


def scene(extension: str = "png") -> Sample:
    """A white rectangle on a dark slope, 120 x 80, known to every field."""
    image = np.zeros((80, 120, 3), np.uint8)
    image[:, :, 2] = np.arange(120)
    image[20:60, 30:90] = 250
    mask = (image[:, :, 0] > 0).astype(np.uint8) * 3
    return Sample(
        "k",
        {
            extension: encode(image, extension),
            f"target.{extension}": encode(255 - image, extension),
            "mask.png": encode_png(mask),
            "edges.png": encode_png(image),
            "boxes.json": pack_boxes([[30, 20, 90, 60]], [2]),
            "cls": b"2",
        },
        ("grey",),
    )


def refitted(sample: Sample, **changes: Any) -> Sample:
    return refit(sample, FIELDS, DataConfig(**changes))


def found_in(map_HW: np.ndarray) -> list[int]:
    """Left, top, right, bottom of what is true."""
    rows, columns = np.flatnonzero(map_HW.any(1)), np.flatnonzero(map_HW.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def test_nothing_asked_nothing_done() -> None:
    sample = scene()
    assert refitted(sample) is sample
    assert refitted(sample, encode="png") == sample
    assert refitted(sample, resize=80) == sample, "never enlarged, and what fits keeps its bytes"
    assert refitted(sample, resize=500) == sample


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("side", [40, 33])
def test_everything_shrinks_alike(kind: str, side: int) -> None:
    out = refitted(scene(kind), resize=side)
    size = (round(120 * side / 80), side)
    assert list(out.members) == [kind, f"target.{kind}", "mask.png", "edges.png", "boxes.json", "cls"]
    assert out.changes == ("grey", "resized")
    boxes_K4, labels_K = unpack_boxes(out.members["boxes.json"])
    assert labels_K.tolist() == [2]
    mask_HW = decode_map(out.members["mask.png"])
    assert set(np.unique(mask_HW).tolist()) == {0, 3}
    image_HW3 = decode_full(out.members[kind])
    target_HW3, edges_HW3 = (decode_full(out.members[e]) for e in (f"target.{kind}", "edges.png"))
    for shown_HW in (mask_HW == 3, image_HW3[:, :, 0] > 125, target_HW3[:, :, 0] < 130, edges_HW3[:, :, 1] > 125):
        assert shown_HW.shape[::-1] == size
        assert np.abs(boxes_K4[0] - found_in(shown_HW)).max() <= 1
    assert np.abs(boxes_K4[0] - np.array([30, 20, 90, 60]) * side / 80).max() < 0.5


@pytest.mark.parametrize(
    ("name", "extension", "kind"), [("jpeg", "jpg", "JPEG"), ("webp", "webp", "WEBP"), ("png", "png", "PNG")]
)
def test_formats(name: str, extension: str, kind: str) -> None:
    out = refitted(scene("jpg" if extension == "png" else "png"), encode=name)
    assert list(out.members)[:2] == [extension, f"target.{extension}"]
    assert out.changes == ("grey", f"encoded as {name}")
    for member in (extension, f"target.{extension}"):
        with Image.open(io.BytesIO(out.members[member])) as image:
            assert (image.format, image.mode, image.size) == (kind, "RGB", (120, 80))
    assert out.members["mask.png"] == scene().members["mask.png"]


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_quality(name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    sample = Sample("k", {"png": encode_png(noise)})
    sizes = [len(next(iter(refitted(sample, encode=name, quality=q).members.values()))) for q in (30, 60, 95)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2] / 2


def test_large_jpegs_are_shrunk_as_if_decoded_in_full() -> None:
    y, x = np.mgrid[0:400, 0:600]
    image = np.stack([x * 0.4, y * 0.6, 128 + 60 * np.sin(x / 60)], 2).astype(np.uint8)
    out = refitted(Sample("k", {"jpg": encode(image, "jpg")}), resize=64, encode="png")
    assert image_size(out.members["png"]) == (96, 64)
    reference = np.asarray(Image.fromarray(image).resize((96, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(decode_full(out.members["png"]) - reference).mean() < 2


def test_shards_hold_what_was_asked_for(tmp_path: Path, prepare: Prepare) -> None:
    (tmp_path / "raw").mkdir()
    for k in range(10):
        (tmp_path / "raw" / f"{k}.png").write_bytes(scene().members["png"])
    index = prepare(DataConfig(source="folder", root=str(tmp_path / "raw"), resize=32, encode="webp"), tmp_path / "out")
    assert index.source["resize"] == 32 and index.source["encode"] == "webp"
    assert index.converted == {"resized": 10, "encoded as webp": 10}
    data = ShardedDataset(index, "train", lambda name: tmp_path / "out" / name, 32)
    assert data.member(0, "image")[8:12] == b"WEBP"
    assert data.get(np.arange(len(data)))["image"].shape == (9, 3, 32, 32)
