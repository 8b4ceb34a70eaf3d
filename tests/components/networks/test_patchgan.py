"""PatchGANs: published sizes, and what one logit sees, by its gradient."""

from typing import get_args

import pytest
import torch

from components.errors import UserError
from components.networks.patchgan import Patch, PatchGAN


@pytest.mark.parametrize(
    ("patch", "channels", "norm", "expected"),
    [
        (70, 6, "batch", 2_768_705),
        (70, 3, "instance", 2_764_737),
        (1, 6, "batch", 9_153),
        (16, 6, "batch", 139_585),
        (286, 6, "batch", 11_159_361),
    ],
)
def test_published_parameter_counts(patch: Patch, channels: int, norm: str, expected: int) -> None:
    network = PatchGAN(channels, 256, patch, 64, norm)
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("patch", get_args(Patch))
def test_one_logit_sees_one_patch(patch: Patch) -> None:
    side = 2 * patch + 64
    network = PatchGAN(1, side, patch, 1, "none")
    for p in network.parameters():  # all positive: no two ways of influence cancel
        torch.nn.init.constant_(p, 0.1)
    x_BCHW = torch.ones(1, 1, side, side, requires_grad=True)
    logits_B1HW = network(x_BCHW)
    middle = logits_B1HW.shape[2] // 2
    logits_B1HW[0, 0, middle, middle].backward()
    assert x_BCHW.grad is not None
    rows = x_BCHW.grad[0, 0].abs().sum(1).nonzero().flatten()
    columns = x_BCHW.grad[0, 0].abs().sum(0).nonzero().flatten()
    for places in (rows, columns):
        assert places[0] > 0 and places[-1] < side - 1, "the patch must not touch the border"
        assert places[-1] - places[0] + 1 == patch == len(places)


@pytest.mark.parametrize(("patch", "side"), [(16, 6), (34, 12), (70, 24), (142, 48), (286, 96)])
def test_a_picture_too_small_for_a_patch_is_told(patch: Patch, side: int) -> None:
    assert PatchGAN(3, side, patch, 4, "batch").eval()(torch.zeros(1, 3, side, side)).shape == (1, 1, 1, 1)
    message = (
        rf"options\.patch={patch} needs images of {side} pixels a side or more, and these have {side - 1}: choose 1"
    )
    with pytest.raises(UserError, match=message) as error:
        PatchGAN(3, side - 1, patch, 4, "batch")
    assert "\n" not in str(error.value)
