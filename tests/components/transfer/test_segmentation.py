"""Linear segmentation: coloured shapes are learned, masks stay with their pixels, kills change nothing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from components.config import EncoderConfig
from components.data.arrays import UInt8
from components.data.images import encode_png
from components.data.whole import WholeImages
from components.errors import UserError
from components.networks.encoder import Encoder, build_encoder
from components.transfer import segmentation
from components.transfer.heads import fitting
from components.transfer.heads.segmenting import PALETTE, open_splits, own_size
from components.transfer.metrics.intersection import Overlaps, confusion
from components.transfer.protocol import check_benchmark, get_benchmark, get_protocol, run_benchmark
from components.transfer.segmentation import LinearSegmentationConfig, cell_loss, pixels_of_cells
from tests.components.data.test_whole import InMemory, png
from tests.components.transfer.heads.test_fitting import Kept

COLOURS = np.array([(40, 40, 40), (220, 30, 30), (30, 200, 40), (40, 60, 230)], np.uint8)  # by value
CONFIG = LinearSegmentationConfig(side=64, epochs=12, batch=4, lrs=(0.01, 0.1), balances=(0.0,))


class Shapes(InMemory):
    """Coloured rectangles on grey; what they are is their colour. The lower right corner is void."""

    classes = ("red", "green", "blue")

    def __init__(
        self, n: int, seed: int, values: tuple[int, ...] = (1, 2, 3), size: tuple[int, int] = (45, 60)
    ) -> None:
        rng = np.random.default_rng(seed)
        self.masks = [self.draw(rng, values, size) for _ in range(n)]
        images = []
        for mask_hw in self.masks:
            noise_hw3 = rng.integers(-25, 26, (*size, 3))
            images.append(
                png((COLOURS[np.where(mask_hw == 255, 0, mask_hw)] + noise_hw3).clip(0, 255).astype(np.uint8))
            )
        super().__init__(image=images, mask=[encode_png(mask_hw) for mask_hw in self.masks])

    @staticmethod
    def draw(rng: np.random.Generator, values: tuple[int, ...], size: tuple[int, int]) -> UInt8:
        mask_hw = np.zeros(size, np.uint8)
        for value in rng.permutation(values):
            top, left = rng.integers(0, size[0] - 16), rng.integers(0, size[1] - 20)
            mask_hw[top : top + 16, left : left + 20] = value
        mask_hw[-5:, -5:] = 255
        return mask_hw


class Pictures(Kept):
    """Keeps pictures too."""

    def __init__(self, killed_at: int | None = None) -> None:
        super().__init__(killed_at)
        self.pictures: dict[str, NDArray[np.uint8]] = {}

    def picture(self, name: str, rgb_HW3: NDArray[np.uint8]) -> None:
        self.pictures[name] = rgb_HW3


def encoder(stem: str = "small") -> Encoder:
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(name="resnet18", width=8, stem=stem)).eval()


def shapes(**changes: Any) -> dict[str, Any]:
    return {"train": Shapes(12, 1, **changes), "val": Shapes(5, 2, **changes), "test": Shapes(6, 3, **changes)}


def test_coloured_shapes_are_learned_and_shown() -> None:
    run = Pictures()
    score = run_benchmark(CONFIG, encoder(), shapes(), run)
    assert score.metric == "miou" and score.split == "test" and score.n == 6
    assert score.value > 0.75 and score.others["pixel_accuracy"] > 0.9
    assert score.layers[score.layer] == max(score.layers.values()) and score.layers.keys() == {
        "lr 0.01 balance 0",
        "lr 0.1 balance 0",
    }
    named = [score.others[f"iou/{name}"] for name in ("background", "red", "green", "blue")]
    assert score.value == pytest.approx(np.mean(named))
    assert len(score.resampled) == 1000 and abs(np.mean(score.resampled) - score.value) < 0.03
    assert score.protocol["classes"] == ["background", "red", "green", "blue"]
    (shown_HW3,) = run.pictures.values()
    present = {tuple(each) for each in shown_HW3.reshape(-1, 3).tolist()}
    assert {tuple(each) for each in PALETTE[[0, 1, 2, 3, 255]].tolist()} <= present
    assert score == run_benchmark(CONFIG, encoder(), shapes())


@pytest.mark.parametrize("killed_at", [7, 36])
def test_a_run_that_was_killed_ends_as_one_that_was_not(monkeypatch: pytest.MonkeyPatch, killed_at: int) -> None:
    monkeypatch.setattr(fitting, "KEEP_EVERY", 3)
    whole = run_benchmark(CONFIG, encoder(), shapes(), Kept())
    run = _InFit(killed_at)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(CONFIG, encoder(), shapes(), run)
    assert run.kept["linear"]["step"] in (killed_at - 1, killed_at)
    run.killed_at = None
    assert run_benchmark(CONFIG, encoder(), shapes(), run) == whole


class _InFit(Kept):
    """Is killed in the fit, not while features are computed."""

    def progress(self, done: int, total: int, what: str = "") -> None:
        if "loss" in what:
            super().progress(done, total, what)


def test_features_that_do_not_fit_are_computed_again_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = run_benchmark(CONFIG, encoder(), shapes())
    monkeypatch.setattr(segmentation, "FEATURE_BYTES", 1000)
    again = run_benchmark(CONFIG, encoder(), shapes())
    assert again.value == pytest.approx(kept.value, abs=1e-3)


def test_the_background_is_no_class_where_nothing_is_background() -> None:
    splits = shapes()
    for each in splits.values():
        for k, mask_hw in enumerate(each.masks):
            each.fields["mask"][k] = encode_png(np.where(mask_hw == 0, 3, mask_hw).astype(np.uint8))
    score = run_benchmark(CONFIG, encoder(), splits)
    assert score.protocol["classes"] == ["red", "green", "blue"]
    assert "iou/background" not in score.others and score.value > 0.6


def test_classes_that_training_lacks_count_as_zero_and_are_told() -> None:
    splits = shapes() | {"train": Shapes(12, 1, values=(1, 2))}
    score = run_benchmark(CONFIG, encoder(), splits)
    assert score.others["iou/blue"] == 0 and score.value < 0.8
    blue = np.mean([(mask_hw == 3).sum() for mask_hw in splits["test"].masks]) / (45 * 60 - 25)
    assert score.protocol["unseen"]["test"] == pytest.approx(blue)
    splits["val"] = Shapes(3, 2, values=(3,))
    for k, mask_hw in enumerate(splits["val"].masks):
        splits["val"].fields["mask"][k] = encode_png(np.where(mask_hw == 0, 255, mask_hw).astype(np.uint8))
    with pytest.raises(UserError, match=r"100% of the val pixels are of classes that no training mask has \(blue\)"):
        run_benchmark(CONFIG, encoder(), splits)


def test_masks_that_leave_nothing_to_learn_are_refused() -> None:
    splits = shapes()
    splits["train"].fields["mask"] = [encode_png(np.full((45, 60), 255, np.uint8))] * 12
    with pytest.raises(UserError, match="the training masks have no pixel that anybody knows"):
        run_benchmark(CONFIG, encoder(), splits)
    splits["train"].fields["mask"] = [encode_png(np.full((45, 60), 2, np.uint8))] * 12
    with pytest.raises(UserError, match="the training masks have pixels of green alone"):
        run_benchmark(CONFIG, encoder(), splits)
    splits["train"].fields["mask"][4] = encode_png(np.full((45, 60), 9, np.uint8))
    with pytest.raises(UserError, match="the mask of s4 has value 9, and there are 3 classes"):
        run_benchmark(CONFIG, encoder(), splits)
    splits = shapes()
    splits["test"].fields["mask"] = [encode_png(np.full((45, 60), 255, np.uint8))] * 6
    with pytest.raises(UserError, match="the test masks have no pixel that anybody knows"):
        run_benchmark(CONFIG, encoder(), splits)


def test_a_mask_of_another_size_is_replaced_and_named() -> None:
    splits = shapes()
    splits["val"].fields["mask"][1] = encode_png(np.zeros((3, 3), np.uint8))
    score = run_benchmark(CONFIG, encoder(), splits)
    assert score.protocol["replaced"]["val"].keys() == {"s1"}


def test_what_does_not_go_together_is_said_before() -> None:
    found = get_protocol("segmentation")
    assert get_benchmark(found).needs == ("mask",) and get_benchmark(found).metric == "miou"
    with pytest.raises(UserError, match="unknown layer of resnet18 'layer5': did you mean 'layer"):
        check_benchmark(found.model_copy(update={"layers": ("layer1", "layer5")}), encoder())
    with pytest.raises(UserError, match=r"benchmark\.layers is empty"):
        check_benchmark(found.model_copy(update={"layers": ()}), encoder())
    with pytest.raises(UserError, match=r"does not take images of 32 x 32 pixels .* give a larger benchmark\.side"):
        check_benchmark(found.model_copy(update={"side": 32}), _Narrow())
    with pytest.raises(UserError, match="lrs must be positive numbers"):
        LinearSegmentationConfig.parse({"lrs": (0.1, 0.1)})
    with pytest.raises(UserError, match="balances must be numbers from 0 to 1"):
        LinearSegmentationConfig.parse({"balances": (0.5, 2)})


class _Narrow(Encoder):
    """Takes no small images."""

    def __init__(self) -> None:
        super().__init__(EncoderConfig(), {"a": 3})
        self.pool = torch.nn.MaxPool2d(64)

    def encode(self, native_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": self.pool(native_BCHW)}


@pytest.mark.parametrize("size", [(45, 60), (200, 31), (7, 300), (64, 64)])
def test_the_own_size_is_reached_by_bilinear_interpolation(size: tuple[int, int]) -> None:
    data = InMemory(image=[png(np.zeros((*size, 3), np.uint8))], mask=[encode_png(np.zeros(size, np.uint8))])
    whole = WholeImages(data, (64, 96), ("mask",)).read(0)
    logits_Shw = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0))
    guess_hw = own_size(logits_Shw, whole, (64, 96))
    width, height = whole.placed
    theta_123 = torch.tensor([[[width / 96, 0, width / 96 - 1], [0, height / 64, height / 64 - 1]]])
    where_1hw2 = F.affine_grid(theta_123, [1, 3, *size], align_corners=False)
    wanted_Shw = F.grid_sample(logits_Shw[None], where_1hw2, "bilinear", "border", align_corners=False)[0]
    assert guess_hw.shape == size
    assert (guess_hw == wanted_Shw.argmax(0).numpy()).mean() > 0.999


def test_a_perfect_canvas_gives_a_perfect_score_at_the_own_size() -> None:
    """What is lost is what the canvas cannot show."""
    data = Shapes(4, 7, size=(90, 120))
    images = WholeImages(data, (96, 128), ("mask",))
    matrices = []
    for k in range(4):
        place_HW = torch.from_numpy(images.read(k).canvas_mask).long()
        logits_SHW = F.one_hot(place_HW.clamp(max=4), 5)[..., :4].permute(2, 0, 1).float()
        matrices.append(confusion(images.read(k).mask, own_size(logits_SHW, images.read(k), (96, 128)), 4))
    assert Overlaps.of(matrices).miou() > 0.97


def test_the_loss_of_cells_is_that_of_their_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    place_BHW = torch.randint(0, 4, (2, 8, 12), generator=generator)  # 3: none
    logits_BPS = torch.randn(2, 6, 3, generator=generator)
    pixels_BPS = pixels_of_cells(place_BHW, (2, 3), 3)
    logits_BSHW = logits_BPS.transpose(1, 2).reshape(2, 3, 2, 3).repeat_interleave(4, 2).repeat_interleave(4, 3)
    wanted = F.cross_entropy(logits_BSHW, place_BHW, ignore_index=3)
    assert cell_loss(logits_BPS, pixels_BPS, torch.ones(3)).item() == pytest.approx(wanted.item(), abs=1e-6)
    assert cell_loss(logits_BPS, torch.zeros_like(pixels_BPS), torch.ones(3)).item() == 0
    weight_S = torch.tensor([0.5, 3.0, 1.0])
    wanted = F.cross_entropy(logits_BSHW, place_BHW, weight_S, ignore_index=3)
    assert cell_loss(logits_BPS, pixels_BPS, weight_S).item() == pytest.approx(wanted.item(), abs=1e-6)


def test_features_are_standardized_over_what_the_images_cover() -> None:
    splits: Mapping[str, Any] = shapes()
    opened = open_splits(CONFIG, splits)
    stack = segmentation.Stack(CONFIG, encoder(), opened, torch.device("cpu"))
    stack.prepare(Kept())
    ids = np.arange(12)
    kept_NPD = stack.of_training(ids)
    assert kept_NPD.shape == (12, 16 * 16, 8 + 8 + 16 + 32 + 64)
    assert torch.allclose(kept_NPD, stack(opened.images["train"].images(ids)), atol=1e-4)
    inside_PD = kept_NPD[:, stack._covered(0)].flatten(0, 1)
    assert stack._covered(0).sum() == 12 * 16  # 45 of 60 pixels, on a canvas of 64 x 64
    deviation_D = inside_PD.std(0, correction=0)
    varies_D = deviation_D > 0  # a channel that is dead everywhere stays zero
    assert inside_PD.mean(0).abs().max() < 1e-3 and varies_D.float().mean() > 0.9
    assert torch.allclose(deviation_D[varies_D], torch.tensor(1.0), atol=1e-3)


def test_balanced_pixels_of_rare_classes_weigh_as_much_as_those_of_frequent_ones() -> None:
    opened = open_splits(CONFIG, shapes())
    assert opened.weights(0.0).tolist() == pytest.approx([1.0] * 4)
    whole = opened.weights(1.0).double().numpy() * opened.pixels
    assert whole == pytest.approx(np.full(4, opened.pixels.sum() / 4))
    root = opened.weights(0.5).double().numpy()
    assert root**2 * opened.pixels == pytest.approx(np.full(4, root[0] ** 2 * opened.pixels[0]))
    assert CONFIG.model_copy(update={"balances": (0.0, 1.0)}).choices.keys() == {
        "lr 0.01 balance 0", "lr 0.1 balance 0", "lr 0.01 balance 1", "lr 0.1 balance 1"
    }  # fmt: skip
