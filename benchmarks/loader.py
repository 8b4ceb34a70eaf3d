"""The loader against decoding the same bytes in memory, with the same decoder and the same number of threads.

    python -m benchmarks.loader [--threads 2] [--rounds 5] [--json]

Two data sets: photographs' size (256 px JPEGs) and toys' size (32 px PNGs). The loader reads memory-mapped shards in
the shuffled order and makes batches, with its cache of decoded images off, so that every image is decoded in every
round; "cached" is what it gives from the second epoch on. The contestants take turns in every round; ratios are medians
over rounds.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from components.data.dataset import ShardedDataset
from components.data.images import UInt8, decode, encode_png
from components.data.loader import Loader
from components.data.order import Order, Plan
from components.data.scenes import render
from components.data.shards import Index, write_shard
from components.data.sources.base import Sample

SHARDS = 8


def encode_photo(rgb_HW3: UInt8) -> bytes:
    """uint8 (H, W, 3) -> JPEG as cameras and web sites write it: quality 85, colour at half resolution."""
    import simplejpeg

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
        for data in encoded[number::threads]:
            decode(data, size)

    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(part, range(threads)))
        return len(encoded) / (time.perf_counter() - began)


def loaded(data: ShardedDataset, batch: int, threads: int, seed: int) -> float:
    """Images per second of one epoch."""
    loader = Loader(
        data, Order(data.shard_sizes, seed), Plan(len(data), batch, 1), threads=threads, prefetch=2 * threads
    )
    began = time.perf_counter()
    for _ in loader.iterate():
        pass
    return len(data) / (time.perf_counter() - began)


def compare(
    title: str, index: Index, encoded: list[bytes], folder: Path, size: int, options: argparse.Namespace
) -> dict[str, float]:
    """One data set: rounds of both contestants; prints a line and returns the figures."""
    cold = ShardedDataset(index, "train", lambda name: folder / name, size, cache_bytes=0)
    warm = ShardedDataset(index, "train", lambda name: folder / name, size)
    loaded(warm, options.batch, options.threads, 0)
    loaded(cold, options.batch, options.threads, 0)
    limits, speeds, cached = [], [], []
    for seed in range(options.rounds):
        limits.append(in_memory(encoded, size, options.threads))
        speeds.append(loaded(cold, options.batch, options.threads, seed))
        cached.append(loaded(warm, options.batch, options.threads, seed))
    ratio = statistics.median(speed / limit for speed, limit in zip(speeds, limits, strict=True))
    kib = sum(map(len, encoded)) / len(encoded) / 1024
    print(
        f"{title} ({kib:.1f} KiB each): in memory {statistics.median(limits):,.0f}/s, "
        f"loader {statistics.median(speeds):,.0f}/s = {ratio:.2f}; cached {statistics.median(cached):,.0f}/s"
    )
    return {
        "in_memory": statistics.median(limits),
        "loader": statistics.median(speeds),
        "ratio": ratio,
        "cached": statistics.median(cached),
    }


def main(arguments: list[str]) -> None:
    """Prepare both data sets in a temporary folder and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=int, default=1024, help="number of 256 px images")
    parser.add_argument("--toys", type=int, default=16384, help="number of 32 px images")
    parser.add_argument("--json", action="store_true", help="the figures as JSON in the last line")
    options = parser.parse_args(arguments)
    figures = {}
    for title, size, samples, extension, encode in (
        ("256 px JPEG", 256, options.photos, "jpg", encode_photo),
        ("32 px PNG", 32, options.toys, "png", encode_png),
    ):
        with tempfile.TemporaryDirectory() as temporary:
            index, encoded = make(Path(temporary), size, samples, extension, encode)
            figures[title] = compare(title, index, encoded, Path(temporary), size, options)
    if options.json:
        print(json.dumps({"threads": options.threads, "batch": options.batch, **figures}))


if __name__ == "__main__":
    main(sys.argv[1:])
