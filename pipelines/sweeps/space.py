"""What a sweep may change: keys of a recipe, each with a range or with choices.

To a searcher every key is one coordinate in [0, 1]; here is what a coordinate means. "Off", which leaves a term out,
lies at the lower end of its range: next to the smallest weight, where it belongs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from components.config import Config, Recipe
from components.errors import UserError, unknown
from components.tasks.base import Term
from pipelines.recipe_parts import check_parts

Point = dict[str, Any]  # {key of a recipe: value}
SECTIONS = ("weights", "options", "training")  # data and network stay: scores would not be comparable
OFF = 0.2  # share of the trials in which an optional term is left out, where the recipe does not say
DIGITS = 4  # significant ones of a sampled number: a recipe is read by people


class Range(Config):
    """Numbers between two bounds; with probability ``off`` 0 instead, which leaves a term out."""

    low: float
    high: float
    scale: Literal["log", "linear"] = "log"
    off: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"an empty range, from {self.low:g} to {self.high:g}: low must be less than high")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"a logarithmic range cannot start at {self.low:g}: use low > 0, or scale: linear")
        return self

    def value(self, u: float) -> float:
        """The number at the coordinate ``u`` in [0, 1]: uniform coordinates give (log-)uniform numbers."""
        if u < self.off:
            return 0.0
        t = (u - self.off) / (1 - self.off)
        exact = self.low + t * (self.high - self.low)
        if self.scale == "log":
            exact = math.exp(math.log(self.low) + t * math.log(self.high / self.low))
        return min(max(float(f"{exact:.{DIGITS}g}"), self.low), self.high)

    def coordinate(self, value: Any) -> float | None:
        """Where a number lies; None outside."""
        if value == 0 and self.off:
            return self.off / 2
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        share = (value - self.low) / (self.high - self.low)
        if self.scale == "log":
            share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.off + (1 - self.off) * share

    def grid(self, count: int) -> list[float]:
        """``count`` numbers from low to high, and 0 where off is possible."""
        inner = [self.value(self.off + (1 - self.off) * k / max(1, count - 1)) for k in range(count)]
        return [0.0, *inner] if self.off else inner

    def __str__(self) -> str:
        off = f", off in {self.off:.0%}" if self.off else ""
        return f"{self.low:g} to {self.high:g}, {self.scale}{off}"


class Choices(Config):
    """One of several values."""

    values: tuple[Any, ...] = Field(min_length=1)

    def value(self, u: float) -> Any:
        """The choice at the coordinate ``u`` in [0, 1]."""
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def coordinate(self, value: Any) -> float | None:
        """The middle of the part of [0, 1] that belongs to a choice; None for what is none."""
        return (self.values.index(value) + 0.5) / len(self.values) if value in self.values else None

    def grid(self, count: int) -> list[Any]:
        """All choices, whatever the count."""
        return list(self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join(str(value) for value in self.values)


@dataclass(frozen=True)
class Space:
    """{key: range or choices}, in the order in which they are shown."""

    keys: dict[str, Range | Choices]

    def point(self, coordinates: Mapping[str, float]) -> Point:
        """The point at these coordinates."""
        return {key: over.value(coordinates[key]) for key, over in self.keys.items()}

    def coordinates(self, point: Point) -> dict[str, float] | None:
        """The coordinates of a point; None where it does not lie inside."""
        found = {key: over.coordinate(point[key]) for key, over in self.keys.items() if key in point}
        inside = {key: u for key, u in found.items() if u is not None}
        return inside if len(inside) == len(self.keys) else None

    def to_json(self) -> dict[str, Any]:
        """Plain data, the same for the same space."""
        return {key: over.model_dump(mode="json") for key, over in self.keys.items()}


def space_of(recipe: Recipe, terms: Mapping[str, Term]) -> Space:
    """The recipe's own ``search``, or else the range of every term of its task; each of its ends is a recipe that runs.

    So is each combination of options and weights, as far as the terms are concerned.

    Raises UserError for a key that may not be swept or does not exist, an empty range, a value out of its range.
    """
    space = Space(_parsed(recipe.search)) if recipe.search else terms_space([terms])
    for point in (*ends_of(space), *_combinations(space)):
        with searched(point):
            check_parts(apply(recipe, point))
    return space


def ends_of(space: Space) -> Iterator[Point]:
    """{key: value} for each key alone: the ends of its range, or all its choices."""
    for key, over in space.keys.items():
        yield from ({key: value} for value in _ends(over))


def _ends(over: Range | Choices) -> Sequence[Any]:
    return (over.value(0.0), over.value(1.0)) if isinstance(over, Range) else over.values


def _combinations(space: Space) -> Iterator[Point]:
    """Every combination of searched options, with a value for every searched weight: options decide which terms exist.

    Nothing where weights or options are searched alone: then `ends_of` has it all.
    """
    options = {key: _ends(over) for key, over in space.keys.items() if key.startswith("options.")}
    weights = {key: _ends(over)[-1] for key, over in space.keys.items() if key.startswith("weights.")}
    if options and weights:
        for values in product(*options.values()):
            yield dict(zip(options, values, strict=True)) | weights


@contextmanager
def searched(point: Point) -> Iterator[None]:
    """A UserError inside is told with the point of the search that it is about."""
    try:
        yield
    except UserError as error:
        at = ", ".join(f"{key}={value}" for key, value in point.items())
        raise UserError(f"search: {at}: {error}") from None


def terms_space(tasks: Sequence[Mapping[str, Term]]) -> Space:
    """The space of the weights of all terms of these tasks: for each the range that holds those of all tasks.

    A term may be off where every task that has it does without.
    """
    keys: dict[str, Range | Choices] = {}
    for name in dict.fromkeys(name for terms in tasks for name in terms):
        same = [terms[name] for terms in tasks if name in terms]
        low, high = min(term.search[0] for term in same), max(term.search[1] for term in same)
        keys[f"weights.{name}"] = Range(low=low, high=high, off=OFF if all(term.optional for term in same) else 0.0)
    if not keys:
        raise UserError("there is nothing to sweep: the task has no terms, and the recipe no `search`")
    return Space(keys)


def apply(recipe: Recipe, point: Point) -> Recipe:
    """The recipe with other values at the point's keys; UserError where the result is no recipe."""
    values = recipe.model_dump(mode="json")
    for key, value in point.items():
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return Recipe.parse(values)


def _parsed(search: Mapping[str, Any], where: str = "") -> dict[str, Range | Choices]:
    found: dict[str, Range | Choices] = {}
    for name, given in search.items():
        key = where + name
        if key.split(".")[0] not in SECTIONS:
            raise unknown("key to sweep", key, [f"{section}.…" for section in SECTIONS])
        if key == "training.seed":
            raise UserError("search.training.seed: a seed is luck, and no choice; leave it out")
        if isinstance(given, list):
            found[key] = Choices.parse({"values": given}, f"search.{key}.")
        elif isinstance(given, dict) and not given.keys() & Range.model_fields.keys():
            found |= _parsed(given, f"{key}.")
        elif isinstance(given, dict):
            found[key] = Range.parse(given, f"search.{key}.")
        else:
            raise UserError(f"search.{key}: must be a list of choices, or low and high (given: {given!r})")
    if not found:
        raise UserError(f"search.{where.rstrip('.')}: names no key: give it choices, or low and high")
    return found
