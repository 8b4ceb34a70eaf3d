"""What a person sees: tables on stdout, progress and errors on stderr, and a last line for machines."""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 160  # of tables that go into a file or a pipe
MOST_SHOWN, FIRST_SHOWN = 50, 5  # items of a list: of a longer one the first few; --json has all
PLAIN_INTERVAL = 10.0  # seconds between two lines of progress where nothing can be redrawn


class Planned(Protocol):
    """A step as a dry run shows it."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def reused(self) -> bool: ...


class Value(Protocol):
    """What a step left."""

    def to_json(self) -> dict[str, Any]: ...


class Result(Protocol):
    """A finished step as it is shown."""

    @property
    def run_id(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def reused(self) -> bool: ...
    @property
    def value(self) -> Value: ...


def error(message: str) -> None:
    """One line on stderr, whatever the message looks like."""
    print(f"genoise: error: {' '.join(message.split())}", file=sys.stderr)


def note(message: str) -> None:
    """One line on stderr that is no error."""
    print(f"genoise: {message}", file=sys.stderr)


def last_line(facts: Any) -> None:
    """The machine-readable last line: one JSON value."""
    print(json.dumps(facts, default=str), flush=True)


def text(content: str) -> None:
    """Text on stdout as it is."""
    print(content, flush=True)


def show_tasks(tasks: Sequence[Mapping[str, Any]]) -> None:
    """Every task: what it is, its terms, its options."""
    console = _console()
    for task in tasks:
        console.print(Text.assemble((task["name"], "bold"), f": {task['summary']}"))
        console.print(Text(f"  {task['source']}; needs {', '.join(task['needs'])}", style="dim"))
        if task["terms"]:
            console.print(_terms(task["terms"]))
        else:
            console.print("  trains nothing")
        if task["options"]:
            console.print()
            console.print(_options(task["options"]))
        console.print()


def show_benchmarks(benchmarks: Sequence[Mapping[str, Any]]) -> None:
    """Every benchmark: what it is, its keys."""
    console = _console()
    for benchmark in benchmarks:
        console.print(Text.assemble((benchmark["name"], "bold"), f": {benchmark['summary']}"))
        console.print(Text(f"  {benchmark['source']}", style="dim"))
        console.print(_options(benchmark["keys"]))
        console.print()


def show_rows(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Rows as a table; the columns are the keys in the order in which they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = _table(title)
    numbers = {column for column in columns if all(isinstance(row.get(column), int | float | None) for row in rows)}
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    _console().print(table)


def show_facts(facts: Mapping[str, Any], title: str = "") -> None:
    """Names and values, one pair a line."""
    table = _table(title)
    table.add_column(overflow="fold", style="bold")
    table.add_column(overflow="fold")
    table.show_header = False
    for name, value in facts.items():
        table.add_row(name, _cell(value))
    _console().print(table)


def show_plan(plan: Iterable[Planned], as_json: bool = False) -> None:
    """The steps of a dry run, and what would happen to each."""
    steps = [
        {
            "step": step.name,
            "for": step.label,
            "would": "be reused" if step.reused else "run",
            "fingerprint": step.fingerprint,
        }
        for step in plan
    ]
    show_rows([step | {"fingerprint": step["fingerprint"][:12]} for step in steps])
    if as_json:
        last_line({"steps": steps})


def show_step(done: str, result: Result, as_json: bool = False) -> None:
    """What a finished step left behind; ``done`` is what it did, such as "pretrained"."""
    show_facts(result.value.to_json(), f"{done}{' before, reused' if result.reused else ''}: run {result.run_id}")
    if as_json:
        last_line(step_facts(result))


def step_facts(result: Result) -> dict[str, Any]:
    """A finished step for machines."""
    facts = {"run_id": result.run_id, "fingerprint": result.fingerprint, "reused": result.reused}
    return facts | {"value": result.value.to_json()}


class Watch:
    """Progress of several jobs on stderr: bars on a terminal, a line now and then elsewhere, nothing when quiet.

    A context manager; `update` may be called from any thread.
    """

    def __init__(self, quiet: bool = False) -> None:
        console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._said: dict[str, tuple[float, str]] = {}
        self._bars: dict[str, TaskID] = {}
        self._ended: set[str] = set()
        columns = (
            TextColumn("{task.fields[label]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console) if console.is_terminal and not quiet else None

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, key: str, label: str, done: int, total: int, text: str = "") -> None:
        """Job ``key``, shown as ``label``, has done ``done`` of ``total``; ``text`` is what it has to say."""
        if key in self._ended:  # a late message from a worker
            return
        if self._progress:
            if key not in self._bars:
                self._bars[key] = self._progress.add_task("", total=total, label=label, text=text)
            self._progress.update(self._bars[key], completed=done, total=total, label=label, text=text)
        elif not self._quiet:
            now, line = time.monotonic(), f"{label}: {done}/{total} {text}".rstrip()
            before, said = self._said.get(key, (-PLAIN_INTERVAL, ""))
            if line != said and (done >= total or now - before >= PLAIN_INTERVAL):
                self._said[key] = now, line
                print(line, file=sys.stderr, flush=True)

    def finish(self, key: str, label: str, text: str) -> None:
        """Job ``key`` has ended; ``text`` says how. Nothing more is shown of it."""
        self.update(key, label, 1, 1, text)
        self._ended.add(key)

    def ending(self) -> None:
        """Show in the bars, where there are any, that the command is about to end."""
        if self._progress:
            for bar in self._bars.values():
                self._progress.update(bar, text="ending; Ctrl-C again: at once")

    def say(self, line: str) -> None:
        """A line that stays, above the bars."""
        if self._progress:
            self._progress.console.print(line, markup=False)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def _table(title: str) -> Table:
    return Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)


def _cell(value: Any) -> Text:
    if value is None or value == "":
        return Text("–", style="dim")
    return Text(_words(value))


def _words(value: Any) -> str:
    """A value for people; what is longer than a word has a line of its own."""
    if isinstance(value, Mapping):
        items = [_words(item) for item in value.values()]
        between = "\n" if any(" " in item for item in items) else " "
        return between.join(f"{key} {item}" for key, item in zip(value, items, strict=True))
    if isinstance(value, list | tuple):
        items = [_words(item) for item in value[:MOST_SHOWN]]
        if len(value) > MOST_SHOWN:
            items[FIRST_SHOWN:] = [f"and {len(value) - FIRST_SHOWN} more"]
            return ", ".join(items)
        return ("\n" if any(" " in item for item in items) else ", ").join(items)
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _terms(terms: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("")
    for column in ("  term", "weight", "search", "source"):
        table.add_column(column, overflow="fold")
    for name, term in terms.items():
        low, high = term["search"]
        notes = [note for note, holds in (("optional", term["optional"]), ("by option", not term["default"])) if holds]
        noted = f"  {name} ({', '.join(notes)})" if notes else f"  {name}"
        table.add_row(noted, f"{term['weight']:g}", f"{low:g} to {high:g}", Text(term["source"]))
    return table


def _options(options: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("")
    for column in ("  option", "type", "range", "default", "meaning"):
        table.add_column(column, overflow="fold")
    for name, option in options.items():
        cells = (option["type"], option["range"], json.dumps(option["default"], default=str), option["description"])
        table.add_row(f"  {name}", *(Text(cell) for cell in cells))
    return table
