"""Masks: values become classes by the file that names them, and nothing without a name passes."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.config import DataConfig
from components.data.dataset import ShardedDataset
from components.data.images import decode_map
from tests.components.data.conftest import Prepare, chunks
from tests.components.data.sources.conftest import open_with, refused, write_image

CLASSES = "id,name\n7,road\n4,tree\n9,nothing\n"


def small(root: Path, mask: list[list[int]], classes: str = CLASSES) -> None:
    """One image with its mask."""
    values = np.array(mask, np.uint8)
    write_image(root / "images" / "x.png", 1, values.shape[::-1])
    write_image(root / "masks" / "x.png", values)
    (root / "classes.csv").write_text(classes)


@pytest.mark.parametrize("palette", [False, True])
def test_values_become_classes(tmp_path: Path, palette: bool) -> None:
    small(tmp_path, [[7, 4, 9], [4, 255, 7]])
    if palette:
        image = Image.open(tmp_path / "masks" / "x.png").copy()
        image.putpalette(list(range(256)) * 3)
        image.save(tmp_path / "masks" / "x.png")
    source = open_with("masks", tmp_path, ignore=[9, 255])
    assert source.classes == ("tree", "road")
    mask_HW = decode_map(source.read("train", 0).members["mask.png"])
    assert mask_HW.tolist() == [[2, 1, 255], [1, 255, 2]]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_fewer_bits_are_what_the_file_says(tmp_path: Path, bits: int) -> None:
    """Decoders of pictures stretch them to 8 bits, as if they were greys."""
    labels = np.arange(1 << bits, dtype=np.uint8)[None]
    packed = np.packbits(np.unpackbits(labels[..., None], axis=-1)[..., -bits:].reshape(1, -1)).tobytes()
    header = struct.pack(">IIBBBBB", labels.size, 1, bits, 0, 0, 0, 0)
    png = chunks((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + packed)), (b"IEND", b""))
    assert decode_map(png).tolist() == labels.tolist()
    small(tmp_path, labels.tolist(), "".join(f"{k},c{k}\n" for k in range(1 << bits)))
    (tmp_path / "masks" / "x.png").write_bytes(png)
    stored = decode_map(open_with("masks", tmp_path).read("train", 0).members["mask.png"])
    assert stored.tolist() == (labels + 1).tolist()


def test_a_file_of_classes_with_a_mark_of_utf8(tmp_path: Path) -> None:
    small(tmp_path, [[7, 4]], "\ufeff7,road\n4,tree\n\n")
    assert open_with("masks", tmp_path).classes == ("tree", "road")


def test_names_alone_are_numbered_from_zero(tmp_path: Path) -> None:
    small(tmp_path, [[0, 1]], "sky\nground\n")
    source = open_with("masks", tmp_path)
    assert source.classes == ("sky", "ground")
    assert decode_map(source.read("train", 0).members["mask.png"]).tolist() == [[1, 2]]


def test_a_value_without_a_name(tmp_path: Path) -> None:
    small(tmp_path, [[7, 11]])
    assert refused("masks", tmp_path) == (
        f"the mask of train/x.png has value 11, which {tmp_path / 'classes.csv'} does not name: add it there, or pass "
        "over such pixels with --set 'data.options.ignore=[255, 11]'"
    )


def test_wrong_files(tmp_path: Path) -> None:
    small(tmp_path, [[7, 4]])
    write_image(tmp_path / "images" / "x.png", size=(3, 1))
    assert refused("masks", tmp_path).startswith("the mask of train/x.png is 2 x 1 and its image 3 x 1: they must be")
    write_image(tmp_path / "images" / "y.png")
    assert f"have no partner of the same name (first: {tmp_path}/images/y.png)" in refused("masks", tmp_path)
    (tmp_path / "classes.csv").write_text("id,name\n7,road\nfour,tree\n")
    assert "'four,tree' is no class; lines must be 'value,name'" in refused("masks", tmp_path)
    for text, said in (
        ("value;name\n7;road\n4;tree\n", "'7;road' is no class; put a comma between"),
        ("7,road\n4,tree\n7,street\n", "names value 7 twice"),
        ("7,road\n4,road\n", "has 'road' for several values, and each would be a class"),
    ):
        (tmp_path / "classes.csv").write_text(text)
        assert said in refused("masks", tmp_path)
    (tmp_path / "classes.csv").write_bytes("7,café\n".encode("latin-1"))
    assert "is no text in UTF-8 (byte 5): save it as such" in refused("masks", tmp_path)
    (tmp_path / "classes.csv").write_text("")
    assert "names 0 classes: there must be 1 to 254" in refused("masks", tmp_path)
    assert refused("masks", tmp_path, classes="names.txt").startswith(f"no file of classes at {tmp_path / 'names.txt'}")


def test_a_coloured_mask_is_a_broken_file(tmp_path: Path, prepare: Prepare) -> None:
    for k in range(4):
        write_image(tmp_path / "raw" / "images" / f"{k}.png", size=(4, 4))
        write_image(tmp_path / "raw" / "masks" / f"{k}.png", np.zeros((4, 4), np.uint8))
    write_image(tmp_path / "raw" / "masks" / "2.png", size=(4, 4))
    (tmp_path / "raw" / "classes.csv").write_text("sky\n")
    config = DataConfig(source="masks", root=str(tmp_path / "raw"), max_skipped=0.3, validation=0.3)
    (skipped,) = prepare(config, tmp_path / "out").skipped
    assert (skipped.name, skipped.reason) == (
        "train/2.png",
        "a map of labels must have one 8-bit channel, this has mode RGB",
    )


def test_the_real_camvid(shared_data: Path, tmp_path: Path, home: Path, prepare: Prepare) -> None:
    root = shared_data / "camvid"
    options = {"ignore": [11]}
    config = DataConfig(source="masks", root=str(root), options=options, samples=30, resize=120)
    index = prepare(config, tmp_path)
    assert {split: index.samples(split) for split in index.splits} == {"train": 30, "val": 101}
    assert len(index.classes) == 11 and index.classes[3] == "Road" and not index.skipped
    data = ShardedDataset(index, "val", lambda name: tmp_path / name, 96, ("image", "mask"))
    mask_BHW = data.get(np.arange(101))["mask"]
    assert set(np.unique(mask_BHW.numpy()).tolist()) <= {*range(1, 12), 255}
    assert (mask_BHW[:, -24:] == 4).float().mean() > 0.5, "below is the road"
    assert (mask_BHW[:, :24] == 4).float().mean() < 0.01, "above is none"
