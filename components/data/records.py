"""What is written beside every finished shard: which raw samples it took, and what became of them.

By its record a shard is known as finished when a preparation that was cut off goes on, and by all records a later
preparation knows what is new. Records are read by preparations alone; to train, the index suffices.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable

from pydantic import Field

from components.config import Config, DataConfig
from components.data.planning import Known, ShardPlan
from components.data.shards import Index, ShardEntry, ShardResult
from components.data.sources.base import Source
from components.errors import UserError
from components.keys import Role, keys_with

FOLDER = "records/"
# Keys that say where, how much is taken and how it is cut; all others say what a sample is, and are the same for ever.
MAY_CHANGE = keys_with(DataConfig, Role.PLACE) | keys_with(DataConfig, Role.GROWS)


class Record(Config):
    """One finished shard."""

    key: str = Field(description="of the work that was done; see `key_of`")
    raw_split: str
    names: tuple[str, ...] = Field(description="raw samples that were taken, broken ones too")
    result: ShardResult

    @property
    def name(self) -> str:
        """Its file, beside the index."""
        return name_of(self.result)


def name_of(shard: ShardPlan | ShardResult) -> str:
    """The file of a shard's record."""
    return f"{FOLDER}{shard.split}-{shard.number:06d}.json"


def names_of(source: Source, plan: ShardPlan) -> tuple[str, ...]:
    """The names of a plan's raw samples."""
    return tuple(source.locate(plan.raw_split, index) for index in plan.indices)


def key_of(config: DataConfig, content: str, plan: ShardPlan, names: Iterable[str]) -> str:
    """The same for work with the same result: what is to be done, on which samples; ``content`` is a digest of all."""
    what = config.model_dump(mode="json", exclude=MAY_CHANGE)
    work = [what, content, plan.model_dump(mode="json"), list(names)]
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()


def finished(records: Iterable[Record], index: Index) -> list[Record]:
    """Those whose shards belong to the data set of ``index``, and not to a generation that was cut off.

    Raises UserError where a shard has no record.
    """
    entries = {entry.name: entry for entry in all_entries(index)}
    newest = max(entry.generation for entry in entries.values())
    found = [
        record
        for record in records
        if record.result.generation <= newest
        and (record.result.entry is None or entries.get(record.result.entry.name) == record.result.entry)
    ]
    missing = sorted(entries.keys() - {record.result.entry.name for record in found if record.result.entry})
    if missing:
        raise UserError(
            f"{len(missing)} of {len(entries)} shards have no record ({missing[0]} first), so that nobody knows what "
            "they hold: to add images, choose another place; to use them as they are, --set data.source=shards"
        )
    return found


def known_by(records: Iterable[Record], index: Index) -> Known:
    """What the data set of ``index`` holds, by the records of its shards."""
    names: defaultdict[str, set[str]] = defaultdict(set)
    samples: Counter[str] = Counter()
    shards: Counter[str] = Counter()
    for record in records:
        names[record.raw_split].update(record.names)
        samples[record.result.split] += record.result.planned
        shards[record.result.split] = max(shards[record.result.split], record.result.number + 1)
    generations = [entry.generation for entry in all_entries(index)]
    return Known(max(generations) + 1, dict(names), dict(samples), dict(shards))


def all_entries(index: Index) -> list[ShardEntry]:
    """The shards of all splits."""
    return [entry for entries in index.splits.values() for entry in entries]


def check_extends(index: Index, source: Source, config: DataConfig, where: str) -> None:
    """Raise UserError unless the data set of ``index`` can take more samples of ``source``."""
    wanted = config.model_dump(mode="json", exclude=MAY_CHANGE)
    there = DataConfig.parse(index.source, f"{where}: ").model_dump(mode="json")
    for key in wanted.keys() | (there.keys() & {"splits"}):
        value = wanted.get(key)
        if there.get(key) != value:
            raise UserError(
                f"{where} holds a data set that was prepared with data.{key}={there.get(key)}, not {value}: choose "
                "another place, or use it as it is with --set data.source=shards"
            )
    if source.fields != index.fields or source.classes[: len(index.classes)] != index.classes:
        raise UserError(
            f"{where} holds a data set with the fields {', '.join(index.fields)} and {len(index.classes)} classes, and "
            f"the source has {', '.join(source.fields)} and {len(source.classes)}: labels would change their meaning; "
            "choose another place"
        )
