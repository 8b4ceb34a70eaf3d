"""Multinomial logistic regression to its optimum: preconditioned L-BFGS on all samples, along a path of penalties.

Why not torch.optim.LBFGS: the features of neighbouring cells are strongly correlated, and it needs hundreds of passes.
Here the inverse of a scaled Gram matrix (one product and one factorization) starts the two-loop recursion, an upper
bound of the Hessian up to its scale (Boehning 1992, "Multinomial logistic regression algorithm"); a few passes are
left. The logits are linear in the step, so the line search costs no pass over the features at all.

Legend of shape suffixes: N samples, D features, K classes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MEMORY = 12  # pairs of steps and changes of the gradient that L-BFGS remembers
TOLERANCE = 1e-5  # stop when the loss is expected to be that close to its minimum (nats per sample)
Pairs = deque[tuple[Tensor, Tensor, float]]  # steps s, changes y of the gradient, and s . y
_JITTER = 1e-7  # of the Gram matrix's trace: what float32 leaves uncertain of its small eigenvalues


@dataclass(frozen=True)
class Solution:
    """One optimum: logits = x @ weight_DK + bias_K."""

    penalty: float
    weight_DK: Tensor
    bias_K: Tensor
    loss: float  # mean cross-entropy + penalty / 2 |weight|^2
    iterations: int
    converged: bool


def gram(x_ND: Tensor) -> Tensor:
    """The second moments X'X / N, (D, D) float64."""
    return (x_ND.T @ x_ND).double() / len(x_ND)


def factor(gram_DD: Tensor, curvature: float, penalty: float) -> Tensor:
    """The Cholesky factor of curvature * gram + penalty * 1, (D, D) float64."""
    diagonal = penalty + curvature * _JITTER * gram_DD.trace()
    eye_DD = torch.eye(len(gram_DD), dtype=gram_DD.dtype, device=gram_DD.device)
    factor_DD: Tensor = torch.linalg.cholesky(curvature * gram_DD + diagonal * eye_DD)
    return factor_DD


def solve_path(
    x_ND: Tensor, y_N: Tensor, classes: int, penalties: Sequence[float], iterations: int
) -> Iterator[Solution]:
    """Minimize mean cross-entropy + penalty / 2 |weight|^2 (the bias is free) for each penalty, largest first.

    ``x_ND`` float32, each column with mean zero; ``y_N`` int64 below ``classes``. Each solution starts at the one
    before. In the words of scikit-learn, C = 1 / (penalty N). Deterministic: no random start, no sampling.
    """
    problem = Problem(x_ND, y_N, classes)
    found = None
    for penalty in sorted(set(penalties), reverse=True):
        found = problem.solve(penalty, iterations, found)
        yield found


class Problem:
    """The data and its Gram matrix, to be solved for any penalty; arguments as for `solve_path`.

    ``theta`` is (D + 1, K): the weights, then the bias.
    """

    def __init__(self, x_ND: Tensor, y_N: Tensor, classes: int) -> None:
        self.x_ND, self.y_N = x_ND, y_N
        self.target_NK = F.one_hot(y_N, classes).to(x_ND.dtype)
        self.gram_DD = gram(x_ND)

    def solve(self, penalty: float, iterations: int, start: Solution | None = None) -> Solution:
        """The optimum at one penalty, begun at another one's (None: at zero)."""
        if start is None:
            theta = self.x_ND.new_zeros(self.x_ND.shape[1] + 1, self.target_NK.shape[1])
        else:
            theta = torch.cat([start.weight_DK, start.bias_K[None]])
        theta, loss, steps, converged = self.minimize(theta, penalty, iterations)
        return Solution(penalty, theta[:-1], theta[-1], loss, steps, converged)

    def logits(self, theta: Tensor) -> Tensor:
        return torch.addmm(theta[-1], self.x_ND, theta[:-1])

    def loss(self, logits_NK: Tensor, theta: Tensor, penalty: float) -> float:
        return float(F.cross_entropy(logits_NK, self.y_N) + penalty / 2 * theta[:-1].square().sum())

    def gradient(self, probability_NK: Tensor, theta: Tensor, penalty: float) -> Tensor:
        residual_NK = (probability_NK - self.target_NK) / len(self.y_N)
        # (G'X)' and not X'G: BLAS takes five times as long over the second on a CPU.
        moment_DK = (residual_NK.T @ self.x_ND).T
        return torch.cat([moment_DK + penalty * theta[:-1], residual_NK.sum(0, keepdim=True)])

    def minimize(self, theta: Tensor, penalty: float, iterations: int) -> tuple[Tensor, float, int, bool]:
        """(theta, loss, iterations, whether it converged), started from ``theta``."""
        logits_NK = self.logits(theta)
        probability_NK = logits_NK.softmax(1)
        # The Hessian's diagonal blocks are x' diag(p (1 - p)) x: their mean weight is the scale of the Gram matrix.
        curvature = float((probability_NK * (1 - probability_NK)).mean())
        # A matrix and not two triangular solves: the loop applies it twice per iteration, and need not be exact there.
        inverse_DD = torch.cholesky_inverse(factor(self.gram_DD, curvature, penalty)).to(theta.dtype)

        def precondition(gradient: Tensor) -> Tensor:
            # The inverse is symmetric; BLAS takes four times as long over inverse_DD @ gradient for ten columns.
            return torch.cat([(gradient[:-1].T @ inverse_DD).T, gradient[-1:] / curvature])

        gradient = self.gradient(probability_NK, theta, penalty)
        pairs: Pairs = deque(maxlen=MEMORY)
        converged, step = False, 0
        while step < iterations:
            direction = -_two_loops(gradient, pairs, precondition)
            slope = _dot(gradient, direction)
            if -slope / 2 < TOLERANCE:
                converged = True
                break
            along_NK = self.logits(direction)
            length = self.search(logits_NK, along_NK, theta, direction, penalty, slope)
            theta, logits_NK = theta + length * direction, logits_NK + length * along_NK
            probability_NK = logits_NK.softmax(1)
            before, gradient = gradient, self.gradient(probability_NK, theta, penalty)
            s, y = length * direction, gradient - before
            pairs.append((s, y, _dot(s, y)))
            step += 1
        return theta, self.loss(logits_NK, theta, penalty), step, converged

    def search(
        self, logits_NK: Tensor, along_NK: Tensor, theta: Tensor, direction: Tensor, penalty: float, start: float
    ) -> float:
        """How far to go, given the slope at the ``start``: Newton's method for the root of the slope, in a bracket.

        The loss is convex along the line, so the root is the minimum; a tenth of the first slope is near enough.
        """
        inner, square = _dot(theta[:-1], direction[:-1]), _dot(direction[:-1], direction[:-1])
        targeted = float((along_NK * self.target_NK).sum()) / len(self.y_N)

        def slopes(length: float) -> tuple[float, float]:
            probability_NK = (logits_NK + length * along_NK).softmax(1)
            mean_N = (probability_NK * along_NK).sum(1)
            second = float(((probability_NK * along_NK.square()).sum(1) - mean_N.square()).mean())
            first = float(mean_N.mean()) - targeted
            return first + penalty * (inner + length * square), second + penalty * square

        low, high, length = 0.0, float("inf"), 1.0
        for _ in range(20):
            first, second = slopes(length)
            if abs(first) <= 0.1 * abs(start):
                break
            low, high = (length, high) if first < 0 else (low, length)
            length -= first / second
            if not low < length < high:
                length = (low + high) / 2 if high < float("inf") else 2 * low
        return length


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())


def _two_loops(gradient: Tensor, pairs: Pairs, precondition: Callable[[Tensor], Tensor]) -> Tensor:
    """The inverse Hessian's approximation times ``gradient`` (Nocedal and Wright, algorithm 7.4)."""
    q = gradient.clone()
    shares = []
    for s, y, product in reversed(pairs):
        shares.append(_dot(s, q) / product)
        q -= shares[-1] * y
    r = precondition(q)
    if pairs:
        s, y, product = pairs[-1]
        r *= product / _dot(y, precondition(y))
    for (s, y, product), share in zip(pairs, reversed(shares), strict=True):
        r += (share - _dot(y, r) / product) * s
    return r
