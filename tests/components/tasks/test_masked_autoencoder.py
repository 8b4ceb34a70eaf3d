"""Masked autoencoder: masks, loss and decoder against loops, what the encoder sees, the pictures, the wrong options.

Legend of shape suffixes: B samples, C channels, H height, W width, N patches of a picture (row by row), V visible ones,
M hidden ones, D values of a token, P pixel values of a patch.
"""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from components.config import EncoderConfig
from components.draws import Draws
from components.errors import UserError
from components.networks.vit import positions
from components.tasks.base import Task, build_task

VIT: dict[str, Any] = {"name": "vit", "depth": 2}
ENCODERS = [VIT, {"name": "alexnet", "norm": "none"}, {"name": "resnet18"}, {"name": "alexnet", "stem": "large"}]
encoders = pytest.mark.parametrize("encoder", ENCODERS, ids=str)


def make(encoder: dict[str, Any], size: int = 32, **options: Any) -> Task:
    config = EncoderConfig.model_validate({"width": 8} | encoder)
    return build_task("masked_autoencoder", options, config, size, 0, seed=0).eval()


def images(count: int, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(4))


def make_inputs(task: Task, image_B3HW: Tensor) -> dict[str, Tensor]:
    return task.inputs({"image": image_B3HW}, Draws(3, torch.arange(len(image_B3HW))))


def patch_of(image_CHW: Tensor, number: int, side: int) -> Tensor:
    """(C, side, side): a view of the patch of that number."""
    row, column = divmod(number, image_CHW.shape[2] // side)
    return image_CHW[:, row * side : (row + 1) * side, column * side : (column + 1) * side]


@encoders
def test_exactly_the_share_is_hidden_of_every_picture(encoder: dict[str, Any]) -> None:
    image_B3HW = images(200)
    inputs = make_inputs(make(encoder), image_B3HW)
    visible_BV, hidden_BM = inputs["visible"], inputs["hidden"]
    assert visible_BV.shape == (200, 16) and hidden_BM.shape == (200, 48)
    both_BN = torch.cat([visible_BV, hidden_BM], dim=1).sort(dim=1).values
    assert torch.equal(both_BN, torch.arange(64).expand(200, -1)), "every patch is one or the other, once"
    often_N = visible_BV.flatten().bincount(minlength=64) / 200
    assert often_N.min() > 0.12 and often_N.max() < 0.4, "none is preferred"
    for b, number in product(range(0, 200, 40), range(64)):
        hidden = number in hidden_BM[b].tolist()
        assert patch_of(inputs["mask"][b], number, 4).eq(hidden).all()
        assert patch_of(inputs["native"][b], number, 4).eq(0).all() == hidden


@encoders
def test_nothing_that_is_hidden_is_seen(encoder: dict[str, Any]) -> None:
    task, image_B3HW = make(encoder), images(3)
    inputs = make_inputs(task, image_B3HW)
    other = make_inputs(task, torch.where(inputs["mask"], 1 - image_B3HW, image_B3HW))
    assert torch.equal(task(inputs)["prediction"], task(other)["prediction"])
    assert not torch.equal(inputs["truth"], other["truth"])
    third = make_inputs(task, torch.where(inputs["mask"], image_B3HW, 1 - image_B3HW))
    assert not torch.allclose(task(inputs)["prediction"], task(third)["prediction"])


@encoders
def test_where_patches_are_counts_and_not_in_which_order_they_are_named(encoder: dict[str, Any]) -> None:
    task = make(encoder)
    inputs = make_inputs(task, images(3))
    prediction_BMP = task(inputs)["prediction"]
    again = task(inputs | {"visible": inputs["visible"].flip(1), "hidden": inputs["hidden"].roll(5, 1)})
    torch.testing.assert_close(again["prediction"], prediction_BMP.roll(5, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_the_loss_is_that_of_a_loop(norm_pixels: bool) -> None:
    task, image_B3HW = make(VIT, norm_pixels=norm_pixels), images(3)
    inputs = make_inputs(task, image_B3HW)
    prediction_BMP = torch.randn(inputs["truth"].shape, generator=torch.Generator().manual_seed(1))
    errors = []
    for b, (m, number) in product(range(3), enumerate(range(48))):
        number = int(inputs["hidden"][b, m])
        patch = (patch_of(image_B3HW[b], number, 4).double() * 2 - 1).permute(1, 2, 0).flatten()
        if norm_pixels:
            mean = patch.sum() / 48
            patch = (patch - mean) / ((patch - mean).square().sum() / 47 + 1e-6).sqrt()
        errors += [(float(p) - float(t)) ** 2 for p, t in zip(prediction_BMP[b, m], patch, strict=True)]
    loss = task.losses("autoencoder", inputs, {"prediction": prediction_BMP})
    assert loss["l2"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


@encoders
def test_the_decoder_puts_every_token_in_its_place(encoder: dict[str, Any]) -> None:
    """Written out: the visible tokens where they belong, its own everywhere else, places added, then its layers."""
    decoder = make(encoder).get_submodule("decoder")
    seen_BVD = torch.randn(2, 5, decoder.get_parameter("embed.weight").shape[1])
    visible_BV = torch.tensor([[3, 0, 15, 7, 8], [1, 2, 14, 9, 4]])
    embedded_BVD = decoder.get_submodule("embed")(seen_BVD)
    tokens_BND = torch.empty(2, 16, 64)
    for b, n in product(range(2), range(16)):
        at = visible_BV[b].tolist()
        tokens_BND[b, n] = embedded_BVD[b, at.index(n)] if n in at else decoder.get_parameter("mask_token")[0, 0]
    for layer in ("blocks", "norm", "pixels"):
        tokens_BND = decoder.get_submodule(layer)(tokens_BND + (positions(4, 4, 64) if layer == "blocks" else 0))
    torch.testing.assert_close(decoder(seen_BVD, visible_BV, 4), tokens_BND)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_only_what_is_hidden_is_painted(norm_pixels: bool) -> None:
    task, image_B3HW = make(VIT, norm_pixels=norm_pixels), images(3)
    inputs = make_inputs(task, image_B3HW)
    pictures, hidden_BCHW = task.samples(inputs), inputs["mask"].expand(-1, 3, -1, -1)
    assert pictures["input"][hidden_BCHW].eq(0.5).all()
    assert torch.equal(pictures["input"][~hidden_BCHW], image_B3HW[~hidden_BCHW])
    assert torch.equal(pictures["prediction"][~hidden_BCHW], image_B3HW[~hidden_BCHW])
    assert torch.equal(pictures["truth"], image_B3HW)


@pytest.mark.parametrize("norm_pixels", [True, False])
def test_a_perfect_prediction_is_the_picture(norm_pixels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    task, image_B3HW = make(VIT, norm_pixels=norm_pixels), images(3)
    inputs = make_inputs(task, image_B3HW)
    truth_BMP = inputs["truth"]
    if norm_pixels:
        truth_BMP = (truth_BMP - truth_BMP.mean(2, keepdim=True)) / (truth_BMP.var(2, keepdim=True) + 1e-6).sqrt()
    assert task.losses("autoencoder", inputs, {"prediction": truth_BMP})["l2"] < 1e-8
    monkeypatch.setattr(task, "forward", lambda _: {"prediction": truth_BMP})
    torch.testing.assert_close(task.samples(inputs)["prediction"], image_B3HW, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "size", "side"),
    [(VIT, 32, 4), (VIT | {"stem": "large"}, 224, 16), ({"name": "resnet18"}, 32, 4), ({"name": "resnet18"}, 30, 3)],
)
def test_patches_are_the_encoder_s_own_or_fit(encoder: dict[str, Any], size: int, side: int) -> None:
    inputs = make_inputs(make(encoder, size), images(1, size))
    assert inputs["truth"].shape[2] == 3 * side**2
    assert inputs["visible"].shape[1] + inputs["hidden"].shape[1] == (size // side) ** 2


@pytest.mark.parametrize(
    ("encoder", "size", "options", "message"),
    [
        (VIT, 32, {"patch": 8}, "options.patch=8: the encoder cuts patches of 4 pixels itself: leave it out"),
        (VIT, 30, {}, "30 is no multiple"),
        ({}, 32, {"patch": 5}, "options.patch=5 does not divide the side of the images, 32: give 2, 4, 8, 16"),
        ({}, 32, {"mask_ratio": 0.999}, "options.mask_ratio=0.999 leaves 0 of 64 patches"),
        ({}, 32, {"mask_ratio": 0.001}, "leaves 64 of 64"),
        ({}, 32, {"patch": 32}, "leaves 0 of 1 patches"),
        ({}, 32, {"mask_ratio": 1}, "options.mask_ratio"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    encoder: dict[str, Any], size: int, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        make(encoder, size, **options)
    assert "\n" not in str(error.value)
