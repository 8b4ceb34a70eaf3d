"""Tars that somebody else wrote: looked into in parallel, once, and listed in an index like that of our own."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import ray

from components.config import DataConfig
from components.data.foreign_tars import NAME, TarFacts, index_of, look_into
from components.data.records import all_entries
from components.data.shards import INDEX_NAME, Index, index_name
from components.errors import UserError, first_of
from infra.cluster import connect, cpus
from infra.errors import OutsideError
from infra.storage import Cache, Storage, open_storage
from pipelines.steps.step import StepRun
from pipelines.steps.worker_log import Progress
from pipelines.workers.ray_tasks import in_parallel

RULES = 3  # changes with whatever makes another index of the same tars
NAMED = 5  # tars named in a line
_LIKE_A_TAR = re.compile(r"\.(tar(\.[a-z0-9]{1,4})?|tgz)$", re.IGNORECASE)


def digest_of_tars(url: str) -> str:
    """The names and sizes of the tars at a place, in one text. Raises UserError as `_tars` does."""
    return hashlib.sha256(repr(_tars(url)[0]).encode()).hexdigest()


def _tars(url: str) -> tuple[dict[str, int], list[str]]:
    """({tar: size}, what looks like tars and is not taken: compressed, hidden, or in a folder below).

    Raises UserError when there is no tar, and for one with a name that a shard cannot have.
    """
    storage = open_storage(url)
    storage.check_readable()
    there = storage.list()
    found = {name: size for name, size in there.items() if NAME.fullmatch(name)}
    others = [name for name in there if name not in found and _LIKE_A_TAR.search(name)]
    wrong = [name for name in others if "/" not in name and name[0] != "." and name.lower().endswith(".tar")]
    if wrong:
        raise UserError(
            f"{url}: {first_of(wrong, NAMED)} cannot be a shard's name: rename to letters, digits, '.', '_' and '-', "
            "a letter or digit first and '.tar' last"
        )
    if not found:
        seen = f" ({first_of(others, NAMED)}: compressed tars, and folders below, are not read)" if others else ""
        raise UserError(f"no data set in {url}: there is neither an {INDEX_NAME} nor a tar{seen}; correct the place")
    return found, others


def index_tars(config: DataConfig, url: str, run: StepRun) -> tuple[Index, str]:
    """The index of the tars at ``url``, and its file: beside them, or in the home where they cannot be written to."""
    session = run.session
    tars, others = _tars(url)
    connect(session.address)
    facts: list[TarFacts] = []
    work = ((url, name, str(session.folder("cache"))) for name in tars)
    for fact in in_parallel(_look, work, 2 * cpus()):
        facts.append(fact)
        run.progress(Progress(len(facts), len(tars), "tars"))
    index = index_of(facts, config, url)
    file = _keep(index, open_storage(url), open_storage(str(session.folder("data"))))
    run.output(file)
    run.say(f"{len(tars)} tars of others: the fields are {_shown(index)}; the index is {file}")
    for line in _notes(facts, index, others):
        run.say(line)
    return index, file


def _keep(index: Index, place: Storage, home: Storage) -> str:
    """Write the index; where it went."""
    name = index_name(index)
    for storage in (place, home):
        try:
            storage.write_bytes(name, index.to_bytes())
            return storage.join(name)
        except OutsideError:
            if storage is home:
                raise
    raise AssertionError("unreachable: the home is written or raises")


def _notes(facts: Sequence[TarFacts], index: Index, others: Sequence[str]) -> Iterator[str]:
    """What was done with the tars that nobody asked for in so many words."""
    used = {entry.name for entry in all_entries(index)}
    if left := sorted(fact.entry.name for fact in facts if fact.entry.name not in used):
        yield f"{len(left)} of {len(facts)} tars are left out: {first_of(left, NAMED)}"
    if others:
        yield f"compressed tars, hidden ones, and those in folders below, are not read: {first_of(others, NAMED)}"
    if passed_over := sum(fact.passed_over for fact in facts):
        names = [fact.entry.name for fact in facts if fact.passed_over]
        yield f"{passed_over} members are hidden or have no extension, and are passed over, in {first_of(names, NAMED)}"
    if any(entry.part for entry in index.splits["val"]):
        yield f"no tar is of the validation split: {index.samples('val')} samples were held back, a part of every class"


def _shown(index: Index) -> str:
    return ", ".join(f"{field} ({extensions})" for field, extensions in index.fields.items())


@ray.remote(num_cpus=1, max_retries=3)
def _look(url: str, name: str, cache: str) -> TarFacts:
    return look_into(Cache(url, Path(cache)).fetch(name), name)
