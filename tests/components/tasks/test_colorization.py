"""Colorization: targets, weights and the skipped grey images against loops; the prior is part of a checkpoint."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch import Tensor

from components import color
from components.config import EncoderConfig
from components.draws import Draws
from components.errors import UserError
from components.tasks.base import Task, build_task, resolve_weights

SIZE = 16


def make(options: dict[str, Any], images_B3HW: Tensor | None = None) -> Task:
    task = build_task("colorization", options, EncoderConfig(width=4), SIZE, 0, seed=0)
    if images_B3HW is not None:
        task.initialize({"image": images_B3HW})
    return task.eval()


def make_images(count: int) -> Tensor:
    """Every image has one colour in each of its 16 squares of 4 x 4 pixels; the first is grey."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    coarse[0] = coarse[0, :1]
    return torch.nn.functional.interpolate(coarse, scale_factor=4)


def make_inputs(task: Task, images_B3HW: Tensor) -> dict[str, Tensor]:
    return task.inputs({"image": images_B3HW}, Draws(0, torch.arange(len(images_B3HW))))


def colour_of_squares(images_B3HW: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(B, 4, 4, 2), by scikit-image."""
    lab: np.ndarray[Any, np.dtype[np.float64]] = rgb2lab(images_B3HW[:, :, ::4, ::4].permute(0, 2, 3, 1).double())
    return lab[..., 1:]


def test_loss_is_that_of_a_loop_over_pixels_and_bins() -> None:
    images = make_images(3)
    task = make({"rebalance": 0.5}, images)
    inputs = make_inputs(task, images)
    logits_BQHW = task(inputs)["prediction"]
    bins = color.gamut_bins().tolist()
    weight_Q = task.get_buffer("rebalancing_Q").tolist()
    total, weights = 0.0, 0.0
    for b, h, w in np.ndindex(3, 4, 4):
        if b == 0:
            continue  # grey: skipped
        point = colour_of_squares(images)[b, h, w]
        nearest = sorted((math.dist(point, bin_), q) for q, bin_ in enumerate(bins))[:5]
        gauss = [math.exp(-(d**2) / 50) for d, _ in nearest]
        log_p = torch.log_softmax(logits_BQHW[b, :, h, w].double(), 0).tolist()
        weight = weight_Q[nearest[0][1]]
        total -= weight * sum(g / sum(gauss) * log_p[q] for g, (_, q) in zip(gauss, nearest, strict=True))
        weights += weight
    loss = task.losses("colorizer", inputs, {"prediction": logits_BQHW})["cross_entropy"]
    assert loss.item() == pytest.approx(total / weights, rel=1e-4)


def test_regression_is_the_squared_error_of_what_is_not_grey() -> None:
    images = make_images(3)
    task = make({"target": "regression", "rebalance": None})
    inputs = make_inputs(task, images)
    prediction_B2HW = task(inputs)["prediction"]
    target = torch.from_numpy(colour_of_squares(images)).permute(0, 3, 1, 2) / 110
    expected = (prediction_B2HW[1:].double() - target[1:]).square().mean().item()
    loss = task.losses("colorizer", inputs, {"prediction": prediction_B2HW})["l2"]
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_prior_is_counted_on_the_images_and_saved() -> None:
    images = make_images(100)  # more than one chunk
    task = make({"rebalance": 0.25}, images)
    counts = torch.zeros(309)
    bins = color.gamut_bins()
    for point in colour_of_squares(images)[1:].reshape(-1, 2):
        counts[(bins - torch.tensor(point)).square().sum(1).argmin()] += 1
    expected = color.rebalancing_weights(color.smoothed_prior(counts, bins), uniform=0.25)
    assert counts.sum() == 99 * 16
    torch.testing.assert_close(task.state_dict()["rebalancing_Q"], expected)
    again = make({"rebalance": 0.25})
    assert not torch.equal(again.get_buffer("rebalancing_Q"), expected)
    again.load_state_dict(task.state_dict())
    torch.testing.assert_close(again.get_buffer("rebalancing_Q"), expected)


def test_without_rebalancing_all_colours_weigh_the_same() -> None:
    task, images = make({"rebalance": None, "skip_grey": None}), make_images(4)
    assert task.initial_samples == 0
    inputs = make_inputs(task, images)
    assert inputs["weight"].eq(1).all() and inputs["mean_weight"] == 1


def test_a_batch_of_grey_images_teaches_nothing_and_breaks_nothing() -> None:
    task, images = make({"rebalance": None}), make_images(1).expand(3, 3, SIZE, SIZE)
    inputs = make_inputs(task, images)
    assert task.losses("colorizer", inputs, task(inputs))["cross_entropy"].item() == 0


def test_a_prior_of_grey_images_is_refused() -> None:
    with pytest.raises(UserError, match="the first 3 images are all grey") as error:
        make({}, make_images(1).expand(3, 3, SIZE, SIZE))
    assert "\n" not in str(error.value)


def test_the_encoder_sees_lightness_alone_and_takes_rgb() -> None:
    encoder = make({}, make_images(4)).encoder()
    assert encoder.config.input == "l"
    images = make_images(2)
    lab = color.rgb_to_lab(images)
    lab[:, 1:] /= 3  # paler, but inside the gamut: the same lightness
    for layer, map_ in encoder(images).items():
        torch.testing.assert_close(map_, encoder(color.lab_to_rgb(lab))[layer], rtol=1e-3, atol=1e-4)


def test_a_certain_prediction_gives_back_the_colours() -> None:
    images = make_images(2)[1:]
    task = make({}, make_images(4))
    inputs = make_inputs(task, images)
    task.get_submodule("decoder").register_forward_hook(
        lambda *_: torch.full((1, 309, 4, 4), -50.0).scatter(1, inputs["index"][:, :1], 50.0)
    )
    predicted = color.rgb_to_lab(task.samples(inputs)["prediction"])[:, 1:, 2::4, 2::4]
    wanted = torch.from_numpy(colour_of_squares(images)).permute(0, 3, 1, 2)
    assert (predicted - wanted).abs().mean() < 12  # half a bin, bilinear interpolation, and the gamut's edge


def test_terms_follow_the_target() -> None:
    assert resolve_weights("colorization", make({}).terms, {}) == {"cross_entropy": 1.0}
    assert resolve_weights("colorization", make({"target": "regression"}).terms, {"l2": 2.0}) == {"l2": 2.0}
    with pytest.raises(UserError, match=r"^task 'colorization' has no term 'l2'; there are: cross_entropy$"):
        resolve_weights("colorization", make({}).terms, {"l2": 2.0})


@pytest.mark.parametrize("options", [{"rebalance": 0}, {"rebalance": 2}, {"target": "class"}, {"soft_neighbours": 0}])
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"options\.{next(iter(options))}"):
        make(options)
