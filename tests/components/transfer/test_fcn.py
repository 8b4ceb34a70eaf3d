"""Fully convolutional networks: masks follow their images, skips add what is finer, kills change nothing."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from components.config import EncoderConfig
from components.data.whole import GREY
from components.draws import Draws
from components.errors import UserError
from components.networks.encoder import build_encoder
from components.transfer.fcn import Fcn, FcnConfig, augmented, read_layers
from components.transfer.heads import fitting
from components.transfer.heads.memory_layout import training_layout
from components.transfer.protocol import check_benchmark, get_benchmark, get_protocol, run_benchmark
from tests.components.transfer.heads.test_fitting import Kept
from tests.components.transfer.test_segmentation import Pictures, encoder, shapes

CONFIG = FcnConfig(side=64, epochs=14, batch=4, lrs=(5e-3,), balances=(0.0,), hidden=16)
STILL = {"scale_from": 1.0, "scale_to": 1.0, "mirror": False}
NONE = 4


def test_coloured_shapes_are_learned() -> None:
    run = Pictures()
    score = run_benchmark(CONFIG, encoder(), shapes(), run)
    assert score.metric == "miou" and score.split == "test" and score.n == 6
    assert score.value > 0.7 and score.others["pixel_accuracy"] > 0.9
    assert score.layers == {"lr 0.005 balance 0": score.layers[score.layer]} and len(run.pictures) == 1
    assert score.protocol["layers"] == ["layer2", "layer3", "layer4"]


def test_rates_are_compared_on_val_each_from_the_same_encoder() -> None:
    given = encoder()
    before = copy.deepcopy(given.state_dict())
    short = CONFIG.model_copy(update={"epochs": 2.0})
    both = run_benchmark(short.model_copy(update={"lrs": (1e-6, 5e-3)}), given, shapes())
    assert both.layer == "lr 0.005 balance 0"
    assert all(torch.equal(before[key], each) for key, each in given.state_dict().items())
    assert run_benchmark(short, encoder(), shapes()).value == both.value


@pytest.mark.parametrize("killed_at", [8, 42])
def test_a_run_that_was_killed_ends_as_one_that_was_not(monkeypatch: pytest.MonkeyPatch, killed_at: int) -> None:
    monkeypatch.setattr(fitting, "KEEP_EVERY", 3)
    whole = run_benchmark(CONFIG, encoder(), shapes(), Kept())
    run = Kept(killed_at)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(CONFIG, encoder(), shapes(), run)
    run.killed_at = None
    assert run_benchmark(CONFIG, encoder(), shapes(), run) == whole


def test_a_frozen_encoder_stays_as_it_is() -> None:
    frozen = CONFIG.model_copy(update={"encoder_lr": 0.0, "epochs": 3.0})
    score = run_benchmark(frozen, encoder(), shapes())
    assert "frozen" in score.protocol["classifier"] and score.value > 0.05
    run = Kept()
    run_benchmark(frozen, encoder(), shapes(), run)
    assert not any(
        key.startswith("2.") for key in run.kept["fcn lr 0.005 balance 0"]["modules"]
    )  # the head's two parts alone


@pytest.mark.parametrize(
    ("stem", "skips", "wanted"),
    [
        ("small", 2, ("layer2", "layer3", "layer4")),
        ("small", 9, ("layer1", "layer2", "layer3", "layer4")),
        ("large", 2, ("layer2", "layer3", "layer4")),
        ("large", 0, ("layer4",)),
    ],
)
def test_skips_are_the_deepest_maps_of_finer_sizes(stem: str, skips: int, wanted: tuple[str, ...]) -> None:
    given = encoder(stem=stem)
    assert read_layers(CONFIG.model_copy(update={"skips": skips}), given, (64, 96)) == wanted
    named = CONFIG.model_copy(update={"layers": ("layer4", "stem")})
    assert read_layers(named, given, (64, 96)) == ("stem", "layer4")


def test_skips_begin_at_zero_and_the_finest_map_sets_the_size() -> None:
    torch.manual_seed(0)
    network = Fcn(encoder(), ("layer2", "layer4"), 8, 3).eval()
    rgb_BCHW = torch.rand(2, 3, 64, 96)
    alone = Fcn(network.encoder, ("layer4",), 8, 3).eval()
    alone.deep.load_state_dict(network.deep.state_dict())
    with torch.no_grad():
        both_BShw, deep_BShw = network(rgb_BCHW), alone(rgb_BCHW)
        assert both_BShw.shape == (2, 3, 32, 48) and deep_BShw.shape == (2, 3, 8, 12)
        enlarged = torch.nn.functional.interpolate(deep_BShw, (32, 48), mode="bilinear")
        assert torch.allclose(both_BShw, enlarged, atol=1e-6)


def picture_and_places(batch: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Squares whose colour is their place, on 40 of 48 lines and 64 columns of a canvas of 48 x 80."""
    place_BHW = torch.full((batch, 48, 80), NONE)
    place_BHW[:, :40, :64] = 0
    place_BHW[:, 8:24, 8:32], place_BHW[:, 20:36, 36:60] = 1, 3
    colour_4 = torch.tensor([20.0, 100.0, 180.0, 250.0, float(GREY)])
    return (
        colour_4[place_BHW][:, None].expand(-1, 3, -1, -1).contiguous(),
        place_BHW,
        torch.tensor([[64.0, 40.0]] * batch),
    )


def draws(seed: int, batch: int = 6) -> Draws:
    return Draws(seed, torch.arange(batch), "segmentation")


def test_masks_follow_their_images() -> None:
    image_BCHW, place_BHW, placed_B2 = picture_and_places()
    wide = CONFIG.model_copy(update={"scale_from": 0.5, "scale_to": 2.0})
    colours = torch.tensor([20.0, 100.0, 180.0, 250.0, float(GREY)])
    shares = []
    for seed in range(20):
        moved_BCHW, moved_BHW = augmented(image_BCHW, place_BHW, NONE, placed_B2, wide, draws(seed))
        assert moved_BCHW.shape == image_BCHW.shape and moved_BHW.dtype == torch.int64
        differs = (moved_BCHW[:, 0] - colours[moved_BHW]).abs() > 1
        for sample in set(differs.nonzero()[:, 0].tolist()):  # at borders alone, where colours are mixed
            inner = torch.nn.functional.max_pool2d(_borders(moved_BHW[sample])[None, None].float(), 5, 1, 2)[0, 0] > 0
            assert not (differs[sample] & ~inner).any()
        shares.append((moved_BHW != NONE).float().mean().item())
        assert set(moved_BHW.flatten().tolist()) <= {0, 1, 3, NONE}
    assert 0.2 < np.mean(shares) < 0.9 and np.std(shares) > 0.01


def _borders(place_HW: torch.Tensor) -> torch.Tensor:
    found = torch.zeros_like(place_HW, dtype=torch.bool)
    found[1:] |= place_HW[1:] != place_HW[:-1]
    found[:, 1:] |= place_HW[:, 1:] != place_HW[:, :-1]
    found[:1] = found[-1:] = True
    found[:, :1] = found[:, -1:] = True
    return found


def test_without_scale_and_mirror_an_image_is_moved_within_the_canvas_and_no_more() -> None:
    image_BCHW, place_BHW, placed_B2 = picture_and_places()
    still = CONFIG.model_copy(update=STILL)
    _, moved_BHW = augmented(image_BCHW, place_BHW, NONE, placed_B2, still, draws(0))
    assert (moved_BHW != NONE).sum((1, 2)).tolist() == pytest.approx([40 * 64] * 6, abs=100)
    full_BHW = torch.arange(6).view(6, 1, 1) + torch.randint(0, 3, (6, 48, 80))
    rgb_BCHW = torch.rand(6, 3, 48, 80) * 255
    whole_B2 = torch.tensor([[80.0, 48.0]] * 6)
    same_BCHW, same_BHW = augmented(rgb_BCHW, full_BHW, 99, whole_B2, still, draws(0))
    assert torch.equal(same_BHW, full_BHW) and torch.allclose(same_BCHW, rgb_BCHW, atol=0.01)


def test_images_are_mirrored_with_their_masks() -> None:
    rgb_BCHW, place_BHW = torch.rand(8, 3, 48, 80) * 255, torch.randint(0, 4, (8, 48, 80))
    whole_B2 = torch.tensor([[80.0, 48.0]] * 8)
    config = CONFIG.model_copy(update=STILL | {"mirror": True})
    moved_BCHW, moved_BHW = augmented(rgb_BCHW, place_BHW, NONE, whole_B2, config, draws(1, 8))
    flipped = [torch.equal(moved_BHW[k], place_BHW[k].flip(1)) for k in range(8)]
    assert 0 < sum(flipped) < 8
    for k, turned in enumerate(flipped):
        wanted = rgb_BCHW[k].flip(2) if turned else rgb_BCHW[k]
        assert torch.equal(moved_BHW[k], place_BHW[k].flip(1) if turned else place_BHW[k])
        assert torch.allclose(moved_BCHW[k], wanted, atol=0.02)


def test_it_is_asked_for_by_name_and_checked_before() -> None:
    found: Any = get_protocol("segmentation_fcn")
    assert isinstance(found, FcnConfig) and get_benchmark(found).needs == ("mask",)
    with pytest.raises(UserError, match="unknown layer of resnet18 'conv5'"):
        check_benchmark(found.model_copy(update={"layers": ("conv5",)}), encoder())


def test_narrow_networks_are_not_trained_channels_last() -> None:
    """On CPUs torch's gradient of a strided 1 x 1 convolution of 8 channels in that layout ends the process."""
    wide = build_encoder(EncoderConfig(name="resnet18", width=16, stem="small"))
    halves = build_encoder(EncoderConfig(name="resnet18", width=16, stem="small", input="l+ab"))  # trunks of 8
    layouts = [training_layout(each) for each in (wide, encoder(), halves, build_encoder(EncoderConfig(width=4)))]
    assert layouts == [
        torch.channels_last, torch.contiguous_format, torch.contiguous_format, torch.channels_last
    ]  # fmt: skip


def test_the_head_begins_as_its_seed_says_whatever_was_drawn_before() -> None:
    short, given = CONFIG.model_copy(update={"epochs": 1.0}), encoder()
    first = run_benchmark(short, given, shapes())
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    assert run_benchmark(short, given, shapes()) == first
    assert torch.equal(before, torch.random.get_rng_state())
    other = run_benchmark(short.model_copy(update={"seed": 1}), given, shapes())
    assert other.protocol["train_loss"] != first.protocol["train_loss"]
