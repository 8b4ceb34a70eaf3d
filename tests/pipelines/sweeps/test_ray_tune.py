"""Under a real Ray Tune, with trials that take no time: who is stopped, what that saves, and what is not run again."""

from typing import Any

import pytest

from tests.pipelines.apart import printed_by

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("sweep")]
WHOLE = 192  # images of a training that nobody stops


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a sweep found, the first time and when it was continued."""
    return printed_by("tests.pipelines.sweeps.tuned", tmp_path_factory.mktemp("tuned"))


def test_asha_stops_what_falls_behind(found: Any) -> None:
    own = [record for number, record in found["first"]["records"].items() if int(number) >= 2]
    stopped = [record for record in own if record["state"] == "stopped"]
    finished = [record for record in own if record["state"] == "finished"]
    assert len(own) == 6 and stopped and finished
    assert all(0 < record["images"] < WHOLE for record in stopped)
    assert all(record["images"] == WHOLE for record in finished)


def test_what_has_ended_is_told_to_tune_and_not_run_again(found: Any) -> None:
    first, again = found["first"], found["again"]
    assert first["ran"] == list(range(8)) and again["ran"] == []
    assert again["records"] == first["records"]
    assert first["left"] == again["left"] == ["trials.jsonl"]
