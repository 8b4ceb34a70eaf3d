"""Parts of a shard: a tar of others may lie in training and validation, with other samples in each.

A part is a text in the index: ``only 3,17-19 of 60`` or ``all but 3,17-19 of 60``, samples counted from 0.
"""

import numpy as np

from components.data.scramble import Int64

PATTERN = r"^(only|all but) \d+(-\d+)?(,\d+(-\d+)?)* of \d+$"


def part_of(samples: Int64, whole: int) -> str | None:
    """The text for the numbers ``samples``, at least one, rising, of a shard with ``whole``; None where it is all."""
    if len(samples) == whole:
        return None
    others = np.setdiff1d(np.arange(whole, dtype=np.int64), samples, assume_unique=True)
    fewer = f"only {_ranges(samples)}" if len(samples) <= len(others) else f"all but {_ranges(others)}"
    return f"{fewer} of {whole}"


def samples_of(part: str) -> Int64:
    """The numbers that a text stands for, rising. Raises ValueError for such as the shard does not have."""
    only, numbered = _split(part)
    listed, _, whole = numbered.partition(" of ")
    ends = [piece.partition("-") for piece in listed.split(",")]
    numbers = np.concatenate([np.arange(int(first), int(last or first) + 1) for first, _, last in ends])
    if not len(numbers) or numbers[-1] >= int(whole) or (np.diff(numbers) <= 0).any():
        raise ValueError(f"part {part!r} is not of rising numbers below {whole}")
    if only:
        return numbers
    return np.setdiff1d(np.arange(int(whole), dtype=np.int64), numbers, assume_unique=True)


def whole_of(part: str) -> int:
    """How many samples the shard has of which this is a part."""
    return int(part.rpartition(" ")[2])


def overlap(first: str | None, second: str | None) -> bool:
    """Whether two parts of one shard (None: all of it) have a sample in common."""
    if first is None or second is None:
        return True
    kinds, (named, other) = zip(*(_split(part) for part in (first, second)), strict=True)
    if kinds[0] != kinds[1] and named == other:
        return False  # what one names, the other leaves out: no need to count, in an index of many shards
    return bool(np.intersect1d(samples_of(first), samples_of(second), assume_unique=True).size)


def _split(part: str) -> tuple[bool, str]:
    """(whether the text names what is in the part, and not what is left out; the rest of it)."""
    return part.startswith("only "), part.removeprefix("only ").removeprefix("all but ")


def _ranges(numbers: Int64) -> str:
    """``3,17-19``."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
