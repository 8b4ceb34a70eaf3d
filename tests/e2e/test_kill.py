"""kill -9 in mid-epoch: no sample lost or seen twice, and the weights of a training that nobody disturbed."""

import shutil
from collections.abc import Callable
from itertools import groupby, pairwise

import pytest

from tests.e2e.jobs import (
    EPOCHS,
    EVERY,
    PRETRAIN,
    STEPS,
    TRAINING,
    Home,
    check_every_sample_once,
    differences,
    kill,
    sets,
)

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("ray"), pytest.mark.timeout(900)]

NEXT = 2  # steps after which another number of workers must still have the same losses
KILLED_AFTER = 10  # steps: in the first epoch, between two checkpoints
MakeHome = Callable[..., Home]


@pytest.fixture(scope="module")
def cut_off(new_home: MakeHome) -> tuple[Home, str]:
    """A home in which a worker was killed in mid-epoch, and an epoch later the driver and Ray; the id of its run."""
    home = new_home()
    running = home.start(*PRETRAIN, *sets(TRAINING))
    running.wait_until(lambda: home.steps_done() > KILLED_AFTER)
    workers = running.processes("RayTrainWorker")
    assert len(workers) == 2
    kill(workers[-1])
    running.wait_until(lambda: len(set(running.processes("RayTrainWorker")) - set(workers)) == 2)  # both are new
    running.wait_until(lambda: home.steps_done() > KILLED_AFTER + STEPS // EPOCHS)
    running.kill()
    assert home.steps_done() < STEPS
    run = home.step_run("pretrain context_encoder")
    assert run.info.status == "RUNNING"  # nobody was left to say that it is not
    return home, run.info.run_id


def check_same_weights(home: Home, undisturbed: Home) -> None:
    assert differences(home.last_state(), undisturbed.last_state()) == []
    files = [each.encoder_file(each.step_run("pretrain").info.run_id) for each in (home, undisturbed)]
    assert files[0] == files[1]
    # ... and these were weights that training had changed.
    state = undisturbed.last_state()["engine"]
    assert state["step"] == STEPS and differences(state["task"], state["average"]) != []


def losses(home: Home, run_id: str) -> dict[str, list[float]]:
    """By term, the loss of every step; of a step that was run twice, the last one."""
    client = home.client()
    found = {}
    for key in client.get_run(run_id).data.metrics:
        if key.startswith("loss/"):
            history = sorted(client.get_metric_history(run_id, key), key=lambda metric: metric.timestamp)
            by_step = {metric.step: metric.value for metric in history}
            assert sorted(by_step) == list(range(1, STEPS + 1))
            found[key] = [by_step[step] for step in sorted(by_step)]
    return found


def test_a_killed_worker_is_replaced(cut_off: tuple[Home, str]) -> None:
    home, _ = cut_off
    assert {line["workers"] for line in home.lines()[0]} == {2} and home.steps_done() > KILLED_AFTER + STEPS // EPOCHS
    check_begun_at_checkpoints(home, 1)


def test_what_a_task_remembers_outlives_a_killed_worker(new_home: MakeHome) -> None:
    """Of a task that remembers pictures: what its discriminators are shown of the past is part of the checkpoint."""
    command = ["pretrain", "cyclegan", "--json", "--quiet"]
    settings = sets({**TRAINING, "training.epochs": 1, "encoder.width": 4, "options.pool": 8, "options.patch": 16})
    home, undisturbed = new_home(), new_home()
    running = home.start(*command, *settings)
    running.wait_until(lambda: home.steps_done() > KILLED_AFTER)
    kill(running.processes("RayTrainWorker")[-1])
    steps = running.wait().last["value"]["steps"]
    assert any(len(rank) > steps for rank in home.lines())  # the steps since the last checkpoint were run again
    undisturbed.run(*command, *settings)
    assert home.ids() == undisturbed.ids() and len(home.ids()) == steps
    assert differences(home.last_state(), undisturbed.last_state()) == []
    pools = {key: value for key, value in home.last_state()["engine"]["task"].items() if key.startswith("pool_")}
    assert pools and all(value.any() for value in pools.values())


def check_begun_at_checkpoints(home: Home, times: int) -> None:
    """A training that was cut off so often went on from its last checkpoints."""
    steps = [line["step"] for line in home.lines()[0]]
    again = [step for before, step in pairwise(steps) if step <= before]  # none of one that was killed at a checkpoint
    assert len(again) <= times and all(step > KILLED_AFTER - EVERY and step % EVERY == 0 for step in again)


def test_a_killed_driver_is_continued_by_the_same_command(cut_off: tuple[Home, str], undisturbed: Home) -> None:
    home, run_id = cut_off
    backup = home.folder.with_name("cut_off")
    shutil.copytree(home.folder, backup)
    try:
        assert home.run(*PRETRAIN, *sets(TRAINING)).last["run_id"] == run_id
        check_begun_at_checkpoints(home, 2)
        check_every_sample_once(home)
        check_same_weights(home, undisturbed)
        assert losses(home, run_id).keys() == {"loss/l2", "loss/adversarial", "loss/discriminator"}
    finally:
        shutil.rmtree(home.folder)
        backup.rename(home.folder)


def test_other_numbers_of_workers_continue_it(cut_off: tuple[Home, str], undisturbed: Home) -> None:
    """Two workers, one, and two again, each but the last killed in mid-epoch."""
    home, run_id = cut_off
    running = home.start(*PRETRAIN, *sets({**TRAINING, "training.workers": 1}))
    running.wait_until(lambda: home.lines()[0][-1]["workers"] == 1 and home.steps_done() > STEPS // 2)
    running.kill()
    assert home.run(*PRETRAIN, *sets(TRAINING)).last["run_id"] == run_id
    assert [workers for workers, _ in groupby(line["workers"] for line in home.lines()[0])] == [2, 1, 2]
    check_every_sample_once(home)
    assert home.ids() == undisturbed.ids()  # the same samples, in the same order
    # The next steps are the same up to rounding, which grows from there: one worker sums in another order than two, and
    # where a gradient is almost zero, Adam turns its sign into a whole step.
    first = min(line["step"] for line in home.lines()[0] if line["workers"] == 1)
    next_steps = slice(first, first + NEXT)
    expected = undisturbed.step_run("pretrain context_encoder")
    found, wanted = losses(home, run_id), losses(undisturbed, expected.info.run_id)
    for term, values in wanted.items():
        assert found[term][next_steps] == pytest.approx(values[next_steps], abs=1e-4), term
