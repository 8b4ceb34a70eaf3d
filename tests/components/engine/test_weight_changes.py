"""Weights that change during training: counted from their step on, also after a resume, against a loop by hand."""

import pytest
import torch
from torch import Tensor, nn

from components.config import EncoderConfig, OptimizerConfig, Recipe, TrainingConfig
from components.draws import Draws
from components.engine import Engine, weights_at
from components.errors import UserError
from components.tasks.base import Batch, Player, Task, Tensors, Term
from pipelines.recipes import check_recipe, load_recipe

STEPS, RATE = 6, 0.1
FIRST, CHANGES = {"a": 1.0, "b": 0.0}, {4: {"a": 0.25}, 2: {"a": 3.0, "b": 0.5}}
BY_HAND = [(1.0, 0.0)] * 2 + [(3.0, 0.5)] * 2 + [(0.25, 0.5)] * 2  # (a, b) of every step


class Two(Task):
    name = "two"

    def __init__(self) -> None:
        super().__init__(self.Options(), EncoderConfig(), 8, 0)
        self.point = nn.Linear(1, 1, bias=False)
        self.players = {"all": Player(("point",), OptimizerConfig(name="sgd", lr=RATE, momentum=0.0))}
        self.terms = {name: Term(1.0, "here", (0.1, 1.0)) for name in ("a", "b")}
        nn.init.constant_(self.point.weight, 1.0)

    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        return {}

    def forward(self, inputs: Tensors) -> Tensors:
        return {"w": self.point.weight.squeeze()}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        return {"a": (outputs["w"] - 5) ** 2, "b": outputs["w"] ** 2}


def make() -> Engine:
    config = TrainingConfig(batch=2, warmup=0.0, schedule="constant")
    return Engine(Two(), config, FIRST, STEPS, changes=CHANGES)


def step(engine: Engine) -> float:
    batch = {"image": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}
    engine.train_step(batch, torch.arange(2), 2, measure=engine.step % 2 == 0)
    assert isinstance(engine.task, Two)
    weight: Tensor = engine.task.point.weight
    return weight.item()


def by_hand() -> list[float]:
    w, path = 1.0, []
    for a, b in BY_HAND:
        w -= RATE * (a * 2 * (w - 5) + b * 2 * w)
        path.append(w)
    return path


def test_changes_count_from_their_step_on() -> None:
    engine = make()
    assert [step(engine) for _ in range(STEPS)] == pytest.approx(by_hand(), rel=1e-5)


@pytest.mark.parametrize("cut", range(1, STEPS))
def test_a_resumed_training_has_the_weights_of_its_step(cut: int) -> None:
    before, after = make(), make()
    for _ in range(cut):
        step(before)
    after.load_state_dict(before.state_dict())
    assert [step(after) for _ in range(STEPS - cut)] == pytest.approx(by_hand()[cut:], rel=1e-5)


def test_changes_lie_over_those_before() -> None:
    assert [tuple(weights_at(FIRST, CHANGES, s).values()) for s in range(STEPS)] == BY_HAND
    assert FIRST == {"a": 1.0, "b": 0.0}


def test_a_recipe_names_changes_by_step() -> None:
    recipe = load_recipe("context_encoder", ["weight_changes={'200': {adversarial: 0.01}}"])
    assert recipe.weight_changes == {200: {"adversarial": 0.01}}
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    with pytest.raises(UserError, match="no term 'adversarail': did you mean"):
        check_recipe(load_recipe("context_encoder", ["weight_changes={200: {adversarail: 0.01}}"]))
    with pytest.raises(UserError, match=r"weight_changes\.200\.adversarial must be a finite number"):
        load_recipe("context_encoder", ["weight_changes={200: {adversarial: -1}}"])
