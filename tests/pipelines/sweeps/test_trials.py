"""What a trial knows of its trainings before it runs them: probes, and checkpoints that another one left."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.config import Recipe
from infra.errors import OutsideError
from pipelines.recipes import load_recipe
from pipelines.session import Session
from pipelines.steps.step import Step
from pipelines.sweep import _yardsticks
from pipelines.sweeps.objectives import UNIVERSAL, Objective, get_objective
from pipelines.sweeps.records import RESCALED, Proposal
from pipelines.sweeps.trials import Trials, Yardsticks, recipes_of, scored
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.job import ProbeScore
from pipelines.transfer import Scored

BASE = load_recipe("context_encoder", ["data.samples=64", "encoder.width=4", "training.batch=16"])
POINT: dict[str, Any] = {"weights.l2": 0.5}
FIRST = Proposal(2, "member 0, generation 0", POINT, until=4)
SAME = Proposal(4, "member 0, generation 1", POINT, until=None, after=2, since=4)
OTHER = Proposal(5, "member 1, generation 1", {**POINT, "weight_changes": {"4": {"l2": 0.6}}}, None, 2, 4)


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    run: Any = SimpleNamespace(session=Session(tmp_path), workflow=None)
    prepared: Any = SimpleNamespace(label_classes=10, samples={"train": 64})
    exchange: Any = None
    return Trials(run, [BASE], [get_objective("linear")], exchange, prepared, None)


def recipe_of(proposal: Proposal) -> Recipe:
    (recipe,) = recipes_of(proposal, [BASE])
    return recipe


def leave(trials: Trials, proposal: Proposal, step: int, probes: list[dict[str, float]]) -> None:
    """A checkpoint of a proposal's training."""
    recipe, files = recipe_of(proposal), trials.step_run.session.home / f"files-{step}"
    (files / "encoder").mkdir(parents=True)
    (files / "state.pt").write_bytes(b"state")
    (files / "encoder" / "config.json").write_text("{}")
    (files / "probes.json").write_text(json.dumps(probes))
    folder = trials.folder(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    Checkpoints(str(folder)).save(files, step)


def test_probes_are_those_of_the_newest_checkpoint(trials: Trials) -> None:
    assert trials.probes(recipe_of(FIRST)) == []
    leave(trials, FIRST, 4, [{"step": 4, "score": 0.25}])
    assert trials.probes(recipe_of(FIRST)) == [(4, 0.25)]
    assert trials.probes(recipe_of(SAME)) == [(4, 0.25)]  # the same training, under another name


def test_a_member_starts_from_a_whole_copy_of_its_donors_checkpoint(trials: Trials, tmp_path: Path) -> None:
    leave(trials, FIRST, 4, [{"step": 4, "score": 0.25}])
    assert trials.folder(recipe_of(OTHER)) != trials.folder(recipe_of(FIRST))
    trials.start_from(OTHER, FIRST)
    found = Checkpoints(str(trials.folder(recipe_of(OTHER)))).newest(tmp_path)
    assert found is not None and found[0] == 4
    assert (found[1] / "state.pt").read_bytes() == b"state" and (found[1] / "encoder" / "config.json").is_file()


def test_a_member_that_is_further_keeps_its_own_checkpoint(trials: Trials) -> None:
    leave(trials, FIRST, 4, [{"step": 4, "score": 0.25}])
    leave(trials, OTHER, 8, [{"step": 4, "score": 0.25}, {"step": 8, "score": 0.75}])
    trials.start_from(OTHER, FIRST)
    assert trials.probes(recipe_of(OTHER))[-1] == (8, 0.75)
    trials.start_from(SAME, FIRST)  # its own training: nothing to copy
    assert trials.probes(recipe_of(SAME)) == [(4, 0.25)]


class Known:
    """Steps that take no time: every training is of 4 steps and 8 seconds, every score is 0.5."""

    def __init__(self) -> None:
        self.done: dict[str, Any] = {}

    def result(self, step: Step[Any], parent: str) -> Any:
        value = SimpleNamespace(seconds=8.0, steps=4, probes=[], best_val=0.5)
        return self.done.setdefault(step.fingerprint, SimpleNamespace(value=value))


def test_a_training_that_several_tasks_share_is_paid_for_once(tmp_path: Path) -> None:
    tracker = SimpleNamespace(log_metrics=lambda *_: None, set_tags=lambda *_: None, finish=lambda *_: None)
    run: Any = SimpleNamespace(session=Session(tmp_path), workflow=None, tracker=tracker)
    prepared: Any = SimpleNamespace(label_classes=10, samples={"train": 64})
    other = load_recipe("autoencoder", ["data.samples=64", "encoder.width=4", "training.batch=16"])
    ends = Yardsticks({base.name: (0.25, 0.75) for base in (BASE, other)})
    exchange: Any = None
    trials = Trials(run, [BASE, other], [Objective(UNIVERSAL, 1.0)], exchange, prepared, ends)
    known: Any = Known()
    trials.steps = known
    yardstick = trials.run(Proposal(1, RESCALED, {}), "run 1")
    assert yardstick.core_seconds == 8.0
    trial = trials.run(Proposal(2, "trial 0", POINT), "run 2")
    assert (trial.core_seconds, trial.images) == (16.0, 128)
    assert trial.values == {UNIVERSAL: 0.5}


def test_a_universal_sweep_measures_in_no_gap_of_noise() -> None:
    def ends(random: float, supervised: float, n: int) -> Any:
        tops = (random, supervised)
        said: dict[str, Any] = {"benchmark": "linear", "metric": "top1", "split": "val", "protocol": {}, "n": n}
        return [Scored(value=top, layer="a", layers={"a": top}, **said) for top in tops]

    wanted: Any = SimpleNamespace(universal=True, recipes=[BASE])
    found = _yardsticks(wanted, ends(0.3, 0.5, 1000))
    assert found is not None and found.closed("context_encoder", 0.4) == pytest.approx(0.5)
    for few in (ends(0.309, 0.310, 1000), ends(0.3, 0.4, 50), ends(0.5, 0.3, 1000)):
        with pytest.raises(OutsideError, match=r"context_encoder: .*: (the gap is within|there is no gap)"):
            _yardsticks(wanted, few)


def test_probes_that_measured_nothing_are_left_out() -> None:
    assert scored([ProbeScore(step=4, score=None), ProbeScore(step=8, score=0.0)]) == [(8, 0.0)]
