"""Encoders named by options: fetched, identified by what they are, laid out for whoever builds the task."""

import json
from pathlib import Path

import pytest
import torch

from components.config import EncoderConfig, Recipe
from components.errors import UserError
from components.networks.encoder import build_encoder, save_encoder
from components.tasks.base import build_task
from infra.errors import OutsideError
from infra.tracking import Tracker
from pipelines.pretrain import pretrain_step
from pipelines.training.named_encoders import fetch_named, identified, laid_out


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlartifacts")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_encoder(build_encoder(EncoderConfig(width=4)), tmp_path / "judge")
    return tmp_path / "judge"


def recipe(**options: object) -> Recipe:
    return Recipe(name="x", task="super_resolution", options=options, encoder=EncoderConfig(width=4))


def test_most_recipes_name_none(tracker: Tracker, tmp_path: Path) -> None:
    for plain in (recipe(), recipe(factor=4, perceptual=None), Recipe(name="x", task="rotation")):
        assert fetch_named(plain, tracker, tmp_path) == {}
        assert identified(plain) == plain.options
        with laid_out(plain, {}) as same:
            assert same == plain


def test_a_task_is_built_from_files_that_came_along(tracker: Tracker, folder: Path, tmp_path: Path) -> None:
    named = recipe(perceptual=str(folder), factor=4)
    files = fetch_named(named, tracker, tmp_path)
    weights = build_encoder(EncoderConfig(width=4)).state_dict().keys()
    for path in folder.iterdir():  # as on another machine
        path.unlink()
    with laid_out(named, files) as local:
        assert local.options["factor"] == 4 and local.options["perceptual"] != str(folder)
        task = build_task(local.task, local.options, local.encoder, 32, 0, seed=0)
    assert not Path(local.options["perceptual"]).exists()
    assert task.get_submodule("judge.encoder").state_dict().keys() == weights


def test_an_encoder_in_a_folder_is_what_its_files_hold(folder: Path, tmp_path: Path) -> None:
    def identity(path: Path) -> str:
        return json.dumps(identified(recipe(perceptual=str(path))))

    first = identity(folder)
    assert str(folder) not in first
    assert identity(folder.rename(tmp_path / "moved")) == first
    torch.manual_seed(9)
    save_encoder(build_encoder(EncoderConfig(width=4)), tmp_path / "moved")
    assert identity(tmp_path / "moved") != first


def test_one_that_is_not_there_is_told_in_one_line(tracker: Tracker, tmp_path: Path) -> None:
    with pytest.raises(OutsideError, match="no encoder at nowhere") as error:
        fetch_named(recipe(perceptual="nowhere"), tracker, tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^options.perceptual: no encoder at nowhere: a folder with config.json and"):
        identified(recipe(perceptual="nowhere"))


def test_a_run_is_its_name_and_an_alias_is_none() -> None:
    assert identified(recipe(perceptual="runs:/abc/encoder"))["perceptual"] == "runs:/abc/encoder"
    with pytest.raises(UserError, match=r"^options.perceptual=models:/x@best: an alias may .*say models:/NAME/VERSION"):
        identified(recipe(perceptual="models:/x@best"))


def test_the_fingerprint_of_a_training_follows_the_files(folder: Path, tmp_path: Path) -> None:
    first = pretrain_step(recipe(perceptual=str(folder))).fingerprint
    assert pretrain_step(recipe(perceptual=str(folder.rename(tmp_path / "moved")))).fingerprint == first
    save_encoder(build_encoder(EncoderConfig(width=8)), tmp_path / "moved")
    assert pretrain_step(recipe(perceptual=str(tmp_path / "moved"))).fingerprint != first
