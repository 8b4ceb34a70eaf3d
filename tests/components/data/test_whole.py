"""Whole images on a canvas, and what follows them there and back."""

import io

import numpy as np
import pytest
from PIL import Image

from components.data.boxes import pack_boxes
from components.data.images import encode_png
from components.data.sources.base import UNKNOWN
from components.data.whole import GREY, WholeImages, canvas_for, placed_on
from components.errors import UserError


class InMemory:
    """Members of samples, as lists of bytes."""

    classes: tuple[str, ...] = ()

    def __init__(self, **fields: list[bytes]) -> None:
        self.fields = fields

    def __len__(self) -> int:
        return len(self.fields["image"])

    def key(self, sample_id: int) -> str:
        return f"s{sample_id}"

    def member(self, sample_id: int, field: str) -> bytes:
        return self.fields[field][sample_id]


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image (60, 100, 3) with one bright rectangle, its box, and its mask."""
    image, mask = np.zeros((60, 100, 3), np.uint8), np.zeros((60, 100), np.uint8)
    image[20:40, 30:80], mask[20:40, 30:80] = 255, 3
    return image, np.array([[30.0, 20.0, 80.0, 40.0]]), mask


def data() -> InMemory:
    image, box, mask = scene()
    return InMemory(image=[png(image)] * 4, boxes=[pack_boxes(box, [1])] * 4, mask=[encode_png(mask)] * 4)


@pytest.mark.parametrize("canvas", [(64, 64), (30, 64), (120, 240), (31, 47)])
def test_box_and_mask_lie_where_the_image_shows_them(canvas: tuple[int, int]) -> None:
    whole = WholeImages(data(), canvas, ("boxes", "mask")).read(2)
    (left, top, right, bottom), label = whole.canvas_boxes[0][0], whole.canvas_boxes[1]
    bright = np.argwhere(whole.canvas_HW3[:, :, 0] > 190)
    assert label.tolist() == [1]
    assert np.abs([bright[:, 1].min() - left, bright[:, 0].min() - top]).max() <= 1
    assert np.abs([bright[:, 1].max() + 1 - right, bright[:, 0].max() + 1 - bottom]).max() <= 1
    shown = np.argwhere(whole.canvas_mask == 3)
    assert np.abs([shown[:, 1].min() - left, shown[:, 0].max() + 1 - bottom]).max() <= 1
    assert np.allclose(whole.to_image(whole.canvas_boxes[0]), whole.boxes[0])
    width, height = whole.placed
    assert abs(width / height - 100 / 60) < 0.1 and (width == canvas[1] or height == canvas[0])
    assert (whole.canvas_mask[height:] == UNKNOWN).all() and (whole.canvas_HW3[:, width:] == GREY).all()
    assert (whole.canvas_mask[:height, :width] != UNKNOWN).all()


def test_the_canvas_is_as_small_as_the_images_allow() -> None:
    assert canvas_for(data(), 160) == (96, 160)
    assert canvas_for(data(), 100, multiple=16) == (64, 112)
    assert placed_on((64, 64), (1000, 1)) == (64, 1)
    found = data()
    found.fields["image"][0] = b"broken"
    assert canvas_for(found, 160) == (96, 160)
    found.fields["image"] = [b"broken"] * 4
    with pytest.raises(UserError, match="none of the first images of the split can be read"):
        canvas_for(found, 160)


def test_a_broken_image_is_replaced_with_its_truth_and_too_many_are_refused() -> None:
    found = data()
    found.fields["image"] = [png(np.full((10 + k, 20, 3), k, np.uint8)) for k in range(4)]
    found.fields["boxes"] = [pack_boxes([[0, 0, 5 + k, 5]], [k]) for k in range(4)]
    found.fields["image"][1] = b"broken"
    images = WholeImages(found, (32, 32), ("boxes",))
    assert images.read(1).key == "s2" and images.read(1).boxes[1].tolist() == [2]
    assert images.replaced.keys() == {"s1"}
    found.fields["image"][3] = b"broken, too"
    with pytest.raises(UserError, match="2 of 4 images cannot be read: s1"):
        images.read(3)
    with pytest.raises(UserError, match="run `genoise prepare` again"):
        WholeImages(InMemory(image=[b""]), (32, 32), ()).read(0)


def test_a_mask_of_another_size_is_broken() -> None:
    found = data()
    found.fields["mask"][0] = encode_png(np.zeros((10, 10), np.uint8))
    images = WholeImages(found, (64, 64), ("mask",))
    assert images.read(0).key == "s1" and "mask has 10 x 10" in images.replaced["s0"]
