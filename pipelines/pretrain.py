"""shards -> encoder: Ray Train around components.engine.

`train_worker` is what every Ray Train worker runs. Rank 0 alone probes, draws and logs; the other ranks meet it again
in the next gradient sum. A checkpoint holds everything (`state.pt`), the best encoder so far (`encoder/`) and the
story of the probes (`probes.json`).
"""

import json
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer
from torch import Tensor

from components.config import Recipe
from components.data.loader import Loaded, Loader
from components.data.order import Order, Plan, check_divisible
from components.engine import Engine, Intervals, fit
from components.errors import Diverged, UserError
from components.networks.encoder import Encoder, build_encoder, save_encoder
from components.parallel import World
from components.tasks.base import Batch, Task, build_task, get_task, resolve_weights
from components.transfer.features import subset
from components.transfer.probe import quick_score
from infra.cluster import connect
from infra.errors import OutsideError
from infra.tracking import flatten
from pipelines import steps
from pipelines.checkpoints import keep_newest, seal
from pipelines.pictures import strip
from pipelines.prepare import expected_samples, open_split, prepare_step
from pipelines.recipes import write_recipe
from pipelines.recorder import Recorder
from pipelines.session import Session
from pipelines.steps import Planned, Step
from pipelines.workflow import StepResult, StepRun

Value = dict[str, Any]
VERSION = 1
MAIN: dict[str, Any] = {  # parameters that every run shows
    "name": True,
    "task": True,
    "data": {"source", "size"},
    "encoder": {"name", "width"},
    "training": {"epochs", "batch", "seed"},
}
DIVERGED = "diverged.txt"  # in a checkpoint: why there will be no further one
PICTURES = 8  # samples shown in a picture
PROBE_SAMPLES = (3000, 1000)  # training and validation samples of the probe during training


def make_task(recipe: Recipe, classes: int) -> Task:
    """The recipe's task with its networks, initialized from the recipe's seed."""
    return build_task(recipe.task, recipe.options, recipe.encoder, recipe.data.size, classes, recipe.training.seed)


class WorkerHooks:
    """What happens beside training, on every rank of a Ray Train job."""

    def __init__(self, job: dict[str, Any], engine: Engine, probe: "Probe | None", examples: Batch) -> None:
        self.job, self.engine, self.probe_of, self.examples = job, engine, probe, examples
        self.recorder: Recorder = job["recorder"]
        self.main = engine.world.rank == 0
        self.probes: list[dict[str, float]] = []
        self.best: dict[str, Tensor] | None = None

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send one log line to the tracker and to whoever watches."""
        if self.main:
            self.recorder.log_metrics(self.job["run_id"], values, step)
            loss = sum(self.engine.weights[k[5:]] * v for k, v in values.items() if k.startswith("loss/"))
            text = f"loss {loss:.3f}, {values['images_per_second']:.0f} images/s"
            self.recorder.progress(self.job["run_id"], step, self.engine.steps, text)

    def warn(self, step: int, message: str) -> None:
        """Say once what looks wrong."""
        if self.main:
            self.recorder.warn(self.job["run_id"], f"step {step}: {message}")

    def samples(self, step: int, engine: Engine) -> None:
        """Log a picture of the same examples as every time."""
        if not self.main:
            return
        task = engine.average if engine.average is not None else engine.task
        training = task.training
        task.eval()
        inputs = engine.prepare(self.examples, torch.arange(len(self.examples["image"])))
        rows = task.samples(inputs)
        task.train(training)
        if rows:
            self.recorder.log_image(self.job["run_id"], strip(rows), "samples", step)

    def probe(self, step: int, engine: Engine) -> None:
        """Score the encoder on the validation split and keep it if it is the best so far."""
        if not self.main:
            return
        score = self.probe_of(engine.encoder()) if self.probe_of else 0.0
        if self.best is None or self.probe_of is None or score > max(p["score"] for p in self.probes):
            self.best = {k: v.detach().cpu().clone() for k, v in engine.encoder().state_dict().items()}
        self.probes.append({"step": step, "score": score})
        if self.probe_of:
            self.recorder.log_metrics(self.job["run_id"], {"probe/top1": score}, step)

    def checkpoint(self, step: int, engine: Engine) -> None:
        """Report a checkpoint: a barrier for all ranks, written by rank 0."""
        if not self.main:
            ray.train.report({"step": step})
            return
        with suppress(OutsideError):  # a server that is away gets it later; the recorder keeps it
            self.recorder.flush()  # or the curves of a job that is killed would lack what came before its checkpoint
        with tempfile.TemporaryDirectory() as folder:
            self.write(Path(folder))
            ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def give_up(self, reason: str) -> None:
        """End a training that diverged with a checkpoint that says so: an exception would be retried, and the same seed
        would diverge again."""
        if not self.main:
            ray.train.report({"step": self.engine.step})
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / DIVERGED).write_text(reason)
            seal(Path(folder), self.engine.step)
            ray.train.report({"step": self.engine.step}, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def write(self, folder: Path) -> None:
        """Write the checkpoint's files."""
        torch.save({"engine": self.engine.state_dict(), "best": self.best}, folder / "state.pt")
        (folder / "probes.json").write_text(json.dumps(self.probes))
        encoder = build_like(self.engine.encoder(), self.best)
        save_encoder(encoder, folder / "encoder")
        seal(folder, self.engine.step)

    def restore(self, folder: Path) -> None:
        """Continue from the checkpoint's files, on any number of ranks."""
        state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
        self.engine.load_state_dict(state["engine"])
        self.best = state["best"]
        self.probes = json.loads((folder / "probes.json").read_text())


def build_like(encoder: Encoder, state: dict[str, Tensor] | None) -> Encoder:
    """A copy of ``encoder`` with the weights of ``state`` (its own where there is none), apart from its task."""
    copy = build_encoder(encoder.config)
    copy.load_state_dict(encoder.state_dict() if state is None else state)
    return copy


class Probe:
    """The score during training: `quick_score` on fixed samples of the training and the validation split."""

    def __init__(self, job: dict[str, Any], device: torch.device) -> None:
        self.device = device
        splits = (open_split(job, split, ("image", "label")) for split in ("train", "val"))
        self.train, self.val = (d.get(subset(len(d), n)) for d, n in zip(splits, PROBE_SAMPLES, strict=True))

    def __call__(self, encoder: Encoder) -> float:
        """Validation top-1, in [0, 1], of the best layer."""
        return quick_score(encoder, self.train, self.val, device=self.device).value


def recorded(batches: Iterator[Loaded], path: Path, world: World) -> Generator[Loaded, None, None]:
    """Pass batches on and write down which samples they hold: a JSON line per step, the last line of a step counts.

    ``workers`` in a line tells how many files have a part of the step.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:  # a line is one write: whoever is killed leaves no half of one
        for loaded in batches:
            first, ids = int(loaded.positions[0]), loaded.ids.tolist()
            line = {"step": loaded.step, "workers": world.size, "first": first, "ids": ids}
            file.write(json.dumps(line).encode() + b"\n")
            yield loaded


def train_worker(job: dict[str, Any]) -> None:
    """What every worker of a pretraining job runs, from the first step or from the last checkpoint."""
    recipe = Recipe.model_validate(job["recipe"])
    training, world = recipe.training, World.current()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(training.cpus)
    torch.backends.cudnn.benchmark = True
    classes = job["classes"]
    task = make_task(recipe, classes)
    data = open_split(job, "train", task.needs)
    plan = Plan(len(data), training.batch, training.epochs)
    engine = Engine(task, training, resolve_weights(task, recipe.weights), plan.steps, device, world)
    examples = open_split(job, "val", task.needs).get(np.arange(PICTURES))
    probe = Probe(job, device) if classes and world.rank == 0 and plan.steps else None
    hooks = WorkerHooks(job, engine, probe, examples)

    # Ray Train knows the checkpoints of this command, ``resume`` is that of one before.
    checkpoint = ray.train.get_checkpoint() or (job["resume"] and ray.train.Checkpoint(job["resume"]))
    if checkpoint:
        with checkpoint.as_directory() as folder:
            if (Path(folder) / DIVERGED).exists():
                return
            hooks.restore(Path(folder))
    elif task.initial_samples:
        first = data.get(np.arange(min(task.initial_samples, len(data))))
        engine.initialize(first)

    if engine.step == plan.steps:
        return
    loader = Loader(data, Order(data.shard_sizes, training.seed), plan, world.rank, world.size)
    batches = loader.iterate(engine.step)
    if training.record_ids:
        batches = recorded(batches, Path(job["run_folder"]) / "ids" / f"rank-{world.rank}.jsonl", world)
    if engine.step == 0:
        hooks.samples(0, engine)
    try:
        fit(engine, batches, Intervals.of(training, len(data)), hooks, lambda: loader.waited)
    except Diverged as error:
        hooks.give_up(str(error))
    finally:
        batches.close()


def pretrain(recipe: Recipe, session: Session) -> StepResult:
    """Train a recipe and keep its encoder; see `pretrain_step` for what the result holds."""
    return steps.run([pretrain_step(recipe)], session, f"pretrain {recipe.name}")[0]


def plan(recipe: Recipe, session: Session) -> list[Planned]:
    """The steps that `pretrain` would run or reuse."""
    return steps.plan([pretrain_step(recipe)], session)


# Keys of the training that change how a result is reached, not what it is: a run that was cut off may be continued
# with others, on another number of workers for example.
HOW = {
    "workers",
    "cpus",
    "micro_batches",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "record_ids",
    "max_failures",
}


def pretrain_step(recipe: Recipe) -> Step:
    """The step that trains a recipe on the shards of its data.

    Its value: ``encoder`` (URI of the best encoder), ``model_id`` in the tracker, ``probes`` (step, score), ``step`` of
    the best, ``seconds``. Raises UserError where the data does not fit the task, Diverged where training broke down.
    """
    what = recipe.model_dump(mode="json", exclude={"name", "summary", "data", "search", "benchmarks"})
    players = get_task(recipe.task).players
    training = {key: value for key, value in what["training"].items() if key not in HOW}
    what["training"] = training if players else {"seed": recipe.training.seed}
    prepared = prepare_step(recipe.data)
    if players:  # said now, before shards are written
        _steps(recipe, expected_samples(recipe.data)["train"])
    what["size"] = recipe.data.size
    return Step(
        name="pretrain",
        label=f"pretrain {recipe.name}, seed {recipe.training.seed}",
        version=VERSION,
        config=what,
        body=lambda run, inputs: _train(recipe, inputs[0], run),
        inputs=(prepared,),
        cores=recipe.training.workers * recipe.training.cpus if players else 1,
        params=_shown(recipe),
    )


def _shown(recipe: Recipe) -> dict[str, Any]:
    """The run's parameters: the main ones, and whatever is not the default. All of them are in ``recipe.yaml``.

    MLflow writes all parameters of a run above each of its pictures, which must leave room for the picture.
    """
    changed = recipe.model_dump(mode="json", exclude={"summary", "search", "benchmarks"}, exclude_defaults=True)
    return flatten(recipe.model_dump(mode="json", include=MAIN)) | flatten(changed)


def _steps(recipe: Recipe, samples: int) -> int:
    """Optimizer steps of a training on that many samples; UserError where one of them could not be divided."""
    training = recipe.training
    order = Plan(samples, training.batch, training.epochs)
    check_divisible(order, training.workers, training.micro_batches)
    return order.steps


def _train(recipe: Recipe, prepared: StepResult, run: StepRun) -> Value:
    """The body of the step: train, then store the encoder as a model of the run."""
    session, training = run.workflow.session, recipe.training
    task = make_task(recipe, prepared.value["classes"])
    last = _steps(recipe, prepared.value["samples"]["train"]) if task.players else 0
    weights = resolve_weights(task, recipe.weights)
    run.tracker.log_params(run.run_id, {"effective_weights": weights, "steps": last})
    run.tracker.describe(run.run_id, f"{recipe.summary or recipe.task}\n\n`runs:/{run.run_id}/encoder`")
    run.tracker.log_text(run.run_id, write_recipe(recipe), "recipe.yaml")
    job = {
        "recipe": recipe.model_dump(mode="json"),
        "url": prepared.value["url"],
        "classes": prepared.value["classes"],
        "size": recipe.data.size,
        "cache": str(session.folder("cache")),
        "run_id": run.run_id,
        "run_folder": str(run.folder),
        "recorder": run.recorder,
    }
    began = time.perf_counter()
    with _trained(recipe, job, run, last) if last else _untrained(job) as folder:
        probes = json.loads((folder / "probes.json").read_text())
        best_step: int = max(probes, key=lambda probe: probe["score"])["step"] if probes else 0
        model_id = run.tracker.log_encoder(
            run.run_id,
            folder / "encoder",
            step=best_step,
            params={"recipe": recipe.name, "task": recipe.task, "weights": weights, "seed": training.seed},
            tags={"recipe": recipe.name},
        )
    return {
        "encoder": f"runs:/{run.run_id}/encoder",
        "model_id": model_id,
        "probes": probes,
        "step": best_step,
        "steps": last,
        "seconds": round(time.perf_counter() - began, 1),
    }


@contextmanager
def _trained(recipe: Recipe, job: dict[str, Any], run: StepRun, last: int) -> Iterator[Path]:
    """The files of the last checkpoint, after Ray Train has run to the end, from the checkpoint of a command before."""
    step, checkpoint = keep_newest(run.folder) or (0, None)
    if step < last and not (checkpoint and (checkpoint / DIVERGED).exists()):
        _fit(recipe, {**job, "resume": checkpoint and str(checkpoint)}, run)
        _, checkpoint = keep_newest(run.folder) or (0, None)
    assert checkpoint, "the last step of every training writes a checkpoint"
    if (checkpoint / DIVERGED).exists():
        raise Diverged((checkpoint / DIVERGED).read_text())
    yield checkpoint


def _fit(recipe: Recipe, job: dict[str, Any], run: StepRun) -> None:
    """Run Ray Train; what a worker has to say to the user is raised as it was said."""
    try:
        _trainer(recipe, job, run).fit()
    except ray.train.WorkerGroupError as error:
        # Where one worker ends, the others lose their connection to it: what they say is noise.
        causes = sorted(error.worker_failures.values(), key=_loudness)
        if isinstance(causes[0], UserError | OutsideError):
            raise causes[0] from None
        if _is_loss(causes[0]):
            raise OutsideError(
                f"training lost a worker {recipe.training.max_failures + 1} times (killed, out of memory, or its "
                "machine went away): the same command goes on from the last checkpoint"
            ) from error
        raise


def _loudness(error: Exception) -> int:
    return 0 if isinstance(error, UserError | OutsideError) else 1 if _is_loss(error) else 2


def _is_loss(error: Exception) -> bool:
    cause = getattr(error, "health_check_failure", error)
    return isinstance(cause, ray.exceptions.RayActorError)


@contextmanager
def _untrained(job: dict[str, Any]) -> Iterator[Path]:
    """The same files where nothing is trained, by a baseline or for no epochs; made in a Ray task: it may need data."""
    files: dict[str, bytes] = ray.get(_initialized.remote({**job, "recorder": None}))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        yield Path(folder)


@ray.remote(num_cpus=1, max_retries=3)
def _initialized(job: dict[str, Any]) -> dict[str, bytes]:
    torch.set_num_threads(1)
    recipe = Recipe.model_validate(job["recipe"])
    task = make_task(recipe, job["classes"])
    engine = Engine(task, recipe.training, {}, steps=0)
    if task.initial_samples:
        data = open_split(job, "train", task.needs)
        engine.initialize(data.get(np.arange(min(task.initial_samples, len(data)))))
    with tempfile.TemporaryDirectory() as folder:
        save_encoder(engine.encoder(), Path(folder) / "encoder")
        files = {f"encoder/{path.name}": path.read_bytes() for path in Path(folder, "encoder").iterdir()}
    return {"probes.json": b"[]", **files}


def _trainer(recipe: Recipe, job: dict[str, Any], run: StepRun) -> TorchTrainer:
    """Ray Train around `train_worker`. The same step has the same name and place, and so continues where it was."""
    training = recipe.training
    resources = connect(run.workflow.session.address)
    gpu = resources.get("GPU", 0.0) > 0
    if resources.get("GPU" if gpu else "CPU", 0.0) < training.workers * (1 if gpu else training.cpus):
        raise UserError(
            f"training.workers={training.workers} needs {training.workers * training.cpus} CPUs and the cluster has "
            f"{resources.get('CPU', 0):g}: use fewer workers or a larger cluster"
        )
    return TorchTrainer(
        train_worker,
        train_loop_config=job,
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=training.workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": training.cpus} | ({"GPU": 1} if gpu else {}),
        ),
        run_config=ray.train.RunConfig(
            name=run.folder.name,
            storage_path=str(run.folder.parent),
            failure_config=ray.train.FailureConfig(max_failures=training.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
