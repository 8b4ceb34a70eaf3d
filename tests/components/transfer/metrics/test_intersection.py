"""Scores of segmentations: against scikit-learn's and against plain code, on thousands of random cases."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score

from components.data.arrays import UInt8
from components.transfer.metrics.intersection import Overlaps, confusion
from components.transfer.metrics.statistics import resample

CASES = 3000
VOID = 255


def case(rng: np.random.Generator) -> tuple[int, list[tuple[UInt8, UInt8]]]:
    """(values, truths and guesses of some images of any size); values are often missing, truths often void."""
    values = int(rng.integers(2, 8))
    there = rng.permutation(values)[: rng.integers(1, values + 1)]
    images = []
    for _ in range(rng.integers(1, 4)):
        shape = rng.integers(1, 9, 2)
        truth_hw = rng.choice(there, shape).astype(np.uint8)
        guess_hw = np.where(rng.random(shape) < rng.random(), truth_hw, rng.integers(0, values, shape))
        truth_hw[rng.random(shape) < rng.choice([0.0, 0.3, 1.0], p=[0.5, 0.4, 0.1])] = VOID
        images.append((truth_hw, guess_hw.astype(np.uint8)))
    return values, images


def plain_miou(images: list[tuple[UInt8, UInt8]], times: list[int]) -> float:
    """By counting, pixel after pixel."""
    both: dict[int, int] = {}
    either: dict[int, int] = {}
    for (truth_hw, guess_hw), count in zip(images, times, strict=True):
        for true, guess in zip(truth_hw.ravel().tolist(), guess_hw.ravel().tolist(), strict=True):
            if true == VOID:
                continue
            for value in {true, guess}:
                either[value] = either.get(value, 0) + count
            if true == guess:
                both[true] = both.get(true, 0) + count
    shares = [both.get(value, 0) / total for value, total in either.items() if total]
    return sum(shares) / len(shares) if shares else 0.0


def test_scores_are_those_of_scikit_learn_and_of_plain_counting() -> None:
    rng = np.random.default_rng(0)
    void = 0
    for _ in range(CASES):
        values, images = case(rng)
        found = Overlaps.of([confusion(truth_hw, guess_hw, values) for truth_hw, guess_hw in images])
        times = rng.integers(0, 3, len(images))
        assert found.miou(times.astype(float)) == pytest.approx(plain_miou(images, times.tolist()), abs=1e-9)
        truth, guess = (np.concatenate([each[k].ravel() for each in images]) for k in (0, 1))
        truth, guess = truth[truth != VOID], guess[truth != VOID]
        if not len(truth):
            void += 1
            assert found.miou() == found.pixel_accuracy() == found.mean_accuracy() == 0
            continue
        there = np.union1d(truth, guess)
        by_value = jaccard_score(truth, guess, labels=there, average=None)
        assert found.iou()[there] == pytest.approx(by_value, abs=1e-9)
        assert np.isnan(np.delete(found.iou(), there)).all()
        assert found.miou() == pytest.approx(by_value.mean(), abs=1e-9)
        assert found.pixel_accuracy() == pytest.approx(accuracy_score(truth, guess), abs=1e-9)
        if len(np.unique(truth)) > 1 and set(guess) <= set(truth):  # scikit-learn warns of other guesses
            assert found.mean_accuracy() == pytest.approx(balanced_accuracy_score(truth, guess), abs=1e-9)
    assert void > 10


def test_a_value_that_is_guessed_and_nowhere_true_counts_as_zero() -> None:
    truth_hw = np.array([[1, 1, 1, 2]], np.uint8)
    right = Overlaps.of([confusion(truth_hw, truth_hw, 5)])
    assert right.miou() == 1.0
    wrong = Overlaps.of([confusion(truth_hw, np.array([[1, 1, 4, 2]], np.uint8), 5)])
    assert wrong.miou() == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_what_is_guessed_of_void_pixels_does_not_count() -> None:
    truth_hw = np.array([[0, 1, VOID, VOID]], np.uint8)
    guesses = [np.array([[0, 1, *others]], np.uint8) for others in ((0, 0), (1, 0), (2, 2))]
    assert {Overlaps.of([confusion(truth_hw, guess_hw, 3)]).miou() for guess_hw in guesses} == {1.0}


def test_samples_of_images_are_samples_of_all_their_pixels() -> None:
    rng = np.random.default_rng(1)
    matrices = [rng.integers(0, 20, (4, 4)) for _ in range(9)]
    found = Overlaps.of(matrices)
    resampled = resample(found.miou, 9, 50)
    assert len(resampled) == 50 and len(set(resampled)) > 40
    assert abs(np.mean(resampled) - found.miou()) < 0.02
    assert found.miou(np.eye(9)[3]) == pytest.approx(Overlaps.of([matrices[3]]).miou())
    twice = Overlaps.of([matrices[0], matrices[0], matrices[4]])
    assert found.miou(np.array([2.0, 0, 0, 0, 1, 0, 0, 0, 0])) == pytest.approx(twice.miou())
