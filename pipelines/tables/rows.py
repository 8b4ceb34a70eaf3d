"""From scores to a table: means over seeds, intervals, shares of the gap, and what has to be said of them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from components.config import Recipe
from components.errors import Diverged
from components.tasks.base import parts_of
from components.transfer.metrics.statistics import Measured, gap_between, gap_share, score_interval
from components.transfer.probe import WIDEN
from components.transfer.protocol import get_benchmark, get_protocol
from pipelines.recipe_checks import data_name
from pipelines.steps.results import Json, StepResult
from pipelines.steps.step import Step
from pipelines.tables.figure import YARDSTICKS, Row, shown_score
from pipelines.tables.texts import markdown
from pipelines.transfer import Scored, measured_of, transfer_step

ENDS = ("random", "supervised")  # between which gaps are measured

Setting = tuple[str, str]  # data that scores, and network
Place = tuple[str, ...]
Result = StepResult[Scored] | Diverged


@dataclass(frozen=True)
class Table:
    """The finished table. ``rows`` is what a person reads; ``scores`` holds every single score with its protocol;
    ``notes`` say what a person must know to read the rows."""

    rows: list[Row]
    scores: list[Json]
    notes: list[str]

    def to_json(self) -> str:
        """One line."""
        return json.dumps({"rows": self.rows, "scores": self.scores, "notes": self.notes})

    def to_markdown(self) -> str:
        """The rows as a Markdown table, and the notes below it."""
        return markdown(self.rows, self.notes)


@dataclass(frozen=True)
class Cell:
    """One score to be measured: a recipe with its seed, on a benchmark."""

    recipe: Recipe
    benchmark: str

    @cached_property
    def step(self) -> Step[Scored]:
        """The step that measures it."""
        return transfer_step(self.recipe, get_protocol(self.benchmark))

    @cached_property
    def place(self) -> Place:
        """Scores can be compared within one benchmark, one data set and one network."""
        return self.benchmark, *setting_of(self.recipe, self.benchmark)


def setting_of(recipe: Recipe, benchmark: str) -> Setting:
    """The data that a benchmark scores a recipe on, and the recipe's network: yardsticks are of one of each."""
    return recipe.scored_on(benchmark).canonical(), recipe.encoder.canonical()


def epochs_of(recipe: Recipe) -> float:
    """Passes over the training split; 0 for a task that trains nothing."""
    return recipe.training.epochs if parts_of(recipe.task, recipe.options).players else 0.0


@dataclass(frozen=True)
class Group:
    """One row in the making: a recipe on a benchmark, and the scores of its seeds that did not diverge."""

    recipe: Recipe
    benchmark: str
    seeds: int
    values: dict[int, Scored]  # by place among the seeds

    @property
    def split(self) -> str | None:
        """What was scored, ``test`` or, where there is none, ``val``; None where nothing was."""
        return next((value.split for value in self.values.values()), None)

    @property
    def measured(self) -> Measured:
        """The scores on that split, in [0, 1]; there must be some."""
        return measured_of(self.values)


def table_of(cells: Sequence[Cell], results: Sequence[Result]) -> Table:
    """The table of all scores; the benchmarks in the order in which the rows name them."""
    groups: dict[tuple[str, Place], Group] = {}
    scores: list[Json] = []
    for cell, result in zip(cells, results, strict=True):
        key = cell.recipe.name, cell.place
        before = groups.get(key, Group(cell.recipe, cell.benchmark, 0, {}))
        groups[key] = replace(before, seeds=before.seeds + 1)
        score = {"recipe": cell.recipe.name, "seed": cell.recipe.training.seed}
        score |= {"on": data_name(cell.recipe.scored_on(cell.benchmark))}
        if isinstance(result, Diverged):
            scores.append(score | {"benchmark": cell.benchmark, "diverged": str(result)})
        else:
            before.values[before.seeds] = result.value
            known = {key: value for key, value in result.value.to_json().items() if key != "resampled"}
            scores.append(score | {"run_id": result.run_id, **known})
    by_place: dict[Place, list[Group]] = {}
    for (_, place), group in groups.items():
        by_place.setdefault(place, []).append(group)
    rows: list[Row] = []
    notes = dict.fromkeys(data_notes([cell.recipe for cell in cells]))  # each said once
    for together in by_place.values():
        ends = [_end(task, together) for task in ENDS]
        rows += [_row(group, ends) for group in together]
        notes |= dict.fromkeys(_notes(together, ends, f" ({together[0].benchmark})" if len(by_place) > 1 else ""))
    own = [cell.benchmark for cell in cells if cell.recipe.task not in YARDSTICKS]
    order = list(dict.fromkeys([*own, *(cell.benchmark for cell in cells)]))

    def rank(row: Row) -> tuple[int, str, str, float]:
        return order.index(row["benchmark"]), row["on"], row["network"], shown_score(row) or 0.0

    return Table(sorted(rows, key=rank), scores, list(notes))


def is_end(recipe: Recipe, task: str, together: Sequence[Recipe]) -> bool:
    """Whether a recipe is the random or the supervised end of the gap in a place: alone of its task, or so named."""
    rivals = {each.name for each in together if each.task == task}
    return recipe.task == task and (len(rivals) == 1 or recipe.name == task)


def _end(task: str, together: Sequence[Group]) -> Group | None:
    """The row of a yardstick, if it has scores."""
    recipes = [group.recipe for group in together]
    return next((g for g in together if is_end(g.recipe, task, recipes) and g.values), None)


def _row(group: Group, ends: Sequence[Group | None]) -> Row:
    values, diverged = group.values, group.seeds - len(group.values)
    scores = [100 * value.value for value in values.values()]
    mean = math.fsum(scores) / len(scores) if values else None
    val = math.fsum(100 * value.best_val for value in values.values()) / len(scores) if values else None
    seeds, images = score_interval(group.measured) if values else (None, None)
    known = [half for half in (seeds, images) if half is not None]
    closed, width = _closed(group, ends)
    network = group.recipe.encoder
    return {
        "recipe": group.recipe.name,
        "benchmark": group.benchmark,
        "metric": get_benchmark(get_protocol(group.benchmark)).metric,
        "on": data_name(group.recipe.scored_on(group.benchmark)),
        "network": f"{network.name} of width {network.width}",
        "labels": "yes" if "label" in parts_of(group.recipe.task, group.recipe.options).needs else "no",
        "layer": "/".join(sorted({value.layer for value in values.values()})) or None,
        "val": _rounded(val, 2),
        "test": _rounded(mean, 2) if group.split == "test" else None,
        "±": _rounded(100 * math.hypot(*known) if known else None, 2),
        "seeds ±": _rounded(None if seeds is None else 100 * seeds, 2),
        "images ±": _rounded(None if images is None else 100 * images, 2),
        "gap closed": _rounded(closed, 3),
        "gap ±": _rounded(width, 3),
        "split": group.split,
        "epochs": epochs_of(group.recipe),
        "seeds": f"{len(values)} ({diverged} diverged)" if diverged else len(values),
    }


def _closed(group: Group, ends: Sequence[Group | None]) -> tuple[float | None, float | None]:
    """The share of the gap, and half its interval; the ends are 0 and 1 by definition, and have none."""
    random, supervised = ends
    if not (group.values and random and supervised):
        return None, None
    share = gap_share(group.measured, random.measured, supervised.measured)
    if share is None:
        return None, None
    return share.value, None if group in ends else share.known


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits) + 0.0  # no -0.0


def data_notes(recipes: Sequence[Recipe]) -> list[str]:
    """Which row saw what, where rows are scored on other data than they were trained on."""
    notes: dict[str, list[str]] = {}
    for recipe in recipes:
        for benchmark in recipe.benchmarks if parts_of(recipe.task, recipe.options).players else ():
            place = recipe.place_of(benchmark)
            if place is None:
                continue
            trained, scored = data_name(recipe.data), data_name(place)
            what = f"trained on {trained}, scored on {scored}"
            if recipe.task == "supervised" and recipe.data in recipe.places:
                seen = f"trained on what is scored, {scored}" if recipe.data == place else what
                what = f"{seen}: the others' data has no labels"
            notes.setdefault(what, []).append(recipe.name)
    return [f"{', '.join(sorted(set(names)))}: {what}" for what, names in notes.items()]


def _notes(together: Sequence[Group], ends: Sequence[Group | None], where: str) -> list[str]:
    """What has to be said of the rows of one place; ``where``: which one, if there are several."""
    notes = []
    recipes = [group.recipe for group in together]
    trained = [recipe for recipe in recipes if recipe.task not in YARDSTICKS]
    random, supervised = ends
    if supervised and {epochs_of(recipe) for recipe in trained} - {epochs_of(supervised.recipe)}:
        length, others = epochs_of(supervised.recipe), [f"{r.name} {epochs_of(r):g}" for r in trained]
        longest = max(map(epochs_of, trained))
        why = "as long as the longest of the others" if length == longest else "as its own recipe says"
        notes.append(
            f"{supervised.recipe.name} was trained for {length:g} epochs, {why}; epochs: {', '.join(sorted(others))}"
        )
    if not any(recipe.task == "supervised" for recipe in recipes):
        notes.append(
            f"no supervised row{where}, and no gap closed: none of the data has labels to train it on; a recipe of "
            "task supervised with labelled `data` of its own brings one"
        )
    if unseen := sorted(group.recipe.name for group in together if group.split == "val"):
        notes.append(
            f"no test split{where}: {', '.join(unseen)}: ± and gap closed are of val, on which layer and penalty were "
            "chosen, so it is optimistic"
        )
    if random and supervised:
        gap = gap_between(random.measured, supervised.measured)
        if not gap.is_positive:
            notes.append(
                f"no gap closed on {together[0].benchmark}: from {random.recipe.name} to {supervised.recipe.name} it "
                f"is {gap}; train longer, or on more data"
            )
    if edged := sorted({group.recipe.name for group in together if any(map(_at_edge, group.values.values()))}):
        notes.append(
            f"the best penalty of the probe of {', '.join(edged)} is the last that was tried, {WIDEN} decades outside "
            "the grid: a better one may lie beyond"
        )
    return notes


def _at_edge(value: Scored) -> bool:
    layers = value.protocol.get("layers", {})
    return bool(layers.get(value.layer, {}).get("at_edge"))


def metrics(table: Table) -> dict[str, float]:
    """{benchmark/recipe: score on test}; what was measured on validation says so in its name."""
    scores = {
        f"{row['benchmark']}/{'val/' if row['split'] == 'val' else ''}{row['recipe']}": shown_score(row)
        for row in table.rows
    }
    return {name: score for name, score in scores.items() if score is not None}
