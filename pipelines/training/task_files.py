"""A trained task with all its networks, as two files of its run: task.safetensors and recipe.yaml. No pickle."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from components.config import ENCODER_URI, Recipe
from components.errors import UserError
from components.tasks.base import Task, build_task, get_task, no_pictures
from infra.storage import fetch_files
from infra.tracking import OfRun, Place, open_tracker, read_address
from pipelines.recipes import load_recipe
from pipelines.session import Session

FORMAT = "genoise-task/1"  # of task.safetensors; a file with another one is refused
FILES = TASK_FILE, RECIPE_FILE = "task.safetensors", "recipe.yaml"


@dataclass(frozen=True)
class Trained:
    """A task as it was trained, on the CPU and in evaluation mode."""

    task: Task
    recipe: Recipe
    classes: int
    side: int  # of the square pictures that its networks see


def save_task(task: Task, classes: int, folder: Path) -> None:
    """Write task.safetensors into ``folder``."""
    # Copies, as the format refuses weights that two networks share, and wants plain strides.
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in task.state_dict().items()}
    save_file(tensors, folder / TASK_FILE, metadata={"format": FORMAT, "task": task.name, "classes": str(classes)})


def fetch_task(uri: str, session: Session) -> Path:
    """A local folder with the files of a trained task. ``uri``: ``runs:/ID`` as pretrain prints it, or a folder or
    s3:// with its files.

    Raises UserError where there are none, OutsideError for a server, a bucket or a run that is not there.
    """
    address, cache = read_address(uri), session.folder("cache")
    match address:
        case OfRun(run_id):
            tracker = open_tracker(session.home, session.tracking_uri)
            if not tracker.exists():
                raise UserError(f"no runs in {session.home}: say another --home or --tracking-uri, or pretrain first")
            return tracker.fetch_files(run_id, FILES, cache)
        case Place(url):
            folder, missing = fetch_files(url, FILES, cache / "tasks")
            if not missing:
                return folder
    raise UserError(
        f"no trained task at {uri}: runs:/RUN_ID as `genoise pretrain` prints it, or a folder or s3:// with "
        f"{' and '.join(FILES)} would be right"
    )


def recipe_of(folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a trained task, its data overruled by ``data.key=value`` texts.

    Raises UserError for other keys, and for a task that never shows a picture.
    """
    for text in overrides:
        if not text.startswith("data."):
            raise UserError(f"--set {text}: of a trained run only data.* can be overruled, such as data.root=./photos")
    recipe = load_recipe(str(folder / RECIPE_FILE), overrides)
    if get_task(recipe.task).samples is Task.samples:
        raise no_pictures(recipe.task)
    return recipe


def load_task(folder: Path, side: int | None = None) -> Trained:
    """The task in ``folder``, for square pictures of ``side`` pixels (None: as in training).

    Raises UserError for files that are damaged or of another format, and for networks that are bound to their size.
    """
    recipe = recipe_of(folder)
    path = folder / TASK_FILE
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): copy it again") from None
    if about.get("format") != FORMAT:
        raise UserError(f"{path} has format {about.get('format')!r}, this version reads {FORMAT!r}: train again")
    classes, trained_side = int(about["classes"]), recipe.data.size
    side = side or trained_side
    options = _without_encoders(recipe)
    try:
        task = build_task(recipe.task, options, recipe.encoder, side, classes, seed=0)
        if options != recipe.options:
            tensors = {key: tensors[key] for key in tensors.keys() & task.state_dict().keys()}
        task.load_state_dict(tensors)
    except RuntimeError:
        if side != trained_side:
            raise UserError(
                f"the networks of task {recipe.task!r} are bound to the {trained_side} pixels of their training, and "
                f"{side} were asked for: leave that out"
            ) from None
        raise UserError(f"{path} does not fit {RECIPE_FILE}: take both files from the same run") from None
    return Trained(task.eval().requires_grad_(False), recipe, classes, side)


def _without_encoders(recipe: Recipe) -> dict[str, Any]:
    """The recipe's options without the encoders that they name: those judge a training, and may be gone by now."""
    fields = get_task(recipe.task).Options.model_fields
    return {k: None if fields[k].json_schema_extra == ENCODER_URI else value for k, value in recipe.options.items()}
