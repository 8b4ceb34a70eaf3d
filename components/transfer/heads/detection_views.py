"""What a detector is trained on: maps of training images with their objects, mirrored, moved, larger or smaller.

Legend of shape suffixes: B images of a batch, N of a split, C channels, H, W of the canvas, h, w of a map, M objects of
an image at most, X places of all maps.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from components.data.scramble import Int64
from components.data.whole import GREY, WholeImages
from components.draws import Draws
from components.networks.encoder import Encoder
from components.transfer.features import evaluating, in_batches, reproducible
from components.transfer.heads.fcos import NONE, PASSED, Objects, at_most
from components.transfer.protocol import BenchmarkRun

FEATURE_BYTES = 2 * 2**30  # of the training images' maps; where they take more, they are computed at every step
VISIBLE = 0.4  # share of an object that must be on the canvas for it to be asked for
COUNTED = 64  # images whose maps the head is standardized by

Maps = dict[str, Tensor]


class Reader:
    """An encoder's maps on a grid of cells of ``stride`` pixels."""

    def __init__(
        self, encoder: Encoder, layers: Sequence[str], stride: int, precision: str, device: torch.device
    ) -> None:
        self.encoder, self.layers, self.stride = encoder.to(device), tuple(layers), stride
        self.precision, self.device = precision, device

    def grid(self, canvas: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns."""
        return canvas[0] // self.stride, canvas[1] // self.stride

    def __call__(self, image_BCHW: Tensor) -> Maps:
        """Of canvases (B, 3, H, W), 0 .. 255, in the encoder's mode; what is finer than the grid is averaged to it."""
        rgb_BCHW = image_BCHW.to(self.device).float() / 255
        grid = self.grid((rgb_BCHW.shape[2], rgb_BCHW.shape[3]))
        with reproducible(self.device, self.precision):
            maps = self.encoder(rgb_BCHW)
        return {layer: at_most(maps[layer].float(), grid) for layer in self.layers}

    def frozen(self, image_BCHW: Tensor) -> Maps:
        """As called, in evaluation mode and without gradients."""
        with torch.no_grad(), evaluating(self.encoder):
            return self(image_BCHW.contiguous(memory_format=torch.channels_last))


class Views:
    """Batches of a training split: maps of what is shown of the images, and the objects in it."""

    def __init__(self, read: Reader, images: WholeImages, seed: int) -> None:
        self.read, self.images, self.seed = read, images, seed
        self.objects = gathered(images)

    def batch(self, ids: Int64, step: int) -> tuple[Maps, Objects]:
        """What a step is made of, on the device; what is drawn depends on the seed and the step alone."""
        raise NotImplementedError

    def objects_of(self, ids: Int64) -> Objects:
        """Those on the canvases of ``ids``, on the device."""
        rows, device = torch.from_numpy(ids), self.read.device
        return Objects(self.objects.boxes_BM4[rows].to(device), self.objects.labels_BM[rows].to(device))

    def draws(self, ids: Int64, step: int) -> Draws:
        """Random numbers for a batch."""
        places_B = step * len(ids) + torch.arange(len(ids), device=self.read.device)
        return Draws(self.seed, places_B, "detection")

    def statistics(self, batch: int) -> dict[str, tuple[Tensor, Tensor]]:
        """{layer: mean and deviation (C,) of its maps} over some of the training images, as `batch` gives them."""
        total = len(self.images)
        some = np.unique(np.linspace(0, total - 1, min(COUNTED, total)).astype(np.int64))
        with torch.no_grad():
            parts = [self.batch(some[each], 0)[0] for each in in_batches(len(some), batch)]
        found = {}
        for layer in self.read.layers:
            values_CX = torch.cat([part[layer].double().transpose(0, 1).flatten(1) for part in parts], 1)
            found[layer] = values_CX.mean(1).float(), values_CX.std(1, correction=0).float()
        return found


class FrozenViews(Views):
    """Of an encoder that stays as it is: images and their mirror images, whose maps are computed once if they fit."""

    def __init__(self, read: Reader, images: WholeImages, seed: int, batch: int, run: BenchmarkRun) -> None:
        super().__init__(read, images, seed)
        self.kept: Maps | None = None
        total = len(images)
        first = read.frozen(images.images(np.zeros(1, np.int64)))
        if 2 * total * sum(each.numel() * 4 for each in first.values()) > FEATURE_BYTES:
            return
        kept = {layer: torch.empty(2 * total, *each.shape[1:]) for layer, each in first.items()}
        for ids in in_batches(total, batch):
            for mirrored in (False, True):
                maps = read.frozen(mirrored_if(images.images(ids), torch.full((len(ids),), mirrored)))
                for layer, each in maps.items():
                    kept[layer][torch.from_numpy(ids) + total * mirrored] = each.cpu()
            run.progress(int(ids[-1]) + 1, total, "features")
        self.kept = kept

    def batch(self, ids: Int64, step: int) -> tuple[Maps, Objects]:
        mirrored_B = self.draws(ids, step).bernoulli(0.5)
        still_B = torch.zeros(len(ids), device=mirrored_B.device)
        objects = move_objects(
            self.objects_of(ids), self.images.canvas, still_B + 1, still_B[:, None].repeat(1, 2), mirrored_B
        )
        if self.kept is None:
            return self.read.frozen(mirrored_if(self.images.images(ids), mirrored_B.cpu())), objects
        rows_B = torch.from_numpy(ids) + len(self.images) * mirrored_B.cpu()
        return {layer: each[rows_B].to(self.read.device) for layer, each in self.kept.items()}, objects


class MovedViews(Views):
    """Of an encoder that is trained along: images are mirrored, made larger or smaller, and moved, on the device."""

    def __init__(self, read: Reader, images: WholeImages, seed: int, scale: tuple[float, float]) -> None:
        super().__init__(read, images, seed)
        self.scale = scale

    def batch(self, ids: Int64, step: int) -> tuple[Maps, Objects]:
        draws, (height, width) = self.draws(ids, step), self.images.canvas
        low, high = map(math.log, self.scale)
        scale_B = (low + (high - low) * draws.uniform()).exp()
        free_B2 = scale_B.new_tensor([width, height]) * (1 - scale_B)[:, None]
        corner_B2 = free_B2 * draws.uniform(2)
        mirrored_B = draws.bernoulli(0.5)
        # Channels first: oneDNN's gradient of a strided 1 x 1 convolution of 8 channels, channels last, writes astray.
        image_BCHW = self.images.images(ids).to(self.read.device).contiguous()
        image_BCHW = moved(image_BCHW, scale_B, corner_B2, mirrored_B)
        objects = move_objects(self.objects_of(ids), (height, width), scale_B, corner_B2, mirrored_B)
        return self.read(image_BCHW), objects


def gathered(images: WholeImages) -> Objects:
    """The objects of all images on their canvases; crowds and difficult ones are PASSED."""
    wholes = [images.read(each) for each in range(len(images))]
    most = max(1, *(len(each.objects) for each in wholes))
    boxes_NM4, labels_NM = torch.zeros(len(wholes), most, 4), torch.full((len(wholes), most), NONE)
    for n, whole in enumerate(wholes):
        found = whole.objects.scaled(whole.size, whole.placed)
        passed_M = torch.from_numpy(found.difficult_K | found.crowd_K)
        boxes_NM4[n, : len(found)] = torch.from_numpy(found.boxes_K4).float()
        labels_NM[n, : len(found)] = torch.from_numpy(found.labels_K).masked_fill(passed_M, PASSED)
    return Objects(boxes_NM4, labels_NM)


def mirrored_if(image_BCHW: Tensor, mirrored_B: Tensor) -> Tensor:
    """Left and right changed, of the images of which ``mirrored_B`` is true."""
    return torch.where(mirrored_B[:, None, None, None], image_BCHW.flip(3), image_BCHW)


def moved(image_BCHW: Tensor, scale_B: Tensor, corner_B2: Tensor, mirrored_B: Tensor) -> Tensor:
    """Canvases (B, 3, H, W), 0 .. 255, enlarged by ``scale_B``, with their upper left corner at ``corner_B2`` (x, y),
    then mirrored; float32. What was not on the canvas is grey."""
    height, width = image_BCHW.shape[2:]
    size_2 = scale_B.new_tensor([width, height])
    shift_B2 = (1 - 2 * corner_B2 / size_2) / scale_B[:, None] - 1
    theta_B23 = torch.zeros(len(scale_B), 2, 3, device=scale_B.device)
    theta_B23[:, 0, 0] = torch.where(mirrored_B, -1.0, 1.0) / scale_B
    theta_B23[:, 1, 1] = 1 / scale_B
    theta_B23[:, :, 2] = shift_B2
    places_BHW2 = F.affine_grid(theta_B23, list(image_BCHW.shape), align_corners=False)
    return F.grid_sample(image_BCHW.float() - GREY, places_BHW2, align_corners=False) + GREY


def move_objects(
    objects: Objects, canvas: tuple[int, int], scale_B: Tensor, corner_B2: Tensor, mirrored_B: Tensor
) -> Objects:
    """Objects as `moved` shows them, cut at the canvas; those of which too little is left are PASSED, or NONE."""
    height, width = canvas
    boxes_BM4 = objects.boxes_BM4 * scale_B[:, None, None] + corner_B2.repeat(1, 2)[:, None]
    turned_BM4 = boxes_BM4[..., [2, 1, 0, 3]] * boxes_BM4.new_tensor([-1, 1, -1, 1])
    turned_BM4 = turned_BM4 + turned_BM4.new_tensor([width, 0, width, 0])
    boxes_BM4 = torch.where(mirrored_B[:, None, None], turned_BM4, boxes_BM4)
    cut_BM4 = torch.minimum(boxes_BM4.clamp(min=0), boxes_BM4.new_tensor([width, height, width, height]))
    left_BM, whole_BM = ((each[..., 2:] - each[..., :2]).prod(-1) for each in (cut_BM4, boxes_BM4))
    labels_BM = objects.labels_BM
    labels_BM = torch.where((labels_BM >= 0) & (left_BM < VISIBLE * whole_BM), PASSED, labels_BM)
    return Objects(cut_BM4, labels_BM.masked_fill(left_BM <= 0, NONE))
