"""How much a sweep may use, what a trial will use, and how many trials run side by side."""

import re
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from components.config import Recipe
from components.data.order import Plan
from components.engine import Engine
from components.errors import UserError
from components.tasks.base import Batch, resolve_weights
from pipelines.data.raw_data import expected_samples
from pipelines.training.noise import CLASSES, noise
from pipelines.training.worker import make_task
from pipelines.workers.process_state import computing_with
from pipelines.workers.shape import Need, Node

Unit = Literal["core-seconds", "images"]
UNITS: dict[str, tuple[float, Unit]] = {
    "m": (60.0, "core-seconds"),
    "h": (3600.0, "core-seconds"),
    "images": (1.0, "images"),
}
START_S = 12.0  # from the start of a Ray Train job to its first step, and from its last to its end: measured on 2 cores
TIMED_STEPS = 3


@dataclass(frozen=True)
class Budget:
    """An amount of computing."""

    amount: float
    unit: Unit

    def __str__(self) -> str:
        return f"{self.amount / 60:g} core-minutes" if self.unit == "core-seconds" else f"{self.amount:g} images"


@dataclass(frozen=True)
class Cost:
    """What one training needs."""

    core_seconds: float
    images: int

    def of(self, unit: Unit) -> float:
        """The cost in that unit."""
        return self.core_seconds if unit == "core-seconds" else float(self.images)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.core_seconds + other.core_seconds, self.images + other.images)


def parse_budget(text: str) -> Budget:
    """``90m``, ``1.5h`` (of one core), or ``2e6images``; UserError otherwise."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*([a-z]+)\s*", text)
    if not found or found[2] not in UNITS or float(found[1]) == 0:
        raise UserError(f"--budget {text!r}: must be minutes or hours of one core, or images: 90m, 1.5h, 2e6images")
    factor, unit = UNITS[found[2]]
    return Budget(float(found[1]) * factor, unit)


def estimate(recipe: Recipe) -> Cost:
    """What a training of ``recipe`` will cost: some of its steps are run on noise, here and now, and timed."""
    task = make_task(recipe, CLASSES)
    if not task.players:
        return Cost(START_S, 0)
    training, need = recipe.training, Need.of(recipe.training)
    samples = (expected_samples(recipe.data) or {}).get("train", 0)
    plan = Plan(samples, training.batch, training.epochs)
    share = max(1, training.batch // training.workers)
    alone = training.model_copy(update={"compile": False})
    engine = Engine(task, alone, resolve_weights(task.name, task.terms, recipe.weights), plan.steps)
    with computing_with(need.each):
        times = [_timed(engine, noise(task, share, recipe.data.size)) for _ in range(TIMED_STEPS + 1)]
    seconds = START_S + plan.steps * statistics.median(times[1:])  # the first one warms up
    return Cost(seconds * need.cores, round(training.epochs * samples))


def _timed(engine: Engine, batch: Batch) -> float:
    began = time.perf_counter()
    rows = len(batch["image"])
    engine.train_step(batch, torch.arange(rows), rows)
    return time.perf_counter() - began


def side_by_side(nodes: Iterable[Node], need: Need) -> int:
    """How many trainings fit onto a cluster at once; ``nodes``: the resources of each. UserError where none does.

    A worker needs its cores, or its share of a GPU where there are any, on one node; a training needs all its workers.
    """
    nodes = list(nodes)
    places, each = need.places(nodes), need.on(nodes)
    if places < need.workers:
        kind = f"GPUs, a share of {each.gpus:g} each" if each.gpus else f"times {each.cpus} CPUs"
        raise UserError(
            f"a trial needs {need.workers} workers and the cluster has room for {places} ({kind}): "
            "--set training.workers=1, or a larger cluster"
        )
    return places // need.workers
