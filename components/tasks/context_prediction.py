"""Context prediction: on which side of this patch does that one lie?

Legend of shape suffixes: B samples, P the nine patches of a sample (row by row, the centre is the fifth), D the eight
directions, C channels, H height, W width, N patches of all samples.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from components import losses
from components.config import EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.errors import UserError
from components.networks.decoders import deepest_shape, fitting_side
from components.networks.encoder import build_encoder
from components.networks.patches import PatchHead, cut_patches, encode_patches, paste_patches
from components.tasks.base import Batch, Player, Task, Tensors, Term, register

_PATCHES = 9  # three rows of three
_CENTRE = 4  # the number of the patch in the middle
_DIRECTIONS = 8  # the patches around it
_NOISE = 0.01  # deviation of what replaces a dropped channel, in units of that of the kept one


@register
class ContextPrediction(Task):
    """Cross-entropy over the eight neighbours of a patch, all of them in the batch; the trunk sees one patch at a time.

    Against shortcuts: a gap between patches and jitter of each, so that no line continues; and all but one colour
    channel replaced by noise, so that the shift of colours that a lens makes does not tell the place.
    """

    name = "context_prediction"
    summary = "Tell on which of eight sides of a patch another one lies"
    source = "Doersch, Gupta & Efros 2015, Unsupervised Visual Representation Learning by Context Prediction"
    makes_pictures = False
    terms = {"cross_entropy": Term(1.0, "Doersch et al. 2015, section 3: mean over the eight neighbours", (0.1, 10.0))}
    players = {"classifier": Player(("trunk", "head"), OptimizerConfig(lr=1e-3))}

    class Options(Task.Options):
        """What may be said under ``options``."""

        patch: int | None = Field(None, ge=2, description="side of a patch in pixels; null: a quarter of the image's")
        jitter: int | None = Field(
            None, ge=0, description="pixels by which a patch may move each way; null: 1/32 of the image's side"
        )
        gap: int | None = Field(
            None,
            ge=0,
            description="pixels between patches, before jitter; null: all there is room for, at most half a patch",
        )
        colour: Literal["drop", "keep"] = Field(
            "drop", description="drop: two of three channels of each patch become noise; keep: none"
        )

    corner_P2: Tensor

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options
        self.image_size = image_size
        self.side = image_size // 4 if options.patch is None else options.patch
        self.jitter = image_size // 32 if options.jitter is None else options.jitter
        free = image_size - 3 * self.side - 2 * self.jitter
        gap = max(0, min(free // 2, self.side // 2)) if options.gap is None else options.gap
        self.room = free - 2 * gap
        if self.room < 0:
            raise UserError(
                f"three patches of {self.side} pixels, two gaps of {gap} and jitter of {self.jitter} either way do not "
                f"fit into {image_size} pixels: make options.patch, options.gap or options.jitter smaller"
            )
        steps = self.jitter + (self.side + gap) * torch.arange(3)
        self.register_buffer("corner_P2", torch.cartesian_prod(steps, steps), persistent=False)
        self.trunk = build_encoder(encoder)
        self.seen_side = fitting_side(self.trunk, self.side)
        channels, side = deepest_shape(self.trunk, self.seen_side)
        self.head = PatchHead(channels, side, 2, encoder.width, _DIRECTIONS)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        image_B3HW = batch["image"]
        jitter_BP2 = draws.integers(2 * self.jitter + 1, _PATCHES, 2) - self.jitter
        corner_BP2 = self.corner_P2 + jitter_BP2 + draws.integers(self.room + 1, 1, 2)
        patches_BP3HW = cut_patches(image_B3HW, corner_BP2, self.side)
        inputs = {"image": image_B3HW, "patches": patches_BP3HW, "corner": corner_BP2}
        if self.options.colour == "drop":
            kept_BP3 = draws.integers(3, _PATCHES, 1) == torch.arange(3, device=image_B3HW.device)
            noise_BP3HW = draws.normal(*patches_BP3HW.shape[1:])
            inputs["patches"] = drop_channels(patches_BP3HW, kept_BP3, noise_BP3HW)
        return inputs

    def forward(self, inputs: Tensors) -> Tensors:
        patches_BP3HW = inputs["patches"]
        maps_NCHW, patches_BP = encode_patches(self.trunk, patches_BP3HW, self.seen_side)
        centre_BD = patches_BP[:, _CENTRE, None].expand(-1, _DIRECTIONS)
        neighbours_BD = torch.cat([patches_BP[:, :_CENTRE], patches_BP[:, _CENTRE + 1 :]], dim=1)
        pairs_BD2 = torch.stack([centre_BD, neighbours_BD], dim=2)
        return {"logits": self.head(maps_NCHW, pairs_BD2.flatten(0, 1)).unflatten(0, (-1, _DIRECTIONS))}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        logits_BDK = outputs["logits"]
        direction_BD = torch.arange(_DIRECTIONS, device=logits_BDK.device).expand(logits_BDK.shape[:2])
        return {"cross_entropy": losses.cross_entropy(logits_BDK.flatten(0, 1), direction_BD.flatten())}

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        """The centre alone; all neighbours put where they were predicted; and the picture."""
        patches_BP3HW, corner_BP2 = inputs["patches"], inputs["corner"]
        centre_B13HW = patches_BP3HW[:, _CENTRE : _CENTRE + 1]
        alone_B3HW = paste_patches(centre_B13HW, corner_BP2[:, _CENTRE : _CENTRE + 1], self.image_size)
        direction_BD = self(inputs)["logits"].argmax(2)
        place_BD = direction_BD + (direction_BD >= _CENTRE)
        place_BP = torch.cat(
            [place_BD[:, :_CENTRE], torch.full_like(place_BD[:, :1], _CENTRE), place_BD[:, _CENTRE:]], 1
        )
        put_BP2 = corner_BP2.gather(1, place_BP[..., None].expand(-1, -1, 2))
        rebuilt_B3HW = paste_patches(patches_BP3HW, put_BP2, self.image_size)
        return {"input": alone_B3HW.clamp(0, 1), "prediction": rebuilt_B3HW.clamp(0, 1), "truth": inputs["image"]}


def drop_channels(patches_BP3HW: Tensor, kept_BP3: Tensor, noise_BP3HW: Tensor) -> Tensor:
    """Patches of which one channel is left; the others are Gaussian noise about grey, 1/100 as deviant as the one kept.

    ``kept_BP3``: bool, one true in each row. Source: Doersch et al. 2015, section 3.1, "color dropping".
    """
    kept_BP311 = kept_BP3[..., None, None]
    deviation_BP111 = (patches_BP3HW * kept_BP311).sum(2, keepdim=True).std((3, 4), correction=0, keepdim=True)
    return torch.where(kept_BP311, patches_BP3HW, 0.5 + _NOISE * deviation_BP111 * noise_BP3HW)
