"""source -> shards: one Ray task per shard, and an index that is written last.

A place that was named (``--to``) grows: what is new in the source becomes new shards, and an index of its own beside
the older ones, which stay; ``index.json`` is the newest. See docs/decisions/0008-data-sets-grow-by-generations.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from components.config import DataConfig
from components.data.cache import kept_cache
from components.data.labels import say_unseen
from components.data.planning import count_shards, count_vanished, cut_shards, plan_parts, revision_of_cut
from components.data.records import FOLDER, check_extends, name_of
from components.data.shards import INDEX_NAME, Index, ShardResult, build_index, index_name, limited
from components.data.sources.base import Source
from components.data.sources.listing import PassedOver
from components.errors import UserError
from components.keys import Role, keys_with
from infra.cluster import connect, cpus
from infra.storage import absolute, is_remote, open_storage
from pipelines import terminal
from pipelines.data.growing import drop, held_at, lost
from pipelines.data.opening import read_index_at, read_index_file
from pipelines.data.prepared import Prepared, classes_of, prepared_of
from pipelines.data.raw_data import PREPARED, content_of, open_raw, passed_over
from pipelines.data.shard_tasks import build, restore
from pipelines.data.tar_indexing import RULES, digest_of_tars, index_tars
from pipelines.session import Session
from pipelines.steps import scheduling
from pipelines.steps.results import Json, Results, StepResult
from pipelines.steps.step import Planned, Step, StepRun
from pipelines.steps.worker_log import Progress
from pipelines.workers.ray_tasks import in_parallel

VERSION = 2  # names the file of the index
LISTING = 2  # takes pictures by their content, and those in linked folders


def prepare(config: DataConfig, session: Session) -> StepResult[Prepared]:
    """Lay a source into shards; those of a data set that was finished before, and were lost, are written again.

    Raises UserError for a source that cannot be read or has too many broken images.
    """
    result = scheduling.run(prepare_step(config), session, f"prepare {config.source}")
    if result.reused and config.source != PREPARED:
        storage, index = open_storage(result.value.url), read_index_file(result.value.index_file)
        if lost(storage, index):
            connect(session.address)
            restore(open_raw(config), config, content_of(config), storage, index, terminal.note)
    if not result.value.says_labels:
        counted = classes_of(read_index_file(result.value.index_file))
        result = replace(result, value=Prepared.from_json(result.value.to_json() | counted))
    return result


def plan(config: DataConfig, session: Session) -> list[Planned]:
    """The step that `prepare` would run or reuse."""
    return scheduling.plan([prepare_step(config)], session)


def prepare_step(config: DataConfig) -> Step[Prepared]:
    """The step that lays a source into shards. Raises UserError for a source that cannot be read."""
    if config.source == PREPARED:
        return _open_step(config)
    content = content_of(config)
    source = open_raw(config, content)
    kept_where = {"url": absolute(config.url)} if config.url else {}
    revision = source.revision + revision_of_cut(source, config)
    _check_place(source, config)
    return Step(
        name="prepare",
        label=f"prepare {config.source}",
        version=VERSION,
        config={
            "data": config.model_dump(mode="json", exclude=keys_with(DataConfig, Role.PLACE)),
            "content": content,
            **kept_where,
            **({"revision": revision} if revision else {}),
            # Pictures that were once not taken; where there are none, what was prepared then is still right.
            **({"listing": LISTING} if passed_over(config, content).more else {}),
        },
        value=Prepared,
        body=lambda run, _: _write(source, config, content, run),
        params={"data": config.model_dump(mode="json")},
    )


def _check_place(source: Source, config: DataConfig) -> None:
    """UserError where a folder that was named holds another data set. A bucket is asked when it is written to."""
    if config.url and not is_remote(config.url) and (Path(config.url) / INDEX_NAME).is_file():
        check_extends(read_index_at(config.url), source, config, absolute(config.url))


def _open_step(config: DataConfig) -> Step[Prepared]:
    """The step for shards that are there already; where somebody else wrote them, it makes their index."""
    if config.url is None:
        raise UserError("data.source=shards needs the place of the shards: --set data.url=FOLDER or s3://bucket/prefix")
    url = absolute(config.url)
    index = read_index_at(url) if open_storage(url).exists(INDEX_NAME) else None
    _check_obeyed(config, index, url)
    used = limited(index, config.samples) if index else None
    limit = {} if used is index else {"limit": config.samples}
    if index:
        known: Json = {"index": index.fingerprint()} | limit
    else:
        known = {"tars": digest_of_tars(url), "cut": str(config.validation), "rules": RULES} | config.model_dump(
            include={"seed", "samples", "splits", "max_skipped"}, exclude_defaults=True
        )

    def body(run: StepRun, _: Results) -> Prepared:
        if index and used:
            value = prepared_of(url, used, _index_file(url, index), **limit)
        else:
            value = prepared_of(url, *index_tars(config, url, run))
        if config.options and config.options != (index.source.get("options") if index else None):
            run.say(f"data.options={config.options} says nothing to shards, which are used as they are")
        for line in say_unseen(value.unseen):
            run.say(line)
        return value

    return Step("prepare", "open shards", VERSION, {"url": url, **known}, Prepared, body)


def _check_obeyed(config: DataConfig, index: Index | None, url: str) -> None:
    """Raise UserError for a key that says how shards are made, where they are there already and were not made so.

    Options are another source's, of a recipe that is used with shards: they are said to be passed over.
    """
    made = index.source if index else {}
    fixed = keys_with(DataConfig, Role.LAID) | (keys_with(DataConfig, Role.CUT) if index else set())
    for key in sorted(fixed):
        value, usual = getattr(config, key), DataConfig.model_fields[key].default
        if value not in (usual, made.get(key)):
            raise UserError(
                f"data.{key}={value}: the shards of {url} are there already, and this cannot be done to them: leave it "
                "out, or prepare the images anew with it"
            )


def _write(source: Source, config: DataConfig, content: str, run: StepRun) -> Prepared:
    """The body of the step: write what is new, in parallel, then the index."""
    session = run.session
    url = absolute(config.url or str(session.folder("data") / f"{config.source}-{run.fingerprint[:12]}"))
    storage = open_storage(url)
    storage.check_writable()
    there = storage.list(FOLDER)  # of shards in the index, and some of a preparation that was cut off, perhaps
    held = held_at(storage, there)
    if held.index:
        check_extends(held.index, source, config, url)
        if gone := count_vanished(source, held.known):
            run.say(f"{gone} images of {url} are no longer in the source; they stay in its shards")
    parts = plan_parts(source, config, held.known)
    total = count_shards(parts, config)
    connect(session.address)
    cache = str(kept_cache())
    work = (
        (config, content, plan, url, name_of(plan) in there, cache)
        for plan in cut_shards(parts, source, config, held.known)
    )
    results: list[ShardResult] = []
    for result in in_parallel(build, work, 2 * cpus()):
        results.append(result)
        run.progress(Progress(len(results), total, "shards"))
    index = build_index(source, config, results, held.index)
    for name in there.keys() - held.records - {name_of(result) for result in results}:
        drop(storage, name)
    for name in (index_name(index), INDEX_NAME):  # the first of them stays when the data set grows
        storage.write_bytes(name, index.to_bytes())
    restore(source, config, content, storage, index, run.say)
    run.output(storage.join(index_name(index)))
    run.log_metrics(
        {f"samples/{split}": index.samples(split) for split in index.splits} | {"skipped": len(index.skipped)}
    )
    run.tracker.log_dict(run.run_id, index.model_dump(mode="json"), INDEX_NAME)
    passed = passed_over(config, content)
    value = prepared_of(url, index, storage.join(index_name(index)), passed_over=passed.facts())
    for line in _notes(source, passed, index, value):
        run.say(line)
    return value


def _notes(source: Source, passed: PassedOver, index: Index, value: Prepared) -> Iterator[str]:
    """What a person has to know of what was left out."""
    if source.left_out:
        named = ", ".join(f"{folder} ({count})" for folder, count in list(source.left_out.items())[:10])
        more = f" and {len(source.left_out) - 10} folders more" * (len(source.left_out) > 10)
        yield f"{sum(source.left_out.values())} images are of no split and were left out: {named}{more}"
    if passed.counts:
        yield f"{sum(passed.counts.values())} files were passed over: {passed.in_words()}"
    if index.skipped:
        named = ", ".join(f"{skip.name} ({skip.reason})" for skip in index.skipped[:5])
        yield f"{len(index.skipped)} broken images were skipped: {named}; all are named in {value.url}/{INDEX_NAME}"
    yield from say_unseen(value.unseen)


def _index_file(url: str, index: Index) -> str:
    """The index under the name that it keeps when the data set grows; ``index.json`` where it has no other."""
    storage = open_storage(url)
    return storage.join(index_name(index) if storage.exists(index_name(index)) else INDEX_NAME)
