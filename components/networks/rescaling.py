"""Data-dependent initialization: a random network whose every layer is on the scale of the data.

Source: Krähenbühl, Doersch, Donahue and Darrell 2016, "Data-dependent Initializations of Convolutional Neural
Networks", section 3.1 (within-layer initialization, algorithm 1) with Gaussian filters: the "rescaled" baseline.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_SMALLEST = 1e-6  # a channel with a smaller deviation says nothing on these images: it is centred, not blown up


@torch.no_grad()
def rescale(module: nn.Module, images_BCHW: Tensor) -> None:
    """Give every channel of every convolution and linear layer zero mean and unit variance on the images, in place.

    ``module`` is called once with ``images_BCHW`` (for an encoder RGB (B, 3, H, W) in [0, 1]; some hundred are enough)
    in evaluation mode. Layers are adjusted in the order in which they run, each on what the adjusted layers before it
    give out:  W <- W / sigma,  b <- (b - mu) / sigma  (algorithm 1 with beta = 0). One that runs more than once is
    adjusted the first time.

    A layer in front of a batch normalization has no bias that could take up the mean: it gets unit variance, and the
    running statistics take the mean, so that in evaluation the normalization gives out zero mean and unit variance.

    The paper's second part, equal rates of change between layers (algorithm 2), is left out: in a chain of
    convolutions, ReLUs and pools it multiplies each map by one positive factor, which a probe on standardized features
    does not see. It would matter to fine-tuning without normalization.
    """
    seen: set[nn.Module] = set()

    def adjust(layer: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if layer in seen:
            return None
        seen.add(layer)
        if isinstance(layer, nn.BatchNorm2d):
            return _normalize_norm(layer, *args)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        return _normalize_affine(layer, output)

    was_training = {part: part.training for part in module.modules()}
    hooks: list[RemovableHandle] = [
        part.register_forward_hook(adjust)
        for part in module.modules()
        if isinstance(part, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
    ]
    module.eval()
    try:
        with torch.autocast(images_BCHW.device.type, enabled=False):
            module(images_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
        for part, mode in was_training.items():
            part.training = mode


def _statistics(x_BCHW: Tensor, dim: int = 1) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel, (C,) float64; ``dim`` is the axis of the channels."""
    var_C, mean_C = torch.var_mean(x_BCHW.double().movedim(dim, 0).flatten(1), dim=1, correction=0)
    return mean_C, var_C


def _normalize_affine(layer: nn.Conv2d | nn.Linear, output_BCHW: Tensor) -> Tensor:
    """Adjust weight and bias; return what the adjusted layer gives out."""
    dim = 1 if isinstance(layer, nn.Conv2d) else -1  # a linear layer may be given tokens (B, T, C)
    mean_C, var_C = _statistics(output_BCHW, dim)
    scale_C = torch.where(var_C > _SMALLEST**2, var_C.clamp(min=_SMALLEST**2).rsqrt(), 1.0)
    shift_C = -mean_C * scale_C if layer.bias is not None else torch.zeros_like(mean_C)
    layer.weight.mul_(_beside(scale_C, layer.weight, 0))
    if layer.bias is not None:
        layer.bias.copy_(layer.bias * scale_C + shift_C)
    return (output_BCHW * _beside(scale_C, output_BCHW, dim) + _beside(shift_C, output_BCHW, dim)).to(output_BCHW.dtype)


def _normalize_norm(layer: nn.BatchNorm2d, input_BCHW: Tensor) -> Tensor:
    """Take the input's statistics as the running ones; return what the layer gives out with them."""
    if layer.running_mean is not None and layer.running_var is not None:
        mean_C, var_C = _statistics(input_BCHW)
        layer.running_mean.copy_(mean_C)
        layer.running_var.copy_(var_C)
    return layer.forward(input_BCHW)


def _beside(values_C: Tensor, other: Tensor, dim: int) -> Tensor:
    """``values_C`` shaped to lie along dimension ``dim`` of ``other``."""
    return values_C.view([-1 if i == dim % other.dim() else 1 for i in range(other.dim())])
