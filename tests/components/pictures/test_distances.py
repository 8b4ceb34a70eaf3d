"""Distances between sets, against scipy's matrix root and a loop over pairs; and where the answer is known."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from components.pictures.distances import frechet_distance, kernel_distance, squared_discrepancy


def features(samples: int, dimensions: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated features, (samples, dimensions)."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dimensions, dimensions, generator=generator)
    return torch.randn(samples, dimensions, generator=generator) @ mix + shift


def test_frechet_against_scipy() -> None:
    real, fake = features(300, 12, 1), features(200, 12, 2, shift=0.3)
    a, b = (x.double().numpy() for x in (real, fake))
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_distance(real, fake) == pytest.approx(wanted, rel=1e-9)


def test_frechet_of_numbers_is_that_of_two_normal_distributions() -> None:
    real, fake = features(50, 1, 1), features(70, 1, 2)
    means, deviations = float(real.mean() - fake.mean()), float(real.double().std() - fake.double().std())
    assert frechet_distance(real, fake) == pytest.approx(means**2 + deviations**2, rel=1e-6)


def test_frechet_with_singular_covariances() -> None:
    """Features that never vary, and a rotation of all of them, change nothing."""
    real, fake = features(300, 5, 1), features(200, 5, 2, shift=0.3)
    wanted = frechet_distance(real, fake)
    turn: Tensor = torch.linalg.qr(features(40, 40, 3).double()).Q

    def hidden(x: Tensor) -> Tensor:
        return torch.cat([x.double(), torch.zeros(len(x), 35)], 1) @ turn

    assert frechet_distance(hidden(real), hidden(fake)) == pytest.approx(wanted, rel=1e-9)
    few = hidden(real)[:10]
    assert frechet_distance(few, few) < 1e-9
    dead = torch.zeros(10, 40)
    assert frechet_distance(dead, dead) == 0


def test_kernel_against_a_loop_over_pairs() -> None:
    x, y = features(7, 4, 1).double(), features(5, 4, 2).double()

    def k(a: Tensor, b: Tensor) -> float:
        return float((sum(float(u) * float(v) for u, v in zip(a, b, strict=True)) / 4 + 1) ** 3)

    within_x = [k(x[i], x[j]) for i, j in itertools.permutations(range(7), 2)]
    within_y = [k(y[i], y[j]) for i, j in itertools.permutations(range(5), 2)]
    between = [k(a, b) for a in x for b in y]
    wanted = np.mean(within_x) + np.mean(within_y) - 2 * np.mean(between)
    assert float(squared_discrepancy(x, y)) == pytest.approx(float(wanted), rel=1e-9)


def test_kernel_is_unbiased_and_its_error_is_honest() -> None:
    """Of one distribution: estimates lie around zero, and as far from it as the error says."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(60, 2, 100, 6, generator=generator)
    estimates = [kernel_distance(real, fake) for real, fake in draws]
    scores = np.array([each.value / each.error for each in estimates])
    assert abs(scores.mean()) < 0.5 and 0.7 < scores.std() < 1.5
    assert (scores < 0).any()
    apart = kernel_distance(draws[0, 0], draws[0, 1] + 1)
    assert apart.value > 5 * apart.error


def test_kernel_never_compares_a_sample_with_its_own_truth() -> None:
    """A set with itself: where the same samples met, the estimate would be far below zero."""
    same = features(400, 6, 1)
    estimate = kernel_distance(same, same)
    meeting = float(squared_discrepancy(same[:40].double(), same[:40].double()))
    assert abs(estimate.value) < 3 * estimate.error
    assert meeting < estimate.value - 3 * estimate.error


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="two samples"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="at least 20 samples"):
        kernel_distance(torch.zeros(19, 3), torch.zeros(50, 3))
