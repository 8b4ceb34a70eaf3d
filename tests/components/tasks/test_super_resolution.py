"""Super-resolution: the small picture against Pillow's, every term against its formula, the frozen encoder."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from components.config import EncoderConfig, TrainingConfig
from components.draws import Draws
from components.engine import Engine
from components.errors import UserError
from components.networks.encoder import build_encoder, load_encoder, save_encoder
from components.tasks.base import Task, build_task, resolve_weights
from components.tasks.super_resolution import resize_bicubic

SIZE = 16


def make(size: int = SIZE, **options: Any) -> Task:
    return build_task("super_resolution", options, EncoderConfig(width=4), size, 0, seed=0).eval()


def make_inputs(task: Task, images_B3HW: Tensor) -> dict[str, Tensor]:
    return task.inputs({"image": images_B3HW}, Draws(0, torch.arange(len(images_B3HW))))


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    save_encoder(build_encoder(EncoderConfig(width=4, depth=3)), tmp_path / "judge")
    return tmp_path / "judge"


@pytest.mark.parametrize("side", [16, 8, 64])
def test_bicubic_is_that_of_pillow(side: int) -> None:
    """Pillow widens its kernel too when it makes pictures smaller; it rounds and clips between rows and columns."""
    pixels = torch.randint(80, 176, (32, 32, 3), dtype=torch.uint8)
    expected = np.asarray(Image.fromarray(pixels.numpy()).resize((side, side), Image.Resampling.BICUBIC)) / 255
    ours = resize_bicubic(pixels.permute(2, 0, 1)[None] / 255, side).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - expected).max() < 2.5 / 255


@pytest.mark.parametrize("factor", [2, 4])
def test_the_trunk_sees_the_small_picture_enlarged(factor: int) -> None:
    images = torch.rand(2, 3, SIZE, SIZE)
    task = make(factor=factor, filter="area")
    inputs = make_inputs(task, images)
    small = images.view(2, 3, SIZE // factor, factor, SIZE // factor, factor).mean((3, 5))
    enlarged = resize_bicubic(small, SIZE).clamp(0, 1)
    torch.testing.assert_close(inputs["native"], task.encoder().convert(enlarged))
    torch.testing.assert_close(inputs["bicubic"], 2 * enlarged - 1)


def test_the_enlargement_is_where_it_starts_from() -> None:
    task, images = make(), torch.rand(2, 3, SIZE, SIZE)
    inputs = make_inputs(task, images)
    task.get_submodule("upscaler").register_forward_hook(lambda *_: torch.zeros(2, 3, SIZE, SIZE))
    pictures = task.samples(inputs)
    assert torch.equal(pictures["prediction"], pictures["input"])


def test_terms_are_those_of_the_paper(judge: Path) -> None:
    images = torch.rand(2, 3, SIZE, SIZE)
    task = make(perceptual=str(judge), perceptual_layer="conv2")
    inputs = make_inputs(task, images)
    outputs = task(inputs)
    prediction, truth = outputs["prediction"].double(), (2 * images - 1).double()
    losses = task.losses("generator", inputs, outputs) | task.losses("discriminator", inputs, outputs)
    squared = sum((p - t) ** 2 for p, t in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True))
    assert losses["l2"].item() == pytest.approx(squared / (2 * 3 * SIZE * SIZE), rel=1e-5)  # equation 4

    discriminator = task.get_submodule("discriminator")
    real, fake = (torch.sigmoid(discriminator(x.float())).tolist() for x in (truth, prediction))
    assert losses["adversarial"].item() == pytest.approx(sum(-math.log(p) for p in fake) / 2, rel=1e-4)  # equation 6
    expected = sum(-math.log(p) for p in real) / 2 + sum(-math.log(1 - p) for p in fake) / 2  # equation 2
    assert losses["discriminator"].item() == pytest.approx(expected, rel=1e-4)

    network = load_encoder(judge)  # equation 5
    features = [network(((x + 1) / 2).clamp(0, 1).float())["conv2"] for x in (prediction, truth)]
    assert losses["perceptual"].item() == pytest.approx((features[0] - features[1]).square().mean().item(), rel=1e-4)


def test_psnr_is_that_of_the_definition() -> None:
    images = torch.rand(3, 3, SIZE, SIZE)
    task = make()
    inputs = make_inputs(task, images)
    outputs = {"prediction": inputs["truth"] + 0.3 * torch.randn_like(images)}
    logged = task.losses("generator", inputs, outputs)
    for name, shown in (("prediction", outputs["prediction"]), ("bicubic", inputs["bicubic"])):
        errors = (((shown[b].clamp(-1, 1) + 1) / 2 - images[b]).square().mean().item() for b in range(3))
        expected = sum(10 * math.log10(1 / error) for error in errors) / 3
        assert logged[f"psnr/{name}"].item() == pytest.approx(expected, rel=1e-5)


def test_without_an_encoder_there_is_no_perceptual_term(judge: Path) -> None:
    assert resolve_weights("super_resolution", make().terms, {}) == {
        "l2": 1.0,
        "adversarial": 0.001,
        "discriminator": 1.0,
    }
    assert resolve_weights("super_resolution", make(perceptual=str(judge)).terms, {})["perceptual"] == 0.006
    with pytest.raises(UserError, match="has no term 'perceptual'"):
        resolve_weights("super_resolution", make().terms, {"perceptual": 1.0})


def test_the_given_encoder_is_looked_through_and_never_changed(judge: Path) -> None:
    task = make(perceptual=str(judge))
    frozen = task.get_submodule("judge.encoder")
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    saved = load_encoder(judge).state_dict()
    assert before.keys() == saved.keys() and all(torch.equal(before[key], saved[key]) for key in saved)
    training = TrainingConfig(batch=4, ema=0.9)
    engine = Engine(task.train(), training, resolve_weights(task.name, task.terms, {"perceptual": 1.0}), steps=3)
    assert not frozen.training
    images = torch.randint(256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    weight = task.encoder().state_dict()["features.0.weight"].clone()
    for step in range(3):
        engine.train_step({"image": images}, torch.arange(4 * step, 4 * step + 4), 4)
    assert not torch.equal(task.encoder().state_dict()["features.0.weight"], weight)
    assert all(torch.equal(before[key], value) for key, value in frozen.state_dict().items())


def test_the_perceptual_term_alone_teaches_the_generator(judge: Path) -> None:
    task = make(perceptual=str(judge))
    inputs = make_inputs(task, torch.rand(2, 3, SIZE, SIZE))
    torch.autograd.backward(task.losses("generator", inputs, task(inputs))["perceptual"])
    assert all(p.grad is not None and p.grad.any() for p in task.get_submodule("upscaler").parameters())
    assert all(p.grad is not None and p.grad.any() for p in task.encoder().parameters())


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (18, {"factor": 4}, r"options\.factor=4 does not divide the image's side of 18 pixels"),
        (16, {"factor": 3}, r"options\.factor"),
        (16, {"perceptual": "nowhere"}, r"no encoder folder nowhere"),
        (16, {"form": "hinges"}, r"options\.form"),
    ],
)
def test_wrong_options_are_named(size: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make(size, **options)
    assert "\n" not in str(error.value)


def test_an_unknown_layer_of_the_given_encoder_is_named(judge: Path) -> None:
    with pytest.raises(UserError, match=r"unknown layer of alexnet 'conv5'"):
        make(perceptual=str(judge), perceptual_layer="conv5")
