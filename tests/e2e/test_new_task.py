"""A task is one new file: named in a recipe it is trained, scored and in the table, and no other file knows of it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.jobs import ROOT, TINY, Home, Running, sets

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]

TASK = '''
"""Brightness: how bright is the picture?"""

import torch

from components import losses
from components.config import Config, EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.networks.decoders import Classifier, deepest_shape
from components.networks.encoder import Encoder, build_encoder
from components.tasks.base import Batch, Player, Task, Tensors, Term, register


@register
class Brightness(Task):
    """Cross-entropy over eight levels of the mean brightness."""

    name = "brightness"
    summary = "Tell how bright a picture is"
    source = "a test"
    terms = {"cross_entropy": Term(1.0, "a test", (0.1, 10.0))}
    players = {"classifier": Player(("trunk", "head"), OptimizerConfig(lr=1e-3))}

    def __init__(self, options: Config, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.trunk = build_encoder(encoder)
        self.head = Classifier(deepest_shape(self.trunk, image_size)[0], 8)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        level_B = (batch["image"].mean((1, 2, 3)) * 8).long().clamp(0, 7)
        return {"image": batch["image"], "level": level_B}

    def forward(self, inputs: Tensors) -> Tensors:
        return {"logits": self.head(self.trunk(inputs["image"])[self.trunk.layers[-1]])}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        return {"cross_entropy": losses.cross_entropy(outputs["logits"], inputs["level"])}

    def encoder(self) -> Encoder:
        return self.trunk
'''
RECIPE = "extends: base\nsummary: how bright\ntask: brightness\n"
SOURCE = ("pipelines", "components", "infra")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the source tree, with one file more, and a recipe beside it."""
    for name in SOURCE:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "components" / "tasks" / "brightness.py").write_text(TASK)
    (tmp_path / "brightness.yaml").write_text(RECIPE)
    return tmp_path


def test_a_new_task_is_one_new_file(new_home: Callable[..., Home], main_job: tuple[Home, str], tree: Path) -> None:
    home = new_home(tree, main_job[0].folder)  # which knows the other rows
    done = home.run("table", "brightness.yaml", "--json", "--quiet", *sets(TINY))
    rows = {row["recipe"]: row for row in done.last["rows"]}
    assert rows.keys() == {"random", "rescaled", "supervised", "brightness"}
    assert len([run for run in home.runs() if run.info.run_name.startswith("pretrain supervised")]) == 1
    assert rows["brightness"]["labels"] == "no" and 0 < rows["brightness"]["test"] < 100
    metrics = home.step_run("pretrain brightness").data.metrics
    assert metrics["loss/cross_entropy"] > 0

    listed = Running(["tasks", "brightness"], tree, {}).wait()
    assert listed.code == 0 and "Tell how bright a picture is" in listed.out
