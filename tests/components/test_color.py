"""Colour against scikit-image; bins, soft encoding and rebalancing against loops written out here."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor

from components import color

Points = set[tuple[int, int]]

# The bins of Zhang et al.'s released model: for every a, the smallest and the largest b; there are no gaps.
PUBLISHED = {
    -90: (50, 90), -80: (20, 90), -70: (0, 90), -60: (-20, 90), -50: (-30, 100), -40: (-40, 100), -30: (-50, 100),
    -20: (-50, 100), -10: (-60, 100), 0: (-70, 100), 10: (-80, 90), 20: (-80, 90), 30: (-90, 90), 40: (-100, 90),
    50: (-100, 80), 60: (-110, 80), 70: (-110, 80), 80: (-110, 70), 90: (-110, 70), 100: (-90, 0),
}  # fmt: skip


def random_rgb(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def last(x: Tensor) -> NDArray[np.float64]:
    return x.permute(0, 2, 3, 1).numpy()


@cache
def gamut_surface() -> NDArray[np.float64]:
    """(P, 2): a and b of every 8-bit colour on the surface of the RGB cube, by scikit-image."""
    ramp = np.arange(256) / 255
    plane = np.stack(np.meshgrid(ramp, ramp), -1).reshape(-1, 2)
    cube = np.concatenate([np.insert(plane, axis, end, axis=1) for axis in range(3) for end in (0.0, 1.0)])
    surface: NDArray[np.float64] = rgb2lab(cube[None])[0, :, 1:]
    return surface


def as_points(bins_Q2: Tensor) -> Points:
    return {(int(a), int(b)) for a, b in bins_Q2.tolist()}


def test_lab_is_that_of_skimage() -> None:
    rgb_B3HW = random_rgb(3, 3, 9, 7)
    rgb_B3HW[0, :, 0] = torch.linspace(0, 0.05, 7)  # the linear pieces of both curves
    np.testing.assert_allclose(last(color.rgb_to_lab(rgb_B3HW)), rgb2lab(last(rgb_B3HW)), rtol=0, atol=1e-11)


@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
def test_rgb_is_that_of_skimage_also_outside_the_gamut() -> None:
    lab_B3HW = random_rgb(3, 3, 9, 7) * torch.tensor([100.0, 220, 220]).view(1, 3, 1, 1)
    lab_B3HW[:, 1:] -= 110
    np.testing.assert_allclose(last(color.lab_to_rgb(lab_B3HW)), lab2rgb(last(lab_B3HW)), rtol=0, atol=1e-11)


def test_there_and_back() -> None:
    rgb_B3HW = random_rgb(2, 3, 8, 8).float()
    torch.testing.assert_close(color.lab_to_rgb(color.rgb_to_lab(rgb_B3HW)), rgb_B3HW, rtol=0, atol=1e-5)


def test_bins_are_the_corners_of_the_squares_that_hold_a_colour() -> None:
    low = np.floor(gamut_surface() / 10).astype(int)
    squares = {(int(a), int(b)) for a, b in np.unique(low, axis=0)}
    expected = {(10 * (a + i), 10 * (b + j)) for a, b in squares for i in (0, 1) for j in (0, 1)}
    assert as_points(color.gamut_bins()) == expected
    assert len(color.gamut_bins()) == len(expected) == 309


def test_colours_inside_the_cube_find_the_bins_around_them() -> None:
    ab_P2 = last(color.rgb_to_lab(random_rgb(1, 3, 200, 200)))[0, :, :, 1:].reshape(-1, 2)
    bins = as_points(color.gamut_bins())
    for rounding in (np.floor, np.ceil):
        assert {(int(a), int(b)) for a, b in 10 * rounding(ab_P2 / 10)} <= bins


def test_the_published_bins_are_ours_and_four_that_no_colour_comes_near() -> None:
    published = {(a, b) for a, (low, high) in PUBLISHED.items() for b in range(low, high + 1, 10)}
    ours = as_points(color.gamut_bins())
    assert len(published) == 313
    assert ours < published
    assert published - ours == {(40, 90), (100, -90), (100, -10), (100, 0)}
    for point in published - ours:
        distance = np.abs(gamut_surface() - np.array(point)).max(axis=1).min()
        assert 10.9 < distance < 13.1


def test_soft_encoding_is_that_of_a_loop_over_pixels() -> None:
    ab_B2HW, bins_Q2 = color.rgb_to_lab(random_rgb(2, 3, 4, 5))[:, 1:], color.gamut_bins()
    index_BNHW, shares_BNHW = color.soft_encode(ab_B2HW, bins_Q2, neighbours=5, sigma=5.0)
    for b, h, w in np.ndindex(2, 4, 5):
        point = ab_B2HW[b, :, h, w].tolist()
        nearest = sorted((math.dist(point, bin_), q) for q, bin_ in enumerate(bins_Q2.tolist()))[:5]
        weights = [math.exp(-(d**2) / (2 * 5.0**2)) for d, _ in nearest]
        assert index_BNHW[b, :, h, w].tolist() == [q for _, q in nearest]
        assert shares_BNHW[b, :, h, w].tolist() == pytest.approx([x / sum(weights) for x in weights], abs=1e-9)


def test_one_neighbour_is_one_hot() -> None:
    ab_B2HW, bins_Q2 = color.rgb_to_lab(random_rgb(1, 3, 4, 4))[:, 1:], color.gamut_bins()
    index_BNHW, shares_BNHW = color.soft_encode(ab_B2HW, bins_Q2, neighbours=1)
    assert shares_BNHW.eq(1).all()
    assert torch.equal(bins_Q2[index_BNHW[0, 0]].permute(2, 0, 1).double(), (ab_B2HW[0] / 10).round() * 10)


def test_annealed_mean_is_that_of_a_loop() -> None:
    bins_Q2 = color.gamut_bins().double()
    logits_BQHW = 3 * torch.randn(2, len(bins_Q2), 2, 2, dtype=torch.float64)
    ab_B2HW = color.annealed_mean(logits_BQHW, bins_Q2, temperature=0.38)
    for b, h, w in np.ndindex(2, 2, 2):
        shares = torch.softmax(logits_BQHW[b, :, h, w], 0).tolist()
        sharp = [math.exp(math.log(share) / 0.38) for share in shares]
        mean = [sum(s * bin_[c] for s, bin_ in zip(sharp, bins_Q2.tolist(), strict=True)) / sum(sharp) for c in (0, 1)]
        assert ab_B2HW[b, :, h, w].tolist() == pytest.approx(mean)


def test_annealed_mean_goes_from_mean_to_mode() -> None:
    bins_Q2 = torch.tensor([[-10.0, 0.0], [30.0, 20.0]])
    logits_BQHW = torch.tensor([0.25, 0.75]).log().view(1, 2, 1, 1)
    assert color.annealed_mean(logits_BQHW, bins_Q2, 1.0).flatten().tolist() == pytest.approx([20.0, 15.0])
    assert color.annealed_mean(logits_BQHW, bins_Q2, 0.01).flatten().tolist() == pytest.approx([30.0, 20.0])


def test_rebalancing_is_that_of_a_loop() -> None:
    bins = [(0.0, 0.0), (10.0, 0.0), (0.0, 10.0), (50.0, -20.0)]
    counts, uniform = [70.0, 20.0, 10.0, 0.0], 0.5
    prior = [0.0] * 4
    for count, a in zip(counts, bins, strict=True):  # every bin hands its share to its neighbours
        kernel = [math.exp(-(math.dist(a, b) ** 2) / (2 * 5.0**2)) for b in bins]
        for j in range(4):
            prior[j] += count / sum(counts) * kernel[j] / sum(kernel)
    weights = [1 / ((1 - uniform) * p + uniform / 4) for p in prior]
    mean = sum(p * w for p, w in zip(prior, weights, strict=True))

    prior_Q = color.smoothed_prior(torch.tensor(counts), torch.tensor(bins), sigma=5.0)
    weights_Q = color.rebalancing_weights(prior_Q, uniform)
    assert prior_Q.tolist() == pytest.approx(prior, abs=1e-6)
    assert weights_Q.tolist() == pytest.approx([w / mean for w in weights], rel=1e-5)
    assert weights_Q.argmax() == 3  # what never occurs would weigh most


def test_a_uniform_prior_weighs_all_the_same() -> None:
    prior_Q = torch.tensor([0.9, 0.1])
    assert color.rebalancing_weights(prior_Q, uniform=1.0).tolist() == pytest.approx([1.0, 1.0])


def test_a_grey_picture_has_the_lightness_and_no_colour() -> None:
    l_B1HW = color.rgb_to_lab(random_rgb(2, 3, 4, 4))[:, :1]
    again_B3HW = color.rgb_to_lab(color.grey_picture(l_B1HW))
    torch.testing.assert_close(again_B3HW[:, :1], l_B1HW, atol=2e-3, rtol=0)
    assert again_B3HW[:, 1:].abs().max() < 0.02


def test_luma_is_the_grey_of_pillow() -> None:
    from PIL import Image

    pixels = (random_rgb(1, 3, 8, 8)[0] * 255).byte()
    grey = np.asarray(Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert("L"))
    luma = color.luma(pixels[None] / 255)
    assert luma.shape == (1, 1, 8, 8)
    assert np.abs(luma[0, 0].numpy() * 255 - grey).max() < 1


def test_bins_of_lightness_are_those_whose_centre_is_nearest() -> None:
    centres = color.lightness_bins(50)
    assert centres.tolist() == [2 * k + 1 for k in range(50)]
    light = torch.rand(2, 1, 4, 4) * 99.9 + 0.05
    nearest = (light[:, 0, ..., None] - centres).abs().argmin(-1)
    assert torch.equal(color.lightness_index(light, 50)[:, 0], nearest)
    assert color.lightness_index(torch.tensor([-0.1, 0, 100, 100.1]).view(1, 1, 2, 2), 50).flatten().tolist() == [
        0, 0, 49, 49,
    ]  # fmt: skip


@pytest.mark.parametrize("channels", [slice(0, 1), slice(1, 3), slice(0, 3)], ids=["l", "ab", "lab"])
def test_lab_is_scaled_for_networks_and_back(channels: slice) -> None:
    lab_B3HW = color.rgb_to_lab(random_rgb(2, 3, 5, 4))
    wanted_B3HW = torch.cat([(lab_B3HW[:, :1] - 50) / 50, lab_B3HW[:, 1:] / 110], dim=1)
    scaled_BCHW = color.scale_lab(lab_B3HW[:, channels])
    assert torch.equal(scaled_BCHW, wanted_B3HW[:, channels])
    back_B3HW = torch.cat([50 * wanted_B3HW[:, :1] + 50, 110 * wanted_B3HW[:, 1:]], dim=1)
    assert torch.equal(color.unscale_lab(scaled_BCHW), back_B3HW[:, channels])
    torch.testing.assert_close(color.unscale_lab(scaled_BCHW), lab_B3HW[:, channels])
