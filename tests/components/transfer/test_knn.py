"""Nearest neighbours: against scikit-learn's, and what is chosen on which split."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from components.errors import UserError
from components.transfer.features import Features
from components.transfer.knn import JUDGED, NeighboursConfig, fit_neighbours
from components.transfer.protocol import check_benchmark, get_protocol, run_benchmark
from tests.components.transfer.test_probe import TwoLayers, data

CONFIG = NeighboursConfig(features=64, neighbours=(1, 5, 25))


def clouds(n: int, seed: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, 12) and labels of overlapping clouds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(0).normal(size=(classes, 12))
    return torch.from_numpy((centres[labels] + rng.normal(size=(n, 12))).astype(np.float32)), torch.from_numpy(labels)


def features(n: int, seed: int) -> Features:
    values_ND, labels_N = clouds(n, seed)
    return Features({"a": values_ND}, labels_N)


@pytest.mark.parametrize("neighbours", [1, 7, 40])
def test_votes_are_those_of_scikit_learn(neighbours: int) -> None:
    train, val = features(300, 1), features(JUDGED + 200, 2)
    config = NeighboursConfig(neighbours=(neighbours,), temperature=0.2)

    def weigh(distance: NDArray[np.float64]) -> Any:
        return np.exp((1 - distance) / 0.2)

    reference = KNeighborsClassifier(neighbours, metric="cosine", weights=weigh, algorithm="brute")
    reference.fit(train.layers["a"].double(), train.labels)
    wanted = reference.score(val.layers["a"].double(), val.labels)
    found = fit_neighbours(train, val, config)["a"]
    assert found.val == pytest.approx(wanted, abs=1 / len(val.labels))  # but for ties of float32
    assert float((found.predict(val.layers["a"]) == val.labels).double().mean()) == found.val


def test_the_number_is_the_best_on_val_and_never_more_than_there_are() -> None:
    train, val = features(60, 1), features(400, 2)
    found = fit_neighbours(train, val, NeighboursConfig(neighbours=(1, 20, 500)))["a"]
    assert found.tried.keys() == {1, 20, 60}
    assert found.val == max(found.tried.values()) == found.tried[found.neighbours]
    assert found.tried[20] > found.tried[1]  # the clouds overlap


def test_a_cold_vote_is_the_nearest_ones_alone() -> None:
    train, val = features(200, 1), features(300, 2)
    cold = NeighboursConfig(neighbours=(1, 50), temperature=1e-6)
    tried = fit_neighbours(train, val, cold)["a"].tried
    assert tried[1] == pytest.approx(tried[50], abs=0.01)


def test_the_best_layer_is_chosen_on_val_and_scored_once_on_test() -> None:
    splits = data()
    score = run_benchmark(CONFIG, TwoLayers(), splits)
    assert score.layer == "colour" and score.split == "test" and score.metric == "top1" and score.n == 120
    assert score.layers["colour"] > 0.6 > score.layers["noise"]
    assert splits["test"].reads == list(range(120))
    assert score == run_benchmark(CONFIG, TwoLayers(), data())
    chosen = score.protocol["layers"]["colour"]
    assert score.protocol["format"] == "knn/1" and chosen["features"] == 48
    assert chosen["val"][str(chosen["neighbours"])] == score.layers["colour"]
    assert NeighboursConfig.parse(score.protocol["config"]) == CONFIG


def test_it_is_asked_for_by_name_and_checked_before() -> None:
    knn = get_protocol("knn")
    assert isinstance(knn, NeighboursConfig)
    with pytest.raises(UserError, match="unknown layer"):
        check_benchmark(knn.model_copy(update={"layers": ("conv9",)}), TwoLayers())
    with pytest.raises(UserError, match="neighbours must be 1 or more"):
        NeighboursConfig.parse({"neighbours": (0, 5)})
