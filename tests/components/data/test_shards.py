"""Shards: deterministic, atomic, planned part by part, standard; and what a bad source or a bad shard gets."""

import gc
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from components.config import DataConfig
from components.data.images import encode_png
from components.data.labels import unseen_labels
from components.data.planning import plan_shards
from components.data.reader import Shard
from components.data.shards import (
    Index,
    build_index,
    build_shard,
    parse_index,
    read_index,
    verify_shard,
    write_shard,
)
from components.data.sources.base import Sample, open_source
from components.errors import UserError
from tests.components.data.conftest import Prepare


def line(error: pytest.ExceptionInfo[UserError]) -> str:
    """The message, which must be one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_same_input_gives_the_same_bytes(
    scenes: tuple[Path, Index], scenes_config: DataConfig, prepare: Prepare, tmp_path: Path
) -> None:
    folder, index = scenes
    again = prepare(scenes_config, tmp_path)
    assert again.fingerprint() == index.fingerprint()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in folder.iterdir())
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_the_index_lists_what_is_there(scenes: tuple[Path, Index]) -> None:
    folder, index = scenes
    assert read_index(folder) == index
    assert {split: index.samples(split) for split in index.splits} == {"train": 230, "val": 40, "test": 1000}
    assert [entry.samples for entry in index.splits["train"]] == [50, 50, 50, 50, 30]
    assert len(index.classes) == 10
    for entries in index.splits.values():
        for entry in entries:
            verify_shard(folder / entry.name, entry)
            data = (folder / entry.name).read_bytes()
            assert (entry.bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_splits_are_disjoint_and_complete() -> None:
    config = DataConfig(source="shapes", validation=0.1, shard_samples=300, seed=3)
    source = open_source(config)
    plans = list(plan_shards(source, config))
    raw = {split: [i for p in plans if p.split == split for i in p.indices] for split in source.splits}
    held = [i for p in plans if p.split == "val" for i in p.indices]
    assert sorted(raw["train"] + held) == list(range(10_000))
    assert len(held) == 1000
    assert sorted(raw["test"]) == list(range(1000))
    assert raw["train"] != sorted(raw["train"])
    limited = DataConfig(source="shapes", validation=0.1, shard_samples=300, seed=3, samples=500)
    again = [i for p in plan_shards(source, limited) for i in p.indices if p.split == "train"]
    assert again == raw["train"][:500], (
        "a smaller data set is the beginning of the larger one, with the same validation"
    )


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the garbage collector
def test_webdataset_reads_our_shards(scenes: tuple[Path, Index]) -> None:
    folder, index = scenes
    urls = [str(folder / entry.name) for entry in index.splits["train"]]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("png", "cls", "mask.png"))
    assert len(samples) == 230
    image, label, _ = samples[60]
    shard = Shard(folder / index.splits["train"][1].name)
    data = shard.member(10, "cls")
    assert data is not None
    assert label == int(bytes(data))
    picture = shard.member(10, "png")
    assert picture is not None
    assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(picture))))
    gc.collect()


def test_tar_reads_our_shards_as_plain_ustar(scenes: tuple[Path, Index]) -> None:
    folder, index = scenes
    path = folder / index.splits["val"][0].name
    assert path.read_bytes()[257:265] == b"ustar\x0000"
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.mode, m.type) for m in members} == {(0, 0, 0, 0o644, tarfile.REGTYPE)}
        shard = Shard(path)
        for member in members[:30]:
            stem, _, extension = member.name.partition(".")
            ours = shard.member(shard.keys.index(stem), extension)
            content = tar.extractfile(member)
            assert content is not None
            assert ours is not None
            assert bytes(ours) == content.read()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[Sample]:
        yield Sample("a", {"cls": b"1"})
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_shard(failing(), tmp_path / "x.tar")
    assert list(tmp_path.iterdir()) == []
    assert write_shard([], tmp_path / "x.tar") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "samples",
    [
        [Sample("a", {"cls": b"1"}), Sample("a", {"cls": b"2"})],
        [Sample("a.b", {"cls": b"1"})],
        [Sample("a", {})],
        [Sample("k" * 98, {"cls": b""})],
    ],
)
def test_keys_that_a_reader_would_confuse_are_not_written(samples: list[Sample], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not unique|longer"):
        write_shard(samples, tmp_path / "x.tar")
    assert list(tmp_path.iterdir()) == []


def folder_of_images(root: Path, good: int, broken: int) -> DataConfig:
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for k in range(good):
        (root / f"good{k:03d}.png").write_bytes(encode_png(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)))
    for k in range(broken):
        (root / f"bad{k:03d}.png").write_bytes(b"nothing")
    return DataConfig(source="folder", root=str(root), shard_samples=20, validation=0.2)


def test_broken_images_are_left_out_counted_and_named(tmp_path: Path, prepare: Prepare) -> None:
    config = folder_of_images(tmp_path / "raw", 99, 1)
    index = prepare(config, tmp_path / "out")
    assert index.samples("train") + index.samples("val") == 99
    assert [(skip.name, skip.reason) for skip in index.skipped] == [("bad000.png", "not an image")]
    assert "raw" not in index.to_bytes().decode(), "places on a disk are not part of a data set"


def test_too_many_broken_images_stop_the_job(tmp_path: Path) -> None:
    config = folder_of_images(tmp_path / "raw", 92, 8)
    source = open_source(config)
    results = [build_shard(source, config, plan, tmp_path / "out") for plan in plan_shards(source, config)]
    with pytest.raises(UserError) as caught:
        build_index(source, config, results)
    message = line(caught)
    assert message.startswith("8 of 100 images are broken, more than data.max_skipped=0.01 allows: bad0")
    assert message.endswith("and 3 more; repair or remove them, or use --set data.max_skipped=0.09")
    assert not (tmp_path / "out" / "index.json").exists()
    allowed = config.model_copy(update={"max_skipped": 0.09})
    assert build_index(source, allowed, reversed(results)).samples("train") <= 80


def test_a_split_without_a_readable_image_stops_the_job(tmp_path: Path) -> None:
    config = folder_of_images(tmp_path / "raw", 0, 5).model_copy(update={"max_skipped": 1.0})
    source = open_source(config)
    results = [build_shard(source, config, plan, tmp_path / "out") for plan in plan_shards(source, config)]
    with pytest.raises(UserError, match=r"^every image of the (train|val) split is broken: bad0") as caught:
        build_index(source, config, results)
    line(caught)


def test_too_few_images_to_cut_a_validation_split(tmp_path: Path) -> None:
    config = folder_of_images(tmp_path / "raw", 2, 0).model_copy(update={"validation": 0.1})
    with pytest.raises(UserError) as caught:
        list(plan_shards(open_source(config), config))
    assert line(caught) == (
        "2 images cannot be cut into training and validation with data.validation=0.1: "
        "add images or use --set data.validation=0.5"
    )


def test_a_missing_or_damaged_index(tmp_path: Path, scenes: tuple[Path, Index]) -> None:
    with pytest.raises(UserError, match=r"^no data set in .*: there is no index.json; run `genoise prepare"):
        read_index(tmp_path)
    with pytest.raises(UserError, match=r"^here is not the index of a data set \(.*\): run `genoise prepare` again$"):
        parse_index(b'{"format": "other"}', "here")
    text = scenes[1].to_bytes().replace(b"train-000000.tar", b"../train-0000.tar")
    with pytest.raises(UserError, match=r"splits.train.0.name"):
        parse_index(text, "here")


def test_a_shard_that_changed_is_refused_and_named(tmp_path: Path, scenes: tuple[Path, Index]) -> None:
    folder, index = scenes
    entry = index.splits["train"][0]
    path = tmp_path / entry.name
    with pytest.raises(UserError, match=rf"^shard {entry.name} is missing"):
        verify_shard(path, entry)
    data = bytearray((folder / entry.name).read_bytes())
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match=r"bytes instead of"):
        verify_shard(path, entry)
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"^shard .*{entry.name} differs from its sha256 in the index: remove"):
        verify_shard(path, entry)


def held(shard: Shard, sample: int, extensions: str) -> bytes:
    data = shard.member(sample, extensions)
    assert data is not None
    return bytes(data)


def tar_of(path: Path, *members: tuple[tarfile.TarInfo | str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_that_others_wrote_are_read(tmp_path: Path, form: int) -> None:
    long = "folder/" * 15 + "x" * 20
    folder = tarfile.TarInfo("folder")
    folder.type = tarfile.DIRTYPE
    timed = tarfile.TarInfo("b.png")
    timed.mtime = 1.5  # a pax header of its own
    path = tar_of(
        tmp_path / "a.tar",
        (folder, b""),
        (f"{long}.cls", b"7"),
        (f"{long}.x.json", b"{}"),
        (timed, b"12345"),
        form=form,
    )
    shard = Shard(path)
    assert shard.keys == [long, "b"]
    assert [held(shard, 0, "cls"), held(shard, 0, "x.json"), held(shard, 1, "jpg;png")] == [b"7", b"{}", b"12345"]
    assert shard.member(1, "cls") is None


def test_webdataset_writes_what_we_read(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for k in range(3):
            writer.write({"__key__": f"sample{k}", "png": image, "cls": k})
    shard = Shard(tmp_path / "w.tar")
    assert shard.keys == ["sample0", "sample1", "sample2"]
    assert held(shard, 2, "cls") == b"2"


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("../a.png", b"x")], "member '../a.png' points outside the shard; write the shard again without it"),
        ([("/etc/a.png", b"x")], "member '/etc/a.png' points outside the shard"),
        ([("a\\..\\b.png", b"x")], "points outside the shard"),
        ([(special("a.png", tarfile.SYMTYPE, "/etc/passwd"), b"")], "member 'a.png' is a link or a device"),
        ([(special("a.png", tarfile.LNKTYPE, "b.png"), b"")], "is a link or a device"),
        ([(special("a.png", tarfile.FIFOTYPE), b"")], "is a link or a device"),
        ([("a.png", b"x"), ("a.png", b"y")], "member 'a.png' occurs twice"),
        ([("a.png", b"x"), ("b.png", b"y"), ("a.cls", b"1")], "belongs to a key that occurred before"),
    ],
)
def test_hostile_tars_are_refused(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo | str, bytes]], said: str
) -> None:
    path = tar_of(tmp_path / "a.tar", *members)
    with pytest.raises(UserError) as caught:
        Shard(path)
    assert line(caught).startswith(f"shard {path}: member ")
    assert said in line(caught)


def test_damaged_tars_are_refused(tmp_path: Path, scenes: tuple[Path, Index]) -> None:
    data = (scenes[0] / scenes[1].splits["train"][0].name).read_bytes()
    path = tmp_path / "a.tar"
    for cut in (len(data) // 2, len(data) - 1024, 700, 512):
        path.write_bytes(data[:cut])
        with pytest.raises(
            UserError, match=r"^shard .*a.tar is truncated after \d+ samples: run `genoise prepare` again$"
        ):
            Shard(path)
    path.write_bytes(b"x" * 2048)
    with pytest.raises(UserError, match=r"is not a tar file, or damaged, at byte 0"):
        Shard(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be read"):
        Shard(path)
    with pytest.raises(UserError, match=r"is missing"):
        Shard(tmp_path / "none.tar")


def test_written_files_are_complete_before_they_have_their_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"

    def watching() -> Iterator[Sample]:
        yield Sample("a", {"cls": b"1"})
        assert not path.exists()

    write_shard(watching(), path)
    assert stat.S_ISREG(os.stat(path).st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_labels_are_counted(tmp_path: Path, prepare: Prepare) -> None:
    for split, counts in (("train", {"cat": 4, "dog": 3}), ("val", {"dog": 2})):
        for name, count in counts.items():
            (tmp_path / "raw" / split / name).mkdir(parents=True)
            for k in range(count):
                (tmp_path / "raw" / split / name / f"{k}.png").write_bytes(encode_png(np.full((8, 8, 3), k, np.uint8)))
    index = prepare(DataConfig(source="folder", root=str(tmp_path / "raw"), shard_samples=2), tmp_path / "out")
    assert index.labels == {"train": {"0": 4, "1": 3}, "val": {"1": 2}}
    lacking = index.model_copy(update={"labels": {"train": {"0": 4}, "val": {"0": 1, "1": 2}}})
    assert unseen_labels(index) == {}
    assert unseen_labels(lacking) == {"val": {"samples": 2, "of": 3, "classes": ["dog"]}}
