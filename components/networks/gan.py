"""What GANs share, with a condition or without: their options, and an encoder that plays the discriminator.

Legend of shape suffixes: B samples, C channels, H height, W width, Z latent, F features (all places of a map).
"""

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from components import losses
from components.config import Config, EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.errors import UserError
from components.networks.decoders import deepest_shape
from components.networks.encoder import Encoder, build_encoder
from components.networks.init import initialize_normal
from components.networks.norm import statistics_kept
from components.networks.spectral import normalize_spectrally, with_plain_weights

ADAM = OptimizerConfig(lr=2e-4, betas=(0.5, 0.999))  # of both players: Radford et al. 2016, section 4
PENALTIES = ("gradient_penalty", "r1")  # terms that are there if they are asked for


class GanOptions(Config):
    """How the two players meet."""

    form: losses.Form = Field("non_saturating", description=losses.FORM)
    penalty: Literal["none", "gradient_penalty", "r1"] = Field(
        "none", description="on the discriminator's slope: towards 1 between real and generated, towards 0 at real"
    )
    spectral_norm: bool = Field(False, description="bound the slope of every layer of the discriminator by 1")
    latent: int = Field(100, ge=1, description="random numbers that a picture is made from")
    prior: Literal["uniform", "normal"] = Field("uniform", description="where they are from: [-1, 1), or N(0, 1)")
    critic_steps: int = Field(1, ge=1, description="steps of the discriminator for every step of the generator")

    @property
    def penalties_left_out(self) -> tuple[str, ...]:
        """The terms for penalties that are not asked for."""
        return tuple(name for name in PENALTIES if name != self.penalty)

    def draw(self, draws: Draws) -> dict[str, Tensor]:
        """What is random in a step: ``z`` (B, Z), and ``share`` (B, 1, 1, 1), the place between two pictures."""
        z_BZ = draws.normal(self.latent) if self.prior == "normal" else 2 * draws.uniform(self.latent) - 1
        return {"z": z_BZ, "share": draws.uniform(1, 1, 1)}


class Discriminator(nn.Module):
    """An encoder with one linear layer over all places of its deepest map: pictures in [-1, 1] to logits (B,).

    A condition adds the inner product of its embedding with that map: the projection discriminator, whose body sees
    pictures alone (Miyato & Koyama 2018, equation 3), so that the encoder stays one of pictures.
    """

    def __init__(
        self,
        options: GanOptions,
        encoder: EncoderConfig,
        image_size: int,
        embed: Callable[[int], nn.Module] | None = None,
    ) -> None:
        """``embed`` makes, given F, a network from conditions to (B, F). UserError for what cannot go together."""
        super().__init__()
        _check(options, encoder)
        self.options = options
        self.trunk = build_encoder(encoder)
        channels, side = deepest_shape(self.trunk, image_size)
        self.head = nn.Linear(channels * side * side, 1)
        initialize_normal(self.head)
        self.embedding = embed(channels * side * side) if embed else None
        if options.spectral_norm:
            normalize_spectrally(self)

    def forward(self, picture_B3HW: Tensor, condition: Tensor | None = None) -> Tensor:
        """Logits (B,) of generated pictures: they leave no trace in the encoder's running statistics."""
        with statistics_kept(self.trunk):
            return self._judge(picture_B3HW, condition)

    def _judge(self, picture_B3HW: Tensor, condition: Tensor | None) -> Tensor:
        maps = self.trunk((picture_B3HW + 1) / 2)
        x_BF = maps[self.trunk.layers[-1]].flatten(1)
        logits_B: Tensor = self.head(x_BF).flatten()
        return logits_B if self.embedding is None else logits_B + (self.embedding(condition) * x_BF).sum(1)

    def losses(
        self, real_B3HW: Tensor, fake_B3HW: Tensor, share_B111: Tensor, condition: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The discriminator's terms, unweighted, and what is logged beside them."""
        form, penalty = self.options.form, self.options.penalty
        real_B, fake_B = self._judge(real_B3HW, condition), self(fake_B3HW, condition)
        terms = {"discriminator": losses.discriminator(real_B, fake_B, form)}

        def critic(picture_B3HW: Tensor) -> Tensor:
            return self._judge(picture_B3HW, condition)

        if penalty == "gradient_penalty":
            terms[penalty] = losses.gradient_penalty(critic, fake_B3HW.lerp(real_B3HW, share_B111))
        elif penalty == "r1":
            terms[penalty] = losses.r1(critic, real_B3HW)
        labels_B = condition if condition is not None and condition.ndim == 1 else None
        return terms | losses.accuracies(real_B, fake_B, form) | losses.diversity(fake_B3HW, real_B3HW, labels_B)

    def encoder(self) -> Encoder:
        """The encoder with plain weights, whatever normalizes them here."""
        return with_plain_weights(self.trunk)


def _check(options: GanOptions, encoder: EncoderConfig) -> None:
    if options.penalty != "none" and encoder.norm == "batch":
        raise UserError(
            f"options.penalty={options.penalty} asks for the slope at each sample, and batch normalization mixes "
            "samples: set encoder.norm=none or instance"
        )
    if options.form == "wasserstein" and options.penalty != "gradient_penalty" and not options.spectral_norm:
        raise UserError(
            "options.form=wasserstein needs a bounded slope: set options.penalty=gradient_penalty or spectral_norm=true"
        )
