"""Patches: cutting, pasting and equalizing against loops; what the head compares."""

from itertools import product

import pytest
import torch

from components.networks.patches import PatchHead, cut_patches, equalize, paste_patches, resized


def test_cut_patches_are_the_pixels_from_the_corners_on() -> None:
    image_BCHW = torch.rand(2, 3, 9, 7)
    corner_BP2 = torch.tensor([[[0, 0], [5, 3], [2, 1]], [[1, 2], [0, 3], [5, 0]]])
    patches_BPCHW = cut_patches(image_BCHW, corner_BP2, 4)
    assert patches_BPCHW.shape == (2, 3, 3, 4, 4)
    for b in range(2):
        for p, (row, column) in enumerate(corner_BP2[b].tolist()):
            assert torch.equal(patches_BPCHW[b, p], image_BCHW[b, :, row : row + 4, column : column + 4])


def test_pasted_patches_cover_each_other_in_order() -> None:
    patches_BPCHW = torch.rand(2, 3, 3, 4, 4)
    corner_BP2 = torch.tensor([[[0, 0], [2, 2], [4, 4]], [[1, 1], [1, 1], [1, 1]]])
    canvas_BCHW = paste_patches(patches_BPCHW, corner_BP2, 9)
    expected = torch.full((2, 3, 9, 9), 0.5)
    for b in range(2):
        for p, (row, column) in enumerate(corner_BP2[b].tolist()):
            expected[b, :, row : row + 4, column : column + 4] = patches_BPCHW[b, p]
    assert torch.equal(canvas_BCHW, expected)


def test_equalized_patches_have_the_mean_and_deviation_of_their_picture() -> None:
    image = torch.rand(2, 3, 9, 9) * torch.tensor([0.5, 1, 5]).view(3, 1, 1)
    patches = torch.rand(2, 4, 3, 8, 8) * (0.2 + torch.rand(2, 4, 3, 1, 1)) + 0.5
    patches[1, 3, 0] = 7.0
    equal = equalize(patches, image)
    for b, p, c in product(range(2), range(4), range(3)):
        assert equal[b, p, c].mean().item() == pytest.approx(image[b, c].mean().item(), abs=1e-4)
        deviation = 0.0 if (b, p, c) == (1, 3, 0) else image[b, c].std(correction=0).item()
        assert equal[b, p, c].std(correction=0).item() == pytest.approx(deviation, rel=0.02, abs=1e-5)


def test_only_patches_that_are_too_small_are_resized() -> None:
    patches = torch.rand(2, 3, 8, 8)
    assert resized(patches, 8) is patches
    assert resized(patches, 16).shape == (2, 3, 16, 16)


def test_the_head_compares_the_patches_of_a_group_in_their_order() -> None:
    head, maps_NCHW = PatchHead(4, side=5, patches=2, width=2, classes=3), torch.rand(3, 4, 5, 5)
    groups = torch.tensor([[0, 1], [1, 0], [0, 2], [0, 1]])
    logits = head(maps_NCHW, groups)
    assert logits.shape == (4, 3) and torch.equal(logits[0], logits[3])
    assert not torch.allclose(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2])
    torch.testing.assert_close(head(maps_NCHW[[2, 0]], torch.tensor([[1, 0]]))[0], logits[2])
