"""pix2pix: what is shown and what is to be made, terms by the paper's formulas, noise, what is refused."""

from itertools import product
from typing import Any

import pytest
import torch
from skimage.color import rgb2lab
from torch import Tensor
from torch.nn import functional as F

from components.config import EncoderConfig
from components.draws import Draws
from components.errors import UserError
from components.tasks.base import Batch, Task, build_task
from components.tasks.pix2pix import sobel

SIZE, B = 32, 3


def make(options: dict[str, Any], size: int = SIZE, **encoder: Any) -> Task:
    config = EncoderConfig.parse({"width": 4} | encoder)
    return build_task("pix2pix", options, config, size, 0, seed=0).eval()


def make_batch(size: int = SIZE) -> Batch:
    g = torch.Generator().manual_seed(0)
    return {field: torch.rand(B, 3, size, size, generator=g) for field in ("image", "target", "edges")}


def make_inputs(task: Task) -> dict[str, Tensor]:
    return task.inputs(make_batch(), Draws(0, torch.arange(B)))


def lab(image_B3HW: Tensor) -> tuple[Tensor, Tensor]:
    """Lightness in [-1, 1] and colours over 110, by another implementation."""
    lab_BHW3 = rgb2lab(image_B3HW.permute(0, 2, 3, 1).double().numpy())
    lab_B3HW = torch.from_numpy(lab_BHW3).permute(0, 3, 1, 2).float()
    return lab_B3HW[:, :1] / 50 - 1, lab_B3HW[:, 1:] / 110


def expected_pair(pair: str) -> tuple[Tensor, Tensor]:
    """What is shown and what is to be made, forward."""
    batch = {field: 2 * picture - 1 for field, picture in make_batch().items()}
    if pair == "grey":
        return lab(make_batch()["image"])
    if pair == "target":
        return batch["image"], batch["target"]
    shown = batch["edges"] if pair == "edges" else 2 * sobel(make_batch()["image"]) - 1
    return shown, batch["image"]


@pytest.mark.parametrize("pair", ["grey", "edges", "sobel", "target"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_what_is_shown_and_what_is_to_be_made(pair: str, direction: str) -> None:
    task = make({"pair": pair, "direction": direction})
    inputs = make_inputs(task)
    shown, truth = expected_pair(pair)
    if direction == "backward":
        shown, truth = (2 * make_batch()["image"] - 1 if pair == "grey" else truth), shown
    torch.testing.assert_close(inputs["shown"], shown, rtol=0, atol=1e-3)
    torch.testing.assert_close(inputs["truth"], truth, rtol=0, atol=1e-3)
    assert task.needs == (("image", pair) if pair in ("edges", "target") else ("image",))
    prediction = task(inputs)["prediction"]
    assert prediction.shape == truth.shape and prediction.abs().max() <= 1
    pictures = task.samples(inputs)
    assert list(pictures) == ["input", "prediction", "truth"]
    assert all(picture.shape == (B, 3, SIZE, SIZE) for picture in pictures.values())


def test_outlines_are_those_of_a_loop() -> None:
    image = make_batch(8)["image"]
    luma = 0.299 * image[:, 0] + 0.587 * image[:, 1] + 0.114 * image[:, 2]
    padded = F.pad(luma[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    for b, h, w in product(range(B), range(8), range(8)):
        n = padded[b, h : h + 3, w : w + 3]
        across = (n[0, 2] + 2 * n[1, 2] + n[2, 2] - n[0, 0] - 2 * n[1, 0] - n[2, 0]) / 4
        down = (n[2, 0] + 2 * n[2, 1] + n[2, 2] - n[0, 0] - 2 * n[0, 1] - n[0, 2]) / 4
        expected = 1 - min(1.0, 2 * (across**2 + down**2).sqrt().item())
        torch.testing.assert_close(sobel(image)[b, :, h, w], torch.full((3,), expected))
    assert torch.equal(sobel(torch.full((1, 3, 4, 4), 0.3)), torch.ones(1, 3, 4, 4)), "nothing to outline: white"


def test_terms_are_the_paper_s() -> None:
    """Equations 1, 3 and 4 with -log D for the generator, probabilities and means written out."""
    task = make({})
    inputs = make_inputs(task)
    outputs = task(inputs)
    discriminator = task.get_submodule("discriminator")
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.mul_(4)  # as drawn, an untrained discriminator says one half of anything

    def verdict(made: Tensor) -> Tensor:
        logits: Tensor = discriminator(torch.cat([inputs["shown"], made], 1))
        return torch.sigmoid(logits.double())

    real, fake = verdict(inputs["truth"]), verdict(outputs["prediction"])
    judged = task.losses("discriminator", inputs, outputs)
    assert judged["discriminator"].item() == pytest.approx((-real.log().mean() - (1 - fake).log().mean()).item())
    assert judged["discriminator/accuracy_real"].item() == pytest.approx((real > 0.5).double().mean().item())
    made = task.losses("generator", inputs, outputs)
    assert made["adversarial"].item() == pytest.approx(-fake.log().mean().item())
    difference = (outputs["prediction"] - inputs["truth"]).abs()
    assert made["l1"].item() == pytest.approx(difference.sum().item() / difference.numel())
    assert {name: term.weight for name, term in task.terms.items()} == {
        "discriminator": 0.5, "adversarial": 1.0, "l1": 100.0,
    }  # fmt: skip


def test_the_discriminator_sees_the_input() -> None:
    task = make({"pair": "target"})
    inputs = make_inputs(task)
    outputs = task(inputs)
    before = task.losses("generator", inputs, outputs)["adversarial"]
    inputs["shown"] = inputs["shown"].flip(0)
    assert task.losses("generator", inputs, outputs)["adversarial"] != before


def test_a_trunk_for_grey_pictures_sees_lightness_alone() -> None:
    encoder = make({}).encoder()
    grey = torch.rand(1, 1, SIZE, SIZE).expand(-1, 3, -1, -1)
    assert encoder.config.input == "l"
    red = torch.zeros(1, 3, 8, 8)
    red[:, 0] = 1
    light = ((lab(red)[0].mean() + 1) * 50 + 16) / 116  # a grey as light as red: Y to the third root
    y = light**3
    same = torch.full((1, 3, 8, 8), (1.055 * y ** (1 / 2.4) - 0.055).item())
    torch.testing.assert_close(encoder(red)["conv1"], encoder(same)["conv1"], rtol=0, atol=1e-3)
    assert make({"direction": "backward"}).encoder().config.input == "rgb"
    assert encoder(grey)["conv1"].isfinite().all()


def test_noise_belongs_to_samples_and_is_there_in_evaluation() -> None:
    task = make({}, norm="none")
    inputs = make_inputs(task)
    first = task(inputs)["prediction"]
    assert torch.equal(task(inputs)["prediction"], first), "both players see one picture"
    other = task(task.inputs(make_batch(), Draws(0, torch.arange(B) + 100)))["prediction"]
    assert not torch.equal(first, other)
    still = make({"dropout": 0}, norm="none")
    assert torch.equal(
        still(make_inputs(still))["prediction"],
        still(still.inputs(make_batch(), Draws(0, torch.arange(B) + 100)))["prediction"],
    )


@pytest.mark.parametrize(
    ("options", "encoder", "message"),
    [
        ({}, {"name": "unet"}, r"encoder\.depth: .* 32 pixels can be halved 5 times: set encoder\.depth=5"),
        ({"patch": 286}, {}, r"options\.patch=286 needs images of 96 pixels .* choose 1 or 16 or 34 or 70"),
        ({"direction": "sideways"}, {}, r"options\.direction: .*'forward' or 'backward'.*sideways"),
        ({"pair": "labels"}, {}, r"options\.pair: .*'grey', 'edges', 'sobel' or 'target'"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(options: dict[str, Any], encoder: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make(options, **encoder)
    assert "\n" not in str(error.value)
