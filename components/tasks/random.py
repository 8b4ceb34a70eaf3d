"""The encoder as it was initialized: the lower end of every comparison."""

from components.tasks.base import Baseline, register


@register
class Random(Baseline):
    """A baseline without training: no players, no terms."""

    name = "random"
    summary = "Do not train: the encoder as it was initialized"
    source = "He et al. 2015, section 2.2, for the initialization"
