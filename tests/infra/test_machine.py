"""How many cores a process has: of the machine, of its affinity, of its container."""

from pathlib import Path

import pytest

from infra.machine import cores


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is bound to eight cores."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(("share", "fit"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("", 8)])
def test_a_container_has_its_share(tmp_path: Path, share: str, fit: int) -> None:
    (tmp_path / "cpu.max").write_text(share)
    assert cores(tmp_path) == fit


@pytest.mark.parametrize(("quota", "fit"), [(-1, 8), (150_000, 2), (1_600_000, 8)])
def test_a_container_of_the_older_kind(tmp_path: Path, quota: int, fit: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path) == fit


def test_without_a_container(tmp_path: Path) -> None:
    assert cores(tmp_path / "none") == 8
