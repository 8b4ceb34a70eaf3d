"""A dry run writes nothing: neither home nor cache nor the folder in which it is called."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.data import cache
from pipelines.__main__ import run
from pipelines.data import raw_data
from pipelines.session import Session

DATA = ["--set", "data.source=folder", "--set", "data.root={}", "--set", "training.batch=4"]


def snapshot(top: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for folder, folders, names in os.walk(top):
        for name in (*folders, *names):
            state = (Path(folder) / name).lstat()
            found[f"{folder}/{name}"] = (state.st_size, state.st_mtime_ns)
    return found


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Ten pictures of two classes in a tar."""
    path = tmp_path / "raw.tar"
    with tarfile.open(path, "w") as tar:
        for k in range(10):
            buffer = io.BytesIO()
            Image.fromarray(np.full((32, 32, 3), 20 * k, np.uint8)).save(buffer, "PNG")
            info = tarfile.TarInfo(f"{'ab'[k % 2]}/{k}.png")
            info.size = len(buffer.getvalue())
            tar.addfile(info, io.BytesIO(buffer.getvalue()))
    return path


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "folder", "--root", "{}"],
        ["prepare", "cifar10"],
        ["pretrain", "rotation", *DATA],
        ["table", "random", "rotation", *DATA],
        ["sweep", "bigan", "--trials", "2", *DATA],
    ],
    ids=["prepare", "download", "pretrain", "table", "sweep"],
)
def test_a_dry_run_leaves_everything_as_it_is(
    tmp_path: Path,
    archive: Path,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("GENOISE_HOME", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    raw_data._listed.cache_clear()
    before = snapshot(tmp_path)
    code = run([word.format(archive) for word in command] + ["--home", str(tmp_path / "home"), "--dry-run"])
    assert code == 0, capsys.readouterr().err
    assert "would" in capsys.readouterr().out
    assert snapshot(tmp_path) == before


def test_a_dry_run_leaves_a_home_that_is_there_as_it_is(
    tmp_path: Path, archive: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(empty_store, tmp_path / "home")
    raw_data._listed.cache_clear()
    before = snapshot(tmp_path)
    assert run(["prepare", "folder", "--root", str(archive), "--home", str(tmp_path / "home"), "--dry-run"]) == 0
    assert snapshot(tmp_path) == before


def test_the_cache_of_a_session_lies_in_its_home(tmp_path: Path, archive: Path) -> None:
    Session(tmp_path / "home")
    assert cache.cache_folder("folder") == tmp_path / "home" / "cache" / "folder"
    assert Session(tmp_path / "home").folder("cache") == tmp_path / "home" / "cache"
    dry = Session(tmp_path / "other", dry_run=True)
    assert not dry.folder("cache").is_relative_to(tmp_path) and not (tmp_path / "other").exists()


def test_a_home_that_is_not_utf8_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prepare", "shapes", "--home", str(tmp_path / "h\udce9"), "--dry-run"]) == 2
    assert "this name is not UTF-8: choose another --home" in capsys.readouterr().err
    assert run(["prepare", "folder", "--root", str(tmp_path / "r\udce9"), "--home", str(tmp_path), "--dry-run"]) == 2
    assert "data.root: this name is not UTF-8: rename it, or use a link" in capsys.readouterr().err


def test_a_file_that_goes_while_a_folder_is_read_is_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"0")
    before = raw_data._content(str(tmp_path))
    raw_data._content.cache_clear()
    monkeypatch.setattr(raw_data, "files_of", lambda top: [top / "a.png", top / "gone.png"])
    assert raw_data._content(str(tmp_path)) == before


def test_the_content_of_a_folder_knows_linked_folders_and_any_name(tmp_path: Path) -> None:
    raw, outside = tmp_path / "raw", tmp_path / "outside"
    raw.mkdir()
    outside.mkdir()
    (raw / "caf\udce9.png").write_bytes(b"1")
    (raw / "linked").symlink_to(outside)
    before = raw_data._content(str(raw))
    raw_data._content.cache_clear()
    assert raw_data._content(str(raw)) == before
    (outside / "new.png").write_bytes(b"2")
    raw_data._content.cache_clear()
    assert raw_data._content(str(raw)) != before
