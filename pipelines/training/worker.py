"""What Ray runs of a pretraining: every worker of the training, and the task that makes an encoder without training.

Rank 0 alone probes, draws and logs; the other ranks meet it again in the next gradient sum. A checkpoint holds
everything (`state.pt`), the best encoder so far (`encoder/`) and the story of the probes (`probes.json`).
"""

import json
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.collective import broadcast_from_rank_zero
from torch import Tensor

from components.config import Recipe
from components.data.loader import Loaded
from components.data.order import Plan
from components.engine import Engine, Intervals, fit
from components.errors import Diverged, Stopped, first_of
from components.networks.encoder import Encoder, build_encoder, save_encoder
from components.parallel import World
from components.tasks.base import Batch, Task, build_task, resolve_weights
from components.transfer.features import subset
from components.transfer.probe import quick_score
from infra.errors import OutsideError
from pipelines.prepare import open_split
from pipelines.steps.ray_payload import Files, packed
from pipelines.steps.worker_log import Recorder
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.named_encoders import Named, laid_out
from pipelines.training.picture_strip import strip
from pipelines.training.sample_streams import Streams
from pipelines.training.task_files import save_task

DIVERGED = "diverged.txt"  # in a checkpoint: why there will be no further one
PICTURES = 8  # samples shown in a picture
NAMED = 3  # samples named in a warning
ASK_S = 1.0  # about so often a training asks whether it is to end
PROBE_SAMPLES = (3000, 1000)  # training and validation samples of the probe during training


def make_task(recipe: Recipe, classes: int, encoders: Named | None = None) -> Task:
    """The recipe's task with its networks, initialized from the recipe's seed.

    ``encoders``: the files of those that its options name, as `pipelines.training.named_encoders` fetched them.
    """
    with laid_out(recipe, encoders or {}) as local:
        return build_task(local.task, local.options, local.encoder, local.data.size, classes, seed=local.training.seed)


class Judge(Protocol):
    """Says after each probe but the last, on rank 0, whether the training goes on."""

    def __call__(self, step: int, score: float) -> bool: ...


class Probe:
    """The score during training: `quick_score` on fixed samples of the training and the validation split."""

    def __init__(self, job: dict[str, Any], device: torch.device) -> None:
        self.device = device
        splits = (open_split(job, split, ("image", "label")) for split in ("train", "val"))
        self.train, self.val = (d.get(subset(len(d), n)) for d, n in zip(splits, PROBE_SAMPLES, strict=True))

    def __call__(self, encoder: Encoder) -> float:
        """Validation top-1, in [0, 1], of the best layer."""
        return quick_score(encoder, self.train, self.val, device=self.device).value

    @property
    def can_score(self) -> bool:
        """Whether any label of the validation samples occurs among the training samples."""
        return bool(torch.isin(self.val["label"], self.train["label"]).any())


def best_step(probes: Sequence[Mapping[str, Any]], last: int) -> int:
    """The step of the weights that are kept: of the highest score, the first; the ``last`` where none was measured."""
    scored = [probe for probe in probes if probe["score"] is not None]
    return int(max(scored, key=lambda probe: probe["score"])["step"]) if scored else last


def measured(probes: Sequence[Mapping[str, Any]], labelled: bool) -> list[dict[str, Any]]:
    """The probes; without labels none has a score, though an earlier version wrote zeros."""
    return [{**probe, "score": probe["score"] if labelled else None} for probe in probes]


class WorkerHooks:
    """What happens beside training, on every rank of a Ray Train job."""

    def __init__(
        self, job: dict[str, Any], engine: Engine, probe: Probe | None, examples: Batch, streams: Streams
    ) -> None:
        self.job, self.engine, self.probe_of, self.examples, self.streams = job, engine, probe, examples, streams
        self.replaced: set[str] = set()  # samples that were said to be
        self.recorder: Recorder = job["recorder"]
        self.judge: Judge | None = job["judge"]
        self.checkpoints = Checkpoints(job["checkpoints"])
        self.main = engine.world.rank == 0
        self.probes: list[dict[str, float | None]] = []  # step, score; no score where there are no labels
        self.best: dict[str, Tensor] | None = None

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send one log line to the tracker and to whoever watches."""
        self._name_replaced(step)
        if self.main:
            self.recorder.log_metrics(self.job["run_id"], values, step)
            loss = sum(self.engine.weights[k[5:]] * v for k, v in values.items() if k.startswith("loss/"))
            text = f"loss {loss:.3f}, {values['images_per_second']:.0f} images/s"
            self.recorder.progress(self.job["run_id"], step, self.engine.steps, text)

    def _name_replaced(self, step: int) -> None:
        """Every rank says which of the samples that it read do not decode, and were replaced by their neighbours."""
        found = self.streams.replaced
        new = [f"{name} ({reason})" for name, reason in found.items() if name not in self.replaced]
        if new:
            self.replaced |= found.keys()
            named = first_of(new, NAMED)
            text = f"step {step}: {len(new)} samples do not decode and were replaced by others: {named}"
            self.recorder.warn(self.job["run_id"], text)

    def warn(self, step: int, message: str) -> None:
        """Say once what looks wrong."""
        if self.main:
            self.recorder.warn(self.job["run_id"], f"step {step}: {message}")

    def samples(self, step: int, engine: Engine) -> None:
        """Log a picture of the same examples as every time."""
        if not self.main:
            return
        task = engine.averaged
        training = task.training
        task.eval()
        inputs = engine.prepare(self.examples, torch.arange(len(self.examples["image"])))
        rows = task.samples(inputs)
        task.train(training)
        if rows:
            self.recorder.log_image(self.job["run_id"], strip(rows), "samples", step)

    def probe(self, step: int, engine: Engine) -> None:
        """Score the encoder on the validation split and keep it if it is the best so far; Stopped on the word of the
        job's judge."""
        stop = 0.0
        if self.main:
            score = self.probe_of(engine.encoder()) if self.probe_of else None
            self.probes.append({"step": step, "score": score})
            if best_step(self.probes, step) == step:
                self.best = {k: v.detach().cpu().clone() for k, v in engine.encoder().state_dict().items()}
            if score is not None:
                self.recorder.log_metrics(self.job["run_id"], {"probe/top1": score}, step)
            if self.judge and score is not None and step < engine.steps:
                stop = float(not self.judge(step, score))
        if self.judge and engine.world.sum(torch.tensor(stop, device=engine.device)) > 0:
            raise Stopped(f"step {step}")

    def checkpoint(self, step: int, engine: Engine) -> None:
        """Keep all that is needed to go on from here; the other ranks wait in the next gradient sum."""
        if not self.main:
            return
        with suppress(OutsideError):  # a server that is away gets it later; the recorder keeps it
            self.recorder.flush()  # or the curves of a job that is killed would lack what came before its checkpoint
        with tempfile.TemporaryDirectory() as folder:
            self.write(Path(folder))
            self.checkpoints.save(Path(folder), step)

    def give_up(self, reason: str) -> None:
        """End a training that diverged with a checkpoint that says so: an exception would be retried, and the same seed
        would diverge again."""
        if not self.main:
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / DIVERGED).write_text(reason)
            self.checkpoints.save(Path(folder), self.engine.step)

    def write(self, folder: Path) -> None:
        """Write the checkpoint's files."""
        try:
            torch.save({"engine": self.engine.state_dict(), "best": self.best}, folder / "state.pt")
        except (OSError, RuntimeError) as error:  # torch has no error of its own for a full disk
            why = " ".join(str(error).split())[:200]
            raise OutsideError(
                f"cannot write a checkpoint ({why}): make room in {folder.parent}; the same command goes on from before"
            ) from error
        (folder / "probes.json").write_text(json.dumps(self.probes))
        encoder = build_like(self.engine.encoder(), self.best)
        save_encoder(encoder, folder / "encoder")
        if self.engine.step == self.engine.steps:
            save_task(self.engine.averaged, self.job["classes"], folder)

    def restore(self, folder: Path) -> None:
        """Continue from the checkpoint's files, on any number of ranks."""
        state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
        self.engine.load_state_dict(state["engine"])
        self.best = state["best"]
        self.probes = measured(json.loads((folder / "probes.json").read_text()), bool(self.job["classes"]))


def build_like(encoder: Encoder, state: dict[str, Tensor] | None) -> Encoder:
    """A copy of ``encoder`` with the weights of ``state`` (its own where there is none), apart from its task."""
    copy = build_encoder(encoder.config)
    copy.load_state_dict(encoder.state_dict() if state is None else state)
    return copy


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


def train_worker(job: dict[str, Any]) -> None:
    """What every worker of a pretraining job runs, from the first step or from the last checkpoint."""
    recipe = Recipe.model_validate(job["recipe"])
    training, world = recipe.training, World.current()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(training.cpus)
    torch.backends.cudnn.benchmark = True
    recorder: Recorder = job["recorder"]
    if broadcast_from_rank_zero(world.rank == 0 and recorder.told()):  # while the workers were started
        return
    classes = job["classes"]
    task = make_task(recipe, classes, job["encoders"])
    streams = Streams.open(job, "train", task.needs)
    plan = Plan(len(streams.own), training.batch, training.epochs)
    weights = resolve_weights(task, recipe.weights)
    engine = Engine(task, training, weights, plan.steps, device, world, recipe.weight_changes)
    examples = Streams.open(job, "val", task.needs).examples(PICTURES)
    probe = Probe(job, device) if classes and world.rank == 0 and plan.steps else None
    if probe and not probe.can_score:
        job["recorder"].warn(job["run_id"], "no probe: no class of the validation samples occurs in training")
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
    loader = streams.load(plan, training.seed, world, device)
    batches = until_told(loader.iterate(engine.step), recorder.told, world, device)
    if training.record_ids:
        batches = recorded(batches, Path(job["run_folder"]) / "ids" / f"rank-{world.rank}.jsonl", world)
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


@ray.remote(num_cpus=1, max_retries=3)
def initialized(job: dict[str, Any]) -> Files:
    """The files of a task that is only initialized, by name, as a checkpoint would hold them."""
    torch.set_num_threads(1)
    recipe = Recipe.model_validate(job["recipe"])
    task = make_task(recipe, job["classes"], job["encoders"])
    engine = Engine(task, recipe.training, {}, steps=0)
    if task.initial_samples:
        engine.initialize(Streams.open(job, "train", task.needs).examples(task.initial_samples))
    with tempfile.TemporaryDirectory() as folder:
        save_encoder(engine.encoder(), Path(folder) / "encoder")
        save_task(engine.averaged, job["classes"], Path(folder))
        made = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()]
        files = packed(Path(folder), made)
    return {"probes.json": b"[]", **files}
