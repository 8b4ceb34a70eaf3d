"""The picture of a table: bars with their intervals."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.steps.results import Json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Json  # a row of the table, as it is written
YARDSTICKS = ("random", "rescaled", "supervised")
UNTRAINED = ("random", "rescaled")


def figure(all_rows: Sequence[Row]) -> "Figure":
    """Bars of the scores on test with their intervals, a panel per benchmark; yardsticks in grey, the others in colour.

    Without a test split the bars are of validation, and the panel says so.
    """
    from matplotlib.figure import Figure

    scored = [row for row in all_rows if shown_score(row) is not None]
    panels = {name: [row for row in scored if row["benchmark"] == name] for name in _benchmarks(scored)}
    drawn = Figure(figsize=(7, 0.9 * len(panels) + 0.3 * len(scored)), layout="constrained")
    heights = [len(rows) + 2 for rows in panels.values()]
    axes_of = drawn.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    for axes, (name, rows) in zip(axes_of, panels.items(), strict=True):
        colours = ["#9a9a9a" if row["recipe"] in YARDSTICKS else "#2a6f97" for row in rows]
        scores, places = [shown_score(row) or 0.0 for row in rows], range(len(rows))
        bars = axes.barh(places, scores, xerr=[row["±"] or 0 for row in rows], color=colours)
        axes.bar_label(bars, [f" {score:.1f}" for score in scores])
        splits = sorted({row["split"] for row in rows})
        mixed = len(splits) > 1
        axes.set_yticks(places, [f"{row['recipe']} ({row['split']})" if mixed else row["recipe"] for row in rows])
        axes.set_xlabel(f"{name}: {' or '.join(splits)} {rows[0]['metric']}, %")
        axes.set_xlim(0, 1.12 * max(scores))
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def _benchmarks(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["benchmark"] for row in rows))


def shown_score(row: Row) -> float | None:
    """The score that a row is placed by."""
    score: float | None = row["val"] if row["test"] is None else row["test"]
    return score
