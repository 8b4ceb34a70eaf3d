"""The loop that fits heads: order, groups, and going on after a kill."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.data.scramble import Int64
from components.errors import Diverged
from components.transfer.heads import fitting
from components.transfer.heads.fitting import FitConfig, Group, batch_of, fit
from components.transfer.protocol import BenchmarkRun

CONFIG = FitConfig(epochs=8, batch=8, lr=0.05, weight_decay=0.0)
X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5], [0.0], [3.0]])


class Kept(BenchmarkRun):
    """Keeps in memory, and can be killed."""

    def __init__(self, killed_at: int | None = None) -> None:
        super().__init__()
        self.kept: dict[str, Any] = {}
        self.killed_at = killed_at

    def load(self, name: str) -> dict[str, Any] | None:
        return self.kept.get(name)

    def save(self, name: str, state: dict[str, Any]) -> None:
        self.kept[name] = {key: _copied(value) for key, value in state.items()}

    def progress(self, done: int, total: int, what: str = "") -> None:
        if done == self.killed_at:
            raise KeyboardInterrupt


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return {key: _copied(each) for key, each in value.items()} if isinstance(value, dict) else value


def trained(run: BenchmarkRun, config: FitConfig = CONFIG) -> tuple[nn.Linear, dict[str, float]]:
    torch.manual_seed(0)
    model = nn.Linear(5, 1)

    def loss(ids: Int64, step: int) -> Mapping[str, Tensor]:
        places = torch.from_numpy(ids)
        return {"squares": (model(X[places]) - Y[places]).square().mean()}

    return model, fit("line", [Group([model])], config, len(X), loss, run)


def test_an_epoch_sees_every_sample_once() -> None:
    ids = np.concatenate([batch_of(step, 8, 20, seed=1) for step in range(10)])
    for epoch in range(4):
        assert sorted(ids[20 * epoch : 20 * (epoch + 1)].tolist()) == list(range(20))
    assert ids[:20].tolist() != ids[20:40].tolist()
    assert batch_of(0, 8, 20, seed=1).tolist() != batch_of(0, 8, 20, seed=2).tolist()


def test_a_line_is_found() -> None:
    model, sums = trained(BenchmarkRun(), FitConfig(epochs=60, batch=8, lr=0.1, weight_decay=0.0))
    assert sums["squares"] < 1e-3
    assert model.weight[0].tolist() == pytest.approx([1, -2, 0.5, 0, 3], abs=0.02)


@pytest.mark.parametrize("killed_at", [1, 11, 12, 39])
def test_a_fit_that_was_killed_ends_as_one_that_was_not(monkeypatch: pytest.MonkeyPatch, killed_at: int) -> None:
    monkeypatch.setattr(fitting, "KEEP_EVERY", 4)
    whole, sums = trained(Kept())
    run = Kept(killed_at)
    with pytest.raises(KeyboardInterrupt):
        trained(run)
    run.killed_at = None
    again, sums_again = trained(run)
    assert torch.equal(whole.weight, again.weight) and sums == sums_again


def test_published_schedules_are_stairs_under_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    config = FitConfig(
        epochs=2, batch=8, optimizer="sgd", lr=0.02, milestones=(0.35, 0.7), weight_decay=0.01, warmup=0, clip=1e6
    )
    model, _ = trained(Kept(), config)
    torch.manual_seed(0)
    reference = nn.Linear(5, 1)
    optimizer = torch.optim.SGD(reference.parameters(), 0.02, momentum=0.9, nesterov=True, weight_decay=0.01)
    for step in range(10):
        optimizer.param_groups[0]["lr"] = 0.02 if step < 4 else 0.004 if step < 7 else 0.0008
        places = torch.from_numpy(batch_of(step, 8, 40, seed=0))
        optimizer.zero_grad()
        (reference(X[places]) - Y[places]).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(model.weight, reference.weight)
    monkeypatch.setattr(fitting, "KEEP_EVERY", 3)
    run = Kept(killed_at=5)
    with pytest.raises(KeyboardInterrupt):
        trained(run, config)
    run.killed_at = None
    assert torch.equal(trained(run, config)[0].weight, model.weight)


def test_groups_have_rates_of_their_own_and_frozen_weights_stay() -> None:
    slow, fast = nn.Linear(5, 1), nn.Linear(5, 1)
    slow.bias.requires_grad_(False)
    before = [slow.weight.clone(), slow.bias.clone(), fast.weight.clone()]

    def loss(ids: Int64, step: int) -> Mapping[str, Tensor]:
        places = torch.from_numpy(ids)
        return {"squares": (slow(X[places]) + fast(X[places]) - Y[places]).square().mean()}

    fit("two", [Group([slow], lr=0.01), Group([fast])], CONFIG, len(X), loss, BenchmarkRun())
    moved = [(a - b).abs().max().item() for a, b in zip(before, [slow.weight, slow.bias, fast.weight], strict=True)]
    assert moved[1] == 0 and 0 < 20 * moved[0] < moved[2]


def test_a_loss_that_is_no_number_ends_the_fit() -> None:
    model = nn.Linear(5, 1)
    with pytest.raises(Diverged, match="line, step 0: the loss is nan"):
        fit("line", [Group([model])], CONFIG, 40, lambda *_: {"x": model.weight.sum() * float("nan")}, BenchmarkRun())
