"""However a global batch is cut, the result is the same: one process, two ranks, micro-batches, and a naive loop.

The naive loop is written out here, from the definition: for every player, gradients of the weighted sum of its terms.
Plain SGD is used on all sides: Adam divides by the size of a gradient and so turns rounding of a zero gradient into a
full step, which would hide what is measured here. So would single precision: now and then one of the many rectifiers
of a deep pair of players stands so close to zero that rounding decides on which side it is. Everything is in float64.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from components.config import AugmentConfig, EncoderConfig, TrainingConfig
from components.data.augment import augment
from components.data.order import slice_span
from components.draws import Draws
from components.engine import Engine, learning_rate_factor
from components.parallel import World
from components.tasks.base import Batch, Task, all_tasks, build_task, resolve_weights

STEPS, BATCH, SIZE, CLASSES, SEED = 3, 7, 32, 5, 11  # an odd batch: slices of two ranks are unequal
LR, MOMENTUM, TOLERANCE, MOVED = 0.003, 0.9, 1e-8, 1e-5
TRAINABLE = [name for name, cls in all_tasks().items() if name not in ("random", "rescaled")]
NETWORKS: dict[str, dict[str, object]] = {"masked_autoencoder": {"name": "vit", "depth": 2}}  # else AlexNet
# Weights that make every term matter: with a published weight of .001 a wrong adversarial gradient would hide.
WEIGHT = 0.7


@pytest.fixture(autouse=True)
def _double_precision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def config(**changes: object) -> TrainingConfig:
    optimizer = {"name": "sgd", "lr": LR, "momentum": MOMENTUM, "nesterov": False, "weight_decay": 0.0}
    values = {
        "batch": BATCH,
        "seed": SEED,
        "optimizer": optimizer,
        "warmup": 0.0,
        "augment": {"flip": True, "shift": 2},
    }
    return TrainingConfig.model_validate(values | changes)


def make_task(name: str) -> Task:
    encoder = EncoderConfig.model_validate({"width": 8} | NETWORKS.get(name, {}))
    task = build_task(name, {}, encoder, SIZE, CLASSES, SEED)
    if task.initial_samples:
        first = batch_of(0)
        task.initialize({k: v.float() / 255 if v.dtype == torch.uint8 else v for k, v in first.items()})
    return task


def batch_of(step: int) -> Batch:
    g = torch.Generator().manual_seed(1000 + step)

    def picture() -> Tensor:
        coarse = torch.rand(BATCH, 3, 4, 4, generator=g)
        return (torch.nn.functional.interpolate(coarse, size=SIZE, mode="bilinear") * 255).byte()

    image, label = picture(), torch.randint(CLASSES, (BATCH,), generator=g)
    return {
        "image": image,
        "label": label,
        "edges": picture(),
        **{k: picture() for k in ("target", "other", "another")},
    }


def weights_of(task: Task) -> dict[str, float]:
    return resolve_weights(task.name, task.terms, dict.fromkeys(task.terms, WEIGHT))


def run_engine(task: Task, training: TrainingConfig, world: World) -> Engine:
    engine = Engine(task, training, weights_of(task), STEPS, world=world)
    for step in range(STEPS):
        start, stop = slice_span(step * BATCH, (step + 1) * BATCH, world.rank, world.size)
        part = {key: value[start - step * BATCH : stop - step * BATCH] for key, value in batch_of(step).items()}
        engine.train_step(part, torch.arange(start, stop), BATCH, measure=step == 1)
    return engine


def naive_loop(task: Task) -> None:
    """Three steps by the book: no sharing of code with the engine beyond the task itself."""
    training = config()
    weights = weights_of(task)
    velocity: dict[str, list[Tensor]] = {}
    for step in range(STEPS):
        positions = torch.arange(step * BATCH, (step + 1) * BATCH)
        batch = augment(batch_of(step), AugmentConfig(flip=True, shift=2), Draws(SEED, positions, "augment"))
        inputs = task.inputs(batch, Draws(SEED, positions))
        outputs = task(inputs)
        for name, player in task.players.items():
            if (step + 1) % player.every:
                continue
            parameters = [p for network in player.networks for p in getattr(task, network).parameters()]
            seen = {k: v.detach() for k, v in outputs.items()} if player.detached else outputs
            losses = task.losses(name, inputs, seen)
            total = torch.stack([weights[term] * loss for term, loss in losses.items() if term in weights]).sum()
            gradients = torch.autograd.grad(total, parameters, materialize_grads=True)
            old = velocity.get(name, [torch.zeros_like(g) for g in gradients])
            velocity[name] = [MOMENTUM * v + g for v, g in zip(old, gradients, strict=True)]
            rate = LR * learning_rate_factor(training, step, STEPS)
            with torch.no_grad():
                for p, v in zip(parameters, velocity[name], strict=True):
                    p -= rate * v
        if task.history:
            task.remember({name: {**inputs, **outputs}[name].detach() for name in task.history})


def difference(state: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference of any weight or statistic."""
    assert state.keys() == other.keys()
    return max((state[k] - other[k]).abs().max().item() for k in state if state[k].is_floating_point())


def moved(task: Task, start: dict[str, Tensor]) -> bool:
    """Whether every network has learned far more than what is tolerated as rounding."""
    return all(
        max((p - start[f"{network}.{n}"]).abs().max() for n, p in getattr(task, network).named_parameters()) > MOVED
        for player in task.players.values()
        for network in player.networks
    )


@pytest.mark.parametrize("name", TRAINABLE)
def test_engine_equals_naive_loop(name: str) -> None:
    task, reference = make_task(name), make_task(name)
    start = {k: v.clone() for k, v in task.state_dict().items()}
    # The same memory layout on both sides: another one rounds differently, and a rectifier can turn that into a jump.
    run_engine(task, config(channels_last=False), World())
    naive_loop(reference)
    assert moved(task, start)
    assert difference(task.state_dict(), reference.state_dict()) < TOLERANCE


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("parts", [2, 3])
def test_micro_batches_equal_one_batch(name: str, parts: int) -> None:
    # Batch statistics across micro-batches are a documented exception, so they are frozen here.
    task, reference = make_task(name).eval(), make_task(name).eval()
    run_engine(task, config(micro_batches=parts), World())
    run_engine(reference, config(), World())
    assert difference(task.state_dict(), reference.state_dict()) < TOLERANCE


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    setattr(torch.Tensor, "float", torch.Tensor.double)  # noqa: B010  # this process ends with the test
    torch.set_default_dtype(torch.float64)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    for name in TRAINABLE:
        task = make_task(name)
        run_engine(task, config(), World.current())
        torch.save(task.state_dict(), Path(folder) / f"{name}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every task trained on two ranks, once for all the tests below."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn(_rank, args=(str(folder),), nprocs=2)  # type: ignore[no-untyped-call]  # torch gives it no types
    return folder


@pytest.mark.distributed
@pytest.mark.xdist_group("two_ranks")
@pytest.mark.parametrize("name", TRAINABLE)
def test_two_ranks_equal_one(name: str, two_ranks: Path) -> None:
    states = [torch.load(two_ranks / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]
    single = make_task(name)
    run_engine(single, config(), World())
    assert difference(states[0], states[1]) == 0.0, "the ranks drifted apart"
    assert difference(states[0], single.state_dict()) < TOLERANCE
