"""Opens prepared data: the index at a place, a split of it, and its shards, each compared with its sha256."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from components.data.dataset import ShardedDataset
from components.data.records import all_entries
from components.data.shards import INDEX_NAME, Index, limited, parse_index, verify_shard
from infra.storage import Cache, is_remote, open_storage
from pipelines.data.prepared import DataPlace

_VERIFIED: set[tuple[Path, str]] = set()  # shards in folders, and the sha256 that this process has seen there


def read_index_at(url: str, name: str = INDEX_NAME) -> Index:
    """The index of the data set at a folder or ``s3://`` place."""
    return parse_index(open_storage(url).read_bytes(name), f"{url}/{name}")


def read_index_file(file: str, limit: int | None = None) -> Index:
    """The index in a file; ``limit``: training samples that are used (None: all).

    A file that is named by its content is read once per process.
    """
    place, _, name = file.rpartition("/")
    return limited((read_index_at if name == INDEX_NAME else _read_once)(place, name), limit)


@lru_cache(maxsize=8)
def _read_once(place: str, name: str) -> Index:
    return read_index_at(place, name)


def open_split(data: DataPlace, split: str, fields: Sequence[str]) -> ShardedDataset:
    """A split of a prepared data set."""
    index = read_index_file(data.index_file, data.limit)
    fetch = fetcher(data.url, index, Path(data.cache))
    return ShardedDataset(index, split, fetch, data.size, fields, data.margin)


def fetcher(url: str, index: Index, cache: Path) -> Callable[[str], Path]:
    """Shard name -> local file, compared with its sha256 in the index: as it lies in a folder (once per process), or
    downloaded once per machine."""
    entries = {entry.name: entry for entry in all_entries(index)}
    if is_remote(url):
        copies = Cache(url, cache)
        return lambda name: copies.fetch(name, entries[name].sha256)

    def check(name: str) -> Path:
        path, entry = Path(url) / name, entries[name]
        if (path, entry.sha256) not in _VERIFIED:
            verify_shard(path, entry)
            _VERIFIED.add((path, entry.sha256))
        return path

    return check
