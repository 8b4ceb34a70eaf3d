"""Nearness to the truth, against scikit-image."""

from typing import Any

import numpy as np
import pytest
import skimage.metrics
import torch
from torch import Tensor

from components.losses import PSNR_MOST, psnr
from components.pictures.similarity import l1, ssim

_psnr: Any = skimage.metrics.peak_signal_noise_ratio  # has no types
_ssim: Any = skimage.metrics.structural_similarity


def pairs(height: int = 24, width: int = 33) -> tuple[Tensor, Tensor]:
    """(4, 3, height, width) pictures and truths: noise, a weak disturbance, flat and bright, and equal ones."""
    generator = torch.Generator().manual_seed(0)
    picture, truth = torch.rand(2, 4, 3, height, width, generator=generator)
    picture[1] = (truth[1] + 0.02 * picture[1]).clamp(0, 1)
    picture[2], truth[2] = 0.99 + 0.01 * picture[2], 1.0
    picture[3] = truth[3]
    return picture, truth


def test_against_scikit_image() -> None:
    picture, truth = pairs()
    l1_B, psnr_B, ssim_B = l1(picture, truth), psnr(picture, truth), ssim(picture, truth)
    for i in range(3):
        a, b = (x[i].permute(1, 2, 0).double().numpy() for x in (picture, truth))
        assert float(l1_B[i]) == pytest.approx(float(np.abs(a - b).mean()), rel=1e-5)
        assert float(psnr_B[i]) == pytest.approx(_psnr(b, a, data_range=1), rel=1e-5)
        window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        assert float(ssim_B[i]) == pytest.approx(_ssim(a, b, data_range=1, channel_axis=2, **window), abs=1e-6)


def test_equal_pictures() -> None:
    picture, truth = pairs()
    assert float(l1(picture, truth)[3]) == 0
    assert float(psnr(picture, truth)[3]) == PSNR_MOST
    assert float(ssim(picture, truth)[3]) == pytest.approx(1)


def test_pictures_smaller_than_the_window_are_refused() -> None:
    picture, truth = pairs(10, 40)
    with pytest.raises(ValueError, match="40 x 10"):
        ssim(picture, truth)
