"""Addresses of what was trained, as users type them: runs:/, models:/, s3:// and folders, read in one place."""

from dataclasses import dataclass
from pathlib import Path

from infra.storage import is_remote, local_path


@dataclass(frozen=True)
class OfRun:
    """runs:/ID or runs:/ID/NAME: what a run has made."""

    run_id: str
    name: str  # "" where none is said


@dataclass(frozen=True)
class OfVersion:
    """models:/NAME/VERSION: a version of a registered model."""

    name: str
    version: str


@dataclass(frozen=True)
class OfAlias:
    """models:/NAME@ALIAS: the version that an alias stands for now; later it may be another one."""

    name: str
    alias: str


@dataclass(frozen=True)
class OfModel:
    """models:/m-ID: a model, registered or not."""

    model_id: str


@dataclass(frozen=True)
class Place:
    """A folder, as a path or file:// URL, or s3://bucket/prefix."""

    url: str

    @property
    def folder(self) -> Path | None:
        """The folder; None for a bucket."""
        return None if is_remote(self.url) else local_path(self.url)


Address = OfRun | OfVersion | OfAlias | OfModel | Place


def read_address(uri: str) -> Address:
    """What ``uri`` names; nothing is looked up. ``runs:///ID`` is read like ``runs:/ID``, as MLflow does it."""
    scheme, found, rest = uri.partition(":/")
    rest = rest.strip("/")
    if found and scheme == "runs":
        run_id, _, name = rest.partition("/")
        return OfRun(run_id, name)
    if found and scheme == "models":
        for mark, kind in (("@", OfAlias), ("/", OfVersion)):
            name, found, which = rest.rpartition(mark)
            if found:
                return kind(name, which)
        return OfModel(rest)
    return Place(uri)
