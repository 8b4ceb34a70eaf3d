"""Extraction and pooling of features."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.config import EncoderConfig, ProbeConfig
from components.data.scramble import Int64
from components.errors import UserError
from components.networks.encoder import Encoder, build_encoder
from components.transfer.features import BATCH, extract, pool, probed_layers, subset


class Images:
    """Random images whose labels are known, in memory."""

    def __init__(self, n: int, size: int = 16) -> None:
        self.image = torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0)).byte()
        self.label = torch.arange(n) % 3

    def __len__(self) -> int:
        return len(self.label)

    def get(self, ids: Int64) -> dict[str, Tensor]:
        return {"image": self.image[ids], "label": self.label[ids]}

    def labels(self) -> Int64:
        return self.label.numpy()


def small() -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_encoder(EncoderConfig(width=4))


@pytest.mark.parametrize(
    ("shape", "features", "side"),
    [((4, 8, 8), 64, 4), ((4, 8, 8), 63, 3), ((4, 8, 8), 4, 1), ((4, 6, 8), 10_000, None), ((4, 2, 8), 40, 2)],
)
def test_pooling_takes_the_largest_grid_that_fits(shape: tuple[int, int, int], features: int, side: int | None) -> None:
    maps = torch.randn(2, *shape)
    out = pool(maps, features)
    if side is None:
        assert torch.equal(out, maps.flatten(1))
        return
    naive = torch.empty(2, shape[0], side, side)
    for i in range(side):
        for j in range(side):
            rows = slice(i * shape[1] // side, -(-(i + 1) * shape[1] // side))
            columns = slice(j * shape[2] // side, -(-(j + 1) * shape[2] // side))
            naive[:, :, i, j] = maps[:, :, rows, columns].mean((2, 3))
    torch.testing.assert_close(out, naive.flatten(1))


def test_extraction_equals_one_image_at_a_time_in_evaluation_mode() -> None:
    encoder, images = small(), Images(BATCH + 7)
    encoder.train()
    next(
        part for part in encoder.modules() if isinstance(part, nn.BatchNorm2d)
    ).eval()  # somebody froze a part: it must stay as it was
    modes = [part.training for part in encoder.modules()]
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    ids = np.array([3, 0, *range(5, BATCH + 7)])
    found = extract(encoder, images, ids, ProbeConfig(features=64), "cpu")
    assert [part.training for part in encoder.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())
    assert torch.equal(found.labels, images.label[ids])
    assert list(found.layers) == list(encoder.layers)
    encoder.eval()
    with torch.no_grad():
        for place in (0, 1, len(ids) - 1):
            maps = encoder(images.image[ids[place]][None].float() / 255)
            for name, values in found.layers.items():
                torch.testing.assert_close(values[place], pool(maps[name], 64)[0], rtol=1e-4, atol=1e-5)


def test_a_layer_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match="unknown layer of alexnet 'conv9': did you mean"):
        extract(small(), Images(4), None, ProbeConfig(layers=("conv1", "conv9")), "cpu")


def test_too_many_channels_says_which_layer_and_what_to_type() -> None:
    config = ProbeConfig(features=16)
    with pytest.raises(UserError, match=r"layer conv3 has 24 channels.* = 16: give --set benchmark.features=24"):
        probed_layers(config.model_copy(update={"layers": ("conv1", "conv3")}), small())
    with pytest.raises(UserError, match="empty"):
        probed_layers(ProbeConfig(layers=()), small())
    assert probed_layers(ProbeConfig(features=16, layers=("conv2", "conv1")), small()) == ("conv1", "conv2")


def test_an_unlabelled_data_set_is_refused() -> None:
    class Unlabelled(Images):
        def get(self, ids: Int64) -> dict[str, Tensor]:
            return {"image": self.image[ids]}

    with pytest.raises(UserError, match="needs labels"):
        extract(small(), Unlabelled(4), None, ProbeConfig(), "cpu")


def test_modes_come_back_after_an_error() -> None:
    class Broken(Images):
        def get(self, ids: Int64) -> dict[str, Tensor]:
            raise RuntimeError("disk")

    encoder = small().train()
    with pytest.raises(RuntimeError, match="disk"):
        extract(encoder, Broken(4), None, ProbeConfig(), "cpu")
    assert encoder.training


def test_subset_is_fixed_without_repeats_and_keeps_every_class() -> None:
    ids = subset(1000, 100)
    assert len(set(ids.tolist())) == 100 and ids.min() >= 0 and ids.max() < 1000
    assert np.array_equal(ids, subset(1000, 100)) and np.array_equal(ids, np.sort(ids))
    assert set((ids % 10).tolist()) == set(range(10))  # every tenth sample would be of one class only
    assert np.array_equal(subset(5, None), np.arange(5)) and np.array_equal(subset(5, 9), np.arange(5))
