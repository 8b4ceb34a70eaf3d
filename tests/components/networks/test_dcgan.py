"""DCGAN and what GANs share: published sizes, sides, spectral norms, whose statistics the encoder keeps.

Legend of shape suffixes: B samples, C channels, H height, W width, Z latent.
"""

import pytest
import torch
from torch import Tensor, nn

from components.config import EncoderConfig
from components.errors import UserError
from components.networks.conditions import LabelCondition, PictureCondition, VectorCondition
from components.networks.dcgan import Generator, JointDiscriminator
from components.networks.encoder import build_encoder, load_encoder, save_encoder
from components.networks.gan import Discriminator, GanOptions
from components.networks.norm import BatchNorm2d, statistics_kept
from components.networks.spectral import normalize_spectrally, with_plain_weights


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def encoder(**values: object) -> EncoderConfig:
    return EncoderConfig.parse({"name": "dcgan", "width": 8, "norm": "none", **values})


def images(size: int = 16, number: int = 3) -> Tensor:
    return 2 * torch.rand(number, 3, size, size) - 1


def test_parameters_are_as_many_as_published() -> None:
    """The widespread PyTorch version of the authors' code: 100 numbers, 64 px, 64 channels, no biases."""
    assert count(Generator(100, 64, 64)) == 3_576_704
    body = build_encoder(EncoderConfig(name="dcgan", width=64, stem="large"))
    assert count(body) + 512 * 4 * 4 == 2_765_568  # and the last convolution, over all places


@pytest.mark.parametrize("size", [8, 16, 28, 32, 40, 64, 65, 96, 224])
def test_generators_and_joint_discriminators_fit_every_size(size: int) -> None:
    pictures = Generator(5, size, 4)(torch.randn(2, 5))
    assert pictures.shape == (2, 3, size, size) and pictures.abs().max() <= 1
    assert JointDiscriminator(5, size, 4)(pictures, torch.randn(2, 5)).shape == (2,)


@pytest.mark.parametrize(("stem", "size", "sides"), [("large", 64, [32, 16, 8, 4]), ("small", 32, [32, 16, 8, 4])])
def test_the_body_ends_in_maps_of_four_places_a_side(stem: str, size: int, sides: list[int]) -> None:
    body = build_encoder(encoder(stem=stem, norm="batch")).eval()
    maps = body((images(size) + 1) / 2)
    assert [map_.shape[-1] for map_ in maps.values()] == sides
    assert [map_.shape[1] for map_ in maps.values()] == [*body.channels.values()] == [8, 16, 32, 64]
    assert all(map_.min() < 0 for map_ in maps.values()), "leaky"
    assert [isinstance(part, BatchNorm2d) for part in body.modules()].count(True) == 3


def test_a_signal_survives_without_normalization() -> None:
    body = build_encoder(encoder(width=32)).eval()
    deviations = [map_.std().item() for map_ in body(torch.rand(8, 3, 32, 32)).values()]
    assert deviations[-1] > 0.2 * deviations[0]


def test_the_latent_enters_every_layer_of_a_joint_discriminator() -> None:
    network = JointDiscriminator(4, 32, 4).eval()
    picture, z = images(32, 1), torch.randn(1, 4)
    biases = [part for name, part in network.named_modules() if name.startswith("biases.")]
    for bias in biases:
        assert isinstance(bias, nn.Linear)
        before = network(picture, z)
        nn.init.zeros_(bias.weight)
        assert not torch.equal(network(picture, z), before)
    assert torch.equal(network(picture, z), network(picture, -z)), "and nowhere else"


def test_spectral_norms_are_one_at_every_layer_of_the_discriminator() -> None:
    network = Discriminator(GanOptions(spectral_norm=True), encoder(), 16, lambda f: LabelCondition(4, f))
    for _ in range(50):  # power iterations
        network(images(), torch.tensor([0, 1, 2]))
    network.eval()
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear | nn.Embedding)]
    assert len(layers) == 6
    for layer in layers:
        weight = layer.weight.detach()
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_an_encoder_leaves_a_spectrally_normalized_discriminator_with_plain_weights(tmp_path: object) -> None:
    body = build_encoder(encoder())
    assert with_plain_weights(body) is body
    plain_keys = list(body.state_dict())
    normalize_spectrally(body)
    state = {key: value.clone() for key, value in body.state_dict().items()}
    left = with_plain_weights(body)
    assert left.training and list(left.state_dict()) == plain_keys
    assert all(torch.equal(value, state[key]) for key, value in body.state_dict().items()), "looking changes nothing"
    save_encoder(left, str(tmp_path))
    pictures = (images() + 1) / 2
    expected = body.eval()(pictures)
    for layer, map_ in load_encoder(str(tmp_path))(pictures).items():
        torch.testing.assert_close(map_, expected[layer])


def test_the_encoder_s_running_statistics_are_those_of_real_pictures() -> None:
    with_fakes, without = (Discriminator(GanOptions(), encoder(norm="batch"), 16) for _ in range(2))
    without.load_state_dict(with_fakes.state_dict())
    real, fake, share = images(number=8), images(number=8).mul(0.1), torch.rand(8, 1, 1, 1)
    with_fakes(fake)
    with_fakes.losses(real, fake, share)
    without.trunk((real + 1) / 2)
    a, b = with_fakes.trunk.state_dict(), without.trunk.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a if "running" in key)
    assert any(value.any() for key, value in a.items() if "running_mean" in key)
    part = next(part for part in with_fakes.modules() if isinstance(part, BatchNorm2d))
    with pytest.raises(RuntimeError, match="on purpose"), statistics_kept(with_fakes):
        assert part.momentum == 0
        raise RuntimeError("on purpose")
    assert part.momentum == 0.1, "also after an error"


def test_a_projected_condition_is_the_formula_s() -> None:
    """Miyato & Koyama 2018, equation 3: f(x, y) = y^T V phi(x) + psi(phi(x))."""
    network = Discriminator(GanOptions(), encoder(), 16, lambda f: LabelCondition(4, f)).eval()
    picture, labels = images(), torch.tensor([3, 0, 2])
    phi = network.trunk((picture + 1) / 2)["conv4"].flatten(1)
    table = network.get_parameter("embedding.weight")
    for b in range(3):
        psi = (network.head.weight[0] @ phi[b] + network.head.bias[0]).item()
        y = torch.eye(4)[labels[b]]
        assert network(picture, labels)[b].item() == pytest.approx((y @ table @ phi[b]).item() + psi, abs=1e-5)


def test_conditions_of_every_kind_have_the_same_shape() -> None:
    assert LabelCondition(4, 7)(torch.tensor([3, 0])).shape == (2, 7)
    assert VectorCondition(3, 7)(torch.randn(2, 3)).shape == (2, 7)
    assert PictureCondition(16, 4, 7)(torch.rand(2, 3, 16, 16)).shape == (2, 7)
    assert not any(isinstance(part, BatchNorm2d) for part in PictureCondition(16, 4, 7).modules())


@pytest.mark.parametrize(
    ("options", "norm", "message"),
    [
        ({"penalty": "r1"}, "batch", r"options\.penalty=r1 .* set encoder\.norm=none or instance"),
        ({"penalty": "gradient_penalty", "form": "wasserstein"}, "batch", r"options\.penalty=gradient_penalty"),
        ({"form": "wasserstein"}, "none", r"options\.form=wasserstein needs .* options\.penalty=gradient_penalty"),
        ({"form": "wasserstein", "penalty": "r1"}, "none", r"options\.form=wasserstein needs a bounded slope"),
    ],
)
def test_what_cannot_go_together_is_refused(options: dict[str, str], norm: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Discriminator(GanOptions.parse(options), encoder(norm=norm), 16)
    assert "\n" not in str(error.value)
