"""How pictures have to be turned: Exif and XMP, in JPEG, PNG and other files.

Legend of shape suffixes: H height, W width.
"""

import re

import numpy as np
from PIL import Image

from components.data.arrays import Buffer, UInt8

PNG_TURNS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # chunks that may say how a PNG is turned
EXIF_ORIENTATION = 0x0112  # the tag
# An orientation in an Exif block (tag, type, count, value) that is not the usual "16-bit, 1 value, upright".
_TURN = re.compile(
    rb"\x01\x12(?!\x00\x03\x00\x00\x00\x01\x00[\x00\x01])\x00[\x01-\x0d]"
    rb"|\x12\x01(?!\x03\x00\x01\x00\x00\x00[\x00\x01]\x00)[\x01-\x0d]\x00",
    re.DOTALL,
)
_TAG = re.compile(rb"\x01\x12\0|\x12\x01.\0", re.DOTALL)
_XMP_TURN = re.compile(rb'tiff:Orientation(="|>)([0-9])')


def orientation_of_jpeg(data: Buffer) -> int:
    """How a JPEG has to be turned, as Exif counts: 1 is upright.

    Only the segments before the first table are looked into, where Exif and XMP have to be: for a plain JPEG that is a
    microsecond, and it is read for every sample of a training.
    """
    at, by_xmp = 2, 1
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if not (0xE0 <= kind <= 0xEF or kind == 0xFE):
            break
        end = at + 2 + (data[at + 2] << 8) + data[at + 3]
        if kind == 0xE1:
            said = bytes(data[at + 4 : end])
            if said.startswith(b"Exif\0\0"):
                if by_exif := _orientation_in(said):
                    return by_exif
            elif found := _XMP_TURN.search(said):
                by_xmp = int(found[2])
        at = end
    return by_xmp


def _orientation_in(exif: bytes) -> int | None:
    """What an Exif block says; None for one that says nothing, or cannot be read."""
    if not _TURN.search(exif):
        return 1 if _TAG.search(exif) else None
    block = Image.Exif()
    try:
        block.load(exif)
        return int(block.get(EXIF_ORIENTATION, 0)) or None
    except Exception:  # a damaged block is no reason to refuse the picture
        return None


def orientation_of(image: Image.Image, data: bytes) -> int:
    """As `orientation_of_jpeg`, of other files; a PNG is asked where a chunk may say it, as asking decodes it."""
    if image.format == "PNG" and not any(marker in data for marker in PNG_TURNS):
        return 1
    return int(image.getexif().get(EXIF_ORIENTATION, 1))


def upright(rgb_HW3: UInt8, orientation: int) -> UInt8:
    """Pixels as the Exif ``orientation`` wants them shown: where row 0 and column 0 belong."""
    if 5 <= orientation <= 8:
        rgb_HW3 = rgb_HW3.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb_HW3 = rgb_HW3[::-1]
    if orientation in (2, 3, 6, 7):
        rgb_HW3 = rgb_HW3[:, ::-1]
    return np.ascontiguousarray(rgb_HW3)
