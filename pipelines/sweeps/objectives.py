"""What a sweep can be after: a benchmark's validation score, what a training costs, how good its pictures are."""

from dataclasses import dataclass

from components.errors import unknown
from components.transfer.protocol import all_protocols

COST = "cost"  # core-seconds of the training
UNIVERSAL = "universal"  # mean over tasks of (score - random) / (supervised - random)
PICTURES = {"pictures/psnr": 1.0, "pictures/ssim": 1.0, "pictures/l1": -1.0}  # of tasks whose pictures have a truth


@dataclass(frozen=True)
class Objective:
    """A name, and whether more is better (``sign`` 1) or less (-1)."""

    name: str
    sign: float

    @property
    def metric(self) -> str:
        """For pictures, the metric's name in what `genoise measure` says."""
        return self.name.partition("/")[2]


def get_objective(name: str) -> Objective:
    """The objective called ``name``; UserError with the nearest name otherwise."""
    signs = dict.fromkeys(all_protocols(), 1.0) | {COST: -1.0} | PICTURES
    if name not in signs:
        raise unknown("objective", name, signs)
    return Objective(name, signs[name])
