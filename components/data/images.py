"""Decoding images, and cleaning what people's folders hold.

Legend of shape suffixes: H height, W width.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from components.data.arrays import Buffer, UInt8
from components.data.orientation import (
    EXIF_ORIENTATION,
    PNG_TURNS,
    orientation_of,
    orientation_of_jpeg,
    upright,
)
from components.data.wide_samples import TIFF_BITS, grey_of_16, is_scaled, is_white_zero, stated_bits, words_of_wide

MAX_PIXELS = 64_000_000  # a 50,000 x 50,000 PNG is a few MB on disk and 7.5 GB in memory
MAX_JPEG_PIXELS = 4 * MAX_PIXELS  # a JPEG is halved while it is decoded, so that no more than MAX_PIXELS are ever held
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}  # formats whose bytes are kept as they are
IMAGE_EXTENSIONS = ";".join(EXTENSIONS.values())
_QUALITY = 95
_PNG_BIT_DEPTH = 24  # offset of the byte in the file
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF_REDUCED, _TIFF_DNG = 254, 50706  # tags: whether it is a smaller version of another image; version of a raw file
SHRUNK = f"shrunk while decoding, more than {MAX_PIXELS // 10**6} million pixels"
_PNG_DOINGS, _PNG_TEXTS = (b"tRNS", b"acTL", b"eXIf"), (b"tEXt", b"zTXt", b"iTXt")


class BrokenImage(Exception):
    """The bytes are not an image that can be used; the message says why in a few words."""


@dataclass(frozen=True)
class Cleaned:
    """An image fit for a shard: its bytes, the extension of its format, and what had to be changed."""

    data: bytes
    extension: str
    changes: tuple[str, ...]

    def size_for(self, what: str) -> tuple[int, int]:
        """(width, height) of the image that ``what`` beside it is for. Raises BrokenImage for one that was shrunk."""
        if SHRUNK in self.changes:
            raise BrokenImage(f"{SHRUNK}, and its {what} are for all of them")
        return image_size(self.data)


def clean(data: bytes) -> Cleaned:
    """Bring any image file to 8-bit RGB, upright. Files that are so already keep their bytes.

    Converted: EXIF rotation (applied), CMYK, palette, 16-bit (scaled to 8, see `grey_of_16`), alpha (over white),
    grey, 1-bit, animations (first frame), formats other than JPEG, PNG and WebP, and JPEGs of 64 to 256 million pixels
    (halved). `decode` reads the same pixels from the file as it is. Raises BrokenImage for everything that does not
    decode to the end, holds 32-bit samples of unknown range, or has more than 64 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of damage and of bombs; both are reasons to refuse
            if _is_jpeg(data) and _is_large(data):
                return Cleaned(encode_jpeg(_decode_jpeg(data)), "jpg", _changes_of_jpeg(data))
            picture = _read(data)
    except BrokenImage:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every kind of exception on damaged files
        raise BrokenImage(_reason(data, error)) from None
    if picture.kind == "JPEG" and picture.mode == "RGB":
        decode_full(data)  # the decoder that training uses must agree that the file is whole
    if not picture.changes:
        return Cleaned(data, EXTENSIONS[picture.kind], ())
    if picture.kind == "JPEG":
        return Cleaned(encode_jpeg(picture.rgb_HW3), "jpg", picture.changes)
    return Cleaned(encode_png(picture.rgb_HW3), "png", picture.changes)


def changes_of(data: Buffer) -> tuple[str, ...]:
    """What is done to an image file when it is read, in the words of `clean`; () for one that cannot be read.

    JPEGs, and grey and RGB PNGs of 8 bits, are known by their headers; others are decoded.
    """
    data = bytes(data)
    try:
        if _is_jpeg(data):
            return _changes_of_jpeg(data)
        if (colours := _colours_of_plain_png(data)) is not None:
            return () if colours == 2 else ("grey",)
        return _read(data).changes
    except Exception:  # whoever reads the file says why it is broken
        return ()


def _colours_of_plain_png(data: bytes) -> int | None:
    """0 (grey) or 2 (RGB) of a PNG of 8 bits that needs neither turning nor a ground; None for any other file."""
    if data[:8] != _PNG_SIGNATURE or len(data) < 33 or data[_PNG_BIT_DEPTH] != 8 or data[25] not in (0, 2):
        return None
    at = 33  # behind the header
    while at + 8 <= len(data):
        kind = data[at + 4 : at + 8]
        if kind in _PNG_DOINGS or (kind in _PNG_TEXTS and data.startswith(PNG_TURNS, at + 8)):
            return None
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return data[25]


@dataclass(frozen=True)
class _Picture:
    """An image file as it is read: upright 8-bit RGB, what was done to it, and what it was."""

    rgb_HW3: UInt8
    changes: tuple[str, ...]
    kind: str
    mode: str


def _read(data: bytes) -> _Picture:
    """The one reader of whatever is no plain JPEG or PNG. Raises anything."""
    with Image.open(io.BytesIO(data)) as image:
        _check_size(*image.size)
        kind = "JPEG" if image.format == "MPO" else str(image.format)  # phones append previews and call it MPO
        # Pillow turns a TIFF while it loads it, and forgets that it did.
        tags = getattr(image, "tag_v2", {})
        turned = tags.get(EXIF_ORIENTATION, 1) if kind == "TIFF" else None
        if tags and (tags.get(_TIFF_REDUCED, 0) & 1 or _TIFF_DNG in tags):
            raise BrokenImage("a camera's raw file, or a part of one: all that can be read is its thumbnail")
        wide = bool(tags and 16 in tags.get(TIFF_BITS, ()))
        inverted = bool(tags) and is_white_zero(tags)
        stated = stated_bits(data, kind, tags)
        image.load()
        if turned is None:
            turned = orientation_of_jpeg(data) if kind == "JPEG" else orientation_of(image, data)
        changes = ["EXIF rotation"] if turned not in (0, 1) else []
        if kind != "JPEG" and getattr(image, "is_animated", False):
            changes.append("first frame of an animation")
        if kind == "PPM" and image.mode == "I":  # Pillow has scaled it by the largest value that the file states
            grey_HW, what = grey_of_16(np.asarray(image), 16)
        elif image.mode.startswith("I;16"):
            wide_HW = np.asarray(image)
            grey_HW, what = grey_of_16(wide_HW, 16 if kind == "PNG" and is_scaled(wide_HW, stated) else stated)
            grey_HW = 255 - grey_HW if inverted else grey_HW  # of 8 bits and fewer Pillow has done it
        else:
            grey_HW, what = None, _MODES.get(image.mode, image.mode)
        rgb_HW3 = np.asarray(_to_rgb(image) if grey_HW is None else Image.fromarray(grey_HW).convert("RGB"))
        if grey_HW is not None:
            changes.append(what)
        elif wide or (kind == "PNG" and data[_PNG_BIT_DEPTH] == 16):
            changes.append(words_of_wide(rgb_HW3))
        elif image.mode != "RGB":
            changes.append(what)
        elif "transparency" in image.info:
            changes.append("alpha")
        if kind not in EXTENSIONS:
            changes.append(f"format {kind}")
        return _Picture(rgb_HW3 if kind == "TIFF" else upright(rgb_HW3, turned), tuple(changes), kind, image.mode)


_MODES = {"L": "grey", "LA": "grey with alpha", "RGBA": "alpha", "P": "palette", "PA": "palette", "1": "1 bit"}


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any 8-bit mode -> RGB; transparent parts become white, as a page would show them."""
    if image.mode in ("I", "F"):
        raise BrokenImage("32-bit samples, whose range is unknown")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _is_jpeg(data: Buffer) -> bool:
    return bytes(data[:2]) == b"\xff\xd8"


def _is_large(data: Buffer) -> bool:
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    return bool(width * height > MAX_PIXELS)


def _changes_of_jpeg(data: bytes) -> tuple[str, ...]:
    _, _, colours, _ = simplejpeg.decode_jpeg_header(data)
    changes = ["EXIF rotation"] if orientation_of_jpeg(data) not in (0, 1) else []
    if colours not in _JPEG_COLOURS:
        changes.append("CMYK")
    elif colours == "Gray":
        changes.append("grey")
    return (*changes, SHRUNK) if _is_large(data) else tuple(changes)


_JPEG_COLOURS = ("YCbCr", "RGB", "Gray")  # which simplejpeg makes RGB


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "empty file"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {MAX_PIXELS // 10**6} million pixels"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split())[:120] or type(error).__name__


def _check_size(width: int, height: int, limit: int | None = None) -> None:
    limit = limit or MAX_PIXELS
    if width * height > limit:
        raise BrokenImage(f"{width} x {height} is more than {limit // 10**6} million pixels")


def decode(data: Buffer, size: int, out: UInt8 | None = None) -> UInt8:
    """An image file -> uint8 (size, size, 3) RGB: its largest centred square, resized with antialiasing.

    With ``out``, a contiguous array of that shape, the pixels are written there. JPEGs that are at least twice too
    large are decoded at a fraction of their size (the discrete cosine transform gives it for less than full decoding).
    Raises BrokenImage.
    """
    rgb_HW3 = decode_full(data, least=size, out=out)
    height, width = rgb_HW3.shape[:2]
    if (height, width) != (size, size):
        square = square_of(width, height)
        rgb_HW3 = np.asarray(Image.fromarray(rgb_HW3).resize((size, size), Image.Resampling.BICUBIC, square))
    if out is not None and rgb_HW3 is not out:
        out[:] = rgb_HW3
    return rgb_HW3


def decode_map(data: Buffer, size: int | None = None) -> UInt8:
    """A single-channel image of labels -> uint8 (size, size): cropped like `decode`, nearest neighbour.

    Without ``size`` it keeps its own, (H, W). Of a palette only the indices count: they are the labels. Raises
    BrokenImage.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            _check_size(*opened.size)
            image: Image.Image = opened
            if image.mode not in ("L", "P", "1"):
                raise BrokenImage(f"a map of labels must have one 8-bit channel, this has mode {image.mode}")
            spread = _spread_of_map(bytes(data), opened)
            if size is not None and image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.NEAREST, square_of(*image.size))
            return np.asarray(image).astype(np.uint8) // np.uint8(spread)
    except BrokenImage:
        raise
    except Exception as error:
        raise BrokenImage(_reason(bytes(data), error)) from None


def _spread_of_map(data: bytes, image: Image.Image) -> int:
    """By what Pillow multiplies the labels in a grey map of 2 or 4 bits, to fill 8. Raises BrokenImage."""
    tags = getattr(image, "tag_v2", {})
    if tags and is_white_zero(tags):
        raise BrokenImage("a map of labels in a TIFF whose 0 is white: write it as PNG")
    bits = data[_PNG_BIT_DEPTH] if image.format == "PNG" else tags.get(TIFF_BITS, (8,))[0]
    return 255 // ((1 << bits) - 1) if image.mode == "L" and bits in (2, 4) else 1


def decode_full(data: Buffer, least: int = 0, out: UInt8 | None = None) -> UInt8:
    """An image file of any kind -> uint8 (H, W, 3) RGB, upright: the pixels that `clean` would store.

    It has its own size; but a JPEG may come smaller, no side below ``least``, and one of more than 64 million pixels
    comes at half its size. A plain JPEG of the shape of ``out`` is decoded right into it (the result is ``out``).
    Raises BrokenImage.
    """
    try:
        if _is_jpeg(data):
            return _decode_jpeg(data, least, out)
        plain = _decode_plain_png(data)
        if plain is not None:
            return plain
        data = bytes(data)
        if _colours_of_plain_png(data) is None:
            return _read(data).rgb_HW3
        with Image.open(io.BytesIO(data)) as image:
            _check_size(*image.size)
            return np.asarray(image.convert("RGB"))
    except BrokenImage:
        raise
    except Exception as error:
        raise BrokenImage(_reason(bytes(data), error)) from None


def _decode_jpeg(data: Buffer, least: int = 0, out: UInt8 | None = None) -> UInt8:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    _check_size(width, height, MAX_JPEG_PIXELS)
    orientation = orientation_of_jpeg(data)
    if colours not in _JPEG_COLOURS:
        return _read(bytes(data)).rgb_HW3
    least = least if least and min(height, width) >= 2 * least else 0
    if width * height > MAX_PIXELS and not least:
        halves = {"min_height": (height + 1) // 2, "min_width": (width + 1) // 2}
        rgb_HW3: UInt8 = simplejpeg.decode_jpeg(data, "RGB", **halves)
        return upright(rgb_HW3, orientation)
    room = out if out is not None and out.shape == (height, width, 3) and orientation in (0, 1) else None
    rgb_HW3 = simplejpeg.decode_jpeg(data, "RGB", min_height=least, min_width=least, buffer=room)
    if orientation not in (0, 1):
        return upright(rgb_HW3, orientation)
    return rgb_HW3 if room is None else room


def image_size(data: Buffer) -> tuple[int, int]:
    """(width, height) of an image file as it is shown, upright, from its header alone. Raises BrokenImage."""
    try:
        if _is_jpeg(data):
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            return (height, width) if 5 <= orientation_of_jpeg(data) <= 8 else (width, height)
        with Image.open(io.BytesIO(data)) as image:  # which has turned the size of a TIFF
            turned = image.format != "TIFF" and 5 <= orientation_of(image, bytes(data)) <= 8
            return image.size[::-1] if turned else image.size
    except Exception as error:
        raise BrokenImage(_reason(bytes(data), error)) from None


def square_of(width: int, height: int) -> tuple[float, float, float, float]:
    """The largest centred square of an image, as (left, top, right, bottom): what `decode` shows of it."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def encode(rgb_HW3: UInt8, extension: str, quality: int = _QUALITY) -> bytes:
    """uint8 (H, W, 3) RGB -> an image file of the format that has the ``extension``; PNG is lossless."""
    if extension == "jpg":
        return encode_jpeg(rgb_HW3, quality)
    if extension == "png":
        return encode_png(rgb_HW3)
    buffer = io.BytesIO()
    Image.fromarray(rgb_HW3).save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


def encode_jpeg(rgb_HW3: UInt8, quality: int = _QUALITY) -> bytes:
    """uint8 (H, W, 3) RGB -> JPEG without chroma subsampling: some tasks learn from nothing but colour."""
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb_HW3), quality, "RGB", "444")
    return encoded


def encode_png(pixels: UInt8) -> bytes:
    """uint8 (H, W, 3) RGB or (H, W) grey -> PNG, lossless.

    Rows are stored unfiltered: small images gain little from filters, and `_decode_plain_png` reads them back several
    times faster than a general decoder.
    """
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + pixels[0].size), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b"")
    return _PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _decode_plain_png(data: Buffer) -> UInt8 | None:
    """The inverse of `encode_png` for RGB; None for any PNG that was written in another way."""
    head = bytes(data[:41])
    if (
        head[:8] != _PNG_SIGNATURE
        or head[12:16] != b"IHDR"
        or head[24:29] != b"\x08\x02\x00\x00\x00"
        or head[37:41] != b"IDAT"
    ):
        return None
    width, height, size = *struct.unpack(">II", head[16:24]), int.from_bytes(head[33:37], "big")
    if len(data) != 41 + size + 4 + 12:
        return None
    _check_size(width, height)
    body = data[41 : 41 + size]
    if zlib.crc32(body, zlib.crc32(b"IDAT")).to_bytes(4, "big") != data[41 + size : 45 + size]:
        raise BrokenImage("PNG checksum is wrong")
    expected = height * (1 + 3 * width)
    inflater = zlib.decompressobj()
    rows = np.frombuffer(inflater.decompress(body, expected + 1), np.uint8)
    if len(rows) != expected or not inflater.eof:
        raise BrokenImage("PNG data does not have the size that its header says")
    rows = rows.reshape(height, 1 + 3 * width)
    if rows[:, 0].any():
        return None
    return rows[:, 1:].reshape(height, width, 3)
