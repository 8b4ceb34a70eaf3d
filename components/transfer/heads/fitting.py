"""How heads, and with them encoders, are fitted to labelled images: a small loop that goes on where it was killed.

The order of samples and all that is drawn depend on the seed and the step alone, so that a fit that was cut off ends as
one that was not.

Legend of shape suffixes: B samples of a batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from components.config import Config
from components.data.scramble import Int64, make_key, permute
from components.errors import Diverged
from components.transfer.protocol import BenchmarkRun

KEEP_EVERY = 50  # steps between what is kept of a fit
MOMENTUM = 0.9
STAIR = 0.2  # by which the learning rate falls at a milestone


class FitConfig(Config):
    """How long and how fast."""

    epochs: float = Field(30, gt=0, description="passes over the training split")
    batch: int = Field(16, ge=1, description="samples per optimizer step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd: with Nesterov's momentum of 0.9")
    lr: float = Field(2e-3, gt=0, description="largest learning rate of the head")
    milestones: tuple[float, ...] = Field(
        (), description="shares of the steps after which the learning rate falls to a fifth; none: cosine to zero"
    )
    weight_decay: float = Field(1e-4, ge=0, description="decoupled from the gradient in adamw, added to it in sgd")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    clip: float = Field(10.0, gt=0, description="largest norm of the gradient")
    seed: int = Field(0, ge=0, description="of the order of samples, augmentation and the head's weights")

    def steps(self, samples: int) -> int:
        """Optimizer steps for a training split of that many samples."""
        return max(1, round(self.epochs * samples / min(self.batch, samples)))


class Fitted(Protocol):
    """A benchmark's configuration, as far as it says how something is fitted."""

    @property
    def epochs(self) -> float: ...
    @property
    def batch(self) -> int: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def seed(self) -> int: ...


def fit_of(config: Fitted, lr: float, **more: Any) -> FitConfig:
    """How a benchmark fits at a learning rate; ``more``: further keys of FitConfig."""
    shared = {"epochs": config.epochs, "batch": config.batch, "weight_decay": config.weight_decay, "seed": config.seed}
    return FitConfig(lr=lr, **shared, **more)


@dataclass(frozen=True)
class Group:
    """Modules that are trained alike."""

    modules: Sequence[nn.Module]
    lr: float = 1.0  # in units of the configuration's
    weight_decay: float = 1.0


Loss = Callable[[Int64, int], Mapping[str, Tensor]]  # samples (B,), step -> terms, whose sum is minimized


def fit(
    name: str, groups: Sequence[Group], config: FitConfig, samples: int, loss: Loss, run: BenchmarkRun
) -> dict[str, float]:
    """Train the modules of ``groups``, which are on the device and in the mode in which they are to be trained.

    ``loss`` is called with the ids of a batch and the number of the step, and returns terms whose sum is minimized.
    Returns the mean of each term over the last tenth of the steps. What is kept under ``name`` is gone on with: parts
    of it that do not fit raise an error. Raises Diverged where the loss is no number.
    """
    steps, batch = config.steps(samples), min(config.batch, samples)
    modules = nn.ModuleList([module for group in groups for module in group.modules])
    optimizer = _optimizer(
        [
            {"params": list(_parameters(group)), "lr": config.lr * group.lr, "top": config.lr * group.lr,
             "weight_decay": config.weight_decay * group.weight_decay}
            for group in groups
        ],
        config,
    )  # fmt: skip
    begin, sums = 0, dict[str, float]()
    if (kept := run.load(name)) is not None:
        modules.load_state_dict(kept["modules"])
        optimizer.load_state_dict(kept["optimizer"])
        begin, sums = kept["step"], kept["sums"]
    last = max(1, steps // 10)
    for step in range(begin, steps):
        for group in optimizer.param_groups:
            group["lr"] = group["top"] * _schedule(step, steps, config)
        terms = loss(batch_of(step, batch, samples, config.seed), step)
        total = torch.stack(list(terms.values())).sum()
        if not math.isfinite(value := float(total.detach())):
            raise Diverged(f"{name}, step {step}: the loss is {value}")
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        nn.utils.clip_grad_norm_(modules.parameters(), config.clip)
        optimizer.step()
        if step >= steps - last:
            for term, each in terms.items():
                sums[term] = sums.get(term, 0.0) + float(each.detach()) / last
        if (step + 1) % KEEP_EVERY == 0 or step + 1 == steps:
            state: dict[str, Any] = {"modules": modules.state_dict(), "optimizer": optimizer.state_dict()}
            run.save(name, state | {"step": step + 1, "sums": sums})
        run.progress(step + 1, steps, f"{name}: loss {value:.3f}")
    return sums


def batch_of(step: int, batch: int, samples: int, seed: int) -> Int64:
    """The ids (B,) of a step: epochs are permutations, one behind the other, cut into batches across their ends."""
    places_B = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
    epochs_B, within_B = places_B // samples, places_B % samples
    out_B = np.empty(batch, np.int64)
    for epoch in np.unique(epochs_B).tolist():
        mine = epochs_B == epoch
        out_B[mine] = permute(within_B[mine], samples, make_key("fit", seed, epoch))
    return out_B


def _parameters(group: Group) -> list[nn.Parameter]:
    return [each for module in group.modules for each in module.parameters() if each.requires_grad]


def _optimizer(groups: list[dict[str, Any]], config: FitConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)
    return torch.optim.AdamW(groups)


def _schedule(step: int, steps: int, config: FitConfig) -> float:
    """The learning rate as a share of the largest one: a linear warm-up, then stairs, or a cosine to zero."""
    rising = config.warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    if config.milestones:
        return STAIR ** sum(step >= round(share * steps) for share in config.milestones)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1.0, steps - rising)))
