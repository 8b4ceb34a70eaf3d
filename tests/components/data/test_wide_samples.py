"""Samples of more than 8 bits: what they mean, and what becomes of them."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from components.data.images import BrokenImage, clean, decode_map
from tests.components.data.conftest import pixels, saved, wide_png


def test_sixteen_bits_are_scaled_to_eight() -> None:
    values = np.array([[0, 257 * 100], [65535, 257 * 200 + 100]], np.uint16)
    cleaned = clean(saved(Image.fromarray(values), "PNG"))
    assert cleaned.changes == ("16 bit",)
    assert pixels(cleaned.data)[:, :, 1].tolist() == [[0, 100], [255, 200]]


def test_sixteen_bit_colour_is_scaled_to_eight() -> None:
    rows = b"\0" + struct.pack(">6H", 0, 65535, 257 * 7, 257 * 50, 0, 0)
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    cleaned = clean(data)
    assert cleaned.changes == ("16 bit",)
    assert cleaned.data[24] == 8
    assert pixels(cleaned.data)[0].tolist() == [[0, 255, 7], [50, 0, 0]]


@pytest.mark.parametrize(("bits", "limit"), [(8, 255), (10, 1023), (12, 4095), (14, 16383)])
def test_grey_of_fewer_bits_in_sixteen_is_stretched_by_its_range(bits: int, limit: int) -> None:
    values = np.array([[0, limit // 2], [limit // 3, limit]], np.uint16)
    cleaned = clean(wide_png(values))
    assert cleaned.changes == (f"{bits}-bit grey stretched by {limit}",)
    assert pixels(cleaned.data)[:, :, 0].tolist() == [[0, 127], [85, 255]]


def test_stated_bits_decide_how_grey_is_stretched() -> None:
    dark = np.array([[0, 200]], np.uint16)
    assert clean(wide_png(dark, stated=12)).changes == ("12-bit grey stretched by 4095",)
    assert pixels(clean(wide_png(dark, stated=12)).data)[0, 1, 0] == 12
    assert clean(wide_png(dark, stated=16)).changes == ("16 bit",)
    # As the format wants it: 12 significant bits, scaled to 16; dark ones, too, are left as they are.
    for twelve in (np.array([[0, 12]]) << 4, np.round(np.array([[0, 12]]) * 65535 / 4095)):
        assert clean(wide_png(twelve.astype(np.uint16), stated=12)).changes == ("16 bit",)
    assert pixels(clean(wide_png(np.array([[0, 65520]], np.uint16), stated=12)).data)[0, 1, 0] == 255
    assert clean(wide_png(np.zeros((2, 2), np.uint16))).changes == ("16 bit",)


def test_a_tiff_whose_zero_is_white() -> None:
    values = np.array([[0, 65535], [20000, 1]], np.uint16)
    usual, inverted = (saved(Image.fromarray(values), "TIFF", tiffinfo={262: zero}) for zero in (1, 0))
    assert (pixels(clean(inverted).data) == 255 - pixels(clean(usual).data)).all()
    with pytest.raises(BrokenImage, match="whose 0 is white"):
        decode_map(saved(Image.fromarray(values.astype(np.uint8)), "TIFF", tiffinfo={262: 0}))


def test_dark_sixteen_bit_colour_is_said_to_be_dark() -> None:
    colour = np.full((2, 2, 3), 4095, np.uint16)
    assert clean(wide_png(colour)).changes == ("16-bit colour of 14 bits or less, left dark",)
