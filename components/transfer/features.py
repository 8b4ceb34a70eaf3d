"""Frozen features: an encoder's feature maps, pooled to a bounded number of values per image.

Legend of shape suffixes: N samples of a split, B samples of a batch, C channels, H height, W width, D features.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import FrozenConfig
from components.data.scramble import Int64, make_key, permute
from components.errors import UserError
from components.networks.encoder import Encoder

BATCH = 100  # small enough that the feature maps of 32 px images stay in a CPU's cache


class Dataset(Protocol):
    """One split of labelled images; components.data.dataset.ShardedDataset is one."""

    def __len__(self) -> int: ...

    def get(self, ids: Int64) -> dict[str, Tensor]:
        """``image`` uint8 (B, 3, H, W), ``label`` int64 (B,)."""
        ...

    def labels(self) -> Int64:
        """Those of all samples, (N,), decoding no image."""
        ...


@dataclass(frozen=True)
class Features:
    """Pooled features of some samples, on the CPU: {layer: (N, D) float32}, and their labels (N,) int64."""

    layers: dict[str, Tensor]
    labels: Tensor


def chosen_layers(wanted: Sequence[str] | None, encoder: Encoder) -> tuple[str, ...]:
    """The layers that ``wanted`` names, shallow to deep; None: all. Raises UserError for one unknown, and for none."""
    names = encoder.select(wanted)
    if not names:
        raise UserError("benchmark.layers is empty: name at least one layer, or leave it out for all of them")
    return names


def check_side(encoder: Encoder, side: int, multiple: int = 32) -> None:
    """Raise UserError where the encoder does not take images of ``side`` pixels, rounded up to a ``multiple``."""
    side = -(-side // multiple) * multiple
    device = next((each.device for each in encoder.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad(), evaluating(encoder):
            encoder(torch.zeros(1, 3, side, side, device=device))
    except RuntimeError as error:
        raise UserError(
            f"the encoder does not take images of {side} x {side} pixels ({error}): give a larger benchmark.side, such "
            f"as --set benchmark.side={2 * side}"
        ) from None


def probed_layers(config: FrozenConfig, encoder: Encoder) -> tuple[str, ...]:
    """The layers that ``config`` asks for, shallow to deep.

    Raises UserError for a layer that the encoder does not have, and for one with more channels than
    ``config.features``: average pooling can bound the grid, not the channels, and mixing channels would score
    another network.
    """
    names = chosen_layers(config.layers, encoder)
    for name in names:
        if encoder.channels[name] > config.features:
            raise UserError(
                f"layer {name} has {encoder.channels[name]} channels, more than benchmark.features = {config.features}"
                f": give --set benchmark.features={encoder.channels[name]}, or leave the layer out of benchmark.layers"
            )
    return names


def pool(map_BCHW: Tensor, features: int) -> Tensor:
    """(B, C, H, W) to (B, D) float32: averaged to the largest square grid with D = C h h <= ``features``.

    A map that is small enough already keeps its size; C <= ``features`` is the caller's to see to (`probed_layers`).
    Source: the protocol of Zhang et al. 2017 (Split-Brain), section 4, which resizes each layer to about 9,000 values.
    """
    channels, height, width = map_BCHW.shape[1:]
    if channels * height * width > features:
        side = min(int((features // channels) ** 0.5), height, width)
        map_BCHW = F.adaptive_avg_pool2d(map_BCHW.float(), side)
    return map_BCHW.float().flatten(1)


def subset(total: int, samples: int | None) -> Int64:
    """``samples`` of the ids 0 .. total - 1, in rising order: the first of a fixed permutation; None means all."""
    if samples is None or samples >= total:
        return np.arange(total, dtype=np.int64)
    # Not every k-th: data whose classes take turns would lose some of them.
    return np.sort(permute(np.arange(samples, dtype=np.int64), total, make_key("probe subset")))


def extract(
    encoder: Encoder,
    dataset: Dataset,
    ids: Int64 | None,
    config: FrozenConfig,
    device: torch.device | str = "cpu",
) -> Features:
    """Features of the samples ``ids`` (None: all) for every layer that ``config`` asks for.

    One centred view per image, as the data set gives it; evaluation mode; the encoder is moved to ``device`` and
    otherwise left as it was. Raises UserError (see `probed_layers`), also for a data set without labels.
    """
    ids = subset(len(dataset), None) if ids is None else ids
    names, device = probed_layers(config, encoder), torch.device(device)
    layers: dict[str, Tensor] = {}
    labels_N = torch.empty(len(ids), dtype=torch.int64)
    encoder.to(device)
    with torch.no_grad(), evaluating(encoder), reproducible(device, config.precision):
        for places_B in in_batches(len(ids), BATCH):
            batch = dataset.get(ids[places_B])
            if "label" not in batch:
                raise UserError(f"benchmark {config.name!r} needs labels, and the data has none: use a labelled source")
            span = slice(int(places_B[0]), int(places_B[-1]) + 1)
            labels_N[span] = batch["label"]
            for name, values_BD in features_of(encoder, batch["image"], names, config.features, device).items():
                if name not in layers:
                    layers[name] = torch.empty(len(ids), values_BD.shape[1])
                layers[name][span] = values_BD
    return Features(layers, labels_N)


def features_of(
    encoder: Encoder, image_BCHW: Tensor, names: Sequence[str], features: int, device: torch.device
) -> dict[str, Tensor]:
    """Pooled features {layer: (B, D) float32} of uint8 images (B, 3, H, W); the encoder's mode is not changed."""
    maps = encoder(rgb_of(image_BCHW, device))
    return {name: pool(maps[name], features) for name in names}


def rgb_of(image_BCHW: Tensor, device: torch.device, layout: torch.memory_format = torch.channels_last) -> Tensor:
    """Images of 0 .. 255 as an encoder takes them: float32 (B, 3, H, W) in [0, 1], on the device."""
    return image_BCHW.to(device).contiguous(memory_format=layout).float() / 255


def in_batches(total: int, batch: int) -> Iterator[Int64]:
    """The numbers 0 .. total - 1 in turn, ``batch`` at a time."""
    for start in range(0, total, batch):
        yield np.arange(start, min(start + batch, total), dtype=np.int64)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every part is back in its own mode afterwards, whatever happens."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode


@contextmanager
def reproducible(device: torch.device, precision: str) -> Iterator[None]:
    """Full precision unless bf16 is asked for, and the same kernels every time, whatever training has set."""
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    with autocast, torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
