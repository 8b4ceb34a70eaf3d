"""An index for tars that others wrote: fields from the extensions of their members, splits from names.

Where no tar is of the validation split, samples are held back in every tar, of every class: tars may be sorted.

Nothing is unpacked, and images are decoded only where their headers do not tell how they are read. What has no known
extension is passed over; ``.pyd`` and ``.pkl`` members, which other readers would load with pickle, are bytes like any
others and never looked at.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.config import Config, DataConfig
from components.data.images import changes_of
from components.data.reader import Shard
from components.data.scramble import Int64, make_key, mix_keys
from components.data.shard_parts import part_of
from components.data.shards import Index, ShardEntry
from components.data.sources.listing import SUFFIXES
from components.data.splits import (
    CLASSES,
    SPLIT_NAMES,
    UNNAMED_SPLITS,
    is_named_as_split,
    is_table,
    parse_splits,
    words_of,
)
from components.errors import UserError, first_of
from components.keys import Role, keys_with

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.tar$")
_PICTURE = tuple(suffix[1:] for suffix in SUFFIXES)
Bool = NDArray[np.bool_]
_SHOWN = 4  # tars named in a line
_MOST_CLASSES = 100_000  # of data that has fewer samples: beyond it a label is a number of something else
_LONGEST_LABEL = 18  # digits, so that it fits into 64 bits
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
    words: tuple[str, ...] = Field(description="names of splits in the tar's name, and in that of the lone folder")
    folders: tuple[str, ...] = Field(
        description="folders of its keys that are splits, and those beside; or the lone one"
    )
    labels: tuple[int, ...] = Field(description="of every sample, -1 where it has none; empty where no sample has one")
    converted: dict[str, int] = Field(default_factory=dict, description="what is done to images when they are read")
    passed_over: int = Field(0, description="members that are hidden, or have no extension")


def look_into(path: Path, name: str) -> TarFacts:
    """Facts of the tar at ``path``, which is called ``name`` at its place. Raises UserError as `Shard` does."""
    shard = Shard(path)
    if not len(shard):
        raise UserError(f"{name} holds no samples: members need names like KEY.jpg; remove it, or write it again")
    labels = [label_of(shard, sample, name) for sample in range(len(shard))]
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folders = _folders_of(shard.keys)
    return TarFacts(
        entry=ShardEntry(name=name, samples=len(shard), bytes=path.stat().st_size, sha256=digest),
        extensions={extension: shard.count(extension) for extension in shard.extensions},
        words=_split_words(f"{name}/{folders[0]}" if len(folders) == 1 else name),
        folders=folders,
        labels=tuple(labels) if max(labels) >= 0 else (),
        converted=dict(_conversions(shard)),
        passed_over=shard.passed_over,
    )


def _folders_of(keys: Sequence[str]) -> tuple[str, ...]:
    """`TarFacts.folders`: a split's folder may lie below others, ``./mydata/train/0001``."""
    paths = {key.rpartition("/")[0] for key in keys}
    parts = [[part for part in path.split("/") if part not in ("", ".")] for path in sorted(paths)]
    for speaks in (_is_split, _split_words):
        found = [[part for part in each if speaks(part)] for each in parts]
        names = sorted({name for each in found for name in each})
        meant = {_split_words(name) for name in names}
        if all(found) and len(meant) == 1:
            return (names[0],)
        if len(meant) > 1 or (names and speaks is _is_split):
            beside = {(each or [""])[0] for each, splits in zip(parts, found, strict=True) if not splits}
            return tuple(sorted({*names, *beside}))
    tops = {(each or [""])[0] for each in parts}
    return tuple(tops) if len(tops) == 1 else ()


def _is_split(name: str) -> bool:
    return is_named_as_split(name) or name.lower() in UNNAMED_SPLITS


def _conversions(shard: Shard) -> Counter[str]:
    """What is done to the images of a tar when they are read, and to how many."""
    images = (shard.member(sample, ";".join(FIELDS["image"])) for sample in range(len(shard)))
    return Counter(change for image in images if image is not None for change in changes_of(image))


def split_of(name: str) -> str | None:
    """The split that a name speaks of: ``imagenet-train-000001.tar`` of train."""
    return next((SPLIT_NAMES[word] for word in words_of(name) if word in SPLIT_NAMES), None)


def _split_words(name: str) -> tuple[str, ...]:
    """The words of a name that are names of splits; of those that mean the same, the first."""
    words = [word for word in words_of(name) if word in SPLIT_NAMES or word in UNNAMED_SPLITS]
    return tuple({SPLIT_NAMES.get(word, word): word for word in reversed(words)}.values())[::-1]


def label_of(shard: Shard, sample: int, name: str) -> int:
    """The label of a sample of the tar called ``name``, -1 where it has none. Raises UserError for text and names."""
    data = shard.member(sample, ";".join(FIELDS["label"]))
    if data is None:
        return -1
    text = bytes(data).strip()
    if not text.isdigit() or len(text) > _LONGEST_LABEL:
        raise UserError(f"{name}: the label of {shard.keys[sample]} is {text[:20]!r}; labels are numbers from 0")
    return int(text)


def index_of(facts: Sequence[TarFacts], config: DataConfig, where: str) -> Index:
    """The index of tars, in the order of their names; of those that ``config.splits`` leaves out, nothing.

    Where no tar is of the validation split, the share ``config.validation`` of the samples is held back. A field is one
    that all samples have, but for the share ``config.max_skipped``; ``config.samples`` limits the training split.
    Raises UserError where there is no image, where names do not tell which tar is of which split, and where nothing
    can be held back.
    """
    splits = _splits_of(sorted(facts, key=lambda fact: fact.entry.name), config, where)
    facts = [fact for members in splits.values() for fact in members]
    extensions: Counter[str] = Counter()
    for fact in facts:
        extensions.update(fact.extensions)
    fields = fields_of(extensions, sum(fact.entry.samples for fact in facts), config, where)
    parts = {split: {fact.entry.name: np.arange(fact.entry.samples) for fact in splits[split]} for split in splits}
    labels = {fact.entry.name: _labels_of(fact, fields) for fact in facts}
    if "val" not in parts:
        parts["train"], parts["val"] = _hold_back(parts["train"], labels, config, where)
    if config.samples is not None:
        chosen = _choose(parts["train"], labels, min(config.samples, _count(parts["train"])), config.seed, "samples")
        parts["train"] = _where(parts["train"], chosen)
    entries = {fact.entry.name: fact.entry for fact in facts}
    classes = count_classes(labels, where)
    converted: Counter[str] = Counter()
    for fact in facts:
        converted.update(fact.converted)
    return Index(
        source=config.model_dump(mode="json", exclude=keys_with(DataConfig, Role.PLACE)),
        fields=fields,
        classes=tuple(map(str, range(classes))),
        splits={
            split: tuple(_part(entries[name], samples) for name, samples in parts[split].items() if len(samples))
            for split in parts
        },
        converted=dict(sorted(converted.items())),
        labels={split: _count_labels(parts[split], labels) for split in parts} if classes else None,
    )


def fields_of(counts: Counter[str], total: int, config: DataConfig, where: str) -> dict[str, str]:
    """{field: its extensions, joined by ;} of ``total`` samples, of which ``counts`` says how many have an extension.

    Of samples in which hardly any lacks it (see `index_of`). Raises UserError where there is no image.
    """
    fields = {}
    for field, extensions in FIELDS.items():
        present = [extension for extension in extensions if counts[extension]]
        if present and sum(counts[extension] for extension in present) >= (1 - config.max_skipped) * total:
            fields[field] = ";".join(present)
    if "image" not in fields:
        has = ", ".join(f"{extension} ({count})" for extension, count in counts.most_common(5))
        raise UserError(f"{where}: {total} samples, and no image in most of them; their members are {has}")
    return fields


def _labels_of(fact: TarFacts, fields: Mapping[str, str]) -> Int64:
    none = np.full(fact.entry.samples, -1, np.int64)
    return np.asarray(fact.labels, np.int64) if fact.labels and "label" in fields else none


def count_classes(labels: Mapping[str, Int64], where: str) -> int:
    """One more than the largest label, 0 without labels. Raises UserError for labels that are no classes."""
    name, largest = max(((name, int(values.max())) for name, values in labels.items()), key=lambda each: each[1])
    if largest >= max(_MOST_CLASSES, _count(labels)):
        raise UserError(
            f"{where}: a label in {name} is {largest}, and there are {_count(labels)} samples: labels are the numbers "
            "of classes, from 0; write the tars again with such"
        )
    return largest + 1


def _part(entry: ShardEntry, samples: Int64) -> ShardEntry:
    return entry.model_copy(update={"samples": len(samples), "part": part_of(samples, entry.samples)})


def _count_labels(parts: Mapping[str, Int64], labels: Mapping[str, Int64]) -> dict[str, int]:
    found = np.concatenate([labels[name][samples] for name, samples in parts.items()])
    values, counts = np.unique(found[found >= 0], return_counts=True)
    return {str(value): count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}


# Which tar is of which split

_ANEW = (
    "prepare the pictures anew with `genoise prepare folder --root FOLDER`, where labels are the names of folders, or "
    "those of a table (--splits FILE.csv)"
)


def _splits_of(facts: Sequence[TarFacts], config: DataConfig, where: str) -> dict[str, list[TarFacts]]:
    """{split: its tars}; train is among them."""
    if config.splits is None:
        named = _by_words(facts, where)
    elif is_table(config.splits):
        raise UserError(
            f"--splits {config.splits}: a table names files, and a split is made of whole tars: name tars, "
            f"train=NAME,val=NAME, or {_ANEW}"
        )
    elif config.splits == CLASSES:
        named = {fact.entry.name: "train" for fact in facts}
    else:
        named = _by_names(facts, parse_splits(config.splits), where)
    splits: dict[str, list[TarFacts]] = {}
    for fact in facts:
        if fact.entry.name in named:
            splits.setdefault(named[fact.entry.name], []).append(fact)
    if "train" not in splits:
        raise UserError(
            f"{where}: no tar is of the training split ({_named(facts)}): add one, or, to train on all of these, say "
            f"--set data.splits={CLASSES}"
        )
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _by_words(facts: Sequence[TarFacts], where: str) -> dict[str, str]:
    """{tar: split} by the words of their names, where all have such a word or none has one."""
    for fact in facts:
        if len(fact.folders) > 1:
            shown = first_of([name or "none" for name in fact.folders], _SHOWN)
            raise UserError(
                f"{where}: {fact.entry.name} holds several splits ({shown}), and a split is made of whole tars: "
                f"{_ANEW}; or, where they are no splits, say of which split every tar is, "
                f"--set data.splits={_suggest(facts)}"
            )
        if len(fact.words) > 1:
            folder = f" with the folder {fact.folders[0]}" if _split_words(fact.entry.name) != fact.words else ""
            raise UserError(
                f"{where}: the name of {fact.entry.name}{folder} speaks of {' and '.join(fact.words)}: "
                f"say of which split every tar is, --set data.splits={_suggest(facts)}"
            )
    splits = [fact for fact in facts if fact.words and fact.words[0] in SPLIT_NAMES]
    others = [fact for fact in facts if not fact.words or fact.words[0] not in SPLIT_NAMES]
    if (splits and others) or len({fact.words for fact in others}) > 1:
        known = f"splits by their names: {_named(splits)}; " if splits else ""
        raise UserError(
            f"{where}: {known}of no known split: {_named(others)}; say it, "
            f"--set data.splits={_suggest(facts)}; what is not named is left out; or, where names mean nothing, "
            f"--set data.splits={CLASSES}"
        )
    return {fact.entry.name: SPLIT_NAMES[fact.words[0]] if splits else "train" for fact in facts}


def _by_names(facts: Sequence[TarFacts], names: Mapping[str, str], where: str) -> dict[str, str]:
    """{tar: split} of those that a name stands for: the longest, but a whole name before all others."""
    found: dict[str, str] = {}
    used: set[str] = set()
    for fact in facts:
        ranks = {name: rank for name in names if (rank := _rank(name, fact))}
        used |= ranks.keys()
        best = {names[name] for name, rank in ranks.items() if rank == max(ranks.values())}
        if len(best) > 1:
            raise UserError(
                f"{where}: {fact.entry.name} is of {' and '.join(sorted(best))} by data.splits: give more of its name"
            )
        if best:
            found[fact.entry.name] = best.pop()
    if missing := [name for name in names if name not in used]:
        raise UserError(
            f"{where}: no tar is called {first_of(missing, _SHOWN)}, as data.splits says; there are {_named(facts)}"
        )
    return found


def _rank(name: str, fact: TarFacts) -> tuple[bool, int] | None:
    stem = fact.entry.name.removesuffix(".tar")
    whole = name in (fact.entry.name, stem) or fact.folders == (name,)
    if whole or stem.startswith(name) or name.lower() in words_of(stem):
        return whole, len(name)
    return None


def _named(facts: Sequence[TarFacts]) -> str:
    return first_of([fact.entry.name for fact in facts], _SHOWN)


def _suggest(facts: Sequence[TarFacts]) -> str:
    """What a user may type for ``data.splits``: the splits that words speak of, and all others in training."""
    names: dict[str, dict[str, None]] = {"train": {}}
    for fact in facts:
        word = fact.words[0] if len(fact.words) == 1 else None
        name = word if word and word in words_of(fact.entry.name) else _stem(fact)
        names.setdefault(SPLIT_NAMES.get(word or "", "train"), {})[name] = None
    short = {
        split: sorted({name[0] for name in found}) if len(found) > _SHOWN else found for split, found in names.items()
    }
    text = ",".join(f"{split}={'+'.join(found)}" for split, found in short.items() if found)
    try:
        _by_names(facts, parse_splits(text), "")
    except UserError:  # no short text says it
        return "train=NAME,val=NAME"
    return text


def _stem(fact: TarFacts) -> str:
    """The tar's name without its number, or the only folder of its keys where that is what tells splits."""
    if fact.words and len(fact.folders) == 1 and fact.folders[0]:
        return fact.folders[0]
    stem = fact.entry.name.removesuffix(".tar")
    return re.sub(r"[-_.]*[0-9]*$", "", stem) or stem


# Which samples


def _count(parts: Mapping[str, Int64]) -> int:
    return sum(map(len, parts.values()))


def _hold_back(
    parts: Mapping[str, Int64], labels: Mapping[str, Int64], config: DataConfig, where: str
) -> tuple[dict[str, Int64], dict[str, Int64]]:
    """(what stays in training, what validation gets) of every tar: of each class its share, but never all of it."""
    total = _count(parts)
    held = min(total - 1, max(1, round(total * config.validation)))
    chosen = _choose(parts, labels, held, config.seed, "held back")
    label = np.concatenate([labels[name][samples] for name, samples in parts.items()])
    _, first, classes, counts = np.unique(label, return_index=True, return_inverse=True, return_counts=True)
    chosen[first[np.bincount(classes, chosen) == counts]] = False
    if not chosen.any():
        raise UserError(
            f"{where}: {total} samples cannot be cut into training and validation with "
            f"data.validation={config.validation:g} so that training keeps one of each class: add a tar with 'val' in "
            "its name, or say which one it is, --set data.splits=train=NAME,val=NAME"
        )
    return _where(parts, ~chosen), _where(parts, chosen)


def _where(parts: Mapping[str, Int64], chosen: Bool) -> dict[str, Int64]:
    """The samples that are ``chosen``, which holds for all samples of all tars, one after the other."""
    ends = np.cumsum([len(samples) for samples in parts.values()])
    pieces = np.split(chosen, ends[:-1])
    return {name: samples[piece] for (name, samples), piece in zip(parts.items(), pieces, strict=True)}


def _choose(parts: Mapping[str, Int64], labels: Mapping[str, Int64], count: int, seed: int, purpose: str) -> Bool:
    """Which ``count`` of all samples, evenly by class and, within a class, by tar; see `_where`.

    All samples in one line, by class, then by tar, then shuffled; and of the line every k-th. Every other class goes
    through the tars backwards: otherwise, where tars are alike, the same of them would give all.
    """
    tars = np.repeat(np.arange(len(parts)), [len(samples) for samples in parts.values()])
    label = np.concatenate([labels[name][samples] for name, samples in parts.items()])
    mixed = np.concatenate([mix_keys(make_key(seed, purpose, name), samples) for name, samples in parts.items()])
    backwards = np.unique(label, return_inverse=True)[1] % 2 == 1
    line = np.lexsort((mixed, np.where(backwards, -tars, tars), label))
    ends = (np.arange(len(line) + 1) * count + len(line) // 2) // len(line)
    chosen = np.zeros(len(line), np.bool_)
    chosen[line] = np.diff(ends) > 0
    return chosen
