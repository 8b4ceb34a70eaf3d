"""Tars that others wrote: plain `tar`, and webdataset's own writer; their fields and splits are guessed."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from components.config import DataConfig
from components.data.dataset import ShardedDataset
from components.data.foreign_tars import index_of, look_into, split_of
from components.data.images import encode_png
from components.data.shards import Index
from components.errors import UserError

CONFIG = DataConfig(source="shards")


def picture(k: int) -> np.ndarray:
    return np.full((12, 12, 3), k * 7 % 256, np.uint8)


def index_folder(folder: Path, config: DataConfig = CONFIG) -> Index:
    return index_of([look_into(path, path.name) for path in sorted(folder.glob("*.tar"))], config, str(folder))


def pixels(folder: Path, index: Index, split: str) -> list[int]:
    data = ShardedDataset(index, split, lambda name: folder / name, 12)
    return sorted(int(image[0, 0, 0]) for image in data.get(np.arange(len(data), dtype=np.int64))["image"])


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_webdataset_writes(tmp_path: Path) -> None:
    for split, numbers in (("train", range(25)), ("val", range(25, 30))):
        pattern = str(tmp_path / f"photos-{split}-%04d.tar")
        with webdataset.ShardWriter(pattern, maxcount=10, verbose=0) as writer:
            for k in numbers:
                writer.write({"__key__": f"{k:05d}", "png": picture(k), "cls": k % 4, "json": {"k": k}})
    index = index_folder(tmp_path)
    assert index.fields == {"image": "png", "label": "cls"} and index.classes == ("0", "1", "2", "3")
    assert {split: index.samples(split) for split in index.splits} == {"train": 25, "val": 5}
    assert pixels(tmp_path, index, "train") == sorted(k * 7 % 256 for k in range(25))
    labels = ShardedDataset(index, "train", lambda name: tmp_path / name, 12, ("image", "label")).labels()
    assert labels.tolist() == [k % 4 for k in range(25)]


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs tar")
@pytest.mark.parametrize("form", ["ustar", "gnu", "pax"])
def test_what_tar_writes(tmp_path: Path, form: str) -> None:
    for part in range(4):
        folder = tmp_path / "raw" / f"part{part}" / "a rather long name of a folder " / ("of photographs " * 6).strip()
        folder.mkdir(parents=True)
        for k in range(5):
            Image.fromarray(picture(5 * part + k)).save(folder / f"{k}.JPG", quality=100, format="JPEG")
        command = ["tar", f"--format={form}", "-C", str(tmp_path / "raw"), "-cf", str(tmp_path / f"{part}.tar")]
        subprocess.run([*command, f"part{part}"], check=True)
    index = index_folder(tmp_path)
    assert index.fields == {"image": "jpg"} and index.classes == ()
    assert index.samples("val") == 2  # held back
    found = np.sort(pixels(tmp_path, index, "train") + pixels(tmp_path, index, "val"))
    assert np.abs(found - sorted(k * 7 % 256 for k in range(20))).max() <= 2  # JPEG


def tar_of(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(data := encode_png(picture(1)))
            tar.addfile(info, io.BytesIO(data))


def test_splits_by_the_first_folder_of_the_keys(tmp_path: Path) -> None:
    tar_of(tmp_path / "0.tar", ["train/a.png", "train/b.png"])
    tar_of(tmp_path / "1.tar", ["valid/a.png"])
    tar_of(tmp_path / "2.tar", ["test/a.png"])
    index = index_folder(tmp_path)
    assert {split: [e.name for e in entries] for split, entries in index.splits.items()} == {
        "train": ["0.tar"],
        "val": ["1.tar"],
        "test": ["2.tar"],
    }


@pytest.mark.parametrize("above", ["./", "mydata/", "./my data/images/"])
def test_the_folder_of_a_split_may_lie_below_others(tmp_path: Path, above: str) -> None:
    tar_of(tmp_path / "0.tar", [f"{above}train/cat/a.png", f"{above}train/dog/b.png"])
    tar_of(tmp_path / "1.tar", [f"{above}val/cat/c.png"])
    tar_of(tmp_path / "2.tar", [f"{above}testB/cat/d.png"])
    index = index_folder(tmp_path)
    assert {split: [e.name for e in entries] for split, entries in index.splits.items()} == {
        "train": ["0.tar"],
        "val": ["1.tar"],
        "test": ["2.tar"],
    }


def test_classes_that_only_sound_like_splits(tmp_path: Path) -> None:
    for k in range(2):
        tar_of(tmp_path / f"{k}.tar", [f"cat/{k}.png", f"test tubes/{k}.png"])
        tar_of(tmp_path / f"train-{k}.tar", [f"train/cat/{k}a.png", f"train/test tubes/{k}a.png"])
    found = [look_into(tmp_path / name, name) for name in ("0.tar", "train-0.tar")]
    assert [fact.folders for fact in found] == [(), ("train",)] and found[1].words == ("train",)


def test_names_speak_of_splits() -> None:
    names = ("imagenet-train-000001.tar", "Validation_3.tar", "photos.tar", "test.tar", "trainees.tar", "val2014.tar")
    assert [split_of(name) for name in names] == ["train", "val", None, "test", None, "val"]


def test_the_same_tars_give_the_same_index(tmp_path: Path) -> None:
    for k in range(3):
        tar_of(tmp_path / f"{k}.tar", [f"{k}.png"])
    facts = [look_into(path, path.name) for path in sorted(tmp_path.glob("*.tar"))]
    assert index_of(facts, CONFIG, "x").to_bytes() == index_of(facts[::-1], CONFIG, "x").to_bytes()


@pytest.mark.parametrize(
    ("tars", "said"),
    [
        ({"a.tar": ["a.png"]}, "1 samples cannot be cut into training and validation"),
        ({"a.tar": ["train/a.png", "val/a.png"]}, "a.tar holds several splits (train, val)"),
        ({"a.tar": ["a.txt", "b.txt"], "b.tar": ["c.png"]}, "3 samples, and no image in most of them"),
        ({"a.tar": ["noextension"], "b.tar": ["c.png"]}, "a.tar holds no samples"),
        ({"train.tar": ["train/a.png", "test/b.png"]}, "train.tar holds several splits (test, train)"),
        ({"train.tar": ["./data/train/a.png", "./data/b.png"]}, "train.tar holds several splits (data, train)"),
        ({"train.tar": ["a/train images/a.png", "b/test images/b.png"]}, "holds several splits (test images, train"),
        ({"train-0.tar": ["test/a.png"]}, "the name of train-0.tar with the folder test speaks of train and test"),
        ({"testA.tar": ["a.png"], "trainA.tar": ["b.png"], "x.tar": ["b.png"]}, "train=train+x,test=test"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, tars: dict[str, list[str]], said: str) -> None:
    for name, members in tars.items():
        tar_of(tmp_path / name, members)
    with pytest.raises(UserError) as caught:
        index_folder(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_members_without_an_extension_are_counted(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", ["a.png", "b.png", "._a.png", "noextension", "below/.hidden"])
    fact = look_into(tmp_path / "a.tar", "a.tar")
    assert (fact.entry.samples, fact.passed_over) == (2, 3)


def test_what_is_done_to_images_of_others_is_counted(tmp_path: Path) -> None:
    wide, turned = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.array([[0, 4095], [4095, 0]], np.uint16)).save(wide, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(picture(1)).save(turned, "JPEG", exif=exif)
    for k in range(2):
        with tarfile.open(tmp_path / f"{k}.tar", "w") as tar:
            for name, data in (
                ("w.png", wide.getvalue()),
                ("t.jpg", turned.getvalue()),
                ("p.png", encode_png(picture(2))),
            ):
                info = tarfile.TarInfo(f"{k}{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    index = index_folder(tmp_path)
    assert index.converted == {"12-bit grey stretched by 4095": 2, "EXIF rotation": 2}
    shown = ShardedDataset(index, "train", lambda name: tmp_path / name, 8)
    image_BCSS = shown.get(np.array([0]))["image"]
    assert image_BCSS.float().mean() == pytest.approx(127.5, abs=8) and image_BCSS.min() < 30  # not white, not black
