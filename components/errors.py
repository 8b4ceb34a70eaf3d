"""Errors that are written for the reader: one line that says what is wrong, what would be right, what to type."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(Exception):
    """Bad input. The command line prints the message as one line and leaves with exit code 2."""


class Diverged(Exception):
    """Training left the region where it can learn: a loss is not finite, or a discriminator has won for good.

    Not retried: the same seed would diverge again. A sweep marks the trial, a workflow marks the step as failed.
    """


class Stopped(Exception):
    """Training was told to stop before its end, and has left a checkpoint: whoever needs all of it continues it."""


def first_of(names: Sequence[str], count: int) -> str:
    """The first ``count`` names in one text, and how many more there are."""
    return ", ".join(names[:count]) + f" and {len(names) - count} more" * (len(names) > count)


def unknown(kind: str, name: str, options: Iterable[str], owner: str | None = None) -> UserError:
    """The error for a name that does not exist: names the value, the nearest right one, and every option.

    ``owner``: whose names they are, where that is not everybody's ("task 'rotation'").
    """
    options = sorted(options)
    near = get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}? There" if near else "; there"
    wrong = f"{owner} has no {kind} {name!r}" if owner else f"unknown {kind} {name!r}"
    return UserError(f"{wrong}{hint} are: {', '.join(options) or 'none'}")
