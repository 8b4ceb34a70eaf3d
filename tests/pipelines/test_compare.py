"""Two encoders beside each other: pairs, verdicts, and what is not compared."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from scipy import stats

from components.config import DataConfig, EncoderConfig, ProbeConfig
from components.errors import UserError
from components.networks.encoder import build_encoder, save_encoder
from components.transfer.metrics.statistics import resample_mean
from pipelines import compare as pipeline
from pipelines.compare import Answer, Question, answer_of
from pipelines.session import Session
from pipelines.steps import scheduling
from pipelines.steps.results import StepResult
from pipelines.transfer import Scored, external_step

N = 2000


def scored(right_N: np.ndarray[Any, Any] | float, metric: str = "top1", **changes: Any) -> StepResult[Scored]:
    value, resampled = float(np.mean(right_N)), () if isinstance(right_N, float) else resample_mean(right_N)
    found = {"benchmark": "linear", "metric": metric, "value": value, "n": N, "split": "test", "resampled": resampled}
    found |= {"layer": "conv3", "layers": {"conv3": value}, "protocol": {}} | changes
    return StepResult("transfer", "x", "f", "run", Scored.from_json(found), reused=True)


def question(margin: float | None = None, seeds: int = 1) -> Question:
    first, second = (tuple(f"{name}{k}" for k in range(seeds)) for name in "ab")
    return Question(first, second, ProbeConfig(), DataConfig(), margin)


def judged(right: float, also: float, margin: float | None = None) -> Answer:
    """The second is right on a share ``right`` of the images; the first as well, and on a share ``also`` of the others,
    or, below zero, wrong on that share of those."""
    rng = np.random.default_rng(0)
    second = rng.random(N) < right
    changed = rng.random(N) < abs(also)
    first = second | changed if also > 0 else second & ~changed
    return answer_of(question(margin), [scored(first), scored(second)])


@pytest.mark.parametrize(
    ("also", "margin", "verdict"),
    [
        (0.05, None, "better"),
        (-0.05, None, "worse"),
        (0.0, None, "no better"),
        (0.0005, None, "no better"),
        (0.05, 0.5, "better"),
        (-0.001, 0.5, "no worse"),
        (0.0, 0.0, "no worse"),
        (-0.001, 0.05, "undecided"),
        (-0.05, 0.5, "worse"),
    ],
)
def test_verdicts(also: float, margin: float | None, verdict: str) -> None:
    answer = judged(0.6, also, margin)
    assert answer.verdict == verdict, answer.sentence
    assert answer.to_json()["verdict"] == verdict and answer.notes == []


def test_the_interval_is_that_of_pairs() -> None:
    rng = np.random.default_rng(1)
    second = rng.random(N) < 0.5
    first = second ^ (rng.random(N) < 0.03)
    answer = answer_of(question(), [scored(first), scored(second)])
    exact = 1.959964 * (first.astype(float) - second).std() / N**0.5
    assert answer.difference.half == pytest.approx(exact, rel=0.08)
    alone = [row["images ±"] for row in answer.rows()]
    assert alone == pytest.approx([100 * 1.959964 * (0.25 / N) ** 0.5] * 2, rel=0.08)
    assert answer.sentence.endswith(" points of top1 on test (95 %, paired on 2000 images)")


def test_seeds_are_paired_in_order() -> None:
    rng = np.random.default_rng(2)
    second = [rng.random(N) < 0.5 + shift for shift in (-0.1, 0.0, 0.1)]
    first = [right | (rng.random(N) < 0.04 + 0.01 * k) for k, right in enumerate(second)]
    answer = answer_of(question(seeds=3), [scored(right) for right in (*first, *second)])
    gains = [float(a.mean() - b.mean()) for a, b in zip(first, second, strict=True)]
    students = stats.t.ppf(0.975, 2) * np.std(gains, ddof=1) / 3**0.5
    assert answer.difference.value == pytest.approx(np.mean(gains))
    assert students < answer.difference.half < 2 * students and answer.verdict == "better"
    assert "paired on 2000 images and 3 seeds" in answer.sentence
    row = answer.rows()[1]
    assert row["encoder"] == "b0, b1, b2" and row["seeds ±"] > 20


def test_scores_of_before_samples_were_kept_are_shares_or_unknown() -> None:
    shares = answer_of(question(), [scored(0.9), scored(0.1)])
    assert shares.verdict == "better" and "two independent shares" in shares.notes[0]
    other = answer_of(question(0.5), [scored(0.9, "map"), scored(0.1, "map")])
    assert (other.verdict, other.to_json()["half"]) == ("unknown", None) and "is unknown" in other.notes[0]
    assert other.sentence == "which is better is unknown: +80.00 points of map on test (95 %, paired on 2000 images)"


@pytest.mark.parametrize("changes", [{"n": 9}, {"split": "val"}, {"metric": "map"}])
def test_scores_that_are_not_of_the_same_images_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"these scores cannot be compared: they are top1 on 2000 images of test and "):
        answer_of(question(), [scored(0.5), scored(0.5, **changes)])


def test_the_steps_are_those_of_transfer(tmp_path: Path) -> None:
    for name, width in (("a", 4), ("b", 8)):
        save_encoder(build_encoder(EncoderConfig(width=width)), tmp_path / name)
    session, data = Session(tmp_path / "home", dry_run=True), DataConfig(samples=100)
    places = tuple(str(tmp_path / name) for name in "ab")
    asked = Question(places[:1], places[1:], ProbeConfig(), data, normalization="half")
    made = [step.fingerprint for step in asked.steps(session)]
    assert made == [external_step(place, ProbeConfig(), data, session, None).fingerprint for place in places]
    planned = pipeline.plan(asked, session)
    assert [each.name for each in planned] == ["prepare", "transfer", "transfer"]
    for wrong in (Question(places, places[:1], ProbeConfig(), data), Question((), (), ProbeConfig(), data)):
        with pytest.raises(UserError, match="encoders are paired in order, and there are"):
            wrong.steps(session)


def test_what_was_found_is_at_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    workflow = MagicMock(run_id="w")
    results = [scored(0.9), scored(0.1)]
    monkeypatch.setattr(pipeline.Question, "steps", lambda *_: [])
    monkeypatch.setattr(scheduling, "run_and_report", lambda *given: given[-1](workflow, results))
    answer = pipeline.compare(question(), MagicMock())
    assert workflow.tracker.describe.call_args.args == ("w", answer.sentence)
    assert workflow.tracker.log_metrics.call_args.args[1].keys() == {"difference", "half_width"}
