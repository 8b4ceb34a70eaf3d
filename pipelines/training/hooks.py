"""What happens beside training, on every rank: log lines, pictures, probes, checkpoints.

Rank 0 alone probes, draws and logs; the other ranks meet it again in the next gradient sum. A checkpoint holds
everything (`state.pt`), the best encoder so far (`encoder/`) and the story of the probes (`probes.json`).
"""

import tempfile
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from components.engine import Engine
from components.errors import Stopped, first_of
from components.networks.encoder import Encoder, build_encoder, save_encoder
from components.tasks.base import Batch
from components.transfer.features import subset
from components.transfer.probe import quick_score
from infra.errors import OutsideError
from pipelines.data.opening import open_split
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.job import ProbeScore, TrainingJob, best_step, read_probes, write_probes
from pipelines.training.picture_strip import strip
from pipelines.training.sample_streams import Streams
from pipelines.training.task_files import save_task

DIVERGED = "diverged.txt"  # in a checkpoint: why there will be no further one
NAMED = 3  # samples named in a warning
PROBE_SAMPLES = (3000, 1000)  # training and validation samples of the probe during training


class Probe:
    """The score during training: `quick_score` on fixed samples of the training and the validation split."""

    def __init__(self, job: TrainingJob, device: torch.device) -> None:
        self.device = device
        splits = (open_split(job.data, split, ("image", "label")) for split in ("train", "val"))
        self.train, self.val = (d.get(subset(len(d), n)) for d, n in zip(splits, PROBE_SAMPLES, strict=True))

    def __call__(self, encoder: Encoder) -> float:
        """Validation top-1, in [0, 1], of the best layer."""
        return quick_score(encoder, self.train, self.val, device=self.device).value

    @property
    def can_score(self) -> bool:
        """Whether any label of the validation samples occurs among the training samples."""
        return bool(torch.isin(self.val["label"], self.train["label"]).any())


class WorkerHooks:
    """What happens beside training, on every rank of a Ray Train job."""

    def __init__(
        self, job: TrainingJob, engine: Engine, probe: Probe | None, examples: Batch, streams: Streams
    ) -> None:
        self.job, self.engine, self.probe_of, self.examples, self.streams = job, engine, probe, examples, streams
        self.replaced: set[str] = set()  # samples that were said to be
        assert job.recorder is not None, "who trains is heard"
        self.recorder, self.judge, self.checkpoints = job.recorder, job.judge, Checkpoints(job.checkpoints)
        self.main = engine.world.rank == 0
        self.probes: list[ProbeScore] = []
        self.best: dict[str, Tensor] | None = None

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send one log line to the tracker and to whoever watches."""
        self._name_replaced(step)
        if self.main:
            self.recorder.log_metrics(self.job.run_id, values, step)
            loss = sum(self.engine.weights[k[5:]] * v for k, v in values.items() if k.startswith("loss/"))
            text = f"loss {loss:.3f}, {values['images_per_second']:.0f} images/s"
            self.recorder.progress(self.job.run_id, step, self.engine.steps, text)

    def _name_replaced(self, step: int) -> None:
        """Every rank says which of the samples that it read do not decode, and were replaced by their neighbours."""
        found = self.streams.replaced
        new = [f"{name} ({reason})" for name, reason in found.items() if name not in self.replaced]
        if new:
            self.replaced |= found.keys()
            named = first_of(new, NAMED)
            text = f"step {step}: {len(new)} samples do not decode and were replaced by others: {named}"
            self.recorder.warn(self.job.run_id, text)

    def warn(self, step: int, message: str) -> None:
        """Say once what looks wrong."""
        if self.main:
            self.recorder.warn(self.job.run_id, f"step {step}: {message}")

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
            self.recorder.log_image(self.job.run_id, strip(rows), "samples", step)

    def probe(self, step: int, engine: Engine) -> None:
        """Score the encoder on the validation split and keep it if it is the best so far; Stopped on the word of the
        job's judge."""
        stop = 0.0
        if self.main:
            score = self.probe_of(engine.encoder()) if self.probe_of else None
            self.probes.append(ProbeScore(step=step, score=score))
            if best_step(self.probes, step) == step:
                self.best = {k: v.detach().cpu().clone() for k, v in engine.encoder().state_dict().items()}
            if score is not None:
                self.recorder.log_metrics(self.job.run_id, {"probe/top1": score}, step)
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
        write_probes(self.probes, folder)
        encoder = build_like(self.engine.encoder(), self.best)
        save_encoder(encoder, folder / "encoder")
        if self.engine.step == self.engine.steps:
            save_task(self.engine.averaged, self.job.label_classes, folder)

    def restore(self, folder: Path) -> None:
        """Continue from the checkpoint's files, on any number of ranks."""
        state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
        self.engine.load_state_dict(state["engine"])
        self.best = state["best"]
        self.probes = read_probes(folder, bool(self.job.label_classes))


def build_like(encoder: Encoder, state: dict[str, Tensor] | None) -> Encoder:
    """A copy of ``encoder`` with the weights of ``state`` (its own where there is none), apart from its task."""
    copy = build_encoder(encoder.config)
    copy.load_state_dict(encoder.state_dict() if state is None else state)
    return copy
