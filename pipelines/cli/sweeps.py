"""The search for weights."""

from typing import Annotated

import typer

from pipelines.cli.options import Json, On, Told
from pipelines.session import Session


def sweep(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="One recipe, or several with --universal.")],
    universal: Annotated[
        bool, typer.Option("--universal", help="Look for one vector of weights that serves all the recipes.")
    ] = False,
    trials: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Trials of its own; of pbt: members.", show_default="16")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="Minutes or hours of one core, or images: 90m, 1.5h, 2e6images."),
    ] = None,
    searcher: Annotated[str, typer.Option(metavar="NAME", help="tpe, random or grid.")] = "tpe",
    scheduler: Annotated[
        str, typer.Option(metavar="NAME", help="none; asha stops what falls behind; pbt changes weights on the way.")
    ] = "none",
    objective: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A benchmark, cost, pictures/psnr, ...; may be repeated.",
            show_default="the recipe's benchmark",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=0, metavar="N", help="Fresh seeds of the verdict; 0 leaves it for later.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the points that are tried.")] = 0,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the sweep and what it leaves.", show_default="the recipe's")
    ] = None,
    on: On = None,
    *,
    told: Told,
    session: Session,
    json_: Json = False,
) -> None:
    """Search the weights of a recipe's losses.

    Trials are scored on the validation split. The winner is trained again with fresh seeds, beside the published
    weights, and both are compared on the test split. The same command continues a sweep that was cut off.

    \b
    Examples:
      genoise sweep context_encoder --trials 30
      genoise sweep context_encoder --budget 1.5h --scheduler asha --seeds 5 --dry-run
      genoise sweep colorization --trials 12 --set 'search={options.rebalance: [0.1, 0.5, 1.0]}' --searcher grid
      genoise sweep context_encoder --trials 8 --scheduler pbt
      genoise sweep --universal context_encoder split_brain bigan --trials 20
    """
    from pipelines.recipes import load_recipes

    loaded = load_recipes(recipes, told, on)
    from pipelines import sweep as pipeline
    from pipelines import terminal
    from pipelines.sweeps.budget import parse_budget
    from pipelines.sweeps.config import make_sweep

    wanted = make_sweep(
        loaded,
        universal,
        name,
        searcher,
        scheduler,
        objective or [],
        trials,
        parse_budget(budget) if budget else None,
        seed,
    )
    if session.dry_run:
        planned, facts = pipeline.plan(wanted, seeds, session)
        terminal.show_facts(facts, f"sweep {wanted.name}")
        terminal.show_plan(planned, json_)
        return
    found = pipeline.sweep(wanted, seeds, session)
    terminal.show_facts(found, f"swept {wanted.name}: run {found['run_id']}")
    if json_:
        terminal.last_line(found)
