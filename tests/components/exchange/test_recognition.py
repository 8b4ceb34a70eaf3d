"""State dicts of others: what they are of is recognized, what stands around is told, what does not fit is named."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from components.config import EncoderConfig
from components.errors import UserError
from components.exchange.recognition import Recognized, import_encoder
from components.networks.encoder import Encoder, build_encoder

Weights = dict[str, Tensor]


def network(name: str = "resnet18", **values: Any) -> Encoder:
    """A network with torchvision's stem and names, its statistics no longer 0 and 1."""
    torch.manual_seed(0)
    made = build_encoder(EncoderConfig.parse({"name": name, "width": 8, "stem": "large", **values}))
    for value in made.state_dict().values():
        if value.dim() == 1:
            torch.nn.init.uniform_(value, 0.5, 1.5)
    return made.eval()


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def imported(content: Any, folder: Path, name: str = "weights.pth") -> Recognized:
    """What becomes of ``content`` as a file."""
    torch.save(content, folder / name)
    return import_encoder(folder / name, "imagenet")


def refusal(content: Any, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        imported(content, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


HEAD = {"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("resnet18", {}),
        ("resnet18", {"width": 64, "stem": "small"}),
        ("resnet18", {"depth": 3}),
        ("resnet18", {"norm": "none"}),
        ("resnet34", {}),
        ("resnet34", {"depth": 4}),
        ("resnet50", {"width": 4}),
        ("alexnet", {"norm": "none"}),
        ("alexnet", {"stem": "small", "width": 16}),
        ("alexnet", {"norm": "none", "depth": 2}),
    ],
)
def test_architecture_width_stem_and_depth_are_those_of_the_shapes(
    name: str, values: dict[str, Any], tmp_path: Path
) -> None:
    theirs = network(name, **values)
    found = imported(theirs.state_dict(), tmp_path).encoder
    assert found.config == theirs.config and not found.training
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps = theirs(picture)
        assert all(torch.equal(x, maps[layer]) for layer, x in found(picture).items())


def test_safetensors_are_read_and_the_normalization_is_the_one_that_was_said(tmp_path: Path) -> None:
    save_file(network().state_dict(), tmp_path / "model.safetensors")
    assert import_encoder(tmp_path / "model.safetensors", "half").encoder.config.normalization == "half"


@pytest.mark.parametrize("prefix", ["module.", "model.backbone.", "module.encoder_q.", "encoder.", "a.name.of.theirs."])
@pytest.mark.parametrize("nest", [None, "state_dict", "model"])
def test_prefix_nest_and_head_are_taken_away_and_said(prefix: str, nest: str | None, tmp_path: Path) -> None:
    theirs = network()
    weights = prefixed(theirs.state_dict() | HEAD, prefix)
    found = imported({nest: weights, "epoch": 3, "optimizer": {"state": {}}} if nest else weights, tmp_path)
    assert found.encoder.config == theirs.config
    said = "; ".join(found.notes)
    assert f"the prefix {prefix} is taken away" in said and "left out: fc.weight, fc.bias" in said
    assert "resnet18 of width 8: first convolution 7 x 7 with stride 2, and a pool; batch normalization" in said


def test_of_a_network_and_its_copy_the_one_that_learns_is_taken(tmp_path: Path) -> None:
    theirs = network()
    copy = {key: torch.zeros_like(value) for key, value in theirs.state_dict().items()}
    both = prefixed(copy, "module.encoder_k.") | prefixed(theirs.state_dict() | HEAD, "module.encoder_q.")
    found = imported({"state_dict": both | {"module.queue": torch.zeros(3)}}, tmp_path)
    assert torch.equal(found.encoder.state_dict()["conv1.weight"], theirs.state_dict()["conv1.weight"])
    assert "left out: fc.weight, fc.bias, module.encoder_k.conv1.weight" in "; ".join(found.notes)
    two = prefixed(copy, "left.") | prefixed(theirs.state_dict(), "right.")
    assert "holds 2 networks, left, right: save the state dict of the one" in refusal(two, tmp_path)


def test_counters_may_be_missing_and_half_precision_becomes_float(tmp_path: Path) -> None:
    theirs = network()
    old = {key: value.half() for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    found = imported(old, tmp_path)
    assert found.encoder.state_dict()["conv1.weight"].dtype == torch.float32
    assert "float16 became float32" in found.notes


def test_keys_that_do_not_fit_are_listed_with_the_nearest(tmp_path: Path) -> None:
    weights = network().state_dict()
    for key, wrong in {
        "conv1.weight": "conv_1.weight",
        "layer1.0.conv1.weight": "layer1.0.convolution1.weight",
        "layer4.1.bn2.bias": "layer4.1.bn2.biases",
    }.items():
        weights[wrong] = weights.pop(key)
    said = refusal(weights, tmp_path)
    assert "does not fit resnet18 of width 8: 3 keys it does not have: " in said and "missing" not in said
    assert "conv_1.weight (nearest: conv1.weight)" in said
    assert "layer1.0.convolution1.weight (nearest: layer1.0.conv1.weight)" in said
    assert "layer4.1.bn2.biases (nearest: layer4.1.bn2.bias)" in said


def test_shapes_that_do_not_fit_and_what_is_missing_are_listed(tmp_path: Path) -> None:
    weights = network("resnet50", width=4).state_dict()
    weights["layer1.0.conv2.weight"] = torch.zeros(8, 8, 3, 3)
    del weights["layer2.0.bn1.weight"]
    said = refusal(weights, tmp_path)
    assert "1 key of another shape: layer1.0.conv2.weight (8, 8, 3, 3) instead of (4, 4, 3, 3)" in said
    assert "1 key missing: layer2.0.bn1.weight" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"stem.0.weight": torch.zeros(8, 3, 3, 3)}, "holds none of resnet18, resnet34, resnet50, alexnet under"),
        ({"conv1.weight": torch.zeros(8, 3, 7, 7), "other.weight": torch.zeros(8, 8, 3, 3), "b": torch.zeros(1)},
         "the nearest, 2 keys it does not have: other.weight"),
        ({"student": {"conv1.weight": torch.zeros(8, 3, 7, 7)}, "twin": {"conv1.weight": torch.zeros(8, 3, 7, 7)}},
         "holds student, twin: save the state dict of the one"),
        ({"epoch": 3}, "holds no state dict"),
        ([1, 2], "holds no state dict"),
        ({"state_dict": {}, "hyper_parameters": Namespace(lr=1)}, "cannot be read as weights alone"),
    ],
)  # fmt: skip
def test_what_is_no_network_of_ours_is_refused_in_one_line(content: Any, said: str, tmp_path: Path) -> None:
    assert said in refusal(content, tmp_path)


def test_a_nest_of_another_name_is_taken_where_it_is_the_only_one(tmp_path: Path) -> None:
    assert imported({"teacher": prefixed(network().state_dict(), "backbone."), "epoch": 1}, tmp_path).encoder.layers


def test_weights_that_are_not_finite_and_broken_files_are_refused(tmp_path: Path) -> None:
    weights = network().state_dict()
    weights["bn1.weight"][0] = float("nan")
    assert "bn1.weight has values that are not finite" in refusal(weights, tmp_path)
    for name in ("cut.pth", "cut.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / "weights.pth").read_bytes()[:1000])
        with pytest.raises(UserError, match=r"cannot be read as weights alone|not a whole safetensors file"):
            import_encoder(tmp_path / name, "imagenet")
