"""What makes one training another, for whoever looks for results that are there already."""

import pytest

from components.tasks.base import get_task
from pipelines.pretrain import pretrain_step
from pipelines.recipes import load_recipe
from pipelines.steps import Step


def step(*settings: str) -> Step:
    return pretrain_step(load_recipe("autoencoder", settings))


def test_a_crop_is_another_training_and_none_is_the_one_before_there_were_any() -> None:
    assert step().config["training"]["augment"].keys() == {"flip", "shift"}
    assert step("training.augment.crop=0").fingerprint == step().fingerprint
    assert step("training.augment.crop=4").fingerprint != step().fingerprint


def test_a_new_version_of_a_task_is_another_training(monkeypatch: pytest.MonkeyPatch) -> None:
    first = step().fingerprint
    monkeypatch.setattr(get_task("autoencoder"), "version", 2)
    assert step().fingerprint != first
