"""Cleaning and decoding: what is converted, what is refused, and what the pixels are afterwards."""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from components.data import images
from components.data.images import (
    SHRUNK,
    BrokenImage,
    Cleaned,
    changes_of,
    clean,
    decode,
    decode_full,
    decode_map,
    encode_jpeg,
    encode_png,
    image_size,
)
from tests.components.data.conftest import pixels, saved, turned, wide_png


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


def test_transparency_is_laid_over_white() -> None:
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    cleaned = clean(saved(Image.fromarray(rgba), "PNG"))
    assert cleaned.changes == ("alpha",)
    assert pixels(cleaned.data)[0].tolist() == [[200, 0, 0], [255, 255, 255], [127, 127, 127]]


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


def kinds(rgb: NDArray[np.uint8]) -> dict[str, bytes]:
    """One file of every kind that a folder may hold, whose pixels survive cleaning unchanged."""
    image, alpha = Image.fromarray(rgb), np.full(rgb.shape[:2], 255, np.uint8)
    alpha[:20], alpha[20:30] = 0, 100
    clear = Image.fromarray(np.dstack([rgb, alpha]))
    grey16 = (rgb[:, :, 0].astype(np.uint16) + 3) * 250
    palette = image.quantize(16)
    return {
        "grey": saved(image.convert("L"), "PNG"),
        "grey with alpha": saved(clear.convert("LA"), "PNG"),
        "transparent": saved(clear, "PNG"),
        "transparent WebP": saved(clear, "WEBP", lossless=True),
        "palette": saved(palette, "PNG"),
        "palette with a transparent colour": saved(palette, "PNG", transparency=3),
        "colour key": saved(image, "PNG", transparency=tuple(rgb[0, 0].tolist())),
        "one bit": saved(image.convert("1"), "PNG"),
        "16-bit grey": wide_png(grey16),
        "12-bit grey": wide_png((grey16 >> 4).astype(np.uint16)),
        "16-bit colour": wide_png(rgb.astype(np.uint16) * np.uint16(257)),
        "16-bit colour with alpha": wide_png(np.dstack([rgb, alpha]).astype(np.uint16) * np.uint16(257)),
        "16-bit TIFF": saved(Image.fromarray(grey16), "TIFF"),
        "big-endian 16-bit PGM": b"P5 60 40 4095\n" + (grey16 >> 4).astype(">u2").tobytes(),
        "turned PNG": saved(image, "PNG", exif=turned(6)),
        "turned 16-bit PNG": saved(Image.fromarray(grey16), "PNG", exif=turned(8)),
        "turned transparent WebP": saved(clear, "WEBP", lossless=True, exif=turned(5)),
        "turned TIFF": saved(image, "TIFF", exif=turned(6)),
        "CMYK TIFF": saved(image.convert("CMYK"), "TIFF"),
        "BMP": saved(image, "BMP"),
        "GIF": saved(palette, "GIF", save_all=True, append_images=[image.quantize(4)], transparency=0),
        "JPEG 2000": saved(image, "JPEG2000"),
    }


def test_reading_gives_the_pixels_that_cleaning_stores(rgb: NDArray[np.uint8]) -> None:
    for kind, data in kinds(rgb).items():
        cleaned = clean(data)
        read = decode_full(memoryview(data))
        assert np.array_equal(read, decode_full(cleaned.data)), kind
        assert np.array_equal(decode(data, 16), decode(cleaned.data, 16)), kind
        assert cleaned.changes and changes_of(memoryview(data)) == cleaned.changes, kind
        assert image_size(memoryview(data)) == read.shape[1::-1], kind


def test_reading_a_turned_grey_or_cmyk_jpeg_is_near_to_what_cleaning_compresses_again(rgb: NDArray[np.uint8]) -> None:
    image = Image.fromarray(rgb)
    files = {
        "grey": saved(image.convert("L"), "JPEG", quality=95),
        "CMYK": saved(image.convert("CMYK"), "JPEG", quality=95),
        "CMYK, turned": saved(image.convert("CMYK"), "JPEG", quality=95, exif=turned(6)),
    }
    files |= {f"turned {k}": saved(image, "JPEG", quality=95, exif=turned(k)) for k in range(2, 9)}
    for kind, data in files.items():
        cleaned = clean(data)
        read = decode_full(memoryview(data))
        assert read.shape == decode_full(cleaned.data).shape, kind
        assert np.abs(read.astype(int) - decode_full(cleaned.data)).mean() < 3, kind
        assert changes_of(data) == cleaned.changes != (), kind
        assert image_size(data) == read.shape[1::-1], kind
    plain = saved(image, "JPEG", quality=95, exif=turned(1))
    assert changes_of(plain) == clean(plain).changes == () and clean(plain).data == plain
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    read = decode_full(saved(image, "JPEG", quality=95, xmp=xmp))
    assert np.abs(read.astype(int) - rgb[::-1, ::-1]).mean() < 4


def test_samples_of_unknown_range_are_refused_by_both_readers() -> None:
    for pixels_HW in (np.ones((4, 4), np.float32), np.full((4, 4), 70_000, np.int32)):
        data = saved(Image.fromarray(pixels_HW), "TIFF")
        for use in (clean, decode_full):
            with pytest.raises(BrokenImage, match="32-bit samples, whose range is unknown"):
                use(data)
        assert changes_of(data) == ()


def test_a_jpeg_beyond_the_limit_is_halved_and_other_formats_are_refused(
    rgb: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)  # the picture has 2400
    monkeypatch.setattr(images, "MAX_JPEG_PIXELS", 4000)
    small = decode_full(saved(Image.fromarray(rgb[::2, ::2]), "JPEG", quality=95)).astype(int)
    data = saved(Image.fromarray(rgb), "JPEG", quality=95)
    cleaned = clean(data)
    assert cleaned.changes == changes_of(data) == ("shrunk while decoding, more than 64 million pixels",)
    for read in (decode_full(cleaned.data), decode_full(data)):
        assert read.shape == (20, 30, 3) and np.abs(read - small).mean() < 6
    turned_too = saved(Image.fromarray(rgb), "JPEG", quality=95, exif=turned(6))
    assert clean(turned_too).changes == ("EXIF rotation", "shrunk while decoding, more than 64 million pixels")
    assert decode_full(clean(turned_too).data).shape == decode_full(turned_too).shape == (30, 20, 3)
    for use in (clean, decode_full):
        with pytest.raises(BrokenImage, match="60 x 40 is more than"):
            use(saved(Image.fromarray(rgb), "BMP"))
    monkeypatch.setattr(images, "MAX_JPEG_PIXELS", 2000)
    for use in (clean, decode_full):
        with pytest.raises(BrokenImage, match="60 x 40 is more than"):
            use(data)


def test_a_photo_of_108_million_pixels_is_read() -> None:
    photo = saved(Image.new("L", (12_000, 9_000), 77), "JPEG", exif=turned(6))
    assert "EXIF rotation" in changes_of(photo)
    assert decode(photo, 32).tolist() == np.full((32, 32, 3), 77).tolist()


def test_what_is_for_all_pixels_has_no_size_where_some_are_gone() -> None:
    data = encode_png(np.zeros((4, 6, 3), np.uint8))
    assert Cleaned(data, "png", ("grey",)).size_for("boxes") == (6, 4)
    with pytest.raises(BrokenImage, match="shrunk while decoding, more than 64 million pixels, and its boxes are for"):
        Cleaned(data, "png", (SHRUNK,)).size_for("boxes")
