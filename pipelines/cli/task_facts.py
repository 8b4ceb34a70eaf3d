"""Facts about tasks, recipes and benchmarks as plain values: what the terminal shows and what ``--json`` prints."""

from typing import Any, get_args

from pydantic.fields import FieldInfo

from components.config import Config
from components.tasks.base import Task, parts_of
from components.transfer.protocol import Benchmark

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def task_facts(task: type[Task]) -> dict[str, Any]:
    """Name, summary, source, needed fields, players, terms (weight, search range, source) and options of a task.

    Fields and players are those of its default options; terms are all that any options bring, and say whether those do.
    """
    parts = parts_of(task.name, {})
    return {
        "name": task.name,
        "summary": task.summary,
        "source": task.source,
        "needs": list(parts.needs),
        "players": list(parts.players),
        "terms": {
            name: {
                "weight": term.weight,
                "search": list(term.search),
                "optional": term.optional,
                "default": name in parts.terms,
                "source": term.source,
            }
            for name, term in task.terms.items()
        },
        "options": option_facts(task.Options),
    }


def benchmark_facts(kind: Benchmark) -> list[dict[str, Any]]:
    """Of each protocol of a kind of benchmark: name, kind, metric, fields that data must have, summary, source, and its
    keys with their values."""
    return [
        {
            "name": protocol.name,
            "kind": protocol.kind,
            "metric": kind.metric,
            "needs": list(kind.needs),
            "summary": kind.summary,
            "source": kind.source,
            "keys": {
                key: fact | {"default": getattr(protocol, key)}
                for key, fact in option_facts(type(protocol)).items()
                if key not in ("name", "kind")
            },
        }
        for protocol in kind.protocols
    ]


def option_facts(options: type[Config]) -> dict[str, dict[str, Any]]:
    """{option: type, range, default, description} of a configuration."""
    return {
        name: {
            "type": _type_text(field),
            "range": ", ".join(_bounds(field)),
            "default": field.get_default(call_default_factory=True),
            "description": field.description or "",
        }
        for name, field in options.model_fields.items()
    }


def _type_text(field: FieldInfo) -> str:
    """The type as a recipe's author sees it: ``float | null``, ``classes | regression``."""
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str | int) for choice in choices):
        return " | ".join(map(str, choices))
    if choices or field.annotation is None:
        return str(field.annotation).replace("None", "null")
    return field.annotation.__name__


def _bounds(field: FieldInfo) -> list[str]:
    """``>= 0``, ``< 1``; the bounds of ``float | None`` sit on the field as well."""
    return [
        f"{sign} {getattr(constraint, bound):g}"
        for constraint in field.metadata
        for bound, sign in _BOUNDS.items()
        if getattr(constraint, bound, None) is not None
    ]
