"""Fully convolutional networks: an encoder fine-tuned for segmentation, with a head that adds finer maps to coarser.

Source: Long et al. 2015, sections 4.2 (skips: coarse scores are enlarged twofold and added to those of the map that is
finer, whose classifier begins at zero) and 4.3 (a lower rate for what is pretrained). Not theirs: AdamW instead of SGD,
bilinear enlarging that is not learned, a hidden layer of the head's own instead of fc6 and fc7, and random scales.

Legend of shape suffixes: B samples of a batch, C channels, H, W of the canvas, h, w of a map, S values of a mask that
training has.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from components.data.scramble import Int64
from components.data.whole import GREY
from components.draws import Draws
from components.networks.encoder import Encoder
from components.transfer.features import evaluating, reproducible, rgb_of
from components.transfer.heads.fitting import Group, fit
from components.transfer.heads.memory_layout import training_layout
from components.transfer.heads.segmenting import SegmentationConfig, Splits, check_layers, open_splits, scored
from components.transfer.protocol import BenchmarkRun, Datasets, Score, register_benchmark

PROTOCOL = "segmentation_fcn/1"  # changes with anything that changes scores
CLIP = 10.0


class FcnConfig(SegmentationConfig):
    """The protocol of fully convolutional networks; it is stored beside every score."""

    name: str = "segmentation_fcn"
    kind: Literal["segmentation_fcn"] = "segmentation_fcn"
    epochs: float = Field(8, gt=0, description="passes over the training split")
    batch: int = Field(8, ge=1, description="images per optimizer step")
    lrs: tuple[float, ...] = Field((2e-3,), description="learning rates of the head that are tried, one fit each")
    balances: tuple[float, ...] = Field(
        (0.5,), description="powers tried: a pixel counts as its class is frequent, to minus that power; one fit each"
    )
    encoder_lr: float = Field(0.3, ge=0, description="of the encoder, in units of the head's; 0: it stays frozen")
    skips: int = Field(
        2, ge=0, description="finer maps that are added, where `layers` names none; each of its own size"
    )
    hidden: int = Field(64, ge=1, description="channels of the head's hidden layer")
    scale_from: float = Field(0.75, gt=0, description="images are enlarged by at least that, at random")
    scale_to: float = Field(1.5, gt=0, description="and by at most that; a window of the canvas's size is cut out")
    mirror: bool = Field(True, description="images are mirrored, every other one")


class Fcn(nn.Module):
    """An encoder and its head: RGB (B, 3, H, W) to logits (B, S, h, w) on the finest of the maps that are read."""

    def __init__(self, encoder: Encoder, layers: Sequence[str], hidden: int, values: int) -> None:
        """``layers``: those that are read, shallow to deep; the last one bears the head, the others are skips."""
        super().__init__()
        self.encoder, self.layers = encoder, tuple(layers)
        self.deep = nn.Sequential(
            nn.Conv2d(encoder.channels[layers[-1]], hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, values, 1)
        )
        self.skips = nn.ModuleList([nn.Conv2d(encoder.channels[layer], values, 1) for layer in layers[:-1]])
        for skip in self.skips:
            assert isinstance(skip, nn.Conv2d) and skip.bias is not None
            nn.init.zeros_(skip.weight)
            nn.init.zeros_(skip.bias)

    def forward(self, rgb_BCHW: Tensor) -> Tensor:
        maps = self.encoder(rgb_BCHW)
        score_BShw: Tensor = self.deep(maps[self.layers[-1]])
        for layer, skip in zip(reversed(self.layers[:-1]), reversed(self.skips), strict=True):
            score_BShw = _enlarged(score_BShw, maps[layer].shape[2:]) + skip(maps[layer])
        return score_BShw


def _enlarged(map_BChw: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(map_BChw, tuple(size), mode="bilinear", align_corners=False)


def read_layers(config: FcnConfig, encoder: Encoder, canvas: tuple[int, int]) -> tuple[str, ...]:
    """The layers that are read: those that ``config`` names; else the deepest map, and the deepest of each of
    ``config.skips`` finer sizes."""
    if config.layers is not None:
        return encoder.select(config.layers)
    device = next(encoder.parameters()).device
    with torch.no_grad(), evaluating(encoder):
        maps = encoder(torch.zeros(1, 3, *canvas, device=device))
    found: list[str] = []
    for layer in reversed(encoder.layers):
        if not found or maps[layer].shape[2] > maps[found[-1]].shape[2]:
            found.append(layer)
    return tuple(reversed(found[: 1 + config.skips]))


def augmented(
    image_BCHW: Tensor, place_BHW: Tensor, none: int, placed_B2: Tensor, config: FcnConfig, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Images, float (B, 3, H, W), and what their pixels are, (B, H, W): scaled, moved and mirrored alike, at random.

    Images by bilinear interpolation, masks by the nearest pixel; where nothing of the image is, grey and ``none``.
    ``placed_B2``: width and height of the part of the canvas that an image covers.
    """
    height, width = image_BCHW.shape[2:]
    low, high = config.scale_from, config.scale_to
    scale_B1 = low * (high / low) ** draws.uniform(1)
    corner_B2 = draws.uniform(2) * (placed_B2.new_tensor([width, height]) - placed_B2 * scale_B1)
    flip_B = draws.bernoulli(0.5) & config.mirror
    columns_W, rows_H = (torch.arange(n, device=image_BCHW.device) + 0.5 for n in (width, height))
    x_BW, y_BH = ((each - corner_B2[:, k, None]) / scale_B1 for k, each in enumerate((columns_W, rows_H)))
    x_BW = torch.where(flip_B[:, None], placed_B2[:, :1] - x_BW, x_BW)
    where_BHW2 = torch.stack(
        [
            (2 * x_BW / width - 1)[:, None, :].expand(-1, height, -1),
            (2 * y_BH / height - 1)[:, :, None].expand(-1, -1, width),
        ],
        3,
    )
    # Beyond the canvas grid_sample puts zeros: grey, and none, are made zero for the while.
    moved_BCHW = F.grid_sample(image_BCHW - GREY, where_BHW2, mode="bilinear", align_corners=False) + GREY
    ids_B1HW = (place_BHW - none)[:, None].float()
    moved_BHW = F.grid_sample(ids_B1HW, where_BHW2, mode="nearest", align_corners=False)[:, 0]
    return moved_BCHW, moved_BHW.round().long() + none


@register_benchmark(
    FcnConfig(),
    FcnConfig(name="segmentation_fcn_large", side=512, epochs=50, scale_from=0.5, scale_to=2.0, hidden=512),
    summary="A fully convolutional network: skips from finer maps, the encoder fine-tuned",
    source="Long et al. 2015",
    check=check_layers,
    needs=("mask",),
    metric="miou",
)
def run_fcn(config: FcnConfig, encoder: Encoder, datasets: Datasets, run: BenchmarkRun) -> Score:
    """Mean intersection over union of the network whose learning rate and balance were best on val."""
    splits = open_splits(config, datasets)
    layers = read_layers(config, encoder.to(run.device), splits.canvas)
    fitted, ended = {}, {}
    for choice in config.choices:
        fitted[choice], ended[choice] = _fitted(config, encoder, layers, choice, splits, run)

    def predict(image_BCHW: Tensor) -> Mapping[str, Tensor]:
        with reproducible(run.device, config.precision):
            rgb_BCHW = rgb_of(image_BCHW, run.device, training_layout(encoder))
            return {choice: network(rgb_BCHW) for choice, network in fitted.items()}

    about = {
        "format": PROTOCOL,
        "classifier": "fully convolutional network with skips; " + _about_encoder(config),
        "layers": list(layers),
        "train_loss": ended,
    }
    return scored(config, encoder, splits, run, about, predict)


def _about_encoder(config: FcnConfig) -> str:
    if not config.encoder_lr:
        return "the encoder is frozen, batch normalization included"
    return "the encoder is fine-tuned, and batch normalization estimates its statistics anew"


def _fitted(
    config: FcnConfig, encoder: Encoder, layers: tuple[str, ...], choice: str, splits: Splits, run: BenchmarkRun
) -> tuple[Fcn, float]:
    """(the network, fitted at one learning rate and balance and in evaluation mode, its loss at the end)."""
    lr, balance = config.choices[choice]
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        network = Fcn(copy.deepcopy(encoder), layers, config.hidden, len(splits.seen))
    network = network.to(run.device).to(memory_format=training_layout(encoder)).train()  # type: ignore[call-overload]  # torch types no memory_format alone
    for each in network.encoder.parameters():
        each.requires_grad_(config.encoder_lr > 0)
    network.encoder.train(config.encoder_lr > 0)
    images, nothing = splits.images["train"], len(splits.seen)
    weight_S = splits.weights(balance).to(run.device)
    weight_or_0 = F.pad(weight_S, (0, 1))  # of what is no value, too

    def loss(ids: Int64, step: int) -> Mapping[str, Tensor]:
        positions_B = torch.arange(len(ids), device=run.device) + step * len(ids)
        placed_B2 = torch.tensor([images.read(int(each)).placed for each in ids], device=run.device).float()
        rgb_BCHW, place_BHW = augmented(
            images.images(ids).to(run.device).contiguous(memory_format=training_layout(encoder)).float(),
            splits.targets(ids).to(run.device),
            nothing,
            placed_B2,
            config,
            Draws(config.seed, positions_B, "segmentation"),
        )
        with reproducible(run.device, config.precision):
            logits_BShw = network(rgb_BCHW.contiguous(memory_format=training_layout(encoder)) / 255)
        logits_BSHW = _enlarged(logits_BShw.float(), place_BHW.shape[1:])
        sum_ = F.cross_entropy(logits_BSHW, place_BHW, weight_S, ignore_index=nothing, reduction="sum")
        return {"cross_entropy": sum_ / weight_or_0[place_BHW].sum().clamp(min=1)}

    head = Group([network.deep, network.skips])
    groups = [head, Group([network.encoder], lr=config.encoder_lr)] if config.encoder_lr else [head]
    ended = fit(f"fcn {choice}", groups, config.fitting(lr, CLIP), len(images), loss, run)
    return network.eval(), ended["cross_entropy"]
