"""recipes x benchmarks -> the transfer table: every score beside random, rescaled and supervised encoders."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.config import Recipe, Role, TrainingConfig, keys_with
from components.errors import Diverged, UserError
from components.tasks.base import parts_of
from components.transfer.probe import WIDEN
from components.transfer.protocol import get_benchmark, get_protocol
from components.transfer.statistics import Measured, gap_between, gap_share, mean_interval
from pipelines.recipe_checks import data_name, has_labels
from pipelines.recipes import load_recipe
from pipelines.session import Session
from pipelines.steps import scheduling
from pipelines.steps.results import Json, StepResult
from pipelines.steps.step import Planned, Step
from pipelines.steps.workflow import Workflow
from pipelines.tables.figure import UNTRAINED, YARDSTICKS, Row, figure, shown_score
from pipelines.tables.untrained import LEARNED, WARNING, is_learned, warnings_of
from pipelines.tables.untrained import beside as beside_untrained
from pipelines.transfer import Scored, measured_of, transfer_step

ENDS = ("random", "supervised")  # between which gaps are measured

Place = tuple[str, ...]


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
    def step(self) -> Step[Scored]:
        """The step that measures it."""
        return transfer_step(self.recipe, get_protocol(self.benchmark))

    @property
    def place(self) -> Place:
        """Scores can be compared within one benchmark, one data set and one network."""
        return self.benchmark, *_setting(self.recipe)


def make_table(recipes: Sequence[Recipe], seeds: int, session: Session, overrides: Sequence[str] = ()) -> Table:
    """Pretrain and score every recipe with ``seeds`` seeds, on every benchmark that it names, and put it in one table.

    Missing yardsticks are added (see `yardsticks`). A training that diverged is a row that says so. Raises UserError
    where it is not clear which row is a yardstick, and what else a step raises, after the others have finished.
    """
    cells = _cells(recipes, seeds, overrides)
    tables: list[Table] = []

    def report(workflow: Workflow, results: list[StepResult[Scored] | Diverged]) -> None:
        tables.append(_table(cells, results))
        _log(workflow, tables[0])
        for model, tags in tags_of_models(cells, results).items():
            workflow.tracker.models.tag_version(model, tags)

    scheduling.run_and_report([cell.step for cell in cells], session, "table", report)
    return tables[0]


def plan(recipes: Sequence[Recipe], seeds: int, session: Session, overrides: Sequence[str] = ()) -> list[Planned]:
    """The steps that `make_table` would run or reuse."""
    return scheduling.plan([cell.step for cell in _cells(recipes, seeds, overrides)], session)


def _cells(recipes: Sequence[Recipe], seeds: int, overrides: Sequence[str] = ()) -> list[Cell]:
    recipes = [on_labels(recipe) for recipe in recipes]
    added = yardsticks(recipes, overrides)
    _check_yardsticks([*added, *recipes])
    return [
        Cell(with_seed(recipe, recipe.training.seed + k), benchmark)
        for recipe in [*added, *recipes]
        for benchmark in recipe.benchmarks
        for k in range(seeds)
    ]


def yardsticks(recipes: Sequence[Recipe], overrides: Sequence[str] = ()) -> list[Recipe]:
    """The yardsticks that are not among the recipes, for every data set and network that is.

    They stand beside the recipe that trains longest there (of equal ones the first by name), whatever the order of the
    recipes, and on all the benchmarks of that place. Where none trains, `supervised` is as long as it is by itself,
    with ``overrides`` (``key=value``) laid over it.
    """
    places: dict[tuple[str, str], list[Recipe]] = {}
    for recipe in recipes:
        places.setdefault(_setting(recipe), []).append(recipe)
    added: list[Recipe] = []
    for there in places.values():
        like = _longest(there)
        if not epochs_of(like):
            epochs = load_recipe("supervised", overrides).training.epochs
            like = like.model_copy(update={"training": like.training.model_copy(update={"epochs": epochs})})
        benchmarks = tuple(sorted({name for recipe in there for name in recipe.benchmarks}))
        like = like.model_copy(update={"benchmarks": benchmarks})
        known = {recipe.task for recipe in there}
        added += [beside(like, load_recipe(task)) for task in YARDSTICKS if task not in known]
    return added


def _longest(recipes: Sequence[Recipe]) -> Recipe:
    return min(recipes, key=lambda recipe: (-epochs_of(recipe), recipe.name))


def epochs_of(recipe: Recipe) -> float:
    """Passes over the training split; 0 for a task that trains nothing."""
    return recipe.training.epochs if parts_of(recipe.task, recipe.options).players else 0.0


def _check_yardsticks(recipes: Sequence[Recipe]) -> None:
    """UserError where several rows could be the random or the supervised end of one gap, and none has its name."""
    for task in ENDS:
        found: dict[tuple[str, str], list[str]] = {}
        for recipe in recipes:
            if recipe.task == task:
                found.setdefault(_setting(recipe), []).append(recipe.name)
        for names in found.values():
            if len(names) > 1 and task not in names:
                raise UserError(
                    f"{' and '.join(sorted(names))} are recipes of task {task!r} on the same data and network: "
                    f"name the one between which gaps are measured {task!r}, or leave the others out"
                )


def _is_end(recipe: Recipe, task: str, beside: Sequence[Recipe]) -> bool:
    """Whether a recipe is the random or the supervised end of the gap in its place: alone of its task, or so named."""
    rivals = {each.name for each in beside if each.task == task and _setting(each) == _setting(recipe)}
    return recipe.task == task and (len(rivals) == 1 or recipe.name == task)


def _setting(recipe: Recipe) -> tuple[str, str]:
    return recipe.scored.canonical(), recipe.encoder.canonical()


def beside(like: Recipe, yardstick: Recipe) -> Recipe:
    """The yardstick as it stands beside a recipe: same data, same network, trained as long."""
    shared = keys_with(TrainingConfig, Role.BESIDE)
    training = yardstick.training.model_copy(update={key: getattr(like.training, key) for key in shared})
    changes = {"data": like.data, "encoder": like.encoder, "benchmarks": like.benchmarks, "training": training}
    return on_labels(yardstick.model_copy(update=changes | {"score_on": like.score_on}))


def on_labels(recipe: Recipe) -> Recipe:
    """The recipe; supervised training takes place on the data that is scored where the other has no labels."""
    if recipe.task == "supervised" and recipe.score_on and not has_labels(recipe.data):
        return recipe.model_copy(update={"data": recipe.score_on})
    return recipe


def data_notes(recipes: Sequence[Recipe]) -> list[str]:
    """Which row saw what, where rows are scored on other data than they were trained on."""
    elsewhere = [recipe for recipe in recipes if recipe.score_on and parts_of(recipe.task, recipe.options).players]
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


def _table(cells: Sequence[Cell], results: Sequence[StepResult[Scored] | Diverged]) -> Table:
    groups: dict[tuple[str, Place], Group] = {}
    scores: list[Json] = []
    for cell, result in zip(cells, results, strict=True):
        key = cell.recipe.name, cell.place
        before = groups.get(key, Group(cell.recipe, cell.benchmark, 0, {}))
        groups[key] = replace(before, seeds=before.seeds + 1)
        score = {"recipe": cell.recipe.name, "seed": cell.recipe.training.seed}
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
        notes |= dict.fromkeys(_notes(together, ends))
    return Table(sorted(rows, key=lambda row: (row["benchmark"], shown_score(row) or 0.0)), scores, list(notes))


def _end(task: str, together: Sequence[Group]) -> Group | None:
    """The row of a yardstick, if it has scores."""
    recipes = [group.recipe for group in together]
    return next((g for g in together if _is_end(g.recipe, task, recipes) and g.values), None)


def _row(group: Group, ends: Sequence[Group | None]) -> Row:
    values, diverged = group.values, group.seeds - len(group.values)
    mean, half = mean_interval([100 * value.value for value in values.values()]) if values else (None, None)
    val = mean_interval([100 * value.best_val for value in values.values()])[0] if values else None
    closed, width = _closed(group, ends)
    return {
        "recipe": group.recipe.name,
        "benchmark": group.benchmark,
        "metric": get_benchmark(get_protocol(group.benchmark)).metric,
        "labels": "yes" if "label" in parts_of(group.recipe.task, group.recipe.options).needs else "no",
        "layer": "/".join(sorted({value.layer for value in values.values()})) or None,
        "val": _rounded(val, 2),
        "test": _rounded(mean, 2) if group.split == "test" else None,
        "±": _rounded(half, 2),
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


def _notes(together: Sequence[Group], ends: Sequence[Group | None]) -> list[str]:
    """What has to be said of the rows of one place."""
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
    if unseen := sorted(group.recipe.name for group in together if group.split == "val"):
        notes.append(
            f"no test split: {', '.join(unseen)}: ± and gap closed are of val, on which layer and penalty were "
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


def tags_of_models(
    cells: Sequence[Cell], results: Sequence[StepResult[Scored] | Diverged]
) -> dict[str, dict[str, str]]:
    """{registered model: tags}: whether it is better than the untrained networks of its place and seed."""
    scored = [(c, r.value) for c, r in zip(cells, results, strict=True) if isinstance(r, StepResult)]
    tags = {}
    for cell, value in scored:
        if value.model is None:
            continue
        unit, place = f"{value.metric} on {value.split}", (cell.place, cell.recipe.training.seed)
        worths = [
            beside_untrained(
                other.recipe.task, measured_of({0: value}), measured_of({0: found}), unit, cell.recipe.name
            )
            for other, found in scored
            if other.recipe.task in UNTRAINED and (other.place, other.recipe.training.seed) == place
        ]
        tags[value.model] = {LEARNED: is_learned(worths), WARNING: "; ".join(warnings_of(worths))}
    return tags


def _log(workflow: Workflow, table: Table) -> None:
    """The table at the workflow's own run: as a table, as text, and as a picture."""
    tracker, run_id = workflow.tracker, workflow.run_id
    tracker.log_table(run_id, table.rows, "table.json")
    tracker.log_text(run_id, table.to_markdown(), "table.md")
    tracker.log_dict(run_id, {"scores": table.scores}, "scores.json")
    tracker.log_figure(run_id, figure(table.rows), "table.png")
    tracker.log_metrics(run_id, metrics(table))


def metrics(table: Table) -> dict[str, float]:
    """{benchmark/recipe: score on test}; what was measured on validation says so in its name."""
    scores = {
        f"{row['benchmark']}/{'val/' if row['split'] == 'val' else ''}{row['recipe']}": shown_score(row)
        for row in table.rows
    }
    return {name: score for name, score in scores.items() if score is not None}


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
