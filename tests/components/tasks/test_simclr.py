"""SimCLR: the loss against its equation, views against loops and the standard library, what a view may be.

Legend of shape suffixes: B samples, C channels, H height, W width, Z values of a projection.
"""

import colorsys
import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from components import losses
from components.config import EncoderConfig
from components.draws import Draws
from components.errors import UserError
from components.tasks.base import Task, build_task
from components.tasks.simclr import change_colours, crop, draw_boxes


def make(**options: Any) -> Task:
    return build_task("simclr", options, EncoderConfig(width=4), 16, 0, seed=0).eval()


def images(count: int, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(4))


def draws(count: int) -> Draws:
    return Draws(3, torch.arange(count))


# -- the loss ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_loss_is_that_of_equation_1(temperature: float, count: int) -> None:
    first_BZ, second_BZ = torch.randn(2, count, 6, generator=torch.Generator().manual_seed(count)).unbind()
    views = [*first_BZ.double(), *second_BZ.double()]

    def similarity(i: int, j: int) -> float:
        a, b = views[i], views[j]
        return math.exp(float(a @ b / (a.norm() * b.norm())) / temperature)

    total = 0.0
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        total -= math.log(similarity(i, partner) / sum(similarity(i, k) for k in range(2 * count) if k != i))
    found = losses.nt_xent(first_BZ, second_BZ, temperature)
    assert found.item() == pytest.approx(total / (2 * count), rel=1e-5, abs=1e-6)


def test_the_loss_keeps_its_precision_in_a_training_with_less() -> None:
    first_BZ, second_BZ = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0)).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        low = losses.nt_xent(first_BZ, second_BZ, 0.05)
    assert low.item() == pytest.approx(losses.nt_xent(first_BZ, second_BZ, 0.05).item(), rel=1e-6)


def test_a_task_that_knows_the_pairs_has_a_small_loss_and_finds_them() -> None:
    task = make(temperature=0.1)
    rows_BZ = torch.eye(8)
    right = task.losses("contrast", {}, {"first": rows_BZ, "second": 3 * rows_BZ})
    assert right["nt_xent"].item() == pytest.approx(math.log(1 + 14 * math.exp(-10)), rel=1e-3)
    assert right["views/found"] == 1
    wrong = task.losses("contrast", {}, {"first": rows_BZ, "second": rows_BZ.roll(1, 0)})
    assert wrong["views/found"] == 0 and wrong["nt_xent"] > 9


# -- views -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_is_that_of_a_loop(mirrored: bool) -> None:
    size = 8
    image_B3HW = images(2, size).double()
    sides_B2 = torch.tensor([[0.5, 0.75], [1.0, 0.3]], dtype=torch.float64)
    corners_B2 = torch.tensor([[0.25, 0.1], [0.0, 0.7]], dtype=torch.float64)
    found = crop(image_B3HW, sides_B2, corners_B2, torch.tensor([mirrored, mirrored]))
    for b, h, w in product(range(2), range(size), range(size)):
        across = size - 1 - w if mirrored else w
        x = (corners_B2[b, 0] + (across + 0.5) / size * sides_B2[b, 0]) * size - 0.5
        y = (corners_B2[b, 1] + (h + 0.5) / size * sides_B2[b, 1]) * size - 0.5
        value = torch.zeros(3, dtype=torch.float64)
        for row, column in product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
            near = (1 - abs(float(y) - row)) * (1 - abs(float(x) - column))
            value += near * image_B3HW[b, :, min(max(row, 0), size - 1), min(max(column, 0), size - 1)]
        torch.testing.assert_close(found[b, :, h, w], value, rtol=0, atol=1e-9)


def test_all_of_a_picture_is_the_picture() -> None:
    image_B3HW = images(3)
    whole = crop(image_B3HW, torch.ones(3, 2), torch.zeros(3, 2), torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(whole, image_B3HW, rtol=0, atol=1e-5)


@pytest.mark.parametrize("smallest", [0.08, 0.5, 1.0])
def test_crops_lie_in_the_picture_and_are_as_large_and_as_oblong_as_they_may_be(smallest: float) -> None:
    sides_B2, corners_B2 = (each.double() for each in draw_boxes(smallest, draws(4000)))
    areas_B, ratios_B = sides_B2.prod(1), sides_B2[:, 0] / sides_B2[:, 1]
    assert (corners_B2 >= 0).all() and (corners_B2 + sides_B2 <= 1 + 1e-6).all()
    assert areas_B.min() >= smallest - 1e-6 and areas_B.max() <= 1 + 1e-6
    assert ratios_B.min() >= 0.75 - 1e-6 and ratios_B.max() <= 4 / 3 + 1e-6
    if smallest < 1:
        assert areas_B.min() < smallest + 0.01 and ratios_B.min() < 0.76 and ratios_B.max() > 1.32
        assert abs(ratios_B.log().mean()) < 0.02, "neither lying nor standing"
        assert (corners_B2 / (1 - sides_B2).clamp_min(1e-9)).mean(0).sub(0.5).abs().max() < 0.03
        # An oblong crop of nearly all the picture does not fit: of area a, ratios between a and 1 / a do.
        areas = [smallest + (1 - smallest) * (k + 0.5) / 1000 for k in range(1000)]
        fit = [min(1.0, -math.log(area) / math.log(4 / 3)) for area in areas]
        assert (areas_B > (1 + smallest) / 2).double().mean() == pytest.approx(sum(fit[500:]) / sum(fit), abs=0.02)
    else:
        assert torch.equal(sides_B2, torch.ones_like(sides_B2)), "what never fits is all of it"


def loop_colours(rgb: list[list[float]], tones: list[float], turn: float) -> list[list[float]]:
    """Pixels of one picture, by the definitions; the hue by the standard library."""

    def clipped(pixel: list[float]) -> list[float]:
        return [min(max(value, 0.0), 1.0) for value in pixel]

    def grey(pixel: list[float]) -> float:
        return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]

    brightness, contrast, saturation = tones
    rgb = [clipped([brightness * value for value in pixel]) for pixel in rgb]
    mean = sum(map(grey, rgb)) / len(rgb)
    rgb = [clipped([mean + contrast * (value - mean) for value in pixel]) for pixel in rgb]
    rgb = [clipped([grey(pixel) + saturation * (value - grey(pixel)) for value in pixel]) for pixel in rgb]
    found = []
    for pixel in rgb:
        hue, strength, value = colorsys.rgb_to_hsv(*pixel)
        found.append([*colorsys.hsv_to_rgb((hue + turn) % 1, strength, value)])
    return found


def test_colours_are_changed_as_by_a_loop() -> None:
    image_B3HW = images(6, 5).double()
    image_B3HW[1, :, 0] = 0.4  # some are grey, some black, some white, some pure
    image_B3HW[2, :, :2] = 0
    image_B3HW[3, :, 3:] = 1
    image_B3HW[4, 0] = 1
    image_B3HW[4, 1:] = 0
    tones_B3 = torch.tensor(
        [[1, 1, 1], [0.3, 1.7, 0.2], [1.6, 0.4, 1.8], [1.2, 1.2, 1.2], [0.9, 1, 1.5], [0.6, 0.6, 0.6]]
    )
    turns_B = torch.tensor([0.0, 0.1, -0.1, 0.2, 1 / 3, -0.17])
    found = change_colours(image_B3HW, tones_B3.double(), turns_B.double())
    for b in range(6):
        pixels = image_B3HW[b].flatten(1).T.tolist()
        expected = torch.tensor(loop_colours(pixels, tones_B3[b].tolist(), turns_B[b].item()), dtype=torch.float64)
        torch.testing.assert_close(found[b].flatten(1).T, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[0], image_B3HW[0])


def test_without_chance_a_view_is_the_picture_or_its_mirror_image() -> None:
    image_B3HW = images(40)
    inputs = make(smallest_crop=1.0, jitter=0.0, grey=0.0).inputs({"image": image_B3HW}, draws(40))
    for name in ("first", "second"):
        view, mirror = inputs[name], image_B3HW.flip(3)
        same_B, mirrored_B = ((view - each).abs().amax((1, 2, 3)) < 1e-4 for each in (image_B3HW, mirror))
        assert (same_B ^ mirrored_B).all() and 8 < mirrored_B.sum() < 32
    assert not torch.equal(inputs["first"], inputs["second"])


def test_views_have_other_colours_four_times_in_five_and_none_once_in_five() -> None:
    image_B3HW, count = torch.full((1000, 3, 4, 4), 0.5), 1000
    image_B3HW[:, 0] = 0.8
    plain = make(jitter=0.0).inputs({"image": image_B3HW}, draws(count))
    for name in ("first", "second"):
        grey_B = (plain[name].amax(1) - plain[name].amin(1)).amax((1, 2)) < 1e-6
        assert 0.16 < grey_B.float().mean() < 0.24
    inputs = make(grey=0.0).inputs({"image": image_B3HW}, draws(count))
    for name in ("first", "second"):
        changed_B = (inputs[name] - image_B3HW).abs().amax((1, 2, 3)) > 1e-4
        assert 0.76 < changed_B.float().mean() < 0.84
        assert inputs[name].min() >= 0 and inputs[name].max() <= 1
    reds = [inputs[name][:, 0].mean((1, 2)) for name in ("first", "second")]
    assert abs(torch.corrcoef(torch.stack(reds))[0, 1]) < 0.1, "the two views are drawn apart"


def test_what_is_found_is_shown() -> None:
    task, image_B3HW = make(), images(9)
    inputs = task.inputs({"image": image_B3HW}, draws(9))
    outputs, pictures = task(inputs), task.samples(inputs)
    for b in range(9):
        cosines = [torch.cosine_similarity(outputs["first"][b], other, 0).item() for other in outputs["second"]]
        assert torch.equal(pictures["prediction"][b], image_B3HW[cosines.index(max(cosines))])


@pytest.mark.parametrize("options", [{"temperature": 0}, {"smallest_crop": 0}, {"jitter": 1.5}, {"projection": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"options.{next(iter(options))}") as error:
        make(**options)
    assert "\n" not in str(error.value)
