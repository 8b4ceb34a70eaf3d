"""What a sweep tries next: the same for the same seed, whatever happened in between."""

from typing import Any

import numpy as np
import pytest

from components.errors import UserError
from pipelines.sweeps.proposals import FIRST, grid_points, population, random_point, tpe_point, varied
from pipelines.sweeps.records import Proposal, Record, State
from pipelines.sweeps.space import Choices, Point, Range, Space

SPACE = Space({"weights.a": Range(low=1e-3, high=10.0), "weights.b": Range(low=0.1, high=1.0, off=0.25)})


def record(number: int, point: dict[str, Any], state: State = "finished", value: float = 0.0, step: int = 10) -> Record:
    values = {"linear": value} if state == "finished" else {}
    return Record(Proposal(number, f"trial {number}", point), state, values, probes=[(step, value)])


def test_random_points_are_those_of_their_number() -> None:
    first = [random_point(SPACE, 3, n) for n in range(6)]
    assert [random_point(SPACE, 3, n) for n in reversed(range(6))] == first[::-1]
    assert len({str(point) for point in first}) == 6
    assert random_point(SPACE, 4, 0) != first[0]
    assert all(SPACE.coordinates(point) is not None for point in first)


def test_a_grid_is_as_fine_as_the_trials_allow() -> None:
    space = Space({"weights.a": Range(low=1.0, high=100.0), "options.x": Choices(values=("p", "q"))})
    assert len(grid_points(space, 6)) == 6  # 3 x 2
    assert grid_points(space, 4) == [{"weights.a": a, "options.x": x} for a in (1.0, 100.0) for x in ("p", "q")]
    assert grid_points(Space({"options.x": Choices(values=("p", "q"))}), 50) == [{"options.x": "p"}, {"options.x": "q"}]
    assert {point["weights.b"] for point in grid_points(SPACE, 9)} == {0.0, 0.1, 1.0}
    with pytest.raises(UserError, match="coarsest grid has 4 points: use --trials 4"):
        grid_points(space, 3)


def quality(point: dict[str, Any]) -> float:
    """Best at a = 0.1, whatever b."""
    return -float((np.log10(point["weights.a"]) + 1) ** 2)


def tpe_sweep(count: int, seed: int, spoiled: bool = False) -> list[Record]:
    records: list[Record] = []
    for number in range(FIRST, FIRST + count):
        point = tpe_point(SPACE, seed, number, records, {"linear": 1.0}, steps=100)
        bad = spoiled and point["weights.a"] > 1.0
        records.append(record(number, point, "diverged" if bad else "finished", quality(point)))
    return records


def test_tpe_finds_what_is_better_and_is_repeatable() -> None:
    records = tpe_sweep(30, 0)
    early, late = ([r.values["linear"] for r in part] for part in (records[:8], records[-8:]))
    assert np.mean(late) > np.mean(early)
    assert [r.proposal.point for r in tpe_sweep(30, 0)] == [r.proposal.point for r in records]


def test_tpe_keeps_away_from_where_trainings_diverge() -> None:
    records = tpe_sweep(36, 1, spoiled=True)
    diverged = [r.state == "diverged" for r in records]
    assert sum(diverged[-12:]) < 12 * 0.25  # a quarter of the space, or more, diverges


def test_tpe_minimizes_where_less_is_better() -> None:
    records = [
        record(n, {"weights.a": a, "weights.b": 0.5}, value=v) for n, (a, v) in enumerate([(0.01, 1.0), (1.0, 9.0)] * 8)
    ]
    costs = [tpe_point(SPACE, s, 50, records, {"linear": -1.0}, 100)["weights.a"] for s in range(12)]
    assert np.median(np.log10(costs)) < -1


def test_tpe_takes_several_objectives_and_stopped_trials() -> None:
    records = [
        *(record(n, {"weights.a": 0.1, "weights.b": 0.5}, value=0.1 * n) for n in range(8)),
        record(9, {"weights.a": 0.2, "weights.b": 0.0}, "stopped", 0.1),
        record(10, {}, "finished", 0.3),  # not in the space: nothing to learn from
    ]
    assert SPACE.coordinates(tpe_point(SPACE, 0, 11, records, {"linear": 1.0}, 100))
    two = [Record(r.proposal, r.state, {**r.values, "cost": 1.0}) for r in records if r.state == "finished"]
    assert SPACE.coordinates(tpe_point(SPACE, 0, 11, two, {"linear": 1.0, "cost": -1.0}, 100))


ENDS = [10, 20, 30]


def generation(
    proposals: list[Proposal], step: int, scores: list[float], state: State = "stopped"
) -> dict[int, Record]:
    found = {}
    for proposal, score in zip(proposals, scores, strict=True):
        found[proposal.number] = Record(proposal, state, {}, probes=[(step, score)])
    return found


def test_a_population_replaces_its_worst_by_variants_of_its_best() -> None:
    first = population(SPACE, 0, 4, ENDS, {}, 0)
    assert first and [p.number for p in first] == [2, 3, 4, 5] and {p.until for p in first} == {10}
    records = generation(first, 10, [0.3, 0.9, 0.1, 0.5])
    assert population(SPACE, 0, 4, ENDS, {n: r for n, r in records.items() if n != 4}, 1) is None  # one is missing
    second = population(SPACE, 0, 4, ENDS, records, 1)
    assert second == population(SPACE, 0, 4, ENDS, records, 1)
    assert second and [p.after for p in second] == [2, 3, 3, 5]  # the third goes on from the second
    assert [p.point for p in second][0::3] == [first[0].point, first[3].point]
    variant = second[2].point
    changes = variant.pop("weight_changes")
    assert variant == first[1].point and changes.keys() == {"10"} and changes["10"].keys() == {"a", "b"}
    assert changes["10"] != {key.removeprefix("weights."): value for key, value in first[1].point.items()}
    last = population(SPACE, 0, 4, ENDS, records | generation(second, 20, [0.1, 0.2, 0.3, 0.4]), 2)
    assert last and {p.until for p in last} == {None} and {p.since for p in last} == {20}


def test_members_that_diverged_are_replaced_and_their_weights_forgotten() -> None:
    first = population(SPACE, 0, 3, ENDS, {}, 0) or []
    records = generation(first[:1], 10, [0.5]) | generation(first[1:], 10, [0.9, 0.9], "diverged")
    second = population(SPACE, 0, 3, ENDS, records, 1) or []
    assert [p.after for p in second] == [2, 2, 2]
    with pytest.raises(UserError, match="no member of the population is left"):
        population(SPACE, 0, 3, ENDS, generation(first, 10, [0.1] * 3, "diverged"), 1)


def test_a_variant_starts_from_the_weights_that_counted_last() -> None:
    space = Space({"weights.a": Range(low=1e-6, high=1e6)})
    point: Point = {"weights.a": 1.0, "weight_changes": {"10": {"a": 5.0}, "9": {"a": 3.0}}}
    seen = {varied(point, space, 20, np.random.default_rng(s))["weight_changes"]["20"]["a"] for s in range(40)}
    assert {4.0, 6.0} <= seen and len(seen) > 4  # five times 0.8 or 1.2, and some drawn anew
    assert "20" not in point["weight_changes"]
