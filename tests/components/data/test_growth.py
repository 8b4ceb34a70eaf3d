"""Data sets that grow: what is new becomes new shards, what is there is never touched, and every image is in once."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from components.config import DataConfig
from components.data.images import encode_png
from components.data.planning import NOTHING, count_shards, count_vanished, plan_parts, plan_shards
from components.data.reader import Shard
from components.data.records import Record, all_entries, check_extends, finished, key_of, known_by, names_of
from components.data.shards import Index, build_index, build_shard
from components.data.sources.base import open_source
from components.errors import UserError


def fill(root: Path, *numbers: int) -> DataConfig:
    """A folder with an image for each number; those that are added lie between those that were there."""
    root.mkdir(exist_ok=True)
    for k in numbers:
        image_HW3 = np.full((8, 8, 3), k % 256, np.uint8)
        (root / f"{k * 7919 % 1000:03d}-{k}.png").write_bytes(encode_png(image_HW3))
    return DataConfig(source="folder", root=str(root), shard_samples=10, validation=0.2)


Held = tuple[Index, list[Record]]


def grow(config: DataConfig, folder: Path, before: Held | None = None) -> Held:
    """What a preparation does, in one process."""
    source = open_source(config)
    index, records = before or (None, [])
    known = known_by(records, index) if index else NOTHING
    new = []
    for plan in plan_shards(source, config, known):
        names = names_of(source, plan)
        result = build_shard(source, config, plan, folder)
        new.append(Record(key=key_of(config, "", plan, names), raw_split=plan.raw_split, names=names, result=result))
    return build_index(source, config, [record.result for record in new], index), [*records, *new]


def numbers_in(folder: Path, index: Index) -> Counter[int]:
    """How often each image is in the shards, by the end of its key."""
    keys = [key for entry in all_entries(index) for key in Shard(folder / entry.name).keys]
    return Counter(int(key.rsplit("-", 1)[-1]) for key in keys)


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar")}


def once(count: int) -> dict[int, int]:
    return dict.fromkeys(range(count), 1)


def test_more_images_are_more_shards_and_nothing_else_changes(tmp_path: Path) -> None:
    config, out = fill(tmp_path / "raw", *range(50)), tmp_path / "out"
    first = grow(config, out)
    before = sums(out)
    fill(tmp_path / "raw", *range(50, 75))
    index, _ = grow(config, out, first)
    after = sums(out)
    assert {name: after[name] for name in before} == before and len(after) > len(before)
    assert numbers_in(out, index) == once(75)
    assert {split: index.samples(split) for split in index.splits} == {"train": 60, "val": 15}
    for split, entries in first[0].splits.items():
        assert index.splits[split][: len(entries)] == entries
    assert {entry.generation for entry in all_entries(index)} == {0, 1}
    keys = [key for entry in all_entries(index) for key in Shard(out / entry.name).keys]
    assert len(set(keys)) == 75


def test_without_new_images_nothing_is_written(tmp_path: Path) -> None:
    config, out = fill(tmp_path / "raw", *range(30)), tmp_path / "out"
    first = grow(config, out)
    again = grow(config.model_copy(update={"shard_samples": 7, "validation": 0.1}), out, first)
    assert again[0].to_bytes() == first[0].to_bytes() and len(again[1]) == len(first[1])


def test_growing_gives_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        raw, out = tmp_path / f"raw-{name}", tmp_path / name
        first = grow(fill(raw, *range(30)), out)
        grow(fill(raw, *range(30, 47)), out, first)
    assert sums(tmp_path / "a") == sums(tmp_path / "b")


def test_a_limit_that_is_raised_takes_more_of_the_same_source(tmp_path: Path) -> None:
    config, out = fill(tmp_path / "raw", *range(60)), tmp_path / "out"
    first = grow(config.model_copy(update={"samples": 10}), out)
    assert (first[0].samples("train"), first[0].samples("val")) == (10, 12)
    second = grow(config.model_copy(update={"samples": 25}), out, first)
    assert (second[0].samples("train"), second[0].samples("val")) == (25, 12)
    assert numbers_in(out, grow(config, out, second)[0]) == once(60)


def test_growing_often_keeps_every_image_once_and_the_share(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    held, total = grow(fill(tmp_path / "raw", *range(20)), tmp_path / "out"), 20
    for _ in range(8):
        more = int(draws.integers(1, 30))
        held = grow(fill(tmp_path / "raw", *range(total, total + more)), tmp_path / "out", held)
        total += more
        assert abs(held[0].samples("val") - 0.2 * total) <= 0.5
    assert numbers_in(tmp_path / "out", held[0]) == once(total)


def test_images_that_vanish_are_counted(tmp_path: Path) -> None:
    config = fill(tmp_path / "raw", *range(30))
    index, records = grow(config, tmp_path / "out")
    for path in sorted((tmp_path / "raw").iterdir())[:4]:
        path.unlink()
    assert count_vanished(open_source(config), known_by(records, index)) == 4


def test_broken_images_are_known_too(tmp_path: Path) -> None:
    config = fill(tmp_path / "raw", *range(30)).model_copy(update={"max_skipped": 0.1})
    (tmp_path / "raw" / "broken.png").write_bytes(b"nothing")
    first = grow(config, tmp_path / "out")
    assert first[0].samples("train") + first[0].samples("val") == 30
    again = grow(config, tmp_path / "out", first)
    assert again[0].to_bytes() == first[0].to_bytes() and len(again[1]) == len(first[1])


def test_plans_come_one_at_a_time() -> None:
    """A source of 900 million samples is planned as the plans are asked for."""
    config = DataConfig(source="shapes", samples=900_000_000, shard_samples=1000, validation=0.001)
    source = open_source(config)
    assert count_shards(plan_parts(source, config), config) > 900_000
    plans = plan_shards(source, config)
    assert [len(next(plans).indices) for _ in range(3)] == [1000] * 3


def test_a_generation_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    config = fill(tmp_path / "raw", *range(30))
    index, records = grow(config, tmp_path / "out")
    later = grow(fill(tmp_path / "raw", *range(30, 50)), tmp_path / "out", (index, records))[1]
    assert len(later) > len(records) and finished(later, index) == records
    with pytest.raises(UserError, match=r"^1 of 4 shards have no record \(train-000001.tar first\)"):
        finished([record for record in records if record.result.number != 1], index)


@pytest.mark.parametrize("change", [{"size": 64}, {"seed": 1}, {"encode": "png"}])
def test_data_of_another_kind_is_not_mixed_in(tmp_path: Path, change: dict[str, object]) -> None:
    config = fill(tmp_path / "raw", *range(30))
    index, _ = grow(config, tmp_path / "out")
    ((key, value),) = change.items()
    said = rf"^here holds a data set that was prepared with data.{key}=\w+, not {value}: choose another place"
    with pytest.raises(UserError, match=said):
        check_extends(index, open_source(config), config.model_copy(update=change), "here")


def test_labels_never_change_their_meaning(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("cat", "dog"):
        fill(tmp_path / "raw" / name, *range(10))
    config = DataConfig(source="folder", root=str(tmp_path / "raw"), validation=0.2)
    index, _ = grow(config, tmp_path / "out")
    fill(tmp_path / "raw" / "emu", *range(10))
    check_extends(index, open_source(config), config, "here")  # cat and dog are still 0 and 1
    fill(tmp_path / "raw" / "cow", *range(10))
    with pytest.raises(UserError, match=r"2 classes, and the source has image, label and 4: labels"):
        check_extends(index, open_source(config), config, "here")
