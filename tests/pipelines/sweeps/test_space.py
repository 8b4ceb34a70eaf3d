"""What may be swept: ranges, choices, the default from the task's terms, and what is refused."""

import math

import numpy as np
import pytest

from components.errors import UserError
from components.tasks.base import Term, get_task
from pipelines.recipes import load_recipe
from pipelines.sweeps.space import OFF, Choices, Range, Space, apply, space_of, terms_space


def test_uniform_coordinates_give_log_uniform_numbers() -> None:
    over = Range(low=1e-4, high=1.0)
    assert [over.value(u) for u in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1e-4, 1e-3, 1e-2, 1.0])
    values = [over.value(u) for u in np.random.default_rng(0).random(4000)]
    decades = np.histogram(np.log10(values), bins=4, range=(-4, 0))[0]
    assert decades == pytest.approx([1000] * 4, rel=0.12)


def test_a_linear_range_may_start_anywhere() -> None:
    over = Range(low=-1.0, high=3.0, scale="linear")
    assert [over.value(u) for u in (0.0, 0.5, 1.0)] == [-1.0, 1.0, 3.0]


def test_off_has_a_probability_of_its_own_and_lies_below_the_smallest_weight() -> None:
    over = Range(low=0.1, high=10.0, off=0.3)
    values = [over.value(u) for u in np.random.default_rng(1).random(4000)]
    assert np.mean(np.equal(values, 0.0)) == pytest.approx(0.3, abs=0.03)
    assert over.value(0.299) == 0.0 and over.value(0.3) == pytest.approx(0.1) and over.value(1.0) == 10.0


@pytest.mark.parametrize(
    "over",
    [Range(low=1e-3, high=10.0, off=0.2), Range(low=0.0, high=1.0, scale="linear"), Choices(values=("a", None, 3))],
)
def test_a_value_has_the_coordinate_that_gives_it_back(over: Range | Choices) -> None:
    for u in np.linspace(0, 1, 37):
        value = over.value(float(u))
        again = over.coordinate(value)
        assert again is not None and over.value(again) == value


def test_what_lies_outside_has_no_coordinate() -> None:
    assert Range(low=1.0, high=2.0).coordinate(0.0) is None
    assert Range(low=1.0, high=2.0).coordinate("wide") is None
    assert Choices(values=(1, 2)).coordinate(3) is None
    space = Space({"weights.l2": Range(low=1.0, high=2.0)})
    assert space.coordinates({"weights.l2": 3.0}) is None and space.coordinates({}) is None


def test_the_default_space_is_that_of_the_terms() -> None:
    recipe = load_recipe("context_encoder")
    terms = get_task("context_encoder").terms
    space = space_of(recipe, terms)
    assert space.keys.keys() == {f"weights.{name}" for name in terms}
    for name, term in terms.items():
        over = space.keys[f"weights.{name}"]
        assert isinstance(over, Range)
        assert (over.low, over.high, over.off) == (*term.search, OFF if term.optional else 0.0)


def test_the_terms_of_several_tasks_share_a_range() -> None:
    one = {"l2": Term(1.0, "", (0.1, 1.0), optional=True), "own": Term(1.0, "", (1.0, 2.0), optional=True)}
    other = {"l2": Term(2.0, "", (0.5, 10.0))}
    keys = terms_space([one, other]).keys
    assert keys == {
        "weights.l2": Range(low=0.1, high=10.0),  # the other task cannot do without
        "weights.own": Range(low=1.0, high=2.0, off=OFF),
    }


def test_a_recipes_own_space_replaces_the_default() -> None:
    search = (
        "search={weights: {l2: {low: 0.5, high: 2}}, training.optimizer.lr: {low: 1e-4, high: 1e-2}, "
        "options: {mask: [centre, random]}}"
    )
    recipe = load_recipe("context_encoder", [search])
    space = space_of(recipe, get_task("context_encoder").terms)
    assert space.keys == {
        "weights.l2": Range(low=0.5, high=2.0),
        "training.optimizer.lr": Range(low=1e-4, high=1e-2),
        "options.mask": Choices(values=("centre", "random")),
    }
    point = {"weights.l2": 0.7, "training.optimizer.lr": 3e-3, "options.mask": "random"}
    made = apply(recipe, point)
    assert (
        made.weights == {"l2": 0.7} and made.training.optimizer == {"lr": 3e-3} and made.options == {"mask": "random"}
    )
    assert made.data == recipe.data and recipe.weights == {}


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("{weights.adversarail: {low: 1, high: 2}}", "no term 'adversarail': did you mean 'adversarial'?"),
        ("{weights.l2: {low: 3, high: 2}}", "search.weights.l2: an empty range, from 3 to 2"),
        ("{weights.l2: {low: 2, high: 2}}", "an empty range"),
        ("{weights.l2: {low: 0, high: 2}}", "a logarithmic range cannot start at 0"),
        ("{weights.l2: {low: 1, high: 2, of: 0.5}}", "did you mean 'search.weights.l2.off'?"),
        ("{weights.l2: 3}", "must be a list of choices, or low and high (given: 3)"),
        ("{weights.l2: []}", "search.weights.l2.values"),
        ("{options.maks: [centre]}", "did you mean 'options.mask'?"),
        ("{options.mask: [centre, round]}", "options.mask"),
        ("{training.lr: [1, 2]}", "unknown key 'training.lr'"),
        ("{training.optimizer.lr: {low: -1, high: 1, scale: linear}}", "greater than 0"),
        ("{training.seed: [1, 2]}", "a seed is luck"),
        ("{data.size: [32, 64]}", "unknown key to sweep 'data.size'"),
        ("{weights: {}}", "search.weights: names no key"),
    ],
)
def test_what_cannot_be_swept_is_said_in_one_line(search: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        space_of(load_recipe("context_encoder", [f"search={search}"]), get_task("context_encoder").terms)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_task_without_terms_leaves_nothing_to_sweep() -> None:
    with pytest.raises(UserError, match="nothing to sweep"):
        space_of(load_recipe("random"), {})


def test_a_sampled_number_is_short() -> None:
    assert Range(low=1e-4, high=1.0).value(0.333) == float(f"{math.exp(math.log(1e-4) * 0.667):.4g}")
