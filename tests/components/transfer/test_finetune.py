"""Fine-tuning: how fast parts learn, where it begins, what is chosen on which split, going on after a kill."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.config import EncoderConfig
from components.errors import Diverged, UserError
from components.networks.encoder import Encoder, build_encoder
from components.transfer.finetune import FinetuneConfig, Tuned, groups_of, probe_of
from components.transfer.heads import fitting
from components.transfer.protocol import get_protocol, run_benchmark
from components.transfer.recalibration import recalibrated
from tests.components.transfer.heads.test_fitting import Kept
from tests.components.transfer.test_low_shot import data
from tests.components.transfer.test_probe import CLASSES

CONFIG = FinetuneConfig(samples=None, epochs=5, batch=30, lrs=(1e-6, 1e-2), first="all")
RGB = torch.rand(2, 3, 16, 16)


def small(seed: int = 0, **config: Any) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder(EncoderConfig.parse({"name": "resnet18", "width": 4, "depth": 3} | config))


def rates(encoder: Encoder, decay: float = 0.5) -> dict[str, float]:
    """{parameter: learning rate, in units of the linear layer's}."""
    network = Tuned(encoder, nn.Linear(encoder.channels[encoder.layers[-1]], 2))
    groups = groups_of(network, RGB, decay, head_lr=1.0)
    found = [(each, group.lr) for group in groups for module in group.modules for each in module.parameters()]
    names = {each: name for name, each in network.named_parameters()}
    assert len(found) == len(names) == len({each for each, _ in found})  # each once
    buffers = [each for group in groups for module in group.modules for each in module.buffers()]
    kept = [each for name, each in network.named_buffers() if name.split(".")[-1] not in ("_mean", "_std")]
    assert {each.data_ptr() for each in kept} <= {each.data_ptr() for each in buffers}
    return {names[each].removeprefix("encoder."): rate for each, rate in found}


def test_layers_learn_the_slower_the_shallower_they_are() -> None:
    found = rates(small())
    layers = (("head.",), ("layer2",), ("layer1",), ("conv1.", "bn1."))
    assert [*small().layers] == ["stem", "layer1", "layer2"]
    for step, start in enumerate(layers):
        assert {rate for name, rate in found.items() if name.startswith(start)} == {0.5**step}


@pytest.mark.parametrize(
    "config",
    [{"name": "alexnet", "depth": 5}, {"name": "nin", "depth": 4, "width": 12}, {"input": "l+ab"}, {"norm": "none"}],
)
def test_every_parameter_of_any_network_has_its_rate(config: dict[str, Any]) -> None:
    encoder = small(**config)
    assert set(rates(encoder).values()) == {0.5**step for step in range(len(encoder.layers) + 1)}


def test_tokens_and_positions_of_a_transformer_have_theirs() -> None:
    encoder = small(name="vit", width=16, depth=2)
    assert set(rates(encoder).values()) == {0.5**step for step in range(3)}


def test_the_rate_is_chosen_on_val_and_test_is_read_once() -> None:
    splits = data()
    encoder = small()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    score = run_benchmark(CONFIG, encoder, splits)
    assert score.layer == "lr 0.01" and list(score.layers) == ["lr 1e-06", "lr 0.01"]
    assert score.split == "test" and score.metric == "top1" and score.n == 120 and score.value > 0.45
    assert splits["test"].reads == list(range(120))
    assert np.mean(score.resampled) == pytest.approx(score.value, abs=0.01)
    assert FinetuneConfig.parse(score.protocol["config"]) == CONFIG
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    splits["test"].label = (splits["test"].label + 1) % CLASSES
    other = run_benchmark(CONFIG, small(), splits)
    assert other.value < score.value and other.layers == score.layers


@pytest.mark.parametrize("killed_at", [11, 45])
def test_a_kill_changes_nothing(monkeypatch: pytest.MonkeyPatch, killed_at: int) -> None:
    """After the first and within the second of two learning rates, too."""
    monkeypatch.setattr(fitting, "KEEP_EVERY", 4)
    whole = run_benchmark(CONFIG, small(), data(), Kept())

    class Second(Kept):
        """Killed at a step of the second fit."""

        def progress(self, done: int, total: int, what: str = "") -> None:
            if "0.01" in what:
                super().progress(done, total, what)

    run = Second(killed_at)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(CONFIG, small(), data(), run)
    run.killed_at = None
    assert run_benchmark(CONFIG, small(), data(), run) == whole


def test_the_head_begins_as_the_probe_of_the_frozen_encoder() -> None:
    encoder, splits = small().eval(), data()
    head, probe = probe_of(CONFIG, encoder, splits, torch.device("cpu"))

    def logits(image: Tensor) -> Tensor:
        found: Tensor = Tuned(encoder, head).eval()(image / 255)
        return found

    with torch.no_grad():
        guess = logits(splits["val"].image).argmax(1)
    assert float((guess == splits["val"].label).double().mean()) == pytest.approx(probe.val, abs=1.5 / 90)
    still = CONFIG.model_copy(update={"first": "head", "lrs": (1e-9,), "epochs": 0.1})
    score = run_benchmark(still, encoder, splits)
    again = recalibrated(encoder, splits["train"], "train")
    assert score.protocol["head"]["val"] == probe_of(CONFIG, again, splits, torch.device("cpu"))[1].val
    assert score.layers["lr 1e-09"] == pytest.approx(score.protocol["head"]["val"], abs=0.05)
    zero = run_benchmark(still.model_copy(update={"first": "all"}), encoder, splits)
    assert score.layers["lr 1e-09"] > zero.layers["lr 1e-09"] + 0.1


def test_the_head_begins_where_tuning_goes_on_whatever_the_encoder_remembers() -> None:
    spoiled = small()
    for name, buffer in spoiled.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(50.0)
    short = CONFIG.model_copy(update={"first": "head", "lrs": (1e-9,), "epochs": 0.4})
    loss = [run_benchmark(short, encoder, data()).protocol["train_loss"]["lr 1e-09"] for encoder in (small(), spoiled)]
    assert loss[0] == pytest.approx(loss[1], abs=1e-3) and max(loss) < np.log(CLASSES)


def test_a_rate_that_diverges_is_passed_over() -> None:
    score = run_benchmark(CONFIG.model_copy(update={"lrs": (1e30, 1e-2)}), small(norm="none"), data())
    assert score.layer == "lr 0.01" and list(score.layers) == ["lr 0.01"]
    assert "the loss is" in score.protocol["train_loss"]["lr 1e+30"]
    with pytest.raises(Diverged, match=r"--set benchmark\.lrs=\[1e\+29\]"):
        run_benchmark(CONFIG.model_copy(update={"lrs": (1e30,)}), small(norm="none"), data())


def test_names_and_wrong_rates() -> None:
    names = {name: get_protocol(name) for name in ("finetune", "finetune_all", "finetune_long", "finetune_full")}
    found: dict[str, Any] = names
    assert found["finetune"].head_lr == 1 and found["finetune_long"].head_lr == found["finetune_all"].head_lr == 10
    assert found["finetune"].first == "head" and found["finetune_all"].first == "all"
    assert found["finetune_long"].epochs == 4 * found["finetune_all"].epochs
    assert found["finetune_long"].samples == found["finetune_all"].samples and found["finetune_full"].samples is None
    with pytest.raises(UserError, match="lrs must be positive"):
        FinetuneConfig.parse({"lrs": ()})
