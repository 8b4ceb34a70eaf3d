"""MNIST: idx files as they are told to be, compressed or not; anything else is refused by name."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from components.data.images import decode_full
from tests.components.data.sources.conftest import Array, open_with, refused


def idx(values: Array) -> bytes:
    """The format of the data set's page: 0, 0, 8 for unsigned bytes, dimensions, sizes, values."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def small(folder: Path, ending: str = "", dash: str = "-") -> tuple[Array, Array]:
    """Four files of a few images; returns the training ones."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for start, count in (("t10k", 3), ("train", 7)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        for kind, values in (("images", images), ("labels", labels)):
            data = idx(values)
            path = folder / f"{start}-{kind}{dash}idx{values.ndim}-ubyte{ending}"
            path.write_bytes(gzip.compress(data) if ending else data)
    return images, labels


@pytest.mark.parametrize(("ending", "dash"), [("", "-"), (".gz", "-"), ("", "."), (".gz", ".")])
def test_images_and_labels(tmp_path: Path, home: Path, ending: str, dash: str) -> None:
    images, labels = small(tmp_path / "raw", ending, dash)
    source = open_with("mnist", tmp_path / "raw")
    assert source.splits == {"train": 7, "test": 3}
    assert source.classes == tuple("0123456789")
    for k in range(7):
        sample = source.read("train", k)
        assert np.array_equal(decode_full(sample.members["png"]), np.repeat(images[k][:, :, None], 3, axis=2))
        assert int(sample.members["cls"]) == labels[k]


def test_wrong_files(tmp_path: Path, home: Path) -> None:
    small(tmp_path)
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    good = images.read_bytes(), labels.read_bytes()
    images.write_bytes(good[1])
    assert refused("mnist", tmp_path).startswith(
        f"{images} starts with 0x00000801 instead of 0x00000803: it is not an idx file of 3-dimensional bytes"
    )
    images.write_bytes(b"")
    assert "starts with 0x00000000 instead of" in refused("mnist", tmp_path)
    images.write_bytes(good[0][:-1])
    assert refused("mnist", tmp_path) == f"{images} has 5503 bytes instead of 5504: get it again"
    images.write_bytes(good[0])
    labels.write_bytes(idx(np.zeros(6, np.uint8)))
    assert refused("mnist", tmp_path).startswith("7 train images and 6 labels in ")
    labels.unlink()
    assert refused("mnist", tmp_path).startswith(f"no train-labels-idx1-ubyte in {tmp_path}, compressed or not: use")
    labels.with_name(labels.name + ".gz").write_bytes(gzip.compress(good[1])[:-10])
    assert refused("mnist", tmp_path).endswith("is not a whole gzip file: get it again")
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_the_real_mnist(shared_data: Path, home: Path) -> None:
    source = open_with("mnist", shared_data / "mnist")
    assert source.splits == {"train": 60_000, "test": 10_000}
    with gzip.open(shared_data / "mnist" / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    for k in (0, 1_234, 9_999):
        assert np.array_equal(decode_full(source.read("test", k).members["png"])[:, :, 1], images[k])
    assert [int(source.read("test", k).members["cls"]) for k in range(5)] == [7, 2, 1, 0, 4]
