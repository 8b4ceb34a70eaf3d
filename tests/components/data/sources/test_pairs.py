"""Pairs: halves of a file or files of one name, in every layout; what has no equal partner is refused."""

from pathlib import Path

import numpy as np
import pytest

from components.config import DataConfig
from components.data.dataset import ShardedDataset
from components.data.images import decode_full, image_size
from components.data.sources.base import Broken
from tests.components.data.conftest import Prepare
from tests.components.data.sources.conftest import open_with, pack, refused, write_image


@pytest.mark.parametrize("image", ["left", "right"])
def test_halves(tmp_path: Path, image: str) -> None:
    pixels = write_image(tmp_path / "train" / "a.png", 1)
    write_image(tmp_path / "val" / "b.png", 2)
    target = "right" if image == "left" else "left"
    source = open_with("pairs", tmp_path, image=image, target=target)
    assert source.splits == {"train": 1, "val": 1}
    sample = source.read("train", 0)
    halves = {"left": pixels[:, :6], "right": pixels[:, 6:]}
    assert np.array_equal(decode_full(sample.members["png"]), halves[image])
    assert np.array_equal(decode_full(sample.members["target.png"]), halves[target])
    assert (sample.changes, source.locate("val", 0)) == (("cut into halves",), "val/b.png")


@pytest.mark.parametrize("layout", ["A/{}.png", "A/train/{}.png", "train/A/{}.png", "train.tar"])
def test_two_folders_in_every_layout(tmp_path: Path, home: Path, layout: str) -> None:
    inside = "A/{}.png" if layout == "train.tar" else layout
    root = tmp_path / "raw"
    expected = {}
    for seed, name in enumerate(["x", "y", "z"]):
        path = inside.format(name)
        first = write_image(root / path, seed)
        second = write_image(root / path.replace("A/", "B/").replace(".png", ".bmp"), seed + 10)
        expected[name] = (first, second)
    if layout == "train.tar":
        pack(root, tmp_path / "train.tar")
        root = tmp_path
    source = open_with("pairs", root, image="A", target="B")
    assert source.splits == {"train": 3}
    for index, name in enumerate(expected):
        sample = source.read("train", index)
        assert np.array_equal(decode_full(sample.members["png"]), expected[name][0])
        assert np.array_equal(decode_full(sample.members["target.png"]), expected[name][1])
        assert (source.locate("train", index), sample.changes) == (f"train/{name}.png", ("format BMP",))


def test_partners_must_be_there_and_equal(tmp_path: Path) -> None:
    for name in ("A/x.png", "A/y.png", "B/y.png"):
        write_image(tmp_path / name)
    said = refused("pairs", tmp_path, image="A", target="B")
    alone = tmp_path / "A" / "x.png"
    assert said == f"1 of 2 + 1 images have no partner of the same name (first: {alone}): add it or remove the image"
    write_image(tmp_path / "B" / "x.png", size=(12, 9))
    assert refused("pairs", tmp_path, image="A", target="B") == (
        "train/x.png is 12 x 8 and its target 12 x 9: pairs must be of one size; resize or remove it"
    )
    write_image(tmp_path / "A" / "x.bmp")
    assert "x.bmp and x.png have one name: remove one of them" in refused("pairs", tmp_path, image="A", target="B")


def test_a_split_that_only_one_folder_has(tmp_path: Path) -> None:
    for name in ("A/train/x.png", "A/val/y.png", "B/train/x.png"):
        write_image(tmp_path / name)
    said = refused("pairs", tmp_path, image="A", target="B")
    assert said.startswith("only one of the folders A and B in ") and said.endswith(" has a val split")


def test_wrong_options_and_places(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "x.png", size=(13, 8))
    assert refused("pairs", tmp_path).startswith("train/x.png is 13 pixels wide and cannot be cut into equal halves")
    assert refused("pairs", tmp_path, image="A", target="B").startswith("no folder 'A' in ")
    assert refused("pairs", tmp_path, imgae="right").startswith(
        "unknown key 'data.options.imgae': did you mean 'data.options.image'?"
    )
    for options in ({"image": "right"}, {"image": "left", "target": "B"}):
        said = refused("pairs", tmp_path, **options)
        assert said.startswith("data.options: image and target must be left and right, or the names of two folders")
    assert refused("pairs", tmp_path / "nowhere").startswith(
        f"nothing at {tmp_path / 'nowhere'}: use --set data.root=PATH with"
    )


def test_a_broken_partner_is_named(tmp_path: Path) -> None:
    for name in ("A/x.png", "B/x.png", "A/y.png", "B/y.png"):
        write_image(tmp_path / name)
    (tmp_path / "B" / "y.png").write_bytes(b"no image")
    found = list(open_with("pairs", tmp_path, image="A", target="B").read_many("train", [0, 1]))
    assert isinstance(found[1], Broken) and (found[1].name, found[1].reason) == ("train/y.png", "not an image")
    assert not isinstance(found[0], Broken)


def test_the_real_facades(shared_data: Path, tmp_path: Path, home: Path, prepare: Prepare) -> None:
    archive = shared_data / "facades" / "facades.tar"
    options = {"image": "right", "target": "left"}
    config = DataConfig(source="pairs", root=str(archive), options=options, samples=40, shard_samples=64)
    index = prepare(config, tmp_path / "out")
    assert {split: index.samples(split) for split in index.splits} == {"train": 40, "val": 60}
    assert index.converted == {"cut into halves": 100} and not index.skipped
    data = ShardedDataset(index, "val", lambda name: tmp_path / "out" / name, 64, ("image", "target"))
    batch = data.get(np.arange(60))
    assert batch["image"].shape == batch["target"].shape == (60, 3, 64, 64)
    # Label maps are nearly all saturated colour on blue; photographs are not.
    spread = {field: (value.amax(1).int() - value.amin(1).int()).float().mean() for field, value in batch.items()}
    assert spread["image"] > 150 > 60 > spread["target"]
    assert image_size(data.member(0, "target")) == (256, 256)
