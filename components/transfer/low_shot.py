"""Few labels: logistic regression on frozen features of a handful of labelled images, over several draws of them.

Legend of shape suffixes: N labelled samples, of all draws or of one, M judged samples, S samples seen without labels,
D features, R features that N samples span, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from components.config import FrozenConfig, Positives
from components.data.images import BrokenImage
from components.data.scramble import Int64, make_key, permute
from components.errors import UserError, first_of
from components.networks.encoder import Encoder
from components.transfer.features import Dataset, Features, extract, probed_layers, subset
from components.transfer.frozen import best_layer, classes_of, protocol_of, share_unseen
from components.transfer.logistic import Problem
from components.transfer.metrics.statistics import resample_mean
from components.transfer.probe import ByPenalty, Classifier, Standard
from components.transfer.protocol import BenchmarkRun, Datasets, Score, register_benchmark
from components.transfer.recalibration import recalibrated

PROTOCOL = "low_shot/1"  # changes with anything that changes scores
SEEN = 1000  # training images, without their labels, that features are standardized by
DEVIATION = "top1_deviation"  # of the draws


class LowShotConfig(FrozenConfig):
    """The protocol of few labels; it is stored beside every score."""

    name: str = "low_shot"
    kind: Literal["low_shot"] = "low_shot"
    labels: int | None = Field(10, ge=1, description="labelled images of every class; null: `share` says how many")
    share: float | None = Field(
        None, gt=0, le=1, description="share of the training labels, class by class, at least one of each"
    )
    draws: int = Field(10, ge=2, description="times that labelled images are drawn; the score is the mean")
    penalties: Positives = Field(
        (1e-3, 1e-2, 1e-1, 1.0, 10.0), description="L2 penalties tried on the validation split, one for all draws"
    )
    iterations: int = Field(100, ge=1, description="iterations of L-BFGS at most, for each penalty")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.labels is None) == (self.share is None):
            raise ValueError(
                "a number of labels or a share of them: give benchmark.labels=10, or benchmark.labels=null "
                "and benchmark.share=0.01"
            )
        return self

    def wanted(self, there: int) -> int:
        """Labelled images of a class that has so many."""
        return max(1, round(there * self.share)) if self.share is not None else cast(int, self.labels)


def draw_labelled(labels_N: Int64, config: LowShotConfig, number: int) -> Int64:
    """The places of the labelled images of draw ``number``, in rising order.

    They depend on the labels and the number alone, so that all encoders are given the same ones, and are the first of
    a permutation of each class, so that a draw of more labels holds those of fewer.
    """
    found = []
    for label in np.unique(labels_N).tolist():
        mine = np.flatnonzero(labels_N == label)
        places = np.arange(config.wanted(len(mine)), dtype=np.int64)
        found.append(mine[permute(places, len(mine), make_key("low shot", number, label))])
    return np.sort(np.concatenate(found))


def check_counts(config: LowShotConfig, counts: Mapping[str, int]) -> None:
    """Raise UserError where a class, by its name, has fewer training images than are asked for."""
    lacking = [f"{name} has {n}" for name, n in counts.items() if n < config.wanted(n)]
    if lacking:
        raise UserError(
            f"benchmark {config.name!r} draws {config.labels} labelled images of every class, and of the training "
            f"images {first_of(lacking, 3)}: give --set benchmark.labels={min(counts.values())}, or more images"
        )


@dataclass(frozen=True)
class FewLabels(ByPenalty):
    """One layer; validation scores are top-1, mean over draws."""

    classifiers: Sequence[Classifier]  # by draw


def fit_few(
    seen_SD: Tensor,
    labelled: Features,
    places: Sequence[Tensor],
    val: Features,
    name: str,
    config: LowShotConfig,
    device: torch.device,
) -> FewLabels:
    """Fit the layer ``name`` for every draw and penalty, and choose the penalty.

    ``seen_SD``: features that the others are standardized by; ``places``: those of each draw among ``labelled``.
    Of equal penalties the larger wins. Deterministic.
    """
    standard, classes = Standard.of(seen_SD.to(device)), classes_of(labelled)
    x_ND, labels_N = standard(labelled.layers[name].to(device)), labelled.labels.to(device)
    grid = sorted(set(config.penalties), reverse=True)
    found: dict[float, list[Classifier]] = {penalty: [] for penalty in grid}
    converged = True
    for each in places:
        x, mean_D, basis_DR = _spanned(x_ND[each])
        problem, solution = Problem(x, labels_N[each], classes), None
        for penalty in grid:
            solution = problem.solve(penalty, config.iterations, solution)
            weight_DK = basis_DR @ solution.weight_DK
            found[penalty].append(Classifier(standard, weight_DK, solution.bias_K - mean_D @ weight_DK))
            converged &= solution.converged
    val_MD = standard(val.layers[name].to(device))
    tried = {penalty: float(_right(val_MD, val.labels, each).mean()) for penalty, each in found.items()}
    best = max(grid, key=lambda penalty: tried[penalty])
    return FewLabels(tried, best, converged, found[best])


def _right(standardized_MD: Tensor, labels_M: Tensor, classifiers: Sequence[Classifier]) -> Tensor:
    """Whether each classifier (rows) is right about each sample (columns), float64 on the CPU."""
    weight = torch.cat([each.weight_DK for each in classifiers], 1)
    bias = torch.cat([each.bias_K for each in classifiers])
    logits = (standardized_MD @ weight + bias).view(len(labels_M), len(classifiers), -1)
    return (logits.argmax(2).cpu() == labels_M[:, None]).T.double()


def _spanned(x_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(centred samples in the space that they span, (N, R); their mean, (D,); the basis of that space, (D, R)).

    The weights that minimize a penalized loss of linear logits are sums of samples (the representer theorem, Kimeldorf
    and Wahba 1971), so that nothing is lost where there are fewer samples than features, and much time is saved.
    """
    mean_D = x_ND.mean(0)
    centred_ND = x_ND - mean_D
    if len(x_ND) >= x_ND.shape[1]:
        return centred_ND, mean_D, torch.eye(x_ND.shape[1], device=x_ND.device)
    basis_DR, _ = torch.linalg.qr(centred_ND.T)
    return centred_ND @ basis_DR, mean_D, basis_DR


@register_benchmark(
    LowShotConfig(),
    *(LowShotConfig(name=f"low_shot_{labels}", labels=labels) for labels in (1, 2, 5)),
    LowShotConfig(name="low_shot_1pct", labels=None, share=0.01),
    LowShotConfig(name="low_shot_10pct", labels=None, share=0.1, draws=3),  # the more are drawn, the less draws differ
    summary="Logistic regression on the frozen features of few labelled images, mean over draws",
    source="labels per class: Gidaris et al. 2018, figure 4; shares: Chen et al. 2020 (SimCLR), section 6",
    check=probed_layers,
    check_counts=check_counts,
)
def run_low_shot(config: LowShotConfig, encoder: Encoder, datasets: Datasets, run: BenchmarkRun) -> Score:
    """Top-1 of the best layer, mean over draws: all layers on val, then the chosen one at its penalty once on test."""
    pool = subset(len(datasets["train"]), config.samples)
    labels_N = labels_of(datasets["train"], config)[pool]
    check_counts(config, {f"class {label}": n for label, n in _counts(labels_N).items()})
    draws = [pool[draw_labelled(labels_N, config, number)] for number in range(config.draws)]
    ids = np.unique(np.concatenate(draws))
    encoder = recalibrated(encoder, datasets["train"], config.recalibrate, run.device)
    labelled = extract(encoder, datasets["train"], ids, config, run.device)
    seen = extract(encoder, datasets["train"], subset(len(datasets["train"]), SEEN), config, run.device)
    val = extract(encoder, datasets["val"], None, config, run.device)
    unseen = {"val": share_unseen(labelled.labels, val.labels, "val")}
    places = [torch.from_numpy(np.searchsorted(ids, draw)).to(run.device) for draw in draws]
    layers: dict[str, FewLabels] = {}
    for done, name in enumerate(labelled.layers):
        run.progress(done, len(labelled.layers) + 1, name)
        layers[name] = fit_few(seen.layers[name], labelled, places, val, name, config, run.device)
    chosen = best_layer(layers)
    judged = val
    if "test" in datasets:
        only = config.model_copy(update={"layers": (chosen,)})
        judged = extract(encoder, datasets["test"], None, only, run.device)
        unseen["test"] = share_unseen(labelled.labels, judged.labels, "test")
    classifiers = layers[chosen].classifiers
    right = _right(classifiers[0].standard(judged.layers[chosen].to(run.device)), judged.labels, classifiers)
    share_M, by_draw = right.mean(0).numpy(), right.mean(1)
    about = {
        "format": PROTOCOL,
        "classifier": f"logistic regression on features standardized by {len(seen.labels)} training images, "
        "whose labels are not used",
        "objective": "mean cross-entropy + penalty / 2 |weight|^2, bias free",
        "labelled": len(draws[0]),
        "by_draw": by_draw.tolist(),
        "layers": {name: {"features": labelled.layers[name].shape[1], **layers[name].facts()} for name in layers},
    }
    return Score(
        benchmark=config.name,
        value=float(share_M.mean()),
        metric="top1",
        split="test" if "test" in datasets else "val",
        n=len(share_M),
        layer=chosen,
        layers={name: layer.val for name, layer in layers.items()},
        protocol=protocol_of(config, encoder, datasets, labelled.labels, about, unseen),
        others={DEVIATION: float(by_draw.std())},
        resampled=resample_mean(share_M),
    )


def labels_of(dataset: Dataset, config: LowShotConfig) -> Int64:
    """All labels of a split, decoding no image. Raises UserError, also for labels that are none."""
    try:
        return dataset.labels()
    except BrokenImage as error:
        raise UserError(f"benchmark {config.name!r}: a sample of train is broken ({error}): prepare it again") from None


def _counts(labels_N: Int64) -> dict[int, int]:
    found, counts = np.unique(labels_N, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
