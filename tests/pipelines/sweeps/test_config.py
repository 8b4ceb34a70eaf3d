"""What a sweep is asked for: budgets, how many trainings fit, and what does not go together."""

from typing import Any, Literal

import pytest
import torch

from components.engine import Engine
from components.errors import UserError
from components.tasks.base import build_task, resolve_weights
from pipelines.recipes import load_recipe
from pipelines.sweeps.budget import Budget, estimate, parse_budget, side_by_side
from pipelines.sweeps.config import Sweep, make_sweep, probe_steps, terms_of, unscaled
from pipelines.training.noise import noise
from pipelines.workers.shape import Need

TINY = ["data.samples=64", "encoder.width=4", "training.batch=16", "training.epochs=1"]


def made(*recipes: str, **changes: Any) -> Sweep:
    asked: dict[str, Any] = {
        "universal": False,
        "name": None,
        "searcher": "random",
        "scheduler": "none",
        "objectives": [],
        "trials": 4,
        "budget": None,
        "seed": 0,
    }
    return make_sweep([load_recipe(recipe, TINY) for recipe in recipes], **{**asked, **changes})


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90m", Budget(5400.0, "core-seconds")),
        (" 1.5h ", Budget(5400.0, "core-seconds")),
        ("2e6images", Budget(2e6, "images")),
        ("50000 images", Budget(50000.0, "images")),
    ],
)
def test_budgets(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["90", "m", "-5m", "0h", "3 days", "1.5.2h"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(UserError, match=r"90m, 1\.5h, 2e6images"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus", "fit"),
    [
        ([{"CPU": 2.0}], 1, 1, 2),
        ([{"CPU": 1.0}] * 3, 2, 1, 1),  # three places, two for a trial
        ([{"CPU": 3.0}] * 3, 1, 2, 3),  # nine cores, but a worker's two must lie on one node
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}], 1, 4, 2),  # where there are GPUs, they are what is short
        ([{"CPU": 16.0}], 4, 2, 2),
        ([{"CPU": 16.0}], 1, "auto", 16),
    ],
)
def test_how_many_trainings_fit(
    nodes: list[dict[str, float]], workers: int, cpus: int | Literal["auto"], fit: int
) -> None:
    assert side_by_side(nodes, Need(workers, cpus)) == fit


def test_trainings_share_a_gpu() -> None:
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}]
    assert [side_by_side(nodes, Need(gpus=share)) for share in (1.0, 0.5, 0.3, 0.1)] == [2, 4, 6, 20]


def test_a_trial_that_never_fits_is_refused() -> None:
    with pytest.raises(UserError, match=r"needs 4 workers and the cluster has room for 3"):
        side_by_side([{"CPU": 3.0}], Need(4, 1))


def test_a_trial_is_timed_on_noise() -> None:
    recipe = load_recipe("context_encoder", TINY)
    cost = estimate(recipe)
    assert cost.images == 64 and 12 < cost.core_seconds < 120


def test_noise_has_the_fields_that_a_task_needs() -> None:
    recipe = load_recipe("supervised", TINY)
    batch = noise(build_task("supervised", {}, recipe.encoder, 32, 10, 0), 5, 32)
    assert batch["image"].shape == (5, 3, 32, 32) and batch["label"].shape == (5,)


def test_probes_fall_where_training_has_them() -> None:
    recipe = load_recipe("context_encoder", [*TINY, "training.epochs=2.5", "training.probe_every=0.5"])
    assert probe_steps(recipe, 64) == [2, 4, 6, 8, 10]
    assert probe_steps(recipe, 40) == [2, 4, 6, 7]


def test_without_trials_or_budget_there_are_some_trials() -> None:
    assert made("context_encoder", trials=None).trials == 16
    assert made("context_encoder", trials=None, budget=Budget(1e5, "images")).trials is None


def test_a_universal_sweep_has_the_terms_of_all() -> None:
    sweep = made("context_encoder", "rotation", universal=True)
    assert sweep.universal and sweep.name == "universal-context_encoder-rotation"
    assert {
        "weights.l2",
        "weights.adversarial",
        "weights.discriminator",
        "weights.cross_entropy",
    } == sweep.space.keys.keys()


@pytest.mark.parametrize(
    ("recipes", "changes", "said"),
    [
        (["context_encoder"], {"objectives": ["linaer"]}, "unknown objective 'linaer': did you mean 'linear'?"),
        (["context_encoder"], {"searcher": "bayes"}, "unknown searcher 'bayes'"),
        (["context_encoder"], {"scheduler": "asah"}, "did you mean 'asha'?"),
        (["context_encoder"], {"searcher": "grid"}, "coarsest grid has 18 points"),
        (["context_encoder"], {"searcher": "grid", "trials": None, "budget": Budget(1, "images")}, "--trials N"),
        (["context_encoder"], {"scheduler": "asha", "objectives": ["linear", "cost"]}, "one --objective"),
        (["context_encoder"], {"scheduler": "pbt", "trials": 1}, "at least 2"),
        (["context_encoder"], {"scheduler": "pbt", "trials": None, "budget": Budget(1, "images")}, "population"),
        (["context_encoder", "rotation"], {}, "or several with --universal"),
        (["context_encoder"], {"universal": True}, "at least two"),
        (["context_encoder", "rotation"], {"universal": True, "scheduler": "asha"}, "one objective"),
        (["random"], {}, "nothing to sweep"),
        (["supervised"], {"objectives": ["pictures/psnr"]}, "makes no pictures that have a truth"),
        (["jigsaw"], {"objectives": ["pictures/psnr"]}, "makes no pictures that have a truth"),
    ],
)
def test_what_does_not_go_together(recipes: list[str], changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        made(*recipes, **changes)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_population_changes_weights_alone() -> None:
    recipe = load_recipe("context_encoder", [*TINY, "search={training.optimizer.lr: {low: 1e-4, high: 1e-3}}"])
    with pytest.raises(UserError, match=r"training\.optimizer\.lr cannot"):
        make_sweep([recipe], False, None, "random", "pbt", [], 4, None, 0)


def update(recipe: str, weights: dict[str, float]) -> torch.Tensor:
    """What some steps of training change, all parameters in a row; ``weights``: beside the published ones."""
    loaded = load_recipe(recipe, [*TINY, "encoder.width=8", "training.warmup=0"])
    task = build_task(loaded.task, loaded.options, loaded.encoder, loaded.data.size, 10, seed=0)
    engine = Engine(task, loaded.training, resolve_weights(task.name, task.terms, weights), steps=100)
    before = torch.cat([p.detach().clone().flatten() for p in task.parameters()])
    batch = noise(task, 8, loaded.data.size)
    for _ in range(4):
        engine.train_step(batch, torch.arange(8), 8)
    return torch.cat([p.detach().flatten() for p in task.parameters()]) - before


@pytest.mark.parametrize(
    ("recipe", "alone"),
    [
        ("context_encoder", {"discriminator"}),
        ("pix2pix", {"discriminator"}),
        ("colorization", {"cross_entropy"}),
        ("autoencoder", {"l2"}),
        ("rotation", set()),  # SGD: a weight is a learning rate
    ],
)
def test_weights_whose_size_changes_nothing(recipe: str, alone: set[str]) -> None:
    wanted = made(recipe)
    found = {key.removeprefix("weights.") for key in unscaled(wanted.recipes, wanted.space)}
    assert found == alone
    published = update(recipe, {})
    for term, spec in terms_of(wanted.recipes[0]).items():
        moved = (update(recipe, {term: 64 * spec.weight}) - published).norm() / published.norm()
        assert (moved < 0.05) == (term in alone), f"{term}: {moved:.3f}"


def test_weight_decay_is_held_against_a_weight() -> None:
    bigan = made("bigan")
    assert unscaled(bigan.recipes, bigan.space) == []


def test_a_weight_counts_where_one_of_several_tasks_sees_it() -> None:
    wanted = made("context_encoder", "autoencoder", universal=True)
    assert unscaled(wanted.recipes, wanted.space) == ["weights.discriminator"]  # l2 is not alone in context_encoder
