"""The loop around the engine: log lines, probes, pictures and checkpoints at their steps."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from components.config import TrainingConfig
from components.engine.engine import Engine
from components.engine.watch import Watch
from components.parallel import World
from components.tasks.base import Batch, Tensors


class Hooks(Protocol):
    """What the caller of `fit` wants to happen. Every rank calls every method at the same steps."""

    def log(self, step: int, values: dict[str, float]) -> None: ...
    def warn(self, step: int, message: str) -> None: ...
    def samples(self, step: int, engine: Engine) -> None: ...
    def probe(self, step: int, engine: Engine) -> None: ...
    def checkpoint(self, step: int, engine: Engine) -> None: ...


class Loaded(Protocol):
    """One rank's slice of the global batch [start, stop) of the stream of samples."""

    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def positions(self) -> Tensor: ...
    @property
    def batch(self) -> Batch: ...


@dataclass
class Intervals:
    """Steps between the things that happen beside training."""

    log: int
    probe: int
    samples: int
    checkpoint: int

    @classmethod
    def of(cls, training: TrainingConfig, samples: int) -> "Intervals":
        """From the configuration, for a training split of ``samples``."""

        def steps(epochs: float) -> int:
            return max(1, math.ceil(epochs * samples / training.batch))

        return cls(
            training.log_every, steps(training.probe_every), steps(training.sample_every), training.checkpoint_every
        )


@dataclass
class Meter:
    """Sums logged values between two log lines, on the device, so that a step does not wait for its own loss."""

    sums: Tensors = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: Tensors) -> None:
        """Add one step's values."""
        for key, value in values.items():
            self.sums[key] = self.sums[key] + value if key in self.sums else value
            self.counts[key] = self.counts.get(key, 0) + 1

    def flush(self, world: World) -> dict[str, float]:
        """Means over the steps since the last flush, over all ranks."""
        if not self.sums:
            return {}
        vector = world.sum(torch.stack([value.detach().float().reshape(()) for value in self.sums.values()]))
        means = {k: v / self.counts[k] for k, v in zip(self.sums, vector.tolist(), strict=True)}
        self.sums, self.counts = {}, {}
        return means


def fit(engine: Engine, batches: Iterable[Loaded], every: Intervals, hooks: Hooks, waited: Callable[[], float]) -> None:
    """Train from ``engine.step`` to the end of ``batches`` (which must start at that step).

    ``waited``: seconds that the loader has kept the engine waiting so far. Raises Diverged, and what hooks raise.
    """
    meter, watch = Meter(), Watch(engine.task.signs)
    images, since, idle = 0, time.perf_counter(), waited()
    for loaded in batches:
        measure = (engine.step + 1) % every.log == 0
        meter.add(engine.train_step(loaded.batch, loaded.positions, loaded.stop - loaded.start, measure))
        images += loaded.stop - loaded.start
        step, last = engine.step, engine.step == engine.steps
        if refusal := engine.not_recorded():
            hooks.warn(step, f"every step is run by Python, not replayed by the GPU: {refusal}")
        save, probe = (step % often == 0 or last for often in (every.checkpoint, every.probe))
        if step % every.log == 0 or save or probe:  # what is saved or probed comes of losses that were finite
            values, now = meter.flush(engine.world), time.perf_counter()
            values |= {
                "images_per_second": images / (now - since),
                "data_wait_share": (waited() - idle) / (now - since),
            }
            hooks.log(step, values)
            if warning := watch.check(step, values):
                hooks.warn(step, warning)
            images, since, idle = 0, now, waited()
        aside = time.perf_counter()
        if step % every.samples == 0 or last:
            hooks.samples(step, engine)
        if probe:
            hooks.probe(step, engine)
        if save:
            hooks.checkpoint(step, engine)
        since += time.perf_counter() - aside  # the throughput is that of training
