"""Registries: a name belongs to one definition, and who asks for a wrong one is told the right ones."""

from collections.abc import Callable

import pytest

from components.data.sources.base import all_sources
from components.errors import UserError
from components.networks.encoder import all_encoders
from components.registry import Registry
from components.tasks.base import all_tasks
from components.transfer.protocol import all_benchmarks

Registered = Registry[Callable[[], int]]


@pytest.fixture
def registry() -> Registered:
    """Of a package whose modules register nothing in it."""
    return Registry("components.pictures", "trick", "kinds of trick")


def one() -> int:
    return 1


def two() -> int:
    return 2


def test_what_is_registered_is_found_in_the_order_of_the_names(registry: Registered) -> None:
    registry.register("second", two, two)
    registry.register("first", one, one)
    assert [*registry.all().items()] == [("first", one), ("second", two)]
    assert registry.get("second") is two


def test_a_name_belongs_to_one_definition(registry: Registered) -> None:
    registry.register("first", one, one)
    with pytest.raises(UserError, match=rf"^two kinds of trick are called 'first': {__name__} and {__name__}$"):
        registry.register("first", two, two)
    assert registry.get("first") is one


def test_another_module_is_another_definition(registry: Registered) -> None:
    def again() -> int:
        return 3

    again.__qualname__, again.__module__ = one.__qualname__, "elsewhere"
    registry.register("first", one, one)
    with pytest.raises(UserError, match=r"and elsewhere$"):
        registry.register("first", again, again)


def test_a_module_that_is_imported_again_replaces_what_it_registered(registry: Registered) -> None:
    def again() -> int:
        return 3

    again.__qualname__ = one.__qualname__
    registry.register("first", one, one)
    registry.register("first", again, again)
    assert registry.get("first") is again


def test_an_unknown_name_is_told_the_nearest(registry: Registered) -> None:
    registry.register("first", one, one)
    with pytest.raises(UserError, match=r"^unknown trick 'frist': did you mean 'first'\? There are: first$"):
        registry.get("frist")


@pytest.mark.parametrize(
    ("found", "some"),
    [
        (all_tasks, {"rotation", "bigan"}),
        (all_sources, {"shapes", "folder"}),
        (all_encoders, {"alexnet", "resnet50"}),
        (all_benchmarks, {"linear"}),
    ],
)
def test_the_modules_of_a_package_are_imported_by_whoever_asks(
    found: Callable[[], dict[str, object]], some: set[str]
) -> None:
    names = [*found()]
    assert names == sorted(names) and some <= {*names}
