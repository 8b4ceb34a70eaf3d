"""source -> shards: one Ray task per shard, and an index that is written last.

A place that was named (``--to``) grows: what is new in the source becomes new shards, and an index of its own beside
the older ones, which stay; ``index.json`` is the newest. See docs/decisions/0008-data-sets-grow-by-generations.md.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray

from components.config import DataConfig
from components.data.cache import kept_cache, use_cache
from components.data.dataset import ShardedDataset
from components.data.labels import say_unseen, unseen_labels
from components.data.planning import (
    ShardPlan,
    count_shards,
    count_vanished,
    cut_shards,
    plan_parts,
    revision_of_cut,
    split_sizes,
)
from components.data.records import (
    FOLDER,
    Record,
    all_entries,
    check_extends,
    key_of,
    name_of,
    names_of,
)
from components.data.shards import (
    INDEX_NAME,
    Index,
    ShardResult,
    build_index,
    build_shard,
    index_name,
    limited,
    parse_index,
    verify_shard,
)
from components.data.sources.base import Source, open_source
from components.data.sources.listing import PassedOver, files_of
from components.data.splits import is_table
from components.errors import UserError
from infra.cluster import connect, cpus
from infra.errors import OutsideError
from infra.storage import Cache, Storage, absolute, is_remote
from pipelines import terminal
from pipelines.data.growing import drop, held_at, lost, plans_of, read_record
from pipelines.data.tar_indexing import RULES, digest_of_tars, index_tars
from pipelines.session import Session
from pipelines.steps import scheduling
from pipelines.steps.ray_tasks import in_parallel
from pipelines.steps.step import Planned, Step
from pipelines.steps.worker_log import Progress
from pipelines.steps.workflow import StepResult, StepRun

VERSION = 2  # names the file of the index
LISTING = 2  # takes pictures by their content, and those in linked folders
Value = dict[str, Any]
PREPARED = "shards"  # the source that is none: the shards at data.url are used as they are


def prepare(config: DataConfig, session: Session) -> StepResult:
    """Lay a source into shards; those of a data set that was finished before, and were lost, are written again.

    Raises UserError for a source that cannot be read or has too many broken images.
    """
    result = scheduling.run([prepare_step(config)], session, f"prepare {config.source}")[0]
    if result.reused and config.source != PREPARED:
        storage, content = Storage(result.value["url"]), _content_of(config)
        index = open_index(result.value)
        if lost(storage, index):
            connect(session.address)
            source = _open(config.model_dump_json(), content)
            _restore(source, config, content, storage, index, terminal.note)
    if "labels" not in result.value:  # finished before classes were counted that are no labels
        result = replace(result, value=result.value | _classes(open_index(result.value)))
    return result


def plan(config: DataConfig, session: Session) -> list[Planned]:
    """The step that `prepare` would run or reuse."""
    return scheduling.plan([prepare_step(config)], session)


def prepare_step(config: DataConfig) -> Step:
    """The step that lays a source into shards.

    Its value: ``url`` of the shards, ``index`` (sha256) and ``index_file``, ``samples`` by split, ``classes`` and
    ``labels`` (see `labels_of`), what was ``converted`` and ``skipped``, and what lies among the pictures and was
    ``passed_over``. Raises UserError for a source that cannot be read.
    """
    if config.source == PREPARED:
        return _open_step(config)
    content = _content_of(config)
    source = _open(config.model_dump_json(), content)
    kept_where = {"url": absolute(config.url)} if config.url else {}
    revision = source.revision + revision_of_cut(source, config)
    _check_place(source, config)
    return Step(
        name="prepare",
        label=f"prepare {config.source}",
        version=VERSION,
        config={
            "data": config.model_dump(mode="json", exclude={"root", "url"}),
            "content": content,
            **kept_where,
            **({"revision": revision} if revision else {}),
            # Pictures that were once not taken; where there are none, what was prepared then is still right.
            **({"listing": LISTING} if _passed_over(config.model_dump_json(), content).more else {}),
        },
        body=lambda run, inputs: _write(source, config, content, run),
        params={"data": config.model_dump(mode="json")},
    )


def _check_place(source: Source, config: DataConfig) -> None:
    """UserError where a folder that was named holds another data set. A bucket is asked when it is written to."""
    if config.url and not is_remote(config.url) and (Path(config.url) / INDEX_NAME).is_file():
        check_extends(read_index_at(config.url), source, config, absolute(config.url))


def _open_step(config: DataConfig) -> Step:
    """The step for shards that are there already; where somebody else wrote them, it makes their index."""
    if config.url is None:
        raise UserError("data.source=shards needs the place of the shards: --set data.url=FOLDER or s3://bucket/prefix")
    url = absolute(config.url)
    index = read_index_at(url) if Storage(url).exists(INDEX_NAME) else None
    _check_obeyed(config, index, url)
    used = limited(index, config.samples) if index else None
    limit = {} if used is index else {"limit": config.samples}
    if index:
        known: Value = {"index": index.fingerprint()} | limit
    else:
        known = {"tars": digest_of_tars(url), "cut": str(config.validation), "rules": RULES} | config.model_dump(
            include={"seed", "samples", "splits", "max_skipped"}, exclude_defaults=True
        )

    def body(run: StepRun, inputs: tuple[StepResult, ...]) -> Value:
        if index and used:
            value = _value(url, used, _index_file(url, index)) | limit
        else:
            value = _value(url, *index_tars(config, url, run))
        if config.options and config.options != (index.source.get("options") if index else None):
            run.workflow.say(f"data.options={config.options} says nothing to shards, which are used as they are")
        for line in say_unseen(value.get("unseen", {})):
            run.workflow.say(line)
        return value

    return Step(name="prepare", label="open shards", version=VERSION, config={"url": url, **known}, body=body)


def _content_of(config: DataConfig) -> str:
    """A digest of the raw data, and of the table that says which file is in which split."""
    content = _content(config.root)
    if config.splits is None or not is_table(config.splits):
        return content
    try:
        table = Path(config.splits).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"--splits {config.splits} cannot be read ({error.strerror}): correct the path") from None
    return hashlib.sha256(content.encode() + table).hexdigest()


def _check_obeyed(config: DataConfig, index: Index | None, url: str) -> None:
    """Raise UserError for a key that says how shards are made, where they are there already and were not made so.

    Options are another source's, of a recipe that is used with shards: they are said to be passed over.
    """
    made = index.source if index else {}
    fixed = ["resize", "encode", "quality", "shard_samples"]
    if index:
        fixed += ["splits", "validation", "max_skipped", "seed"]
    for key in fixed:
        value, usual = getattr(config, key), DataConfig.model_fields[key].default
        if value not in (usual, made.get(key)):
            raise UserError(
                f"data.{key}={value}: the shards of {url} are there already, and this cannot be done to them: leave it "
                "out, or prepare the images anew with it"
            )


@lru_cache(maxsize=16)
def _content(root: str | None) -> str:
    """What lies under ``data.root``: a digest of the names, sizes and times of its files, taken once per process."""
    if root is None:
        return ""
    top = Path(root)
    digest = hashlib.sha256()
    for path in sorted(files_of(top)) if top.is_dir() else [top] * top.is_file():
        stat = path.stat()
        digest.update(os.fsencode(path.relative_to(top)) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _write(source: Source, config: DataConfig, content: str, run: StepRun) -> Value:
    session = run.workflow.session
    url = absolute(config.url or str(session.folder("data") / f"{config.source}-{run.fingerprint[:12]}"))
    storage = Storage(url)
    storage.check_writable()
    there = storage.list(FOLDER)  # of shards in the index, and some of a preparation that was cut off, perhaps
    held = held_at(storage, there)
    if held.index:
        check_extends(held.index, source, config, url)
        if gone := count_vanished(source, held.known):
            run.workflow.say(f"{gone} images of {url} are no longer in the source; they stay in its shards")
    parts = plan_parts(source, config, held.known)
    total = count_shards(parts, config)
    connect(session.address)
    cache = str(kept_cache())
    work = (
        (config.model_dump(), content, plan.model_dump(), url, name_of(plan) in there, cache)
        for plan in cut_shards(parts, source, config, held.known)
    )
    results: list[ShardResult] = []
    for result in in_parallel(_build, work, 2 * cpus()):
        results.append(ShardResult.model_validate(result))
        run.progress(Progress(len(results), total, "shards"))
    index = build_index(source, config, results, held.index)
    for name in there.keys() - held.records - {name_of(result) for result in results}:
        drop(storage, name)
    for name in (index_name(index), INDEX_NAME):  # the first of them stays when the data set grows
        storage.write_bytes(name, index.to_bytes())
    _restore(source, config, content, storage, index, run.workflow.say)
    run.output(storage.join(index_name(index)))
    run.log_metrics(
        {f"samples/{split}": index.samples(split) for split in index.splits} | {"skipped": len(index.skipped)}
    )
    run.tracker.log_dict(run.run_id, index.model_dump(mode="json"), INDEX_NAME)
    if source.left_out:
        named = ", ".join(f"{folder} ({count})" for folder, count in list(source.left_out.items())[:10])
        more = f" and {len(source.left_out) - 10} folders more" * (len(source.left_out) > 10)
        run.workflow.say(f"{sum(source.left_out.values())} images are of no split and were left out: {named}{more}")
    passed = _passed_over(config.model_dump_json(), content)
    if passed.counts:
        run.workflow.say(f"{sum(passed.counts.values())} files were passed over: {passed.in_words()}")
    if index.skipped:
        named = ", ".join(f"{skip.name} ({skip.reason})" for skip in index.skipped[:5])
        run.workflow.say(
            f"{len(index.skipped)} broken images were skipped: {named}; all are named in {url}/{INDEX_NAME}"
        )
    value = _value(url, index, storage.join(index_name(index))) | {"passed_over": passed.facts()}
    for line in say_unseen(value.get("unseen", {})):
        run.workflow.say(line)
    return value


@lru_cache(maxsize=4)
def _open(config: str, content: str) -> Source:
    """The source, listed once per process; ``content`` tells apart what lay there at other times."""
    return open_source(DataConfig.model_validate_json(config))


@lru_cache(maxsize=4)
def _passed_over(config: str, content: str) -> PassedOver:
    """What lies among the pictures of the source and is not taken, looked for once per process."""
    return _open(config, content).passed_over


@ray.remote(num_cpus=1, max_retries=3)
def _build(
    config: Value, content: str, plan_values: Value, url: str, recorded: bool, cache: str | None = None
) -> Value:
    """Write one shard and its record, to a folder or by way of a temporary one to a bucket; or find it finished.

    ``cache`` is where unpacked archives are kept, where that is not what the environment says.
    """
    if cache:
        use_cache(Path(cache))
    data, plan, storage = DataConfig.model_validate(config), ShardPlan.model_validate(plan_values), Storage(url)
    source = _open(data.model_dump_json(), content)
    names = names_of(source, plan)
    key = key_of(data, content + source.revision, plan, names)
    if recorded and (result := _finished(storage, plan, key)):
        return result.model_dump()
    try:
        if is_remote(url):
            with tempfile.TemporaryDirectory() as folder:
                result = build_shard(source, data, plan, Path(folder))
                if result.entry:
                    storage.upload(Path(folder) / result.entry.name, result.entry.name)
        else:
            result = build_shard(source, data, plan, storage.folder)
    except OSError as error:
        raise OutsideError(
            f"cannot write {plan.name} to {url} ({error.strerror or error}): make room; then the same command goes on"
        ) from None
    record = Record(key=key, raw_split=plan.raw_split, names=names, result=result)
    storage.write_bytes(record.name, record.model_dump_json().encode())
    return result.model_dump()


def _restore(
    source: Source, config: DataConfig, content: str, storage: Storage, index: Index, say: Callable[[str], None]
) -> None:
    """Write the shards again that the index lists and that are not there."""
    entries = {entry.name: entry for entry in lost(storage, index)}
    if not entries:
        return
    plans = plans_of(storage, entries.values(), source)
    cache = str(kept_cache())
    work = (
        (config.model_dump(), content, plan.model_dump(), storage.url, entries[plan.name].sha256, cache)
        for plan in plans
    )
    written = sorted(in_parallel(_rebuild, work, 2 * cpus()))
    say(f"{len(written)} shards of {storage.url} were lost and written again: {', '.join(written[:5])}")


@ray.remote(num_cpus=1, max_retries=3)
def _rebuild(config: Value, content: str, plan_values: Value, url: str, sha256: str, cache: str) -> str:
    """Write a shard as it was. Raises OutsideError, and writes nothing, where it would be another."""
    use_cache(Path(cache))
    data, plan = DataConfig.model_validate(config), ShardPlan.model_validate(plan_values)
    source = _open(data.model_dump_json(), content)
    with tempfile.TemporaryDirectory() as folder:
        entry = build_shard(source, data, plan, Path(folder)).entry
        if entry is None or entry.sha256 != sha256:
            raise OutsideError(f"{url}/{plan.name} was lost, and the source has changed since: choose another place")
        Storage(url).upload(Path(folder) / entry.name, entry.name)
    return plan.name


def _finished(storage: Storage, plan: ShardPlan, key: str) -> ShardResult | None:
    """What a preparation that was cut off left of this plan, if it had finished it."""
    record = read_record(storage, name_of(plan))
    entry = record.result.entry
    whole = record.key == key and (entry is None or storage.size(entry.name) == entry.bytes)
    return record.result if whole else None


def _value(url: str, index: Index, index_file: str) -> Value:
    unseen = unseen_labels(index)
    return {
        "url": url,
        "index": index.fingerprint(),
        "index_file": index_file,
        "samples": {split: index.samples(split) for split in index.splits},
        **_classes(index),
        "skipped": [skip.model_dump() for skip in index.skipped[:20]],
        "skipped_count": len(index.skipped),
        "converted": index.converted,
        **({"left_out": index.left_out} if index.left_out else {}),
        **({"unseen": unseen} if unseen else {}),
    }


def _classes(index: Index) -> Value:
    """``classes``: how many have a name, in labels, boxes or masks; ``labels``: those that are labels. None where there
    is nothing to count."""
    named = len(index.classes) or None
    return {"classes": named, "labels": named if "label" in index.fields else None}


def labels_of(value: Value) -> int:
    """The number of classes that samples of a prepared data set are labelled with; 0 without labels.

    What was prepared before there was ``labels`` has it under ``classes``.
    """
    return int(value["labels" if "labels" in value else "classes"] or 0)


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before an image is looked at."""

    fields: tuple[str, ...]
    labels: int  # classes that samples are labelled with; 0: unlabelled
    samples: dict[str, int]  # by split; broken ones are still among them


def facts_of(config: DataConfig) -> Facts | None:
    """What the source, or the index, says of a data set; None for shards of others until they have an index.

    Raises UserError for a source that cannot be read.
    """
    if config.source == PREPARED:
        url = absolute(config.url or "")
        if not Storage(url).exists(INDEX_NAME):
            return None
        index = limited(read_index_at(url), config.samples)
        fields, classes = tuple(index.fields), index.classes
        samples = {split: index.samples(split) for split in index.splits}
    else:
        source = _open(config.model_dump_json(), _content_of(config))
        fields, classes, samples = tuple(source.fields), source.classes, expected_samples(config)
    return Facts(fields, len(classes) if "label" in fields else 0, samples)


def expected_samples(config: DataConfig) -> dict[str, int]:
    """Samples per split, as far as can be known before an image is looked at: broken ones are still among them. Empty
    for shards that somebody else wrote, until they have an index."""
    if config.source == PREPARED:
        url = absolute(config.url or "")
        index = limited(read_index_at(url), config.samples) if Storage(url).exists(INDEX_NAME) else None
        return {split: index.samples(split) for split in index.splits} if index else {}
    return split_sizes(_open(config.model_dump_json(), _content_of(config)), config)


def _index_file(url: str, index: Index) -> str:
    """The index under the name that it keeps when the data set grows; ``index.json`` where it has no other."""
    storage = Storage(url)
    return storage.join(index_name(index) if storage.exists(index_name(index)) else INDEX_NAME)


def read_index_at(url: str, name: str = INDEX_NAME) -> Index:
    """The index of the data set at a folder or ``s3://`` place."""
    return parse_index(Storage(url).read_bytes(name), f"{url}/{name}")


def data_of(prepared: StepResult, size: int, session: Session) -> Value:
    """What `open_split` and who else reads a prepared data set, on any machine, is told of it."""
    told = {key: prepared.value[key] for key in ("url", "index_file")}
    labels = labels_of(prepared.value)  # those of boxes and masks are no classes to a network
    limit = {key: prepared.value[key] for key in ("limit",) if key in prepared.value}
    return told | limit | {"classes": labels, "size": size, "cache": str(session.folder("cache"))}


def open_split(data: Value, split: str, fields: Sequence[str]) -> ShardedDataset:
    """A split of a prepared data set. ``data``: ``url``, ``index_file`` (else the newest), ``size`` in pixels, the
    ``cache`` folder for remote shards; ``margin`` (else 0), by which pictures are larger than their window; and
    ``limit`` (else none), how many training samples are used."""
    index = open_index(data)
    fetch = fetcher(data["url"], index, Path(data["cache"]))
    return ShardedDataset(index, split, fetch, data["size"], fields, data.get("margin", 0))


def open_index(data: Value) -> Index:
    """The index of a prepared data set; ``data`` as for `open_split`."""
    place, _, name = data.get("index_file", f"{data['url']}/{INDEX_NAME}").rpartition("/")
    return limited(read_index_at(place, name), data.get("limit"))


def fetcher(url: str, index: Index, cache: Path) -> Callable[[str], Path]:
    """Shard name -> local file, compared with its sha256 in the index: as it lies in a folder (once per process), or
    downloaded once per machine."""
    entries = {entry.name: entry for entry in all_entries(index)}
    if is_remote(url):
        copies = Cache(url, cache)
        return lambda name: copies.fetch(name, entries[name].sha256)
    checked: set[str] = set()

    def check(name: str) -> Path:
        path = Path(url) / name
        if name not in checked:
            verify_shard(path, entries[name])
            checked.add(name)
        return path

    return check
