"""Average precision of images ranked by a score, class by class, where images of equal scores come at once.

Legend of shape suffixes: N images, M those whose truth is known, E groups of equal scores, highest first, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.data.arrays import Bools
from components.data.boxes import Floats
from components.data.scramble import Int64
from components.transfer.metrics.average_precision import eleven_points

Truth = NDArray[np.int8]  # of an image and a class: PRESENT, ABSENT or IGNORED
PRESENT, ABSENT, IGNORED = 1, 0, -1

Rule = Callable[[Floats, Floats, float], float]  # right and wrong ones down to each group, right ones in all


def area_of_steps(right_E: Floats, wrong_E: Floats, present: float) -> float:
    """The sum of precisions, each times the recall that its group adds: scikit-learn's average precision."""
    precision_E = right_E / np.maximum(right_E + wrong_E, np.spacing(1))
    return float(np.diff(right_E, prepend=0.0) @ precision_E) / present


@dataclass(frozen=True)
class ClassRanking:
    """The images whose truth is known for a class, highest score first."""

    image_M: Int64
    right_M: Bools
    last_E: Int64  # the last of each group of equal scores

    @classmethod
    def of(cls, score_N: Floats, truth_N: Truth) -> "ClassRanking":
        """Rank ``score_N`` by ``truth_N``."""
        known_M = np.flatnonzero(truth_N != IGNORED)
        order_M = known_M[np.argsort(-score_N[known_M], kind="stable")]
        ends = np.append(np.diff(score_N[order_M]) != 0, True) if len(order_M) else np.zeros(0, np.bool_)
        return cls(order_M, truth_N[order_M] == PRESENT, np.flatnonzero(ends))

    def average(self, rule: Rule, weight_N: Floats) -> float | None:
        """The average precision, images weighted; None where the class is in none of them."""
        weight_M = weight_N[self.image_M]
        right_E, wrong_E = (np.cumsum(weight_M * each)[self.last_E] for each in (self.right_M, ~self.right_M))
        present = float(right_E[-1]) if len(right_E) else 0.0
        return rule(right_E, wrong_E, present) if present else None


class Rankings:
    """The rankings of all classes."""

    def __init__(self, score_NK: Floats, truth_NK: Truth) -> None:
        self.images = len(score_NK)
        self.classes = [ClassRanking.of(*each) for each in zip(score_NK.T, truth_NK.T, strict=True)]

    def by_class(self, rule: Rule, weight_N: Floats | None = None) -> list[float | None]:
        """The average precision of each class; None for one that is in no image."""
        weight_N = np.ones(self.images) if weight_N is None else weight_N
        return [each.average(rule, weight_N) for each in self.classes]

    def mean(self, rule: Rule, weight_N: Floats | None = None) -> float:
        """The mean over the classes that are in any image, in [0, 1]; 0 where none is."""
        found = [each for each in self.by_class(rule, weight_N) if each is not None]
        return float(np.mean(found)) if found else 0.0


RULES: dict[str, Rule] = {"map11": eleven_points, "map": area_of_steps}
