"""SimCLR: which of many views shows the same picture as this one?

Legend of shape suffixes: B samples, C channels, H height, W width, T tries, Z values of a projection.
"""

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components import color, losses
from components.config import EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.networks.decoders import deepest_shape
from components.networks.encoder import build_encoder
from components.networks.norm import BatchNorm2d
from components.tasks.base import Batch, Player, Task, Tensors, Term, register

_RATIO = 4 / 3  # of the sides of a crop, at most, either way
_TRIES = 10  # crops drawn until one lies within the picture
_JITTERED = 0.8  # share of the views whose colours are changed
_TONE, _HUE = 0.8, 0.2  # change at strength 1: of brightness, contrast and saturation, and of the hue in turns


@register
class SimCLR(Task):
    """NT-Xent between two views of every picture, over all views of the global batch, however it is cut.

    A view is a random crop, resized, perhaps mirrored, with its colours changed and perhaps taken away.
    """

    name = "simclr"
    summary = "Tell which of all views shows the same picture: crops with other colours"
    source = "Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations"
    makes_pictures = False
    joint = ("first", "second")
    terms = {"nt_xent": Term(1.0, "Chen et al. 2020, equation 1", (0.1, 10.0))}
    players = {"contrast": Player(("trunk", "head"), OptimizerConfig(lr=1e-3, weight_decay=1e-6))}

    class Options(Task.Options):
        """What may be said under ``options``."""

        temperature: float = Field(0.5, gt=0, description="divides cosines; 0.5 is published for CIFAR-10")
        smallest_crop: float = Field(0.08, gt=0, le=1, description="smallest share of the picture's area in a crop")
        jitter: float = Field(0.5, ge=0, le=1, description="strength of the changes of colour; 1 for ImageNet")
        grey: float = Field(0.2, ge=0, le=1, description="share of the views without colour")
        projection: int = Field(128, ge=1, description="values of a projection, which the loss compares")

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options
        self.trunk = build_encoder(encoder)
        self.head = Projection(deepest_shape(self.trunk, image_size)[0], options.projection)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        image_B3HW = batch["image"]
        first_B3HW, second_B3HW = self._view(image_B3HW, draws), self._view(image_B3HW, draws)
        return {"image": image_B3HW, "first": first_B3HW, "second": second_B3HW}

    def _view(self, image_B3HW: Tensor, draws: Draws) -> Tensor:
        """(B, 3, H, W) in [0, 1]. Chen et al. 2020, appendix A, without its blur, as they have it on CIFAR-10."""
        view_B3HW = crop(image_B3HW, *draw_boxes(self.options.smallest_crop, draws), draws.bernoulli(0.5))
        jittered_B = draws.bernoulli(_JITTERED)
        tones_B3 = 1 + self.options.jitter * _TONE * (2 * draws.uniform(3) - 1)
        turns_B = self.options.jitter * _HUE * (2 * draws.uniform() - 1)
        changed_B3HW = change_colours(view_B3HW, tones_B3, turns_B)
        view_B3HW = torch.where(jittered_B.view(-1, 1, 1, 1), changed_B3HW, view_B3HW)
        return torch.where(draws.bernoulli(self.options.grey, 1, 1, 1), color.luma(view_B3HW), view_B3HW)

    def forward(self, inputs: Tensors) -> Tensors:
        views_B3HW = torch.cat([inputs["first"], inputs["second"]])
        first_BZ, second_BZ = self.head(self.trunk.deepest(self.trunk.convert(views_B3HW))).chunk(2)
        return {"first": first_BZ, "second": second_BZ}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        first_BZ, second_BZ = outputs["first"], outputs["second"]
        right_B = torch.arange(len(first_BZ), device=first_BZ.device)
        return {
            "nt_xent": losses.nt_xent(first_BZ, second_BZ, self.options.temperature),
            "views/found": (_nearest(first_BZ, second_BZ) == right_B).float().mean(),
        }

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        """Both views, the picture whose second view is nearest to the first one, and the right picture."""
        outputs = self(inputs)
        found_B = _nearest(outputs["first"], outputs["second"])
        return {
            "input": inputs["first"],
            "other view": inputs["second"],
            "prediction": inputs["image"][found_B],
            "truth": inputs["image"],
        }


class Projection(nn.Sequential):
    """(B, C, H, W) to (B, Z): the mean over all places, then a layer of as many channels and a linear one.

    Source: Chen et al. 2020, section 4.2; with a batch normalization between the two, as in the authors' code.
    """

    def __init__(self, channels: int, projection: int) -> None:
        hidden = nn.Conv2d(channels, channels, 1, bias=False)
        last = nn.Conv2d(channels, projection, 1)
        super().__init__(
            nn.AdaptiveAvgPool2d(1), hidden, BatchNorm2d(channels), nn.ReLU(inplace=True), last, nn.Flatten()
        )


def _nearest(first_BZ: Tensor, second_BZ: Tensor) -> Tensor:
    """(B,) int64: which second view is nearest to each first one, by their cosines."""
    first_BZ, second_BZ = (F.normalize(each.detach().float(), dim=1) for each in (first_BZ, second_BZ))
    return (first_BZ @ second_BZ.T).argmax(1)


def draw_boxes(smallest: float, draws: Draws) -> tuple[Tensor, Tensor]:
    """Sides and first corners of crops of square pictures, (B, 2) each, horizontal before vertical, in sides of these.

    The area is uniform from ``smallest`` to all, the logarithm of the ratio of the sides between 3/4 and 4/3; the first
    of ten that lies within the picture, or all of it (Szegedy et al. 2015, section 6, as Chen et al. 2020 do).
    """
    area_BT, ratio_BT = draws.uniform(2, _TRIES).unbind(1)
    area_BT = smallest + (1 - smallest) * area_BT
    ratio_BT = torch.exp(math.log(_RATIO) * (2 * ratio_BT - 1))
    sides_BT2 = torch.stack([(area_BT * ratio_BT).sqrt(), (area_BT / ratio_BT).sqrt()], dim=2)
    fits_BT = (sides_BT2 <= 1).all(2)
    first_B11 = fits_BT.int().argmax(1).view(-1, 1, 1)
    chosen_B2 = sides_BT2.gather(1, first_B11.expand(-1, 1, 2)).squeeze(1)
    sides_B2 = torch.where(fits_BT.any(1, keepdim=True), chosen_B2, 1.0)
    return sides_B2, draws.uniform(2) * (1 - sides_B2)


def crop(image_B3HW: Tensor, sides_B2: Tensor, corners_B2: Tensor, mirrored_B: Tensor) -> Tensor:
    """(B, 3, H, W): the boxes of `draw_boxes`, bilinearly enlarged to the picture's size, some of them mirrored."""
    signs_B2 = torch.stack([1 - 2 * mirrored_B.to(sides_B2.dtype), torch.ones_like(sides_B2[:, 1])], dim=1)
    middles_B2 = 2 * corners_B2 + sides_B2 - 1  # from -1 to 1 across the picture
    matrix_B23 = torch.cat([torch.diag_embed(signs_B2 * sides_B2), middles_B2[:, :, None]], dim=2)
    places_BHW2 = F.affine_grid(matrix_B23, list(image_B3HW.shape), align_corners=False)
    return F.grid_sample(image_B3HW, places_BHW2, mode="bilinear", padding_mode="border", align_corners=False)


def change_colours(rgb_B3HW: Tensor, tones_B3: Tensor, turns_B: Tensor) -> Tensor:
    """Brightness, contrast and saturation times ``tones_B3``, in this order, then the hue turned by ``turns_B``.

    RGB in [0, 1] to the same, clipped after each. Contrast is about the mean lightness of a picture, saturation about
    the lightness of a pixel. A hue is part of a turn; see `turn_hue`.
    """
    brightness, contrast, saturation = tones_B3.view(-1, 3, 1, 1, 1).unbind(1)
    rgb_B3HW = (rgb_B3HW * brightness).clamp(0, 1)
    rgb_B3HW = torch.lerp(color.luma(rgb_B3HW).mean((2, 3), keepdim=True), rgb_B3HW, contrast).clamp(0, 1)
    rgb_B3HW = torch.lerp(color.luma(rgb_B3HW).expand_as(rgb_B3HW), rgb_B3HW, saturation).clamp(0, 1)
    return turn_hue(rgb_B3HW, turns_B)


def turn_hue(rgb_B3HW: Tensor, turns_B: Tensor) -> Tensor:
    """RGB with the hue of HSV (Smith 1978) moved on by parts of a turn; saturation and value stay."""
    red, green, blue = rgb_B3HW.unbind(1)
    value = rgb_B3HW.amax(1)
    chroma = value - rgb_B3HW.amin(1)
    safe = chroma.clamp_min(1e-12)  # of greys the hue does not matter
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = sixths + 6 * turns_B.view(-1, 1, 1)
    channels = []
    for start in (5, 3, 1):  # where each channel is in the circle
        place = (start + sixths) % 6
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, dim=1)
