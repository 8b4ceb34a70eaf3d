"""Roles of keys: what decides a result, and what does not."""

from typing import Annotated

import pytest

from components.config import (
    AugmentConfig,
    Config,
    DataConfig,
    Recipe,
    TrainingConfig,
)
from components.keys import Role, deciding, keys_with, shown_keys


class Inner(Config):
    plain: int = 1
    new: Annotated[int, Role.LATER] = 0


class Outer(Config):
    plain: Annotated[int, Role.SHOWN] = 1
    threads: Annotated[int, Role.HOW] = 1
    inner: Inner = Inner()


def test_what_decides_is_all_but_how_it_is_reached() -> None:
    assert deciding(Outer(threads=7)) == {"plain": 1, "inner": {"plain": 1}}
    assert deciding(Outer(inner=Inner(new=2))) == {"plain": 1, "inner": {"plain": 1, "new": 2}}


def test_keys_of_a_role() -> None:
    assert keys_with(Outer, Role.HOW) == {"threads"} and keys_with(Outer, Role.LATER) == set()
    assert shown_keys(Outer) == {"plain": True}


def test_what_every_run_shows() -> None:
    assert Recipe(name="a", task="rotation").model_dump(include=shown_keys(Recipe)) == {
        "name": "a",
        "task": "rotation",
        "data": {"source": "shapes", "size": 32},
        "encoder": {"name": "alexnet", "width": 32},
        "training": {"epochs": 4, "batch": 128, "seed": 0},
    }


@pytest.mark.parametrize(
    "key", [*TrainingConfig.model_fields, *(f"augment.{name}" for name in AugmentConfig.model_fields)]
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # the other value need not be a right one
def test_a_training_with_another_value_is_another_one_unless_its_key_says_how(key: str) -> None:
    """A key that was added without a role decides."""
    section, _, name = key.rpartition(".")
    usual = TrainingConfig()
    model = AugmentConfig if section else TrainingConfig
    value = getattr(usual.augment if section else usual, name)
    other = not value if isinstance(value, bool) else "another" if value in (None, "fp32", "cosine") else 77
    changed = model.model_construct(**{**dict(usual.augment if section else usual), name: other})
    training = usual.model_copy(update={"augment": changed}) if section else changed
    assert (deciding(training) == deciding(usual)) == (name in keys_with(model, Role.HOW))


def test_no_key_of_the_data_set_both_decides_and_is_a_place() -> None:
    decisive = set(DataConfig.model_fields) - keys_with(DataConfig, Role.PLACE) - keys_with(DataConfig, Role.GROWS)
    assert decisive == {"source", "options", "splits", "size", "resize", "encode", "quality", "seed"}
