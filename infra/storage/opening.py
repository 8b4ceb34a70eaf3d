"""From a URL to the place that it names."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from infra.storage.base import Storage, is_remote, local_path


def open_storage(url: str) -> Storage:
    """The folder (a path or file://...) or bucket (s3://bucket/prefix) at ``url``; nothing is touched yet.

    Raises OutsideError for a URL of another kind.
    """
    if is_remote(url):
        from infra.storage.bucket import BucketStorage

        return BucketStorage(url)
    from infra.storage.folder import FolderStorage

    return FolderStorage(url)


def fetch_files(url: str, names: Sequence[str], cache: Path) -> tuple[Path, list[str]]:
    """(a local folder with the files ``names`` of the place at ``url``, those that are not there).

    It is the place itself where that is a folder, else a copy below ``cache``, made anew by every call.
    Raises OutsideError where a bucket does not do its part.
    """
    if not is_remote(url):
        folder = local_path(url)
        return folder, [name for name in names if not (folder / name).is_file()]
    storage = open_storage(url)
    missing = [name for name in names if not storage.exists(name)]
    target = cache / f"{re.sub(r'[^A-Za-z0-9]+', '-', url)}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    if not missing:
        for name in names:
            storage.download(name, target / name)
    return target, missing
