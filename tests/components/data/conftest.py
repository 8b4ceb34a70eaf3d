"""A small prepared data set, the functions to make others, and files of pictures."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from components.config import DataConfig
from components.data.planning import plan_shards
from components.data.shards import Index, build_index, build_shard, write_index
from components.data.sources.base import open_source

Prepare = Callable[[DataConfig, Path], Index]


def prepare_into(config: DataConfig, folder: Path) -> Index:
    """Source to shards, in one process."""
    source = open_source(config)
    results = [build_shard(source, config, plan, folder) for plan in plan_shards(source, config)]
    index = build_index(source, config, results)
    write_index(index, folder)
    return index


@pytest.fixture(scope="session")
def prepare() -> Prepare:
    return prepare_into


@pytest.fixture(scope="session")
def scenes_config() -> DataConfig:
    return DataConfig(source="shapes", size=32, samples=230, validation=0.004, shard_samples=50)


@pytest.fixture(scope="session")
def scenes(scenes_config: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    """230 training, 40 validation and 1,000 test scenes. Tests must not change the folder."""
    folder = tmp_path_factory.mktemp("scenes")
    return folder, prepare_into(scenes_config, folder)


@pytest.fixture
def rgb() -> NDArray[np.uint8]:
    """A smooth picture with a different colour in each corner, 40 x 60."""
    y, x = np.mgrid[0:40, 0:60]
    return np.stack([x * 4, y * 6, 255 - x * 2 - y * 2], 2).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> NDArray[np.int64]:
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
        return np.asarray(image).astype(np.int64)


def chunks(*parts: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def wide_png(values: NDArray[np.uint16], stated: int | None = None) -> bytes:
    """16-bit PNG, grey (H, W) or of 2 to 4 channels (H, W, C); ``stated`` significant bits."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[values[0, 0].size]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    told = [(b"sBIT", bytes([stated]))] if stated else []
    return chunks((b"IHDR", header), *told, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
