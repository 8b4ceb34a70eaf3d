"""The optimizers of players, and their learning rates over the course of a training."""

import math

import torch
from torch import nn

from components.config import OptimizerConfig, TrainingConfig


def make_optimizer(parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer that ``config`` names, in its fused form."""
    if config.name == "sgd":
        nesterov = config.nesterov and config.momentum > 0
        return torch.optim.SGD(
            parameters, config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=nesterov, fused=True
        )
    cls = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return cls(parameters, config.lr, config.betas, weight_decay=config.weight_decay, fused=True)


def learning_rate_factor(config: TrainingConfig, step: int, steps: int) -> float:
    """Factor on every learning rate at ``step`` of ``steps``: linear warm-up, then the schedule down to zero."""
    warm = config.warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1.0, steps - warm)
    return {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[config.schedule]
