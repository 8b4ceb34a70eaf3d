"""The loader against decoding the same bytes in memory, and against what one would use instead.

    python -m benchmarks.loader [--threads 2] [--rounds 5] [--json]

256 px JPEGs, a random 224 px window of each, mirrored in half of the cases, batches of uint8 on the device (without a
GPU: in memory). All contestants use the same number of cores and take turns in every round; no decoded image is kept.

    in memory        simplejpeg alone, into one buffer per thread: no crop, no flip, no batch; the limit
    loader, whole    ours, from shards in a folder, in the shuffled order: no crop, no flip
    loader, window   the same with a random window; with a GPU it is cut there, and the CPU does the row before
    loader           the same, mirrored, on the GPU where there is one
    loader, s3       the same from a bucket (rclone, on this machine), the local copies warm; left out without rclone
    webdataset       WebDataset, shuffled, Pillow, crop and flip, batched by torch's DataLoader in worker processes
    folder           torch's DataLoader over a folder of the same files: Pillow, crop and flip, worker processes

Loaders are timed from their first batch on. The ratios are medians over rounds, with their quartiles. 32 px PNGs are
measured without the others: they are what CIFAR is stored as, and stay decoded in memory after one epoch ("cached").
"""

import argparse
import importlib.util
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from benchmarks._rounds import parse, parser_of, spread
from components.data.arrays import UInt8
from components.data.dataset import ShardedDataset, pixels
from components.data.images import decode, encode_png
from components.data.loader import Loader
from components.data.order import Order, Plan
from components.data.scenes import render
from components.data.shards import Index, write_shard
from components.data.sources.base import Sample
from infra.local.s3 import find_rclone

SHARDS = 8
EPOCHS = 4
PHOTO, WINDOW, TOY = 256, 224, 32
Speed = Callable[[int], float]  # round -> images per second
Crop = Callable[[bytes], torch.Tensor]


def encode_photo(rgb_HW3: UInt8) -> bytes:
    """uint8 (H, W, 3) -> JPEG as cameras and web sites write it: quality 85, colour at half resolution."""
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb_HW3), 85, "RGB", "420")
    return data


def make(
    folder: Path, size: int, samples: int, extension: str, encode: Callable[[UInt8], bytes]
) -> tuple[Index, list[bytes]]:
    """A data set of scenes, and the same encoded images in memory."""
    encoded: list[bytes] = []
    for start in range(0, samples, 32):
        encoded += [encode(image) for image in render(0, "train", np.arange(start, start + 32), size).image]
    entries = []
    for number in range(SHARDS):
        part = range(number, samples, SHARDS)
        entry = write_shard(
            (Sample(f"k{i}", {extension: encoded[i]}) for i in part), folder / f"train-{number:06d}.tar"
        )
        assert entry is not None
        entries.append(entry)
    return Index(source={}, fields={"image": extension}, splits={"train": tuple(entries)}), encoded


def in_memory(encoded: list[bytes], size: int, threads: int) -> float:
    """Images per second of decoding alone: every thread its own part, nothing kept."""

    def part(number: int) -> None:
        buffer = pixels((size, size, 3))
        for data in encoded[number::threads]:
            if size == PHOTO:
                simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
            else:
                decode(data, size, buffer)

    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(part, range(threads)))
        return len(encoded) / (time.perf_counter() - began)


def device() -> torch.device:
    """Where batches go."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def flip(image_B3HW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the pictures, where they are."""
    if image_B3HW.is_cuda:
        mirrored_B111 = torch.rand(len(image_B3HW), 1, 1, 1, device=image_B3HW.device) < 0.5
        return torch.where(mirrored_B111, image_B3HW.flip(-1), image_B3HW)
    for row in torch.nonzero(torch.rand(len(image_B3HW), generator=generator) < 0.5).flatten().tolist():
        image_B3HW[row] = image_B3HW[row].flip(-1)
    return image_B3HW


def loaded(data: ShardedDataset, mirrored: bool, options: argparse.Namespace, seed: int) -> float:
    """Images per second of some epochs."""
    generator = torch.Generator().manual_seed(seed)
    plan = Plan(len(data), options.batch, EPOCHS)
    loader = Loader(data, Order(data.shard_sizes, seed), plan, threads=options.threads, device=device())
    images = (each.batch["image"] for each in loader.iterate())
    return drained((flip(image, generator) for image in images) if mirrored else images, plan.total)


def crop_with_pillow(data: bytes) -> torch.Tensor:
    """As one would write it: decode, a random window, mirrored or not; uint8 (224, 224, 3)."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    left, top = np.random.randint(PHOTO - WINDOW + 1, size=2).tolist()
    image = image.crop((left, top, left + WINDOW, top + WINDOW))
    if np.random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image))


def crop_sample(sample: dict[str, Any]) -> torch.Tensor:
    """A sample of webdataset."""
    return crop_with_pillow(sample["jpg"])


class Folder(torch.utils.data.Dataset[torch.Tensor]):
    """Image files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*.jpg"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: int) -> torch.Tensor:
        return crop_with_pillow(self.files[item].read_bytes())


def drained(batches: Any, count: int) -> float:
    """Images per second from the first batch on: starting worker processes is not counted."""
    iterator = iter(batches)
    first = next(iterator)
    began = time.perf_counter()
    rest = sum(len(batch) for batch in iterator)
    if isinstance(first, torch.Tensor) and first.is_cuda:
        torch.cuda.synchronize()
    assert len(first) + rest == count
    return rest / (time.perf_counter() - began)


def webdataset(folder: Path, count: int, options: argparse.Namespace) -> float:
    """Images per second of webdataset and Pillow."""
    import webdataset as wds

    shards = sorted(map(str, folder.glob("*.tar")))
    data = wds.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000).map(crop_sample)
    return drained(torch.utils.data.DataLoader(data, options.batch, num_workers=options.threads), count)


def folder_loader(folder: Path, count: int, options: argparse.Namespace) -> float:
    """Images per second of a folder and Pillow."""
    data = Folder(folder)
    return drained(torch.utils.data.DataLoader(data, options.batch, shuffle=True, num_workers=options.threads), count)


@contextmanager
def bucket(folder: Path, index: Index, cache: Path) -> Iterator[Callable[[str], Path]]:
    """The shards of ``folder`` in a bucket of a server on this machine, behind the cache of local copies."""
    from infra.local import serve_s3
    from infra.storage import Cache, open_storage

    buckets = cache / "buckets"
    (buckets / "shards").mkdir(parents=True)
    with serve_s3(buckets, key="benchmark", secret="only-for-this-run") as server:
        os.environ.update(server.environment)
        place = open_storage("s3://shards/photos")
        digests = {entry.name: entry.sha256 for entry in index.splits["train"]}
        for name in digests:
            place.upload(folder / name, name)
        copies = Cache(place.url, cache / "copies")
        yield lambda name: copies.fetch(name, digests[name])


def compare(contestants: dict[str, Speed], rounds: int) -> dict[str, dict[str, float]]:
    """Rounds of all contestants, the first of them the limit; prints a table and returns the figures."""
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(-1, rounds):
        for name, speed in contestants.items():
            value = speed(turn + 1)
            if turn >= 0:  # the first one opens files and fills the cache of local copies
                speeds[name].append(value)
    limit = next(iter(speeds.values()))
    figures = {}
    for name, values in speeds.items():
        low, ratio, high = spread(values, limit)
        figures[name] = {"images_per_s": statistics.median(values), "ratio": ratio, "low": low, "high": high}
        print(f"{name:<22}{statistics.median(values):>10,.0f}{ratio:>9.2f}   {low:.2f} to {high:.2f}")
    return figures


def photos(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """256 px JPEGs: everybody."""
    index, encoded = make(folder / "shards", PHOTO, options.photos, "jpg", encode_photo)
    (folder / "files").mkdir()
    for k, data in enumerate(encoded):
        (folder / "files" / f"{k:06d}.jpg").write_bytes(data)
    margin = PHOTO - WINDOW

    def here(name: str) -> Path:
        return folder / "shards" / name

    def ours(fetch: Callable[[str], Path], size: int, margin: int, mirrored: bool) -> Speed:
        data = ShardedDataset(index, "train", fetch, size, margin=margin, cache_bytes=0)
        return lambda seed: loaded(data, mirrored, options, seed)

    count = len(encoded)
    contestants: dict[str, Speed] = {
        "in memory": lambda _: in_memory(encoded, PHOTO, options.threads),
        "loader, whole": ours(here, PHOTO, 0, mirrored=False),
        "loader, window": ours(here, WINDOW, margin, mirrored=False),
        "loader": ours(here, WINDOW, margin, mirrored=True),
    }
    with ExitStack() as servers:
        if find_rclone() is None or importlib.util.find_spec("boto3") is None:
            print("left out: loader, s3 (it needs rclone and boto3)")
        else:
            fetch = servers.enter_context(bucket(folder / "shards", index, folder))
            contestants["loader, s3"] = ours(fetch, WINDOW, margin, mirrored=True)
        if importlib.util.find_spec("webdataset") is None:
            print("left out: webdataset (it is not installed)")
        else:
            contestants["webdataset"] = lambda _: webdataset(folder / "shards", count, options)
        contestants["folder"] = lambda _: folder_loader(folder / "files", count, options)
        return compare(contestants, options.rounds)


def toys(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """32 px PNGs."""
    index, encoded = make(folder, TOY, options.toys, "png", encode_png)
    cold = ShardedDataset(index, "train", lambda name: folder / name, TOY, cache_bytes=0)
    warm = ShardedDataset(index, "train", lambda name: folder / name, TOY)
    return compare(
        {
            "in memory": lambda _: in_memory(encoded, TOY, options.threads),
            "loader": lambda seed: loaded(cold, False, options, seed),
            "cached": lambda seed: loaded(warm, False, options, seed),
        },
        options.rounds,
    )


def main(arguments: list[str]) -> None:
    """Prepare both data sets in a temporary folder and compare."""
    parser = parser_of(__doc__, rounds=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--photos", type=int, default=2048, help="number of 256 px images")
    parser.add_argument("--toys", type=int, default=16384, help="number of 32 px images")
    options = parse(parser, arguments)
    torch.set_num_threads(1)
    figures = {}
    for title, measure in (("256 px JPEG", photos), ("32 px PNG", toys)):
        with tempfile.TemporaryDirectory() as folder:
            print(f"{title:<22}{'images/s':>10}{'ratio':>9}   quartiles")
            figures[title] = measure(Path(folder), options)
    if options.json:
        print(json.dumps({"threads": options.threads, "batch": options.batch, **figures}))


if __name__ == "__main__":
    main(sys.argv[1:])
