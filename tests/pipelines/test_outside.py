"""Places that cannot be written, odd names of homes, and machines that are too small: one line each, or it works."""

import errno
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from infra.errors import OutsideError
from infra.tracking import open_tracker
from pipelines.__main__ import run
from pipelines.recipes import DEMO, demo_settings, load_recipes
from pipelines.session import Session

Refused = Callable[..., str]
SMALL = ["--set", "data.samples=512"]
really_and_dry = pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry run"])
each_training = pytest.mark.parametrize(
    "command", [["pretrain", "rotation"], ["table", "random", "rotation"], ["sweep", "bigan"]]
)


@pytest.fixture
def refused(home: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that is refused before anything is written; returns the one line that it says."""

    def call(*arguments: str) -> str:
        code = run(arguments)
        out, err = capsys.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert not home.exists()
        return err

    return call


# Homes that cannot be


@really_and_dry
@pytest.mark.parametrize("below", ["", "sub/sub"])
@pytest.mark.parametrize("command", [["prepare", "shapes"], ["pretrain", "rotation"], ["table", "rotation"]])
def test_a_home_at_or_below_a_file(
    refused: Refused, tmp_path: Path, command: list[str], below: str, more: list[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    said = refused(*command, *SMALL, *more, "--home", str(tmp_path / "file" / below))
    assert f"{tmp_path}/file is no folder: choose another --home" in said
    assert (tmp_path / "file").read_text() == "mine"


def test_a_home_where_no_folder_can_be_made(refused: Refused) -> None:
    assert "cannot write into /proc/genoise" in refused("prepare", "shapes", *SMALL, "--home", "/proc/genoise")


def test_a_home_without_permission(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # a test may run as root, who may do all
    said = refused("prepare", "shapes", *SMALL, "--dry-run", "--home", str(tmp_path / "new"))
    assert f"cannot write into {tmp_path}: choose another --home" in said


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_home_on_a_disk_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", fault(number, tmp_path))
    with pytest.raises(OutsideError, match=rf"{os.strerror(number)}\): choose another --home$"):
        Session(tmp_path).make_home()


def test_a_home_whose_database_is_none(tmp_path: Path) -> None:
    """MLflow would try for two minutes."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "mlflow.db").write_bytes(b"no database" * 1000)
    (tmp_path / "folder" / "mlflow.db").mkdir(parents=True)
    for home in (tmp_path / "text", tmp_path / "folder"):
        with pytest.raises(OutsideError, match=f"cannot use the tracking database {home}/mlflow.db: "):
            open_tracker(home).check()


def test_a_database_that_finds_no_room(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own limit on the size of a file stands in for the disk."""
    (tmp_path / "mlflow.db").write_bytes((empty_store / "mlflow.db").read_bytes())
    tracker = open_tracker(tmp_path)
    tracker.check()
    store = tracker.client._tracking_client.store
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")  # the one connection of the pool
    with pytest.raises(OutsideError, match=r"mlflow\.db: database or disk is full; choose another --home$"):
        for _ in range(200):
            tracker.start_run("x", params={"text": "x" * 5000})


# What any other place may refuse


def fault(number: int, file: Path | None = None) -> Callable[..., NoReturn]:
    """A function that fails as the system does, with or without the name of a file."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number), *([str(file)] if file else []))

    return fail


@pytest.mark.parametrize("file", [None, Path("/far/away")], ids=["unnamed", "named"])
def test_a_full_disk_is_one_line(refused: Refused, monkeypatch: pytest.MonkeyPatch, file: Path | None) -> None:
    monkeypatch.setattr("pipelines.steps.scheduling.run", fault(errno.ENOSPC, file))
    said = refused("prepare", "shapes", *SMALL)
    assert f"cannot use {file or 'a file'} (No space left on device): make room there" in said


def test_a_mistake_of_the_program_keeps_its_traceback(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (ValueError("x"), ConnectionResetError(errno.ECONNRESET, "reset"), FileNotFoundError("nothing")):

        def fail(*_: object, error: Exception = error) -> NoReturn:
            raise error

        monkeypatch.setattr("pipelines.steps.scheduling.run", fail)
        with pytest.raises(type(error)):
            run(["prepare", "shapes", *SMALL])


def test_a_picture_where_none_can_be_written(refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(
        "pipelines.data.contact_sheet.show", lambda url, split, count, to, cache: to.parent.mkdir(parents=True)
    )
    said = refused("data", "show", "s3://shards/x", "--to", str(tmp_path / "file" / "sheet.png"))
    assert f"cannot use {tmp_path}/file (" in said


# Homes with odd names

ODD = ["a?b", "a?c", "50%20x", "50 x", "a#b", "%41", "a b:c;d&e+é☃"]


def test_odd_homes_have_a_database_and_files_of_their_own(tmp_path: Path, empty_store: Path) -> None:
    for name in ODD:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mlflow.db").write_bytes((empty_store / "mlflow.db").read_bytes())
    (tmp_path / "file").write_text("text of a file")
    for name in ODD:
        tracker = open_tracker(tmp_path / name, experiment=name)
        assert tracker.exists()
        run_id = tracker.start_run(f"run of {name}")
        tracker.log_text(run_id, f"text of {name}", "sub/note.txt")
        tracker.log_artifacts(run_id, tmp_path / "file")
        model = tracker.models.log_encoder(run_id, encoder(tmp_path / "encoder"))
        assert [each.name for each in tracker.search({}, "RUNNING")] == [f"run of {name}"]
        assert tracker.read_text(run_id, "sub/note.txt") == f"text of {name}"
        assert tracker.read_text(run_id, "file") == "text of a file"
        assert (
            tracker.models.fetch_encoder(f"models:/{model}", tmp_path / "cache") / "config.json"
        ).read_text() == "{}"
    assert {path.name for path in tmp_path.iterdir()} == {*ODD, "file", "encoder"}  # nothing beside them
    for name in ODD:
        files = {path.relative_to(tmp_path / name).parts[0] for path in (tmp_path / name).rglob("*")}
        assert files == {"mlflow.db", "mlflow.db.lock", "mlartifacts"}


def encoder(folder: Path) -> Path:
    """A folder that looks like that of an encoder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    return folder


# Machines that are too small


@really_and_dry
@each_training
def test_more_workers_than_cores(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, command: list[str], more: list[str]
) -> None:
    monkeypatch.setattr("infra.machine.cores", lambda: 6)
    said = refused(*command, *more, "--set", "training.workers=8", "--set", "training.batch=64")
    assert "needs 8 cores (8 workers x 1) and this machine has 6: --set training.workers=6 fits" in said
    said = refused(*command, *more, "--set", "training.workers=4", "--set", "training.cpus=2")
    assert "needs 8 cores (4 workers x 2) and this machine has 6: --set training.workers=3 fits" in said
    said = refused(*command, *more, "--set", "training.cpus=16")
    assert "this machine has 6: --set training.cpus=6 with one worker fits" in said


@really_and_dry
@each_training
def test_more_workers_than_gpus(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, command: list[str], more: list[str]
) -> None:
    monkeypatch.setattr("infra.machine.cores", lambda: 16)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    said = refused(*command, *more, "--set", "training.workers=4", "--set", "training.batch=64")
    assert "a GPU for each of 4 workers and this machine has 2: --set training.workers=2, or --address" in said


@really_and_dry
@pytest.mark.parametrize("share", ["0", "-1", "1.5", "all", "true", "null"])
@pytest.mark.parametrize("command", ["pretrain", "table", "sweep"])
def test_what_is_no_share_of_a_gpu(refused: Refused, command: str, share: str, more: list[str]) -> None:
    said = refused(command, "autoencoder", *more, "--set", f"training.gpus={share}")
    assert said.startswith("genoise: error: training.gpus: must be above 0 and at most 1, a worker's share of one GPU")


# Machines that cannot compile


@really_and_dry
@pytest.mark.parametrize(
    "command",
    [
        ["pretrain", "rotation", "--set", "training.compile=true"],
        ["table", "random", "rotation", "--set", "training.compile=true"],
        ["sweep", "bigan", "--set", "training.compile=true"],
        ["sweep", "bigan", "--set", "search={training.compile: [false, true]}"],
    ],
)
def test_a_machine_without_a_compiler(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, command: list[str], more: list[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = refused(*command, *more)
    assert "training.compile needs a C++ compiler that finds Python.h on this machine: no-such-compiler does" in said


def test_a_gpu_without_triton(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "triton" else find(name, *more))
    said = refused("pretrain", "rotation", "--set", "training.compile=true")
    assert "training.compile needs Triton on this machine: install" in said


def test_who_does_not_compile_needs_no_compiler_and_a_cluster_has_its_own(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    command = ["pretrain", "rotation", "--dry-run", "--set"]
    assert run([*command, "training.compile=false"]) == 0
    assert run([*command, "training.compile=true", "--address", "10.0.0.1:6379"]) == 0
    assert run([*command, "training.compile=true"]) == 2


def test_as_many_workers_as_cores_and_as_a_cluster_may_have(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("infra.machine.cores", lambda: 4)
    command = ["pretrain", "rotation", "--dry-run", "--set", "training.batch=64"]
    assert run([*command, "--set", "training.workers=4"]) == 0
    assert run([*command, "--set", "training.workers=8", "--address", "10.0.0.1:6379"]) == 0
    assert run([*command, "--set", "training.workers=8", "--address", "local"]) == 2
    assert "this machine has 4" in capsys.readouterr().err


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (64, 2)])
def test_the_demo_fits_onto_the_machine(cores: int, workers: int) -> None:
    assert {row.training.workers for row in load_recipes(DEMO, demo_settings(cores))} == {workers}


def test_the_demo_runs_on_one_core(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("infra.machine.cores", lambda: 1)
    assert run(["demo", "--dry-run"]) == 0, capsys.readouterr().err


def test_an_address_that_is_refused_is_not_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrain", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "ray://" not in said and "HOST:6379" in said


# Faults of other processes


def test_a_training_that_loses_its_workers_is_one_line() -> None:
    from pipelines.training import training_run
    from pipelines.workers.groups import Lost

    def lose(*_: object) -> NoReturn:
        raise Lost

    job: Any = None  # it is only handed on
    run: Any = SimpleNamespace(groups=SimpleNamespace(everywhere=lose))
    recipe = load_recipes(["rotation"], ["training.max_failures=2"])[0]
    with pytest.MonkeyPatch.context() as fault, pytest.raises(OutsideError, match="training lost a worker 3 times"):
        fault.setattr(training_run, "_shape", lambda *_: None)
        training_run._fit(recipe, job, run)


def test_a_full_disk_of_a_remote_task_is_one_line(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import RayTaskError

    remote: Any = RayTaskError  # Ray leaves it without types
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/0.tar")

    def fail(*_: object) -> NoReturn:
        raise remote("f", "a long\ntraceback", full).as_instanceof_cause()

    monkeypatch.setattr("pipelines.steps.scheduling.run", fail)
    assert "cannot use /cache/0.tar (No space left on device)" in refused("prepare", "shapes", *SMALL)
