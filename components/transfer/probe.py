"""The linear probe: logistic regression on the frozen features of every layer (Zhang et al. 2016, section 3.2).

Legend of shape suffixes: N samples of a split, D features, K classes, C channels, H height, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from components.config import ProbeConfig
from components.data.scramble import Int64
from components.networks.encoder import Encoder
from components.transfer.features import Features, extract, probed_layers
from components.transfer.frozen import classes_of, score_layers
from components.transfer.logistic import Problem, Solution, factor, gram
from components.transfer.protocol import BenchmarkRun, Datasets, Score, register_benchmark

PROTOCOL = "linear/2"  # changes with anything that changes scores; 2: the grid of penalties is widened where it ends
WIDEN = 3  # decades at most, beyond either end of the grid
QUICK_FEATURES = 512
QUICK_PENALTY = 0.1


@dataclass(frozen=True)
class Standard:
    """Mean and scale of every feature over the training samples."""

    mean_D: Tensor
    scale_D: Tensor

    @classmethod
    def of(cls, features_ND: Tensor) -> "Standard":
        """Statistics of (N, D) features; one that does not vary is left out (scale 0) rather than blown up."""
        variance_D, mean_D = torch.var_mean(features_ND, 0, correction=0)
        deviation_D = variance_D.sqrt()
        varies_D = deviation_D > 1e-6 * (mean_D.abs() + deviation_D.amax())
        return cls(mean_D, torch.where(varies_D, 1 / deviation_D, 0.0))

    def __call__(self, features_ND: Tensor) -> Tensor:
        """(N, D) to the same with mean 0 and variance 1 on the training samples."""
        return (features_ND - self.mean_D) * self.scale_D


@dataclass(frozen=True)
class Classifier:
    """A linear classifier of raw features."""

    standard: Standard
    weight_DK: Tensor
    bias_K: Tensor

    def predict(self, features_ND: Tensor) -> Tensor:
        """The most likely classes, int64 (N,) on the CPU."""
        logits_NK = self.standard(features_ND.to(self.bias_K.device)) @ self.weight_DK + self.bias_K
        return logits_NK.argmax(1).cpu()

    def accuracy(self, features_ND: Tensor, labels_N: Tensor) -> float:
        """Top-1, in [0, 1]."""
        return float((self.predict(features_ND) == labels_N).double().mean())


@dataclass(frozen=True)
class ByPenalty:
    """What was fitted to one layer at the penalty that was best on validation."""

    tried: dict[float, float]  # penalty: validation score
    penalty: float
    converged: bool

    @property
    def val(self) -> float:
        """The validation score, in [0, 1]."""
        return self.tried[self.penalty]

    def facts(self) -> dict[str, Any]:
        """The choice, and what was tried."""
        tried = {str(penalty): value for penalty, value in self.tried.items()}
        return {"penalty": self.penalty, "val": tried, "converged": self.converged}


@dataclass(frozen=True)
class LayerProbe:
    """The probe of one layer at the penalty that was best on validation."""

    val: float
    penalty: float
    tried: dict[float, float]  # penalty: validation top-1; the grid, largest first, then what it was widened by
    iterations: int  # over all penalties
    converged: bool  # at every penalty
    at_edge: bool  # the best penalty is as far outside the grid as was tried, so a better one may lie beyond
    classifier: Classifier

    def predict(self, features_ND: Tensor) -> Tensor:
        """The most likely classes, int64 (N,) on the CPU, of raw features."""
        return self.classifier.predict(features_ND)

    def facts(self) -> dict[str, Any]:
        """The choice, what was tried, and how the solver fared."""
        return {
            "penalty": self.penalty,
            "at_edge": self.at_edge,
            "val": {str(penalty): value for penalty, value in self.tried.items()},
            "iterations": self.iterations,
            "converged": self.converged,
        }


def linear_probe(
    train: Features, val: Features, config: ProbeConfig, device: torch.device | str = "cpu"
) -> dict[str, LayerProbe]:
    """Probe every layer of ``train``: standardize by the training samples, fit, choose the penalty on ``val``.

    Nothing is refitted on ``val``. Of equal scores the larger penalty wins. Where the best
    penalty is the first or the last of the grid, further ones, by factors of ten, are tried as long as they are better
    (WIDEN decades at most). A grid of one penalty is a choice, and stays as it is. Deterministic.
    Raises UserError when the training samples are of one class only.
    """
    return {name: _probe_layer(train, val, name, config, torch.device(device)) for name in train.layers}


def _probe_layer(train: Features, val: Features, name: str, config: ProbeConfig, device: torch.device) -> LayerProbe:
    features_ND, labels_N = train.layers[name].to(device), train.labels.to(device)
    classes = classes_of(train)
    standard = Standard.of(features_ND)
    problem = Problem(standard(features_ND), labels_N, classes)
    tried: dict[float, float] = {}
    solutions: dict[float, Solution] = {}

    def attempt(penalty: float, start: Solution | None) -> Solution:
        solutions[penalty] = found = problem.solve(penalty, config.iterations, start)
        classifier = Classifier(standard, found.weight_DK, found.bias_K)
        tried[penalty] = classifier.accuracy(val.layers[name], val.labels)
        return found

    grid, solution = sorted(set(config.penalties), reverse=True), None
    for penalty in grid:
        solution = attempt(penalty, solution)
    best = max(tried, key=lambda key: tried[key])
    at_edge = len(grid) > 1 and best in (grid[0], grid[-1])
    outward = 10 if best == grid[0] else 0.1
    for _ in range(WIDEN if at_edge else 0):
        further = float(f"{best * outward:.6g}")
        attempt(further, solutions[best])
        if tried[further] <= tried[best]:
            at_edge = False
            break
        best = further
    return LayerProbe(
        val=tried[best],
        penalty=best,
        tried=tried,
        iterations=sum(each.iterations for each in solutions.values()),
        converged=all(each.converged for each in solutions.values()),
        at_edge=at_edge,
        classifier=Classifier(standard, solutions[best].weight_DK, solutions[best].bias_K),
    )


@register_benchmark(
    ProbeConfig(),
    ProbeConfig(name="linear_20k", samples=20_000),  # where a full probe costs more than the pretraining
    ProbeConfig(name="linear_recalibrated", recalibrate="train"),
    summary="Logistic regression on the frozen features of every layer",
    source="Zhang et al. 2016, section 3.2",
    check=probed_layers,
)
def run_linear(config: ProbeConfig, encoder: Encoder, datasets: Datasets, run: BenchmarkRun) -> Score:
    """Top-1 of the best layer: every layer on val, then the chosen layer at its chosen penalty once on test."""
    about = {
        "format": PROTOCOL,
        "classifier": "multinomial logistic regression on standardized features, fitted on train alone",
        "objective": "mean cross-entropy + penalty / 2 |weight|^2, bias free",
    }
    return score_layers(config, encoder, datasets, run, about, linear_probe)


@dataclass(frozen=True)
class QuickScore:
    """Validation top-1 of the best layer, which one that is, and every layer's."""

    value: float
    layer: str
    layers: dict[str, float]


class _InMemory:
    """A batch as a data set."""

    def __init__(self, batch: Mapping[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["image"])

    def get(self, ids: Int64) -> dict[str, Tensor]:
        places = torch.from_numpy(ids)
        return {field: self.batch[field][places] for field in ("image", "label") if field in self.batch}

    def labels(self) -> Int64:
        return self.batch["label"].numpy()


def quick_score(
    encoder: Encoder,
    train: Mapping[str, Tensor],
    val: Mapping[str, Tensor],
    features: int = QUICK_FEATURES,
    device: torch.device | str = "cpu",
) -> QuickScore:
    """The probe during training: one ridge regression on one-hot labels per layer, in closed form.

    ``train``, ``val``: ``image`` uint8 (N, 3, H, W) and ``label`` int64 (N,), a few thousand samples. Comparable with
    itself over time, not with `run_benchmark`. The encoder keeps its mode. Raises UserError as `extract` does.
    """
    config = ProbeConfig(name="probe", features=features)
    fitted = extract(encoder, _InMemory(train), None, config, device)
    judged = extract(encoder, _InMemory(val), None, config, device)
    classes = classes_of(fitted)
    layers = {}
    for name, features_ND in fitted.layers.items():
        classifier = _ridge(features_ND.to(device), fitted.labels.to(device), classes)
        layers[name] = classifier.accuracy(judged.layers[name], judged.labels)
    best = max(layers, key=lambda name: layers[name])
    return QuickScore(layers[best], best, layers)


def _ridge(features_ND: Tensor, labels_N: Tensor, classes: int) -> Classifier:
    """Least squares with penalty QUICK_PENALTY on standardized features; the bias is the class frequencies."""
    standard = Standard.of(features_ND)
    x_ND, target_NK = standard(features_ND), F.one_hot(labels_N, classes).to(features_ND.dtype)
    bias_K = target_NK.mean(0)
    moment_DK = ((target_NK - bias_K).T @ x_ND).T / len(x_ND)
    weight_DK = torch.cholesky_solve(moment_DK.double(), factor(gram(x_ND), 1.0, QUICK_PENALTY))
    return Classifier(standard, weight_DK.to(x_ND.dtype), bias_K)
