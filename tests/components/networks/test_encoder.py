"""Encoders: shapes, torchvision's keys and numbers, conversion of the input, files.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import EncoderConfig
from components.errors import UserError
from components.networks.encoder import (
    Encoder,
    above_diagonal,
    all_encoders,
    build_encoder,
    load_encoder,
    save_encoder,
)

NAMES = ("alexnet", "resnet18", "resnet50")
CHANNELS_LAST: dict[str, Any] = {"memory_format": torch.channels_last}  # which torch's types do not know


def encoder(name: str, seed: int = 0, **values: object) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder(EncoderConfig.parse({"name": name, "width": 8, **values}))


def images(size: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size))


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_architectures_are_found() -> None:
    assert set(NAMES) <= all_encoders().keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("stem", "size"), [("small", 32), ("small", 65), ("small", 96), ("large", 32), ("large", 64), ("large", 224)]
)
def test_every_layer_has_its_channels_and_shrinks(name: str, stem: str, size: int) -> None:
    network = encoder(name, stem=stem).eval()
    with torch.no_grad():
        maps = network(images(size))
    assert tuple(maps) == network.layers == tuple(network.channels)
    sides = [x.shape[-1] for x in maps.values()]
    assert sides == sorted(sides, reverse=True) and sides[-1] >= 1
    for layer, x_BCHW in maps.items():
        assert x_BCHW.shape[:2] == (2, network.channels[layer])
        assert x_BCHW.min() >= 0, "maps are taken after the ReLU"
        assert x_BCHW.std() > 1e-3


@pytest.mark.parametrize(
    ("name", "stem", "size", "sides"),
    [
        ("alexnet", "small", 32, [32, 16, 8, 8, 8]),
        ("alexnet", "large", 224, [55, 27, 13, 13, 13]),
        ("resnet18", "small", 32, [32, 32, 16, 8, 4]),
        ("resnet18", "large", 224, [112, 56, 28, 14, 7]),
        ("resnet50", "large", 224, [112, 56, 28, 14, 7]),
    ],
)
def test_published_sides(name: str, stem: str, size: int, sides: list[int]) -> None:
    with torch.no_grad():
        assert [x.shape[-1] for x in encoder(name, stem=stem).eval()(images(size, 1)).values()] == sides


@pytest.mark.parametrize("name", NAMES)
def test_depth_keeps_the_first_stages(name: str) -> None:
    whole, cut = encoder(name).eval(), encoder(name, depth=3).eval()
    assert cut.layers == whole.layers[:3]
    cut.load_state_dict({key: value for key, value in whole.state_dict().items() if key in cut.state_dict()})
    with torch.no_grad():
        maps = whole(images(32))
        assert all(torch.equal(x, maps[layer]) for layer, x in cut(images(32)).items())
    with pytest.raises(UserError, match=r"5 stages, not 6: give 1 to 5"):
        encoder(name, depth=6)


# -- torchvision -------------------------------------------------------------------------------------------------------


def resnet_keys(blocks: tuple[int, ...], convolutions: int) -> list[str]:
    """torchvision's key names, spelled out: first the trunk's, then block by block."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    keys = ["conv1.weight", *(f"bn1.{n}" for n in norm)]
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            for i in range(1, convolutions + 1):
                keys += [f"layer{stage}.{block}.conv{i}.weight", *(f"layer{stage}.{block}.bn{i}.{n}" for n in norm)]
            if block == 0 and (stage > 1 or convolutions == 3):
                keys += [f"layer{stage}.0.downsample.0.weight", *(f"layer{stage}.0.downsample.1.{n}" for n in norm)]
    return keys


ALEXNET_KEYS = [
    "features.0.weight", "features.0.bias", "features.3.weight", "features.3.bias", "features.6.weight",
    "features.6.bias", "features.8.weight", "features.8.bias", "features.10.weight", "features.10.bias",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "norm", "keys", "entries", "parameters"),
    [
        ("alexnet", "none", ALEXNET_KEYS, 10, 2_469_696),
        ("resnet18", "batch", resnet_keys((2, 2, 2, 2), 2), 120, 11_176_512),
        ("resnet34", "batch", resnet_keys((3, 4, 6, 3), 2), 216, 21_284_672),
        ("resnet50", "batch", resnet_keys((3, 4, 6, 3), 3), 318, 23_508_032),
    ],
)
def test_keys_and_counts_of_torchvision(name: str, norm: str, keys: list[str], entries: int, parameters: int) -> None:
    """The trunks of torchvision's models without their classifiers; ``entries`` and ``parameters`` counted there."""
    network = encoder(name, norm=norm, width=64, stem="large")
    assert len(keys) == entries
    assert list(network.state_dict()) == keys
    assert sum(p.numel() for p in network.parameters()) == parameters


def reference_alexnet(weights: dict[str, Tensor], x_BCHW: Tensor) -> list[Tensor]:
    """torchvision's `features`, written as functions."""

    def conv(n: int, x: Tensor, stride: int, padding: int) -> Tensor:
        return F.relu(F.conv2d(x, weights[f"features.{n}.weight"], weights[f"features.{n}.bias"], stride, padding))

    one = conv(0, x_BCHW, 4, 2)
    two = conv(3, F.max_pool2d(one, 3, 2), 1, 2)
    three = conv(6, F.max_pool2d(two, 3, 2), 1, 1)
    four = conv(8, three, 1, 1)
    return [one, two, three, four, conv(10, four, 1, 1)]


def reference_resnet(weights: dict[str, Tensor], x_BCHW: Tensor) -> list[Tensor]:
    """torchvision's ResNet, written as functions over its key names."""

    def unit(conv: str, bn: str, x: Tensor, stride: int = 1) -> Tensor:
        w = weights[f"{conv}.weight"]
        x = F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2)
        mean, var = weights[f"{bn}.running_mean"], weights[f"{bn}.running_var"]
        return F.batch_norm(x, mean, var, weights[f"{bn}.weight"], weights[f"{bn}.bias"])

    x = F.relu(unit("conv1", "bn1", x_BCHW, 2))
    maps, x = [x], F.max_pool2d(x, 3, 2, 1)
    for stage in range(1, 5):
        block = 0
        while (p := f"layer{stage}.{block}") + ".conv1.weight" in weights:
            stride = 2 if stage > 1 and block == 0 else 1
            short = (
                unit(f"{p}.downsample.0", f"{p}.downsample.1", x, stride)
                if f"{p}.downsample.0.weight" in weights
                else x
            )
            if f"{p}.conv3.weight" in weights:
                x = F.relu(unit(f"{p}.conv1", f"{p}.bn1", x))
                x = F.relu(unit(f"{p}.conv2", f"{p}.bn2", x, stride))
                x = F.relu(unit(f"{p}.conv3", f"{p}.bn3", x) + short)
            else:
                x = F.relu(unit(f"{p}.conv1", f"{p}.bn1", x, stride))
                x = F.relu(unit(f"{p}.conv2", f"{p}.bn2", x) + short)
            block += 1
        maps.append(x)
    return maps


@pytest.mark.parametrize(
    ("name", "norm", "reference"),
    [
        ("alexnet", "none", reference_alexnet),
        ("resnet18", "batch", reference_resnet),
        ("resnet34", "batch", reference_resnet),
        ("resnet50", "batch", reference_resnet),
    ],
)
def test_numbers_of_torchvision(
    name: str, norm: str, reference: Callable[[dict[str, Tensor], Tensor], list[Tensor]]
) -> None:
    network = encoder(name, norm=norm, stem="large").eval()
    for value in network.state_dict().values():  # running statistics and scales that are not 0 and 1
        if value.dim() == 1:
            nn.init.uniform_(value, 0.5, 1.5)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        maps = list(network(images(64)).values())
        expected = reference(network.state_dict(), (images(64) - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert len(maps) == len(expected) == 5
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# -- input, precision, memory format -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ("0.1,0.2,0.3/0.4,0.5,0.6", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    ],
)
def test_rgb_is_standardized_as_the_configuration_says(
    name: str, mean: tuple[float, ...], deviation: tuple[float, ...], tmp_path: Path
) -> None:
    network = encoder("alexnet", normalization=name)
    expected = (images(8) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    torch.testing.assert_close(network.convert(images(8)), expected, rtol=1e-6, atol=1e-6)
    save_encoder(network, tmp_path)
    torch.testing.assert_close(load_encoder(tmp_path).convert(images(8)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("imagent", "imagenet, half, none would be right"),
        ("0.5/0.5", "such as 0.5,0.5,0.5/0.25,0.25,0.25"),
        ("1,2,nan/1,1,1", "such as 0.5,0.5,0.5/0.25,0.25,0.25"),
        ("123.7,116.3,103.5/58.4,57.1,57.4", "divide by 255"),
        ("0,0,0/1,1,0", "divide by 255, and give deviations above 0"),
    ],
)
def test_a_normalization_that_is_none_is_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        encoder("alexnet", normalization=name)


def test_the_file_of_an_encoder_of_the_usual_normalization_is_as_it_was(tmp_path: Path) -> None:
    """So that whoever has scored it before finds its score again, and an earlier version can read it."""
    save_encoder(encoder("alexnet"), tmp_path)
    assert "normalization" not in json.loads((tmp_path / "config.json").read_text())["encoder"]


@pytest.mark.parametrize("kind", ["lab", "l", "ab"])
def test_input_is_converted_inside(kind: str) -> None:
    network = encoder("alexnet", input=kind).eval()
    rgb_BCHW = images(32)
    lab_BHWC = rgb2lab(rgb_BCHW.permute(0, 2, 3, 1).double().numpy())
    scaled = np.concatenate([(lab_BHWC[..., :1] - 50) / 50, lab_BHWC[..., 1:] / 110], axis=-1)
    expected = torch.from_numpy(scaled[..., {"lab": slice(0, 3), "l": slice(0, 1), "ab": slice(1, 3)}[kind]]).permute(
        0, 3, 1, 2
    )
    with torch.autocast("cpu", torch.bfloat16):
        native_BCHW = network.convert(rgb_BCHW)
    assert native_BCHW.dtype == torch.float32
    torch.testing.assert_close(native_BCHW.double(), expected, rtol=0, atol=1e-3)
    with torch.no_grad():
        assert torch.equal(network(rgb_BCHW)["conv1"], network.encode(network.convert(rgb_BCHW))["conv1"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_bf16_and_channels_last(name: str, norm: str) -> None:
    plain, fast = encoder(name, norm=norm), encoder(name, norm=norm)
    fast.load_state_dict(plain.state_dict())
    fast = fast.to(**CHANNELS_LAST)
    images_BCHW = images(32, 8).contiguous(memory_format=torch.channels_last)
    # Compared in evaluation: a fresh batch-normalized ResNet-50 enlarges any rounding error from layer to layer.
    reference = plain.eval()(images_BCHW)
    for training in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            maps = fast.train(training)(images_BCHW)
        for layer, x_BCHW in maps.items():
            assert x_BCHW.dtype == torch.bfloat16, layer
            assert x_BCHW.is_contiguous(memory_format=torch.channels_last), layer
            error = (x_BCHW.float() - reference[layer]).norm() / reference[layer].norm()
            assert training or error < 0.03, f"{layer} is off by {error:.3f}"
    maps[fast.layers[-1]].float().square().mean().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in fast.parameters() if p.dim() > 1
    )


def test_the_same_seed_gives_the_same_network() -> None:
    first, second, other = (encoder("resnet18", seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


# -- two trunks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["l+ab", "diagonal"])
def test_two_trunks_have_the_width_of_one(name: str, kind: str) -> None:
    network, whole = encoder(name, input=kind, depth=4).eval(), encoder(name, depth=4)
    assert network.channels == whole.channels and network.layers == whole.layers
    maps = network(images(32))
    assert {layer: x.shape[1] for layer, x in maps.items()} == whole.channels


@pytest.mark.parametrize("kind", ["l+ab", "diagonal"])
def test_each_trunk_sees_its_own_half(kind: str, tmp_path: Path) -> None:
    network = encoder("alexnet", input=kind, depth=1)
    save_encoder(network, tmp_path)
    network = load_encoder(tmp_path)
    rgb_BCHW = images(9)
    lab_BCHW = torch.from_numpy(rgb2lab(rgb_BCHW.permute(0, 2, 3, 1).double().numpy())).permute(0, 3, 1, 2)
    lab_BCHW = torch.cat([(lab_BCHW[:, :1] - 50) / 50, lab_BCHW[:, 1:] / 110], dim=1).float()
    if kind == "l+ab":
        halves = [lab_BCHW[:, :1], lab_BCHW[:, 1:]]
    else:
        above, below = torch.zeros_like(lab_BCHW), torch.zeros_like(lab_BCHW)
        for row in range(9):
            above[:, :, row, row:] = lab_BCHW[:, :, row, row:]
            below[:, :, row, :row] = lab_BCHW[:, :, row, :row]
        halves = [above, below]
    alone = [
        build_encoder(EncoderConfig(width=4, depth=1, input=seen))
        for seen in {"l+ab": ("l", "ab"), "diagonal": ("lab", "lab")}[kind]
    ]
    for k, trunk in enumerate(alone):
        prefix = f"trunks.{k}."
        trunk.load_state_dict(
            {key.removeprefix(prefix): v for key, v in network.state_dict().items() if key.startswith(prefix)}
        )
    with torch.no_grad():
        expected = [trunk.eval().encode(half)["conv1"] for trunk, half in zip(alone, halves, strict=True)]
        torch.testing.assert_close(network(rgb_BCHW)["conv1"], torch.cat(expected, dim=1), rtol=1e-3, atol=1e-3)


def test_the_diagonal_of_any_rectangle() -> None:
    for height, width in [(4, 4), (3, 6), (7, 5)]:
        above_HW = above_diagonal(height, width, torch.device("cpu"))
        for row, column in np.ndindex(height, width):
            assert above_HW[row, column] == ((column + 0.5) / width >= (row + 0.5) / height - 1e-9)


def test_an_odd_width_cannot_be_cut_in_two() -> None:
    with pytest.raises(UserError, match=r"encoder\.width: 9 channels cannot be cut in two: give an even number"):
        encoder("alexnet", input="l+ab", width=9)


# -- names -------------------------------------------------------------------------------------------------------------


def test_unknown_names_are_told() -> None:
    with pytest.raises(UserError, match=r"unknown encoder 'alexnt': did you mean 'alexnet'"):
        build_encoder(EncoderConfig.parse({"name": "alexnt"}))
    network = encoder("alexnet")
    assert network.select(None) == network.layers
    assert network.select(["conv3", "conv1"]) == ("conv1", "conv3")
    with pytest.raises(UserError, match=r"unknown layer of alexnet 'conv6': did you mean"):
        network.select(["conv1", "conv6"])


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_bit_equal(name: str, tmp_path: Path) -> None:
    network = encoder(name, input="lab", depth=4, stem="large").to(**CHANNELS_LAST)
    network(images(64, 4))  # moves the running statistics
    save_encoder(network, tmp_path / "new" / "folder")
    loaded = load_encoder(tmp_path / "new" / "folder")
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "encoder.safetensors"]
    assert loaded.config == network.config and not loaded.training
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), network.state_dict().values(), strict=True)
    )
    with torch.no_grad():
        expected = network.eval()(images(64))
        loaded = loaded.to(**CHANNELS_LAST)
        assert all(torch.equal(x, expected[layer]) for layer, x in loaded(images(64)).items())


def test_saving_again_replaces_and_gives_the_same_bytes(tmp_path: Path) -> None:
    save_encoder(encoder("alexnet", 1), tmp_path)
    save_encoder(encoder("alexnet", 2), tmp_path)
    first = (tmp_path / "encoder.safetensors").read_bytes()
    save_encoder(load_encoder(tmp_path), tmp_path)
    assert (tmp_path / "encoder.safetensors").read_bytes() == first
    assert torch.equal(
        load_encoder(tmp_path).state_dict()["features.0.weight"],
        encoder("alexnet", 2).state_dict()["features.0.weight"],
    )


def damage_config(change: dict[str, object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        about = json.loads((folder / "config.json").read_text())
        about["encoder"] |= change
        (folder / "config.json").write_text(json.dumps(about))

    return damage


def drop(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()

    return damage


def cut(folder: Path) -> None:
    path = folder / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def write(text: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "config.json").write_text(text)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("config.json"), r"holds no config\.json"),
        (drop("encoder.safetensors"), r"holds no encoder\.safetensors"),
        (write("{"), r"config\.json is not JSON"),
        (write("[]"), r"format None, this version reads 'genoise-encoder/1'"),
        (write('{"format": "genoise-encoder/9"}'), r"format 'genoise-encoder/9'"),
        (damage_config({"widht": 3}), r"unknown key '.*encoder\.widht': did you mean '.*encoder\.width'"),
        (damage_config({"name": "vgg"}), r"unknown encoder 'vgg'"),
        (damage_config({"width": 16}), r"features\.0\.weight is \(8, 3, 3, 3\) instead of \(16, 3, 3, 3\)"),
        (damage_config({"depth": 4}), r"features\.14\.weight is not part of the network"),
        (damage_config({"norm": "none"}), r"features\.0\.bias is missing"),
        (cut, r"not a whole safetensors file"),
    ],
)
def test_a_broken_folder_is_told_in_one_line(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    save_encoder(encoder("alexnet"), tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_encoder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no encoder folder .*nowhere: give one that holds config\.json"):
        load_encoder(tmp_path / "nowhere")
