"""Context prediction: patches and labels against loops, dropped colours, the wrong options."""

from typing import Any

import pytest
import torch
from torch import Tensor

from components.config import EncoderConfig
from components.draws import Draws
from components.errors import UserError
from components.tasks import context_prediction
from components.tasks.base import Task, build_task


def make(size: int = 32, **options: Any) -> Task:
    return build_task("context_prediction", options, EncoderConfig(width=4), size, 0, seed=0).eval()


def make_inputs(task: Task, image_B3HW: Tensor) -> dict[str, Tensor]:
    return task.inputs({"image": image_B3HW}, Draws(3, torch.arange(len(image_B3HW))))


@pytest.mark.parametrize(
    ("size", "options", "side", "gap", "jitter"),
    [(32, {}, 8, 3, 1), (96, {}, 24, 9, 3), (20, {}, 5, 2, 0), (32, {"patch": 5, "gap": 2, "jitter": 2}, 5, 2, 2)],
)
def test_patches_lie_around_the_centre(size: int, options: dict[str, Any], side: int, gap: int, jitter: int) -> None:
    place = torch.arange(size) / size
    image = torch.stack([place[:, None].expand(size, size), place.expand(size, size), torch.zeros(size, size)])
    inputs = make_inputs(make(size, colour="keep", **options), image.expand(100, 3, size, size))
    assert inputs["patches"].shape == (100, 9, 3, side, side)
    corner_BP2 = (inputs["patches"][:, :, :2, 0, 0] * size).round().long()
    step = side + gap
    moves = set()
    for b in range(100):
        for p in range(9):
            for axis, index in enumerate((p // 3, p % 3)):
                # All nine are moved together by what room is left, and each by its own jitter.
                apart = corner_BP2[b, p, axis] - corner_BP2[b, 4, axis] - (index - 1) * step
                assert abs(int(apart)) <= 2 * jitter
                moves.add(int(apart))
    assert len(moves) == 4 * jitter + 1
    assert corner_BP2.min() >= 0 and corner_BP2.max() + side <= size
    starts = set(corner_BP2[:, 0].flatten().tolist())
    assert len(starts) == size - 3 * side - 2 * gap - 2 * jitter + 1 + 2 * jitter, "they lie anywhere in the picture"


def test_loss_is_the_mean_over_the_eight_neighbours() -> None:
    task = make(colour="keep")
    inputs = make_inputs(task, torch.rand(3, 3, 32, 32))
    trunk, head = task.encoder(), task.get_submodule("head")
    total = 0.0
    for b in range(3):
        maps = [trunk(patch[None])["conv5"] for patch in inputs["patches"][b]]
        for direction, p in enumerate([0, 1, 2, 3, 5, 6, 7, 8]):
            logits = head(torch.cat([maps[4], maps[p]]), torch.tensor([[0, 1]]))
            total -= torch.log_softmax(logits[0].double(), 0)[direction].item()
    loss = task.losses("classifier", inputs, task(inputs))["cross_entropy"]
    assert loss.item() == pytest.approx(total / 24, rel=1e-4)


def test_dropped_colours_leave_one_channel_and_faint_noise() -> None:
    image = torch.rand(40, 3, 32, 32)
    kept, dropped = (make_inputs(make(colour=colour), image)["patches"] for colour in ("keep", "drop"))
    same_BP3 = (kept == dropped).all(4).all(3)
    assert torch.equal(same_BP3.sum(2), torch.ones(40, 9, dtype=torch.int64))
    assert same_BP3.float().mean((0, 1)).min() > 0.25, "each channel has its turn"
    for b in range(5):
        for p in range(9):
            (channel,) = same_BP3[b, p].nonzero().flatten().tolist()
            others = dropped[b, p][[c for c in range(3) if c != channel]]
            deviation = kept[b, p, channel].std(correction=0)
            assert others.mean().item() == pytest.approx(0.5, abs=0.002)
            assert others.std().item() == pytest.approx(0.01 * deviation.item(), rel=0.3)


def test_right_answers_put_the_patches_back() -> None:
    task, images = make(colour="keep"), torch.rand(3, 3, 32, 32)
    inputs = make_inputs(task, images)
    task.get_submodule("head").register_forward_hook(lambda *_: torch.eye(8).repeat(3, 1))
    pictures = task.samples(inputs)
    painted = pictures["prediction"] != 0.5
    assert torch.equal(pictures["prediction"][painted], images[painted])
    assert painted.float().mean() > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"patch": 11},
            r"three patches of 11 pixels, two gaps of 0 and jitter of 1 either way do not fit into 32 pixels",
        ),
        ({"gap": 4}, r"two gaps of 4 .* options\.gap or options\.jitter smaller"),
        ({"colour": "lose"}, r"options\.colour"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)


def test_the_kept_channel_is_untouched_by_noise_of_any_size() -> None:
    patches, noise = torch.rand(1, 1, 3, 4, 4), torch.full((1, 1, 3, 4, 4), 1e6)
    kept = torch.tensor([[[False, True, False]]])
    assert torch.equal(context_prediction.drop_channels(patches, kept, noise)[0, 0, 1], patches[0, 0, 1])
