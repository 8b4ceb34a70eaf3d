"""How far a set of pictures is from another, by their features: no picture needs to have a partner.

Legend of shape suffixes: N, M samples of either set, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SUBSETS = 10  # of the kernel distance: few enough that each is large, enough for a standard error


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error."""

    value: float
    error: float


def frechet_distance(real_ND: Tensor, fake_MD: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), of the means and (unbiased) covariances of two sets of features.

    In float64. The covariances may be singular, as they are with fewer samples than features: the trace of the root is
    taken as the sum of the singular values of C1^(1/2) C2^(1/2), and no matrix is inverted. Never negative. Biased
    upwards, the more so the fewer the samples. Raises ValueError for less than two samples.
    Source: Heusel et al. 2017, "GANs trained by a two time-scale update rule", equation 6.
    """
    if min(len(real_ND), len(fake_MD)) < 2:
        raise ValueError("a covariance needs at least two samples")
    real_D, fake_D = real_ND.double().mean(0), fake_MD.double().mean(0)
    root_real_DD, trace_real = _root_of_covariance(real_ND.double() - real_D)
    root_fake_DD, trace_fake = _root_of_covariance(fake_MD.double() - fake_D)
    shared = torch.linalg.svdvals(root_real_DD @ root_fake_DD).sum()
    distance = (real_D - fake_D).square().sum() + trace_real + trace_fake - 2 * shared
    return max(0.0, float(distance))


def _root_of_covariance(centred_ND: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric root of the covariance (D, D), and the covariance's trace."""
    covariance_DD = centred_ND.T @ centred_ND / (len(centred_ND) - 1)
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
    # Rounding makes zeros slightly negative.
    return (vectors_DD * values_D.clamp_min(0).sqrt()) @ vectors_DD.T, covariance_DD.trace()


def kernel_distance(real_ND: Tensor, fake_MD: Tensor, subsets: int = SUBSETS, seed: int = 0) -> Estimate:
    """The unbiased squared maximum mean discrepancy under the kernel (x y / D + 1)^3: mean over disjoint subsets.

    Its expectation is 0 for sets of one distribution, whatever their size, so an estimate may be negative. The subsets
    are disjoint, so that their spread gives an honest standard error. Samples of the same number in both sets (an image
    and its truth) never meet in a subset. In float64. Raises ValueError for less than two samples a subset.
    Source: Bińkowski et al. 2018, "Demystifying MMD GANs", section 4 and appendix D.
    """
    size = min(len(real_ND), len(fake_MD)) // subsets
    if size < 2 or subsets < 2:
        raise ValueError(f"a kernel distance over {subsets} subsets needs at least {2 * subsets} samples of each set")
    order = torch.Generator().manual_seed(seed)
    picked = torch.randperm(min(len(real_ND), len(fake_MD)), generator=order)[: subsets * size].to(real_ND.device)
    reals, fakes = real_ND[picked].double().chunk(subsets), fake_MD[picked].double().roll(size, 0).chunk(subsets)
    values = torch.stack([squared_discrepancy(real, fake) for real, fake in zip(reals, fakes, strict=True)])
    return Estimate(float(values.mean()), float(values.std() / subsets**0.5))


def squared_discrepancy(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    """The unbiased estimate of MMD^2 under (x y / D + 1)^3 (Gretton et al. 2012, equation 3): pairs of two samples."""

    def kernel(a_ND: Tensor, b_MD: Tensor) -> Tensor:
        return (a_ND @ b_MD.T / a_ND.shape[1] + 1) ** 3

    def within(a_ND: Tensor) -> Tensor:
        k_NN = kernel(a_ND, a_ND)
        return (k_NN.sum() - k_NN.trace()) / (len(a_ND) * (len(a_ND) - 1))

    return within(x_ND) + within(y_MD) - 2 * kernel(x_ND, y_MD).mean()
