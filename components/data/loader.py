"""The loader: the slices of one rank, decoded ahead in threads.

Threads suffice because the decoders release the interpreter's lock; they share the cache of decoded samples, and
a finished batch is handed over without a copy.
"""

import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from components.data.dataset import ShardedDataset
from components.data.order import Order, Plan, slice_span
from components.data.scramble import Int64


@dataclass(frozen=True)
class Loaded:
    """One rank's slice of a global batch. B samples are in the slice."""

    step: int
    start: int  # the global batch is [start, stop) of the stream of samples
    stop: int
    positions: Tensor  # int64 (B,): places of the slice's samples in the stream
    ids: Int64  # int64 (B,): which samples they are
    batch: dict[str, Tensor]  # as `ShardedDataset.get` gives it


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
    ) -> None:
        """``threads`` decode at a time, one batch each; at most ``prefetch`` batches are in memory ahead."""
        self.dataset, self.order, self.plan = dataset, order, plan
        self.rank, self.world = rank, world
        self.threads, self.prefetch = threads, max(prefetch, threads)
        self.waited = 0.0

    def iterate(self, step: int = 0) -> Generator[Loaded, None, None]:
        """The slices from ``step`` to the end of the plan. Nothing before ``step`` is read.

        Errors of the threads are raised here. Leaving early (close, break, an exception) stops the threads.
        """
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="loader")
        pending: deque[Future[Loaded]] = deque()
        upcoming = iter(range(step, self.plan.steps))
        try:
            pending.extend(pool.submit(self._load, step) for step in islice(upcoming, self.prefetch))
            while pending:
                began = time.perf_counter()
                loaded = pending.popleft().result()
                self.waited += time.perf_counter() - began
                pending.extend(pool.submit(self._load, step) for step in islice(upcoming, 1))
                yield loaded
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, step: int) -> Loaded:
        start, stop = self.plan.span(step)
        first, last = slice_span(start, stop, self.rank, self.world)
        ids = self.order.ids(first, last)
        return Loaded(step, start, stop, torch.arange(first, last), ids, self.dataset.get(ids))
