"""The engine: trains any task. It knows no task by name and needs torch alone; Ray, where there is Ray, calls it.

One step: inputs for the whole slice, one shared forward, then the players in turn, each with one weighted sum, one
backward, one gradient sum over the ranks and one optimizer step; then the moving average. How a global batch is cut
into ranks and micro-batches does not change the result: terms are per-sample means weighted by the slice's share,
data-dependent denominators are averaged over the global batch first, and random numbers belong to samples
(components.draws). Two exceptions: dropout, and batch statistics across micro-batches of one rank.

Legend of shape suffixes: B samples of the slice at hand.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from components.config import AugmentConfig, OptimizerConfig, TrainingConfig
from components.data.augment import augment
from components.draws import Draws
from components.engine.joining import Joined, Micro, look
from components.engine.optimizers import Rate, learning_rate_factor, load_optimizer, make_optimizer
from components.engine.recording import Recorder
from components.errors import UserError
from components.networks.encoder import Encoder
from components.networks.norm import set_sync
from components.parallel import World, in_layout_of
from components.tasks.base import Batch, Player, Task, Tensors


def weights_at(weights: dict[str, float], changes: Mapping[int, dict[str, float]], step: int) -> dict[str, float]:
    """The weights that count at ``step``: the first ones, and over them all changes up to there."""
    for change in sorted(changes):
        if change <= step:
            weights = weights | changes[change]
    return weights


class Engine:
    """A task in training: networks, one optimizer per player, the moving average, and the step counter."""

    def __init__(
        self,
        task: Task,
        training: TrainingConfig,
        weights: dict[str, float],
        steps: int,
        device: torch.device | str = "cpu",
        world: World | None = None,
        changes: Mapping[int, dict[str, float]] | None = None,
    ) -> None:
        """``weights``: the effective weight of every term; ``steps``: length of the whole run, for the schedules.

        ``changes``: {step: weights that count from there on}, each laid over those before.
        """
        self.device, self.world = torch.device(device), world or World.current()
        self.training, self.weights, self.steps, self.step = training, weights, steps, 0
        self._first_weights, self._changes = weights, changes or {}
        memory_format = torch.channels_last if training.channels_last else torch.contiguous_format
        layout: dict[str, Any] = {"memory_format": memory_format}  # which torch's types do not know
        self.task: Task = task.to(self.device, **layout)
        set_sync(self.task, training.sync_batch_norm)
        if sum(not player.detached for player in task.players.values()) > 1:
            raise UserError(
                f"task {task.name!r}: at most one player may use the graph of forward; mark the others detached"
            )
        self.parameters = {name: self._parameters_of(player) for name, player in task.players.items()}
        # Recorded steps of several ranks would wait for each other inside a graph: those run eagerly.
        recorded = self.device.type == "cuda" and training.record and self.world.size == 1
        self.recorder = Recorder(self.device) if recorded else None
        self.optimizers = {
            name: make_optimizer(self.parameters[name], self._optimizer_config(name, player), recorded)
            for name, player in task.players.items()
        }
        self.rates = {name: Rate(optimizer, self.device) for name, optimizer in self.optimizers.items()}
        self.average = copy.deepcopy(self.task).requires_grad_(False) if training.ema else None
        self._forward: Callable[[Tensors], Tensors] = torch.compile(task.forward) if training.compile else task.forward
        self._losses: Callable[[str, Tensors, Tensors], Tensors] = (
            torch.compile(task.losses) if training.compile else task.losses
        )

    def _parameters_of(self, player: Player) -> list[nn.Parameter]:
        return [p for network in player.networks for p in getattr(self.task, network).parameters()]

    def _optimizer_config(self, name: str, player: Player) -> OptimizerConfig:
        overrides = {**self.training.optimizer, **self.training.players.get(name, {})}
        where = f"training.players.{name}." if name in self.training.players else "training.optimizer."
        return OptimizerConfig.parse({**player.optimizer.model_dump(), **overrides}, where)

    def initialize(self, batch: Batch) -> None:
        """Show the task the first samples, unaugmented, before the first step; every rank must give the same ones."""
        on_device = {key: value.to(self.device) for key, value in batch.items()}
        plain = AugmentConfig(flip=False, shift=0)
        nowhere_B = torch.zeros(len(batch["image"]), dtype=torch.int64, device=self.device)
        self.task.initialize(augment(on_device, plain, Draws(0, nowhere_B)))
        if self.average is not None:
            self.average.load_state_dict(self.task.state_dict())

    def train_step(self, batch: Batch, positions_B: Tensor, total: int, measure: bool = False) -> Tensors:
        """One step of every player on this rank's slice of a global batch of ``total`` samples.

        ``batch``: fields as the loader gives them; ``positions_B``: int64 places in the stream of samples, which seed
        the random numbers. Returns this rank's part of every logged value: sums over ranks are global means.
        ``measure`` adds the gradient norm of every term.
        """
        self._set_learning_rates()
        self._seed_dropout()
        self._set_weights()
        acting = {n: player for n, player in self.task.players.items() if (self.step + 1) % player.every == 0}

        def act(batch: Batch, positions_B: Tensor) -> Tensors:
            return self._act(acting, batch, positions_B, total, measure)

        if self.recorder is None or measure:
            metrics = act(batch, positions_B)
        else:
            metrics = self.recorder.step((*acting, total), act, batch, positions_B)
        self._update_average()
        self.step += 1
        return metrics

    def _act(self, acting: dict[str, Player], batch: Batch, positions_B: Tensor, total: int, measure: bool) -> Tensors:
        """The players' part of a step: what a GPU can repeat without Python, unless terms are measured."""
        micros = self._micro_batches(batch, positions_B, total)
        metrics: Tensors = {}
        keep_graph = len(micros) == 1 and not all(player.detached for player in acting.values())
        for name, player in acting.items():
            norms = self._backward(name, player, micros, metrics, measure, keep_graph)
            self.world.sum_gradients(self.parameters[name])
            metrics |= norms | {f"gradient_norm/{name}": self._clip(name) / self.world.size}
            self.optimizers[name].step()
            self.optimizers[name].zero_grad(set_to_none=True)
        self._remember(micros)
        return metrics

    def _set_learning_rates(self) -> None:
        factor = learning_rate_factor(self.training, self.step, self.steps)
        for rate in self.rates.values():
            rate.set(factor)

    def _set_weights(self) -> None:
        before, self.weights = self.weights, weights_at(self._first_weights, self._changes, self.step)
        if self.recorder is not None and self.weights != before:
            self.recorder.forget()

    def _seed_dropout(self) -> None:
        # Dropout is the one user of torch's own random state: seeding it by the step makes resuming exact.
        seed = (self.training.seed * 1_000_003 + self.step) * 4099 + self.world.rank
        # Not torch.manual_seed: for every kind of accelerator that is not in use it formats the stack, 1 ms a step.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def prepare(self, batch: Batch, positions_B: Tensor) -> Tensors:
        """A batch as the loader gives it -> the task's inputs, on the device, augmented."""
        on_device = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        positions_B = positions_B.to(self.device)
        if self.training.channels_last:  # as bytes, a quarter of what there is to move later; the layout stays
            on_device["image"] = on_device["image"].contiguous(memory_format=torch.channels_last)
        on_device = augment(on_device, self.training.augment, Draws(self.training.seed, positions_B, "augment"))
        with torch.no_grad():
            return self.task.inputs(on_device, Draws(self.training.seed, positions_B))

    def _micro_batches(self, batch: Batch, positions_B: Tensor, total: int) -> list[Micro]:
        parts = min(self.training.micro_batches, len(positions_B))
        cut = {key: value.tensor_split(parts) for key, value in batch.items()}
        micros = []
        for k, positions in enumerate(positions_B.tensor_split(parts)):
            inputs = self.prepare({key: values[k] for key, values in cut.items()}, positions)
            micros.append(Micro(inputs, len(positions) / total))
        for name in self.task.global_means(micros[0].inputs):
            part = torch.stack([micro.inputs[name] * micro.share for micro in micros]).sum(0)
            mean = self.world.sum(part)
            for micro in micros:
                micro.inputs[name] = mean
        return micros

    def _backward(
        self, name: str, player: Player, micros: list[Micro], metrics: Tensors, measure: bool, keep_graph: bool
    ) -> Tensors:
        """Accumulate the player's gradients over the micro-batches; with ``measure``, term by term."""
        parameters = self.parameters[name]
        by_term: dict[str, list[Tensor]] = {}
        # A compiled graph can be walked once; several terms walk it several times.
        forward, losses_of = (self.task.forward, self.task.losses) if measure else (self._forward, self._losses)
        joined = None
        if self.task.joint and len(micros) > 1:
            with self._autocast():
                look(self.task, micros, forward)
        for micro in micros:
            outputs = self._outputs(micro, player, forward, keep_graph)
            if self.task.joint and (len(micros) > 1 or self.world.size > 1):
                joined = joined or Joined(self.task.joint, micros, self.world)
                outputs = joined.around(micro, outputs)
            with self._only(name), self._autocast():
                losses = losses_of(name, micro.inputs, outputs)
            for term, loss in losses.items():
                key = f"loss/{term}" if term in self.weights else term
                metrics[key] = metrics.get(key, 0.0) + loss.detach().float() * micro.share
            weighted = {t: self.weights[t] * micro.share * loss for t, loss in losses.items() if self.weights.get(t)}
            if not measure or len(weighted) < 2:
                if weighted:
                    torch.autograd.backward(torch.stack([*weighted.values()]).sum())
                continue
            for k, (term, loss) in enumerate(weighted.items()):
                gradients = torch.autograd.grad(
                    loss, parameters, retain_graph=k + 1 < len(weighted), materialize_grads=True
                )
                by_term[term] = (
                    [a + b for a, b in zip(by_term[term], gradients, strict=True)] if term in by_term else [*gradients]
                )
        return self._join_terms(parameters, by_term)

    def _join_terms(self, parameters: list[nn.Parameter], by_term: dict[str, list[Tensor]]) -> Tensors:
        """Sum the terms' gradients into ``.grad``; return the norm that each term has over all ranks."""
        norms: Tensors = {}
        for term, gradients in by_term.items():
            flat = torch.cat([g.reshape(-1) for g in gradients])
            norms[f"gradient_norm/term/{term}"] = self.world.sum(flat).norm() / self.world.size
            for parameter, gradient in zip(parameters, gradients, strict=True):
                total = gradient if parameter.grad is None else parameter.grad + gradient
                parameter.grad = in_layout_of(parameter, total)
        return norms

    def _outputs(
        self, micro: Micro, player: Player, forward: Callable[[Tensors], Tensors], keep_graph: bool
    ) -> Tensors:
        """What `forward` gives for a micro-batch: once per step. Only when there are several micro-batches is it run
        again for the player that needs its graph, so that one graph at a time is alive."""
        if not player.detached:
            with self._autocast():
                graph = micro.graph or forward(micro.inputs)
            micro.graph, micro.seen = None, {key: value.detach() for key, value in graph.items()}
            return graph
        if micro.seen is None:
            with self._autocast(), torch.set_grad_enabled(keep_graph):
                graph = forward(micro.inputs)
            micro.graph = graph if keep_graph else None
            micro.seen = {key: value.detach() for key, value in graph.items()}
        return micro.seen

    @contextmanager
    def _only(self, name: str) -> Iterator[None]:
        """Inside, only this player's parameters collect gradients from what is newly computed."""
        others = [p for other, ps in self.parameters.items() if other != name for p in ps]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.training.precision == "bf16")

    def _clip(self, name: str) -> Tensor:
        """The norm of the player's gradients, before they are clipped to ``training.clip``."""
        if self.training.clip is None:
            return nn.utils.get_total_norm([p.grad for p in self.parameters[name] if p.grad is not None])
        return nn.utils.clip_grad_norm_(self.parameters[name], self.training.clip)

    @torch.no_grad()
    def _remember(self, micros: list[Micro]) -> None:
        """Show the task what it wants to remember of the global batch."""
        if not self.task.history:
            return
        entries = [{**micro.inputs, **(micro.seen or {})} for micro in micros]
        self.task.remember({name: self.world.join(torch.cat([e[name] for e in entries])) for name in self.task.history})

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is None or self.training.ema is None:
            return
        decay = min(self.training.ema, (1 + self.step) / (10 + self.step))  # follows quickly while little was averaged
        torch._foreach_lerp_([*self.average.parameters()], [*self.task.parameters()], 1 - decay)
        for mean, now in zip(self.average.buffers(), self.task.buffers(), strict=True):
            mean.copy_(now)

    def not_recorded(self) -> str | None:
        """Why steps run eagerly where they should be replayed, told once; None where they are, or need not be."""
        if self.recorder is None or self.recorder.refusal is None:
            return None
        refusal, self.recorder = self.recorder.refusal, None
        return refusal

    @property
    def averaged(self) -> Task:
        """The task to show and to save: with averaged weights where there is an average."""
        return self.average if self.average is not None else self.task

    def encoder(self) -> Encoder:
        """The encoder to score and to save, of `averaged`."""
        return self.averaged.encoder()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint holds; schedules and random numbers are functions of the step and the seed."""
        return {
            "step": self.step,
            "task": self.task.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, on any number of ranks."""
        self.step = int(state["step"])
        self.task.load_state_dict(state["task"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])
        if self.recorder is not None:
            self.recorder.forget()
