"""The optimizers of players, and their learning rates over the course of a training."""

import math
from typing import Any

import torch
from torch import nn

from components.config import OptimizerConfig, TrainingConfig


def make_optimizer(
    parameters: list[nn.Parameter], config: OptimizerConfig, recorded: bool = False
) -> torch.optim.Optimizer:
    """The optimizer that ``config`` names, in its fused form; ``recorded``: its steps will be part of a CUDA graph."""
    if config.name == "sgd":
        nesterov = config.nesterov and config.momentum > 0
        return torch.optim.SGD(
            parameters, config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=nesterov, fused=True
        )
    cls = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    decay = config.weight_decay
    optimizer = cls(parameters, config.lr, config.betas, weight_decay=decay, fused=True, capturable=recorded)
    # torch would advise against `capturable`: the first steps are not recorded, nor those that are measured.
    optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on with a saved state; how a step is computed stays what it is here, whatever device saved it."""
    recorded = [group.get("capturable") for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, mine in zip(optimizer.param_groups, recorded, strict=True):
        if mine is not None:
            group["capturable"] = mine


class Rate:
    """An optimizer's learning rate: a number, or on a GPU a scalar there, which recorded steps read when they run."""

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._optimizer = optimizer
        self.largest = float(optimizer.param_groups[0]["lr"])
        self._there = torch.tensor(self.largest, device=device) if device.type == "cuda" else None

    def set(self, factor: float) -> None:
        """The largest rate times ``factor`` counts from now on."""
        rate = self.largest * factor
        value = rate if self._there is None else self._there.fill_(rate)
        for group in self._optimizer.param_groups:
            group["lr"] = value


def learning_rate_factor(config: TrainingConfig, step: int, steps: int) -> float:
    """Factor on every learning rate at ``step`` of ``steps``: linear warm-up, then the schedule down to zero."""
    warm = config.warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1.0, steps - warm)
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[config.schedule]
