"""Encoders by their addresses: files of weights become encoders of ours, and are said to be; the rest stays."""

from pathlib import Path

import pytest
import torch

from components.config import EncoderConfig
from components.errors import UserError
from components.networks.encoder import build_encoder, load_encoder, save_encoder
from infra.errors import OutsideError
from infra.local import Server
from infra.storage import open_storage
from infra.tracking import Tracker, open_tracker
from pipelines.__main__ import run
from pipelines.encoders import fetch_encoder
from tests.e2e.jobs import Home
from tests.pipelines.test_dry_runs import pictures


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return open_tracker(tmp_path / "home")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file as torchvision's users have it: a ResNet-18 in a trainer's wrapper, with a head."""
    torch.manual_seed(0)
    state = build_encoder(EncoderConfig(name="resnet18", width=8, stem="large")).state_dict()
    state |= {"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}
    file = tmp_path / "theirs.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, file)
    return file


def test_a_file_becomes_an_encoder_and_is_said_to_be(weights: Path, tracker: Tracker, tmp_path: Path) -> None:
    said: list[str] = []
    encoder = load_encoder(fetch_encoder(str(weights), tracker, tmp_path / "cache", "half", said.append))
    assert (encoder.config.name, encoder.config.width, encoder.config.normalization) == ("resnet18", 8, "half")
    assert [line.partition(": ")[0] for line in said] == ["theirs.pth"] * 3
    assert not [line for line in said if "--normalization" in line]
    usual = load_encoder(fetch_encoder(f"file://{weights}", tracker, tmp_path / "cache", None, said.append))
    assert usual.config.normalization == "imagenet"
    assert (
        said[-1] == "theirs.pth: RGB is standardized as for ImageNet; where the weights expect another: --normalization"
    )


def test_a_file_in_a_bucket_is_one_too(weights: Path, tracker: Tracker, tmp_path: Path, s3: Server) -> None:
    open_storage("s3://shards/of-others").upload(weights, "theirs.pth")
    here = fetch_encoder(str(weights), tracker, tmp_path / "cache", None, lambda _: None)
    there = fetch_encoder("s3://shards/of-others/theirs.pth", tracker, tmp_path / "other", None, lambda _: None)
    assert (here / "encoder.safetensors").read_bytes() == (there / "encoder.safetensors").read_bytes()
    with pytest.raises(OutsideError, match=r"no file s3://shards/of-others/nothing\.pth"):
        fetch_encoder("s3://shards/of-others/nothing.pth", tracker, tmp_path / "cache")


def test_our_own_file_stands_for_its_folder(tracker: Tracker, tmp_path: Path) -> None:
    save_encoder(build_encoder(EncoderConfig(width=4, input="lab")), tmp_path / "ours")
    found = fetch_encoder(str(tmp_path / "ours" / "encoder.safetensors"), tracker, tmp_path / "cache")
    assert found == tmp_path / "ours"
    with pytest.raises(UserError, match="says its own: leave it out"):
        fetch_encoder(str(tmp_path / "ours"), tracker, tmp_path / "cache", "half")


def test_a_folder_may_be_called_like_a_file(tracker: Tracker, tmp_path: Path) -> None:
    save_encoder(build_encoder(EncoderConfig(width=4)), tmp_path / "ours.pt")
    assert fetch_encoder(str(tmp_path / "ours.pt"), tracker, tmp_path / "cache") == tmp_path / "ours.pt"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing.safetensors",), "no file nothing.safetensors: a file of weights (.safetensors, .pt, .pth"),
        (("{weights}", "--normalization", "imagent"), "normalization 'imagent': imagenet, half, none would be right"),
        (("{broken}",), "does not fit resnet18 of width 8: 3 keys it does not have: "),
    ],
)  # fmt: skip
def test_transfer_refuses_in_one_line_before_anything_runs(
    arguments: tuple[str, ...],
    said: str,
    weights: Path,
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = torch.load(weights, weights_only=True)["state_dict"]
    for key in ("conv1.weight", "bn1.bias", "layer3.0.conv2.weight"):
        state[f"module.{key}s"] = state.pop(f"module.{key}")
    torch.save(state, tmp_path / "broken.pth")
    named = [each.format(weights=weights, broken=tmp_path / "broken.pth") for each in arguments]
    assert run(["transfer", "--encoder", *named]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(600)
def test_a_file_of_others_is_scored_and_its_normalization_stands_in_the_protocol(weights: Path, tmp_path: Path) -> None:
    for kind in ("a", "b"):
        pictures(tmp_path / "labelled" / kind, 20)
    home = Home(tmp_path / "scored")
    command = ["transfer", "--encoder", str(weights), "--on", str(tmp_path / "labelled"), "--normalization", "half"]
    try:
        done = home.run(*command, "--set", "data.size=24", "--json", "--quiet")
    finally:
        home.end()
    protocol = done.last["value"]["protocol"]
    assert protocol["encoder"]["normalization"] == "half" and protocol["encoder"]["name"] == "resnet18"
    assert "theirs.pth: the prefix module. is taken away" in done.err
