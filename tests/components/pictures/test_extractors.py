"""Features of pictures: from an encoder, from a TorchScript file."""

import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.config import EncoderConfig
from components.errors import UserError
from components.networks.encoder import build_encoder
from components.pictures.extractors import Extractor, encoder_extractor, script_extractor

CPU = torch.device("cpu")


class Means(nn.Module):
    """Mean of every channel; with ``return_features``, as published Inceptions have it, in units of 255."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        means = x.float().mean(dim=[2, 3])
        return means / 255 if return_features else means


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def script(module: nn.Module) -> bytes:
    jit: Any = torch.jit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        buffer = io.BytesIO()
        jit.save(jit.script(module), buffer)
    return buffer.getvalue()


def pictures(side: int = 32) -> Tensor:
    return torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_an_encoder_gives_the_means_of_a_layer() -> None:
    encoder = build_encoder(EncoderConfig(width=8)).eval()
    maps = encoder(pictures().float() / 255)
    for layer, wanted in ((None, encoder.layers[-1]), ("conv2", "conv2")):
        extractor = encoder_extractor(encoder, layer)
        torch.testing.assert_close(extractor(pictures()), maps[wanted].mean((2, 3)))
        assert extractor.protocol["layer"] == wanted
    with pytest.raises(UserError, match="did you mean 'conv2'"):
        encoder_extractor(encoder, "conw2")


def test_pictures_are_resized_before() -> None:
    seen: list[Tensor] = []

    def watch(picture_B3HW: Tensor) -> Tensor:
        seen.append(picture_B3HW)
        return picture_B3HW.float().mean((2, 3))

    extractor = Extractor(watch, {})
    extractor(pictures(), resize=64)
    extractor(pictures(), resize=32)
    assert [tuple(x.shape) for x in seen] == [(3, 3, 64, 64), (3, 3, 32, 32)]
    assert torch.equal(seen[1], pictures()) and seen[0].dtype == torch.uint8


def test_a_network_in_a_file() -> None:
    extractor = script_extractor(script(Means()), CPU)
    torch.testing.assert_close(extractor(pictures()), pictures().float().mean((2, 3)) / 255)


@pytest.mark.parametrize("content", [b"", b"not a network", script(Plain())])
def test_a_file_that_is_no_such_network_is_refused(content: bytes) -> None:
    with pytest.raises(UserError, match="extractor"):
        script_extractor(content, CPU)
