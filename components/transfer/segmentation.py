"""Linear segmentation: the frozen maps of all layers, stacked, and one linear classifier for every cell of a grid.

Stacked maps of several layers are the hypercolumns of Hariharan et al. 2015 (section 3); that a linear classifier on
frozen maps tells what they are worth is the reading of Zhang et al. 2016 (section 3.2), for pixels instead of images.

Legend of shape suffixes: B samples of a batch, N training images, C channels, H, W of the canvas, h, w of a map or
grid, P cells of a grid, D stacked channels, S values of a mask that training has.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from components.data.scramble import Int64
from components.networks.encoder import Encoder
from components.transfer.features import evaluating, in_batches, reproducible, rgb_of
from components.transfer.heads.fitting import Group, fit
from components.transfer.heads.segmenting import SegmentationConfig, Splits, check_layers, open_splits, scored
from components.transfer.protocol import BenchmarkRun, Datasets, Score, register_benchmark

PROTOCOL = "segmentation/1"  # changes with anything that changes scores
FEATURE_BYTES = 2 * 2**30  # of the training images; where they take more, they are computed anew in every epoch
NO_CLIP = 1e9  # the classifiers of all choices are trained at once, and must not feel each other


class LinearSegmentationConfig(SegmentationConfig):
    """The protocol of linear segmentation; it is stored beside every score."""

    name: str = "segmentation"
    kind: Literal["segmentation"] = "segmentation"
    epochs: float = Field(15, gt=0, description="passes over the training split")
    lrs: tuple[float, ...] = Field((3e-2, 1e-1), description="learning rates tried; the one that is best on val counts")
    balances: tuple[float, ...] = Field(
        (0.0, 0.5),
        description="powers tried: a pixel counts as its class is frequent, to minus that power; best on val",
    )
    grid: Literal[2, 4, 8, 16] = Field(4, description="side of a cell of the grid, in pixels of the canvas")


class Stack:
    """Frozen maps of an encoder, resized to one grid, stacked, and standardized by the training images."""

    def __init__(self, config: LinearSegmentationConfig, encoder: Encoder, splits: Splits, device: torch.device):
        self.encoder, self.layers, self.device = encoder, check_layers(config, encoder), device
        self.precision, self.batch = config.precision, config.batch
        self.grid = splits.canvas[0] // config.grid, splits.canvas[1] // config.grid
        self.channels = sum(encoder.channels[layer] for layer in self.layers)
        self.images = splits.images["train"]
        self._mean_D = torch.zeros(self.channels, device=device)
        self._scale_D = torch.ones(self.channels, device=device)
        self._kept_NPD: Tensor | None = None

    @property
    def cells(self) -> int:
        """Of an image."""
        return self.grid[0] * self.grid[1]

    def raw(self, image_BCHW: Tensor) -> Tensor:
        """Of canvases, uint8 (B, 3, H, W): (B, P, D) float32, not standardized.

        Maps that are finer than the grid are averaged over its cells, coarser ones are interpolated.
        """
        rgb_BCHW = rgb_of(image_BCHW, self.device)
        with torch.no_grad(), evaluating(self.encoder), reproducible(self.device, self.precision):
            maps = self.encoder(rgb_BCHW)
            parts = [_on_grid(maps[layer].float(), self.grid) for layer in self.layers]
            return torch.cat(parts, 1).flatten(2).transpose(1, 2)

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        """As `raw`, every channel with mean 0 and variance 1 over the training images."""
        return (self.raw(image_BCHW) - self._mean_D) * self._scale_D

    def prepare(self, run: BenchmarkRun) -> None:
        """Look at the training images once: their mean and deviation, and the features themselves if they fit."""
        total, count = len(self.images), 0.0
        sums_2D = torch.zeros(2, self.channels, dtype=torch.float64, device=self.device)
        keep = total * self.cells * self.channels * 4 <= FEATURE_BYTES
        kept_NPD = torch.empty(total, self.cells, self.channels) if keep else None
        for ids in in_batches(total, self.batch):
            raw_BPD = self.raw(self.images.images(ids))
            covered_BP = torch.stack([self._covered(each) for each in ids.tolist()]).to(self.device)
            inside_MD = raw_BPD[covered_BP].double()
            count += len(inside_MD)
            sums_2D += torch.stack([inside_MD.sum(0), inside_MD.square().sum(0)])
            if kept_NPD is not None:
                kept_NPD[ids[0] : ids[-1] + 1] = raw_BPD.cpu()
            run.progress(int(ids[-1]) + 1, total, "features")
        mean_D = sums_2D[0] / count
        deviation_D = (sums_2D[1] / count - mean_D.square()).clamp(min=0).sqrt()
        varies_D = deviation_D > 1e-6 * (mean_D.abs() + deviation_D.amax())
        self._mean_D = mean_D.float()
        self._scale_D = torch.where(varies_D, 1 / deviation_D, 0.0).float()
        if kept_NPD is not None:
            self._kept_NPD = kept_NPD.sub_(self._mean_D.cpu()).mul_(self._scale_D.cpu())

    def of_training(self, ids: Int64) -> Tensor:
        """Features (B, P, D) of training images, on the device."""
        if self._kept_NPD is None:
            return self(self.images.images(ids))
        return self._kept_NPD[torch.from_numpy(ids)].to(self.device)

    def _covered(self, sample: int) -> Tensor:
        """(P,) bool: cells whose centre the image covers."""
        width, height = self.images.read(sample).placed
        rows, columns = ((torch.arange(n) + 0.5) / n for n in self.grid)
        inside = (rows * self.images.canvas[0] < height)[:, None] & (columns * self.images.canvas[1] < width)
        return inside.flatten()


def _on_grid(map_BChw: Tensor, grid: tuple[int, int]) -> Tensor:
    if map_BChw.shape[2] >= grid[0] and map_BChw.shape[3] >= grid[1]:
        return F.adaptive_avg_pool2d(map_BChw, grid)
    return F.interpolate(map_BChw, grid, mode="bilinear", align_corners=False)


def pixels_of_cells(place_BHW: Tensor, grid: tuple[int, int], values: int) -> Tensor:
    """Places of values on the canvas, int64 (B, H, W), to how many pixels of each cell have which, int16 (B, P, S).

    Places of ``values`` or more count as none.
    """
    batch, height, width = place_BHW.shape
    down, across = height // grid[0], width // grid[1]
    cells_BPM = (
        place_BHW.view(batch, grid[0], down, grid[1], across).permute(0, 1, 3, 2, 4).reshape(batch, -1, down * across)
    )
    return torch.stack([(cells_BPM == value).sum(2) for value in range(values)], 2).to(torch.int16)


def cell_loss(logits_BPS: Tensor, pixels_BPS: Tensor, weight_S: Tensor) -> Tensor:
    """Mean cross-entropy over the known pixels, each with the logits of its cell and the weight of its value."""
    pixels_BPS = pixels_BPS * weight_S
    return -(pixels_BPS * logits_BPS.log_softmax(2)).sum() / pixels_BPS.sum().clamp(min=1)


@register_benchmark(
    LinearSegmentationConfig(),
    LinearSegmentationConfig(name="segmentation_large", side=512, grid=8),
    summary="One linear classifier per pixel, on the frozen maps of all layers stacked",
    source="Hariharan et al. 2015, section 3; Zhang et al. 2016, section 3.2",
    check=check_layers,
    needs=("mask",),
    metric="miou",
)
def run_segmentation(
    config: LinearSegmentationConfig, encoder: Encoder, datasets: Datasets, run: BenchmarkRun
) -> Score:
    """Mean intersection over union of the classifier whose learning rate and balance were best on val."""
    splits = open_splits(config, datasets)
    stack = Stack(config, encoder.to(run.device), splits, run.device)
    stack.prepare(run)
    heads = {choice: _linear(stack.channels, len(splits.seen), run.device) for choice in config.choices}
    weights = {choice: splits.weights(balance).to(run.device) for choice, (_, balance) in config.choices.items()}
    total = len(splits.images["train"])
    pixels_NPS = torch.cat(
        [pixels_of_cells(splits.targets(ids), stack.grid, len(splits.seen)) for ids in in_batches(total, config.batch)]
    )

    def loss(ids: Int64, step: int) -> Mapping[str, Tensor]:
        features_BPD = stack.of_training(ids)
        pixels_BPS = pixels_NPS[torch.from_numpy(ids)].to(run.device)
        return {each: cell_loss(head(features_BPD), pixels_BPS, weights[each]) for each, head in heads.items()}

    top = max(config.lrs)
    groups = [Group([head], lr=config.choices[choice][0] / top) for choice, head in heads.items()]
    ended = fit("linear", groups, config.fitting(top, NO_CLIP), total, loss, run)

    def predict(image_BCHW: Tensor) -> Mapping[str, Tensor]:
        features_BPD = stack(image_BCHW)
        found = {choice: head(features_BPD) for choice, head in heads.items()}
        return {choice: each.transpose(1, 2).unflatten(2, stack.grid) for choice, each in found.items()}

    about = {
        "format": PROTOCOL,
        "classifier": "linear, on standardized maps of every layer, stacked on one grid; the encoder is frozen",
        "layers": list(stack.layers),
        "features": stack.channels,
        "train_loss": ended,
    }
    return scored(config, encoder, splits, run, about, predict)


def _linear(channels: int, values: int, device: torch.device) -> nn.Linear:
    """All zeros: the problem is convex, and where it starts needs no seed."""
    head = nn.Linear(channels, values, device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
