"""What a preparation leaves, and what workers are told of it."""

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from components.data.labels import unseen_labels
from components.data.shards import Index
from pipelines.steps.results import Json, StepValue

NAMED = 20  # skipped images that the value names


class Prepared(StepValue):
    """A data set in shards, as the step that prepared or opened it found it."""

    url: str = Field(description="of the shards: a folder or s3://bucket/prefix")
    index: str = Field(description="fingerprint of the index")
    index_file: str = Field(description="the index under the name that it keeps when the data set grows")
    samples: dict[str, int] = Field(description="by split")
    classes: int | None = Field(None, description="classes that have a name, in labels, boxes or masks")
    labels: int | None = Field(None, description="classes that samples are labelled with; None: no labels, or unsaid")
    skipped: list[Json] = Field(default_factory=list, description="the first broken images: split, name, reason")
    skipped_count: int = 0
    converted: dict[str, int] = Field(default_factory=dict, description="what cleaning did: number of images")
    left_out: dict[str, int] = Field(default_factory=dict, description="images of no split, by folder")
    unseen: dict[str, Any] = Field(default_factory=dict, description="see `components.data.labels.unseen_labels`")
    limit: int | None = Field(None, description="training samples that are used; None: all")
    passed_over: Json = Field(default_factory=dict, description="files that are no pictures, by kind")

    @property
    def label_classes(self) -> int:
        """Classes that samples are labelled with; 0 without labels.

        What was prepared before there was ``labels`` has it under ``classes``.
        """
        return (self.labels if self.says_labels else self.classes) or 0

    @property
    def says_labels(self) -> bool:
        """Whether it was prepared since classes are counted that are no labels."""
        return "labels" in self.model_fields_set


def prepared_of(url: str, index: Index, index_file: str, **more: Any) -> Prepared:
    """The value for an index; ``more``: what the index does not say."""
    unseen = unseen_labels(index)
    found: Json = {
        "url": url,
        "index": index.fingerprint(),
        "index_file": index_file,
        "samples": {split: index.samples(split) for split in index.splits},
        **classes_of(index),
        "skipped": [skip.model_dump() for skip in index.skipped[:NAMED]],
        "skipped_count": len(index.skipped),
        "converted": index.converted,
        **({"left_out": index.left_out} if index.left_out else {}),
        **({"unseen": unseen} if unseen else {}),
    }
    return Prepared.from_json(found | more)


def classes_of(index: Index) -> dict[str, int | None]:
    """``classes``: how many have a name, in labels, boxes or masks; ``labels``: those that are labels. None where there
    is nothing to count."""
    named = len(index.classes) or None
    return {"classes": named, "labels": named if "label" in index.fields else None}


@dataclass(frozen=True)
class DataPlace:
    """A prepared data set, as whoever reads it is told of it, on any machine."""

    url: str
    index_file: str
    size: int  # of the square pictures, in pixels
    cache: str  # folder for shards that lie elsewhere
    label_classes: int = 0  # of labels alone: those of boxes and masks are no classes to a network
    limit: int | None = None  # training samples that are used; None: all
    margin: int = 0  # by which pictures are larger than their window, in pixels


def place_of(prepared: Prepared, size: int, cache: str, margin: int = 0) -> DataPlace:
    """Where a prepared data set is read, in pictures of ``size`` pixels."""
    labels, limit = prepared.label_classes, prepared.limit
    return DataPlace(prepared.url, prepared.index_file, size, cache, labels, limit, margin)
