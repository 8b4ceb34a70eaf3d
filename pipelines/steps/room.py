"""Whether this machine has what steps need: said before anything is written, and in a dry run."""

from collections.abc import Sequence
from typing import Any

from components.errors import UserError
from infra import machine
from pipelines.session import Session
from pipelines.steps.results import Finished
from pipelines.steps.step import Step, in_order
from pipelines.workers.shape import Need


def check_room(steps: Sequence[Step[Any]], session: Session, finished: Finished) -> None:
    """Raise UserError where a step that is not finished needs more cores or GPUs than there are, or a compiler.

    Only where Ray is this machine's own; what a cluster has is known, and said, when it is reached.
    """
    if not session.private:
        return
    compiled = False
    for step in in_order(steps):
        if (lacking := _lacking(step.need)) and not finished.find(step):
            raise UserError(f"{step.label} needs {lacking}, or --address of a cluster that has more")
        if step.need.compiler and not compiled and not finished.find(step):
            from components.engine.compiler import check_compiler  # which takes torch along, as do its neighbours
            from pipelines.workers.payload import device

            check_compiler(device().type == "cuda")
            compiled = True


def _lacking(need: Need) -> str:
    """The cores or GPUs that workers need, what there is, and what fits; empty where this machine has them."""
    there = machine.cores()
    if need.cores > there:
        fit = there // need.each
        todo = f"training.workers={fit} fits" if fit else f"training.cpus={there} with one worker fits"
        needed = f"{need.cores} cores ({need.workers} workers x {need.each})"
        return f"{needed} and this machine has {there}: --set {todo}"
    if need.workers > 1:
        from pipelines.workers.payload import gpus  # as above

        if 0 < (there := gpus()) < need.workers:
            needed = f"a GPU for each of {need.workers} workers"
            return f"{needed} and this machine has {there}: --set training.workers={there}"
    return ""
