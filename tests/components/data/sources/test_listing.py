"""What is taken of a folder: pictures by their content, linked folders too; the rest is counted and named."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.config import DataConfig
from components.data.images import BrokenImage, clean
from components.data.sources.base import open_source
from components.data.sources.files import list_images, need_images
from components.data.sources.listing import (
    ARCHIVE,
    CLOSED,
    HIDDEN,
    HIDDEN_FOLDER,
    LOST,
    NO_FILE,
    NO_PICTURE,
    NOTE,
    TWICE,
    UNREADABLE,
    is_picture,
    kind_of,
    passed_over,
)
from components.errors import UserError
from tests.components.data.sources.conftest import write_image


def saved(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


def lay(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def taken(root: Path) -> list[str]:
    return list(map(str, list_images(root)))


def test_pictures_are_known_by_their_content(tmp_path: Path) -> None:
    kinds = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"]
    lay(tmp_path, {f"bare-{kind}": saved(kind) for kind in kinds})
    lay(
        tmp_path, {"big.tiff-file": saved("TIFF", big_tiff=True), "photo.jfif": saved("JPEG"), "scan.001": saved("PNG")}
    )
    lay(tmp_path, {"c.avif": saved("AVIF"), "d.jp2": saved("JPEG2000"), "E.JPE": saved("JPEG")})
    assert len(taken(tmp_path)) == len(list(tmp_path.iterdir())) == 15
    source = open_source(DataConfig(source="folder", root=str(tmp_path)))
    assert all(source.read("train", k).members for k in range(15))
    assert source.splits == {"train": 15} and source.passed_over.counts == {}
    assert source.passed_over.more


def test_what_is_not_taken_is_counted_by_reason_and_named(tmp_path: Path) -> None:
    lay(tmp_path, {"a.png": saved("PNG"), "b.png": b"broken", "list.json": b"{}", "x.xml": b"<x/>", "notes.txt": b"BM"})
    lay(tmp_path, {"Thumbs.db": b"\xd0\xcf\x11\xe0", "README": b"P6 is a format", "empty": b"", ".DS_Store": b"\0"})
    lay(tmp_path, {"old.zip": b"PK\3\4", ".git/c.png": saved("PNG"), "p.heic": b"\0" * 40, "r.NEF": saved("TIFF")})
    lay(tmp_path, {"bare": b"\0\0\0\x18ftypheic\0\0\0\0", "film": b"\0\0\0\x18ftypmp42\0\0\0\0"})
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    (tmp_path / "lost.png").symlink_to(tmp_path / "nowhere")
    assert taken(tmp_path) == ["a.png", "b.png", "lost.png"]  # what has a picture's name and is none is broken
    found = passed_over([tmp_path])
    assert found.counts == {
        HIDDEN: 1,
        HIDDEN_FOLDER: 1,
        NO_PICTURE: 4,
        UNREADABLE: 3,
        NOTE: 3,
        LOST: 1,
        ARCHIVE: 1,
        NO_FILE: 2,
    }
    assert found.names[NO_PICTURE] == ["README", "Thumbs.db", "empty", "film"]
    assert found.names[UNREADABLE] == ["bare", "p.heic", "r.NEF"]
    assert "no picture: 4 (README, Thumbs.db, empty, film); " in found.in_words()
    assert found.facts()[HIDDEN] == {"count": 1, "names": [".DS_Store"]}
    assert not found.more


@pytest.mark.parametrize("tag", [{254: 1}, {50706: b"\1\4\0\0"}])
def test_a_raw_file_of_a_camera_is_not_its_thumbnail(tmp_path: Path, tag: dict[int, Any]) -> None:
    lay(tmp_path, {name: saved("TIFF", tiffinfo=tag) for name in ("a.PEF", "b.srw", "c.3fr", "d.tif", "bare")})
    assert passed_over([tmp_path]).names == {UNREADABLE: ["a.PEF", "b.srw", "c.3fr"]}
    with pytest.raises(BrokenImage, match="a camera's raw file"):
        clean((tmp_path / "bare").read_bytes())


def test_many_names_are_cut(tmp_path: Path) -> None:
    lay(tmp_path, {f"{k}.bin": b"\0" for k in range(9)})
    assert passed_over([tmp_path]).in_words() == "no picture: 9 (0.bin, 1.bin, 2.bin, 3.bin, 4.bin, ...)"
    with pytest.raises(UserError, match=r"no images in .*; there are no picture: 9 \(0\.bin"):
        need_images(tmp_path)


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    lay(inside, {"own/a.png": saved("PNG"), ".store/h/b.png": saved("PNG")})
    lay(outside, {"x/c.png": saved("PNG"), "x/deep/d.png": saved("PNG")})
    (inside / "linked").symlink_to(outside)
    (inside / "own" / "stored").symlink_to(inside / ".store" / "h")
    assert taken(inside) == ["linked/x/c.png", "linked/x/deep/d.png", "own/a.png", "own/stored/b.png"]
    assert passed_over([inside]).more and passed_over([inside]).counts == {HIDDEN_FOLDER: 1}
    before = taken(inside)
    (inside / "again").symlink_to(inside / "own")
    (inside / "own" / "up").symlink_to(inside)
    (inside / "twin").symlink_to(outside / "x")
    (outside / "x" / "back").symlink_to(outside)
    (outside / "x" / "home").symlink_to(inside)
    (outside / "loop").symlink_to(outside / "loop")
    assert taken(inside) == before
    assert passed_over([inside]).counts == {HIDDEN_FOLDER: 1, TWICE: 5, LOST: 1}


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, {"a.png": saved("PNG"), "shut/b.png": saved("PNG")})
    real = os.scandir

    def scandir(path: str) -> Any:
        if str(path).rstrip("/").endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert taken(tmp_path) == ["a.png"]
    assert passed_over([tmp_path]).names == {CLOSED: ["shut/"]}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    write_image(tmp_path / "caf\udce9" / "\udcff.png", 1)
    write_image(tmp_path / "tea" / "b.png", 2)
    lay(tmp_path, {"tea/r\udce9sum\udce9.bin": b"\0"})
    source = open_source(DataConfig(source="folder", root=str(tmp_path)))
    assert source.classes == ("caf\\udce9", "tea")
    assert source.locate("train", 0) == "caf\\udce9/\\udcff.png"
    assert source.read("train", 0).members["cls"] == b"0"
    assert source.passed_over.names == {NO_PICTURE: ["tea/r\\udce9sum\\udce9.bin"]}


def test_one_file_is_asked_the_same(tmp_path: Path) -> None:
    lay(tmp_path, {"bare": saved("PNG"), "notes": b"text"})
    assert is_picture(tmp_path / "bare") and not is_picture(tmp_path / "notes")
    assert kind_of(b"BMW is no picture, and this line is long") is None


def test_what_lies_beside_annotations_and_in_pairs(tmp_path: Path) -> None:
    for side in "AB":
        write_image(tmp_path / side / "1.png", 1)
    lay(tmp_path, {"A/what": b"\0", "outside": b"\0"})
    pairs = open_source(DataConfig(source="pairs", root=str(tmp_path), options={"image": "A", "target": "B"}))
    assert pairs.passed_over.names == {NO_PICTURE: ["what"]}
