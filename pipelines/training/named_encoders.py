"""Encoders that the options of a recipe name: fetched from wherever they are, and sent along to who builds the task.

An option says of itself that it names one (`components.config.ENCODER_URI`); no task is known here by name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from components.config import ENCODER_URI, Recipe
from components.errors import UserError
from components.networks.encoder import CONFIG_FILE, WEIGHTS_FILE
from components.tasks.base import get_task
from infra.tracking import OfAlias, Place, Tracker, read_address
from pipelines.workers.payload import Files, packed, unpacked

Named = dict[str, Files]  # {option: the files of the encoder that it names}


def named_by(recipe: Recipe) -> dict[str, str]:
    """{option: the encoder that it names}; {} for most recipes."""
    fields = get_task(recipe.task).Options.model_fields
    marked = [option for option, field in fields.items() if field.json_schema_extra == ENCODER_URI]
    return {option: str(recipe.options[option]) for option in marked if recipe.options.get(option)}


def fetch_named(recipe: Recipe, tracker: Tracker, cache: Path) -> Named:
    """The files of every encoder that the recipe's options name.

    Raises OutsideError for one that is not where the option says: a folder, s3://, runs:/ID/encoder, models:/NAME/1.
    """
    folders = {option: tracker.models.fetch_encoder(uri, cache) for option, uri in named_by(recipe).items()}
    return {option: packed(folder, (CONFIG_FILE, WEIGHTS_FILE)) for option, folder in folders.items()}


def identified(recipe: Recipe) -> dict[str, Any]:
    """The recipe's options for a fingerprint: digests instead of folders, whose content may change.

    Raises UserError for an alias (models:/NAME@best), which may come to stand for another encoder, and for a folder
    that holds none.
    """
    return recipe.options | {option: _identity(option, uri) for option, uri in named_by(recipe).items()}


def is_elsewhere(uri: str) -> bool:
    """Whether an encoder has to be fetched: from a bucket, or from the tracker."""
    return _folder(uri) is None


def _folder(uri: str) -> Path | None:
    address = read_address(uri)
    return address.folder if isinstance(address, Place) else None


def _identity(option: str, uri: str) -> Any:
    if isinstance(read_address(uri), OfAlias):
        raise UserError(
            f"options.{option}={uri}: an alias may come to stand for another encoder; say models:/NAME/VERSION or "
            "runs:/RUN_ID/encoder"
        )
    if (folder := _folder(uri)) is None:
        return uri
    try:
        return {name: sha256((folder / name).read_bytes()).hexdigest() for name in (CONFIG_FILE, WEIGHTS_FILE)}
    except OSError:
        raise UserError(
            f"options.{option}: no encoder at {uri}: a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, "
            "models:/NAME/VERSION or runs:/RUN_ID/encoder would be right"
        ) from None


@contextmanager
def laid_out(recipe: Recipe, named: Named) -> Iterator[Recipe]:
    """Inside, the recipe's options name local folders with ``named``: on any machine, while a task is being built."""
    every = {f"{option}/{name}": content for option, files in named.items() for name, content in files.items()}
    with unpacked(every) as folder:
        places = {option: str(folder / option) for option in named}
        yield recipe.model_copy(update={"options": recipe.options | places})
