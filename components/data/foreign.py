"""An index for tars that others wrote: fields from the extensions of their members, splits from names.

Nothing is unpacked, and images are decoded only where their headers do not tell how they are read. What has no known
extension is passed over; ``.pyd`` and ``.pkl`` members, which other readers would load with pickle, are bytes like any
others and never looked at.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from components.config import Config, DataConfig
from components.data.images import changes_of
from components.data.reader import Shard
from components.data.shards import Index, ShardEntry
from components.data.sources.listing import SUFFIXES
from components.data.splits import SPLIT_NAMES
from components.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.tar$")
_PICTURE = tuple(suffix[1:] for suffix in SUFFIXES)
FIELDS = {
    "image": _PICTURE,
    "target": tuple(f"target.{extension}" for extension in _PICTURE),
    "label": ("cls", "cls.txt"),
    "mask": ("mask.png", "seg.png"),
    "edges": ("edges.png",),
    "boxes": ("boxes.json",),
}


class TarFacts(Config):
    """What one tar holds."""

    entry: ShardEntry
    extensions: dict[str, int] = Field(description="extension: samples that have it")
    split: str | None = Field(description="by the name of the tar, else by the first folder of every key")
    classes: int = Field(description="1 + the largest label")
    converted: dict[str, int] = Field(default_factory=dict, description="what is done to images when they are read")


def look_into(path: Path, name: str) -> TarFacts:
    """Facts of the tar at ``path``, which is called ``name`` at its place. Raises UserError as `Shard` does."""
    shard = Shard(path)
    if not len(shard):
        raise UserError(f"{name} holds no samples: members need names like KEY.jpg; remove it, or write it again")
    labels = [_label(shard, sample, name) for sample in range(len(shard))]
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return TarFacts(
        entry=ShardEntry(name=name, samples=len(shard), bytes=path.stat().st_size, sha256=digest),
        extensions={extension: shard.count(extension) for extension in shard.extensions},
        split=split_of(name) or _split_of_keys(shard.keys, name),
        classes=1 + max(labels),
        converted=dict(_conversions(shard)),
    )


def _conversions(shard: Shard) -> Counter[str]:
    """What is done to the images of a tar when they are read, and to how many."""
    images = (shard.member(sample, ";".join(FIELDS["image"])) for sample in range(len(shard)))
    return Counter(change for image in images if image is not None for change in changes_of(image))


def split_of(name: str) -> str | None:
    """The split that a name speaks of: ``imagenet-train-000001.tar`` of train."""
    words = re.split("[^a-z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def _split_of_keys(keys: Iterable[str], name: str) -> str | None:
    folders = {key.split("/")[0] if "/" in key else "" for key in keys}
    if len(folders) == 1:
        return split_of(folders.pop())
    if {split_of(folder) for folder in folders} != {None}:
        raise UserError(
            f"{name} holds several splits ({', '.join(sorted(folders)[:5])}), and a split is made of whole tars: "
            f"prepare it, with `genoise prepare folder --root {name}`"
        )
    return None


def _label(shard: Shard, sample: int, name: str) -> int:
    data = shard.member(sample, ";".join(FIELDS["label"]))
    if data is None:
        return -1
    text = bytes(data).strip()
    if not text.isdigit():
        raise UserError(f"{name}: the label of {shard.keys[sample]} is {text[:20]!r}; labels are numbers from 0")
    return int(text)


def index_of(facts: Sequence[TarFacts], config: DataConfig, where: str) -> Index:
    """The index of tars, in the order of their names.

    Where no tar is of the validation split, the last ones are held back. A field is one that all samples have, but for
    the share ``config.max_skipped``. Raises UserError where there is no image, or only one tar to cut.
    """
    facts = sorted(facts, key=lambda fact: fact.entry.name)
    total = sum(fact.entry.samples for fact in facts)
    counts: Counter[str] = Counter()
    for fact in facts:
        counts.update(fact.extensions)
    fields = {}
    for field, extensions in FIELDS.items():
        present = [extension for extension in extensions if counts[extension]]
        if present and sum(counts[extension] for extension in present) >= (1 - config.max_skipped) * total:
            fields[field] = ";".join(present)
    if "image" not in fields:
        has = ", ".join(f"{extension} ({count})" for extension, count in counts.most_common(5))
        raise UserError(f"{where}: {total} samples, and no image in most of them; their members are {has}")
    splits: dict[str, list[ShardEntry]] = {}
    for fact in facts:
        splits.setdefault(fact.split or "train", []).append(fact.entry)
    if "val" not in splits:
        train = splits.get("train", [])
        if len(train) < 2:
            raise UserError(
                f"{where}: one tar cannot be cut into training and validation; add a tar with 'val' in its name, or "
                "prepare it anew, with `genoise prepare folder --root TAR`"
            )
        held = min(len(train) - 1, max(1, round(len(train) * config.validation)))
        splits["train"], splits["val"] = train[:-held], train[-held:]
    values: dict[str, Any] = config.model_dump(mode="json", exclude={"root", "url"})
    labels = max(fact.classes for fact in facts) if "label" in fields else 0
    converted: Counter[str] = Counter()
    for fact in facts:
        converted.update(fact.converted)
    return Index(
        source=values,
        fields=fields,
        classes=tuple(map(str, range(labels))),
        splits=splits,
        converted=dict(sorted(converted.items())),
    )
