"""What the trials say about the space: which keys matter, and how the score answers to each. Plain NumPy.

Both rest on one estimate: the mean score at a coordinate of a key, a Gaussian kernel over the finished trials
(Nadaraya 1964, Watson 1964). A few dozen trials do not carry more than one key at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.sweeps.records import Record
from pipelines.sweeps.space import Space

Floats = NDArray[np.float64]
BANDWIDTHS = (0.08, 0.15, 0.3, 0.6)  # of coordinates; chosen by leaving one out
RESAMPLES = 200  # of the bootstrap and of the permutations
FEWEST = 5  # trials from which anything is concluded


@dataclass(frozen=True)
class Curve:
    """The mean score over the coordinate of a key, with the bootstrap's 95 % band."""

    at: Floats
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Importance:
    """The share of the score's variance that a key alone explains, in [0, 1], and what chance would explain."""

    share: float
    chance: float  # 95 % quantile of the same share over shuffled scores


def table(space: Space, records: Sequence[Record], objective: str) -> tuple[dict[str, Floats], Floats]:
    """({key: coordinates}, scores) of the sweep's own finished trials."""
    found = [(space.coordinates(r.proposal.point), r) for r in records if r.state == "finished" and r.proposal.searched]
    inside = [(u, r) for u, r in found if u is not None]
    scores = np.array([r.values[objective] for _, r in inside], np.float64)
    return {key: np.array([u[key] for u, _ in inside], np.float64) for key in space.keys}, scores


def smooth(at: Floats, u: Floats, scores: Floats, bandwidth: float) -> Floats:
    """The kernel's mean of ``scores`` (N,) at ``u`` (N,), for each of ``at`` (M,) -> (M,)."""
    weight_MN = np.exp(-0.5 * ((at[:, None] - u[None]) / bandwidth) ** 2) + 1e-12
    mean: Floats = weight_MN @ scores / weight_MN.sum(1)
    return mean


def left_out(u: Floats, scores: Floats, bandwidth: float) -> Floats:
    """The kernel's mean at every trial, of all others."""
    weight_NN = np.exp(-0.5 * ((u[:, None] - u[None]) / bandwidth) ** 2) + 1e-12
    np.fill_diagonal(weight_NN, 0.0)
    mean: Floats = weight_NN @ scores / weight_NN.sum(1)
    return mean


def explained(u: Floats, scores: Floats) -> tuple[float, float]:
    """(share of the variance that the others predict of a trial left out, the bandwidth that does so best)."""
    everyone = left_out(np.zeros_like(u), scores, 1.0)  # the mean of the others: what no knowledge of u predicts
    total = float(((scores - everyone) ** 2).sum())
    if total == 0.0:
        return 0.0, BANDWIDTHS[-1]
    shares = {h: 1 - float(((scores - left_out(u, scores, h)) ** 2).sum()) / total for h in BANDWIDTHS}
    best = max(shares, key=lambda h: shares[h])
    return max(0.0, shares[best]), best


def importance(u: Floats, scores: Floats, seed: int = 0) -> Importance | None:
    """How much of the score a key alone explains; None for too few trials."""
    if len(scores) < FEWEST:
        return None
    rng = np.random.default_rng(seed)
    chance = [explained(u, rng.permutation(scores))[0] for _ in range(RESAMPLES)]
    return Importance(explained(u, scores)[0], float(np.quantile(chance, 0.95)))


def curve(u: Floats, scores: Floats, points: int = 50, seed: int = 0) -> Curve | None:
    """How the score answers to a key; None for too few trials."""
    if len(scores) < FEWEST:
        return None
    at = np.linspace(0, 1, points)
    bandwidth = explained(u, scores)[1]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(scores), size=(RESAMPLES, len(scores)))
    resampled = np.stack([smooth(at, u[rows], scores[rows], bandwidth) for rows in drawn])
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    return Curve(at, smooth(at, u, scores, bandwidth), low, high)
