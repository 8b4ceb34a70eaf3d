"""Cleaning and decoding: what is converted, what is refused, and what the pixels are afterwards."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from components.data.images import (
    BrokenImage,
    clean,
    decode,
    decode_full,
    decode_map,
    encode_jpeg,
    encode_png,
)


@pytest.fixture
def rgb() -> NDArray[np.uint8]:
    """A smooth picture with a different colour in each corner, 40 x 60."""
    y, x = np.mgrid[0:40, 0:60]
    return np.stack([x * 4, y * 6, 255 - x * 2 - y * 2], 2).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> NDArray[np.int64]:
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
        return np.asarray(image).astype(np.int64)


@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_good_images_keep_their_bytes(rgb: NDArray[np.uint8], kind: str, extension: str) -> None:
    data = saved(Image.fromarray(rgb), kind)
    cleaned = clean(data)
    assert (cleaned.data, cleaned.extension, cleaned.changes) == (data, extension, ())


def test_grey_palette_and_one_bit_become_rgb(rgb: NDArray[np.uint8]) -> None:
    image = Image.fromarray(rgb)
    for converted, changed in [
        (image.convert("L"), "grey"),
        (image.quantize(64), "palette"),
        (image.convert("1"), "1 bit"),
    ]:
        cleaned = clean(saved(converted, "PNG"))
        assert (cleaned.extension, cleaned.changes) == ("png", (changed,))
        assert np.array_equal(pixels(cleaned.data), np.asarray(converted.convert("RGB")))
    assert clean(saved(image.convert("L"), "JPEG")).changes == ("grey",)


def test_cmyk_jpeg_becomes_rgb(rgb: NDArray[np.uint8]) -> None:
    cleaned = clean(saved(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=95))
    assert (cleaned.extension, cleaned.changes) == ("jpg", ("CMYK",))
    assert np.abs(pixels(cleaned.data) - rgb).mean() < 6


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


def test_transparency_is_laid_over_white() -> None:
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    cleaned = clean(saved(Image.fromarray(rgba), "PNG"))
    assert cleaned.changes == ("alpha",)
    assert pixels(cleaned.data)[0].tolist() == [[200, 0, 0], [255, 255, 255], [127, 127, 127]]


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


def test_other_formats_and_animations_become_png(rgb: NDArray[np.uint8]) -> None:
    image = Image.fromarray(rgb)
    assert clean(saved(image, "BMP")).changes == ("format BMP",)
    frames = saved(image.quantize(32), "GIF", save_all=True, append_images=[image.quantize(8)])
    cleaned = clean(frames)
    assert cleaned.extension == "png"
    assert "first frame of an animation" in cleaned.changes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_truncated_files_are_refused(kind: str) -> None:
    data = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)), kind)
    for length in (len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(BrokenImage):
            clean(data[:length])
        with pytest.raises(BrokenImage):
            decode(data[:length], 32)


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty file"), (b"not an image at all", "not an image")])
def test_what_is_no_image_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenImage, match=reason):
        clean(data)
    with pytest.raises(BrokenImage):
        decode(data, 32)


def test_unknown_range_is_refused() -> None:
    with pytest.raises(BrokenImage, match="32-bit"):
        clean(saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


@pytest.mark.parametrize("side", [9_000, 50_000])
def test_decompression_bombs_are_refused_unopened(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    squeezer = zlib.compressobj()
    body = squeezer.compress(bytes(10_000)) + squeezer.flush()
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(b)) + kind + b + struct.pack(">I", zlib.crc32(kind + b))
        for kind, b in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    )
    for use in (clean, decode_full):
        with pytest.raises(BrokenImage, match="64 million pixels"):
            use(data)


def test_png_round_trip_is_exact_and_readable_by_others() -> None:
    rng = np.random.default_rng(0)
    for shape in [(1, 1, 3), (32, 32, 3), (5, 7, 3), (6, 4)]:
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        data = encode_png(image)
        with Image.open(io.BytesIO(data)) as opened:
            assert np.array_equal(np.asarray(opened), image)
        if len(shape) == 3:
            assert np.array_equal(decode_full(data), image)
            assert np.array_equal(decode_full(saved(Image.fromarray(image), "PNG")), image)


def test_a_flipped_bit_in_a_png_is_noticed(rgb: NDArray[np.uint8]) -> None:
    data = bytearray(encode_png(rgb))
    data[len(data) // 2] ^= 1
    with pytest.raises(BrokenImage, match="checksum"):
        decode(bytes(data), 32)


def test_decode_takes_the_centred_square(rgb: NDArray[np.uint8]) -> None:
    assert np.array_equal(decode(encode_png(rgb), 40), rgb[:, 10:50])
    half = decode(encode_png(rgb), 20).astype(np.int64)
    by_hand = rgb[:, 10:50].reshape(20, 2, 20, 2, 3).mean((1, 3))
    assert np.abs(half - by_hand)[2:-2, 2:-2].max() <= 2


def test_large_jpegs_decode_as_if_decoded_in_full() -> None:
    y, x = np.mgrid[0:240, 0:320]
    image = np.stack([x * 0.7, y, 128 + 60 * np.sin(x / 40)], 2).astype(np.uint8)
    data = encode_jpeg(image)
    small = decode(data, 32).astype(np.int64)
    reference = np.asarray(Image.fromarray(image[:, 40:280]).resize((32, 32), Image.Resampling.BICUBIC)).astype(
        np.int64
    )
    assert small.shape == (32, 32, 3)
    assert np.abs(small - reference).mean() < 2


def test_maps_keep_their_labels() -> None:
    labels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert np.array_equal(decode_map(encode_png(labels), 4), labels[:, 1:5])
    assert set(decode_map(encode_png(labels), 9).ravel().tolist()) <= set(labels[:, 1:5].ravel().tolist())
    with pytest.raises(BrokenImage, match="one 8-bit channel"):
        decode_map(encode_png(np.zeros((4, 4, 3), np.uint8)), 4)
