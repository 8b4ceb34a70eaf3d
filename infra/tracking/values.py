"""Values as MLflow holds them."""

import json
from collections.abc import Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists and empty dicts stay values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def text(value: Any) -> str:
    """A value as a parameter: texts as they are, all else as JSON."""
    return written(value) if isinstance(value, str) else json.dumps(value, default=str)


def written(text: str) -> str:
    r"""``text`` as every store can hold it: bytes of file names that are not UTF-8 become ``\udce9``."""
    return text.encode("utf-8", "backslashreplace").decode()
