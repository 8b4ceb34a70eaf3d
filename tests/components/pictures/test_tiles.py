"""Images of any size through squares of one size."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.data.images import BrokenImage
from components.pictures.tiles import check_shape, in_tiles, starts


def image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("size", [(16, 16), (33, 50), (16, 47), (128, 17)])
def test_squares_that_stay_as_they_are_give_the_image_back(size: tuple[int, int], overlap: float) -> None:
    whole = image(*size)
    assert torch.equal(in_tiles(lambda x: x, whole, 16, overlap, whole=False), whole)


@pytest.mark.parametrize("length", [16, 17, 31, 32, 100])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_squares_cover_the_axis_and_share_what_was_asked(length: int, overlap: float) -> None:
    found = starts(length, 16, overlap)
    assert found[0] == 0 and found[-1] == length - 16
    assert all(0 < b - a <= 16 * (1 - overlap) for a, b in itertools.pairwise(found))


def test_neighbours_fade_into_each_other() -> None:
    """Squares that disagree by 100 levels leave no step of more than a few."""

    def differing(squares: Tensor) -> Tensor:
        return torch.stack([torch.full_like(s, 50 + 100 * (k % 2)) for k, s in enumerate(squares)])

    blended = in_tiles(differing, image(32, 100), 32, 0.5, whole=False).int()
    assert blended.min() == 50 and blended.max() == 150
    assert int(blended.diff(dim=2).abs().max()) <= 8
    cut = in_tiles(differing, image(32, 96), 32, 0.0, whole=False).int()
    assert int(cut.diff(dim=2).abs().max()) == 100


def test_the_whole_image_is_seen_at_the_size_of_training() -> None:
    """Its shorter side fits one square; the result has the image's size."""
    seen: list[Tensor] = []

    def watch(squares: Tensor) -> Tensor:
        seen.append(squares)
        return squares

    whole = (F.interpolate(torch.rand(1, 3, 4, 7), (120, 210), mode="bicubic")[0].clamp(0, 1) * 255).to(torch.uint8)
    made = in_tiles(watch, whole, 32, 0.25, whole=True)
    assert made.shape == whole.shape and made.dtype == torch.uint8
    assert seen[0].shape == (2, 3, 32, 32)
    assert float((made.float() - whole.float()).abs().mean()) < 3


def test_small_images_are_enlarged_for_one_square() -> None:
    small = image(9, 20)
    made = in_tiles(lambda x: torch.full_like(x, 7), small, 16, 0.25, whole=False)
    assert made.shape == small.shape and (made == 7).all()


def test_pictures_of_another_size_than_their_square_are_fitted() -> None:
    made = in_tiles(lambda x: torch.full((len(x), 3, 8, 8), 9, dtype=torch.uint8), image(20, 30), 16, 0.25, False)
    assert made.shape == (3, 20, 30) and (made == 9).all()


@pytest.mark.parametrize(
    ("size", "side", "overlap", "whole", "said"),
    [
        ((3000, 2), 32, 0.25, True, "2 x 3000 is too thin: at 32 pixels across it is 48000 long"),
        ((2, 3000), 32, 0.25, False, "3000 x 2 is too thin"),
        ((64, 1), 16, 0.25, True, None),
        ((65, 1), 16, 0.25, True, "too thin"),
        ((20_000, 100), 16, 0.25, True, None),  # long, and not enlarged
        ((5000, 5000), 16, 0.9, False, "squares, more than 200000: let them overlap less"),
        ((8000, 8000), 32, 0.25, False, None),
        ((640, 10), 2000, 0.25, True, "it has more than 64 million pixels"),
    ],
)
def test_images_that_cost_too_much_are_named(
    size: tuple[int, int], side: int, overlap: float, whole: bool, said: str | None
) -> None:
    if said is None:
        check_shape(*size, side, overlap, whole)
        return
    with pytest.raises(BrokenImage, match=said):
        check_shape(*size, side, overlap, whole)
