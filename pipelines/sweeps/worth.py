"""Whether a sweep's winner has learned anything: beside the networks without training that the sweep has scored."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.config import BenchmarkConfig, Recipe
from components.transfer.metrics.statistics import Z95, Measured, image_variance
from components.transfer.protocol import all_protocols, get_benchmark, get_protocol
from pipelines.recipes import load_recipe
from pipelines.steps.results import Finished
from pipelines.sweeps.config import Sweep
from pipelines.sweeps.objectives import UNIVERSAL
from pipelines.sweeps.records import RESCALED, Record
from pipelines.sweeps.trials import recipes_of
from pipelines.table import beside as standing_beside
from pipelines.tables.untrained import Worth, beside
from pipelines.transfer import measured_of, validation_step

ByRecipe = Mapping[str, Measured]
RANDOM = "random"


@dataclass(frozen=True)
class Validation:
    """The validation scores of a sweep, with the bootstrap samples that the steps left that measured them."""

    sweep: Sweep
    samples: int | None  # images of the validation split, on which all scores are; None: unknown
    finished: Finished | None = None  # where those steps are looked for

    def of(self, record: Record) -> ByRecipe:
        """The scores of a trial by recipe: those that its objective is made of."""
        bases, first = self.sweep.recipes, self.sweep.objectives[0].name
        values = record.scores if first == UNIVERSAL else {bases[0].name: record.values[first]}
        recipes = zip(bases, recipes_of(record.proposal, bases), strict=True)
        return {base.name: self._measured(base, recipe, values[base.name]) for base, recipe in recipes}

    def of_random(self, ends: Mapping[str, tuple[float, float]]) -> ByRecipe:
        """The scores of the random networks of a universal sweep, by recipe."""
        random = load_recipe(RANDOM)
        return {
            base.name: self._measured(base, standing_beside(base, random), ends[base.name][0])
            for base in self.sweep.recipes
        }

    def _measured(self, base: Recipe, recipe: Recipe, value: float) -> Measured:
        protocol = self._protocol(base)
        found = self.finished and self.finished.find(validation_step(recipe, protocol))
        if found:
            return measured_of({0: found.value})
        return Measured({0: value}, self.samples or 0, metric=get_benchmark(protocol).metric)

    def _protocol(self, base: Recipe) -> BenchmarkConfig:
        first = self.sweep.objectives[0].name
        return get_protocol(base.benchmarks[0] if first == UNIVERSAL else first)


def worth_of(
    winner: Record, records: Sequence[Record], ends: Mapping[str, tuple[float, float]], validation: Validation
) -> list[Worth]:
    """The winner beside every untrained network that the sweep has scored; empty where its objective is no transfer.

    ``ends``: of a universal sweep, by recipe, validation scores of random and supervised.
    """
    objective = validation.sweep.objectives[0].name
    rescaled = next((r for r in records if r.proposal.name == RESCALED and objective in r.values), None)
    if objective == UNIVERSAL:
        share, found = "of the gap between random and supervised, mean over tasks", validation.of(winner)
        half = _of_gaps(found, validation.of_random(ends), ends)
        worths = [Worth(RANDOM, winner.values[UNIVERSAL], 0.0, half, share)]
        if rescaled:
            half = _of_gaps(found, validation.of(rescaled), ends)
            worths.append(Worth(RESCALED, winner.values[UNIVERSAL], rescaled.values[UNIVERSAL], half, share))
        return worths
    if objective not in all_protocols() or rescaled is None:
        return []
    name = validation.sweep.recipes[0].name
    return [
        beside(
            RESCALED,
            validation.of(winner)[name],
            validation.of(rescaled)[name],
            f"{get_benchmark(get_protocol(objective)).metric} on validation",
        )
    ]


def _of_gaps(found: ByRecipe, other: ByRecipe, ends: Mapping[str, tuple[float, float]]) -> float | None:
    """Half the interval of the mean over tasks of a difference in units of each task's gap."""
    units = {name: 1 / (len(ends) * (high - low)) for name, (low, high) in ends.items()}
    parts = [(sign * units[name], each[name]) for name in ends for sign, each in ((1, found), (-1, other))]
    variance = image_variance(parts)
    return Z95 * math.sqrt(variance) if math.isfinite(variance) else None
