"""The engine's step against a bare loop: what does it cost that the engine knows no task by name?

    python -m benchmarks.engine [--task rotation] [--batch 64] [--precision bf16] [--rounds 15] [--json]

The bare loop is written out below for each task, as one would write it for that task alone: zero_grad, autocast, loss,
backward, fused optimizer step, and for the adversarial pair both players. Both sides train the same networks from the
same weights on the same uint8 images, without augmentation, in the same precision and memory layout, and make the
task's inputs themselves. Before anything is timed, both must have arrived at the same weights. Then they take turns,
a few steps each; the ratio is that of neighbours, its median and quartiles are those of all rounds.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks._rounds import CLOCKS, add_timing, parse, parser_of, spread
from components.config import AugmentConfig, EncoderConfig, TrainingConfig
from components.draws import Draws
from components.engine import Engine
from components.tasks.base import Batch, Task, Tensors, resolve_weights
from components.tasks.context_encoder import ContextEncoder
from components.tasks.rotation import Rotation
from components.tasks.supervised import Supervised

GOAL = 0.97
SIZE, CLASSES, BATCHES = 32, 10, 4
CHECKED, TOLERANCE = 2, 1e-4  # steps that both sides take before they are compared; relative difference of the weights

Step = Callable[[Batch], None]


def inputs_of(task: Task, batch: Batch, device: torch.device) -> Tensors:
    """The task's inputs from uint8 images, without augmentation."""
    on_device = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    image_B3HW = on_device["image"].to(torch.float32, memory_format=torch.channels_last).div_(255)
    positions_B = torch.arange(len(image_B3HW), device=device)
    return task.inputs({**on_device, "image": image_B3HW}, Draws(0, positions_B))


def bare_classifier(
    task: Rotation | Supervised, optimizer: torch.optim.Optimizer, target: str, device: torch.device, bf16: bool
) -> Step:
    """The loop of one network and one loss."""
    trunk, head, last = task.trunk, task.head, task.trunk.layers[-1]

    def step(batch: Batch) -> None:
        inputs = inputs_of(task, batch, device)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits_BK = head(trunk(inputs["image"])[last])
            loss = F.cross_entropy(logits_BK.float(), inputs[target])
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def bare_rotation(task: Rotation, device: torch.device, bf16: bool) -> Step:
    """Gidaris et al. 2018, with their optimizer."""
    parameters = [*task.trunk.parameters(), *task.head.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True)
    return bare_classifier(task, optimizer, "turns", device, bf16)


def bare_supervised(task: Supervised, device: torch.device, bf16: bool) -> Step:
    """A classifier, trained by Adam."""
    parameters = [*task.trunk.parameters(), *task.head.parameters()]
    return bare_classifier(task, torch.optim.Adam(parameters, 1e-3, fused=True), "label", device, bf16)


def bare_context_encoder(task: ContextEncoder, device: torch.device, bf16: bool) -> Step:
    """Pathak et al. 2016: the discriminator, then the generator, from one picture that the generator painted."""
    trunk, bottleneck, decoder, discriminator = task.trunk, task.bottleneck, task.decoder, task.discriminator
    last = trunk.layers[-1]
    painters = [*trunk.parameters(), *bottleneck.parameters(), *decoder.parameters()]
    generator_adam = torch.optim.Adam(painters, 2e-3, betas=(0.5, 0.999), fused=True)
    discriminator_adam = torch.optim.Adam(discriminator.parameters(), 2e-4, betas=(0.5, 0.999), fused=True)

    def step(batch: Batch) -> None:
        inputs = inputs_of(task, batch, device)
        truth, painted = inputs["truth"], inputs["painted"]
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            prediction = torch.tanh(decoder(bottleneck(trunk.encode(inputs["native"])[last])))

        discriminator_adam.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            fake_B = discriminator(torch.where(painted, prediction.detach(), truth))
            real_B = discriminator(truth)
            loss = F.softplus(-real_B.float()).mean() + F.softplus(fake_B.float()).mean()
        torch.autograd.backward(loss)
        discriminator_adam.step()

        generator_adam.zero_grad(set_to_none=True)
        discriminator.requires_grad_(False)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            fake_B = discriminator(torch.where(painted, prediction, truth))
            squared = (prediction.float() - truth).square()
            l2 = (inputs["weight"] * squared).mean() / inputs["painted_share"]
            loss = 0.999 * l2 + 0.001 * F.softplus(-fake_B.float()).mean()
        torch.autograd.backward(loss)
        discriminator.requires_grad_(True)
        generator_adam.step()

    return step


def contestants(name: str, options: argparse.Namespace) -> tuple[Task, Step, Task, Step]:
    """The engine's task and step, the bare loop's task and step; both tasks start from the same weights."""
    device, bf16 = torch.device(options.device), options.precision == "bf16"
    encoder = EncoderConfig(name="alexnet", width=options.width)

    def build() -> tuple[Task, Callable[[], Step]]:
        torch.manual_seed(0)
        if name == "rotation":
            rotation = Rotation(Rotation.Options(), encoder, SIZE, 0)
            return rotation, lambda: bare_rotation(rotation, device, bf16)
        if name == "supervised":
            supervised = Supervised(Supervised.Options(), encoder, SIZE, CLASSES)
            return supervised, lambda: bare_supervised(supervised, device, bf16)
        pair = ContextEncoder(ContextEncoder.Options(), encoder, SIZE, 0)
        return pair, lambda: bare_context_encoder(pair, device, bf16)

    bare, make_step = build()
    bare.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's types
    task, _ = build()
    training = TrainingConfig(
        batch=options.batch,
        precision=options.precision,
        schedule="constant",
        warmup=0,
        augment=AugmentConfig(flip=False, shift=0),
    )
    engine = Engine(task, training, resolve_weights(task.name, task.terms, {}), steps=1_000_000, device=device)
    positions_B = torch.arange(options.batch)

    def step(batch: Batch) -> None:
        engine.train_step(batch, positions_B, options.batch)

    return task, step, bare, make_step()


def batches_of(task: Task, count: int) -> list[Batch]:
    """Random pictures, and labels for the task that needs them."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(BATCHES):
        image_B3HW = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        label_B = torch.randint(CLASSES, (count,), generator=generator)
        made.append({"image": image_B3HW} | ({"label": label_B} if "label" in task.needs else {}))
    return made


def difference(a: Task, b: Task) -> float:
    """Norm of the difference of all weights, relative to their norm."""

    def flat(task: Task) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in task.parameters()])

    return float((flat(a) - flat(b)).norm() / flat(b).norm())


def seconds(step: Step, batches: list[Batch], steps: int, options: argparse.Namespace) -> float:
    """Seconds that ``steps`` steps take, by the clock that was asked for."""
    clock = CLOCKS[options.clock]
    began = clock()
    for k in range(steps):
        step(batches[k % len(batches)])
    if options.device.startswith("cuda"):
        torch.cuda.synchronize(options.device)
    return clock() - began


def compare(name: str, options: argparse.Namespace) -> dict[str, float]:
    """One task: check, then rounds of both contestants; prints a line and returns the figures."""
    task, engine_step, bare, bare_step = contestants(name, options)
    batches = batches_of(task, options.batch)
    for step in (engine_step, bare_step):
        seconds(step, batches, CHECKED, options)
    apart = difference(task, bare)
    if not apart < TOLERANCE:
        sys.exit(f"{name}: after {CHECKED} steps the weights differ by {apart:.1e}: the two do not do the same")
    engine_s, bare_s = [], []
    for _ in range(options.rounds):
        engine_s.append(seconds(engine_step, batches, options.steps, options))
        bare_s.append(seconds(bare_step, batches, options.steps, options))
    low, ratio, high = spread(bare_s, engine_s)
    images = options.batch * options.steps
    speeds = images / statistics.median(engine_s), images / statistics.median(bare_s)
    met = "met" if ratio >= GOAL else "missed"
    print(f"{name:<16}{speeds[0]:>10,.0f}{speeds[1]:>10,.0f}{ratio:>9.1%}   {low:.1%} to {high:.1%}   {met}")
    return {"engine": speeds[0], "bare": speeds[1], "ratio": ratio, "quartile_1": low, "quartile_3": high}


def main(arguments: list[str]) -> None:
    """Compare on every task that was asked for."""
    tasks = ("rotation", "context_encoder", "supervised")
    parser = parser_of(__doc__, rounds=15)
    parser.add_argument("--task", choices=tasks, help="only this one")
    parser.add_argument("--width", type=int, default=32, help="of the encoder")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    add_timing(parser, steps=3)
    options = parse(parser, arguments)
    torch.set_num_threads(options.threads)
    print(f"{SIZE} px, width {options.width}, batch {options.batch}, {options.precision}, {options.device}")
    print(f"{'images/s':<16}{'engine':>10}{'bare':>10}{'ratio':>9}   {'quartiles':<16}   at least {GOAL:.0%}")
    figures = {name: compare(name, options) for name in tasks if options.task in (None, name)}
    if options.json:
        keys = ("width", "batch", "precision", "device", "threads", "rounds", "clock")
        about = {key: getattr(options, key) for key in keys}
        print(json.dumps({**about, "goal": GOAL, **figures}))


if __name__ == "__main__":
    main(sys.argv[1:])
