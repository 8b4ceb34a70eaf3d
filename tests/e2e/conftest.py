"""Homes for whole jobs, which run in processes of their own: two at a time, for the group of sweeps and the others."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.__main__ import run
from tests.e2e.jobs import (
    DATA,
    MAIN_JOB,
    PRETRAIN,
    ROOT,
    STEPS,
    TRAINING,
    Home,
    check_every_sample_once,
    sets,
)

MakeHome = Callable[..., Home]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command in a home, within this process, that is refused before Ray starts; returns the one line it says."""
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def call(home: Home, *arguments: str) -> str:
        code = run([*arguments, "--home", str(home.folder)])
        out, err = capsys.readouterr()
        assert code == 2 and out == "" and err.count("\n") == 1, err
        return err

    return call


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the shards are there; to be copied, for a database and shards take seconds to make."""
    folder = tmp_path_factory.mktemp("prepared") / "home"
    done = Home(folder).run("prepare", "shapes", *sets(DATA), "--quiet")
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[MakeHome]:
    """Make homes that hold what ``like`` does (default: shards); ``root``: the source tree whose commands run there."""
    made: list[Home] = []

    def make(root: Path = ROOT, like: Path | None = None) -> Home:
        folder = tmp_path_factory.mktemp("home") / "home"
        shutil.copytree(like or prepared, folder)
        made.append(Home(folder, root))
        return made[-1]

    yield make
    for home in made:
        home.end()


@pytest.fixture(scope="session")
def main_job(new_home: MakeHome) -> tuple[Home, str]:
    """A home in which the main job has run, and what it printed."""
    home = new_home()
    done = home.run(*MAIN_JOB)
    assert done.code == 0, done.err
    return home, done.out


@pytest.fixture(scope="session")
def undisturbed(new_home: MakeHome) -> Home:
    """The home of a training that nobody disturbed."""
    home = new_home()
    assert home.run(*PRETRAIN, *sets(TRAINING)).last["value"]["steps"] == STEPS
    check_every_sample_once(home)
    assert all(len(rank) == STEPS for rank in home.lines())
    return home
