"""recipes x benchmarks -> the transfer table: every score beside random, rescaled and supervised encoders."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.config import Recipe
from components.errors import Diverged
from components.tasks.base import get_task
from components.transfer.protocol import gap_closed, mean_interval
from pipelines import steps
from pipelines.checks import data_name, has_labels
from pipelines.recipes import load_benchmark, load_recipe
from pipelines.session import Session
from pipelines.steps import Planned, Step
from pipelines.sweeps.worth import LEARNED, WARNING, is_learned, warnings_of
from pipelines.sweeps.worth import beside as beside_untrained
from pipelines.transfer import best_val, transfer_step
from pipelines.workflow import StepResult, Workflow

YARDSTICKS = ("random", "rescaled", "supervised")
UNTRAINED = ("random", "rescaled")
# What a yardstick takes over from the recipe that it stands beside, so that both see as much data in the same way.
SHARED = ("epochs", "batch", "seed", "workers", "cpus", "precision", "channels_last", "augment", "probe_every")

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """The finished table. ``rows`` is what a person reads; ``scores`` holds every single score with its protocol;
    ``notes`` say what a person must know to read the rows."""

    rows: list[Row]
    scores: list[dict[str, Any]]
    notes: list[str]

    def to_json(self) -> str:
        """One line."""
        return json.dumps({"rows": self.rows, "scores": self.scores, "notes": self.notes})

    def to_markdown(self) -> str:
        """The rows as a Markdown table, and the notes below it."""
        columns = list(self.rows[0])
        lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        lines += ["| " + " | ".join(_text(row[column]) for column in columns) + " |" for row in self.rows]
        lines += [f"\n{note}" for note in self.notes]
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
    def place(self) -> tuple[str, ...]:
        """Scores can be compared within one benchmark, one data set and one network."""
        return self.benchmark, *_setting(self.recipe)


def make_table(recipes: Sequence[Recipe], seeds: int, session: Session) -> Table:
    """Pretrain and score every recipe with ``seeds`` seeds, on every benchmark that it names, and put it in one table.

    Missing yardsticks are added. A training that diverged is a row that says so. Raises what else a step raises, after
    the others have finished.
    """
    cells = _cells(recipes, seeds)
    tables: list[Table] = []

    def report(workflow: Workflow, results: list[StepResult | Diverged]) -> None:
        tables.append(_table(cells, results))
        _log(workflow, tables[0])
        for model, tags in tags_of_models(cells, results).items():
            workflow.tracker.tag_version(model, tags)

    steps.run_and_report([cell.step for cell in cells], session, "table", report)
    return tables[0]


def plan(recipes: Sequence[Recipe], seeds: int, session: Session) -> list[Planned]:
    """The steps that `make_table` would run or reuse."""
    return steps.plan([cell.step for cell in _cells(recipes, seeds)], session)


def _cells(recipes: Sequence[Recipe], seeds: int) -> list[Cell]:
    recipes = [on_labels(recipe) for recipe in recipes]
    return [
        Cell(with_seed(recipe, recipe.training.seed + k), benchmark)
        for recipe in [*_yardsticks(recipes), *recipes]
        for benchmark in recipe.benchmarks
        for k in range(seeds)
    ]


def _yardsticks(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The yardsticks that are not among the recipes, for every data set and network that is."""
    known = {(recipe.task, *_setting(recipe)) for recipe in recipes}
    added: list[Recipe] = []
    for like in recipes:
        for task in YARDSTICKS:
            if (task, *_setting(like)) not in known:
                known.add((task, *_setting(like)))
                added.append(beside(like, load_recipe(task)))
    return added


def _setting(recipe: Recipe) -> tuple[str, str]:
    return recipe.scored.canonical(), recipe.encoder.canonical()


def beside(like: Recipe, yardstick: Recipe) -> Recipe:
    """The yardstick as it stands beside a recipe: same data, same network, trained as long."""
    training = yardstick.training.model_copy(update={key: getattr(like.training, key) for key in SHARED})
    changes = {"data": like.data, "encoder": like.encoder, "benchmarks": like.benchmarks, "training": training}
    return on_labels(yardstick.model_copy(update=changes | {"score_on": like.score_on}))


def on_labels(recipe: Recipe) -> Recipe:
    """The recipe; supervised training takes place on the data that is scored where the other has no labels."""
    if recipe.task == "supervised" and recipe.score_on and not has_labels(recipe.data):
        return recipe.model_copy(update={"data": recipe.score_on})
    return recipe


def data_notes(recipes: Sequence[Recipe]) -> list[str]:
    """Which row saw what, where rows are scored on other data than they were trained on."""
    elsewhere = [recipe for recipe in recipes if recipe.score_on and get_task(recipe.task).players]
    notes: dict[str, list[str]] = {}
    for recipe in elsewhere:
        trained, scored = data_name(recipe.data), data_name(recipe.scored)
        what = f"trained on {trained}, scored on {scored}"
        if recipe.data == recipe.score_on and recipe.task == "supervised":
            what = f"trained on what is scored, {scored}: the others' data has no labels"
        notes.setdefault(what, []).append(recipe.name)
    return [f"{', '.join(sorted(set(names)))}: {what}" for what, names in notes.items()]


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with another seed."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed})})


def _table(cells: Sequence[Cell], results: Sequence[StepResult | Diverged]) -> Table:
    groups: dict[tuple[str, tuple[str, ...]], list[Cell]] = {}
    values: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = {}
    scores: list[dict[str, Any]] = []
    for cell, result in zip(cells, results, strict=True):
        group = cell.recipe.name, cell.place
        groups.setdefault(group, []).append(cell)
        finished = values.setdefault(group, [])
        score = {"recipe": cell.recipe.name, "seed": cell.recipe.training.seed}
        if isinstance(result, Diverged):
            scores.append(score | {"benchmark": cell.benchmark, "diverged": str(result)})
        else:
            finished.append(result.value)
            scores.append(score | {"run_id": result.run_id, **result.value})
    tests = {
        (members[0].recipe.task, members[0].place): [value["value"] for value in values[group]]
        for group, members in groups.items()
    }
    rows = [_row(members, values[group], tests) for group, members in groups.items()]
    notes = data_notes([cell.recipe for cell in cells])
    return Table(sorted(rows, key=lambda row: (row["benchmark"], row["test top-1"] or 0.0)), scores, notes)


def _row(members: list[Cell], values: list[dict[str, Any]], tests: dict[Any, list[float]]) -> Row:
    """The row of one recipe; ``values`` are those of its seeds that did not diverge."""
    cell = members[0]
    row = {
        "recipe": cell.recipe.name,
        "benchmark": cell.benchmark,
        "labels": "yes" if "label" in get_task(cell.recipe.task).needs else "no",
        "layer": "/".join(sorted({value["layer"] for value in values})) or None,
    }
    val, test, half, closed = None, None, None, None
    if values:
        test, half = mean_interval([100 * value["value"] for value in values])
        val, _ = mean_interval([100 * best_val(value) for value in values])
        ends = [tests[task, cell.place] for task in ("random", "supervised")]
        closed = gap_closed(test / 100, *(mean_interval(end)[0] for end in ends)) if all(ends) else None
    diverged = len(members) - len(values)
    return row | {
        "val top-1": None if val is None else round(val, 2),
        "test top-1": None if test is None else round(test, 2),
        "±": None if half is None else round(half, 2),
        "gap closed": None if closed is None else round(closed, 3) + 0.0,  # no -0.0
        "seeds": f"{len(values)} ({diverged} diverged)" if diverged else len(values),
    }


def tags_of_models(cells: Sequence[Cell], results: Sequence[StepResult | Diverged]) -> dict[str, dict[str, str]]:
    """{registered model: tags}: whether it is better than the untrained networks of its place and seed."""
    scored = [(c, r.value) for c, r in zip(cells, results, strict=True) if isinstance(r, StepResult)]
    tags = {}
    for cell, value in scored:
        if "model" not in value:
            continue
        unit, place = f"top-1 on {value.get('split', 'test')}", (cell.place, cell.recipe.training.seed)
        worths = [
            beside_untrained(other.recipe.task, value["value"], found["value"], value.get("n"), unit, cell.recipe.name)
            for other, found in scored
            if other.recipe.task in UNTRAINED and (other.place, other.recipe.training.seed) == place
        ]
        tags[value["model"]] = {LEARNED: is_learned(worths), WARNING: "; ".join(warnings_of(worths))}
    return tags


def _log(workflow: Workflow, table: Table) -> None:
    """The table at the workflow's own run: as a table, as text, and as a picture."""
    tracker, run_id = workflow.tracker, workflow.run_id
    tracker.log_table(run_id, table.rows, "table.json")
    tracker.log_text(run_id, table.to_markdown(), "table.md")
    tracker.log_dict(run_id, {"scores": table.scores}, "scores.json")
    tracker.log_figure(run_id, figure(table), "table.png")
    scores = {f"{row['benchmark']}/{row['recipe']}": row["test top-1"] for row in table.rows}
    tracker.log_metrics(run_id, {name: score for name, score in scores.items() if score is not None})


def figure(table: Table) -> Any:
    """Bars of test top-1 with their intervals, a panel per benchmark; yardsticks in grey, the others in colour."""
    from matplotlib.figure import Figure

    scored = [row for row in table.rows if row["test top-1"] is not None]
    panels = {name: [row for row in scored if row["benchmark"] == name] for name in _benchmarks(scored)}
    drawn = Figure(figsize=(7, 0.9 * len(panels) + 0.3 * len(scored)), layout="constrained")
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


def _benchmarks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["benchmark"] for row in rows))


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
