"""What the trials say: importance and response curves, against cases whose answer is known."""

import numpy as np
import pytest

from pipelines.sweeps.importance import FEWEST, curve, explained, importance, left_out, smooth, table
from pipelines.sweeps.records import Proposal, Record
from pipelines.sweeps.space import Range, Space


def test_the_kernel_mean_is_a_weighted_mean() -> None:
    u, scores = np.array([0.1, 0.5, 0.8]), np.array([1.0, 2.0, 4.0])
    for at in (0.0, 0.37, 1.0):
        weights = [np.exp(-((at - x) ** 2) / (2 * 0.15**2)) + 1e-12 for x in u]
        naive = sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)
        assert smooth(np.array([at]), u, scores, 0.15)[0] == pytest.approx(naive)
    for k in range(3):
        others = [j for j in range(3) if j != k]
        assert left_out(u, scores, 0.3)[k] == pytest.approx(smooth(u[k : k + 1], u[others], scores[others], 0.3)[0])


def test_a_key_that_decides_explains_and_one_that_does_not_stays_within_chance() -> None:
    rng = np.random.default_rng(0)
    decides, idle = rng.random(40), rng.random(40)
    scores = np.sin(3 * decides) + 0.02 * rng.standard_normal(40)
    first, second = importance(decides, scores), importance(idle, scores)
    assert first and second
    assert first.share > 0.9 > first.chance
    assert second.share <= second.chance < 0.5


def test_nothing_is_explained_where_nothing_varies_or_too_few_trials_are_there() -> None:
    assert explained(np.linspace(0, 1, 8), np.ones(8))[0] == 0.0
    few = np.linspace(0, 1, FEWEST - 1)
    assert importance(few, few) is None and curve(few, few) is None


def test_the_band_holds_the_curve_and_narrows_with_trials() -> None:
    rng = np.random.default_rng(1)

    def drawn(count: int) -> tuple[float, float]:
        u = rng.random(count)
        found = curve(u, u**2 + 0.3 * rng.standard_normal(count))
        assert found is not None and (found.low <= found.mean + 1e-9).all() and (found.mean <= found.high + 1e-9).all()
        middle = slice(10, 40)
        return float((found.high - found.low)[middle].mean()), float(np.abs(found.mean - found.at**2)[middle].mean())

    (few, _), (many, error) = drawn(12), drawn(400)
    assert many < few / 2 and error < 0.1


def test_only_own_finished_trials_count() -> None:
    space = Space({"weights.a": Range(low=1.0, high=100.0)})
    records = [
        Record(Proposal(0, "published", {"weights.a": 1.0}), "finished", {"linear": 0.9}),
        Record(Proposal(2, "trial 0", {"weights.a": 10.0}), "finished", {"linear": 0.5}),
        Record(Proposal(3, "trial 1", {"weights.a": 10.0}), "diverged", {}),
    ]
    columns, scores = table(space, records, "linear")
    assert columns["weights.a"].tolist() == [0.5] and scores.tolist() == [0.5]
