"""Benchmarks that score on data of their own: what is trained, what stands beside it, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.config import BenchmarkConfig
from components.errors import UserError
from components.transfer import protocol
from components.transfer.protocol import Score, get_protocol, register_benchmark
from pipelines.prepare import prepare_step
from pipelines.pretrain import pretrain_step
from pipelines.recipes import load_recipe, load_recipes, places_of, write_recipe
from pipelines.table import _cells, yardsticks
from pipelines.tables.rows import data_notes
from pipelines.transfer import transfer_step
from tests.pipelines.test_dry_runs import pictures
from tests.pipelines.test_score_on import TINY, trained_and_scored

BOXED = "_boxed"


@pytest.fixture(autouse=True)
def boxed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark that needs boxes, and no labels."""
    protocol.all_benchmarks()
    monkeypatch.setattr(protocol._REGISTRY, "known", dict(protocol._REGISTRY.known))
    config = BenchmarkConfig(name=BOXED, kind=BOXED)

    def run(*_: object) -> Score:
        raise AssertionError("nothing is scored here")

    register_benchmark(config, summary="", source="", check=lambda *_: None, needs=("boxes",), metric="ap50")(run)


@pytest.fixture
def cells(tmp_path: Path) -> str:
    """A place with boxes and without labels."""
    root = tmp_path / "cells"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split in ("train", "val"):
        names = [f"{split}{k}" for k in range(20)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            Image.fromarray(np.zeros((12, 12, 3), np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
            (root / "Annotations" / f"{name}.xml").write_text(
                "<annotation><size><width>12</width><height>12</height></size><object><name>cell</name>"
                "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>8</xmax><ymax>8</ymax></bndbox></object></annotation>"
            )
    return f"voc:{root}"


def test_benchmarks_on_the_command_line() -> None:
    assert places_of(["linear,knn", f"{BOXED}=voc:./cells"]) == {"linear": "", "knn": "", BOXED: "voc:./cells"}
    with pytest.raises(UserError, match="unknown benchmark 'liner'"):
        places_of(["liner"])
    for wrong in ("linear=", "=x", "linear,,knn", ""):
        with pytest.raises(UserError, match="must be NAME or NAME=PLACE, such as linear,detection=voc:"):
            places_of([wrong])
    with pytest.raises(UserError, match="benchmark 'knn' is there twice"):
        places_of(["knn", "linear,knn=shapes"])


def test_a_place_on_the_command_line_is_laid_over_the_recipes_own(tmp_path: Path, cells: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "extends: rotation\ndata: {size: 48}\nbenchmarks: [knn]\n"
        "benchmark_data: {knn: {source: shapes, samples: 70}, linear: {source: shapes, samples: 80}}\n"
    )
    recipe = load_recipe(str(file))
    assert (recipe.scored_on("knn").samples, recipe.scored_on("knn").size) == (70, 48)
    assert recipe.scored_on(BOXED) == recipe.data and recipe.place_of(BOXED) is None
    again = load_recipe(str(file), ["benchmark_data.knn.samples=60"], None, [f"linear,{BOXED}={cells}"])
    assert again.benchmarks == ("linear", BOXED)
    assert [again.scored_on(name).samples for name in ("knn", "linear", BOXED)] == [60, 80, None]
    assert again.scored_on(BOXED).source == "voc"
    everywhere = load_recipe(str(file), [], "shapes", [f"knn,{BOXED}={cells}"])
    assert everywhere.scored_on("knn").samples is None, "--on says where, whatever the recipe says"
    file.write_text(write_recipe(again))
    assert load_recipe(str(file)) == again
    with pytest.raises(UserError, match=r"benchmark_data\.knn\.size=32: an encoder is scored at the size of its"):
        load_recipe(str(file), ["benchmark_data.knn.size=32"])
    with pytest.raises(UserError, match="unknown benchmark 'lineer'"):
        load_recipes([str(file)], ["benchmark_data.lineer.source=shapes"])


def test_each_benchmark_scores_on_its_data_and_the_training_knows_of_none(cells: str) -> None:
    plain = load_recipe("rotation", TINY)
    recipe = load_recipe("rotation", TINY, None, [f"linear,{BOXED}={cells}"])
    assert pretrain_step(recipe).fingerprint == pretrain_step(plain).fingerprint
    own = prepare_step(plain.data).fingerprint
    assert trained_and_scored(transfer_step(recipe, get_protocol("linear"))) == (own, own)
    boxes = trained_and_scored(transfer_step(recipe, get_protocol(BOXED)))
    assert boxes == (own, prepare_step(recipe.benchmark_data[BOXED]).fingerprint) and boxes[1] != own


def test_yardsticks_stand_in_every_place_and_are_trained_once(cells: str) -> None:
    rows = [load_recipe(name, TINY, None, [f"linear,knn,{BOXED}={cells}"]) for name in ("rotation", "jigsaw")]
    made = _cells(rows, 2)
    names = {"random", "rescaled", "supervised", "rotation", "jigsaw"}
    for benchmark in ("linear", "knn", BOXED):
        there = [cell for cell in made if cell.benchmark == benchmark]
        assert {cell.recipe.name for cell in there} == names and len(there) == 10
        assert len({cell.place for cell in there}) == 1, "all are compared with each other"
    assert len({cell.step.inputs[0].fingerprint for cell in made}) == 10, "five encoders with two seeds"
    assert len({cell.step.fingerprint for cell in made}) == 30


def test_supervised_is_trained_where_there_are_labels(tmp_path: Path, cells: str) -> None:
    plain = [*TINY, "data.source=folder", f"data.root={pictures(tmp_path / 'plain')}"]
    rows = [load_recipe("rotation", plain, None, [f"{BOXED}={cells}", "linear=shapes"])]
    added = [each for each in yardsticks(rows) if each.name == "supervised"]
    assert [each.data.source for each in added] == ["shapes", "shapes"]
    voc = cells.removeprefix("voc:")
    assert set(data_notes([*added, *rows])) == {
        f"supervised: trained on shapes, scored on voc {voc}: the others' data has no labels",
        "supervised: trained on what is scored, shapes: the others' data has no labels",
        f"rotation: trained on folder {tmp_path}/plain, scored on voc {voc}",
        f"rotation: trained on folder {tmp_path}/plain, scored on shapes",
    }


def test_where_nothing_has_labels_no_row_is_supervised(cells: str) -> None:
    own = [*TINY, "data.source=voc", f"data.root={cells.removeprefix('voc:')}"]
    rows = [load_recipe("rotation", own, None, [BOXED])]
    assert {cell.recipe.name for cell in _cells(rows, 1)} == {"random", "rescaled", "rotation"}
    with pytest.raises(UserError, match="task 'supervised' needs labels, and the data has none"):
        _ = [cell.step for cell in _cells([*rows, load_recipe("supervised", own, None, [BOXED])], 1)]


def test_data_without_the_field_is_refused_before_anything_is_trained(tmp_path: Path, cells: str) -> None:
    plain = f"folder:{pictures(tmp_path / 'plain')}"
    for benchmark, said in ((f"{BOXED}={plain}", "needs the field 'boxes'"), (f"linear={cells}", "needs labels")):
        recipe = load_recipe("rotation", TINY, None, [benchmark])
        with pytest.raises(UserError, match=said):
            _ = [cell.step for cell in _cells([recipe], 1)]
