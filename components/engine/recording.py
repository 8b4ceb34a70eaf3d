"""CUDA graphs: a step is recorded once for each kind of it and replayed, so that the GPU does not wait for Python.

A recording repeats the same kernels on the same memory: the batch is copied to where it was, learning rates are read
from the device, and dropout from the seed that torch has for the device at the replay. The first steps of a kind run
eagerly: they make what is made at the first use (averages of the optimizers, choices of cuDNN and of torch.compile),
and show whether the step waits for the device, which no recording can.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from components.tasks.base import Batch, Tensors

WARM_UP = 3  # eager steps of a kind before it is recorded

Act = Callable[[Batch, Tensor], Tensors]


@dataclass(frozen=True)
class Recording:
    """A recorded step: where it reads its samples, and where it leaves the values that are logged."""

    graph: torch.cuda.CUDAGraph
    names: tuple[str, ...]
    values: Tensor  # (names,) float32, overwritten by the next replay

    def replay(self) -> Tensors:
        """Run it; returns {name: scalar}, apart from its memory."""
        self.graph.replay()
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))


@dataclass(frozen=True)
class Inputs:
    """Samples at a fixed place on the device."""

    batch: Batch
    positions_B: Tensor

    @classmethod
    def like(cls, batch: Batch, positions_B: Tensor, device: torch.device) -> "Inputs":
        """Room for samples of these shapes."""
        place = {key: torch.empty_like(value, device=device) for key, value in batch.items()}
        return cls(place, torch.empty_like(positions_B, device=device))

    def fill(self, batch: Batch, positions_B: Tensor) -> None:
        """Copy samples there."""
        for key, value in batch.items():
            self.batch[key].copy_(value, non_blocking=True)
        self.positions_B.copy_(positions_B, non_blocking=True)


class Recorder:
    """The recordings of one engine, by the kind of the step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen: Counter[Hashable] = Counter()
        self._inputs: dict[Hashable, Inputs] = {}
        self._recordings: dict[Hashable, Recording] = {}
        self.refusal: str | None = None  # why steps are not recorded

    def forget(self) -> None:
        """Drop all recordings: other weights count now, or the engine works on other memory."""
        self._seen.clear()
        self._inputs.clear()
        self._recordings.clear()

    def step(self, kind: Hashable, act: Act, batch: Batch, positions_B: Tensor) -> Tensors:
        """What ``act`` returns for these samples, run or replayed; scalars only.

        ``kind``: everything that ``act`` depends on apart from the samples' values and what is in the device's memory.
        """
        if self.refusal:
            return act(batch, positions_B)
        kind = (kind, *((key, value.shape, value.dtype) for key, value in batch.items()))
        if kind not in self._inputs:
            self._inputs[kind] = Inputs.like(batch, positions_B, self._device)
        inputs = self._inputs[kind]
        inputs.fill(batch, positions_B)
        self._seen[kind] += 1
        if self._seen[kind] <= WARM_UP:
            return self._watched(act, inputs) if self._seen[kind] == WARM_UP else act(inputs.batch, inputs.positions_B)
        if kind not in self._recordings:
            recording = self._record(act, inputs)
            if recording is None:
                return act(inputs.batch, inputs.positions_B)
            self._recordings[kind] = recording
        return self._recordings[kind].replay()

    def _watched(self, act: Act, inputs: Inputs) -> Tensors:
        """Run the step; where it waits for the device, it will not be recorded."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                metrics = act(inputs.batch, inputs.positions_B)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        for warning in said:
            if "synchronizing CUDA operation" in str(warning.message):
                self.refusal = f"it waits for the device ({warning.filename}:{warning.lineno})"
            elif "debug mode is a prototype" not in str(warning.message):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return metrics

    def _record(self, act: Act, inputs: Inputs) -> Recording | None:
        """Record the step, without running it; None where that cannot be done."""
        graph = torch.cuda.CUDAGraph()
        try:
            # Threads that load samples may go on with what a recording forbids to its own: taking pinned memory.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                metrics = act(inputs.batch, inputs.positions_B)
                values = torch.stack([value.float().reshape(()) for value in metrics.values()])
        except RuntimeError as error:
            self.refusal = str(error).partition("\n")[0]
            torch.cuda.synchronize(self._device)
            return None
        return Recording(graph, tuple(metrics), values)
