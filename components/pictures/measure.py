"""The pictures of a trained task, measured on a split: nearness to the truth, and distance to real pictures.

Legend of shape suffixes: B samples, N samples of a split, H height, W width, D features.
"""

from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from components.config import Config
from components.data.scramble import Int64, make_key, permute
from components.errors import UserError
from components.losses import psnr
from components.pictures.classes import ByClass
from components.pictures.distances import SUBSETS, frechet_distance, kernel_distance
from components.pictures.extractors import Extractor
from components.pictures.make import make_pictures
from components.pictures.similarity import l1, ssim
from components.tasks.base import Batch, Task, Tensors

PROTOCOL = "pictures/1"  # changes with anything that changes values
BATCH = 64
SMALLEST = 11  # side in pixels from which on there is a structural similarity
COMPARED = ("prediction", "input")  # with the truth; the input as it is: what doing nothing would get
MEASURED = ("prediction", "generated", "input")  # as sets
REAL = "real"  # title of the samples' own pictures, where a classifier judges


class Dataset(Protocol):
    """One split; components.data.dataset.ShardedDataset is one."""

    def __len__(self) -> int: ...

    def get(self, ids: Int64) -> dict[str, Tensor]:
        """The fields of the samples ``ids``; pictures are uint8 (B, 3, H, W)."""
        ...


class MeasureConfig(Config):
    """What is measured, and on what."""

    split: Literal["val", "test"] = Field("val", description="test is for the last word")
    samples: int | None = Field(None, ge=1, description="samples of the split that are used; None: all")
    layer: str | None = Field(None, description="of an encoder as the extractor; None: the deepest")
    resize: int | None = Field(
        None, ge=8, le=1024, description="side at which the extractor sees pictures; None: theirs"
    )
    seed: int = Field(0, ge=0, description="of z, masks and all that is random in making the pictures")


class PictureScore(Config):
    """What the pictures of a task are worth, with everything that is needed to measure them again."""

    split: Literal["val", "test"]
    n: int = Field(ge=1, description="samples")
    values: dict[str, dict[str, float]] = Field(description="{prediction, generated, input or real: {metric: value}}")
    warnings: tuple[str, ...]
    worst: tuple[int, ...] = Field(description="samples whose prediction is least like the truth, worst first")
    protocol: dict[str, Any]


def measure_pictures(
    task: Task,
    data: Dataset,
    config: MeasureConfig,
    extractor: Extractor | None,
    device: torch.device,
    by_class: ByClass | None = None,
) -> PictureScore:
    """Make a picture of every sample and measure it, and beside it what else the task shows: its input as it is, and
    pictures "generated" of noise where the prediction is made of an image.

    With a truth per sample: means of l1 (in [0, 1]), psnr (decibels) and ssim. With an extractor: ``frechet`` and
    ``kernel`` with its standard error, against the truths, else the pictures of the field ``other`` where the task
    needs one (the other domain), else the samples' own. With ``by_class`` (the samples need labels) also what it says,
    and of the samples' own pictures. Raises UserError where nothing can be measured.
    """
    ids = chosen(len(data), config.samples)
    if extractor:
        check_enough(len(ids), config.split)
    similar: dict[str, dict[str, list[Tensor]]] = {}
    features: dict[str, list[Tensor]] = {}
    for start in range(0, len(ids), BATCH):
        batch = data.get(ids[start : start + BATCH])
        rows, reference_B3HW = _rows(task, batch, ids[start : start + BATCH], config.seed, device)
        shown = [title for title in MEASURED if title in rows]
        if by_class:
            by_class.add({**{t: rows[t] for t in shown}, REAL: batch["image"].to(device)}, batch["label"].to(device))
        for title in COMPARED:
            if {title, "truth"} <= rows.keys() and rows[title].shape == rows["truth"].shape:
                for name, values_B in _similarities(rows[title], rows["truth"]).items():
                    similar.setdefault(title, {}).setdefault(name, []).append(values_B)
        if extractor:
            for title, picture_B3HW in {"reference": reference_B3HW, **{title: rows[title] for title in shown}}.items():
                features.setdefault(title, []).append(extractor(picture_B3HW, config.resize))
    if not (similar or features or by_class):
        raise no_truth(task.name)
    by_sample = {title: {name: torch.cat(parts) for name, parts in each.items()} for title, each in similar.items()}
    values = {title: {name: float(v.mean()) for name, v in each.items()} for title, each in by_sample.items()}
    joined = {title: torch.cat(parts) for title, parts in features.items()}
    for title in joined.keys() - {"reference"}:
        values.setdefault(title, {}).update(_distances(joined["reference"], joined[title]))
    if by_class:
        for title in by_class.titles:
            values.setdefault(title, {}).update(by_class.values(title, REAL))
    return PictureScore(
        split=config.split,
        n=len(ids),
        values={title: values[title] for title in (*MEASURED, REAL) if title in values},
        warnings=_warnings(extractor, joined, by_sample),
        worst=_worst(ids, by_sample),
        protocol=_protocol(task, config, extractor, joined) | ({"classifier": by_class.protocol} if by_class else {}),
    )


def check_enough(samples: int, split: str) -> None:
    """Raise UserError where distances between sets cannot be had of so few samples of a split."""
    if samples < 2 * SUBSETS:
        raise UserError(
            f"distances between sets need at least {2 * SUBSETS} samples, and {samples} of the {split} split are used: "
            "give more, or leave out the extractor"
        )


def no_truth(task: str) -> UserError:
    """The error where nothing can be measured."""
    return UserError(f"task {task!r} has no truth to compare its pictures with: give an extractor, or a classifier")


def chosen(total: int, samples: int | None) -> Int64:
    """``samples`` of the ids 0 .. total - 1 in rising order, always the same; None: all."""
    if samples is None or samples >= total:
        return np.arange(total, dtype=np.int64)
    return np.sort(permute(np.arange(samples, dtype=np.int64), total, make_key("measured pictures")))


def picture_rows(task: Task, data: Dataset, ids: Int64, seed: int, device: torch.device) -> Tensors:
    """{title: uint8 (B, 3, H, W)}: the pictures of the samples ``ids``, as they were measured."""
    return _rows(task, data.get(ids), ids, seed, device)[0]


def _rows(task: Task, batch: Batch, ids: Int64, seed: int, device: torch.device) -> tuple[Tensors, Tensor]:
    """What the task makes of ``batch``, the samples ``ids``, and the real pictures to compare them with as a set."""
    rows = make_pictures(task, batch, torch.from_numpy(ids), seed, device)
    real_B3HW = batch["other" if "other" in task.needs else "image"].to(device)
    return rows, rows.get("truth", real_B3HW)


def _similarities(picture_B3HW: Tensor, truth_B3HW: Tensor) -> Tensors:
    """{metric: (B,)} of uint8 pictures."""
    picture, truth = picture_B3HW.float() / 255, truth_B3HW.float() / 255
    values = {"l1": l1(picture, truth), "psnr": psnr(picture, truth)}
    return values | ({"ssim": ssim(picture, truth)} if min(truth.shape[2:]) >= SMALLEST else {})


def _distances(real_ND: Tensor, made_ND: Tensor) -> dict[str, float]:
    kernel = kernel_distance(real_ND, made_ND)
    return {
        "frechet": frechet_distance(real_ND, made_ND),
        "kernel": kernel.value,
        "kernel_error": kernel.error,
    }


def _warnings(extractor: Extractor | None, features: Tensors, similar: dict[str, Tensors]) -> tuple[str, ...]:
    found = []
    if extractor:
        samples, dimensions = features["reference"].shape
        if samples <= dimensions:
            found.append(
                f"{samples} samples for {dimensions} features: the Fréchet distance is far too large, and comparable "
                "only with others of as many samples; the kernel distance has no such bias"
            )
        blind = {"l": "colours", "ab": "lightness"}.get(extractor.protocol.get("encoder", {}).get("input"))
        if blind:
            found.append(f"the extractor does not see {blind}: the distances say nothing of them")
    if "prediction" in similar and "ssim" not in similar["prediction"]:
        found.append(f"no ssim: its window needs pictures of {SMALLEST} pixels")
    return tuple(found)


def _worst(ids: Int64, similar: dict[str, Tensors], count: int = 8) -> tuple[int, ...]:
    """Ids of the samples with the lowest similarity, lowest first."""
    values = similar.get("prediction", {})
    if not values:
        return ()
    by = values.get("ssim", values["psnr"]).cpu()
    return tuple(int(ids[place]) for place in by.argsort(stable=True)[:count])


def _protocol(task: Task, config: MeasureConfig, extractor: Extractor | None, features: Tensors) -> dict[str, Any]:
    distances: dict[str, Any] = {}
    if extractor:
        distances = {
            "extractor": extractor.protocol,
            "features": features["reference"].shape[1],
            "resize": f"bicubic to {config.resize}" if config.resize else "none",
            "kernel": f"(x y / D + 1)^3, unbiased, mean over {SUBSETS} disjoint subsets and its standard error",
        }
    return {
        "format": PROTOCOL,
        "task": task.name,
        "config": config.model_dump(mode="json"),
        "pictures": "8 bit, one view per sample, as the data set gives it",
        "ssim": "Wang et al. 2004, Gaussian window, mean over channels",
        "torch": torch.__version__,
    } | distances
