"""CycleGAN: pictures of one domain into another and back, without pairs.

Legend of shape suffixes: B samples, H height, W width. Domain a is the field `image`, or its grey version; domain b is
the field `other`, or `another` of the same images.
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from components import color, losses
from components.config import EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.networks.encoder import Encoder
from components.networks.norm import each
from components.networks.patchgan import Patch, PatchGAN
from components.networks.pool import ImagePool
from components.networks.resnet_generator import Translator
from components.tasks.base import Batch, Parts, Player, Task, Tensors, Term, register

_ADAM = OptimizerConfig(lr=2e-4, betas=(0.5, 0.999))  # Zhu et al. 2017, section 4; betas as in their code


@register
class CycleGAN(Task):
    """Two generators whose round trips must return the picture, each against a discriminator of patches.

    Terms are sums over both directions. The discriminators are shown a history of generated pictures.
    """

    name = "cyclegan"
    summary = "Translate between two domains without pairs: there and back again must be the same picture"
    source = "Zhu et al. 2017, Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks"
    terms = {
        "adversarial": Term(1.0, "Zhu et al. 2017, equations 1 and 3; least squares: section 4", (0.1, 10.0)),
        "cycle": Term(10.0, "Zhu et al. 2017, equations 2 and 3: lambda is 10", (1.0, 100.0)),
        "identity": Term(5.0, "Zhu et al. 2017, section 5.2: half of lambda", (0.5, 50.0), optional=True),
        "discriminator": Term(0.5, "Zhu et al. 2017, section 7.1: halved", (0.05, 5.0)),
    }
    players = {
        "generator": Player(("generator_ab", "generator_ba"), _ADAM),
        "discriminator": Player(("discriminator_a", "discriminator_b"), _ADAM, detached=True),
    }
    needs = ("image", "other")

    signs = (losses.WON,)

    class Options(Task.Options):
        """What may be said under ``options``."""

        domains: Literal["other", "grey"] = Field(
            "other", description="other: the data's two domains; grey: any images without their colours, and others"
        )
        encoder: Literal["image", "other"] = Field(
            "image", description="of which domain's generator the way in is the encoder"
        )
        pool: int = Field(50, ge=0, description="generated pictures that are kept for each discriminator; 0: none")
        patch: Patch = Field(70, description="side in pixels of what a discriminator judges")
        form: losses.Form = Field("least_squares", description=losses.FORM)

        @property
        def domain_b(self) -> str:
            """The field of a sample that holds the second domain."""
            return "another" if self.domains == "grey" else "other"

    @classmethod
    def parts(cls, options: Options) -> Parts:
        return replace(super().parts(options), needs=("image", options.domain_b))

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options
        self.generator_ab = Translator(encoder, image_size)
        self.generator_ba = Translator(encoder, image_size)
        self.discriminator_a, self.discriminator_b = (
            PatchGAN(3, image_size, options.patch, encoder.width, encoder.norm) for _ in range(2)
        )
        if options.pool:
            self.pool_a, self.pool_b = ImagePool(options.pool, image_size), ImagePool(options.pool, image_size)
            self.history = ("fake_a", "fake_b", "swap", "slot")

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        image_B3HW = batch["image"]
        seen_B3HW = image_B3HW
        if self.options.domains == "grey":
            seen_B3HW = color.grey_picture(color.rgb_to_lab(image_B3HW)[:, :1])
        inputs = {"image": image_B3HW, "a": 2 * seen_B3HW - 1, "b": 2 * batch[self.options.domain_b] - 1}
        if self.options.pool:
            inputs |= {"swap": draws.bernoulli(0.5, 2), "slot": draws.integers(self.options.pool, 2)}
        return inputs

    def forward(self, inputs: Tensors) -> Tensors:
        a, b = inputs["a"], inputs["b"]
        fake_b, same_b = each(self.generator_ab, a, b)
        fake_a, same_a = each(self.generator_ba, b, a)
        back_a, back_b = self.generator_ba(fake_b), self.generator_ab(fake_a)
        return {
            "fake_a": fake_a, "fake_b": fake_b, "same_a": same_a, "same_b": same_b, "back_a": back_a, "back_b": back_b,
        }  # fmt: skip

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        a, b, fake_a, fake_b = inputs["a"], inputs["b"], outputs["fake_a"], outputs["fake_b"]
        form = self.options.form
        if player == "generator":
            persuaded_a = losses.adversarial(self.discriminator_a(fake_a), form)
            persuaded_b = losses.adversarial(self.discriminator_b(fake_b), form)
            return {
                "adversarial": persuaded_a + persuaded_b,
                "cycle": losses.l1(outputs["back_a"], a) + losses.l1(outputs["back_b"], b),
                "identity": losses.l1(outputs["same_a"], a) + losses.l1(outputs["same_b"], b),
            }
        if self.options.pool:
            (swap_a, swap_b), (slot_a, slot_b) = inputs["swap"].unbind(1), inputs["slot"].unbind(1)
            fake_a, fake_b = self.pool_a.mix(fake_a, swap_a, slot_a), self.pool_b.mix(fake_b, swap_b, slot_b)
        real_a, judged_a = each(self.discriminator_a, a, fake_a)
        real_b, judged_b = each(self.discriminator_b, b, fake_b)
        loss = losses.discriminator(real_a, judged_a, form) + losses.discriminator(real_b, judged_b, form)
        accuracies = losses.accuracies(torch.cat([real_a, real_b]), torch.cat([judged_a, judged_b]), form)
        return {"discriminator": loss, **accuracies}

    @torch.no_grad()
    def remember(self, values: Tensors) -> None:
        """Change the pools by what the whole batch has made."""
        for k, (pool, fake) in enumerate(((self.pool_a, "fake_a"), (self.pool_b, "fake_b"))):
            pool.add(values[fake], values["swap"][:, k], values["slot"][:, k])

    def encoder(self) -> Encoder:
        return (self.generator_ab if self.options.encoder == "image" else self.generator_ba).trunk

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        """Both translations and a round trip; a truth only where domain a was made from pictures."""
        a, b = inputs["a"], inputs["b"]
        fake_b, fake_a = self.generator_ab(a), self.generator_ba(b)
        back_a = self.generator_ba(fake_b)
        pictures = {"input": a, "prediction": fake_b, "there and back": back_a, "other": b, "other way": fake_a}
        shown = {title: (picture.float() + 1) / 2 for title, picture in pictures.items()}
        return shown | ({"truth": inputs["image"]} if self.options.domains == "grey" else {})
