"""What a pretext task is. A new task is one new file beside this one: subclass Task, decorate it with @register.

Legend of shape suffixes: B samples, C channels, H height, W width, K classes, Z latent.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from components.config import Config, EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.errors import UserError, unknown
from components.losses import Sign
from components.networks.decoders import deepest_shape
from components.networks.encoder import Encoder, build_encoder
from components.registry import Registry

Batch = dict[str, Tensor]
Tensors = dict[str, Tensor]

_INITIALIZING = threading.Lock()  # the random state that is seeded for it is the whole process's


@dataclass(frozen=True)
class Player:
    """A group of networks with its own optimizer: names of the task's attributes, and the published optimizer."""

    networks: tuple[str, ...]
    optimizer: OptimizerConfig = OptimizerConfig()
    detached: bool = False  # sees what `forward` returned without its graph (discriminators); at most one player is not
    every: int = 1  # takes its turn in steps, counted from 1, that are a multiple of this; the others take every one


@dataclass(frozen=True)
class Term:
    """One named, unweighted loss of one player."""

    weight: float  # the published weight: the default, and what a sweep has to beat
    source: str  # paper and equation
    search: tuple[float, float]  # a sensible range for a log-uniform search
    optional: bool = False  # whether the task still means something without it


@dataclass(frozen=True)
class Parts:
    """What a task has with its options at hand, known before any network is built."""

    terms: dict[str, Term]
    players: dict[str, Player]  # insertion order is update order
    needs: tuple[str, ...]  # fields of a sample

    def without(self, *terms: str) -> Self:
        """The same without these terms."""
        return replace(self, terms={name: term for name, term in self.terms.items() if name not in terms})


class Task(nn.Module):
    """A pretext task: networks, terms, and how inputs become losses. Stateless about training.

    No optimizer, no loop, no device calls, no weights in here: the engine has them.
    The class attributes ``terms``, ``players`` and ``needs`` say what the task has with all that its options can bring;
    an instance has what `parts` says of its own options.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int] = 1  # raised where an equal recipe trains otherwise than before: older results do not count
    terms: dict[str, Term] = {}
    players: dict[str, Player] = {}  # insertion order is update order; a task without players trains nothing
    needs: tuple[str, ...] = ("image",)  # fields of a sample; see components.data
    signs: ClassVar[tuple[Sign, ...]] = ()  # what the logged facts say of a training that has gone wrong
    makes_pictures: ClassVar[bool] = True  # False: `samples` only moves or marks the pixels that it was given
    initial_samples: int = 0  # how many samples `initialize` wants to see before the first step
    joint: tuple[str, ...] = ()  # entries of outputs, a row per sample, that `losses` gets of the whole global batch
    history: tuple[str, ...] = ()  # entries of inputs or outputs, a row per sample, that `remember` gets

    class Options(Config):
        """The task's own options, with ranges and defaults. Overridden by tasks that have any."""

    trunk: Encoder

    @classmethod
    def parts(cls, options: Any) -> Parts:
        """Terms, players and needs with these ``options`` (the task's own ``Options``), without building anything.

        Overridden by tasks where they depend on the options.
        """
        return Parts(cls.terms, cls.players, cls.needs)

    def __init__(self, options: Config, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        """Build the networks for images of ``image_size`` pixels a side and ``classes`` labels (0: unlabelled)."""
        super().__init__()
        parts = self.parts(options)
        self.terms, self.players, self.needs = parts.terms, parts.players, parts.needs

    def initialize(self, batch: Batch) -> None:
        """Look at the first ``initial_samples`` samples before training (rescaling, class frequencies, ...).

        Every rank sees the same samples. What it learns must live in parameters or buffers.
        """

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        """Corrupt, mask, convert colour, sample z. ``batch['image']`` is (B, 3, H, W) in [0, 1]."""
        raise NotImplementedError

    def global_means(self, inputs: Tensors) -> tuple[str, ...]:
        """Names of scalar entries of ``inputs`` that the engine replaces by their mean over the global batch.

        Needed by terms whose denominator is data (masked pixels, rebalancing weights): divide by the entry, and the
        term does not depend on how the batch is cut.
        """
        return ()

    def forward(self, inputs: Tensors) -> Tensors:
        """What the players share; runs once per step, with a graph for the one player that is not ``detached``."""
        raise NotImplementedError

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        """{term: scalar}: the unweighted terms of ``player``, each a mean over the samples of the slice.

        Entries with a "/" in their name are no terms, but facts to be logged ("discriminator/accuracy_real").
        ``outputs`` is what `forward` returned, with its graph unless the player is ``detached``. Parameters of the
        other players do not require gradients during the call. Entries named in ``joint`` have the rows of the global
        batch, in its order; a term is made of these alone, as a mean over all, or of the slice's own entries.
        """
        raise NotImplementedError

    @torch.no_grad()
    def remember(self, values: Tensors) -> None:
        """Update buffers, such as a pool of images, at the end of a step.

        ``values``: the entries named in ``history``, of the whole global batch in its order. Every rank gets the same,
        so every rank's buffers stay the same; `losses` sees them as they were when the step began.
        """
        raise NotImplementedError

    def encoder(self) -> Encoder:
        """The encoder that is saved and scored; it shares weights with the task. Here: the network called ``trunk``."""
        return self.trunk

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        """{title: (B, 3, H, W) in [0, 1]}: pictures that a person wants to see, in the order to show them.

        Titles that are fixed words: "input", "prediction" for what the task makes, "truth" where there is one, and
        "generated" for what it makes of noise alone where the prediction is made of the input.
        """
        return {}


class Baseline(Task):
    """The encoder without training: no terms, no players."""

    def __init__(self, options: Config, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.trunk = build_encoder(encoder)
        deepest_shape(self.trunk, image_size)  # an encoder that does not take such images says so before it is scored

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        return {"image": batch["image"]}

    def forward(self, inputs: Tensors) -> Tensors:
        return {}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        return {}


_REGISTRY: Registry[type[Task]] = Registry("components.tasks", "task")


def register(cls: type[Task]) -> type[Task]:
    """Class decorator: makes a task known by its ``name``."""
    _REGISTRY.register(cls.name, cls, cls)
    return cls


def all_tasks() -> dict[str, type[Task]]:
    """Every task, by name: each module beside this file is imported once and registers itself."""
    return _REGISTRY.all()


def get_task(name: str) -> type[Task]:
    """The task class called ``name``; UserError with the nearest name otherwise."""
    return _REGISTRY.get(name)


def parts_of(name: str, options: dict[str, Any]) -> Parts:
    """What the task called ``name`` has with these options of a recipe, without building its networks.

    Raises UserError for an unknown task, and for options that it does not have or whose values are out of range.
    """
    task = get_task(name)
    return task.parts(task.Options.parse(options, "options."))


def check_pictures(task: type[Task]) -> None:
    """Raise UserError for a task that makes no pictures: there is nothing to generate, and nothing to measure."""
    if not makes_pictures(task):
        raise no_pictures(task.name)


def no_pictures(task: str) -> UserError:
    """The error for a task that makes none; names those that do."""
    able = ", ".join(name for name, each in all_tasks().items() if makes_pictures(each))
    return UserError(f"task {task!r} makes no pictures: give the run of one that does ({able})")


def makes_pictures(task: type[Task]) -> bool:
    """Whether what the task shows of itself was made by a network, and not only moved or marked by one."""
    return task.makes_pictures and task.samples is not Task.samples


def build_task(
    name: str, options: dict[str, Any], encoder: EncoderConfig, image_size: int, classes: int, seed: int
) -> Task:
    """A task with its networks, initialized from ``seed`` alone (the global random state is left as it was).

    May be called from several threads.
    """
    cls = get_task(name)
    parsed = cls.Options.parse(options, "options.")
    if "label" in cls.parts(parsed).needs:
        check_labels(name, classes)
    with _INITIALIZING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(parsed, encoder, image_size, classes)


def check_labels(task: str, classes: int) -> None:
    """Raise UserError where a task that needs labels gets data without."""
    if classes == 0:
        raise UserError(f"task {task!r} needs labels, and the data has none: use a labelled source or another task")


def resolve_weights(task: str, terms: Mapping[str, Term], weights: Mapping[str, float]) -> dict[str, float]:
    """The effective weight of each of the ``terms``: the recipe's where it names one, the published one elsewhere.

    Raises UserError, which names the ``task``, for a weight of a term that is not among them.
    """
    extra = [term for term in weights if term not in terms]
    if extra:
        raise unknown("term", extra[0], terms, owner=f"task {task!r}")
    return {term: float(weights.get(term, spec.weight)) for term, spec in terms.items()}
