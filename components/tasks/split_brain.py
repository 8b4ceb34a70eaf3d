"""Split-brain autoencoder: one half of the picture's data predicts the other, and the other way round.

Legend of shape suffixes: B samples, C channels, H height, W width (of the image or of the smaller target), Q bins,
T the two trunks, N all samples for both.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components import color, losses
from components.config import EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.networks.decoders import Bottleneck, Decoder, deepest_shape
from components.networks.encoder import TwoTrunks, above_diagonal, build_encoder
from components.tasks.base import Batch, Parts, Player, Task, Tensors, Term, register

_TRUNKS = ("first", "second")  # of the encoder, and the names of what is predicted from their maps
_LIGHTNESS_BINS = 50  # of L in [0, 100]
_CHANNELS = {"l": slice(0, 1), "ab": slice(1, 3)}  # of a Lab picture
_SEEN = {"channels": "l+ab", "diagonal": "diagonal"}  # the encoder's input, by how the data is split
# What the first and the second trunk predict, by how the data is split.
_PREDICTED = {"channels": (("ab",), ("l",)), "diagonal": (("l", "ab"), ("l", "ab"))}


@register
class SplitBrain(Task):
    """Two trunks of half the width, each with a decoder of its own; the encoder concatenates their maps.

    No optimizer is printed with the paper: Adam .9/.99 at 3e-3, as for our colorization.
    """

    name = "split_brain"
    summary = "Predict colours from lightness and lightness from colours, or each half of the picture from the other"
    source = "Zhang, Isola & Efros 2017, Split-Brain Autoencoders"
    terms = {
        "cross_entropy": Term(1.0, "Zhang et al. 2017, equation 3, summed over what is predicted (classes)", (0.1, 10)),
        "l2": Term(
            1.0, "Zhang et al. 2017, equation 2, as a mean, summed over what is predicted (regression)", (0.1, 10)
        ),
    }
    players = {"autoencoder": Player(("trunk", "decoders"), OptimizerConfig(lr=3e-3, betas=(0.9, 0.99)))}

    class Options(Task.Options):
        """What may be said under ``options``."""

        split: Literal["channels", "diagonal"] = Field(
            "channels", description="L against ab, or the pixels above the diagonal against those below"
        )
        target: Literal["classes", "regression"] = Field(
            "classes", description="bins of L and of the ab plane, or L, a and b themselves"
        )
        reduction: int = Field(4, ge=1, description="side of the image over side of the predicted maps")
        temperature: float = Field(0.38, gt=0, description="of the annealed mean that turns bins into pictures")

    trunk: TwoTrunks
    bins_Q2: Tensor
    lightness_Q1: Tensor
    hidden_THW: Tensor
    weight_THW: Tensor

    @classmethod
    def parts(cls, options: Options) -> Parts:
        return super().parts(options).without("cross_entropy" if options.target == "regression" else "l2")

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options
        self.regression = options.target == "regression"
        (self.term,) = self.terms
        self.predicted = _PREDICTED[options.split]
        trunk = build_encoder(encoder.model_copy(update={"input": _SEEN[options.split]}))
        assert isinstance(trunk, TwoTrunks)
        self.trunk = trunk
        self.register_buffer("bins_Q2", color.gamut_bins(), persistent=False)
        self.register_buffer("lightness_Q1", color.lightness_bins(_LIGHTNESS_BINS)[:, None], persistent=False)
        self.target_side = max(1, image_size // options.reduction)
        above_HW = above_diagonal(image_size, image_size, torch.device("cpu"))
        hidden_THW = torch.stack([~above_HW, above_HW] if options.split == "diagonal" else [above_HW | True] * 2)
        self.register_buffer("hidden_THW", hidden_THW, persistent=False)
        weight_THW = F.adaptive_avg_pool2d(hidden_THW.float(), self.target_side)
        self.register_buffer("weight_THW", weight_THW, persistent=False)
        values = {"l": 1, "ab": 2} if self.regression else {"l": _LIGHTNESS_BINS, "ab": len(self.bins_Q2)}
        self.out_channels = [[values[name] for name in names] for names in self.predicted]
        channels, side = deepest_shape(trunk, image_size)
        self.decoders = nn.ModuleList(
            self._decoder(channels // 2, side, sum(out), encoder.width) for out in self.out_channels
        )

    def _decoder(self, channels: int, side: int, out_channels: int, width: int) -> nn.Module:
        """What is asked of the other half of the picture has to be carried across it first; of other channels, not."""
        if self.options.split == "channels":
            return Decoder(channels, side, out_channels, self.target_side, width)
        return nn.Sequential(
            Bottleneck(channels, side, width), Decoder(width, side, out_channels, self.target_side, width)
        )

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        """The targets are means over the hidden pixels of each place of the smaller map."""
        native_B3HW = self.trunk.convert(batch["image"])
        hidden_BTCHW = native_B3HW[:, None] * self.hidden_THW[:, None]
        small_NCHW = F.adaptive_avg_pool2d(hidden_BTCHW.flatten(0, 1), self.target_side)
        target_BTCHW = small_NCHW.view(-1, 2, *small_NCHW.shape[1:]) / self.weight_THW[:, None].clamp_min(1e-6)
        return {"image": batch["image"], "native": native_B3HW, "target": target_BTCHW}

    def forward(self, inputs: Tensors) -> Tensors:
        deepest = self.trunk.layers[-1]
        maps = self.trunk.encode_apart(inputs["native"])
        predictions = (decoder(seen[deepest]) for decoder, seen in zip(self.decoders, maps, strict=True))
        return dict(zip(_TRUNKS, predictions, strict=True))

    def _predictions(self, outputs: Tensors) -> list[tuple[int, str, Tensor]]:
        """(trunk, what, prediction) for everything that is predicted."""
        return [
            (k, name, part)
            for k, (names, sizes) in enumerate(zip(self.predicted, self.out_channels, strict=True))
            for name, part in zip(names, torch.split(outputs[_TRUNKS[k]], sizes, dim=1), strict=True)
        ]

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        facts: Tensors = {}
        for k, name, prediction in self._predictions(outputs):
            target_BCHW, weight_HW = inputs["target"][:, k, _CHANNELS[name]], self.weight_THW[k]
            if self.regression:
                loss = losses.l2(prediction, target_BCHW, weight_HW, weight_HW.mean())
            else:
                index_B1HW = self._bins(name, target_BCHW)
                one_hot = torch.ones_like(target_BCHW[:, :1])
                loss = losses.soft_cross_entropy(prediction, index_B1HW, one_hot, weight_HW, weight_HW.mean())
            key = f"{self.term}/{name}"
            facts[key] = facts[key] + loss if key in facts else loss
        return {self.term: torch.stack([*facts.values()]).sum(), **facts}

    def _bins(self, name: str, target_BCHW: Tensor) -> Tensor:
        """The nearest bin (B, 1, H, W) of L or of ab, as the trunks see them."""
        lab_BCHW = color.unscale_lab(target_BCHW)
        if name == "l":
            return color.lightness_index(lab_BCHW, _LIGHTNESS_BINS)
        return color.nearest_bins(lab_BCHW, self.bins_Q2, 1)[0]

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        """The colours of the first trunk and the lightness of the second, or each half as the other trunk has it."""
        image_B3HW = inputs["image"]
        truth_B3HW = color.rgb_to_lab(image_B3HW)
        rebuilt = [truth_B3HW.clone(), truth_B3HW.clone()]
        for k, name, prediction in self._predictions(self(inputs)):
            lab_BCHW = self._values(name, prediction.float())
            rebuilt[k][:, _CHANNELS[name]] = F.interpolate(
                lab_BCHW, size=image_B3HW.shape[2:], mode="bilinear", align_corners=False
            )
        first_B3HW, second_B3HW = (color.lab_to_rgb(lab_B3HW) for lab_B3HW in rebuilt)
        if self.options.split == "diagonal":
            painted_B3HW = torch.where(self.hidden_THW[0], first_B3HW, second_B3HW)
            seen_B3HW = image_B3HW.masked_fill(self.hidden_THW[0], 0.5)
            return {"input": seen_B3HW, "prediction": painted_B3HW, "truth": image_B3HW}
        grey_B3HW = color.grey_picture(truth_B3HW[:, :1])
        return {"input": grey_B3HW, "prediction": first_B3HW, "lightness": second_B3HW, "truth": image_B3HW}

    def _values(self, name: str, prediction_BCHW: Tensor) -> Tensor:
        """L or ab in their own units, from logits or from regressed values."""
        if self.regression:
            return color.unscale_lab(prediction_BCHW)
        bins = self.lightness_Q1 if name == "l" else self.bins_Q2
        return color.annealed_mean(prediction_BCHW, bins, self.options.temperature)
