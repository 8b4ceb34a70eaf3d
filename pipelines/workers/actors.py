"""Actors beside the command: small ones, through which it speaks with its workers."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def start_here(kind: Any, options: dict[str, Any], *arguments: Any, **more: Any) -> Any:
    """Start an actor on the node of this process, where it needs no core; Ray must be connected.

    ``kind``: the class, as `ray.remote` returned it; ``options``: further ones of Ray's. Returns the actor's handle.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return kind.options(num_cpus=0, scheduling_strategy=here, **options).remote(*arguments, **more)
