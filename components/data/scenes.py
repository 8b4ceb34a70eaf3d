"""Procedural scenes: textured objects that stand on the ground or float in the sky, lit from above.

What a pretext task can find in them: colour goes with class and with surroundings; the sky is above, light falls from
above, shadows lie below, most shapes have an upper end; texture and shape go with class. None of these cues settles
the class alone. Scenes are pure functions of (key, number): only correctly rounded operations (+ - * / sqrt and
comparisons) are used, so every machine draws the same bytes; sines are replaced by triangle waves, rotations are
rational (Weierstrass substitution).

Legend of shape suffixes: B scenes, S side in pixels, K objects of a scene, G points of a noise lattice, 3 RGB.
Coordinates: x to the right and y downwards in [-1, 1] over the picture; u to the right and v upwards in about [-1, 1]
over an object.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.data.scene_kinds import COLOURS, KINDS, PATTERNS, Floats, wave
from components.data.scramble import Int64, make_key, uniforms

UInt8 = NDArray[np.uint8]

MAX_OBJECTS = 3
_LEAST_VISIBLE = 0.004  # share of the picture below which an object is hidden: no box


CLASSES = tuple(kind.name for kind in KINDS)
_TYPICAL = 0.5  # probability that colour, pattern or surroundings are the typical ones of the class

_SURROUNDINGS = np.array(  # sky at the top, sky at the horizon, ground at the horizon, ground in front
    [
        ((0.30, 0.52, 0.86), (0.75, 0.87, 0.95), (0.45, 0.62, 0.34), (0.25, 0.45, 0.16)),  # meadow
        ((0.44, 0.66, 0.88), (0.96, 0.88, 0.70), (0.86, 0.72, 0.48), (0.72, 0.52, 0.28)),  # desert
        ((0.52, 0.60, 0.66), (0.80, 0.83, 0.85), (0.38, 0.54, 0.62), (0.14, 0.32, 0.46)),  # sea
        ((0.36, 0.30, 0.52), (0.94, 0.62, 0.44), (0.42, 0.32, 0.26), (0.26, 0.18, 0.15)),  # dusk
        ((0.05, 0.06, 0.17), (0.22, 0.24, 0.42), (0.30, 0.32, 0.40), (0.50, 0.52, 0.58)),  # snow at night
    ],
    np.float32,
)
_TYPICAL_OF = {
    "pattern": np.array([kind.pattern for kind in KINDS]),
    "colours": np.array([kind.colours for kind in KINDS]),
    "second": np.array([kind.second for kind in KINDS]),
    "surroundings": np.array([kind.surroundings for kind in KINDS]),
    "floats": np.array([kind.floats for kind in KINDS], np.float32),
}


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes. Object k of a scene has the number k + 1 in ``instances``; 0 is background in both maps."""

    image: UInt8  # (B, S, S, 3)
    labels: Int64  # (B,): class of the main, largest object
    mask: UInt8  # (B, S, S): class + 1
    instances: UInt8  # (B, S, S)
    edges: UInt8  # (B, S, S): outlines and horizon, black on white
    kinds: Int64  # (B, K): classes of the objects
    boxes: Int64  # (B, K, 4): left, top, right, bottom in pixels, the last two exclusive; zeros for what is hidden


@dataclass(frozen=True)
class _Objects:
    """What was drawn by lot for the objects of B scenes, (B, K), the main object first."""

    kind: Int64
    exists: Floats  # 0 or 1
    radius: Floats
    x: Floats
    y: Floats
    ground: Floats  # y of the shadow
    tangent: Floats  # tan(tilt / 2)
    pattern: Int64
    period: Floats
    phase: Floats
    colours: Floats  # (B, K, 2, 3)


class _Lots:
    """Columns of a table of uniform numbers, handed out one after the other."""

    def __init__(self, table_BN: Floats) -> None:
        self._table_BN, self._next = table_BN, 0

    def take(self, *shape: int) -> Floats:
        """(B, *shape) uniform in [0, 1)."""
        count = int(np.prod(shape))
        part = self._table_BN[:, self._next : self._next + count]
        self._next += count
        return part.reshape(-1, *shape)

    def between(self, low: float, high: float, *shape: int) -> Floats:
        """(B, *shape) uniform in [low, high)."""
        return low + (high - low) * self.take(*shape)

    def number(self, high: int, *shape: int) -> Int64:
        """(B, *shape) int64 in 0 .. high - 1."""
        return (self.take(*shape) * high).astype(np.int64)

    def typical(self, usual: Int64, high: int) -> Int64:
        """``usual`` with probability _TYPICAL, anything below ``high`` otherwise."""
        shape = usual.shape[1:]
        return np.where(self.take(*shape) < _TYPICAL, usual, self.number(high, *shape))


def render(seed: int, split: str, numbers_B: Int64, size: int) -> Scenes:
    """Draw the scenes ``numbers_B`` (int64) of a split at ``size`` pixels a side (32 and up look right)."""
    key = make_key("scenes", seed, split)
    lots = _Lots(uniforms(key, numbers_B, 96))
    kind_BK = lots.number(len(KINDS), MAX_OBJECTS)
    horizon_B = lots.between(-0.3, 0.3)
    objects = _draw_lots(lots, kind_BK, horizon_B)
    noise_BSS = _noise(make_key(key, "noise"), numbers_B, size)
    image_BSS3 = _background(lots, kind_BK[:, 0], horizon_B, noise_BSS, size)
    light_B = lots.between(-0.6, 0.6)
    y_S = _axis(size)

    drawing_BSS = np.clip(1 - np.abs(y_S[None, :, None] - horizon_B[:, None, None]) * (size / 2), 0, 1)
    drawing_BSS = np.repeat(drawing_BSS, size, 2)
    instances_BSS = np.zeros(noise_BSS.shape, np.uint8)
    for k in (1, 0, 2):  # back to front: the main object has one neighbour behind it and one before it
        _cast_shadow(image_BSS3, objects, k, light_B)
        alpha_BSS, line_BSS = _paint(image_BSS3, objects, k, light_B, noise_BSS)
        drawing_BSS = np.maximum(drawing_BSS * (1 - alpha_BSS), line_BSS)
        instances_BSS[alpha_BSS > 0.5] = k + 1
    exposed_BSS3 = _expose(image_BSS3, lots, make_key(key, "grain"), numbers_B)
    classes_BK = np.concatenate([np.zeros((len(kind_BK), 1), np.int64), kind_BK + 1], 1).astype(np.uint8)
    mask_BSS = np.take_along_axis(classes_BK, instances_BSS.reshape(len(kind_BK), -1).astype(np.int64), 1)
    return Scenes(
        exposed_BSS3,
        kind_BK[:, 0],
        mask_BSS.reshape(instances_BSS.shape),
        instances_BSS,
        (255 - drawing_BSS * 255).astype(np.uint8),
        kind_BK,
        _boxes(instances_BSS),
    )


def _axis(size: int) -> Floats:
    """Centres of the pixels in [-1, 1]."""
    return ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)


def _draw_lots(lots: _Lots, kind_BK: Int64, horizon_B: Floats) -> _Objects:
    K = MAX_OBJECTS
    exists_BK = (lots.take(K) < np.array([1.0, 0.6, 0.45], np.float32)).astype(np.float32)
    main_B1 = lots.between(0.42, 0.62, 1)
    smaller_BK = lots.between(0.4, 0.62, K)
    smaller_BK[:, 0] = 1
    radius_BK = main_B1 * smaller_BK
    x_BK = lots.between(-0.85, 0.85, K)
    x_BK[:, 0] *= 0.45
    # Objects stand with their feet somewhere between horizon and front; those that float have their shadow there.
    near_BK = np.sqrt(lots.take(K))
    ground_BK = horizon_B[:, None] + (0.9 - horizon_B[:, None]) * (0.25 + 0.75 * near_BK)
    floating_BK = lots.take(K) < _TYPICAL_OF["floats"][kind_BK]
    lift_BK = lots.between(0.15, 0.9, K) * floating_BK
    y_BK = np.maximum(ground_BK - 0.85 * radius_BK - lift_BK, radius_BK * 0.7 - 1)
    tangent_BK = lots.between(-0.13, 0.13, K)
    pattern_BK = lots.typical(_TYPICAL_OF["pattern"][kind_BK], len(PATTERNS))
    period_BK = lots.between(0.5, 0.85, K)
    phase_BK = lots.take(K)
    usual_BK = np.take_along_axis(_TYPICAL_OF["colours"][kind_BK], lots.number(3, K, 1), 2)[:, :, 0]
    first_BK = lots.typical(usual_BK, len(COLOURS))
    second_BK = lots.typical(_TYPICAL_OF["second"][kind_BK], len(COLOURS))
    colours_BK23 = COLOURS[np.stack([first_BK, second_BK], 2)] + lots.between(-0.1, 0.1, K, 2, 3)
    return _Objects(
        kind_BK, exists_BK, radius_BK, x_BK, y_BK, ground_BK, tangent_BK, pattern_BK, period_BK, phase_BK, colours_BK23
    )


def _noise(key: np.uint64, numbers_B: Int64, size: int) -> Floats:
    """Value noise of three octaves, (B, S, S) in [0, 1]."""
    total = np.zeros((len(numbers_B), size, size), np.float32)
    for octave, points in enumerate((5, 9, 17)):
        lattice_BGG = uniforms(make_key(key, octave), numbers_B, points, points)
        total += _stretch(lattice_BGG, size) * (0.5, 0.3, 0.2)[octave]
    return total


def _stretch(lattice_BGG: Floats, size: int) -> Floats:
    """Bilinear interpolation of a lattice to (B, S, S)."""
    points = lattice_BGG.shape[1]
    place_S = (_axis(size) + 1) * (0.5 * (points - 1))
    low_S = place_S.astype(np.int64)
    part_S = (place_S - low_S).astype(np.float32)
    rows_BSG = lattice_BGG[:, low_S] * (1 - part_S)[:, None] + lattice_BGG[:, low_S + 1] * part_S[:, None]
    out: Floats = rows_BSG[:, :, low_S] * (1 - part_S) + rows_BSG[:, :, low_S + 1] * part_S
    return out


def _background(lots: _Lots, label_B: Int64, horizon_B: Floats, noise_BSS: Floats, size: int) -> Floats:
    """Sky with clouds over ground with texture, (B, S, S, 3)."""
    chosen_B = lots.typical(_TYPICAL_OF["surroundings"][label_B], len(_SURROUNDINGS))
    colours_B43 = _SURROUNDINGS[chosen_B] + lots.between(-0.08, 0.08, 4, 3)
    y_S, h_B1 = _axis(size), horizon_B[:, None]
    up_BS = np.clip((h_B1 - y_S) / (h_B1 + 1), 0, 1)[:, :, None]
    down_BS = np.clip((y_S - h_B1) / (1 - h_B1), 0, 1)[:, :, None]
    sky_BS3 = colours_B43[:, None, 1] + (colours_B43[:, None, 0] - colours_B43[:, None, 1]) * up_BS
    ground_BS3 = colours_B43[:, None, 2] + (colours_B43[:, None, 3] - colours_B43[:, None, 2]) * down_BS
    below_BS1 = np.clip((y_S - h_B1) * (size / 2) + 0.5, 0, 1)[:, :, None]
    column_BS13 = (sky_BS3 + (ground_BS3 - sky_BS3) * below_BS1)[:, :, None]
    clouds_BSS = np.clip(noise_BSS * 3 - 1.4, 0, 1) * (0.5 * (1 - below_BS1))
    # Ground is rougher towards the viewer: the same noise, transposed, read faster.
    rough_BSS = (wave(noise_BSS.transpose(0, 2, 1) * 4) - 0.5) * (below_BS1 * (0.12 + 0.3 * down_BS))
    image_BSS3 = column_BS13 * (1 + rough_BSS)[..., None]
    image_BSS3 += (0.95 - image_BSS3) * clouds_BSS[..., None]
    out: Floats = image_BSS3
    return out


def _cast_shadow(image_BSS3: Floats, objects: _Objects, k: int, light_B: Floats) -> None:
    """Darken an ellipse under object ``k``, in place."""
    axis_S = _axis(image_BSS3.shape[1])
    radius_B1 = objects.radius[:, k, None]
    centre_B1 = objects.x[:, k, None] - 0.5 * light_B[:, None] * radius_B1
    across_BS = (axis_S - centre_B1) / (1.05 * radius_B1)
    along_BS = (axis_S - objects.ground[:, k, None]) / (0.3 * radius_B1)
    distance_BSS = (across_BS * across_BS)[:, None, :] + (along_BS * along_BS)[:, :, None]
    dark_BSS = np.clip(1.3 - distance_BSS, 0, 1) * (0.5 * objects.exists[:, k, None, None])
    image_BSS3 *= (1 - dark_BSS)[..., None]


def _paint(image_BSS3: Floats, objects: _Objects, k: int, light_B: Floats, noise_BSS: Floats) -> tuple[Floats, Floats]:
    """Paint object ``k`` into the image, in place; returns (its coverage, its outline), both (B, S, S) in [0, 1]."""
    size = image_BSS3.shape[1]

    def of(values: Floats) -> Floats:
        return values[:, k, None, None]

    t = of(objects.tangent)
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    across = (_axis(size)[None, None, :] - of(objects.x)) / of(objects.radius)
    upward = (of(objects.y) - _axis(size)[None, :, None]) / of(objects.radius)
    u_BSS, v_BSS = across * cosine + upward * sine, upward * cosine - across * sine
    distance_BSS = np.empty(u_BSS.shape, np.float32)
    for number, kind in enumerate(KINDS):
        here = np.flatnonzero(objects.kind[:, k] == number)
        distance_BSS[here] = kind.shape(u_BSS[here], v_BSS[here])
    pixels_BSS = distance_BSS * (of(objects.radius) * (size / 2))
    exists_B11 = of(objects.exists)
    alpha_BSS = np.clip(0.5 - pixels_BSS, 0, 1) * exists_B11
    line_BSS = np.clip(1.2 - np.abs(pixels_BSS), 0, 1) * exists_B11

    share_BSS = np.empty(u_BSS.shape, np.float32)
    scale, phase = 1 / of(objects.period), of(objects.phase)
    for number, pattern in enumerate(PATTERNS):
        here = np.flatnonzero(objects.pattern[:, k] == number)
        share_BSS[here] = pattern(
            u_BSS[here] * scale[here] + phase[here], v_BSS[here] * scale[here] + phase[here], noise_BSS[here]
        )
    # Round shading: bright where the surface looks up and towards the light, dark at its lower rim.
    lit_BSS = 0.82 + 0.24 * v_BSS + 0.14 * light_B[:, None, None] * u_BSS + 0.1 * np.clip(-distance_BSS, 0, 0.5)
    lit_BSS = np.clip(lit_BSS, 0.4, 1.25)
    first_B113, second_B113 = objects.colours[:, k, 0, None, None], objects.colours[:, k, 1, None, None]
    paint_BSS3 = (first_B113 + (second_B113 - first_B113) * share_BSS[..., None]) * lit_BSS[..., None]
    image_BSS3 += (paint_BSS3 - image_BSS3) * alpha_BSS[..., None]
    return alpha_BSS, line_BSS


def _expose(image_BSS3: Floats, lots: _Lots, key: np.uint64, numbers_B: Int64) -> UInt8:
    """Exposure, a slight cast of colour, and grain; float to uint8."""
    size = image_BSS3.shape[1]
    gain_B113 = lots.between(0.8, 1.15, 1, 1, 1) * lots.between(0.95, 1.05, 1, 1, 3)
    grain_BSS1 = (uniforms(key, numbers_B, size, size, 1) - 0.5) * 0.07
    out: Floats = (np.clip(image_BSS3 * gain_B113 + grain_BSS1, 0, 1) * 255 + 0.5).astype(np.uint8)
    return out


def _boxes(instances_BSS: UInt8) -> Int64:
    """Extents of what is visible of each object, (B, K, 4)."""
    size = instances_BSS.shape[1]
    boxes_BK4 = np.zeros((len(instances_BSS), MAX_OBJECTS, 4), np.int64)
    for k in range(MAX_OBJECTS):
        here_BSS = instances_BSS == k + 1
        rows_BS, columns_BS = here_BSS.any(2), here_BSS.any(1)
        boxes_BK4[:, k, 0], boxes_BK4[:, k, 2] = columns_BS.argmax(1), size - columns_BS[:, ::-1].argmax(1)
        boxes_BK4[:, k, 1], boxes_BK4[:, k, 3] = rows_BS.argmax(1), size - rows_BS[:, ::-1].argmax(1)
        boxes_BK4[here_BSS.sum((1, 2)) < _LEAST_VISIBLE * size * size, k] = 0
    return boxes_BK4
