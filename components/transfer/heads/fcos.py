"""A detector of one stage without anchors: FCOS (Tian et al. 2019), scored by its boxes' quality (Li et al. 2020).

Every cell of the grid says of every class how well the box that it proposes fits an object of it, and how far the four
sides of that box are from the cell's centre. Boxes are left, top, right, bottom in pixels of the canvas.

Legend of shape suffixes: B images, C channels, h, w of a map, L cells of the grid (row by row), K classes, M objects of
an image (the batch's most; the label of what is none is negative), Q proposals of an image, the best first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRIOR = 0.01  # what a cell scores before training (Lin et al. 2017, section 4.1)
RADIUS = 1.5  # cells: those nearer to an object's centre are asked for its box (Tian et al. 2019, "centre sampling")
BETA = 2.0  # of the quality focal loss
PROPOSALS = 400  # of an image, before those that overlap are taken away
PASSED = -2  # label of an object whose cells learn nothing: a crowd, a difficult one
NONE = -1
_NORMS = 8  # groups of a group normalization
_FARTHEST = 8.0  # logarithm of a side's largest distance, in cells


class Head(nn.Module):
    """Maps of several layers, brought to one grid and mixed, then convolutions that classes and boxes share."""

    def __init__(self, channels: Mapping[str, int], classes: int, width: int, depth: int) -> None:
        """``channels``: {layer: those of its map}; ``width``, ``depth``: channels and number of 3 x 3 convolutions."""
        super().__init__()
        self.layers = tuple(channels)
        self.mean = nn.ParameterDict({layer: nn.Parameter(torch.zeros(c), False) for layer, c in channels.items()})
        self.scale = nn.ParameterDict({layer: nn.Parameter(torch.ones(c), False) for layer, c in channels.items()})
        self.mix = nn.ModuleDict({layer: nn.Conv2d(c, width, 1, bias=False) for layer, c in channels.items()})
        tower: list[nn.Module] = [_norm(width), nn.ReLU(inplace=True)]
        for _ in range(depth):
            tower += [nn.Conv2d(width, width, 3, padding=1, bias=False), _norm(width), nn.ReLU(inplace=True)]
        self.tower = nn.Sequential(*tower)
        self.quality = nn.Conv2d(width, classes, 3, padding=1)
        self.sides = nn.Conv2d(width, 4, 3, padding=1)
        for part in (self.quality, self.sides):
            nn.init.normal_(part.weight, std=0.01)
            assert part.bias is not None
            nn.init.constant_(part.bias, math.log(PRIOR / (1 - PRIOR)) if part is self.quality else 0.0)

    @torch.no_grad()
    def standardize(self, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take {layer: mean and deviation (C,)} as those of the maps; channels that do not vary are left out."""
        for layer, (mean_C, deviation_C) in statistics.items():
            varies_C = deviation_C > 1e-6 * (mean_C.abs() + deviation_C.amax())
            self.mean[layer].copy_(mean_C)
            self.scale[layer].copy_(torch.where(varies_C, 1 / deviation_C, 0.0))

    def forward(self, maps: Mapping[str, Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Maps (B, C, h, w) to logits of quality (B, L, K), and distances of the sides (B, L, 4) in cells."""
        mixed_BChw = torch.stack([self._mixed(layer, maps[layer], grid) for layer in self.layers]).sum(0)
        x_BChw = self.tower(mixed_BChw)
        quality_BLK, sides_BL4 = (part(x_BChw).flatten(2).transpose(1, 2) for part in (self.quality, self.sides))
        return quality_BLK, sides_BL4.clamp(max=_FARTHEST).exp()

    def _mixed(self, layer: str, map_BChw: Tensor, grid: tuple[int, int]) -> Tensor:
        map_BChw = (map_BChw - self.mean[layer][:, None, None]) * self.scale[layer][:, None, None]
        mixed_BChw: Tensor = self.mix[layer](at_most(map_BChw, grid))
        if mixed_BChw.shape[2:] == grid:
            return mixed_BChw
        return F.interpolate(mixed_BChw, grid, mode="bilinear", align_corners=False)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, _NORMS), channels)


def at_most(map_BChw: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map with more cells than ``grid`` (rows, columns), averaged to it; any other as it is."""
    if map_BChw.shape[2] > grid[0] or map_BChw.shape[3] > grid[1]:
        return F.adaptive_avg_pool2d(map_BChw, grid)
    return map_BChw


@dataclass(frozen=True)
class Objects:
    """What is to be found on canvases."""

    boxes_BM4: Tensor
    labels_BM: Tensor  # int64; PASSED, or NONE where an image has fewer


def centres(grid: tuple[int, int], stride: int, device: torch.device) -> Tensor:
    """(L, 2): x and y of every cell's centre, in pixels."""
    rows, columns = (torch.arange(n, device=device) * stride + stride / 2 for n in grid)
    return torch.stack([columns.repeat(grid[0]), rows.repeat_interleave(grid[1])], 1)


def boxes_of(sides_BL4: Tensor, centres_L2: Tensor, stride: int) -> Tensor:
    """(B, L, 4): the boxes whose left, top, right and bottom are so many cells away from the centres."""
    sides_BL4 = sides_BL4 * stride
    return torch.cat([centres_L2 - sides_BL4[..., :2], centres_L2 + sides_BL4[..., 2:]], -1)


def assign(objects: Objects, centres_L2: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Which object each cell is asked for, int64 (B, L), negative for none; and the cells that learn nothing, bool.

    A cell belongs to the smallest object that it lies in and whose centre is at most RADIUS cells away, across and
    down; the cell that has an object's centre belongs to it however small it is.
    """
    boxes_BM4, labels_BM = objects.boxes_BM4[:, None], objects.labels_BM[:, None]  # (B, 1, M, ...)
    points_L12 = centres_L2[:, None]
    inside_BLM = ((points_L12 > boxes_BM4[..., :2]) & (points_L12 < boxes_BM4[..., 2:])).all(-1)
    middle_BM2 = (boxes_BM4[..., :2] + boxes_BM4[..., 2:]) / 2
    away_BLM = (points_L12 - middle_BM2).abs().amax(-1) / stride
    near_BLM = (inside_BLM & (away_BLM <= RADIUS)) | (away_BLM <= 0.5)
    area_BM = (boxes_BM4[..., 2:] - boxes_BM4[..., :2]).prod(-1)
    area_BLM = torch.where(near_BLM & (labels_BM >= 0), area_BM, torch.inf)
    least_BL, which_BL = area_BLM.min(-1)
    which_BL = torch.where(least_BL.isfinite(), which_BL, -1)
    passed_BL = (inside_BLM & (labels_BM == PASSED)).any(-1) & (which_BL < 0)
    return which_BL, passed_BL


def losses(
    quality_BLK: Tensor, sides_BL4: Tensor, objects: Objects, centres_L2: Tensor, stride: int
) -> dict[str, Tensor]:
    """Quality focal loss and generalized IoU loss, both per cell that has an object.

    Sources: Li et al. 2020 (Generalized Focal Loss), equation 2, where a class's target is the overlap of the proposed
    box with the object; Rezatofighi et al. 2019, section 3.
    """
    which_BL, passed_BL = assign(objects, centres_L2, stride)
    has_BL = which_BL >= 0
    image, cell = has_BL.nonzero(as_tuple=True)
    wanted_P4 = objects.boxes_BM4[image, which_BL[image, cell]]
    label_P = objects.labels_BM[image, which_BL[image, cell]]
    proposed_P4 = boxes_of(sides_BL4[image, cell], centres_L2[cell], stride)
    overlap_P, generalized_P = overlaps(proposed_P4, wanted_P4)
    target_BLK = torch.zeros_like(quality_BLK)
    target_BLK[image, cell, label_P] = overlap_P.detach()
    entropy_BLK = F.binary_cross_entropy_with_logits(quality_BLK, target_BLK, reduction="none")
    focal_BLK = (target_BLK - quality_BLK.sigmoid()).abs() ** BETA * entropy_BLK
    count = max(1, len(image))
    return {
        "quality": (focal_BLK * ~passed_BL[..., None]).sum() / count,
        "boxes": (1 - generalized_P).sum() / count,
    }


def overlaps(one_P4: Tensor, other_P4: Tensor) -> tuple[Tensor, Tensor]:
    """(intersection over union, the generalized one), (P,) each, of pairs of boxes that have an area."""
    areas = [(each_P4[..., 2:] - each_P4[..., :2]).prod(-1) for each_P4 in (one_P4, other_P4)]
    common_P = _extent(torch.maximum(one_P4, other_P4)[..., :2], torch.minimum(one_P4, other_P4)[..., 2:])
    hull_P = _extent(torch.minimum(one_P4, other_P4)[..., :2], torch.maximum(one_P4, other_P4)[..., 2:])
    union_P = areas[0] + areas[1] - common_P
    overlap_P = common_P / union_P
    return overlap_P, overlap_P - (hull_P - union_P) / hull_P


def _extent(low_P2: Tensor, high_P2: Tensor) -> Tensor:
    return (high_P2 - low_P2).clamp(min=0).prod(-1)


@dataclass(frozen=True)
class Proposals:
    """What was found on canvases, the highest score first; ``kept_BQ`` says what is meant."""

    boxes_BQ4: Tensor
    labels_BQ: Tensor
    scores_BQ: Tensor
    kept_BQ: Tensor


def detect(
    quality_BLK: Tensor, boxes_BL4: Tensor, least: float, overlap: float, most: int, proposals: int = PROPOSALS
) -> Proposals:
    """The ``most`` best proposals of each image that score ``least`` or more.

    Of two of the same class that overlap by more than ``overlap`` (intersection over union), the better one.
    """
    classes = quality_BLK.shape[2]
    scores_BQ, place_BQ = quality_BLK.sigmoid().flatten(1).topk(min(proposals, quality_BLK[0].numel()))
    labels_BQ = place_BQ % classes
    boxes_BQ4 = boxes_BL4.gather(1, (place_BQ // classes)[..., None].expand(-1, -1, 4))
    has_area_BQ = (boxes_BQ4[..., 2:] > boxes_BQ4[..., :2]).all(-1)
    kept_BQ = suppress(boxes_BQ4, labels_BQ, (scores_BQ >= least) & has_area_BQ, overlap)
    return Proposals(boxes_BQ4, labels_BQ, scores_BQ, kept_BQ & (kept_BQ.cumsum(1) <= most))


def suppress(boxes_BQ4: Tensor, labels_BQ: Tensor, valid_BQ: Tensor, overlap: float) -> Tensor:
    """Which boxes, best first, are kept, bool (B, Q): those that no kept one before them of their class overlaps more.

    All at once: what is kept is found again from what was kept, until nothing changes. After n rounds the first n of
    any chain are settled, so that it ends as going from box to box does.
    """
    shared_BQQ, _ = overlaps(boxes_BQ4[:, :, None], boxes_BQ4[:, None])
    earlier_QQ = torch.ones(shared_BQQ.shape[1:], dtype=torch.bool, device=boxes_BQ4.device).triu(1)
    same_BQQ = labels_BQ[:, :, None] == labels_BQ[:, None]
    beats_BQQ = (shared_BQQ > overlap) & same_BQQ & earlier_QQ & valid_BQ[:, :, None]
    kept_BQ = valid_BQ
    while True:
        now_BQ = valid_BQ & ~(beats_BQQ & kept_BQ[:, :, None]).any(1)
        if torch.equal(now_BQ, kept_BQ):
            return kept_BQ
        kept_BQ = now_BQ
