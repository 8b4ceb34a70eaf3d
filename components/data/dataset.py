"""A prepared data set: sample ids to batches of tensors. Ids count the samples of a split, shard after shard.

Legend of shape suffixes: B samples, S side in pixels.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.data.images import BrokenImage, decode, decode_map
from components.data.reader import Shard
from components.data.scramble import Int64
from components.data.shards import Index
from components.errors import UserError, unknown

Fetch = Callable[[str], Path]  # shard name -> local file, downloaded and verified by whoever provides it
Arrays = dict[str, NDArray[Any]]

PICTURES = ("image", "target", "edges")
BATCHED = (*PICTURES, "mask", "label")  # fields that become tensors; others are read with `member`
OPEN_SHARDS = 32  # mapped at a time: two windows of the order, and some room
CACHE_BYTES = 2 * 2**30


class ShardedDataset:
    """One split of a data set.

    Decoded samples with ids below what fits into ``cache_bytes`` stay in memory, so that later epochs do not decode
    them. (Which ones stay does not matter: every epoch asks for each sample once, so no rule beats a fixed set.)

    A sample that does not decode is replaced by the next one of its shard that does, and listed in ``replaced``; when
    more than the share ``max_replaced`` of the split is broken, `get` raises UserError. Safe to use from many threads.
    """

    def __init__(
        self,
        index: Index,
        split: str,
        fetch: Fetch,
        size: int,
        fields: Sequence[str] = ("image",),
        cache_bytes: int = CACHE_BYTES,
        max_replaced: float = 0.01,
    ) -> None:
        """``fields``: image, target, label, mask, edges. Raises UserError for a split or field that is not there."""
        if split not in index.splits:
            raise unknown("split", split, index.splits)
        for field in fields:
            if field not in index.fields or field not in BATCHED:
                raise unknown("field of this data set", field, [f for f in index.fields if f in BATCHED])
        self.entries = index.splits[split]
        self.shard_sizes = [entry.samples for entry in self.entries]
        self.fields, self.size = tuple(fields), size
        self.replaced: dict[str, str] = {}  # "shard:key" -> reason
        self._sizes = np.asarray(self.shard_sizes, np.int64)
        self._ends = np.cumsum(self._sizes)
        self._extensions = index.fields
        self._classes = len(index.classes)
        self._fetch = fetch
        self._allowed = max(1, int(max_replaced * len(self)))
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._opening = [threading.Lock() for _ in self.entries]
        self._lock = threading.Lock()
        cached = min(len(self), cache_bytes // self._sample_bytes())
        self._cache = self._empty(cached)
        self._present = np.zeros(cached, np.bool_)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def cached(self) -> int:
        """Samples that are in memory."""
        return int(self._present.sum())

    @property
    def open_shards(self) -> int:
        """Shards that are mapped."""
        return len(self._shards)

    def close(self) -> None:
        """Let go of all shards; what is cached stays, and shards open again when they are needed."""
        with self._lock:
            self._shards.clear()

    def get(self, ids: Int64) -> dict[str, Tensor]:
        """The samples ``ids`` (int64 (B,)) as CPU tensors, in that order.

        image, target, edges: uint8 (B, 3, S, S), in channels-last memory; label: int64 (B,); mask: int64
        (B, S, S). Raises UserError for a shard that cannot be read, and when too many samples are broken.
        """
        out = self._empty(len(ids))
        cached = ids < len(self._present)
        cached[cached] = self._present[ids[cached]]
        for field, values in out.items():
            if cached.all():
                np.take(self._cache[field], ids, 0, values)
            elif cached.any():
                values[cached] = self._cache[field][ids[cached]]
        missing = np.flatnonzero(~cached)
        # Shard after shard, in file order: each shard is looked up once, and a disk reads forwards.
        missing = missing[np.argsort(ids[missing], kind="stable")]
        numbers, samples = self._locate(ids[missing])
        shard: Shard | None = None
        before = -1
        for number, sample, place in zip(numbers.tolist(), samples.tolist(), missing.tolist(), strict=True):
            if shard is None or number != before:
                shard, before = self._open(number), number
            self._read(number, shard, sample, out, place)
        self._keep(ids[missing], missing, out)
        return {field: _to_tensor(field, values) for field, values in out.items()}

    def labels(self, ids: Int64 | None = None) -> Int64:
        """Labels alone (int64), of ``ids`` or of all samples; decodes no image. Raises UserError if there are none."""
        if "label" not in self._extensions:
            raise unknown("field of this data set", "label", [f for f in self._extensions if f in BATCHED])
        ids = np.arange(len(self), dtype=np.int64) if ids is None else ids
        out = {"label": np.zeros(len(ids), np.int64)}
        for place in np.argsort(ids, kind="stable").tolist():
            shard, sample = self._find(int(ids[place]))
            self._decode(shard, sample, "label", out, place)
        return out["label"]

    def key(self, sample_id: int) -> str:
        """The key of a sample in its shard."""
        shard, sample = self._find(sample_id)
        return shard.keys[sample]

    def member(self, sample_id: int, field: str) -> bytes:
        """The stored bytes of any field (boxes too); UserError when the sample does not have it."""
        shard, sample = self._find(sample_id)
        data = shard.member(sample, self._extensions.get(field, field))
        if data is None:
            raise unknown("field of this data set", field, self._extensions)
        return bytes(data)

    def _read(self, number: int, shard: Shard, sample: int, out: Arrays, place: int) -> None:
        """Decode a sample, or the next readable one of its shard, into row ``place`` of ``out``."""
        for step in range(len(shard)):
            other = (sample + step) % len(shard)
            try:
                for field in self.fields:
                    self._decode(shard, other, field, out, place)
                return
            except BrokenImage as error:
                self._replace(f"{self.entries[number].name}:{shard.keys[other]}", str(error))
        raise UserError(f"no sample of shard {shard.path} can be decoded: run `genoise prepare` again")

    def _decode(self, shard: Shard, sample: int, field: str, out: Arrays, place: int) -> None:
        """Decode one field of a sample into row ``place`` of ``out``. Raises BrokenImage."""
        data = shard.member(sample, self._extensions[field])
        if data is None:
            raise BrokenImage(f"it has no {field} ({self._extensions[field]})")
        if field == "label":
            out[field][place] = _decode_label(data, self._classes)
        elif field == "mask":
            out[field][place] = decode_map(data, self.size)
        else:
            decode(data, self.size, out[field][place])

    def _replace(self, name: str, reason: str) -> None:
        with self._lock:
            self.replaced[name] = reason
            if len(self.replaced) > self._allowed:
                first = ", ".join(f"{name} ({reason})" for name, reason in list(self.replaced.items())[:3])
                raise UserError(
                    f"more than {self._allowed} of {len(self)} samples cannot be decoded: {first}, ...; "
                    "run `genoise prepare` again"
                )

    def _locate(self, ids: Int64) -> tuple[Int64, Int64]:
        """(numbers of the shards, samples in them)."""
        numbers = np.searchsorted(self._ends, ids, side="right")
        return numbers, ids - (self._ends[numbers] - self._sizes[numbers])

    def _find(self, sample_id: int) -> tuple[Shard, int]:
        """(shard, sample in it)."""
        numbers, samples = self._locate(np.array([sample_id], np.int64))
        return self._open(int(numbers[0])), int(samples[0])

    def _open(self, number: int) -> Shard:
        """A mapped shard; the least recently used one is let go when there are too many."""
        with self._opening[number]:  # one thread fetches a shard, and others may open other shards meanwhile
            with self._lock:
                if number in self._shards:
                    self._shards.move_to_end(number)
                    return self._shards[number]
            entry = self.entries[number]
            shard = Shard(self._fetch(entry.name))
            if len(shard) != entry.samples:
                raise UserError(
                    f"shard {shard.path} has {len(shard)} samples and the index says {entry.samples}: "
                    "run `genoise prepare` again"
                )
            with self._lock:
                self._shards[number] = shard
                if len(self._shards) > OPEN_SHARDS:
                    self._shards.popitem(last=False)
            return shard

    def _keep(self, ids: Int64, places: NDArray[np.intp], out: Arrays) -> None:
        """Put freshly decoded rows into the cache."""
        fits = ids < len(self._present)
        for field, values in out.items():
            self._cache[field][ids[fits]] = values[places[fits]]
        self._present[ids[fits]] = True  # last: another thread may read the rows from now on

    def _sample_bytes(self) -> int:
        return sum(array.nbytes for array in self._empty(1).values())

    def _empty(self, count: int) -> Arrays:
        """Uninitialized rows for ``count`` samples; memory that is never written is never used."""
        return {
            field: np.empty((count,), np.int64)
            if field == "label"
            else np.empty((count, self.size, self.size, *((3,) if field in PICTURES else ())), np.uint8)
            for field in self.fields
        }


def _to_tensor(field: str, values: NDArray[Any]) -> Tensor:
    tensor = torch.from_numpy(values)
    if field in PICTURES:
        return tensor.permute(0, 3, 1, 2)
    return tensor.long()


def _decode_label(data: memoryview, classes: int) -> int:
    text = bytes(data).strip()
    if not text.isdigit() or int(text) >= classes:
        raise BrokenImage(f"its label is {text[:20]!r}, not a number below {classes}")
    return int(text)
