"""Learning rates over the course of a training."""

import pytest

from components.engine import learning_rate_factor
from tests.components.engine.conftest import training


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_learning_rate_rises_and_falls(schedule: str) -> None:
    config = training(schedule=schedule, warmup=0.2)
    factors = [learning_rate_factor(config, step, 100) for step in range(100)]
    assert factors[:20] == sorted(factors[:20]) and 0 < factors[0] < 0.06
    assert factors[20] == pytest.approx(1.0)
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[-1] < 0.02 or schedule == "constant"
