"""Intervals over seeds and over test images, differences, and shares of a gap."""

import numpy as np
import pytest
from scipy import stats

from components.transfer.metrics.statistics import (
    RESAMPLES,
    Floats,
    Measured,
    gap_between,
    gap_closed,
    gap_share,
    image_variance,
    mean_interval,
    resample,
    resample_mean,
    score_interval,
    t_quantile,
)


def one(score: float, n: int) -> Measured:
    return Measured({0: score}, n)


def test_t_quantiles_are_scipys() -> None:
    for probability in (0.5, 0.75, 0.9, 0.975, 0.995):
        for freedom in (1, 2, 3, 4, 7, 10, 31, 100):
            assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), abs=1e-9)
    with pytest.raises(ValueError, match="degrees"):
        t_quantile(0.975, 0)


def test_the_interval_is_students() -> None:
    values = [0.61, 0.64, 0.60]
    mean, half = mean_interval(values)
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert half is not None
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert mean_interval([0.5]) == (0.5, None)
    assert mean_interval([0.5, 0.5]) == (0.5, 0.0)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_gap_closed() -> None:
    assert gap_closed(0.6, 0.5, 0.7) == pytest.approx(0.5)
    assert gap_closed(0.4, 0.5, 0.7) == pytest.approx(-0.5)
    assert gap_closed(0.6, 0.5, 0.5) is None
    assert gap_closed(0.6, 0.5, 0.4) is None


def test_a_gap_is_known_as_far_as_seeds_and_samples_allow() -> None:
    gap = gap_between(
        Measured({0: 0.3}, 98), Measured({0: 0.5}, 98)
    )  # one seed: the samples alone, 1 success and 1 failure added
    shares = [(0.3 * 98 + 1) / 100, (0.5 * 98 + 1) / 100]
    drawn = stats.norm.ppf(0.975) * np.sqrt(sum(share * (1 - share) / 100 for share in shares))
    assert (gap.value, gap.half) == pytest.approx((0.2, drawn)) and gap.is_positive
    random, supervised = {0: 0.30, 1: 0.35, 2: 0.31}, {0: 0.50, 1: 0.58, 2: 0.49, 3: 0.9}
    paired = stats.ttest_rel([0.50, 0.58, 0.49], [0.30, 0.35, 0.31]).confidence_interval(0.95)
    many = gap_between(Measured(random, 10**12), Measured(supervised, 10**12))
    assert many.half == pytest.approx((paired.high - paired.low) / 2)
    assert not gap_between(one(0.309, 1000), one(0.31, 1000)).is_positive
    assert gap_share(one(0.22, 1000), one(0.309, 1000), one(0.31, 1000)) is None
    assert gap_share(one(1.0, 9), one(0.0, 9), one(0.0, 9)) is None


def test_the_interval_of_a_share_holds_the_truth_as_often_as_it_says() -> None:
    rng, n, truth = np.random.default_rng(0), 2000, (0.62, 0.57, 0.73)
    held = 0
    for _ in range(400):
        score, random, supervised = (
            Measured(
                {k: float(rng.binomial(n, share + shift) / n) for k, shift in enumerate(rng.normal(0, 0.005, 3))}, n
            )
            for share in truth
        )
        share = gap_share(score, random, supervised)
        assert share is not None
        held += abs(share.value - (0.62 - 0.57) / (0.73 - 0.57)) < share.half
    assert held / 400 > 0.94


@pytest.mark.parametrize(("seeds", "spread", "most"), [(1, 0.0, 0.98), (3, 0.01, 1.0)])
def test_so_does_that_of_scores_that_were_drawn_together(seeds: int, spread: float, most: float) -> None:
    """Images that are hard for one encoder are hard for all. With one seed they are all the error; several add theirs,
    of which a part is in the images' too, so that the interval is too wide rather than too narrow."""
    rng, n, repeats, truth = np.random.default_rng(1), 400, 400, (0.6, 0.5, 0.75)
    drawn: list[Floats] = []

    def draw(weight_N: Floats) -> float:
        drawn.append(weight_N / n)
        return 0.0

    resample(draw, n)
    weight_RN, held, alone = np.stack(drawn), 0, 0
    for _ in range(repeats):
        hard_N, measured = rng.normal(0, 1, n), []
        for share in truth:
            limit_S = stats.norm.ppf(share + rng.normal(0, spread, seeds)) * 2**0.5
            right_SN = hard_N + rng.normal(0, 1, (seeds, n)) < limit_S[:, None]
            scores = {seed: float(right_N.mean()) for seed, right_N in enumerate(right_SN)}
            measured.append(Measured(scores, n, weight_RN @ right_SN.mean(0)))
        closed, truly = gap_share(*measured), (truth[0] - truth[1]) / (truth[2] - truth[1])
        assert closed is not None
        held += abs(closed.value - truly) < closed.half
        over_seeds, images = score_interval(measured[0])
        assert images is not None and (over_seeds is None) == (seeds == 1)
        alone += abs(measured[0].mean - truth[0]) < np.hypot(over_seeds or 0, images)
    assert 0.93 < held / repeats <= most and 0.93 < alone / repeats <= most


def test_an_interval_that_nobody_knows_is_no_interval_of_zero() -> None:
    first, second = (Measured({0: score}, 100, metric="mAP") for score in (0.2, 0.9))
    assert score_interval(first) == (None, None) and score_interval(one(0.2, 0)) == (None, None)
    gap = gap_between(first, second)
    assert (gap.known, gap.is_positive) == (None, False)
    assert str(gap) == "+70.0 points, of which the interval is unknown"
    assert gap_between(one(0.2, 100), one(0.9, 100)).known is not None


def test_resampled_shares_spread_as_a_binomial_does() -> None:
    right_N = np.arange(400) % 5 > 1
    found = resample_mean(right_N)
    assert len(found) == RESAMPLES and found == resample_mean(right_N)
    assert np.mean(found) == pytest.approx(0.6, abs=0.005)
    assert np.std(found) == pytest.approx(np.sqrt(0.6 * 0.4 / 400), rel=0.1)


def test_every_image_is_drawn_as_often_as_the_others() -> None:
    drawn_N = np.zeros(50)
    resample(lambda weight_N: float(np.add(drawn_N, weight_N, out=drawn_N).sum()), 50)
    assert drawn_N.sum() == 50 * RESAMPLES
    assert stats.chisquare(drawn_N).pvalue > 1e-3


def test_scores_on_the_same_images_are_compared_in_pairs() -> None:
    rng = np.random.default_rng(0)
    right_N = rng.random(1000) < 0.6
    better_N = right_N | (rng.random(1000) < 0.02)  # right wherever the other one is
    first, second = (Measured({0: float(r.mean())}, 1000, np.array(resample_mean(r))) for r in (right_N, better_N))
    difference_N = better_N.astype(float) - right_N
    paired = image_variance(((1.0, second), (-1.0, first)))
    assert paired == pytest.approx(difference_N.var() / 1000, rel=0.15)
    assert paired < image_variance(((1.0, one(second.mean, 1000)), (-1.0, one(first.mean, 1000)))) / 20
    assert gap_between(first, second).half == pytest.approx(1.959964 * np.sqrt(paired))
