"""How near a picture is to its truth: one value per sample.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5  # of the Gaussian window of Wang et al. 2004, section III-B
_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with L = 1


def l1(picture_BCHW: Tensor, truth_BCHW: Tensor) -> Tensor:
    """(B,) mean absolute difference, in the pictures' own unit."""
    return (picture_BCHW - truth_BCHW).abs().flatten(1).mean(1)


def ssim(picture_BCHW: Tensor, truth_BCHW: Tensor) -> Tensor:
    """(B,) structural similarity of pictures in [0, 1]; 1 where they are equal.

    The mean over all places where the 11 x 11 Gaussian window lies inside the picture, and over the channels. Raises
    ValueError for pictures that are smaller. Source: Wang et al. 2004, "Image quality assessment", equation 13.
    """
    H, W = picture_BCHW.shape[2:]
    if min(H, W) < _WINDOW:
        raise ValueError(f"structural similarity has a window of {_WINDOW} pixels, and the pictures are {W} x {H}")
    # float64: a variance is the small difference of two large means.
    x, y = picture_BCHW.double().flatten(0, 1)[:, None], truth_BCHW.double().flatten(0, 1)[:, None]
    mean_x, mean_y, xx, yy, xy = _blur(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
    variances, covariance = xx - mean_x**2 + yy - mean_y**2, xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variances + _C2)
    return (luminance * structure).view(len(picture_BCHW), -1).mean(1).to(picture_BCHW.dtype)


def _blur(x_B1HW: Tensor) -> Tensor:
    """Means under the window, at the places where it lies inside: one axis at a time."""
    offsets = torch.arange(_WINDOW, dtype=x_B1HW.dtype, device=x_B1HW.device) - _WINDOW // 2
    weights = torch.softmax(-(offsets**2) / (2 * _SIGMA**2), 0)
    return F.conv2d(F.conv2d(x_B1HW, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
