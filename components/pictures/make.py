"""The pictures that a trained task makes, by what it shows of itself (`Task.samples`): "prediction", "input", "truth".

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

import torch
from torch import Tensor

from components.config import AugmentConfig
from components.data.augment import augment
from components.draws import Draws
from components.errors import UserError
from components.tasks.base import Batch, Task, Tensors, check_pictures, no_pictures

_AS_THEY_ARE = AugmentConfig(flip=False, shift=0)


@torch.no_grad()
def make_pictures(task: Task, batch: Batch, positions_B: Tensor, seed: int, device: torch.device) -> Tensors:
    """{title: uint8 (B, 3, H, W)} for a batch as a data set gives it; "prediction" is always there.

    ``positions_B`` (int64) and ``seed`` decide all that is random, so a picture does not depend on the others of its
    batch. The task must be on ``device`` and in evaluation mode. Raises UserError for a task that makes no pictures,
    and for pictures that are not finite.
    """
    check_pictures(type(task))
    on_device = augment({key: value.to(device) for key, value in batch.items()}, _AS_THEY_ARE, Draws(seed, positions_B))
    inputs = task.inputs(on_device, Draws(seed, positions_B.to(device)))
    # Dropout that is kept on as noise draws from torch's own state.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed + int(positions_B[0]))
        rows = task.samples(inputs)
    if "prediction" not in rows:
        raise no_pictures(task.name)
    for title, picture_BCHW in rows.items():
        if not picture_BCHW.isfinite().all():
            raise UserError(
                f"task {task.name!r} makes pictures that are not numbers ({title}): its training has diverged; give "
                "another run"
            )
    return {title: as_bytes(picture_BCHW) for title, picture_BCHW in rows.items()}


def as_bytes(picture_BCHW: Tensor) -> Tensor:
    """[0, 1], clipped, to the 8-bit picture that a file holds: uint8 of the same shape. Values must be finite."""
    return (picture_BCHW.float().clamp(0, 1) * 255).round().to(torch.uint8)
