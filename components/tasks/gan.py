"""GAN: a generator that makes pictures from noise, and a discriminator that tells them from real ones.

Legend of shape suffixes: B samples, H height, W width.
"""

from dataclasses import replace

import torch
from torch import Tensor

from components import losses
from components.config import EncoderConfig
from components.draws import Draws
from components.networks.dcgan import Generator
from components.networks.encoder import Encoder
from components.networks.gan import ADAM, Discriminator, GanOptions
from components.tasks.base import Batch, Parts, Player, Task, Tensors, Term, register


@register
class Gan(Task):
    """The discriminator is the encoder with a linear layer. Pictures are in [-1, 1] for both players.

    Running statistics of the encoder's batch normalization are those of real pictures, which it will be used on.
    """

    name = "gan"
    summary = "Tell real pictures from those of a generator that learns to pass them off as real"
    source = "Goodfellow et al. 2014, Generative Adversarial Nets; networks: Radford et al. 2016, DCGAN"
    terms = {
        "discriminator": Term(1.0, "Goodfellow et al. 2014, equation 1", (0.1, 10.0)),
        "adversarial": Term(1.0, "Goodfellow et al. 2014, section 3", (0.1, 10.0)),
        "gradient_penalty": Term(10.0, "Gulrajani et al. 2017, equation 3: lambda", (1.0, 100.0), optional=True),
        "r1": Term(10.0, "Mescheder et al. 2018, equation 9: gamma", (0.1, 100.0), optional=True),
    }
    players = {
        "discriminator": Player(("discriminator",), ADAM, detached=True),
        "generator": Player(("generator",), ADAM),
    }

    signs = (losses.WON, losses.COLLAPSED)

    class Options(GanOptions, Task.Options):
        """What may be said under ``options``."""

    @classmethod
    def parts(cls, options: Options) -> Parts:
        generator = replace(cls.players["generator"], every=options.critic_steps)
        parts = super().parts(options).without(*options.penalties_left_out)
        return replace(parts, players=cls.players | {"generator": generator})

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options
        self.discriminator = Discriminator(options, encoder, image_size)
        self.generator = Generator(options.latent, image_size, encoder.width)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        return {"real": 2 * batch["image"] - 1, **self.options.draw(draws)}

    def forward(self, inputs: Tensors) -> Tensors:
        return {"prediction": self.generator(inputs["z"])}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        fake_B3HW = outputs["prediction"].float()
        if player == "generator":
            return {"adversarial": losses.adversarial(self.discriminator(fake_B3HW), self.options.form)}
        return self.discriminator.losses(inputs["real"], fake_B3HW, inputs["share"])

    def encoder(self) -> Encoder:
        return self.discriminator.encoder()

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        """Pictures from the same noise every time, and real ones."""
        pictures = {"prediction": self(inputs)["prediction"].float(), "real": inputs["real"]}
        return {title: (x + 1) / 2 for title, x in pictures.items()}
