"""recipes x benchmarks -> the transfer table: every score beside random, rescaled and supervised encoders."""

from collections.abc import Sequence
from pathlib import Path

from components.config import DataConfig, Recipe, TrainingConfig
from components.errors import Diverged, UserError
from components.keys import Role, keys_with
from pipelines.paths import check_folder
from pipelines.recipe_checks import has_labels
from pipelines.recipes import load_recipe
from pipelines.session import Session
from pipelines.steps import scheduling
from pipelines.steps.results import StepResult
from pipelines.steps.step import Planned
from pipelines.steps.workflow import Workflow
from pipelines.tables.figure import UNTRAINED, YARDSTICKS
from pipelines.tables.files import Files, log_table, write_table
from pipelines.tables.rows import ENDS, Cell, Setting, Table, epochs_of, setting_of, table_of
from pipelines.tables.untrained import LEARNED, WARNING, is_learned, warnings_of
from pipelines.tables.untrained import beside as beside_untrained
from pipelines.transfer import Scored, measured_of


def make_table(
    recipes: Sequence[Recipe],
    seeds: int,
    session: Session,
    overrides: Sequence[str] = (),
    to: Path | None = None,
) -> Table:
    """Pretrain and score every recipe with ``seeds`` seeds, on every benchmark that it names, and put it in one table.

    Missing yardsticks are added (see `yardsticks`). A training that diverged is a row that says so. ``to``: a folder
    for the table's files, which are at the workflow's run as well. Raises UserError where it is not clear which row is
    a yardstick, and what else a step raises, after the others have finished.
    """
    check_folder(to)
    cells = _cells(recipes, seeds, overrides)
    made: list[Files] = []

    def report(workflow: Workflow, results: list[StepResult[Scored] | Diverged]) -> None:
        made.append(Files(table_of(cells, results)))
        log_table(workflow.tracker, workflow.run_id, made[0])
        for model, tags in tags_of_models(cells, results).items():
            workflow.tracker.models.tag_version(model, tags)

    scheduling.run_and_report([cell.step for cell in cells], session, "table", report)
    if to is not None:
        write_table(made[0], to)
    return made[0].table


def plan(
    recipes: Sequence[Recipe],
    seeds: int,
    session: Session,
    overrides: Sequence[str] = (),
    to: Path | None = None,
) -> list[Planned]:
    """The steps that `make_table` would run or reuse."""
    check_folder(to)
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
    """The yardsticks that are not among the recipes, for every data set that scores and every network.

    They stand beside the recipe that trains longest there (of equal ones the first by name), whatever the order of the
    recipes, and on all the benchmarks of that place. Where none trains, `supervised` is as long as it is by itself,
    with ``overrides`` (``key=value``) laid over it; where nothing has labels, there is none.
    """
    places: dict[Setting, list[tuple[Recipe, str]]] = {}
    for recipe in recipes:
        for benchmark in recipe.benchmarks:
            places.setdefault(setting_of(recipe, benchmark), []).append((recipe, benchmark))
    added: list[Recipe] = []
    for there in places.values():
        like = _longest([recipe for recipe, _ in there])
        if not epochs_of(like):
            epochs = load_recipe("supervised", overrides).training.epochs
            like = like.model_copy(update={"training": like.training.model_copy(update={"epochs": epochs})})
        scored = there[0][0].scored_on(there[0][1])
        like = _on(like, scored, sorted({benchmark for _, benchmark in there}))
        known = {recipe.task for recipe, _ in there}
        asked = [beside(like, load_recipe(task)) for task in YARDSTICKS if task not in known]
        added += [each for each in asked if each.task != "supervised" or has_labels(each.data)]
    return added


def _on(recipe: Recipe, scored: DataConfig, benchmarks: Sequence[str]) -> Recipe:
    """The recipe, scored by these benchmarks on that data."""
    named = {name: scored for name in benchmarks if recipe.scored_on(name) != scored}
    places = {**recipe.benchmark_data, **named}
    return recipe.model_copy(update={"benchmarks": tuple(benchmarks), "benchmark_data": places})


def _longest(recipes: Sequence[Recipe]) -> Recipe:
    return min(recipes, key=lambda recipe: (-epochs_of(recipe), recipe.name))


def _check_yardsticks(recipes: Sequence[Recipe]) -> None:
    """UserError where several rows could be the random or the supervised end of one gap, and none has its name."""
    for task in ENDS:
        found: dict[Setting, set[str]] = {}
        for recipe in (each for each in recipes if each.task == task):
            for benchmark in recipe.benchmarks:
                found.setdefault(setting_of(recipe, benchmark), set()).add(recipe.name)
        for names in found.values():
            if len(names) > 1 and task not in names:
                raise UserError(
                    f"{' and '.join(sorted(names))} are recipes of task {task!r} on the same data and network: "
                    f"name the one between which gaps are measured {task!r}, or leave the others out"
                )


def beside(like: Recipe, yardstick: Recipe) -> Recipe:
    """The yardstick as it stands beside a recipe: same data, same network, trained as long."""
    shared = keys_with(TrainingConfig, Role.BESIDE)
    training = yardstick.training.model_copy(update={key: getattr(like.training, key) for key in shared})
    changes = {"data": like.data, "encoder": like.encoder, "benchmarks": like.benchmarks, "training": training}
    places = {"score_on": like.score_on, "benchmark_data": like.benchmark_data}
    return on_labels(yardstick.model_copy(update=changes | places))


def on_labels(recipe: Recipe) -> Recipe:
    """The recipe; supervised training takes place on labelled data that is scored where the other has no labels."""
    if recipe.task == "supervised" and recipe.places and not has_labels(recipe.data):
        labelled = next((place for place in recipe.places if has_labels(place)), recipe.data)
        return recipe.model_copy(update={"data": labelled})
    return recipe


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with another seed."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed})})


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
