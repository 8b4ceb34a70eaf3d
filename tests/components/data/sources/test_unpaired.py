"""Two domains: splits of their own in one index, each with a validation cut of its own."""

from pathlib import Path

import numpy as np
import pytest

from components.config import DataConfig
from components.data.images import decode_full
from tests.components.data.conftest import Prepare
from tests.components.data.sources.conftest import open_with, refused, write_image


@pytest.mark.parametrize("image", ["A", "B"])
def test_domains(tmp_path: Path, image: str) -> None:
    pixels = {name: write_image(tmp_path / name, seed) for seed, name in enumerate(["trainA/x.png", "trainB/x.png"])}
    write_image(tmp_path / "trainB" / "y.png")
    write_image(tmp_path / "testA" / "z.png")
    source = open_with("unpaired", tmp_path, image=image)
    one, two, test = (1, 2, "test") if image == "A" else (2, 1, "other_test")
    assert source.splits == {"train": one, "other_train": two, test: 1}
    other = "B" if image == "A" else "A"
    for split, letter in (("train", image), ("other_train", other)):
        sample = source.read(split, 0)
        assert np.array_equal(decode_full(sample.members["png"]), pixels[f"train{letter}/x.png"])
        assert source.locate(split, 0) == f"train{letter}/x.png"
        assert sample.key == f"{split}-000000000-x"


def test_each_domain_has_its_own_validation_cut(tmp_path: Path, prepare: Prepare) -> None:
    for domain, count in (("A", 10), ("B", 30)):
        for k in range(count):
            write_image(tmp_path / "raw" / f"train{domain}" / f"{k}.png", k)
    config = DataConfig(source="unpaired", root=str(tmp_path / "raw"), validation=0.2, samples=20)
    index = prepare(config, tmp_path / "out")
    assert {split: index.samples(split) for split in index.splits} == {
        "train": 8,
        "val": 2,
        "other_train": 20,
        "other_val": 6,
    }


def test_a_domain_without_images(tmp_path: Path) -> None:
    write_image(tmp_path / "trainA" / "x.png")
    (tmp_path / "trainB").mkdir()
    assert refused("unpaired", tmp_path).startswith(f"domain B has no images: put them into {tmp_path / 'trainB'}")
    assert refused("unpaired", tmp_path, image="B").startswith("domain B has no images")
    assert refused("unpaired", tmp_path, image="C").startswith("data.options.image: input should be 'A' or 'B'")


def test_the_real_monet2photo(shared_data: Path, tmp_path: Path, home: Path, prepare: Prepare) -> None:
    archive = shared_data / "monet2photo" / "monet2photo.tar"
    index = prepare(DataConfig(source="unpaired", root=str(archive)), tmp_path)
    counts = {split: index.samples(split) for split in index.splits}
    assert counts == {"train": 180, "val": 20, "test": 40, "other_train": 360, "other_val": 40, "other_test": 80}
    assert not index.skipped and not index.converted and index.classes == ()
