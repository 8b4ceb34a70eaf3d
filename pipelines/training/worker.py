"""What every worker of a training runs."""

import json
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import ray
import ray.train.torch
import torch
from ray.train.collective import broadcast_from_rank_zero

from components.config import Recipe
from components.data.loader import Loaded
from components.data.order import Plan
from components.engine import Engine, Intervals, fit
from components.engine.compiler import check_compiler
from components.errors import Diverged, Stopped
from components.parallel import World
from components.tasks.base import Task, build_task, resolve_weights
from pipelines.training.hooks import DIVERGED, Probe, WorkerHooks
from pipelines.training.job import TrainingJob
from pipelines.training.named_encoders import Named, laid_out
from pipelines.training.sample_streams import Streams
from pipelines.workers.payload import no_cuda

PICTURES = 8  # samples shown in a picture
ASK_S = 1.0  # about so often a training asks whether it is to end


def make_task(recipe: Recipe, classes: int, encoders: Named | None = None) -> Task:
    """The recipe's task with its networks, initialized from the recipe's seed.

    ``encoders``: the files of those that its options name, as `pipelines.training.named_encoders` fetched them.
    """
    with laid_out(recipe, encoders or {}) as local:
        return build_task(local.task, local.options, local.encoder, local.data.size, classes, seed=local.training.seed)


def recorded(batches: Iterator[Loaded], path: Path, world: World) -> Generator[Loaded, None, None]:
    """Pass batches on and write down which samples they hold: a JSON line per step, the last line of a step counts.

    ``workers`` in a line tells how many files have a part of the step.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:  # a line is one write: whoever is killed leaves no half of one
        for loaded in batches:
            line = {"step": loaded.step, "workers": world.size, "ids": loaded.ids.tolist()}
            file.write(json.dumps(line).encode() + b"\n")
            yield loaded


def until_told(
    batches: Generator[Loaded, None, None], told: Callable[[], bool], world: World, device: torch.device
) -> Generator[Loaded, None, None]:
    """Pass batches on; once rank 0 is ``told`` to end, raise Stopped before the same step on every rank.

    The ranks meet for it at steps that they agreed upon, about `ASK_S` apart by the clock of rank 0.
    """
    asked, steps, since = 0, 0, time.perf_counter()  # the step of the last time, and how many there are to the next
    try:
        for loaded in batches:
            if steps == 0 or loaded.step >= asked + steps:
                word = torch.zeros(2, device=device)  # whether to end, and how many steps there are to the next time
                if world.rank == 0:
                    now = time.perf_counter()
                    fitting = min(2 * steps, int(steps * ASK_S / (now - since)))
                    word += torch.tensor([float(told()), float(max(1, fitting))], device=device)
                    since = time.perf_counter()
                end, following = world.sum(word).tolist()
                if end:
                    raise Stopped(f"step {loaded.step}")
                asked, steps = loaded.step, int(following)
            yield loaded
    finally:
        batches.close()


def train_worker(job: TrainingJob) -> None:
    """What every worker of a training runs, from the first step or from the last checkpoint."""
    recipe = job.recipe
    training, world = recipe.training, World.current()
    device = ray.train.torch.get_device()
    if device.type == "cuda" and not torch.cuda.is_available():
        raise no_cuda()
    if training.compile:
        check_compiler(device.type == "cuda", "every worker's machine")
    cpus = int(ray.get_runtime_context().get_assigned_resources()["CPU"])  # type: ignore[no-untyped-call]  # Ray gives it no types
    if device.type == "cpu":
        torch.set_num_threads(cpus)
    torch.backends.cudnn.benchmark = True
    recorder = job.recorder
    assert recorder is not None, "who trains is heard"
    if broadcast_from_rank_zero(world.rank == 0 and recorder.told()):  # while the workers were started
        return
    task = make_task(recipe, job.label_classes, job.encoders)
    streams = Streams.open(job.data, "train", task.needs)
    plan = Plan(len(streams.own), training.batch, training.epochs)
    weights = resolve_weights(task.name, task.terms, recipe.weights)
    engine = Engine(task, training, weights, plan.steps, device, world, recipe.weight_changes)
    examples = Streams.open(job.data, "val", task.needs).examples(PICTURES)
    probe = Probe(job, device) if job.label_classes and world.rank == 0 and plan.steps else None
    if probe and not probe.can_score:
        recorder.warn(job.run_id, "no probe: no class of the validation samples occurs in training")
        probe = None
    hooks = WorkerHooks(job, engine, probe, examples, streams)

    with tempfile.TemporaryDirectory() as into:
        found = hooks.checkpoints.newest(Path(into)) if hooks.main else None
        # A file that arrives damaged must not make one rank start from elsewhere than the others.
        step: int | None = broadcast_from_rank_zero(found and found[0])
        if step is not None:
            folder = found[1] if found else hooks.checkpoints.open(step, Path(into))
            if (folder / DIVERGED).exists():
                return
            hooks.restore(folder)
    if step is None and task.initial_samples:
        engine.initialize(streams.examples(task.initial_samples))

    if engine.step == plan.steps:
        return
    loader = streams.load(plan, training.seed, world, device, threads=max(2, cpus) if device.type == "cuda" else 2)
    batches = until_told(loader.iterate(engine.step), recorder.told, world, device)
    if training.record_ids:
        batches = recorded(batches, Path(job.run_folder) / "ids" / f"rank-{world.rank}.jsonl", world)
    if engine.step == 0:
        hooks.samples(0, engine)
    try:
        fit(engine, batches, Intervals.of(training, plan.samples), hooks, lambda: loader.waited)
    except Diverged as error:
        hooks.give_up(str(error))
    except Stopped:
        hooks.checkpoint(engine.step, engine)
    finally:
        batches.close()
