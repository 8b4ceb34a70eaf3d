"""Super-resolution: a picture from a small version of itself. Two players, as in SRGAN.

Legend of shape suffixes: B samples, C channels, H height, W width (h, w: of the small picture).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from components import losses
from components.config import ENCODER_URI, EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.errors import UserError
from components.networks.discriminators import ImageDiscriminator
from components.networks.encoder import build_encoder, load_encoder
from components.networks.frozen import Frozen
from components.networks.init import initialize_normal
from components.networks.upscaler import Upscaler
from components.tasks.base import Batch, Parts, Player, Task, Tensors, Term, register


@register
class SuperResolution(Task):
    """The trunk sees the small picture enlarged again (bicubic); what sub-pixel convolution makes of its maps is added.

    So it sees pictures of the size at which its features are used later; SRGAN's generator works on the small ones. The
    trunk keeps its own initialization, so that without training it is the encoder of the random baseline.
    """

    name = "super_resolution"
    summary = "Enlarge a small picture: reconstruction, a discriminator, and the features of a given encoder"
    source = "Ledig et al. 2017, Photo-Realistic Single Image Super-Resolution Using a GAN (SRGAN)"
    version = 2  # sub-pixel convolution
    terms = {
        "l2": Term(1.0, "Ledig et al. 2017, equation 4, pixels in [-1, 1]", (0.1, 10.0)),
        "adversarial": Term(0.001, "Ledig et al. 2017, equations 3 and 6", (1e-4, 1.0), optional=True),
        "discriminator": Term(1.0, "Ledig et al. 2017, equation 2", (0.1, 10.0), optional=True),
        "perceptual": Term(0.006, "Ledig et al. 2017, equation 5 (options.perceptual)", (1e-4, 1.0), optional=True),
    }
    players = {
        "discriminator": Player(("discriminator",), OptimizerConfig(lr=1e-4), detached=True),
        "generator": Player(("trunk", "upscaler"), OptimizerConfig(lr=1e-3)),
    }

    signs = (losses.WON,)

    class Options(Task.Options):
        """What may be said under ``options``."""

        factor: Literal[2, 4] = Field(2, description="side of the picture over side of the small one")
        filter: Literal["bicubic", "area"] = Field(
            "bicubic", description="how the small one is made: bicubic against aliasing, or means of squares"
        )
        form: losses.Form = Field("non_saturating", description=losses.FORM)
        perceptual: str | None = Field(
            None,
            description="encoder whose features are compared: a folder, s3://, runs:/ or models:/; null: no such term",
            json_schema_extra=ENCODER_URI,
        )
        perceptual_layer: str | None = Field(None, description="layer of that encoder; null: the deepest")

    @classmethod
    def parts(cls, options: Options) -> Parts:
        parts = super().parts(options)
        return parts.without("perceptual") if options.perceptual is None else parts

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options
        if image_size % options.factor:
            raise UserError(f"options.factor={options.factor} does not divide the image's side of {image_size} pixels")
        self.small_side = image_size // options.factor
        self.trunk = build_encoder(encoder)
        doublings = options.factor.bit_length() - 1
        self.upscaler = Upscaler(self.trunk.channels, self.small_side, doublings, width=2 * encoder.width)
        self.discriminator = ImageDiscriminator(3, image_size, encoder.width)
        for network in (self.upscaler, self.discriminator):
            initialize_normal(network)
        if options.perceptual is not None:
            self.judge = Frozen(load_encoder(options.perceptual), options.perceptual_layer)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        """``bicubic``: the small picture, enlarged, and ``truth``, both in [-1, 1]."""
        image_B3HW = batch["image"]
        if self.options.filter == "area":
            small_B3hw = F.avg_pool2d(image_B3HW, self.options.factor)
        else:
            small_B3hw = resize_bicubic(image_B3HW, self.small_side).clamp(0, 1)
        bicubic_B3HW = resize_bicubic(small_B3hw, image_B3HW.shape[-1]).clamp(0, 1)
        return {
            "native": self.trunk.convert(bicubic_B3HW),
            "bicubic": 2 * bicubic_B3HW - 1,
            "truth": 2 * image_B3HW - 1,
            "image": image_B3HW,
        }

    def forward(self, inputs: Tensors) -> Tensors:
        return {"prediction": inputs["bicubic"] + self.upscaler(self.trunk.encode(inputs["native"]))}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        prediction, truth, form = outputs["prediction"], inputs["truth"], self.options.form
        fake_B = self.discriminator(prediction)
        if player == "discriminator":
            real_B = self.discriminator(truth)
            return {
                "discriminator": losses.discriminator(real_B, fake_B, form),
                **losses.accuracies(real_B, fake_B, form),
            }
        terms = {
            "l2": losses.l2(prediction, truth),
            "adversarial": losses.adversarial(fake_B, form),
            "psnr/prediction": losses.psnr(_picture(prediction), inputs["image"]).mean(),
            "psnr/bicubic": losses.psnr(_picture(inputs["bicubic"]), inputs["image"]).mean(),
        }
        if "perceptual" in self.terms:
            terms["perceptual"] = losses.l2(self.judge(_picture(prediction)), self.judge(inputs["image"]))
        return terms

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        pictures = {"input": inputs["bicubic"], "prediction": self(inputs)["prediction"].float()}
        return {title: _picture(x) for title, x in pictures.items()} | {"truth": inputs["image"]}


def resize_bicubic(image_BCHW: Tensor, side: int) -> Tensor:
    """Bicubic; made smaller, the kernel is widened by as much, so that nothing is aliased. May leave [0, 1]."""
    if image_BCHW.shape[-1] == side:
        return image_BCHW
    return F.interpolate(image_BCHW, size=(side, side), mode="bicubic", align_corners=False, antialias=True)


def _picture(x_BCHW: Tensor) -> Tensor:
    """What players see, about [-1, 1], as a picture in [0, 1]; what leaves it is clipped."""
    return ((x_BCHW + 1) / 2).clamp(0, 1)
