"""Checkpoints on disk: whole or not, and which is the newest."""

from pathlib import Path

import pytest

from pipelines.checkpoints import keep_newest, seal, step_of


def checkpoint(folder: Path, name: str, step: int) -> Path:
    """A checkpoint as Ray Train leaves it: files, some in a folder, under a name with the time."""
    path = folder / f"checkpoint_{name}"
    (path / "encoder").mkdir(parents=True)
    (path / "state.pt").write_bytes(b"state" * step)
    (path / "encoder" / "encoder.safetensors").write_bytes(b"weights" * step)
    seal(path, step)
    return path


def test_a_sealed_checkpoint_is_whole(tmp_path: Path) -> None:
    assert step_of(checkpoint(tmp_path, "a", 12)) == 12


@pytest.mark.parametrize("file", ["state.pt", "encoder/encoder.safetensors", "files.json"])
@pytest.mark.parametrize("damage", ["gone", "short", "other"])
def test_a_checkpoint_that_lacks_anything_is_not(tmp_path: Path, file: str, damage: str) -> None:
    path = checkpoint(tmp_path, "a", 12) / file
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-1] + (b"!" if damage == "other" else b""))
    assert step_of(path.parents[file.count("/")]) is None


def test_the_newest_is_the_furthest_that_is_whole(tmp_path: Path) -> None:
    checkpoint(tmp_path, "2026-01-03", 4)
    best = checkpoint(tmp_path, "2026-01-02", 8)
    (checkpoint(tmp_path, "2026-01-04", 12) / "state.pt").write_bytes(b"half")
    (tmp_path / "checkpoint_2026-01-05").mkdir()  # begun, and nothing written yet
    assert keep_newest(tmp_path) == (8, best)


def test_nothing_else_stays_that_could_be_taken_for_one(tmp_path: Path) -> None:
    best = checkpoint(tmp_path, "b", 8)
    checkpoint(tmp_path, "a", 4)
    (tmp_path / "checkpoint_manager_snapshot.json").write_text('{"half')
    (tmp_path / "ids").mkdir()
    keep_newest(tmp_path)
    assert sorted(tmp_path.iterdir()) == [best, tmp_path / "ids"]
    assert step_of(best) == 8


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert keep_newest(tmp_path) is None
    assert keep_newest(tmp_path / "missing") is None
