"""Shards: WebDataset tars plus one ``index.json``, planned one after the other, written one by one, in any process.

    plans = plan_shards(source, config)                                         # components.data.planning
    results = [build_shard(source, config, plan, folder) for plan in plans]     # anywhere, in any order
    index = build_index(source, config, results)                                # stops here if too many are broken
    write_index(index, folder)

The same source and configuration give the same bytes. Nothing appears under its final name before it is complete.
A data set grows by generations: what is new in the source becomes new shards (see components.data.planning).
"""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from components.config import Config, DataConfig
from components.data.planning import ShardPlan
from components.data.resizing import refit
from components.data.shard_parts import PATTERN, overlap, part_of, samples_of, whole_of
from components.data.sources.base import DOMAINS, SPLITS, Broken, Sample, Source
from components.errors import UserError, first_of
from components.keys import Role, keys_with

INDEX_NAME = "index.json"
_BLOCK = 512
_NAMED = 5  # broken images named in an error; the index names them all
_LIMITED = tuple(f"{domain}train" for domain in DOMAINS)  # splits of which `data.samples` may leave out a part
_LONGEST_NAME = 100  # bytes of a member's name in a plain ustar header


class ShardEntry(Config):
    """One shard as the index lists it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.tar$", description="file name, beside the index")
    samples: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    generation: int = Field(0, ge=0, description="how often the data set had grown when this shard was written")
    part: str | None = Field(
        None,
        pattern=PATTERN,
        description="which of the tar's samples these are, where not all: see components.data.shard_parts",
        exclude_if=lambda value: value is None,  # the key came later: an index without it keeps its fingerprint
    )


class Skipped(Config):
    """A raw sample that was left out."""

    split: str
    name: str
    reason: str


class Index(Config):
    """Everything needed to read a data set without its source."""

    format: Literal["genoise-shards-1"] = "genoise-shards-1"
    source: dict[str, Any] = Field(description="the configuration it was prepared with, without places on disk")
    fields: dict[str, str] = Field(description="field: extension of its member; alternatives separated by ;")
    classes: tuple[str, ...] = ()
    splits: dict[str, tuple[ShardEntry, ...]]
    converted: dict[str, int] = Field(default_factory=dict, description="what cleaning did: number of images")
    skipped: tuple[Skipped, ...] = ()
    left_out: dict[str, int] = Field(
        default_factory=dict,
        description="folder: images in it that are of no split",
        exclude_if=lambda value: not value,  # the key came later
    )
    labels: dict[str, dict[str, int]] | None = Field(
        None,
        description="split: label: samples that have it; None where nobody counted",
        exclude_if=lambda value: value is None,  # as above
    )

    @model_validator(mode="after")
    def _unique(self) -> Self:
        known: dict[str, list[ShardEntry]] = {}
        for entry in (entry for entries in self.splits.values() for entry in entries):
            for other in known.setdefault(entry.name, []):
                if entry.sha256 != other.sha256 or overlap(entry.part, other.part):
                    raise ValueError("two shards have the same name")
            known[entry.name].append(entry)
        return self

    def samples(self, split: str) -> int:
        """Number of samples of a split; 0 for one that does not exist."""
        return sum(entry.samples for entry in self.splits.get(split, ()))

    def to_bytes(self) -> bytes:
        """The text of ``index.json``; equal data sets have equal bytes."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()

    def fingerprint(self) -> str:
        """sha256 of the index, and through it of every shard."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def limited(index: Index, samples: int | None) -> Index:
    """The index with the first ``samples`` training samples, in each domain; None: all. Shards are shuffled when they
    are written. How many of them have which label is not known then."""
    if samples is None or all(index.samples(split) <= samples for split in _LIMITED):
        return index
    splits = {
        split: tuple(_first(entries, samples)) if split in _LIMITED else entries
        for split, entries in index.splits.items()
    }
    return index.model_copy(update={"splits": splits, "labels": None})


def _first(entries: Iterable[ShardEntry], samples: int) -> Iterator[ShardEntry]:
    for entry in entries:
        taken = min(samples, entry.samples)
        samples -= taken
        if taken == entry.samples:
            yield entry
        elif taken:
            numbers = np.arange(entry.samples) if entry.part is None else samples_of(entry.part)
            whole = entry.samples if entry.part is None else whole_of(entry.part)
            yield entry.model_copy(update={"samples": taken, "part": part_of(numbers[:taken], whole)})


def index_name(index: Index) -> str:
    """The file name under which an index stays when the data set grows."""
    return f"index-{index.fingerprint()[:16]}.json"


class ShardResult(Config):
    """What became of a plan."""

    split: str
    number: int
    generation: int = 0
    planned: int = Field(description="raw samples")
    entry: ShardEntry | None = Field(description="None: every sample was broken, and there is no file")
    converted: dict[str, int] = Field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    labels: dict[str, int] | None = Field(None, description="label: samples; None where there are no labels")


def build_shard(source: Source, config: DataConfig, plan: ShardPlan, folder: Path) -> ShardResult:
    """Write the shard of one plan into ``folder``; broken samples are left out and reported."""
    skipped: list[Skipped] = []
    converted: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    label = source.fields.get("label")
    # Sources number their samples, and where images were added, numbers are used again.
    prefix = f"g{plan.generation}-" if plan.generation else ""

    def good() -> Iterator[Sample]:
        for raw in source.read_many(plan.raw_split, plan.indices):
            if isinstance(raw, Broken):
                skipped.append(Skipped(split=plan.split, name=raw.name, reason=raw.reason))
                continue
            sample = refit(raw, source.fields, config)
            converted.update(sample.changes)
            labels.update([sample.members[label].decode()] if label in sample.members else [])
            yield replace(sample, key=prefix + sample.key)

    entry = write_shard(good(), folder / plan.name)
    return ShardResult(
        split=plan.split,
        number=plan.number,
        generation=plan.generation,
        planned=len(plan.indices),
        entry=entry and entry.model_copy(update={"generation": plan.generation}),
        converted=dict(converted),
        skipped=tuple(skipped),
        labels=dict(labels) if label else None,
    )


def build_index(
    source: Source, config: DataConfig, results: Iterable[ShardResult], before: Index | None = None
) -> Index:
    """Merge the results of all plans, in any order, with the index of the generations ``before``.

    Raises UserError when more than ``config.max_skipped`` of the samples were broken, naming the first ones, or when a
    split has none left.
    """
    results = sorted(results, key=lambda r: (SPLITS.index(r.split), r.number))
    if before and not results:
        return before
    check_skipped(results, config.max_skipped)
    old = before.splits if before else {}
    splits = {s: (*old.get(s, ()), *(r.entry for r in results if r.split == s and r.entry)) for s in SPLITS}
    converted = Counter(before.converted if before else {})
    for result in results:
        converted.update(result.converted)
    index = Index(
        source=config.model_dump(mode="json", exclude=keys_with(DataConfig, Role.PLACE)),
        fields=source.fields,
        classes=source.classes,
        splits={split: entries for split, entries in splits.items() if entries},
        converted=dict(sorted(converted.items())),
        skipped=((before.skipped if before else ()) + tuple(skip for result in results for skip in result.skipped)),
        left_out=dict(source.left_out),
        labels=_count_labels(results, before),
    )
    for split in {result.split for result in results}:
        if not index.samples(split):
            raise UserError(f"every image of the {split} split is broken: {_name(index.skipped)}")
    return index


def _count_labels(results: Iterable[ShardResult], before: Index | None) -> dict[str, dict[str, int]] | None:
    """By split; None where some shards have none, or were written when nobody counted them."""
    counts = {split: Counter(labels) for split, labels in ((before.labels or {}) if before else {}).items()}
    for result in results:
        if result.labels is None or (before and before.labels is None):
            return None
        counts.setdefault(result.split, Counter()).update(result.labels)
    return {split: dict(sorted(labels.items())) for split, labels in sorted(counts.items())}


def check_skipped(results: Iterable[ShardResult], limit: float) -> None:
    """Raise UserError when more than the share ``limit`` of all samples was broken; names the first ones."""
    results = list(results)
    skipped = [skip for result in results for skip in result.skipped]
    total = sum(result.planned for result in results)
    if len(skipped) > limit * total:
        raise UserError(
            f"{len(skipped)} of {total} images are broken, more than data.max_skipped={limit:g} allows: "
            f"{_name(skipped)}; repair or remove them, or use --set data.max_skipped={len(skipped) / total + 0.005:.2f}"
        )


def _name(skipped: Iterable[Skipped]) -> str:
    return first_of([f"{skip.name} ({skip.reason})" for skip in skipped], _NAMED)


def write_shard(samples: Iterable[Sample], path: Path) -> ShardEntry | None:
    """Write a plain ustar file: owner, group and time are zero, members in the order of each sample's dictionary.

    Returns None, and leaves no file, when there are no samples. Raises ValueError on keys that are not unique or that
    a reader of WebDataset tars would cut elsewhere.
    """
    count, size, digest = 0, 0, hashlib.sha256()
    seen: set[str] = set()
    with replacing(path) as file:
        for sample in samples:
            if sample.key in seen or "." in sample.key or not sample.members:
                raise ValueError(f"key {sample.key!r} is not unique, has a dot, or has no members")
            seen.add(sample.key)
            record = b"".join(_member(f"{sample.key}.{extension}", data) for extension, data in sample.members.items())
            count, size = count + 1, size + len(record)
            digest.update(record)
            file.write(record)
        end = bytes(2 * _BLOCK)
        digest.update(end)
        file.write(end)
        if not count:
            raise _Nothing
    return (
        ShardEntry(name=path.name, samples=count, bytes=size + len(end), sha256=digest.hexdigest()) if count else None
    )


def _member(name: str, data: bytes) -> bytes:
    """Header, data and padding of one regular file (POSIX.1-1988 ustar)."""
    encoded = name.encode("ascii")
    if len(encoded) > _LONGEST_NAME:
        raise ValueError(f"member name {name!r} is longer than {_LONGEST_NAME} bytes")
    header = bytearray(_BLOCK)
    header[: len(encoded)] = encoded
    header[100:148] = b"0000644\x000000000\x000000000\x00%011o\x0000000000000\x00" % len(data)
    header[148:157] = b"        0"  # the checksum counts as spaces; then the type: a regular file
    header[257:265] = b"ustar\x0000"
    header[148:156] = b"%06o\x00 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % _BLOCK)


class _Nothing(Exception):
    """Leaves `replacing` without a file."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under ``path`` when the block ends well, complete and on disk, and not at all otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb", buffering=io.DEFAULT_BUFFER_SIZE * 64) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except _Nothing:
        pass
    finally:
        temporary.unlink(missing_ok=True)


def write_index(index: Index, folder: Path) -> Path:
    """Write ``index.json`` into ``folder``, atomically; the last thing that is written of a data set."""
    path = folder / INDEX_NAME
    with replacing(path) as file:
        file.write(index.to_bytes())
    return path


def parse_index(data: bytes, where: str) -> Index:
    """The index in ``data``; ``where`` is its place, for errors. Raises UserError."""
    try:
        return Index.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{where} is not the index of a data set ({key}: {first['msg']}): run `genoise prepare` again"
        ) from None


def read_index(folder: Path) -> Index:
    """The index of the data set in a local folder. Raises UserError when there is none, or when it is damaged."""
    path = folder / INDEX_NAME
    if not path.is_file():
        raise UserError(
            f"no data set in {folder}: there is no {INDEX_NAME}; run `genoise prepare SOURCE --to {folder}`"
        )
    return parse_index(path.read_bytes(), str(path))


def verify_shard(path: Path, entry: ShardEntry) -> None:
    """Raise UserError unless the file at ``path`` is, byte for byte, what the index lists."""
    if not path.is_file():
        raise UserError(f"shard {entry.name} is missing at {path}: run `genoise prepare` again")
    if path.stat().st_size != entry.bytes:
        raise UserError(
            f"shard {path} has {path.stat().st_size} bytes instead of {entry.bytes}: run `genoise prepare` again"
        )
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise UserError(
                f"shard {path} differs from its sha256 in the index: remove it and run `genoise prepare` again"
            )
