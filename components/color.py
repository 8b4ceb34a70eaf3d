"""Colour: sRGB and CIE Lab (D65, 2 degrees), and the quantized ab plane of Zhang, Isola and Efros 2016.

"Colorful image colorization" (ECCV 2016), section 2, is what "Zhang" and its equations refer to below.

Legend of shape suffixes: B samples, H height, W width, Q bins of the ab plane, N nearest bins of a pixel, P pixels.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# Rounded as in CIE 15 and in the image libraries that the papers' code called, so that figures can be compared.
_XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)  # X, Y and Z of D65
_BIN = 10.0  # side of a bin, in units of a and b
_MIDDLE = 50.0  # of L, whose range is twice that
_AB_SCALE = 110.0  # about the largest |a| and |b| of sRGB colours


def _mix_channels(x_B3HW: Tensor, rows: Sequence[Sequence[float]]) -> Tensor:
    planes = x_B3HW.unbind(1)  # scalars times planes: several times faster than a 3 x 3 contraction
    return torch.stack([r * planes[0] + g * planes[1] + b * planes[2] for r, g, b in rows], dim=1)


def _white(like: Tensor) -> Tensor:
    return _white_on(like.dtype, like.device)


@lru_cache(maxsize=16)  # made once: to copy it to a device takes waiting for it
def _white_on(dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(_WHITE, dtype=dtype, device=device).view(1, 3, 1, 1)


def rgb_to_lab(rgb_B3HW: Tensor) -> Tensor:
    """Convert sRGB in [0, 1] to Lab: (B, 3, H, W), L in [0, 100], a and b within about [-110, 110].

    Source: IEC 61966-2-1 (transfer curve), CIE 15 (Lab). Computed in the dtype that comes in.
    """
    linear = torch.where(rgb_B3HW > 0.04045, ((rgb_B3HW + 0.055) / 1.055) ** 2.4, rgb_B3HW / 12.92)
    xyz = _mix_channels(linear, _XYZ_FROM_RGB) / _white(linear)
    root = torch.where(xyz > 0.008856, xyz.clamp_min(0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lab_to_rgb(lab_B3HW: Tensor) -> Tensor:
    """Convert Lab to sRGB in [0, 1]: (B, 3, H, W). Colours outside the gamut are clipped. Inverse of `rgb_to_lab`."""
    y = (lab_B3HW[:, 0] + 16) / 116
    root = torch.stack([y + lab_B3HW[:, 1] / 500, y, y - lab_B3HW[:, 2] / 200], dim=1)
    root[:, 2].clamp_min_(0)
    xyz = torch.where(root > 0.2068966, root**3, (root - 16 / 116) / 7.787) * _white(root)
    linear = _mix_channels(xyz, torch.linalg.inv(torch.tensor(_XYZ_FROM_RGB, dtype=torch.float64)).tolist())
    curved = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curved, 12.92 * linear).clamp(0, 1)


def scale_lab(lab_BCHW: Tensor) -> Tensor:
    """Lab as networks see it, about [-1, 1]: (L - 50) / 50 and ab / 110. Undone by `unscale_lab`.

    The number of channels says what is given: L (1), ab (2), or Lab (3). The result has as many.
    """
    if lab_BCHW.shape[1] == 2:
        return lab_BCHW / _AB_SCALE
    l_B1HW = (lab_BCHW[:, :1] - _MIDDLE) / _MIDDLE
    return l_B1HW if lab_BCHW.shape[1] == 1 else torch.cat([l_B1HW, lab_BCHW[:, 1:] / _AB_SCALE], dim=1)


def unscale_lab(scaled_BCHW: Tensor) -> Tensor:
    """What `scale_lab` was given: L in [0, 100] (1 channel), ab (2), or Lab (3)."""
    if scaled_BCHW.shape[1] == 2:
        return scaled_BCHW * _AB_SCALE
    l_B1HW = scaled_BCHW[:, :1] * _MIDDLE + _MIDDLE
    return l_B1HW if scaled_BCHW.shape[1] == 1 else torch.cat([l_B1HW, scaled_BCHW[:, 1:] * _AB_SCALE], dim=1)


def grey_picture(l_B1HW: Tensor) -> Tensor:
    """Lightness in [0, 100] as a picture without colours, (B, 3, H, W) in [0, 1]."""
    return lab_to_rgb(F.pad(l_B1HW, (0, 0, 0, 0, 0, 2)))


def luma(rgb_B3HW: Tensor) -> Tensor:
    """(B, 1, H, W): the grey of sRGB colours, in [0, 1] (ITU-R BT.601, on the values as they are stored)."""
    red, green, blue = rgb_B3HW.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


@lru_cache(maxsize=1)
def _gamut() -> tuple[tuple[float, float], ...]:
    """Points of the 10-unit ab grid that are a corner of a grid square in which some 8-bit sRGB colour lies.

    The surface of the RGB cube is enough: a line of constant (a, b) that meets the solid also meets its surface.
    """
    ramp = torch.linspace(0, 1, 256, dtype=torch.float64)
    u, v = torch.meshgrid(ramp, ramp, indexing="ij")
    faces = [torch.stack([u, v, torch.full_like(u, end)]).roll(axis, 0) for end in (0.0, 1.0) for axis in range(3)]
    a, b = (rgb_to_lab(torch.stack(faces))[:, 1:] / _BIN).floor().long().unbind(1)
    squares = set((a * 1000 + b + 500).flatten().tolist())  # one number per square: far quicker than unique rows
    corners = {(code // 1000 + i, code % 1000 - 500 + j) for code in squares for i in (0, 1) for j in (0, 1)}
    return tuple((a * _BIN, b * _BIN) for a, b in sorted(corners))


def gamut_bins() -> Tensor:
    """(Q, 2) float32: the centres (a, b) of the bins of the ab plane, on a grid of 10 units. Q is 309.

    Every colour that sRGB can show has the four grid points around it among the bins. Zhang's list has 313: these 309,
    and (40, 90), (100, -90), (100, -10), (100, 0), which are 11 to 13 units, in a or in b, from any sRGB colour.
    """
    return torch.tensor(_gamut())


def nearest_bins(ab_B2HW: Tensor, bins_Q2: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` nearest bins of every pixel, nearest first.

    Returns indices (B, N, H, W) int64 and squared distances (B, N, H, W) in the dtype of ``ab_B2HW``.
    """
    B, _, H, W = ab_B2HW.shape
    ab_P2 = ab_B2HW.permute(0, 2, 3, 1).reshape(-1, 2)
    bins_Q2 = bins_Q2.to(ab_P2)
    # |ab - bin|^2 less |ab|^2, which is the same for every bin: one matrix product instead of P x Q differences.
    rank_PQ = torch.addmm(bins_Q2.square().sum(1), ab_P2, bins_Q2.T, alpha=-2)
    index_PN = rank_PQ.topk(count, dim=1, largest=False).indices
    distance_PN = (bins_Q2[index_PN] - ab_P2[:, None]).square().sum(2)  # again, without the product's rounding
    return (
        index_PN.view(B, H, W, count).permute(0, 3, 1, 2).contiguous(),
        distance_PN.view(B, H, W, count).permute(0, 3, 1, 2).contiguous(),
    )


def soft_encode(ab_B2HW: Tensor, bins_Q2: Tensor, neighbours: int = 5, sigma: float = 5.0) -> tuple[Tensor, Tensor]:
    """Zhang's soft encoding: the nearest bins of a pixel, weighted by a Gaussian of their distance, summing to one.

    Returns indices (B, N, H, W) int64, nearest first, and shares (B, N, H, W). ``neighbours=1`` is one-hot.
    """
    index_BNHW, squared_BNHW = nearest_bins(ab_B2HW, bins_Q2, neighbours)
    return index_BNHW, torch.softmax(-squared_BNHW / (2 * sigma**2), dim=1)


def annealed_mean(logits_BQHW: Tensor, bins_Q2: Tensor, temperature: float = 0.38) -> Tensor:
    """Zhang equation 5: the mean colour (B, 2, H, W) under a distribution sharpened by ``temperature``.

    1 gives the mean, values towards 0 the mode; .38 keeps saturation without losing spatial consistency. Bins of L,
    (Q, 1), give (B, 1, H, W).
    """
    shares_BQHW = torch.softmax(logits_BQHW / temperature, dim=1)
    return torch.einsum("bqhw,qc->bchw", shares_BQHW, bins_Q2.to(shares_BQHW))


def smoothed_prior(counts_Q: Tensor, bins_Q2: Tensor, sigma: float = 5.0) -> Tensor:
    """Frequencies of the bins (Q,), summing to one, each spread over its neighbours by a Gaussian.

    Source: Zhang, section 2.2.
    """
    kernel_QQ = torch.softmax(-torch.cdist(bins_Q2, bins_Q2).square() / (2 * sigma**2), dim=1)
    return (counts_Q.to(kernel_QQ) / counts_Q.sum()) @ kernel_QQ


def rebalancing_weights(prior_Q: Tensor, uniform: float = 0.5) -> Tensor:
    """Zhang equation 4: the loss weight (Q,) of a pixel by its bin; rare colours weigh more, and the mean weight is 1.

    ``uniform`` is the paper's lambda: the prior is mixed with that share of a uniform one before it is inverted.
    """
    weights_Q = 1 / ((1 - uniform) * prior_Q + uniform / len(prior_Q))
    return weights_Q / (prior_Q * weights_Q).sum()


def lightness_bins(count: int) -> Tensor:
    """(Q,) float32: the centres of ``count`` equal bins of L in [0, 100]."""
    return (torch.arange(count) + 0.5) * (100 / count)


def lightness_index(l_B1HW: Tensor, count: int) -> Tensor:
    """The bin of every pixel, int64, among ``count`` equal bins of L in [0, 100]."""
    return (l_B1HW * (count / 100)).floor().long().clamp(0, count - 1)
