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
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

UInt8 = NDArray[np.uint8]
Buffer = bytes | memoryview

MAX_PIXELS = 64_000_000  # a 50,000 x 50,000 PNG is a few MB on disk and 7.5 GB in memory
EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}  # formats whose bytes are kept as they are
IMAGE_EXTENSIONS = ";".join(EXTENSIONS.values())
_QUALITY = 95
_EXIF_ORIENTATION = 0x0112
_PNG_BIT_DEPTH = 24  # offset of the byte in the file
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class BrokenImage(Exception):
    """The bytes are not an image that can be used; the message says why in a few words."""


@dataclass(frozen=True)
class Cleaned:
    """An image fit for a shard: its bytes, the extension of its format, and what had to be changed."""

    data: bytes
    extension: str
    changes: tuple[str, ...]


def clean(data: bytes) -> Cleaned:
    """Bring any image file to 8-bit RGB, upright. Files that are so already keep their bytes.

    Converted: EXIF rotation (applied), CMYK, palette, 16-bit (scaled to 8), alpha (over white), grey, 1-bit, animations
    (first frame), and formats other than JPEG, PNG and WebP. Raises BrokenImage for everything that does not decode to
    the end, holds 32-bit samples of unknown range, or has more than 64 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of damage and of bombs; both are reasons to refuse
            with Image.open(io.BytesIO(data)) as image:
                _check_size(*image.size)
                image.load()
                return _cleaned(data, image)
    except BrokenImage:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every kind of exception on damaged files
        raise BrokenImage(_reason(data, error)) from None


def _cleaned(data: bytes, image: Image.Image) -> Cleaned:
    kind = "JPEG" if image.format == "MPO" else str(image.format)  # phones append previews to a JPEG and call it MPO
    changes = _changes(data, image, kind)
    if kind == "JPEG" and image.mode == "RGB":
        decode_full(data)  # the decoder that training uses must agree that the file is whole
    if not changes:
        return Cleaned(data, EXTENSIONS[kind], ())
    rgb_HW3 = np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    if kind == "JPEG":
        return Cleaned(encode_jpeg(rgb_HW3), "jpg", tuple(changes))
    return Cleaned(encode_png(rgb_HW3), "png", tuple(changes))


def _changes(data: bytes, image: Image.Image, kind: str) -> list[str]:
    """What has to be done to ``image``, in words."""
    changes = []
    if image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1):
        changes.append("EXIF rotation")
    if kind != "JPEG" and getattr(image, "is_animated", False):
        changes.append("first frame of an animation")
    if image.mode.startswith("I;16") or (kind == "PNG" and data[_PNG_BIT_DEPTH] == 16):
        changes.append("16 bit")
    elif image.mode != "RGB":
        changes.append(_MODES.get(image.mode, image.mode))
    elif "transparency" in image.info:
        changes.append("alpha")
    if kind not in EXTENSIONS:
        changes.append(f"format {kind}")
    return changes


_MODES = {"L": "grey", "LA": "grey with alpha", "RGBA": "alpha", "P": "palette", "PA": "palette", "1": "1 bit"}


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode -> 8-bit RGB; transparent parts become white, as a page would show them."""
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BrokenImage("32-bit samples, whose range is unknown")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "empty file"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {MAX_PIXELS // 10**6} million pixels"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split())[:120] or type(error).__name__


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BrokenImage(f"{width} x {height} is more than {MAX_PIXELS // 10**6} million pixels")


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
            if size is not None and image.size != (size, size):
                image = image.resize((size, size), Image.Resampling.NEAREST, square_of(*image.size))
            return np.asarray(image).astype(np.uint8)
    except BrokenImage:
        raise
    except Exception as error:
        raise BrokenImage(_reason(bytes(data), error)) from None


def decode_full(data: Buffer, least: int = 0, out: UInt8 | None = None) -> UInt8:
    """An image file -> uint8 (H, W, 3) RGB at its own size; a JPEG may come smaller, but no side below ``least``.

    A JPEG of the shape of ``out`` is decoded right into it (the result is ``out``). Raises BrokenImage.
    """
    try:
        if bytes(data[:2]) == b"\xff\xd8":
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            _check_size(width, height)
            least = least if least and min(height, width) >= 2 * least else 0
            room = out if out is not None and out.shape == (height, width, 3) else None
            rgb_HW3: UInt8 = simplejpeg.decode_jpeg(data, "RGB", min_height=least, min_width=least, buffer=room)
            return rgb_HW3 if room is None else room
        plain = _decode_plain_png(data)
        if plain is not None:
            return plain
        with Image.open(io.BytesIO(data)) as image:
            _check_size(*image.size)
            return np.asarray(image.convert("RGB"))
    except BrokenImage:
        raise
    except Exception as error:
        raise BrokenImage(_reason(bytes(data), error)) from None


def image_size(data: Buffer) -> tuple[int, int]:
    """(width, height) of an image file, from its header alone. Raises BrokenImage."""
    try:
        if bytes(data[:2]) == b"\xff\xd8":
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            return width, height
        with Image.open(io.BytesIO(data)) as image:
            return image.size
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
