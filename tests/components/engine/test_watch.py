"""The watch: signs that a training has gone wrong, each said once."""

import pytest

from components import losses
from components.engine import Engine, Watch
from components.tasks.base import Tensors
from tests.components.engine.conftest import STEPS, Pair, Story, run, training


@pytest.mark.parametrize(
    ("bad", "good", "message"),
    [
        ({"discriminator/accuracy_real": 1.0, "discriminator/accuracy_fake": 0.995}, {}, "right on 99.5%: it has won"),
        ({"generator/diversity": 0.04}, {"generator/diversity": 0.8}, "differ 4% as much"),
    ],
)
def test_a_game_that_is_over_is_said_once(bad: dict[str, float], good: dict[str, float], message: str) -> None:
    watch = Watch((losses.WON, losses.COLLAPSED))
    said = [watch.check(step, bad) for step in range(10)]
    assert [step for step, text in enumerate(said) if text is not None] == [4]
    assert message in str(said[4])
    assert watch.check(10, good) is None
    assert [watch.check(step, bad) for step in range(4)] == [None] * 4, "patience begins anew"
    assert watch.check(15, bad) is not None


def test_a_discriminator_that_is_right_on_one_side_has_not_won() -> None:
    watch = Watch((losses.WON, losses.COLLAPSED))
    values = {"discriminator/accuracy_real": 1.0, "discriminator/accuracy_fake": 0.6, "loss/discriminator": -40.0}
    assert not any(watch.check(step, values) for step in range(10))


def test_a_sign_that_a_task_brings_itself_is_watched() -> None:
    watch = Watch((losses.Sign("asleep", ("encoder/motion",), "it moves {:.2f}", below=0.5),))
    assert [watch.check(step, {"encoder/motion": 0.25}) for step in range(5)] == [None] * 4 + ["it moves 0.25"]
    assert not any(watch.check(step, {"loss/l2": 0.0}) for step in range(10)), "what is not logged is no sign"


def test_where_one_of_its_facts_is_not_logged_a_sign_is_not_there() -> None:
    watch = Watch((losses.WON, losses.COLLAPSED))
    assert not any(watch.check(step, {"discriminator/accuracy_real": 1.0}) for step in range(10))


class Asleep(Pair):
    """Logs a fact that no other task has, beside one of another task, and says what only the first is a sign of."""

    signs = (losses.Sign("asleep", ("encoder/motion",), "it moves {:.2f}", below=0.5),)

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        facts = {"encoder/motion": 0.25, "generator/diversity": 0.0} if player == "generator" else {}
        return super().losses(player, inputs, outputs) | {k: outputs["fake"].new_tensor(v) for k, v in facts.items()}


def test_a_training_is_watched_for_the_signs_of_its_task_alone() -> None:
    story = Story()
    run(Engine(Asleep(), training(), {"discriminator": 1.0, "l2": 2.0, "adversarial": 0.5}, STEPS), story)
    assert [step for kind, step in story.events if kind == "log"][4] == STEPS, "patience ends with the fifth line"
    assert story.warnings == ["it moves 0.25"]
