"""The ranks of a job, as the engine sees them: rank, size, sums, joins. One process needs no process group."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """Rank and number of ranks. ``World()`` is a single process; `World.current` reads the default process group."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "World":
        """The world of the default process group, or a world of one where none was started."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of ``tensor`` over all ranks, in place; every rank must call it with the same shape."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def counts(self, rows: Tensor) -> list[int]:
        """How many rows each rank has, in the order of the ranks."""
        if self.size == 1:
            return [len(rows)]
        counts = torch.zeros(self.size, dtype=torch.int64, device=rows.device)
        counts[self.rank] = len(rows)
        return [int(count) for count in self.sum(counts).tolist()]

    def join(self, rows: Tensor) -> Tensor:
        """The rows (along the first axis) of all ranks, in the order of the ranks; their numbers may differ."""
        if self.size == 1:
            return rows
        if rows.dtype == torch.bool:  # which has no sum
            return self.join(rows.byte()).bool()
        sizes = self.counts(rows)
        joined = rows.new_zeros((sum(sizes), *rows.shape[1:]))  # zeros plus rows: the sum changes no bit
        joined[sum(sizes[: self.rank]) :][: len(rows)] = rows
        return self.sum(joined)

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all ranks, in one message. A missing one counts as zero."""
        if self.size == 1 or not parameters:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = self.sum(torch.cat([g.reshape(-1) for g in gradients]))
        for parameter, part in zip(parameters, flat.split_with_sizes([p.numel() for p in parameters]), strict=True):
            parameter.grad = in_layout_of(parameter, part.view(parameter.shape))


def in_layout_of(parameter: Tensor, gradient: Tensor) -> Tensor:
    """``gradient`` with the strides of ``parameter``.

    Fused optimizers walk both as plain memory, whatever their strides say: a contiguous gradient of a channels-last
    weight would be added in the wrong places, without an error.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
