"""Split-brain: both losses against loops over pixels and bins; what each trunk sees and is asked for; the encoder."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.color import rgb2lab
from torch import Tensor

from components import color
from components.config import EncoderConfig
from components.draws import Draws
from components.networks.encoder import TwoTrunks, load_encoder, save_encoder
from components.tasks.base import Task, build_task

SIZE, SMALL = 16, 4


def make(**options: Any) -> Task:
    return build_task("split_brain", options, EncoderConfig(width=8), SIZE, 0, seed=0).eval()


def make_images(count: int) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def make_inputs(task: Task, images_B3HW: Tensor) -> dict[str, Tensor]:
    return task.inputs({"image": images_B3HW}, Draws(0, torch.arange(len(images_B3HW))))


def lab_of(images_B3HW: Tensor) -> NDArray[np.float64]:
    """(B, H, W, 3), by scikit-image."""
    lab: NDArray[np.float64] = rgb2lab(images_B3HW.permute(0, 2, 3, 1).double().numpy())
    return lab


def naive_targets(
    images_B3HW: Tensor, split: str, trunk: int
) -> list[tuple[int, int, int, float, NDArray[np.float64]]]:
    """(sample, row, column, share, mean Lab) of the pixels hidden from ``trunk``, for each place of the small map."""
    lab, places = lab_of(images_B3HW), []
    block = SIZE // SMALL
    for b, h, w in np.ndindex(len(images_B3HW), SMALL, SMALL):
        hidden = []
        for row, column in np.ndindex(block, block):
            y, x = h * block + row, w * block + column
            if split == "channels" or (x >= y) == (trunk == 1):  # the first trunk sees what is on or above the diagonal
                hidden.append(lab[b, y, x])
        if hidden:
            places.append((b, h, w, len(hidden) / block**2, np.mean(hidden, axis=0)))
    return places


@pytest.mark.parametrize(("split", "asked"), [("channels", [["ab"], ["l"]]), ("diagonal", [["l", "ab"], ["l", "ab"]])])
@pytest.mark.parametrize("target", ["classes", "regression"])
def test_loss_is_that_of_loops(split: str, asked: list[list[str]], target: str) -> None:
    images = make_images(2)
    task = make(split=split, target=target)
    inputs = make_inputs(task, images)
    outputs = task(inputs)
    bins = color.gamut_bins().tolist()
    expected = 0.0
    for trunk, names in enumerate(asked):
        prediction = outputs[("first", "second")[trunk]].double()
        places = naive_targets(images, split, trunk)
        total_share = sum(share for *_, share, _ in places)
        offset = 0
        for name in names:
            size = {"l": 50, "ab": 309}[name] if target == "classes" else len(name)
            loss = 0.0
            for b, h, w, share, lab in places:
                said = prediction[b, offset : offset + size, h, w]
                if target == "regression":
                    wanted = [(lab[0] - 50) / 50] if name == "l" else [lab[1] / 110, lab[2] / 110]
                    loss += share * sum((s - t) ** 2 for s, t in zip(said.tolist(), wanted, strict=True)) / size
                    continue
                if name == "l":
                    label = min(int(lab[0] // 2), 49)
                else:
                    label = min(range(309), key=lambda q: math.dist(lab[1:], bins[q]))
                loss -= share * torch.log_softmax(said, 0)[label].item()
            expected += loss / total_share
            offset += size
        assert offset == prediction.shape[1]
    losses = task.losses("autoencoder", inputs, outputs)
    term = "l2" if target == "regression" else "cross_entropy"
    assert losses[term].item() == pytest.approx(expected, rel=1e-4)
    assert losses[term].item() == pytest.approx((losses[f"{term}/l"] + losses[f"{term}/ab"]).item(), rel=1e-6)


@pytest.mark.parametrize("split", ["channels", "diagonal"])
def test_a_trunk_is_asked_for_nothing_that_it_sees(split: str) -> None:
    """Changing what one trunk is shown changes its own prediction and the other one's target, and nothing else."""
    task, images = make(split=split, target="regression"), make_images(1)
    lab = color.rgb_to_lab(images) * torch.tensor([0.5, 0.1, 0.1]).view(1, 3, 1, 1) + torch.tensor([25.0, 0, 0]).view(
        1, 3, 1, 1
    )  # pale: well inside the gamut, so that lightness and colour can be changed apart
    changed = lab.clone()
    if split == "channels":
        changed[:, 0] += 5
    else:
        changed[:, 0] += 5 * torch.ones(SIZE, SIZE).triu()
    before, after = (make_inputs(task, color.lab_to_rgb(x)) for x in (lab, changed))
    first, second = (task(inputs) for inputs in (before, after))
    assert not torch.allclose(first["first"], second["first"], atol=1e-4)
    torch.testing.assert_close(first["second"], second["second"], atol=1e-3, rtol=1e-3)
    asked = [slice(1, 3), slice(0, 1)] if split == "channels" else [slice(0, 3)] * 2
    torch.testing.assert_close(before["target"][:, 0, asked[0]], after["target"][:, 0, asked[0]], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(before["target"][:, 1, asked[1]], after["target"][:, 1, asked[1]], atol=1e-2)


def test_diagonal_decoders_reach_across_the_picture() -> None:
    task = make(split="diagonal", target="regression")
    inputs = make_inputs(task, make_images(1))
    native = inputs["native"].requires_grad_()
    task(inputs)["first"][0, :, -1, 0].sum().backward()  # the lower left corner, from the upper half
    assert native.grad is not None and native.grad[0, :, 0, -1].any()


@pytest.mark.parametrize(("split", "kind"), [("channels", "l+ab"), ("diagonal", "diagonal")])
def test_the_encoder_is_as_wide_as_asked_and_needs_no_task(split: str, kind: str, tmp_path: Path) -> None:
    task, images = make(split=split), make_images(2)
    encoder = task.encoder()
    assert isinstance(encoder, TwoTrunks) and encoder.config.input == kind and encoder.config.width == 8
    assert [*encoder.channels.values()] == [8, 24, 48, 32, 32]
    save_encoder(encoder, tmp_path)
    maps = load_encoder(tmp_path)(images)
    assert all(torch.equal(map_, maps[layer]) for layer, map_ in encoder(images).items())
    assert [x.shape[1] for x in maps.values()] == [*encoder.channels.values()]


def test_a_certain_prediction_gives_back_the_picture() -> None:
    coarse = torch.rand(2, 3, SMALL, SMALL, generator=torch.Generator().manual_seed(1))
    images = torch.nn.functional.interpolate(coarse, scale_factor=SIZE // SMALL)
    task = make()
    inputs = make_inputs(task, images)
    lab = torch.from_numpy(lab_of(images)[:, ::4, ::4]).permute(0, 3, 1, 2).float()
    certain = {
        "first": color.nearest_bins(lab[:, 1:], color.gamut_bins(), 1)[0],
        "second": (lab[:, :1] / 2).long().clamp(0, 49),
    }
    logits = {
        name: torch.full((2, 309 if name == "first" else 50, SMALL, SMALL), -50.0).scatter(1, index, 50.0)
        for name, index in certain.items()
    }
    for decoder, said in zip(task.get_submodule("decoders").children(), logits.values(), strict=True):
        decoder.register_forward_hook(lambda *_, said=said: said)
    pictures = task.samples(inputs)
    middle = (slice(None), slice(None), slice(2, None, 4), slice(2, None, 4))
    truth = color.rgb_to_lab(images)[middle]
    assert (color.rgb_to_lab(pictures["prediction"])[middle] - truth)[:, 1:].abs().mean() < 12
    assert (color.rgb_to_lab(pictures["lightness"])[middle] - truth)[:, 0].abs().mean() < 12
