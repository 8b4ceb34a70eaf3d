"""Scores, and the registry of benchmarks."""

from typing import Any, Literal

import pytest
from pydantic import ValidationError

from components.config import BenchmarkConfig, EncoderConfig, ProbeConfig
from components.errors import UserError
from components.networks.encoder import build_encoder
from components.transfer import protocol
from components.transfer.protocol import BenchmarkRun, Score, run_benchmark

BASE: dict[str, Any] = {
    "benchmark": "x", "metric": "top1", "split": "val", "n": 1, "layer": "a", "layers": {"a": 0.5}, "protocol": {}
}  # fmt: skip


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
    def run(config: Constant, encoder: Any, datasets: Any, run: BenchmarkRun) -> Score:
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
