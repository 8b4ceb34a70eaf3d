"""Detection: coloured rectangles are found, boxes stay with their pixels, kills change nothing, wrong data is said."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from components.config import EncoderConfig
from components.data.boxes import Objects as Annotated
from components.data.boxes import pack_objects
from components.data.whole import GREY, WholeImages
from components.errors import UserError
from components.networks.encoder import Encoder, build_encoder
from components.transfer.detection import DetectionConfig, train
from components.transfer.heads import detection_views, fitting
from components.transfer.heads.detection_views import FrozenViews, Reader, gathered, move_objects, moved
from components.transfer.heads.fcos import NONE, PASSED, Objects
from components.transfer.protocol import BenchmarkRun, check_benchmark, get_benchmark, get_protocol, run_benchmark
from tests.components.data.test_whole import InMemory, png
from tests.components.transfer.heads.test_fitting import Kept

COLOURS = np.array([(220, 30, 30), (30, 200, 40)], np.uint8)
CONFIG = DetectionConfig(side=80, epochs=30, batch=4, width=16, depth=1, lr=0.01)
TUNED = CONFIG.model_copy(update={"name": "detection_finetuned", "encoder_lr": 0.3, "epochs": 15})


class Rectangles(InMemory):
    """Red and green rectangles on grey noise: what they are is their colour."""

    classes = ("red", "green")

    def __init__(self, n: int, seed: int, labels: tuple[int, ...] = (0, 1)) -> None:
        rng = np.random.default_rng(seed)
        images, boxes = [], []
        for _ in range(n):
            image_hw3 = rng.integers(60, 120, (48, 64, 3)).astype(np.uint8)
            left_K, found = [int(rng.integers(0, 14)), int(rng.integers(32, 44))], []
            labels_K = rng.choice(labels, 2)
            for left, label in zip(left_K, labels_K, strict=True):
                top, height, width = int(rng.integers(0, 24)), int(rng.integers(12, 22)), int(rng.integers(12, 18))
                image_hw3[top : top + height, left : left + width] = COLOURS[label % 2]
                found.append([left, top, left + width, top + height])
            images.append(png(image_hw3))
            boxes.append(pack_objects(Annotated.of(found, labels_K)))
        super().__init__(image=images, boxes=boxes)


class Pictures(Kept):
    """Keeps pictures too."""

    def __init__(self, killed_at: int | None = None) -> None:
        super().__init__(killed_at)
        self.pictures: dict[str, NDArray[np.uint8]] = {}

    def picture(self, name: str, rgb_HW3: NDArray[np.uint8]) -> None:
        self.pictures[name] = rgb_HW3


def encoder() -> Encoder:
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(name="resnet18", width=8, depth=3)).eval()


def data(**changes: Any) -> dict[str, Any]:
    return {
        "train": Rectangles(16, 1, **changes),
        "val": Rectangles(6, 2, **changes),
        "test": Rectangles(8, 3, **changes),
    }


@pytest.mark.parametrize("config", [CONFIG, TUNED], ids=["frozen", "finetuned"])
def test_rectangles_are_found(config: DetectionConfig) -> None:
    """By chance a detector finds next to none: boxes of any place and size rarely overlap by half."""
    run, network = Pictures(), encoder()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    score = run_benchmark(config, network, data(), run)
    assert score.value > 0.8 and score.layers[score.layer] > 0.8
    assert score.split == "test" and score.metric == "ap50" and score.n == 8
    assert score.layer == "stem+layer1+layer2"
    assert score.value == pytest.approx((score.others["ap50/red"] + score.others["ap50/green"]) / 2)
    assert 0.3 < score.others["ap"] < score.value and {"ap75", "ap50_11"} < score.others.keys()
    assert len(score.resampled) == 1000 and np.mean(score.resampled) == pytest.approx(score.value, abs=0.05)
    assert DetectionConfig.parse(score.protocol["config"]) == config and score.protocol["canvas"] == [64, 96]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items()), (
        "it is not ours to train"
    )
    ((name, picture_HW3),) = run.pictures.items()
    assert name == "test: truth, found" and picture_HW3.shape == (6 * 128, 384, 3) and picture_HW3.dtype == np.uint8


@pytest.mark.parametrize("config", [CONFIG, TUNED], ids=["frozen", "finetuned"])
def test_an_encoder_that_is_trained_has_new_weights_and_new_statistics(config: DetectionConfig) -> None:
    network = encoder()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = WholeImages(Rectangles(4, 1), (64, 96), ("boxes",))
    detector = train(config.model_copy(update={"epochs": 1}), network, ("layer1",), images, 2, BenchmarkRun())
    moved = [not torch.equal(value, before[key]) for key, value in detector.read.encoder.state_dict().items()]
    used = [key for key in before if not key.startswith("layer2")]
    assert [key for key, each in zip(before, moved, strict=True) if each and key in used] == used * bool(
        config.encoder_lr
    )


@pytest.mark.parametrize("config", [CONFIG, TUNED], ids=["frozen", "finetuned"])
def test_a_kill_changes_nothing(monkeypatch: pytest.MonkeyPatch, config: DetectionConfig) -> None:
    monkeypatch.setattr(fitting, "KEEP_EVERY", 3)
    short = config.model_copy(update={"epochs": 2})
    whole = run_benchmark(short, encoder(), data(), Pictures())
    run = KilledInTraining(5)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(short, encoder(), data(), run)
    assert run.kept["detector"]["step"] == 3
    run.killed_at = None
    assert run_benchmark(short, encoder(), data(), run) == whole


class KilledInTraining(Pictures):
    """Not while features are computed."""

    def progress(self, done: int, total: int, what: str = "") -> None:
        if what.startswith("detector"):
            super().progress(done, total, what)


def test_the_seed_decides() -> None:
    short = CONFIG.model_copy(update={"epochs": 1})
    first = run_benchmark(short, encoder(), data())
    other = run_benchmark(short.model_copy(update={"seed": 1}), encoder(), data())
    assert first.protocol["train_loss"] != other.protocol["train_loss"]
    network = encoder()
    torch.manual_seed(123)
    assert run_benchmark(short, network, data()) == first, "and nothing else"


def test_maps_that_do_not_fit_are_computed_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    images = WholeImages(Rectangles(5, 1), (64, 64), ("boxes",))
    read = Reader(encoder(), ("layer1", "layer2"), 4, "fp32", torch.device("cpu"))
    kept = FrozenViews(read, images, 0, 2, BenchmarkRun())
    monkeypatch.setattr(detection_views, "FEATURE_BYTES", 1000)
    anew = FrozenViews(read, images, 0, 2, BenchmarkRun())
    assert kept.kept is not None and anew.kept is None
    for step in range(4):
        ids = np.array([step, 4, 1])
        (one, objects), (other, others) = kept.batch(ids, step), anew.batch(ids, step)
        assert torch.equal(objects.boxes_BM4, others.boxes_BM4)
        assert all(torch.allclose(one[layer], other[layer], atol=1e-5) for layer in one)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("scale", "corner"), [(1.0, (0.0, 0.0)), (0.5, (20.0, 8.0)), (1.5, (-25.0, -10.0))])
def test_boxes_lie_where_the_moved_images_show_them(scale: float, corner: tuple[float, float], mirrored: bool) -> None:
    image = torch.full((1, 3, 64, 96), GREY, dtype=torch.uint8)
    image[:, :, 20:40, 30:60] = 255
    objects = Objects(torch.tensor([[[30.0, 20, 60, 40], [0, 0, 0, 0]]]), torch.tensor([[1, NONE]]))
    how = torch.tensor([scale]), torch.tensor([corner]), torch.tensor([mirrored])
    shown = moved(image, *how)
    (left, top, right, bottom), _ = move_objects(objects, (64, 96), *how).boxes_BM4[0].tolist()
    bright = (shown[0, 0] > 190).nonzero()
    assert bright[:, 0].min().item() == pytest.approx(top, abs=1) and bright[:, 0].max().item() + 1 == pytest.approx(
        bottom, abs=1
    )
    assert bright[:, 1].min().item() == pytest.approx(left, abs=1) and bright[:, 1].max().item() + 1 == pytest.approx(
        right, abs=1
    )
    if scale == 1:
        assert torch.allclose(shown, (image.flip(3) if mirrored else image).float(), atol=1e-2)
    if scale < 1:
        assert shown[0, 0, 0, 0].item() == pytest.approx(GREY, abs=0.01)


def test_objects_that_leave_the_canvas_are_not_asked_for() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 0, 30, 10], [26, 0, 36, 10], [60, 0, 70, 10], [62, 0, 64, 9]]])
    objects = Objects(boxes, torch.tensor([[0, 1, 1, 1, PASSED]]))
    how = torch.ones(1), torch.tensor([[-28.0, 0.0]]), torch.tensor([False])
    found = move_objects(objects, (32, 64), *how)
    assert found.labels_BM.tolist() == [[NONE, PASSED, 1, 1, PASSED]]
    assert found.boxes_BM4[0, 2].tolist() == [0, 0, 8, 10]


def test_crowds_and_difficult_objects_teach_nothing() -> None:
    image = png(np.zeros((40, 40, 3), np.uint8))
    boxes = [[0, 0, 20, 20], [5, 5, 10, 10], [0, 0, 40, 40]]
    packed = pack_objects(Annotated.of(boxes, [0, 1, 1], [False, True, False], [False, False, True]))
    none = pack_objects(Annotated.of([], []))
    found = gathered(WholeImages(InMemory(image=[image] * 2, boxes=[packed, none]), (80, 80), ("boxes",)))
    assert found.labels_BM.tolist() == [[0, PASSED, PASSED], [NONE] * 3]
    assert found.boxes_BM4[0, 0].tolist() == [0, 0, 40, 40]


def test_it_is_asked_for_by_name_and_checked_before() -> None:
    frozen, tuned = get_protocol("detection"), get_protocol("detection_finetuned")
    assert isinstance(frozen, DetectionConfig) and isinstance(tuned, DetectionConfig)
    assert not frozen.encoder_lr and tuned.encoder_lr
    assert get_benchmark(frozen).needs == ("boxes",) and get_benchmark(frozen).metric == "ap50"
    check_benchmark(frozen, encoder())
    for changes, said in (
        ({"layers": ("layer9",)}, "unknown layer"),
        ({"layers": ()}, "benchmark.layers is empty"),
    ):
        with pytest.raises(UserError, match=said):
            check_benchmark(frozen.model_copy(update=changes), encoder())
    with pytest.raises(UserError, match="does not take images of 32 x 32 pixels"):
        check_benchmark(frozen.model_copy(update={"side": 32}), Coarse())
    check_benchmark(frozen, Coarse())
    with pytest.raises(UserError, match="scale must be two positive numbers"):
        DetectionConfig.parse({"scale": (1.4, 0.7)})


class Coarse(Encoder):
    """Sees nothing in an image of less than 64 pixels."""

    def __init__(self) -> None:
        super().__init__(EncoderConfig(), {"blocks": 3})

    def encode(self, native_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"blocks": F.max_pool2d(native_BCHW, 64)}


class Untrained(BenchmarkRun):
    """Nothing may have begun."""

    def progress(self, done: int, total: int, what: str = "") -> None:
        raise AssertionError("it has begun")


def test_wrong_data_is_said_before_anything_is_trained() -> None:
    nothing = Rectangles(3, 1)
    nothing.fields["boxes"] = [pack_objects(Annotated.of([], []))] * 3
    for split, wrong, said in (
        ("train", nothing, "no image of the train split has a box"),
        ("test", nothing, "no image of the test split has a box"),
        ("val", Rectangles(3, 1, labels=(1, 2)), "a box of the val split has the label 2, and there are 2 classes"),
        ("train", Rectangles(3, 1, labels=(1,)), "of the val boxes are of classes that no training box has"),
    ):
        splits = data(labels=(0, 0, 0, 0, 1)) | {split: wrong}
        with pytest.raises(UserError, match=said) as error:
            run_benchmark(CONFIG, encoder(), splits, Untrained())
        assert "\n" not in str(error.value)


def test_a_class_that_training_lacks_counts_as_missed_and_is_told() -> None:
    splits = data(labels=(0,))
    splits["test"] = Rectangles(8, 3, labels=(0, 0, 0, 1))
    score = run_benchmark(CONFIG, encoder(), splits)
    assert score.protocol["unseen"].keys() == {"test"} and 0 < score.protocol["unseen"]["test"] < 0.5
    assert score.others["ap50/green"] == 0 and score.others["ap50/red"] > 0.7
    assert score.value == pytest.approx(score.others["ap50/red"] / 2)


def test_a_broken_image_among_many_is_replaced_and_told() -> None:
    splits = data()
    splits["train"].fields["image"][3] = b"broken"
    score = run_benchmark(CONFIG.model_copy(update={"epochs": 1}), encoder(), splits)
    assert score.protocol["replaced"]["train"].keys() == {"s3"}
