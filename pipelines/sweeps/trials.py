"""How one trial runs: the steps of its recipes, as any command would run them, and what they were worth."""

import math
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.config import Recipe
from components.errors import Diverged, Stopped, UserError
from components.pictures.measure import MeasureConfig
from components.tasks.base import get_task, makes_pictures
from components.transfer.metrics.statistics import Estimate, gap_closed
from components.transfer.protocol import get_protocol
from infra.errors import OutsideError
from pipelines.data.prepared import Prepared
from pipelines.measure import measure_step
from pipelines.picture_requests import Measurement
from pipelines.pretrain import pretrain_step
from pipelines.recipes import load_recipe
from pipelines.steps.results import Results, StepResult, V
from pipelines.steps.step import Step, StepRun, Within, in_order
from pipelines.sweeps.config import terms_of
from pipelines.sweeps.objectives import COST, PICTURES, UNIVERSAL, Objective
from pipelines.sweeps.probe_exchange import ProbeExchange, TrialJudge
from pipelines.sweeps.records import PUBLISHED, RESCALED, Probe, Proposal, Record, State
from pipelines.sweeps.space import Point, apply
from pipelines.table import beside
from pipelines.training.checkpoints import LIST, Checkpoints
from pipelines.training.hooks import PROBE_SAMPLES
from pipelines.training.job import PROBES_FILE, Pretrained, ProbeScore, parse_probes
from pipelines.training.training_run import checkpoints_url
from pipelines.transfer import validation_step
from pipelines.workers.shape import Need

LUCK = 2.0  # standard deviations by which a probe may be above chance without having learned anything


def recipes_of(proposal: Proposal, bases: Sequence[Recipe]) -> list[Recipe]:
    """What a trial trains: one recipe for each of the ``bases``."""
    if proposal.name == RESCALED:
        yardstick = load_recipe(RESCALED)
        return [beside(base, yardstick) for base in bases]
    if proposal.name == PUBLISHED:
        return [base.model_copy(update={"weights": {}, "name": f"{base.name}, published"}) for base in bases]
    trials = [apply(base, own_point(proposal.point, base)) for base in bases]
    return [trial.model_copy(update={"name": f"{trial.name}, {proposal.name}"}) for trial in trials]


def own_point(point: Point, base: Recipe) -> Point:
    """The part of a point that is about a recipe: not the weights of terms that only other tasks have."""
    terms = terms_of(base)
    return {
        key: value for key, value in point.items() if not key.startswith("weights.") or key.split(".", 1)[1] in terms
    }


def scored(probes: Sequence[ProbeScore]) -> list[Probe]:
    """The probes that measured something: without labels none does."""
    return [(probe.step, probe.score) for probe in probes if probe.score is not None]


def measurable(objectives: Sequence[Objective], recipe: Recipe) -> list[Objective]:
    """The objectives that a recipe can have: a network without training makes no pictures."""
    shows = makes_pictures(get_task(recipe.task))
    return [objective for objective in objectives if shows or objective.name not in PICTURES]


def collapse_floor(classes: int) -> float:
    """The probe up to which an encoder is no better than one that says the same of every picture.

    Without labels nothing is probed, and no value of a probe says anything: then it is below them all.
    """
    if not classes:
        return -1.0
    chance = 1 / classes
    return chance + LUCK * math.sqrt(chance * (1 - chance) / PROBE_SAMPLES[1])


def no_gap(recipe: str, gap: Estimate) -> OutsideError:
    """What is said where a universal sweep has nothing to measure between."""
    return OutsideError(
        f"{recipe}: from random to supervised it is {gap}, on val: a universal sweep measures between the two; "
        "train longer, or on more images"
    )


class Steps:
    """Steps that are run within a step, and remembered: what several trials consume is looked up once."""

    def __init__(self, workflow: Within) -> None:
        self.workflow = workflow
        self.done: dict[str, StepResult[Any]] = {}

    def result(self, step: Step[V], parent: str) -> StepResult[V]:
        """Run or reuse a step and all that it consumes, shown below the run ``parent``."""
        for each in in_order([step]):
            if each.fingerprint not in self.done:
                inputs = Results(self.done[other.fingerprint] for other in each.inputs)
                self.done[each.fingerprint] = self.workflow.perform(each, inputs, parent=parent)
        return self.done[step.fingerprint]


@dataclass(frozen=True)
class Yardsticks:
    """Validation scores between which a universal sweep measures: by recipe, random's and supervised's."""

    ends: Mapping[str, tuple[float, float]]

    def closed(self, recipe: str, score: float) -> float:
        """The share of the gap that a score closes: 0 for random, 1 for supervised."""
        random, supervised = self.ends[recipe]
        closed = gap_closed(score, random, supervised)
        if closed is None:
            raise no_gap(recipe, Estimate(supervised - random, 0.0))
        return float(closed)


class Trials:
    """Runs the trials of one sweep. `run` may be called from several threads."""

    def __init__(
        self,
        run: StepRun,
        bases: Sequence[Recipe],
        objectives: Sequence[Objective],
        exchange: ProbeExchange,
        prepared: Prepared,
        yardsticks: Yardsticks | None,
    ) -> None:
        """``yardsticks``: of a universal sweep, whose trials train every one of the ``bases``."""
        self.step_run, self.bases, self.objectives, self.exchange = run, bases, objectives, exchange
        self.yardsticks = yardsticks
        self.floor = collapse_floor(prepared.label_classes)
        self.samples = prepared.samples["train"]
        self.steps = Steps(run.workflow)
        self._mutex = threading.Lock()

    def run(self, proposal: Proposal, run_id: str) -> Record:
        """Run a trial to its end, whichever it is, within its run."""
        began = time.perf_counter()
        record = Record(proposal, "finished", {}, run_id=run_id)
        cores = max(Need.of(base.training).cores for base in self.bases)
        paid: set[str] = set()
        try:
            for recipe, base in zip(recipes_of(proposal, self.bases), self.bases, strict=True):
                record = self._trained(record, recipe, base, paid)
            record = replace(record, values=self._values(record))
        except (Stopped, Diverged, OutsideError) as error:
            record = self._cut_off(record, error, (time.perf_counter() - began) * cores)
        self._report(record)
        return record

    def _trained(self, record: Record, recipe: Recipe, base: Recipe, paid: set[str]) -> Record:
        """Train and score one recipe of a trial, from what is known of it already.

        ``paid``: the trainings that the record counts; this one is added. Those of a yardstick are one and the same.
        """
        proposal = record.proposal
        exchange = None if self.yardsticks or not proposal.searched else self.exchange
        judge = TrialJudge(exchange, proposal.number, self.floor, proposal.until)
        step = pretrain_step(recipe, judge)
        for known, score in self.probes(recipe):
            if not judge(known, score):
                raise Stopped(f"step {known}")
        trained = self.steps.result(step, record.run_id)
        scores = {
            objective.name: self._measured(objective, recipe, trained, record.run_id)
            for objective in measurable(self.objectives, recipe)
        }
        new = step.fingerprint not in paid
        cores = Need.of(recipe.training).cores if new else 0
        images = self._images(proposal, recipe, trained.value.steps) if new else 0
        paid.add(step.fingerprint)
        return replace(
            record,
            scores=record.scores | ({base.name: scores[UNIVERSAL]} if self.yardsticks else scores),
            probes=scored(trained.value.probes),
            core_seconds=record.core_seconds + trained.value.seconds * cores,
            images=record.images + images,
        )

    def _measured(self, objective: Objective, recipe: Recipe, trained: StepResult[Pretrained], parent: str) -> float:
        """The value of one objective; of a universal sweep, the score that goes into it."""
        if objective.name == COST:
            return float(trained.value.seconds * Need.of(recipe.training).cores)
        if objective.name in PICTURES:
            return self._of_pictures(objective, trained, parent)
        benchmark = recipe.benchmarks[0] if objective.name == UNIVERSAL else objective.name
        return self.steps.result(validation_step(recipe, get_protocol(benchmark)), parent).value.best_val

    def _of_pictures(self, objective: Objective, trained: StepResult[Pretrained], parent: str) -> float:
        """A figure of the pictures that the trained task makes of the validation split."""
        wanted = Measurement(f"runs:/{trained.run_id}", MeasureConfig(split="val"))
        step = measure_step(wanted, self.step_run.session)
        found = self.steps.result(step, parent).value.values.get("prediction", {})
        if objective.metric not in found:
            raise UserError(f"objective {objective.name!r}: the task's pictures have {', '.join(found) or 'no truth'}")
        return float(found[objective.metric])

    def _values(self, record: Record) -> dict[str, float]:
        """The objectives of a trial whose recipes have all been scored."""
        if not self.yardsticks:
            return record.scores
        closed = [self.yardsticks.closed(name, score) for name, score in record.scores.items()]
        return {UNIVERSAL: sum(closed) / len(closed)}

    def _cut_off(self, record: Record, error: Exception, core_seconds: float) -> Record:
        """The record of a trial that did not finish."""
        recipe = recipes_of(record.proposal, self.bases)[len(record.scores) if self.yardsticks else 0]
        probes = self.probes(recipe)
        state: State = "stopped"
        if isinstance(error, Diverged):
            state = "diverged"
        elif isinstance(error, OutsideError):
            state = "failed"
        elif probes and probes[-1][1] <= self.floor:
            state = "collapsed"
        images = record.images + self._images(record.proposal, recipe, probes[-1][0] if probes else 0)
        return replace(
            record, state=state, values={}, probes=probes, core_seconds=core_seconds, images=images, why=str(error)
        )

    def _images(self, proposal: Proposal, recipe: Recipe, step: int) -> int:
        """The images that a training has seen in a trial, from where the trial began."""
        training = recipe.training
        seen = min(step * training.batch, round(training.epochs * self.samples))
        return max(0, seen - proposal.since * training.batch)

    def probes(self, recipe: Recipe) -> list[Probe]:
        """The probes of a training that its newest checkpoint knows."""
        folder = self.folder(recipe)
        if not folder.is_dir():
            return []
        content = Checkpoints(checkpoints_url(recipe, folder)).read_newest(PROBES_FILE)
        return scored(parse_probes(content)) if content else []

    def folder(self, recipe: Recipe) -> Path:
        """Where the training of a recipe works."""
        return self.step_run.session.run_folder(pretrain_step(recipe).fingerprint)

    def start_from(self, proposal: Proposal, donor: Proposal) -> None:
        """Give a trial the newest checkpoint of another: the state of a training whose weights were the same so far."""
        (own,), (other,) = recipes_of(proposal, self.bases), recipes_of(donor, self.bases)
        folders = self.folder(own), self.folder(other)
        if folders[0] == folders[1]:
            return
        with tempfile.TemporaryDirectory() as into:
            checkpoints = [
                Checkpoints(checkpoints_url(recipe, folder))
                for recipe, folder in zip((own, other), folders, strict=True)
            ]
            folders[0].mkdir(parents=True, exist_ok=True)
            found, given = (each.newest(Path(into) / str(k)) for k, each in enumerate(checkpoints))
            if given and (found is None or found[0] < given[0]):
                copy = shutil.copytree(given[1], Path(into) / "copy", ignore=shutil.ignore_patterns(LIST))
                checkpoints[0].save(copy, given[0])

    def _report(self, record: Record) -> None:
        """Write a record to the trial's run, and end it."""
        tracker = self.step_run.tracker
        figures = {"core_seconds": record.core_seconds, "images": float(record.images)}
        figures |= record.values | {f"val/{name}": score for name, score in record.scores.items()}
        tracker.log_metrics(record.run_id, figures)
        tracker.set_tags(record.run_id, {"genoise.state": record.state, "genoise.why": record.why})
        ends = {"finished": "FINISHED", "stopped": "KILLED"}
        tracker.finish(record.run_id, ends.get(record.state, "FAILED"))
