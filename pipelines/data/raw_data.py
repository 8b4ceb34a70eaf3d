"""Raw data, looked at once per process: what lies there, and what is known of it before an image is read."""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from components.config import DataConfig
from components.data.planning import split_sizes
from components.data.shards import INDEX_NAME, limited
from components.data.sources.base import Source, open_source
from components.data.sources.listing import PassedOver, files_of
from components.data.splits import is_table
from components.errors import UserError
from infra.storage import absolute, open_storage
from pipelines.data.opening import read_index_at

PREPARED = "shards"  # the source that is none: the shards at data.url are used as they are


def content_of(config: DataConfig) -> str:
    """A digest of the raw data, and of the table that says which file is in which split."""
    content = _content(config.root)
    if config.splits is None or not is_table(config.splits):
        return content
    try:
        table = Path(config.splits).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"--splits {config.splits} cannot be read ({error.strerror}): correct the path") from None
    return hashlib.sha256(content.encode() + table).hexdigest()


@lru_cache(maxsize=16)
def _content(root: str | None) -> str:
    """What lies under ``data.root``: a digest of the names, sizes and times of its files, taken once per process."""
    if root is None:
        return ""
    top = Path(root)
    digest = hashlib.sha256()
    # os.path, which takes any text: the source webdataset has names there that are no path's.
    for path in sorted(files_of(top)) if os.path.isdir(root) else [top] * os.path.isfile(root):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue  # gone since it was listed
        digest.update(os.fsencode(path.relative_to(top)) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def open_raw(config: DataConfig, content: str | None = None) -> Source:
    """The source, listed once per process; ``content``: of `content_of`, where it is known already."""
    return _listed(config.model_dump_json(), content_of(config) if content is None else content)


def passed_over(config: DataConfig, content: str) -> PassedOver:
    """What lies among the pictures of the source and is not taken, looked for once per process."""
    return _passed_over(config.model_dump_json(), content)


# ``content`` tells apart what lay at a place at other times.
@lru_cache(maxsize=4)
def _listed(config: str, content: str) -> Source:
    return open_source(DataConfig.model_validate_json(config))


@lru_cache(maxsize=4)
def _passed_over(config: str, content: str) -> PassedOver:
    return _listed(config, content).passed_over


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before an image is looked at."""

    fields: tuple[str, ...]
    labels: int  # classes that samples are labelled with; 0: unlabelled
    samples: dict[str, int]  # by split; broken ones are still among them


def facts_of(config: DataConfig) -> Facts | None:
    """What the source, or the index, says of a data set; None for shards of others until they have an index.

    Raises UserError for a source that cannot be read.
    """
    if config.source == PREPARED:
        url = absolute(config.url or "")
        if not open_storage(url).exists(INDEX_NAME):
            return None
        index = limited(read_index_at(url), config.samples)
        fields, classes = tuple(index.fields), index.classes
        samples = {split: index.samples(split) for split in index.splits}
    else:
        source = open_raw(config)
        fields, classes, samples = tuple(source.fields), source.classes, split_sizes(source, config)
    return Facts(fields, len(classes) if "label" in fields else 0, samples)


def expected_samples(config: DataConfig) -> dict[str, int]:
    """Samples per split, as far as can be known before an image is looked at: broken ones are still among them. Empty
    for shards that somebody else wrote, until they have an index."""
    facts = facts_of(config)
    return facts.samples if facts else {}
