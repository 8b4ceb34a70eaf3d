"""Scores, intervals, and the registry of benchmarks."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from components.config import BenchmarkConfig, EncoderConfig, ProbeConfig
from components.errors import UserError
from components.networks.encoder import build_encoder
from components.transfer import protocol
from components.transfer.protocol import (
    Score,
    gap_between,
    gap_closed,
    gap_share,
    mean_interval,
    run_benchmark,
    t_quantile,
)

BASE: dict[str, Any] = {
    "benchmark": "x", "metric": "top1", "split": "val", "n": 1, "layer": "a", "layers": {"a": 0.5}, "protocol": {}
}  # fmt: skip


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
    gap = gap_between({0: 0.3}, {0: 0.5}, 98)  # one seed: the samples alone, 1 success and 1 failure added
    shares = [(0.3 * 98 + 1) / 100, (0.5 * 98 + 1) / 100]
    drawn = stats.norm.ppf(0.975) * np.sqrt(sum(share * (1 - share) / 100 for share in shares))
    assert (gap.value, gap.half) == pytest.approx((0.2, drawn)) and gap.is_positive
    random, supervised = {0: 0.30, 1: 0.35, 2: 0.31}, {0: 0.50, 1: 0.58, 2: 0.49, 3: 0.9}
    paired = stats.ttest_rel([0.50, 0.58, 0.49], [0.30, 0.35, 0.31]).confidence_interval(0.95)
    many = gap_between(random, supervised, 10**12)
    assert many.half == pytest.approx((paired.high - paired.low) / 2)
    assert not gap_between({0: 0.309}, {0: 0.31}, 1000).is_positive
    assert gap_share({0: 0.22}, {0: 0.309}, {0: 0.31}, 1000) is None
    assert gap_share({0: 1.0}, {0: 0.0}, {0: 0.0}, 9) is None


def test_the_interval_of_a_share_holds_the_truth_as_often_as_it_says() -> None:
    rng, n, truth = np.random.default_rng(0), 2000, (0.62, 0.57, 0.73)
    held = 0
    for _ in range(400):
        score, random, supervised = (
            {seed: float(rng.binomial(n, share + shift) / n) for seed, shift in enumerate(rng.normal(0, 0.005, 3))}
            for share in truth
        )
        share = gap_share(score, random, supervised, n)
        assert share is not None
        held += abs(share.value - (0.62 - 0.57) / (0.73 - 0.57)) < share.half
    assert held / 400 > 0.94


def test_a_score_that_is_no_number_is_refused() -> None:
    assert Score(value=0.5, **BASE).value == 0.5
    with pytest.raises(ValidationError):
        Score(value=float("nan"), **BASE)


def test_a_new_kind_is_one_config_and_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol._REGISTRY, "known", dict(protocol._REGISTRY.known))
    monkeypatch.setattr(protocol._REGISTRY, "places", dict(protocol._REGISTRY.places))

    class Constant(BenchmarkConfig):
        name: str = "constant"
        kind: Literal["constant"] = "constant"
        value: float = 0.25

    constants = Constant(), Constant(name="half", value=0.5)

    @protocol.register_benchmark(*constants, summary="a constant", source="nowhere", check=lambda *_: None)
    def run(config: Constant, encoder: Any, datasets: Any, device: torch.device) -> Score:
        return Score(value=config.value, **BASE)

    encoder = build_encoder(EncoderConfig(width=4))
    splits: Any = {"train": [0], "val": [0]}
    assert {"constant", "half", "linear", "linear_20k"} <= protocol.all_protocols().keys()
    half = protocol.get_protocol("half")
    protocol.check_benchmark(half, encoder)
    assert run_benchmark(half, encoder, splits).value == 0.5
    assert run_benchmark(Constant(value=0.75), encoder, splits).value == 0.75
    protocol.register_benchmark(Constant(name="linear"), summary="another", source="nowhere", check=lambda *_: None)(
        run
    )
    with pytest.raises(UserError, match="two benchmarks are called 'linear', of the kinds constant and linear"):
        protocol.all_protocols()
    protocol.register_benchmark(*constants, summary="a constant", source="nowhere", check=lambda *_: None)(run)
    with pytest.raises(UserError, match="unknown benchmark 'halt': did you mean 'half'"):
        protocol.get_protocol("halt")
    with pytest.raises(UserError, match="unknown kind of benchmark 'constand': did you mean 'constant'"):
        run_benchmark(BenchmarkConfig(name="x", kind="constand"), encoder, splits)


def test_a_missing_or_empty_split_is_said() -> None:
    encoder = build_encoder(EncoderConfig(width=4))
    cases: Any = ({"train": [0]}, {"train": [0], "val": []})
    for splits in cases:
        with pytest.raises(UserError, match="needs a val split"):
            run_benchmark(ProbeConfig(), encoder, splits)
