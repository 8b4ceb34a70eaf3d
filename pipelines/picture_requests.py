"""What `genoise generate` and `genoise measure` can be told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from components.config import Config
from components.pictures.measure import MeasureConfig


class PictureRequest(Config):
    """Which pictures are to be made, of what, and where to."""

    to: Path
    images: Path | None = Field(None, description="a folder, with or without subfolders, or one file; None: noise")
    count: int = Field(64, ge=1, description="pictures of noise")
    label: int | None = Field(None, ge=0, description="class of the pictures; None: all in turn")
    title: str | None = Field(
        None, description='which of the pictures that the task shows; None: "prediction", of noise "generated"'
    )
    seed: int = Field(0, ge=0, description="of all that is random")
    fit: Literal["whole", "tiles"] = Field("whole", description="scaled to the networks' size, or cut at its own")
    overlap: float = Field(0.25, ge=0, le=0.9, description="of neighbouring squares, as a share of their side")
    side: int | None = Field(None, ge=8, le=1024, description="of the squares, in pixels; None: as in training")
    enlarge: int = Field(1, ge=1, le=8, description="side of the pictures over that of the images")
    overwrite: bool = False


@dataclass(frozen=True)
class Measurement:
    """Whose pictures are measured, on which samples, and by what.

    ``run``: a trained run, ``runs:/ID`` or a folder. ``extractor``: an encoder as `transfer` takes it, or a TorchScript
    file; without it only what has a truth is measured. ``classifier``: a trained run of the task supervised, which
    judges whether pictures show the class of their sample. ``overrides``: ``data.key=value``, where the data is not
    where it was.
    """

    run: str
    config: MeasureConfig
    extractor: str | None = None
    classifier: str | None = None
    overrides: Sequence[str] = ()
