"""Encoders leave with a card that says what is known of them; nothing half done stays, nothing is lost."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from components.config import EncoderConfig
from components.exchange import formats
from components.exchange.card import UNKNOWN, Origin, card
from components.exchange.formats import Exported
from components.networks.encoder import build_encoder, load_encoder, save_encoder
from infra.tracking import Tracker
from pipelines import export as pipeline
from pipelines.__main__ import run
from pipelines.recipes import load_recipe, write_recipe
from pipelines.steps.workflow import INPUTS, STEP


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    save_encoder(build_encoder(EncoderConfig(name="resnet18", width=8, stem="large")).eval(), tmp_path / "encoder")
    return str(tmp_path / "encoder")


@pytest.fixture
def refused(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: str) -> str:
        assert run(["export", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("genoise: error: ")
        return err

    return call


def test_the_files_come_back_as_the_same_encoder(
    encoder: str, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["export", encoder, "--to", str(out), "--json", "--dry-run"]) == 0 and not out.exists()
    assert run(["export", encoder, "--to", str(out), "--json"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sorted(done["files"]) == sorted(path.name for path in out.iterdir())
    assert done["checks"] == {"genoise": 0.0, "torch alone": pytest.approx(0, abs=1e-5)}
    assert (out / "encoder.safetensors").read_bytes() == Path(encoder, "encoder.safetensors").read_bytes()
    assert load_encoder(out).config == load_encoder(encoder).config
    text = (out / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["pipeline_tag"] == "image-feature-extraction"
    assert UNKNOWN in text and str(tmp_path) not in text
    assert not list(home.rglob("mlflow.db"))  # of a folder no tracker is asked


def test_weights_of_others_become_ours(tmp_path: Path, home: Path) -> None:
    torch.save(build_encoder(EncoderConfig(name="resnet34", width=8, stem="large")).state_dict(), tmp_path / "t.pth")
    command = ["export", str(tmp_path / "t.pth"), "--to", str(tmp_path / "ours"), "--normalization", "half"]
    assert run(command) == 0
    assert load_encoder(tmp_path / "ours").config.normalization == "half"
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["mean"] == [0.5, 0.5, 0.5]


def test_what_cannot_be_done_is_one_line_and_leaves_what_is_there(
    encoder: str, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    to = ("--to", str(out))
    assert "torchvision has resnet18 of width 64, and this one is 8 wide" in refused(
        encoder, *to, "--format", "torchvision"
    )
    assert "unknown format 'tim': did you mean 'timm'?" in refused(encoder, *to, "--format", "tim")
    assert "a folder of this machine would be right" in refused(encoder, "--to", "s3://bucket/x")
    assert "is a file: give a folder" in refused(encoder, "--to", f"{encoder}/config.json")
    assert "says its own: leave it out" in refused(encoder, *to, "--normalization", "half")
    assert not out.exists()
    out.mkdir()
    (out / "README.md").write_text("mine")
    assert "README.md is in" in refused(encoder, *to)
    monkeypatch.setattr(formats, "missing_package", lambda *_, **__: "onnx is not there: pip install 'genoise[export]'")
    assert "pip install 'genoise[export]'" in refused(encoder, *to, "--format", "onnx", "--overwrite")
    monkeypatch.setattr(formats, "difference", lambda *_: 1e-3)
    assert "features differ by 1.0e-03" in refused(encoder, *to, "--overwrite")
    assert [path.name for path in out.iterdir()] == ["README.md"] and (out / "README.md").read_text() == "mine"


class Kept(Tracker):
    """A tracker that knows a training with its recipe, on data in ``root``, and what scored it."""

    def __init__(self, root: Path) -> None:
        values = ["weights.adversarial=0.5", f"data.root={root}", "training.seed=3"]
        self.recipe = write_recipe(load_recipe("context_encoder", values))

    @property
    def models(self) -> Any:
        return type("Models", (), {"source_run": staticmethod(lambda uri: "trained" if ":" in uri else None)})()

    def read_text(self, run_id: str, file: str) -> str:
        scores = {"one": ("linear", 0.5), "old": ("linear", 0.1), "direct": ("knn", 0.25), "other": ("conv", 0.9)}
        if file == "recipe.yaml":
            return self.recipe
        name, value = scores[run_id]
        score = {"benchmark": name, "metric": "top1", "split": "test", "value": value, "n": 7, "layer": "conv5"}
        return json.dumps(score | {"protocol": {"format": f"{name}/2"}})

    def search(self, tags: Any, status: str | None = None, limit: int = 100) -> Any:
        assert tags == {STEP: "transfer"} and status == "FINISHED"
        consumed = {"one": "trained", "direct": "else", "old": "trained", "other": "another"}
        return [
            type("Run", (), {
                "run_id": name,
                "tags": {INPUTS: json.dumps({"pretrain": run})},
                "params": {"encoder": "runs:/trained/encoder"} if name == "direct" else {},
            })
            for name, run in consumed.items()
        ]  # fmt: skip


def test_the_card_tells_recipe_weights_seed_and_scores_with_protocols(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "mine")
    origin = pipeline.origin_of("models:/x@best", kept)
    assert origin.recipe and origin.recipe.data.root == str(tmp_path / "mine")
    assert [(score["benchmark"], score["value"]) for score in origin.scores] == [("linear", 0.5), ("knn", 0.25)]
    assert origin.weights and origin.weights["adversarial"] == 0.5 and len(origin.weights) > 1
    text = card(build_encoder(EncoderConfig(width=8)), "safetensors", Exported((), {"genoise": 0.0}), origin)
    for told in (
        "seed 3",
        "| `adversarial` | 0.5 |",
        "| linear | top1 | test | 0.5000 | 7 | conv5 |",
        '"format": "knn/2"',
    ):
        assert told in text
    assert str(tmp_path) not in text and "Source `shapes`" in text
    assert pipeline.origin_of("./folder", kept) == Origin("folder")


def test_every_format_has_a_program_in_its_card() -> None:
    encoders = [
        build_encoder(EncoderConfig.parse({"width": 64, "stem": stem, **values}))
        for stem in ("small", "large")
        for values in ({"name": "resnet18"}, {"name": "alexnet", "norm": "none"}, {"name": "nin"})
    ]
    names: Sequence[str] = formats.formats()
    for encoder in encoders:
        for name in names:
            text = card(encoder, name, Exported((), {}), Origin("x"))
            compile(text.partition("```python\n")[2].partition("```")[0], name, "exec")
