"""Tables that say which file is in which split: ``data.splits=FILE.csv``, with the columns file, split and label."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from components.data.splits import SPLIT_NAMES
from components.errors import UserError

_COLUMNS = ("file", "split", "label")


class Row(NamedTuple):
    """A line of a table of files."""

    line: int
    split: str
    label: str  # "" where there is none


def read_table(told: str) -> dict[PurePosixPath, Row]:
    """{file: row} of a table with the columns file, split and, if there are labels, label.

    Raises UserError, with the number of the line, for whatever it cannot mean.
    """
    path = Path(told).expanduser()
    rows: dict[PurePosixPath, Row] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            heading = [cell.strip().lower() for cell in next(reader, [])]
            if not {"file", "split"} <= set(heading) <= set(_COLUMNS) or len(set(heading)) != len(heading):
                raise UserError(
                    f"{path}, line 1: the columns are {','.join(heading) or 'none'}: they must be file,split or "
                    "file,split,label"
                )
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    _add_row(rows, path, reader.line_num, heading, [cell.strip() for cell in cells])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is no text of comma-separated values in UTF-8"
        raise UserError(f"--splits {told} cannot be read ({reason}): correct it, or its path") from None
    if "train" not in {row.split for row in rows.values()}:
        raise UserError(f"{path} has no file of the training split: add some with split train")
    bare = next((row for row in rows.values() if not row.label), None)
    if bare and any(row.label for row in rows.values()):
        raise UserError(f"{path}, line {bare.line}: no label, and other lines have one: add it, or drop the column")
    return rows


def _add_row(
    rows: dict[PurePosixPath, Row], path: Path, line: int, heading: Sequence[str], cells: Sequence[str]
) -> None:
    if len(cells) != len(heading):
        raise UserError(f"{path}, line {line}: {len(cells)} values for the {len(heading)} columns {','.join(heading)}")
    values = dict(zip(heading, cells, strict=True))
    split = SPLIT_NAMES.get(values["split"].lower())
    if split is None:
        raise UserError(f"{path}, line {line}: {values['split']!r} is no split: it must be train, val or test")
    name = PurePosixPath(values["file"])
    if name in rows:
        raise UserError(f"{path}, line {line}: {name} was in line {rows[name].line} before: take one of them out")
    rows[name] = Row(line, split, values.get("label", ""))


def has_labels(told: str) -> bool:
    """Whether a table of files has the column label."""
    with open(Path(told).expanduser(), newline="", encoding="utf-8-sig") as file:
        return "label" in [cell.strip().lower() for cell in next(csv.reader(file), [])]


def check_listed(rows: Mapping[PurePosixPath, Row], there: set[PurePosixPath], told: str, root: Path) -> None:
    """Raise UserError for a row of a table whose file is none of the images that are ``there``."""
    missing = next((name for name in rows if name not in there), None)
    if missing is not None:
        raise UserError(
            f"{told}, line {rows[missing].line}: no image {missing} in {root}: correct it; paths start there"
        )
