"""A sweep under way: which trial is next, the threads in which trials run, and what is known so far."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from infra import ending
from infra.errors import OutsideError
from pipelines.steps.step import StepRun
from pipelines.steps.worker_log import Progress
from pipelines.steps.workflow import KIND
from pipelines.sweeps.budget import Cost
from pipelines.sweeps.config import Sweep, probe_steps, terms_of
from pipelines.sweeps.probe_exchange import ProbeExchange
from pipelines.sweeps.proposals import FIRST, grid_points, population, random_point, references, tpe_point
from pipelines.sweeps.records import Ledger, Proposal, Record, best
from pipelines.sweeps.space import Point
from pipelines.sweeps.trials import Trials

TRIAL = "genoise.trial"  # tag: number of a trial

Next = Proposal | Literal["wait", "none"]


class Search:
    """Proposes trials and runs them. A trial that ended in an earlier command is told again, and not run again."""

    def __init__(
        self,
        sweep: Sweep,
        run: StepRun,
        trials: Trials,
        ledger: Ledger,
        exchange: ProbeExchange,
        cost: Cost,
        side_by_side: int,
    ) -> None:
        """``cost``: what a trial is expected to need; ``side_by_side``: how many trainings fit onto the cluster."""
        self.sweep, self.step_run, self.trials, self.ledger, self.exchange = sweep, run, trials, ledger, exchange
        self.cost = cost
        self.error: BaseException | None = None
        self.side_by_side = side_by_side
        self._places = threading.Semaphore(side_by_side)
        self._threads: dict[int, threading.Thread] = {}
        self._mutex = threading.RLock()
        self._known: Iterator[Proposal] = iter(sorted(ledger.proposals.values(), key=lambda p: p.number))
        self._ends = probe_steps(sweep.recipes[0], trials.samples)
        self._grid = grid_points(sweep.space, sweep.trials or 0) if sweep.searcher == "grid" else []
        published = {f"weights.{term}": weight for term, weight in _published(sweep).items()}
        self._published: Point = {key: published[key] for key in sweep.space.keys if key in published}

    # What is next

    def next(self) -> Next:
        """The next trial to start; "wait" where that depends on trials under way, "none" where there is none."""
        with self._mutex:
            if self.error or ending.begun():
                return "none"
            if (known := next(self._known, None)) is not None:
                return known
            try:
                return self._new(max(self.ledger.proposals, default=-1) + 1)
            except Exception as error:  # trials that are under way end as they would; `join` raises it
                self.error = error
                return "none"

    def _new(self, number: int) -> Next:
        if number < FIRST:
            return references()[number]
        found = self._member(number) if self.sweep.scheduler == "pbt" else self._own(number)
        return found if isinstance(found, str) else self._within_budget(found)

    def _own(self, number: int) -> Next:
        sweep, place = self.sweep, number - FIRST
        limit = len(self._grid) if self._grid else sweep.trials
        if limit is not None and place >= limit:
            return "none"
        if self._grid:
            point = self._grid[place]
        elif sweep.searcher == "random":
            point = random_point(sweep.space, sweep.seed, number)
        else:
            records = [self._with_point(record) for record in self.ledger.ended()]
            point = tpe_point(sweep.space, sweep.seed, number, records, sweep.signs, self._ends[-1])
        return Proposal(number, f"trial {place}", point)

    def _with_point(self, record: Record) -> Record:
        """A record with the published weights written out, so that a searcher can learn from them."""
        if record.proposal.point or not self._published or record.number != 0:
            return record
        return replace(record, proposal=replace(record.proposal, point=self._published))

    def _member(self, number: int) -> Next:
        size = self.sweep.trials or 0
        generation, place = divmod(number - FIRST, size)
        if generation == len(self._ends):
            return "none"
        found = population(self.sweep.space, self.sweep.seed, size, self._ends, self.ledger.records, generation)
        if found is None:
            return "wait"
        if place == 0:  # before any of them trains on: checkpoints of the generation before are still the newest
            for member in found:
                if member.after is not None:
                    self.trials.start_from(member, self.ledger.proposals[member.after])
        return found[place]

    def _within_budget(self, proposal: Proposal) -> Next:
        budget = self.sweep.budget
        if budget is None:
            return proposal
        records = self.ledger.ended()
        running = len(self.ledger.proposals) - len(records)
        spent = sum(Cost(record.core_seconds, record.images).of(budget.unit) for record in records)
        if spent + (running + 1) * self.expected.of(budget.unit) <= budget.amount:
            return proposal
        return "wait" if running else "none"

    @property
    def expected(self) -> Cost:
        """What a trial needs: the mean of those that ran to their end, before that what was estimated."""
        whole = [r for r in self.ledger.ended() if r.state == "finished" and r.images]
        if not whole:
            return self.cost
        return Cost(sum(r.core_seconds for r in whole) / len(whole), self.cost.images)

    # Running

    def start(self, proposal: Proposal) -> None:
        """Run a trial in a thread of its own, as soon as there is room for it."""
        number = proposal.number
        if number not in self.ledger.proposals:
            self.ledger.propose(proposal, self._open(proposal))
        elif number not in self.ledger.records:
            self.step_run.tracker.resume_run(self.ledger.runs[number], self.step_run.run_id)
        thread = threading.Thread(target=self._run, args=(self.ledger.proposals[number],), name=f"trial-{number}")
        self._threads[number] = thread
        thread.start()

    def stop(self, number: int) -> None:
        """Have a trial stop after its next probe, where it has not ended."""
        if number not in self.ledger.records:
            self.exchange.stop(number)

    def release(self, number: int) -> None:
        """Nobody decides any more whether a trial goes on: it does."""
        if number not in self.ledger.records:
            self.exchange.release(number)

    def stop_all(self) -> None:
        """Have all trials stop that have not ended: nobody decides any more whether they go on."""
        for number in list(self._threads):
            with suppress(OutsideError):
                self.stop(number)

    def join(self) -> None:
        """Wait for all threads; raise the first error that was no fate of a single trial."""
        for thread in self._threads.values():
            thread.join()
        if self.error:
            raise self.error
        ending.check()

    def _open(self, proposal: Proposal) -> str:
        tags = {KIND: "trial", TRIAL: str(proposal.number), "genoise.sweep": self.sweep.name}
        return self.step_run.tracker.start_run(proposal.name, self.step_run.run_id, tags, proposal.point)

    def _run(self, proposal: Proposal) -> None:
        number = proposal.number
        step, score = 0, 0.0
        try:
            record = self.ledger.records.get(number)
            if record is None:
                with self._places:
                    ending.check()
                    if self.error:
                        return
                    record = self.trials.run(proposal, self.ledger.runs[number])
                if record.state != "finished":
                    ending.check()  # it was cut off by the end of the command, and goes on with the next
                self._ended(record)
            elif proposal.searched:
                for step, score in record.probes[:-1]:
                    self.exchange.tell(number, step, score)
            step, score = record.probes[-1] if record.probes and proposal.searched else (0, 0.0)
        except BaseException as error:
            with self._mutex:
                if self.error is None or not str(self.error):  # of those that were interrupted, one that kept something
                    self.error = error
            self._cut_off(number)
        finally:
            with suppress(Exception):  # Ray may be gone
                self.exchange.end(number, step, score)

    def _cut_off(self, number: int) -> None:
        """Mark the run of a trial that has no record, and that the same command continues."""
        if number in self.ledger.runs and number not in self.ledger.records:
            with suppress(OutsideError):
                self.step_run.tracker.finish(self.ledger.runs[number], "KILLED")

    def _ended(self, record: Record) -> None:
        """Keep a record; say it; log the best so far of the sweep's own trials."""
        with self._mutex:
            self.ledger.end(record)
            ended = self.ledger.ended()
            figures = {"trials": float(len(ended))}
            lines = []
            for objective in self.sweep.objectives:
                top = best([r for r in ended if r.proposal.searched], objective.name, objective.sign)
                if top:
                    figures[f"best/{objective.name}"] = top.values[objective.name]
                    lines.append(f"best {objective.name} {top.values[objective.name]:.4g} of {top.proposal.name}")
            self.step_run.log_metrics(figures, len(ended))
        if self.sweep.trials:
            rounds = len(self._ends) if self.sweep.scheduler == "pbt" else 1
            total = FIRST + self.sweep.trials * rounds
            self.step_run.progress(Progress(min(len(ended), total), total, ", ".join(lines)))
        values = ", ".join(f"{name} {value:.4g}" for name, value in record.values.items())
        point = ", ".join(f"{key} {value}" for key, value in record.proposal.point.items())
        name = f"{record.proposal.name} ({point})" if point else record.proposal.name
        said = [values or f"{record.state}: {record.why or 'has none of the objectives'}", *lines]
        self.step_run.say(f"{name}: {'; '.join(said)}")


def _published(sweep: Sweep) -> dict[str, float]:
    """The published weights where all recipes have the same ones."""
    found: dict[str, set[float]] = {}
    for recipe in sweep.recipes:
        for name, term in terms_of(recipe).items():
            found.setdefault(name, set()).add(term.weight)
    return {name: weights.pop() for name, weights in found.items() if len(weights) == 1}


def failed_all(records: list[Record]) -> OutsideError | None:
    """The error of a sweep of which no trial of its own finished."""
    own = [record for record in records if record.proposal.searched]
    if any(record.state == "finished" for record in own):
        return None
    states = ", ".join(sorted({f"{record.state} ({record.why})" for record in own})) or "there was none"
    return OutsideError(f"no trial finished: {states[:400]}; use another space, or a larger budget")
