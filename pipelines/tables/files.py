"""Where a finished table goes: to the workflow's run, and into a folder that somebody named."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from infra.tracking import Tracker
from pipelines.paths import writing
from pipelines.tables.figure import figure
from pipelines.tables.page import page
from pipelines.tables.rows import Table, metrics
from pipelines.tables.texts import comma_separated, latex

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Files:
    """A table as what goes into files, each made once, however many places it goes to."""

    table: Table

    @cached_property
    def texts(self) -> dict[str, str]:
        """{name of a file: its content}, for people and for papers."""
        table = self.table
        return {
            "table.md": table.to_markdown(),
            "table.tex": latex(table.rows, table.notes),
            "table.csv": comma_separated(table.rows),
            "table.html": page(table.rows, table.notes, table.scores),
        }

    @cached_property
    def picture(self) -> "Figure":
        """The bars of `figure`."""
        return figure(self.table.rows)


def log_table(tracker: Tracker, run_id: str, files: Files) -> None:
    """The table at the workflow's own run: as a table, as texts, as a page, and as a picture."""
    table = files.table
    tracker.log_table(run_id, table.rows, "table.json")
    for name, text in files.texts.items():
        tracker.log_text(run_id, text, name)
    tracker.log_dict(run_id, {"scores": table.scores}, "scores.json")
    tracker.log_figure(run_id, files.picture, "table.png")
    tracker.log_metrics(run_id, metrics(table))


def write_table(files: Files, to: Path) -> None:
    """All of that as files in the folder ``to``, which is made. Raises OutsideError."""
    with writing(to):
        to.mkdir(parents=True, exist_ok=True)
        for name, text in {**files.texts, "table.json": files.table.to_json() + "\n"}.items():
            (to / name).write_text(text, encoding="utf-8")
        files.picture.savefig(to / "table.png", dpi=150)
