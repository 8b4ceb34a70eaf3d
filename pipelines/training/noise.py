"""Batches of noise, for tasks that are only timed, or asked what they would do."""

import torch

from components.tasks.base import Batch, Task

CLASSES = 10  # of a task that sees no data


def noise(task: Task, rows: int, size: int) -> Batch:
    """A batch with the fields that the task needs, of noise."""
    draws = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (rows, 3, size, size), dtype=torch.uint8, generator=draws)
    labels = torch.randint(0, CLASSES, (rows,), generator=draws)
    others = {"label": labels, "mask": pictures[:, 0].long() % CLASSES}
    return {field: others.get(field, pictures) for field in ("image", *task.needs)}
