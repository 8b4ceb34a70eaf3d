"""Pictures of more than 8 bits a sample: what their values mean, and how they become 8 bits.

Legend of shape suffixes: H height, W width.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data.arrays import UInt8

TIFF_BITS = 258  # tag: bits per sample
_TIFF_WHITE_IS_ZERO = (262, 0)  # tag and value: what 0 stands for
_DEPTHS = (8, 10, 12, 14)  # of cameras whose values lie unscaled in 16 bits


def stated_bits(data: bytes, kind: str, tags: Any) -> int | None:
    """The bits of a grey sample by what the file says besides 16; None where it says nothing."""
    if kind == "TIFF":
        bits = tags.get(TIFF_BITS, (16,))[0]
        return bits if 8 < bits < 16 else None
    at = data.find(b"sBIT", 0, data.find(b"IDAT")) if kind == "PNG" else -1
    return data[at + 4] if at >= 0 else None


def is_white_zero(tags: Any) -> bool:
    """Whether 0 stands for white, by the tags of a TIFF."""
    tag, value = _TIFF_WHITE_IS_ZERO
    return bool(tags.get(tag) == value)


def is_scaled(wide_HW: NDArray[Any], stated: int | None) -> bool:
    """Whether samples of ``stated`` bits fill 16, as the PNG standard wants it: shifted up, or scaled by 65535."""
    if stated is None or not 8 < stated < 16:
        return False
    wide_HW = wide_HW.astype(np.int64)
    narrow_HW, shift = wide_HW >> (16 - stated), 16 - stated
    shifted = (narrow_HW << shift) == wide_HW
    scaled = np.abs(narrow_HW * 65535 / ((1 << stated) - 1) - wide_HW) <= 1
    return bool(shifted.all() or scaled.all())


def grey_of_16(wide_HW: NDArray[Any], stated: int | None) -> tuple[UInt8, str]:
    """Grey values of up to 16 bits -> (uint8, what was done, in words).

    Microscopes and cameras put 12 bits into 16, where they would be near black: what nowhere goes beyond 8, 10, 12 or
    14 bits is stretched by that range, of ``stated`` bits where the file states them, and anything else by 65535.
    """
    largest = int(wide_HW.max())
    if stated is not None:
        bits = stated if largest < 1 << stated else 16
    else:
        bits = next((bits for bits in _DEPTHS if 0 < largest < 1 << bits), 16)
    limit = (1 << bits) - 1
    grey_HW = ((wide_HW.astype(np.uint32) * 255 + limit // 2) // limit).astype(np.uint8)
    return grey_HW, "16 bit" if bits == 16 else f"{bits}-bit grey stretched by {limit}"


def words_of_wide(rgb_HW3: UInt8) -> str:
    """What was done to 16-bit colour: its upper 8 bits were read, too few to stretch what lies in the lower ones."""
    used = 8 + int(rgb_HW3.max()).bit_length()
    return "16 bit" if used == 8 or used > max(_DEPTHS) else f"16-bit colour of {max(_DEPTHS)} bits or less, left dark"
