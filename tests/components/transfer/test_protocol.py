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
from components.transfer.protocol import Score, gap_closed, mean_interval, run_benchmark, t_quantile

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


def test_a_score_that_is_no_number_is_refused() -> None:
    assert Score(value=0.5, **BASE).value == 0.5
    with pytest.raises(ValidationError):
        Score(value=float("nan"), **BASE)


def test_a_new_kind_is_one_config_and_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_REGISTRY", dict(protocol._REGISTRY))

    class Constant(BenchmarkConfig):
        name: str = "constant"
        kind: Literal["constant"] = "constant"
        value: float = 0.25

    @protocol.register_benchmark("constant", Constant)
    def run(config: Constant, encoder: Any, datasets: Any, device: torch.device) -> Score:
        return Score(value=config.value, **BASE)

    encoder = build_encoder(EncoderConfig(width=4))
    splits: Any = {"train": [0], "val": [0]}
    assert {"constant", "linear"} <= set(protocol.all_benchmarks())
    assert run_benchmark(Constant(value=0.75), encoder, splits).value == 0.75
    with pytest.raises(UserError, match="unknown kind of benchmark 'constand': did you mean 'constant'"):
        run_benchmark(BenchmarkConfig(name="x", kind="constand"), encoder, splits)


def test_a_missing_or_empty_split_is_said() -> None:
    encoder = build_encoder(EncoderConfig(width=4))
    cases: Any = ({"train": [0]}, {"train": [0], "val": []})
    for splits in cases:
        with pytest.raises(UserError, match="needs a val split"):
            run_benchmark(ProbeConfig(), encoder, splits)
