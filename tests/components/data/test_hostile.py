"""Tars that were written to do harm, or badly: what each of them gets, line by line as docs/data.md shows it."""

import io
import os
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.config import DataConfig
from components.data.dataset import ShardedDataset
from components.data.foreign_tars import index_of, look_into
from components.data.images import encode_png
from components.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
GOOD = encode_png(np.zeros((8, 8, 3), np.uint8))
Members = list[tuple[tarfile.TarInfo | str, bytes]]


class Payload:
    """Unpickling it would make a file."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("/tmp/genoise-was-unpickled",)


def link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def bomb() -> bytes:
    """A PNG of 50,000 x 50,000 pixels, 7.5 GB when it is decoded, in 7 MB; here only its first rows."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(150_001 * 50), 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


HOSTILE: dict[str, Members] = {
    "pickle": [("a.pyd", pickle.dumps(Payload())), ("b.pkl", pickle.dumps(Payload()))],
    "leads out": [("../../a.png", GOOD)],
    "absolute": [("/etc/a.png", GOOD)],
    "symbolic link": [(link("a.png", tarfile.SYMTYPE, "/etc/passwd"), b"")],
    "hard link": [("b.png", GOOD), (link("a.png", tarfile.LNKTYPE, "b.png"), b"")],
    "device": [(link("a.png", tarfile.CHRTYPE, ""), b"")],
    "bomb": [("a.png", bomb())],
    "duplicate key": [("a.png", GOOD), ("b.png", GOOD), ("a.cls", b"1")],
    "duplicate member": [("a.png", GOOD), ("a.png", GOOD)],
    "missing member": [("a.png", GOOD), ("a.cls", b"0"), *((f"{k}.cls", b"0") for k in range(3))],
    "label": [("a.png", GOOD), ("a.cls", b"__import__('os')")],
    "truncated": [("a.png", GOOD), ("b.png", GOOD * 20)],
}


def write(path: Path, members: Members, cut: bool = False) -> Path:
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if cut:
        path.write_bytes(path.read_bytes()[:2500])
    return path


def use(folder: Path, name: str) -> None:
    """Index a tar beside a good one, and decode every sample of it."""
    config = DataConfig(source="shards", url=str(folder))
    good = write(folder / "val.tar", [("v.png", GOOD), ("v.cls", b"0")] if "missing" in name else [("v.png", GOOD)])
    facts = [look_into(folder / "train.tar", "train.tar"), look_into(good, "val.tar")]
    index = index_of(facts, config, "FOLDER")
    data = ShardedDataset(index, "train", lambda shard: folder / shard, 8)
    data.get(np.arange(len(data), dtype=np.int64))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tar_is_refused_in_one_line_that_is_documented(tmp_path: Path, name: str) -> None:
    write(tmp_path / "train.tar", HOSTILE[name], cut=name == "truncated")
    with pytest.raises(UserError) as caught:
        use(tmp_path, name)
    said = str(caught.value).replace(str(tmp_path), "FOLDER")
    assert "\n" not in said
    assert f"| {name} | `{said}` |" in (ROOT / "docs" / "data.md").read_text().splitlines(), said
    assert not Path("/tmp/genoise-was-unpickled").exists()


def test_what_is_refused_here_is_used_where_it_is_well(tmp_path: Path) -> None:
    """The same path through a good tar, so that the refusals above are not those of everything."""
    write(tmp_path / "train.tar", [("a.png", GOOD), ("a.pyd", pickle.dumps(Payload())), ("b.png", GOOD)])
    use(tmp_path, "good")
    assert not Path("/tmp/genoise-was-unpickled").exists()
