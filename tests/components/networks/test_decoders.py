"""Decoders, heads and the discriminator: shapes at all sizes, arithmetic against loops, initialization."""

import pytest
import torch
from torch import nn

from components.config import EncoderConfig
from components.networks.decoders import ChannelwiseLinear, Classifier, Decoder, deepest_shape, fitting_side
from components.networks.discriminators import ImageDiscriminator
from components.networks.encoder import build_encoder
from components.networks.init import initialize_normal


@pytest.mark.parametrize(("side", "out_side"), [(8, 32), (8, 8), (13, 56), (13, 224), (7, 224), (1, 16), (3, 2)])
def test_decoder_gives_the_size_that_was_asked_for(side: int, out_side: int) -> None:
    decoder = Decoder(4, side, 5, out_side, width=16)
    assert decoder(torch.randn(2, 4, side, side)).shape == (2, 5, out_side, out_side)


@pytest.mark.parametrize("side", [2, 7, 8, 16, 33, 64, 112, 224])
def test_discriminator_gives_one_logit_per_picture(side: int) -> None:
    assert ImageDiscriminator(3, side, width=4)(torch.randn(2, 3, side, side)).shape == (2,)


def test_channelwise_linear_is_one_matrix_per_channel() -> None:
    layer, x_BCHW = ChannelwiseLinear(2, side=3), torch.randn(4, 2, 3, 3)
    y_BCHW = layer(x_BCHW)
    for b in range(4):
        for c in range(2):
            torch.testing.assert_close(y_BCHW[b, c].flatten(), x_BCHW[b, c].flatten() @ layer.weight_CNN[c])


def test_channelwise_linear_carries_one_corner_to_the_other() -> None:
    x_BCHW = torch.zeros(1, 1, 3, 3, requires_grad=True)
    ChannelwiseLinear(1, side=3)(x_BCHW)[0, 0, 2, 2].backward()
    assert x_BCHW.grad is not None and x_BCHW.grad[0, 0, 0, 0] != 0


def test_classifier_does_not_mind_where_something_is() -> None:
    head, x_BCHW = Classifier(3, 5), torch.randn(2, 3, 4, 4)
    assert head(x_BCHW).shape == (2, 5)
    torch.testing.assert_close(head(x_BCHW), head(x_BCHW.flip(2).roll(1, 3)))


def test_looking_at_the_deepest_shape_leaves_no_trace() -> None:
    encoder = build_encoder(EncoderConfig(width=4, input="l"))
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert deepest_shape(encoder, 32) == (16, 8)
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_adversarial_initialization() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 64, 4), nn.BatchNorm2d(64), nn.ConvTranspose2d(64, 8, 4), nn.Linear(64, 64))
    initialize_normal(network)
    for layer, mean in zip(network, (0.0, 1.0, 0.0, 0.0), strict=True):
        weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
        assert weight.mean().item() == pytest.approx(mean, abs=0.01)
        assert weight.std().item() == pytest.approx(0.02, rel=0.3)
        assert bias.eq(0).all()


@pytest.mark.parametrize(
    ("name", "stem", "side", "fits"),
    [("alexnet", "small", 8, 8), ("alexnet", "small", 3, 4), ("alexnet", "large", 27, 32), ("resnet18", "large", 5, 5)],
)
def test_small_images_are_enlarged_to_what_the_encoder_takes(name: str, stem: str, side: int, fits: int) -> None:
    encoder = build_encoder(EncoderConfig.parse({"name": name, "width": 4, "stem": stem}))
    assert fitting_side(encoder, side) == fits
    encoder.eval()(torch.rand(1, 3, fits, fits))
