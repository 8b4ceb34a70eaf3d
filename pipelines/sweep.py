"""recipe + search space -> best weights: trials under Ray Tune, then the verdict on fresh seeds, then one page.

Two steps: the search, and the verdict on what it found. What a trial trains and scores are steps again, the same that
`genoise pretrain` would run, so no command runs a training twice.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from components.config import Recipe
from components.errors import Diverged, UserError
from components.transfer.metrics.statistics import gap_between
from components.transfer.protocol import all_protocols, get_protocol
from infra.cluster import connect, nodes
from infra.tracking import open_tracker
from pipelines.data.prepared import Prepared
from pipelines.data.raw_data import facts_of
from pipelines.prepare import prepare_step
from pipelines.pretrain import pretrain_step
from pipelines.recipe_checks import check_recipe_on, data_name
from pipelines.recipes import load_recipe
from pipelines.session import Session
from pipelines.steps import scheduling
from pipelines.steps.results import Json, StepResult
from pipelines.steps.step import Planned, Step, StepRun
from pipelines.steps.workflow import Workflow
from pipelines.sweeps.budget import Cost, estimate, side_by_side
from pipelines.sweeps.config import Sweep, probe_steps, unscaled_note
from pipelines.sweeps.objectives import UNIVERSAL
from pipelines.sweeps.probe_exchange import ProbeExchange
from pipelines.sweeps.ray_tune import scheduler, tune_trials
from pipelines.sweeps.records import PUBLISHED, Ledger, best, pareto_front
from pipelines.sweeps.report import Outcome, write_report
from pipelines.sweeps.search import Search, failed_all
from pipelines.sweeps.space import apply, ends_of, searched
from pipelines.sweeps.trials import Steps, Trials, Yardsticks, no_gap, own_point
from pipelines.sweeps.values import Judged, Searched
from pipelines.sweeps.verdict import Comparison, compare, mean_comparison, scores_on_test
from pipelines.sweeps.winner import keep_winner, register_winner, winner_recipe
from pipelines.sweeps.worth import Validation, worth_of
from pipelines.table import beside
from pipelines.tables.untrained import is_learned, warnings_of
from pipelines.transfer import Scored, check_data, check_prepared, measured_of, validation_step
from pipelines.workers.shape import Need

VERSION = 2  # scores by the second version of the probe, which are not to be mixed with those of the first
SWEEP, SPACE = "genoise.sweep", "genoise.space"  # tags of the search's run
ENDS = ("random", "supervised")  # what a universal sweep measures between


def sweep(wanted: Sweep, seeds: int, session: Session) -> Json:
    """Search, judge the winner on ``seeds`` fresh seeds (0: not yet), report. The same command again continues.

    Returns the facts: winner, its weights, values, verdict, costs, and where the winner's recipe and the page are.
    Raises UserError where the sweep cannot be had, OutsideError where no trial finishes.
    """
    _check_unchanged(wanted, session)
    search = search_step(wanted, trial_cost(wanted) if wanted.budget else None)
    asked: list[Step[Any]] = [search, verdict_step(wanted, search, seeds)] if seeds else [search]
    told: list[Json] = []

    def report(workflow: Workflow, results: list[StepResult[Any] | Diverged]) -> None:
        searched, *judged = [result for result in results if isinstance(result, StepResult)]
        told.append(_report(wanted, searched, judged[0].value if judged else None, workflow))

    scheduling.run_and_report(asked, session, f"sweep {wanted.name}", report)
    return told[0]


def plan(wanted: Sweep, seeds: int, session: Session) -> tuple[list[Planned], Json]:
    """The steps that `sweep` would run or reuse before its trials, and the facts of its space and cost."""
    _check_unchanged(wanted, session)
    planned = scheduling.plan([search_step(wanted)], session)
    one = trial_cost(wanted)
    trials, searched = _count(wanted, one)
    tests = 2 * seeds * len(wanted.recipes) + (seeds * len(wanted.recipes) if wanted.universal else 0)
    whole = Cost(one.core_seconds * trials, one.images * trials)
    facts = {
        "space": {key: str(over) for key, over in wanted.space.keys.items()},
        "objectives": list(wanted.signs),
        "searcher": "random" if wanted.scheduler == "pbt" else wanted.searcher,
        "scheduler": wanted.scheduler,
        "trials": f"{searched} of its own, the published weights, the rescaled network",
        "one trial": f"{one.core_seconds / 60:.1f} core-minutes, {one.images:,} images",
        "all trials": f"at most {whole.core_seconds / 60:.0f} core-minutes, {whole.images:,} images",
        "verdict": f"{tests} trainings, about {tests * one.core_seconds / len(wanted.recipes) / 60:.0f} core-minutes",
    }
    if note := unscaled_note(wanted.recipes, wanted.space):
        facts["note"] = note
    return planned, facts


def trial_cost(wanted: Sweep) -> Cost:
    """What a trial is expected to need; UserError where the budget is too small for one, and the published weights."""
    costs = [estimate(recipe) for recipe in wanted.recipes]
    one = Cost(sum(cost.core_seconds for cost in costs), sum(cost.images for cost in costs))
    budget = wanted.budget
    if budget and budget.amount < 2 * one.of(budget.unit):
        need = replace(budget, amount=2 * one.of(budget.unit))
        raise UserError(f"a budget of {budget} is too small: the published weights and one trial need about {need}")
    return one


def _count(wanted: Sweep, one: Cost) -> tuple[int, int]:
    """Whole trainings that the trials amount to, and how many trials of its own there will be."""
    bounds = [] if wanted.trials is None else [wanted.trials]
    if wanted.budget:
        bounds.append(int(wanted.budget.amount / one.of(wanted.budget.unit)) - 1)
    return min(bounds) + 1, min(bounds)


def _check_unchanged(wanted: Sweep, session: Session) -> None:
    """UserError where a sweep of this name was cut off that had another space: it would not be continued."""
    tracker = open_tracker(session.home, session.tracking_uri)
    if not tracker.exists():
        return
    space = wanted.space.to_json()
    for status in ("RUNNING", "KILLED"):
        for run in tracker.search({SWEEP: wanted.name, "genoise.step": "sweep"}, status):
            before = json.loads(run.tags.get(SPACE, "null"))
            if before is not None and before != space:
                keys = sorted(key for key in {*before, *space} if before.get(key) != space.get(key))
                raise UserError(
                    f"the sweep {wanted.name!r} was begun with another space (it differs in {', '.join(keys)}): "
                    "restore the space to continue it, or begin another with --name NAME"
                )


# The search


def search_step(wanted: Sweep, cost: Cost | None = None) -> Step[Searched]:
    """The step that runs the trials; ``cost``: what one is expected to need, where there is a budget."""
    _check_trials(wanted)
    bases = [pretrain_step(recipe) for recipe in wanted.recipes]
    first = wanted.recipes[0]
    prepared = prepare_step(first.data)
    place = first.place_of(first.benchmarks[0])
    scored = prepare_step(place) if place else prepared
    ends = [
        validation_step(beside(recipe, load_recipe(end)), get_protocol(recipe.benchmarks[0]))
        for recipe in wanted.recipes
        for end in ENDS
        if wanted.universal
    ]
    return Step(
        name="sweep",
        label=f"sweep {wanted.name}",
        version=VERSION,
        config={
            **wanted.to_json(),
            "recipes": [base.config for base in bases],
            "benchmarks": [recipe.benchmarks[0] for recipe in wanted.recipes],
        },
        value=Searched,
        body=lambda run, done: _search(
            wanted,
            cost or Cost(0.0, 0),
            run,
            done[prepared].value,
            done[scored].value,
            [done[end].value for end in ends],
        ),
        inputs=(prepared, *([scored] if place else []), *ends),
        need=replace(max((base.need for base in bases), key=lambda need: need.cores), compiler=_compiles(wanted)),
        params=wanted.to_json() | {"recipes": [recipe.name for recipe in wanted.recipes]},
    )


def _check_trials(wanted: Sweep) -> None:
    """Raise UserError for what a trial, or its score, would be refused for; before any of them runs."""
    for recipe in wanted.recipes:
        check_data(get_protocol(recipe.benchmarks[0]), recipe.scored_on(recipe.benchmarks[0]))
        facts = facts_of(recipe.data)
        check_recipe_on(recipe, facts)
        for point in ends_of(wanted.space):
            own = own_point(point, recipe) if wanted.universal else point
            with searched(point):
                check_recipe_on(apply(recipe, own), facts)
    first = wanted.recipes[0]
    facts = facts_of(first.data)
    if facts and wanted.scheduler != "none":
        if not facts.labels:
            raise _unprobed(wanted)
        if wanted.scheduler == "pbt" and len(probe_steps(first, facts.samples["train"])) < 2:
            raise _too_few_probes()


def _compiles(wanted: Sweep) -> bool:
    """Whether some trial compiles its steps."""
    searched = "training.compile" in wanted.space.keys  # so with and without
    return searched or any(recipe.training.compile for recipe in wanted.recipes)


def _unprobed(wanted: Sweep) -> UserError:
    return UserError(
        f"--scheduler {wanted.scheduler} goes by probes in the course of a training, on its own data, and "
        f"{data_name(wanted.recipes[0].data)} has no labels: leave --scheduler out"
    )


def _too_few_probes() -> UserError:
    return UserError("--scheduler pbt changes weights after probes: --set training.probe_every lower")


def _search(
    wanted: Sweep, cost: Cost, run: StepRun, prepared: Prepared, scored: Prepared, ends: Sequence[Scored]
) -> Searched:
    """The body of the search. ``ends``: of a universal sweep, random and supervised of every recipe."""
    base = wanted.recipes[0]
    check_prepared(get_protocol(base.benchmarks[0]), base.scored_on(base.benchmarks[0]), scored, ("val",))
    if wanted.scheduler != "none" and not prepared.label_classes:
        raise _unprobed(wanted)
    connect(run.session.address)
    places = side_by_side(nodes(), Need.of(wanted.recipes[0].training))
    space = json.dumps(wanted.space.to_json())
    run.tracker.set_tags(run.run_id, {SWEEP: wanted.name, SPACE: space})
    if note := unscaled_note(wanted.recipes, wanted.space):
        run.say(f"note: {note}")
    exchange = ProbeExchange.open()
    try:
        trials = Trials(run, wanted.recipes, wanted.objectives, exchange, prepared, _yardsticks(wanted, ends))
        search = Search(wanted, run, trials, Ledger(run.folder / "trials.jsonl"), exchange, cost, places)
        run.workflow.on_interrupt(search.stop_all)  # and no more are started
        ends_of_probes = probe_steps(wanted.recipes[0], trials.samples)
        if wanted.scheduler == "pbt" and len(ends_of_probes) < 2:
            raise _too_few_probes()
        tune_trials(search, exchange, scheduler(wanted.scheduler, ends_of_probes), run.folder)
    finally:
        exchange.close()
    records = search.ledger.ended()
    if error := failed_all(records):
        raise error
    first = wanted.objectives[0]
    winner = best([r for r in records if r.proposal.searched], first.name, first.sign)
    assert winner is not None, "a trial of its own has finished"
    return Searched(
        winner=winner.number,
        front=tuple(record.number for record in pareto_front(records, wanted.signs)),
        side_by_side=places,
        steps=ends_of_probes[-1],
        yardsticks=tuple(end.best_val for end in ends),
        validation=scored.samples.get("val"),
        trials=tuple(record.to_json() for record in records),
    )


def _yardsticks(wanted: Sweep, ends: Sequence[Scored]) -> Yardsticks | None:
    if not wanted.universal:
        return None
    scores = [end.best_val for end in ends]
    found = Yardsticks({r.name: (scores[2 * k], scores[2 * k + 1]) for k, r in enumerate(wanted.recipes)})
    for random, supervised, name in zip(ends[::2], ends[1::2], found.ends, strict=True):
        gap = gap_between(measured_of({0: random}), measured_of({0: supervised}))
        if not gap.is_positive:  # said before any trial
            raise no_gap(name, gap)
    return found


# The verdict


def verdict_step(wanted: Sweep, search: Step[Searched], seeds: int) -> Step[Judged]:
    """The step that judges the winner of ``search`` on ``seeds`` fresh seeds."""
    return Step(
        name="verdict",
        label=f"verdict on {wanted.name}, {seeds} fresh seeds",
        version=VERSION,
        config={"seeds": seeds},
        value=Judged,
        body=lambda run, done: _judge(wanted, done[search].value, run, seeds),
        inputs=(search,),
        need=search.need,
    )


def _judge(wanted: Sweep, found: Searched, run: StepRun, seeds: int) -> Judged:
    """The body of the verdict."""
    connect(run.session.address)
    records = found.records
    winner = next(record for record in records if record.number == found.winner)
    candidates: dict[str, Recipe] = {}
    for recipe in wanted.recipes:
        own = max(
            (r for r in records if r.state == "finished" and recipe.name in r.scores and r.proposal.searched),
            key=lambda r: r.scores[recipe.name],
            default=winner,
        )
        candidates[f"{recipe.name}/found"] = winner_recipe(wanted, recipe, winner.proposal)
        candidates[f"{recipe.name}/published"] = recipe.model_copy(update={"weights": {}})
        if wanted.universal:
            candidates[f"{recipe.name}/own best"] = winner_recipe(wanted, recipe, own.proposal)
    first = wanted.objectives[0].name
    benchmark = first if first in all_protocols() else wanted.recipes[0].benchmarks[0]
    done = Steps(run.workflow)
    scores = scores_on_test(candidates, seeds, benchmark, done, run.run_id, found.side_by_side)
    scored = [result for result in done.done.values() if result.name == "transfer"]
    split = "val" if any(result.value.split == "val" for result in scored) else "test"
    against = ("published", "own best") if wanted.universal else ("published",)
    comparisons: list[Comparison] = []
    for other in against:
        each = [
            compare(r.name, other, scores[f"{r.name}/found"], scores[f"{r.name}/{other}"], split)
            for r in wanted.recipes
        ]
        if wanted.universal:
            ends = {r.name: found.ends(k) for k, r in enumerate(wanted.recipes)}
            gaps = {name: supervised - random for name, (random, supervised) in ends.items()}
            comparisons.append(mean_comparison(each, gaps, UNIVERSAL))
        comparisons += each
    sentences = [_sentence(comparison) for comparison in comparisons]
    run.tracker.describe(run.run_id, "\n\n".join(sentences))
    if comparisons[0].differences:
        mean, half = comparisons[0].interval
        run.log_metrics({"difference": mean} | ({"half_width": half} if half is not None else {}))
    figures = tuple(each.to_json() for each in comparisons)
    return Judged(benchmark=benchmark, sentences=tuple(sentences), comparisons=figures)


def _sentence(comparison: Comparison) -> str:
    if comparison.name == UNIVERSAL:
        return comparison.sentence(1.0, "of the gap between random and supervised, mean over tasks")
    return comparison.sentence()


# What is left


def _report(wanted: Sweep, search: StepResult[Searched], verdict: Judged | None, workflow: Workflow) -> Json:
    """The winner as files and as a model, the page as an artifact of the search; returns the facts."""
    found, session = search.value, workflow.session
    records = found.records
    winner = next(record for record in records if record.number == found.winner)
    comparisons = verdict.all_comparisons if verdict else []
    sentences = [*verdict.sentences] if verdict else []
    ends = {recipe.name: found.ends(k) for k, recipe in enumerate(wanted.recipes) if wanted.universal}
    worths = worth_of(winner, records, ends, Validation(wanted, found.validation, workflow.finished))
    warnings = warnings_of(worths)
    outcome = Outcome(wanted, records, winner, [*found.front], found.steps, comparisons, sentences, warnings)
    files = keep_winner(wanted, winner, [*sentences, *warnings], search.run_id, session.folder("sweeps"))
    for path in files:
        workflow.tracker.log_artifacts(search.run_id, path)
    pictures, page = write_report(outcome)
    for name, figure in pictures.items():
        workflow.tracker.log_figure(search.run_id, figure, f"report/{name}.png")
    workflow.tracker.log_text(search.run_id, page, "report.html")
    local = session.folder("sweeps") / f"{wanted.name}.html"
    local.write_text(page)
    story = "\n\n".join([*sentences, *warnings] if sentences else ["not judged yet: `--seeds 3`", *warnings])
    workflow.tracker.describe(search.run_id, f"{story}\n\n{outcome.winner_line}\n\nThe page is `report.html`.")
    return {
        "winner": winner.proposal.name,
        "warnings": warnings,
        "point": winner.proposal.point,
        "validation": winner.values,
        "published": next((r.values for r in records if r.proposal.name == PUBLISHED), {}),
        "verdict": sentences,
        "front": {r.proposal.name: r.values for r in records if r.number in found.front}
        if len(wanted.objectives) > 1
        else {},
        "cost": outcome.ledger,
        "recipes": [str(path) for path in files],
        "model": register_winner(wanted, winner, [*sentences, *warnings], is_learned(worths), workflow),
        "page": str(local),
        "run_id": search.run_id,
        "states": dict(outcome.states),
    }
