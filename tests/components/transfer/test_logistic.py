"""The solver against scikit-learn's, and its behaviour on difficult features."""

from collections import deque

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from components.transfer.logistic import _two_loops, solve_path


def problem(n: int = 1500, d: int = 20, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Standardized, strongly correlated features (condition number about 1e5) with noisy linear classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) * np.logspace(0, -2, d))
    x = (x - x.mean(0)) / x.std(0)
    y = (x @ rng.normal(size=(d, classes)) + 3 * rng.gumbel(size=(n, classes))).argmax(1)
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def objective(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, penalty: float) -> float:
    logits = x.double() @ weight.double() + bias.double()
    chosen = (logits - logits.logsumexp(1, keepdim=True))[torch.arange(len(y)), y]
    return float(-chosen.mean() + penalty / 2 * weight.double().square().sum())


def test_each_solution_is_the_optimum_that_sklearn_finds() -> None:
    x, y = problem()
    solutions = list(solve_path(x, y, 4, (1e-3, 1e-1, 1e-2), 100))
    assert [s.penalty for s in solutions] == [1e-1, 1e-2, 1e-3]  # largest first
    for found in solutions:
        reference = LogisticRegression(C=1 / (found.penalty * len(y)), tol=1e-8, max_iter=5000).fit(x.double(), y)
        weight, bias = torch.from_numpy(reference.coef_.T), torch.from_numpy(reference.intercept_)
        best = objective(x, y, weight, bias, found.penalty)
        mine = objective(x, y, found.weight_DK, found.bias_K, found.penalty)
        assert found.converged
        assert -1e-6 < mine - best < 1e-4
        assert found.loss == pytest.approx(mine, abs=1e-5)
        agree = ((x @ found.weight_DK + found.bias_K).argmax(1) == (x.double() @ weight + bias).argmax(1)).double()
        assert agree.mean() > 0.99


def test_a_few_iterations_are_enough_for_correlated_features() -> None:
    x, y = problem()
    assert max(s.iterations for s in solve_path(x, y, 4, (1e-1, 1e-2, 1e-3), 100)) <= 25


def test_separable_classes_more_features_than_samples_and_dead_features() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(30, 60, generator=rng)
    x = x - x.mean(0)
    x[:, 5] = 0
    y = torch.arange(30) % 3
    for found in solve_path(x, y, 3, (1e-2, 1e-6), 200):
        assert torch.isfinite(found.weight_DK).all()
        assert torch.equal((x @ found.weight_DK + found.bias_K).argmax(1), y)
        assert float(found.weight_DK[5].abs().max()) == 0


def test_two_runs_are_bit_for_bit_equal() -> None:
    x, y = problem()
    first, second = (list(solve_path(x, y, 4, (1e-2, 1e-3), 50)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.weight_DK, b.weight_DK) and torch.equal(a.bias_K, b.bias_K) and a.loss == b.loss


def test_an_iteration_limit_is_kept_and_said() -> None:
    x, y = problem()
    (found,) = solve_path(x, y, 4, (1e-3,), 2)
    assert found.iterations == 2 and not found.converged


def test_the_two_loops_are_the_dense_update() -> None:
    # Nocedal and Wright, equation 7.16: H = (1 - rho s y') H (1 - rho y s') + rho s s', from the scaled start.
    rng = torch.Generator().manual_seed(0)
    steps = torch.randn(3, 6, 1, generator=rng)
    hessian = torch.diag(torch.arange(1.0, 7.0))
    pairs = deque((s, hessian @ s, float(s.T @ hessian @ s)) for s in steps)
    start = torch.diag(torch.linspace(0.2, 1.0, 6))
    s, y, _ = pairs[-1]
    dense = start * float(s.T @ y / (y.T @ start @ y))
    for s, y, _ in pairs:
        rho = 1 / float(s.T @ y)
        left = torch.eye(6) - rho * s @ y.T
        dense = left @ dense @ left.T + rho * s @ s.T
    gradient = torch.randn(6, 1, generator=rng)
    torch.testing.assert_close(_two_loops(gradient, pairs, lambda g: start @ g), dense @ gradient, rtol=1e-4, atol=1e-5)
