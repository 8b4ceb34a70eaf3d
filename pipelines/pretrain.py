"""shards -> encoder: the step that trains a recipe. How it trains: `pipelines.training.training_run`."""

from components.config import Recipe
from components.keys import Role, deciding, keys_with, shown_keys
from components.tasks.base import get_task, parts_of
from infra.tracking import flatten
from pipelines.data.raw_data import facts_of
from pipelines.prepare import prepare_step
from pipelines.recipe_checks import check_recipe_on
from pipelines.session import Session
from pipelines.steps import scheduling
from pipelines.steps.results import Json, StepResult
from pipelines.steps.step import Planned, Step
from pipelines.training.job import Judge, Pretrained
from pipelines.training.named_encoders import identified
from pipelines.training.training_run import train
from pipelines.workers.shape import Need

VERSION = 2  # leaves the whole task, not only its encoder


def pretrain(recipe: Recipe, session: Session) -> StepResult[Pretrained]:
    """Train a recipe and keep its encoder."""
    return scheduling.run(pretrain_step(recipe), session, f"pretrain {recipe.name}")


def plan(recipe: Recipe, session: Session) -> list[Planned]:
    """The steps that `pretrain` would run or reuse."""
    return scheduling.plan([pretrain_step(recipe)], session)


def pretrain_step(recipe: Recipe, judge: Judge | None = None) -> Step[Pretrained]:
    """The step that trains a recipe on the shards of its data.

    ``judge``: may stop the training after a probe; then the step raises Stopped, and can be continued.
    Raises UserError where the data does not fit the task, Diverged where training broke down.
    """
    notes = keys_with(Recipe, Role.NOTE)
    what = recipe.model_dump(mode="json", exclude={"name", "data", "training", *notes})
    task, parts = get_task(recipe.task), parts_of(recipe.task, recipe.options)
    if task.version > 1:
        what["task_version"] = task.version
    what["options"] = identified(recipe)
    what["encoder"] = deciding(recipe.encoder)
    what["training"] = deciding(recipe.training) if parts.players else {"seed": recipe.training.seed}
    prepared = prepare_step(recipe.data)
    check_recipe_on(recipe, facts_of(recipe.data))  # said now, before shards are written
    what["size"] = recipe.data.size
    return Step(
        name="pretrain",
        label=f"pretrain {recipe.name}, seed {recipe.training.seed}",
        version=VERSION,
        config=what,
        value=Pretrained,
        body=lambda run, done: train(recipe, done[prepared].value, run, judge),
        inputs=(prepared,),
        need=Need.of(recipe.training) if parts.players else Need(),
        params=_shown(recipe),
    )


def _shown(recipe: Recipe) -> Json:
    """The run's parameters: the main ones, and whatever is not the default. All of them are in ``recipe.yaml``.

    MLflow writes all parameters of a run above each of its pictures, which must leave room for the picture.
    """
    changed = recipe.model_dump(mode="json", exclude=keys_with(Recipe, Role.NOTE), exclude_defaults=True)
    return flatten(recipe.model_dump(mode="json", include=shown_keys(Recipe))) | flatten(changed)
