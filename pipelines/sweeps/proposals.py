"""What a sweep tries next. Every function here is pure: the same sweep, asked again, proposes the same trials."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from components.errors import UserError
from pipelines.sweeps.records import PUBLISHED, RESCALED, Proposal, Record
from pipelines.sweeps.space import Choices, Point, Range, Space

SearcherName = Literal["tpe", "random", "grid"]
FIRST = 2  # number of the first trial of the sweep's own
STARTUP = 6  # trials after which TPE has something to go by
QUANTILE = 0.25  # of a population: so many are replaced by variants of as many
RESAMPLED = 0.25  # probability with which a variant's weight is drawn anew; else it is multiplied by ...
FACTORS = (0.8, 1.2)  # ... one of these (Jaderberg et al. 2017, section 3)


def references() -> list[Proposal]:
    """The trials beside which the sweep's own are seen."""
    return [Proposal(0, PUBLISHED, {}), Proposal(1, RESCALED, {})]


def draws(seed: int, number: int) -> np.random.Generator:
    """The random numbers of one trial; no trial's depend on those of another."""
    return np.random.default_rng([seed, number])


def random_point(space: Space, seed: int, number: int) -> Point:
    """A point drawn from the space."""
    uniform = draws(seed, number).random(len(space.keys))
    return space.point(dict(zip(space.keys, uniform.tolist(), strict=True)))


def grid_points(space: Space, trials: int) -> list[Point]:
    """As fine a grid as so many trials allow: every choice, and equally many numbers of every range, at least two."""
    finest: list[Point] = []
    for count in itertools.count(2):
        sides = [over.grid(count) for over in space.keys.values()]
        size = math.prod(len(side) for side in sides)
        if size > trials:
            if not finest:
                raise UserError(f"the coarsest grid has {size} points: use --trials {size}, or another --searcher")
            return finest
        finest = [dict(zip(space.keys, values, strict=True)) for values in itertools.product(*sides)]
        if not any(isinstance(over, Range) for over in space.keys.values()):
            return finest
    raise AssertionError("itertools.count does not end")


def tpe_point(
    space: Space, seed: int, number: int, records: Sequence[Record], signs: Mapping[str, float], steps: int
) -> Point:
    """The point that Optuna's tree-structured Parzen estimator proposes after these trials (Bergstra et al. 2011).

    ``signs``: {objective: 1 where more is better, else -1}. A trial that was stopped counts as Optuna's pruned ones
    do; one that diverged or collapsed as the worst of all that finished.
    """
    optuna = _optuna()
    sampler = optuna.samplers.TPESampler(seed=int(draws(seed, number).integers(2**31)), n_startup_trials=STARTUP)
    study = optuna.create_study(directions=["maximize"] * len(signs), sampler=sampler)
    over = {key: _distribution(optuna, range_) for key, range_ in space.keys.items()}
    finished = [_gains(record, signs) for record in records if record.state == "finished"]
    worst = [min(column) for column in zip(*finished, strict=True)] if finished else [0.0] * len(signs)
    for record in records:
        coordinates = space.coordinates(record.proposal.point)
        if coordinates is None:
            continue
        params = {key: _param(space.keys[key], u) for key, u in coordinates.items()}
        if record.state == "finished":
            study.add_trial(optuna.trial.create_trial(values=_gains(record, signs), params=params, distributions=over))
        elif record.state in ("diverged", "collapsed"):
            study.add_trial(optuna.trial.create_trial(values=worst, params=params, distributions=over))
        elif record.state == "stopped" and record.probes and len(signs) == 1:
            probes = {step: score for step, score in record.probes if step < steps}
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.PRUNED,
                    params=params,
                    distributions=over,
                    intermediate_values=probes,
                )
            )
    asked = study.ask(over).params
    return space.point({key: _coordinate(range_, asked[key]) for key, range_ in space.keys.items()})


def population(
    space: Space, seed: int, size: int, ends: Sequence[int], records: Mapping[int, Record], generation: int
) -> list[Proposal] | None:
    """Generation ``generation`` of population based training (Jaderberg et al. 2017); None while one is missing.

    A member is a recipe whose weights change at the ``ends`` of generations. After every generation the worst quarter
    is replaced by variants of members of the best: their weights until then, others from there on.
    """
    first = FIRST + generation * size
    until = ends[generation] if generation < len(ends) - 1 else None
    if generation == 0:
        points = [random_point(space, seed, FIRST + member) for member in range(size)]
        return [_member(first + m, m, generation, point, until) for m, point in enumerate(points)]
    before = [records.get(number) for number in range(first - size, first)]
    ended = [record for record in before if record is not None]
    if len(ended) < size:
        return None
    alive = [record for record in ended if record.state == "stopped"]
    if not alive:
        raise UserError("no member of the population is left: all diverged, collapsed or failed; use smaller weights")
    order = sorted(alive, key=lambda record: (-record.probes[-1][1], record.number))
    few = max(1, math.floor(QUANTILE * size))
    replaced = {record.number for record in order[max(len(order) - few, 1) :]} | {
        record.number for record in ended if record.state != "stopped"
    }
    proposals = []
    for m, record in enumerate(ended):
        number, point, donor = first + m, record.proposal.point, record
        if record.number in replaced:
            rng = draws(seed, number)
            donor = order[int(rng.integers(min(few, len(order))))]
            point = varied(donor.proposal.point, space, ends[generation - 1], rng)
        proposals.append(_member(number, m, generation, point, until, donor.number, ends[generation - 1]))
    return proposals


def _member(
    number: int, member: int, generation: int, point: Point, until: int | None, after: int | None = None, since: int = 0
) -> Proposal:
    return Proposal(number, f"member {member}, generation {generation}", point, until, after, since)


def varied(point: Point, space: Space, step: int, rng: np.random.Generator) -> Point:
    """The point with other weights from ``step`` on."""
    known = {key: point[key] for key in space.keys}
    for change in sorted(point.get("weight_changes", {}), key=int):
        known |= {f"weights.{term}": weight for term, weight in point["weight_changes"][change].items()}
    changed: dict[str, float] = {}
    for key, over in space.keys.items():
        assert isinstance(over, Range)
        u, factor = float(rng.random()), float(rng.choice(FACTORS))
        anew = rng.random() < RESAMPLED or known[key] == 0
        value = over.value(u) if anew else min(max(known[key] * factor, over.low), over.high)
        changed[key.removeprefix("weights.")] = float(f"{value:.4g}")
    return {**point, "weight_changes": {**point.get("weight_changes", {}), str(step): changed}}


def _gains(record: Record, signs: Mapping[str, float]) -> list[float]:
    return [sign * record.values[objective] for objective, sign in signs.items()]


def _distribution(optuna: Any, over: Range | Choices) -> Any:
    if isinstance(over, Range):
        return optuna.distributions.FloatDistribution(0.0, 1.0)
    return optuna.distributions.CategoricalDistribution(list(range(len(over.values))))


def _param(over: Range | Choices, u: float) -> float | int:
    return u if isinstance(over, Range) else min(int(u * len(over.values)), len(over.values) - 1)


def _coordinate(over: Range | Choices, param: float) -> float:
    return param if isinstance(over, Range) else (param + 0.5) / len(over.values)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError("--searcher tpe needs Optuna: pip install 'genoise[search]', or use random or grid") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
