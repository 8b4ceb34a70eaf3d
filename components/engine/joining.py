"""Losses that set every sample against all others: rows of the whole global batch, for every micro-batch and rank.

Each computes the loss of the whole batch and counts with its share of the samples, so that the shares make up the loss
and what it says of the parameters that it was computed with. A row, however, has its graph in one place alone: there
its gradient must count in full, and is divided by the share. Gathering with a sum of the rows' gradients over the
ranks, as SimCLR's authors do, gives the same; this needs no message on the way back. Micro-batches are looked at once
without a graph, as Gao et al. 2021 do ("Scaling deep contrastive learning batch size under memory limited setup").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from components.networks.norm import statistics_kept
from components.parallel import World
from components.tasks.base import Task, Tensors


@dataclass
class Micro:
    """One micro-batch of this rank: its inputs, its share of the global batch, and what `forward` gave for it."""

    inputs: Tensors
    share: float
    graph: Tensors | None = None
    seen: Tensors | None = None


@torch.no_grad()
def look(task: Task, micros: Sequence[Micro], forward: Callable[[Tensors], Tensors]) -> None:
    """What ``forward`` gives for every micro-batch, without a graph and without a trace in running statistics."""
    with statistics_kept(task):
        for micro in micros:
            micro.seen = forward(micro.inputs)


class Joined:
    """Entries of the whole global batch, none with a graph."""

    def __init__(self, names: Sequence[str], micros: Sequence[Micro], world: World) -> None:
        """``names``: of entries that all ``micros`` have ``seen``, a row per sample; every rank must call it."""
        seen = [{name: (micro.seen or {})[name] for name in names} for micro in micros]
        here = {name: torch.cat([each[name] for each in seen]) for name in names}
        self._rows = {name: world.join(rows) for name, rows in here.items()}
        self._next = sum(world.counts(here[names[0]])[: world.rank])

    def around(self, micro: Micro, outputs: Tensors) -> Tensors:
        """``outputs`` with the rows of the others before and behind its own. To be called once for each, in order."""
        whole = dict(outputs)
        for name, rows in self._rows.items():
            own = outputs[name]
            stop = self._next + len(own)
            full = own.detach() + (own - own.detach()) / micro.share
            whole[name] = torch.cat([rows[: self._next], full, rows[stop:]])
        self._next = stop
        return whole
