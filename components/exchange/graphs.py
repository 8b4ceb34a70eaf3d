"""Encoders as graphs that need no code of ours: torch.export and ONNX, for any number of images of any size.

Legend of shape suffixes: B images, C channels, H height, W width.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from components.networks.encoder import Encoder
from components.networks.norm import InstanceNorm2d

INPUT = "rgb"  # of a graph: RGB in [0, 1], (B, 3, H, W)
_EXAMPLE = (2, 3, 64, 96)  # what is traced; no two sides are equal, so that none is taken for the other


class _Maps(nn.Module):
    """The encoder with nothing in it that a graph cannot hold."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).eval()
        for part in [*self.encoder.modules()]:
            for name, child in part.named_children():
                if isinstance(child, InstanceNorm2d):  # which takes a batch apart, sample by sample
                    setattr(part, name, _InstanceNorm(child.eps))

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.encoder(rgb)
        return maps


class _InstanceNorm(nn.Module):
    """As `InstanceNorm2d`, of a batch whose size nobody knows; a map of one place becomes zero here, too."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x_BCHW: Tensor) -> Tensor:
        off_BCHW = x_BCHW - x_BCHW.mean((2, 3), keepdim=True)
        return off_BCHW * torch.rsqrt(off_BCHW.square().mean((2, 3), keepdim=True) + self.epsilon)


def trace(encoder: Encoder) -> torch.export.ExportedProgram:
    """The graph of an encoder, from RGB in [0, 1] to {layer: map}; conversion and normalization are part of it."""
    maps, example_BCHW = _Maps(encoder), torch.rand(_EXAMPLE)
    free = torch.export.Dim.DYNAMIC
    with torch.no_grad(), _quiet():
        maps(example_BCHW)  # what is made once and kept is made of numbers, not while it is traced
        return torch.export.export(
            maps, (example_BCHW,), dynamic_shapes={INPUT: {0: free, 2: free, 3: free}}, strict=False
        )


def save_program(encoder: Encoder, file: Path) -> None:
    """Write the graph for ``torch.export.load`` (.pt2)."""
    with _quiet():
        torch.export.save(trace(encoder), file)


def save_onnx(encoder: Encoder, file: Path) -> None:
    """Write the graph as ONNX: an input INPUT, and an output per layer, called like it."""
    program = trace(encoder)
    names = {0: "batch", 2: "height", 3: "width"}
    with _quiet():
        made = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=list(encoder.layers),
            dynamic_shapes={INPUT: names},
            dynamo=True,
            verbose=False,
        )
        assert made is not None
        made.save(str(file), external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, torch's exporters keep to themselves what they deprecate and which packages they do without."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
