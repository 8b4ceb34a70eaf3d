"""Statistics of scores: intervals over seeds and over test images, differences, and shares of a gap.

Legend of shape suffixes: N judged images, R resamples.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from components.data.scramble import make_key, mix_keys

Z95 = 1.959964  # half of a normal distribution's 95 % interval, in standard deviations
RESAMPLES = 1000
DIGITS = 6  # of a resampled score, as it is stored
SHARES = ("top1",)  # metrics that are shares of the test images: their variance is known without samples of them

BySeed = Mapping[int, float]
Floats = NDArray[np.float64]


def gap_closed(score: float, random: float, supervised: float) -> float | None:
    """(score - random) / (supervised - random): 0 is a random network, 1 is supervised pretraining.

    May lie outside [0, 1]. None where supervised pretraining is not better than random: there is no gap to close.
    """
    return (score - random) / (supervised - random) if supervised > random else None


@dataclass(frozen=True)
class Measured:
    """The scores of one encoder's trainings by seed, all on the same ``n`` images (0: nobody knows how many)."""

    scores: BySeed
    n: int
    resampled: Floats = field(default_factory=lambda: np.empty(0))  # (R,), the mean over seeds; empty: unknown
    metric: str = SHARES[0]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return math.fsum(self.scores.values()) / len(self.scores)


@dataclass(frozen=True)
class Estimate:
    """A figure, and half the width of its 95 % interval; infinite where that is unknown."""

    value: float
    half: float

    @property
    def is_positive(self) -> bool:
        """Whether the whole interval lies above zero; of one that is unknown, nobody can say so."""
        return self.value > self.half

    @property
    def known(self) -> float | None:
        """Half the width, where it is known."""
        return self.half if math.isfinite(self.half) else None

    def __str__(self) -> str:
        """In points of a score, and what is wrong with it as a gap to close."""
        if self.known is None:
            return f"{100 * self.value:+.1f} points, of which the interval is unknown"
        lacking = "the gap is within its interval" if abs(self.value) <= self.half else "there is no gap"
        return f"{100 * self.value:+.1f} ± {100 * self.half:.1f} points{'' if self.is_positive else f': {lacking}'}"


def score_interval(score: Measured) -> tuple[float | None, float | None]:
    """Half of a score's two 95 % intervals: over its seeds (Student; None with one), and over draws of the test images
    (None where they are unknown). They are independent: their errors add up as squares."""
    seeds = mean_interval(list(score.scores.values()))[1]
    images = Z95 * math.sqrt(image_variance(((1.0, score),)))
    return seeds, images if math.isfinite(images) else None


def gap_between(random: Measured, supervised: Measured) -> Estimate:
    """Supervised minus random, or any other score minus that of an encoder that it is compared with.

    Two independent errors add up as squares: that of the seeds (Student, paired by seed; unknown with one) and that of
    the test images (see `image_variance`).
    """
    seeds = _over_seeds([supervised.scores[k] - random.scores[k] for k in random.scores if k in supervised.scores])
    variance = image_variance(((1.0, supervised), (-1.0, random)))
    return Estimate(supervised.mean - random.mean, math.hypot(seeds, Z95 * math.sqrt(variance)))


def gap_share(score: Measured, random: Measured, supervised: Measured) -> Estimate | None:
    """`gap_closed` of the means over seeds, with its interval; None where the gap is within its own (`gap_between`).

    The interval is that of a ratio by the delta method: the error of score - random - share (supervised - random), in
    units of the gap, from the same two sources as in `gap_between`.
    """
    gap = gap_between(random, supervised)
    share = gap_closed(score.mean, random.mean, supervised.mean)
    if share is None or not gap.is_positive:
        return None
    common = [k for k in score.scores if k in random.scores and k in supervised.scores]
    parts = ((1.0, score), (share - 1, random), (-share, supervised))
    left = [math.fsum(factor * each.scores[k] for factor, each in parts) for k in common]
    variance = image_variance(parts)
    return Estimate(share, math.hypot(_over_seeds(left), Z95 * math.sqrt(variance)) / gap.value)


def image_variance(parts: Sequence[tuple[float, Measured]]) -> float:
    """The variance of a sum of ``parts``, each a factor and what it multiplies, over draws of the test images.

    By the bootstrap, in which the parts are drawn together, where all were scored on the same images and know their
    resampled scores. Else shares are taken by `sampling_variance`, as if they were independent, which for the same
    images is too wide; of other metrics it is unknown, and infinite.
    """
    resampled = [each.resampled for _, each in parts]
    if all(len(each) for each in resampled) and len({(len(each.resampled), each.n) for _, each in parts}) == 1:
        factors = np.array([factor for factor, _ in parts])
        return float(np.var(factors @ np.stack(resampled), ddof=1))
    n = min(each.n for _, each in parts)
    if not n or any(each.metric not in SHARES for _, each in parts):
        return math.inf
    return math.fsum(factor**2 * sampling_variance(each.mean, n) for factor, each in parts)


def resample(metric: Callable[[Floats], float], n: int, resamples: int = RESAMPLES) -> tuple[float, ...]:
    """The ``metric`` of ``resamples`` bootstrap samples of ``n`` test images (Efron 1979).

    ``metric`` is given how often each image was drawn, (N,), and returns a score. The draws depend on ``n`` alone: the
    scores of two encoders on the same images are drawn alike, and their difference is a paired one.
    """
    images_N = np.arange(n, dtype=np.int64)
    found = []
    for k in range(resamples):
        drawn_N = mix_keys(make_key("bootstrap"), images_N, np.full(n, k)) % np.uint64(n)
        found.append(
            round(float(metric(np.bincount(drawn_N.astype(np.int64), minlength=n).astype(np.float64))), DIGITS)
        )
    return tuple(found)


def resample_mean(right_N: NDArray[np.bool_] | Floats) -> tuple[float, ...]:
    """`resample` of the share of the images that are right, or of how right they are on average."""
    return resample(lambda weight_N: float(weight_N @ right_N) / len(right_N), len(right_N))


def sampling_variance(score: float, n: int) -> float:
    """The variance of a share of ``n`` samples that were right, over draws of the samples.

    One success and one failure are added, so that a share of 0 or 1 is not taken for certain (Agresti and Caffo 2000).
    """
    share = (score * n + 1) / (n + 2)
    return share * (1 - share) / (n + 2)


def _over_seeds(values: Sequence[float]) -> float:
    """Half of Student's interval; 0 where one seed says nothing of it."""
    return (mean_interval(values)[1] or 0.0) if values else 0.0


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float | None]:
    """Mean and half width of Student's confidence interval over independent runs (seeds).

    None instead of the half width for a single run, which says nothing of its spread. Raises ValueError without values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values to average")
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, t_quantile(0.5 + level / 2, n - 1) * deviation / math.sqrt(n)


def t_quantile(probability: float, freedom: int) -> float:
    """The ``probability`` quantile (in [0.5, 1)) of Student's t distribution with ``freedom`` >= 1 degrees."""
    if not (0.5 <= probability < 1 and freedom >= 1):
        raise ValueError(f"t quantile of probability {probability} with {freedom} degrees of freedom")
    # t = sqrt(freedom) tan(angle): bisection over the angle is bounded however heavy the tail.
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < 2 * probability - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _t_within(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) tan(angle)) (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
