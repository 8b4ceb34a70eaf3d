"""BiGAN: a GAN with an encoder, which learns to invert the generator because pairs are judged, not pictures.

Legend of shape suffixes: B samples, H height, W width, Z latent.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from components import losses
from components.config import EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.networks.dcgan import Generator, JointDiscriminator
from components.networks.decoders import deepest_shape
from components.networks.encoder import build_encoder
from components.networks.init import initialize_normal
from components.networks.norm import statistics_kept
from components.tasks.base import Batch, Parts, Player, Task, Tensors, Term, register

_ADAM = OptimizerConfig(lr=2e-4, betas=(0.5, 0.999), weight_decay=2.5e-5)  # Donahue et al. 2017, appendix C


@register
class BiGan(Task):
    """Encoder and generator against a discriminator of pairs, (x, E(x)) against (G(z), z); they learn from both.

    E is the trunk with one linear layer over all places of its deepest map; z is uniform in [-1, 1). What the encoder
    makes of generated pictures, for the latent term, leaves no trace in its batch normalization.
    """

    name = "bigan"
    summary = "Tell pairs of a picture and its code from pairs of noise and the picture made from it"
    source = "Donahue, Krähenbühl & Darrell 2017, Adversarial Feature Learning"
    terms = {
        "discriminator": Term(1.0, "Donahue et al. 2017, equation 3", (0.1, 10.0)),
        "adversarial": Term(1.0, "Donahue et al. 2017, section 3.4: inverted labels, both kinds of pairs", (0.1, 10.0)),
        "latent": Term(0.25, "Donahue et al. 2017, authors' code of the joint latent regressor", (0.01, 1.0), True),
    }
    players = {
        "discriminator": Player(("discriminator",), _ADAM, detached=True),
        "generator": Player(("trunk", "code", "generator"), _ADAM),
    }

    signs = (losses.WON, losses.COLLAPSED)

    class Options(Task.Options):
        """What may be said under ``options``."""

        form: Literal["minimax", "non_saturating", "least_squares", "hinge"] = Field(
            "non_saturating", description="what the two players minimize"
        )
        latent: int = Field(200, ge=1, description="numbers in a code")
        regress: bool = Field(False, description="also ask the encoder for the z that a generated picture is made from")

    @classmethod
    def parts(cls, options: Options) -> Parts:
        parts = super().parts(options)
        return parts if options.regress else parts.without("latent")

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options
        self.trunk = build_encoder(encoder)
        channels, side = deepest_shape(self.trunk, image_size)
        self.code = nn.Linear(channels * side * side, options.latent)
        self.generator = Generator(options.latent, image_size, encoder.width)
        self.discriminator = JointDiscriminator(options.latent, image_size, encoder.width)
        initialize_normal(self.code)

    def encode(self, picture_B3HW: Tensor) -> Tensor:
        """Pictures in [-1, 1] to their codes (B, Z)."""
        maps = self.trunk((picture_B3HW + 1) / 2)
        code_BZ: Tensor = self.code(maps[self.trunk.layers[-1]].flatten(1))
        return code_BZ

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        return {"real": 2 * batch["image"] - 1, "z": 2 * draws.uniform(self.options.latent) - 1}

    def forward(self, inputs: Tensors) -> Tensors:
        outputs = {"code": self.encode(inputs["real"]), "generated": self.generator(inputs["z"])}
        if self.options.regress:
            with statistics_kept(self.trunk):
                outputs["regressed"] = self.encode(outputs["generated"])
        return outputs

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        form, real, fake = self.options.form, inputs["real"], outputs["generated"].float()
        real_B = self.discriminator(real, outputs["code"])
        fake_B = self.discriminator(fake, inputs["z"])
        if player == "discriminator":
            facts = losses.accuracies(real_B, fake_B, form) | losses.diversity(fake, real)
            return {"discriminator": losses.discriminator(real_B, fake_B, form), **facts}
        terms = {"adversarial": losses.adversarial(fake_B, form, real_B)}
        if self.options.regress:
            terms["latent"] = losses.l2(outputs["regressed"], inputs["z"])
        return terms

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        """Pictures, what the generator makes of their codes, and of the same noise every time."""
        pictures = {
            "input": inputs["real"],
            "prediction": self.generator(self.encode(inputs["real"])),
            "generated": self.generator(inputs["z"]),
        }
        return {title: (x.float() + 1) / 2 for title, x in pictures.items()}
