"""What makes one training another, for whoever looks for results that are there already."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.tasks.base import get_task
from pipelines.data.prepared import Prepared, classes_of
from pipelines.pretrain import pretrain_step
from pipelines.recipes import load_recipe
from pipelines.steps.step import Step
from pipelines.training.job import PROBES_FILE, ProbeScore, best_step, read_probes


def step(*settings: str) -> Step[Any]:
    return pretrain_step(load_recipe("autoencoder", settings))


def test_a_crop_is_another_training_and_none_is_the_one_before_there_were_any() -> None:
    assert step().config["training"]["augment"].keys() == {"flip", "shift"}
    assert step("training.augment.crop=0").fingerprint == step().fingerprint
    assert step("training.augment.crop=4").fingerprint != step().fingerprint


def test_a_new_version_of_a_task_is_another_training(monkeypatch: pytest.MonkeyPatch) -> None:
    first = step().fingerprint
    monkeypatch.setattr(get_task("autoencoder"), "version", 2)
    assert step().fingerprint != first


def probes_in(folder: Path, written: list[dict[str, Any]], labelled: bool) -> list[ProbeScore]:
    (folder / PROBES_FILE).write_text(json.dumps(written))
    return read_probes(folder, labelled)


def test_the_step_is_that_of_the_weights_that_are_kept(tmp_path: Path) -> None:
    scored = [{"step": 4, "score": 0.2}, {"step": 8, "score": 0.5}, {"step": 12, "score": 0.5}]
    assert best_step(probes_in(tmp_path, scored, labelled=True), 12) == 8
    assert best_step(probes_in(tmp_path, scored, labelled=False), 12) == 12
    assert best_step([], 0) == 0


def test_without_labels_no_probe_has_a_score_whatever_an_earlier_version_wrote(tmp_path: Path) -> None:
    assert probes_in(tmp_path, [{"step": 4, "score": 0.0}], labelled=False) == [ProbeScore(step=4, score=None)]
    assert probes_in(tmp_path, [{"step": 4, "score": 0.0}], labelled=True) == [ProbeScore(step=4, score=0.0)]


@pytest.mark.parametrize(
    ("names", "fields", "counted"),
    [
        (("dog", "cat"), {"image": "jpg", "label": "cls"}, {"classes": 2, "labels": 2}),
        (("dog",), {"image": "jpg", "boxes": "boxes.json"}, {"classes": 1, "labels": None}),
        ((), {"image": "jpg"}, {"classes": None, "labels": None}),
    ],
)
def test_classes_are_those_with_a_name_and_labels_those_of_samples(names: Any, fields: Any, counted: Any) -> None:
    from types import SimpleNamespace

    index: Any = SimpleNamespace(classes=names, fields=fields)
    assert classes_of(index) == counted and prepared(**counted).label_classes == (counted["labels"] or 0)
    assert [prepared(classes=k).label_classes for k in (10, 0)] == [10, 0]  # finished before there was `labels`
    assert prepared(**counted).says_labels and not prepared(classes=10).says_labels


def prepared(**counted: Any) -> Prepared:
    return Prepared(url="u", index="i", index_file="f", samples={}, **counted)
