"""Registries: parts that a user asks for by name, each in a module of its own that registers it when it is imported."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from components.errors import UserError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """{name: what is called so} for everything that the modules of one package register."""

    def __init__(self, package: str, kind: str, plural: str | None = None) -> None:
        """``kind`` is what an error calls one of them ("task"); ``plural`` several of them (None: with an s)."""
        self.package = package
        self.kind = kind
        self.plural = plural or f"{kind}s"
        self.known: dict[str, T] = {}
        self.places: dict[str, tuple[str, str]] = {}  # {name: module and name of the class or function behind it}

    def register(self, name: str, value: T, definition: Callable[..., Any]) -> None:
        """Make ``value`` known by ``name``; ``definition`` is the class or function that it comes from.

        Raises UserError where another definition has the name. The same one again, of a module that is imported anew,
        replaces the first.
        """
        place = (definition.__module__, definition.__qualname__)
        before = self.places.get(name, place)
        if before != place:
            raise UserError(f"two {self.plural} are called {name!r}: {before[0]} and {place[0]}")
        self.known[name], self.places[name] = value, place

    def all(self) -> dict[str, T]:
        """Everything that is registered, by name, in the order of the names; imports every module of the package."""
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        return dict(sorted(self.known.items()))

    def get(self, name: str) -> T:
        """What is called ``name``; UserError with the nearest name otherwise."""
        there = self.all()
        if name not in there:
            raise unknown(self.kind, name, there)
        return there[name]
