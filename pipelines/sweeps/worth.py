"""Whether a sweep's winner has learned anything: beside the networks without training that the sweep has scored."""

import math
from collections.abc import Mapping, Sequence

from components.transfer.protocol import all_protocols
from components.transfer.statistics import Z95
from pipelines.sweeps.objectives import UNIVERSAL
from pipelines.sweeps.records import RESCALED, Record
from pipelines.tables.untrained import Worth, beside, variance


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
    if objective not in all_protocols() or rescaled is None:
        return []
    return [beside(RESCALED, winner.values[objective], rescaled.values[objective], samples)]


def _of_gaps(
    found: Mapping[str, float], other: Mapping[str, float], ends: Mapping[str, tuple[float, float]], samples: int | None
) -> float | None:
    """Half the interval of the mean over tasks of a difference in units of each task's gap."""
    if samples is None:
        return None
    parts = [
        (variance(found[name], samples) + variance(other[name], samples)) / (high - low) ** 2
        for name, (low, high) in ends.items()
    ]
    return Z95 * math.sqrt(sum(parts)) / len(parts)
