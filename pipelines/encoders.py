"""Encoders from wherever they are, in one place: ours as they are, and state dicts of others as encoders of ours."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from components.errors import UserError
from components.exchange.recognition import import_encoder
from components.exchange.state_dicts import SUFFIXES
from components.networks.encoder import CONFIG_FILE, WEIGHTS_FILE, save_encoder
from components.networks.normalization import mean_and_deviation
from infra.errors import OutsideError
from infra.storage import fetch_files, sha256_of
from infra.tracking import Place, Tracker, read_address
from pipelines import terminal

USUAL = "imagenet"  # what nearly every published ResNet and AlexNet expects
TO_IMPORT = f"a file of weights ({', '.join(SUFFIXES)})"


def fetch_encoder(
    uri: str,
    tracker: Tracker,
    cache: Path,
    normalization: str | None = None,
    say: Callable[[str], None] = terminal.note,
) -> Path:
    """A local folder with the encoder at ``uri``: a folder, s3://, models:/ or runs:/; or made of a file of weights.

    A file (local or s3://) has the names of torchvision or timm; ``normalization`` says what it expects (None: USUAL).
    ``say`` is told how it was read. Raises UserError for a file that fits no architecture, and for a normalization of
    an encoder that says its own; OutsideError where nothing is there.
    """
    file = file_at(uri)
    if file is None:
        if normalization is not None:
            raise UserError(f"--normalization is for {TO_IMPORT}; the encoder at {uri} says its own: leave it out")
        return tracker.models.fetch_encoder(uri, cache)
    expected = normalization or USUAL
    mean_and_deviation(expected)  # refuses what is none
    place, _, name = file.rpartition("/")
    place = place or ("/" if file.startswith("/") else ".")
    if name == WEIGHTS_FILE:  # ours: the rest of it lies beside
        return fetch_encoder(place, tracker, cache, normalization, say)
    folder, missing = fetch_files(place, [name], cache / "weights")
    if missing:
        raise OutsideError(
            f"no file {uri}: {TO_IMPORT}, a folder or s3:// with {CONFIG_FILE} and {WEIGHTS_FILE}, models:/NAME@best "
            "or runs:/RUN_ID/encoder would be right"
        )
    recognized = import_encoder(folder / name, expected)
    spelled = expected.replace("/", "_")
    target = cache / "encoders" / f"{(folder / name).stem}-{sha256_of(folder / name)[:16]}-{spelled}"
    save_encoder(recognized.encoder, target)
    for note in recognized.notes:
        say(f"{name}: {note}")
    if normalization is None:
        say(f"{name}: RGB is standardized as for ImageNet; where the weights expect another: --normalization")
    return target


def file_at(uri: str) -> str | None:
    """The URL of the file of weights that ``uri`` names, by its suffix; None for everything else."""
    address = read_address(uri)
    if not isinstance(address, Place) or PurePosixPath(uri).suffix not in SUFFIXES:
        return None
    return None if address.folder and address.folder.is_dir() else address.url
