"""Several classes per image: one logistic regression for each, on frozen features (VOC classification).

Which classes an image shows is taken from its boxes, or from its mask where the data has no boxes. An image in which
all boxes of a class are difficult is neither trained on nor judged for that class, as VOC has it.

Legend of shape suffixes: N images, D features, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from components.config import FrozenConfig, Positives
from components.data.scramble import Int64
from components.data.sources.base import UNKNOWN
from components.data.whole import Members, Whole, WholeImages, canvas_for
from components.errors import UserError, first_of
from components.networks.encoder import Encoder
from components.transfer.features import extract, probed_layers, subset
from components.transfer.frozen import best_layer
from components.transfer.logistic import Problem
from components.transfer.metrics.ranking import ABSENT, IGNORED, PRESENT, RULES, Rankings, Truth
from components.transfer.metrics.statistics import resample
from components.transfer.probe import ByPenalty, Standard
from components.transfer.protocol import BenchmarkRun, Datasets, Score, common_facts, register_benchmark
from components.transfer.recalibration import recalibrated

PROTOCOL = "multilabel/1"  # changes with anything that changes scores
METRIC = "map11"
FIELDS = ("boxes", "mask")  # that tell the classes of an image; the first that the data has


class MultilabelConfig(FrozenConfig):
    """The protocol of several classes per image; it is stored beside every score."""

    name: str = "multilabel"
    kind: Literal["multilabel"] = "multilabel"
    side: int = Field(128, ge=16, description="longer side of the images as the encoder sees them, in pixels")
    penalties: Positives = Field(
        (1e-4, 1e-3, 1e-2, 1e-1), description="L2 penalties tried on the validation split, one for all classes"
    )
    iterations: int = Field(100, ge=1, description="iterations of L-BFGS at most, for each penalty and class")


class Tagged:
    """Some images of a split on canvases, and the classes that they show; a data set for `extract`."""

    def __init__(self, dataset: Members, ids: Int64, canvas: tuple[int, int], field: str, classes: int) -> None:
        self.whole, self.ids = WholeImages(dataset, canvas, (field,)), ids
        self.truth_NK = np.stack([_truth_of(self.whole.read(each), field, classes) for each in ids.tolist()])

    def __len__(self) -> int:
        return len(self.ids)

    def get(self, ids: Int64) -> dict[str, Tensor]:
        """Images alone: the labels that `extract` wants are zeros."""
        return {"image": self.whole.images(self.ids[ids]), "label": torch.zeros(len(ids), dtype=torch.int64)}

    def labels(self) -> Int64:
        """Zeros."""
        return np.zeros(len(self), np.int64)


def _truth_of(image: Whole, field: str, classes: int) -> Truth:
    """What an image shows of each class, (K,)."""
    truth_K = np.full(classes, ABSENT, np.int8)
    if field == "mask":
        values = np.unique(image.mask).astype(np.int64)
        shown, ignored = values[(values > 0) & (values != UNKNOWN)] - 1, np.empty(0, np.int64)
    else:
        objects = image.objects
        shown, ignored = objects.labels_K[~objects.difficult_K], objects.labels_K[objects.difficult_K]
    for number in (*shown.tolist(), *ignored.tolist()):
        if not 0 <= number < classes:
            raise UserError(
                f"the {field} of image {image.key} have class {number}, and the data names classes 0 to {classes - 1}: "
                "run `genoise prepare` again"
            )
    truth_K[ignored] = IGNORED
    truth_K[shown] = PRESENT
    return truth_K


def field_of(dataset: Members) -> str:
    """The field that tells the classes of the images. Raises UserError where there is none."""
    for field in FIELDS:
        try:
            dataset.member(0, field)
        except UserError:
            continue
        return field
    raise UserError("benchmark multilabel needs boxes or masks, and the data has neither: use the source voc or coco")


@dataclass(frozen=True)
class Regressions(ByPenalty):
    """The regressions of one layer."""

    standard: Standard
    weight_DK: Tensor
    bias_K: Tensor

    def scores(self, features_ND: Tensor) -> Any:
        """Logits, float64 (N, K), of raw features."""
        logits_NK = self.standard(features_ND.to(self.bias_K.device)) @ self.weight_DK + self.bias_K
        return logits_NK.double().cpu().numpy()


def fit_regressions(
    train_ND: Tensor,
    truth_NK: Truth,
    val_ND: Tensor,
    val_NK: Truth,
    config: MultilabelConfig,
    device: torch.device | str = "cpu",
) -> Regressions:
    """Fit every class at every penalty, and choose the penalty on val; of equal ones the larger. Deterministic.

    A class that training never, or always, shows has the same score for all images.
    """
    standard = Standard.of(train_ND.to(device))
    x_ND, grid = standard(train_ND.to(device)), sorted(set(config.penalties), reverse=True)
    width, classes = x_ND.shape[1], truth_NK.shape[1]
    weights = {penalty: torch.zeros(width, classes, device=x_ND.device) for penalty in grid}
    biases = {penalty: torch.zeros(classes, device=x_ND.device) for penalty in grid}
    converged = True
    for k, truth_N in enumerate(truth_NK.T):
        known_N = torch.from_numpy(truth_N != IGNORED)
        shown_N = torch.from_numpy(truth_N == PRESENT)[known_N].long().to(x_ND.device)
        if int(shown_N.sum()) in (0, len(shown_N)):
            continue
        problem = Problem(x_ND if known_N.all() else x_ND[known_N.to(x_ND.device)], shown_N, 2)
        solution = None
        for penalty in grid:
            # Of two classes that share a weight w as w / 2 and - w / 2: the squares sum up to half of |w|^2.
            solution = problem.solve(2 * penalty, config.iterations, solution)
            weights[penalty][:, k] = solution.weight_DK[:, 1] - solution.weight_DK[:, 0]
            biases[penalty][k] = solution.bias_K[1] - solution.bias_K[0]
            converged &= solution.converged
    made = {each: Regressions({}, each, converged, standard, weights[each], biases[each]) for each in grid}
    tried = {penalty: Rankings(each.scores(val_ND), val_NK).mean(RULES[METRIC]) for penalty, each in made.items()}
    return replace(made[max(grid, key=lambda penalty: tried[penalty])], tried=tried)


@register_benchmark(
    MultilabelConfig(),
    MultilabelConfig(name="multilabel_large", side=224, features=9216),
    summary="One logistic regression for each class, on the frozen features of images that show several",
    source="Everingham et al. 2010 (PASCAL VOC), section 4.1",
    check=probed_layers,
    needs=("|".join(FIELDS),),
    metric=METRIC,
)
def run_multilabel(config: MultilabelConfig, encoder: Encoder, datasets: Datasets, run: BenchmarkRun) -> Score:
    """Mean average precision of the best layer: all layers on val, then the chosen one once on test."""
    members: dict[str, Any] = dict(datasets)
    field, names = field_of(members["train"]), cast(Sequence[str], members["train"].classes)
    canvas = canvas_for(members["train"], config.side)

    def tagged(split: str, samples: int | None = None) -> Tagged:
        return Tagged(members[split], subset(len(members[split]), samples), canvas, field, len(names))

    train, val = tagged("train", config.samples), tagged("val")
    check_shown(train.truth_NK, names)
    encoder = recalibrated(encoder, train, config.recalibrate, run.device)
    x, y = extract(encoder, train, None, config, run.device), extract(encoder, val, None, config, run.device)
    layers: dict[str, Regressions] = {}
    for done, name in enumerate(x.layers):
        run.progress(done, len(x.layers) + 1, name)
        layers[name] = fit_regressions(x.layers[name], train.truth_NK, y.layers[name], val.truth_NK, config, run.device)
    best = best_layer(layers)
    judged, features = val, y
    if "test" in datasets:
        judged = tagged("test")
        only = config.model_copy(update={"layers": (best,)})
        features = extract(encoder, judged, None, only, run.device)
    rankings = Rankings(layers[best].scores(features.layers[best]), judged.truth_NK)
    by_class = dict(zip(names, rankings.by_class(RULES[METRIC]), strict=True))
    protocol = {
        "format": PROTOCOL,
        "classifier": "a logistic regression for each class on standardized features, fitted on train alone",
        "objective": "mean logistic loss + penalty / 2 |weight|^2, bias free",
        "truth": f"of the images' {field}; an image all of whose boxes of a class are difficult is left out for it",
        **common_facts(config, encoder, {split: len(members[split]) for split in members} | {"train": len(train)}),
        "canvas": list(canvas),
        "classes": list(names),
        "shown": dict(zip(names, (judged.truth_NK == PRESENT).sum(0).tolist(), strict=True)),
        "by_class": by_class,
        "layers": {name: {"features": x.layers[name].shape[1], **layers[name].facts()} for name in layers},
    }
    return Score(
        benchmark=config.name,
        value=rankings.mean(RULES[METRIC]),
        metric=METRIC,
        split="test" if "test" in datasets else "val",
        n=len(judged),
        layer=best,
        layers={name: layer.val for name, layer in layers.items()},
        protocol=protocol,
        others={name: rankings.mean(rule) for name, rule in RULES.items() if name != METRIC},
        resampled=resample(lambda weight_N: rankings.mean(RULES[METRIC], weight_N), len(judged)),
    )


def check_shown(truth_NK: Truth, names: Sequence[str]) -> None:
    """Raise UserError where no class tells the training images apart."""
    shown_K, absent_K = (truth_NK == PRESENT).any(0), (truth_NK == ABSENT).any(0)
    if not (shown_K & absent_K).any():
        raise UserError(
            f"every training image shows the same of all classes ({first_of(names, 3)}), so that there is nothing to "
            "tell apart: use more images, or other ones"
        )
