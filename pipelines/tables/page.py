"""The table as one HTML page that needs no other file: it can be sorted, and its intervals are drawn.

What was published stands beside what was measured, in boxes of its own, and never among it.
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from components.transfer.protocol import get_protocol
from pipelines.steps.results import Json
from pipelines.tables.figure import YARDSTICKS, Row, shown_score
from pipelines.tables.published import Published, beside
from pipelines.tables.texts import Line, text_of, wide

STYLE, SCRIPT = (Path(__file__).with_name(name) for name in ("page.css", "page.js"))  # are put into the page
MARGIN = 0.04  # of a strip's width, left and right of what it holds
LEGEND = (
    "Scores in %, mean over the seeds. ± and bars: half of the 95 % interval, over seeds (Student, from two on) and "
    "over draws of the test images (bootstrap) together. Upright marks: random, and supervised where there is one. "
    "Gap closed: the share of the way from random to supervised; its interval is paired."
)


def page(rows: Sequence[Row], notes: Sequence[str], scores: Sequence[Json]) -> str:
    """The whole page. ``scores``: every single one, of which the page shows a protocol for each benchmark."""
    table = wide(rows)
    lines = sorted(table.lines, key=_rank, reverse=True)
    columns = [[line.cells[k] for line in lines] for k in range(len(table.columns))]
    scales = [Scale([cell for cell in column if cell]) for column in columns]
    title = "Transfer: " + ", ".join(table.columns)
    parts = [
        f'<h1>{escape(title)}</h1><p class="lead">{escape(_lead(rows, len(lines)))}</p>',
        _main(lines, table.columns, table.metrics, scales),
        f'<p class="small">{escape(LEGEND)}</p>',
    ]
    if notes:
        said = "".join(f"<li>{escape(note)}</li>" for note in notes)
        parts.append(f'<h2>To be known</h2><div class="card"><ul class="notes">{said}</ul></div>')
    shown: set[str] = set()  # a list that is of interest to several benchmarks stands beside the first of them
    for name, column, scale in zip(table.columns, columns, scales, strict=True):
        there = [cell for cell in column if cell]
        lists = [each for each in beside(get_protocol(there[0]["benchmark"]).kind) if each.title not in shown]
        shown |= {each.title for each in lists}
        parts += [_benchmark(name, there, scale, lists)] if lists else []
    parts += ["<h2>In full</h2>", _everything(rows), *_protocols(scores)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{''.join(parts)}</main><script>{SCRIPT.read_text(encoding='utf-8')}</script></body></html>\n"
    )


def _rank(line: Line) -> tuple[float, ...]:
    """Best first, by the first benchmark that a recipe has a score on."""
    scores = [shown_score(cell) if cell else None for cell in line.cells]
    return tuple(-1.0 if score is None else score for score in scores)


def _lead(rows: Sequence[Row], recipes: int) -> str:
    seeds = sorted({int(str(row["seeds"]).split()[0]) for row in rows})
    networks = sorted({row["network"] for row in rows})
    places = dict.fromkeys(row["on"] for row in rows)
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return (
        f"{recipes} encoders, {count} seed{'' if seeds == [1] else 's'} each; {' and '.join(networks)}; "
        f"scored on {' and '.join(places)}"
    )


class Scale:
    """From scores of one column to places in its strips, in % of their width."""

    def __init__(self, rows: Sequence[Row]) -> None:
        known = [(score, row["±"] or 0.0) for row in rows if (score := shown_score(row)) is not None]
        self.low = min((score - half for score, half in known), default=0.0)
        self.high = max((score + half for score, half in known), default=1.0)
        ends = {row["recipe"]: shown_score(row) for row in rows if row["recipe"] in ("random", "supervised")}
        self.ends = {name: score for name, score in ends.items() if score is not None}

    def at(self, score: float) -> float:
        """The place of a score, 0 to 100."""
        span = self.high - self.low
        share = (score - self.low) / span if span else 0.5
        return 100 * (MARGIN + (1 - 2 * MARGIN) * share)

    def strip(self, row: Row) -> str:
        """The drawing of a row's score: its interval, and where the ends of the gap are."""
        score = shown_score(row)
        if score is None:
            return ""
        half = row["±"] or 0.0
        left, right = self.at(score - half), self.at(score + half)
        ends = "".join(f'<i class="end" style="left:{self.at(end):.1f}%"></i>' for end in self.ends.values())
        return (
            f'<span class="strip" role="img" aria-label="{_said(row)}"><i class="track"></i>{ends}'
            f'<i class="bar" style="left:{left:.1f}%;width:{right - left:.1f}%"></i>'
            f'<i class="dot" style="left:{self.at(score):.1f}%"></i></span>'
        )


def _main(lines: Sequence[Line], columns: Sequence[str], metrics: Sequence[str], scales: Sequence[Scale]) -> str:
    several = len({line.first["network"] for line in lines}) > 1
    heads = [_head("recipe"), *([_head("network")] if several else []), _head("labels", "", "long")]
    heads.append(_head("epochs", "", "num long"))
    for number, (name, metric) in enumerate(zip(columns, metrics, strict=True)):
        heads += [_head(name, metric, sorted_by=number == 0), _head("gap closed", name)]
    body = []
    for line in lines:
        first = line.first
        cells = [f'<th scope="row" data-value="{escape(line.name)}">{_name(line.name)}</th>']
        cells += [_text(first["network"])] if several else []
        cells.append(_text(first["labels"], "long"))
        cells.append(f'<td class="num long" data-value="{first["epochs"]}">{first["epochs"]:g}</td>')
        for cell, scale in zip(line.cells, scales, strict=True):
            cells += [_score(cell, scale), _closed(cell)]
        body.append(f"<tr{_class(first)}>{''.join(cells)}</tr>")
    return (
        f'<div class="card scroll"><table class="main"><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _head(title: str, under: str = "", kind: str = "", sorted_by: bool = False) -> str:
    state = ' aria-sort="descending"' if sorted_by else ""
    below = f"<small>{escape(under)}</small>" if under else ""
    name = f' class="{kind}"' if kind else ""
    return f'<th scope="col"{name}{state}><button class="sort">{escape(title)}</button>{below}</th>'


def _text(value: Any, kind: str = "") -> str:
    return f'<td class="{kind}" data-value="{escape(str(value))}">{escape(str(value))}</td>'


def _score(row: Row | None, scale: Scale) -> str:
    score = shown_score(row) if row else None
    if row is None or score is None:
        said = "diverged" if row and "diverged" in str(row["seeds"]) else "–"
        return f'<td class="score none" data-value="">{said}</td>'
    return f'<td class="score" data-value="{score}" title="{_said(row)}">{_figures(row)}{scale.strip(row)}</td>'


def _figures(row: Row) -> str:
    score = shown_score(row)
    half = "" if row["±"] is None else f' <span class="pm">± {row["±"]:.2f}</span>'
    return '<span class="none">–</span>' if score is None else f"<b>{score:.2f}</b>{half}"


def _said(row: Row) -> str:
    """The parts of a score's interval, and what else is known of it, for who looks closer."""
    parts = [f"{row['recipe']}: {shown_score(row):.2f} % on {row['split']}"]
    parts += [f"{name} {row[name]:.2f}" for name in ("seeds ±", "images ±") if row[name] is not None]
    parts += [f"seeds {row['seeds']}", f"from {row['layer']}"]
    return escape(", ".join(parts))


def _closed(row: Row | None) -> str:
    if row is None or row["gap closed"] is None:
        return '<td class="closed none" data-value="">–</td>'
    width = "" if row["gap ±"] is None else f' <span class="pm">± {100 * row["gap ±"]:.0f}</span>'
    return f'<td class="closed" data-value="{row["gap closed"]}">{100 * row["gap closed"]:.0f}{width} %</td>'


def _name(text: str) -> str:
    """A name that may be broken between its words, where there is little room."""
    return escape(text).replace("_", "_<wbr>")


def _class(row: Row) -> str:
    return ' class="yardstick"' if row["recipe"] in YARDSTICKS else ""


def _benchmark(title: str, rows: Sequence[Row], scale: Scale, lists: Sequence[Published]) -> str:
    """One benchmark by itself, and what was published beside it."""
    rows = sorted(rows, key=lambda row: shown_score(row) or -1.0, reverse=True)
    body = "".join(
        f'<tr{_class(row)}><td>{_name(row["recipe"])}</td><td style="width:45%">{scale.strip(row)}</td>'
        f'<td class="num">{_figures(row)}</td></tr>'
        for row in rows
    )
    under = f"{rows[0]['metric']} on {rows[0]['split'] or 'test'}, %; {rows[0]['on']}; {rows[0]['network']}"
    here = {row["recipe"] for row in rows}
    return (
        f'<h2>{escape(title)}: measured, and published</h2><div class="pair"><div class="card"><header>'
        f'<span class="tag">measured here</span><h3>{escape(title)}</h3><div class="small">{escape(under)}</div>'
        f'</header><table class="plain"><tbody>{body}</tbody></table></div>'
        f"<div>{''.join(_published(each, here) for each in lists)}</div></div>"
    )


def _published(figures: Published, here: set[str]) -> str:
    """A list of published figures; those of recipes that are ``here`` are in bold."""
    several = len(figures.columns) > 1
    head = "".join(f'<th class="num">{escape(column)}</th>' for column in figures.columns)
    body, sources = [], [figures.source]
    digits = max(len(f"{value:g}".partition(".")[2]) for each in figures.rows for value in each.values)
    for each in figures.rows:
        source = each.source or figures.source
        said = f"{source}, as others quote it" if each.quoted else source
        if said not in sources:
            sources.append(said)
        mark = f"<sup>{sources.index(said) + 1}</sup>" if said != figures.source else ""
        kind = ' class="here"' if each.recipe in here else ""
        values = "".join(f'<td class="num">{value:.{digits}f}</td>' for value in each.values)
        body.append(f"<tr><td{kind}>{escape(each.name)}{mark}</td>{values}</tr>")
    said = "; ".join(f"{k + 1}: {source}" if len(sources) > 1 else source for k, source in enumerate(sources))
    return (
        f'<aside><header><span class="tag">published</span><h3>{escape(figures.title)}</h3></header>'
        f'<div class="scroll"><table>{f"<thead><tr><th></th>{head}</tr></thead>" if several else ""}'
        f"<tbody>{''.join(body)}</tbody></table></div>"
        f'<footer class="small">{escape(said)}. Other data, network and protocol: for the order, not the height.'
        "</footer></aside>"
    )


def _everything(rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(key)}</th>" for key in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text_of(value))}</td>" for value in row.values()) + "</tr>" for row in rows
    )
    return (
        '<details class="card"><summary>Every row with every column</summary><div class="scroll">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _protocols(scores: Sequence[Json]) -> list[str]:
    """The protocol of one score of each benchmark and data set; all of them are in scores.json."""
    first: dict[tuple[str, str], Json] = {}
    for score in scores:
        if "protocol" in score:
            first.setdefault((score["benchmark"], score["on"]), score)
    return [
        f'<details class="card"><summary>Protocol of {escape(name)} on {escape(on)}, of {escape(score["recipe"])}, '
        f"seed {score['seed']}</summary><pre>{escape(json.dumps(score['protocol'], indent=1))}</pre></details>"
        for (name, on), score in first.items()
    ]
