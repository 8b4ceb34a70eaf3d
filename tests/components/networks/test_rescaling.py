"""After rescaling, every affine layer gives out zero mean and unit variance on the data: measured with hooks."""

import pytest
import torch
from torch import Tensor, nn

from components.config import EncoderConfig
from components.networks.encoder import Encoder, build_encoder
from components.networks.rescaling import rescale


def images(seed: int = 0, count: int = 24) -> Tensor:
    """Smooth random images with correlated channels, far from zero mean: nothing is normalized by accident."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 4, 4, generator=g) * 0.7 + torch.rand(count, 3, 4, 4, generator=g) * 0.3
    return nn.functional.interpolate(coarse, size=32, mode="bilinear") * 0.5 + 0.4


def measure(
    module: nn.Module, kinds: tuple[type[nn.Module], ...], images_BCHW: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """{name: (mean, variance) per channel} of what every layer of ``kinds`` gives out in evaluation."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> None:
        def hook(part: nn.Module, args: object, output: Tensor) -> None:
            values_CN = output.double().transpose(0, 1).flatten(1)
            found[name] = values_CN.mean(1), values_CN.var(1, correction=0)

        handles.append(module.get_submodule(name).register_forward_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, part in module.named_modules():
        if isinstance(part, kinds):
            watch(name)
    with torch.no_grad():
        module.eval()(images_BCHW)
    for handle in handles:
        handle.remove()
    assert found
    return found


def encoder(name: str, norm: str, **changes: object) -> Encoder:
    torch.manual_seed(1)
    return build_encoder(EncoderConfig.parse({"name": name, "norm": norm, "width": 8, **changes}))


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "resnet50"])
def test_without_normalization_every_convolution_is_centred_and_scaled(name: str) -> None:
    network = encoder(name, "none")
    before = measure(network, (nn.Conv2d,), images())
    assert any((var - 1).abs().max() > 0.3 for _, var in before.values()), "the images or the network test nothing"
    rescale(network, images())
    for layer, (mean, var) in measure(network, (nn.Conv2d,), images()).items():
        assert mean.abs().max() < 1e-4, layer
        assert (var - 1).abs().max() < 1e-3, layer


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_with_batch_norm_the_running_statistics_take_the_mean(name: str) -> None:
    network = encoder(name, "batch")
    rescale(network, images())
    for layer, (_, var) in measure(network, (nn.Conv2d,), images()).items():
        assert (var - 1).abs().max() < 1e-3, layer
    for layer, (mean, var) in measure(network, (nn.BatchNorm2d,), images()).items():
        assert mean.abs().max() < 1e-4, layer
        assert (var - 1).abs().max() < 1e-3, layer


def test_filters_keep_their_direction() -> None:
    """Rescaling is all it does: each filter is the old one times a positive number."""
    network = encoder("alexnet", "none")
    old = {key: value.clone() for key, value in network.state_dict().items()}
    rescale(network, images())
    for key, value in network.state_dict().items():
        if key.endswith("weight"):
            cosine = nn.functional.cosine_similarity(old[key].flatten(1), value.flatten(1))
            assert cosine.min() > 1 - 1e-5


def test_a_shared_layer_is_adjusted_where_it_runs_first() -> None:
    torch.manual_seed(2)
    values = torch.rand(64, 6)
    shared = nn.Linear(6, 6)
    rescale(nn.Sequential(shared, nn.ReLU(), shared), values)
    (mean, var), *_ = measure(nn.Sequential(shared), (nn.Linear,), values).values()
    assert mean.abs().max() < 1e-4
    assert (var - 1).abs().max() < 1e-3


def test_nothing_is_left_behind() -> None:
    """Modes stay as they were, no hook remains, and dropout did not disturb the measurement."""
    module = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.BatchNorm1d(6).eval())
    rescale(module, torch.rand(64, 4))
    assert [part.training for part in module.modules()] == [True, True, True, False]
    assert not any(part._forward_hooks for part in module.modules())


def test_a_constant_channel_is_centred_and_not_blown_up() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1))
    conv = network[0]
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    with torch.no_grad():
        conv.weight[0] = 0
        conv.bias.fill_(3)
    rescale(network, images())
    assert conv.bias[0] == 0 and torch.isfinite(conv.weight).all()
    assert conv.weight.abs().max() < 1e3
