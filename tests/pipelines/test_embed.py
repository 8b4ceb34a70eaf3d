"""A vector per image: in order, as the encoder gives it; what is broken is counted and named."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from components.config import EncoderConfig
from components.errors import UserError
from components.networks.encoder import build_encoder, load_encoder, save_encoder
from pipelines import embed as pipeline
from pipelines.__main__ import run
from pipelines.embed import EmbedRequest, embed
from pipelines.session import Session


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    torch.manual_seed(0)
    save_encoder(build_encoder(EncoderConfig(width=4)).eval(), tmp_path / "encoder")
    return str(tmp_path / "encoder")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five images of the encoder's size, two that are broken among them."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    draws = np.random.default_rng(0)
    for name in ("c.png", "a.png", "sub/e.png", "b.png", "d.png"):
        Image.fromarray(draws.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name)
    (folder / "b0.png").touch()
    (folder / "d0.jpg").write_bytes(b"\xff\xd8\xff broken")
    return folder


NAMES = ["a.png", "b.png", "c.png", "d.png", "sub/e.png"]


def expected(encoder: str, images: Path, layer: str) -> Any:
    pixels = np.stack([np.asarray(Image.open(images / name)) for name in NAMES])
    with torch.no_grad():
        return load_encoder(encoder)(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)[layer].numpy()


@pytest.mark.parametrize("batch", [2, 64])
@pytest.mark.parametrize(("layer", "pooling"), [("conv5", "mean"), ("conv3", "max"), ("conv5", "none")])
def test_rows_are_the_features_of_the_images(
    layer: str,
    pooling: str,
    batch: int,
    encoder: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "BATCH", batch)
    maps = expected(encoder, images, layer)
    rows = {"mean": maps.mean((2, 3)), "max": maps.max((2, 3)), "none": maps.reshape(len(maps), -1)}[pooling]
    session = Session(tmp_path / "home", quiet=True)
    for name in ("features.npy", "features.parquet"):
        wanted = EmbedRequest.parse({"to": tmp_path / name, "layer": layer, "pooling": pooling})
        made = embed(encoder, images, wanted, session)
        assert (made["made"], made["skipped_count"], made["size"]) == (5, 2, 32)
        assert [line.partition(":")[0] for line in made["skipped"]] == ["b0.png", "d0.jpg"]
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), rows, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "features.names.txt").read_text().splitlines() == NAMES
    table = pq.read_table(tmp_path / "features.parquet")
    assert table["file"].to_pylist() == NAMES
    np.testing.assert_allclose(np.array(table["features"].to_pylist()), rows, rtol=1e-4, atol=1e-5)
    assert table.schema.metadata[b"genoise.layer"] == layer.encode()


def test_one_image_and_another_size(encoder: str, images: Path, tmp_path: Path, home: Path) -> None:
    command = ["embed", encoder, str(images / "a.png"), "--to", str(tmp_path / "one.npy"), "--size", "48"]
    assert run([*command, "--dry-run"]) == 0 and not (tmp_path / "one.npy").exists()
    assert run(command) == 0
    assert np.load(tmp_path / "one.npy").shape == (1, 16)
    assert (tmp_path / "one.names.txt").read_text() == "a.png\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{encoder}", "{images}", "--to", "features.csv"), "a name that ends in .npy or .parquet would be right"),
        (("{encoder}", "{images}", "--to", "{there}"), "is there already: give another --to, or --overwrite"),
        (("{encoder}", "nothing", "--to", "x.npy"), "nothing at nothing: give a folder of images, or one"),
        (("{encoder}", "{images}", "--to", "x.npy", "--layer", "conv6"), "unknown layer of alexnet 'conv6'"),
        (("{encoder}", "{images}", "--to", "x.npy", "--pooling", "median"), "--pooling: input should be 'mean', 'max'"),
        (("{encoder}", "{broken}", "--to", "{tmp}/x.npy"), "not one image could be read: b0.png: empty file"),
        (("{encoder}", "{broken}", "--to", "{tmp}/x.parquet"), "not one image could be read: b0.png: empty file"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...],
    said: str,
    encoder: str,
    images: Path,
    tmp_path: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "there.npy").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "b0.png").touch()
    places = {"encoder": encoder, "images": images, "there": tmp_path / "there.npy", "broken": tmp_path / "broken"}
    assert run(["embed", *(each.format(tmp=tmp_path, **places) for each in arguments), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".x", "x"))]


def test_a_layer_that_is_not_there_is_told_before_images_are_read(encoder: str, images: Path, tmp_path: Path) -> None:
    wanted = EmbedRequest(to=tmp_path / "x.npy", layer="layer4")
    with pytest.raises(UserError, match=r"unknown layer of alexnet 'layer4'"):
        embed(encoder, images, wanted, Session(tmp_path / "home", dry_run=True))
