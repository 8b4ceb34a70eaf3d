"""The table as text: in the terminal, as Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.tables.figure import Row, shown_score

FOR_MACHINES = ("seeds ±", "images ±")  # the two parts of ±
WHERE = ("on", "network")  # said of every row only where rows differ in it
_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


@dataclass(frozen=True)
class Line:
    """A recipe with its scores: one for each of the table's columns, None where there is none."""

    first: Row  # what does not depend on the benchmark is the same in all of its rows
    cells: tuple[Row | None, ...]

    @property
    def name(self) -> str:
        """The recipe's."""
        return str(self.first["recipe"])


@dataclass(frozen=True)
class Wide:
    """Recipes x benchmarks. ``columns`` are the benchmarks' titles, with the data they score on where that differs."""

    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]


def wide(rows: Sequence[Row]) -> Wide:
    """The rows put side by side: one line for each recipe and network, one column for each benchmark and data set."""
    places = list(dict.fromkeys((row["benchmark"], row["on"]) for row in rows))
    names = [name for name, _ in places]
    titles = tuple(f"{name} on {on}" if names.count(name) > 1 else name for name, on in places)
    metrics = tuple(
        f"{_one([row['metric'] for row in there])}, {'/'.join(sorted({row['split'] or 'test' for row in there}))}"
        for there in ([row for row in rows if (row["benchmark"], row["on"]) == place] for place in places)
    )
    lines: dict[tuple[str, str], list[Row | None]] = {}
    for row in rows:
        line = lines.setdefault((row["recipe"], row["network"]), [None] * len(places))
        line[places.index((row["benchmark"], row["on"]))] = row
    made = (Line(next(row for row in cells if row), tuple(cells)) for cells in lines.values())
    return Wide(titles, metrics, tuple(made))


def shown(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table for people: a row for each recipe and, of several benchmarks, a column for each."""
    dull = {*FOR_MACHINES, *(key for key in WHERE if len({row.get(key) for row in rows}) < 2)}
    if len({(row.get("benchmark"), row.get("on")) for row in rows}) < 2:
        return [{key: value for key, value in row.items() if key not in dull} for row in rows]
    table = wide(rows)
    heads = ["recipe", *(key for key in ("network",) if key not in dull), "labels", "epochs", "seeds"]
    return [
        {key: line.first[key] for key in heads}
        | {
            key: value
            for title, cell in zip(table.columns, line.cells, strict=True)
            for key, value in ((title, score_text(cell)), (f"{title}: gap closed", closed_text(cell)))
        }
        for line in table.lines
    ]


def score_text(row: Row | None) -> str | None:
    """A score with half of its interval, in %; None where there is none."""
    score = shown_score(row) if row else None
    if row is None or score is None:
        return None
    return f"{score:.1f}" + ("" if row["±"] is None else f" ± {row['±']:.1f}")


def closed_text(row: Row | None) -> str | None:
    """The share of the gap with half of its interval."""
    if row is None or row["gap closed"] is None:
        return None
    return f"{row['gap closed']:.2f}" + ("" if row["gap ±"] is None else f" ± {row['gap ±']:.2f}")


def markdown(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The table for people as Markdown, and the notes below it."""
    table = shown(rows)
    columns = list(table[0])
    lines = ["| " + " | ".join(map(_cell, columns)) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in table]
    lines += [f"\n{note}" for note in notes]
    return "\n".join(lines) + "\n"


def latex(rows: Sequence[Row], notes: Sequence[str]) -> str:
    r"""Recipes x benchmarks as a tabular; it needs ``\usepackage{booktabs}``. The notes are comments."""
    table = wide(rows)
    several = len({row["network"] for row in rows}) > 1
    heads = ["recipe", *(["network"] if several else []), "epochs"]
    pairs = range(len(table.columns))
    first = len(heads) + 1
    lines = [f"% {' '.join(note.split())}" for note in notes]
    lines += [r"\begin{tabular}{" + "l" * (len(heads) - 1) + "r" + "rr" * len(table.columns) + "}", r"\toprule"]
    titles = [rf"\multicolumn{{2}}{{c}}{{{_tex(title)}}}" for title in table.columns]
    lines.append(" & ".join([*([""] * len(heads)), *titles]) + r" \\")
    lines.append(" ".join(rf"\cmidrule(lr){{{first + 2 * k}-{first + 2 * k + 1}}}" for k in pairs))
    under = [part for metric in table.metrics for part in (f"{metric}, %", "gap closed")]
    lines += [" & ".join(map(_tex, [*heads, *under])) + r" \\", r"\midrule"]
    for line in table.lines:
        known = [line.name, *([line.first["network"]] if several else []), f"{line.first['epochs']:g}"]
        texts = [part or "–" for cell in line.cells for part in (score_text(cell), closed_text(cell))]
        lines.append(" & ".join(map(_tex, [*known, *texts])) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def comma_separated(rows: Sequence[Row]) -> str:
    """Every row with every column, as CSV; what was not measured is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def text_of(value: Any) -> str:
    """One value of a row; what was not measured is a dash."""
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    return text_of(value).replace("|", "\\|")


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _one(values: Sequence[str]) -> str:
    return "/".join(dict.fromkeys(values))
