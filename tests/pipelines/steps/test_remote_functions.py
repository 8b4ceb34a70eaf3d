"""Ray sends the functions of tasks by value: each of them, and what its code names, has to be something to send."""

import importlib
import pkgutil
from typing import Any

import ray.cloudpickle as cloudpickle

import pipelines


def test_every_ray_task_can_be_sent() -> None:
    names = [module.name for module in pkgutil.walk_packages(pipelines.__path__, "pipelines.")]
    sent = set()
    dumps: Any = cloudpickle.dumps  # which says no types
    for module in (importlib.import_module(name) for name in names if not name.endswith("__main__")):
        for name, value in vars(module).items():
            if hasattr(value, "_function") and hasattr(value, "remote"):
                dumps(value._function)
                sent.add(name)
    assert sent >= {"build", "rebuild", "_call"}
