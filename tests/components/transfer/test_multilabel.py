"""Several classes per image: average precision against others', what an image shows, what is chosen on which split."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from components.config import FrozenConfig
from components.data.boxes import Objects, pack_objects
from components.data.images import encode_png
from components.data.sources.base import UNKNOWN
from components.errors import UserError
from components.transfer.features import extract
from components.transfer.metrics.ranking import ABSENT, IGNORED, PRESENT, RULES, ClassRanking, Rankings
from components.transfer.multilabel import MultilabelConfig, Tagged, field_of, fit_regressions
from components.transfer.protocol import run_benchmark
from tests.components.data.test_whole import InMemory, png
from tests.components.transfer.test_probe import TwoLayers

Floats = NDArray[np.float64]


def eleven(score_N: Floats, right_N: NDArray[np.bool_], weight_N: Floats) -> float:
    """VOC's rule until 2009, written out for images that count as often as their weights say."""
    score, right = np.repeat(score_N, weight_N.astype(int)), np.repeat(right_N, weight_N.astype(int))
    points = []
    for tenth in range(11):
        best = 0.0
        for level in np.unique(score):
            found = right[score >= level]
            if 10 * int(found.sum()) >= tenth * int(right.sum()):
                best = max(best, float(found.mean()))
        points.append(best)
    return float(np.mean(points))


@pytest.mark.parametrize("part", range(4))
def test_average_precision_is_that_of_others(part: int) -> None:
    rng, cases = np.random.default_rng(part), 0
    while cases < 1000:
        n = int(rng.integers(1, 25))
        ties = rng.integers(1, 12)
        score_N = rng.integers(0, ties, n) / 7.0 if rng.random() < 0.7 else rng.normal(size=n)
        truth_N = rng.choice([PRESENT, ABSENT, IGNORED], n, p=rng.dirichlet([1, 1, 0.3])).astype(np.int8)
        weight_N = rng.integers(0, 4, n).astype(float) if rng.random() < 0.6 else np.ones(n)
        ranking = ClassRanking.of(score_N, truth_N)
        counted = (truth_N != IGNORED) & (weight_N > 0)
        right_N = truth_N == PRESENT
        if not right_N[counted].any():
            assert ranking.average(RULES["map"], weight_N) is None
            continue
        area = average_precision_score(right_N[counted], score_N[counted], sample_weight=weight_N[counted])
        assert ranking.average(RULES["map"], weight_N) == pytest.approx(area, abs=1e-6)
        points = eleven(score_N[counted], right_N[counted], weight_N[counted])
        assert ranking.average(RULES["map11"], weight_N) == pytest.approx(points, abs=1e-6)
        cases += 1


def test_the_mean_is_over_classes_that_are_there() -> None:
    score_NK = np.array([[3.0, 1.0, 0.0], [2.0, 2.0, 0.0], [1.0, 3.0, 0.0]])
    truth_NK = np.array([[1, 1, 0], [0, 0, 0], [1, 0, -1]], np.int8)
    rankings = Rankings(score_NK, truth_NK)
    assert rankings.by_class(RULES["map"]) == [pytest.approx((1 + 2 / 3) / 2), pytest.approx(1 / 3), None]
    assert rankings.mean(RULES["map"]) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3) / 2)
    assert rankings.mean(RULES["map"], np.array([0.0, 1.0, 1.0])) == pytest.approx(1 / 2)  # the second class is gone
    assert rankings.mean(RULES["map"], np.array([0.0, 1.0, 0.0])) == 0


class Things(InMemory):
    """Images (16, 24) whose channels are bright where the classes of their boxes, or masks, are; names of classes."""

    classes = ("red", "green", "blue")

    def __init__(self, n: int, seed: int, masks: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.reads: list[str] = []
        self.shown = rng.random((n, 3)) < [0.5, 0.3, 0.4]
        self.difficult = rng.random((n, 3)) < 0.1
        images, boxes, drawn = [], [], []
        for shown_K, difficult_K in zip(self.shown, self.difficult, strict=True):
            colour = 90 + 40 * shown_K + rng.normal(size=3) * 25
            images.append(png((colour + rng.normal(size=(16, 24, 3))).clip(0, 255).astype(np.uint8)))
            there = np.flatnonzero(shown_K | difficult_K)
            twice = np.concatenate([there, np.flatnonzero(shown_K & difficult_K)])  # one difficult, one not
            flags = [bool(difficult_K[k]) for k in there] + [False] * (len(twice) - len(there))
            boxes.append(pack_objects(Objects.of([[1, 1, 5, 5]] * len(twice), twice, flags)))
            mask = np.full((16, 24), UNKNOWN, np.uint8)
            mask[:4] = 0
            for k in np.flatnonzero(shown_K):
                mask[4 + k] = k + 1
            drawn.append(encode_png(mask))
        super().__init__(image=images, **({"mask": drawn} if masks else {"boxes": boxes}))

    @property
    def truth(self) -> Any:
        """What the boxes say: difficult ones alone are ignored."""
        return np.where(self.shown, PRESENT, np.where(self.difficult, IGNORED, ABSENT))

    def member(self, sample_id: int, field: str) -> bytes:
        if field not in self.fields:
            raise UserError(f"no {field}")
        if field == "image":
            self.reads.append(f"s{sample_id}")
        return super().member(sample_id, field)


def data(masks: bool = False) -> dict[str, Any]:
    return {"train": Things(200, 0, masks), "val": Things(60, 1, masks), "test": Things(80, 2, masks)}


CONFIG = MultilabelConfig(features=64, side=24)


def test_boxes_say_what_an_image_shows_and_difficult_ones_alone_say_nothing() -> None:
    things = Things(40, 3)
    tagged = Tagged(things, np.arange(40), (32, 32), "boxes", 3)
    assert tagged.truth_NK.tolist() == things.truth.tolist() and {-1, 0, 1} == set(tagged.truth_NK.ravel().tolist())
    some = Tagged(things, np.array([7, 3]), (32, 32), "boxes", 3)
    assert some.truth_NK.tolist() == things.truth[[7, 3]].tolist()
    assert torch.equal(some.get(np.array([1]))["image"], tagged.get(np.array([3]))["image"])


def test_masks_say_it_where_there_are_no_boxes() -> None:
    things = Things(40, 3, masks=True)
    assert field_of(things) == "mask" and field_of(Things(1, 0)) == "boxes"
    tagged = Tagged(things, np.arange(40), (32, 32), "mask", 3)
    assert tagged.truth_NK.tolist() == things.shown.astype(int).tolist()  # 0 is none of them, 255 is unknown
    with pytest.raises(UserError, match="needs boxes or masks, and the data has neither"):
        field_of(InMemoryless(image=things.fields["image"]))


class InMemoryless(InMemory):
    """Refuses fields as a data set does."""

    def member(self, sample_id: int, field: str) -> bytes:
        if field not in self.fields:
            raise UserError(f"no {field}")
        return super().member(sample_id, field)


def test_a_class_is_fitted_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, 10)) * 3 + 1 for n in (150, 90))
    truth_x, truth_y = ((z[:, :2] + z[:, 2:4] > 2).astype(np.int8) for z in (x, y))
    truth_x[:40, 0] = IGNORED
    config = MultilabelConfig(penalties=(0.03,))
    tensors = torch.from_numpy(x).float(), truth_x, torch.from_numpy(y).float(), truth_y
    found = fit_regressions(*tensors, config)
    mean, deviation = x.mean(0), x.std(0)
    scores = found.scores(tensors[2])
    for k, known in enumerate((slice(40, None), slice(None))):
        count = 110 if k == 0 else 150
        model = LogisticRegression(C=1 / (0.03 * count), tol=1e-10, max_iter=5000)
        model.fit((x[known] - mean) / deviation, truth_x[known, k])
        assert np.abs(scores[:, k] - model.decision_function((y - mean) / deviation)).max() < 0.02
    assert found.val == Rankings(scores, truth_y).mean(RULES["map11"])


def test_a_class_that_training_never_shows_ranks_nothing() -> None:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    truth = np.stack([(x[:, 0] > 0).numpy(), np.zeros(40, bool), np.ones(40, bool)], 1).astype(np.int8)
    found = fit_regressions(x, truth, x, truth, MultilabelConfig())
    scores = found.scores(x)
    assert np.ptp(scores[:, 0]) > 1 and not scores[:, 1:].any()


@pytest.mark.parametrize("masks", [False, True])
def test_the_best_layer_is_chosen_on_val_and_scored_once_on_test(masks: bool) -> None:
    splits = data(masks)
    score = run_benchmark(CONFIG, TwoLayers(), splits)
    assert score.layer == "colour" and score.split == "test" and score.metric == "map11" and score.n == 80
    assert score.layers["colour"] > score.layers["noise"] + 0.1 and score.value > 0.75
    assert sorted(set(splits["test"].reads)) == sorted(f"s{k}" for k in range(80))
    assert np.mean(score.resampled) == pytest.approx(score.value, abs=0.02) and len(score.resampled) == 1000
    assert score == run_benchmark(CONFIG, TwoLayers(), data(masks))
    del splits["test"]
    val = run_benchmark(CONFIG, TwoLayers(), splits)
    assert val.split == "val" and val.value == val.layers["colour"] and val.layers == score.layers
    assert MultilabelConfig.parse(score.protocol["config"]) == CONFIG


def test_the_score_is_scikit_learns_on_the_same_features() -> None:
    splits = data()
    score = run_benchmark(CONFIG.model_copy(update={"penalties": (0.01,)}), TwoLayers(), splits)
    config = FrozenConfig(name="x", kind="x", features=64, layers=("colour",))
    canvas = (32, 32)
    x, z = (
        extract(TwoLayers(), Tagged(splits[each], np.arange(len(splits[each])), canvas, "boxes", 3), None, config)
        .layers["colour"].double().numpy()
        for each in ("train", "test")
    )  # fmt: skip
    mean, deviation = x.mean(0), x.std(0)
    deviation[deviation < 1e-6] = 1
    areas = []
    for k in range(3):
        known, judged = (splits[each].truth[:, k] != IGNORED for each in ("train", "test"))
        model = LogisticRegression(C=1 / (0.01 * known.sum()), tol=1e-8, max_iter=5000)
        model.fit((x[known] - mean) / deviation, splits["train"].truth[known, k])
        guess = model.decision_function((z[judged] - mean) / deviation)
        areas.append(average_precision_score(splits["test"].truth[judged, k], guess))
    assert score.others["map"] == pytest.approx(np.mean(areas), abs=0.01)


def test_wrong_data_is_one_line() -> None:
    splits = data()
    splits["train"].fields["boxes"] = [pack_objects(Objects.of([[1, 1, 5, 5]], [3]))] * 200
    with pytest.raises(UserError, match="the boxes of image s0 have class 3, and the data names classes 0 to 2"):
        run_benchmark(CONFIG, TwoLayers(), splits)
    splits["train"].fields["boxes"] = [pack_objects(Objects.of([[1, 1, 5, 5]], [1]))] * 200
    with pytest.raises(UserError, match="every training image shows the same of all classes"):
        run_benchmark(CONFIG, TwoLayers(), splits)
