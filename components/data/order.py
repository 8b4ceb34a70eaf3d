"""The order of samples: a pure function of (shard sizes, seed). The position in it is one integer.

Position p of the endless stream of samples lies in epoch p // N; every epoch is a permutation of all N samples. Nothing
in here knows how many workers there are: they cut each global batch among themselves (`slice_span`), so their number
may change at any moment.

An epoch lays the shuffled shards out as one *line* of N places and cuts it into *lanes*, stretches of equal length.
Positions visit the lanes in turn; a lane goes through its places window by window, shuffled within each. So the lanes
are read side by side, each forwards, and a batch has its share of every lane. Arranged by the line (`Order.batch`), the
r-th part of every batch comes from the r-th part of the line, whatever the number of parts: a worker touches the shards
of its part alone (docs/decisions/0007-lanes.md).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from components.data.scramble import Int64, make_key, mix_keys, permute
from components.errors import UserError

MIXED = 8  # shards whose samples are mixed, at least, where there are as many
MOST_LANES = 128
_BLOCK = 4096  # positions


class Order:
    """The stream of sample ids of a training split with ``shard_sizes`` samples per shard.

    Ids count the samples through the shards as they are listed. An epoch costs time and memory in proportion to the
    number of shards once, a span in proportion to its own length; neither depends on the number of samples.
    """

    def __init__(
        self, shard_sizes: Sequence[int], seed: int, window: int | None = None, lanes: int | None = None
    ) -> None:
        """``lanes``: a power of two; by default about the root of the number of shards, for larger sets have more
        readers. ``window``: shards of a lane that are mixed. Raises UserError when there are no samples."""
        self.seed = seed
        self._sizes = np.asarray(shard_sizes, np.int64)
        self._firsts = np.cumsum(self._sizes) - self._sizes
        self.samples = int(self._sizes.sum())
        if self.samples == 0:
            raise UserError("the training split holds no samples: prepare data with at least one readable image")
        self.lanes = lanes or min(MOST_LANES, 1 << (len(self._sizes).bit_length() - 1) // 2)
        if self.lanes & (self.lanes - 1):
            raise ValueError(f"{self.lanes} lanes are not a power of two")
        mean = self.samples / len(self._sizes)
        self._window = max(1, round(mean * (window or max(2, MIXED // self.lanes))))  # samples
        # Lane v is the v-th stretch of the line and is visited in turn turns[v]. Turns are bits reversed (van der
        # Corput 1935), so that any number of consecutive positions is spread evenly over the line.
        self._turns = _reverse_bits(self.lanes)
        self._lane_sizes = (self.samples - self._turns + self.lanes - 1) // self.lanes
        self._lane_starts = np.cumsum(self._lane_sizes) - self._lane_sizes
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)  # a span crosses one border at most
        self._block = lru_cache(maxsize=8)(self._make_block)

    @property
    def ahead(self) -> int:
        """Positions in which every lane goes on by half a window: as far ahead as shards are worth fetching."""
        return self.lanes * self._window // 2

    def ids(self, start: int, stop: int) -> Int64:
        """Sample ids at the positions ``start`` .. ``stop`` - 1 of the stream, int64 (stop - start,)."""
        return self._find(start, stop)[1]

    def batch(self, start: int, stop: int) -> tuple[Int64, Int64]:
        """(positions, sample ids) of ``start`` .. ``stop`` - 1, arranged by the line: neighbours share shards."""
        positions = np.arange(start, stop, dtype=np.int64)
        places, ids = self._find(start, stop)
        arranged = np.argsort(places, kind="stable")
        return positions[arranged], ids[arranged]

    def _find(self, start: int, stop: int) -> tuple[Int64, Int64]:
        """(places in the lines of their epochs, sample ids) at the positions ``start`` .. ``stop`` - 1."""
        numbers = range(start // _BLOCK, -(-stop // _BLOCK))
        blocks = [self._block(number) for number in numbers] or [(np.zeros(0, np.int64),) * 2]
        first = start // _BLOCK * _BLOCK
        places, ids = (np.concatenate(parts)[start - first : stop - first] for parts in zip(*blocks, strict=True))
        return places, ids

    def _make_block(self, number: int) -> tuple[Int64, Int64]:
        """`_find` for so many positions that their arithmetic costs little each; a batch may be small."""
        positions = np.arange(number * _BLOCK, (number + 1) * _BLOCK, dtype=np.int64)
        places, ids = np.empty_like(positions), np.empty_like(positions)
        epochs = positions // self.samples
        for epoch in np.unique(epochs).tolist():
            within = slice(*np.searchsorted(epochs, (epoch, epoch + 1)))
            places[within] = self._places(epoch, positions[within] - epoch * self.samples)
            shards, ends = self._epoch(epoch)
            which = np.searchsorted(ends, places[within], side="right")
            shard = shards[which]
            ids[within] = self._firsts[shard] + places[within] - (ends[which] - self._sizes[shard])
        return places, ids

    def _places(self, epoch: int, offsets: Int64) -> Int64:
        """Places in the line of the ``offsets``-th samples of an epoch."""
        lanes = self._turns[offsets % self.lanes]  # reversing bits is its own inverse
        inside, sizes = offsets // self.lanes, self._lane_sizes[lanes]
        # Windows of nearly equal length: the w-th of k begins at floor(w size / k).
        counts = np.maximum(1, (sizes + self._window // 2) // self._window)
        windows = ((inside + 1) * counts - 1) // sizes
        starts = windows * sizes // counts
        keys = mix_keys(make_key(self.seed, epoch, "windows"), lanes, windows)
        lengths = (windows + 1) * sizes // counts - starts
        return self._lane_starts[lanes] + starts + permute(inside - starts, lengths, keys)

    def _make_epoch(self, epoch: int) -> tuple[Int64, Int64]:
        """(shards in the order of the epoch's line, place at which each ends)."""
        count = len(self._sizes)
        shards = permute(np.arange(count, dtype=np.int64), count, make_key(self.seed, epoch, "shards"))
        return shards, np.cumsum(self._sizes[shards])


def _reverse_bits(count: int) -> Int64:
    """The numbers below ``count``, a power of two, with their bits in reverse."""
    reversed_bits = np.zeros(1, np.int64)
    while len(reversed_bits) < count:
        reversed_bits = np.concatenate([2 * reversed_bits, 2 * reversed_bits + 1])
    return reversed_bits


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
