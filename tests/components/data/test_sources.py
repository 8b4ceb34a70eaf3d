"""Sources: what they read, how they split and label, and what wrong input gets."""

import gzip
import hashlib
import importlib.util
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.config import DataConfig
from components.data.images import decode_full, encode_png
from components.data.shards import read_index
from components.data.sources import cifar10
from components.data.sources.base import Broken, Sample, Source, all_sources, open_source, register_source
from components.errors import UserError
from tests.components.data.conftest import Prepare


def line(error: pytest.ExceptionInfo[UserError]) -> str:
    """The message, which must be one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def fails(config: DataConfig) -> str:
    with pytest.raises(UserError) as caught:
        open_source(config)
    return line(caught)


def picture(seed: int = 0) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def fill(root: Path, *names: str) -> DataConfig:
    """A folder with a picture under each name."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(seed))
    return DataConfig(source="folder", root=str(root))


def test_every_source_registers_itself_and_introduces_itself() -> None:
    assert {"shapes", "cifar10", "folder"} <= all_sources().keys()
    assert all(source.summary and "\n" not in source.summary for source in all_sources().values())


def test_an_unknown_source_is_an_error_for_the_reader() -> None:
    assert fails(DataConfig(source="cifar")).startswith("unknown source 'cifar': did you mean 'cifar10'? There are: ")


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(UserError, match="two sources are called 'shapes'"):

        @register_source
        class Other(Source):
            name = "shapes"


def test_shapes_read_one_by_one_and_many_at_once_agree() -> None:
    source = open_source(DataConfig(source="shapes", seed=4))
    assert source.splits == {"train": 10_000, "test": 1_000}
    indices = [*range(70), 9_999]
    many = list(source.read_many("train", indices))
    assert [sample.key for sample in many if isinstance(sample, Sample)] == [f"train-{k:09d}" for k in indices]
    for place in (0, 69, 70):
        assert source.read("train", indices[place]) == many[place]


def test_shapes_grow_with_what_is_asked_for() -> None:
    source = open_source(DataConfig(source="shapes", samples=50_000, validation=0.1))
    assert source.splits["train"] * 0.9 >= 50_000


def test_shapes_refuse_what_they_cannot_use() -> None:
    assert fails(DataConfig(source="shapes", root="x")).startswith(
        "source 'shapes' draws its own images: leave data.root"
    )
    assert fails(DataConfig(source="shapes", size=16)).endswith("at least 24 pixels: use --set data.size=32")


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, "b.png", "a.PNG", "notes.txt", ".hidden.png", "deep/er/c.png"))
    assert (source.splits, source.classes) == ({"train": 3}, ())
    assert "label" not in source.fields
    assert [source.locate("train", k) for k in range(3)] == ["a.PNG", "b.png", "deep/er/c.png"]
    assert list(source.read("train", 2).members) == ["png"]


def test_class_subfolders_are_labels(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, "dog/1.png", "cat/1.png", "cat/more/2.png"))
    assert source.classes == ("cat", "dog")
    samples = [source.read("train", k) for k in range(3)]
    assert [sample.members["cls"] for sample in samples] == [b"0", b"0", b"1"]
    assert len({sample.key for sample in samples}) == 3
    assert samples[2].key == "train-000000002-dog_1"


@pytest.mark.parametrize("extra", ["loose.png", "cat/x.png"])
def test_labels_only_when_every_image_lies_in_one_of_several_classes(tmp_path: Path, extra: str) -> None:
    names = ["cat/1.png", "dog/1.png"] if extra == "loose.png" else ["cat/1.png"]
    assert open_source(fill(tmp_path, *names, extra)).classes == ()


def test_split_folders_are_recognised(tmp_path: Path) -> None:
    source = open_source(fill(tmp_path, "train/a/1.png", "train/b/1.png", "Valid/a/2.png", "test/b/3.png"))
    assert source.splits == {"train": 2, "val": 1, "test": 1}
    assert source.classes == ("a", "b")
    assert source.read("test", 0).members["cls"] == b"1"
    assert source.locate("val", 0) == "Valid/a/2.png"


def test_a_folder_called_train_beside_others_is_a_class_if_the_user_says_so(tmp_path: Path) -> None:
    config = fill(tmp_path, "train/1.png", "car/1.png")
    assert fails(config).startswith(f"{tmp_path}: train is named as splits are, car is not: say which is which with ")
    source = open_source(config.model_copy(update={"splits": "classes"}))
    assert (source.splits, source.classes) == ({"train": 2}, ("car", "train"))


def test_broken_and_unreadable_files_are_reported_by_name(tmp_path: Path) -> None:
    config = fill(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "b.png").write_bytes(picture()[:40])
    source = open_source(config)
    (tmp_path / "c.png").unlink()
    found = list(source.read_many("train", [0, 1, 2]))
    assert isinstance(found[0], Sample)
    assert [sample.name for sample in found if isinstance(sample, Broken)] == ["b.png", "c.png"]
    assert isinstance(found[2], Broken)
    assert found[2].reason == "cannot be read: No such file or directory"


def test_wrong_folders_are_errors_for_the_reader(tmp_path: Path) -> None:
    assert (
        fails(DataConfig(source="folder"))
        == "source 'folder' needs the folder that holds the images, or its .tar: use --set data.root=PATH"
    )
    missing = tmp_path / "missing"
    assert fails(DataConfig(source="folder", root=str(missing))).startswith(
        f"nothing at {missing}: use --set data.root=PATH"
    )
    (tmp_path / "a.txt").write_text("no image")
    assert fails(DataConfig(source="folder", root=str(tmp_path))).startswith(
        f"no images in {tmp_path}: put files there that"
    )
    assert fails(fill(tmp_path / "x", "train/a/1.png", "train/b/1.png", "val/c/1.png")) == (
        f"class 'c' of the val split has no training images in {tmp_path / 'x'}: add some or remove the class"
    )


def test_a_folder_of_odd_images_is_prepared(tmp_path: Path, prepare: Prepare) -> None:
    """Each kind that cleaning knows, through shards and back."""
    config = fill(tmp_path / "raw", *(f"good{k}.png" for k in range(6)))
    rgb = Image.new("RGB", (20, 10), (200, 30, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(tmp_path / "raw" / "rotated.jpg", exif=exif)
    rgb.convert("CMYK").save(tmp_path / "raw" / "cmyk.jpg")
    rgb.convert("L").save(tmp_path / "raw" / "grey.png")
    rgb.quantize(4).save(tmp_path / "raw" / "palette.gif")
    (tmp_path / "raw" / "empty.jpg").write_bytes(b"")
    index = prepare(config.model_copy(update={"max_skipped": 0.1, "validation": 0.2}), tmp_path / "out")
    assert index.converted == {"CMYK": 1, "EXIF rotation": 1, "format GIF": 1, "grey": 1, "palette": 1}
    assert [(skip.name, skip.reason) for skip in index.skipped] == [("empty.jpg", "empty file")]
    assert index.samples("train") + index.samples("val") == 10
    assert read_index(tmp_path / "out") == index


@pytest.mark.parametrize("name", ["shapes", "folder"])
def test_sources_travel_to_other_processes(tmp_path: Path, name: str) -> None:
    config = fill(tmp_path, "a/1.png", "b/2.png") if name == "folder" else DataConfig()
    source = open_source(config)
    assert pickle.loads(pickle.dumps(source)).read("train", 1) == source.read("train", 1)


def small_cifar(folder: Path) -> np.ndarray:
    """The official layout with a few records per file; returns all of them, test last."""
    folder.mkdir(parents=True)
    records = np.random.default_rng(0).integers(0, 256, (5 * 4 + 3, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    for k in range(5):
        (folder / f"data_batch_{k + 1}.bin").write_bytes(records[4 * k : 4 * k + 4].tobytes())
    (folder / "test_batch.bin").write_bytes(records[20:].tobytes())
    (folder / "batches.meta.txt").write_text("a b c d e f g h i j".replace(" ", "\n") + "\n\n")
    return records


def check_small(source: Source, records: np.ndarray) -> None:
    assert source.splits == {"train": 20, "test": 3}
    assert source.classes == tuple("abcdefghij")
    for split, index, row in [("train", 0, 0), ("train", 19, 19), ("train", 7, 7), ("test", 2, 22)]:
        sample = source.read(split, index)
        planes = decode_full(sample.members["png"]).transpose(2, 0, 1).reshape(-1)
        assert np.array_equal(planes, records[row, 1:])
        assert sample.members["cls"] == str(records[row, 0]).encode()


@pytest.mark.parametrize("inside", [True, False])
def test_cifar_from_a_folder(tmp_path: Path, inside: bool) -> None:
    records = small_cifar(tmp_path / cifar10.FOLDER)
    root = tmp_path / cifar10.FOLDER if inside else tmp_path
    source = open_source(DataConfig(source="cifar10", root=str(root)))
    check_small(source, records)
    check_small(pickle.loads(pickle.dumps(source)), records)


def archive_of(tmp_path: Path) -> tuple[Path, np.ndarray]:
    records = small_cifar(tmp_path / cifar10.FOLDER)
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / cifar10.FOLDER, cifar10.FOLDER)
    return path, records


def test_cifar_from_an_archive_is_unpacked_once(tmp_path: Path, home: Path) -> None:
    path, records = archive_of(tmp_path)
    config = DataConfig(source="cifar10", root=str(path))
    check_small(open_source(config), records)
    before = sorted(home.rglob("*"))
    check_small(open_source(config), records)
    assert sorted(home.rglob("*")) == before


def test_joined_archives_are_unpacked_to_the_end(tmp_path: Path) -> None:
    parts = []
    for first in (0, 5):
        fill(tmp_path / f"raw{first}", *(f"{k}.png" for k in range(first, first + 5)))
        with tarfile.open(tmp_path / "one.tar", "w") as tar:
            tar.add(tmp_path / f"raw{first}", "photos")
        parts.append((tmp_path / "one.tar").read_bytes())
    joined = b"".join(parts)
    contents = {"plain.tar": joined, "packed.tar.gz": gzip.compress(joined)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert open_source(DataConfig(source="folder", root=str(tmp_path / name))).splits["train"] == 10
    cut = joined.rindex(b"photos/")
    damaged = {"header": joined[:cut] + b"?" + joined[cut + 1 :], "end": joined[:cut], "junk": joined + b"?" * 512}
    for name, content in damaged.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(content)
        assert fails(DataConfig(source="folder", root=str(path))).startswith(f"{path} cannot be unpacked (")


def test_cifar_is_downloaded_and_checked(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, records = archive_of(tmp_path)
    monkeypatch.setattr(cifar10, "URL", path.as_uri())
    message = fails(DataConfig(source="cifar10"))
    assert message.startswith("the download of CIFAR-10 has checksum ")
    assert not [p for p in home.rglob("*") if p.is_file()], "nothing is left half"
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest())
    check_small(open_source(DataConfig(source="cifar10")), records)
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    check_small(open_source(DataConfig(source="cifar10")), records)


def test_cifar_without_network_is_an_error_for_the_reader(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    message = fails(DataConfig(source="cifar10"))
    assert message.startswith("CIFAR-10 cannot be downloaded (")
    assert message.endswith(
        "): download it from http://127.0.0.1:9/cifar-10-binary.tar.gz and use --set data.root=ARCHIVE"
    )
    assert not [p for p in home.rglob("*") if p.is_file()]


def test_damaged_cifar_is_an_error_for_the_reader(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / cifar10.FOLDER
    assert fails(DataConfig(source="cifar10", root=str(tmp_path))).startswith(
        f"no CIFAR-10 in {tmp_path}: use --set data.root=PATH with"
    )
    small_cifar(folder)
    (folder / "data_batch_2.bin").write_bytes(b"x" * 100)
    assert "data_batch_2.bin is damaged: 100 bytes are not whole records" in fails(
        DataConfig(source="cifar10", root=str(folder))
    )
    (folder / "data_batch_2.bin").unlink()
    assert "is not complete: data_batch_2.bin missing" in fails(DataConfig(source="cifar10", root=str(folder)))
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(b"no archive")
    assert f"{archive} cannot be unpacked" in fails(DataConfig(source="cifar10", root=str(archive)))
    assert not [p for p in home.rglob("*") if p.is_file()]
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / "data_batch_1.bin", "data_batch_1.bin")
    assert f"CIFAR-10 in {archive} is not complete: data_batch_2.bin, " in fails(
        DataConfig(source="cifar10", root=str(archive))
    )


@pytest.mark.slow
def test_the_real_cifar_is_prepared_without_loss(shared_data: Path, tmp_path: Path, prepare: Prepare) -> None:
    spec = importlib.util.spec_from_file_location("cifar10_official", shared_data / "cifar10_official.py")
    assert spec is not None
    assert spec.loader is not None
    official = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(official)
    official.main(str(tmp_path / "raw"))
    config = DataConfig(source="cifar10", root=str(tmp_path / "raw"), samples=2000, shard_samples=5000)
    source = open_source(config)
    assert source.splits == {"train": 50_000, "test": 10_000}
    assert source.classes[:2] == ("airplane", "automobile")
    records = official.records("test")
    for k in (0, 4_321, 9_999):
        sample = source.read("test", k)
        assert np.array_equal(decode_full(sample.members["png"]).transpose(2, 0, 1).reshape(-1), records[k, 1:])
        assert int(sample.members["cls"]) == records[k, 0]
    index = prepare(config, tmp_path / "out")
    assert {split: index.samples(split) for split in index.splits} == {"train": 2000, "val": 5000, "test": 10_000}
