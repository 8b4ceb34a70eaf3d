"""A million tiny samples: what they cost in index, start-up, resuming and memory.

    python -m benchmarks.scale [--samples 1000000] [--shard-samples 10000] [--json]

Shards are written to a temporary folder (0.7 GB) and read as a training worker would: open the index, the data set and
the order, get the first batch; then all that again from the middle of the third epoch; then so many batches. Each in a
process of its own, so that its resident memory is its own.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from components.data.dataset import ShardedDataset
from components.data.images import encode_png
from components.data.loader import Loader
from components.data.order import Order, Plan
from components.data.shards import Index, ShardEntry, read_index, write_index, write_shard
from components.data.sources.base import Sample

SIDE, BATCH, CLASSES, PICTURES = 8, 256, 10, 64


def write(folder: Path, samples: int, shard_samples: int) -> None:
    """A data set of few, small pictures, over and over."""
    rng = np.random.default_rng(0)
    pngs = [encode_png(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(PICTURES)]

    def part(start: int) -> Iterator[Sample]:
        for k in range(start, min(start + shard_samples, samples)):
            yield Sample(f"{k:09d}", {"png": pngs[k % PICTURES], "cls": str(k % CLASSES).encode()})

    entries: list[ShardEntry] = []
    for number, start in enumerate(range(0, samples, shard_samples)):
        entry = write_shard(part(start), folder / f"train-{number:06d}.tar")
        assert entry is not None
        entries.append(entry)
    classes = tuple(map(str, range(CLASSES)))
    splits = {"train": tuple(entries)}
    write_index(Index(source={}, fields={"image": "png", "label": "cls"}, classes=classes, splits=splits), folder)


def memory() -> float:
    """Memory of this process's own, in MiB: mapped shards, which any process may use and the system may drop, aside."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def start(folder: Path, epochs: float, batches: int) -> dict[str, float]:
    """A worker that begins after so many epochs and takes so many batches."""
    before, began = memory(), time.perf_counter()
    index = read_index(folder)
    data = ShardedDataset(index, "train", lambda name: folder / name, SIDE, ("image", "label"), cache_bytes=0)
    plan = Plan(len(data), BATCH, 10)
    loader = Loader(data, Order(data.shard_sizes, 0), plan)
    iterator = loader.iterate(plan.step_at(int(epochs * len(data))))
    next(iterator)
    first = time.perf_counter() - began
    for _ in range(batches):
        next(iterator)
    figures = {"first_batch_s": first, "memory_mib": memory() - before, "open_shards": data.open_shards}
    iterator.close()
    if batches:
        figures["samples_per_s"] = batches * BATCH / (time.perf_counter() - began - first)
    return figures


def alone(folder: Path, epochs: float, batches: int) -> dict[str, float]:
    """`start` in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(start, folder, epochs, batches).result()


def arithmetic(shards: int) -> dict[str, float]:
    """The order of so many shards of 1,000 samples: seconds to the first batch, and for one in the next epoch."""
    began = time.perf_counter()
    order = Order([1000] * shards, 0)
    order.batch(0, BATCH)
    first = time.perf_counter() - began
    began = time.perf_counter()
    order.batch(order.samples, order.samples + BATCH)
    return {"shards": shards, "first_s": first, "next_epoch_s": time.perf_counter() - began}


def main(arguments: list[str]) -> None:
    """Write, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--shard-samples", type=int, default=10_000)
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="the figures as JSON in the last line")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        began = time.perf_counter()
        write(folder, options.samples, options.shard_samples)
        figures = {
            "written": {"samples_per_s": options.samples / (time.perf_counter() - began)},
            "index": {"bytes": (folder / "index.json").stat().st_size},
            "start": alone(folder, 0, 0),
            "resume": alone(folder, 2.5, 0),
            "running": alone(folder, 0, options.batches),
        }
    figures |= {f"order of {shards:,} shards": arithmetic(shards) for shards in (10_000, 1_000_000)}
    for name, values in figures.items():
        print(f"{name:<28}" + "".join(f"{key} {value:,.3g}   " for key, value in values.items()))
    if options.json:
        print(json.dumps({"samples": options.samples, "shard_samples": options.shard_samples, **figures}))


if __name__ == "__main__":
    main(sys.argv[1:])
