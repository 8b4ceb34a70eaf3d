"""Classifiers that are trained on augmented images: batches of them, and the score of the one that was best on val.

Legend of shape suffixes: B samples of a batch, N of a split, H height, W width, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from components.config import AugmentConfig, BenchmarkConfig
from components.data.augment import augment
from components.data.scramble import Int64
from components.draws import Draws
from components.networks.encoder import Encoder
from components.transfer.features import BATCH, Dataset, Features, in_batches, rgb_of, subset
from components.transfer.frozen import classes_of, protocol_of, share_unseen
from components.transfer.metrics.statistics import resample_mean
from components.transfer.protocol import BenchmarkRun, Datasets, Score

# Images, float (B, 3, H, W) in [0, 1], and names of choices -> logits (B, K) of each.
Predict = Callable[[Tensor, Sequence[str]], Mapping[str, Tensor]]


class TrainedConfig(BenchmarkConfig):
    """The protocol of a classifier that is trained on augmented images."""

    samples: int | None = Field(None, ge=10, description="training samples; None uses all")
    epochs: float = Field(10, gt=0, description="passes over the training samples")
    batch: int = Field(128, ge=2, description="samples per optimizer step")
    weight_decay: float = Field(5e-4, ge=0, description="as the optimizer has it")
    mirror: bool = Field(True, description="training images are mirrored with probability one half")
    shift: float = Field(
        0.125, ge=0, le=0.5, description="training images are moved by up to that share of their side, edges reflected"
    )
    seed: int = Field(0, ge=0, description="of the classifier's weights, the order of samples and augmentation")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the encoder")


class Batches:
    """The training samples of a benchmark, augmented, on the device."""

    def __init__(self, dataset: Dataset, config: TrainedConfig, device: torch.device) -> None:
        """Reads all labels. Raises UserError for samples of one class."""
        self.dataset, self.config, self.device = dataset, config, device
        self.ids = subset(len(dataset), config.samples)
        self.labels = torch.from_numpy(dataset.labels()[self.ids])
        self.classes = classes_of(Features({}, self.labels))

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, places_B: Int64, step: int) -> tuple[Tensor, Tensor]:
        """RGB in [0, 1], (B, 3, H, W), and labels (B,), of the samples at ``places_B``; the draws are the step's."""
        batch = self.dataset.get(self.ids[places_B])
        image, label_B = batch["image"].to(self.device), batch["label"].to(self.device)
        config = AugmentConfig(flip=self.config.mirror, shift=round(self.config.shift * image.shape[2]))
        positions_B = torch.arange(step * len(image), (step + 1) * len(image), device=self.device)
        return augment({"image": image}, config, Draws(self.config.seed, positions_B, "augment"))["image"], label_B


def score_trained(
    config: TrainedConfig,
    encoder: Encoder,
    datasets: Datasets,
    run: BenchmarkRun,
    batches: Batches,
    about: Mapping[str, Any],
    choices: Sequence[str],
    predict: Predict,
) -> Score:
    """Top-1 of the best of ``choices``: all of them on val (of equal ones the first), then that one once on test.

    Raises UserError for a split most of whose samples are of classes that training lacks.
    """
    guess_N, label_N = _guesses(datasets["val"], choices, predict, run.device)
    unseen = {"val": share_unseen(batches.labels, label_N, "val")}
    tried = {choice: float((guess_N[choice] == label_N).double().mean()) for choice in choices}
    best = max(choices, key=lambda choice: tried[choice])
    split = "val"
    if "test" in datasets:
        split = "test"
        guess_N, label_N = _guesses(datasets["test"], (best,), predict, run.device)
        unseen["test"] = share_unseen(batches.labels, label_N, "test")
    right_N = (guess_N[best] == label_N).numpy()
    return Score(
        benchmark=config.name,
        value=float(right_N.mean()),
        metric="top1",
        split="test" if split == "test" else "val",
        n=len(right_N),
        layer=best,
        layers=tried,
        protocol=protocol_of(config, encoder, datasets, batches.labels, about, unseen),
        resampled=resample_mean(right_N),
    )


def _guesses(
    dataset: Dataset, choices: Sequence[str], predict: Predict, device: torch.device
) -> tuple[dict[str, Tensor], Tensor]:
    """({choice: the most likely classes, (N,)}, labels (N,)) of a whole split, on the CPU; one view per image."""
    found: dict[str, list[Tensor]] = {choice: [] for choice in choices}
    labels = []
    for ids in in_batches(len(dataset), BATCH):
        batch = dataset.get(ids)
        labels.append(batch["label"])
        with torch.no_grad():
            for choice, logits_BK in predict(rgb_of(batch["image"], device), choices).items():
                found[choice].append(logits_BK.argmax(1).cpu())
    return {choice: torch.cat(parts) for choice, parts in found.items()}, torch.cat(labels)
