"""The order of samples: a pure function of (shard sizes, seed). The position in it is one integer.

Position p of the endless stream of samples lies in epoch p // N; every epoch is a permutation of all N samples. Nothing
in here knows how many workers there are: they cut each global batch among themselves (`slice_span`), so their number
may change at any moment, and no shard belongs to a worker.

An epoch shuffles the shards, groups them into windows, and shuffles the samples of a window among each other; a reader
therefore touches the shards of one window (at a border: of two) at a time, and each shard once per epoch.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from components.data.scramble import Int64, make_key, permute
from components.errors import UserError


class Order:
    """The stream of sample ids of a training split with ``shard_sizes`` samples per shard.

    Ids count the samples through the shards as they are listed. An epoch costs time and memory in proportion to the
    number of shards once, a span in proportion to its own length; neither depends on the number of samples.
    """

    def __init__(self, shard_sizes: Sequence[int], seed: int, window: int = 8) -> None:
        """``window``: shards whose samples are mixed. Raises UserError when there are no samples."""
        self._sizes = np.asarray(shard_sizes, np.int64)
        self._firsts = np.cumsum(self._sizes) - self._sizes
        self.samples = int(self._sizes.sum())
        self._seed, self._window = seed, window
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)  # a span crosses one border at most
        if self.samples == 0:
            raise UserError("the training split holds no samples: prepare data with at least one readable image")

    def ids(self, start: int, stop: int) -> Int64:
        """Sample ids at the positions ``start`` .. ``stop`` - 1 of the stream, int64 (stop - start,)."""
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.samples)
            end = min(self.samples, offset + stop - start)
            parts.append(self._in_epoch(epoch, offset, end))
            start += end - offset
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def shards(self, start: int, stop: int) -> Int64:
        """Numbers of the shards that the positions ``start`` .. ``stop`` - 1 touch, sorted."""
        return np.unique(np.searchsorted(self._firsts, self.ids(start, stop), side="right") - 1)

    def _in_epoch(self, epoch: int, offset: int, end: int) -> Int64:
        """Ids at the offsets ``offset`` .. ``end`` - 1 of one epoch."""
        shards, ends = self._epoch(epoch)
        parts = []
        while offset < end:
            w = int(np.searchsorted(ends, offset, side="right"))
            first = int(ends[w - 1]) if w else 0
            stop = min(end, int(ends[w]))
            inside = shards[w * self._window : (w + 1) * self._window]
            places = np.arange(offset - first, stop - first, dtype=np.int64)
            parts.append(self._in_window(inside, permute(places, int(ends[w]) - first, make_key(self._seed, epoch, w))))
            offset = stop
        return np.concatenate(parts)

    def _in_window(self, shards: Int64, places: Int64) -> Int64:
        """Ids of the ``places``-th samples of a window made of ``shards``, counted shard after shard."""
        ends = np.cumsum(self._sizes[shards])
        which = np.searchsorted(ends, places, side="right")
        return self._firsts[shards[which]] + places - (ends - self._sizes[shards])[which]

    def _make_epoch(self, epoch: int) -> tuple[Int64, Int64]:
        """(shards in the order of the epoch, offset at which each window ends)."""
        count = len(self._sizes)
        shards = permute(np.arange(count, dtype=np.int64), count, make_key(self._seed, epoch, "shards"))
        lasts = np.minimum(np.arange(self._window, count + self._window, self._window), count) - 1
        return shards, np.cumsum(self._sizes[shards])[lasts]


class Plan:
    """How a run cuts the stream into global batches: step -> span of positions.

    Batches are full and run across the borders of epochs. The run consumes round(samples x epochs) positions; when the
    last batch would be partial, the last two share what is left, so that no step is much smaller than the others.
    """

    def __init__(self, samples: int, batch: int, epochs: float) -> None:
        self.samples, self.batch, self.epochs = samples, batch, epochs
        self.total = round(samples * epochs)
        self.steps = -(-self.total // batch)

    def span(self, step: int) -> tuple[int, int]:
        """Positions [start, stop) of a step, 0 <= step < steps."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is not among the {self.steps} steps of the run")
        return self._start(step), self._start(step + 1)

    def step_at(self, position: int) -> int:
        """The step that consumes ``position``; ``steps`` from the end on. With samples consumed so far: the next."""
        if position >= self.total:
            return self.steps
        guess = min(position // self.batch, self.steps - 1)
        return guess + 1 if position >= self._start(guess + 1) else guess

    def _start(self, step: int) -> int:
        if step >= self.steps:
            return self.total
        if step == self.steps - 1 and step > 0 and self.total % self.batch:
            before = (step - 1) * self.batch
            return before + (self.total - before + 1) // 2
        return step * self.batch


def slice_span(start: int, stop: int, rank: int, world: int) -> tuple[int, int]:
    """The part [start, stop) of a span that belongs to ``rank`` of ``world``; sizes differ by one at most."""
    length = stop - start
    return start + length * rank // world, start + length * (rank + 1) // world


def check_divisible(plan: Plan, workers: int, micro_batches: int = 1) -> None:
    """Raise UserError unless every step has at least one sample for each micro-batch of each worker.

    Shards need not be divided among workers: the order knows no workers (see above), so one shard serves any number.
    What must be divisible is the smallest global batch, and the split must hold at least one global batch.
    """
    if plan.samples < plan.batch:
        raise UserError(
            f"the training split has {plan.samples} samples, fewer than one global batch of {plan.batch}: "
            f"prepare more images or use --set training.batch={plan.samples}"
        )
    if not plan.steps:
        return
    first, last = plan.span(0), plan.span(plan.steps - 1)
    smallest = min(first[1] - first[0], last[1] - last[0])
    parts = workers * micro_batches
    if smallest < parts:
        raise UserError(
            f"a step of {smallest} samples cannot be divided among {workers} workers x {micro_batches} micro-batches: "
            f"use --set training.batch={2 * parts} or more, or fewer workers"
        )
