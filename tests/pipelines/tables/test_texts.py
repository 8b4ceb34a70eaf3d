"""The table as text, as files and as a page: what stands where, what is escaped, what is not mixed."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from components.errors import UserError
from components.transfer.protocol import all_benchmarks
from pipelines.paths import check_folder
from pipelines.recipes import recipes
from pipelines.tables.files import Files, write_table
from pipelines.tables.page import Scale, page
from pipelines.tables.published import beside, published
from pipelines.tables.rows import Table
from pipelines.tables.texts import comma_separated, latex, markdown, shown, wide


def row(recipe: str, benchmark: str, score: float | None, **more: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "recipe": recipe,
        "benchmark": benchmark,
        "metric": "top1",
        "on": "shapes",
        "network": "alexnet of width 32",
    }
    known |= {"labels": "no", "layer": "conv4", "val": score, "test": score, "±": 1.5, "seeds ±": 1.2, "images ±": 0.9}
    return known | {"gap closed": 0.5, "gap ±": 0.03, "split": "test", "epochs": 4.0, "seeds": 3} | more


ROWS = [
    row("random", "linear", 30.0, epochs=0.0, **{"gap closed": 0.0, "gap ±": None}),
    row("a_b", "linear", 45.678),
    row("supervised", "linear", 60.0, labels="yes", **{"gap closed": 1.0, "gap ±": None}),
    row("random", "knn", 20.0, epochs=0.0, **{"gap closed": None, "gap ±": None}),
    row("supervised", "knn", 22.0, labels="yes", **{"gap closed": None, "gap ±": None, "±": None}),
    row("a_b", "knn", None, **{"gap closed": None, "gap ±": None, "±": None, "seeds": "0 (3 diverged)", "test": None}),
]
TABLE = Table(
    ROWS, [{"recipe": "a_b", "benchmark": "linear", "on": "shapes", "seed": 0, "protocol": {"x": "<y>"}}], ["n & m"]
)


def test_one_line_for_a_recipe_and_one_column_for_a_benchmark() -> None:
    assert shown(ROWS) == [
        {"recipe": "random", "labels": "no", "epochs": 0.0, "seeds": 3, "linear": "30.0 ± 1.5",
         "linear: gap closed": "0.00", "knn": "20.0 ± 1.5", "knn: gap closed": None},
        {"recipe": "a_b", "labels": "no", "epochs": 4.0, "seeds": 3, "linear": "45.7 ± 1.5",
         "linear: gap closed": "0.50 ± 0.03", "knn": None, "knn: gap closed": None},
        {"recipe": "supervised", "labels": "yes", "epochs": 4.0, "seeds": 3, "linear": "60.0 ± 1.5",
         "linear: gap closed": "1.00", "knn": "22.0", "knn: gap closed": None},
    ]  # fmt: skip
    assert [line.name for line in wide(ROWS).lines] == ["random", "a_b", "supervised"]


def test_a_table_of_one_benchmark_is_long() -> None:
    alone = shown(ROWS[:3])
    assert [each["recipe"] for each in alone] == ["random", "a_b", "supervised"]
    assert {"layer", "val", "test", "±", "split"} <= alone[0].keys()
    assert not {"seeds ±", "images ±", "on", "network"} & alone[0].keys()
    other = [*ROWS[:2], row("supervised", "linear", 60.0, network="resnet18 of width 8")]
    assert {each["network"] for each in shown(other)} == {"alexnet of width 32", "resnet18 of width 8"}


def test_two_places_and_two_networks_are_not_mixed() -> None:
    rows = [*ROWS[:3], row("a_b", "linear", 70.0, on="cifar10 x"), row("a_b", "linear", 80.0, network="resnet18")]
    table = wide(rows)
    assert table.columns == ("linear on shapes", "linear on cifar10 x")
    scores = {(line.name, line.first["network"]): [c and c["test"] for c in line.cells] for line in table.lines}
    assert scores["a_b", "alexnet of width 32"] == [45.678, 70.0] and scores["a_b", "resnet18"] == [80.0, None]


def test_markdown() -> None:
    lines = markdown(ROWS, ["to be known"]).splitlines()
    assert lines[0] == "| recipe | labels | epochs | seeds | linear | linear: gap closed | knn | knn: gap closed |"
    assert lines[3] == "| a_b | no | 4 | 3 | 45.7 ± 1.5 | 0.50 ± 0.03 | – | – |"
    assert lines[-1] == "to be known"


def test_latex_is_a_tabular_whose_rows_have_as_many_cells_as_it_has_columns() -> None:
    text = latex([*ROWS, row("50%_&$#{}", "linear", 1.0)], ["a note\nof two lines"])
    lines = text.splitlines()
    assert lines[0] == "% a note of two lines"
    (columns,) = re.findall(r"begin\{tabular\}\{([lr]+)\}", text)
    body = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(columns) == 6 and {len(re.split(r"(?<!\\)&", line)) for line in body} == {6}
    assert [lines.index(rf"\{rule}") for rule in ("toprule", "midrule", "bottomrule")] == [2, 6, len(lines) - 2]
    assert r"a\_b & 4 & 45.7 $\pm$ 1.5 & 0.50 $\pm$ 0.03 & -- & -- \\" in lines
    assert r"50\%\_\&\$\#\{\} & 4 &" in text


def test_csv_has_every_column() -> None:
    read = list(csv.DictReader(io.StringIO(comma_separated(ROWS))))
    assert len(read) == 6 and read[1]["images ±"] == "0.9" and read[5]["test"] == ""
    assert [*read[0]] == [*ROWS[0]]


class Seen(HTMLParser):
    """What a browser would take a page for: its open elements must be closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str, kind: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag and kind in (attrs.get("class") or "").split()]


def test_the_page_needs_nothing_else_and_can_be_sorted() -> None:
    text = page(ROWS, ["<b>note</b>"], TABLE.scores)
    seen = Seen(text)
    hostile = page([row("<u>x</u>", "linear", 1.0, on="<u>", network="<u>", layer='"<u>')], [], [])
    assert "<u>" not in hostile and Seen(hostile)
    assert not re.search(r"(src|href)=|url\(|@import|https?:", text)
    assert "<b>note" not in text and "&lt;b&gt;note" in text and "&lt;y&gt;" in text
    heads = [attrs for tag, attrs in seen.found if tag == "th" and attrs.get("scope") == "col"]
    assert len(heads) == 7 and [h for h in heads if "aria-sort" in h] == [heads[3]]
    values = [attrs["data-value"] for tag, attrs in seen.found if tag in ("td", "th") and "data-value" in attrs]
    assert len(values) == 3 * 7, "each cell of the main table has a value that it is sorted by"
    assert values[0::7] == ["supervised", "a_b", "random"], "the best comes first"
    assert values[7:14] == ["a_b", "no", "4.0", "45.678", "0.5", "", ""]
    assert "diverged" in text


def test_intervals_are_drawn_where_they_are() -> None:
    scale = Scale(ROWS[:3])
    assert (scale.low, scale.high) == (28.5, 61.5)
    assert (scale.at(28.5), scale.at(61.5), scale.at(45.0)) == pytest.approx((4, 96, 50))
    drawn = scale.strip(ROWS[1])
    places = {kind: float(at) for kind, at in re.findall(r'class="(bar|dot)" style="left:([\d.]+)%', drawn)}
    (width,) = map(float, re.findall(r"width:([\d.]+)%", drawn))
    assert places["dot"] == pytest.approx(scale.at(45.678), abs=0.06)
    assert places["bar"] == pytest.approx(scale.at(45.678 - 1.5), abs=0.06)
    assert width == pytest.approx(scale.at(1.5) - scale.at(-1.5), abs=0.11)
    assert drawn.count('class="end"') == 2 and "a_b: 45.68 % on test, seeds ± 1.20, images ± 0.90" in drawn


def test_published_figures_stand_in_boxes_of_their_own() -> None:
    text = page(ROWS, [], [])
    boxes = re.findall(r"<aside>.*?</aside>", text, re.S)
    assert len(boxes) == 1, "a list that is of interest to two benchmarks stands there once"
    assert "Split-Brain" in boxes[0] and "50.5" in boxes[0] and "50.5" not in text.replace(boxes[0], "")
    assert "45.68" not in boxes[0]


def test_published_figures_are_of_recipes_and_benchmarks_that_there_are() -> None:
    for each in published():
        assert all(len(line.values) == len(each.columns) for line in each.rows)
        assert {line.recipe for line in each.rows} <= {None, *recipes()}
    kinds = {kind for each in published() for kind in each.kinds}
    assert beside("linear") and not beside("none") and "linear" in kinds & all_benchmarks().keys()


def test_files(tmp_path: Path) -> None:
    files = Files(TABLE)
    write_table(files, tmp_path / "new" / "table")
    names = {path.name for path in (tmp_path / "new" / "table").iterdir()}
    assert (
        names == {"table.md", "table.tex", "table.csv", "table.html", "table.json", "table.png"} >= files.texts.keys()
    )
    assert json.loads((tmp_path / "new" / "table" / "table.json").read_text())["notes"] == ["n & m"]


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for to in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"--to {to}: {tmp_path}/file is a file: give a folder"):
            check_folder(to)
    check_folder(None)
    check_folder(tmp_path / "new" / "folder")
