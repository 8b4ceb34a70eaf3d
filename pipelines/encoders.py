"""Encoders that the options of a recipe name: fetched from wherever they are, and sent along to who builds the task.

An option says of itself that it names one (`components.config.ENCODER_URI`); no task is known here by name.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from components.config import ENCODER_URI, Recipe
from components.networks.encoder import CONFIG_FILE, WEIGHTS_FILE
from components.tasks.base import get_task
from infra.tracking import Tracker

Files = dict[str, dict[str, bytes]]  # {option: {name of the file: its bytes}}


def fetch_named(recipe: Recipe, tracker: Tracker, cache: Path) -> Files:
    """The files of every encoder that the recipe's options name; {} for most recipes.

    Raises OutsideError for one that is not where the option says: a folder, s3://, runs:/ID/encoder, models:/NAME@best.
    """
    fields = get_task(recipe.task).Options.model_fields
    marked = [option for option, field in fields.items() if field.json_schema_extra == ENCODER_URI]
    named = {option: recipe.options[option] for option in marked if recipe.options.get(option)}
    folders = {option: tracker.fetch_encoder(uri, cache) for option, uri in named.items()}
    return {
        k: {name: (path / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)} for k, path in folders.items()
    }


def identified(recipe: Recipe, files: Files) -> dict[str, Any]:
    """The recipe's options for a fingerprint: digests of the encoders' files where the options name them.

    A name may come to stand for another encoder (models:/NAME@best), and two names for the same.
    """
    digests = {k: {name: sha256(data).hexdigest() for name, data in named.items()} for k, named in files.items()}
    return recipe.options | digests


@contextmanager
def laid_out(recipe: Recipe, files: Files) -> Iterator[Recipe]:
    """Inside, the recipe's options name local folders with ``files``: on any machine, while a task is being built."""
    with tempfile.TemporaryDirectory() as root:
        for option, named in files.items():
            folder = Path(root, option)
            folder.mkdir()
            for name, data in named.items():
                (folder / name).write_bytes(data)
        places = {option: str(Path(root, option)) for option in files}
        yield recipe.model_copy(update={"options": recipe.options | places})
