"""Benchmarks and their scores. A new kind of benchmark is one new file beside this one: see docs/adding-a-benchmark.md.

It brings a configuration (a subclass of components.config.BenchmarkConfig) and a function decorated with
`register_benchmark`, which names one protocol or several: configurations that users ask for by name.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field

from components.config import BenchmarkConfig, Config
from components.errors import UserError, unknown
from components.networks.encoder import Encoder
from components.registry import Registry
from components.transfer.features import Dataset

UNTESTED = "there is no test split: layer and penalty were chosen on val, so the score is optimistic"
Z95 = 1.959964  # half of a normal distribution's 95 % interval, in standard deviations


class Score(Config):
    """What an encoder is worth on one benchmark, with everything that is needed to measure it again."""

    benchmark: str
    value: float = Field(description="the score on `split`, of the layer that was best on validation")
    metric: str = Field(description="top1: share of the samples whose most likely class is right, in [0, 1]")
    split: Literal["val", "test"] = Field(description="what `value` was measured on; val where no test split was given")
    n: int = Field(ge=1, description="samples that `value` is a mean over")
    layer: str
    layers: dict[str, float] = Field(description="the validation score of every layer, shallow to deep")
    protocol: dict[str, Any] = Field(description="configuration, choices made on validation, sizes, versions")


BySeed = Mapping[int, float]
Datasets = Mapping[str, Dataset]
Run = Callable[[Any, Encoder, Datasets, torch.device], Score]
Check = Callable[[Any, Encoder], object]


@dataclass(frozen=True)
class Benchmark:
    """A kind of benchmark: its protocols, and the functions that score an encoder and that check it before."""

    summary: str
    source: str  # the paper
    protocols: tuple[BenchmarkConfig, ...]
    run: Run
    check: Check  # raises UserError where an encoder and a configuration do not go together


_REGISTRY: Registry[Benchmark] = Registry("components.transfer", "kind of benchmark", "kinds of benchmark")


def register_benchmark(*protocols: BenchmarkConfig, summary: str, source: str, check: Check) -> Callable[[Run], Run]:
    """Decorator of the function that scores: makes a kind of benchmark known, with its protocols, all of one class."""

    def add(run: Run) -> Run:
        _REGISTRY.register(protocols[0].kind, Benchmark(summary, source, protocols, run, check), run)
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


def check_benchmark(config: BenchmarkConfig, encoder: Encoder) -> None:
    """Raise UserError where the encoder cannot be scored by the protocol ``config``, such as for a layer it lacks."""
    _REGISTRY.get(config.kind).check(config, encoder)


def run_benchmark(
    config: BenchmarkConfig, encoder: Encoder, datasets: Datasets, device: torch.device | str = "cpu"
) -> Score:
    """Score ``encoder`` by the protocol ``config``. ``datasets``: train, val and, to have the last word, test.

    Choices are made on ``val``; ``test`` is read once, after them. Leave it out while anything else is being chosen
    (a sweep): the score is then the validation's. Raises UserError for an unknown kind or layer, or a missing split.
    """
    for split in ("train", "val"):
        if split not in datasets or len(datasets[split]) == 0:
            raise UserError(
                f"benchmark {config.name!r} needs a {split} split that is not empty: prepare the data with one"
            )
    return _REGISTRY.get(config.kind).run(config, encoder, datasets, torch.device(device))


def gap_closed(score: float, random: float, supervised: float) -> float | None:
    """(score - random) / (supervised - random): 0 is a random network, 1 is supervised pretraining.

    May lie outside [0, 1]. None where supervised pretraining is not better than random: there is no gap to close.
    """
    return (score - random) / (supervised - random) if supervised > random else None


@dataclass(frozen=True)
class Estimate:
    """A figure, and half the width of its 95 % interval."""

    value: float
    half: float

    @property
    def is_positive(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.value > self.half

    def __str__(self) -> str:
        """In points of a score, and what is wrong with it as a gap to close."""
        lacking = "the gap is within its interval" if abs(self.value) <= self.half else "there is no gap"
        return f"{100 * self.value:+.1f} ± {100 * self.half:.1f} points{'' if self.is_positive else f': {lacking}'}"


def gap_between(random: BySeed, supervised: BySeed, n: int) -> Estimate:
    """Supervised minus random, both scores in [0, 1] by seed, each a mean over the same ``n`` samples.

    Two independent errors add up as squares: that of the seeds (Student, paired by seed; unknown with one) and that of
    the samples (`sampling_variance`; the scores are taken as independent, which for the same samples is too wide).
    """
    variance = sum(sampling_variance(_mean(scores), n) for scores in (random, supervised))
    seeds = _over_seeds([supervised[k] - random[k] for k in random if k in supervised])
    return Estimate(_mean(supervised) - _mean(random), math.hypot(seeds, Z95 * math.sqrt(variance)))


def gap_share(score: BySeed, random: BySeed, supervised: BySeed, n: int) -> Estimate | None:
    """`gap_closed` of the means over seeds, with its interval; None where the gap is within its own (`gap_between`).

    The interval is that of a ratio by the delta method: the error of score - random - share (supervised - random), in
    units of the gap, from the same two sources as in `gap_between`.
    """
    gap = gap_between(random, supervised, n)
    share = gap_closed(_mean(score), _mean(random), _mean(supervised))
    if share is None or not gap.is_positive:
        return None
    common = [k for k in score if k in random and k in supervised]
    left = [score[k] - random[k] - share * (supervised[k] - random[k]) for k in common]
    parts = ((1.0, score), (1 - share, random), (share, supervised))
    variance = sum(factor**2 * sampling_variance(_mean(scores), n) for factor, scores in parts)
    return Estimate(share, math.hypot(_over_seeds(left), Z95 * math.sqrt(variance)) / gap.value)


def sampling_variance(score: float, n: int) -> float:
    """The variance of a share of ``n`` samples that were right, over draws of the samples.

    One success and one failure are added, so that a share of 0 or 1 is not taken for certain (Agresti and Caffo 2000).
    """
    share = (score * n + 1) / (n + 2)
    return share * (1 - share) / (n + 2)


def _mean(scores: BySeed) -> float:
    return math.fsum(scores.values()) / len(scores)


def _over_seeds(values: Sequence[float]) -> float:
    """Half of Student's interval; 0 where one seed says nothing of it."""
    return (mean_interval(values)[1] or 0.0) if values else 0.0


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float | None]:
    """Mean and half width of Student's confidence interval over independent runs (seeds).

    None instead of the half width for a single run, which says nothing of its spread. Raises ValueError without values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values to average")
    mean = math.fsum(values) / n
    if n == 1:
        return mean, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, t_quantile(0.5 + level / 2, n - 1) * deviation / math.sqrt(n)


def t_quantile(probability: float, freedom: int) -> float:
    """The ``probability`` quantile (in [0.5, 1)) of Student's t distribution with ``freedom`` >= 1 degrees."""
    if not (0.5 <= probability < 1 and freedom >= 1):
        raise ValueError(f"t quantile of probability {probability} with {freedom} degrees of freedom")
    # t = sqrt(freedom) tan(angle): bisection over the angle is bounded however heavy the tail.
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < 2 * probability - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _t_within(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(freedom) tan(angle)) (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total
