"""Where a finished table goes: to the workflow's run, and into a folder that somebody named."""

from pathlib import Path

from components.errors import UserError
from infra.errors import OutsideError
from infra.tracking import Tracker
from pipelines.tables.figure import figure
from pipelines.tables.page import page
from pipelines.tables.rows import Table, metrics
from pipelines.tables.texts import comma_separated, latex


def check_folder(to: Path | None) -> None:
    """Raise UserError where the folder for the files cannot be one; before anything is trained."""
    if to is None:
        return
    there = next((path for path in (to, *to.absolute().parents) if path.exists()), to)
    if not there.is_dir():
        raise UserError(f"--to {to}: {there} is a file: give a folder")


def texts_of(table: Table) -> dict[str, str]:
    """{name of a file: its content}, for people and for papers."""
    return {
        "table.md": table.to_markdown(),
        "table.tex": latex(table.rows, table.notes),
        "table.csv": comma_separated(table.rows),
        "table.html": page(table.rows, table.notes, table.scores),
    }


def log_table(tracker: Tracker, run_id: str, table: Table) -> None:
    """The table at the workflow's own run: as a table, as texts, as a page, and as a picture."""
    tracker.log_table(run_id, table.rows, "table.json")
    for name, text in texts_of(table).items():
        tracker.log_text(run_id, text, name)
    tracker.log_dict(run_id, {"scores": table.scores}, "scores.json")
    tracker.log_figure(run_id, figure(table.rows), "table.png")
    tracker.log_metrics(run_id, metrics(table))


def write_table(table: Table, to: Path) -> None:
    """All of that as files in the folder ``to``, which is made. Raises OutsideError."""
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, text in {**texts_of(table), "table.json": table.to_json() + "\n"}.items():
            (to / name).write_text(text, encoding="utf-8")
        figure(table.rows).savefig(to / "table.png", dpi=150)
    except OSError as error:
        raise OutsideError(f"cannot write into {to} ({error.strerror}): choose another --to") from error
