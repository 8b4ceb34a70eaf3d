"""Preparation over Ray: killed and continued, grown, healed, verified; and shards of others."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from components.config import DataConfig
from components.data.shards import INDEX_NAME, write_index
from components.errors import UserError
from infra.errors import OutsideError
from infra.storage import open_storage
from pipelines import prepare
from pipelines.data import raw_data, tar_indexing
from pipelines.data.opening import open_split, read_index_file
from pipelines.data.prepared import DataPlace, Prepared, place_of
from pipelines.data.verifying import verify
from pipelines.session import Session
from pipelines.steps.results import StepResult
from pipelines.workers.ray_tasks import in_parallel
from tests.components.data.test_growth import fill, grow, numbers_in, once, sums

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.fixture
def session(home: Path, empty_store: Path) -> Session:
    """A session in a home with an empty database."""
    home.mkdir()
    (home / "mlflow.db").write_bytes((empty_store / "mlflow.db").read_bytes())
    return Session(home, quiet=True)


def run(config: DataConfig, session: Session) -> StepResult[Prepared]:
    """Prepare as a new process would: what lies in the folder is looked at again."""
    raw_data._content.cache_clear()
    return prepare.prepare(config, session)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.tar")}


def test_it_grows_heals_and_is_verified(tmp_path: Path, session: Session) -> None:
    out = tmp_path / "out"
    config = fill(tmp_path / "raw", *range(50)).model_copy(update={"url": str(out)})
    first = run(config, session).value
    assert first.samples == {"train": 40, "val": 10}
    old, before = Path(first.index_file).read_bytes(), stamps(out)
    assert run(config, session).reused

    fill(tmp_path / "raw", *range(50, 75))
    second = run(config, session)
    assert not second.reused and second.value.samples == {"train": 60, "val": 15}
    after = stamps(out)
    assert {name: after[name] for name in before} == before and len(after) > len(before)
    assert Path(first.index_file).read_bytes() == old  # a training that began with it goes on with it
    assert len(open_split(place_of(first, 8, str(tmp_path)), "train", ("image",))) == 40
    assert len(open_split(DataPlace(str(out), f"{out}/index.json", 8, str(tmp_path)), "train", ("image",))) == 60
    assert numbers_in(out, read_index_file(second.value.index_file)) == once(75)

    found = {row["split"]: row for row in verify(str(out), 4, session)["rows"]}
    assert {split: (row["shards"], row["samples"]) for split, row in found.items()} == {
        "train": (6, 60),
        "val": (2, 15),
    }

    whole = sums(out)
    (out / "train-000004.tar").unlink()
    with pytest.raises(UserError, match=r"1 of 8 shards are damaged: train-000004.tar \(.* is missing"):
        verify(str(out), 4, session)
    assert run(config, session).reused and sums(out) == whole  # written again, as it was

    damaged = bytearray((out / "val-000000.tar").read_bytes())
    damaged[600] ^= 1
    (out / "val-000000.tar").write_bytes(damaged)
    with pytest.raises(UserError, match=r"1 of 8 shards are damaged: val-000000.tar \(.* differs from its sha256"):
        verify(str(out), 4, session)
    data = open_split(place_of(first, 8, str(tmp_path)), "val", ("image",))
    with pytest.raises(UserError, match=r"val-000000.tar differs from its sha256"):
        data.member(0, "image")


def test_one_that_was_cut_off_goes_on(tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    config = fill(tmp_path / "raw", *range(50)).model_copy(update={"url": str(out)})
    done: list[object] = []

    def cut_off(task: Any, work: Iterable[tuple[Any, ...]], flying: int) -> Iterator[object]:
        for result in in_parallel(task, work, flying):
            done.append(result)
            if len(done) == 3:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patched:
        patched.setattr(prepare, "in_parallel", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run(config, session)
    before = stamps(out)
    ray.shutdown()  # what is under way ends with it
    assert len(before) >= 3 and not (out / INDEX_NAME).exists()
    finished = {name: stamp for name, stamp in stamps(out).items() if (out / "records" / f"{name[:-4]}.json").exists()}
    # One more is as a machine leaves it that dies while it writes: its record says something else.
    torn = sorted(finished)[0]
    (out / torn).write_bytes((out / torn).read_bytes()[:-512])

    value = run(config, session).value
    after = stamps(out)
    kept = {name: stamp for name, stamp in finished.items() if name != torn}
    assert {name: after[name] for name in kept} == kept
    expected, _ = grow(config, tmp_path / "undisturbed")
    assert value.index == expected.fingerprint() and sums(out) == sums(tmp_path / "undisturbed")


def test_what_a_preparation_left_that_was_cut_off_is_cleared_away(tmp_path: Path, session: Session) -> None:
    out = tmp_path / "out"
    config = fill(tmp_path / "raw", *range(50)).model_copy(update={"url": str(out), "shard_samples": 5})
    run(config, session)
    for path in (out / INDEX_NAME, *out.glob("index-*.json")):
        path.unlink()
    larger = config.model_copy(update={"shard_samples": 10})
    index = read_index_file(run(larger, session).value.index_file)
    assert numbers_in(out, index) == once(50)
    listed = {entry.name for entries in index.splits.values() for entry in entries}
    assert {path.name for path in out.glob("*.tar")} == listed
    assert {path.stem for path in (out / "records").iterdir()} == {Path(name).stem for name in listed}


def test_plans_are_asked_for_as_they_are_needed() -> None:
    @ray.remote
    def double(value: int) -> int:
        return 2 * value

    asked = []

    def work() -> Iterator[tuple[int]]:
        for k in range(50):
            asked.append(k)
            yield (k,)

    results = []
    for result in in_parallel(double, work(), 4):
        results.append(result)
        assert len(asked) <= len(results) + 2 * 4
    assert sorted(results) == [2 * k for k in range(50)]


def test_tars_of_others_get_an_index(tmp_path: Path, session: Session) -> None:
    place = tmp_path / "theirs"
    grow(fill(tmp_path / "raw", *range(40)), place)  # tars without an index: nobody sees that they are our own
    config = DataConfig(source="shards", url=str(place))
    value = run(config, session).value
    assert value.samples == {"train": 32, "val": 8} and value.index_file.startswith(str(place))
    assert run(config, session).reused
    data = open_split(place_of(value, 8, str(tmp_path)), "train", ("image",))
    assert len(data) == 32 and data.member(0, "image")
    with pytest.raises(UserError, match=r"there is neither an index.json nor a tar"):
        run(DataConfig(source="shards", url=str(tmp_path / "raw")), session)


def test_samples_limit_shards_that_are_there(tmp_path: Path, session: Session) -> None:
    place = tmp_path / "ours"
    index, _ = grow(fill(tmp_path / "raw", *range(40)), place)
    write_index(index, place)
    config = DataConfig(source="shards", url=str(place))
    few = config.model_copy(update={"samples": 15})
    assert raw_data.expected_samples(few) == {"train": 15, "val": 8}
    whole = prepare.prepare_step(config)
    assert whole.config == {"url": str(place), "index": index.fingerprint()}  # known by what it was always known by
    assert prepare.prepare_step(config.model_copy(update={"samples": 32})).config == whole.config  # there are no more
    assert prepare.prepare_step(few).config == whole.config | {"limit": 15}
    result = run(few, session)
    assert result.value.samples == {"train": 15, "val": 8}
    told = place_of(result.value, 8, str(session.folder("cache")))
    train = open_split(told, "train", ("image",))
    assert len(train) == 15 and train.shard_sizes == [10, 5] and train.get(np.arange(15))["image"].shape[0] == 15
    assert len(open_split(told, "val", ("image",))) == 8
    for key, value in {"resize": 16, "encode": "jpeg", "validation": 0.3, "seed": 1, "splits": "classes"}.items():
        with pytest.raises(UserError, match=f"^data.{key}={value}: the shards of .* are there already"):
            prepare.prepare_step(config.model_copy(update={key: value}))
    prepare.prepare_step(config.model_copy(update={"validation": 0.2, "shard_samples": 10}))  # as they were made


def test_an_index_that_cannot_lie_beside_the_tars_lies_in_the_home(tmp_path: Path) -> None:
    index, _ = grow(fill(tmp_path / "raw", *range(20)), tmp_path / "out")
    (tmp_path / "file").write_bytes(b"")
    closed, home = open_storage(str(tmp_path / "file" / "inside")), open_storage(str(tmp_path / "home"))
    assert tar_indexing._keep(index, closed, home).startswith(str(tmp_path / "home"))
    with pytest.raises(OutsideError):
        tar_indexing._keep(index, closed, closed)


FULL = """
import resource, sys
from infra.errors import OutsideError
from components.config import DataConfig
from components.data.planning import plan_shards
from components.data.sources.base import open_source
from pipelines.data.shard_tasks import build
config = DataConfig(source="shapes", url=sys.argv[1])
plan = next(plan_shards(open_source(config), config))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    build._function(config, "", plan, sys.argv[1], False)
except OutsideError as error:
    print(error)
"""


def test_a_full_disk_is_said_and_nothing_half_written_stays(tmp_path: Path) -> None:
    """The limit of a process on the size of its files stands in for the disk."""
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", FULL, str(out)], capture_output=True, text=True, check=True)
    reason = os.strerror(errno.EFBIG)
    assert done.stdout == (
        f"cannot write train-000000.tar to {out} ({reason}): make room; then the same command goes on\n"
    )
    assert not list(out.iterdir())
