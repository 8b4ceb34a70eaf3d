"""Masked autoencoder: most patches of a picture are hidden, and have to be painted from the few that are not.

Legend of shape suffixes: B samples, C channels, H height, W width, N patches of a picture (row by row), V visible ones,
M hidden ones, D values of a token, P pixel values of a patch.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components import losses
from components.config import EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.errors import UserError
from components.networks.decoders import deepest_shape
from components.networks.encoder import build_encoder
from components.networks.vit import (
    Block,
    VisionTransformer,
    cut_into_patches,
    initialize_xavier,
    pick,
    positions,
    put_together,
)
from components.tasks.base import Batch, Player, Task, Tensors, Term, register

_DECODER = 8  # values of a decoder's token, in units of the encoder's width: 512 as published
_DECODER_HEAD = 32  # of them for each head
_EIGHTH = 8  # patches along a side, at least, where the encoder has none of its own
_SMALLEST = 1e-6  # added to the variance of a patch


@register
class MaskedAutoencoder(Task):
    """L2 of the hidden patches; a vision transformer sees the visible ones alone, and a small decoder all places.

    Other encoders see the picture with zeros, the mean colour, in place of what is hidden; the decoder gets what their
    deepest map has at the visible places. So every encoder can have this task, and all are asked for the same.
    """

    name = "masked_autoencoder"
    summary = "Paint the hidden three quarters of a picture's patches from the others, which the encoder sees alone"
    source = "He et al. 2022, Masked Autoencoders Are Scalable Vision Learners"
    terms = {"l2": Term(1.0, "He et al. 2022, section 3: squared error, mean over hidden patches", (0.1, 10.0))}
    players = {
        "autoencoder": Player(
            ("trunk", "decoder"), OptimizerConfig(name="adamw", lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05)
        )
    }

    class Options(Task.Options):
        """What may be said under ``options``."""

        mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of the patches that are hidden")
        norm_pixels: bool = Field(True, description="take mean and deviation out of every patch that is to be painted")
        decoder_depth: int = Field(2, ge=1, description="transformer blocks of the decoder; 8 as published")
        patch: int | None = Field(
            None,
            ge=1,
            description="side of a patch in pixels; null: the encoder's own, or an eighth of the image's or less",
        )

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options
        self.image_size = image_size
        self.trunk = build_encoder(encoder)
        channels, _ = deepest_shape(self.trunk, image_size)
        own = self.trunk.patch if isinstance(self.trunk, VisionTransformer) else None
        self.patch = _patch_side(options.patch, own, image_size)
        self.grid = image_size // self.patch
        self.visible = round(self.grid**2 * (1 - options.mask_ratio))
        if not 0 < self.visible < self.grid**2:
            raise UserError(
                f"options.mask_ratio={options.mask_ratio} leaves {self.visible} of {self.grid**2} patches of "
                f"{self.patch} x {self.patch} pixels visible: give another share, smaller patches or larger images"
            )
        self.decoder = PatchDecoder(channels, _DECODER * encoder.width, options.decoder_depth, 3 * self.patch**2)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        image_B3HW = batch["image"]
        order_BN = draws.uniform(self.grid**2).argsort(dim=1)
        visible_BV, hidden_BM = order_BN[:, : self.visible], order_BN[:, self.visible :]
        hidden_BN = torch.ones_like(order_BN, dtype=torch.bool).scatter(1, visible_BV, False)
        hidden_B1HW = hidden_BN.view(-1, 1, self.grid, self.grid)
        for axis in (2, 3):
            hidden_B1HW = hidden_B1HW.repeat_interleave(self.patch, axis)
        truth_BMP = pick(cut_into_patches(2 * image_B3HW - 1, self.patch), hidden_BM)
        return {
            "native": self.trunk.convert(image_B3HW) * ~hidden_B1HW,
            "visible": visible_BV,
            "hidden": hidden_BM,
            "truth": truth_BMP,
            "image": image_B3HW,
            "mask": hidden_B1HW,
        }

    def forward(self, inputs: Tensors) -> Tensors:
        seen_BVD = self._seen(inputs["native"], inputs["visible"])
        return {"prediction": pick(self.decoder(seen_BVD, inputs["visible"], self.grid), inputs["hidden"])}

    def _seen(self, native_BCHW: Tensor, visible_BV: Tensor) -> Tensor:
        """(B, V, D): what the encoder makes of the visible patches."""
        if isinstance(self.trunk, VisionTransformer):
            return self.trunk.look_at(native_BCHW, visible_BV)
        map_BDHW, grid = self.trunk.deepest(native_BCHW), (self.grid, self.grid)
        if map_BDHW.shape[2] < self.grid:
            map_BDHW = F.interpolate(map_BDHW, size=grid, mode="bilinear", align_corners=False)
        elif map_BDHW.shape[2] > self.grid:
            map_BDHW = F.adaptive_avg_pool2d(map_BDHW, grid)
        return pick(map_BDHW.flatten(2).transpose(1, 2), visible_BV)

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        truth_BMP = inputs["truth"]
        if self.options.norm_pixels:
            mean_BM1, deviation_BM1 = _scale_of(truth_BMP)
            truth_BMP = (truth_BMP - mean_BM1) / deviation_BM1
        return {"l2": losses.l2(outputs["prediction"], truth_BMP)}

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        """With ``norm_pixels`` nobody predicts mean and deviation of a patch: it is painted with the true ones."""
        image_B3HW, hidden_BM = inputs["image"], inputs["hidden"]
        painted_BMP = self(inputs)["prediction"].float()
        if self.options.norm_pixels:
            mean_BM1, deviation_BM1 = _scale_of(inputs["truth"])
            painted_BMP = painted_BMP * deviation_BM1 + mean_BM1
        patches_BNP = cut_into_patches(image_B3HW, self.patch)
        filled_BNP = patches_BNP.scatter(1, hidden_BM[..., None].expand_as(painted_BMP), (painted_BMP + 1) / 2)
        return {
            "input": image_B3HW.masked_fill(inputs["mask"], 0.5),
            "prediction": put_together(filled_BNP, self.patch, *image_B3HW.shape[2:]).clamp(0, 1),
            "truth": image_B3HW,
        }


class PatchDecoder(nn.Module):
    """Tokens of the visible patches to the pixels of all, (B, N, P): a token of its own stands where none is seen.

    Source: He et al. 2022, section 3, "MAE decoder"; the class token is left out.
    """

    def __init__(self, channels: int, values: int, depth: int, pixels: int) -> None:
        """``channels``: values of a token that comes in; ``values``: of the decoder's own; ``pixels``: P."""
        super().__init__()
        self.embed = nn.Linear(channels, values)
        self.mask_token = nn.Parameter(torch.empty(1, 1, values))
        self.blocks = nn.Sequential(*(Block(values, _DECODER_HEAD) for _ in range(depth)))
        self.norm = nn.LayerNorm(values, 1e-6)
        self.pixels = nn.Linear(values, pixels)
        initialize_xavier(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, seen_BVD: Tensor, visible_BV: Tensor, grid: int) -> Tensor:
        """``visible_BV``: the places of ``seen_BVD`` in a square grid of that side."""
        seen_BVD = self.embed(seen_BVD).to(self.mask_token.dtype)
        values = seen_BVD.shape[2]
        masked_BND = self.mask_token.expand(len(seen_BVD), grid * grid, values)
        tokens_BND = masked_BND.scatter(1, visible_BV[..., None].expand_as(seen_BVD), seen_BVD)
        tokens_BND = self.blocks(tokens_BND + positions(grid, grid, values, seen_BVD.device))
        pixels_BNP: Tensor = self.pixels(self.norm(tokens_BND))
        return pixels_BNP


def _patch_side(asked: int | None, own: int | None, image_size: int) -> int:
    """The side of a patch: what the options ask for, or what fits; UserError for one that cannot be."""
    if asked is None:
        fits = [side for side in range(1, max(1, image_size // _EIGHTH) + 1) if image_size % side == 0]
        return own or fits[-1]
    if own not in (None, asked):
        raise UserError(f"options.patch={asked}: the encoder cuts patches of {own} pixels itself: leave it out")
    if image_size % asked:
        sides = ", ".join(str(side) for side in range(2, image_size) if image_size % side == 0) or "1"
        raise UserError(f"options.patch={asked} does not divide the side of the images, {image_size}: give {sides}")
    return asked


def _scale_of(patches_BMP: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every patch over all its values, (B, M, 1) each."""
    variance, mean = torch.var_mean(patches_BMP, dim=2, keepdim=True)
    return mean, (variance + _SMALLEST).sqrt()
