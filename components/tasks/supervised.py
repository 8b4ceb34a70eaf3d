"""Supervised classification: what labels give, the upper end of every comparison.

Legend of shape suffixes: B samples, H height, W width.
"""

import torch
from torch import Tensor

from components import losses
from components.config import Config, EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.networks.decoders import Classifier, deepest_shape
from components.networks.encoder import build_encoder
from components.tasks.base import Batch, Player, Task, Tensors, Term, register


@register
class Supervised(Task):
    """Cross-entropy on the labels. The optimizer is the project's choice, Adam at 1e-3, not a published one."""

    name = "supervised"
    summary = "Classify with labels: the reference for every pretext task"
    source = "Krizhevsky, Sutskever & Hinton 2012, for the loss"
    makes_pictures = False
    needs = ("image", "label")
    terms = {"cross_entropy": Term(1.0, "the usual loss of a classifier", (0.1, 10.0))}
    players = {"classifier": Player(("trunk", "head"), OptimizerConfig(lr=1e-3))}

    def __init__(self, options: Config, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.trunk = build_encoder(encoder)
        self.head = Classifier(deepest_shape(self.trunk, image_size)[0], classes)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        return {"image": batch["image"], "label": batch["label"]}

    def forward(self, inputs: Tensors) -> Tensors:
        maps = self.trunk(inputs["image"])
        return {"logits": self.head(maps[self.trunk.layers[-1]])}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        return {"cross_entropy": losses.cross_entropy(outputs["logits"], inputs["label"])}

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        """The images, and the same with a frame: green where the class was right, red where it was not."""
        image_B3HW = inputs["image"]
        right_B = self(inputs)["logits"].argmax(1) == inputs["label"]
        inside_HW = torch.zeros(image_B3HW.shape[2:], dtype=torch.bool, device=image_B3HW.device)
        width = max(1, image_B3HW.shape[-1] // 16)
        inside_HW[width:-width, width:-width] = True
        colour_B3 = torch.stack([~right_B, right_B, torch.zeros_like(right_B)], dim=1).to(image_B3HW)
        framed_B3HW = torch.where(inside_HW, image_B3HW, colour_B3[:, :, None, None])
        return {"input": image_B3HW, "prediction (green: right)": framed_B3HW}
