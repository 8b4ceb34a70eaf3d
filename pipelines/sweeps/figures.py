"""The pictures of a sweep's page, by matplotlib."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.sweeps.importance import curve, importance, table
from pipelines.sweeps.proposals import FIRST
from pipelines.sweeps.records import PUBLISHED, Record
from pipelines.sweeps.space import Range, Space
from pipelines.sweeps.verdict import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, GREY, RED = "#2a6f97", "#9a9a9a", "#c1440e"
STATES = {"finished": BLUE, "stopped": GREY, "diverged": RED, "collapsed": RED, "failed": RED}


def progress(records: Sequence[Record], objective: str, sign: float) -> Figure:
    """Every finished trial's value in the order of the trials, and the best so far."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    own = [r for r in records if r.state == "finished" and r.proposal.searched]
    values = [sign * r.values[objective] for r in own]
    places = [r.number - FIRST for r in own]
    axes.plot(places, [r.values[objective] for r in own], "o", color=BLUE, label="trials")
    if own:
        best = sign * np.maximum.accumulate(values)
        axes.step(places, best, where="post", color=BLUE, alpha=0.5, label="best so far")
    for record in records:
        if not record.proposal.searched and objective in record.values:
            style = "-" if record.proposal.name == PUBLISHED else ":"
            axes.axhline(record.values[objective], color=GREY, linestyle=style, label=record.proposal.name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(axes, "trial", f"{objective}, validation")
    axes.legend(fontsize=8)
    return figure


def parallel(space: Space, records: Sequence[Record], objective: str, sign: float) -> Figure:
    """Every trial as a line through its coordinates, coloured by its value; what did not finish is dotted."""
    keys = list(space.keys)
    figure = Figure(figsize=(2 + 1.4 * len(keys), 3.6), layout="constrained")
    axes = figure.subplots()
    finished = [r.values[objective] for r in records if objective in r.values and r.proposal.searched]
    low, high = (min(finished), max(finished)) if finished else (0.0, 1.0)
    colours = _colours(low, high)
    best = max((sign * value for value in finished), default=None)
    for record in records:
        u = space.coordinates(record.proposal.point)
        if u is None:
            continue
        value = record.values.get(objective)
        line: dict[str, Any] = {"color": RED if record.state != "stopped" else GREY, "linestyle": ":", "linewidth": 1.0}
        if value is not None:
            wide = 3.0 if sign * value == best else 1.2
            line = {"color": colours.to_rgba(value), "linestyle": "-", "linewidth": wide}
        axes.plot(range(len(keys)), [u[key] for key in keys], **line)
    for place, key in enumerate(keys):
        axes.axvline(place, color="black", linewidth=0.5)
        for u_of in (0.0, 0.5, 1.0):
            axes.annotate(
                _text(space.keys[key].value(u_of)), (place, u_of), fontsize=7, xytext=(3, 0), textcoords="offset points"
            )
    axes.set_xticks(range(len(keys)), [key.replace(".", ".\n", 1) for key in keys], fontsize=8)
    axes.set_yticks([])
    axes.set_ylim(-0.03, 1.03)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    if finished:
        figure.colorbar(colours, ax=axes, label=objective)
    return figure


def importances(space: Space, records: Sequence[Record], objective: str) -> Figure:
    """The share of the variance that each key explains alone, beside what chance explains."""
    columns, scores = table(space, records, objective)
    found = {key: importance(u, scores) for key, u in columns.items()}
    figure = Figure(figsize=(6, 0.8 + 0.4 * len(found)), layout="constrained")
    axes = figure.subplots()
    if not all(found.values()):
        axes.text(0.5, 0.5, f"{len(scores)} finished trials are too few", ha="center", transform=axes.transAxes)
    ordered = sorted(((key, each) for key, each in found.items() if each), key=lambda pair: pair[1].share)
    places = range(len(ordered))
    axes.barh(places, [100 * each.share for _, each in ordered], color=BLUE)
    axes.plot(
        [100 * each.chance for _, each in ordered], places, "|", color="black", markersize=14, label="by chance, 95 %"
    )
    axes.set_yticks(places, [key for key, _ in ordered], fontsize=8)
    axes.set_xlim(0, 100)
    _label(axes, "% of the score's variance", "")
    if ordered:
        axes.legend(fontsize=8)
    return figure


def responses(space: Space, records: Sequence[Record], objective: str, published: Mapping[str, Any]) -> Figure:
    """The score over each key: trials, their kernel mean, its bootstrap band, and where the published value lies."""
    columns, scores = table(space, records, objective)
    rows = -(-len(columns) // 3)
    figure = Figure(figsize=(9, 2.6 * rows), layout="constrained")
    panels = figure.subplots(rows, min(3, len(columns)), squeeze=False, sharey=True).ravel()
    for axes, (key, u) in zip(panels, columns.items(), strict=False):
        axes.plot(u, scores, "o", color=BLUE, markersize=4)
        if drawn := curve(u, scores):
            axes.plot(drawn.at, drawn.mean, color=BLUE)
            axes.fill_between(drawn.at, drawn.low, drawn.high, color=BLUE, alpha=0.2)
        own = space.keys[key].coordinate(published[key]) if key in published else None
        if own is not None:
            axes.axvline(own, color=GREY, linestyle="-", label="published")
            axes.legend(fontsize=7)
        ticks = _ticks(space.keys[key])
        axes.set_xticks(list(ticks), [_text(space.keys[key].value(at)) for at in ticks], fontsize=7)
        _label(axes, key, objective if axes is panels[0] else "")
    for axes in panels[len(columns) :]:
        axes.set_visible(False)
    return figure


def front(records: Sequence[Record], members: Sequence[int], objectives: Sequence[str]) -> Figure:
    """Scatter of two objectives: all finished trials, and the Pareto front among them."""
    first, second = objectives[:2]
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for record in (r for r in records if r.state == "finished" and first in r.values and second in r.values):
        inside = record.number in members
        axes.plot(record.values[first], record.values[second], "o", color=BLUE if inside else GREY)
        if inside or not record.proposal.searched:
            place = (record.values[first], record.values[second])
            axes.annotate(record.proposal.name, place, fontsize=7, xytext=(4, 4), textcoords="offset points")
    _label(axes, first, second)
    return figure


def stops(records: Sequence[Record]) -> Figure:
    """The probes of every trial over its steps; those that were stopped end early."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    for state in dict.fromkeys(record.state for record in records):
        for k, record in enumerate(r for r in records if r.state == state and r.probes):
            steps, scores = zip(*record.probes, strict=True)
            label = state if k == 0 else None
            axes.plot(steps, scores, "o-", color=STATES[state], markersize=3, alpha=0.7, label=label)
    _label(axes, "step", "probe, validation")
    if axes.lines:
        axes.legend(fontsize=8)
    return figure


def pairs(comparisons: Sequence[Comparison]) -> Figure:
    """Test scores of what was found beside what it is compared with: a line per seed, a row per other side."""
    rows = [[c for c in comparisons if c.against == other] for other in dict.fromkeys(c.against for c in comparisons)]
    columns = max(map(len, rows))
    figure = Figure(figsize=(2 + 1.6 * columns, 3.2 * len(rows)), layout="constrained")
    for panels, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axes, comparison in zip(panels, row, strict=True):
            for scores in zip(comparison.other, comparison.found, strict=True):
                axes.plot(
                    [0, 1], [float("nan") if score is None else score for score in scores], "o-", color=BLUE, alpha=0.7
                )
            axes.set_xticks([0, 1], [comparison.against, "found"], fontsize=8)
            axes.set_xlim(-0.4, 1.4)
            axes.set_title(comparison.name, fontsize=8)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("test")
    return figure


def _colours(low: float, high: float) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(low, high), "viridis")


def _ticks(over: Any) -> tuple[float, ...]:
    if not isinstance(over, Range):
        return tuple((k + 0.5) / len(over.values) for k in range(len(over.values)))
    inner = ((1 + over.off) / 2, 1.0)
    return (over.off / 2, *inner) if over.off else (0.0, *inner)


def _text(value: Any) -> str:
    return "off" if value == 0 else f"{value:.2g}" if isinstance(value, float) else str(value)


def _label(axes: "Axes", x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
