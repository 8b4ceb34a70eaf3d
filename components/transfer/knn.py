"""Weighted nearest neighbours on frozen features: no weights are fitted (Wu et al. 2018, section 3.4).

Legend of shape suffixes: N training samples, M judged samples, D features, K classes, J neighbours.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from components.config import FrozenConfig
from components.networks.encoder import Encoder
from components.transfer.features import Features, probed_layers
from components.transfer.frozen import classes_of, score_layers
from components.transfer.protocol import BenchmarkRun, Datasets, Score, register_benchmark

PROTOCOL = "knn/1"  # changes with anything that changes scores
JUDGED = 1000  # samples at a time, of which the similarities to all training samples are in memory


class NeighboursConfig(FrozenConfig):
    """The protocol of the nearest neighbours; it is stored beside every score."""

    name: str = "knn"
    kind: Literal["knn"] = "knn"
    neighbours: tuple[int, ...] = Field((5, 10, 20, 50, 100, 200), description="numbers tried on the validation split")
    temperature: float = Field(0.07, gt=0, description="of the votes, exp(cosine similarity / temperature)")

    @field_validator("neighbours")
    @classmethod
    def _positive(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not values or min(values) < 1:
            raise ValueError("neighbours must be 1 or more, at least one number")
        return values


@dataclass(frozen=True)
class Neighbours:
    """The training samples of one layer, and the number of neighbours that was best on validation."""

    train_ND: Tensor  # of length 1
    labels_N: Tensor
    classes: int
    temperature: float
    neighbours: int
    tried: dict[int, float]  # neighbours: validation top-1

    @property
    def val(self) -> float:
        """Validation top-1, in [0, 1]."""
        return self.tried[self.neighbours]

    def predict(self, features_ND: Tensor) -> Tensor:
        """The most likely classes, int64 (N,) on the CPU, of raw features."""
        return self.predict_by(features_ND, (self.neighbours,))[self.neighbours]

    def predict_by(self, features_MD: Tensor, numbers: tuple[int, ...]) -> dict[int, Tensor]:
        """{number of neighbours: the classes that win, int64 (M,) on the CPU} of raw features."""
        found: dict[int, list[Tensor]] = {number: [] for number in numbers}
        for judged_MD in torch.split(features_MD, JUDGED):
            similar_MN = F.normalize(judged_MD.to(self.train_ND.device)) @ self.train_ND.T
            near_MJ, place_MJ = similar_MN.topk(max(numbers))
            vote_MJ = ((near_MJ - near_MJ[:, :1]) / self.temperature).exp()  # of the nearest 1: nothing overflows
            for number in numbers:
                votes_MK = torch.zeros(len(judged_MD), self.classes, device=vote_MJ.device)
                votes_MK.scatter_add_(1, self.labels_N[place_MJ[:, :number]], vote_MJ[:, :number])
                found[number].append(votes_MK.argmax(1).cpu())
        return {number: torch.cat(parts) for number, parts in found.items()}

    def facts(self) -> dict[str, Any]:
        """The choice, and what was tried."""
        return {"neighbours": self.neighbours, "val": {str(number): value for number, value in self.tried.items()}}


def fit_neighbours(
    train: Features, val: Features, config: NeighboursConfig, device: torch.device | str = "cpu"
) -> dict[str, Neighbours]:
    """Choose the number of neighbours of every layer on ``val``; of equal ones the smallest. Deterministic.

    Numbers beyond the training samples count as all of them. Raises UserError for training samples of one class.
    """
    classes, labels_N = classes_of(train), train.labels.to(device)
    numbers = tuple(sorted({min(number, len(labels_N)) for number in config.neighbours}))
    found = {}
    for name, features_ND in train.layers.items():
        train_ND = F.normalize(features_ND.to(device))
        untried = Neighbours(train_ND, labels_N, classes, config.temperature, numbers[0], {})
        guesses = untried.predict_by(val.layers[name], numbers)
        tried = {number: float((guess_M == val.labels).double().mean()) for number, guess_M in guesses.items()}
        best = max(numbers, key=lambda number: tried[number])
        found[name] = Neighbours(train_ND, labels_N, classes, config.temperature, best, tried)
    return found


@register_benchmark(
    NeighboursConfig(),
    summary="Votes of the nearest training samples, by the frozen features of every layer",
    source="Wu et al. 2018, section 3.4",
    check=probed_layers,
)
def run_neighbours(config: NeighboursConfig, encoder: Encoder, datasets: Datasets, run: BenchmarkRun) -> Score:
    """Top-1 of the best layer: every layer on val, then the chosen layer with its chosen neighbours once on test."""
    about = {
        "format": PROTOCOL,
        "classifier": "votes of the nearest training samples by cosine similarity, weighted by its exponential",
    }
    return score_layers(config, encoder, datasets, run, about, fit_neighbours)
