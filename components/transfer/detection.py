"""Detection: a head of one stage and no anchors on the maps of an encoder, which is frozen or trained along.

Legend of shape suffixes: B images of a batch, N of a split, C channels, h, w of a map, L cells of the grid, K classes,
M objects of an image at most, Q proposals of an image.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from components.config import BenchmarkConfig
from components.data.arrays import UInt8
from components.data.boxes import unpack_boxes
from components.data.images import BrokenImage
from components.data.outlines import outlined
from components.data.scramble import Int64
from components.data.whole import Members, WholeImages, open_whole, replaced_in
from components.errors import UserError
from components.networks.encoder import Encoder
from components.transfer.features import check_side, chosen_layers, in_batches
from components.transfer.heads.detection_views import FrozenViews, MovedViews, Reader, Views
from components.transfer.heads.fcos import Head, boxes_of, centres, detect, losses
from components.transfer.heads.fitting import Group, fit, fit_of
from components.transfer.metrics.average_precision import (
    COCO_OVERLAPS,
    Detections,
    Matches,
    Truth,
    area_below,
    eleven_points,
    hundred_points,
    match_coco,
    match_voc,
)
from components.transfer.metrics.statistics import Floats, resample
from components.transfer.protocol import BenchmarkRun, Datasets, Score, common_facts, register_benchmark

PROTOCOL = "detection/1"  # changes with anything that changes scores
MOST_UNSEEN = 0.5  # share of the judged objects that may be of classes that training lacks
MOST_FOUND = 100  # of an image
SHOWN = 6  # images in the picture
SHOWN_SCORE = 0.3  # what scores less is not drawn
ENLARGED = 2  # pixels of the picture for one of the canvas
_UNUSUAL = re.compile(r"[^\w .-]")  # in the name of a metric


class DetectionConfig(BenchmarkConfig):
    """The protocol of a detection benchmark; it is stored beside every score."""

    name: str = "detection"
    kind: Literal["detection"] = "detection"
    layers: tuple[str, ...] | None = Field(None, description="layers whose maps the head sees; None: all")
    side: int = Field(160, ge=32, description="longer side of the images as the encoder sees them, in pixels")
    stride: Literal[2, 4, 8, 16, 32] = Field(4, description="side of a cell of the grid, in those pixels")
    width: int = Field(64, ge=8, description="channels of the head")
    depth: int = Field(0, ge=0, description="3 x 3 convolutions that classes and boxes share, before their own ones")
    epochs: float = Field(30, gt=0, description="passes over the training split")
    batch: int = Field(8, ge=1, description="images per optimizer step")
    lr: float = Field(3e-3, gt=0, description="largest learning rate of the head")
    encoder_lr: float = Field(0.0, ge=0, description="that of the encoder, in units of the head's; 0: it is frozen")
    scale: tuple[float, float] = Field(
        (0.7, 1.4), description="least and largest random enlargement of training images, where the encoder is trained"
    )
    weight_decay: float = Field(1e-4, ge=0, description="decoupled from the gradient (AdamW)")
    least: float = Field(0.02, ge=0, lt=1, description="score below which nothing was found")
    overlap: float = Field(0.6, gt=0, le=1, description="of two of a class that overlap more, the better one stays")
    seed: int = Field(0, ge=0, description="of the order of samples, augmentation and the head's weights")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the encoder")

    @field_validator("scale")
    @classmethod
    def _ordered(cls, values: tuple[float, float]) -> tuple[float, float]:
        if not 0 < values[0] <= values[1]:
            raise ValueError("scale must be two positive numbers, the smaller one first")
        return values


def checked_layers(config: DetectionConfig, encoder: Encoder) -> tuple[str, ...]:
    """The layers that the head sees, shallow to deep.

    Raises UserError for none, for one that does not exist, and where the encoder does not take images of that side.
    """
    names = chosen_layers(config.layers, encoder)
    check_side(encoder, config.side)
    return names


@register_benchmark(
    DetectionConfig(),
    DetectionConfig(name="detection_finetuned", encoder_lr=0.3, depth=2, epochs=12),
    DetectionConfig(name="detection_finetuned_long", encoder_lr=0.3, depth=2, epochs=48),
    summary="Boxes by a head without anchors on the maps of all layers, frozen or trained along",
    source="Tian et al. 2019; Li et al. 2020",
    check=checked_layers,
    needs=("boxes",),
    metric="ap50",
)
def run_detection(config: DetectionConfig, encoder: Encoder, datasets: Datasets, run: BenchmarkRun) -> Score:
    """VOC's average precision (area, overlap .5), mean over the classes; COCO's, and every class's, beside it."""
    layers = checked_layers(config, encoder)
    images = open_whole(datasets, config.side, ("boxes",))
    canvas = images["train"].canvas
    labels = {name: labels_of(each.dataset) for name, each in images.items()}
    names, unseen = look_at_labels(labels, images["train"].classes)
    detector = train(config, copy.deepcopy(encoder), layers, images["train"], len(names), run)
    val = Judged.by(detector, images["val"], len(names))
    split: Literal["val", "test"] = "test" if "test" in images else "val"
    best = val if split == "val" else Judged.by(detector, images[split], len(names))
    run.picture(f"{split}: truth, found", _picture(images[split], best, names))
    protocol: dict[str, Any] = {
        "format": PROTOCOL,
        "detector": "FCOS on one grid, centre sampling, quality focal loss and GIoU loss",
        "ap50": "PASCAL VOC: area below precision over recall, overlap .5, difficult objects passed over",
        "ap": "COCO: 101 recalls, overlaps .5 to .95, crowds passed over, 100 detections of an image",
        **common_facts(config, encoder, {name: len(each) for name, each in images.items()}),
        "canvas": list(canvas),
        "layers": list(layers),
        "classes": list(names),
        "train_loss": detector.ended,
        **replaced_in(images),
    }
    if unseen:
        protocol |= {"unseen": unseen, "unseen_of": "boxes"}
    layer = "+".join(layers)
    return Score(
        benchmark=config.name,
        value=best.ap50(),
        metric="ap50",
        split=split,
        n=len(images[split]),
        layer=layer,
        layers={layer: val.ap50()},
        protocol=protocol,
        others=best.others(names),
        resampled=resample(best.ap50, len(images[split])),
    )


@dataclass(frozen=True)
class Detector:
    """A trained head, and what reads the maps that it sees."""

    config: DetectionConfig
    read: Reader
    head: Head
    ended: Mapping[str, float]  # mean losses of the last steps

    @torch.no_grad()
    def __call__(self, images: WholeImages) -> Detections:
        """What it finds in the images of a split, in the pixels of each."""
        config, grid = self.config, self.read.grid(images.canvas)
        parts = []
        for ids in in_batches(len(images), config.batch):
            quality_BLK, sides_BL4 = self.head(self.read.frozen(images.images(ids)), grid)
            boxes_BL4 = boxes_of(sides_BL4, centres(grid, config.stride, sides_BL4.device), config.stride)
            limit_4 = boxes_BL4.new_tensor([*images.canvas[::-1]] * 2)
            boxes_BL4 = torch.minimum(boxes_BL4.clamp(min=0), limit_4)
            found = detect(quality_BLK, boxes_BL4, config.least, config.overlap, MOST_FOUND)
            for row, image in enumerate(ids.tolist()):
                kept_Q = found.kept_BQ[row]
                own_Q4 = found.boxes_BQ4[row, kept_Q].cpu().double().numpy()
                label_Q, score_Q = found.labels_BQ[row, kept_Q].cpu(), found.scores_BQ[row, kept_Q].cpu().double()
                boxes_Q4 = images.read(image).to_image(own_Q4)
                parts.append(Detections(np.full(len(label_Q), image), label_Q.numpy(), score_Q.numpy(), boxes_Q4))
        return Detections(
            np.concatenate([part.image_D for part in parts]),
            np.concatenate([part.label_D for part in parts]),
            np.concatenate([part.score_D for part in parts]),
            np.concatenate([part.boxes_D4 for part in parts]),
        )


def train(
    config: DetectionConfig,
    encoder: Encoder,
    layers: Sequence[str],
    images: WholeImages,
    classes: int,
    run: BenchmarkRun,
) -> Detector:
    """Fit a head to the images of the training split, and with it the encoder if the configuration has it so."""
    read = Reader(encoder, layers, config.stride, config.precision, run.device)
    views: Views
    if config.encoder_lr:
        encoder.train()
        views = MovedViews(read, images, config.seed, config.scale)
    else:
        views = FrozenViews(read, images, config.seed, config.batch, run)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = Head({layer: encoder.channels[layer] for layer in layers}, classes, config.width, config.depth)
    head.standardize(views.statistics(config.batch))
    head.to(run.device)
    grid = read.grid(images.canvas)
    centres_L2 = centres(grid, config.stride, run.device)

    def loss(ids: Int64, step: int) -> Mapping[str, torch.Tensor]:
        maps, objects = views.batch(ids, step)
        quality_BLK, sides_BL4 = head(maps, grid)
        return losses(quality_BLK, sides_BL4, objects, centres_L2, config.stride)

    groups = [Group([head])] + [Group([encoder], lr=config.encoder_lr)] * bool(config.encoder_lr)
    ended = fit("detector", groups, fit_of(config, config.lr), len(images), loss, run)
    return Detector(config, read, head, ended)


@dataclass(frozen=True)
class Judged:
    """What was found in a split, and what is there."""

    found: Detections
    truth: Truth
    classes: int

    @classmethod
    def by(cls, detector: Detector, images: WholeImages, classes: int) -> "Judged":
        """The detector's findings."""
        found = detector(images)
        return cls(found, Truth.of([images.read(each).objects for each in range(len(images))]), classes)

    @cached_property
    def _voc(self) -> Matches:
        return match_voc(self.found, self.truth, self.classes)

    def ap50(self, weight_N: Floats | None = None) -> float:
        """VOC's average precision by area, the mean over the classes, of images that count so often."""
        return self._voc.average(area_below, weight_N)

    def others(self, names: Sequence[str]) -> dict[str, float]:
        """Further figures: VOC's by 11 points, COCO's, and VOC's by area of every class that has objects."""
        coco, strict = (
            match_coco(self.found, self.truth, self.classes, overlaps)
            for overlaps in (COCO_OVERLAPS, COCO_OVERLAPS[5:6])
        )
        own = zip(names, self._voc.by_class(area_below).tolist(), strict=True)
        return {
            "ap": coco.average(hundred_points),
            "ap75": strict.average(hundred_points),
            "ap50_11": self._voc.average(eleven_points),
        } | {f"ap50/{_UNUSUAL.sub('_', name)}": value for name, value in own if not np.isnan(value)}


def labels_of(data: Members) -> Int64:
    """The labels of all objects of a split, crowds left out; decodes no image."""
    found = [np.zeros(0, np.int64)]
    for each in range(len(data)):
        with suppress(BrokenImage):  # those are replaced, and counted, when their image is read
            found.append(unpack_boxes(data.member(each, "boxes"))[1])
    return np.concatenate(found)


def look_at_labels(labels: Mapping[str, Int64], names: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, float]]:
    """The names of the classes; and by split the share of objects whose class no training object has, where not 0.

    Raises UserError for a split without an object, for a label without a name, and where that share is more than
    MOST_UNSEEN: no detector could find those objects.
    """
    seen, unseen = set(labels["train"].tolist()), {}
    names = names or tuple(str(label) for label in range(max(seen, default=0) + 1))
    for split, labels_G in labels.items():
        if not len(labels_G):
            raise UserError(f"no image of the {split} split has a box: prepare data with some in every split")
        if wrong := [label for label in labels_G.tolist() if not 0 <= label < len(names)]:
            raise UserError(
                f"a box of the {split} split has the label {wrong[0]}, and there are {len(names)} classes: labels are "
                f"0 to {len(names) - 1}; prepare the data again"
            )
        share = float((~np.isin(labels_G, list(seen))).mean())
        if share > MOST_UNSEEN:
            raise UserError(
                f"{share:.0%} of the {split} boxes are of classes that no training box has: no encoder can find them; "
                "use splits that share their classes"
            )
        if share:
            unseen[split] = share
    return names, unseen


def _picture(images: WholeImages, judged: Judged, names: Sequence[str]) -> UInt8:
    """Some images with the boxes that are there on the left, and those that were found on the right."""
    rows = []
    for image in range(min(SHOWN, len(images))):
        whole = images.read(image)
        own = judged.found[(judged.found.image_D == image) & (judged.found.score_D >= SHOWN_SCORE)]
        canvas_HW3 = whole.canvas_HW3.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
        factor = ENLARGED * np.tile(np.divide(whole.placed, whole.size), 2)
        truth = outlined(canvas_HW3, (whole.boxes[0] * factor, whole.boxes[1]), names)
        found = outlined(canvas_HW3, (own.boxes_D4 * factor, own.label_D), names, own.score_D)
        rows.append(np.concatenate([truth, found], 1))
    return np.concatenate(rows, 0)
