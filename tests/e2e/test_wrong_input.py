"""Wrong input, typed: one line on stderr, exit code 2, and nothing that is half written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.config import EncoderConfig
from components.networks.encoder import build_encoder, save_encoder
from pipelines.__main__ import run
from tests.e2e.jobs import TINY, Home, sets

NOBODY = "http://127.0.0.1:9"  # the discard port: nobody answers there
Said = Callable[..., str]


@pytest.fixture
def error(home: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """Run a command line that is refused before anything is written; returns the one line that it says."""

    def call(*arguments: str) -> str:
        code = run(arguments)
        out, err = capsys.readouterr()
        assert code == 2 and out == ""
        assert not [path for path in home.rglob("*") if path.is_file()]
        return one_line(err)

    return call


def one_line(err: str) -> str:
    assert err.count("\n") == 1 and err.startswith("genoise: error: "), err
    return err.removeprefix("genoise: error: ").rstrip()


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """The folder of an encoder."""
    save_encoder(build_encoder(EncoderConfig(width=8)), tmp_path / "encoder")
    return tmp_path / "encoder"


def photos(folder: Path, whole: int, broken: int) -> Path:
    """A folder of images of which some are cut off."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    for k in range(whole + broken):
        path = folder / f"{k:03d}.png"
        Image.fromarray(draws.integers(0, 256, (40, 48, 3), np.uint8)).save(path)
        if k < broken:
            path.write_bytes(path.read_bytes()[:200])
    return folder


def test_a_layer_that_the_encoder_does_not_have(error: Said, encoder: Path) -> None:
    said = error("transfer", "--encoder", str(encoder), "--set", "benchmark.layers=[conv9]")
    assert "unknown layer of alexnet 'conv9': did you mean 'conv5'?" in said


def test_an_encoder_that_is_not_there(error: Said, tmp_path: Path) -> None:
    assert f"no encoder at {tmp_path}/nowhere" in error("transfer", "--encoder", f"{tmp_path}/nowhere")


@pytest.mark.parametrize("command", ["pretrain", "table"])
def test_fewer_samples_than_a_global_batch(error: Said, command: str) -> None:
    said = error(command, "rotation", "--set", "data.samples=20", "--set", "training.batch=32")
    assert "20 samples, fewer than one global batch of 32" in said and "--set training.batch=20" in said


def test_workers_among_whom_a_step_cannot_be_divided(error: Said) -> None:
    said = error("pretrain", "rotation", *sets({**TINY, "training.workers": 40}))
    assert "a step of 32 samples cannot be divided among 40 workers" in said and "--set training.batch=80" in said


def test_an_empty_folder(error: Said, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = f"no images in {tmp_path}/empty"
    assert said in error("prepare", "folder", "--root", f"{tmp_path}/empty")
    assert said in error("table", "rotation", *sets({"data.source": "folder", "data.root": f"{tmp_path}/empty"}))


def test_shards_without_their_place(error: Said) -> None:
    assert "--set data.url=FOLDER or s3://bucket/prefix" in error("prepare", "shards")
    assert "--set data.url=FOLDER or s3://bucket/prefix" in error("pretrain", "rotation", "--set", "data.source=shards")


def test_shards_that_are_not_there(error: Said, tmp_path: Path) -> None:
    assert str(tmp_path) in error("prepare", "shards", "--to", str(tmp_path))


def test_a_tracking_server_that_does_not_answer(error: Said) -> None:
    said = error("pretrain", "rotation", *sets(TINY), "--tracking-uri", NOBODY)
    assert f"tracking server {NOBODY} does not answer" in said and "MLFLOW_TRACKING_URI" in said


@pytest.mark.distributed
@pytest.mark.xdist_group("ray")
def test_a_bucket_that_does_not_answer(new_home: Callable[..., Home]) -> None:
    home = new_home()
    known = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": NOBODY}
    done = home.run("prepare", "shapes", "--to", "s3://bucket/shapes", "--quiet", environment=known)
    assert done.code == 2 and done.out == ""
    assert "s3://bucket" in one_line(done.err) and NOBODY in done.err
    assert home.runs()[-1].info.status == "FAILED"


@pytest.mark.distributed
@pytest.mark.xdist_group("ray")
def test_too_many_broken_images(new_home: Callable[..., Home], tmp_path: Path) -> None:
    home, folder = new_home(), photos(tmp_path / "photos", whole=30, broken=6)
    to = tmp_path / "shards"
    command = ["prepare", "folder", "--root", str(folder), "--to", str(to), "--quiet", "--json"]
    done = home.run(*command)
    assert done.code == 2 and done.out == ""
    said = one_line(done.err)
    assert "6 of 36" in said and "000.png" in said and "data.max_skipped" in said
    assert not (to / "index.json").exists()  # without it, there is no data set

    value = home.run(*command, "--set", "data.max_skipped=0.2").last["value"]
    assert value["skipped_count"] == 6 and sum(value["samples"].values()) == 30
    assert {skip["name"] for skip in value["skipped"]} == {f"{k:03d}.png" for k in range(6)}
