"""Pictures by class: who is right, and how much the pictures of a class differ, against loops over samples."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from components.data.scramble import Int64
from components.draws import Draws
from components.pictures.classes import ByClass
from components.pictures.measure import MeasureConfig, measure_pictures
from components.tasks.base import Batch, Task, Tensors

CPU = torch.device("cpu")
CLASSES = 3


def shown(picture_B3HW: Tensor) -> Tensor:
    """The class that the first pixel says."""
    return picture_B3HW[:, 0, 0, 0].long() % CLASSES


def test_shares_and_variances_are_those_of_the_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    real, made = torch.randint(0, 256, (2, 40, 3, 4, 4), generator=generator).to(torch.uint8)
    made = made // 3
    label = torch.randint(0, CLASSES, (40,), generator=generator)
    by_class = ByClass(shown, CLASSES, {})
    for part in (slice(17), slice(17, 40)):
        by_class.add({"made": made[part], "real": real[part]}, label[part])
    found = by_class.values("made", "real")
    right = sum(int(made[k, 0, 0, 0]) % CLASSES == int(label[k]) for k in range(40))
    assert found["classified"] == pytest.approx(right / 40)
    ratios = []
    for k in range(CLASSES):
        variances = [np.var((x[label == k].double() / 255).numpy(), axis=0).mean() for x in (made, real)]
        ratios.append(math.sqrt(variances[0] / variances[1]))
    assert found["diversity"] == pytest.approx(min(ratios), rel=1e-6)
    assert by_class.values("real", "real")["diversity"] == pytest.approx(1.0)


def test_one_picture_for_a_class_is_no_diversity() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (30, 3, 4, 4), generator=generator).to(torch.uint8)
    label = torch.arange(30) % CLASSES
    made = real.clone()
    made[label == 1] = real[1]
    by_class = ByClass(shown, CLASSES, {})
    by_class.add({"made": made, "real": real}, label)
    assert by_class.values("made", "real")["diversity"] < 1e-6


class Obedient(Task):
    """Writes the label into the first pixel, a wrong one at every tenth sample."""

    name = "obedient"
    needs = ("image", "label")

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        return {**batch, "noise": draws.uniform(3, 4, 4)}

    def samples(self, inputs: Tensors) -> Tensors:
        made = inputs["noise"].clone()
        wrong = (inputs["image"][:, 1, 0, 0] * 255).round().long() % 10 == 0
        made[:, :, 0, 0] = ((inputs["label"] + wrong) % CLASSES / 255)[:, None]
        return {"prediction": made}


class Labelled:
    """Twenty pictures that show their class, and their number."""

    def __len__(self) -> int:
        return 20

    def get(self, ids: Int64) -> dict[str, Tensor]:
        label, numbers = torch.from_numpy(ids) % CLASSES, torch.from_numpy(ids)
        image = torch.zeros(len(ids), 3, 4, 4, dtype=torch.uint8)
        image[:, 0, 0, 0], image[:, 1, 0, 0] = label.byte(), numbers.byte()
        return {"image": image, "label": label}


def test_a_task_without_a_truth_is_judged_by_class() -> None:
    score = measure_pictures(Obedient(), Labelled(), MeasureConfig(), None, CPU, ByClass(shown, CLASSES, {"a": 1}))
    assert score.values["prediction"]["classified"] == pytest.approx(0.9)
    assert score.values["real"] == {"classified": 1.0, "diversity": pytest.approx(1.0)}
    assert list(score.values) == ["prediction", "real"]
    assert score.protocol["classifier"] == {"a": 1}
