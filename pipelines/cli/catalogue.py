"""What there is: tasks, recipes and benchmarks."""

from typing import Annotated

import typer

from pipelines.cli.options import Json, Set


def tasks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this task.")] = None,
    json_: Json = False,
) -> None:
    """List the pretext tasks.

    Each with its terms, their published weights, search ranges and sources, and its options with their ranges.

    \b
    Examples:
      genoise tasks
      genoise tasks context_encoder
    """
    from components.tasks.base import all_tasks, get_task
    from pipelines import terminal
    from pipelines.cli.task_facts import task_facts

    chosen = [get_task(name)] if name else all_tasks().values()
    facts = [task_facts(task) for task in chosen]
    terminal.show_tasks(facts)
    if json_:
        terminal.last_line({"tasks": facts})


def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one with every key resolved.")] = None,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """List the recipes, or show one.

    One recipe is shown as it would run, every default written out: a start for a file of your own.

    \b
    Examples:
      genoise recipes
      genoise recipes colorization > my.yaml
      genoise recipes rotation --set training.epochs=8
    """
    from pipelines import terminal
    from pipelines.recipes import load_recipe, load_recipes, write_recipe
    from pipelines.recipes import recipes as built_in

    if name:
        (recipe,) = load_recipes([name], set_ or [])
        terminal.text(write_recipe(recipe))
        facts = recipe.model_dump(mode="json")
    else:
        loaded = [load_recipe(each, set_ or []) for each in built_in()]
        rows = [{"recipe": each.name, "task": each.task, "summary": each.summary} for each in loaded]
        terminal.show_rows(rows)
        facts = {"recipes": rows}
    if json_:
        terminal.last_line(facts)


def benchmarks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this benchmark.")] = None,
    json_: Json = False,
) -> None:
    """List the benchmarks that score encoders.

    One is shown with its keys, for --set benchmark.KEY=VALUE of `genoise transfer`.

    \b
    Examples:
      genoise benchmarks
      genoise benchmarks knn
    """
    from components.transfer.protocol import all_benchmarks, get_protocol
    from pipelines import terminal
    from pipelines.cli.task_facts import benchmark_facts

    facts = [fact for kind in all_benchmarks().values() for fact in benchmark_facts(kind)]
    if name:
        facts = [fact for fact in facts if fact["name"] == get_protocol(name).name]
        terminal.show_benchmarks(facts)
    else:
        shown = [{"benchmark": fact["name"], "needs": ", ".join(fact["needs"])} | fact for fact in facts]
        terminal.show_rows([{key: row[key] for key in ("benchmark", "metric", "needs", "summary")} for row in shown])
    if json_:
        terminal.last_line({"benchmarks": facts})
