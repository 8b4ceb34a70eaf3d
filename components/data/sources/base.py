"""What a source of raw data is. A new source is one new file beside this one: subclass Source, decorate the class."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from components.config import Config, DataConfig
from components.data.images import BrokenImage
from components.data.sources.listing import PassedOver, passed_over
from components.errors import UserError
from components.registry import Registry

DOMAINS = ("", "other_")  # of unpaired data, whose second domain has splits of its own
SPLITS = tuple(domain + split for domain in DOMAINS for split in ("train", "val", "test"))

UNKNOWN = 255  # in a mask: nobody knows what is there


@dataclass(frozen=True)
class Sample:
    """One sample as it lies in a shard: ``key`` plus {extension: bytes} (see `Source.fields`)."""

    key: str  # unique in the data set, without dots; the part before the first dot of the members' names
    members: dict[str, bytes]
    changes: tuple[str, ...] = ()  # what was done to it, each counted in the index


@dataclass(frozen=True)
class Broken:
    """A sample that cannot be used: where it came from, and why."""

    name: str
    reason: str


class Source:
    """Raw samples by split and number. Opening a source is cheap; reading works in any process.

    ``fields`` says which extension of a sample holds which field; alternatives are separated by ``;`` as in webdataset:

    - image -> ``jpg;png;webp``, target (the other picture of a pair) -> ``target.jpg;...``, edges -> ``edges.png``
    - label -> ``cls`` (decimal)
    - mask -> ``mask.png``: class + 1, 0 where none of them is, 255 where nobody knows
    - boxes -> ``boxes.json``: {"boxes": [[left, top, right, bottom]], "labels": [...]}, in pixels, the right and bottom
      ones outside; "difficult" and "crowds" where there are any (components.data.boxes.pack_objects)
    """

    class Options(Config):
        """The source's own options, ``data.options`` of a recipe. Overridden by sources that have any."""

    name: ClassVar[str]
    summary: ClassVar[str]
    told_splits: ClassVar[bool] = False  # whether it obeys ``data.splits``
    fields: dict[str, str]
    classes: tuple[str, ...] = ()  # empty: unlabelled
    listed: tuple[Path, ...] = ()  # folders whose pictures are the samples; what else lies in them is counted
    splits: dict[str, int]  # raw samples; a domain without "val" has it cut from its "train"
    left_out: Mapping[str, int] = {}  # folder -> images in it that belong to no split
    revision: str = ""  # where raw data is read otherwise than once: part of the fingerprint, so that it is read again

    def __init__(self, config: DataConfig, options: Config) -> None:
        """Look at ``config.root``; raise UserError when it does not hold what this source reads."""

    def read(self, split: str, index: int) -> Sample:
        """Raw sample ``index`` of ``split``. Raises BrokenImage (components.data.images)."""
        raise NotImplementedError

    def labels(self, split: str) -> NDArray[np.int64] | None:
        """The label of every raw sample of ``split``, where that is known without reading one; else None."""
        return None

    def locate(self, split: str, index: int) -> str:
        """The name under which a person finds the raw sample, for reports; text that can be written anywhere."""
        return f"{split}/{index}"

    @property
    def passed_over(self) -> PassedOver:
        """What lies among the pictures and is not taken; looked for anew each time."""
        return passed_over(self.listed)

    def read_many(self, split: str, indices: Sequence[int]) -> Iterator[Sample | Broken]:
        """The samples at ``indices``, in that order; overridden where a batch is faster than its samples."""
        for index in indices:
            try:
                yield self.read(split, index)
            except BrokenImage as error:
                yield Broken(self.locate(split, index), str(error))


_REGISTRY: Registry[type[Source]] = Registry("components.data.sources", "source")


def register_source(cls: type[Source]) -> type[Source]:
    """Class decorator: makes a source known by its ``name``."""
    _REGISTRY.register(cls.name, cls, cls)
    return cls


def all_sources() -> dict[str, type[Source]]:
    """Every source, by name: each module beside this file is imported once and registers itself."""
    return _REGISTRY.all()


def open_source(config: DataConfig) -> Source:
    """The source that ``config`` names. Raises UserError for an unknown name or option, with the nearest one, and
    for ``data.splits`` where the source cannot obey it."""
    source = _REGISTRY.get(config.source)
    if config.splits is not None and not source.told_splits:
        raise UserError(
            f"source {config.source!r} cannot be told its splits: leave out --splits {config.splits} (data.splits); "
            f"those that can: {', '.join(name for name, each in all_sources().items() if each.told_splits)}"
        )
    return source(config, source.Options.parse(config.options, "data.options."))
