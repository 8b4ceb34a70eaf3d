"""The engine: trains any task. It knows no task by name and needs torch alone."""

from components.engine.engine import Engine, weights_at
from components.engine.joining import Micro
from components.engine.loop import Hooks, Intervals, Loaded, Meter, fit
from components.engine.optimizers import learning_rate_factor, make_optimizer
from components.engine.watch import Watch

__all__ = [
    "Engine",
    "Hooks",
    "Intervals",
    "Loaded",
    "Meter",
    "Micro",
    "Watch",
    "fit",
    "learning_rate_factor",
    "make_optimizer",
    "weights_at",
]
