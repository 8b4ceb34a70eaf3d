"""Looking for damage: a shard against its index, and whether what it holds can be decoded."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from components.config import Config
from components.data.dataset import BATCHED, ShardedDataset
from components.data.scramble import make_key, permute
from components.data.shards import Index, verify_shard
from components.errors import UserError

SIDE = 32  # pixels to which samples are decoded; the whole file is read whatever it is


class ShardState(Config):
    """What was found."""

    name: str
    split: str
    samples: int
    bytes: int
    decoded: int = 0
    broken: tuple[str, ...] = ()  # samples that were tried and do not decode, each with the reason
    problem: str | None = None  # why the shard is not what the index says


def one_by_one(index: Index) -> Iterator[Index]:
    """An index of its own for every shard."""
    for split, entries in index.splits.items():
        for entry in entries:
            yield index.model_copy(update={"splits": {split: (entry,)}, "skipped": ()})


def look_at(one: Index, path: Path, samples: int) -> ShardState:
    """Compare the shard of ``one``, which lies at ``path``, with its sha256, and decode ``samples`` of its samples.

    They are spread over the shard, and the same ones every time.
    """
    ((split, (entry,)),) = one.splits.items()
    state = ShardState(name=entry.name, split=split, samples=entry.samples, bytes=entry.bytes)
    try:
        verify_shard(path, entry)
        fields = [field for field in one.fields if field in BATCHED]
        data = ShardedDataset(one, split, lambda _: path, SIDE, fields, cache_bytes=0, max_replaced=1.0)
        tried = np.arange(min(samples, entry.samples), dtype=np.int64)
        data.get(permute(tried, entry.samples, make_key("verify", entry.name)))
    except UserError as error:
        return state.model_copy(update={"problem": str(error)})
    broken = tuple(f"{name} ({reason})" for name, reason in data.replaced.items())
    return state.model_copy(update={"decoded": len(tried) - len(broken), "broken": broken})
