"""Paths that somebody names: images that are read, and places that are written into, with ``--to``."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from components.data.sources.files import need_images
from components.data.sources.listing import is_picture
from components.errors import UserError
from infra.errors import OutsideError


def images_at(place: Path, option: str = "") -> tuple[Path, list[PurePosixPath]]:
    """A folder, and the paths of the images below it; of one image, the folder that it is in and its name.

    ``option``: that the place is given with, and a space, for errors. Raises UserError where no image is.
    """
    if not place.exists():
        raise UserError(f"nothing at {place}: give {option}a folder of images, or one")
    if place.is_dir():
        return place, need_images(place)
    if not is_picture(place):
        raise UserError(f"{place} is no image: a folder of images, or one, would be right")
    return place.parent, [PurePosixPath(place.name)]


def check_folder(to: Path | None) -> None:
    """Raise UserError where ``to`` cannot be a folder; before anything is made that would go into it."""
    if to is None:
        return
    there = next((path for path in (to, *to.absolute().parents) if path.exists()), to)
    if not there.is_dir():
        raise UserError(f"--to {to}: {there} is a file: give a folder")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, what the system does not let be written is one line: an OutsideError."""
    try:
        yield
    except OSError as error:
        raise OutsideError(f"cannot write {path}: {error.strerror or error}; choose another --to") from error
