"""How a training runs, seen from the command: workers train, and what they leave is stored."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.config import Recipe
from components.data.labels import check_labels_seen
from components.data.order import Plan, check_divisible
from components.engine import Engine
from components.errors import Diverged, Stopped, UserError
from components.networks.encoder import save_encoder
from components.tasks.base import Task, parts_of, resolve_weights
from infra import ending
from infra.cluster import connect, nodes
from infra.errors import Interrupted, OutsideError
from pipelines.data.prepared import Prepared, place_of
from pipelines.recipes import write_recipe
from pipelines.steps.step import StepRun
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.hooks import DIVERGED
from pipelines.training.job import Judge, Pretrained, TrainingJob, best_step, read_probes, write_probes
from pipelines.training.named_encoders import fetch_named
from pipelines.training.sample_streams import Streams
from pipelines.training.task_files import TASK_FILE, save_task
from pipelines.training.worker import make_task, train_worker
from pipelines.workers.groups import Lost
from pipelines.workers.process_state import computing_with
from pipelines.workers.shape import Need, Shape


def checkpoints_url(recipe: Recipe, folder: Path) -> str:
    """Where the checkpoints of a training lie that works in ``folder``."""
    kept = recipe.training.checkpoints
    return f"{kept}/{folder.name}" if kept else str(folder)


def _steps(recipe: Recipe, samples: int) -> int:
    """Optimizer steps of a training on that many samples; UserError where one of them could not be divided."""
    training = recipe.training
    order = Plan(samples, training.batch, training.epochs)
    check_divisible(order, training.workers, training.micro_batches)
    return order.steps


def train(recipe: Recipe, prepared: Prepared, run: StepRun, judge: Judge | None) -> Pretrained:
    """Train a recipe on prepared data; store the encoder as a model of the run, and the task as a file.

    Raises UserError where the data does not fit the task, Diverged where training broke down, Stopped where the judge
    ended it.
    """
    session, training = run.session, recipe.training
    if recipe.task == "supervised":
        check_labels_seen(prepared.unseen, ("val",))
    encoders = fetch_named(recipe, run.tracker, session.folder("cache"))
    task = make_task(recipe, prepared.label_classes, encoders)  # what cannot be built is said here, like fields below
    parts = parts_of(recipe.task, recipe.options)
    last = _steps(recipe, prepared.samples["train"]) if parts.players else 0
    weights = resolve_weights(recipe.task, parts.terms, recipe.weights)
    run.tracker.log_params(run.run_id, {"effective_weights": weights, "steps": last})
    run.tracker.describe(run.run_id, f"{recipe.summary or recipe.task}\n\n`runs:/{run.run_id}/encoder`")
    run.tracker.log_text(run.run_id, write_recipe(recipe), "recipe.yaml")
    job = TrainingJob(
        recipe=recipe,
        data=place_of(prepared, recipe.data.size, str(session.folder("cache")), recipe.training.augment.crop),
        encoders=encoders,
        run_id=run.run_id,
        run_folder=str(run.folder),
        checkpoints=checkpoints_url(recipe, run.folder),
        recorder=run.recorder,
        judge=judge,
    )
    # A field that is not there is said here: workers are given other tries.
    Streams.open(job.data, "train", parts.needs)
    began = time.perf_counter()
    with _trained(recipe, job, run, last) if last else _untrained(job, task) as folder:
        probes = read_probes(folder, bool(job.label_classes))
        kept = best_step(probes, last)
        run.tracker.log_artifacts(run.run_id, folder / TASK_FILE)
        model_id = run.tracker.models.log_encoder(
            run.run_id,
            folder / "encoder",
            step=kept,
            params={"recipe": recipe.name, "task": recipe.task, "weights": weights, "seed": training.seed},
            tags={"recipe": recipe.name},
        )
    return Pretrained(
        encoder=f"runs:/{run.run_id}/encoder",
        model_id=model_id,
        probes=tuple(probes),
        step=kept,
        steps=last,
        seconds=round(time.perf_counter() - began, 1),
    )


@contextmanager
def _trained(recipe: Recipe, job: TrainingJob, run: StepRun, last: int) -> Iterator[Path]:
    """The files of the last checkpoint, after workers trained to the end, from the checkpoint of a command before."""
    checkpoints = Checkpoints(job.checkpoints)
    checkpoints.storage.check_writable()
    with tempfile.TemporaryDirectory() as into:
        step, folder = checkpoints.newest(Path(into)) or (0, None)
        if step < last and not (folder and (folder / DIVERGED).exists()):
            ending.check()
            _fit(recipe, job, run)
            step, folder = checkpoints.newest(Path(into)) or (0, None)
        if folder and (folder / DIVERGED).exists():
            raise Diverged((folder / DIVERGED).read_text())
        if step < last and ending.begun():  # perhaps before there was anything to keep
            raise Interrupted(f"{run.label} is kept at step {step} of {last}" if step else "")
        assert folder, "a training that ends has written a checkpoint"
        if step < last:
            raise Stopped(f"step {step} of {last}")
        yield folder


def _fit(recipe: Recipe, job: TrainingJob, run: StepRun) -> None:
    """Have a group of workers train; what a worker has to say to the user is raised as it was said."""
    tries = recipe.training.max_failures
    try:
        with suppress(Interrupted):  # which is told below, with what is kept
            run.groups.everywhere(_shape(recipe, run), train_worker, job, tries)
    except Lost as error:
        raise OutsideError(
            f"training lost a worker {tries + 1} times (killed, out of memory, or its machine went away): the same "
            "command goes on from the last checkpoint"
        ) from error


@contextmanager
def _untrained(job: TrainingJob, task: Task) -> Iterator[Path]:
    """The same files where nothing is trained, by a baseline or for no epochs; made here: it takes a moment."""
    engine = Engine(task, job.recipe.training, {}, steps=0)
    if task.initial_samples:
        samples = Streams.open(job.data, "train", task.needs).examples(task.initial_samples)
        with computing_with(1):
            engine.initialize(samples)
    with tempfile.TemporaryDirectory() as into:
        folder = Path(into)
        save_encoder(engine.encoder(), folder / "encoder")
        save_task(engine.averaged, job.label_classes, folder)
        write_probes([], folder)
        yield folder


def _shape(recipe: Recipe, run: StepRun) -> Shape:
    """The workers of a training; UserError where the cluster has no room for them."""
    resources = connect(run.session.address)
    shape = Need.of(recipe.training).on(nodes())
    for kind, needed in shape.needs.items():
        there = resources.get(kind, 0.0)
        if there < needed:
            fit = int(there // (needed / shape.workers))
            raise UserError(
                f"training.workers={shape.workers} needs {needed:g} {kind}s and the cluster has {there:g}: "
                f"--set training.workers={max(1, fit)}{' or fewer' * (fit > 1)}, or a larger cluster"
            )
    return shape
