"""pix2pix: one picture from another, of which pairs are given: colours from grey, a photograph from edges or labels.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from components import color, losses
from components.config import EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.networks.encoder import build_encoder
from components.networks.norm import each
from components.networks.patchgan import Patch, PatchGAN
from components.networks.unet import UNetDecoder
from components.tasks.base import Batch, Parts, Player, Task, Tensors, Term, register

_ADAM = OptimizerConfig(lr=2e-4, betas=(0.5, 0.999))  # Isola et al. 2017, section 3.3


def sobel(image_B3HW: Tensor) -> Tensor:
    """Outlines of a picture in [0, 1]: dark lines on white, (B, 3, H, W), as strong as the brightness changes there."""
    luma_B1HW = color.luma(image_B3HW)
    across_33 = luma_B1HW.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
    kernels_2133 = torch.stack([across_33, across_33.T])[:, None]
    slope_B2HW = F.conv2d(F.pad(luma_B1HW, (1, 1, 1, 1), mode="replicate"), kernels_2133)
    strength_B1HW = (2 * slope_B2HW.square().sum(1, keepdim=True).sqrt()).clamp(max=1)
    return (1 - strength_B1HW).expand(-1, 3, -1, -1)


@register
class Pix2pix(Task):
    """A U-Net behind any encoder against a PatchGAN that sees input and output; the noise is dropout, at test as well.

    Grey pictures are lightness and colours a and b (Lab), all others RGB; what players see is scaled to [-1, 1], but
    for an RGB trunk, which standardizes. Which values are dropped belongs to the sample: both players see one picture.
    """

    name = "pix2pix"
    summary = "Translate a picture into its partner: U-Net with skips, L1, and a discriminator of patches"
    source = "Isola et al. 2017, Image-to-Image Translation with Conditional Adversarial Networks"
    terms = {
        "discriminator": Term(0.5, "Isola et al. 2017, equation 1; halved: section 3.3", (0.05, 5.0), optional=True),
        "adversarial": Term(1.0, "Isola et al. 2017, equations 1 and 4; non-saturating: 3.3", (0.01, 10.0), True),
        "l1": Term(100.0, "Isola et al. 2017, equations 3 and 4: lambda is 100", (1.0, 1000.0)),
    }
    players = {
        "discriminator": Player(("discriminator",), _ADAM, detached=True),
        "generator": Player(("trunk", "decoder"), _ADAM),
    }

    signs = (losses.WON,)

    class Options(Task.Options):
        """What may be said under ``options``."""

        pair: Literal["grey", "edges", "sobel", "target"] = Field(
            "grey",
            description="grey: colours from lightness; edges: the image from the data's edges; sobel: from edges "
            "computed from it; target: the data's second picture from the first",
        )
        direction: Literal["forward", "backward"] = Field("forward", description="backward swaps input and output")
        skips: bool = Field(True, description="whether the decoder sees all layers of the encoder or the last alone")
        dropout: float = Field(0.5, ge=0, lt=1, description="share dropped behind the first three steps up; the noise")
        patch: Patch = Field(70, description="side in pixels of what the discriminator judges")
        form: losses.Form = Field("non_saturating", description=losses.FORM)

    @classmethod
    def parts(cls, options: Options) -> Parts:
        parts = super().parts(options)
        return replace(parts, needs=("image", options.pair)) if options.pair in ("edges", "target") else parts

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options
        shown, made = (1, 2) if options.pair == "grey" else (3, 3)
        if options.pair == "grey" and options.direction == "backward":
            shown, made = 3, 1
        self.trunk = build_encoder(encoder.model_copy(update={"input": "l"}) if shown == 1 else encoder)
        self.decoder = UNetDecoder(self.trunk, image_size, made, options.skips, options.dropout)
        self.discriminator = PatchGAN(shown + made, image_size, options.patch, encoder.width, encoder.norm)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        image_B3HW, backward = batch["image"], self.options.direction == "backward"
        noise_B = draws.integers(2**31)
        if self.options.pair == "grey":
            lab_B3HW = color.rgb_to_lab(image_B3HW)
            light_B1HW, ab_B2HW = _scaled_light(lab_B3HW[:, :1]), color.scale_lab(lab_B3HW[:, 1:])
            shown, truth = (2 * image_B3HW - 1, light_B1HW) if backward else (light_B1HW, ab_B2HW)
            return {"picture": image_B3HW, "shown": shown, "truth": truth, "noise": noise_B}
        partner_B3HW = sobel(image_B3HW) if self.options.pair == "sobel" else batch[self.options.pair]
        # The image comes from its edges, and the second picture from the image.
        pair = (image_B3HW, partner_B3HW) if self.options.pair == "target" else (partner_B3HW, image_B3HW)
        picture_B3HW, truth_B3HW = reversed(pair) if backward else pair
        return {"picture": picture_B3HW, "shown": 2 * picture_B3HW - 1, "truth": 2 * truth_B3HW - 1, "noise": noise_B}

    def forward(self, inputs: Tensors) -> Tensors:
        maps = self.trunk(inputs["picture"])
        noise = Draws(0, inputs["noise"], "dropout")
        return {"prediction": self.decoder(maps, inputs["picture"].shape[2:], noise)}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        shown, truth, prediction, form = inputs["shown"], inputs["truth"], outputs["prediction"], self.options.form
        fake = torch.cat([shown, prediction], 1)
        if player == "discriminator":
            real_logits, fake_logits = each(self.discriminator, torch.cat([shown, truth], 1), fake)
            judged = losses.discriminator(real_logits, fake_logits, form)
            return {"discriminator": judged, **losses.accuracies(real_logits, fake_logits, form)}
        persuaded = losses.adversarial(self.discriminator(fake), form)
        return {"adversarial": persuaded, "l1": losses.l1(prediction, truth)}

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        shown, picture_B3HW = inputs["shown"], inputs["picture"]
        made_B3HW = self._picture(shown, self(inputs)["prediction"].float())
        if shown.shape[1] == 1:  # the picture is given in colour, and was shown without
            return {"input": color.grey_picture(_light(shown)), "prediction": made_B3HW, "truth": picture_B3HW}
        return {"input": picture_B3HW, "prediction": made_B3HW, "truth": self._picture(shown, inputs["truth"])}

    def _picture(self, shown: Tensor, made: Tensor) -> Tensor:
        """What is made, (B, 1 to 3, H, W) in [-1, 1], as a picture (B, 3, H, W) in [0, 1]."""
        if made.shape[1] == 1:
            return color.grey_picture(_light(made))
        if made.shape[1] == 2:
            return color.lab_to_rgb(torch.cat([_light(shown), color.unscale_lab(made)], 1))
        return (made + 1) / 2


# Lightness as `color.scale_lab` has it but for the last bit: rounded in another order, an equal recipe would no longer
# train the same weights.
def _scaled_light(l_B1HW: Tensor) -> Tensor:
    """L in [0, 100] to [-1, 1]."""
    return l_B1HW / 50 - 1


def _light(scaled_B1HW: Tensor) -> Tensor:
    """L in [0, 100] of what `_scaled_light` returned."""
    return (scaled_B1HW + 1) * 50
