"""Ray tasks that write shards: each of them once, and those that were lost again."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import ray

from components.config import DataConfig
from components.data.cache import kept_cache, use_cache
from components.data.planning import ShardPlan
from components.data.records import Record, key_of, name_of, names_of
from components.data.shards import Index, ShardResult, build_shard
from components.data.sources.base import Source
from infra.cluster import cpus
from infra.errors import OutsideError
from infra.storage import Storage, open_storage
from pipelines.data.growing import lost, plans_of, read_record
from pipelines.data.raw_data import open_raw
from pipelines.workers.ray_tasks import in_parallel


@ray.remote(num_cpus=1, max_retries=3)
def build(
    data: DataConfig, content: str, plan: ShardPlan, url: str, recorded: bool, cache: str | None = None
) -> ShardResult:
    """Write one shard and its record, to a folder or by way of a temporary one to a bucket; or find it finished.

    ``cache`` is where unpacked archives are kept, where that is not what the environment says.
    """
    if cache:
        use_cache(Path(cache))
    storage, source = open_storage(url), open_raw(data, content)
    names = names_of(source, plan)
    key = key_of(data, content + source.revision, plan, names)
    if recorded and (result := _finished(storage, plan, key)):
        return result
    try:
        with storage.work_folder() as folder:
            result = build_shard(source, data, plan, folder)
    except OSError as error:
        raise OutsideError(
            f"cannot write {plan.name} to {url} ({error.strerror or error}): make room; then the same command goes on"
        ) from None
    record = Record(key=key, raw_split=plan.raw_split, names=names, result=result)
    storage.write_bytes(record.name, record.model_dump_json().encode())
    return result


def _finished(storage: Storage, plan: ShardPlan, key: str) -> ShardResult | None:
    """What a preparation that was cut off left of this plan, if it had finished it."""
    record = read_record(storage, name_of(plan))
    entry = record.result.entry
    whole = record.key == key and (entry is None or storage.size(entry.name) == entry.bytes)
    return record.result if whole else None


def restore(
    source: Source, config: DataConfig, content: str, storage: Storage, index: Index, say: Callable[[str], None]
) -> None:
    """Write the shards again that the index lists and that are not there."""
    entries = {entry.name: entry for entry in lost(storage, index)}
    if not entries:
        return
    plans = plans_of(storage, entries.values(), source)
    cache = str(kept_cache())
    work = ((config, content, plan, storage.url, entries[plan.name].sha256, cache) for plan in plans)
    written = sorted(in_parallel(rebuild, work, 2 * cpus()))
    say(f"{len(written)} shards of {storage.url} were lost and written again: {', '.join(written[:5])}")


@ray.remote(num_cpus=1, max_retries=3)
def rebuild(data: DataConfig, content: str, plan: ShardPlan, url: str, sha256: str, cache: str) -> str:
    """Write a shard as it was. Raises OutsideError, and writes nothing, where it would be another."""
    use_cache(Path(cache))
    source = open_raw(data, content)
    with tempfile.TemporaryDirectory() as folder:
        entry = build_shard(source, data, plan, Path(folder)).entry
        if entry is None or entry.sha256 != sha256:
            raise OutsideError(f"{url}/{plan.name} was lost, and the source has changed since: choose another place")
        open_storage(url).upload(Path(folder) / entry.name, entry.name)
    return plan.name
