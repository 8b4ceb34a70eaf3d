"""What the two steps of a sweep leave: the search, and the verdict on what it found."""

from pydantic import Field

from pipelines.steps.results import Json, StepValue
from pipelines.sweeps.records import Record, record_of
from pipelines.sweeps.verdict import Comparison, comparison_of


class Searched(StepValue):
    """What a search leaves."""

    winner: int = Field(description="number of the trial that won")
    front: tuple[int, ...] = Field(description="numbers of the trials that no other beats in every objective")
    side_by_side: int = Field(description="trials that ran at a time")
    steps: int = Field(description="optimizer steps of a whole training")
    yardsticks: tuple[float, ...] = Field((), description="of a universal sweep: random, supervised of each recipe")
    validation: int | None = Field(None, description="samples of the validation split")
    trials: tuple[Json, ...] = Field(description="records of all trials, as they are written")

    @property
    def records(self) -> list[Record]:
        """What became of every trial."""
        return [record_of(values) for values in self.trials]

    def ends(self, place: int) -> tuple[float, float]:
        """Of a universal sweep: the scores of random and supervised for the recipe at that place."""
        return self.yardsticks[2 * place], self.yardsticks[2 * place + 1]


class Judged(StepValue):
    """What a verdict leaves."""

    benchmark: str
    sentences: tuple[str, ...] = Field(description="the verdict for people, the whole one first")
    comparisons: tuple[Json, ...] = Field(description="the figures, as they are written")

    @property
    def all_comparisons(self) -> list[Comparison]:
        """The figures, the whole one first."""
        return [comparison_of(values) for values in self.comparisons]
