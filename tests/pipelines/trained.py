"""Tasks as if they had been trained: their files, without the training."""

from pathlib import Path
from typing import Any

from components.config import EncoderConfig
from components.tasks.base import build_task
from pipelines.recipes import load_recipe, write_recipe
from pipelines.training.task_files import RECIPE_FILE, save_task

SIZE, CLASSES = 16, 3


def trained(folder: Path, task: str, **options: Any) -> Path:
    """``folder`` with the files of a freshly initialized task."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECIPE_FILE).write_text(f"task: {task}\nname: {task}\n")
    sets = [f"data.size={SIZE}", "encoder.width=4", *(f"options.{key}={value}" for key, value in options.items())]
    recipe = load_recipe(str(folder / RECIPE_FILE), sets)
    (folder / RECIPE_FILE).write_text(write_recipe(recipe))
    assert recipe.encoder == EncoderConfig(width=4)
    save_task(build_task(task, recipe.options, recipe.encoder, SIZE, CLASSES, seed=1), CLASSES, folder)
    return folder
