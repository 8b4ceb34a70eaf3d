"""Archives: unpacked once, as plain files below the cache, or refused by name; folders found inside."""

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from components.data.cache import use_cache
from components.data.sources.base import all_sources
from components.data.sources.files import made_once, subfolder, unpack
from components.errors import UserError
from pipelines.__main__ import run
from tests.components.data.sources.conftest import open_with, pack, write_image


def tar_of(path: Path, member: tarfile.TarInfo, data: bytes = b"") -> Path:
    member.size = len(data)
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("first.txt"))
        tar.addfile(member, io.BytesIO(data))
    return path


def link(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo("data/passwords")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (tarfile.TarInfo("../outside.txt"), "member '../outside.txt' leads out of the archive"),
        (tarfile.TarInfo("/outside.txt"), "member '/outside.txt' leads out of the archive"),
        (tarfile.TarInfo("a\\..\\b"), "leads out of the archive"),
        (link(tarfile.SYMTYPE), "member 'data/passwords' is a link or a device"),
        (link(tarfile.LNKTYPE), "member 'data/passwords' is a link or a device"),
        (link(tarfile.CHRTYPE), "member 'data/passwords' is a link or a device"),
        (tarfile.TarInfo("first.txt"), "cannot be unpacked (File exists)"),
    ],
)
def test_hostile_archives_are_refused_and_leave_nothing(
    tmp_path: Path, home: Path, member: tarfile.TarInfo, said: str
) -> None:
    archive = tar_of(tmp_path / "raw.tar", member, b"x" if member.isreg() else b"")
    with pytest.raises(UserError) as caught:
        unpack(archive, "test")
    assert str(archive) in str(caught.value) and said in str(caught.value) and "\n" not in str(caught.value)
    assert not [path for path in home.rglob("*") if path.is_file()]
    assert not (tmp_path / "outside.txt").exists() and not Path("/outside.txt").exists()


@pytest.mark.parametrize("cut", [0, 700, 2000])
def test_damaged_archives_are_refused(tmp_path: Path, home: Path, cut: int) -> None:
    write_image(tmp_path / "raw" / "a.png", 1, (60, 60))
    archive = pack(tmp_path / "raw", tmp_path / "raw.tar.gz")
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(UserError, match="cannot be unpacked") as caught:
        unpack(archive, "test")
    assert str(caught.value).endswith(": get it again")
    assert not [path for path in home.rglob("*") if path.is_file()]


def members(*names: str) -> bytes:
    """A tar with a file of each name, which holds its name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize("pack_it", [bytes, gzip.compress], ids=["tar", "gz"])
def test_joined_archives_are_unpacked_wholly(tmp_path: Path, home: Path, pack_it: Callable[[bytes], bytes]) -> None:
    archive = tmp_path / "raw.tar"
    archive.write_bytes(b"".join(pack_it(members(*names)) for names in (["a", "b"], ["c/d"], ["e"])))
    folder = unpack(archive, "test")
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found == {name: name for name in ("a", "b", "c/d", "e")}


def test_an_archive_whose_compressed_file_is_cut_between_parts_is_refused(tmp_path: Path, home: Path) -> None:
    data = members("a", "b")
    (tmp_path / "raw.tar.gz").write_bytes(gzip.compress(data[:1024]))  # a whole gzip file with half a tar in it
    with pytest.raises(UserError, match=r"raw\.tar\.gz cannot be unpacked \(its end is missing\): get it again"):
        unpack(tmp_path / "raw.tar.gz", "test")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (members("a", "b")[: 4 * 512], "its end is missing"),  # tarfile says nothing of these three
        (members("a", "b")[: 2 * 512 + 100], "damaged at byte 1024"),
        (members("a")[:1024] + b"?" * 1024 + members("b"), "damaged at byte 1024"),
        (members("a") + b"?" * 1024, "damaged at byte 10240"),
    ],
    ids=["no end", "half a header", "damage", "something behind"],
)
def test_archives_are_never_unpacked_in_part(tmp_path: Path, home: Path, data: bytes, said: str) -> None:
    (tmp_path / "raw.tar").write_bytes(data)
    with pytest.raises(UserError, match="cannot be unpacked") as caught:
        unpack(tmp_path / "raw.tar", "test")
    assert f"({said}): get it again" in str(caught.value)
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_a_zip_file_is_named(tmp_path: Path, home: Path) -> None:
    (tmp_path / "raw.zip").write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(UserError, match=r"raw\.zip is a zip file: unpack it and use the folder"):
        unpack(tmp_path / "raw.zip", "test")


def test_names_of_archives_and_members_need_not_be_utf8(tmp_path: Path, home: Path) -> None:
    archive = tmp_path / "r\udce9.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("caf\udce9.txt"))
    assert [path.name for path in unpack(archive, "test").iterdir()] == ["caf\udce9.txt"]


def test_the_cache_is_where_the_process_was_told(tmp_path: Path, home: Path) -> None:
    archive = tar_of(tmp_path / "raw.tar", tarfile.TarInfo("a"), b"x")
    use_cache(tmp_path / "other" / "cache")
    kept = unpack(archive, "test")
    assert kept.is_relative_to(tmp_path / "other" / "cache" / "test")
    use_cache(tmp_path / "other" / "cache", dry=True)
    assert unpack(archive, "test") == kept  # what is there is used
    use_cache(tmp_path / "third" / "cache", dry=True)
    made = unpack(archive, "test")
    assert (made / "a").read_bytes() == b"x" and not made.is_relative_to(tmp_path / "third")
    assert not (tmp_path / "third").exists() and not home.exists()


def test_permissions_are_not_taken_and_changed_archives_are_unpacked_again(tmp_path: Path, home: Path) -> None:
    member = tarfile.TarInfo("run.sh")
    member.mode = 0o4777
    archive = tar_of(tmp_path / "raw.tar", member, b"echo")
    folder = unpack(archive, "test")
    assert (folder / "run.sh").stat().st_mode & 0o7111 == 0
    assert unpack(archive, "test") == folder
    os.utime(archive, (1, 1))
    assert unpack(archive, "test") != folder


def test_no_room_is_an_error_for_the_reader(tmp_path: Path, home: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "raw").write_bytes(b"")
    with pytest.raises(UserError, match=r"raw cannot be unpacked \(No space left on device\) into "):
        made_once("test", tmp_path / "raw", full)


def test_a_lone_folder_is_entered_and_a_split_is_not(tmp_path: Path, home: Path) -> None:
    write_image(tmp_path / "raw" / "cat" / "a.png")
    write_image(tmp_path / "raw" / "dog" / "b.png")
    archive = pack(tmp_path / "raw", tmp_path / "pets.tar", "pets/all")
    assert open_with("folder", archive).classes == ("cat", "dog")
    write_image(tmp_path / "split" / "train" / "a.png")
    source = open_with("folder", pack(tmp_path / "split", tmp_path / "split.tar"))
    assert source.locate("train", 0) == "train/a.png"


def test_a_subfolder_may_be_an_archive(tmp_path: Path, home: Path) -> None:
    write_image(tmp_path / "raw" / "a.png")
    pack(tmp_path / "raw", tmp_path / "train.tar.gz")
    found = subfolder(tmp_path, "train", "test")
    assert found is not None and [path.name for path in found.iterdir()] == ["a.png"]
    assert subfolder(tmp_path, "raw", "test") == tmp_path / "raw"
    assert subfolder(tmp_path, "val", "test") is None


def test_the_help_and_the_page_name_every_source_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prepare", "--help"]) == 0
    texts = capsys.readouterr().out, (Path(__file__).parents[4] / "docs" / "sources.md").read_text()
    for source in all_sources().values():
        for text in texts:
            line = next(line for line in text.splitlines() if line.strip(" |`").startswith(source.name))
            assert all(option in line for option in source.Options.model_fields), (source.name, line)
