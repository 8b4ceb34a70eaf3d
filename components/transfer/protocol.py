"""Benchmarks and their scores. A new kind of benchmark is one new file beside this one: see docs/adding-a-benchmark.md.

It brings a configuration (a subclass of components.config.BenchmarkConfig) and a function decorated with
`register_benchmark`, which names one protocol or several: configurations that users ask for by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from components.config import BenchmarkConfig, Config
from components.errors import UserError, unknown
from components.networks.encoder import Encoder
from components.registry import Registry
from components.transfer.features import Dataset

UNTESTED = "there is no test split: the score is of val, on which choices were made, so it is optimistic"


class Score(Config):
    """What an encoder is worth on one benchmark, with everything that is needed to measure it again."""

    benchmark: str
    value: float = Field(description="the score on `split`, of the layer that was best on validation")
    metric: str = Field(description="such as top1: share of the samples whose most likely class is right, in [0, 1]")
    split: Literal["val", "test"] = Field(description="what `value` was measured on; val where no test split was given")
    n: int = Field(ge=1, description="samples that `value` is a mean over")
    layer: str = Field(description="the layer, or what else was chosen on validation, that `value` is of")
    layers: dict[str, float] = Field(description="the validation score of every such choice; of layers shallow to deep")
    protocol: dict[str, Any] = Field(description="configuration, choices made on validation, sizes, versions")
    others: dict[str, float] = Field(default_factory=dict, description="further figures of the same split, by metric")
    resampled: tuple[float, ...] = Field((), description="`value` of bootstrap samples of the images; see `resample`")


Datasets = Mapping[str, Dataset]


def common_facts(config: BenchmarkConfig, encoder: Encoder, samples: Mapping[str, int]) -> dict[str, Any]:
    """What stands in every protocol, as JSON values; ``samples``: by split, those that were used."""
    return {
        "config": config.model_dump(mode="json"),
        "encoder": encoder.config.model_dump(mode="json"),
        "samples": dict(samples),
        "torch": torch.__version__,
    }


class BenchmarkRun:
    """What a benchmark works with beside its data: a device, a place for unfinished work, progress, pictures.

    This one keeps nothing and tells nobody; `pipelines.scoring` has one that outlives a killed worker.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def load(self, name: str) -> dict[str, Any] | None:
        """What `save` kept last under ``name``, by this run or one that was killed; None where there is nothing."""
        return None

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Keep tensors and plain values under ``name`` until the benchmark has ended."""

    def progress(self, done: int, total: int, what: str = "") -> None:
        """Tell how far the benchmark is."""

    def picture(self, name: str, rgb_HW3: NDArray[np.uint8]) -> None:
        """Show a picture, uint8 (H, W, 3)."""


Run = Callable[[Any, Encoder, Datasets, BenchmarkRun], Score]
Check = Callable[[Any, Encoder], object]
CheckCounts = Callable[[Any, Mapping[str, int]], object]


@dataclass(frozen=True)
class Benchmark:
    """A kind of benchmark: its protocols, and the functions that score an encoder and that check it before."""

    summary: str
    source: str  # the paper
    protocols: tuple[BenchmarkConfig, ...]
    run: Run
    check: Check  # raises UserError where an encoder and a configuration do not go together
    needs: tuple[str, ...]  # fields of the data beside the image; boxes|mask: either of them
    metric: str  # of `Score.value`
    check_counts: CheckCounts | None = None  # raises UserError where a class has too few training samples


_REGISTRY: Registry[Benchmark] = Registry("components.transfer", "kind of benchmark", "kinds of benchmark")


def register_benchmark(
    *protocols: BenchmarkConfig,
    summary: str,
    source: str,
    check: Check,
    needs: tuple[str, ...] = ("label",),
    metric: str = "top1",
    check_counts: CheckCounts | None = None,
) -> Callable[[Run], Run]:
    """Decorator of the function that scores: makes a kind of benchmark known, with its protocols, all of one class.

    ``needs``: fields that the data must have beside the image: label, boxes, mask, or either of two, boxes|mask.
    ``metric``: that of the score.
    ``check_counts``: given a configuration and {class: training samples}, where those are known before anything runs.
    """

    def add(run: Run) -> Run:
        known = Benchmark(summary, source, protocols, run, check, needs, metric, check_counts)
        _REGISTRY.register(protocols[0].kind, known, run)
        return run

    return add


def all_benchmarks() -> dict[str, Benchmark]:
    """Every kind of benchmark: each module beside this file is imported once and registers itself."""
    return _REGISTRY.all()


def all_protocols() -> dict[str, BenchmarkConfig]:
    """Every protocol by its name, those of all kinds. Raises UserError where two have the same."""
    found: dict[str, BenchmarkConfig] = {}
    for protocol in (each for kind in all_benchmarks().values() for each in kind.protocols):
        if found.setdefault(protocol.name, protocol) is not protocol:
            kinds = f"{found[protocol.name].kind} and {protocol.kind}"
            raise UserError(f"two benchmarks are called {protocol.name!r}, of the kinds {kinds}: rename one of them")
    return found


def get_protocol(name: str) -> BenchmarkConfig:
    """The protocol called ``name``; UserError with the nearest name otherwise."""
    protocols = all_protocols()
    if name not in protocols:
        raise unknown("benchmark", name, protocols)
    return protocols[name]


def get_benchmark(config: BenchmarkConfig) -> Benchmark:
    """The kind of benchmark that a protocol is of; UserError with the nearest name otherwise."""
    return _REGISTRY.get(config.kind)


def check_benchmark(config: BenchmarkConfig, encoder: Encoder) -> None:
    """Raise UserError where the encoder cannot be scored by the protocol ``config``, such as for a layer it lacks."""
    _REGISTRY.get(config.kind).check(config, encoder)


def run_benchmark(
    config: BenchmarkConfig, encoder: Encoder, datasets: Datasets, run: BenchmarkRun | None = None
) -> Score:
    """Score ``encoder`` by the protocol ``config``. ``datasets``: train, val and, to have the last word, test.

    Choices are made on ``val``; ``test`` is read once, after them. Leave it out while anything else is being chosen
    (a sweep): the score is then the validation's. ``run``: by default the CPU, and nothing is kept.
    Raises UserError for an unknown kind or layer, or a missing split.
    """
    for split in ("train", "val"):
        if split not in datasets or len(datasets[split]) == 0:
            raise UserError(
                f"benchmark {config.name!r} needs a {split} split that is not empty: prepare the data with one"
            )
    return _REGISTRY.get(config.kind).run(config, encoder, datasets, run or BenchmarkRun())
