"""Conditional GAN: both players are told what the picture should show.

Legend of shape suffixes: B samples, H height, W width, F features.
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from components import losses
from components.config import EncoderConfig
from components.draws import Draws
from components.networks.conditions import LabelCondition, PictureCondition, VectorCondition
from components.networks.dcgan import Generator
from components.networks.encoder import Encoder
from components.networks.gan import ADAM, Discriminator, GanOptions
from components.tasks.base import Batch, Parts, Player, Task, Tensors, Term, register


@register
class ConditionalGan(Task):
    """A GAN whose players each embed the condition, a label, a vector or a picture, with a network of their own.

    The generator's embedding goes beside the noise; the discriminator's is projected on its features, behind the
    encoder. Running statistics of the encoder's batch normalization are those of real pictures. A generator that is
    told what to show tends to forget the noise; mode seeking asks it for two different pictures of each condition.
    """

    name = "cgan"
    summary = "Tell real pictures from generated ones, both made for a given class, colour, outline or picture"
    source = "Mirza & Osindero 2014, Conditional Generative Adversarial Nets; discriminator: Miyato & Koyama 2018"
    terms = {
        "discriminator": Term(1.0, "Mirza & Osindero 2014, equation 2", (0.1, 10.0)),
        "adversarial": Term(1.0, "Mirza & Osindero 2014, equation 2; Goodfellow et al. 2014, section 3", (0.1, 10.0)),
        "gradient_penalty": Term(10.0, "Gulrajani et al. 2017, equation 3: lambda", (1.0, 100.0), optional=True),
        "r1": Term(10.0, "Mescheder et al. 2018, equation 9: gamma", (0.1, 100.0), optional=True),
        "mode_seeking": Term(1.0, "Mao et al. 2019 (MSGAN), equations 2 and 3", (0.01, 10.0), optional=True),
    }
    players = {
        "discriminator": Player(("discriminator",), ADAM, detached=True),
        "generator": Player(("condition", "generator"), ADAM),
    }

    signs = (losses.WON, losses.COLLAPSED)

    class Options(GanOptions, Task.Options):
        """What may be said under ``options``."""

        condition: Literal["label", "colour", "edges", "target"] = Field(
            "label",
            description="a label, a vector (the mean colour), or a picture (the data's edges, or the other of a pair)",
        )
        embedding: int = Field(50, ge=1, description="numbers in which the generator is told the condition")
        mode_seeking: bool = Field(False, description="also ask for different pictures from different noise")

        @property
        def field(self) -> str:
            """The field of a sample that the condition is made from."""
            return "image" if self.condition == "colour" else self.condition

    @classmethod
    def parts(cls, options: Options) -> Parts:
        left_out = (*options.penalties_left_out, *(() if options.mode_seeking else ("mode_seeking",)))
        generator = replace(cls.players["generator"], every=options.critic_steps)
        needs = ("image",) if options.field == "image" else ("image", options.field)
        return Parts(cls.terms, cls.players | {"generator": generator}, needs).without(*left_out)

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options

        def embed(features: int) -> nn.Module:
            if options.condition == "label":
                return LabelCondition(classes, features)
            if options.condition == "colour":
                return VectorCondition(3, features)
            return PictureCondition(image_size, encoder.width, features)

        self.discriminator = Discriminator(options, encoder, image_size, embed)
        self.condition = embed(options.embedding)
        self.generator = Generator(options.latent + options.embedding, image_size, encoder.width)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        condition = batch[self.options.field]
        if self.options.condition == "colour":
            condition = 2 * condition.mean((2, 3)) - 1
        inputs = {"real": 2 * batch["image"] - 1, "condition": condition, **self.options.draw(draws)}
        if self.options.mode_seeking:
            inputs["second_z"] = self.options.draw(draws)["z"]
        return inputs

    def forward(self, inputs: Tensors) -> Tensors:
        told_BF = self.condition(inputs["condition"])
        noises = [inputs[name] for name in ("z", "second_z") if name in inputs]
        made = self.generator(torch.cat([torch.cat([z_BZ, told_BF], dim=1) for z_BZ in noises]))
        return dict(zip(("prediction", "second"), made.chunk(len(noises)), strict=False))

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        fake_B3HW, condition = outputs["prediction"].float(), inputs["condition"]
        if player == "generator":
            terms = {"adversarial": losses.adversarial(self.discriminator(fake_B3HW, condition), self.options.form)}
            if "second" in outputs:
                z_BZ, second_BZ = inputs["z"], inputs["second_z"]
                terms["mode_seeking"] = losses.mode_seeking(fake_B3HW, outputs["second"], z_BZ, second_BZ)
            return terms
        return self.discriminator.losses(inputs["real"], fake_B3HW, inputs["share"], condition)

    def encoder(self) -> Encoder:
        return self.discriminator.encoder()

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        """Pictures from the same noise every time, each for the condition of the real one below it."""
        shown = {"input": inputs["condition"]} if inputs["condition"].ndim == 4 else {}
        pictures = {"prediction": self(inputs)["prediction"].float(), "real": inputs["real"]}
        return shown | {title: (x + 1) / 2 for title, x in pictures.items()}
