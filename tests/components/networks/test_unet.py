"""The U-Net: the published one by its size and, written out, by its numbers; any encoder's way down with a way up."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import EncoderConfig
from components.draws import Draws
from components.errors import UserError
from components.networks.encoder import Encoder, build_encoder
from components.networks.unet import UNetDecoder


def make(depth: int, width: int = 4, norm: str = "batch", kind: str = "rgb") -> Encoder:
    torch.manual_seed(0)
    values = {"name": "unet", "width": width, "depth": depth, "norm": norm, "input": kind}
    return build_encoder(EncoderConfig.parse(values))


def draws(count: int) -> Draws:
    return Draws(0, torch.arange(count))


def parameters(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


@pytest.mark.parametrize(
    ("depth", "kind", "out", "expected"),
    [(8, "rgb", 3, 54_413_955), (8, "l", 2, 54_409_858), (7, "rgb", 3, 41_828_995)],
)
def test_published_parameter_counts(depth: int, kind: str, out: int, expected: int) -> None:
    with torch.device("meta"):
        encoder = make(depth, 64, kind=kind)
    decoder = UNetDecoder(encoder.to_empty(device="cpu"), 2**depth, out, skips=True, dropout=0.5)
    assert parameters(encoder, decoder) == expected


def naive_unet(weights: list[Tensor], x_BCHW: Tensor, depth: int) -> Tensor:
    """Convolutions and statistics by hand; batch statistics, scales and offsets as they were drawn."""
    queue = list(weights)

    def normalized(x: Tensor) -> Tensor:
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        scale, offset = queue.pop(0), queue.pop(0)
        return (x - mean) / (var + 1e-5).sqrt() * scale.view(1, -1, 1, 1) + offset.view(1, -1, 1, 1)

    maps, x = [], x_BCHW
    for k in range(depth):
        x = F.conv2d(x if k == 0 else F.leaky_relu(x, 0.2), queue.pop(0), stride=2, padding=1)
        x = normalized(x) if 0 < k < depth - 1 else x
        maps.append(x)
    for k in reversed(range(depth)):
        x = x if k == depth - 1 else torch.cat([maps[k], x], 1)
        x = F.conv_transpose2d(F.relu(x), queue.pop(0), queue.pop(0) if k == 0 else None, stride=2, padding=1)
        x = normalized(x) if k else torch.tanh(x)
    assert not queue
    return x


def test_numbers_are_those_of_the_network_written_out() -> None:
    encoder, x_BCHW = make(4), torch.randn(3, 3, 32, 32)
    decoder = UNetDecoder(encoder, 32, 3, skips=True, dropout=0.0)
    expected = naive_unet([*encoder.parameters(), *decoder.parameters()], x_BCHW, 4)
    torch.testing.assert_close(decoder(encoder.encode(x_BCHW), x_BCHW.shape[2:], draws(3)), expected)


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "unet", "resnet_generator"])
@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize(("stem", "size"), [("small", 32), ("large", 72)])
def test_any_encoder_gets_a_way_up(name: str, skips: bool, stem: str, size: int) -> None:
    depth = 5 if name == "unet" else None
    values = {"name": name, "width": 4, "stem": stem, "depth": depth, "norm": "instance"}
    encoder = build_encoder(EncoderConfig.parse(values))
    decoder = UNetDecoder(encoder, size, 2, skips, dropout=0.5)
    maps = encoder.encode(torch.randn(2, 3, size, size))
    leaves = {layer: map_.detach().requires_grad_() for layer, map_ in maps.items()}
    out_BCHW = decoder(leaves, torch.Size((size, size)), draws(2))
    assert out_BCHW.shape == (2, 2, size, size) and out_BCHW.abs().max() <= 1
    out_BCHW.square().sum().backward()
    seen = [layer for layer, leaf in leaves.items() if leaf.grad is not None and leaf.grad.any()]
    assert seen == (list(maps) if skips else [encoder.layers[-1]])


def test_dropout_is_noise_that_belongs_to_samples_also_in_evaluation() -> None:
    encoder = make(5).eval()
    decoder = UNetDecoder(encoder, 32, 3, skips=True, dropout=0.5).eval()
    maps, size = encoder.encode(torch.randn(1, 3, 32, 32).expand(4, -1, -1, -1)), torch.Size((32, 32))
    whole = decoder(maps, size, draws(4))
    assert not torch.equal(whole[0], whole[1])
    part = decoder({layer: map_[2:3] for layer, map_ in maps.items()}, size, Draws(0, torch.tensor([2])))
    torch.testing.assert_close(part, whole[2:3])


def test_dropout_keeps_the_mean() -> None:
    encoder = make(2, norm="none").eval()
    decoder = UNetDecoder(encoder, 8, 1, skips=False, dropout=0.25)
    maps = {layer: torch.rand(1, c, 8 >> k + 1, 8 >> k + 1).expand(4000, -1, -1, -1)
            for k, (layer, c) in enumerate(encoder.channels.items())}  # fmt: skip
    step = decoder.steps[0]
    seen: list[Tensor] = []
    decoder.steps[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    decoder(maps, torch.Size((8, 8)), draws(4000))
    before = F.relu(step(maps["down2"][:1]))
    torch.testing.assert_close(seen[0].mean(0, keepdim=True), before, rtol=0.1, atol=1e-4)
    assert (seen[0] == 0)[:, before[0] > 0].float().mean().item() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(("size", "times"), [(32, 5), (40, 5), (31, 4), (255, 7)])
def test_an_image_that_cannot_be_halved_so_often_is_told(size: int, times: int) -> None:
    with pytest.raises(UserError, match=rf"halves an image 8 times, and {size} pixels can be halved {times} times: "):
        make(8).encode(torch.zeros(1, 3, size, size))
    assert make(times).encode(torch.zeros(2, 3, size, size))[f"down{times}"].shape[2] == 1
