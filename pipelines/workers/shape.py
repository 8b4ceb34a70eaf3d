"""What the workers of a training need, and what they are given on the machines that there are."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from components.config import TrainingConfig

Node = Mapping[str, float]  # the resources of one machine: CPU, GPU


@dataclass(frozen=True)
class Shape:
    """Workers of a group, and what each of them has."""

    workers: int
    cpus: int
    gpus: float  # a share of one GPU, or 1; 0 where there is none

    @property
    def needs(self) -> dict[str, float]:
        """What the group keeps from others."""
        return {"GPU": self.workers * self.gpus, "CPU": self.workers * self.cpus}


@dataclass(frozen=True)
class Need:
    """What a step asks for: so many workers, each with cores and, where there are GPUs, a share of one."""

    workers: int = 1
    cpus: int | Literal["auto"] = "auto"
    gpus: float = 1.0
    compiler: bool = False  # whether each needs what `torch.compile` does

    @classmethod
    def of(cls, training: TrainingConfig) -> "Need":
        """That of a training."""
        return cls(training.workers, training.cpus, training.gpus, training.compile)

    @property
    def each(self) -> int:
        """The cores of each worker where there is no GPU: one, unless somebody has said how many."""
        return 1 if self.cpus == "auto" else self.cpus

    @property
    def cores(self) -> int:
        """The cores of all workers where there is no GPU."""
        return self.workers * self.each

    def on(self, nodes: Iterable[Node]) -> Shape:
        """What the workers are given on these machines. Where there are GPUs, a worker's fair part of the cores is as
        large as its part of the GPUs, on the machine with the fewest cores for each; one core is left to others."""
        with_gpus = [node for node in nodes if node.get("GPU", 0)]
        if not with_gpus:
            return Shape(self.workers, self.each, 0)
        fair = min((node["CPU"] - 1) / node["GPU"] for node in with_gpus) * self.gpus
        return Shape(self.workers, max(1, math.floor(fair)) if self.cpus == "auto" else self.cpus, self.gpus)

    def share(self, gpus: bool) -> float:
        """What it keeps busy: GPUs where there are any, else cores."""
        return self.workers * self.gpus if gpus else self.cores

    def places(self, nodes: Iterable[Node]) -> int:
        """How many of its workers these machines have room for at once."""
        nodes = list(nodes)
        each = self.on(nodes)
        if each.gpus:
            return sum(int(node.get("GPU", 0) / each.gpus + 1e-9) for node in nodes)
        return sum(int(node.get("CPU", 0) // each.cpus) for node in nodes)
