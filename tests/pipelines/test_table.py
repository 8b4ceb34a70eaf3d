"""The table as data: rows of seeds that finished, and of those that diverged."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from components.config import Recipe
from components.errors import Diverged, UserError
from components.transfer.protocol import get_protocol
from pipelines.pretrain import pretrain_step
from pipelines.recipes import check_recipe, load_recipe
from pipelines.steps.results import StepResult
from pipelines.table import _cells, yardsticks
from pipelines.tables.figure import figure
from pipelines.tables.rows import Table, metrics, table_of
from pipelines.transfer import Scored, _published, _story


def result(top1: float, split: str = "test", n: int = 10_000) -> StepResult[Scored]:
    value: dict[str, Any] = {"benchmark": "linear", "value": top1, "layer": "conv1", "layers": {"conv1": top1}}
    value |= {"split": split, "n": n, "metric": "top1", "protocol": {}}
    return StepResult("transfer", "linear", "f", "run", Scored.from_json(value), reused=False)


def make(scores: dict[str, list[float | None]], **measured: Any) -> Table:
    """A table of made-up scores, a list of seeds for each recipe; None is a training that diverged."""
    seeds = max(map(len, scores.values()))
    cells = _cells([load_recipe(name) for name in scores], seeds)
    left = {name: iter(values) for name, values in scores.items()}
    results = []
    for cell in cells:
        top1 = next(left[cell.recipe.name])
        results.append(Diverged("step 3: loss/l2 not finite") if top1 is None else result(top1, **measured))
    return table_of(cells, results)


def test_seeds_that_diverged_are_counted_and_not_averaged() -> None:
    table = make({"random": [0.3, 0.3], "rescaled": [0.4, 0.4], "supervised": [0.5, 0.5], "autoencoder": [0.4, None]})
    row = next(row for row in table.rows if row["recipe"] == "autoencoder")
    assert (row["test"], row["seeds ±"], row["gap closed"]) == (40.0, None, 0.5)
    assert row["seeds"] == "1 (1 diverged)"
    assert [score["diverged"] for score in table.scores if "diverged" in score] == ["step 3: loss/l2 not finite"]


def test_a_row_that_diverged_altogether_stands_in_the_table_without_a_score() -> None:
    table = make({"random": [0.3], "rescaled": [0.4], "supervised": [None], "autoencoder": [None]})
    rows = {row["recipe"]: row for row in table.rows}
    assert rows["autoencoder"]["test"] is None and rows["autoencoder"]["seeds"] == "0 (1 diverged)"
    assert rows["rescaled"]["gap closed"] is None, "there is no supervised score to compare with"
    assert "| autoencoder | linear | top1 | no | – |" in table.to_markdown()
    assert [text.get_text() for text in figure(table.rows).axes[0].get_yticklabels()] == ["random", "rescaled"]


def test_a_row_says_whether_its_options_need_labels() -> None:
    rows = make({"random": [0.3], "rescaled": [0.3], "supervised": [0.5], "cgan": [0.4], "gan": [0.4]}).rows
    labels = {row["recipe"]: row["labels"] for row in rows}
    assert labels == {"random": "no", "rescaled": "no", "supervised": "yes", "cgan": "yes", "gan": "no"}


def recipe(name: str, *settings: str) -> Recipe:
    return check_recipe(load_recipe(name, settings))


def fingerprints(recipes: list[Recipe], *overrides: str) -> dict[str, str]:
    return {each.name: pretrain_step(each).fingerprint for each in yardsticks(recipes, overrides)}


def test_yardsticks_do_not_depend_on_the_order_of_the_rows() -> None:
    short, batch = (
        recipe("rotation", "training.epochs=2"),
        recipe("autoencoder", "training.epochs=5", "training.batch=64"),
    )
    rows = [recipe("random"), short, batch]
    added = {each.name: each for each in yardsticks(rows)}
    assert added.keys() == {"rescaled", "supervised"}
    assert (added["supervised"].training.epochs, added["supervised"].training.batch) == (5, 64)
    assert fingerprints(rows) == fingerprints(rows[::-1]) == fingerprints([short, rows[0], batch])
    equal = [recipe("rotation", "training.batch=32"), recipe("colorization", "training.batch=64")]
    assert yardsticks(equal)[-1].training.batch == yardsticks(equal[::-1])[-1].training.batch == 64, "the first by name"


def test_a_yardstick_is_scored_on_every_benchmark_of_its_place() -> None:
    rows = [recipe("rotation", "benchmarks=[linear_20k]"), recipe("autoencoder")]
    assert {each.benchmarks for each in yardsticks(rows)} == {("linear", "linear_20k")}


def test_where_no_row_trains_supervised_is_as_long_as_its_own_recipe() -> None:
    rows = [recipe("random", "training.epochs=3"), recipe("rescaled", "training.epochs=3")]
    assert yardsticks(rows)[0].training.epochs == load_recipe("supervised").training.epochs == 4
    assert yardsticks(rows, ["training.epochs=3"])[0].training.epochs == 3


def test_the_table_says_how_long_each_row_was_trained() -> None:
    cells = _cells([recipe("rotation", "training.epochs=2"), recipe("autoencoder", "training.epochs=5")], 1)
    table = table_of(cells, [result(0.3 + k / 10) for k, _ in enumerate(cells)])
    epochs = {row["recipe"]: row["epochs"] for row in table.rows}
    assert epochs == {"random": 0, "rescaled": 0, "supervised": 5, "rotation": 2, "autoencoder": 5}
    (note,) = table.notes
    assert note.startswith("supervised was trained for 5 epochs, as long as the longest") and "rotation 2" in note


def test_two_rows_of_one_yardstick_are_told_apart_by_name_or_refused() -> None:
    other = load_recipe("random", ["training.seed=7"]).model_copy(update={"name": "random_b"})
    third = other.model_copy(update={"name": "random_c"})
    with pytest.raises(UserError, match="random_b and random_c are recipes of task 'random'"):
        _cells([other, third], 1)
    for rows in ([load_recipe("random"), other], [other, load_recipe("random")]):
        cells = _cells(rows, 1)
        scores = {"random": 0.2, "random_b": 0.5, "rescaled": 0.3, "supervised": 0.6}
        table = table_of(cells, [result(scores[cell.recipe.name]) for cell in cells])
        assert {row["recipe"]: row["gap closed"] for row in table.rows} == {
            "random": 0.0, "random_b": 0.75, "rescaled": 0.25, "supervised": 1.0
        }  # fmt: skip


def test_without_a_test_split_no_figure_says_test() -> None:
    table = make({"random": [0.3], "rescaled": [0.4], "supervised": [0.5], "autoencoder": [0.4]}, split="val")
    assert {(row["test"], row["split"]) for row in table.rows} == {(None, "val")}
    assert {row["recipe"]: row["val"] for row in table.rows}["supervised"] == 50.0
    assert {row["recipe"]: row["gap closed"] for row in table.rows}["autoencoder"] == 0.5
    (note,) = table.notes
    assert note.startswith("no test split: autoencoder, random, rescaled, supervised: ")
    assert "± and gap closed are of val" in note
    assert note in table.to_markdown() and '"test": null' in table.to_json()
    assert figure(table.rows).axes[0].get_xlabel() == "linear: val top1, %"
    assert metrics(table)["linear/val/random"] == 30.0 and "linear/random" not in metrics(table)
    assert "no test split" in _story(result(0.3, "val").value) and "on test" not in _story(result(0.3, "val").value)


def test_the_story_has_every_figure_and_what_was_chosen() -> None:
    value = result(0.3).value
    scored = value.model_copy(update={"metric": "map11", "others": {"map": 0.25}, "layers": {"conv1": 0.4}})
    assert _story(scored) == "linear: map11 40.0% on val, 30.0% on test, map 25.0%; chosen on val: conv1"


def test_a_gap_within_its_interval_is_no_gap() -> None:
    table = make({"random": [0.309], "rescaled": [0.22], "supervised": [0.310], "autoencoder": [0.32]}, n=500)
    assert {row["gap closed"] for row in table.rows} == {None}
    (note,) = table.notes
    assert "from random to supervised it is +0.1 ± 5.7 points: the gap is within its interval" in note
    seeds = make({"random": [0.2, 0.4], "rescaled": [0.2, 0.2], "supervised": [0.4, 0.3]})  # as they fell
    assert {row["gap closed"] for row in seeds.rows} == {None}
    clear = make({"random": [0.2, 0.21], "rescaled": [0.2, 0.2], "supervised": [0.4, 0.41]})
    assert {row["recipe"]: (row["gap closed"], row["gap ±"]) for row in clear.rows if row["recipe"] != "rescaled"} == {
        "random": (0.0, None), "supervised": (1.0, None)
    }  # fmt: skip


def test_a_penalty_at_the_last_that_was_tried_is_said() -> None:
    cells = _cells([recipe("autoencoder")], 1)
    last = len(cells) - 1
    results = [
        replace(each, value=each.value.model_copy(update={"protocol": {"layers": {"conv1": {"at_edge": k == last}}}}))
        for k, each in enumerate(result(0.3 + k / 10) for k, _ in enumerate(cells))
    ]
    assert next(note for note in table_of(cells, results).notes if "penalty" in note).startswith(
        "the best penalty of the probe of autoencoder is the last that was tried"
    )


@pytest.mark.parametrize(
    ("name", "settings", "registered"),
    [
        ("rotation", [], True),
        ("cgan", [], False),
        ("cgan", ["options.condition=colour"], True),
        ("supervised", [], False),
        ("random", [], False),
    ],
)
def test_only_what_was_learned_without_labels_is_registered(name: str, settings: list[str], registered: bool) -> None:
    run = MagicMock()
    run.tracker.models.register_encoder.return_value = (3, True)
    trained = cast(Any, SimpleNamespace(run_id="run", value=SimpleNamespace(model_id="m-1")))
    value = result(0.5).value
    scored = _published(run, trained, MagicMock(), load_recipe(name, settings), get_protocol("linear"), value)
    assert run.tracker.models.register_encoder.called == registered
    assert (scored.model == "models:/genoise-shapes/3") == registered
