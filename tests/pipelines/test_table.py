"""The table as data: rows of seeds that finished, and of those that diverged."""

from typing import Any

from components.errors import Diverged
from pipelines.recipes import load_recipe
from pipelines.table import Table, _cells, _table, figure
from pipelines.workflow import StepResult


def result(top1: float) -> StepResult:
    value: dict[str, Any] = {"benchmark": "linear", "value": top1, "layer": "conv1", "layers": {"conv1": top1}}
    return StepResult("transfer", "linear", "f", "run", value, reused=False)


def make(scores: dict[str, list[float | None]]) -> Table:
    """A table of made-up scores, a list of seeds for each recipe; None is a training that diverged."""
    seeds = max(map(len, scores.values()))
    cells = _cells([load_recipe(name) for name in scores], seeds)
    left = {name: iter(values) for name, values in scores.items()}
    results = []
    for cell in cells:
        top1 = next(left[cell.recipe.name])
        results.append(Diverged("step 3: loss/l2 not finite") if top1 is None else result(top1))
    return _table(cells, results)


def test_seeds_that_diverged_are_counted_and_not_averaged() -> None:
    table = make({"random": [0.3, 0.3], "rescaled": [0.4, 0.4], "supervised": [0.5, 0.5], "autoencoder": [0.4, None]})
    row = next(row for row in table.rows if row["recipe"] == "autoencoder")
    assert (row["test top-1"], row["±"], row["gap closed"]) == (40.0, None, 0.5)
    assert row["seeds"] == "1 (1 diverged)"
    assert [score["diverged"] for score in table.scores if "diverged" in score] == ["step 3: loss/l2 not finite"]


def test_a_row_that_diverged_altogether_stands_in_the_table_without_a_score() -> None:
    table = make({"random": [0.3], "rescaled": [0.4], "supervised": [None], "autoencoder": [None]})
    rows = {row["recipe"]: row for row in table.rows}
    assert rows["autoencoder"]["test top-1"] is None and rows["autoencoder"]["seeds"] == "0 (1 diverged)"
    assert rows["rescaled"]["gap closed"] is None, "there is no supervised score to compare with"
    assert "| autoencoder | linear | no | – |" in table.to_markdown()
    assert [text.get_text() for text in figure(table).axes[0].get_yticklabels()] == ["random", "rescaled"]
