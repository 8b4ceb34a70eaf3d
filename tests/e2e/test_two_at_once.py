"""Two commands at once that need the same step: one runs it, the other waits and reuses it."""

from collections.abc import Callable

import pytest

from tests.e2e.jobs import TINY, Home, sets

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]


def test_two_at_once_train_once(new_home: Callable[..., Home]) -> None:
    home = new_home()
    command = ["pretrain", "rotation", "--json", *sets({**TINY, "training.record_ids": True})]
    both = [done.last for done in [running.wait() for running in (home.start(*command), home.start(*command))]]
    assert sorted(each["reused"] for each in both) == [False, True]
    assert both[0]["run_id"] == both[1]["run_id"] and both[0]["value"] == both[1]["value"]
    assert home.step_run("pretrain rotation").info.status == "FINISHED"  # the only one
    (lines,) = home.lines()
    assert [line["step"] for line in lines] == list(range(16))  # every step was run once
