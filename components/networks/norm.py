"""Batch normalization whose statistics can be those of the global batch, on any backend of torch.distributed.

torch's own SyncBatchNorm refuses CPUs. This one sends two small messages per step and layer, one forward and one
backward, and leaves the passes over the feature maps to torch's fused kernels.

Legend of shape suffixes: B samples of this rank, C channels, H height, W width, R ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d (same keys, same numbers) that can share its statistics among ranks (Ioffe and Szegedy 2015).

    With ``sync`` set, in training mode, and with a default process group of more than one rank, mean and variance are
    those of all ranks' samples together, also where the slices are unequal; so are the running statistics. Gradients
    are exact for the sum of the ranks' losses; gradients of weight and bias are this rank's part of it, as all other
    parameters' are. Every rank must call the layer equally often. Statistics are float32 under autocast.
    Everywhere else it is nn.BatchNorm2d. No second derivatives in the shared case.
    """

    sync: bool = False

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape and dtype, normalized per channel."""
        if self.training and self.sync and _ranks() > 1:
            return self._shared(x_BCHW)
        return super().forward(x_BCHW)

    @torch._disable_dynamo  # type: ignore[attr-defined]  # torch.compiler.disable would import the compiler at once
    def _shared(self, x_BCHW: Tensor) -> Tensor:
        self._check_input_dim(x_BCHW)
        weight_C = self.weight if self.affine else torch.ones(self.num_features, device=x_BCHW.device)
        bias_C = self.bias if self.affine else torch.zeros(self.num_features, device=x_BCHW.device)
        count, mean_C, var_C = _global_statistics(x_BCHW.detach())
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean_C, share)
            self.running_var.lerp_(var_C * (count / (count - 1).clamp(min=1)), share)
        arguments = x_BCHW, weight_C, bias_C, count, mean_C, var_C, self.eps
        normalized_BCHW: Tensor = _Normalize.apply(*arguments)  # type: ignore[no-untyped-call]  # torch gives it no types
        return normalized_BCHW


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _local_statistics(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of this rank's samples, (C,) float32."""
    channels = x_BCHW.shape[1]
    mean_C, var_C = torch.zeros(2, channels, device=x_BCHW.device).unbind()
    values = x_BCHW.numel() // channels
    if values > 1:
        # The fused training kernel computes both in one pass of float32 sums; with momentum 1 it hands them over as
        # running statistics, the variance with values - 1 as denominator. What it normalizes is thrown away.
        F.batch_norm(
            x_BCHW, mean_C, var_C, torch.ones_like(mean_C), torch.zeros_like(mean_C), training=True, momentum=1.0
        )
        var_C = var_C * ((values - 1) / values)
    elif values == 1:
        mean_C = x_BCHW.float().flatten()
    return mean_C, var_C


def _global_statistics(x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of values per channel (scalar), mean and biased variance (C,) over all ranks, float32."""
    mean_C, var_C = _local_statistics(x_BCHW)
    values = x_BCHW.new_full((1,), x_BCHW.numel() // x_BCHW.shape[1], dtype=torch.float32)
    # A sum of rows that are zero but for one's own is an all-gather that every backend has on every device.
    rows = torch.zeros(_ranks(), 2 * mean_C.numel() + 1, device=x_BCHW.device)
    rows[dist.get_rank()] = torch.cat([values, mean_C, var_C])
    dist.all_reduce(rows)
    counts_R1, (means_RC, vars_RC) = rows[:, :1], rows[:, 1:].chunk(2, dim=1)
    count = counts_R1.sum()
    # Sums of squares about the ranks' own means cancel nothing (Chan et al. 1979).
    mean_C = (counts_R1 * means_RC).sum(0) / count
    var_C = (counts_R1 * (vars_RC + (means_RC - mean_C).square())).sum(0) / count
    return count, mean_C, var_C


class _Normalize(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, differentiated through the shared mean and variance."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BCHW: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        count: Tensor,
        mean_C: Tensor,
        var_C: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_C, count, mean_C, var_C)
        ctx.eps = eps
        return F.batch_norm(x_BCHW, mean_C, var_C, weight_C, bias_C, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_C, count, mean_C, var_C = ctx.saved_tensors
        # As if mean and variance were constants: one fused pass for all three.
        gx_BCHW, gweight_C, gbias_C = torch.ops.aten.native_batch_norm_backward(
            grad_BCHW, x_BCHW, weight_C, mean_C, var_C, None, None, False, ctx.eps, [True, True, True]
        )
        if ctx.needs_input_grad[0]:
            # They are not: the gradient loses its mean and its part along x, both over all ranks (Ioffe and Szegedy
            # 2015, section 3). In the local form  gx = weight / std * (g - mean(g) - xhat * mean(g * xhat)).
            means_2C = torch.stack([gbias_C, gweight_C]).float()
            dist.all_reduce(means_2C)
            means_2C /= count
            rstd_C = torch.rsqrt(var_C + ctx.eps)
            slope_C = weight_C * rstd_C.square() * means_2C[1]
            offset_C = weight_C * rstd_C * means_2C[0] - slope_C * mean_C
            lost_BCHW = torch.addcmul(offset_C.view(1, -1, 1, 1), x_BCHW, slope_C.view(1, -1, 1, 1))
            gx_BCHW = (gx_BCHW - lost_BCHW).to(x_BCHW.dtype)
        return gx_BCHW, gweight_C, gbias_C, None, None, None, None


def set_sync(module: nn.Module, flag: bool) -> None:
    """Turn shared statistics on or off in every `BatchNorm2d` below ``module``."""
    for part in module.modules():
        if isinstance(part, BatchNorm2d):
            part.sync = flag


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, batches are normalized as ever, but leave no trace in the running statistics below ``module``.

    For networks that are trained on generated pictures and used on real ones.
    """
    parts = [part for part in module.modules() if isinstance(part, BatchNorm2d)]
    momenta = [part.momentum for part in parts]
    for part in parts:
        part.momentum = 0.0
    try:
        yield
    finally:
        for part, momentum in zip(parts, momenta, strict=True):
            part.momentum = momentum


class InstanceNorm2d(nn.Module):
    """Every channel of every sample to mean 0 and variance 1, nothing learned (Ulyanov et al. 2016).

    Numbers of nn.InstanceNorm2d with its defaults. No sample depends on another, in training or evaluation.
    """

    eps = 1e-5

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape and dtype; a map of one place becomes zero."""
        if not x_BCHW.is_cpu:
            return torch.instance_norm(x_BCHW, None, None, None, None, True, 0.0, self.eps, False)
        # torch's kernel repacks channels-last maps, forward and backward; batch statistics of one sample need no
        # repacking: 3.5 to 6 times as fast on a core.
        rows = torch.split(x_BCHW, 1)
        done = [torch.batch_norm(row, None, None, None, None, True, 0.0, self.eps, False) for row in rows]
        return done[0] if len(done) == 1 else torch.cat(done)


def normalization(kind: str, channels: int) -> list[nn.Module]:
    """The modules between a convolution and its activation, one for ``batch`` or ``instance``, nothing for ``none``."""
    if kind == "instance":
        return [InstanceNorm2d()]
    return [BatchNorm2d(channels)] if kind == "batch" else []


def each(network: nn.Module, *batches: Tensor) -> tuple[Tensor, ...]:
    """``network`` of every one of ``batches``, equally large: in one call, unless they would share batch statistics."""
    if any(isinstance(part, nn.BatchNorm2d) for part in network.modules()):
        return tuple(network(batch) for batch in batches)
    together: Tensor = network(torch.cat(batches))
    return together.chunk(len(batches))
