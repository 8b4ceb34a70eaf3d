"""A sweep under way, without Ray: which trial is next, what a continued one does again, and what a budget allows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.errors import UserError
from infra import ending
from infra.errors import Interrupted
from pipelines.recipes import load_recipe
from pipelines.sweeps.budget import Budget, Cost
from pipelines.sweeps.config import Sweep, make_sweep
from pipelines.sweeps.proposals import FIRST
from pipelines.sweeps.ray_tune import Proposals
from pipelines.sweeps.records import PUBLISHED, RESCALED, Ledger, Proposal, Record
from pipelines.sweeps.search import Search, failed_all
from pipelines.sweeps.trials import collapse_floor, own_point, recipes_of

TINY = ["data.samples=64", "encoder.width=4", "training.batch=16", "training.epochs=3"]
COST = Cost(10.0, 192)


def sweep(**changes: Any) -> Sweep:
    asked = {"searcher": "random", "scheduler": "none", "objectives": [], "trials": 3, "budget": None, "seed": 0}
    return make_sweep([load_recipe("context_encoder", TINY)], False, None, **{**asked, **changes})


class Trials:
    """Trials that take no time. A point with a large l2 diverges."""

    samples = 64

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.copied: list[tuple[int, int]] = []

    def run(self, proposal: Proposal, run_id: str) -> Record:
        self.ran.append(proposal.number)
        weight = proposal.point.get("weights.l2", 1.0)
        probes = [(step, 1 / (1 + weight)) for step in (4, 8, 12) if step <= (proposal.until or 12)]
        if proposal.until:
            return Record(proposal, "stopped", {}, probes=probes)
        return Record(proposal, "finished", {"linear": 1 / (1 + weight)}, {}, probes, 10.0, 192, run_id)

    def start_from(self, proposal: Proposal, donor: Proposal) -> None:
        self.copied.append((proposal.number, donor.number))


class ProbeExchange:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def tell(self, number: int, step: int, score: float) -> None:
        self.told.append(("tell", number))

    def end(self, number: int, step: int, score: float) -> None:
        self.told.append(("end", number))

    def stop(self, number: int) -> None:
        self.told.append(("stop", number))

    def release(self, number: int) -> None:
        self.told.append(("release", number))


class Home:
    """What a search works in."""

    def __init__(self, folder: Path, wanted: Sweep, cost: Cost = COST) -> None:
        self.trials, self.exchange, self.said = Trials(), ProbeExchange(), list[str]()
        self.metrics: list[dict[str, float]] = []
        self.statuses: dict[str, str] = {}
        run: Any = SimpleNamespace(
            run_id="sweep",
            tracker=SimpleNamespace(
                start_run=lambda name, *_: f"run of {name}",
                resume_run=lambda run_id, _: self.statuses.update({run_id: "RUNNING"}),
                finish=lambda run_id, status: self.statuses.update({run_id: status}),
            ),
            say=self.said.append,
            log_metrics=lambda values, step: self.metrics.append(values),
            progress=lambda progress: None,
        )
        trials: Any = self.trials
        exchange: Any = self.exchange
        self.search = Search(wanted, run, trials, Ledger(folder / "trials.jsonl"), exchange, cost, 2)

    def run(self, most: int = 1000) -> list[Proposal]:
        """Run trial after trial, at most so many; those that were started."""
        started: list[Proposal] = []
        while len(started) < most and not isinstance(proposal := self.search.next(), str):
            self.search.start(proposal)
            self.search.join()
            started.append(proposal)
        return started


def test_the_references_come_first_and_then_as_many_as_were_asked_for(tmp_path: Path) -> None:
    home = Home(tmp_path, sweep())
    started = home.run()
    assert [p.name for p in started] == [PUBLISHED, RESCALED, "trial 0", "trial 1", "trial 2"]
    assert home.trials.ran == [0, 1, 2, 3, 4]
    bests = [metrics.get("best/linear") for metrics in home.metrics]
    assert bests[:2] == [None, None]  # what the others are compared with is not the best of them
    own = [best for best in bests[2:] if best is not None]
    assert len(own) == 3 and own == sorted(own) and len(home.said) == 5


@pytest.mark.parametrize("searcher", ["random", "tpe", "grid"])
@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_continued_sweep_has_the_same_trials_and_runs_none_again(tmp_path: Path, searcher: str, cut: int) -> None:
    wanted = sweep(searcher=searcher, trials=18 if searcher == "grid" else 4)
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    expected = Home(tmp_path / "whole", wanted).run()
    Home(tmp_path / "cut", wanted).run(cut)
    again = Home(tmp_path / "cut", wanted)
    assert again.run() == expected
    assert again.trials.ran == [p.number for p in expected[cut:]]
    assert [what for what in again.exchange.told if what[0] == "end"] == [("end", p.number) for p in expected]


def test_what_was_under_way_is_run_again_as_it_was(tmp_path: Path) -> None:
    first = Home(tmp_path, sweep())
    first.run(2)
    proposal = first.search.next()
    assert isinstance(proposal, Proposal)
    first.search.ledger.propose(proposal, "run")  # ... and then the process was killed
    again = Home(tmp_path, sweep())
    started = again.run()
    assert started[2] == proposal and again.trials.ran[0] == proposal.number and len(started) == 5


def test_a_budget_in_images_is_kept(tmp_path: Path) -> None:
    home = Home(tmp_path, sweep(trials=None, budget=Budget(192 * 5 + 10, "images")))
    started = home.run()
    seen = sum(record.images for record in home.search.ledger.ended())
    assert seen <= 192 * 5 + 10 and len(started) == 5


def test_a_budget_waits_for_what_is_under_way(tmp_path: Path) -> None:
    home = Home(tmp_path, sweep(trials=None, budget=Budget(192 * 3, "images")))
    home.run(2)
    proposal = home.search.next()
    assert isinstance(proposal, Proposal)
    home.search.ledger.propose(proposal, "run")
    assert home.search.next() == "wait"  # it may be stopped early, and leave something


def test_a_population_runs_in_generations(tmp_path: Path) -> None:
    wanted = sweep(scheduler="pbt", trials=4)
    home = Home(tmp_path, wanted)
    started = home.run()
    assert [p.until for p in started[FIRST:]] == [4] * 4 + [8] * 4 + [None] * 4
    assert all(donor < number for number, donor in home.trials.copied) and len(home.trials.copied) == 8
    again = Home(tmp_path, wanted)
    assert again.run() == started and again.trials.ran == []


def test_an_error_in_proposing_ends_the_sweep_and_is_raised(tmp_path: Path) -> None:
    home = Home(tmp_path, sweep(scheduler="pbt", trials=2))
    for number in range(4):
        home.search.ledger.propose(Proposal(number, "x", {}), "run")
        home.search.ledger.end(Record(Proposal(number, "x", {}), "diverged", {}))
    again = Home(tmp_path, sweep(scheduler="pbt", trials=2))
    for _ in range(4):
        again.search.next()
    assert again.search.next() == "none"
    with pytest.raises(UserError, match="no member of the population"):
        again.search.join()


def test_a_sweep_without_a_finished_trial_has_no_winner() -> None:
    own, reference = Proposal(2, "trial 0", {}), Proposal(0, PUBLISHED, {})
    finished = Record(reference, "finished", {"linear": 0.5})
    error = failed_all([finished, Record(own, "diverged", {}, why="step 4")])
    assert error and "no trial finished: diverged (step 4)" in str(error)
    assert failed_all([finished, Record(own, "finished", {"linear": 0.5})]) is None


def test_what_a_trial_trains() -> None:
    base = load_recipe("context_encoder", [*TINY, "weights={l2: 0.5}", "options.mask=random"])
    (published,) = recipes_of(Proposal(0, PUBLISHED, {}), [base])
    assert published.weights == {} and published.options == base.options
    (rescaled,) = recipes_of(Proposal(1, RESCALED, {}), [base])
    assert rescaled.task == "rescaled" and rescaled.data == base.data and rescaled.encoder == base.encoder
    (trial,) = recipes_of(Proposal(2, "trial 0", {"weights.adversarial": 0.25}), [base])
    assert trial.weights == {"l2": 0.5, "adversarial": 0.25} and trial.training == base.training


def test_a_vector_gives_every_task_the_weights_of_its_own_terms() -> None:
    point = {"weights.l2": 2.0, "weights.cross_entropy": 3.0}
    bases = [load_recipe("context_encoder", TINY), load_recipe("rotation", TINY), load_recipe("colorization", TINY)]
    assert [own_point(point, base) for base in bases] == [
        {"weights.l2": 2.0},
        {"weights.cross_entropy": 3.0},
        {"weights.cross_entropy": 3.0},  # its l2 is that of another target
    ]


def test_collapsed_is_what_is_not_above_chance() -> None:
    assert collapse_floor(10) == pytest.approx(0.1 + 2 * (0.09 / 1000) ** 0.5)
    assert collapse_floor(2) > 0.5


def test_a_trial_that_is_interrupted_has_no_record_and_goes_on(tmp_path: Path) -> None:
    home = Home(tmp_path, sweep())
    run = home.trials.run

    def interrupted(proposal: Proposal, run_id: str) -> Record:
        if proposal.name != "trial 0":
            return run(proposal, run_id)
        ending.begin()
        raise Interrupted("pretrain is kept at step 4 of 12")

    home.trials.run = interrupted  # type: ignore[method-assign]  # the fault
    try:
        with pytest.raises(Interrupted, match="kept at step 4"):
            home.run()
        assert home.search.next() == "none"
    finally:
        ending.reset()
    assert sorted(home.search.ledger.records) == [0, 1] and home.statuses == {"run of trial 0": "KILLED"}
    again = Home(tmp_path, sweep())
    assert len(again.run()) == 5 and again.trials.ran == [2, 3, 4]
    assert again.statuses == {"run of trial 0": "RUNNING"}  # until it has ended, which its trial says


def test_a_trial_that_tune_has_lost_is_not_stopped(tmp_path: Path) -> None:
    """What Tune loses is what reports the probes; the training is elsewhere, and nobody has judged it."""
    home = Home(tmp_path, sweep())
    proposals = Proposals(home.search)
    for trial in "abc":
        proposals._live[trial] = ord(trial)
    proposals.on_trial_complete("a")
    proposals.on_trial_complete("b", error=True)
    assert home.exchange.told == [("stop", ord("a")), ("release", ord("b"))] and proposals._live == {"c": ord("c")}
