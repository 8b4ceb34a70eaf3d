"""Where files made of raw ones are kept: unpacked archives, downloads, lists that were rewritten.

They lie below the home of the command, which a process is told once (`use_cache`). A dry run finds what is kept there;
what it has to make itself goes to a temporary folder, which is removed when the process ends.
"""

import atexit
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

_told: list[tuple[Path, bool]] = []  # the folder, and whether nothing may be written to it; the last one counts


def use_cache(folder: Path, dry: bool = False) -> None:
    """Keep files below ``folder`` from now on, in this process; ``dry``: leave it as it is."""
    _told[:] = [(folder.absolute(), dry)]


def forget_cache() -> None:
    """Back to ``$GENOISE_HOME``."""
    _told.clear()


def is_dry() -> bool:
    """Whether nothing is to be kept."""
    return any(dry for _, dry in _told)


def cache_folder(kind: str) -> Path:
    """Where files of a kind are written: ``HOME/cache/KIND``, or a temporary folder in a dry run."""
    folder = (scratch() if is_dry() else kept_cache()) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_cached(kind: str, name: str) -> Path:
    """Where ``name`` of that kind is, or would be; a dry run looks among what is kept first."""
    kept = kept_cache() / kind / name
    return kept if kept.exists() or not is_dry() else scratch() / kind / name


@lru_cache(maxsize=1)
def scratch() -> Path:
    """The temporary folder of this process, which goes when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="genoise-dry-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def kept_cache() -> Path:
    """What is kept between commands: the folder that was told, else that of ``$GENOISE_HOME``."""
    if _told:
        return _told[0][0]
    return Path(os.environ.get("GENOISE_HOME", ".genoise")).expanduser().absolute() / "cache"
