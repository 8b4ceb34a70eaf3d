"""Pictures: every sample is there, enlarged without blurring, under its title."""

import numpy as np
import torch

from pipelines.training.picture_strip import GAP, TILE, TITLE, strip


def test_every_sample_lies_in_its_place_pixel_by_pixel() -> None:
    rows = {"input": torch.rand(3, 3, 32, 32), "prediction": torch.rand(3, 3, 16, 16)}
    picture = strip(rows)
    assert picture.dtype == np.uint8
    assert picture.shape == (2 * (TITLE + TILE + GAP), GAP + 3 * (TILE + GAP), 3)
    for k, images in enumerate(rows.values()):
        for i, image in enumerate(images):
            top, left = k * (TITLE + TILE + GAP) + TITLE, GAP + i * (TILE + GAP)
            tile = picture[top : top + TILE, left : left + TILE]
            factor = TILE // image.shape[1]
            expected = (image.permute(1, 2, 0).numpy() * 255).round().repeat(factor, 0).repeat(factor, 1)
            assert np.abs(tile - expected).max() <= 0.5


def test_titles_are_written() -> None:
    picture = strip({"input": torch.ones(2, 3, 32, 32)})
    assert picture[:TITLE].min() < 128
    assert picture[TITLE:].min() == 255


def test_large_images_keep_their_size_and_values_are_clamped() -> None:
    picture = strip({"a": torch.full((1, 3, 128, 128), 2.0), "b": torch.full((1, 3, 32, 32), -1.0)})
    assert picture.shape[1] == 128 + 2 * GAP
    assert picture[TITLE + 5, GAP + 5].tolist() == [255, 255, 255]
    assert picture[-GAP - 5, GAP + 5].tolist() == [0, 0, 0]


def test_what_is_not_finite_is_black_and_said() -> None:
    rows = {"prediction": torch.full((1, 3, 96, 96), torch.nan)}
    picture = strip(rows)
    assert (picture[-60, 40] == 0).all()
    assert not np.array_equal(picture[:20], strip({"prediction": torch.zeros(1, 3, 96, 96)})[:20])
