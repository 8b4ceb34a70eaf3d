"""What turns pictures into the features whose distance is measured: an encoder of ours, or a network in a file.

Legend of shape suffixes: B samples, C channels, H height, W width, D features.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.errors import UserError
from components.networks.encoder import Encoder


@dataclass(frozen=True)
class Extractor:
    """Features of pictures, and what a report has to say of where they come from."""

    features: Callable[[Tensor], Tensor]  # uint8 (B, 3, H, W) -> (B, D) float32
    protocol: dict[str, Any]

    def __call__(self, picture_B3HW: Tensor, resize: int | None = None) -> Tensor:
        """(B, D) float32 of uint8 pictures, resized to ``resize`` pixels a side before (None: as they are)."""
        if resize is not None and picture_B3HW.shape[2:] != (resize, resize):
            picture_B3HW = resized(picture_B3HW.float(), resize, resize).clamp(0, 255).round().to(torch.uint8)
        with torch.no_grad():
            return self.features(picture_B3HW).float()


def encoder_extractor(encoder: Encoder, layer: str | None = None) -> Extractor:
    """The mean over all places of one layer of an encoder (None: the deepest); UserError for a layer it does not have.

    The encoder must be in evaluation mode, and on the device of the pictures.
    """
    (name,) = encoder.select([layer]) if layer else encoder.layers[-1:]

    def features(picture_B3HW: Tensor) -> Tensor:
        feature_map_BCHW: Tensor = encoder(picture_B3HW.float() / 255)[name]
        return feature_map_BCHW.mean((2, 3))

    return Extractor(features, {"kind": "encoder", "encoder": encoder.config.model_dump(mode="json"), "layer": name})


def script_extractor(content: bytes, device: torch.device) -> Extractor:
    """A network in a TorchScript file: uint8 (B, 3, H, W) pictures of any size to (B, D) features.

    Inception is published in this form, with its own resizing and scaling inside; a switch ``return_features`` is set
    where its ``forward`` has one. Raises UserError for bytes that are not such a network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the published files are what they are
            load: Any = torch.jit.load  # has no types
            module = load(io.BytesIO(content), map_location=device).eval()
        switch = "return_features" in [argument.name for argument in module.forward.schema.arguments]
        flags = {"return_features": True} if switch else {}
        shape = module(torch.zeros(2, 3, 64, 64, dtype=torch.uint8, device=device), **flags).shape
    except (RuntimeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"the extractor's file is no TorchScript network of uint8 pictures: {reason}") from None
    if len(shape) != 2 or shape[0] != 2:
        raise UserError(f"the extractor gives {tuple(shape)} for 2 pictures: it must give (2, number of features)")
    return Extractor(lambda picture_B3HW: module(picture_B3HW, **flags), {"kind": "TorchScript"})


def resized(picture_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Float pictures at another size, bicubic, with antialiasing where they get smaller; may overshoot their range."""
    return F.interpolate(picture_BCHW, (height, width), mode="bicubic", align_corners=False, antialias=True)
