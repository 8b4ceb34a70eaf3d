"""The linear probe: logistic regression on the frozen features of every layer (Zhang et al. 2016, section 3.2).

Legend of shape suffixes: N samples of a split, D features, K classes, C channels, H height, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from components.config import ProbeConfig
from components.data.scramble import Int64
from components.errors import UserError
from components.networks.encoder import Encoder
from components.transfer.features import Dataset, Features, extract, subset
from components.transfer.logistic import factor, gram, solve_path
from components.transfer.protocol import Score, register_benchmark

PROTOCOL = "linear/1"  # changes with anything that changes scores
MOST_UNSEEN = 0.5
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

    def accuracy(self, features_ND: Tensor, labels_N: Tensor) -> float:
        """Top-1, in [0, 1]."""
        logits_NK = self.standard(features_ND.to(self.bias_K.device)) @ self.weight_DK + self.bias_K
        return float((logits_NK.argmax(1).cpu() == labels_N).double().mean())


@dataclass(frozen=True)
class LayerProbe:
    """The probe of one layer at the penalty that was best on validation."""

    val: float
    penalty: float
    tried: dict[float, float]  # penalty: validation top-1, largest penalty first
    iterations: int  # over all penalties
    converged: bool  # at every penalty
    features: int
    classifier: Classifier


@dataclass(frozen=True)
class ProbeResult:
    """The probes of all layers, shallow to deep; ``best`` is the layer with the highest validation top-1."""

    layers: dict[str, LayerProbe]
    best: str


def linear_probe(
    train: Features, val: Features, config: ProbeConfig, device: torch.device | str = "cpu"
) -> ProbeResult:
    """Probe every layer of ``train``: standardize by the training samples, fit, choose the penalty on ``val``.

    Nothing is refitted on ``val``. Of equal scores the larger penalty and the shallower layer win. Deterministic.
    Raises UserError when the training samples are of one class only.
    """
    layers = {name: _probe_layer(train, val, name, config, torch.device(device)) for name in train.layers}
    return ProbeResult(layers, max(layers, key=lambda name: layers[name].val))


def _probe_layer(train: Features, val: Features, name: str, config: ProbeConfig, device: torch.device) -> LayerProbe:
    features_ND, labels_N = train.layers[name].to(device), train.labels.to(device)
    classes = _classes(train)
    standard = Standard.of(features_ND)
    tried: dict[float, float] = {}
    best: Classifier | None = None
    iterations, converged = 0, True
    for solution in solve_path(standard(features_ND), labels_N, classes, config.penalties, config.iterations):
        classifier = Classifier(standard, solution.weight_DK, solution.bias_K)
        value = classifier.accuracy(val.layers[name], val.labels)
        if best is None or value > max(tried.values()):
            best = classifier
        tried[solution.penalty] = value
        iterations, converged = iterations + solution.iterations, converged and solution.converged
    assert best is not None  # the configuration has at least one penalty
    penalty = max(tried, key=lambda key: tried[key])
    return LayerProbe(tried[penalty], penalty, tried, iterations, converged, features_ND.shape[1], best)


def _classes(train: Features) -> int:
    """Number of classes; UserError when the training samples leave nothing to tell apart."""
    found: set[int] = set(train.labels.tolist())
    if len(found) < 2:
        raise UserError(
            f"the probe's {len(train.labels)} training samples have {len(found)} class: "
            "use data with two classes or more, or a larger benchmark.samples"
        )
    return max(found) + 1


def check_seen(train_N: Tensor, judged_M: Tensor, split: str) -> float:
    """The share of the labels ``judged_M`` that do not occur in ``train_N``, which no classifier gets right.

    Raises UserError where that is more than MOST_UNSEEN: the score would tell of the split, not of the encoder.
    """
    share = float((~torch.isin(judged_M, train_N)).double().mean())
    if share > MOST_UNSEEN:
        raise UserError(
            f"{share:.0%} of the {split} samples are of classes that the probe's {len(train_N)} training samples lack, "
            "so that no encoder can score on them: use splits that share their classes, or a larger "
            "benchmark.samples"
        )
    return share


@register_benchmark("linear", ProbeConfig)
def run_linear(config: ProbeConfig, encoder: Encoder, datasets: Mapping[str, Dataset], device: torch.device) -> Score:
    """Top-1 of the best layer: every layer on val, then the chosen layer at its chosen penalty once on test."""
    ids = subset(len(datasets["train"]), config.samples)
    train = extract(encoder, datasets["train"], ids, config, device)
    val = extract(encoder, datasets["val"], None, config, device)
    unseen = {"val": check_seen(train.labels, val.labels, "val")}
    result = linear_probe(train, val, config, device)
    best = result.layers[result.best]
    value, n = best.val, len(val.labels)
    if "test" in datasets:
        test = extract(encoder, datasets["test"], None, config.model_copy(update={"layers": (result.best,)}), device)
        unseen["test"] = check_seen(train.labels, test.labels, "test")
        value, n = best.classifier.accuracy(test.layers[result.best], test.labels), len(test.labels)
    return Score(
        benchmark=config.name,
        value=value,
        metric="top1",
        split="test" if "test" in datasets else "val",
        n=n,
        layer=result.best,
        layers={name: layer.val for name, layer in result.layers.items()},
        protocol=_protocol(config, encoder, datasets, train, result)
        | ({"unseen": {split: share for split, share in unseen.items() if share}} if any(unseen.values()) else {}),
    )


def _protocol(
    config: ProbeConfig, encoder: Encoder, datasets: Mapping[str, Dataset], train: Features, result: ProbeResult
) -> dict[str, object]:
    image_CHW = datasets["val"].get(subset(1, None))["image"][0]
    return {
        "format": PROTOCOL,
        "config": config.model_dump(mode="json"),
        "encoder": encoder.config.model_dump(mode="json"),
        "image_size": list(image_CHW.shape[1:]),
        "crops": "one view per image, as the data set gives it",
        "samples": {split: len(data) for split, data in datasets.items()} | {"train": len(train.labels)},
        "classes": _classes(train),
        "classifier": "multinomial logistic regression on standardized features, fitted on train alone",
        "objective": "mean cross-entropy + penalty / 2 |weight|^2, bias free",
        "layers": {
            name: {
                "features": layer.features,
                "penalty": layer.penalty,
                "val": {str(penalty): value for penalty, value in layer.tried.items()},
                "iterations": layer.iterations,
                "converged": layer.converged,
            }
            for name, layer in result.layers.items()
        },
        "torch": torch.__version__,
    }


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
    classes = _classes(fitted)
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
