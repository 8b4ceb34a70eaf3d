"""The page of a sweep: one HTML file that needs no other, with the pictures in it."""

import base64
import html
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from pipelines.sweeps import figures
from pipelines.sweeps.config import Sweep, terms_of, unscaled_note
from pipelines.sweeps.records import Record
from pipelines.sweeps.space import Point
from pipelines.sweeps.verdict import Comparison

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-size: 13px } td, th { padding: .2rem .7rem; text-align: left }
tr:nth-child(even) { background: #f4f6f8 } th { border-bottom: 1px solid #888 }
img { max-width: 100%; height: auto }
.verdict { background: #eef4f8; padding: .7rem 1rem; border-left: 4px solid #2a6f97 }
.warning { background: #fdf1e7; padding: .7rem 1rem; border-left: 4px solid #b3541e }
.note { color: #666; font-size: 13px } .wide { overflow-x: auto }
"""
METHOD = (
    "Importance of a key: the share of the variance of the finished trials' scores that a kernel mean over this key "
    "alone predicts of trials left out, one by one (leave-one-out R²). The mark is the 95 % quantile of the same share "
    "over 200 shufflings of the scores: a bar that ends before it says nothing. Keys that a searcher moved together "
    "share what one of them explains; random points do not. Curves: the same kernel mean, with a 95 % band from 200 "
    "bootstrap samples of the trials."
)


@dataclass(frozen=True)
class Outcome:
    """All that a page tells."""

    sweep: Sweep
    records: list[Record]
    winner: Record
    front: list[int]
    steps: int  # of a whole training
    comparisons: list[Comparison]
    sentences: list[str]
    warnings: Sequence[str] = ()  # what has to be said of the winner

    @property
    def states(self) -> Counter[str]:
        """How the sweep's own trials ended."""
        return Counter(record.state for record in self.records if record.proposal.searched)

    @property
    def ledger(self) -> dict[str, float]:
        """What the trials cost, and what stopping early saved."""
        whole = sum(recipe.training.batch for recipe in self.sweep.recipes) * self.steps
        early = [r for r in self.records if r.state in ("stopped", "collapsed") and r.proposal.searched]
        saved = 0 if self.sweep.scheduler == "pbt" else sum(max(0, whole - r.images) for r in early)
        seen = sum(record.images for record in self.records)
        return {
            "trials": len(self.records),
            "core_hours": round(sum(record.core_seconds for record in self.records) / 3600, 4),
            "images": seen,
            "images_saved_by_stopping": saved,
            "share_saved": round(saved / (seen + saved), 4) if seen + saved else 0.0,
        }

    @property
    def published(self) -> Point:
        """The published weights, where the tasks agree."""
        found: dict[str, set[float]] = {}
        for recipe in self.sweep.recipes:
            for name, term in terms_of(recipe).items():
                found.setdefault(f"weights.{name}", set()).add(term.weight)
        return {key: weights.pop() for key, weights in found.items() if len(weights) == 1}

    @property
    def winner_line(self) -> str:
        """The winner in a sentence."""
        point = ", ".join(f"{key} = {value}" for key, value in self.winner.proposal.point.items())
        values = ", ".join(f"{name} {value:.4f}" for name, value in self.winner.values.items())
        return f"{self.winner.proposal.name}: {point}; on validation: {values}"


def write_report(outcome: Outcome) -> tuple[dict[str, Figure], str]:
    """({name: picture}, page)."""
    sweep, records = outcome.sweep, outcome.records
    first = sweep.objectives[0]
    pictures = {
        "progress": figures.progress(records, first.name, first.sign),
        "parallel": figures.parallel(sweep.space, records, first.name, first.sign),
        "importance": figures.importances(sweep.space, records, first.name),
        "responses": figures.responses(sweep.space, records, first.name, outcome.published),
    }
    if any(record.probes for record in records):
        pictures["stopping"] = figures.stops(records)
    if len(sweep.objectives) > 1:
        pictures["front"] = figures.front(records, outcome.front, list(sweep.signs))
    if outcome.comparisons:
        pictures["verdict"] = figures.pairs(outcome.comparisons)
    return pictures, _page(outcome, pictures)


def _page(outcome: Outcome, pictures: dict[str, Figure]) -> str:
    sweep, ledger = outcome.sweep, outcome.ledger
    verdict = "".join(f"<div>{html.escape(sentence)}</div>" for sentence in outcome.sentences)
    states = ", ".join(f"{count} {state}" for state, count in outcome.states.items())
    parts = [
        f"<h1>Sweep of {html.escape(sweep.name)}</h1>",
        f'<div class="verdict">{verdict or "Not judged on the test split yet."}</div>',
        f"<p>Winner on validation: {html.escape(outcome.winner_line)}.</p>",
        *(f'<div class="warning">Warning: {html.escape(warning)}.</div>' for warning in outcome.warnings),
        _picture(pictures, "verdict", "Test scores of trainings with fresh seeds, found beside compared."),
        "<h2>Trials</h2>",
        f"<p>{states}. Searcher {sweep.searcher}, scheduler {sweep.scheduler}, seed {sweep.seed}.</p>",
        _picture(pictures, "progress", "Every trial, and the best so far."),
        _picture(pictures, "parallel", "A line per trial through its values; dotted: did not finish."),
        _picture(pictures, "front", "Trials that no other beats in one objective without losing in another are blue."),
        "<h2>What matters</h2>",
        f"<p>{html.escape(unscaled_note(sweep.recipes, sweep.space))}</p>",
        _picture(pictures, "importance", ""),
        _picture(pictures, "responses", ""),
        f'<p class="note">{html.escape(METHOD)}</p>',
        "<h2>Cost</h2>",
        _table([ledger]),
        "<p>" + html.escape(_savings(outcome)) + "</p>",
        _picture(pictures, "stopping", "The probes of every training."),
        "<h2>All trials</h2>",
        f'<div class="wide">{_table(_rows(outcome))}</div>',
    ]
    title = f"Sweep of {html.escape(sweep.name)}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _savings(outcome: Outcome) -> str:
    ledger = outcome.ledger
    return (
        f"{ledger['trials']} trials used {ledger['core_hours']:.3f} core-hours for {ledger['images']:,} images. "
        f"Stopping early saved {ledger['images_saved_by_stopping']:,} images, {ledger['share_saved']:.0%} of what all "
        "trials would have seen. The verdict's trainings are not in this."
    )


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    point = dict.fromkeys(outcome.sweep.space.keys)
    return [
        {
            "trial": record.proposal.name,
            **point,
            **{key: _text(value) for key, value in record.proposal.point.items()},
            **record.values,
            **{name: score for name, score in record.scores.items() if name not in record.values},
            "state": record.state,
            "core-minutes": round(record.core_seconds / 60, 2),
            "images": record.images,
            "why": record.why,
        }
        for record in outcome.records
    ]


def _text(value: Any) -> str:
    return "off" if value == 0 else str(value)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if any(_cell(r.get(key)) for r in rows)]
    head = "".join(f"<th>{html.escape(column.replace('_', ' '))}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(row.get(column)))}</td>" for column in columns) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _picture(pictures: dict[str, Figure], name: str, caption: str) -> str:
    if name not in pictures:
        return ""
    buffer = io.BytesIO()
    pictures[name].savefig(buffer, format="png", dpi=120)
    data = base64.b64encode(buffer.getvalue()).decode()
    note = f'<div class="note">{html.escape(caption)}</div>' if caption else ""
    return f'<p><img alt="{name}" src="data:image/png;base64,{data}">{note}</p>'
