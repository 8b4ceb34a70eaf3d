"""Which raw samples go into which shard: by splits, in shuffled order, and only those that a data set lacks.

A data set grows by generations. The shards of a generation hold what its source had and the data set did not; they are
numbered on, and those of the generations before are never touched.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

import numpy as np

from components.config import Config, DataConfig
from components.data.scramble import Int64, make_key, permute
from components.data.sources.base import DOMAINS, SPLITS, Source
from components.data.splits import is_table
from components.errors import UserError


class ShardPlan(Config):
    """One shard to be written: raw samples ``indices`` of ``raw_split``, in that order."""

    split: str
    number: int
    generation: int = 0
    raw_split: str
    indices: tuple[int, ...]

    @property
    def name(self) -> str:
        """File name of the shard."""
        return f"{self.split}-{self.number:06d}.tar"


@dataclass(frozen=True)
class Known:
    """What a data set holds already. Empty: nothing."""

    generation: int = 0  # of the shards to come
    names: Mapping[str, Set[str]] = field(
        default_factory=dict
    )  # by raw split: samples that were taken, broken ones too
    samples: Mapping[str, int] = field(default_factory=dict)  # by split: how many of them
    shards: Mapping[str, int] = field(default_factory=dict)  # by split: the number of the next shard


NOTHING = Known()


@dataclass(frozen=True)
class Part:
    """A split of a generation: places [start, stop) of what is new in ``raw_split``, shuffled."""

    split: str
    raw_split: str
    start: int
    stop: int
    fresh: Int64 | None  # raw numbers of what is new; None: everything is
    exchanged: Mapping[int, int] = field(default_factory=dict)  # place -> the place whose sample it has instead

    def take(self, source: Source, seed: int, start: int, stop: int, generation: int) -> tuple[int, ...]:
        """Raw numbers of the samples at ``start`` .. ``stop`` - 1 of this part.

        Each generation is shuffled once, by the seed, so that a folder sorted by class becomes well mixed shards.
        """
        total = source.splits[self.raw_split] if self.fresh is None else len(self.fresh)
        later = (generation,) if generation else ()
        first, last = self.start + start, self.start + stop
        places = np.arange(first, last, dtype=np.int64)
        for place, other in self.exchanged.items():
            if first <= place < last:
                places[place - first] = other
        mixed = permute(places, total, make_key(seed, "split", self.raw_split, *later))
        return tuple((mixed if self.fresh is None else self.fresh[mixed]).tolist())


def split_sizes(source: Source, config: DataConfig) -> dict[str, int]:
    """Samples per prepared split of a new data set. Raises UserError when a cut leaves nothing."""
    return {part.split: part.stop - part.start for part in plan_parts(source, config)}


def plan_parts(source: Source, config: DataConfig, known: Known = NOTHING) -> list[Part]:
    """What is new, by split. A validation split is cut from train where the source has none: the first part of the
    shuffled training split. ``samples`` limits what is left of train, in each domain.

    Shares are those of the whole data set, with what is ``known``; a sample never changes its split. Raises UserError
    when the cut of a new data set leaves nothing.
    """
    if not source.splits.get("train"):
        raise UserError(f"source {config.source!r} has no training images under {config.root}: put images there")
    if config.splits is not None and is_table(config.splits):
        _check_stays(source, known)
    parts = [part for domain in DOMAINS for part in _parts_of(domain, source, config, known)]
    order = {split: place for place, split in enumerate(SPLITS)}
    return sorted((part for part in parts if part.stop > part.start), key=lambda part: order[part.split])


def _parts_of(domain: str, source: Source, config: DataConfig, known: Known) -> Iterator[Part]:
    train, val, test = (f"{domain}{split}" for split in ("train", "val", "test"))
    for raw_split in (train, val, test):
        total = source.splits.get(raw_split, 0)
        taken = known.names.get(raw_split, set())
        fresh = _fresh(source, raw_split, taken) if taken else None
        new = total if fresh is None else len(fresh)
        held = 0
        if raw_split == train and total and not source.splits.get(val):
            held = min(new, max(0, round((new + len(taken)) * config.validation) - known.samples.get(val, 0)))
            if known is NOTHING and held in (0, new):
                raise UserError(
                    f"{new} images cannot be cut into training and validation "
                    f"with data.validation={config.validation:g}: add images or use --set data.validation=0.5"
                )
        limit = new
        if raw_split == train and config.samples is not None:
            limit = min(new, held + max(0, config.samples - known.samples.get(train, 0)))
        exchanged: dict[int, int] = {}
        if held:
            whole = Part(raw_split, raw_split, 0, new, fresh)
            held, exchanged = _keep_classes(source, config, known, whole, held, limit)
            if known is NOTHING and not held:
                raise UserError(
                    f"{new} images cannot be cut into training and validation so that every class keeps one to learn "
                    "from: add images of each class, or a validation split"
                )
            yield Part(val, raw_split, 0, held, fresh, exchanged)
        yield Part(raw_split, raw_split, held, limit, fresh, exchanged)


def _keep_classes(
    source: Source, config: DataConfig, known: Known, whole: Part, held: int, limit: int
) -> tuple[int, dict[int, int]]:
    """(places of validation, exchanged places), so that no class that validation gets is lost to the training split.

    A class is lost whose every new sample lies in the first ``held`` places, and of which nothing is known: one of
    them changes places with a sample of a class that has more, or, where none has, the validation split gets shorter.
    Where nothing is lost nothing changes.
    """
    labels = source.labels(whole.raw_split)
    if labels is None or not labels.size:
        return held, {}
    new = labels[np.array(whole.take(source, config.seed, 0, limit, known.generation), np.int64)]
    there, counts = (np.bincount(part, minlength=labels.max() + 1) for part in (new[:held], new[held:]))
    lost = np.flatnonzero((there > 0) & (counts == 0))
    if lost.size and known.names.get(whole.raw_split):
        old = np.ones(len(labels), np.bool_)
        old[whole.fresh if whole.fresh is not None else slice(None)] = False
        lost = np.setdiff1d(lost, labels[old])
    exchanged: dict[int, int] = {}
    giving, alone = held, []
    for label in lost:
        place = int(np.flatnonzero(new[:held] == label)[0])
        while giving < limit and counts[new[giving]] < 2:
            giving += 1
        if giving == limit:
            alone.append(place)
            continue
        counts[new[giving]] -= 1
        exchanged |= {place: giving, giving: place}
        giving += 1
    if config.samples is None:
        for place in sorted(alone, reverse=True):  # from the end, where validation gets shorter
            held -= 1
            mine, last = exchanged.get(place, place), exchanged.get(held, held)
            exchanged |= {place: last, held: mine}
    return held, {place: other for place, other in exchanged.items() if place != other}


def revision_of_cut(source: Source, config: DataConfig) -> str:
    """What marks, in a fingerprint, a new data set whose cut was changed so that classes are kept; else empty."""
    for domain in DOMAINS:
        train, total = f"{domain}train", source.splits.get(f"{domain}train", 0)
        held = round(total * config.validation)
        if 0 < held < total and not source.splits.get(f"{domain}val"):
            limit = total if config.samples is None else min(total, held + config.samples)
            whole = Part(train, train, 0, total, None)
            if _keep_classes(source, config, NOTHING, whole, held, limit) != (held, {}):
                return "classes kept;"
    return ""


def _check_stays(source: Source, known: Known) -> None:
    """Raise UserError where a sample that the data set holds is now of another split, as a table may say."""
    for split, names in known.names.items():
        for other in source.splits.keys() - {split}:
            moved = next((n for k in range(source.splits[other]) if (n := source.locate(other, k)) in names), None)
            if moved is not None:
                raise UserError(
                    f"{moved} was prepared as of the {split} split and is now of {other}: leave it where it was, or "
                    "choose another place with --set data.url=PLACE"
                )


def _fresh(source: Source, raw_split: str, taken: Set[str]) -> Int64:
    numbers = range(source.splits[raw_split])
    return np.fromiter((k for k in numbers if source.locate(raw_split, k) not in taken), np.int64)


def count_shards(parts: Iterable[Part], config: DataConfig) -> int:
    """How many shards `cut_shards` makes."""
    return sum(-(-(part.stop - part.start) // config.shard_samples) for part in parts)


def plan_shards(source: Source, config: DataConfig, known: Known = NOTHING) -> Iterator[ShardPlan]:
    """The shards that a data set lacks, one at a time; each can be built alone. Raises UserError as `plan_parts`."""
    return cut_shards(plan_parts(source, config, known), source, config, known)


def cut_shards(parts: Iterable[Part], source: Source, config: DataConfig, known: Known) -> Iterator[ShardPlan]:
    """The shards of ``parts``, numbered on from those that are ``known``."""
    for part in parts:
        size = part.stop - part.start
        for number, start in enumerate(range(0, size, config.shard_samples), known.shards.get(part.split, 0)):
            stop = min(start + config.shard_samples, size)
            yield ShardPlan(
                split=part.split,
                number=number,
                generation=known.generation,
                raw_split=part.raw_split,
                indices=part.take(source, config.seed, start, stop, known.generation),
            )


def count_vanished(source: Source, known: Known) -> int:
    """How many of the samples that a data set holds its source no longer has."""
    return sum(
        len(names) - sum(source.locate(split, k) in names for k in range(source.splits.get(split, 0)))
        for split, names in known.names.items()
    )
