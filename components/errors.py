"""Errors that are written for the reader: one line that says what is wrong, what would be right, what to type."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches

_ALIKE = 0.6  # ratio of two names from which on one may have been meant for the other


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


def nearest_keys(key: str, keys: Iterable[str]) -> list[str]:
    """The dotted ``keys`` whose last part is most like that of ``key``; of equals, one beside it alone, else all.

    People remember ``epochs`` and forget that it is ``training.epochs``.
    """
    above, _, last = key.rpartition(".")
    scores = {each: SequenceMatcher(None, last, each.rpartition(".")[2]).ratio() for each in keys}
    best = max(scores.values(), default=0.0)
    found = sorted(each for each, score in scores.items() if score == best and best >= _ALIKE)
    beside = [each for each in found if each.rpartition(".")[0] == above]
    return beside or found


def unknown(
    kind: str, name: str, options: Iterable[str], owner: str | None = None, near: Sequence[str] | None = None
) -> UserError:
    """The error for a name that does not exist: names the value, the nearest right ones, and every option.

    ``owner``: whose names they are, where that is not everybody's ("task 'rotation'"). ``near``: the nearest, where
    the caller knows better than the spelling does (None: by the spelling).
    """
    options = sorted(options)
    near = get_close_matches(name, options, n=1, cutoff=0.5) if near is None else near
    hint = f": did you mean {' or '.join(map(repr, near))}? There" if near else "; there"
    wrong = f"{owner} has no {kind} {name!r}" if owner else f"unknown {kind} {name!r}"
    return UserError(f"{wrong}{hint} are: {', '.join(options) or 'none'}")
