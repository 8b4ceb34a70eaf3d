"""An encoder beside a network without training: whether it has learned anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from components.transfer.metrics.statistics import Measured, gap_between

LEARNED = "genoise.better_than_untrained"  # tag of a registered model: yes, no or unknown
WARNING = "genoise.warning"  # tag of a registered model: what has to be said of it, or nothing
Outcome = Literal["better", "no better", "worse", "unknown"]


@dataclass(frozen=True)
class Worth:
    """An encoder beside an untrained network.

    ``half``: of the difference's 95 % interval; None where nobody knows it: of metrics that are no shares of the images
    and have no bootstrap samples, and of shares of nobody knows how many.
    """

    against: str  # "rescaled" or "random"
    winner: float
    untrained: float
    half: float | None
    unit: str = "top1 on validation"
    who: str = "the winner"

    @property
    def outcome(self) -> Outcome:
        """Better or worse only where the whole interval says so."""
        difference = self.winner - self.untrained
        if self.half is None:
            return "unknown"
        if abs(difference) <= self.half:
            return "no better"
        return "better" if difference > 0 else "worse"

    @property
    def warning(self) -> str:
        """What has to be said of a winner that is not known to be better; else empty."""
        if self.outcome == "better":
            return ""
        scores = f"{100 * self.winner:.1f} and {100 * self.untrained:.1f} % {self.unit}"
        difference = f"{100 * (self.winner - self.untrained):+.1f}"
        if self.half is None:
            return (
                f"whether {self.who} is better than the untrained network ({self.against}) is unknown: {scores}, "
                f"{difference}, and how far that is chance cannot be told without bootstrap samples of the images"
            )
        within = ", within the interval" if self.outcome == "no better" else ""
        return (
            f"{self.who} is {self.outcome} than the untrained network ({self.against}): {scores}, "
            f"{difference} ± {100 * self.half:.1f}{within}; train longer, on more images, or with other weights"
        )


def beside(
    against: str,
    score: Measured,
    untrained: Measured,
    unit: str = Worth.unit,
    who: str = Worth.who,
) -> Worth:
    """A score beside that of an untrained network on the same images."""
    return Worth(against, score.mean, untrained.mean, gap_between(untrained, score).known, unit, who)


def is_learned(worths: Sequence[Worth]) -> str:
    """Whether a winner is better than every untrained network beside it: yes, no or (where none is there) unknown."""
    outcomes = {worth.outcome for worth in worths}
    if outcomes & {"no better", "worse"}:
        return "no"
    return "yes" if outcomes == {"better"} else "unknown"


def warnings_of(worths: Sequence[Worth]) -> list[str]:
    """What has to be said of a winner."""
    return [worth.warning for worth in worths if worth.warning]
