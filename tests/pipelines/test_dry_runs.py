"""A dry run refuses what the run would refuse, in the same words; and the run says it before Ray is started."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image

from components.config import EncoderConfig
from components.networks.encoder import build_encoder, save_encoder
from pipelines.__main__ import run
from tests.pipelines.trained import trained

SMALL = ["--set", "encoder.width=4", "--set", "training.batch=16", "--set", "training.epochs=1"]
SHAPES = [*SMALL, "--set", "data.samples=64"]
FOLDER = [*SMALL, "--set", "data.source=folder", "--set"]
LABELLED = ["--set", "data.source=folder", "--set", "data.root={labelled}"]
Refused = Callable[..., str]


@pytest.fixture
def refused(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run a command line, dry and then really; both must say the same one line, which is returned."""

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", started)

    def call(*arguments: str) -> str:
        said = []
        for command in ((*arguments, "--dry-run"), arguments):
            code = run(command)
            out, err = capsys.readouterr()
            assert (code, out) == (2, ""), (command, out, err)
            assert err.count("\n") == 1 and err.startswith("genoise: error: "), err
            said.append(err.removeprefix("genoise: error: ").rstrip())
        assert said[0] == said[1]
        assert not [path for path in home.rglob("*") if path.is_file()]
        return said[0]

    return call


def pictures(folder: Path, count: int = 40) -> Path:
    """A folder of images of noise."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0)
    for k in range(count):
        Image.fromarray(draws.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / f"{k:03d}.png")
    return folder


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """What commands are given, by the name that stands in braces in them."""
    pictures(tmp_path / "labelled" / "a", 20)
    pictures(tmp_path / "labelled" / "b", 20)
    save_encoder(build_encoder(EncoderConfig(width=4)), tmp_path / "encoder")
    for name in ("autoencoder", "gan", "supervised"):
        trained(tmp_path / name, name)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "grid.png").write_text("")
    return {
        "plain": str(pictures(tmp_path / "plain")),
        "labelled": str(tmp_path / "labelled"),
        "top": str(tmp_path),
    }


NEEDS_LABELS = "benchmark 'linear' needs labels, and folder {plain} has none: score on labelled images, such as --on "
CASES: dict[str, tuple[list[str], str]] = {
    # data without labels
    "table": (["table", "rotation", *FOLDER, "data.root={plain}"], NEEDS_LABELS),
    "sweep": (["sweep", "autoencoder", *FOLDER, "data.root={plain}"], NEEDS_LABELS),
    "transfer": (["transfer", "--encoder", "{top}/encoder", "--source", "folder", "--root", "{plain}"], NEEDS_LABELS),
    "on": (["table", "rotation", *SHAPES, "--on", "{plain}"], NEEDS_LABELS),
    "transfer on": (["transfer", "--encoder", "{top}/encoder", "--on", "{plain}"], NEEDS_LABELS),
    "supervised": (
        ["pretrain", "supervised", *FOLDER, "data.root={plain}"],
        "task 'supervised' needs labels, and the data has none",
    ),
    "cgan": (
        ["table", "cgan", *FOLDER, "data.root={plain}", "--on", "{labelled}"],
        "task 'cgan' needs labels, and the data has none",
    ),
    "asha": (
        ["sweep", "context_encoder", *FOLDER, "data.root={plain}", "--on", "{labelled}", "--scheduler", "asha"],
        "--scheduler asha goes by probes in the course of a training, on its own data, and folder {plain} has no label",
    ),
    # places
    "nowhere": (
        ["table", "rotation", *SHAPES, "--on", "{top}/nowhere"],
        "nothing at {top}/nowhere: a folder of images",
    ),
    "two places": (
        ["transfer", "--encoder", "{top}/encoder", "--on", "{labelled}", "--root", "{plain}"],
        "leave out --source and --root",
    ),
    "another size": (
        ["table", "rotation", *SHAPES, "--on", "shapes", "--set", "score_on.size=64"],
        "score_on.size=64: an encoder is scored at the size of its training, data.size=32",
    ),
    "place of a benchmark": (["table", "rotation", *SHAPES, "--benchmark", "knn,linear={plain}"], NEEDS_LABELS),
    "no place of a benchmark": (
        ["table", "rotation", *SHAPES, "--benchmark", "linear=", "--benchmark", "knn"],
        "benchmarks linear=,knn: 'linear=' must be NAME or NAME=PLACE, such as linear,detection=voc:",
    ),
    "unknown benchmark": (["table", "rotation", *SHAPES, "--benchmark", "lineer"], "unknown benchmark 'lineer'"),
    "size of a benchmark": (
        ["table", "rotation", *SHAPES, "--benchmark", "knn=shapes", "--set", "benchmark_data.knn.size=64"],
        "benchmark_data.knn.size=64: an encoder is scored at the size of its training, data.size=32",
    ),
    "table to a file": (
        ["table", "rotation", *SHAPES, "--to", "{top}/file"],
        "--to {top}/file: {top}/file is a file: give a folder",
    ),
    # fields that the task needs
    "target": (
        ["pretrain", "pix2pix", *SHAPES, "--set", "options.pair=target"],
        "task 'pix2pix' needs the field 'target', and the data has image, label, mask, instances, edges, boxes: "
        "use pairs",
    ),
    "edges": (
        ["pretrain", "pix2pix_edges", *FOLDER, "data.root={plain}", "--set", "options.pair=edges"],
        "task 'pix2pix' needs the field 'edges', and the data has image",
    ),
    "second domain": (
        ["pretrain", "cyclegan", *SHAPES, "--set", "options.domains=other"],
        "task 'cyclegan' needs the field 'other'",
    ),
    # words that do not go together
    "term": (
        ["pretrain", "super_resolution", *SHAPES, "--set", "weights.perceptual=0.1"],
        "weights.perceptual: with these options task 'super_resolution' has no such term, but l2, adversarial",
    ),
    "term of an option": (
        ["pretrain", "bigan", *SHAPES, "--set", "weights.latent=0.5"],
        "weights.latent: with these options task 'bigan' has no such term, but discriminator, adversarial: leave",
    ),
    "term in a sweep": (["sweep", "bigan", *SHAPES, "--set", "weights.latent=0.5"], "weights.latent: with these"),
    "term in a universal sweep": (
        ["sweep", "--universal", "bigan", "gan", *SHAPES, "--set", "weights.r1=0.5"],
        "recipe 'bigan': task 'bigan' has no term 'r1'",
    ),
    "term later": (
        ["pretrain", "super_resolution", *SHAPES, "--set", "weight_changes={{2: {{perceptual: 1}}}}"],
        "weights.perceptual: with these options",
    ),
    "term in a table": (["table", "gan", *SHAPES, "--set", "weights.gradient_penalty=3"], "weights.gradient_penalty: "),
    "searched term": (
        ["sweep", "super_resolution", *SHAPES, "--set", "search={{weights.perceptual: [0.1, 1]}}"],
        "search: weights.perceptual=0.1: weights.perceptual: with these options",
    ),
    "searched option": (
        ["sweep", "super_resolution", *SHAPES, "--set", "data.size=30", "--set", "search={{options.factor: [2, 4]}}"],
        "search: options.factor=4: options.factor=4 does not divide the image's side of 30 pixels",
    ),
    "searched batch": (
        ["sweep", "autoencoder", *SHAPES, "--set", "search={{training.batch: [16, 128]}}"],
        "search: training.batch=128: the training split has 64 samples, fewer than one global batch of 128",
    ),
    "searched term of a training": (
        ["pretrain", "bigan", *SHAPES, "--set", "search={{weights.latent: [0.1, 1]}}"],
        "search: weights.latent=0.1: weights.latent: with these options",
    ),
    "size": (
        ["table", "super_resolution", *SHAPES, "--set", "data.size=30", "--set", "options.factor=4"],
        "options.factor=4 does not divide the image's side of 30 pixels",
    ),
    "jigsaw": (["pretrain", "jigsaw", *SHAPES, "--set", "data.size=8"], "pixels"),
    "few probes": (
        ["sweep", "context_encoder", *SHAPES, "--scheduler", "pbt", "--trials", "2"],
        "--scheduler pbt changes weights after probes: --set training.probe_every lower",
    ),
    "batch": (
        ["pretrain", "rotation", *SHAPES, "--set", "training.batch=128"],
        "64 samples, fewer than one global batch of 128",
    ),
    # pictures
    "no truth": (["measure", "--run", "{top}/gan", *LABELLED], "task 'gan' has no truth to compare its pictures with"),
    "no split": (["measure", "--run", "{top}/autoencoder", "--split", "tset"], "tset"),
    "test split": (["measure", "--run", "{top}/autoencoder", "--split", "test", *LABELLED], "unknown split 'test'"),
    "few samples": (
        ["measure", "--run", "{top}/autoencoder", "--extractor", "{top}/encoder", "--samples", "3", *LABELLED],
        "distances between sets need at least 20 samples, and 3 of the val split are used",
    ),
    "classes": (
        ["measure", "--run", "{top}/gan", "--classifier", "{top}/supervised", *LABELLED],
        "--classifier knows 3 classes, and the data has 2",
    ),
    "grid": (["generate", "--run", "{top}/gan", "--to", "{top}/full", "--count", "2"], "(grid.png)"),
    "to a file": (["generate", "--run", "{top}/gan", "--to", "{top}/file", "--count", "2"], "file is a file: give a"),
}


@pytest.mark.parametrize("command", ["pretrain", "table", "sweep"])
def test_a_refused_term_leaves_no_trace(refused: Refused, home: Path, command: str) -> None:
    assert "weights.latent: with these options" in refused(command, "bigan", "--set", "weights.latent=0.5")
    assert not home.exists() or not any(home.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_refuses_what_the_run_does(refused: Refused, places: dict[str, str], case: str) -> None:
    arguments, said = CASES[case]
    assert said.format(**places) in refused(*(each.format(**places) for each in arguments))
