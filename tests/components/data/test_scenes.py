"""The built-in scenes: pure functions of (seed, split, number), annotations that fit the pictures."""

import numpy as np
import pytest

from components.data.scene_kinds import KINDS
from components.data.scenes import CLASSES, MAX_OBJECTS, render


@pytest.mark.parametrize("size", [32, 48])
def test_a_scene_does_not_depend_on_its_batch(size: int) -> None:
    many = render(3, "train", np.arange(40), size)
    for number in (0, 17, 39):
        one = render(3, "train", np.array([number]), size)
        for field in ("image", "labels", "mask", "instances", "edges", "kinds", "boxes"):
            assert np.array_equal(getattr(one, field)[0], getattr(many, field)[number]), field


def test_seed_and_split_change_the_scenes() -> None:
    numbers = np.arange(4)
    first = render(0, "train", numbers, 32).image
    assert not np.array_equal(first, render(1, "train", numbers, 32).image)
    assert not np.array_equal(first, render(0, "test", numbers, 32).image)


def test_annotations_fit_each_other() -> None:
    scenes = render(0, "train", np.arange(300), 32)
    assert len(CLASSES) == len(set(CLASSES)) == 10
    assert set(scenes.labels.tolist()) == set(range(10))
    assert np.array_equal(scenes.labels, scenes.kinds[:, 0])
    largest = 0
    for row in range(300):
        areas = np.bincount(scenes.instances[row].ravel(), minlength=MAX_OBJECTS + 1)[1:]
        largest += areas.argmax() == 0
        for k in range(MAX_OBJECTS):
            here = scenes.instances[row] == k + 1
            assert (scenes.mask[row][here] == scenes.kinds[row, k] + 1).all()
            left, top, right, bottom = scenes.boxes[row, k]
            if not scenes.boxes[row, k].any():
                assert here.sum() < 0.004 * 32 * 32
                continue
            ys, xs = np.nonzero(here)
            assert (left, top, right, bottom) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert ((scenes.mask[row] > 0) == (scenes.instances[row] > 0)).all()
        assert scenes.boxes[row, 0].any(), "the main object is visible"
    assert largest >= 295, "the label is the largest object's, but for rare occlusions"


def test_up_and_down_differ() -> None:
    """Skies are brighter than what lies below, apart from snow: orientation carries information."""
    image = render(0, "train", np.arange(300), 32).image.mean((2, 3))
    difference = image[:, :6].mean(1) - image[:, -6:].mean(1)
    assert np.abs(difference).mean() > 3 * np.abs(difference.mean() - difference).std() / np.sqrt(300)
    assert (difference > 0).mean() > 0.6


def test_colour_goes_with_class_but_does_not_settle_it() -> None:
    scenes = render(0, "train", np.arange(1500), 32)
    means = np.array([scenes.image[i][scenes.instances[i] == 1].mean(0) for i in range(1500)])
    centres = np.array([means[:1000][scenes.labels[:1000] == c].mean(0) for c in range(len(KINDS))])
    guess = ((means[1000:, None] - centres) ** 2).sum(2).argmin(1)
    accuracy = (guess == scenes.labels[1000:]).mean()
    assert 0.15 < accuracy < 0.5
