"""Whether an encoder has learned anything: a sweep's winner, or a row of a table, beside networks without training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.recipes import BENCHMARKS
from pipelines.sweeps.objectives import UNIVERSAL
from pipelines.sweeps.records import RESCALED, Record

Z95 = 1.959964  # half of a normal distribution's 95 % interval, in standard deviations
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


def worth_of(
    winner: Record,
    records: Sequence[Record],
    objective: str,
    ends: Mapping[str, tuple[float, float]],
    samples: int | None,
) -> list[Worth]:
    """The winner beside every untrained network that the sweep has scored; empty where its objective is no transfer.

    ``ends``: of a universal sweep, by recipe, validation scores of random and supervised. ``samples``: images of the
    validation split, on which all scores are; None: unknown.
    """
    rescaled = next((r for r in records if r.proposal.name == RESCALED and objective in r.values), None)
    if objective == UNIVERSAL:
        share = "of the gap between random and supervised, mean over tasks"
        random = {name: end[0] for name, end in ends.items()}
        found = [Worth("random", winner.values[UNIVERSAL], 0.0, _of_gaps(winner.scores, random, ends, samples), share)]
        if rescaled:
            half = _of_gaps(winner.scores, rescaled.scores, ends, samples)
            found.append(Worth(RESCALED, winner.values[UNIVERSAL], rescaled.values[UNIVERSAL], half, share))
        return found
    if objective not in BENCHMARKS or rescaled is None:
        return []
    return [beside(RESCALED, winner.values[objective], rescaled.values[objective], samples)]


def beside(
    against: str,
    score: float,
    untrained: float,
    samples: int | None,
    unit: str = Worth.unit,
    who: str = Worth.who,
) -> Worth:
    """A score beside that of an untrained network, both shares of the same number of ``samples``."""
    error = None if samples is None else _error(score, samples) + _error(untrained, samples)
    return Worth(against, score, untrained, None if error is None else Z95 * math.sqrt(error), unit, who)


def is_learned(worths: Sequence[Worth]) -> str:
    """Whether a winner is better than every untrained network beside it: yes, no, or unknown where there is none."""
    return "unknown" if not worths else "no" if warnings_of(worths) else "yes"


def warnings_of(worths: Sequence[Worth]) -> list[str]:
    """What has to be said of a winner."""
    return [worth.warning for worth in worths if worth.warning]


def _error(score: float, samples: int) -> float:
    """Variance of a share of ``samples`` that were right.

    A success and a failure are added (Agresti and Caffo 2000), so that 0 and 1 are not taken for certain.
    """
    share = (score * samples + 1) / (samples + 2)
    return share * (1 - share) / (samples + 2)


def _of_gaps(
    found: Mapping[str, float], other: Mapping[str, float], ends: Mapping[str, tuple[float, float]], samples: int | None
) -> float | None:
    """Half the interval of the mean over tasks of a difference in units of each task's gap."""
    if samples is None:
        return None
    parts = [
        (_error(found[name], samples) + _error(other[name], samples)) / (high - low) ** 2
        for name, (low, high) in ends.items()
    ]
    return Z95 * math.sqrt(sum(parts)) / len(parts)
