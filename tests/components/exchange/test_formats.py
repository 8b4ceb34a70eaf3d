"""What leaves is what was there: every format is read by somebody else, and gives the same features."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.errors import UserError
from components.exchange import formats
from components.exchange.formats import TOLERANCE, difference, export, missing_package
from components.exchange.plain import PlainEncoder
from components.exchange.recognition import import_encoder
from components.networks.encoder import load_encoder
from tests.components.exchange.test_recognition import network

# Batch normalization, none and instance; every kind of input; both stems; a network of each kind.
GRAPHS: list[tuple[str, dict[str, Any]]] = [
    ("resnet18", {"normalization": "half"}),
    ("alexnet", {"stem": "small", "input": "l+ab", "norm": "none"}),
    ("alexnet", {"input": "lab", "norm": "instance", "stem": "small"}),
]
THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("resnet18", {"normalization": "0.1,0.2,0.3/0.4,0.5,0.6"}),
    ("resnet18", {"stem": "small"}),
    ("alexnet", {"norm": "none"}),
]


def need(name: str, *packages: str) -> None:
    """Skip a test of a format whose packages are not there, saying which; they are no part of what is tested."""
    if needed := missing_package(name, *packages):
        pytest.skip(needed)  # nobody but these packages reads the format, and an installation may do without them


@pytest.mark.parametrize(("name", "values"), THEIRS)
def test_torchvisions_names_give_the_same_bytes_when_they_come_back(
    name: str, values: dict[str, Any], tmp_path: Path
) -> None:
    """Imported from a state dict with torchvision's names, exported again: equal weights, and equal files."""
    theirs = network(name, width=64, **values)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    found = import_encoder(tmp_path / "theirs.safetensors", theirs.config.normalization).encoder
    done = export(found, tmp_path / "out", "torchvision")
    before, after = load_file(tmp_path / "theirs.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[key].numpy().tobytes() == after[key].numpy().tobytes() for key in before)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    assert done.checks["torch alone"] <= TOLERANCE
    about = json.loads((tmp_path / "out" / "config.json").read_text())
    assert about["architecture"] == name and len(about["mean"]) == len(about["std"]) == 3


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_their_own_code_gives_the_same_features_where_it_can_be_imported(name: str, tmp_path: Path) -> None:
    need(name, name)
    done = export(network(width=64, stem="small"), tmp_path, name)
    assert done.checks[name] <= TOLERANCE and not done.unchecked


def test_what_could_not_be_asked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "missing_package", lambda name, *_: f"{name} is not there: pip install {name}")
    assert export(network(width=64), tmp_path, "timm").unchecked == ("timm is not there: pip install timm",)


def test_timms_file_says_what_timm_asks(tmp_path: Path) -> None:
    export(network("resnet34", width=64, normalization="half"), tmp_path, "timm")
    about = json.loads((tmp_path / "config.json").read_text())
    assert (about["architecture"], about["num_classes"], about["num_features"]) == ("resnet34", 0, 512)
    assert about["pretrained_cfg"]["mean"] == about["pretrained_cfg"]["std"] == [0.5, 0.5, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "values"), GRAPHS)
def test_a_program_of_torch_takes_any_number_of_images_of_any_size(
    name: str, values: dict[str, Any], tmp_path: Path
) -> None:
    ours = network(name, **values)
    done = export(ours, tmp_path, "torch-export")
    assert done.checks["torch.export"] <= TOLERANCE
    picture = torch.rand(5, 3, 50, 33)
    program: Any = torch.export.load(tmp_path / "encoder.pt2").module(check_guards=False)
    with torch.no_grad():
        maps, expected = program(picture), ours(picture)
    assert list(maps) == list(expected)
    assert all(torch.allclose(maps[layer], expected[layer], atol=1e-5) for layer in maps)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "values"), GRAPHS)
def test_onnx_takes_any_number_of_images_of_any_size(name: str, values: dict[str, Any], tmp_path: Path) -> None:
    need("onnx", "onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    ours = network(name, **values)
    done = export(ours, tmp_path, "onnx")
    assert done.checks["onnxruntime"] <= TOLERANCE
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    picture = torch.rand(5, 3, 50, 33)
    found = dict(zip(ours.layers, session.run(list(ours.layers), {"rgb": picture.numpy()}), strict=True))
    with torch.no_grad():
        for layer, map_BCHW in ours(picture).items():
            torch.testing.assert_close(torch.from_numpy(found[layer]), map_BCHW, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "values", "plain"),
    [
        ("resnet50", {"width": 4}, True),
        ("resnet34", {"stem": "small", "depth": 4}, True),
        ("resnet18", {"norm": "none"}, True),
        ("alexnet", {"stem": "small"}, True),
        ("alexnet", {"norm": "none"}, True),
        ("resnet18", {"norm": "instance"}, False),
        ("alexnet", {"input": "lab"}, False),
        ("nin", {}, False),
    ],
)
def test_our_own_files_are_read_by_torch_alone_where_that_can_be(
    name: str, values: dict[str, Any], plain: bool, tmp_path: Path
) -> None:
    ours = network(name, **values)
    done = export(ours, tmp_path, "safetensors")
    assert set(done.checks) == ({"genoise", "torch alone"} if plain else {"genoise"})
    assert max(done.checks.values()) <= TOLERANCE
    assert load_encoder(tmp_path).config == ours.config
    if plain:
        assert list(PlainEncoder(str(tmp_path))(torch.rand(1, 3, 64, 64))) == list(ours.layers)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        (
            "torchvision",
            {"width": 8},
            "torchvision has resnet18 of width 64, and this one is 8 wide: take --format saf",
        ),
        ("torchvision", {"name": "nin"}, "torchvision has no nin"),
        ("timm", {"name": "alexnet"}, "timm has no AlexNet"),
        ("timm", {"input": "lab"}, "timm sees RGB, and this encoder lab"),
        ("torchvision", {"norm": "none"}, "resnet18 with another normalization than none"),
        ("torchvision", {"name": "alexnet"}, "alexnet with another normalization than batch"),
        ("torchvision", {"name": "alexnet", "norm": "none", "stem": "small"}, "the large stem"),
        ("torchvision", {"depth": 3}, "has resnet18 whole, and of this one 3 stages were kept"),
        ("onnnx", {}, "unknown format 'onnnx': did you mean 'onnx'? There are: onnx, safetensors, timm, torch-export"),
    ],
)
def test_what_a_format_does_not_have_is_refused_in_one_line(
    name: str, values: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        export(network(**{"width": 64, **values}), tmp_path, name)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_package_that_is_not_there_is_one_line() -> None:
    said = missing_package("onnx", "json", "a_package_that_nobody_has")
    assert said == (
        "--format onnx needs json and a_package_that_nobody_has (a_package_that_nobody_has is not there): "
        "pip install json a_package_that_nobody_has"
    )
    assert missing_package("onnx", "json") is None
    torchvision = importlib.util.find_spec("torchvision") is not None
    assert torchvision or "pip install torchvision" in str(missing_package("torchvision", "torchvision"))


def test_another_network_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is of numbers: one weight that is off is refused, and one that is no number."""
    ours = network()

    def wrong(value: float) -> Any:
        def read(rgb_BCHW: Tensor) -> dict[str, Tensor]:
            maps = dict(ours(rgb_BCHW))
            maps["layer2"][0, 0, 0, 0] = value
            return maps

        return read

    assert difference(ours, ours) == 0
    assert difference(ours, wrong(1e3)) > 1 and difference(ours, wrong(float("nan"))) == float("inf")
    monkeypatch.setattr(PlainEncoder, "alexnet", lambda *_: {})
    monkeypatch.setattr(PlainEncoder, "resnet", lambda _, x: {"stem": x[:, :1].repeat(1, 8, 1, 1)[..., ::2, ::2]})
    with pytest.raises(UserError, match="read by torch alone features differ by"):
        export(ours, tmp_path, "safetensors")
