"""Two encoders on one benchmark: each score with its interval, and whether the first is better, on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from components.config import BenchmarkConfig, DataConfig
from components.errors import Diverged, UserError
from components.transfer.metrics.statistics import SHARES, Estimate, Measured, gap_between, score_interval
from pipelines.encoders import file_at
from pipelines.recipe_checks import data_name
from pipelines.session import Session
from pipelines.steps import scheduling
from pipelines.steps.results import Json, StepResult
from pipelines.steps.step import Planned, Step
from pipelines.steps.workflow import Workflow
from pipelines.transfer import Scored, external_step, measured_of

Verdict = Literal["better", "no better", "worse", "no worse", "undecided", "unknown"]


@dataclass(frozen=True)
class Question:
    """Encoders, one or several seeds of each, paired in order; ``margin``: points that still count as no worse."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    benchmark: BenchmarkConfig
    data: DataConfig
    margin: float | None = None
    normalization: str | None = None  # of those that are files of weights of others

    def steps(self, session: Session) -> list[Step[Scored]]:
        """Those that `genoise transfer` would run for each encoder, the first ones first.

        Raises UserError for numbers of seeds that cannot be paired, and what the scoring raises before it begins.
        """
        if not self.first or len(self.first) != len(self.second):
            raise UserError(
                f"encoders are paired in order, and there are {len(self.first)} and {len(self.second)}: give as many "
                "of each, with commas between"
            )

        def step(encoder: str) -> Step[Scored]:
            asked = self.normalization if file_at(encoder) is not None else None
            return external_step(encoder, self.benchmark, self.data, session, asked)

        return [step(encoder) for encoder in (*self.first, *self.second)]


@dataclass(frozen=True)
class Answer:
    """Scores of both, and the difference, first minus second."""

    question: Question
    scores: tuple[Scored, ...]  # of the first encoders, then of the second ones
    run_ids: tuple[str, ...]

    @cached_property
    def sides(self) -> tuple[Measured, Measured]:
        """The scores of the first and of the second encoders, paired by their place."""
        count = len(self.question.first)
        first, second = self.scores[:count], self.scores[count:]
        return measured_of(dict(enumerate(first))), measured_of(dict(enumerate(second)))

    @cached_property
    def difference(self) -> Estimate:
        """First minus second; with several seeds their error and that of the images add up."""
        first, second = self.sides
        return gap_between(second, first)

    @property
    def verdict(self) -> Verdict:
        """Better, worse or no worse only where the whole interval says so."""
        difference, half = self.difference.value, self.difference.known
        if half is None:
            return "unknown"
        if difference > half:
            return "better"
        if self.question.margin is None:
            return "worse" if difference < -half else "no better"
        if difference - half >= -self.question.margin / 100:
            return "no worse"
        return "worse" if difference < -half else "undecided"

    @property
    def notes(self) -> list[str]:
        """What has to be known of the interval."""
        sides = self.sides
        if all(len(side.resampled) for side in sides):
            return []
        old = "scored before bootstrap samples of the images were kept"
        if sides[0].metric in SHARES:
            return [f"{old}: the interval is that of two independent shares, too wide rather than too narrow"]
        return [f"{old}: how far the difference is chance is unknown; with another --home both are scored anew"]

    @property
    def sentence(self) -> str:
        """The verdict for people."""
        difference, half, margin = self.difference.value, self.difference.known, self.question.margin
        score = self.scores[0]
        width = "" if half is None else f" ± {100 * half:.2f}"
        seeds = f" and {len(self.question.first)} seeds" if len(self.question.first) > 1 else ""
        figures = f"{100 * difference:+.2f}{width} points of {score.metric} on {score.split}"
        figures += f" (95 %, paired on {score.n} images{seeds})"
        words = {
            "better": "the first is better",
            "worse": "the first is worse",
            "no better": "neither is shown to be better",
            "no worse": f"the first is no worse, within {margin:g} points" if margin is not None else "",
            "undecided": f"whether the first is worse by {margin:g} points is open" if margin is not None else "",
            "unknown": "which is better is unknown",
        }
        return f"{words[self.verdict]}: {figures}"

    def rows(self) -> list[Json]:
        """A row for each of the two, in %."""
        rows = []
        count = len(self.question.first)
        names = (self.question.first, self.question.second)
        for name, side, scores in zip(names, self.sides, (self.scores[:count], self.scores[count:]), strict=True):
            seeds, images = score_interval(side)
            rows.append(
                {
                    "encoder": ", ".join(name),
                    "score": round(100 * side.mean, 2),
                    "images ±": None if images is None else round(100 * images, 2),
                    "seeds ±": None if seeds is None else round(100 * seeds, 2),
                    "layer": "/".join(dict.fromkeys(score.layer for score in scores)),
                }
            )
        return rows

    def to_json(self) -> Json:
        """All of it as plain data; scores in [0, 1]."""
        score, half = self.scores[0], self.difference.known
        return {
            "benchmark": score.benchmark,
            "metric": score.metric,
            "split": score.split,
            "n": score.n,
            "on": data_name(self.question.data),
            "scores": [
                {"encoder": encoder, "value": each.value, "layer": each.layer, "run_id": run_id}
                for encoder, each, run_id in zip(
                    (*self.question.first, *self.question.second), self.scores, self.run_ids, strict=True
                )
            ],
            "rows": self.rows(),
            "difference": self.difference.value,
            "half": half,
            "margin": self.question.margin,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "notes": self.notes,
        }


def compare(question: Question, session: Session) -> Answer:
    """Score what is not scored yet, and compare. Raises UserError where the scores cannot be compared."""
    answers: list[Answer] = []

    def report(workflow: Workflow, results: list[StepResult[Scored] | Diverged]) -> None:
        scored = [result for result in results if isinstance(result, StepResult)]
        answers.append(answer_of(question, scored))
        known = {"difference": answers[0].difference.value, "half_width": answers[0].difference.known}
        tracker, run_id = workflow.tracker, workflow.run_id
        tracker.log_metrics(run_id, {name: value for name, value in known.items() if value is not None})
        tracker.log_dict(run_id, answers[0].to_json(), "comparison.json")
        tracker.describe(run_id, answers[0].sentence)

    scheduling.run_and_report(question.steps(session), session, "compare", report)
    return answers[0]


def answer_of(question: Question, results: Sequence[StepResult[Scored]]) -> Answer:
    """The answer that the scores give. Raises UserError for scores that are not of the same images."""
    scores = tuple(result.value for result in results)
    measures = dict.fromkeys((score.metric, score.split, score.n) for score in scores)
    if len(measures) > 1:
        said = " and ".join(f"{metric} on {n} images of {split}" for metric, split, n in measures)
        raise UserError(f"these scores cannot be compared: they are {said}; score both on the same images")
    return Answer(question, scores, tuple(result.run_id for result in results))


def plan(question: Question, session: Session) -> list[Planned]:
    """The steps that `compare` would run or reuse."""
    return scheduling.plan(question.steps(session), session)
