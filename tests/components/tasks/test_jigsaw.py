"""Jigsaw: the set of permutations against the paper's algorithm, the tiles against loops, the wrong options."""

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from components.config import EncoderConfig
from components.draws import Draws
from components.errors import UserError
from components.tasks import jigsaw
from components.tasks.base import Task, build_task


def make(size: int = 32, **options: Any) -> Task:
    return build_task("jigsaw", options, EncoderConfig(width=4), size, 0, seed=0).eval()


def make_inputs(task: Task, image_B3HW: Tensor) -> dict[str, Tensor]:
    return task.inputs({"image": image_B3HW}, Draws(3, torch.arange(len(image_B3HW))))


def numbered(count: int, size: int) -> Tensor:
    """Pictures whose red is the row and whose green is the column of a pixel, in [0, 1]; blue tells the picture."""
    place = torch.arange(size) / size
    red, green = place[:, None].expand(size, size), place.expand(size, size)
    return torch.stack([torch.stack([red, green, torch.full((size, size), b / count)]) for b in range(count)])


def hamming(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("tiles", "count"), [(4, 24), (4, 7), (5, 30), (6, 40)])
def test_the_set_is_that_of_the_papers_algorithm(tiles: int, count: int) -> None:
    left = list(permutations(range(tiles)))
    chosen = [left.pop(0)]
    while len(chosen) < count:
        # The largest sum (algorithm 1, lines 8 to 10); equal sums by the nearest neighbour, then the first.
        rank = [(sum(hamming(p, q) for q in chosen), min(hamming(p, q) for q in chosen)) for p in left]
        chosen.append(left.pop(rank.index(max(rank))))
    assert jigsaw.permutation_set(tiles, count).tolist() == [list(p) for p in chosen]


def test_the_published_set_is_far_apart() -> None:
    orders = [tuple(row) for row in jigsaw.permutation_set(9, 100).tolist()]
    assert len(set(orders)) == 100 and all(sorted(order) == list(range(9)) for order in orders)
    distances = [hamming(p, q) for i, p in enumerate(orders) for q in orders[:i]]
    assert sum(distances) / len(distances) > 8  # of 9; two orders drawn at random differ in 8 places
    assert min(distances) >= 2


@pytest.mark.parametrize(("size", "grid"), [(32, 3), (32, 2), (40, 3)])
def test_the_tile_at_each_place_is_the_one_that_the_order_says(size: int, grid: int) -> None:
    task = make(size, grid=grid, grey=0, equalize=False)
    inputs = make_inputs(task, numbered(50, size))
    cell = size // grid
    side, margin = inputs["tiles"].shape[-1], (size - grid * cell) // 2
    offsets = set()
    for b, k in enumerate(inputs["permutation"].tolist()):
        for place, tile_3HW in enumerate(inputs["tiles"][b]):
            home = jigsaw.permutation_set(grid**2, len(task.get_buffer("order_KT")))[k, place].item()
            row, column = (tile_3HW[:2, 0, 0] * size).round().long().tolist()
            down, right = row - margin - home // grid * cell, column - margin - home % grid * cell
            assert 0 <= down <= cell - side and 0 <= right <= cell - side
            offsets.add((down, right))
            assert torch.equal(tile_3HW, numbered(50, size)[b, :, row : row + side, column : column + side])
    assert len(offsets) == (cell - side + 1) ** 2, "a tile lies anywhere in its cell"
    assert len(set(inputs["permutation"].tolist())) > 10


def test_some_pictures_are_grey() -> None:
    image = torch.rand(200, 3, 32, 32)
    tiles = make_inputs(make(), image)["tiles"]
    grey_B = (tiles == tiles[:, :, :1]).flatten(1).all(1)
    assert 0.2 < grey_B.float().mean() < 0.4
    coloured = make_inputs(make(grey=0), image)["tiles"]
    assert not (coloured == coloured[:, :, :1]).flatten(1).all(1).any()


def test_brightness_and_contrast_of_a_tile_tell_nothing() -> None:
    """Tiles that differ in nothing else look the same to the network."""
    pattern, size = torch.rand(8, 8), 8 * 3
    gains, offsets = 0.3 + 0.3 * torch.rand(4, 3, 9), 0.4 * torch.rand(4, 3, 9)
    tiles = gains[..., None, None] * pattern + offsets[..., None, None]
    image = tiles.view(4, 3, 3, 3, 8, 8).transpose(3, 4).reshape(4, 3, size, size)
    seen, plain = (make_inputs(make(size, jitter=0, grey=0, equalize=flag), image)["tiles"] for flag in (True, False))
    torch.testing.assert_close(seen, seen[:, :1].expand_as(seen), atol=2e-3, rtol=0)
    assert (plain - plain[:, :1]).abs().max() > 0.1
    torch.testing.assert_close(seen.mean((1, 3, 4)), image.mean((2, 3)))


def test_a_solved_puzzle_shows_the_picture() -> None:
    task, images = make(jitter=0, grey=0, permutations=2, equalize=False), numbered(4, 33)[..., :32, :32]
    inputs = make_inputs(task, images)
    solution = torch.nn.functional.one_hot(inputs["permutation"], 2).float()
    task.get_submodule("head").register_forward_hook(lambda *_: solution)
    pictures = task.samples(inputs)
    assert torch.equal(pictures["prediction"][..., 1:31, 1:31], images[..., 1:31, 1:31])
    shuffled = inputs["permutation"].bool()
    assert shuffled.any() and not shuffled.all()
    same = (pictures["input"] == pictures["prediction"]).flatten(1).all(1)
    assert torch.equal(same, ~shuffled)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 2, "permutations": 25}, r"options\.permutations=25: 4 tiles have 24 orders"),
        ({"jitter": 9}, r"options\.jitter=9 leaves tiles of 1 pixels in cells of 10: give at most 8"),
        ({"grid": 4}, r"options\.grid"),
        ({"grey": 2}, r"options\.grey"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make(**options)
    assert "\n" not in str(error.value)
