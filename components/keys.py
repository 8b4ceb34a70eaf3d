"""Keys of a configuration: what each is for, and those that are for something."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class KeysOf:
    """Marks a mapping that overrules keys of ``model``: they are keys of the configuration, too."""

    model: type[BaseModel]


class Role(Enum):
    """What a key is for. Stands on the key, ``Annotated[int, Role.HOW]``; those of a role are asked for by `keys_with`.

    A key without a role decides the result: with another value it is another step.
    """

    HOW = "how a result is reached, not what it is: a run that was cut off may be continued with another value"
    NOTE = "of the recipe, and nothing to its training"
    PLACE = "where data is; what it is, is known by its content"
    LAID = "how samples are laid into shards; says nothing of shards that are there"
    CUT = "how samples are cut into splits; says nothing of shards that are ours"
    GROWS = "may differ from one generation of a data set to the next"
    SHOWN = "shown of every run, at its default too"
    BESIDE = "a yardstick takes it over from the recipe that it stands beside, so that both see as much in the same way"
    LATER = "came later: what was made before is what its default makes, so that fingerprints leave that out"


def keys_with(model: type[BaseModel], role: Role) -> set[str]:
    """The keys of a configuration that have a role, without those of its sections."""
    return {name for name, field in model.model_fields.items() if role in field.metadata}


def shown_keys(model: type[BaseModel]) -> dict[str, Any]:
    """What ``model_dump`` is to include of the keys `Role.SHOWN`, those of sections too."""
    found: dict[str, Any] = dict.fromkeys(sorted(keys_with(model, Role.SHOWN)), True)
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= {name: inner} if (inner := shown_keys(field.annotation)) else {}
    return found


def deciding(config: BaseModel) -> dict[str, Any]:
    """What decides a result, as JSON values: all but `Role.HOW`, and `Role.LATER` at its default; sections too."""
    values = config.model_dump(mode="json", exclude=keys_with(type(config), Role.HOW))
    for name in values:
        if isinstance(section := getattr(config, name), BaseModel):
            values[name] = deciding(section)
    defaults = {name: field.default for name, field in type(config).model_fields.items()}
    later = keys_with(type(config), Role.LATER)
    return {name: value for name, value in values.items() if name not in later or value != defaults[name]}


def keys_of(model: type[BaseModel], where: str = "") -> list[str]:
    """Every key of a configuration, dotted, those of its sections with them; ``where`` is put before each."""
    found = []
    for name, field in model.model_fields.items():
        inner: Any = next((each.model for each in field.metadata if isinstance(each, KeysOf)), field.annotation)
        found.append(where + name)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += keys_of(inner, f"{where}{name}.")
    return found
