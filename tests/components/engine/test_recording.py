"""Recorded steps on a GPU: the numbers of eager ones, for every task; and what cannot be recorded runs eagerly.

Where there is no GPU, what a recording asks of a step is checked without numbers: it reads none, and makes no shape of
any.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from components.config import EncoderConfig, TrainingConfig
from components.engine import Engine
from components.engine.recording import WARM_UP
from components.tasks.base import Batch, Task, Tensors, all_tasks, build_task, resolve_weights
from tests.components.engine.conftest import BATCH, Pair, batch_of, training

SIZE, CLASSES, SAMPLES, STEPS = 32, 5, 8, 2 * WARM_UP + 4
TRAINABLE = [name for name, cls in all_tasks().items() if name not in ("random", "rescaled")]
OTHER_NETWORKS = [
    ("pix2pix", "unet", {"pair": "target", "patch": 16, "dropout": 0.5}),
    ("cyclegan", "resnet_generator", {"patch": 16, "pool": 4}),
    ("masked_autoencoder", "vit", {}),
]


@pytest.fixture
def same_kernels() -> Iterator[None]:
    """cuDNN takes the same algorithms each time, and adds in the same order."""
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = False


def samples_of(step: int, count: int = SAMPLES) -> Batch:
    g = torch.Generator().manual_seed(step)
    fields = ("image", "target", "other", "another", "edges")
    batch = {f: torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=g, dtype=torch.uint8) for f in fields}
    return batch | {"label": torch.randint(CLASSES, (count,), generator=g)}


def task_of(name: str, network: str = "alexnet", options: dict[str, Any] | None = None) -> Task:
    depth = {"unet": 5, "resnet_generator": 5, "vit": 2}.get(network)
    task = build_task(name, options or {}, EncoderConfig(name=network, width=8, depth=depth), SIZE, CLASSES, 0)
    if task.initial_samples:
        task.initialize({k: v.float() / 255 if v.dtype == torch.uint8 else v for k, v in samples_of(0, 64).items()})
    return task


def train(task: Task, record: bool, **changes: Any) -> tuple[dict[str, Tensor], list[Tensors], Engine]:
    """The trained weights, and what each step returned."""
    values = {"batch": SAMPLES, "augment": {"flip": True, "shift": 2}, "schedule": "cosine", "record": record}
    config = TrainingConfig.model_validate(values | changes)
    engine = Engine(task, config, resolve_weights(task.name, task.terms, {}), STEPS, device="cuda")
    said = []
    for step in range(STEPS):
        positions_B = torch.arange(step * SAMPLES, (step + 1) * SAMPLES)
        measure = step in (1, WARM_UP + 2)  # one before anything is recorded, one between two replays
        said.append(engine.train_step(samples_of(step), positions_B, SAMPLES, measure))
    return engine.task.state_dict(), said, engine


def check_equal(make: Any, **changes: Any) -> None:
    eager, said_eagerly, _ = train(make(), record=False, **changes)
    recorded, said, engine = train(make(), record=True, **changes)
    assert engine.recorder and engine.recorder.refusal is None
    assert len(engine.recorder._recordings) >= 1
    apart = {key: float((eager[key].double() - recorded[key].double()).abs().max()) for key in eager}
    worst = max(apart, key=apart.__getitem__)
    again, _, _ = train(make(), record=False, **changes)
    by_itself = max(float((eager[key].double() - again[key].double()).abs().max()) for key in eager)
    assert apart[worst] <= 2 * by_itself, (worst, apart[worst], by_itself)
    for one, other in zip(said_eagerly, said, strict=True):
        assert one.keys() == other.keys()
        if by_itself == 0:
            assert all(float(one[key]) == float(other[key]) for key in one)


class Asking(Pair):
    """A task that asks the device for a number in every step."""

    name = "asking"

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        return {
            term: loss * (1.0 if loss.item() > 0 else 2.0)
            for term, loss in super().losses(player, inputs, outputs).items()
        }


def step_without_numbers(task: Task, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> Tensors:
    """One step on torch's device `meta`: tensors have shapes and no numbers there, and to ask for one is an error."""
    # None of torch's fused optimizers and no lower precision is known there.
    monkeypatch.setattr("components.engine.engine.make_optimizer", lambda p, *_: torch.optim.SGD(p, 0.1, foreach=False))
    monkeypatch.setattr(Engine, "_autocast", lambda _: nullcontext())
    config = TrainingConfig.model_validate({"batch": SAMPLES, "augment": {"flip": True, "shift": 2}, "ema": 0.9})
    engine = Engine(task, config, dict.fromkeys(task.terms, 1.0), STEPS, device="meta")
    on_meta, positions_B = {key: value.to("meta") for key, value in batch.items()}, torch.arange(SAMPLES, device="meta")
    return engine.train_step(on_meta, positions_B[: len(batch["image"])], SAMPLES)


@pytest.mark.parametrize(
    ("name", "network", "options"), [*((name, "alexnet", {}) for name in TRAINABLE), *OTHER_NETWORKS]
)
def test_no_task_reads_a_number_or_makes_a_shape_of_one(
    name: str, network: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = step_without_numbers(task_of(name, network, options), samples_of(0), monkeypatch)
    assert values and all(value.is_meta for value in values.values())


def test_a_task_that_reads_a_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    step_without_numbers(Pair(), batch_of(0), monkeypatch)
    with pytest.raises(RuntimeError, match="meta tensors"):
        step_without_numbers(Asking(), batch_of(0), monkeypatch)


@pytest.mark.gpu
@pytest.mark.usefixtures("same_kernels")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TRAINABLE)
def test_replayed_steps_train_the_weights_of_eager_ones(name: str, precision: str) -> None:
    check_equal(lambda: task_of(name), precision=precision)


@pytest.mark.gpu
@pytest.mark.usefixtures("same_kernels")
@pytest.mark.parametrize(("name", "network", "options"), OTHER_NETWORKS)
def test_published_networks_too(name: str, network: str, options: dict[str, Any]) -> None:
    check_equal(lambda: task_of(name, network, options), precision="bf16", ema=0.9, clip=1.0)


@pytest.mark.gpu
@pytest.mark.usefixtures("same_kernels")
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_with_each_optimizer_dropout_and_micro_batches(optimizer: str) -> None:
    def run(record: bool) -> Engine:
        config = training(micro_batches=2, record=record, optimizer={"name": optimizer, "lr": 0.01}, warmup=0.3)
        torch.manual_seed(0)
        engine = Engine(Pair(0.5), config, {"discriminator": 1.0, "l2": 2.0, "adversarial": 0.5}, STEPS, "cuda")
        for step in range(STEPS):
            engine.train_step(batch_of(step), torch.arange(step * BATCH, (step + 1) * BATCH), BATCH)
        return engine

    eager, recorded = run(False), run(True)
    assert recorded.recorder and recorded.recorder._recordings
    for key, value in eager.task.state_dict().items():
        assert torch.equal(value, recorded.task.state_dict()[key]), key


@pytest.mark.gpu
def test_a_saved_training_goes_on_recorded_as_it_would_have_eagerly() -> None:
    def run(record: bool, state: dict[str, Any] | None, stop: int) -> Engine:
        config = training(record=record, optimizer={"name": "adam", "lr": 0.01})
        torch.manual_seed(0)
        engine = Engine(Pair(0.5), config, {"discriminator": 1.0, "l2": 2.0, "adversarial": 0.5}, 20, "cuda")
        if state:
            engine.load_state_dict(state)
        for step in range(engine.step, stop):
            engine.train_step(batch_of(step), torch.arange(step * BATCH, (step + 1) * BATCH), BATCH)
        return engine

    whole = run(False, None, 20)
    half = run(True, None, 10)
    assert half.recorder and half.recorder._recordings
    rest = run(True, half.state_dict(), 20)
    half.load_state_dict(half.state_dict())
    assert not half.recorder._recordings  # they worked on memory that the optimizers have left
    for key, value in whole.task.state_dict().items():
        assert torch.equal(value, rest.task.state_dict()[key]), key


@pytest.mark.gpu
def test_a_step_that_waits_for_the_device_runs_eagerly_and_says_so_once() -> None:
    torch.manual_seed(0)
    engine = Engine(Asking(), training(), {"discriminator": 1.0, "l2": 2.0, "adversarial": 0.5}, STEPS, "cuda")
    said = []
    for step in range(STEPS):
        engine.train_step(batch_of(step), torch.arange(step * BATCH, (step + 1) * BATCH), BATCH)
        said.append(engine.not_recorded())
    assert [bool(each) for each in said] == [step == WARM_UP - 1 for step in range(STEPS)]
    assert "test_recording.py" in str(said[WARM_UP - 1])


@pytest.mark.gpu
def test_a_batch_of_another_size_is_another_kind() -> None:
    torch.manual_seed(0)
    engine = Engine(Pair(), training(), {"discriminator": 1.0, "l2": 2.0, "adversarial": 0.5}, 100, "cuda")
    for step in range(12):
        count = BATCH if step % 2 else BATCH - 2
        batch = {key: value[:count] for key, value in batch_of(step).items()}
        engine.train_step(batch, torch.arange(count), count)
    assert engine.recorder and len(engine.recorder._recordings) == 2
