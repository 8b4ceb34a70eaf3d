"""Decoded samples become a batch of tensors, and on a GPU are cut there: what decodes does nothing else.

Legend of shape suffixes: B samples, H height, W width, S side of a window in pixels.
"""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from components.data.dataset import as_tensor

Batch = dict[str, Tensor]
Ready = torch.cuda.Event  # of a batch on its way


@dataclass(frozen=True)
class Decoded:
    """The slice of one stream as it was decoded: (B, H, W, 3), maps (B, H, W) and labels (B,).

    ``corners_B2``: int64, top and left of the windows of side ``side`` that are still to be cut; None: there are none.
    """

    pixels: Batch
    corners_B2: Tensor | None
    side: int


def window(maps: Tensor, corners_B2: Tensor, side: int) -> Tensor:
    """The window of each of the maps (B, H, W, ...) at its own corner -> (B, S, S, ...), on any device.

    One kernel, which waits for nothing: the shape is known, and the corners are read on the device.
    """
    steps_S = torch.arange(side, device=maps.device)
    samples_B11 = torch.arange(len(maps), device=maps.device)[:, None, None]
    rows_BS1 = (corners_B2[:, :1] + steps_S)[:, :, None]
    columns_B1S = (corners_B2[:, 1:] + steps_S)[:, None, :]
    return maps[samples_B11, rows_BS1, columns_B1S]


def joined(decoded: Mapping[str, Decoded], device: torch.device) -> Batch:
    """One batch of all streams, on the device: the samples of the stream ``image`` as `ShardedDataset.get` gives them,
    and the image of each other stream under its name. Copies from pinned memory are not waited for."""
    batch: Batch = {}
    for name, part in decoded.items():
        there = {field: values.to(device, non_blocking=True) for field, values in part.pixels.items()}
        if part.corners_B2 is not None:
            at_B2 = part.corners_B2.to(device, non_blocking=True)
            there = {f: window(values, at_B2, part.side) if values.ndim > 1 else values for f, values in there.items()}
        tensors = {field: as_tensor(field, values) for field, values in there.items()}
        batch |= tensors if name == "image" else {name: tensors["image"]}
    return batch


class Mover:
    """Carries batches to a GPU in a stream of its own, beside what is computed there. For many threads."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch gives it no types
        self._under_way: deque[tuple[Ready, Mapping[str, Decoded]]] = deque()
        self._lock = threading.Lock()

    def move(self, decoded: Mapping[str, Decoded]) -> tuple[Batch, Ready]:
        """The batch as `joined` makes it, and what tells that it is there. Nothing is waited for; the host's memory is
        held until it was read."""
        with torch.cuda.stream(self._stream):
            batch, there = joined(decoded, self._device), Ready()  # type: ignore[no-untyped-call]  # as above
            there.record(self._stream)
        with self._lock:
            self._under_way.append((there, decoded))
            while self._under_way and self._under_way[0][0].query():  # type: ignore[no-untyped-call]  # as above
                self._under_way.popleft()
        return batch, there

    def hand_over(self, batch: Batch, there: Ready) -> None:
        """Have the stream in which the caller computes wait for the batch, whose memory was taken in another one."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(there)
        for values in batch.values():
            values.record_stream(stream)

    def finish(self) -> None:
        """Wait for all batches: the host's memory may go."""
        self._stream.synchronize()
        self._under_way.clear()
