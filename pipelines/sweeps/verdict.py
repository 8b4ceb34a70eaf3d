"""Whether what was found is better: fresh seeds, the untouched test split, pairs of trainings that differ in nothing
but what is compared."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from components.config import Recipe
from components.errors import Diverged
from components.transfer.metrics.statistics import mean_interval
from components.transfer.protocol import get_protocol
from pipelines.sweeps.trials import Steps
from pipelines.table import with_seed
from pipelines.transfer import transfer_step

BETTER, WORSE, SAME = "better", "worse", "no better"


@dataclass(frozen=True)
class Comparison:
    """The scores of two recipes on the split, by seed, in [0, 1]; None for a training that diverged."""

    name: str
    against: str
    seeds: tuple[int, ...]
    found: tuple[float | None, ...]
    other: tuple[float | None, ...]
    split: str = "test"  # val where there is no test split

    @property
    def differences(self) -> list[float]:
        """Found minus other, of the seeds with which both trainings ended."""
        return [a - b for a, b in zip(self.found, self.other, strict=True) if a is not None and b is not None]

    @property
    def interval(self) -> tuple[float, float | None]:
        """Mean difference, and half of Student's 95 % interval over the seeds."""
        return mean_interval(self.differences)

    @property
    def outcome(self) -> str:
        """Better or worse only where the whole interval says so; what diverges with a fresh seed is worse."""
        if None in self.found and None not in self.other:
            return WORSE
        if len(self.differences) < 2:
            return SAME
        mean, half = self.interval
        assert half is not None
        return BETTER if mean - half > 0 else WORSE if mean + half < 0 else SAME

    def sentence(self, unit: float = 100.0, what: str = "points of {split} top-1") -> str:
        """The verdict for people; it says where there was no test split."""
        diverged = [seed for seed, score in zip(self.seeds, self.found, strict=True) if score is None]
        if diverged:
            seeds = ", ".join(map(str, diverged))
            return f"{self.name}: {self.outcome} than {self.against}: diverged with seed {seeds}"
        if not self.differences:
            return f"{self.name}: {self.outcome} than {self.against}: no pair of trainings ended"
        mean, half = self.interval
        width = "" if half is None else f" ± {unit * half:.2f}"
        untested = "" if self.split == "test" else "; there is no test split, and the winner was chosen on this one"
        return (
            f"{self.name}: {self.outcome} than {self.against}: {unit * mean:+.2f}{width} "
            f"{what.format(split=self.split)} (95 %, {len(self.differences)} fresh seeds, paired{untested})"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; `comparison_of` reads it back."""
        return asdict(self)


def comparison_of(values: dict[str, Any]) -> Comparison:
    """The comparison that `Comparison.to_json` wrote."""
    lists = {key: tuple(values[key]) for key in ("seeds", "found", "other")}
    return Comparison(values["name"], values["against"], **lists, split=values.get("split", "test"))


def fresh_seeds(recipe: Recipe, count: int) -> tuple[int, ...]:
    """Seeds that no trial has seen."""
    return tuple(recipe.training.seed + 1 + k for k in range(count))


def scores_on_test(
    recipes: Mapping[str, Recipe], seeds: int, benchmark: str, steps: Steps, parent: str, side_by_side: int
) -> dict[str, dict[int, float | None]]:
    """{name: {seed: test score}} of recipes trained with fresh seeds; None where the training diverged.

    These are the steps that `genoise table` would run for them.
    """

    def score(recipe: Recipe) -> float | None:
        try:
            return float(steps.result(transfer_step(recipe, get_protocol(benchmark)), parent).value.value)
        except Diverged:
            return None

    seeded = {
        (name, seed): with_seed(recipe, seed) for name, recipe in recipes.items() for seed in fresh_seeds(recipe, seeds)
    }
    with ThreadPoolExecutor(side_by_side) as pool:
        found = dict(zip(seeded, pool.map(score, seeded.values()), strict=True))
    return {name: {seed: found[name, seed] for n, seed in seeded if n == name} for name in recipes}


def compare(
    name: str,
    against: str,
    found: Mapping[int, float | None],
    other: Mapping[int, float | None],
    split: str = "test",
) -> Comparison:
    """The comparison of two recipes, paired by seed."""
    seeds = tuple(sorted(found))
    return Comparison(name, against, seeds, tuple(found[s] for s in seeds), tuple(other[s] for s in seeds), split)


def mean_comparison(comparisons: Sequence[Comparison], gaps: Mapping[str, float], name: str) -> Comparison:
    """One comparison of several tasks: scores in units of each task's gap between random and supervised, averaged."""

    def means(column: str) -> tuple[float | None, ...]:
        rows = [[None if s is None else s / gaps[c.name] for s in getattr(c, column)] for c in comparisons]
        return tuple(
            None if None in scores else sum(s for s in scores if s is not None) / len(scores)
            for scores in zip(*rows, strict=True)
        )

    first = comparisons[0]
    return Comparison(name, first.against, first.seeds, means("found"), means("other"), first.split)
