"""Average precision against COCO's evaluation as others wrote it, and against VOC's kit, one detection at a time."""

from fractions import Fraction

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster

from components.data.boxes import Floats, Objects
from components.transfer.metrics.average_precision import (
    Detections,
    Matches,
    Truth,
    area_below,
    eleven_points,
    hundred_points,
    match_coco,
    match_voc,
)

CLASSES = 3
Rng = np.random.Generator


def boxes(rng: Rng, n: int) -> Floats:
    """Few places and sizes, so that overlaps are often equal, and often exactly a threshold."""
    corner_N2, side_N2 = rng.integers(0, 6, (n, 2)), rng.integers(1, 7, (n, 2))
    return np.concatenate([corner_N2, corner_N2 + side_N2], 1).astype(np.float64)


def case(seed: int, crowds: bool = True, difficult: bool = True) -> tuple[Detections, Truth]:
    """A few images, some of them empty; detections near objects and elsewhere; scores of which many are equal."""
    rng = np.random.default_rng(seed)
    images = int(rng.integers(1, 7))
    objects, found = [], []
    for image in range(images):
        k, d = int(rng.integers(0, 7)), int(rng.integers(0, 12))
        crowd_K = rng.random(k) < 0.2 * crowds
        difficult_K = (rng.random(k) < 0.3 * difficult) & ~crowd_K
        labels_K = rng.integers(0, CLASSES - (seed % 2), k)
        objects.append(Objects(boxes(rng, k), labels_K, difficult_K, crowd_K))
        near_D4 = boxes(rng, d)
        if k:
            some = rng.integers(0, k, d)
            near_D4 = np.where(rng.random((d, 1)) < 0.6, objects[-1].boxes_K4[some], near_D4)
            labels_D = np.where(rng.random(d) < 0.8, labels_K[some], rng.integers(0, CLASSES, d))
        else:
            labels_D = rng.integers(0, CLASSES, d)
        scores_D = rng.integers(0, 5, d) / 4 if seed % 3 else rng.random(d)
        found.append((np.full(d, image), labels_D, scores_D, near_D4))
    order = rng.permutation(sum(len(each[0]) for each in found)) if seed % 5 == 0 else slice(None)
    image_D, label_D, score_D, boxes_D4 = (np.concatenate(each) for each in zip(*found, strict=True))
    kept = image_D.argsort(kind="stable") if not isinstance(order, slice) else order
    return Detections(image_D[kept], label_D[kept], score_D[kept], boxes_D4[kept]), Truth.of(objects)


def by_others(found: Detections, truth: Truth, most: int) -> Floats:
    """(T, K) average precisions by faster-coco-eval; -1 for a class without objects."""
    objects = truth.objects
    sized_G4, sized_D4 = (np.concatenate([each[:, :2], each[:, 2:] - each[:, :2]], 1) for each in
                          (objects.boxes_K4, found.boxes_D4))  # fmt: skip
    annotations = [
        {"id": g + 1, "image_id": int(truth.image_G[g]), "category_id": int(objects.labels_K[g]),
         "bbox": sized_G4[g].tolist(), "area": float(sized_G4[g, 2:].prod()), "iscrowd": int(objects.crowd_K[g])}
        for g in range(len(objects))
    ]  # fmt: skip
    results = [
        {"image_id": int(found.image_D[d]), "category_id": int(found.label_D[d]), "bbox": sized_D4[d].tolist(),
         "score": float(found.score_D[d])}
        for d in range(len(found.image_D))
    ]  # fmt: skip
    images = [{"id": n, "width": 20, "height": 20} for n in range(truth.images)]
    known = COCO({"images": images, "annotations": annotations, "categories": [{"id": k} for k in range(CLASSES)]})
    judge = COCOeval_faster(known, known.loadRes(results), "bbox", print_function=lambda *_: None)
    judge.params.maxDets = [most]
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    judge.accumulate()
    mean_TK: Floats = np.asarray(judge.eval["precision"])[:, :, :, 0, 0].mean(1)
    return mean_TK


@pytest.mark.parametrize("part", range(4))
def test_coco_is_as_others_have_it(part: int) -> None:
    compared = 0
    for seed in range(part * 500, (part + 1) * 500):
        found, truth = case(seed, difficult=False)
        if not len(found.image_D):
            continue
        most = 3 if seed % 4 == 0 else 100
        wanted_TK = by_others(found, truth, most)
        matches = match_coco(found, truth, CLASSES, most=most)
        found_K = matches.by_class(hundred_points)
        assert np.allclose(np.nan_to_num(found_K, nan=-1.0), wanted_TK.mean(0), atol=1e-9), seed
        if (wanted_TK[0] >= 0).any():
            assert matches.average(hundred_points) == pytest.approx(wanted_TK[wanted_TK >= 0].mean(), abs=1e-9), seed
        half_K = match_coco(found, truth, CLASSES, np.array([0.5]), most).by_class(hundred_points)
        assert np.allclose(np.nan_to_num(half_K, nan=-1.0), wanted_TK[0], atol=1e-9), seed
        compared += 1
    assert compared > 400


def overlap(one: Floats, other: Floats) -> Fraction:
    sides = [max(0, int(min(one[k + 2], other[k + 2])) - int(max(one[k], other[k]))) for k in (0, 1)]  # whole numbers
    areas = [int(each[2] - each[0]) * int(each[3] - each[1]) for each in (one, other)]
    common = sides[0] * sides[1]
    return Fraction(common, sum(areas) - common)


def by_the_kit(found: Detections, truth: Truth, label: int) -> tuple[Fraction, Fraction] | None:
    """(by area, by 11 points) of one class, in VOCevaldet's own order of things, in exact numbers."""
    objects = truth.objects
    wanted = sum(bool(objects.labels_K[g] == label and not objects.difficult_K[g]) for g in range(len(objects)))
    if not wanted:
        return None
    ranked = sorted(np.flatnonzero(found.label_D == label), key=lambda d: -found.score_D[d])
    taken: set[int] = set()
    right, wrong, curve = 0, 0, []
    for d in ranked:
        best, most = -1, Fraction(0)
        for g in range(len(objects)):
            if truth.image_G[g] == found.image_D[d] and objects.labels_K[g] == label:
                here = overlap(found.boxes_D4[d], objects.boxes_K4[g])
                if here > most:
                    best, most = g, here
        if most >= Fraction(1, 2):
            if not objects.difficult_K[best]:
                if best in taken:
                    wrong += 1
                else:
                    right += 1
                    taken.add(best)
        else:
            wrong += 1
        if right + wrong:
            curve.append((Fraction(right, wanted), Fraction(right, right + wrong)))
    area, before = Fraction(0), Fraction(0)
    for k, (recall, _) in enumerate(curve):
        area += (recall - before) * max(precision for _, precision in curve[k:])
        before = recall
    points = [max([p for r, p in curve if r >= Fraction(k, 10)], default=Fraction(0)) for k in range(11)]
    return area, sum(points, Fraction(0)) / 11


@pytest.mark.parametrize("part", range(4))
def test_voc_is_as_the_kit_has_it(part: int) -> None:
    for seed in range(part * 500, (part + 1) * 500):
        found, truth = case(seed, crowds=False)
        matches = match_voc(found, truth, CLASSES)
        area_K, eleven_K = matches.by_class(area_below), matches.by_class(eleven_points)
        for label in range(CLASSES):
            wanted = by_the_kit(found, truth, label)
            if wanted is None:
                assert np.isnan(area_K[label]) and np.isnan(eleven_K[label])
            else:
                assert area_K[label] == pytest.approx(float(wanted[0]), abs=1e-9), seed
                assert eleven_K[label] == pytest.approx(float(wanted[1]), abs=1e-9), seed


def repeated(found: Detections, truth: Truth, times: list[int]) -> tuple[Detections, Truth]:
    """Each image as often as that, one copy behind the other."""
    which = np.repeat(np.arange(truth.images), times)
    parts = [found[found.image_D == image] for image in which]
    image_D = np.repeat(np.arange(len(which)), [len(each.image_D) for each in parts])
    boxes_D4 = np.concatenate([each.boxes_D4 for each in parts])
    label_D, score_D = (np.concatenate([getattr(each, key) for each in parts]) for key in ("label_D", "score_D"))
    more = Detections(image_D, label_D, score_D, boxes_D4)
    return more, Truth.of([truth.objects[truth.image_G == image] for image in which])


def test_weights_count_images() -> None:
    compared = 0
    for seed in range(0, 900, 3):  # scores that are not equal
        found, truth = case(seed)
        times = np.random.default_rng(seed).integers(0, 4, truth.images).tolist()
        if not sum(times):
            continue
        more, again = repeated(found, truth, times)
        weight_N = np.array(times, np.float64)
        for match, rules in ((match_voc, (area_below, eleven_points)), (match_coco, (hundred_points,))):
            one: Matches = match(found, truth, CLASSES)
            other: Matches = match(more, again, CLASSES)
            for rule in rules:
                assert one.average(rule, weight_N) == pytest.approx(other.average(rule), abs=1e-9), seed
        compared += 1
    assert compared > 200


def one_class(
    objects: list[list[float]], found: list[tuple[float, list[float]]], **flags: list[bool]
) -> tuple[Detections, Truth]:
    scores, places = zip(*found, strict=True)
    detections = Detections(
        np.zeros(len(found), np.int64), np.zeros(len(found), np.int64), np.array(scores), np.array(places)
    )
    truth = Truth.of([Objects.of(objects, [0] * len(objects), flags.get("difficult", ()), flags.get("crowd", ()))])
    return detections, truth


def test_what_is_in_a_crowd_or_difficult_is_neither_right_nor_wrong() -> None:
    small, large, apart = [0.0, 0, 10, 10], [20.0, 20, 60, 60], [30.0, 30, 35, 35]
    case_ = one_class([small, large], [(0.9, apart), (0.8, apart), (0.5, small)], crowd=[False, True])
    assert match_voc(*case_, 1).average(area_below) == 1
    assert match_coco(*case_, 1).average(hundred_points) == 1
    hard = one_class([small, large], [(0.9, large), (0.8, large), (0.5, small)], difficult=[False, True])
    assert match_voc(*hard, 1).average(area_below) == 1, "VOC passes over all that find a difficult object"
    assert match_coco(*hard, 1).average(hundred_points) == 0.5, "here one of them"
    assert match_voc(*one_class([large], [(0.9, large)], difficult=[True]), 1).average(area_below) == 0


def test_nothing_found_and_nothing_there() -> None:
    nothing = Detections(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4)))
    truth = Truth.of([Objects.of([[0, 0, 5, 5]], [1]), Objects.of([], [])])
    for match, rule in ((match_voc, area_below), (match_voc, eleven_points), (match_coco, hundred_points)):
        found_K = match(nothing, truth, CLASSES).by_class(rule)
        assert found_K[1] == 0 and np.isnan(found_K[[0, 2]]).all()
        assert match(nothing, Truth.of([Objects.of([], [])]), CLASSES).average(rule) == 0
