"""recipes x benchmarks -> the transfer table: every score beside random, rescaled and supervised encoders."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.config import DataConfig, EncoderConfig, Recipe
from components.tasks.base import get_task
from components.transfer.protocol import gap_closed, mean_interval
from pipelines import steps
from pipelines.recipes import load_benchmark, load_recipe
from pipelines.session import Session
from pipelines.steps import Planned, Step
from pipelines.transfer import best_val, transfer_step
from pipelines.workflow import StepResult, Workflow

YARDSTICKS = ("random", "rescaled", "supervised")
# What a yardstick takes over from the recipe that it stands beside, so that both see as much data in the same way.
SHARED = ("epochs", "batch", "seed", "workers", "cpus", "precision", "channels_last", "augment", "probe_every")

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """The finished table. ``rows`` is what a person reads; ``scores`` holds every single score with its protocol."""

    rows: list[Row]
    scores: list[dict[str, Any]]

    def to_json(self) -> str:
        """One line."""
        return json.dumps({"rows": self.rows, "scores": self.scores})

    def to_markdown(self) -> str:
        """The rows as a Markdown table."""
        columns = list(self.rows[0])
        lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        lines += ["| " + " | ".join(_text(row[column]) for column in columns) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Cell:
    """One score to be measured: a recipe with its seed, on a benchmark."""

    recipe: Recipe
    benchmark: str

    @property
    def step(self) -> Step:
        """The step that measures it."""
        return transfer_step(self.recipe, load_benchmark(self.benchmark))

    @property
    def place(self) -> tuple[str, DataConfig, EncoderConfig]:
        """Scores can be compared within one benchmark, one data set and one network."""
        return self.benchmark, self.recipe.data, self.recipe.encoder


def make_table(recipes: Sequence[Recipe], seeds: int, session: Session) -> Table:
    """Pretrain and score every recipe with ``seeds`` seeds, on every benchmark that it names, and put it in one table.

    Missing yardsticks are added. Raises what a step raises, after the others have finished.
    """
    cells = _cells(recipes, seeds)
    tables: list[Table] = []

    def report(workflow: Workflow, results: list[StepResult]) -> None:
        tables.append(_table(cells, results))
        _log(workflow, tables[0])

    steps.run([cell.step for cell in cells], session, "table", report)
    return tables[0]


def plan(recipes: Sequence[Recipe], seeds: int, session: Session) -> list[Planned]:
    """The steps that `make_table` would run or reuse."""
    return steps.plan([cell.step for cell in _cells(recipes, seeds)], session)


def _cells(recipes: Sequence[Recipe], seeds: int) -> list[Cell]:
    return [
        Cell(_with_seed(recipe, recipe.training.seed + k), benchmark)
        for recipe in [*_yardsticks(recipes), *recipes]
        for benchmark in recipe.benchmarks
        for k in range(seeds)
    ]


def _yardsticks(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The yardsticks that are not among the recipes, for every data set and network that is."""
    known = {(recipe.task, recipe.data, recipe.encoder) for recipe in recipes}
    added: list[Recipe] = []
    for like in recipes:
        for task in YARDSTICKS:
            if (task, like.data, like.encoder) not in known:
                known.add((task, like.data, like.encoder))
                added.append(_beside(like, load_recipe(task)))
    return added


def _beside(like: Recipe, yardstick: Recipe) -> Recipe:
    training = yardstick.training.model_copy(update={key: getattr(like.training, key) for key in SHARED})
    changes = {"data": like.data, "encoder": like.encoder, "benchmarks": like.benchmarks, "training": training}
    return yardstick.model_copy(update=changes)


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed})})


def _table(cells: Sequence[Cell], results: Sequence[StepResult]) -> Table:
    groups: dict[tuple[str, Any], list[tuple[Cell, StepResult]]] = {}
    for cell, result in zip(cells, results, strict=True):
        groups.setdefault((cell.recipe.name, cell.place), []).append((cell, result))
    tests = {
        (cell.recipe.task, cell.place): [result.value["value"] for _, result in members]
        for members in groups.values()
        for cell, _ in members[:1]
    }
    rows = [_row(members, tests) for members in groups.values()]
    scores = [
        {"recipe": cell.recipe.name, "seed": cell.recipe.training.seed, "run_id": result.run_id, **result.value}
        for cell, result in zip(cells, results, strict=True)
    ]
    return Table(sorted(rows, key=lambda row: (row["benchmark"], row["test top-1"])), scores)


def _row(members: list[tuple[Cell, StepResult]], tests: dict[Any, list[float]]) -> Row:
    cell = members[0][0]
    values = [result.value for _, result in members]
    test, half = mean_interval([100 * value["value"] for value in values])
    val, _ = mean_interval([100 * best_val(value) for value in values])
    ends = [mean_interval(tests[task, cell.place])[0] for task in ("random", "supervised")]
    closed = gap_closed(test / 100, *ends)
    return {
        "recipe": cell.recipe.name,
        "benchmark": cell.benchmark,
        "labels": "yes" if "label" in get_task(cell.recipe.task).needs else "no",
        "layer": "/".join(sorted({value["layer"] for value in values})),
        "val top-1": round(val, 2),
        "test top-1": round(test, 2),
        "±": None if half is None else round(half, 2),
        "gap closed": None if closed is None else round(closed, 3) + 0.0,  # no -0.0
        "seeds": len(values),
    }


def _log(workflow: Workflow, table: Table) -> None:
    """The table at the workflow's own run: as a table, as text, and as a picture."""
    tracker, run_id = workflow.tracker, workflow.run_id
    tracker.log_table(run_id, table.rows, "table.json")
    tracker.log_text(run_id, table.to_markdown(), "table.md")
    tracker.log_dict(run_id, {"scores": table.scores}, "scores.json")
    tracker.log_figure(run_id, figure(table), "table.png")
    tracker.log_metrics(run_id, {f"{row['benchmark']}/{row['recipe']}": row["test top-1"] for row in table.rows})


def figure(table: Table) -> Any:
    """Bars of test top-1 with their intervals, a panel per benchmark; yardsticks in grey, the others in colour."""
    from matplotlib.figure import Figure

    panels = {name: [row for row in table.rows if row["benchmark"] == name] for name in _benchmarks(table)}
    drawn = Figure(figsize=(7, 0.9 * len(panels) + 0.3 * len(table.rows)), layout="constrained")
    heights = [len(rows) + 2 for rows in panels.values()]
    axes_of = drawn.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    for axes, (name, rows) in zip(axes_of, panels.items(), strict=True):
        colours = ["#9a9a9a" if row["recipe"] in YARDSTICKS else "#2a6f97" for row in rows]
        scores, places = [row["test top-1"] for row in rows], range(len(rows))
        bars = axes.barh(places, scores, xerr=[row["±"] or 0 for row in rows], color=colours)
        axes.bar_label(bars, [f" {score:.1f}" for score in scores])
        axes.set_yticks(places, [row["recipe"] for row in rows])
        axes.set_xlabel(f"{name}: test top-1, %")
        axes.set_xlim(0, 1.12 * max(scores))
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def _benchmarks(table: Table) -> list[str]:
    return list(dict.fromkeys(row["benchmark"] for row in table.rows))


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
