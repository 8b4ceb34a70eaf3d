"""What a recipe's task is made of with its options: terms, players, needs; and that the recipe names no others."""

from typing import TYPE_CHECKING

from components.config import OptimizerConfig, Recipe
from components.errors import UserError, unknown

if TYPE_CHECKING:  # importing it takes as long as importing torch
    from components.tasks.base import Parts


def check_parts(recipe: Recipe) -> "Parts":
    """The parts of the recipe's task with its options. No network is built.

    Raises UserError for options that the task does not have, for weights and players that it does not have with these
    options, and for settings that an optimizer does not have.
    """
    from components.tasks.base import get_task, parts_of, resolve_weights

    task, parts = get_task(recipe.task), parts_of(recipe.task, recipe.options)
    for weights in (recipe.weights, *recipe.weight_changes.values()):
        resolve_weights(task.name, task.terms, weights)  # says it of a term that no options bring
        for term in weights:
            if term not in parts.terms:
                raise UserError(
                    f"weights.{term}: with these options task {task.name!r} has no such term, but "
                    f"{', '.join(parts.terms)}: leave it out, or set the option that brings it "
                    f"(`genoise tasks {task.name}`)"
                )
    OptimizerConfig.parse(recipe.training.optimizer, "training.optimizer.")
    for player, changes in recipe.training.players.items():
        if player not in parts.players:
            raise unknown(f"player of task {task.name!r}:", player, parts.players)
        OptimizerConfig.parse(changes, f"training.players.{player}.")
    return parts
