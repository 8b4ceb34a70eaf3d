"""Whether a winner is better than a network without training, and where it is said that it is not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.transfer.metrics.statistics import gap_share
from pipelines.recipes import load_recipe
from pipelines.steps.results import StepResult
from pipelines.sweeps.config import Sweep, make_sweep
from pipelines.sweeps.objectives import UNIVERSAL
from pipelines.sweeps.records import PUBLISHED, RESCALED, Proposal, Record
from pipelines.sweeps.report import write_report
from pipelines.sweeps.winner import keep_winner, register_winner
from pipelines.sweeps.worth import Validation, worth_of
from pipelines.table import _cells, tags_of_models
from pipelines.tables.untrained import LEARNED, WARNING, Worth, beside, is_learned, warnings_of
from pipelines.transfer import Scored, measured_of
from tests.pipelines.sweeps.test_report import TINY, outcome


def records(winner: float, rescaled: float | None, objective: str = "linear") -> list[Record]:
    untrained = {} if rescaled is None else {objective: rescaled}
    return [
        Record(Proposal(0, PUBLISHED, {}), "finished", {objective: 0.9}),
        Record(Proposal(1, RESCALED, {}), "finished", untrained, untrained),
        Record(Proposal(2, "trial 0", {"weights.l2": 0.5}), "finished", {objective: winner}, {objective: winner}),
    ]


def sweep(*names: str, objectives: list[str] | None = None) -> Sweep:
    asked: dict[str, Any] = {"searcher": "random", "scheduler": "none", "trials": 2, "budget": None, "seed": 0}
    recipes = [load_recipe(name, TINY) for name in names or ("context_encoder",)]
    return make_sweep(recipes, len(names) > 1, None, objectives=objectives or [], **asked)


def worth(
    winner: float,
    rescaled: float | None,
    samples: int | None,
    objective: str = "linear",
    finished: Any = None,
) -> list[Worth]:
    found = records(winner, rescaled, objective)
    return worth_of(found[2], found, {}, Validation(sweep(objectives=[objective]), samples, finished))


@pytest.mark.parametrize(
    ("winner", "untrained", "samples", "outcome"),
    [
        (0.31, 0.38, 10_000, "worse"),
        (0.45, 0.38, 10_000, "better"),
        (0.385, 0.38, 10_000, "no better"),  # 0.5 points, with an interval of 1.3
        (0.38, 0.38, 10_000, "no better"),
        (0.45, 0.38, 100, "no better"),  # so few images: 7 points are luck
        (0.31, 0.38, None, "unknown"),  # a sweep of before did not say how many
        (0.45, 0.38, None, "unknown"),
    ],
)
def test_worse_or_better_only_outside_of_the_interval(
    winner: float, untrained: float, samples: int | None, outcome: str
) -> None:
    (found,) = worth(winner, untrained, samples)
    assert found.outcome == outcome
    assert bool(warnings_of([found])) == (outcome != "better")


def test_half_of_the_interval() -> None:
    (found,) = worth(0.5, 0.5, 9_998)
    assert found.half == pytest.approx(1.959964 * (2 * 0.25 / 10_000) ** 0.5)


def test_what_is_said() -> None:
    assert warnings_of(worth(0.31, 0.38, 10_000)) == [
        "the winner is worse than the untrained network (rescaled): 31.0 and 38.0 % top1 on validation, -7.0 ± 1.3; "
        "train longer, on more images, or with other weights"
    ]
    assert "+0.5 ± 1.3, within the interval" in warnings_of(worth(0.385, 0.38, 10_000))[0]
    (unknown,) = worth(0.45, 0.38, None)
    assert unknown.warning.startswith("whether the winner is better than the untrained network (rescaled) is unknown: ")
    assert (is_learned([unknown]), is_learned([unknown, *worth(0.9, 0.1, 999)])) == ("unknown", "unknown")
    assert is_learned([unknown, *worth(0.1, 0.9, 999)]) == "no"


def scored(value: float, metric: str, *resampled: float) -> Scored:
    found = {"benchmark": "x", "metric": metric, "value": value, "n": 100, "split": "test"}
    return Scored.from_json(found | {"layer": "a", "layers": {"a": value}, "protocol": {}, "resampled": resampled})


def test_the_samples_of_the_images_say_how_far_a_difference_is_chance() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.05, 1000)  # which images were drawn, more than the scores differ by
    found = {k: scored(0.4 + 0.02 * k, "mAP", *(0.4 + 0.02 * k + shared + rng.normal(0, 0.002, 1000))) for k in (0, 1)}
    steps = iter([found[1], found[0]])
    finished = SimpleNamespace(find=lambda step: SimpleNamespace(value=next(steps)))
    (paired,) = worth(0.42, 0.4, 100, finished=finished)
    assert paired.half == pytest.approx(1.959964 * 0.002 * 2**0.5, rel=0.1) and paired.outcome == "better"
    (alone,) = worth(0.42, 0.4, 100)
    assert alone.half and alone.half > 0.1 and alone.outcome == "no better", "as shares of 100 images"


def test_of_a_metric_that_is_no_share_nothing_is_known_without_samples() -> None:
    first, second = (measured_of({0: scored(value, "mAP")}) for value in (0.9, 0.1))
    assert beside("random", first, second).outcome == beside("random", second, first).outcome == "unknown"
    assert gap_share(first, second, measured_of({0: scored(0.95, "mAP")})) is None
    high, low = (measured_of({0: scored(value, "top1")}) for value in (0.9, 0.1))
    assert beside("random", high, low).outcome == "better"


def test_what_is_no_score_of_a_transfer_is_not_compared() -> None:
    assert worth(5.0, 9.0, 1000, "cost") == worth(20.0, 12.0, 1000, "pictures/psnr") == []
    assert worth(0.5, None, 1000) == [], "the rescaled network failed"
    assert [is_learned(each) for each in (worth(0.5, None, 9), worth(0.9, 0.1, 999), worth(0.1, 0.9, 999))] == [
        "unknown",
        "yes",
        "no",
    ]


def test_a_universal_winner_is_seen_beside_both_untrained_networks() -> None:
    first, second = "context_encoder", "split_brain"
    ends = {first: (0.2, 0.6), second: (0.4, 0.5)}
    scores = {first: 0.18, second: 0.41}
    winner = Record(Proposal(2, "trial 0", {}), "finished", {UNIVERSAL: 0.025}, scores)
    rescaled = Record(Proposal(1, RESCALED, {}), "finished", {UNIVERSAL: 0.55}, {first: 0.44, second: 0.45})
    random, other = worth_of(winner, [rescaled, winner], ends, Validation(sweep(first, second), 10_000))
    pair = [(0.18, 0.2, 0.4), (0.41, 0.4, 0.1)]  # found, other, gap
    shares = [((10_000 * s + 1) / 10_002, gap) for *both, gap in pair for s in both]
    assert random.half == pytest.approx(1.96 / 2 * sum(s * (1 - s) / 10_002 / g**2 for s, g in shares) ** 0.5, rel=1e-4)
    assert (random.against, random.untrained, random.outcome) == ("random", 0.0, "no better")
    assert (other.against, other.untrained, other.outcome) == (RESCALED, 0.55, "worse")


def test_the_page_and_the_recipe_say_it(tmp_path: Path) -> None:
    found = outcome(3)
    warning = "the winner is worse than <nothing>"
    _, page = write_report(found)
    assert "Warning" not in page
    _, page = write_report(type(found)(**{**vars(found), "warnings": [warning]}))
    assert '<div class="warning">Warning: the winner is worse than &lt;nothing&gt;.</div>' in page
    (path,) = keep_winner(found.sweep, found.winner, [warning], "run", tmp_path)
    assert f"# {warning}\n" in path.read_text()


def test_the_registered_model_says_it() -> None:
    told: dict[str, Any] = {}

    def register(*arguments: Any, **named: Any) -> tuple[int, bool]:
        told.update(named, metric=arguments[2])
        return 1, True

    trained = SimpleNamespace(value=SimpleNamespace(model_id="m-1"))
    workflow: Any = SimpleNamespace(
        tracker=SimpleNamespace(models=SimpleNamespace(register_encoder=register)),
        finished=SimpleNamespace(find=lambda step: trained),
    )
    found = records(0.31, 0.38)[2]
    assert register_winner(sweep(), found, ["it is worse"], "no", workflow) == "models:/genoise-sweep-context_encoder/1"
    assert told["description"].splitlines() == ['trial 0: {"weights.l2": 0.5}', "", "it is worse"]
    assert told["tags"] == {LEARNED: "no"} and told["metric"] == "linear/val"


def test_a_row_of_the_table_that_is_worse_than_untrained_says_so_at_its_model() -> None:
    cells = _cells([load_recipe("rotation"), load_recipe("jigsaw")], 1)
    scores = {"random": 0.31, "rescaled": 0.38, "supervised": 0.6, "rotation": 0.25, "jigsaw": 0.5}

    def result(name: str) -> StepResult[Scored]:
        value = {"benchmark": "linear", "metric": "top1", "value": scores[name], "n": 10_000, "split": "test"}
        value |= {"layer": "conv1", "layers": {}, "protocol": {}}
        learned = {"model": f"models:/{name}/1"} if name in ("rotation", "jigsaw") else {}
        return StepResult("transfer", name, "f", "run", Scored.from_json(value | learned), reused=False)

    tags = tags_of_models(cells, [result(cell.recipe.name) for cell in cells])
    assert tags["models:/jigsaw/1"] == {LEARNED: "yes", WARNING: ""}
    assert tags["models:/rotation/1"][LEARNED] == "no"
    assert tags["models:/rotation/1"][WARNING].startswith(
        "rotation is worse than the untrained network (random): 25.0 and 31.0 % top1 on test, -6.0 ± 1.2"
    )
    assert tags.keys() == {"models:/jigsaw/1", "models:/rotation/1"}
