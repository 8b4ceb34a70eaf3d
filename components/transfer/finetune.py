"""Fine-tuning: the encoder is trained on with a linear layer on the average of its deepest map.

Legend of shape suffixes: N samples of a split, B of a batch, C channels, H height, W width, K classes.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from components.config import FrozenConfig, Positives, ProbeConfig
from components.data.scramble import Int64
from components.errors import Diverged
from components.networks.encoder import Encoder
from components.transfer.features import Features, evaluating, extract, reproducible, subset
from components.transfer.heads.classifying import Batches, TrainedConfig, score_trained
from components.transfer.heads.fitting import FitConfig, Group, fit, fit_of
from components.transfer.heads.memory_layout import training_layout
from components.transfer.probe import LayerProbe, linear_probe
from components.transfer.protocol import BenchmarkRun, Datasets, Score, register_benchmark
from components.transfer.recalibration import recalibrated

PROTOCOL = "finetune/1"  # changes with anything that changes scores
CLIP = 10.0
PENALTY = 1e-2  # of the probe that the linear layer begins as: with less, its weights are too large to go on from


class FinetuneConfig(TrainedConfig):
    """The protocol of fine-tuning; it is stored beside every score."""

    name: str = "finetune"
    kind: Literal["finetune"] = "finetune"
    first: Literal["head", "all"] = Field(
        "head", description="head: the linear layer begins as the linear probe of the frozen encoder; all: at zero"
    )
    lrs: Positives = Field(
        (3e-3, 1e-2), description="largest learning rates of AdamW, a fit each; the best on the validation split counts"
    )
    decay: float = Field(
        0.7, gt=0, le=1, description="learning rate of a layer, in units of the one behind it; the deepest has it once"
    )
    head_lr: float = Field(1.0, gt=0, description="learning rate of the linear layer, in units of `lrs`")
    samples: int | None = Field(5000, ge=10, description="training samples; None uses all")
    batch: int = Field(64, ge=2, description="samples per optimizer step")
    weight_decay: float = Field(1e-2, ge=0, description="decoupled from the gradient (AdamW)")

    def fitting(self, lr: float) -> FitConfig:
        """How the encoder is fitted at one of the learning rates."""
        return fit_of(self, lr, clip=CLIP)


class Tuned(nn.Module):
    """A copy of an encoder with a linear layer on the average of its deepest map: RGB (B, 3, H, W) -> (B, K)."""

    def __init__(self, encoder: Encoder, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = copy.deepcopy(encoder).requires_grad_(True), copy.deepcopy(head)

    def forward(self, rgb_BCHW: Tensor) -> Tensor:
        map_BCHW = self.encoder.deepest(self.encoder.convert(rgb_BCHW))
        logits_BK: Tensor = self.head(map_BCHW.float().mean((2, 3)))
        return logits_BK


def groups_of(network: Tuned, rgb_BCHW: Tensor, decay: float, head_lr: float) -> list[Group]:
    """The linear layer, and the encoder's parts layer by layer, deep to shallow, ``decay`` times as fast each.

    A part belongs to the shallowest layer that it contributes to, which its gradients on ``rgb_BCHW`` say; so this
    knows of no architecture. What contributes to none is with the deepest. Source: Howard and Ruder 2018, section 3.2.
    """
    encoder = network.encoder
    with evaluating(encoder), torch.enable_grad():
        maps = encoder(rgb_BCHW)
        weights = [each for each in encoder.parameters() if each.requires_grad]
        layer_of: dict[Tensor, int] = {}
        for number, layer in enumerate(encoder.layers):
            found = torch.autograd.grad(maps[layer].sum(), weights, retain_graph=True, allow_unused=True)
            for weight, gradient in zip(weights, found, strict=True):
                if gradient is not None:
                    layer_of.setdefault(weight, number)
    deepest = len(encoder.layers) - 1
    by_layer: list[list[nn.Module]] = [[] for _ in encoder.layers]
    for part, own in _parts(encoder):
        by_layer[min((layer_of.get(each, deepest) for each in own), default=deepest)].append(part)
    steps = range(1, len(by_layer) + 1)
    tuned = [Group(parts, lr=decay**step) for step, parts in zip(steps, reversed(by_layer), strict=True)]
    return [Group([network.head], lr=head_lr), *(group for group in tuned if group.modules)]


def _parts(module: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
    """Modules that have all of ``module``'s parameters and buffers among them, each once, and their parameters."""
    for part in module.modules():
        own = list(part.parameters(recurse=False))
        if not list(part.children()):
            yield part, own
        elif own:
            yield nn.ParameterList(own), own


def probe_of(
    config: FinetuneConfig, encoder: Encoder, datasets: Datasets, device: torch.device
) -> tuple[nn.Linear, LayerProbe]:
    """The linear probe of the averages of the deepest map, as a layer of its raw values, and how good it is on val."""
    layer = encoder.layers[-1]
    width = encoder.channels[layer]
    frozen = FrozenConfig.parse(
        {"name": config.name, "kind": config.kind, "layers": (layer,), "features": max(16, width)}
        | {"precision": config.precision}
    )
    ids = {"train": subset(len(datasets["train"]), config.samples), "val": None}
    found = {split: extract(encoder, datasets[split], ids[split], frozen, device) for split in ids}
    means = {
        split: Features({layer: each.layers[layer].view(len(each.labels), width, -1).mean(2)}, each.labels)
        for split, each in found.items()
    }
    probe = linear_probe(means["train"], means["val"], ProbeConfig(penalties=(PENALTY,)), device)[layer]
    standard, weight_CK = probe.classifier.standard, probe.classifier.weight_DK
    raw_CK = standard.scale_D[:, None] * weight_CK
    head = nn.Linear(*raw_CK.shape)
    with torch.no_grad():
        head.weight.copy_(raw_CK.T)
        head.bias.copy_(probe.classifier.bias_K - standard.mean_D @ raw_CK)
    return head, probe


@register_benchmark(
    FinetuneConfig(),
    FinetuneConfig(name="finetune_all", first="all", head_lr=10),  # from zero, it would lag behind
    FinetuneConfig(name="finetune_long", first="all", head_lr=10, epochs=40),  # for encoders that begin at random
    FinetuneConfig(name="finetune_full", samples=None, epochs=50, batch=128, lrs=(1e-3, 3e-3, 1e-2)),
    summary="The encoder trained on, with a linear layer on the average of its deepest map",
    source="linear layer first: Kumar et al. 2022, section 4; layer-wise rates: Howard and Ruder 2018, section 3.2",
    check=lambda config, encoder: None,
)
def run_finetune(config: FinetuneConfig, encoder: Encoder, datasets: Datasets, run: BenchmarkRun) -> Score:
    """Top-1 at the best learning rate: one fit each, all on val, then the chosen one once on test.

    The encoder is left as it was. Raises Diverged where every learning rate is too large.
    """
    batches = Batches(datasets["train"], config, run.device)
    head = nn.Linear(encoder.channels[encoder.layers[-1]], batches.classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    about: dict[str, Any] = {
        "format": PROTOCOL,
        "classifier": "a linear layer on the average of the deepest map, the encoder with it",
    }
    if config.first == "head":
        # Tuning normalizes by batches, and so must what the probe is fitted to, or it is of another network.
        encoder = recalibrated(encoder, datasets["train"], "train", run.device)
        head, probe = probe_of(config, encoder, datasets, run.device)
        about["head"] = {"val": probe.val, "penalty": probe.penalty}
    networks: dict[str, Tuned] = {}
    ended: dict[str, float | str] = {}
    for lr in config.lrs:
        choice = f"lr {lr:g}"
        network = Tuned(encoder, head).to(run.device)
        try:
            ended[choice] = _tuned(config, lr, network, batches, run)
            networks[choice] = network.eval()
        except Diverged as error:
            ended[choice] = failed = str(error)
    if not networks:
        raise Diverged(f"{failed}: give smaller learning rates, such as --set benchmark.lrs=[{min(config.lrs) / 10:g}]")

    def predict(rgb_BCHW: Tensor, wanted: Sequence[str]) -> Mapping[str, Tensor]:
        with reproducible(run.device, config.precision):
            return {choice: networks[choice](rgb_BCHW) for choice in wanted}

    about["train_loss"] = ended
    return score_trained(config, encoder, datasets, run, batches, about, tuple(networks), predict)


def _tuned(config: FinetuneConfig, lr: float, network: Tuned, batches: Batches, run: BenchmarkRun) -> float:
    """Train the network at one learning rate; returns its loss over the last tenth of the steps."""
    groups = groups_of(network, batches.read(np.zeros(1, np.int64), 0)[0], config.decay, config.head_lr)
    network.train()

    def loss(places_B: Int64, step: int) -> Mapping[str, Tensor]:
        rgb_BCHW, label_B = batches.read(places_B, step)
        rgb_BCHW = rgb_BCHW.contiguous(memory_format=training_layout(network))
        with reproducible(run.device, config.precision):
            return {"cross_entropy": F.cross_entropy(network(rgb_BCHW), label_B)}

    return fit(f"finetune-{lr:g}", groups, config.fitting(lr), len(batches), loss, run)["cross_entropy"]
