"""The kinds of objects in scenes: shapes, patterns, colours, and what is typical of each class.

Legend: u to the right and v upwards in about [-1, 1] over an object; noise in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]  # float32 throughout; numpy's type hints lose the width in arithmetic


def _disc(u: Floats, v: Floats, radius: float, down: float = 0.0) -> Floats:
    out: Floats = np.sqrt(u * u + (v + down) * (v + down)) - radius
    return out


def _box(u: Floats, v: Floats, half_width: float, half_height: float, down: float = 0.0) -> Floats:
    out: Floats = np.maximum(np.abs(u) - half_width, np.abs(v + down) - half_height)
    return out


def _roof(u: Floats, v: Floats, top: float, bottom: float, half_width: float) -> Floats:
    """Triangle with its tip at v = top and its base at v = bottom."""
    slope = (top - bottom) / half_width
    length = float(np.sqrt(1 + slope * slope))
    out: Floats = np.maximum((np.abs(u) * slope + v - top) / length, bottom - v)
    return out


def _ball(u: Floats, v: Floats) -> Floats:
    return _disc(u, v, 0.88)


def _ring(u: Floats, v: Floats) -> Floats:
    out: Floats = np.abs(_disc(u, v, 0.66)) - 0.25
    return out


def _crate(u: Floats, v: Floats) -> Floats:
    return _box(u, v, 0.78, 0.78)


def _tent(u: Floats, v: Floats) -> Floats:
    return _roof(u, v, 0.95, -0.75, 0.95)


def _star(u: Floats, v: Floats) -> Floats:
    root = np.sqrt(np.abs(u)) + np.sqrt(np.abs(v))
    out: Floats = (root * root - 1.45) * 0.45
    return out


def _cross(u: Floats, v: Floats) -> Floats:
    out: Floats = np.minimum(_box(u, v, 0.9, 0.29), _box(u, v, 0.29, 0.9))
    return out


def _moon(u: Floats, v: Floats) -> Floats:
    out: Floats = np.maximum(_disc(u, v, 0.92), 0.74 - _disc(u - 0.42, v, 0.0, -0.12))
    return out


def _mushroom(u: Floats, v: Floats) -> Floats:
    out: Floats = np.minimum(np.maximum(_disc(u, v, 0.92, -0.02), -v), _box(u, v, 0.24, 0.5, 0.4))
    return out


def _house(u: Floats, v: Floats) -> Floats:
    out: Floats = np.minimum(_box(u, v, 0.58, 0.46, 0.42), _roof(u, v, 0.95, 0.02, 0.92))
    return out


def _drop(u: Floats, v: Floats) -> Floats:
    out: Floats = np.minimum(_disc(u, v, 0.58, 0.32), _roof(u, v, 1.0, -0.1, 0.56))
    return out


def wave(t: Floats) -> Floats:
    """Triangle wave of period 1 in [0, 1]."""
    out: Floats = np.abs((t - np.floor(t)) * 2 - 1)
    return out


def _sharp(t: Floats) -> Floats:
    """A wave in [0, 1] -> stripes with soft borders."""
    out: Floats = np.clip((t - 0.5) * 4 + 0.5, 0, 1)
    return out


def _plain(u: Floats, v: Floats, noise: Floats) -> Floats:
    return noise * 0.25


def _bands(u: Floats, v: Floats, noise: Floats) -> Floats:
    return _sharp(wave(v))


def _stripes(u: Floats, v: Floats, noise: Floats) -> Floats:
    return _sharp(wave(u))


def _diagonal(u: Floats, v: Floats, noise: Floats) -> Floats:
    return _sharp(wave((u + v) * 0.7))


def _checks(u: Floats, v: Floats, noise: Floats) -> Floats:
    a, b = _sharp(wave(u * 0.7)), _sharp(wave(v * 0.7))
    out: Floats = a + b - 2 * a * b
    return out


def _dots(u: Floats, v: Floats, noise: Floats) -> Floats:
    return _sharp(wave(u) * wave(v) * 1.3)


def _marble(u: Floats, v: Floats, noise: Floats) -> Floats:
    return _sharp(wave(u * 0.4 + noise * 1.5))


Shape = Callable[[Floats, Floats], Floats]
Pattern = Callable[[Floats, Floats, Floats], Floats]
PATTERNS: tuple[Pattern, ...] = (_plain, _bands, _stripes, _diagonal, _checks, _dots, _marble)

COLOURS = np.array(
    [
        (0.80, 0.16, 0.14),  # 0 red
        (0.90, 0.50, 0.13),  # 1 orange
        (0.90, 0.80, 0.22),  # 2 yellow
        (0.30, 0.62, 0.20),  # 3 green
        (0.14, 0.42, 0.28),  # 4 dark green
        (0.18, 0.62, 0.66),  # 5 teal
        (0.20, 0.36, 0.78),  # 6 blue
        (0.45, 0.24, 0.62),  # 7 violet
        (0.85, 0.48, 0.62),  # 8 pink
        (0.48, 0.31, 0.18),  # 9 brown
        (0.88, 0.86, 0.82),  # 10 white
        (0.20, 0.20, 0.24),  # 11 black
    ],
    np.float32,
)


@dataclass(frozen=True)
class Kind:
    """One class: its shape, and what is typical of it. Typical is not certain (see `_TYPICAL`)."""

    name: str
    shape: Shape
    pattern: int
    colours: tuple[int, int, int]
    second: int
    surroundings: int
    floats: float  # probability of being in the air


# Neighbours share colours, patterns and surroundings, so that no single cue tells two classes apart.
KINDS = (
    Kind("ball", _ball, 1, (0, 1, 6), 10, 0, 0.5),
    Kind("ring", _ring, 0, (1, 2, 0), 11, 1, 0.6),
    Kind("crate", _crate, 4, (9, 1, 2), 11, 3, 0.0),
    Kind("tent", _tent, 2, (3, 9, 1), 10, 0, 0.0),
    Kind("star", _star, 5, (2, 10, 8), 1, 4, 0.8),
    Kind("cross", _cross, 3, (10, 0, 8), 6, 2, 0.1),
    Kind("moon", _moon, 6, (2, 10, 5), 9, 4, 0.9),
    Kind("mushroom", _mushroom, 5, (0, 8, 7), 10, 3, 0.0),
    Kind("house", _house, 4, (5, 6, 0), 9, 1, 0.0),
    Kind("drop", _drop, 6, (6, 5, 7), 10, 2, 0.4),
)
