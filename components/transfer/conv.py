"""Small classifiers on frozen blocks: convolutions, or connected layers (Gidaris et al. 2018, section 4.1).

The classifiers of all layers are trained side by side, on one pass of the encoder over each augmented batch; no weight
is shared, so that each is what it would be alone.

Legend of shape suffixes: B samples of a batch, C channels, H height, W width, K classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from components.data.scramble import Int64
from components.networks.encoder import Encoder
from components.transfer.features import chosen_layers, evaluating, reproducible
from components.transfer.heads.classifying import Batches, TrainedConfig, score_trained
from components.transfer.heads.fitting import FitConfig, Group, fit, fit_of
from components.transfer.protocol import BenchmarkRun, Datasets, Score, register_benchmark
from components.transfer.recalibration import How, recalibrated

PROTOCOL = "conv/1"  # changes with anything that changes scores
NO_CLIP = 1e9  # a norm over all classifiers would couple them
UNITS, MOST_UNITS = 20, 2048  # of the hidden connected layers, for each class and at most
ABOUT = {
    "convolutions": "convolutions 3 x 3, 1 x 1, 1 x 1 with batch normalization and ReLU, average, linear",
    "connected": "three fully connected layers, the hidden ones with batch normalization and ReLU",
}


class ConvConfig(TrainedConfig):
    """The protocol of small classifiers on frozen blocks; it is stored beside every score."""

    name: str = "conv"
    kind: Literal["conv"] = "conv"
    layers: tuple[str, ...] | None = Field(None, description="layers to score; None scores every layer")
    head: Literal["convolutions", "connected"] = Field(
        "convolutions", description="three convolutions, average and a linear layer; or three fully connected layers"
    )
    side: int = Field(8, ge=1, description="maps are averaged to at most that many cells a side")
    channels: int = Field(64, ge=1, description="of the convolutions")
    units: int | None = Field(
        None, ge=1, description="of the connected hidden layers; null: 20 for each class, 2048 at most"
    )
    samples: int | None = Field(10_000, ge=10, description="training samples; None uses all")
    lr: float = Field(0.1, gt=0, description="largest learning rate of SGD with Nesterov's momentum of 0.9")
    milestones: tuple[float, ...] = Field(
        (), description="shares of the steps after which the learning rate falls to a fifth; none: cosine to zero"
    )
    recalibrate: How = Field(
        "none", description="train: batch normalization's statistics are estimated again on up to 5000 training images"
    )

    def fitting(self) -> FitConfig:
        """How the classifiers are fitted."""
        warmup = 0 if self.milestones else 0.1
        return fit_of(self, lr=self.lr, optimizer="sgd", milestones=self.milestones, warmup=warmup, clip=NO_CLIP)


def head_of(config: ConvConfig, shape: Sequence[int], classes: int) -> nn.Module:
    """A fresh classifier of maps of ``shape`` (C, H, W), the same for equal arguments; torch's random state is left."""
    units = config.units or min(UNITS * classes, MOST_UNITS)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(config.seed)
        if config.head == "connected":
            head = nn.Sequential(
                nn.Flatten(),
                *_connected(math.prod(shape), units),
                *_connected(units, units),
                nn.Linear(units, classes),
            )
        else:
            head = nn.Sequential(
                *_convolution(shape[0], config.channels, 3),
                *_convolution(config.channels, config.channels, 1),
                *_convolution(config.channels, config.channels, 1),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(config.channels, classes),
            )
        for part in head.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                fan_out = part.weight.shape[0] * part.weight[0, 0].numel()
                nn.init.normal_(part.weight, 0, math.sqrt(2 / fan_out))
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
    return head


def _convolution(before: int, after: int, kernel: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()


def _connected(before: int, after: int) -> tuple[nn.Module, ...]:
    return nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()


def shrunk(map_BCHW: Tensor, side: int) -> Tensor:
    """(B, C, H, W), float32, averaged to at most ``side`` cells a side."""
    height, width = (min(side, each) for each in map_BCHW.shape[2:])
    if (height, width) == map_BCHW.shape[2:]:
        return map_BCHW.float()
    return F.adaptive_avg_pool2d(map_BCHW.float(), (height, width))


_CONNECTED = {"head": "connected", "kind": "conv"}
_PUBLISHED = {"samples": None, "epochs": 100, "channels": 192}


@register_benchmark(
    ConvConfig(),
    ConvConfig.parse({"name": "conv_published", "milestones": (0.35, 0.7, 0.85)} | _PUBLISHED),
    ConvConfig.parse({"name": "conv_nonlinear"} | _CONNECTED),
    ConvConfig.parse({"name": "conv_nonlinear_published", "milestones": (0.2, 0.4, 0.45)} | _CONNECTED | _PUBLISHED),
    summary="A small convolutional, or fully connected, classifier on every frozen block",
    source="Gidaris et al. 2018, section 4.1",
    check=lambda config, encoder: chosen_layers(config.layers, encoder),
)
def run_conv(config: ConvConfig, encoder: Encoder, datasets: Datasets, run: BenchmarkRun) -> Score:
    """Top-1 of the best block: a classifier for each, all on val, then the chosen one once on test."""
    names, batches = chosen_layers(config.layers, encoder), Batches(datasets["train"], config, run.device)
    encoder = recalibrated(encoder, datasets["train"], config.recalibrate, run.device).to(run.device)

    def maps_of(rgb_BCHW: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        with torch.no_grad(), evaluating(encoder), reproducible(run.device, config.precision):
            maps = encoder(rgb_BCHW)
        return {name: shrunk(maps[name], config.side) for name in wanted}

    shapes = {name: each.shape[1:] for name, each in maps_of(batches.read(np.zeros(1, np.int64), 0)[0], names).items()}
    heads = {name: head_of(config, shapes[name], batches.classes).to(run.device) for name in names}

    def loss(places_B: Int64, step: int) -> Mapping[str, Tensor]:
        rgb_BCHW, label_B = batches.read(places_B, step)
        maps = maps_of(rgb_BCHW, names)
        with reproducible(run.device, "fp32"):
            return {name: F.cross_entropy(heads[name](maps[name]), label_B) for name in names}

    groups = [Group([head.train()]) for head in heads.values()]
    ended = fit("conv", groups, config.fitting(), len(batches), loss, run)

    def predict(rgb_BCHW: Tensor, wanted: Sequence[str]) -> Mapping[str, Tensor]:
        maps = maps_of(rgb_BCHW, wanted)
        with reproducible(run.device, "fp32"):
            return {name: heads[name].eval()(maps[name]) for name in wanted}

    about = {
        "format": PROTOCOL,
        "classifier": f"on a frozen block: {ABOUT[config.head]}",
        "layers": {name: {"map": list(shapes[name]), "train_loss": ended[name]} for name in names},
    }
    return score_trained(config, encoder, datasets, run, batches, about, names, predict)
