"""One training step of pix2pix and of CycleGAN: ours against a loop as image translation is usually trained.

    python -m benchmarks.translation [--task pix2pix] [--precision bf16] [--compile] [--rounds 5] [--json]
    python -m benchmarks.translation --against tuned         # the same loop as an expert would tune it
    python -m benchmarks.translation --device cuda --batch 1 4 32 --steps 20

pix2pix: U-Net-256, 256 px, batches of 4; CycleGAN: nine blocks, 128 px, batches of 1; both at their published width.
On a GPU the usual loop has TF32, its samples lie there already, and kernels and their share of the time are counted.
The usual loop is written out below with torch's own modules: single precision, torch's default memory layout and Adam,
one call per picture, as the papers' algorithms read. The tuned one is the same arithmetic with what torch offers: mixed
precision, channels-last pictures, Adam's fused form, one call for all pictures where normalization allows it, and with
--compile compiled networks. First both sides are built small, without dropout and in single precision, get the same
weights and pictures, and have to arrive at the same weights; then they take turns at full size. The ratio is that of
neighbours, its median and quartiles are those of all rounds.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks._rounds import CLOCKS, add_timing, parse, parser_of, spread
from components.config import AugmentConfig, EncoderConfig, TrainingConfig
from components.engine import Engine
from components.tasks.base import Batch, Task, build_task, resolve_weights

GOALS = {"usual": 3.5, "tuned": 1.0}  # on a CPU
GPU_GOALS = {("pix2pix", 1): 2.5, ("pix2pix", 4): 2.5, ("pix2pix", 32): 2.0, ("cyclegan", 1): 4.0}  # by batch
WARM_UP = {"cpu": 2, "cuda": 6}  # steps before anything is timed; on a GPU, until they are replayed
CHECKED, TOLERANCE = 2, 2e-3  # steps that both sides take before they are compared; relative difference of the weights
_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

Step = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """What is trained: the task, and the size of its networks and pictures."""

    task: str
    width: int
    depth: int
    side: int
    batch: int
    patch: int
    dropout: float


FULL = {
    "pix2pix": Setting("pix2pix", 64, 8, 256, 4, 70, 0.5),
    "cyclegan": Setting("cyclegan", 64, 12, 128, 1, 70, 0.0),
}
SMALL = {
    "pix2pix": Setting("pix2pix", 8, 5, 32, 2, 16, 0.0),
    "cyclegan": Setting("cyclegan", 16, 5, 32, 1, 16, 0.0),
}


class UsualUNet(nn.Module):
    """The U-Net of pix2pix, batch normalization."""

    def __init__(self, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        widths = [3, *(width * min(2**k, 8) for k in range(depth))]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for k in range(depth):
            modules: list[nn.Module] = [nn.LeakyReLU(0.2)] if k else []
            modules.append(nn.Conv2d(widths[k], widths[k + 1], 4, 2, 1, bias=False))
            self.down.append(nn.Sequential(*modules, *([nn.BatchNorm2d(widths[k + 1])] if 0 < k < depth - 1 else [])))
        for k in reversed(range(depth)):
            before = widths[k + 1] * (1 if k == depth - 1 else 2)
            up = nn.ConvTranspose2d(before, widths[k] if k else 3, 4, 2, 1, bias=k == 0)
            rest: list[nn.Module] = [nn.BatchNorm2d(widths[k])] if k else [nn.Tanh()]
            self.up.append(nn.Sequential(nn.ReLU(), up, *rest, *([nn.Dropout(dropout)] if k > depth - 4 else [])))

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for down in self.down:
            x = down(x)
            maps.append(x)
        for up in self.up:
            beside = maps.pop()
            x = up(beside if x is beside else torch.cat([beside, x], 1))
        return x


class UsualBlock(nn.Module):
    """A residual block of the ResNet generator."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)]
        other = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)]
        self.branch = nn.Sequential(*half, nn.ReLU(), *other)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y


def usual_resnet(width: int, depth: int) -> nn.Sequential:
    """The ResNet generator of CycleGAN; ``depth`` counts three convolutions and the blocks."""
    modules: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width), nn.ReLU()]
    for k in (1, 2):
        modules += [nn.Conv2d(width * k, width * 2 * k, 3, 2, 1), nn.InstanceNorm2d(width * 2 * k), nn.ReLU()]
    modules += [UsualBlock(width * 4) for _ in range(depth - 3)]
    for k in (4, 2):
        up = nn.ConvTranspose2d(width * k, width * k // 2, 3, 2, 1, output_padding=1)
        modules += [up, nn.InstanceNorm2d(width * k // 2), nn.ReLU()]
    return nn.Sequential(*modules, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())


def usual_patchgan(
    channels: int, width: int, strided: int, norm: type[nn.BatchNorm2d | nn.InstanceNorm2d]
) -> nn.Module:
    """The discriminator of both."""
    modules: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    before = width
    for k in range(1, strided + 1):
        after, bias = width * min(2**k, 8), norm is nn.InstanceNorm2d
        modules += [nn.Conv2d(before, after, 4, 2 if k < strided else 1, 1, bias=bias), norm(after), nn.LeakyReLU(0.2)]
        before = after
    return nn.Sequential(*modules, nn.Conv2d(before, 1, 4, 1, 1))


@dataclass(frozen=True)
class Loop:
    """How the loop that we are compared with is written: as usual, or tuned."""

    tuned: bool = False
    precision: str = "fp32"
    compiled: bool = False

    def adam(self, *networks: nn.Module) -> torch.optim.Adam:
        """Both papers' optimizer, in torch's default form or fused."""
        weights = [p for network in networks for p in network.parameters()]
        return torch.optim.Adam(weights, 2e-4, betas=(0.5, 0.999), fused=self.tuned or None)

    def compile(self, networks: Iterable[nn.Module]) -> None:
        """Compile the networks, where that was asked for.

        Their weights stay as they are: of channels-last ones gradients may come in another layout, and Adam's fused
        form adds them in the wrong places (docs/decisions/0003).
        """
        for network in networks if self.tuned and self.compiled else ():
            network.compile()

    def pictures(self, pictures: Tensor, device: torch.device) -> Tensor:
        """uint8 pictures on the device, in [0, 1]."""
        layout = torch.channels_last if self.tuned else torch.contiguous_format
        return pictures.to(device).contiguous(memory_format=layout).float() / 255

    def each(self, network: nn.Module, *pictures: Tensor) -> tuple[Tensor, ...]:
        """What a network without batch statistics makes of each: one call, or several."""
        if self.tuned:
            return tuple(network(torch.cat(pictures)).chunk(len(pictures)))
        return tuple(network(picture) for picture in pictures)

    def step(self, step: Step, device: torch.device) -> Step:
        """A step in the precision of the loop."""

        def in_precision() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                step()

        return in_precision if self.tuned else step


def usual_pix2pix(
    setting: Setting, batch: Batch, start: Task, device: torch.device, loop: Loop
) -> tuple[Step, list[nn.Module]]:
    """Discriminator, then generator; the networks in the order of the task's."""
    generator = UsualUNet(setting.width, setting.depth, setting.dropout)
    discriminator = usual_patchgan(6, setting.width, {16: 1, 70: 3}[setting.patch], nn.BatchNorm2d)
    networks: list[nn.Module] = [generator, discriminator]
    take(networks, start, device)
    loop.compile(networks)
    generator_adam, discriminator_adam = loop.adam(generator), loop.adam(discriminator)
    picture, target = (loop.pictures(batch[field], device) for field in ("image", "target"))
    seen, shown, truth = (picture - _MEAN.to(device)) / _STD.to(device), 2 * picture - 1, 2 * target - 1

    def verdict(logits: Tensor, real: bool) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))

    def step() -> None:
        fake = generator(seen)
        discriminator.requires_grad_(True)
        discriminator_adam.zero_grad()
        on_fake = verdict(discriminator(torch.cat([shown, fake.detach()], 1)), False)
        on_real = verdict(discriminator(torch.cat([shown, truth], 1)), True)
        torch.autograd.backward(0.5 * (on_fake + on_real))
        discriminator_adam.step()
        discriminator.requires_grad_(False)
        generator_adam.zero_grad()
        persuaded = verdict(discriminator(torch.cat([shown, fake], 1)), True)
        torch.autograd.backward(persuaded + 100 * F.l1_loss(fake, truth))
        generator_adam.step()

    return loop.step(step, device), networks


def usual_cyclegan(
    setting: Setting, batch: Batch, start: Task, device: torch.device, loop: Loop
) -> tuple[Step, list[nn.Module]]:
    """Both generators, then each discriminator; a pool of 50 is still filling while this is timed."""
    ab, ba = (usual_resnet(setting.width, setting.depth) for _ in range(2))
    strided = {16: 1, 70: 3}[setting.patch]
    judge_a, judge_b = (usual_patchgan(3, setting.width, strided, nn.InstanceNorm2d) for _ in range(2))
    networks: list[nn.Module] = [ab, ba, judge_a, judge_b]
    take(networks, start, device)
    loop.compile(networks)
    generator_adam, discriminator_adam = loop.adam(ab, ba), loop.adam(judge_a, judge_b)
    a, b = (2 * loop.pictures(batch[field], device) - 1 for field in ("image", "other"))
    mean, std = _MEAN.to(device), _STD.to(device)

    def seen(picture: Tensor) -> Tensor:
        return ((picture + 1) / 2 - mean) / std

    def verdict(logits: Tensor, real: bool) -> Tensor:
        return F.mse_loss(logits, torch.full_like(logits, float(real)))

    def step() -> None:
        (fake_b, same_b), (fake_a, same_a) = loop.each(ab, seen(a), seen(b)), loop.each(ba, seen(b), seen(a))
        back_a, back_b = ba(seen(fake_b)), ab(seen(fake_a))
        for judge in (judge_a, judge_b):
            judge.requires_grad_(False)
        generator_adam.zero_grad()
        same = F.l1_loss(same_b, b) + F.l1_loss(same_a, a)
        persuaded = verdict(judge_b(fake_b), True) + verdict(judge_a(fake_a), True)
        cycle = F.l1_loss(back_a, a) + F.l1_loss(back_b, b)
        torch.autograd.backward(persuaded + 10 * cycle + 5 * same)
        generator_adam.step()
        discriminator_adam.zero_grad()
        for judge, real, fake in ((judge_a, a, fake_a), (judge_b, b, fake_b)):
            judge.requires_grad_(True)
            on_real, on_fake = loop.each(judge, real, fake.detach())
            torch.autograd.backward(0.5 * (verdict(on_real, True) + verdict(on_fake, False)))
        discriminator_adam.step()

    return loop.step(step, device), networks


def parameters(networks: Iterable[nn.Module]) -> list[nn.Parameter]:
    """All of them, network by network."""
    return [p for network in networks for p in network.parameters()]


@torch.no_grad()
def take(networks: list[nn.Module], task: Task, device: torch.device) -> None:
    """Start, on ``device``, from the weights of a task, whose networks come in the same order and have as many."""
    for mine, other in zip(parameters(networks), task.parameters(), strict=True):
        mine.copy_(other)
    for network in networks:
        network.to(device)


def batch_of(setting: Setting) -> Batch:
    """Random pictures."""
    generator = torch.Generator().manual_seed(0)
    shape = (setting.batch, 3, setting.side, setting.side)
    fields = ("image", "target" if setting.task == "pix2pix" else "other")
    return {field: torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for field in fields}


def contestants(
    setting: Setting, precision: str, compiled: bool, device: torch.device, tuned: bool
) -> tuple[Step, Task, Step, list[nn.Module]]:
    """Our step and its task, the other loop's step and its networks; both start from the same weights."""
    pix2pix = setting.task == "pix2pix"
    encoder = EncoderConfig(
        name="unet" if pix2pix else "resnet_generator",
        width=setting.width,
        depth=setting.depth,
        norm="batch" if pix2pix else "instance",
        stem="large",
    )
    options = {"pair": "target", "dropout": setting.dropout} if pix2pix else {}
    task = build_task(setting.task, {**options, "patch": setting.patch}, encoder, setting.side, 0, seed=0)
    batch = batch_of(setting)
    usual = usual_pix2pix if pix2pix else usual_cyclegan
    usual_step, networks = usual(setting, batch, task, device, Loop(tuned, precision, compiled))
    training = TrainingConfig.parse(
        {
            "batch": setting.batch,
            "precision": precision,
            "compile": compiled,
            "schedule": "constant",
            "warmup": 0.0,
            "augment": AugmentConfig(flip=False, shift=0),
        }
    )
    engine = Engine(task, training, resolve_weights(task.name, task.terms, {}), steps=1_000_000, device=device)
    positions_B = torch.arange(setting.batch)
    if device.type == "cuda":  # as the loader gives them
        batch = {field: pictures.pin_memory() for field, pictures in batch.items()}

    def step() -> None:
        engine.train_step(batch, positions_B, setting.batch)

    return step, task, usual_step, networks


def check(name: str, device: torch.device, tuned: bool) -> float:
    """Relative difference of the weights after a few steps of both, small and in single precision."""
    step, task, usual_step, networks = contestants(SMALL[name], "fp32", compiled=False, device=device, tuned=tuned)
    torch.backends.cudnn.allow_tf32 = False
    for _ in range(CHECKED):
        step()
        usual_step()
    # Not biases: in front of an instance normalization their gradient is rounding, of which Adam makes full steps.
    ours, usual = (
        torch.cat([p.detach().reshape(-1) for p in each if p.ndim > 1])
        for each in (task.parameters(), parameters(networks))
    )
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    return float((ours - usual).norm() / usual.norm())


def seconds(step: Step, options: argparse.Namespace) -> float:
    """Seconds that one step takes, the mean of several, by the clock that was asked for."""
    clock = CLOCKS[options.clock]
    began = clock()
    for _ in range(options.steps):
        step()
    if options.device.type == "cuda":
        torch.cuda.synchronize()
    elapsed: float = (clock() - began) / options.steps
    return elapsed


def kernels(step: Step) -> tuple[int, float]:
    """Kernels of one step on the GPU, and the milliseconds in which they are busy."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    spans = [e.time_range.elapsed_us() for e in profile.events() if e.device_type.name == "CUDA"]
    return len(spans), sum(spans) / 1000


def compare(setting: Setting, options: argparse.Namespace) -> dict[str, float]:
    """One task: rounds of both contestants; prints a line and returns the figures."""
    name, cuda = setting.task, options.device.type == "cuda"
    tuned = options.against == "tuned"
    if options.compile:  # or the second batch is compiled for any size, and the next ones not at all
        torch.compiler.reset()
    step, _, usual_step, _ = contestants(setting, options.precision, options.compile, options.device, tuned)
    for _ in range(WARM_UP[options.device.type]):
        step()
        usual_step()
    seconds(step, options)
    ours, usual = [], []
    for _ in range(options.rounds):
        ours.append(seconds(step, options))
        usual.append(seconds(usual_step, options))
    low, ratio, high = spread(usual, ours)
    speeds = setting.batch / statistics.median(ours), setting.batch / statistics.median(usual)
    goal = GPU_GOALS.get((name, setting.batch)) if cuda and not tuned else GOALS[options.against]
    met = "" if goal is None else f"goal {goal}: {'met' if ratio >= goal else 'missed'}"
    line = f"{name:<10}{setting.batch:>5}{speeds[0]:>10.2f}{speeds[1]:>10.2f}{ratio:>8.2f}"
    print(f"{line}   {low:.2f} to {high:.2f}   {met}")
    figures = {"ours": speeds[0], "usual": speeds[1], "ratio": ratio, "quartile_1": low, "quartile_3": high}
    for whose, one, took in (("ours", step, ours), ("usual", usual_step, usual)) if cuda else ():
        count, busy_ms = kernels(one)
        share = busy_ms / 1000 / statistics.median(took)
        print(f"{'':<10}{whose}: {count} kernels in a step, busy {busy_ms:.2f} ms, {share:.0%} of it")
        figures |= {f"{whose}_kernels": count, f"{whose}_busy": share}
    return figures


def main(arguments: list[str]) -> None:
    """Compare on every task that was asked for."""
    parser = parser_of(__doc__, rounds=5)
    parser.add_argument("--task", choices=FULL, help="only this one")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="of our side")
    parser.add_argument("--compile", action="store_true", help="our side, and a tuned one, with torch.compile")
    parser.add_argument("--against", choices=GOALS, default="usual", help="the loop that ours is compared with")
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--batch", type=int, nargs="+", help="of pix2pix; several are compared in turn")
    add_timing(parser, steps=1)
    options = parse(parser, arguments)
    torch.set_num_threads(options.threads)
    tuned = options.against == "tuned"
    ours = f"{options.precision}{', compiled' if options.compile else ''}"
    print(f"{ours} against {'the same, tuned' if tuned else 'fp32'}, {options.threads} threads")
    print(f"{'images/s':<10}{'batch':>5}{'ours':>10}{options.against:>10}{'ratio':>8}   quartiles")
    figures = {}
    for name, full in FULL.items():
        if options.task not in (None, name):
            continue
        apart = check(name, options.device, tuned)
        if not apart < TOLERANCE:
            sys.exit(f"{name}: after {CHECKED} steps the weights differ by {apart:.1e}: the two do not do the same")
        for batch in (options.batch or [full.batch]) if name == "pix2pix" else [full.batch]:
            figures[f"{name}, batch {batch}"] = compare(replace(full, batch=batch), options)
    if options.json:
        about = {
            key: getattr(options, key) for key in ("precision", "compile", "against", "threads", "rounds", "clock")
        }
        print(json.dumps({**about, "device": str(options.device), **figures}))


if __name__ == "__main__":
    main(sys.argv[1:])
