"""encoder, images -> a vector per image, in one file: .npy with a list of names, or .parquet.

Legend of shape suffixes: B images, C channels, H height, W width, S side, D values.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from components.config import Config
from components.data.arrays import UInt8
from components.data.images import BrokenImage, clean, decode
from components.data.shards import replacing
from components.data.sources.files import read_file
from components.data.sources.listing import passed_over, printable
from components.errors import UserError
from components.networks.encoder import Encoder, load_encoder
from infra import machine
from infra.tracking import open_tracker
from pipelines import terminal
from pipelines.encoders import fetch_encoder
from pipelines.paths import images_at, writing
from pipelines.session import Session
from pipelines.steps.results import Json
from pipelines.workers.payload import device

BATCH = 64
NAMED = 20  # broken images that the result names
NAMES_SUFFIX = ".names.txt"  # of the file beside a .npy: a name per row
SIZES = {"small": 32, "large": 224}  # sides that stems are made for, in pixels

Float32 = NDArray[np.float32]
Write = Callable[[Sequence[str], Float32], None]


class EmbedRequest(Config):
    """Which vectors are to be made, of what, and where to."""

    to: Path
    layer: str | None = Field(None, description="of the encoder; None: the deepest")
    pooling: Literal["mean", "max", "none"] = Field("mean", description="over the places of the map; none: all values")
    size: int | None = Field(None, ge=8, le=1024, description="side at which images are seen; None: see SIZES")
    overwrite: bool = False


def embed(uri: str, images: Path, wanted: EmbedRequest, session: Session, normalization: str | None = None) -> Json:
    """Write a vector per image, in the order of the images' names; returns what was ``made``, and what was skipped.

    ``images``: a folder, with or without subfolders, or one file. Each is seen as its largest centred square.
    Raises UserError for a layer that the encoder does not have, and where not one image could be read.
    """
    _check_place(wanted)
    root, paths = images_at(images)
    tracker = open_tracker(session.home, session.tracking_uri)
    encoder = load_encoder(fetch_encoder(uri, tracker, session.folder("cache"), normalization))
    (layer,) = encoder.select([encoder.layers[-1] if wanted.layer is None else wanted.layer])
    size = wanted.size or SIZES[encoder.config.stem]
    _vectors(encoder, torch.zeros(1, 3, size, size, dtype=torch.uint8), layer, wanted.pooling)  # may refuse the size
    facts: Json = {"to": str(wanted.to), "layer": layer, "pooling": wanted.pooling, "size": size}
    if session.dry_run:
        return facts | {"images": len(paths)}
    encoder, skipped, made = encoder.to(device()), list[str](), 0
    with _writer(wanted.to, facts) as write, terminal.Watch(session.quiet) as watch:
        for start in range(0, len(paths), BATCH):
            names, squares_BSS3 = _read(root, paths[start : start + BATCH], size, skipped)
            if names:
                rgb_B3SS = torch.from_numpy(squares_BSS3).permute(0, 3, 1, 2)
                write(names, _vectors(encoder, rgb_B3SS, layer, wanted.pooling).cpu().numpy())
                made += len(names)
            watch.update("embed", "embed", min(start + BATCH, len(paths)), len(paths))
        if not made:
            raise UserError(f"not one image could be read: {skipped[0]}")
    return facts | {
        "made": made,
        "skipped": skipped[:NAMED],
        "skipped_count": len(skipped),
        "passed_over": passed_over([images] if images.is_dir() else []).facts(),
    }


def _check_place(wanted: EmbedRequest) -> None:
    if wanted.to.suffix not in (".npy", ".parquet"):
        raise UserError(f"--to {wanted.to}: a name that ends in .npy or .parquet would be right")
    if wanted.to.exists() and not wanted.overwrite:
        raise UserError(f"{wanted.to} is there already: give another --to, or --overwrite")


def _read(root: Path, paths: Sequence[PurePosixPath], size: int, skipped: list[str]) -> tuple[list[str], UInt8]:
    """Names of the images that can be read, and their squares (B, S, S, 3); the others are added to ``skipped``."""

    def read(path: PurePosixPath) -> UInt8 | BrokenImage:
        try:
            return decode(clean(read_file(root / path)).data, size)
        except BrokenImage as error:
            return error

    with ThreadPoolExecutor(machine.cores()) as pool:
        squares = list(pool.map(read, paths))
    whole: list[tuple[str, UInt8]] = []
    for path, square in zip(paths, squares, strict=True):
        name = printable(path)
        if isinstance(square, BrokenImage):
            skipped.append(f"{name}: {square}")
        else:
            whole.append((name, square))
    return [name for name, _ in whole], np.stack([square for _, square in whole]) if whole else np.empty(0, np.uint8)


@torch.no_grad()
def _vectors(encoder: Encoder, image_B3SS: Tensor, layer: str, pooling: str) -> Tensor:
    """(B, D) float32 of uint8 images; UserError for a size that the architecture does not take."""
    on = next(encoder.parameters()).device
    map_BCHW: Tensor = encoder(image_B3SS.to(on).float() / 255)[layer]
    if pooling == "mean":
        return map_BCHW.mean((2, 3)).float()
    return (map_BCHW.amax((2, 3)) if pooling == "max" else map_BCHW.flatten(1)).float()


@contextmanager
def _writer(to: Path, facts: Json) -> Iterator[Write]:
    """Inside, rows can be added to a file that appears at the end, whole, or not at all."""
    with writing(to), (_parquet if to.suffix == ".parquet" else _npy)(to, facts) as write:
        yield write


@contextmanager
def _npy(to: Path, _: Json) -> Iterator[Write]:
    """Rows as an array (N, D), and beside it their names, one a line."""
    rows, values = 0, 0
    with replacing(to) as file, replacing(to.with_name(to.name.removesuffix(".npy") + NAMES_SUFFIX)) as listed:

        def write(names: Sequence[str], vectors_BD: Float32) -> None:
            nonlocal rows, values
            if not rows:
                values = vectors_BD.shape[1]
                _write_head(file, 0, values)
            file.write(np.ascontiguousarray(vectors_BD).tobytes())
            listed.write("".join(f"{name}\n" for name in names).encode())
            rows += len(names)

        yield write
        file.seek(0)  # numpy leaves room for the number of rows, which is known only now
        _write_head(file, rows, values)


def _write_head(file: BinaryIO, rows: int, values: int) -> None:
    head = {"descr": "<f4", "fortran_order": False, "shape": (rows, values)}
    np.lib.format.write_array_header_1_0(file, head)


@contextmanager
def _parquet(to: Path, facts: Json) -> Iterator[Write]:
    """Rows with the columns ``file`` and ``features``; how they were made is in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: list[pq.ParquetWriter] = []
    about = {f"genoise.{key}": str(value) for key, value in facts.items() if key != "to"}
    with replacing(to) as file:

        def write(names: Sequence[str], vectors_BD: Float32) -> None:
            features = pa.FixedSizeListArray.from_arrays(pa.array(vectors_BD.reshape(-1)), vectors_BD.shape[1])
            table = pa.table({"file": pa.array(names, pa.string()), "features": features}).replace_schema_metadata(
                about
            )
            if not writer:
                writer.append(pq.ParquetWriter(file, table.schema))
            writer[0].write_table(table)

        try:
            yield write
        finally:
            for each in writer:
                each.close()
