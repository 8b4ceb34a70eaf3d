"""The loop around the engine: what happens at which step, and what is logged there."""

import pytest

from components.errors import Diverged
from tests.components.engine.conftest import BATCH, Slice, Story, batch_of, make, run, training


def test_events_come_at_their_intervals() -> None:
    story = Story()
    run(make(training()), story)
    at = {kind: [s for k, s in story.events if k == kind] for kind, _ in story.events}
    assert at == {"log": [2, 3, 4, 6, 8], "checkpoint": [3, 6, 8], "probe": [4, 8], "samples": [8]}


def test_logged_values_are_the_means_since_the_last_line() -> None:
    story, engine, twin = Story(), make(training()), make(training())
    run(engine, story)
    losses = [twin.train_step(batch_of(s), Slice(s).positions, BATCH)["loss/l2"].item() for s in range(2)]
    assert story.values[2]["loss/l2"] == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_before_a_checkpoint_is_written() -> None:
    engine, story = make(training(optimizer={"lr": 1e30})), Story()
    with pytest.raises(Diverged, match=r"step 2: .*loss/l2.* not finite"):
        run(engine, story)
    assert not [event for event in story.events if event[0] == "checkpoint"]
