"""genoise data verify: every shard of a data set against its sha256, and some samples of each decoded."""

import tempfile
from pathlib import Path
from typing import Any

import ray

from components.data.shards import Index
from components.data.verify import ShardState, look_at, one_by_one
from components.errors import UserError, first_of
from infra.cluster import connect, cpus
from infra.errors import OutsideError
from infra.storage import absolute, is_remote, open_storage
from pipelines import terminal
from pipelines.data.opening import read_index_at
from pipelines.session import Session
from pipelines.workers.ray_tasks import in_parallel

SAMPLES = 16  # decoded of each shard
NAMED = 5  # damaged shards and broken samples named in one line
ATTEMPTS = 2  # a download may break; a damaged shard stays damaged


def verify(url: str, samples: int, session: Session) -> dict[str, Any]:
    """Look at every shard of the data set at ``url``, in parallel. Returns what was found, one row per split.

    Raises UserError, with the names of the shards, where anything is not as it should be.
    """
    url = absolute(url)
    shards = list(one_by_one(read_index_at(url)))
    connect(session.address)
    states: list[ShardState] = []
    with terminal.Watch(session.quiet) as watch:
        for state in in_parallel(_look, ((url, one, samples) for one in shards), 2 * cpus()):
            states.append(state)
            watch.update("verify", f"verify {url}", len(states), len(shards), "shards")
    check(states, url)
    return {"url": url, "rows": rows(states)}


def rows(states: list[ShardState]) -> list[dict[str, Any]]:
    """What was found, by split."""
    splits = dict.fromkeys(state.split for state in sorted(states, key=lambda state: state.name))
    return [
        {"split": split, "shards": len(mine), **{key: sum(getattr(s, key) for s in mine) for key in _SUMMED}}
        for split in splits
        for mine in [[state for state in states if state.split == split]]
    ]


_SUMMED = ("samples", "bytes", "decoded")


def check(states: list[ShardState], url: str) -> None:
    """Raise UserError where a shard is damaged, or a sample does not decode; names the first ones."""
    damaged = sorted(f"{state.name} ({state.problem})" for state in states if state.problem)
    broken = sorted(sample for state in states for sample in state.broken)
    found = [
        f"{len(bad)} of {total} {kind}: {first_of(bad, NAMED)}"
        for bad, total, kind in (
            (damaged, len(states), "shards are damaged"),
            (broken, len(broken) + sum(state.decoded for state in states), "samples that were tried do not decode"),
        )
        if bad
    ]
    if found:
        raise UserError(f"{url}: {'; '.join(found)}")


@ray.remote(num_cpus=1, max_retries=3)
def _look(url: str, one: Index, samples: int) -> ShardState:
    ((entry,),) = one.splits.values()
    if not is_remote(url):
        return look_at(one, Path(url) / entry.name, samples)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / entry.name
        state = look_at(one, path, samples)  # where it cannot be fetched, it is missing
        for _ in range(ATTEMPTS):
            try:
                open_storage(url).download(entry.name, path)
            except OutsideError as error:
                return state.model_copy(update={"problem": str(error)})
            state = look_at(one, path, samples)
            if state.problem is None:
                break
        return state
