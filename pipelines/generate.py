"""Pictures from a trained run: of a folder of images, or of noise. One at a time, so that there may be any number."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from components.data.arrays import UInt8
from components.data.images import MAX_PIXELS, BrokenImage, clean, decode_full
from components.data.shards import replacing
from components.data.sources.files import read_file
from components.data.sources.listing import passed_over, printable
from components.errors import UserError, unknown
from components.pictures.extractors import resized
from components.pictures.make import make_pictures
from components.pictures.tiles import check_shape, in_tiles
from components.tasks.base import Batch, Tensors, check_pictures
from pipelines import terminal
from pipelines.paths import check_folder, images_at, writing
from pipelines.picture_requests import PictureRequest
from pipelines.session import Session
from pipelines.steps.results import Json
from pipelines.training.picture_strip import grid
from pipelines.training.task_files import Trained, fetch_task, load_task
from pipelines.workers.payload import device

BATCH = 32
GRID = 64  # pictures of noise that the overview shows
GRID_FILE = "grid.png"
NAMED = 20  # skipped images that the result names


def generate(uri: str, wanted: PictureRequest, session: Session) -> Json:
    """Make the pictures; returns how many were ``made``, which images were ``skipped`` and why, and the ``folder``.

    Raises UserError for a task that makes no pictures or others than those asked for, for files that are there
    already, and where not one image could be read.
    """
    maker = Maker(load_task(fetch_task(uri, session), wanted.side), wanted)
    if wanted.images is None:
        return _of_noise(maker, wanted, session)
    return _of_images(maker, wanted, session)


class Maker:
    """A trained task that makes the pictures called ``title``."""

    def __init__(self, trained: Trained, wanted: PictureRequest) -> None:
        """Raises UserError where the task cannot do what is wished."""
        self.trained, self.wanted, self.side, self.device = trained, wanted, trained.side, device()
        check_pictures(type(trained.task))
        self.task = trained.task.to(self.device)
        self.labels = self._labels()
        blank_1 = torch.full((1, 3, self.side, self.side), 128, dtype=torch.uint8)
        self.title = self._title(list(self._rows(blank_1, [0])))

    def __call__(self, squares_B3SS: Tensor, numbers: Sequence[int]) -> Tensor:
        """uint8 pictures of uint8 squares; ``numbers``, those of the pictures, decide all that is random."""
        return self._rows(squares_B3SS, numbers)[self.title].cpu()

    def label(self, number: int) -> int | None:
        """The class of a picture; None where the task is not given one."""
        return self.labels[number % len(self.labels)] if self.labels else None

    def _rows(self, squares_B3SS: Tensor, numbers: Sequence[int]) -> Tensors:
        batch: Batch = {field: squares_B3SS for field in self.task.needs if field not in ("label", "mask")}
        if self.labels:
            batch["label"] = torch.tensor([self.label(number) for number in numbers])
        return make_pictures(self.task, batch, torch.tensor(numbers), self.wanted.seed, self.device)

    def _labels(self) -> list[int]:
        """The classes that pictures are made of, in turn."""
        asked, classes, name = self.wanted.label, self.trained.classes, self.task.name
        if "mask" in self.task.needs:
            raise UserError(f"task {name!r} makes pictures of maps of labels, and `genoise generate` reads pictures")
        if "label" not in self.task.needs:
            if asked is not None:
                raise UserError(f"this run of task {name!r} was not given labels: leave out --label")
            return []
        if asked is not None and asked >= classes:
            raise UserError(f"--label {asked}: there are {classes} classes, 0 to {classes - 1}")
        return list(range(classes)) if asked is None else [asked]

    def _title(self, titles: Sequence[str]) -> str:
        """Which of the task's pictures are kept."""
        name, from_noise = self.task.name, self.wanted.images is None
        if self.wanted.title is not None and self.wanted.title not in titles:
            raise unknown("picture", self.wanted.title, titles, owner=f"task {name!r}")
        noise = "generated" if "generated" in titles else None if "input" in titles else "prediction"
        if from_noise and noise is None:
            raise UserError(f"task {name!r} makes pictures of pictures: give --images FOLDER")
        if not from_noise and "input" not in titles:
            raise UserError(f"task {name!r} makes pictures of noise: leave out --images, and say --count")
        return self.wanted.title or (noise if from_noise and noise else "prediction")


def plan(uri: str, wanted: PictureRequest, session: Session) -> Json:
    """What `generate` would make; raises as it does, before anything is written."""
    maker = Maker(load_task(fetch_task(uri, session), wanted.side), wanted)
    names = [name for _, name in _names(wanted)] if wanted.images else _noise_names(maker, wanted)
    _check_new(wanted, names if wanted.images else [*names, GRID_FILE])
    return {
        "task": maker.task.name,
        "pictures": len(names),
        "title": maker.title,
        "side": maker.side,
        "folder": str(wanted.to),
    }


def _of_images(maker: Maker, wanted: PictureRequest, session: Session) -> Json:
    """A picture of every image, under its name."""
    names = _names(wanted)
    _check_new(wanted, [name for _, name in names])
    skipped: list[str] = []
    with terminal.Watch(session.quiet) as watch:
        for number, (path, name) in enumerate(names):
            try:
                _write(pixels_of(_of_image(maker, wanted, read_image(path), number)), wanted.to / name)
            except BrokenImage as error:
                skipped.append(f"{printable(path)}: {error}")
            watch.update("generate", "generate", number + 1, len(names), str(path.name))
    if len(skipped) == len(names):
        raise UserError(f"not one image could be read: {skipped[0]}")
    return _value(maker, wanted, len(names) - len(skipped)) | {
        "skipped": skipped[:NAMED],
        "skipped_count": len(skipped),
        "passed_over": passed_over([wanted.images] if wanted.images and wanted.images.is_dir() else []).facts(),
    }


def _of_image(maker: Maker, wanted: PictureRequest, image_3HW: Tensor, number: int) -> Tensor:
    """The picture, uint8 (3, H, W), of an image of any size."""
    height, width = (wanted.enlarge * length for length in image_3HW.shape[1:])
    if height * width > MAX_PIXELS:
        raise BrokenImage(f"enlarged to {width} x {height} it has more than {MAX_PIXELS // 10**6} million pixels")
    check_shape(height, width, maker.side, wanted.overlap, wanted.fit == "whole")
    if wanted.enlarge > 1:
        image_3HW = resized(image_3HW[None].float(), height, width)[0].round().clamp(0, 255).to(torch.uint8)

    def make(squares_T3SS: Tensor) -> Tensor:
        return maker(squares_T3SS, [number] * len(squares_T3SS))

    return in_tiles(make, image_3HW, maker.side, wanted.overlap, wanted.fit == "whole")


def _of_noise(maker: Maker, wanted: PictureRequest, session: Session) -> Json:
    """Pictures of noise, and an overview of the first of them, a column per class."""
    names = _noise_names(maker, wanted)
    _check_new(wanted, [*names, GRID_FILE])
    blank_13SS = torch.full((1, 3, maker.side, maker.side), 128, dtype=torch.uint8)
    first: list[Tensor] = []
    with terminal.Watch(session.quiet) as watch:
        for start in range(0, wanted.count, BATCH):
            numbers = range(start, min(start + BATCH, wanted.count))
            made = maker(blank_13SS.expand(len(numbers), -1, -1, -1), numbers)
            for number, picture_3HW in zip(numbers, made, strict=True):
                _write(pixels_of(picture_3HW), wanted.to / names[number])
            first += made[: max(0, GRID - len(first))]
            watch.update("generate", "generate", numbers[-1] + 1, wanted.count)
    _write(grid(torch.stack(first), len(maker.labels) if len(maker.labels) > 1 else None), wanted.to / GRID_FILE)
    return _value(maker, wanted, wanted.count)


def _value(maker: Maker, wanted: PictureRequest, made: int) -> Json:
    return {"task": maker.task.name, "title": maker.title, "made": made, "folder": str(wanted.to)}


def _noise_names(maker: Maker, wanted: PictureRequest) -> list[str]:
    classes = [maker.label(number) for number in range(wanted.count)]
    return [f"{k:06d}.png" if label is None else f"{k:06d}-class{label}.png" for k, label in enumerate(classes)]


def _names(wanted: PictureRequest) -> list[tuple[Path, str]]:
    """Every image, and the name of its picture below ``wanted.to``: its own, as .png. Where two images would share one,
    the old suffix stays (``a.jpg.png``). Raises UserError where there are no images."""
    assert wanted.images is not None
    root, paths = images_at(wanted.images, "--images ")
    stems = Counter(path.with_suffix("") for path in paths)
    plain = [str(p if stems[p.with_suffix("")] > 1 else p.with_suffix("")) + ".png" for p in paths]
    return [(root / path, name) for path, name in zip(paths, plain, strict=True)]


def _check_new(wanted: PictureRequest, names: Sequence[str]) -> None:
    """Raise UserError where something would be lost, or nothing can be written."""
    check_folder(wanted.to)
    if wanted.images and wanted.images.is_dir() and wanted.images.resolve() == wanted.to.resolve():
        raise UserError(f"--to {wanted.to} is the folder of the images: give another one")
    there = [name for name in names if (wanted.to / name).exists()]
    if there and not wanted.overwrite:
        raise UserError(
            f"{len(there)} of {len(names)} pictures are in {wanted.to} already ({there[0]}): "
            "give another --to, or --overwrite"
        )


def read_image(path: Path) -> Tensor:
    """An image file of any kind as uint8 (3, H, W), upright. Raises BrokenImage."""
    rgb_HW3 = decode_full(clean(read_file(path)).data)
    return torch.from_numpy(rgb_HW3.transpose(2, 0, 1).copy())  # torch wants memory of its own that it may write to


def pixels_of(picture_3HW: Tensor) -> UInt8:
    """uint8 (3, H, W) as an array (H, W, 3)."""
    pixels: UInt8 = picture_3HW.permute(1, 2, 0).contiguous().numpy()
    return pixels


def _write(pixels_HW3: UInt8, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with writing(path), replacing(path) as file:
        Image.fromarray(pixels_HW3).save(file, "PNG")
