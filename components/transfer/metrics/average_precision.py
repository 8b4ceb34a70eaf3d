"""Average precision of detectors, by the rules of PASCAL VOC (Everingham et al. 2010) and of COCO (Lin et al. 2014).

Detections are matched to objects once; what follows is a function of how often each image counts, for the bootstrap.

Legend of shape suffixes: N images, K classes, D detections, G objects, P pairs of a detection and an object of its
image and class, T overlaps that are asked for, R recalls at which precision is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.data.arrays import Bools
from components.data.boxes import Floats, Objects
from components.data.scramble import Int64

VOC_OVERLAP = 0.5
COCO_OVERLAPS = np.linspace(0.5, 0.95, 10)
MOST = 100  # detections of an image and class that COCO looks at
_RECALLS = np.linspace(0.0, 1.0, 101)

Rule = Callable[[Floats, Floats, float], float]  # how precision over recall becomes one number; see `area_below`


@dataclass(frozen=True)
class Detections:
    """What a detector found, in all images of a split."""

    image_D: Int64
    label_D: Int64
    score_D: Floats
    boxes_D4: Floats

    def __getitem__(self, chosen: Int64 | Bools) -> "Detections":
        return Detections(self.image_D[chosen], self.label_D[chosen], self.score_D[chosen], self.boxes_D4[chosen])


@dataclass(frozen=True)
class Truth:
    """The objects of all images of a split."""

    image_G: Int64
    objects: Objects
    images: int

    @classmethod
    def of(cls, images: Sequence[Objects]) -> "Truth":
        """The objects of each image in turn."""
        image_G = np.repeat(np.arange(len(images)), [len(each) for each in images])
        parts = [(each.boxes_K4, each.labels_K, each.difficult_K, each.crowd_K) for each in images]
        return cls(image_G.astype(np.int64), Objects(*map(np.concatenate, zip(*parts, strict=True))), len(images))


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class, highest score first."""

    image_D: Int64
    right_TD: Bools
    wrong_TD: Bools  # what is neither is not counted
    image_G: Int64  # of the objects that are to be found

    def counts(self, weight_N: Floats) -> tuple[Floats, Floats, float]:
        """Right and wrong ones down to each detection, (T, D), and the objects to be found; weighted by image."""
        weight_D = weight_N[self.image_D]
        right_TD, wrong_TD = (np.cumsum(each * weight_D, 1) for each in (self.right_TD, self.wrong_TD))
        return right_TD, wrong_TD, float(weight_N[self.image_G].sum())


@dataclass(frozen=True)
class Matches:
    """What is right and wrong among the detections of each class."""

    classes: tuple[ClassMatches, ...]
    images: int

    def average(self, rule: Rule, weight_N: Floats | None = None) -> float:
        """The mean over the classes that have objects, in [0, 1]; 0 where none has."""
        found_K = self.by_class(rule, weight_N)
        return float(np.nanmean(found_K)) if np.isfinite(found_K).any() else 0.0

    def by_class(self, rule: Rule, weight_N: Floats | None = None) -> Floats:
        """(K,), mean over the overlaps; nan for a class without objects. ``weight_N``: how often each image counts."""
        weight_N = np.ones(self.images) if weight_N is None else weight_N
        return np.array([_average(each, rule, weight_N) for each in self.classes])


def match_voc(found: Detections, truth: Truth, classes: int, overlap: float = VOC_OVERLAP) -> Matches:
    """As VOC's development kit (VOCevaldet): a detection belongs to the object that it overlaps most.

    It is right if the intersection over the union is ``overlap`` or more and no detection of a higher score has the
    object already. What belongs to a difficult object counts as neither. Nor does, beyond the kit, what belongs to no
    object and lies by half or more in a crowd.
    """
    found = _ranked(found)
    pairs = _pairs(found, truth, classes)
    difficult_G, crowd_P = truth.objects.difficult_K, pairs.crowd_P
    single = pairs[~crowd_P & (pairs.overlap_P >= overlap)]
    best = single[np.lexsort((single.object_P, -single.overlap_P, single.found_P))]
    best = best[_firsts(best.found_P)]
    is_difficult_P = difficult_G[best.object_P]
    _, first_P = np.unique(best.object_P, return_index=True)  # pairs are in order of the score within an image
    is_first_P = np.zeros(len(best.object_P), np.bool_)
    is_first_P[first_P] = True
    right_D, wrong_D = np.zeros(len(found.image_D), np.bool_), np.ones(len(found.image_D), np.bool_)
    wrong_D[pairs.found_P[crowd_P & (pairs.overlap_P >= 0.5)]] = False
    wrong_D[best.found_P] = ~is_difficult_P & ~is_first_P
    right_D[best.found_P] = ~is_difficult_P & is_first_P
    return _by_class(found, truth, right_D[None], wrong_D[None], classes)


def match_coco(
    found: Detections, truth: Truth, classes: int, overlaps: Floats = COCO_OVERLAPS, most: int = MOST
) -> Matches:
    """As COCO's own evaluation: the highest score chooses first, of the objects that are left, the best overlap.

    What is in a crowd counts as neither; so does, beyond COCO, what gets a difficult object. Of an image, the ``most``
    detections of highest score are looked at in every class.
    """
    found = _ranked(found)
    found = found[_ranks(found, classes) < most]
    rank_D = _ranks(found, classes)
    least_T = np.minimum(overlaps, 1 - 1e-10)
    pairs = _pairs(found, truth, classes)
    pairs = pairs[pairs.overlap_P >= least_T.min()]
    passed_G = truth.objects.difficult_K | truth.objects.crowd_K
    keys = (-pairs.object_P, -pairs.overlap_P, passed_G[pairs.object_P], pairs.found_P, rank_D[pairs.found_P])
    pairs = pairs[np.lexsort(keys)]
    shape = len(least_T), len(found.image_D)
    right_TD, wrong_TD = np.zeros(shape, np.bool_), np.ones(shape, np.bool_)
    taken_TG = np.zeros((len(least_T), len(truth.image_G)), np.bool_)
    ends = np.flatnonzero(np.diff(rank_D[pairs.found_P])) + 1
    for step in np.split(np.arange(len(pairs.found_P)), ends) if len(pairs.found_P) else []:
        now = pairs[step]  # the detections of one rank, each of another image or class, their best objects first
        free_TP = (now.overlap_P >= least_T[:, None]) & (now.crowd_P | ~taken_TG[:, now.object_P])
        begins = np.flatnonzero(_firsts(now.found_P))
        place_TP = np.where(free_TP, np.arange(len(step)), len(step))
        at, who = np.nonzero((best_TB := np.minimum.reduceat(place_TP, begins, axis=1)) < len(step))
        chosen = now.object_P[best_TB[at, who]]
        taken_TG[at, chosen] = True
        right_TD[at, now.found_P[begins][who]] = ~passed_G[chosen]
        wrong_TD[at, now.found_P[begins][who]] = False
    return _by_class(found, truth, right_TD, wrong_TD, classes)


def area_below(right_D: Floats, wrong_D: Floats, objects: float) -> float:
    """The area below precision, made to fall with recall: VOC's rule since 2010.

    As all rules, of the weighted counts down to every detection, for ``objects`` > 0 that are to be found.
    """
    return float(np.diff(right_D, prepend=0.0) @ _falling(right_D, wrong_D)) / objects


def eleven_points(right_D: Floats, wrong_D: Floats, objects: float) -> float:
    """The mean of that precision at the recalls 0, .1, ..., 1: VOC's rule until 2009.

    Recalls are compared as fractions: .3 is reached by 3 of 10, which some ports miss by a rounding.
    """
    places_R = np.searchsorted(10 * right_D, objects * np.arange(11))
    return float(np.append(_falling(right_D, wrong_D), 0.0)[places_R].mean())


def hundred_points(right_D: Floats, wrong_D: Floats, objects: float) -> float:
    """The mean of that precision at the recalls 0, .01, ..., 1: COCO's rule."""
    places_R = np.searchsorted(right_D / objects, _RECALLS)
    return float(np.append(_falling(right_D, wrong_D), 0.0)[places_R].mean())


def _falling(right_D: Floats, wrong_D: Floats) -> Floats:
    """The highest precision at the recall of each detection or any above it."""
    precision_D = right_D / np.maximum(right_D + wrong_D, np.spacing(1))
    falling_D: Floats = np.maximum.accumulate(precision_D[::-1])[::-1]
    return falling_D


def _average(matches: ClassMatches, rule: Rule, weight_N: Floats) -> float:
    right_TD, wrong_TD, objects = matches.counts(weight_N)
    if not objects:
        return float("nan")
    return float(np.mean([rule(*each, objects) for each in zip(right_TD, wrong_TD, strict=True)]))


@dataclass(frozen=True)
class _Pairs:
    """Detections, and the objects of the same image and class."""

    found_P: Int64
    object_P: Int64
    overlap_P: Floats  # intersection over union; over the detection's own area where the object is a crowd
    crowd_P: Bools

    def __getitem__(self, chosen: NDArray[np.int64] | Bools) -> "_Pairs":
        return _Pairs(self.found_P[chosen], self.object_P[chosen], self.overlap_P[chosen], self.crowd_P[chosen])


def _pairs(found: Detections, truth: Truth, classes: int) -> _Pairs:
    """All of them, the objects of each detection in their own order."""
    group_D = found.image_D * classes + found.label_D
    group_G = truth.image_G * classes + truth.objects.labels_K
    order_G = np.argsort(group_G, kind="stable")
    first_D, end_D = (np.searchsorted(group_G[order_G], group_D, side) for side in ("left", "right"))
    count_D = end_D - first_D
    found_P = np.repeat(np.arange(len(group_D)), count_D)
    within_P = np.arange(len(found_P)) - np.repeat(np.cumsum(count_D) - count_D, count_D)
    object_P = order_G[np.repeat(first_D, count_D) + within_P]
    one_P4, other_P4 = found.boxes_D4[found_P], truth.objects.boxes_K4[object_P]
    crowd_P = truth.objects.crowd_K[object_P]
    sides_P2 = np.minimum(one_P4[:, 2:], other_P4[:, 2:]) - np.maximum(one_P4[:, :2], other_P4[:, :2])
    common_P = sides_P2.clip(min=0).prod(1)
    own_P, its_P = ((each_P4[:, 2:] - each_P4[:, :2]).prod(1) for each_P4 in (one_P4, other_P4))
    return _Pairs(found_P, object_P, common_P / np.where(crowd_P, own_P, own_P + its_P - common_P), crowd_P)


def _ranked(found: Detections) -> Detections:
    """By class, then the highest score first; of equal ones the earlier image."""
    return found[np.lexsort((found.image_D, -found.score_D, found.label_D))]


def _ranks(found: Detections, classes: int) -> Int64:
    """(D,): how many of the same image and class are before each one."""
    group_D = found.image_D * classes + found.label_D
    order_D = np.argsort(group_D, kind="stable")
    begins = np.flatnonzero(_firsts(group_D[order_D]))
    out_D = np.empty(len(group_D), np.int64)
    out_D[order_D] = np.arange(len(group_D)) - np.repeat(begins, np.diff(np.append(begins, len(group_D))))
    return out_D


def _firsts(values: Int64) -> Bools:
    """Where a value differs from the one before it."""
    differs: Bools = np.diff(values, prepend=values[:1] - 1) != 0
    return differs


def _by_class(found: Detections, truth: Truth, right_TD: Bools, wrong_TD: Bools, classes: int) -> Matches:
    wanted_G = ~(truth.objects.difficult_K | truth.objects.crowd_K)
    parts = []
    for label in range(classes):
        own_D = found.label_D == label
        own_G = wanted_G & (truth.objects.labels_K == label)
        parts.append(ClassMatches(found.image_D[own_D], right_TD[:, own_D], wrong_TD[:, own_D], truth.image_G[own_G]))
    return Matches(tuple(parts), truth.images)
