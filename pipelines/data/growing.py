"""What a place holds already: its index, the records of its shards, and shards that have to be written again."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from components.data.planning import NOTHING, Known, ShardPlan
from components.data.records import FOLDER, Record, all_entries, finished, known_by
from components.data.shards import INDEX_NAME, Index, ShardEntry, parse_index
from components.data.sources.base import Source
from components.errors import UserError
from infra.storage import Storage

READERS = 16  # records read at a time


@dataclass(frozen=True)
class Held:
    """The data set that a place holds; no index: none."""

    index: Index | None = None
    known: Known = NOTHING
    records: frozenset[str] = frozenset()  # names of those that belong to it


def held_at(storage: Storage, there: Iterable[str]) -> Held:
    """``there``: the records at the place. Raises UserError where some are missing."""
    if not storage.exists(INDEX_NAME):
        return Held()
    index = parse_index(storage.read_bytes(INDEX_NAME), storage.join(INDEX_NAME))
    with ThreadPoolExecutor(READERS) as pool:
        records = finished(pool.map(lambda name: read_record(storage, name), there), index)
    return Held(index, known_by(records, index), frozenset(record.name for record in records))


def read_record(storage: Storage, name: str) -> Record:
    """The record ``name``."""
    return Record.model_validate_json(storage.read_bytes(name))


def drop(storage: Storage, name: str) -> None:
    """Remove a shard that a preparation wrote that was cut off, and that is none any more; and its record."""
    entry = read_record(storage, name).result.entry
    for file in ([entry.name] if entry else []) + [name]:
        storage.delete(file)


def lost(storage: Storage, index: Index) -> list[ShardEntry]:
    """The shards of the index that are not at their place in their full size."""
    found = storage.list()
    return [entry for entry in all_entries(index) if found.get(entry.name) != entry.bytes]


def plans_of(storage: Storage, entries: Iterable[ShardEntry], source: Source) -> Iterator[ShardPlan]:
    """How shards that were lost are written again, by their records. Raises UserError where the source has changed."""
    for entry in entries:
        record = read_record(storage, f"{FOLDER}{entry.name.removesuffix('.tar')}.json")
        numbers = range(source.splits.get(record.raw_split, 0))
        places = {source.locate(record.raw_split, k): k for k in numbers}
        gone = [name for name in record.names if name not in places]
        if gone:
            raise UserError(
                f"{storage.join(entry.name)} was lost, and cannot be written again: the source no longer has {gone[0]}"
            )
        yield ShardPlan(
            split=record.result.split,
            number=record.result.number,
            generation=record.result.generation,
            raw_split=record.raw_split,
            indices=tuple(places[name] for name in record.names),
        )
