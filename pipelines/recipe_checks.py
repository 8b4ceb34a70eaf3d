"""What can be said before anything runs: whether a recipe's task, options, weights and data go together.

Steps are made by these checks, in a dry run as in a real one, so that both refuse the same, in the same words.
"""

import json
from collections.abc import Sequence

from components.config import DataConfig, Recipe
from components.data.order import Plan, check_divisible
from components.errors import UserError
from components.tasks.base import build_task
from pipelines.data.raw_data import Facts, facts_of
from pipelines.recipe_parts import check_parts
from pipelines.training.named_encoders import identified, is_elsewhere, named_by
from pipelines.training.sample_streams import STREAMS

UNKNOWN = 10  # classes of data of which nobody knows yet whether it has labels
# What gives samples a field, for whoever lacks it.
SOURCES = {
    "label": "images in folders by class, or another labelled source",
    "target": "pairs, with the source pairs",
    "edges": "the source shapes, or shards with edges.png",
    "mask": "images with masks, with the source masks, voc or coco",
    "boxes": "images with boxes, with the source voc or coco",
    "other": "two domains, with the source unpaired",
}


_BUILT: set[str] = set()  # tasks whose networks could be built, by what they are built from


def check_networks(recipe: Recipe, classes: int) -> None:
    """Raise UserError for options that do not go together, or not with the size of the images.

    Only building the networks shows that, which is done once per process; not where the options name an encoder that
    lies elsewhere.
    """
    if any(map(is_elsewhere, named_by(recipe).values())):
        return
    key = json.dumps([recipe.task, identified(recipe), recipe.encoder.canonical(), recipe.data.size, classes])
    if key not in _BUILT:
        build_task(recipe.task, recipe.options, recipe.encoder, recipe.data.size, classes, seed=0)
        _BUILT.add(key)


def check_recipe_on(recipe: Recipe, facts: Facts | None) -> None:
    """Raise UserError where the recipe cannot be trained on data with these ``facts`` (None: nobody knows them yet)."""
    parts = check_parts(recipe)
    if facts and "label" in parts.needs and not facts.labels:
        raise lacking(recipe.task, "label", facts)
    check_networks(recipe, facts.labels if facts else UNKNOWN)
    if facts:
        check_fields(recipe.task, parts.needs, facts)
    if facts and parts.players:
        training = recipe.training
        check_divisible(
            Plan(facts.samples.get("train", 0), training.batch, training.epochs),
            training.workers,
            training.micro_batches,
        )


def check_fields(task: str, needs: Sequence[str], facts: Facts, splits: Sequence[str] = ("train", "val")) -> None:
    """Raise UserError for a field, a second domain or one of the ``splits`` that the task needs and the data lacks."""
    for split in splits:
        if not facts.samples.get(split):
            raise UserError(
                f"the split {split} is needed, and the data has {', '.join(facts.samples) or 'none'}: prepare it anew"
            )
    for field in needs:
        there = (
            all(f"other_{split}" in facts.samples for split in splits) if field == "other" else field in facts.fields
        )
        if field != STREAMS[1] and not there:
            raise lacking(task, field, facts)


def lacking(task: str, field: str, facts: Facts) -> UserError:
    """The error for data that does not hold what a task needs."""
    if field == "label":
        return UserError(f"task {task!r} needs labels, and the data has none: use a labelled source or another task")
    fix = SOURCES.get(field, "data that has it")
    return UserError(f"task {task!r} needs the field {field!r}, and the data has {', '.join(facts.fields)}: use {fix}")


def data_name(config: DataConfig) -> str:
    """A data set as a person knows it."""
    return " ".join(part for part in (config.source, config.url if config.source == "shards" else config.root) if part)


def has_labels(config: DataConfig) -> bool:
    """Whether the data is known to be labelled; shards of others, of which nobody knows, are taken to be."""
    facts = facts_of(config)
    return facts is None or facts.labels > 0
