"""Pretrained on one data set, scored on another: what is trained on what, what a result is known by, what is said."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.config import ProbeConfig, Recipe
from components.errors import UserError
from components.tasks.base import Task, get_task
from components.transfer.protocol import get_protocol
from pipelines.data.prepared import Prepared
from pipelines.prepare import prepare_step
from pipelines.pretrain import pretrain_step
from pipelines.recipes import comparable, data_at, load_places, load_recipe, write_recipe
from pipelines.steps import scheduling
from pipelines.steps.results import StepResult
from pipelines.steps.step import Step, in_order
from pipelines.sweeps.objectives import get_objective
from pipelines.sweeps.records import RESCALED, Proposal
from pipelines.sweeps.trials import collapse_floor, measurable, recipes_of
from pipelines.table import _cells
from pipelines.tables.rows import data_notes
from pipelines.transfer import _check_needs, check_prepared, transfer_step, validation_step
from tests.pipelines.test_dry_runs import pictures

LINEAR = ProbeConfig()
TINY = ["encoder.width=4", "training.batch=16", "training.epochs=1", "data.size=24"]


@pytest.fixture
def unlabelled(tmp_path: Path) -> list[str]:
    """Settings of a recipe that is trained on pictures without labels."""
    return [*TINY, "data.source=folder", f"data.root={pictures(tmp_path / 'plain')}"]


def trained_and_scored(step: Step[Any]) -> tuple[str, str]:
    """Fingerprints of the data that a score's encoder is trained on, and of the data that it is scored on."""
    trained, scored = step.inputs
    return trained.inputs[0].fingerprint, scored.fingerprint


def prepared(recipe: Recipe) -> str:
    return prepare_step(recipe.data).fingerprint


def test_training_knows_nothing_of_the_data_that_scores(unlabelled: list[str]) -> None:
    plain, on = load_recipe("rotation", unlabelled), load_recipe("rotation", unlabelled, on="shapes")
    assert on.scored.source == "shapes" and plain.scored == plain.data
    assert pretrain_step(on).fingerprint == pretrain_step(plain).fingerprint
    assert pretrain_step(on).params == pretrain_step(plain).params
    for made in (transfer_step, validation_step):
        trained, scored = trained_and_scored(made(on, LINEAR))
        assert (trained, scored) == (prepared(plain), prepared(load_recipe("rotation", TINY)))


def test_what_is_scored_on_its_own_data_is_known_as_before() -> None:
    recipe = load_recipe("rotation", TINY)
    step = transfer_step(recipe, LINEAR)
    assert set(step.config) == {"benchmark", "size"} and recipe.score_on is None
    assert trained_and_scored(step) == (prepared(recipe), prepared(recipe))


def test_the_size_is_that_of_the_training(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: rotation\ndata: {size: 48}\nscore_on: {source: shapes, samples: 64}\n")
    recipe = load_recipe(str(file))
    assert (recipe.scored.size, recipe.scored.samples, recipe.data.samples) == (48, 64, None)
    file.write_text(write_recipe(recipe))
    assert load_recipe(str(file)) == recipe
    with pytest.raises(UserError, match=r"score_on\.size=32: an encoder is scored at the size of its training"):
        load_recipe(str(file), ["score_on.size=32"])


def test_a_place_replaces_the_recipes_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: rotation\nscore_on: {source: cifar10, root: here, validation: 0.5}\n")
    recipe = load_recipe(str(file), ["score_on.samples=64"], on="shapes")
    assert recipe.score_on and (recipe.score_on.source, recipe.score_on.root) == ("shapes", None)
    assert (recipe.score_on.samples, recipe.score_on.validation) == (64, 0.1)


def test_places(tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 2)
    for name, file in (("index", "index.json"), ("tars", "train-0.tar")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(b"")
    assert data_at(str(photos)) == {"source": "folder", "root": str(photos)}
    assert data_at(f"{tmp_path}/tars/train-0.tar") == {"source": "folder", "root": f"{tmp_path}/tars/train-0.tar"}
    assert data_at(f"{tmp_path}/index") == {"source": "shards", "url": f"{tmp_path}/index"}
    assert data_at(f"{tmp_path}/tars") == {"source": "shards", "url": f"{tmp_path}/tars"}
    assert data_at("s3://bucket/x") == {"source": "shards", "url": "s3://bucket/x"}
    assert data_at("cifar10:./c.tar.gz") == {"source": "cifar10", "root": "./c.tar.gz"}
    assert data_at("shards:./s") == {"source": "shards", "url": "./s"}
    assert data_at("shapes") == {"source": "shapes"}
    with pytest.raises(UserError, match="nothing at cifar11"):
        data_at("cifar11:./c")
    assert load_places(on=str(photos)).data.root == str(photos)


def test_the_supervised_yardstick_is_trained_where_there_are_labels(unlabelled: list[str]) -> None:
    recipes = [load_recipe(name, unlabelled, on="shapes") for name in ("rotation", "jigsaw")]
    cells = {cell.recipe.name: cell for cell in _cells(recipes, 1)}
    assert set(cells) == {"random", "rescaled", "supervised", "rotation", "jigsaw"}
    labelled, plain = prepared(load_recipe("rotation", TINY)), prepared(recipes[0])
    assert {name: trained_and_scored(cell.step) for name, cell in cells.items()} == {
        "supervised": (labelled, labelled),
        **dict.fromkeys(("random", "rescaled", "rotation", "jigsaw"), (plain, labelled)),
    }
    assert len({cell.place for cell in cells.values()}) == 1, "all are compared with each other"
    where = f"folder {recipes[0].data.root}"
    assert data_notes([cell.recipe for cell in cells.values()]) == [
        "supervised: trained on what is scored, shapes: the others' data has no labels",
        f"jigsaw, rotation: trained on {where}, scored on shapes",
    ]


def test_a_supervised_recipe_that_is_named_is_the_same(unlabelled: list[str]) -> None:
    recipes = [load_recipe(name, unlabelled, on="shapes") for name in ("rotation", "supervised")]
    cells = [cell for cell in _cells(recipes, 1) if cell.recipe.task == "supervised"]
    assert [cell.recipe.data.source for cell in cells] == ["shapes"]


def test_where_both_are_labelled_the_yardstick_sees_what_the_others_see(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pictures(tmp_path / "two" / name, 20)
    recipe = load_recipe("rotation", TINY, on=f"{tmp_path}/two")
    cells = {cell.recipe.name: cell for cell in _cells([recipe], 1)}
    scored = prepare_step(recipe.scored).fingerprint
    assert trained_and_scored(cells["supervised"].step) == (prepared(recipe), scored)


def test_rows_of_two_trainings_stand_beside_the_same_yardsticks(unlabelled: list[str]) -> None:
    elsewhere = load_recipe("rotation", unlabelled, on="shapes")
    here = load_recipe("jigsaw", TINY)
    names = [cell.recipe.name for cell in _cells([elsewhere, here], 1)]
    assert sorted(names) == ["jigsaw", "random", "rescaled", "rotation", "supervised"]


def test_nothing_said_where_data_are_the_same() -> None:
    assert data_notes([load_recipe("rotation", TINY)]) == []


def test_shards_of_others_are_looked_into_before_anything_is_trained(unlabelled: list[str], tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "train-0.tar").write_bytes(b"")
    step = transfer_step(load_recipe("rotation", unlabelled, on=f"{tmp_path}/tars"), LINEAR)
    trained, scored = step.inputs
    order = [each.fingerprint for each in in_order([step])]
    assert order.index(scored.fingerprint) < order.index(trained.fingerprint)
    began: list[str] = []

    def perform(step: Step[Any], *_: Any) -> StepResult[Prepared]:
        began.append(step.label)
        value = Prepared(url="u", index="i", index_file="f", samples={}, classes=0)
        return StepResult(step.name, step.label, step.fingerprint, "run", value, reused=True)

    workflow: Any = SimpleNamespace(session=None, perform=perform)
    watch: Any = SimpleNamespace(finish=lambda *_: None)
    futures = scheduling._submit(in_order([step]), workflow, watch)
    with pytest.raises(UserError, match=f"needs labels, and shards {tmp_path}/tars has none"):
        futures[step.fingerprint].result()
    assert sorted(began) == ["open shards", "prepare folder"]


def test_a_trial_on_data_without_labels_does_not_collapse() -> None:
    assert collapse_floor(0) < 0 < collapse_floor(10)


def test_what_is_not_trained_makes_no_pictures() -> None:
    base = load_recipe("autoencoder", TINY)
    (rescaled,) = recipes_of(Proposal(1, RESCALED, {}), [base])
    objectives = [get_objective("linear"), get_objective("pictures/psnr")]
    assert [each.name for each in measurable(objectives, rescaled)] == ["linear"]
    assert measurable(objectives, base) == objectives


def test_a_task_is_built_once_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run builds every task; with other seeds, weights and data it is the same one."""
    built: list[int] = []
    task = get_task("autoencoder")
    before = task.__init__

    def counted(self: Task, *arguments: Any) -> None:
        built.append(1)
        before(self, *arguments)

    monkeypatch.setattr(task, "__init__", counted)
    for seed in range(3):
        pretrain_step(load_recipe("autoencoder", ["encoder.width=5", f"training.seed={seed}", "data.samples=200"]))
    assert len(built) == 1


@pytest.mark.parametrize("name", comparable())
def test_every_built_in_recipe_passes(name: str) -> None:
    pretrain_step(load_recipe(name))


def test_either_of_two_fields_will_do() -> None:
    data = load_recipe("rotation", TINY).data
    for fields in (("image", "boxes"), ("image", "mask", "boxes"), ("image", "mask")):
        _check_needs(get_protocol("multilabel"), data, fields, 0)
    with pytest.raises(
        UserError, match=r"'multilabel' needs the field 'boxes' or 'mask', and shapes has image, label:"
    ):
        _check_needs(get_protocol("multilabel"), data, ("image", "label"), 4)


def test_a_class_with_too_few_labels_is_found_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    index = SimpleNamespace(classes=["cat", "dog"], labels={"train": {"0": 40, "1": 4}}, fields={})
    monkeypatch.setattr("pipelines.transfer.read_index_file", lambda _: index)
    there: Any = SimpleNamespace(index_file="", label_classes=2, unseen={})
    data = load_recipe("rotation", TINY).data
    check_prepared(get_protocol("low_shot_2"), data, there)
    with pytest.raises(UserError, match=r"'low_shot_5' draws 5 labelled .* dog has 4"):
        check_prepared(get_protocol("low_shot_5"), data, there)
    index.labels = None  # shards of others say nothing of their labels
    check_prepared(get_protocol("low_shot_5"), data, there)
