"""Augmentation: all maps of a sample move alike, whatever the batch is cut into."""

import numpy as np
import pytest
import torch

from components.config import AugmentConfig
from components.data.augment import augment
from components.draws import Draws


def example(count: int = 64, size: int = 8) -> dict[str, torch.Tensor]:
    mask = torch.arange(count * size * size).reshape(count, size, size) % 251
    image = mask[:, None].repeat(1, 3, 1, 1).to(torch.uint8)
    image = image.to(memory_format=torch.channels_last)
    return {"image": image, "edges": image.clone(), "mask": mask, "label": torch.arange(count)}


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_every_map_of_a_sample_moves_alike(flip: bool, shift: int) -> None:
    batch = example()
    out = augment(batch, AugmentConfig(flip=flip, shift=shift), Draws(0, torch.arange(64)))
    assert out["image"].dtype == torch.float32
    assert torch.equal((out["image"] * 255).round().long()[:, 1], out["mask"])
    assert torch.equal(out["edges"], out["image"])
    assert torch.equal(out["label"], batch["label"])
    assert torch.equal(out["mask"], batch["mask"]) == (not flip and not shift)


def test_values_against_numpy() -> None:
    """Reference: numpy's reflecting pad, cut out at the place that was drawn, mirrored where it was drawn."""
    batch = example()
    out = augment(batch, AugmentConfig(flip=True, shift=3), Draws(5, torch.arange(64)))["mask"].numpy()
    draws = Draws(5, torch.arange(64))
    flips, shifts = draws.bernoulli(0.5).numpy(), (draws.integers(7, 2) - 3).numpy()
    assert 16 < flips.sum() < 48
    for k in range(64):
        image = batch["mask"][k].numpy()
        image = image[:, ::-1] if flips[k] else image
        down, right = shifts[k]
        expected = np.pad(image, 3, mode="reflect")[3 - down : 11 - down, 3 - right : 11 - right]
        assert np.array_equal(out[k], expected)


def test_cutting_a_batch_changes_nothing() -> None:
    batch, config = example(), AugmentConfig(flip=True, shift=2)
    whole = augment(batch, config, Draws(1, torch.arange(64)))
    for part in torch.arange(64).tensor_split(3):
        piece = augment({k: v[part] for k, v in batch.items()}, config, Draws(1, part))
        for name, value in piece.items():
            assert torch.equal(value, whole[name][part])
