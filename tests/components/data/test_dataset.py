"""Data set and loader: ids to tensors, a bounded cache, replacement of what is broken, prefetching that ends well."""

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from components.data.dataset import ShardedDataset
from components.data.images import encode_png
from components.data.loader import Loaded, Loader
from components.data.order import Order, Plan
from components.data.reader import Shard
from components.data.shards import Index, ShardEntry, write_shard
from components.data.sources.base import Sample
from components.errors import UserError

FIELDS = ("image", "label", "mask", "edges")


def dataset(scenes: tuple[Path, Index], split: str = "train", **options: Any) -> ShardedDataset:
    folder, index = scenes
    return ShardedDataset(index, split, lambda name: folder / name, 32, **{"fields": FIELDS, **options})


def test_shapes_types_and_values(scenes: tuple[Path, Index]) -> None:
    data = dataset(scenes)
    assert len(data) == 230
    ids = np.array([229, 0, 51, 0, 120])
    batch = data.get(ids)
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
        "image": ((5, 3, 32, 32), torch.uint8),
        "label": ((5,), torch.int64),
        "mask": ((5, 32, 32), torch.int64),
        "edges": ((5, 3, 32, 32), torch.uint8),
    }
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    for row, sample_id in enumerate(ids):
        shard = Shard(scenes[0] / scenes[1].splits["train"][sample_id // 50].name)
        members = {e: shard.member(int(sample_id) % 50, e) for e in ("png", "cls", "mask.png", "edges.png")}
        pictures = {e: Image.open(io.BytesIO(d)) for e, d in members.items() if d is not None and e != "cls"}
        assert np.array_equal(batch["image"][row].permute(1, 2, 0), np.asarray(pictures["png"]))
        assert np.array_equal(batch["mask"][row], np.asarray(pictures["mask.png"]))
        assert np.array_equal(batch["edges"][row, 1], np.asarray(pictures["edges.png"]))
        assert members["cls"] is not None
        assert batch["label"][row] == int(bytes(members["cls"]))
        assert batch["mask"][row].eq(batch["label"][row] + 1).any()
    assert np.array_equal(data.labels(ids), batch["label"])
    assert data.key(51) == Shard(scenes[0] / "train-000001.tar").keys[1]
    assert data.member(51, "boxes").startswith(b'{"boxes"')


def test_jpegs_are_decoded_into_memory_that_stays_in_the_caches(scenes: tuple[Path, Index]) -> None:
    """libjpeg-turbo writes past them where a row begins at a multiple of 32."""
    for count, side in ((1, None), (7, 31), (64, 224)):
        rows = dataset(scenes).rows(count, side)
        assert {rows[field].ctypes.data % 32 for field in ("image", "edges")} == {16}
        assert rows["image"].shape == (count, side or 32, side or 32, 3) and rows["image"].flags.c_contiguous


@pytest.mark.parametrize("cached", [0, 100, 10_000])
def test_the_cache_changes_nothing_and_is_bounded(scenes: tuple[Path, Index], cached: int) -> None:
    per_sample = 2 * 32 * 32 * 3 + 32 * 32 + 8
    data, plain = dataset(scenes, cache_bytes=cached * per_sample), dataset(scenes, cache_bytes=0)
    ids = np.random.default_rng(0).permutation(230)
    expected = plain.get(ids)
    for _ in range(2):
        for name, value in data.get(ids).items():
            assert torch.equal(value, expected[name])
    assert data.cached == min(cached, 230)


def test_a_second_epoch_decodes_nothing(tmp_path: Path, scenes: tuple[Path, Index]) -> None:
    fetched: list[str] = []
    folder, index = scenes

    def fetch(name: str) -> Path:
        fetched.append(name)
        if len(fetched) > 5:
            raise AssertionError("asked for a shard again")
        return folder / name

    data = ShardedDataset(index, "train", fetch, 32)
    first = data.get(np.arange(230))
    data.close()
    assert torch.equal(data.get(np.arange(230))["image"], first["image"])
    assert sorted(fetched) == [entry.name for entry in index.splits["train"]]


def test_few_shards_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.dataset.OPEN_SHARDS", 10)
    image = {"png": encode_png(np.zeros((8, 8, 3), np.uint8))}
    entries = [write_shard([Sample(f"k{n}", image)], tmp_path / f"train-{n}.tar") for n in range(20)]
    index = Index(source={}, fields={"image": "png"}, splits={"train": tuple(e for e in entries if e)})
    data = ShardedDataset(index, "train", lambda name: tmp_path / name, 8, cache_bytes=0)
    data.get(np.arange(len(data)))
    assert data.open_shards == 10


def with_broken(folder: Path, broken: set[int]) -> Index:
    """20 samples in two shards; some do not decode. Sample k is filled with the value k."""
    entries: list[ShardEntry] = []
    for number in range(2):
        samples = []
        for k in range(number * 10, number * 10 + 10):
            png = b"broken" if k in broken else encode_png(np.full((8, 8, 3), k, np.uint8))
            samples.append(Sample(f"k{k}", {"png": png, "cls": str(k).encode()}))
        entry = write_shard(samples, folder / f"train-{number}.tar")
        assert entry is not None
        entries.append(entry)
    classes = tuple(map(str, range(20)))
    return Index(source={}, fields={"image": "png", "label": "cls"}, classes=classes, splits={"train": tuple(entries)})


def test_a_broken_sample_is_replaced_by_the_next_of_its_shard(tmp_path: Path) -> None:
    index = with_broken(tmp_path, {3, 4, 9})
    data = ShardedDataset(index, "train", lambda name: tmp_path / name, 8, ("image", "label"), max_replaced=0.2)
    batch = data.get(np.arange(20))
    expected = [0, 1, 2, 5, 5, 5, 6, 7, 8, 0, *range(10, 20)]
    assert batch["label"].tolist() == expected
    assert batch["image"][:, 0, 0, 0].tolist() == expected
    assert set(data.replaced) == {"train-0.tar:k3", "train-0.tar:k4", "train-0.tar:k9"}


def test_too_many_broken_samples_stop_the_job(tmp_path: Path) -> None:
    index = with_broken(tmp_path, {3, 4, 9})
    data = ShardedDataset(index, "train", lambda name: tmp_path / name, 8, max_replaced=0.1)
    with pytest.raises(
        UserError, match=r"^more than 2 of 20 samples cannot be decoded: train-0.tar:k3 \(.*\), "
    ) as caught:
        data.get(np.arange(20))
    assert "\n" not in str(caught.value)
    index = with_broken(tmp_path, set(range(10)))
    data = ShardedDataset(index, "train", lambda name: tmp_path / name, 8, max_replaced=1.0)
    with pytest.raises(UserError, match=r"^no sample of shard .*train-0.tar can be decoded"):
        data.get(np.array([0]))


def test_a_shard_that_does_not_fit_the_index_is_refused(tmp_path: Path) -> None:
    index = with_broken(tmp_path, set())
    write_shard([Sample("k", {"png": b"", "cls": b"0"})], tmp_path / "train-1.tar")
    data = ShardedDataset(index, "train", lambda name: tmp_path / name, 8)
    with pytest.raises(UserError, match=r"^shard .*train-1.tar has 1 samples and the index says 10"):
        data.get(np.array([15]))


def test_wrong_names_are_errors_for_the_reader(scenes: tuple[Path, Index]) -> None:
    with pytest.raises(UserError) as caught:
        dataset(scenes, "trian")
    assert str(caught.value) == "unknown split 'trian': did you mean 'train'? There are: test, train, val"
    with pytest.raises(UserError) as caught:
        dataset(scenes, fields=("image", "labels"))
    assert str(caught.value) == (
        "unknown field of this data set 'labels': did you mean 'label'? There are: edges, image, label, mask"
    )


@pytest.mark.parametrize("world", [1, 3])
def test_the_loader_gives_the_plan(scenes: tuple[Path, Index], world: int) -> None:
    data = dataset(scenes, fields=("image", "label"))
    order, plan = Order(data.shard_sizes, seed=1, window=2), Plan(len(data), 32, 1.5)
    labels = data.labels()
    loaders = [Loader(data, order, plan, rank, world) for rank in range(world)]
    for start in (0, 4):
        seen, step = [], start
        for parts in zip(*(loader.iterate(start) for loader in loaders), strict=True):
            assert {(part.step, part.start, part.stop) for part in parts} == {(step, *plan.span(step))}
            for part in parts:
                assert np.array_equal(labels[part.ids], part.batch["label"])
                assert len(part.positions) == len(part.ids) == len(part.batch["image"])
                seen += part.positions.tolist()
                assert all(order.ids(p, p + 1) == i for p, i in zip(part.positions.tolist(), part.ids, strict=True))
            step += 1
        assert sorted(seen) == list(range(plan.span(start)[0], plan.total))
        assert step == plan.steps
    assert loaders[0].waited > 0


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_a_window_is_cut_out_of_all_maps_alike(scenes: tuple[Path, Index], cache_bytes: int) -> None:
    folder, index = scenes
    whole = dataset(scenes)
    data = ShardedDataset(index, "train", lambda name: folder / name, 24, FIELDS, margin=8, cache_bytes=cache_bytes)
    ids = np.array([3, 200, 3, 77])
    corners = np.array([[0, 0], [8, 3], [5, 8], [1, 2]])
    expected = whole.get(ids)
    for _ in range(2):
        got, centre = data.get(ids, corners), data.get(ids)
        assert torch.equal(got["label"], expected["label"])
        for field in ("image", "mask", "edges"):
            for row, (top, left) in enumerate(corners.tolist()):
                window = expected[field][row, ..., top : top + 24, left : left + 24]
                assert torch.equal(got[field][row], window)
                assert torch.equal(centre[field][row], expected[field][row, ..., 4:28, 4:28])


@pytest.mark.parametrize("world", [1, 3])
def test_random_windows_belong_to_positions(scenes: tuple[Path, Index], world: int) -> None:
    folder, index = scenes
    data = ShardedDataset(index, "train", lambda name: folder / name, 24, margin=8)
    order, plan = Order(data.shard_sizes, seed=1), Plan(len(data), 32, 1.5)
    alone = {p: image for loaded in Loader(data, order, plan).iterate() for p, image in rows_of(loaded)}
    parts = [loaded for rank in range(world) for loaded in Loader(data, order, plan, rank, world).iterate(2)]
    for position, image in (row for loaded in parts for row in rows_of(loaded)):
        assert torch.equal(image, alone[position])
    again = order.ids(0, 345).tolist().index(int(order.ids(300, 301)[0]))
    assert not torch.equal(alone[300], alone[again]), "the same sample, in another epoch, in another window"


def rows_of(loaded: Loaded) -> list[tuple[int, torch.Tensor]]:
    """(position, image) of each sample."""
    return [(p, image.clone()) for p, image in zip(loaded.positions.tolist(), loaded.batch["image"], strict=True)]


@pytest.mark.parametrize("world", [1, 3])
def test_another_stream_joins_at_the_same_positions(scenes: tuple[Path, Index], world: int) -> None:
    """A second domain of another length; what stands side by side does not depend on the number of ranks."""
    data, other = dataset(scenes, fields=("image", "label")), dataset(scenes, "val", fields=("image",))
    plan = Plan(len(data), 32, 1.5)
    order, other_order = Order(data.shard_sizes, seed=1), Order(other.shard_sizes, seed=2)
    seen = []
    loaders = [
        Loader(data, order, plan, rank, world, others={"other": (other, other_order)}).iterate(1)
        for rank in range(world)
    ]
    for parts in zip(*loaders, strict=True):
        start, stop = parts[0].start, parts[0].stop
        ids, other_ids = order.batch(start, stop)[1], other_order.batch(start, stop)[1]
        assert torch.equal(torch.cat([part.batch["image"] for part in parts]), data.get(ids)["image"])
        assert torch.equal(torch.cat([part.batch["other"] for part in parts]), other.get(other_ids)["image"])
        seen += other_order.ids(start, stop).tolist()
    assert len(other) == 40 and sorted(seen[8:48]) == list(range(40)), "positions 40 to 79 are an epoch of its own"


def test_memory_is_used_again_but_never_under_a_batch(scenes: tuple[Path, Index]) -> None:
    data = dataset(scenes)
    order, plan = Order(data.shard_sizes, seed=1), Plan(len(data), 32, 4)
    kept, places = [], []
    for loaded in Loader(data, order, plan, threads=1, prefetch=2).iterate():
        places.append(loaded.batch["image"].data_ptr())
        if loaded.step % 5 == 0:
            kept.append((loaded, {field: values.clone() for field, values in loaded.batch.items()}))
    assert len(set(places)) <= len(kept) + 5 < len(places)
    for loaded, copies in kept:
        for field, values in loaded.batch.items():
            assert torch.equal(values, copies[field])


@pytest.mark.parametrize("cached", [0, 100, 10_000])
@pytest.mark.parametrize("margin", [0, 8])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_windows_that_the_device_cuts_are_those_of_the_host(
    scenes: tuple[Path, Index], device: str, margin: int, cached: int
) -> None:
    """Every field and every stream, bit for bit, in the same layout; decoded, from the cache, and both in a batch."""
    folder, index = scenes

    def batches(device: str, there: bool) -> Iterator[Loaded]:
        options: dict[str, Any] = {"margin": margin, "cache_bytes": cached * (2 * 32 * 32 * 3 + 32 * 32 + 8)}
        data = ShardedDataset(index, "train", lambda name: folder / name, 24, FIELDS, **options)
        other = ShardedDataset(index, "val", lambda name: folder / name, 24, **options)
        orders = [Order(each.shard_sizes, seed) for seed, each in enumerate((data, other))]
        others = {"other": (other, orders[1])}
        loader = Loader(data, orders[0], Plan(230, 32, 2.5), device=device, others=others, cut_there=there)
        return loader.iterate(1)

    for found, expected in zip(batches(device, True), batches("cpu", False), strict=True):
        assert found.batch.keys() == {*FIELDS, "other"} == expected.batch.keys()
        for field, values in expected.batch.items():
            assert found.batch[field].device.type == device
            assert found.batch[field].stride() == values.stride() and torch.equal(found.batch[field].cpu(), values)


def test_a_gpu_cuts_windows_unless_told_not_to(scenes: tuple[Path, Index], monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(scenes)
    monkeypatch.setattr("components.data.loader.Mover", lambda _: None)
    for device, told, there in (("cpu", None, False), ("cuda", None, True), ("cuda", False, False)):
        loader = Loader(data, Order(data.shard_sizes, 0), Plan(230, 32, 1), device=device, cut_there=told)
        assert loader._streams["image"]._whole is there


def test_errors_in_threads_reach_the_consumer_and_threads_end(tmp_path: Path) -> None:
    index = with_broken(tmp_path, set())
    (tmp_path / "train-1.tar").unlink()
    data = ShardedDataset(index, "train", lambda name: tmp_path / name, 8)
    loader = Loader(data, Order(data.shard_sizes, 0), Plan(20, 4, 3))
    with pytest.raises(UserError, match=r"^shard .*train-1.tar is missing"):
        list(loader.iterate())
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


def test_leaving_early_ends_the_threads_and_prefetching_is_bounded(
    scenes: tuple[Path, Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(scenes, fields=("image",))
    asked: list[int] = []
    original = data.read

    def counting(ids: np.ndarray, *more: Any) -> None:
        asked.append(len(ids))
        original(ids, *more)

    monkeypatch.setattr(data, "read", counting)
    batches = Loader(data, Order(data.shard_sizes, 0), Plan(len(data), 8, 2), threads=2, prefetch=3).iterate()
    for _ in range(5):
        next(batches)
    batches.close()
    assert 5 <= len(asked) <= 5 + 3
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]
