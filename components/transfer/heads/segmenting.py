"""What both segmentation benchmarks share: the splits with their masks, how they are judged, and pictures of them.

Masks name a value for every pixel: 0 is the background (what no class names), 1, 2, ... the classes, 255 what nobody
knows. Values that no training pixel has are never guessed: where nothing is background, as in street scenes all of
which is named, the background is no class.

Legend of shape suffixes: B samples of a batch, N images of a split, K values of a mask, S those that training has, H, W
of the canvas, h, w of an image or map, R rows, P cells of a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor

from components.config import BenchmarkConfig
from components.data.arrays import UInt8
from components.data.scramble import Int64
from components.data.sources.base import UNKNOWN
from components.data.whole import Whole, WholeImages, open_whole, replaced_in
from components.errors import UserError
from components.networks.encoder import Encoder
from components.transfer.features import check_side, chosen_layers, in_batches
from components.transfer.heads.fitting import FitConfig, fit_of
from components.transfer.metrics.intersection import Overlaps, confusion
from components.transfer.metrics.statistics import resample
from components.transfer.protocol import BenchmarkRun, Datasets, Score, common_facts

BACKGROUND = "background"
MOST_UNSEEN = 0.5  # share of the judged pixels that may be of values that training lacks
SHOWN = 6  # images in the picture
GAP = 4  # pixels between them
ELEMENTS = 2**24  # numbers that are enlarged at a time: images of any size need no more memory


class SegmentationConfig(BenchmarkConfig):
    """What the protocols of segmentation have in common."""

    layers: tuple[str, ...] | None = Field(None, description="layers that are read; None: see the protocol")
    side: int = Field(160, ge=32, description="longer side of the images as the encoder sees them, in pixels")
    epochs: float = Field(30, gt=0, description="passes over the training split")
    batch: int = Field(16, ge=1, description="images per optimizer step")
    lrs: tuple[float, ...] = Field((1e-3,), description="learning rates tried; the one that is best on val counts")
    balances: tuple[float, ...] = Field(
        (0.0,), description="powers tried: a pixel counts as its class is frequent, to minus that power; best on val"
    )
    weight_decay: float = Field(1e-4, ge=0, description="decoupled from the gradient (AdamW)")
    seed: int = Field(0, ge=0, description="of the order of samples, and of what else is drawn")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the encoder")

    @field_validator("lrs")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or min(values) <= 0 or len(set(values)) < len(values):
            raise ValueError("lrs must be positive numbers, at least one, each once")
        return values

    @field_validator("balances")
    @classmethod
    def _shares(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or min(values) < 0 or max(values) > 1 or len(set(values)) < len(values):
            raise ValueError("balances must be numbers from 0 to 1, at least one, each once")
        return values

    @property
    def choices(self) -> dict[str, tuple[float, float]]:
        """By name: (learning rate, balance), every one with every other."""
        return {f"lr {lr:g} balance {each:g}": (lr, each) for each in self.balances for lr in self.lrs}

    def fitting(self, lr: float, clip: float) -> FitConfig:
        """How one fit is done."""
        return fit_of(self, lr, clip=clip)


def check_layers(config: SegmentationConfig, encoder: Encoder) -> tuple[str, ...]:
    """The layers that ``config`` names, shallow to deep, all where it names none.

    Raises UserError for none, for one that does not exist, and where the encoder does not take images of that side.
    """
    names = chosen_layers(config.layers, encoder)
    check_side(encoder, config.side)
    return names


@dataclass(frozen=True)
class Splits:
    """The splits with their masks, and what their values mean."""

    images: Mapping[str, WholeImages]
    names: tuple[str, ...]  # of the values 0, 1, ...
    seen: Int64  # (S,): values that training pixels have
    pixels: Int64  # (S,): how many have each

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width."""
        return self.images["train"].canvas

    @property
    def place(self) -> Int64:
        """(256,): of a value, its place in ``seen``; S where it has none."""
        found = np.full(256, len(self.seen), np.int64)
        found[self.seen] = np.arange(len(self.seen))
        return found

    def weights(self, balance: float) -> Tensor:
        """(S,): how much a pixel of each value counts, 1 on the average of the training pixels."""
        share_S = self.pixels / self.pixels.sum()
        weight_S = share_S**-balance
        return torch.from_numpy(weight_S / (weight_S @ share_S)).float()

    def targets(self, ids: Int64) -> Tensor:
        """Places in ``seen`` of the training masks on the canvas, int64 (B, H, W); S where there is none."""
        return torch.from_numpy(self.place)[self.images["train"].masks(ids)]


def open_splits(config: SegmentationConfig, datasets: Datasets) -> Splits:
    """Look at all training masks.

    Raises UserError for a value without a name, and where training pixels have fewer than two.
    """
    images = open_whole(datasets, config.side, ("mask",))
    names = (BACKGROUND, *images["train"].classes)
    pixels = np.zeros(len(names), np.int64)
    for each in range(len(images["train"])):
        pixels += value_counts(images["train"].read(each), names)
    seen = np.flatnonzero(pixels)
    if len(seen) < 2:
        found = f"pixels of {names[seen[0]]} alone" if len(seen) else "no pixel that anybody knows"
        raise UserError(f"the training masks have {found}: use masks of two classes or more, or a class and background")
    return Splits(images, names, seen, pixels[seen])


def value_counts(whole: Whole, names: tuple[str, ...]) -> Int64:
    """Pixels of every value, (K,), in an image's mask. Raises UserError for one that ``names`` does not have."""
    counts = np.bincount(whole.mask.ravel(), minlength=256)
    if (beyond := np.flatnonzero(counts[len(names) : UNKNOWN])).size:
        raise UserError(
            f"the mask of {whole.key} has value {len(names) + beyond[0]}, and there are {len(names) - 1} classes: "
            "run `genoise prepare` again with all of them named"
        )
    return counts[: len(names)]


Predict = Callable[[Int64], Mapping[str, Tensor]]  # samples -> by choice: logits (B, S, h, w) that cover the canvas


def judge(
    images: WholeImages, splits: Splits, predict: Callable[[Tensor], Mapping[str, Tensor]], batch: int
) -> dict[str, Overlaps]:
    """How well ``predict`` does on every image at its own size, by what it returns.

    ``predict`` is given canvases, uint8 (B, 3, H, W), and returns, by choice, logits (B, S, h, w) that cover them.
    Raises UserError where most known pixels are of values that training lacks.
    """
    found: dict[str, list[Int64]] = {}
    with torch.no_grad():
        for ids in in_batches(len(images), batch):
            for choice, logits_BShw in predict(images.images(ids)).items():
                for sample, logits_Shw in zip(ids.tolist(), logits_BShw, strict=True):
                    whole = images.read(sample)
                    value_counts(whole, splits.names)
                    guess_hw = splits.seen.astype(np.uint8)[own_size(logits_Shw, whole, images.canvas)]
                    found.setdefault(choice, []).append(confusion(whole.mask, guess_hw, len(splits.names)))
    return {choice: Overlaps.of(each) for choice, each in found.items()}


def own_size(logits_Shw: Tensor, whole: Whole, canvas: tuple[int, int]) -> Int64:
    """The likeliest of S at every pixel of the image itself, int64 (h, w): logits are interpolated bilinearly, then
    compared."""
    (width, height), (across, down) = whole.size, whole.placed
    logits_Shw = logits_Shw.float()
    rows_hR = _bilinear(height, down / canvas[0], logits_Shw.shape[1], logits_Shw.device)
    columns_wP = _bilinear(width, across / canvas[1], logits_Shw.shape[2], logits_Shw.device)
    wide_SRw = logits_Shw @ columns_wP.T
    strip = max(1, ELEMENTS // (len(logits_Shw) * width))
    parts = [(rows @ wide_SRw).argmax(0).cpu() for rows in torch.split(rows_hR, strip)]
    found: Int64 = torch.cat(parts).numpy()
    return found


def _bilinear(pixels: int, covered: float, cells: int, device: torch.device) -> Tensor:
    """(pixels, cells): how much each cell counts at the centre of each pixel, where the pixels lie evenly over the
    share ``covered`` of all cells, from their beginning."""
    places = ((torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels * covered * cells - 0.5).clamp(0, cells - 1)
    distance = (places[:, None] - torch.arange(cells, dtype=torch.float64)).abs()
    return (1 - distance).clamp(min=0).float().to(device)


def scored(
    config: SegmentationConfig,
    encoder: Encoder,
    splits: Splits,
    run: BenchmarkRun,
    about: Mapping[str, Any],
    predict: Callable[[Tensor], Mapping[str, Tensor]],
) -> Score:
    """The score: every choice that ``predict`` returns on val, then the best of them once on test, and its picture.

    Of equal choices the first one wins. ``about`` is added to the protocol.
    """
    on_val = judge(splits.images["val"], splits, predict, config.batch)
    unseen = {"val": _share_unseen(on_val, splits, "val")}
    by_choice = {choice: each.miou() for choice, each in on_val.items()}
    choice = max(by_choice, key=lambda each: by_choice[each])
    split: Literal["val", "test"] = "test" if "test" in splits.images else "val"

    def chosen(rgb: Tensor) -> Mapping[str, Tensor]:
        return {choice: predict(rgb)[choice]}

    found = on_val[choice]
    if split == "test":
        on_test = judge(splits.images["test"], splits, chosen, config.batch)
        unseen["test"] = _share_unseen(on_test, splits, "test")
        found = on_test[choice]
    run.picture(f"{split}: image, truth, prediction", picture(splits.images[split], splits, chosen))
    iou = {f"iou/{splits.names[k]}": float(each) for k, each in enumerate(found.iou()) if not np.isnan(each)}
    protocol = {
        **about,
        **common_facts(config, encoder, {name: len(each) for name, each in splits.images.items()}),
        "canvas": list(splits.canvas),
        "judged": "at the image's own size: logits interpolated bilinearly, then the likeliest; void pixels left out",
        "mean": "over the classes that are in the truth or guessed, of all pixels of the split",
        "classes": [splits.names[k] for k in splits.seen],
        "palette": {splits.names[k]: f"#{bytes(PALETTE[k].tolist()).hex()}" for k in splits.seen},
        **replaced_in(splits.images),
    }
    if shares := {name: share for name, share in unseen.items() if share}:
        protocol |= {"unseen": shares, "unseen_of": "pixels"}
    return Score(
        benchmark=config.name,
        value=found.miou(),
        metric="miou",
        split=split,
        n=len(splits.images[split]),
        layer=choice,
        layers=by_choice,
        protocol=protocol,
        others={"pixel_accuracy": found.pixel_accuracy(), "mean_accuracy": found.mean_accuracy(), **iou},
        resampled=resample(found.miou, len(splits.images[split])),
    )


def _share_unseen(judged: Mapping[str, Overlaps], splits: Splits, split: str) -> float:
    """The share of the known pixels that are of values which training lacks, and no classifier gets right.

    Raises UserError where that is more than MOST_UNSEEN, and where no pixel is known.
    """
    pixels_K = next(iter(judged.values())).true_NK.sum(0)
    if not pixels_K.sum():
        raise UserError(f"the {split} masks have no pixel that anybody knows: prepare the data with others")
    share = 1 - float(pixels_K[splits.seen].sum() / pixels_K.sum())
    if share > MOST_UNSEEN:
        lacking = [splits.names[k] for k in np.flatnonzero(pixels_K) if k not in splits.seen]
        raise UserError(
            f"{share:.0%} of the {split} pixels are of classes that no training mask has ({', '.join(lacking)}): "
            "use splits that share their classes"
        )
    return share


def _palette() -> UInt8:
    """(256, 3): VOC's colours, in which the bits of a value are dealt to red, green and blue, highest first."""
    values, found = np.arange(256), np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            found[:, channel] |= (values >> (3 * bit + channel) & 1) << (7 - bit)
    return found.astype(np.uint8)


PALETTE = _palette()


def picture(
    images: WholeImages, splits: Splits, predict: Callable[[Tensor], Mapping[str, Tensor]]
) -> NDArray[np.uint8]:
    """A row for each of some images, evenly taken from the split: the image, its mask, and what is guessed."""
    ids = np.unique(np.linspace(0, len(images) - 1, min(SHOWN, len(images))).astype(np.int64))
    rows = []
    for sample in ids.tolist():
        whole = images.read(sample)
        width, height = whole.placed
        with torch.no_grad():
            (logits_BShw,) = predict(images.images(np.array([sample]))).values()
        guess_hw = splits.seen.astype(np.uint8)[own_size(logits_BShw[0], whole, images.canvas)]
        lines, columns = (np.arange(n) * m // n for n, m in ((height, whole.size[1]), (width, whole.size[0])))
        shown = [whole.canvas_HW3[:height, :width]]
        shown += [PALETTE[mask_hw[lines[:, None], columns]] for mask_hw in (whole.mask, guess_hw)]
        row = np.full((images.canvas[0] + GAP, 3 * (images.canvas[1] + GAP), 3), 255, np.uint8)
        for k, part_hw3 in enumerate(shown):
            left = k * (images.canvas[1] + GAP)
            row[:height, left : left + width] = part_hw3
        rows.append(row[: height + GAP])
    return np.concatenate(rows)
