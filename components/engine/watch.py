"""Reads log lines for signs that a training has gone wrong. Which facts are signs, the task says."""

import math
from collections.abc import Sequence

from components.errors import Diverged
from components.losses import Sign

PATIENCE = 5  # log lines for which a sign must last


class Watch:
    """Reads the log lines of one training."""

    def __init__(self, signs: Sequence[Sign]) -> None:
        """``signs``: those of the task that is trained."""
        self.signs = signs
        self.lasting: dict[str, int] = {}  # sign: for how many log lines it has been there

    def check(self, step: int, values: dict[str, float]) -> str | None:
        """A warning, once for as long as its reason lasts, or None. Raises Diverged when a value is not finite."""
        broken = sorted(key for key, value in values.items() if not math.isfinite(value))
        if broken:
            raise Diverged(
                f"step {step}: {', '.join(broken)} not finite; try a smaller learning rate, training.clip, or fp32"
            )
        for sign in self.signs:
            seen = sign.seen(values)
            self.lasting[sign.name] = self.lasting.get(sign.name, 0) + 1 if seen is not None else 0
            if seen is not None and self.lasting[sign.name] == PATIENCE:
                return sign.warning.format(seen)
        return None
