"""The ResNet generator: the published one by its size and, written out, by its numbers."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from components.config import EncoderConfig
from components.networks.resnet_generator import Translator


def make(depth: int, width: int, size: int = 32) -> Translator:
    torch.manual_seed(0)
    values = {"name": "resnet_generator", "width": width, "depth": depth, "norm": "instance"}
    return Translator(EncoderConfig.parse(values), size)


@pytest.mark.parametrize(("depth", "expected"), [(12, 11_378_179), (9, 7_837_699)])
def test_published_parameter_counts(depth: int, expected: int) -> None:
    assert sum(p.numel() for p in make(depth, 64).parameters()) == expected


def naive_generator(weights: list[Tensor], x_BCHW: Tensor, blocks: int) -> Tensor:
    """Paddings, convolutions and statistics by hand."""
    queue = list(weights)

    def normalized(x: Tensor) -> Tensor:
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)
        return (x - mean) / (var + 1e-5).sqrt()

    def reflected(x: Tensor, by: int) -> Tensor:
        return F.conv2d(F.pad(x, (by, by, by, by), mode="reflect"), queue.pop(0), queue.pop(0))

    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = F.relu(normalized(reflected(((x_BCHW + 1) / 2 - mean) / std, 3)))
    for _ in range(2):
        x = F.relu(normalized(F.conv2d(x, queue.pop(0), queue.pop(0), stride=2, padding=1)))
    for _ in range(blocks):
        x = x + normalized(reflected(F.relu(normalized(reflected(x, 1))), 1))
    for _ in range(2):
        up = F.conv_transpose2d(x, queue.pop(0), queue.pop(0), stride=2, padding=1, output_padding=1)
        x = F.relu(normalized(up))
    x = torch.tanh(reflected(x, 3))
    assert not queue
    return x


def test_numbers_are_those_of_the_network_written_out() -> None:
    network, x_BCHW = make(5, 16), torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(network(x_BCHW), naive_generator([*network.parameters()], x_BCHW, 2))


@pytest.mark.parametrize(("name", "stem"), [("alexnet", "small"), ("alexnet", "large"), ("resnet18", "large")])
def test_any_encoder_gets_a_way_out(name: str, stem: str) -> None:
    network = Translator(EncoderConfig.parse({"name": name, "stem": stem, "width": 4}), 72)
    out_B3HW = network(torch.rand(2, 3, 72, 72) * 2 - 1)
    assert out_B3HW.shape == (2, 3, 72, 72) and out_B3HW.abs().max() <= 1
