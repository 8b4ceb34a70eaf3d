"""A prepared data set: sample ids to batches of tensors. Ids count the samples of a split, shard after shard.

Legend of shape suffixes: B samples, S side in pixels.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.data.boxes import Boxes, crop_boxes, unpack_boxes
from components.data.images import BrokenImage, decode, decode_map, image_size
from components.data.reader import Shard
from components.data.scramble import Int64
from components.data.shard_parts import samples_of, whole_of
from components.data.shards import Index
from components.errors import UserError, unknown

Fetch = Callable[[str], Path]  # shard name -> local file, downloaded and verified by whoever provides it
Arrays = dict[str, NDArray[Any]]

PICTURES = ("image", "target", "edges")
BATCHED = (*PICTURES, "mask", "label")  # fields that become tensors; others are read with `member`
OPEN_SHARDS = 512  # mapped at a time: more than the lanes of an order have under way, fewer than files may be open
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
        margin: int = 0,
        cache_bytes: int = CACHE_BYTES,
        max_replaced: float = 0.01,
    ) -> None:
        """``fields``: image, target, label, mask, edges. Pictures are decoded ``margin`` pixels larger than ``size``,
        and a window of ``size`` is cut out of them. Raises UserError for a split or field that is not there."""
        if split not in index.splits:
            raise unknown("split", split, index.splits)
        for field in fields:
            if field not in index.fields or field not in BATCHED:
                raise unknown("field of this data set", field, [f for f in index.fields if f in BATCHED])
        self.entries = index.splits[split]
        self.shard_sizes = [entry.samples for entry in self.entries]
        self.fields, self.size, self.margin = tuple(fields), size, margin
        self.replaced: dict[str, str] = {}  # "shard:key" -> reason
        self._sizes = np.asarray(self.shard_sizes, np.int64)
        self._ends = np.cumsum(self._sizes)
        self._extensions = index.fields
        self.classes = tuple(index.classes)  # names, of labels, boxes and masks
        self._fetch = fetch
        self._allowed = max(1, int(max_replaced * len(self)))
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._opening = [threading.Lock() for _ in self.entries]
        self._lock = threading.Lock()
        row = sum(array.nbytes for array in self.rows(1, size + margin).values())
        cached = min(len(self), cache_bytes // row)
        self._cache = self.rows(cached, size + margin)
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
        """Close all shards; what is cached stays, and shards open again when they are needed."""
        with self._lock:
            self._shards.clear()

    def rows(self, count: int, side: int | None = None) -> Arrays:
        """Uninitialized memory for ``count`` samples; what is never written is never used."""
        return {field: self.room(field, count, side or self.size) for field in self.fields}

    def room(self, field: str, count: int, side: int, pinned: bool = False) -> NDArray[Any]:
        """Such memory for one field; ``pinned``: a GPU may read it by itself."""
        if field == "label":
            return _memory(8 * count, pinned).view(np.int64)
        return pixels((count, side, side, *((3,) if field in PICTURES else ())), pinned)

    def get(self, ids: Int64, corners_B2: Int64 | None = None) -> dict[str, Tensor]:
        """The samples ``ids`` (int64 (B,)) as CPU tensors, in that order.

        image, target, edges: uint8 (B, 3, S, S), in channels-last memory; label: int64 (B,); mask: int64 (B, S, S).
        ``corners_B2``: top and left of each sample's window, 0 .. margin; by default the window is in the centre.
        Raises UserError for a shard that cannot be read, and when too many samples are broken.
        """
        out = self.rows(len(ids))
        self.read(ids, out, np.full((len(ids), 2), self.margin // 2) if corners_B2 is None else corners_B2)
        return {field: as_tensor(field, torch.from_numpy(values)) for field, values in out.items()}

    def read(self, ids: Int64, out: Arrays, corners_B2: Int64 | None = None) -> None:
        """Decode the samples ``ids`` into ``out``, memory as `rows` gives it. Raises as `get` does.

        ``corners_B2``: as of `get`. None: pictures stay whole, and ``out`` is for their side, ``size + margin``.
        """
        corners_B2 = corners_B2 if self.margin else None
        there = ids < len(self._present)
        there[there] = self._present[ids[there]]
        self._copy(ids, corners_B2, np.flatnonzero(there), out)
        missing = np.flatnonzero(~there)
        if not len(missing):
            return
        # Shard after shard, in file order: each shard is looked up once, and a disk reads forwards.
        missing = missing[np.argsort(ids[missing], kind="stable")]
        numbers, samples = self._locate(ids[missing])
        scratch = out if corners_B2 is None else self.rows(1, self.size + self.margin)
        shard: Shard | None = None
        before = -1
        columns = numbers.tolist(), samples.tolist(), missing.tolist(), ids[missing].tolist()
        for number, sample, place, sample_id in zip(*columns, strict=True):
            if shard is None or number != before:
                shard, before = self._open(number), number
            if sample_id < len(self._present):
                self._read(number, shard, sample, self._cache, sample_id)
                self._present[sample_id] = True  # last: another thread may read the row from now on
                self._copy(ids, corners_B2, np.array([place]), out)
            elif corners_B2 is None:
                self._read(number, shard, sample, out, place)
            else:
                self._read(number, shard, sample, scratch, 0)
                _cut(scratch, 0, corners_B2[place], out, place)

    def prefetch(self, ids: Int64) -> None:
        """Fetch and open the shards of those of ``ids`` that are not in memory. Raises UserError as `get` does."""
        there = ids < len(self._present)
        there[there] = self._present[ids[there]]
        for number in np.unique(self._locate(ids[~there])[0]).tolist():
            self._open(number)

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

    def boxes(self, sample_id: int, corner: tuple[int, int] | None = None) -> Boxes:
        """The boxes of a sample where its picture from `get` shows them, and their labels: float64 (K, 4), int64 (K,).

        ``corner``: as one of ``corners_B2``. Raises BrokenImage for boxes that cannot be read.
        """
        corner = (self.margin // 2, self.margin // 2) if corner is None else corner
        size = image_size(self.member(sample_id, "image"))
        found = unpack_boxes(self.member(sample_id, "boxes"))
        return crop_boxes(found, size, self.size + self.margin, corner, self.size)

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
        reason = "it has none"
        for step in range(len(shard)):
            other = (sample + step) % len(shard)
            try:
                for field in self.fields:
                    self._decode(shard, other, field, out, place)
                return
            except BrokenImage as error:
                reason = str(error)
                self._replace(f"{self.entries[number].name}:{shard.keys[other]}", reason)
        raise UserError(f"no sample of shard {shard.path} can be decoded ({reason}): run `genoise prepare` again")

    def _decode(self, shard: Shard, sample: int, field: str, out: Arrays, place: int) -> None:
        """Decode one field of a sample into row ``place`` of ``out``. Raises BrokenImage."""
        data = shard.member(sample, self._extensions[field])
        if data is None:
            raise BrokenImage(f"it has no {field} ({self._extensions[field]})")
        if field == "label":
            out[field][place] = _decode_label(data, len(self.classes))
            return
        row = out[field][place]
        if field == "mask":
            row[:] = decode_map(data, len(row))
        else:
            decode(data, len(row), row)

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
            whole = entry.samples if entry.part is None else whole_of(entry.part)
            if len(shard) != whole:
                raise UserError(
                    f"shard {shard.path} has {len(shard)} samples and the index says {whole}: "
                    "run `genoise prepare` again"
                )
            if entry.part is not None:
                shard.keep(samples_of(entry.part))  # so that no neighbour of another split replaces a broken sample
            with self._lock:
                self._shards[number] = shard
                if len(self._shards) > OPEN_SHARDS:
                    self._shards.popitem(last=False)
            return shard

    def _copy(self, ids: Int64, corners_B2: Int64 | None, places: NDArray[np.intp], out: Arrays) -> None:
        """Copy rows of the cache, the samples at ``places`` of a batch, into ``out``; windows of them at corners."""
        if corners_B2 is None and len(places) == len(ids):
            for field, values in out.items():
                np.take(self._cache[field], ids, 0, values, "clip")  # the default mode copies twice
        elif corners_B2 is None:
            for field, values in out.items():
                values[places] = self._cache[field][ids[places]]
        else:
            for place in places.tolist():
                _cut(self._cache, int(ids[place]), corners_B2[place], out, place)


def _memory(size: int, pinned: bool) -> NDArray[np.uint8]:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy() if pinned else np.empty(size, np.uint8)


def pixels(shape: tuple[int, ...], pinned: bool = False) -> NDArray[np.uint8]:
    """Uninitialized memory to decode into. It begins 16 bytes after a multiple of 32: what libjpeg-turbo writes to
    multiples of 32 goes past the caches, and both decoding and cutting a window out of it take longer."""
    memory = _memory(math.prod(shape) + 32, pinned)
    first = (16 - memory.ctypes.data) % 32
    return memory[first : first + math.prod(shape)].reshape(shape)


def _cut(rows: Arrays, row: int, corner_2: Int64, out: Arrays, place: int) -> None:
    """Copy the window at ``corner_2`` of one sample into row ``place`` of ``out``."""
    top, left = corner_2.tolist()
    for field, values in out.items():
        whole = rows[field][row]
        if values.ndim > 1:
            side = values.shape[1]
            whole = whole[top : top + side, left : left + side]
        values[place] = whole


def as_tensor(field: str, values: Tensor) -> Tensor:
    """What `get` gives for a field of a batch, from its values as they were decoded; on any device."""
    return values.permute(0, 3, 1, 2) if field in PICTURES else values.long()


def _decode_label(data: memoryview, classes: int) -> int:
    text = bytes(data).strip()
    if not text.isdigit() or int(text) >= classes:
        raise BrokenImage(f"its label is {text[:20]!r}, not a number below {classes}")
    return int(text)
