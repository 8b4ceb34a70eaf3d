"""Windows cut on a device, and batches on their way to one: the GPU is made up, but for its arithmetic."""

import gc
import math
import weakref
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from components.data import moving
from components.data.moving import Decoded, Mover, window


@pytest.mark.parametrize("shape", [(4, 9, 7), (4, 9, 7, 3)])
def test_each_window_is_at_its_own_corner(shape: tuple[int, ...]) -> None:
    maps = torch.arange(math.prod(shape)).view(shape)
    corners_B2 = torch.tensor([[0, 0], [4, 2], [1, 2], [3, 0]])
    found = window(maps, corners_B2, 5)
    assert found.is_contiguous()
    for row, (top, left) in enumerate(corners_B2.tolist()):
        assert torch.equal(found[row], maps[row, top : top + 5, left : left + 5])


def test_cutting_reads_no_number_and_makes_no_shape_of_one() -> None:
    """On torch's device `meta` there are no numbers, and to ask for one is an error."""
    found = window(torch.empty(4, 9, 9, 3, device="meta"), torch.empty(4, 2, dtype=torch.int64, device="meta"), 5)
    assert found.is_meta and found.shape == (4, 5, 5, 3)


class Event:
    """Of a copy that is over when somebody says so."""

    made: list["Event"] = []

    def __init__(self) -> None:
        self.over = False
        self.made.append(self)

    def record(self, stream: Any) -> None:
        """As the real one."""

    def query(self) -> bool:
        """As the real one."""
        return self.over


def test_memory_of_the_host_is_held_until_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "Ready", Event)
    monkeypatch.setattr("torch.cuda.Stream", lambda _: SimpleNamespace(synchronize=lambda: None))
    monkeypatch.setattr("torch.cuda.stream", lambda _: nullcontext())
    mover, held = Mover(torch.device("cpu")), []

    def move() -> None:
        pixels = np.zeros((2, 6, 6, 3), np.uint8)
        held.append(weakref.ref(pixels))
        corners_B2 = torch.zeros(2, 2, dtype=torch.int64)
        batch, _ = mover.move({"image": Decoded({"image": torch.from_numpy(pixels)}, corners_B2, 4)})
        assert batch["image"].shape == (2, 3, 4, 4)

    def alive() -> list[bool]:
        gc.collect()
        return [each() is not None for each in held]

    move()
    move()
    move()
    assert alive() == [True, True, True]
    Event.made[0].over = True
    move()
    assert alive() == [False, True, True, True]
    Event.made[2].over = True  # behind one that is not over yet
    move()
    assert alive() == [False, True, True, True, True]
    mover.finish()
    assert not any(alive())
