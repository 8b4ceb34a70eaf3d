"""One small pure function per term. Each returns a scalar: a mean over the samples of the slice at hand.

Low precision is left at the door: what comes in as bf16 is computed in fp32.

Legend of shape suffixes: B samples, C channels, H height, W width, K classes, Q bins, N soft-encoding neighbours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def weighted_mean(values: Tensor, weight: Tensor, denominator: Tensor) -> Tensor:
    """mean(weight * values) / denominator; zero where the denominator is zero, that is where no element counts.

    ``denominator`` is a scalar taken over the global batch (`Task.global_means`), so that means over the slices of
    a batch average to the value of the whole batch.
    """
    return (weight * values).mean() / denominator.clamp_min(1e-12)


def l2(prediction: Tensor, target: Tensor, weight: Tensor | None = None, denominator: Tensor | None = None) -> Tensor:
    """Mean squared error per element; with ``weight`` (broadcastable) and ``denominator``, see `weighted_mean`."""
    squared = (_full(prediction) - _full(target)).square()
    if weight is None or denominator is None:
        return squared.mean()
    return weighted_mean(squared, weight, denominator)


def cross_entropy(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """-log p of the right class. ``labels_B``: int64 in 0 .. K - 1."""
    return F.cross_entropy(_full(logits_BK), labels_B)


def soft_cross_entropy(
    logits_BQHW: Tensor, index_BNHW: Tensor, shares_BNHW: Tensor, weight_BHW: Tensor, denominator: Tensor
) -> Tensor:
    """Zhang et al. 2016 equation 2: weighted cross-entropy per pixel with a soft target.

    The target of a pixel has ``shares_BNHW`` at the bins ``index_BNHW`` and nothing elsewhere.
    """
    # sum_n s_n (log Z - logit_n), with sum_n s_n = 1: no (B, Q, H, W) target and no (B, Q, H, W) log-probabilities.
    logits_BQHW = _full(logits_BQHW)
    target_BHW = (shares_BNHW * logits_BQHW.gather(1, index_BNHW)).sum(1)
    return weighted_mean(logits_BQHW.logsumexp(1) - target_BHW, weight_BHW, denominator)


def discriminator(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """-log D(real) - log(1 - D(fake)), from logits of any shape (Goodfellow et al. 2014, equation 1)."""
    return F.softplus(-_full(real_B)).mean() + F.softplus(_full(fake_B)).mean()


def adversarial(fake_B: Tensor) -> Tensor:
    """-log D(fake), from logits of any shape: the generator's loss that does not saturate.

    Source: Goodfellow et al. 2014, section 3.
    """
    return F.softplus(-_full(fake_B)).mean()
