"""An encoder beside a network without training: whether it has learned anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from components.transfer.statistics import Z95

LEARNED = "genoise.better_than_untrained"  # tag of a registered model: yes, no or unknown
WARNING = "genoise.warning"  # tag of a registered model: what has to be said of it, or nothing
Outcome = Literal["better", "no better", "worse"]


@dataclass(frozen=True)
class Worth:
    """An encoder beside an untrained network.

    ``half``: of the 95 % interval; None where nobody knows of how many images the scores are.
    """

    against: str  # "rescaled" or "random"
    winner: float
    untrained: float
    half: float | None
    unit: str = "top-1 on validation"
    who: str = "the winner"

    @property
    def outcome(self) -> Outcome:
        """Better or worse only where the whole interval says so."""
        difference = self.winner - self.untrained
        if abs(difference) <= (self.half or 0.0):
            return "no better"
        return "better" if difference > 0 else "worse"

    @property
    def warning(self) -> str:
        """What has to be said of a winner that is not better; else empty."""
        if self.outcome == "better":
            return ""
        width = "" if self.half is None else f" ± {100 * self.half:.1f}"
        within = ", within the interval" if self.outcome == "no better" and self.half is not None else ""
        return (
            f"{self.who} is {self.outcome} than the untrained network ({self.against}): {100 * self.winner:.1f} and "
            f"{100 * self.untrained:.1f} % {self.unit}, {100 * (self.winner - self.untrained):+.1f}{width}{within}; "
            "train longer, on more images, or with other weights"
        )


def beside(
    against: str,
    score: float,
    untrained: float,
    samples: int | None,
    unit: str = Worth.unit,
    who: str = Worth.who,
) -> Worth:
    """A score beside that of an untrained network, both shares of the same number of ``samples``."""
    error = None if samples is None else variance(score, samples) + variance(untrained, samples)
    return Worth(against, score, untrained, None if error is None else Z95 * math.sqrt(error), unit, who)


def is_learned(worths: Sequence[Worth]) -> str:
    """Whether a winner is better than every untrained network beside it: yes, no, or unknown where there is none."""
    return "unknown" if not worths else "no" if warnings_of(worths) else "yes"


def warnings_of(worths: Sequence[Worth]) -> list[str]:
    """What has to be said of a winner."""
    return [worth.warning for worth in worths if worth.warning]


def variance(score: float, samples: int) -> float:
    """The variance of a share of ``samples`` that were right.

    A success and a failure are added (Agresti and Caffo 2000), so that 0 and 1 are not taken for certain.
    """
    share = (score * samples + 1) / (samples + 2)
    return share * (1 - share) / (samples + 2)
