"""The engine on a task that is defined in conftest: steps, gradients, precision, memory, and exact resuming."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from components.engine import Engine
from components.errors import UserError
from components.tasks.base import Player, Tensors
from tests.components.engine.conftest import BATCH, STEPS, Pair, Slice, Story, batch_of, equal, make, run, training


@pytest.mark.parametrize("ema", [None, 0.9])
def test_resuming_is_exact(ema: float | None) -> None:
    # Dropout and Adam: random state and optimizer state both matter.
    config = training(ema=ema, optimizer={"name": "adam", "lr": 0.01})
    whole, story = make(config, dropout=0.5), Story(at=3)
    run(whole, story)
    resumed = make(config, dropout=0.5)
    torch.manual_seed(999)  # whatever the new process did before
    resumed.load_state_dict(story.saved)
    assert resumed.step == 3
    run(resumed, Story())
    assert equal(whole, resumed)
    if ema:
        assert whole.average is not None and resumed.average is not None
        pairs = zip(whole.average.parameters(), resumed.average.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert not torch.equal(next(whole.average.parameters()), next(whole.task.parameters()))


def test_measuring_changes_nothing_and_norms_are_those_of_each_term() -> None:
    plain, measured = make(training()), make(training())
    plain.train_step(batch_of(0), Slice(0).positions, BATCH)
    values = measured.train_step(batch_of(0), Slice(0).positions, BATCH, measure=True)
    pairs = zip(plain.task.parameters(), measured.task.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in pairs)
    reference = make(training())
    inputs = reference.prepare(batch_of(0), Slice(0).positions)
    # The discriminator moves first; what the generator sees is the moved one.
    reference.task.get_submodule("discriminator").load_state_dict(
        measured.task.get_submodule("discriminator").state_dict()
    )
    parameters = [*reference.task.get_submodule("generator").parameters()]
    losses = reference.task.losses("generator", inputs, reference.task(inputs))
    for term, weight in (("l2", 2.0), ("adversarial", 0.5)):
        gradients = torch.autograd.grad(weight * losses[term], parameters, retain_graph=True)
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
        assert values[f"gradient_norm/term/{term}"].item() == pytest.approx(norm, rel=1e-4)


def test_a_term_of_weight_zero_is_logged_and_teaches_nothing() -> None:
    off = make(training(), weights={"discriminator": 1.0, "l2": 0.0, "adversarial": 0.0})
    before = copy.deepcopy(off.task.state_dict())
    values = off.train_step(batch_of(0), Slice(0).positions, BATCH)
    assert values["loss/l2"] > 0
    after = off.task.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("generator"))
    assert not all(torch.equal(before[k], after[k]) for k in before if k.startswith("discriminator"))


def test_clipping_bounds_the_gradient_norm() -> None:
    config = training(clip=1e-3, optimizer={"lr": 1.0, "momentum": 0.0})
    engine = make(config)
    before = [p.detach().clone() for p in engine.parameters["generator"]]
    engine.train_step(batch_of(0), Slice(0).positions, BATCH)
    moved = sum((a - b).detach().square().sum() for a, b in zip(before, engine.parameters["generator"], strict=True))
    assert math.sqrt(float(moved)) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("clip", [None, 1e6])
def test_the_logged_gradient_norm_is_the_length_of_a_plain_step(clip: float | None) -> None:
    engine = make(training(clip=clip, optimizer={"lr": 1.0, "momentum": 0.0}))
    before = [p.detach().clone() for p in engine.parameters["generator"]]
    values = engine.train_step(batch_of(0), Slice(0).positions, BATCH)
    moved = torch.cat([(a - b).detach().flatten() for a, b in zip(before, engine.parameters["generator"], strict=True)])
    assert values["gradient_norm/generator"].item() == pytest.approx(moved.norm().item(), rel=1e-4)


@pytest.mark.parametrize("augment", [{"flip": flip, "shift": shift} for flip in (False, True) for shift in (0, 2)])
def test_images_arrive_in_the_layout_that_was_asked_for(augment: dict[str, Any]) -> None:
    images = {}
    for channels_last in (False, True):
        engine = make(training(augment=augment, channels_last=channels_last))
        images[channels_last] = engine.prepare(batch_of(0), Slice(0).positions)["image"]
    assert images[True].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images[False], images[True])


def test_bf16_follows_fp32() -> None:
    exact, fast = make(training()), make(training(precision="bf16"))
    for step in range(STEPS):
        for engine in (exact, fast):
            engine.train_step(batch_of(step), Slice(step).positions, BATCH)
    a = torch.cat([p.detach().flatten() for p in exact.task.parameters()])
    b = torch.cat([p.detach().flatten() for p in fast.task.parameters()])
    assert a.dtype == b.dtype == torch.float32
    assert 0 < (a - b).norm() / a.norm() < 0.05


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler looks at it
def test_compiled_equals_eager() -> None:
    eager, compiled = make(training()), make(training(compile=True))
    for step in range(2):
        for engine in (eager, compiled):
            engine.train_step(batch_of(step), Slice(step).positions, BATCH, measure=step == 1)
    pairs = zip(eager.task.parameters(), compiled.task.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


class Remembering(Pair):
    """Remembers means of the last batch and says a fact beside its terms; the generator acts every other step."""

    def __init__(self) -> None:
        super().__init__()
        self.players["generator"] = Player(("generator",), self.players["generator"].optimizer, every=2)
        self.history = ("fake", "keep")
        self.means_B2: Tensor
        self.register_buffer("means_B2", torch.zeros(BATCH, 2))

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        return super().losses(player, inputs, outputs) | {f"{player}/mean": outputs["fake"].mean()}

    def remember(self, values: Tensors) -> None:
        self.means_B2.copy_(torch.stack([values["fake"].mean((1, 2, 3)), values["keep"].mean((1, 2, 3))], 1))


def test_a_player_acts_in_its_own_steps_only() -> None:
    engine = Engine(Remembering(), training(), {"discriminator": 1.0, "l2": 1.0, "adversarial": 1.0}, STEPS)
    for step in range(3):
        before = {k: v.clone() for k, v in engine.task.state_dict().items()}
        metrics = engine.train_step(batch_of(step), Slice(step).positions, BATCH, measure=True)
        after = engine.task.state_dict()
        moved = {k.split(".")[0] for k in before if "." in k and not torch.equal(before[k], after[k])}
        acts = ["discriminator", "generator"] if step == 1 else ["discriminator"]
        assert sorted(moved) == acts
        assert ("loss/l2" in metrics) == (step == 1)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_task_remembers_the_batch_in_its_order_and_its_facts_are_logged(parts: int) -> None:
    task = Remembering()
    engine = Engine(task, training(micro_batches=parts), dict.fromkeys(task.terms, 0.0), STEPS)
    inputs = engine.prepare(batch_of(0), Slice(0).positions)
    fake = task(inputs)["fake"]
    metrics = engine.train_step(batch_of(0), Slice(0).positions, BATCH)
    torch.testing.assert_close(task.means_B2[:, 0], fake.mean((1, 2, 3)))
    torch.testing.assert_close(task.means_B2[:, 1], inputs["keep"].mean((1, 2, 3)))
    torch.testing.assert_close(metrics["discriminator/mean"], fake.mean())
    assert "loss/discriminator/mean" not in metrics and "generator/mean" not in metrics


def test_two_players_on_the_graph_are_refused() -> None:
    task = Pair()
    task.players = {name: Player(player.networks) for name, player in task.players.items()}
    with pytest.raises(UserError, match="mark the others detached"):
        Engine(task, training(), {"discriminator": 1.0, "l2": 1.0, "adversarial": 1.0}, STEPS)


def test_an_unknown_optimizer_key_names_the_key() -> None:
    message = r"unknown key 'training\.optimizer\.rl': did you mean 'training\.optimizer\.lr'"
    with pytest.raises(UserError, match=message):
        make(training(optimizer={"rl": 0.1}))
