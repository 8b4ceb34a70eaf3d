"""CycleGAN: terms by the paper's formulas, the pool in the engine and in a checkpoint, domains."""

import io
from typing import Any

import pytest
import torch
from skimage.color import rgb2lab
from torch import Tensor

from components.config import EncoderConfig, TrainingConfig
from components.draws import Draws
from components.engine import Engine
from components.parallel import World
from components.tasks.base import Batch, Task, build_task, resolve_weights

SIZE, B, POOL = 32, 3, 4


def make(options: dict[str, Any]) -> Task:
    encoder = EncoderConfig(name="resnet_generator", width=4, depth=4, norm="instance")
    return build_task("cyclegan", {"patch": 16, "pool": POOL} | options, encoder, SIZE, 0, seed=0)


def make_batch(step: int = 0) -> Batch:
    g = torch.Generator().manual_seed(step)
    return {field: torch.rand(B, 3, SIZE, SIZE, generator=g) for field in ("image", "other", "another")}


def make_inputs(task: Task, step: int = 0) -> dict[str, Tensor]:
    return task.inputs(make_batch(step), Draws(0, torch.arange(step * B, step * B + B)))


def make_engine(task: Task, parts: int = 1) -> Engine:
    training = TrainingConfig.parse({"batch": B, "warmup": 0.0, "micro_batches": parts, "augment": {"flip": False}})
    return Engine(task, training, resolve_weights(task.name, task.terms, {}), steps=10, world=World())


def run(engine: Engine, steps: range) -> None:
    for step in steps:
        batch = {field: (picture * 255).byte() for field, picture in make_batch(step).items()}
        engine.train_step(batch, torch.arange(step * B, step * B + B), B)


def test_terms_are_the_paper_s() -> None:
    """Equations 1 to 3 with least squares, and the identity of section 5.2: every call and mean written out."""
    task = make({"pool": 0})
    inputs = make_inputs(task)
    outputs = task(inputs)
    names = ("generator_ab", "generator_ba", "discriminator_a", "discriminator_b")
    ab, ba, judge_a, judge_b = (task.get_submodule(name) for name in names)
    a, b = 2 * make_batch()["image"] - 1, 2 * make_batch()["other"] - 1

    def l1(x: Tensor, y: Tensor) -> float:
        return (x - y).abs().double().mean().item()

    def squares(logits: Tensor, wanted: float) -> float:
        return (logits - wanted).square().double().mean().item()

    made = task.losses("generator", inputs, outputs)
    assert made["adversarial"].item() == pytest.approx(squares(judge_b(ab(a)), 1) + squares(judge_a(ba(b)), 1))
    assert made["cycle"].item() == pytest.approx(l1(ba(ab(a)), a) + l1(ab(ba(b)), b))
    assert made["identity"].item() == pytest.approx(l1(ab(b), b) + l1(ba(a), a))
    judged = task.losses("discriminator", inputs, outputs)["discriminator"].item()
    expected = squares(judge_a(a), 1) + squares(judge_a(ba(b)), 0) + squares(judge_b(b), 1) + squares(judge_b(ab(a)), 0)
    assert judged == pytest.approx(expected)
    assert {name: term.weight for name, term in task.terms.items()} == {
        "adversarial": 1.0, "cycle": 10.0, "identity": 5.0, "discriminator": 0.5,
    }  # fmt: skip
    assert type(task).Options().model_dump()["pool"] == 50


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_pool_holds_what_was_generated_first(parts: int) -> None:
    task = make({})
    engine = make_engine(task, parts)
    batch = {field: (picture * 255).byte().float() / 255 for field, picture in make_batch().items()}
    with torch.no_grad():
        fake_b = task(task.inputs(batch, Draws(0, torch.arange(B))))["fake_b"]
    run(engine, range(1))
    state = task.state_dict()
    assert state["pool_a.held"] == state["pool_b.held"] == B
    torch.testing.assert_close(state["pool_b.pictures_P3HW"][:B], fake_b)
    assert state["pool_b.pictures_P3HW"][B:].eq(0).all()
    run(engine, range(1, 3))
    assert task.state_dict()["pool_b.held"] == POOL


def test_the_discriminator_is_shown_the_pool() -> None:
    task = make({})
    inputs = make_inputs(task)
    outputs = task(inputs)
    fresh = task.losses("discriminator", inputs, outputs)["discriminator"]
    always = {"swap": torch.ones(POOL, 2, dtype=torch.bool), "slot": torch.arange(POOL)[:, None].expand(-1, 2)}
    old = {"fake_a": torch.randn(POOL, 3, SIZE, SIZE), "fake_b": torch.randn(POOL, 3, SIZE, SIZE)}
    task.remember(old | always)
    inputs |= {"swap": torch.ones(B, 2, dtype=torch.bool)}
    shown = task.losses("discriminator", inputs, outputs)["discriminator"]
    slot_B2 = inputs["slot"]
    replaced = outputs | {"fake_a": old["fake_a"][slot_B2[:, 0]], "fake_b": old["fake_b"][slot_B2[:, 1]]}
    inputs["swap"].zero_()
    torch.testing.assert_close(shown, task.losses("discriminator", inputs, replaced)["discriminator"])
    assert shown != fresh
    torch.testing.assert_close(task.losses("discriminator", inputs, outputs)["discriminator"], fresh)


def test_a_killed_training_goes_on_with_its_pool() -> None:
    undisturbed = make_engine(make({}))
    run(undisturbed, range(5))
    killed, file = make_engine(make({})), io.BytesIO()
    run(killed, range(3))
    torch.save(killed.state_dict(), file)
    file.seek(0)
    resumed = make_engine(make({}))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    run(resumed, range(3, 5))
    assert resumed.task.state_dict()["pool_a.pictures_P3HW"].any()
    for key, value in undisturbed.task.state_dict().items():
        assert torch.equal(value, resumed.task.state_dict()[key]), key


def test_grey_against_colour_is_made_of_any_images() -> None:
    task, batch = make({"domains": "grey"}), make_batch()
    inputs = make_inputs(task)
    lab_BHW3 = rgb2lab(((inputs["a"] + 1) / 2).permute(0, 2, 3, 1).double().numpy())
    wanted_BHW3 = rgb2lab(batch["image"].permute(0, 2, 3, 1).double().numpy())
    assert abs(lab_BHW3[..., 1:]).max() < 0.5
    assert abs(lab_BHW3[..., 0] - wanted_BHW3[..., 0]).max() < 0.5
    torch.testing.assert_close(inputs["b"], 2 * batch["another"] - 1)
    assert task.needs == ("image", "another") and make({}).needs == ("image", "other")
    assert torch.equal(task.samples(inputs)["truth"], batch["image"])
    assert "truth" not in make({}).samples(make_inputs(make({})))


def test_the_encoder_is_the_way_in_of_either_generator() -> None:
    for options, generator in (({}, "generator_ab"), ({"encoder": "other"}, "generator_ba")):
        task = make(options)
        assert task.encoder() is task.get_submodule(f"{generator}.trunk")
