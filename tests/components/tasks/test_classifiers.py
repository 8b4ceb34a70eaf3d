"""Rotation and supervised: what is asked, and pictures of what was answered."""

import numpy as np
import torch

from components.config import EncoderConfig
from components.draws import Draws
from components.tasks.base import Task, build_task

B, SIZE = 5, 16


def make(name: str) -> Task:
    return build_task(name, {}, EncoderConfig(width=4), SIZE, 3, seed=0).eval()


def make_inputs(task: Task) -> dict[str, torch.Tensor]:
    image = torch.rand(B, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return task.inputs({"image": image, "label": torch.arange(B) % 3}, Draws(0, torch.arange(B)))


def answer(task: Task, labels_B: torch.Tensor) -> None:
    """Make the head say ``labels_B`` whatever it sees."""
    logits = torch.nn.functional.one_hot(labels_B).float()
    task.get_submodule("head").register_forward_hook(lambda *_: logits)


def test_every_image_is_there_in_all_four_rotations() -> None:
    inputs = make_inputs(make("rotation"))
    assert inputs["image"].shape == (4 * B, 3, SIZE, SIZE)
    for row in range(4 * B):
        turns = int(inputs["turns"][row])
        turned = np.rot90(inputs["image"][row % B].numpy(), turns, axes=(1, 2))
        np.testing.assert_array_equal(inputs["image"][row], turned)
    assert inputs["turns"].bincount().tolist() == [B] * 4


def test_right_answers_turn_every_picture_upright() -> None:
    task = make("rotation")
    inputs = make_inputs(task)
    answer(task, inputs["turns"])
    pictures = task.samples(inputs)
    assert torch.equal(pictures["truth"], inputs["image"][:B])
    assert torch.equal(pictures["prediction"], pictures["truth"])
    assert not torch.equal(pictures["input"], pictures["truth"])


def test_wrong_answers_do_not() -> None:
    task = make("rotation")
    inputs = make_inputs(task)
    answer(task, (inputs["turns"] + 1) % 4)
    pictures = task.samples(inputs)
    assert torch.equal(pictures["truth"], inputs["image"][:B])
    assert torch.equal(pictures["prediction"], inputs["image"][:B].rot90(-1, (2, 3)))


def test_frames_are_green_where_the_class_is_right() -> None:
    task = make("supervised")
    inputs = make_inputs(task)
    labels_B = inputs["label"].clone()
    labels_B[1] = (labels_B[1] + 1) % 3
    answer(task, labels_B)
    framed = task.samples(inputs)["prediction (green: right)"]
    assert framed[0, :, 0, 0].tolist() == [0, 1, 0]
    assert framed[1, :, 0, 0].tolist() == [1, 0, 0]
    assert torch.equal(framed[:, :, 1:-1, 1:-1], inputs["image"][:, :, 1:-1, 1:-1])
