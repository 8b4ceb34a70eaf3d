"""The loader: the slices of one rank, fetched and decoded ahead in threads, on the device.

Threads suffice because the decoders release the interpreter's lock; they share the cache of decoded samples, and
a finished batch is handed over without a copy (docs/decisions/0010-threads-decode.md).

Legend of shape suffixes: B samples of the slice.
"""

import time
import weakref
from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from components.data.dataset import Arrays, ShardedDataset
from components.data.moving import Batch, Decoded, Mover, Ready, joined
from components.data.order import Order, Plan, slice_span
from components.data.scramble import Int64
from components.draws import Draws

Slice = tuple[Int64, Int64]  # positions and ids of a rank's part of a batch
Slices = dict[str, Slice]  # of the stream "image" and of the others, by name

FETCHERS = 4  # shards on their way at a time


@dataclass(frozen=True)
class Loaded:
    """One rank's slice of a global batch. B samples are in the slice."""

    step: int
    start: int  # the global batch is [start, stop) of the stream of samples
    stop: int
    positions: Tensor  # int64 (B,): places of the slice's samples in the stream, as `Order.batch` arranges them
    ids: Int64  # int64 (B,): which samples they are
    batch: Batch  # as `ShardedDataset.get` gives it; and ``other``, the image of a second stream


class Stream:
    """A data set in an order, as one rank reads it."""

    def __init__(
        self, dataset: ShardedDataset, order: Order, name: str, rank: int, world: int, pinned: bool, whole: bool
    ) -> None:
        """``pinned``: into memory that a GPU reads; ``whole``: windows are cut later."""
        self.dataset, self.order, self._name = dataset, order, name
        self._rank, self._world, self._pinned, self._whole = rank, world, pinned, whole
        self._free: dict[str, deque[NDArray[Any]]] = {field: deque() for field in dataset.fields}

    def fetch(self, start: int, stop: int) -> Slice:
        """The rank's slice of a batch, once the shards that it needs are here."""
        positions, ids = self.order.batch(start, stop)
        mine = slice(*slice_span(0, len(ids), self._rank, self._world))
        self.dataset.prefetch(ids[mine])
        return positions[mine], ids[mine]

    def read(self, found: Slice) -> Decoded:
        """Decode a slice. Which window of a picture is taken belongs to the sample's position."""
        positions, ids = found
        out, margin, corners_B2 = self._rows(len(ids)), self.dataset.margin, None
        if margin:
            draws = Draws(self.order.seed, torch.from_numpy(positions), f"crop {self._name}")
            corners_B2 = draws.integers(margin + 1, 2)
        now, later = (None, corners_B2) if self._whole else (corners_B2, None)
        self.dataset.read(ids, out, None if now is None else now.numpy())
        if later is not None and self._pinned:
            later = later.pin_memory()
        return Decoded({field: torch.from_numpy(values) for field, values in out.items()}, later, self.dataset.size)

    def _rows(self, count: int) -> Arrays:
        """Memory for a batch, used again when no tensor holds it any more: fresh pages cost a tenth of the decoding."""
        side = self.dataset.size + self.dataset.margin * self._whole
        lent = {}
        for field, free in self._free.items():
            values = free.pop() if free else None
            if values is None or len(values) < count:
                values = self.dataset.room(field, count, side, self._pinned)
            lent[field] = values[:count]
            weakref.finalize(lent[field], free.append, values).atexit = False
        return lent


class Loader:
    """Feeds one rank. ``waited``: seconds that the consumer has waited for data so far."""

    def __init__(
        self,
        dataset: ShardedDataset,
        order: Order,
        plan: Plan,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
        prefetch: int = 4,
        others: Mapping[str, tuple[ShardedDataset, Order]] | None = None,
        device: torch.device | str = "cpu",
        cut_there: bool | None = None,
    ) -> None:
        """``threads`` decode at a time, one batch each; at most ``prefetch`` batches are in memory ahead. ``others``:
        further data sets and their orders, read at the same positions; the image of each joins the batch under its
        name. Batches are copied to ``device`` beside what the consumer does there; ``cut_there``: and windows are cut
        there, too (None: unless it is the CPU). That changes no batch."""
        self.plan, self.threads, self.prefetch = plan, threads, max(prefetch, threads)
        self.waited = 0.0
        self._device = torch.device(device)
        self._mover = Mover(self._device) if self._device.type == "cuda" else None
        pinned, whole = self._mover is not None, self._device.type != "cpu" if cut_there is None else cut_there
        sources = {"image": (dataset, order), **(others or {})}
        self._streams = {n: Stream(*source, n, rank, world, pinned, whole) for n, source in sources.items()}
        self._ahead = self.prefetch + max(order.ahead for _, order in sources.values()) // plan.batch

    def iterate(self, step: int = 0) -> Generator[Loaded, None, None]:
        """The slices from ``step`` to the end of the plan. Nothing before ``step`` is read.

        Errors of the threads are raised here. Leaving early (close, break, an exception) stops the threads.
        """
        fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="loader-fetch")
        decoders = ThreadPoolExecutor(self.threads, thread_name_prefix="loader-decode")
        steps = range(step, self.plan.steps)
        to_fetch, to_decode = iter(steps), iter(steps)
        fetched: deque[Future[Slices]] = deque()
        decoded: deque[Future[tuple[Loaded, Ready | None]]] = deque()

        def go_on(fetch: int, decode: int) -> None:
            fetched.extend(fetchers.submit(self._fetch, step) for step in islice(to_fetch, fetch))
            decoded.extend(decoders.submit(self._load, step, fetched.popleft()) for step in islice(to_decode, decode))

        try:
            go_on(self._ahead, self.prefetch)
            while decoded:
                began = time.perf_counter()
                loaded, there = decoded.popleft().result()
                self.waited += time.perf_counter() - began
                go_on(1, 1)
                if self._mover and there:
                    self._mover.hand_over(loaded.batch, there)
                yield loaded
        finally:
            fetchers.shutdown(wait=True, cancel_futures=True)
            decoders.shutdown(wait=True, cancel_futures=True)
            if self._mover:
                self._mover.finish()

    def _fetch(self, step: int) -> Slices:
        return {name: stream.fetch(*self.plan.span(step)) for name, stream in self._streams.items()}

    def _load(self, step: int, fetched: Future[Slices]) -> tuple[Loaded, Ready | None]:
        found = fetched.result()
        decoded = {name: self._streams[name].read(found[name]) for name in found}
        batch, there = self._mover.move(decoded) if self._mover else (joined(decoded, self._device), None)
        positions, ids = found["image"]
        return Loaded(step, *self.plan.span(step), torch.from_numpy(positions), ids, batch), there
