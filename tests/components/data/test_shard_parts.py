"""Parts of a shard as texts, and an index in which a shard lies in two splits."""

import numpy as np
import pytest
from pydantic import ValidationError

from components.data.shard_parts import overlap, part_of, samples_of, whole_of
from components.data.shards import Index, ShardEntry, limited

ENTRY = ShardEntry(name="a.tar", samples=60, bytes=1, sha256="0" * 64)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([3, 17, 18, 19], "only 3,17-19 of 60"),
        ([k for k in range(60) if k not in (0, 59)], "all but 0,59 of 60"),
        (list(range(30)), "only 0-29 of 60"),
        (list(range(60)), None),
    ],
)
def test_a_part_is_a_short_text(numbers: list[int], text: str | None) -> None:
    assert part_of(np.array(numbers), 60) == text
    if text:
        assert samples_of(text).tolist() == numbers and whole_of(text) == 60


def test_numbers_that_a_shard_does_not_have_are_refused() -> None:
    for part in ("only 60 of 60", "only 3,3 of 60", "all but 5-4 of 60"):
        with pytest.raises(ValueError, match="rising numbers below 60"):
            samples_of(part)


def test_overlap() -> None:
    assert not overlap("only 3 of 9", "all but 3 of 9") and not overlap("only 3 of 9", "only 4-8 of 9")
    assert overlap("only 3 of 9", "only 3 of 9") and overlap("only 3 of 9", "all but 4 of 9") and overlap(None, None)
    assert overlap("all but 3 of 9", "all but 3 of 9") and overlap("only 0-8 of 9", None)


def test_a_shard_lies_in_two_splits_by_parts_without_a_common_sample() -> None:
    def index(train: str | None, val: str | None) -> Index:
        splits = {"train": train, "val": val}
        return Index(
            source={}, fields={}, splits={s: (ENTRY.model_copy(update={"part": p}),) for s, p in splits.items()}
        )

    kept = index("all but 3 of 60", "only 3 of 60")
    assert Index.model_validate_json(kept.to_bytes()) == kept
    for train, val in ((None, None), (None, "only 3 of 60"), ("only 3,4 of 60", "only 3 of 60")):
        with pytest.raises(ValidationError, match="two shards have the same name"):
            index(train, val)


def test_an_index_without_parts_and_labels_has_the_bytes_that_it_had() -> None:
    text = Index(source={}, fields={}, splits={"train": (ENTRY,)}).to_bytes()
    assert b'"part"' not in text and b'"labels"' not in text


def test_the_first_samples_of_a_split() -> None:
    second = ENTRY.model_copy(update={"name": "b.tar", "part": "all but 0,2 of 62"})
    index = Index(source={}, fields={}, splits={"train": (ENTRY, second), "other_train": (), "val": ()})
    index = index.model_copy(update={"splits": index.splits | {"other_train": (second,), "val": (ENTRY,)}})
    few = limited(index, 62)
    assert [(e.name, e.samples, e.part) for e in few.splits["train"]] == [
        ("a.tar", 60, None),
        ("b.tar", 2, "only 1,3 of 62"),
    ]
    assert few.samples("other_train") == 60 and few.samples("val") == 60
    assert limited(index, 10).samples("other_train") == 10 and limited(index, 10).samples("val") == 60
    assert limited(index, 120) is index and limited(index, None) is index
