"""Batch normalization's statistics, estimated again before a probe."""

from typing import Any

import numpy as np
import pytest
import torch

from components.config import BenchmarkConfig, EncoderConfig, ProbeConfig
from components.keys import deciding
from components.networks.encoder import Encoder, build_encoder
from components.transfer.conv import ConvConfig
from components.transfer.features import BATCH
from components.transfer.knn import NeighboursConfig
from components.transfer.low_shot import LowShotConfig
from components.transfer.multilabel import MultilabelConfig
from components.transfer.protocol import get_protocol, run_benchmark
from components.transfer.recalibration import recalibrated
from tests.components.transfer import test_low_shot, test_multilabel

SPOILED = 1e4  # a mean below which nothing comes through a ReLU


def encoder(spoiled: bool = False) -> Encoder:
    torch.manual_seed(0)
    made = build_encoder(EncoderConfig(name="alexnet", width=4, depth=2))
    for name, buffer in made.named_buffers():
        if spoiled and name.endswith("running_mean"):
            buffer.fill_(SPOILED)
    return made


def buffers(of: Encoder) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in of.named_buffers() if "running" in name}


def test_the_statistics_are_those_of_the_training_images() -> None:
    train, spoiled = test_low_shot.data()["train"], encoder(spoiled=True).train()
    before = buffers(spoiled)
    again: Any = recalibrated(spoiled, train, "train")
    assert again is not spoiled and spoiled.training and not again.training
    assert all(torch.equal(before[name], each) for name, each in buffers(spoiled).items())
    first = again.features[0](again.convert(train.image.float() / 255))
    norm = again.features[1]
    batches = np.array_split(np.array(train.reads), 3)
    assert sorted(train.reads) == list(range(300)) and len(batches[0]) == BATCH
    torch.testing.assert_close(norm.running_mean, first.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    variance = torch.stack([first[batch].var((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-3, atol=1e-4)
    assert norm.momentum == 0.1
    assert np.diff(batches[0]).min() < 0  # neighbours of a split are not those of a batch


def test_nothing_is_done_where_nothing_is_asked_for_or_there_is_nothing_to_do() -> None:
    train = test_low_shot.data()["train"]
    spoiled, without = encoder(spoiled=True), build_encoder(EncoderConfig(width=4, norm="none"))
    assert recalibrated(spoiled, train, "none") is spoiled and recalibrated(without, train, "train") is without
    assert not train.reads


@pytest.mark.parametrize(
    "config",
    [
        ProbeConfig(features=64),
        NeighboursConfig(features=64),
        LowShotConfig(features=64, draws=3),
        MultilabelConfig(features=64, side=24),
        ConvConfig(samples=None, epochs=5, batch=30, channels=8),
    ],
    ids=lambda config: config.kind,
)
def test_every_probe_of_frozen_layers_can(config: BenchmarkConfig) -> None:
    def score(spoiled: bool, recalibrate: str) -> float:
        splits: Any = (test_multilabel if config.kind == "multilabel" else test_low_shot).data()
        asked = config.model_copy(update={"recalibrate": recalibrate})
        found = run_benchmark(asked, encoder(spoiled), splits)
        assert found.protocol["config"]["recalibrate"] == recalibrate
        return found.value

    assert score(True, "train") == score(False, "train") > score(True, "none") + 0.05


def test_what_was_scored_without_the_key_is_known_as_before() -> None:
    linear, again = get_protocol("linear"), get_protocol("linear_recalibrated")
    assert "recalibrate" not in deciding(linear) and deciding(again)["recalibrate"] == "train"
    assert deciding(linear) == {
        key: each for key, each in linear.model_dump(mode="json").items() if key != "recalibrate"
    }
