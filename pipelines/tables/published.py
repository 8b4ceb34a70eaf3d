"""Published figures, from published.yaml: they stand beside a table, never in it."""

from functools import cache
from pathlib import Path

import yaml
from pydantic import Field

from components.config import Config

FILE = Path(__file__).with_name("published.yaml")


class Figure(Config):
    """One line: a method as it was published."""

    name: str
    values: tuple[float, ...]
    recipe: str | None = Field(None, description="the built-in recipe that does the same")
    source: str | None = Field(None, description="where it is not that of the list")
    quoted: bool = Field(False, description="not read in its own paper, but in one that cites it")


class Published(Config):
    """One list of figures that can be compared with each other."""

    title: str
    kinds: tuple[str, ...] = Field(description="kinds of benchmark that it is of interest to")
    source: str
    columns: tuple[str, ...]
    rows: tuple[Figure, ...]


@cache
def published() -> tuple[Published, ...]:
    """All lists."""
    return tuple(Published.parse(each) for each in yaml.safe_load(FILE.read_text(encoding="utf-8")))


def beside(kind: str) -> list[Published]:
    """The lists that may stand beside a benchmark of that kind."""
    return [each for each in published() if kind in each.kinds]
