"""What a sweep leaves of its winner: a recipe file that says where it comes from, and a registered model."""

import json
from collections.abc import Sequence
from pathlib import Path

from components.config import Recipe
from pipelines.pretrain import pretrain_step
from pipelines.recipe_checks import data_name
from pipelines.recipes import write_recipe
from pipelines.steps.workflow import Workflow
from pipelines.sweeps.config import Sweep
from pipelines.sweeps.records import Proposal, Record
from pipelines.sweeps.space import apply
from pipelines.sweeps.trials import own_point
from pipelines.tables.untrained import LEARNED


def winner_recipe(wanted: Sweep, recipe: Recipe, proposal: Proposal) -> Recipe:
    """The recipe of a trial, by the name under which it is kept."""
    found = apply(recipe, own_point(proposal.point, recipe))
    name = f"{wanted.name}_{recipe.name if wanted.universal else 'swept'}"
    return found.model_copy(update={"name": name, "search": {}})


def keep_winner(wanted: Sweep, winner: Record, verdict: Sequence[str], run_id: str, folder: Path) -> list[Path]:
    """Write a recipe file for each task of the sweep into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    values = ", ".join(f"{name} {value:.4f}" for name, value in winner.values.items())
    about = [f"Found by genoise sweep {wanted.name}, run {run_id}: {winner.proposal.name}, on validation: {values}"]
    about += verdict or ["Not judged on the test split yet."]
    written = []
    for recipe in wanted.recipes:
        found = winner_recipe(wanted, recipe, winner.proposal)
        path = folder / f"{found.name}.yaml"
        path.write_text("".join(f"# {line}\n" for line in about) + write_recipe(found) + "\n")
        written.append(path)
    return written


def register_winner(wanted: Sweep, winner: Record, said: Sequence[str], learned: str, workflow: Workflow) -> str | None:
    """The winner's encoder as a registered model; the best of all sweeps of this name has the alias.

    ``said``: what its description has to say beside its point. ``learned``: whether it is better than a network without
    training (yes, no, unknown), which a tag says too.
    """
    if wanted.universal:
        return None  # several encoders, none of them the winner
    step = pretrain_step(winner_recipe(wanted, wanted.recipes[0], winner.proposal))
    trained = workflow.finished.find(step)
    assert trained is not None, "the winner's training has finished"
    first = wanted.objectives[0]
    on = wanted.recipes[0].place_of(first.name)  # scores on other data are another measure
    name = f"genoise-sweep-{wanted.name}"
    version, _ = workflow.tracker.models.register_encoder(
        name,
        trained.value.model_id,
        f"{first.name} on {data_name(on)}/val" if on else f"{first.name}/val",
        first.sign * winner.values[first.name],
        description="\n\n".join([f"{winner.proposal.name}: {json.dumps(winner.proposal.point)}", *said]),
        about=f"Winners of the sweeps of `{wanted.name}`. `best` is on the highest validation score.",
        tags={LEARNED: learned},
    )
    return f"models:/{name}/{version}"
