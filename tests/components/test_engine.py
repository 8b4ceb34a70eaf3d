"""The engine on a task that is defined here: an adversarial pair with dropout, small enough to follow by hand."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components import losses
from components.config import EncoderConfig, OptimizerConfig, TrainingConfig
from components.draws import Draws
from components.engine import Engine, Intervals, Watch, fit, learning_rate_factor
from components.errors import Diverged, UserError
from components.tasks.base import Batch, Player, Task, Tensors, Term

BATCH, SIZE, STEPS = 6, 8, 8


class Pair(Task):
    name = "pair"

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(self.Options(), EncoderConfig(), SIZE, 0)
        sgd = OptimizerConfig(name="sgd", lr=0.1, momentum=0.5)
        self.generator = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(dropout), nn.Conv2d(4, 3, 1))
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 1))
        self.players = {
            "discriminator": Player(("discriminator",), sgd, detached=True),
            "generator": Player(("generator",), sgd),
        }
        self.terms = {name: Term(1.0, "here", (0.1, 10.0)) for name in ("discriminator", "l2", "adversarial")}

    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        keep_B1HW = draws.bernoulli(0.5, 1, SIZE, SIZE).float()
        return {"image": batch["image"], "keep": keep_B1HW}

    def forward(self, inputs: Tensors) -> Tensors:
        return {"fake": self.generator(inputs["image"] * inputs["keep"])}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        bce = nn.functional.softplus
        if player == "discriminator":
            real, fake = self.discriminator(inputs["image"]), self.discriminator(outputs["fake"])
            return {"discriminator": (bce(-real) + bce(fake)).mean()}
        difference = outputs["fake"] - inputs["image"]
        return {"l2": difference.square().mean(), "adversarial": bce(-self.discriminator(outputs["fake"])).mean()}


def training(**changes: Any) -> TrainingConfig:
    base = {"batch": BATCH, "warmup": 0.0, "schedule": "constant", "augment": {"flip": True}, "log_every": 2}
    return TrainingConfig.model_validate(base | changes)


def make(config: TrainingConfig, dropout: float = 0.0, weights: dict[str, float] | None = None) -> Engine:
    torch.manual_seed(0)
    return Engine(Pair(dropout), config, weights or {"discriminator": 1.0, "l2": 2.0, "adversarial": 0.5}, STEPS)


def batch_of(step: int) -> Batch:
    g = torch.Generator().manual_seed(step)
    return {"image": torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), generator=g, dtype=torch.uint8)}


@dataclass
class Slice:
    step: int

    @property
    def start(self) -> int:
        return self.step * BATCH

    @property
    def stop(self) -> int:
        return self.start + BATCH

    @property
    def positions(self) -> Tensor:
        return torch.arange(self.start, self.stop)

    @property
    def batch(self) -> Batch:
        return batch_of(self.step)


class Story:
    """Hooks that write down what happened."""

    def __init__(self, at: int | None = None) -> None:
        self.events: list[tuple[str, int]] = []
        self.values: dict[int, dict[str, float]] = {}
        self.warnings: list[str] = []
        self.at = at
        self.saved: dict[str, Any] = {}

    def log(self, step: int, values: dict[str, float]) -> None:
        self.events.append(("log", step))
        self.values[step] = values

    def warn(self, step: int, message: str) -> None:
        self.warnings.append(message)

    def samples(self, step: int, engine: Engine) -> None:
        self.events.append(("samples", step))

    def probe(self, step: int, engine: Engine) -> None:
        self.events.append(("probe", step))

    def checkpoint(self, step: int, engine: Engine) -> None:
        self.events.append(("checkpoint", step))
        if step == self.at:
            self.saved = copy.deepcopy(engine.state_dict())


EVERY = Intervals(log=2, probe=4, samples=8, checkpoint=3)


def run(engine: Engine, story: Story) -> None:
    fit(engine, [Slice(step) for step in range(engine.step, STEPS)], EVERY, story, lambda: 0.0)


def equal(a: Engine, b: Engine) -> bool:
    x, y = a.task.state_dict(), b.task.state_dict()
    return all(torch.equal(x[key], y[key]) for key in x)


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


def test_events_come_at_their_intervals() -> None:
    story = Story()
    run(make(training()), story)
    at = {kind: [s for k, s in story.events if k == kind] for kind, _ in story.events}
    assert at == {"log": [2, 3, 4, 6, 8], "checkpoint": [3, 6, 8], "probe": [4, 8], "samples": [8]}


def test_logged_values_are_the_means_since_the_last_line() -> None:
    story, engine, twin = Story(), make(training()), make(training())
    run(engine, story)
    losses = [twin.train_step(batch_of(s), Slice(s).positions, BATCH)["loss/l2"].item() for s in range(2)]
    assert story.values[2]["loss/l2"] == pytest.approx(sum(losses) / 2, rel=1e-5)


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


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_learning_rate_rises_and_falls(schedule: str) -> None:
    config = training(schedule=schedule, warmup=0.2)
    factors = [learning_rate_factor(config, step, 100) for step in range(100)]
    assert factors[:20] == sorted(factors[:20]) and 0 < factors[0] < 0.06
    assert factors[20] == pytest.approx(1.0)
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[-1] < 0.02 or schedule == "constant"


def test_a_loss_that_is_not_finite_stops_before_a_checkpoint_is_written() -> None:
    engine, story = make(training(optimizer={"lr": 1e30})), Story()
    with pytest.raises(Diverged, match=r"step 2: .*loss/l2.* not finite"):
        run(engine, story)
    assert not [event for event in story.events if event[0] == "checkpoint"]


@pytest.mark.parametrize(
    ("bad", "good", "message"),
    [
        ({"discriminator/accuracy_real": 1.0, "discriminator/accuracy_fake": 0.995}, {}, "right on 99.5%: it has won"),
        ({"generator/diversity": 0.04}, {"generator/diversity": 0.8}, "differ 4% as much"),
    ],
)
def test_a_game_that_is_over_is_said_once(bad: dict[str, float], good: dict[str, float], message: str) -> None:
    watch = Watch((losses.WON, losses.COLLAPSED))
    said = [watch.check(step, bad) for step in range(10)]
    assert [step for step, text in enumerate(said) if text is not None] == [4]
    assert message in str(said[4])
    assert watch.check(10, good) is None
    assert [watch.check(step, bad) for step in range(4)] == [None] * 4, "patience begins anew"
    assert watch.check(15, bad) is not None


def test_a_discriminator_that_is_right_on_one_side_has_not_won() -> None:
    watch = Watch((losses.WON, losses.COLLAPSED))
    values = {"discriminator/accuracy_real": 1.0, "discriminator/accuracy_fake": 0.6, "loss/discriminator": -40.0}
    assert not any(watch.check(step, values) for step in range(10))


def test_a_sign_that_a_task_brings_itself_is_watched() -> None:
    watch = Watch((losses.Sign("asleep", ("encoder/motion",), "it moves {:.2f}", below=0.5),))
    assert [watch.check(step, {"encoder/motion": 0.25}) for step in range(5)] == [None] * 4 + ["it moves 0.25"]
    assert not any(watch.check(step, {"loss/l2": 0.0}) for step in range(10)), "what is not logged is no sign"


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
