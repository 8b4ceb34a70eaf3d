"""A task that is small enough to follow by hand: an adversarial pair with dropout; and a story of its training."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.config import EncoderConfig, OptimizerConfig, TrainingConfig
from components.draws import Draws
from components.engine import Engine, Intervals, fit
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
