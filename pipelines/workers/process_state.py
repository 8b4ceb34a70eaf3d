"""What a process keeps between two pieces of work that decides how the second one runs: noted once, and put back."""

import gc
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# {name: (how it is read, how it is set)}
_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "precision of products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "deterministic algorithms": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda found: torch.use_deterministic_algorithms(found[0], warn_only=found[1]),
    ),
    "directory": (os.getcwd, os.chdir),
}
_RANDOM: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "Python": (random.getstate, random.setstate),
    "NumPy": (np.random.get_state, np.random.set_state),
    "torch": (torch.get_rng_state, torch.set_rng_state),
}
# Flags that are attributes: (of what, names)
_FLAGS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (torch.backends.cudnn, ("enabled", "benchmark", "deterministic", "allow_tf32")),
    (torch.backends.cuda.matmul, ("allow_tf32", "allow_bf16_reduced_precision_reduction")),
    (torch.backends.mkldnn, ("enabled",)),
)
_THREADS = threading.Lock()  # their number is one for the whole process


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Inside, torch computes with that many threads, of which its rounding depends. One at a time in a process."""
    with _THREADS:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


class ProcessState:
    """The state of this process when it was made: random numbers, threads, precisions, flags, environment."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()  # what is there stays, and need not be looked at again
        self._settings = {name: read() for name, (read, _) in _SETTINGS.items()}
        self._random = {name: read() for name, (read, _) in _RANDOM.items()}
        self._flags = [(of, name, getattr(of, name)) for of, names in _FLAGS for name in names]
        self._environment = dict(os.environ)
        self._seed = torch.initial_seed()  # of a GPU's random numbers, too, which are opened later

    def restore(self) -> None:
        """Put everything back, forget what was compiled, and give memory back that nobody uses."""
        for name, (read, put) in _SETTINGS.items():
            if read() != self._settings[name]:  # to set some of them takes seconds
                put(self._settings[name])
        for name, (_, put) in _RANDOM.items():
            put(self._random[name])
        for of, name, value in self._flags:
            setattr(of, name, value)
        for key in os.environ.keys() - self._environment.keys():
            del os.environ[key]
        os.environ.update(self._environment)
        if "torch._dynamo" in sys.modules:  # whose limit of recompilations is one of the process
            torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch gives it no types
            torch.cuda.manual_seed_all(self._seed)
            torch.cuda.empty_cache()
