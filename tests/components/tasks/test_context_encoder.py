"""Context encoder: holes, bands and what is judged, against loops over pixels."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from components import losses
from components.config import EncoderConfig
from components.draws import Draws
from components.errors import UserError
from components.tasks.base import Task, build_task
from components.tasks.context_encoder import erode


def make(options: dict[str, Any], size: int = 32) -> Task:
    return build_task("context_encoder", options, EncoderConfig(width=4), size, 0, seed=0).eval()


def make_inputs(task: Task, count: int, size: int = 32) -> dict[str, Tensor]:
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return task.inputs({"image": images}, Draws(0, torch.arange(count)))


@pytest.mark.parametrize("by", [0, 1, 2])
def test_erosion_is_that_of_a_loop(by: int) -> None:
    mask = torch.rand(2, 1, 9, 7, generator=torch.Generator().manual_seed(0)) < 0.9
    expected = mask.clone()
    for b, h, w in product(range(2), range(9), range(7)):
        near = mask[b, 0, max(0, h - by) : h + by + 1, max(0, w - by) : w + by + 1]
        expected[b, 0, h, w] = bool(near.all())
    assert torch.equal(erode(mask, by), expected)


def test_centre_hole_is_the_paper_s_at_128_pixels() -> None:
    """64 x 64 in the centre are predicted; a band of 4 px of them stays visible and counts ten times."""
    inputs = make_inputs(make({}, 128), 1, 128)
    for h, w in product(range(0, 128, 3), range(0, 128, 3)):
        hidden = 36 <= h < 92 and 36 <= w < 92
        assert inputs["hidden"][0, 0, h, w] == hidden
        assert inputs["native"][0, :, h, w].eq(0).all() == hidden
    assert inputs["truth"].shape == (1, 3, 64, 64)
    torch.testing.assert_close(inputs["truth"], 2 * inputs["image"][:, :, 32:96, 32:96] - 1)
    for h, w in product(range(64), range(0, 64, 5)):
        band = min(h, w, 63 - h, 63 - w) < 4
        assert inputs["weight"][0, 0, h, w] == (10 if band else 1)


def test_random_blocks_hide_at_most_their_share() -> None:
    inputs = make_inputs(make({"mask": "random", "hole": 0.25, "blocks": 4, "overlap": 1}), 200)
    hole = inputs["weight"] > 0
    shares = hole.float().mean((1, 2, 3))
    assert shares.max() <= 0.25 and shares.min() >= 0.25 / 4  # all apart; all on the same place
    assert 0.18 < shares.mean() < 0.25
    assert torch.equal(inputs["painted"], hole)
    assert torch.equal(inputs["hidden"], inputs["weight"] == 1)
    assert inputs["painted_share"].item() == pytest.approx(shares.mean().item())
    everywhere = hole.any(0)
    assert everywhere.float().mean() > 0.98  # blocks reach the borders, too


@pytest.mark.parametrize("mask", ["centre", "random"])
def test_losses_are_those_of_a_loop(mask: str) -> None:
    task = make({"mask": mask})
    inputs = make_inputs(task, 3)
    prediction = torch.tanh(torch.randn(inputs["truth"].shape, generator=torch.Generator().manual_seed(2)))
    total, counted = 0.0, 0
    judged = inputs["truth"].clone()
    for b, h, w in product(range(3), range(prediction.shape[2]), range(prediction.shape[3])):
        weight = inputs["weight"][b, 0, h, w].item()
        if weight:
            counted += 3
            total += weight * (prediction[b, :, h, w] - inputs["truth"][b, :, h, w]).square().sum().item()
            judged[b, :, h, w] = prediction[b, :, h, w]
    outputs = {"prediction": prediction}
    generator = task.losses("generator", inputs, outputs)
    assert generator["l2"].item() == pytest.approx(total / counted, rel=1e-4)
    discriminator = task.get_submodule("discriminator")
    fake, real = discriminator(judged), discriminator(inputs["truth"])
    assert generator["adversarial"].item() == pytest.approx(losses.adversarial(fake).item())
    expected = losses.discriminator(real, fake).item()
    assert task.losses("discriminator", inputs, outputs)["discriminator"].item() == pytest.approx(expected)


def test_only_what_is_missing_is_painted_into_the_picture() -> None:
    task = make({"mask": "random", "overlap": 0})
    inputs = make_inputs(task, 3)
    pictures = task.samples(inputs)
    hidden = inputs["hidden"].expand(-1, 3, -1, -1)
    assert torch.equal(pictures["prediction"][~hidden], pictures["truth"][~hidden])
    assert torch.equal(pictures["input"][~hidden], pictures["truth"][~hidden])
    assert pictures["input"][hidden].eq(0.5).all()
    assert not torch.equal(pictures["prediction"][hidden], pictures["truth"][hidden])
    assert torch.equal(pictures["truth"], inputs["image"])


def test_the_discriminator_comes_first_and_learns_slower() -> None:
    players = make({}).players
    assert list(players) == ["discriminator", "generator"]
    assert players["discriminator"].detached and not players["generator"].detached
    assert players["generator"].optimizer.lr == pytest.approx(10 * players["discriminator"].optimizer.lr)


@pytest.mark.parametrize("options", [{"hole": 0.001}, {"hole": 0.99, "mask": "centre"}, {"overlap": 8}])
def test_a_hole_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"options\.hole") as error:
        make(options)
    assert "\n" not in str(error.value)
