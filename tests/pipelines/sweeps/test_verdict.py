"""The verdict: paired by seed, Student's interval, and "no better" where the interval holds zero."""

import pytest
from scipy import stats

from pipelines.sweeps.verdict import Comparison, compare, comparison_of, mean_comparison


def of(found: list[float | None], other: list[float | None], name: str = "task") -> Comparison:
    return compare(name, "published", dict(enumerate(found)), dict(enumerate(other)))


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    found, other = [0.61, 0.60, 0.66, 0.58], [0.57, 0.59, 0.60, 0.55]
    mean, half = of([*found], [*other]).interval
    expected = stats.ttest_rel(found, other).confidence_interval(0.95)
    assert half is not None and (mean - half, mean + half) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("found", "other", "outcome"),
    [
        ([0.60, 0.61, 0.62], [0.50, 0.51, 0.52], "better"),
        ([0.50, 0.51, 0.52], [0.60, 0.61, 0.62], "worse"),
        ([0.60, 0.50, 0.65], [0.55, 0.56, 0.57], "no better"),
        ([0.60], [0.10], "no better"),  # one seed says nothing
        ([0.60, None, 0.62], [0.50, 0.51, 0.52], "worse"),  # it diverges
        ([0.60, 0.61, 0.62], [0.50, None, 0.52], "better"),
        ([0.60, 0.61], [None, None], "no better"),
    ],
)
def test_outcomes(found: list[float | None], other: list[float | None], outcome: str) -> None:
    comparison = of(found, other)
    assert comparison.outcome == outcome
    assert f"{outcome} than published" in comparison.sentence() and "\n" not in comparison.sentence()
    assert comparison_of(comparison.to_json()) == comparison


def test_pairs_matter_and_not_the_spread_over_seeds() -> None:
    """Seeds differ by far more than the two recipes do, yet the same way for both."""
    assert of([0.31, 0.512, 0.711], [0.30, 0.50, 0.70]).outcome == "better"


def test_tasks_are_averaged_in_units_of_their_gaps() -> None:
    one = of([0.6, 0.7], [0.5, 0.5], "a")
    other = of([0.3, 0.2], [0.3, 0.4], "b")
    whole = mean_comparison([one, other], {"a": 0.2, "b": 0.4}, "universal")
    assert whole.differences == pytest.approx([0.25, 0.25]) and whole.against == "published"
    assert mean_comparison([one, of([None, 0.2], [0.3, 0.4], "b")], {"a": 1, "b": 1}, "u").found[0] is None


def test_without_a_test_split_the_verdict_does_not_speak_of_one() -> None:
    comparison = compare("task", "published", {1: 0.6, 2: 0.61}, {1: 0.5, 2: 0.51}, "val")
    assert "points of val top-1" in comparison.sentence() and "there is no test split" in comparison.sentence()
    assert comparison_of(comparison.to_json()) == comparison
    old = {key: value for key, value in comparison.to_json().items() if key != "split"}
    assert "points of test top-1 (95 %, 2 fresh seeds, paired)" in comparison_of(old).sentence()
    assert mean_comparison([comparison], {"task": 0.2}, "universal").split == "val"
