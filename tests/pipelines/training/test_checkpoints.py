"""Checkpoints in a folder and in a bucket: whole or not, and which is the newest."""

from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local import Server
from pipelines.training.checkpoints import Checkpoints
from tests.faults import Faults, Proxy

pytestmark = pytest.mark.xdist_group("s3")
FILES = {"state.pt": b"state", "encoder/encoder.safetensors": b"weights"}
Save = Callable[[int], None]


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    if request.param == "folder":
        return Checkpoints(str(tmp_path / "run"))
    request.getfixturevalue("s3")
    return Checkpoints(f"s3://shards/{tmp_path.name}/run")


@pytest.fixture
def save(place: Checkpoints, tmp_path: Path) -> Save:
    """Save a checkpoint whose files tell the step."""

    def call(step: int) -> None:
        for name, content in FILES.items():
            path = tmp_path / "made" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content * step)
        place.save(tmp_path / "made", step)

    return call


def newest(place: Checkpoints, into: Path) -> int | None:
    """The step of the newest whole checkpoint, whose files must be those of that step."""
    found = place.newest(into)
    if not found:
        return None
    step, folder = found
    assert {name: (folder / name).read_bytes() for name in FILES} == {k: v * step for k, v in FILES.items()}
    return step


def test_the_newest_is_found_and_the_last_two_stay(place: Checkpoints, save: Save, tmp_path: Path) -> None:
    assert newest(place, tmp_path / "into") is None
    for step in (4, 8, 12):
        save(step)
    assert newest(place, tmp_path / "into") == 12
    names = {name.split("/")[0] for name in place.storage.list()}
    assert names == {"checkpoint_000000008", "checkpoint_000000012"}
    assert (place.open(8, tmp_path / "other") / "state.pt").read_bytes() == b"state" * 8


@pytest.mark.parametrize("file", [*FILES, "files.json"])
@pytest.mark.parametrize("damage", ["gone", "short", "other"])
def test_one_that_lacks_anything_is_passed_over(
    place: Checkpoints, save: Save, tmp_path: Path, file: str, damage: str
) -> None:
    save(4)
    save(8)
    name = f"checkpoint_000000008/{file}"
    content = place.storage.read_bytes(name)
    place.storage.delete(name)
    if damage != "gone":
        place.storage.write_bytes(name, content[:-1] + (b"!" if damage == "other" else b""))
    assert newest(place, tmp_path / "into") == 4


def test_one_that_is_written_again_is_not_whole_meanwhile(
    place: Checkpoints, save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(4)
    save(8)
    with monkeypatch.context() as patched:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(place.storage, "upload", killed)
        with pytest.raises(KeyboardInterrupt):
            save(8)
    assert newest(place, tmp_path / "into") == 4


def test_a_file_that_arrives_short_is_fetched_again(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(s3.url, Faults(truncate="state.pt")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        place = Checkpoints(f"s3://shards/{tmp_path.name}")
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "state.pt").write_bytes(b"state" * 1000)
        place.save(tmp_path / "made", 4)
        found = place.newest(tmp_path / "into")
        assert found and (found[1] / "state.pt").read_bytes() == b"state" * 1000
        assert proxy.done["truncate"] == 1


def test_one_file_is_read_without_the_others(place: Checkpoints, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep asks every trial for its probes: a checkpoint may be gigabytes."""
    assert place.read_newest("state.pt") is None
    save(4)
    save(8)
    read: list[str] = []
    plain = place.storage.read_bytes

    def counted(name: str) -> bytes:
        read.append(name)
        return plain(name)

    monkeypatch.setattr(place.storage, "read_bytes", counted)
    monkeypatch.setattr(place.storage, "fetch", None)
    assert place.read_newest("state.pt") == b"state" * 8
    assert read == ["checkpoint_000000008/files.json", "checkpoint_000000008/state.pt"]
    assert place.read_newest("other.pt") is None


@pytest.mark.parametrize("damage", ["it", "its neighbour"])
def test_of_a_damaged_checkpoint_no_file_is_read(place: Checkpoints, save: Save, damage: str) -> None:
    save(4)
    save(8)
    if damage == "it":
        place.storage.write_bytes("checkpoint_000000008/state.pt", b"other")
    else:
        place.storage.delete("checkpoint_000000008/encoder/encoder.safetensors")
    assert place.read_newest("state.pt") == b"state" * 4
