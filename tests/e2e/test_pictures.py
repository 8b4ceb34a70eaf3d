"""From a trained run to its pictures: measured, with its report in MLflow, and made of a folder of images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.storage import sha256_of
from infra.tracking import open_tracker
from tests.e2e.jobs import TINY, Home, sets

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("ray"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def trained(new_home: Callable[..., Home], main_job: tuple[Home, str]) -> tuple[Home, str]:
    """A home with a trained context encoder and a trained classifier, and the URI of the first one's encoder."""
    home = new_home(like=main_job[0].folder)
    return home, f"runs:/{home.step_run('pretrain context_encoder').info.run_id}/encoder"


def test_pictures_are_measured_once(trained: tuple[Home, str]) -> None:
    home, run = trained
    settings = sets({**TINY, "training.epochs": 0})
    grey = home.run("pretrain", "colorization", *settings, "--json", "--quiet").last["value"]["encoder"]
    command = ["measure", "--run", run, "--extractor", grey, "--layer", "conv2", "--json"]
    planned = home.run(*command, "--dry-run").last["steps"]
    assert [(step["step"], step["would"]) for step in planned] == [("prepare", "be reused"), ("measure", "run")]
    done = home.run(*command)
    result = done.last
    assert not result["reused"] and "does not see colours" in done.err
    assert result["value"]["values"].keys() == {"prediction", "input"}
    for values in result["value"]["values"].values():
        assert values.keys() == {"l1", "psnr", "ssim", "frechet", "kernel", "kernel_error"}
        assert 0 < values["ssim"] < 1 and values["psnr"] > 5
    weights = open_tracker(home.folder).models.fetch_encoder(grey, home.folder / "cache") / "encoder.safetensors"
    extractor = result["value"]["protocol"]["extractor"]
    assert (extractor["layer"], extractor["sha256"]) == ("conv2", sha256_of(weights))
    files = {file.path for file in home.client().list_artifacts(result["run_id"])}
    pictures = [file.path for file in home.client().list_artifacts(result["run_id"], "images")]
    assert "pictures.json" in files and {path.split("/")[1].split("+")[0] for path in pictures} == {"first", "worst"}
    metrics = home.client().get_run(result["run_id"]).data.metrics
    assert metrics["val/prediction/psnr"] == pytest.approx(result["value"]["values"]["prediction"]["psnr"])
    again = home.run(*command).last
    assert again["reused"] and again["run_id"] == result["run_id"]


def test_a_classifier_of_ours_judges_classes(trained: tuple[Home, str]) -> None:
    home, run = trained
    classifier = f"runs:/{home.step_run('pretrain supervised').info.run_id}"
    value = home.run("measure", "--run", run, "--classifier", classifier, "--json").last["value"]
    assert value["values"].keys() == {"prediction", "input", "real"}
    assert all({"classified", "diversity"} <= values.keys() for values in value["values"].values())
    assert value["values"]["real"]["diversity"] == pytest.approx(1.0)
    assert value["protocol"]["classifier"]["encoder"]["width"] == TINY["encoder.width"]


def test_pictures_are_made_of_images(trained: tuple[Home, str], tmp_path: Path) -> None:
    home, run = trained
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "a.jpg")
    command = ["generate", "--run", run, "--images", str(tmp_path / "images"), "--to", str(tmp_path / "out"), "--json"]
    assert home.run(*command).last["made"] == 1
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.size == (70, 50)
    again = home.run(*command)
    assert again.code == 2 and again.err.count("\n") == 1 and "--overwrite" in again.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--run", "nowhere"], "no trained task at nowhere"),
        (["--run", "runs:/0123"], "not found"),
        (["--run", "RUN", "--extractor", "nowhere"], "no encoder at nowhere"),
        (["--run", "RUN", "--extractor", "RUN", "--layer", "conv9"], "layer of alexnet 'conv9'"),
        (["--run", "RUN", "--extractor", "RUN", "--samples", "19"], "at least 20 samples"),
        (["--run", "RUN", "--layer", "conv2"], "give --extractor"),
        (["--run", "RUN", "--classifier", "RUN"], "a run of the recipe supervised would be right"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    trained: tuple[Home, str], refused: Callable[..., str], arguments: list[str], said: str
) -> None:
    home, run = trained
    assert said in refused(home, "measure", *(run if part == "RUN" else part for part in arguments), "--quiet")
