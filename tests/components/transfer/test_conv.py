"""Small classifiers on frozen blocks: the published ones, side by side as alone, and going on after a kill."""

from typing import Any

import numpy as np
import pytest
import torch

from components.config import EncoderConfig
from components.errors import UserError
from components.networks.encoder import build_encoder
from components.transfer.conv import ConvConfig, head_of
from components.transfer.heads import fitting
from components.transfer.heads.classifying import Batches
from components.transfer.protocol import check_benchmark, get_protocol, run_benchmark
from tests.components.transfer.heads.test_fitting import Kept
from tests.components.transfer.test_low_shot import data
from tests.components.transfer.test_probe import CLASSES, TwoLayers

CONFIG = ConvConfig(samples=None, epochs=6, batch=30, channels=8, units=12, lr=0.05, side=4)


@pytest.mark.parametrize("head", ["convolutions", "connected"])
def test_the_best_block_is_chosen_on_val_and_scored_once_on_test(head: str) -> None:
    splits, config = data(), CONFIG.model_copy(update={"head": head})
    score = run_benchmark(config, TwoLayers(), splits)
    assert score.layer == "colour" and score.split == "test" and score.metric == "top1" and score.n == 120
    assert score.value > 0.6 > score.layers["noise"] and score.layers["colour"] > 0.6
    assert splits["test"].reads == list(range(120))
    assert np.mean(score.resampled) == pytest.approx(score.value, abs=0.01)
    assert score.protocol["layers"]["colour"]["map"] == [3, 4, 4]
    assert ConvConfig.parse(score.protocol["config"]) == config
    splits["test"].label = (splits["test"].label + 1) % CLASSES
    other = run_benchmark(config, TwoLayers(), splits)
    assert other.value < score.value and other.layers == score.layers


def test_a_block_has_the_same_score_whatever_is_scored_beside_it() -> None:
    both = run_benchmark(CONFIG, TwoLayers(), data())
    alone = run_benchmark(CONFIG.model_copy(update={"layers": ("colour",)}), TwoLayers(), data())
    assert alone.value == both.value and alone.layers["colour"] == both.layers["colour"]


def test_a_kill_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "KEEP_EVERY", 7)
    whole = run_benchmark(CONFIG, TwoLayers(), data(), Kept())
    run = Kept(killed_at=30)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(CONFIG, TwoLayers(), data(), run)
    run.killed_at = None
    assert run_benchmark(CONFIG, TwoLayers(), data(), run) == whole


def test_the_encoder_stays_as_it_is() -> None:
    encoder = build_encoder(EncoderConfig(name="nin", width=12)).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    run_benchmark(CONFIG.model_copy(update={"epochs": 0.5}), encoder, data())
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    assert encoder.training and all(part.training for part in encoder.modules())


def test_the_published_classifiers_are_as_large_as_published() -> None:
    def count(name: str) -> int:
        config: Any = get_protocol(name)
        return sum(each.numel() for each in head_of(config, (192, 8, 8), 10).parameters())

    assert count("conv_published") == 192 * 192 * (9 + 1 + 1) + 3 * 2 * 192 + 192 * 10 + 10
    assert count("conv_nonlinear_published") == 192 * 64 * 200 + 200 * 200 + 2 * 2 * 200 + 200 * 10 + 10
    for name, stairs in (("conv", (35, 70, 85)), ("conv_nonlinear", (20, 40, 45))):
        published: Any = get_protocol(f"{name}_published")
        assert (published.epochs, published.batch, published.lr, published.weight_decay) == (100, 128, 0.1, 5e-4)
        assert [round(100 * share) for share in published.milestones] == list(stairs)
        assert published.samples is None and get_protocol(name).kind == "conv"


def test_training_images_are_mirrored_and_moved_as_step_and_seed_say() -> None:
    split, places = data()["train"], np.arange(16)
    read = Batches(split, CONFIG, torch.device("cpu")).read
    image_B3HW, label_B = read(places, 3)
    assert image_B3HW.shape == (16, 3, 8, 8) and label_B.tolist() == split.label[:16].tolist()
    assert torch.equal(image_B3HW, read(places, 3)[0]) and not torch.equal(image_B3HW, read(places, 4)[0])
    plain = CONFIG.model_copy(update={"mirror": False, "shift": 0.0})
    still_B3HW = Batches(split, plain, torch.device("cpu")).read(places, 3)[0]
    torch.testing.assert_close(still_B3HW, split.image[:16] / 255)
    assert not torch.equal(image_B3HW, still_B3HW)


def test_it_is_checked_before() -> None:
    with pytest.raises(UserError, match="unknown layer"):
        check_benchmark(CONFIG.model_copy(update={"layers": ("conv9",)}), TwoLayers())
    with pytest.raises(UserError, match=r"benchmark\.layers is empty"):
        check_benchmark(CONFIG.model_copy(update={"layers": ()}), TwoLayers())
    splits = data()
    splits["train"].label = torch.zeros(300, dtype=torch.int64)
    with pytest.raises(UserError, match="300 training samples have 1 class"):
        run_benchmark(CONFIG, TwoLayers(), splits)
    assert not splits["train"].reads
