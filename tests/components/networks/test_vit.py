"""The vision transformer against timm's, written as loops over its key names; positions, patches, sizes, rescaling.

Legend of shape suffixes: B samples, C channels, H height, W width, N patches, V patches that are looked at, T tokens,
D values of a token.
"""

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.config import EncoderConfig
from components.errors import UserError
from components.networks.encoder import TwoTrunks, build_encoder, load_encoder, save_encoder
from components.networks.rescaling import rescale
from components.networks.vit import VisionTransformer, cut_into_patches, pick, positions, put_together
from components.tasks.base import build_task


def vit(seed: int = 0, **values: Any) -> VisionTransformer:
    """A small one whose every parameter is random, so that none can be left out unnoticed."""
    torch.manual_seed(seed)
    network = build_encoder(EncoderConfig.model_validate({"name": "vit", "width": 8, "depth": 3} | values))
    assert isinstance(network, VisionTransformer)
    for name, parameter in network.named_parameters():
        if "norm" in name or "bias" in name or "cls" in name:
            nn.init.normal_(parameter, float("norm" in name and "weight" in name), 0.3)
    return network.eval()


def images(height: int, width: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height))


def block_keys(k: int) -> list[str]:
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    return [f"blocks.{k}.{layer}.{part}" for layer in layers for part in ("weight", "bias")]


def test_keys_and_count_are_those_of_timm_s_vit_base() -> None:
    """Counted there: 85,798,656 without the classifier, of which 197 times 768 are positions."""
    network = build_encoder(EncoderConfig(name="vit", width=64, stem="large"))
    blocks = [key for k in range(12) for key in block_keys(k)]
    first = ["cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    assert list(network.state_dict()) == [*first, *blocks, "norm.weight", "norm.bias"]
    assert sum(p.numel() for p in network.parameters()) == 85_798_656 - 197 * 768
    assert network.get_submodule("blocks.0.attn").heads == 12


@pytest.mark.parametrize(("width", "values", "heads"), [(4, 48, 1), (16, 192, 3), (28, 336, 4), (32, 384, 6)])
def test_width_is_a_twelfth_of_a_token_and_heads_look_at_64_values_or_more(width: int, values: int, heads: int) -> None:
    network = vit(width=width, depth=1)
    assert network.channels == {"block1": values}
    assert network.get_submodule("blocks.0.attn").heads == heads


# -- numbers -----------------------------------------------------------------------------------------------------------


def naive_positions(height: int, width: int, values: int) -> Tensor:
    """The authors' of MAE, as a loop: the first half of the values tells the column, the other the row."""
    table = torch.zeros(height * width, values, dtype=torch.float64)
    for row, column, k in product(range(height), range(width), range(values // 4)):
        rate = 1 / 10_000 ** (k / (values / 4))
        told = (math.sin(column * rate), math.cos(column * rate), math.sin(row * rate), math.cos(row * rate))
        for part, value in enumerate(told):
            table[row * width + column, part * (values // 4) + k] = value
    return table


@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (8, 8)])
def test_positions_are_those_of_a_loop(grid: tuple[int, int]) -> None:
    found = positions(*grid, 24)
    torch.testing.assert_close(found.double(), naive_positions(*grid, 24), rtol=0, atol=1e-5)
    assert len({tuple(row) for row in found.tolist()}) == grid[0] * grid[1], "every place is told from every other"


def normalized(x_D: Tensor, weight_D: Tensor, bias_D: Tensor) -> Tensor:
    return (x_D - x_D.mean()) / ((x_D - x_D.mean()).square().mean() + 1e-6).sqrt() * weight_D + bias_D


def naive_forward(weights: dict[str, Tensor], native_3HW: Tensor, side: int, heads: int, blocks: int) -> list[Tensor]:
    """timm's vision transformer of one picture, token by token and head by head; the tokens behind every block."""

    def affine(key: str, x: Tensor) -> Tensor:
        return weights[f"{key}.weight"] @ x + weights[f"{key}.bias"]

    def norm(key: str, x: Tensor) -> Tensor:
        return normalized(x, weights[f"{key}.weight"], weights[f"{key}.bias"])

    height, width = native_3HW.shape[1] // side, native_3HW.shape[2] // side
    kernel, places = weights["patch_embed.proj.weight"], naive_positions(height, width, len(weights["norm.bias"]))
    tokens = [weights["cls_token"][0, 0]]
    for row, column in product(range(height), range(width)):
        patch = native_3HW[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
        embedded = torch.stack([(each * patch).sum() for each in kernel]) + weights["patch_embed.proj.bias"]
        tokens.append(embedded + places[row * width + column])
    found = []
    for k in range(blocks):
        at, each = f"blocks.{k}", len(tokens[0]) // heads
        qkv = [affine(f"{at}.attn.qkv", norm(f"{at}.norm1", x)).view(3, heads, each) for x in tokens]
        for t, x in enumerate(list(tokens)):
            seen = []
            for head in range(heads):
                scores = torch.stack([qkv[t][0, head] @ other[1, head] / each**0.5 for other in qkv]).softmax(0)
                seen.append(
                    torch.stack([score * other[2, head] for score, other in zip(scores, qkv, strict=True)]).sum(0)
                )
            tokens[t] = x + affine(f"{at}.attn.proj", torch.cat(seen))
        for t, x in enumerate(list(tokens)):
            inside = affine(f"{at}.mlp.fc1", norm(f"{at}.norm2", x))
            gelu = inside * (1 + torch.erf(inside / 2**0.5)) / 2
            tokens[t] = x + affine(f"{at}.mlp.fc2", gelu)
        found.append(torch.stack([norm("norm", x) for x in tokens[1:]]))
    return found


@pytest.mark.parametrize(("stem", "size", "width"), [("small", (12, 16), 8), ("large", (32, 16), 32)])
def test_maps_are_those_of_a_loop(stem: str, size: tuple[int, int], width: int) -> None:
    network = vit(stem=stem, width=width).double()
    native_BCHW = torch.randn(2, 3, *size, dtype=torch.float64)
    heads = 12 * width // 64 or 1
    with torch.no_grad():
        maps = network.encode(native_BCHW)
        deepest = network.deepest(native_BCHW)
        for b in range(2):
            expected = naive_forward(network.state_dict(), native_BCHW[b], network.patch, heads, 3)
            for map_BDHW, tokens_ND in zip(maps.values(), expected, strict=True):
                torch.testing.assert_close(map_BDHW[b].flatten(1).T, tokens_ND, rtol=1e-5, atol=1e-5)
    assert torch.equal(deepest, maps["block3"])
    assert maps["block1"].shape[2:] == (size[0] // network.patch, size[1] // network.patch)


def test_some_patches_are_seen_as_if_there_were_no_others() -> None:
    network = vit()
    native_BCHW = torch.randn(3, 3, 16, 16)
    visible_BV = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(b))[:5] for b in range(3)])
    patches = cut_into_patches(torch.arange(16 * 16).view(1, 1, 16, 16).float(), 4)[0].long()
    other = native_BCHW.clone()
    for b in range(3):
        hidden = torch.ones(16 * 16, dtype=torch.bool)
        hidden[patches[visible_BV[b]].flatten()] = False
        other[b, :, hidden.view(16, 16)] = 7.0
    with torch.no_grad():
        seen = network.look_at(native_BCHW, visible_BV)
        assert torch.equal(seen, network.look_at(other, visible_BV))
        assert not torch.allclose(seen, pick(network.deepest(native_BCHW).flatten(2).transpose(1, 2), visible_BV))
        everything_BV = torch.arange(16).expand(3, -1)
        whole = network.look_at(native_BCHW, everything_BV)
        torch.testing.assert_close(whole, network.deepest(native_BCHW).flatten(2).transpose(1, 2))


def test_patches_are_those_of_a_loop_and_go_back() -> None:
    x_BCHW = torch.rand(2, 3, 6, 9)
    patches = cut_into_patches(x_BCHW, 3)
    for b, row, column, h, w, c in product(range(2), range(2), range(3), range(3), range(3), range(3)):
        assert patches[b, row * 3 + column, (h * 3 + w) * 3 + c] == x_BCHW[b, c, row * 3 + h, column * 3 + w]
    assert torch.equal(put_together(patches, 3, 6, 9), x_BCHW)


# -- as an encoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stem", "size"), [("small", 32), ("small", 36), ("small", 96), ("large", 64), ("large", 224)])
def test_every_multiple_of_a_patch_is_taken(stem: str, size: int) -> None:
    network = vit(stem=stem, width=4)
    side = size // {"small": 4, "large": 16}[stem]
    with torch.no_grad():
        assert {layer: tuple(x.shape) for layer, x in network(images(size, size)).items()} == {
            f"block{k}": (2, 48, side, side) for k in (1, 2, 3)
        }


@pytest.mark.parametrize(
    ("stem", "size", "message"),
    [("small", 30, "30 is no multiple: set data.size=28 or 32"), ("large", 12, "=16 or 32")],
)
@pytest.mark.parametrize("task", ["random", "rotation", "autoencoder"])
def test_other_sizes_are_refused_in_one_line_before_anything_is_trained(
    task: str, stem: str, size: int, message: str
) -> None:
    config = EncoderConfig.model_validate({"name": "vit", "width": 4, "depth": 1, "stem": stem})
    with pytest.raises(UserError, match=message) as error:
        build_task(task, {}, config, size, 0, seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_another_normalization_is_refused(norm: str) -> None:
    with pytest.raises(UserError, match=f"encoder.norm={norm}: vit has layer normalization") as error:
        vit(norm=norm)
    assert "\n" not in str(error.value)


def test_depth_keeps_the_first_blocks() -> None:
    whole, cut = vit(), vit(depth=2)
    cut.load_state_dict({key: value for key, value in whole.state_dict().items() if key in cut.state_dict()})
    with torch.no_grad():
        maps = whole(images(16, 16))
        assert all(torch.equal(x, maps[layer]) for layer, x in cut(images(16, 16)).items())
    with pytest.raises(UserError, match=r"12 stages, not 13: give 1 to 12"):
        vit(depth=13)


def test_a_saved_one_is_the_same(tmp_path: Path) -> None:
    network = vit(input="lab")
    save_encoder(network, tmp_path)
    with torch.no_grad():
        again = load_encoder(tmp_path)(images(16, 20))
        assert all(torch.equal(x, again[layer]) for layer, x in network(images(16, 20)).items())


def test_two_trunks_share_the_input() -> None:
    network = build_encoder(EncoderConfig(name="vit", width=16, depth=2, input="l+ab")).eval()
    assert isinstance(network, TwoTrunks)
    assert {x.shape for x in network(images(16, 16)).values()} == {(2, 192, 4, 4)}


def test_low_precision_stays_near() -> None:
    network = vit()
    with torch.no_grad():
        full = network(images(16, 16))
        with torch.autocast("cpu", torch.bfloat16):
            low = network(images(16, 16))
    for layer, x in full.items():
        assert (low[layer].float() - x).abs().max() < 0.1 * x.abs().max(), layer


def test_rescaled_layers_have_zero_mean_and_unit_variance() -> None:
    found: dict[str, Tensor] = {}
    network = vit()
    rescale(network, images(16, 16, 16))

    def watch(name: str, part: nn.Module) -> None:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            values = output.transpose(0, 1).flatten(1) if isinstance(part, nn.Conv2d) else output.flatten(0, 1).T
            found[name] = values.double()

        part.register_forward_hook(hook)

    for name, part in network.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            watch(name, part)
    with torch.no_grad():
        network(images(16, 16, 16))
    assert len(found) == 1 + 3 * 4
    for name, values_CN in found.items():
        assert values_CN.mean(1).abs().max() < 1e-4, name
        assert (values_CN.var(1, correction=0) - 1).abs().max() < 1e-3, name
