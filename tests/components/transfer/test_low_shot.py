"""Few labels: what is drawn, against scikit-learn, and what is chosen on which split."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from components.config import FrozenConfig
from components.data.scramble import Int64
from components.errors import UserError
from components.transfer.features import extract
from components.transfer.low_shot import DEVIATION, LowShotConfig, check_counts, draw_labelled
from components.transfer.protocol import get_protocol, run_benchmark
from tests.components.transfer.test_probe import CLASSES, Colours, TwoLayers

CONFIG = LowShotConfig(features=64, labels=3, draws=4, penalties=(0.01, 0.1))


class Labelled(Colours):
    """With labels to be had alone."""

    def labels(self) -> Int64:
        return self.label.numpy()


def data() -> dict[str, Any]:
    return {"train": Labelled(300, 0), "val": Labelled(90, 1), "test": Labelled(120, 2)}


def test_a_draw_has_as_many_of_every_class_and_holds_those_of_fewer_labels() -> None:
    labels_N = np.random.default_rng(0).integers(0, 5, 400)
    few, many = (LowShotConfig(labels=labels) for labels in (2, 7))
    for number in range(20):
        two, seven = draw_labelled(labels_N, few, number), draw_labelled(labels_N, many, number)
        assert np.bincount(labels_N[two]).tolist() == [2] * 5 and np.bincount(labels_N[seven]).tolist() == [7] * 5
        assert set(two) <= set(seven) and len(set(seven)) == 35 and seven.tolist() == sorted(seven)
    drawn = np.bincount(np.concatenate([draw_labelled(labels_N, many, number) for number in range(300)]), minlength=400)
    assert drawn.min() > 0  # no image is out of reach


def test_a_share_is_taken_class_by_class_and_never_none() -> None:
    labels_N = np.repeat([0, 1, 3], [1000, 240, 7])
    share = LowShotConfig(labels=None, share=0.01)
    assert np.bincount(labels_N[draw_labelled(labels_N, share, 0)]).tolist() == [10, 2, 0, 1]


def test_draws_are_the_same_for_all_encoders() -> None:
    class Other(TwoLayers):
        """Another encoder."""

    first, second = data(), data()
    run_benchmark(CONFIG, TwoLayers(), first)
    run_benchmark(CONFIG.model_copy(update={"penalties": (1.0,)}), Other(), second)
    assert first["train"].reads == second["train"].reads
    assert len(first["train"].reads) < 4 * 9 + 1 + 300  # what was drawn, and what is seen without labels


def test_it_is_the_mean_of_scikit_learns_scores() -> None:
    splits = data()
    score = run_benchmark(CONFIG, TwoLayers(), splits)
    frozen = FrozenConfig(name="x", kind="x", features=64, layers=("colour",))
    x, val, test = (extract(TwoLayers(), splits[split], None, frozen) for split in ("train", "val", "test"))
    seen = x.layers["colour"].double().numpy()
    mean, deviation = seen.mean(0), seen.std(0)

    def fitted(penalty: float, number: int) -> LogisticRegression:
        places = draw_labelled(splits["train"].labels(), CONFIG, number)
        model = LogisticRegression(C=1 / (penalty * len(places)), tol=1e-8, max_iter=5000)
        return model.fit((seen[places] - mean) / deviation, x.labels[places])

    def scores(penalty: float, judged: Any) -> list[float]:
        z = (judged.layers["colour"].double().numpy() - mean) / deviation
        return [float((fitted(penalty, k).predict(z) == judged.labels.numpy()).mean()) for k in range(4)]

    tried = {penalty: np.mean(scores(penalty, val)) for penalty in CONFIG.penalties}
    chosen = score.protocol["layers"]["colour"]
    for penalty in CONFIG.penalties:
        assert chosen["val"][str(penalty)] == pytest.approx(tried[penalty], abs=1.5 / 360)
    wanted = scores(chosen["penalty"], test)
    assert score.layer == "colour" and score.split == "test" and score.metric == "top1" and score.n == 120
    assert score.value == pytest.approx(np.mean(wanted), abs=1.5 / 480)
    assert score.others[DEVIATION] == pytest.approx(np.std(wanted, ddof=1), abs=0.01)
    assert score.protocol["by_draw"] == pytest.approx(wanted, abs=1.5 / 120)
    assert np.mean(score.resampled) == pytest.approx(score.value, abs=0.01) and len(score.resampled) == 1000


def test_more_samples_than_features_are_fitted_as_well() -> None:
    many = run_benchmark(CONFIG.model_copy(update={"labels": 90}), TwoLayers(), data())
    assert many.value > run_benchmark(CONFIG.model_copy(update={"labels": 1}), TwoLayers(), data()).value
    assert many.protocol["labelled"] == 270


def test_the_test_split_is_read_once_and_has_no_say() -> None:
    splits = data()
    score = run_benchmark(CONFIG, TwoLayers(), splits)
    assert splits["test"].reads == list(range(120))
    assert score == run_benchmark(CONFIG, TwoLayers(), data())
    splits["test"].label = (splits["test"].label + 1) % CLASSES
    other = run_benchmark(CONFIG, TwoLayers(), splits)
    assert other.value < score.value and (other.layer, other.layers) == (score.layer, score.layers)
    del splits["test"]
    val = run_benchmark(CONFIG, TwoLayers(), splits)
    assert val.split == "val" and val.value == pytest.approx(val.layers["colour"]) and val.n == 90


def test_a_class_with_too_few_images_is_one_line_before_any_image_is_decoded() -> None:
    splits = data()
    splits["train"].label = torch.tensor([0] * 150 + [1] * 148 + [2] * 2)
    with pytest.raises(UserError, match=r"draws 3 labelled .* class 2 has 2: give --set benchmark.labels=2"):
        run_benchmark(CONFIG, TwoLayers(), splits)
    assert not any(split.reads for split in splits.values())
    with pytest.raises(UserError, match=r"'low_shot_2' draws 2 labelled images of every class, .* ship has 1: give"):
        check_counts(get_protocol("low_shot_2"), {"cat": 5, "ship": 1})  # type: ignore[arg-type]
    check_counts(LowShotConfig(labels=None, share=0.01), {"cat": 5, "ship": 1})


def test_names_and_numbers_that_do_not_go_together_are_refused() -> None:
    found = {name: get_protocol(f"low_shot{name}") for name in ("", "_1", "_2", "_5", "_1pct", "_10pct")}
    assert [(each.labels, each.share) for each in found.values() if isinstance(each, LowShotConfig)] == [
        (10, None), (1, None), (2, None), (5, None), (None, 0.01), (None, 0.1)
    ]  # fmt: skip
    for wrong in ({"labels": 5, "share": 0.1}, {"labels": None}):
        with pytest.raises(UserError, match="a number of labels or a share of them"):
            LowShotConfig.parse(wrong)
    with pytest.raises(UserError, match="penalties must be positive"):
        LowShotConfig.parse({"penalties": (0.0,)})
