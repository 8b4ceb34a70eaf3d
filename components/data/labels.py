"""Labels of one split that another does not have: what cannot be learned on ``train`` cannot be scored elsewhere."""

from collections.abc import Iterable, Mapping
from typing import Any

from components.data.shards import Index
from components.errors import UserError, first_of

NAMED = 5  # classes named in a line
Unseen = dict[str, dict[str, Any]]  # split: samples, of how many, classes


def unseen_labels(index: Index) -> Unseen:
    """What ``val`` and ``test`` hold of classes that ``train`` does not: samples, ``of`` how many, names of classes.

    Splits without such samples are left out; empty where the index does not know its labels.
    """
    counts = index.labels or {}
    found: Unseen = {}
    for split in ("val", "test"):
        missing = {label: n for label, n in counts.get(split, {}).items() if label not in counts.get("train", {})}
        if missing and "train" in counts:
            names = [index.classes[int(label)] for label in sorted(missing, key=int)]
            total = sum(counts[split].values())
            found[split] = {"samples": sum(missing.values()), "of": total, "classes": names}
    return found


def say_unseen(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for every split."""
    return [
        f"{split}: {what['samples']} of {what['of']} samples are of {len(what['classes'])} classes of which training "
        f"has no sample ({first_of(what['classes'], NAMED)}): no encoder can score on them"
        for split, what in found.items()
    ]


def check_labels_seen(found: Mapping[str, Mapping[str, Any]], splits: Iterable[str] = ("val", "test")) -> None:
    """Raise UserError where no label of one of the ``splits`` occurs in training: a score there is always zero."""
    for split in splits:
        what = found.get(split)
        if what and what["samples"] == what["of"]:
            raise UserError(
                f"no class of the {split} split occurs in training ({split} has {first_of(what['classes'], NAMED)}): "
                "a score would be 0 for every encoder; use splits that share their classes"
            )
