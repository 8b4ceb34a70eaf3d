"""Colorization: the colours of a grey image, as a distribution over bins of the ab plane or as a value.

Legend of shape suffixes: B samples, H height, W width (of the image or of the smaller target), Q bins, N neighbours.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from components import color, losses
from components.config import EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.errors import UserError
from components.networks.decoders import Decoder, deepest_shape
from components.networks.encoder import build_encoder
from components.tasks.base import Batch, Parts, Player, Task, Tensors, Term, register

_CHUNK = 64  # images per conversion in `initialize`


@register
class Colorization(Task):
    """L in, ab out; the encoder sees L only, and saved encoders convert RGB themselves.

    The published optimizer (Adam .9/.99 at 3e-5 with weight decay 1e-3, for 450,000 steps) does not get anywhere in
    the few thousand steps of a small run: the default is Adam .9/.99 at 3e-3 without decay.
    """

    name = "colorization"
    summary = "Predict the colours of a grey image, as classes (rebalanced or not) or by regression"
    source = "Zhang, Isola & Efros 2016, Colorful Image Colorization"
    terms = {
        "cross_entropy": Term(1.0, "Zhang et al. 2016, equation 2 (target: classes)", (0.1, 10.0)),
        "l2": Term(1.0, "Zhang et al. 2016, equation 1, ab / 110, mean over pixels (target: regression)", (0.1, 10.0)),
    }
    players = {"colorizer": Player(("trunk", "decoder"), OptimizerConfig(lr=3e-3, betas=(0.9, 0.99)))}

    class Options(Task.Options):
        """What may be said under ``options``."""

        target: Literal["classes", "regression"] = Field(
            "classes", description="bins of the ab plane, or a and b themselves"
        )
        rebalance: float | None = Field(
            0.5,
            gt=0,
            le=1,
            description="share of a uniform prior when rare colours are weighed up; null: all weigh the same",
        )
        soft_neighbours: int = Field(5, ge=1, le=25, description="bins over which a target is spread; 1: one-hot")
        sigma: float = Field(
            5.0, gt=0, description="width of that spread, and of the smoothing of the prior, in ab units"
        )
        skip_grey: float | None = Field(
            5.0, ge=0, description="skip images whose |a| and |b| stay within that; null: none"
        )
        reduction: int = Field(4, ge=1, description="side of the image over side of the predicted map")
        temperature: float = Field(
            0.38, gt=0, description="of the annealed mean that turns bins into colours for pictures"
        )

    bins_Q2: Tensor
    rebalancing_Q: Tensor

    @classmethod
    def parts(cls, options: Options) -> Parts:
        return super().parts(options).without("cross_entropy" if options.target == "regression" else "l2")

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options
        self.regression = options.target == "regression"
        bins_Q2 = color.gamut_bins()
        self.register_buffer("bins_Q2", bins_Q2, persistent=False)
        self.register_buffer("rebalancing_Q", torch.ones(len(bins_Q2)))
        self.rebalanced = options.rebalance is not None
        # Four million pixels fix 309 frequencies; large images need fewer of them, and memory stays bounded.
        self.initial_samples = max(256, 2**22 // image_size**2) if self.rebalanced else 0
        self.trunk = build_encoder(encoder.model_copy(update={"input": "l"}))
        channels, side = deepest_shape(self.trunk, image_size)
        self.target_side = max(1, image_size // options.reduction)
        out_channels = 2 if self.regression else len(bins_Q2)
        self.decoder = Decoder(channels, side, out_channels, self.target_side, width=2 * encoder.width)

    def _target_ab(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Colours (a, b) at the target's resolution (B, 2, H, W), and which images count (B,): all but grey ones."""
        ab_B2HW = color.rgb_to_lab(image_B3HW)[:, 1:]
        small_B2HW = F.adaptive_avg_pool2d(ab_B2HW, self.target_side)
        if self.options.skip_grey is None:
            return small_B2HW, torch.ones(len(image_B3HW), dtype=torch.bool, device=image_B3HW.device)
        return small_B2HW, ab_B2HW.abs().amax((1, 2, 3)) > self.options.skip_grey

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Measure how often each bin occurs; UserError if there is no colour to learn from."""
        if self.options.rebalance is None:
            return
        counts_Q = torch.zeros(len(self.bins_Q2), dtype=torch.float64)
        for start in range(0, len(batch["image"]), _CHUNK):
            ab_B2HW, counted_B = self._target_ab(batch["image"][start : start + _CHUNK])
            index_BNHW, _ = color.nearest_bins(ab_B2HW[counted_B], self.bins_Q2, 1)
            counts_Q += torch.bincount(index_BNHW.flatten(), minlength=len(counts_Q)).cpu()
        if not counts_Q.any():
            raise UserError(
                f"colorization: the first {len(batch['image'])} images are all grey: use colour images, or another task"
            )
        prior_Q = color.smoothed_prior(counts_Q, self.bins_Q2.cpu(), self.options.sigma)
        self.rebalancing_Q.copy_(color.rebalancing_weights(prior_Q, self.options.rebalance))

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        image_B3HW = batch["image"]
        ab_B2HW, counted_B = self._target_ab(image_B3HW)
        inputs = {"native": self.trunk.convert(image_B3HW), "image": image_B3HW, "ab": color.scale_lab(ab_B2HW)}
        if self.regression and not self.rebalanced:
            weight_BHW = torch.ones_like(ab_B2HW[:, 0])
        else:
            neighbours = 1 if self.regression else self.options.soft_neighbours
            index_BNHW, shares_BNHW = color.soft_encode(ab_B2HW, self.bins_Q2, neighbours, self.options.sigma)
            inputs |= {"index": index_BNHW, "shares": shares_BNHW}
            weight_BHW = self.rebalancing_Q[index_BNHW[:, 0]]
        inputs["weight"] = weight_BHW * counted_B[:, None, None]
        inputs["mean_weight"] = inputs["weight"].mean()
        return inputs

    def global_means(self, inputs: Tensors) -> tuple[str, ...]:
        return ("mean_weight",)

    def forward(self, inputs: Tensors) -> Tensors:
        return {"prediction": self.decoder(self.trunk.deepest(inputs["native"]))}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        prediction, weight_BHW, denominator = outputs["prediction"], inputs["weight"], inputs["mean_weight"]
        if self.regression:
            return {"l2": losses.l2(prediction, inputs["ab"], weight_BHW[:, None], denominator)}
        loss = losses.soft_cross_entropy(prediction, inputs["index"], inputs["shares"], weight_BHW, denominator)
        return {"cross_entropy": loss}

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        prediction = self(inputs)["prediction"].float()
        if self.regression:
            ab_B2HW = color.unscale_lab(prediction)
        else:
            ab_B2HW = color.annealed_mean(prediction, self.bins_Q2, self.options.temperature)
        image_B3HW = inputs["image"]
        light_B1HW = color.rgb_to_lab(image_B3HW)[:, :1]
        ab_B2HW = F.interpolate(ab_B2HW, size=image_B3HW.shape[2:], mode="bilinear", align_corners=False)
        grey_B3HW = color.grey_picture(light_B1HW)
        coloured_B3HW = color.lab_to_rgb(torch.cat([light_B1HW, ab_B2HW], dim=1))
        return {"input": grey_B3HW, "prediction": coloured_B3HW, "truth": image_B3HW}
