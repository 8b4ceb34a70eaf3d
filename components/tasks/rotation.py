"""Rotation: by how many quarter turns was this picture turned?

Legend of shape suffixes: B samples, R turned copies (all samples, four times over), H height, W width.
"""

import torch
from torch import Tensor

from components import losses
from components.config import Config, EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.networks.decoders import Classifier, deepest_shape
from components.networks.encoder import build_encoder
from components.tasks.base import Batch, Player, Task, Tensors, Term, register

_TURNS = 4  # quarter turns, none among them


@register
class Rotation(Task):
    """Cross-entropy over the four rotations of every image, all in the batch: a batch of 128 is 512 pictures."""

    name = "rotation"
    summary = "Tell by how many quarter turns a picture was rotated"
    source = "Gidaris, Singh & Komodakis 2018, Unsupervised Representation Learning by Predicting Image Rotations"
    makes_pictures = False
    terms = {"cross_entropy": Term(1.0, "Gidaris et al. 2018, equations 2 and 3", (0.1, 10.0))}
    players = {"classifier": Player(("trunk", "head"), OptimizerConfig(name="sgd", lr=0.1, weight_decay=5e-4))}

    def __init__(self, options: Config, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.trunk = build_encoder(encoder)
        self.head = Classifier(deepest_shape(self.trunk, image_size)[0], _TURNS)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        image_B3HW = batch["image"]
        turned_R3HW = torch.cat([image_B3HW.rot90(k, (2, 3)) for k in range(_TURNS)])
        turns_R = torch.arange(_TURNS, device=image_B3HW.device).repeat_interleave(len(image_B3HW))
        return {"image": turned_R3HW, "turns": turns_R}

    def forward(self, inputs: Tensors) -> Tensors:
        maps = self.trunk(inputs["image"])
        return {"logits": self.head(maps[self.trunk.layers[-1]])}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        return {"cross_entropy": losses.cross_entropy(outputs["logits"], inputs["turns"])}

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        """One turn of every image (they take turns), turned back as predicted, and upright."""
        pictures, turns_R = inputs["image"], inputs["turns"]
        B = len(pictures) // _TURNS
        rows = [(i % _TURNS) * B + i for i in range(B)]
        predicted = self(inputs)["logits"].argmax(1)[rows].tolist()

        def back(by: list[int]) -> Tensor:
            return torch.stack([pictures[r].rot90(-k, (1, 2)) for r, k in zip(rows, by, strict=True)])

        return {"input": pictures[rows], "prediction": back(predicted), "truth": back(turns_R[rows].tolist())}
