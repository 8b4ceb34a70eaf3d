"""The page: one file with its pictures inside, for every kind of sweep; and what it says stopping saved."""

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.recipes import load_recipe
from pipelines.sweeps.config import make_sweep
from pipelines.sweeps.proposals import random_point
from pipelines.sweeps.records import PUBLISHED, RESCALED, Proposal, Record
from pipelines.sweeps.report import Outcome, write_report
from pipelines.sweeps.verdict import compare

TINY = ["data.samples=64", "encoder.width=4", "training.batch=16", "training.epochs=3"]
STEPS = 12


def outcome(count: int, objectives: list[str] | None = None, **changes: Any) -> Outcome:
    asked = {"searcher": "random", "scheduler": "asha", "trials": 8, "budget": None, "seed": 0, **changes}
    sweep = make_sweep([load_recipe("context_encoder", TINY)], False, None, objectives=objectives or [], **asked)
    rng = np.random.default_rng(0)
    names = list(sweep.signs)

    def values() -> dict[str, float]:
        return {name: float(rng.random()) for name in names}

    records = [
        Record(Proposal(0, PUBLISHED, {}), "finished", values(), {}, [(12, 0.4)], 60.0, 192),
        Record(Proposal(1, RESCALED, {}), "finished", values(), {}, [], 5.0, 0),
        Record(Proposal(2, "trial 0", random_point(sweep.space, 0, 2)), "stopped", {}, {}, [(4, 0.1)], 20.0, 64),
        Record(Proposal(3, "trial 1", random_point(sweep.space, 0, 3)), "diverged", {}, why="step 4: <loss>"),
    ]
    for k in range(count):
        point = random_point(sweep.space, 0, 4 + k)
        probes = [(4, 0.2), (8, 0.3), (12, 0.4)]
        records.append(Record(Proposal(4 + k, f"trial {2 + k}", point), "finished", values(), {}, probes, 60.0, 192))
    comparison = compare("context_encoder", "published", {1: 0.5, 2: None}, {1: 0.4, 2: 0.6})
    return Outcome(sweep, records, records[-1], [records[-1].number], STEPS, [comparison], [comparison.sentence()])


class Tags(HTMLParser):
    """Checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("count", "objectives", "scheduler"), [(12, None, "asha"), (2, None, "asha"), (6, ["linear", "cost"], "none")]
)
def test_the_page_is_whole(count: int, objectives: list[str] | None, scheduler: str) -> None:
    found = outcome(count, objectives, scheduler=scheduler)
    pictures, page = write_report(found)
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert ("front" in pictures) == (objectives is not None)
    encoded = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(encoded) == len(pictures) >= 6
    for each in encoded:
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(each))).convert("L"))
        assert image.std() > 5  # something is drawn
    assert "&lt;loss&gt;" in page and "diverged with seed 2" in page
    assert all(record.proposal.name in page for record in found.records)


def test_what_stopping_saved() -> None:
    ledger = outcome(2).ledger
    seen, saved = 192 * 3 + 64, 192 - 64
    assert ledger["images"] == seen and ledger["images_saved_by_stopping"] == saved
    assert ledger["share_saved"] == pytest.approx(saved / (seen + saved), abs=1e-4)
    assert ledger["trials"] == 6 and ledger["core_hours"] == pytest.approx((60 * 3 + 25) / 3600, abs=1e-4)
