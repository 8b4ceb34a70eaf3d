"""Benchmarks of frozen features: every layer is judged on validation, the best one has the last word on test.

Legend of shape suffixes: N samples of a split, M other samples, D features.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from components.config import BenchmarkConfig, FrozenConfig
from components.errors import UserError
from components.networks.encoder import Encoder
from components.transfer.features import Features, extract, subset
from components.transfer.metrics.statistics import resample_mean
from components.transfer.protocol import BenchmarkRun, Datasets, Score, common_facts
from components.transfer.recalibration import recalibrated

MOST_UNSEEN = 0.5


class Judged(Protocol):
    """What was judged on validation."""

    @property
    def val(self) -> float:
        """The validation score, in [0, 1], at the choices that were best there."""
        ...


class FittedLayer(Judged, Protocol):
    """What was fitted to the features of one layer."""

    def predict(self, features_ND: Tensor) -> Tensor:
        """The most likely classes, int64 (N,) on the CPU, of raw features."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the protocol says of it: the choices, and what was tried, as JSON values."""
        ...


C = TypeVar("C", bound=FrozenConfig)


def score_layers(
    config: C,
    encoder: Encoder,
    datasets: Datasets,
    run: BenchmarkRun,
    about: Mapping[str, Any],
    fit: Callable[[Features, Features, C, torch.device], Mapping[str, FittedLayer]],
) -> Score:
    """Top-1 of the best layer: all layers on val, then the chosen one once on test, where there is one.

    ``fit`` is given the features of train and of val, ``config`` and the device, and returns what it fitted to each
    layer; ``about`` says in the protocol what that is. Raises UserError for training samples of one class, and for a
    split most of whose samples are of classes that training lacks.
    """
    ids = subset(len(datasets["train"]), config.samples)
    encoder = recalibrated(encoder, datasets["train"], config.recalibrate, run.device)
    train = extract(encoder, datasets["train"], ids, config, run.device)
    val = extract(encoder, datasets["val"], None, config, run.device)
    classes_of(train)
    unseen = {"val": share_unseen(train.labels, val.labels, "val")}
    run.progress(1, 3, "features")
    layers = fit(train, val, config, run.device)
    run.progress(2, 3, "classifiers")
    name, judged = best_layer(layers), val
    if "test" in datasets:
        only = config.model_copy(update={"layers": (name,)})
        judged = extract(encoder, datasets["test"], None, only, run.device)
        unseen["test"] = share_unseen(train.labels, judged.labels, "test")
    right_N = (layers[name].predict(judged.layers[name]) == judged.labels).numpy()
    facts = {each: {"features": train.layers[each].shape[1], **layers[each].facts()} for each in layers}
    protocol = protocol_of(config, encoder, datasets, train.labels, {**about, "layers": facts}, unseen)
    return Score(
        benchmark=config.name,
        value=float(right_N.mean()) if "test" in datasets else layers[name].val,
        metric="top1",
        split="test" if "test" in datasets else "val",
        n=len(right_N),
        layer=name,
        layers={each: layer.val for each, layer in layers.items()},
        protocol=protocol,
        resampled=resample_mean(right_N),
    )


def protocol_of(
    config: BenchmarkConfig,
    encoder: Encoder,
    datasets: Datasets,
    train_N: Tensor,
    about: Mapping[str, Any],
    unseen: Mapping[str, float],
) -> dict[str, Any]:
    """What is stored beside a score, as JSON values: ``about``, and what is the same for all classifiers of images.

    ``train_N``: the labels that were fitted to; ``unseen``: what `share_unseen` says of the other splits.
    """
    image_CHW = datasets["val"].get(subset(1, None))["image"][0]
    samples = {split: len(data) for split, data in datasets.items()} | {"train": len(train_N)}
    protocol = {
        **about,
        **common_facts(config, encoder, samples),
        "image_size": list(image_CHW.shape[1:]),
        "crops": "one view per image, as the data set gives it",
        "classes": int(train_N.max()) + 1,
    }
    if shares := {split: share for split, share in unseen.items() if share}:
        protocol["unseen"] = shares
    return protocol


def best_layer(layers: Mapping[str, Judged]) -> str:
    """The layer with the highest validation score; of equal ones the shallower."""
    return max(layers, key=lambda name: layers[name].val)


def classes_of(train: Features) -> int:
    """Number of classes; UserError when the training samples leave nothing to tell apart."""
    found: set[int] = set(train.labels.tolist())
    if len(found) < 2:
        raise UserError(
            f"the probe's {len(train.labels)} training samples have {len(found)} class: "
            "use data with two classes or more, or a larger benchmark.samples"
        )
    return max(found) + 1


def share_unseen(train_N: Tensor, judged_M: Tensor, split: str) -> float:
    """The share of the labels ``judged_M`` that do not occur in ``train_N``, which no classifier gets right.

    Raises UserError where that is more than MOST_UNSEEN: the score would tell of the split, not of the encoder.
    """
    share = float((~torch.isin(judged_M, train_N)).double().mean())
    if share > MOST_UNSEEN:
        raise UserError(
            f"{share:.0%} of the {split} samples are of classes that the probe's {len(train_N)} training samples lack: "
            "no encoder can score on them; use splits that share their classes, or a larger benchmark.samples"
        )
    return share
