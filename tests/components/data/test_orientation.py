"""Turned pictures: all that says so is heeded, and every reader shows them upright."""

import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from components.data.images import changes_of, clean, decode, decode_full
from tests.components.data.conftest import pixels, saved, turned


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_rotation_is_applied(rgb: NDArray[np.uint8], orientation: int) -> None:
    upright = {  # the exif standard: where row 0 and column 0 of the stored picture belong
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        5: rgb.transpose(1, 0, 2),
        6: rgb.transpose(1, 0, 2)[:, ::-1],
        7: rgb.transpose(1, 0, 2)[::-1, ::-1],
        8: rgb.transpose(1, 0, 2)[::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    cleaned = clean(saved(Image.fromarray(rgb), "PNG", exif=exif))
    assert cleaned.changes == ("EXIF rotation",)
    assert np.array_equal(pixels(cleaned.data), upright)
    jpeg = clean(saved(Image.fromarray(rgb), "JPEG", quality=95, exif=exif))
    assert jpeg.extension == "jpg"
    assert np.abs(pixels(jpeg.data) - upright).mean() < 4
    assert clean(jpeg.data).changes == ()


def test_a_turned_jpeg_is_turned_into_the_memory_that_is_given() -> None:
    side = np.zeros((32, 32, 3), np.uint8)
    side[:16] = 250  # light above; orientation 3 shows it upside down
    out = np.zeros_like(side)
    decode(memoryview(saved(Image.fromarray(side), "JPEG", quality=95, exif=turned(3))), 32, out)
    assert out[:12].max() < 20 and out[20:].min() > 230


def test_what_turns_a_png_may_stand_behind_its_pixels(rgb: NDArray[np.uint8]) -> None:
    plain = saved(Image.fromarray(rgb), "PNG")
    exif = turned(3).tobytes().removeprefix(b"Exif\0\0")
    late = plain[:-12] + struct.pack(">I", len(exif)) + b"eXIf" + exif
    late += struct.pack(">I", zlib.crc32(b"eXIf" + exif)) + plain[-12:]
    assert changes_of(plain) == () and changes_of(late) == clean(late).changes == ("EXIF rotation",)
    assert np.array_equal(decode_full(late), rgb[::-1, ::-1])
