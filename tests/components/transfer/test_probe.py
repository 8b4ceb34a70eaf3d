"""The linear benchmark: what is chosen on which split, what is reported, and that it repeats."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from components.config import EncoderConfig, ProbeConfig
from components.data.scramble import Int64
from components.errors import UserError
from components.networks.encoder import Encoder
from components.transfer.features import Features
from components.transfer.frozen import best_layer
from components.transfer.probe import WIDEN, LayerProbe, Standard, linear_probe, quick_score
from components.transfer.protocol import Score, run_benchmark

CLASSES = 3


class TwoLayers(Encoder):
    """``noise`` carries nothing of the class, ``colour`` is the image itself."""

    def __init__(self) -> None:
        super().__init__(EncoderConfig(), {"noise": 3, "colour": 3})

    def encode(self, native_BCHW: Tensor) -> dict[str, Tensor]:
        return {"noise": torch.sin(native_BCHW * 1e4), "colour": native_BCHW}


class Colours:
    """Images whose brightest channel is, up to noise, the label; counts how often it is read."""

    def __init__(self, n: int, seed: int, noise: float = 60.0) -> None:
        rng = np.random.default_rng(seed)
        label = np.arange(n) % CLASSES
        level = 100 + 40 * np.eye(CLASSES)[label] + rng.normal(size=(n, 3)) * noise / 2
        image = level[:, :, None, None] + rng.normal(size=(n, 3, 8, 8))
        self.image = torch.from_numpy(image.clip(0, 255).astype(np.uint8))
        self.label = torch.from_numpy(label)
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.label)

    def get(self, ids: Int64) -> dict[str, Tensor]:
        self.reads += ids.tolist()
        return {"image": self.image[ids], "label": self.label[ids]}


def data() -> dict[str, Any]:
    return {"train": Colours(300, 0), "val": Colours(90, 1), "test": Colours(120, 2)}


CONFIG = ProbeConfig(features=64)


def test_the_best_layer_is_chosen_on_val_and_scored_once_on_test() -> None:
    splits = data()
    score = run_benchmark(CONFIG, TwoLayers(), splits)
    assert score.layer == "colour" and score.split == "test" and score.metric == "top1" and score.n == 120
    assert list(score.layers) == ["noise", "colour"]
    assert score.layers["colour"] > 0.6 > score.layers["noise"]
    assert splits["test"].reads == list(range(120))
    assert score.value == pytest.approx(0.75, abs=0.2)
    assert score.benchmark == "linear"


def test_the_test_split_has_no_say_in_any_choice() -> None:
    splits = data()
    score = run_benchmark(CONFIG, TwoLayers(), splits)
    splits["test"].label = (splits["test"].label + 1) % CLASSES
    other = run_benchmark(CONFIG, TwoLayers(), splits)
    assert other.value < score.value
    of_test = {"value": score.value, "resampled": score.resampled}
    assert other.model_copy(update=of_test) == score


def test_without_a_test_split_the_score_is_the_validations() -> None:
    splits = data()
    del splits["test"]
    score = run_benchmark(CONFIG, TwoLayers(), splits)
    assert score.split == "val" and score.value == score.layers["colour"] and score.n == 90


def test_two_runs_are_equal_and_a_score_survives_json() -> None:
    first, second = (run_benchmark(CONFIG, TwoLayers(), data()) for _ in range(2))
    assert first == second
    assert Score.model_validate_json(first.model_dump_json()) == first


def test_the_protocol_says_what_is_needed_to_repeat_it() -> None:
    config = CONFIG.model_copy(update={"samples": 60})
    protocol = run_benchmark(config, TwoLayers(), data()).protocol
    assert ProbeConfig.parse(protocol["config"]) == config
    assert protocol["samples"] == {"train": 60, "val": 90, "test": 120}
    assert protocol["classes"] == CLASSES and protocol["image_size"] == [8, 8]
    chosen = protocol["layers"]["colour"]
    assert chosen["features"] == 48  # 3 channels times the largest square grid within 64
    assert chosen["val"][str(chosen["penalty"])] == max(chosen["val"].values())


def test_the_penalty_is_the_best_on_val_and_not_on_train() -> None:
    rng = torch.Generator().manual_seed(0)
    x, labels = torch.randn(400, 60, generator=rng), torch.arange(400) % 2
    x[:, 0] += labels * 1.5  # one feature tells, 59 tempt
    train = Features({"a": x[:80]}, labels[:80])
    val = Features({"a": x[80:]}, labels[80:])
    probe = linear_probe(train, val, ProbeConfig(penalties=(1e-5, 1.0)))["a"]
    assert probe.penalty == 1.0 and probe.tried[1.0] > probe.tried[1e-5]
    assert probe.val == probe.tried[1.0] == probe.classifier.accuracy(val.layers["a"], val.labels)


def tempted(train: int, signal: float, penalties: tuple[float, ...]) -> LayerProbe:
    """A probe of one feature that tells and 59 that tempt."""
    rng = torch.Generator().manual_seed(0)
    x, labels = torch.randn(1400, 60, generator=rng), torch.arange(1400) % 2
    x[:, 0] += labels * signal
    parts = slice(0, train), slice(train, None)
    features, held_back = (Features({"a": x[part]}, labels[part]) for part in parts)
    return linear_probe(features, held_back, ProbeConfig(penalties=penalties))["a"]


def test_a_grid_that_ends_at_its_best_penalty_is_widened() -> None:
    narrow = tempted(80, 1.5, (1e-3, 1e-2))
    assert list(narrow.tried)[:4] == [1e-2, 1e-3, 1e-1, 1.0]
    assert narrow.penalty >= 1e-1 and not narrow.at_edge and narrow.val > narrow.tried[1e-2]
    wide = tempted(80, 1.5, (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0))
    assert wide.val >= narrow.val >= wide.val - 0.01
    rng = torch.Generator().manual_seed(0)
    (shared, small), labels = torch.randn(2, 900, generator=rng), torch.arange(900) % 2
    told = shared + 0.02 * small + 0.05 * labels  # the class is in the difference of two features that are nearly one
    x = torch.stack([shared, told], 1)
    train, val = (Features({"a": x[part]}, labels[part]) for part in (slice(500), slice(500, 900)))
    downward = linear_probe(train, val, ProbeConfig(penalties=(0.1, 1.0)))["a"]
    assert list(downward.tried)[2] == 0.01 and downward.penalty <= 1e-3 and downward.val > downward.tried[0.1] + 0.1


def test_a_grid_is_widened_no_further_than_it_says_and_a_choice_not_at_all() -> None:
    probe = tempted(80, 1.5, (1e-9, 1e-8))
    assert len(probe.tried) <= 2 + WIDEN and min(probe.tried) >= 1e-9 * 10**-WIDEN
    assert list(tempted(80, 1.5, (1e-4,)).tried) == [1e-4]
    inside = tempted(80, 1.5, (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0))
    assert len(inside.tried) == 7 and not inside.at_edge


def test_of_equal_layers_the_shallower_one_wins() -> None:
    x, labels = torch.randn(60, 4), torch.arange(60) % 2
    features = Features({"first": x, "second": x.clone()}, labels)
    assert best_layer(linear_probe(features, features, CONFIG)) == "first"


def test_one_class_is_refused() -> None:
    features = Features({"a": torch.randn(20, 4)}, torch.zeros(20, dtype=torch.int64))
    with pytest.raises(UserError, match="20 training samples have 1 class"):
        linear_probe(features, features, CONFIG)


def test_standardization_leaves_out_what_does_not_vary() -> None:
    x = torch.randn(500, 3) * torch.tensor([1e-3, 5.0, 0.0]) + torch.tensor([1.0, -2.0, 7.3])
    out = Standard.of(x)(x)
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-3, rtol=0)


def batches() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    train, val = Colours(300, 0), Colours(90, 1)
    return {"image": train.image, "label": train.label}, {"image": val.image, "label": val.label}


def test_quick_score_is_the_accuracy_of_ridge_regression() -> None:
    from sklearn.linear_model import Ridge

    encoder = TwoLayers().train()
    train, val = batches()
    score = quick_score(encoder, train, val, features=192)
    assert encoder.training and score.layer == "colour" and score.value == score.layers["colour"]
    assert list(score.layers) == ["noise", "colour"]

    def features(batch: dict[str, Tensor]) -> Any:
        return encoder(batch["image"].float() / 255)["colour"].flatten(1).numpy()

    x = features(train)
    mean, std = x.mean(0), x.std(0)
    reference = Ridge(alpha=0.1 * len(x)).fit((x - mean) / std, np.eye(CLASSES)[train["label"]])
    guess = reference.predict((features(val) - mean) / std).argmax(1)
    assert score.value == pytest.approx((guess == val["label"].numpy()).mean(), abs=1.5 / 90)


def test_quick_score_repeats() -> None:
    assert quick_score(TwoLayers(), *batches()) == quick_score(TwoLayers(), *batches())


def with_labels(n: int, seed: int, labels: list[int]) -> Colours:
    made = Colours(n, seed)
    made.label = torch.tensor(labels)[torch.arange(n) % len(labels)]
    return made


def test_labels_that_training_lacks_are_refused_or_recorded() -> None:
    train = with_labels(60, 0, [0, 1, 2])
    for split, n in (("val", 90), ("test", 120)):
        splits = data() | {"train": train, split: with_labels(n, 1, [3, 4])}
        with pytest.raises(UserError, match=f"^100% of the {split} samples are of classes that .* 60 training samples"):
            run_benchmark(CONFIG, TwoLayers(), splits)
    score = run_benchmark(CONFIG, TwoLayers(), data() | {"train": train, "val": with_labels(90, 1, [0, 1, 2, 3, 3])})
    assert score.protocol["unseen"] == {"val": pytest.approx(0.4)}
    assert "unseen" not in run_benchmark(CONFIG, TwoLayers(), data()).protocol
