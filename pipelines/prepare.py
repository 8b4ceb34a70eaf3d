"""source -> shards: one Ray task per shard, and an index that is written last."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray

from components.config import DataConfig
from components.data.dataset import ShardedDataset
from components.data.shards import (
    INDEX_NAME,
    Index,
    ShardPlan,
    ShardResult,
    build_index,
    build_shard,
    parse_index,
    plan_shards,
    split_sizes,
)
from components.data.sources.base import Source, open_source
from components.errors import UserError
from infra.cluster import connect
from infra.storage import Cache, Storage, is_remote
from pipelines import steps
from pipelines.recorder import Progress
from pipelines.session import Session
from pipelines.steps import Planned, Step
from pipelines.workflow import StepResult, StepRun

VERSION = 1
Value = dict[str, Any]
PREPARED = "shards"  # the source that is none: the shards at data.url are used as they are


def prepare(config: DataConfig, session: Session) -> StepResult:
    """Lay a source into shards. Raises UserError for a source that cannot be read or has too many broken images."""
    return steps.run([prepare_step(config)], session, f"prepare {config.source}")[0]


def plan(config: DataConfig, session: Session) -> list[Planned]:
    """The step that `prepare` would run or reuse."""
    return steps.plan([prepare_step(config)], session)


def prepare_step(config: DataConfig) -> Step:
    """The step that lays a source into shards.

    Its value: ``url`` of the shards, ``index`` (sha256), ``samples`` by split, ``classes``, what was ``converted`` and
    ``skipped``. Raises UserError for a source that cannot be read.
    """
    if config.source == PREPARED:
        return _open_step(config)
    source = open_source(config)
    kept_where = {"url": _absolute(config.url)} if config.url else {}
    return Step(
        name="prepare",
        label=f"prepare {config.source}",
        version=VERSION,
        config={
            "data": config.model_dump(mode="json", exclude={"root", "url"}),
            "content": _content(config),
            **kept_where,
        },
        body=lambda run, inputs: _write(source, config, run),
        params={"data": config.model_dump(mode="json")},
    )


def _open_step(config: DataConfig) -> Step:
    """The step for shards that are there already."""
    if config.url is None:
        raise UserError("data.source=shards needs the place of the shards: --set data.url=FOLDER or s3://bucket/prefix")
    url = _absolute(config.url)
    index = read_index_at(url)
    return Step(
        name="prepare",
        label="open shards",
        version=VERSION,
        config={"url": url, "index": index.fingerprint()},
        body=lambda run, inputs: _value(url, index),
    )


def _content(config: DataConfig) -> str:
    """What lies under ``data.root`` now: a digest of the names, sizes and times of its files."""
    if config.root is None:
        return ""
    root = Path(config.root)
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
        if path.is_file():
            stat = path.stat()
            digest.update(f"{path.relative_to(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _write(source: Source, config: DataConfig, run: StepRun) -> Value:
    session = run.workflow.session
    url = _absolute(config.url or str(session.folder("data") / f"{config.source}-{run.fingerprint[:12]}"))
    Storage(url).check_writable()
    plans = plan_shards(source, config)
    cores = int(connect(session.address)["CPU"])
    results: list[ShardResult] = []
    for result in _parallel(_build, [(config.model_dump(), plan.model_dump(), url) for plan in plans], 2 * cores):
        results.append(ShardResult.model_validate(result))
        run.progress(Progress(len(results), len(plans), "shards"))
    index = build_index(source, config, results)
    Storage(url).write_bytes(INDEX_NAME, index.to_bytes())
    run.verify(lambda: _complete(url, index))
    run.output(f"{url}/{INDEX_NAME}")
    run.log_metrics(
        {f"samples/{split}": index.samples(split) for split in index.splits} | {"skipped": len(index.skipped)}
    )
    run.tracker.log_dict(run.run_id, index.model_dump(mode="json"), INDEX_NAME)
    if index.skipped:
        named = ", ".join(f"{skip.name} ({skip.reason})" for skip in index.skipped[:5])
        run.workflow.say(
            f"{len(index.skipped)} broken images were skipped: {named}; all are named in {url}/{INDEX_NAME}"
        )
    return _value(url, index)


def _parallel(task: Any, arguments: Sequence[tuple[Any, ...]], flying: int) -> Iterator[Any]:
    """Results of a Ray task for every tuple of arguments, as they come, with at most ``flying`` under way."""
    waiting = list(reversed(arguments))
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < flying:
            running.append(task.remote(*waiting.pop()))
        done, running = ray.wait(running)
        yield from ray.get(done)


@lru_cache(maxsize=4)
def _open(config: str) -> Source:
    return open_source(DataConfig.model_validate_json(config))


@ray.remote(num_cpus=1, max_retries=3)
def _build(config: dict[str, Any], plan: dict[str, Any], url: str) -> dict[str, Any]:
    """Write one shard, to its place or by way of a temporary folder to a bucket."""
    data = DataConfig.model_validate(config)
    source = _open(data.model_dump_json())
    if not is_remote(url):
        return build_shard(source, data, ShardPlan.model_validate(plan), Path(url)).model_dump()
    with tempfile.TemporaryDirectory() as folder:
        result = build_shard(source, data, ShardPlan.model_validate(plan), Path(folder))
        if result.entry:
            Storage(url).upload(Path(folder) / result.entry.name, result.entry.name)
    return result.model_dump()


def _complete(url: str, index: Index) -> bool:
    """Whether every shard of the index lies at ``url`` in its full size."""
    found = Storage(url).list()
    entries = [entry for shards in index.splits.values() for entry in shards]
    return all(found.get(entry.name) == entry.bytes for entry in entries)


def _value(url: str, index: Index) -> Value:
    return {
        "url": url,
        "index": index.fingerprint(),
        "samples": {split: index.samples(split) for split in index.splits},
        "classes": len(index.classes),
        "skipped": [skip.model_dump() for skip in index.skipped[:20]],
        "skipped_count": len(index.skipped),
        "converted": index.converted,
    }


def expected_samples(config: DataConfig) -> dict[str, int]:
    """Samples per split, as far as can be known before an image is looked at: broken ones are still among them."""
    if config.source == PREPARED:
        index = read_index_at(_absolute(config.url or ""))
        return {split: index.samples(split) for split in index.splits}
    return split_sizes(_open(config.model_dump_json()), config)


def _absolute(url: str) -> str:
    return url if is_remote(url) else str(Path(url).absolute())


def read_index_at(url: str) -> Index:
    """The index of the data set at a folder or ``s3://`` place."""
    return parse_index(Storage(url).read_bytes(INDEX_NAME), url)


def open_split(data: dict[str, Any], split: str, fields: Sequence[str]) -> ShardedDataset:
    """A split of a prepared data set. ``data``: ``url``, ``size`` in pixels, the ``cache`` folder for remote shards."""
    url: str = data["url"]
    index = read_index_at(url)
    return ShardedDataset(index, split, fetcher(url, index, Path(data["cache"])), data["size"], fields)


def fetcher(url: str, index: Index, cache: Path) -> Callable[[str], Path]:
    """Shard name -> local file: as it lies in a folder, or downloaded once and checked against the index."""
    if not is_remote(url):
        return lambda name: Path(url) / name
    digests = {entry.name: entry.sha256 for shards in index.splits.values() for entry in shards}
    copies = Cache(url, cache)
    return lambda name: copies.fetch(name, digests[name])
