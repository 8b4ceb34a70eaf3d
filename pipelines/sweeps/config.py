"""What a sweep is told, beside its recipes: how it searches, what it is after, and how much it may use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from components.config import Recipe
from components.data.order import Plan
from components.engine import Engine, Intervals
from components.errors import UserError, unknown
from components.tasks.base import Term, get_task, makes_pictures, parts_of
from pipelines.sweeps.budget import Budget
from pipelines.sweeps.objectives import PICTURES, UNIVERSAL, Objective, get_objective
from pipelines.sweeps.proposals import SearcherName, grid_points
from pipelines.sweeps.space import Range, Space, space_of, terms_space
from pipelines.training.noise import CLASSES, noise
from pipelines.training.worker import make_task

SchedulerName = Literal["none", "asha", "pbt"]
TRIALS = 16  # where neither trials nor a budget are given


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was asked for; made by `make_sweep`, which checks that its parts go together."""

    name: str
    recipes: tuple[Recipe, ...]  # one, or those of a universal sweep
    space: Space
    searcher: SearcherName
    scheduler: SchedulerName
    objectives: tuple[Objective, ...]
    trials: int | None  # of its own, beside the published weights and the rescaled network; None: as the budget allows
    budget: Budget | None
    seed: int

    @property
    def universal(self) -> bool:
        """Whether one vector of weights is sought for several tasks."""
        return len(self.recipes) > 1

    @property
    def signs(self) -> dict[str, float]:
        """{objective: 1 where more is better, else -1}."""
        return {objective.name: objective.sign for objective in self.objectives}

    def to_json(self) -> dict[str, Any]:
        """All that decides which trials there are."""
        return {
            "space": self.space.to_json(),
            "searcher": self.searcher,
            "scheduler": self.scheduler,
            "objectives": list(self.signs),
            "trials": self.trials,
            "budget": self.budget and [self.budget.amount, self.budget.unit],
            "seed": self.seed,
        }


def make_sweep(
    recipes: list[Recipe],
    universal: bool,
    name: str | None,
    searcher: str,
    scheduler: str,
    objectives: list[str],
    trials: int | None,
    budget: Budget | None,
    seed: int,
) -> Sweep:
    """The sweep that was asked for; UserError, in one line, where it cannot be had."""
    if len(recipes) > 1 and not universal:
        raise UserError(f"one recipe is swept at a time, or several with --universal (given: {len(recipes)} recipes)")
    if universal and len(recipes) < 2:
        raise UserError("--universal looks for weights that serve several tasks: name at least two recipes")
    terms = [terms_of(recipe) for recipe in recipes]
    space = _universal_space(recipes, terms) if universal else space_of(recipes[0], terms[0])
    if universal and (objectives or scheduler != "none"):
        raise UserError("a universal sweep has one objective, the mean normalized score, and --scheduler none")
    wanted = (
        [Objective(UNIVERSAL, 1.0)] if universal else [get_objective(o) for o in objectives or recipes[0].benchmarks]
    )
    sweep = Sweep(
        name=name or "-".join(["universal", *(r.name for r in recipes)] if universal else [recipes[0].name]),
        recipes=tuple(recipes),
        space=space,
        searcher=_one_of("searcher", searcher, get_args(SearcherName)),
        scheduler=_one_of("scheduler", scheduler, get_args(SchedulerName)),
        objectives=tuple(wanted if universal or objectives else wanted[:1]),
        trials=trials if trials or budget else TRIALS,
        budget=budget,
        seed=seed,
    )
    _check_search(sweep)
    return sweep


def _one_of(kind: str, name: str, options: tuple[Any, ...]) -> Any:
    if name not in options:
        raise unknown(kind, name, options)
    return name


def _check_search(sweep: Sweep) -> None:
    """Whether searcher, scheduler and objectives go together."""
    if sweep.scheduler != "none" and len(sweep.objectives) > 1:
        raise UserError(f"--scheduler {sweep.scheduler} stops by one score: give one --objective, or --scheduler none")
    for objective in sweep.objectives:
        if objective.name not in PICTURES:
            continue
        task = sweep.recipes[0].task
        if not makes_pictures(get_task(task)) or not {"prediction", "truth"} <= titles_of(sweep.recipes[0]):
            raise UserError(f"objective {objective.name!r}: task {task!r} makes no pictures that have a truth")
    if sweep.searcher == "grid":
        if sweep.trials is None:
            raise UserError("a grid needs the number of its points: add --trials N")
        grid_points(sweep.space, sweep.trials)
    if sweep.scheduler == "pbt":
        others = [key for key in sweep.space.keys if not key.startswith("weights.")]
        if others:
            raise UserError(
                f"--scheduler pbt changes weights while training runs, and {others[0]} cannot: leave it out"
            )
        if sweep.trials is None or sweep.trials < 2:
            raise UserError("--scheduler pbt needs the size of its population: add --trials N, at least 2")
        if sweep.searcher == "grid":
            raise UserError("--scheduler pbt draws its first weights at random: leave --searcher out")


def terms_of(recipe: Recipe) -> dict[str, Term]:
    """The terms of the recipe's task, with its options."""
    return parts_of(recipe.task, recipe.options).terms


def titles_of(recipe: Recipe) -> set[str]:
    """The titles of the pictures that the recipe's task shows, tried on noise."""
    engine = Engine(make_task(recipe, CLASSES), recipe.training, {}, steps=1)
    inputs = engine.prepare(noise(engine.task, 2, recipe.data.size), torch.arange(2))
    return {*engine.task.eval().samples(inputs)}


def unscaled(recipes: Sequence[Recipe], space: Space) -> list[str]:
    """The weights of the space of which the size changes nothing: only whether they are off makes a difference.

    Adam divides a gradient by its own size, and so by the weight of a term that is all that its player minimizes,
    where nothing is added to the gradient (weight decay) and nothing cut off it (clipping).
    """
    tasks = [(terms_of(recipe), _alone(recipe)) for recipe in recipes]
    found: list[str] = []
    for key, over in space.keys.items():
        section, _, term = key.partition(".")
        weight = section == "weights" and isinstance(over, Range)
        if weight and all(term in alone for terms, alone in tasks if term in terms):
            found.append(key)
    return found


def unscaled_note(recipes: Sequence[Recipe], space: Space) -> str:
    """What a person should know of such weights; empty where there are none."""
    keys = unscaled(recipes, space)
    if not keys:
        return ""
    return f"Adam divides out the size of {' and '.join(keys)}: it changes nothing, off apart; see docs/sweeps.md"


def _alone(recipe: Recipe) -> set[str]:
    """Terms that an optimizer sees alone, and divides by their weight."""
    training = recipe.training
    engine = Engine(make_task(recipe, CLASSES), training, {}, steps=1)
    inputs = engine.prepare(noise(engine.task, 2, recipe.data.size), torch.arange(2))
    found: set[str] = set()
    with torch.no_grad():
        outputs = engine.task(inputs)
    for player, optimizer in engine.optimizers.items():
        terms = engine.task.terms.keys() & engine.task.losses(player, inputs, outputs).keys()
        adds = optimizer.defaults["weight_decay"] and not optimizer.defaults.get("decoupled_weight_decay")
        if len(terms) == 1 and isinstance(optimizer, torch.optim.Adam) and not adds and training.clip is None:
            found |= terms
    return found


def _universal_space(recipes: list[Recipe], terms: list[dict[str, Term]]) -> Space:
    first = recipes[0]
    shared = (first.data, first.places, first.encoder)
    if any((recipe.data, recipe.places, recipe.encoder) != shared for recipe in recipes):
        raise UserError("a universal sweep compares tasks on the same data and network: --set them for all recipes")
    for recipe in recipes:
        if recipe.search:
            raise UserError(f"recipe {recipe.name!r} has a search of its own: a universal sweep is over terms alone")
    return terms_space(terms)


def steps_of(recipe: Recipe, samples: int) -> int:
    """Optimizer steps of a training."""
    return Plan(samples, recipe.training.batch, recipe.training.epochs).steps


def probe_steps(recipe: Recipe, samples: int) -> list[int]:
    """The steps at which a training is probed, its last one among them."""
    every, last = Intervals.of(recipe.training, samples).probe, steps_of(recipe, samples)
    return [*range(every, last, every), last]
