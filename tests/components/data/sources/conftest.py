"""Raw files for sources: pictures, archives, tables, and what wrong ones are told."""

import csv
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from components.config import DataConfig
from components.data.sources.base import Source, open_source
from components.errors import UserError

Array = NDArray[Any]


def write_image(path: Path, pixels: Array | int = 0, size: tuple[int, int] = (12, 8)) -> Array:
    """An image file; a number stands for noise of that seed and ``size`` (width, height). Returns the pixels."""
    if isinstance(pixels, int):
        pixels = np.random.default_rng(pixels).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def open_with(source: str, root: Path, **options: Any) -> Source:
    return open_source(DataConfig(source=source, root=str(root), options=options))


def refused(source: str, root: Path, **options: Any) -> str:
    """The one line that opening the source, or reading all of it, ends with."""
    with pytest.raises(UserError) as caught:
        read_all(open_with(source, root, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read_all(source: Source) -> None:
    for split, count in source.splits.items():
        list(source.read_many(split, range(count)))


def pack(folder: Path, archive: Path, inside: str = ".") -> Path:
    """The contents of ``folder`` as a tar archive."""
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, f"{inside}/{path.name}")
    return archive


def lay(root: Path, *names: str) -> None:
    for name in names:
        write_image(root / name, sum(map(ord, name)))


def config(root: Path, splits: str | None = None, source: str = "folder", **options: Any) -> DataConfig:
    return DataConfig(source=source, root=str(root), splits=splits, options=options)


def refusal(data: DataConfig) -> str:
    with pytest.raises(UserError) as caught:
        open_source(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(source: Source) -> dict[str, list[str]]:
    return {split: [source.locate(split, k) for k in range(count)] for split, count in source.splits.items()}


def table(path: Path, *rows: tuple[str, ...]) -> str:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)
