"""The detector's parts, against the same done one box at a time."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from components.transfer.heads.fcos import (
    NONE,
    PASSED,
    RADIUS,
    Head,
    Objects,
    assign,
    at_most,
    boxes_of,
    centres,
    detect,
    losses,
    overlaps,
    suppress,
)


def boxes(rng: np.random.Generator, *shape: int) -> Tensor:
    corner, side = rng.uniform(-5, 60, (*shape, 2)), rng.uniform(1, 30, (*shape, 2))
    return torch.from_numpy(np.concatenate([corner, corner + side], -1)).float()


def overlap(one: list[float], other: list[float]) -> tuple[float, float]:
    def extent(box: list[float]) -> float:
        return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])

    common = extent([max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])])
    hull = extent([min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])])
    union = extent(one) + extent(other) - common
    return common / union, common / union - (hull - union) / hull


def test_overlaps() -> None:
    rng = np.random.default_rng(0)
    one, other = boxes(rng, 500), boxes(rng, 500)
    wanted = [overlap(a, b) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    assert np.allclose(torch.stack(overlaps(one, other), 1), wanted, atol=1e-5)


@pytest.mark.parametrize("seed", range(30))
def test_suppression_is_that_of_one_box_after_the_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, labels = boxes(rng, 3, 40), torch.from_numpy(rng.integers(0, 2, (3, 40)))
    found[:, 1::3] = found[:, ::3][:, : found[:, 1::3].shape[1]] + 1.5  # chains of neighbours
    found[:, 2::3] = found[:, 1::3][:, : found[:, 2::3].shape[1]] + 1.5
    valid = torch.from_numpy(rng.random((3, 40)) < 0.9)
    kept = suppress(found, labels, valid, 0.3)
    for image in range(3):
        wanted: list[int] = []
        for k in range(40):
            rivals = [j for j in wanted if labels[image, j] == labels[image, k]]
            if valid[image, k] and all(
                overlap(found[image, j].tolist(), found[image, k].tolist())[0] <= 0.3 for j in rivals
            ):
                wanted.append(k)
        assert kept[image].nonzero().flatten().tolist() == wanted
    assert kept.sum() < valid.sum() - 10


@pytest.mark.parametrize("seed", range(10))
def test_cells_belong_to_the_smallest_object_near_whose_centre_they_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stride, grid = 8, (6, 8)
    places = centres(grid, stride, torch.device("cpu"))
    objects = Objects(boxes(rng, 2, 9), torch.from_numpy(rng.choice([0, 1, PASSED, NONE], (2, 9))))
    which, passed = assign(objects, places, stride)
    for image in range(2):
        for cell, (x, y) in enumerate(places.tolist()):
            best, least, ignored = -1, math.inf, False
            for m in range(9):
                left, top, right, bottom = objects.boxes_BM4[image, m].tolist()
                inside = left < x < right and top < y < bottom
                away = max(abs((left + right) / 2 - x), abs((top + bottom) / 2 - y)) / stride
                label = int(objects.labels_BM[image, m])
                area = (right - left) * (bottom - top)
                if label >= 0 and ((inside and away <= RADIUS) or away <= 0.5) and area < least:
                    best, least = m, area
                ignored |= label == PASSED and inside
            assert which[image, cell] == best
            assert passed[image, cell] == (ignored and best < 0)


def test_every_object_has_a_cell_however_small() -> None:
    objects = Objects(torch.tensor([[[8.1, 8.2, 9.0, 9.4], [30.0, 2, 60, 44]]]), torch.tensor([[0, 1]]))
    which, _ = assign(objects, centres((6, 8), 8, torch.device("cpu")), 8)
    assert set(which.flatten().tolist()) == {-1, 0, 1}


def test_the_loss_is_zero_for_the_truth_and_counts_each_cell_with_an_object() -> None:
    stride, grid = 8, (6, 8)
    places = centres(grid, stride, torch.device("cpu"))
    objects = Objects(torch.tensor([[[8.0, 8, 40, 40], [0, 0, 0, 0]]]), torch.tensor([[1, NONE]]))
    which, _ = assign(objects, places, stride)
    has = which[0] >= 0
    truth = objects.boxes_BM4[0, 0]
    sides = torch.cat([places - truth[:2], truth[2:] - places], 1)[None] / stride
    logits = torch.full((1, 48, 3), -20.0)
    logits[0, has, 1] = 20.0
    found = losses(logits, sides, objects, places, stride)
    assert found["quality"] < 1e-6 and found["boxes"].abs() < 1e-6
    assert torch.allclose(boxes_of(sides, places, stride)[0, has], truth.expand(int(has.sum()), 4))
    logits[0, has, 1] = 0.0  # half of a quality of 1: (1 - .5)^2 ln 2
    assert losses(logits, sides, objects, places, stride)["quality"].item() == pytest.approx(
        0.25 * math.log(2), rel=1e-4
    )
    wrong = logits.clone()
    wrong[0, ~has, 0] = 0.0
    assert losses(wrong, sides, objects, places, stride)["quality"] > 0.5
    half = torch.zeros_like(logits[0, :, 1])  # a box of half the height: its quality is a half, which a logit of 0 says
    logits[0, has, 1] = half[has]
    lower = boxes_of(sides, places, stride).clone()
    lower[..., 3] = 24.0
    sides_half = torch.cat([places - lower[..., :2], lower[..., 2:] - places], -1) / stride
    assert losses(logits, sides_half, objects, places, stride)["quality"] < 1e-6
    crowd = Objects(torch.tensor([[[8.0, 8, 40, 40], [-1, -1, 99, 99]]]), torch.tensor([[1, PASSED]]))
    assert losses(wrong, sides, crowd, places, stride)["quality"].item() == pytest.approx(0.25 * math.log(2), rel=1e-4)


def test_an_image_without_objects_still_teaches_and_is_finite() -> None:
    nothing = Objects(torch.zeros(2, 1, 4), torch.full((2, 1), NONE))
    logits = torch.zeros(2, 48, 3, requires_grad=True)
    found = losses(logits, torch.ones(2, 48, 4), nothing, centres((6, 8), 8, torch.device("cpu")), 8)
    sum(found.values(), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
    assert found["boxes"] == 0 and logits.grad is not None and (logits.grad > 0).all()


def test_what_is_found_is_the_best_of_each_class_in_order() -> None:
    logits = torch.full((1, 6, 2), -9.0)
    logits[0, 0, 0], logits[0, 1, 0], logits[0, 2, 1], logits[0, 3, 1], logits[0, 4, 0] = 3.0, 2.0, 1.0, 0.0, 2.5
    places = torch.tensor(
        [[[0.0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60], [70, 70, 70, 80], [0, 0, 1, 1]]]
    )
    found = detect(logits, places, least=0.1, overlap=0.5, most=10)
    kept = found.kept_BQ[0]
    assert found.labels_BQ[0, kept].tolist() == [0, 1, 1]  # the second one overlaps the first, the fifth has no area
    assert found.boxes_BQ4[0, kept][:, 0].tolist() == [0, 0, 50]
    assert found.scores_BQ[0, kept].tolist() == pytest.approx([1 / (1 + math.exp(-each)) for each in (3, 1, 0)])
    assert detect(logits, places, 0.1, 0.5, most=2).kept_BQ.sum() == 2
    assert detect(logits, places, 0.6, 0.5, most=10).kept_BQ.sum() == 2


def test_the_head_takes_maps_of_any_size_and_their_scale_does_not_matter() -> None:
    torch.manual_seed(0)
    head = Head({"fine": 4, "coarse": 6}, classes=3, width=16, depth=1)
    maps = {"fine": torch.randn(2, 4, 16, 24), "coarse": torch.randn(2, 6, 2, 3)}
    head.standardize({layer: (each.mean((0, 2, 3)), each.std((0, 2, 3))) for layer, each in maps.items()})
    quality, sides = head(maps, (4, 6))
    assert quality.shape == (2, 24, 3) and sides.shape == (2, 24, 4) and (sides > 0).all()
    larger = {layer: 100 * each + 7 for layer, each in maps.items()}
    head.standardize({layer: (each.mean((0, 2, 3)), each.std((0, 2, 3))) for layer, each in larger.items()})
    assert torch.allclose(head(larger, (4, 6))[0], quality, atol=1e-4)
    assert torch.allclose(
        head({layer: at_most(each, (4, 6)) for layer, each in larger.items()}, (4, 6))[0], quality, atol=1e-4
    )
    constant = torch.zeros(4), torch.zeros(4)
    head.standardize({"fine": constant})
    assert head(larger, (4, 6))[0].isfinite().all()
    assert quality.sigmoid().mean().item() == pytest.approx(0.01, abs=0.005)
