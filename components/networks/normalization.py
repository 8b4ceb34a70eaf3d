"""What RGB is standardized with before a trunk sees it: named pairs of mean and deviation, or numbers."""

import math

from components.errors import UserError

Triple = tuple[float, float, float]  # of red, green and blue, of values in [0, 1]

NORMALIZATIONS: dict[str, tuple[Triple, Triple]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # to [-1, 1]
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def mean_and_deviation(name: str) -> tuple[Triple, Triple]:
    """Mean and deviation that ``name`` stands for: one of NORMALIZATIONS, or r,g,b/r,g,b in [0, 1].

    Raises UserError for any other text, and for a deviation that is not positive.
    """
    if name in NORMALIZATIONS:
        return NORMALIZATIONS[name]
    halves = name.split("/")
    try:
        mean, deviation = (_triple(half) for half in halves)
    except ValueError:
        raise UserError(
            f"normalization {name!r}: {', '.join(NORMALIZATIONS)} would be right, or mean and deviation of red, green "
            "and blue in [0, 1], such as 0.5,0.5,0.5/0.25,0.25,0.25"
        ) from None
    if max(map(abs, mean)) > 1 or not all(0 < value <= 1 for value in deviation):
        raise UserError(
            f"normalization {name!r} is not of values in [0, 1]: divide by 255, and give deviations above 0"
        )
    return mean, deviation


def _triple(text: str) -> Triple:
    red, green, blue = (float(part) for part in text.split(","))
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError(text)
    return red, green, blue
