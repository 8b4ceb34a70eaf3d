"""Tars that the webdataset library opens: its names, a real web server, real pipes, and what is wrong with them."""

import builtins
import errno
import gzip
import io
import json
import shutil
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from components.config import DataConfig
from components.data.cache import forget_cache, use_cache
from components.data.dataset import ShardedDataset
from components.data.images import decode_full, decode_map, encode_png
from components.data.sources.base import Broken, Sample, Source, open_source
from tests.components.data.conftest import Prepare
from tests.components.data.sources.conftest import names, refusal

Members = dict[str, bytes]


class Server(ThreadingHTTPServer):
    """Gives out a folder, remembers what was asked for, and breaks off or refuses where it is told to."""

    def __init__(self, folder: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()  # {name: how many times it is still refused}
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked[name] += 1
        if self.server.refusals[name]:
            self.server.refusals[name] -= 1
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path) -> Iterator[None]:
    use_cache(tmp_path / "home" / "cache")
    yield
    forget_cache()


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Three tars for training and one, compressed, for validation: grey pictures 0, 1, 2, ..., labelled modulo 3."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for tar in range(3):
        write(folder / f"x-train-{tar:02d}.tar", range(10 * tar, 10 * tar + 10))
    write(folder / "x-val.tar.gz", range(30, 36))
    return folder


@pytest.fixture
def server(tars: Path) -> Iterator[Server]:
    with Server(tars) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def members(k: int) -> Members:
    return {"png": encode_png(np.full((12, 16, 3), k, np.uint8)), "cls": str(k % 3).encode(), "txt": b"a caption"}


def write(path: Path, numbers: range, **changed: Members) -> Path:
    """A tar by tarfile; ``changed`` overrules members of single samples (b"": left out)."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for k in numbers:
            for extension, data in (members(k) | changed.get(f"_{k}", {})).items():
                if data:
                    member = tarfile.TarInfo(f"photos/{k:04d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return path


def config(root: str, **values: Any) -> DataConfig:
    options = {key: values.pop(key) for key in ("val", "test", "version") if key in values}
    return DataConfig(source="webdataset", root=root, options=options, **values)


def read(source: Source, split: str = "train") -> list[Sample | Broken]:
    return list(source.read_many(split, range(source.splits[split])))


def greys(source: Source, split: str = "train") -> list[int]:
    """The values of grey pictures, in order."""
    samples = [sample for sample in read(source, split) if isinstance(sample, Sample)]
    return [int(decode_full(sample.members["png"])[0, 0, 0]) for sample in samples]


@pytest.mark.parametrize(
    "spec",
    [
        "{folder}/x-train-{{00..02}}.tar",
        "{folder}/x-train-0{{0,1,2}}.tar",
        "{folder}/x-train-00.tar::{folder}/x-train-{{01..02}}.tar",
        "file://{folder}/x-train-{{00..02}}.tar",
        "${{TARS}}/x-train-{{00..02}}.tar",
        "pipe:cat {folder}/x-train-{{00..02}}.tar",
        "pipe:gzip -c {folder}/x-train-{{00..02}}.tar",
        "{url}/x-train-{{00..02}}.tar",
        "{url}/x-train-00.tar::pipe:cat {folder}/x-train-01.tar::{folder}/x-train-02.tar",
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset's
def test_every_kind_of_name_gives_the_samples_that_webdataset_gives(
    spec: str, tars: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WDS_TARS", str(tars))
    root = spec.format(folder=tars, url=server.url)
    source = open_source(config(root, val=f"{tars}/x-val.tar.gz"))
    assert (source.splits, source.classes) == ({"train": 30, "val": 6}, ("0", "1", "2"))
    theirs = [
        (int(np.asarray(Image.open(io.BytesIO(sample["png"])))[0, 0, 0]), int(sample["cls"]))
        for sample in webdataset.WebDataset(root, shardshuffle=False)
    ]
    labels = source.labels("train")
    assert labels is not None
    assert list(zip(greys(source), labels.tolist(), strict=True)) == theirs == [(k, k % 3) for k in range(30)]
    assert greys(source, "val") == list(range(30, 36))


def test_it_becomes_shards(tars: Path, server: Server, tmp_path: Path, prepare: Prepare) -> None:
    data = config(f"{server.url}/x-train-{{00..02}}.tar", val=f"pipe:cat {tars}/x-val.tar.gz", size=8)
    index = prepare(data, tmp_path / "shards")
    assert {split: index.samples(split) for split in index.splits} == {"train": 30, "val": 6}
    shards = ShardedDataset(index, "train", lambda name: tmp_path / "shards" / name, 8, ("image", "label"))
    batch = shards.get(np.arange(30, dtype=np.int64))
    assert sorted(batch["image"][:, 0, 0, 0].tolist()) == list(range(30))
    assert (batch["image"][:, 0, 0, 0] % 3).tolist() == batch["label"].tolist()


def test_a_tar_from_elsewhere_is_fetched_once(tars: Path, server: Server) -> None:
    data = config(f"{server.url}/x-train-{{00..02}}.tar", val=str(tars / "x-val.tar.gz"))
    first = open_source(data)
    again = open_source(data)
    assert set(server.asked.values()) == {1} and again.revision == first.revision and names(again) == names(first)
    anew = open_source(config(str(data.root), val=str(tars / "x-val.tar.gz"), version="2"))
    assert set(server.asked.values()) == {2} and anew.revision != first.revision


def test_a_file_that_changes_is_read_anew(tars: Path) -> None:
    data = config(str(tars / "x-train-00.tar"), val=str(tars / "x-val.tar.gz"))
    before = open_source(data)
    write(tars / "x-val.tar.gz", range(40, 47))
    after = open_source(data)
    assert greys(after, "val") == list(range(40, 47)) and after.revision != before.revision


def test_a_server_that_refuses_twice_is_asked_again(
    server: Server, tars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    server.refusals["x-train-00.tar"] = 2
    source = open_source(config(f"{server.url}/x-train-00.tar", val=str(tars / "x-val.tar.gz")))
    assert source.splits["train"] == 10 and server.asked["x-train-00.tar"] == 3
    server.refusals["x-train-01.tar"] = 3
    assert "x-train-01.tar cannot be fetched (the server refuses it)" in refusal(
        config(f"{server.url}/x-train-01.tar", val=str(tars / "x-val.tar.gz"))
    )


def test_a_full_disk_is_said_and_not_tried_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    real = open

    def full(path: Any, *arguments: Any, **options: Any) -> Any:
        if Path(str(path)).name == "raw" and "w" in str(arguments):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *arguments, **options)

    monkeypatch.setattr(builtins, "open", full)
    said = refusal(config(f"{server.url}/x-train-00.tar"))
    assert "cannot be kept in" in said and "(No space left on device): use --home with a folder that has room" in said
    assert server.asked["x-train-00.tar"] <= 1


def test_all_fields_come_along(tmp_path: Path) -> None:
    mask_HW = np.arange(12 * 16, dtype=np.uint8).reshape(12, 16) % 3
    boxes = json.dumps({"boxes": [[1, 2, 30, 5], [3, 3, 3, 9]], "labels": [0, 1]}).encode()
    more = {"target.png": members(9)["png"], "seg.png": encode_png(mask_HW), "boxes.json": boxes}
    tar = write(tmp_path / "a.tar", range(2), _0=more, _1=more)
    source = open_source(config(str(tar), test=str(write(tmp_path / "b.tar", range(3, 5), _3=more, _4=more))))
    sample = source.read("train", 1)
    assert set(source.fields) == {"image", "target", "label", "mask", "boxes"}
    assert set(sample.members) == {"png", "target.png", "cls", "mask.png", "boxes.json"}
    assert (decode_map(sample.members["mask.png"]) == mask_HW).all()
    assert json.loads(sample.members["boxes.json"]) == {"boxes": [[1, 2, 16, 5]], "labels": [0]}
    assert sample.changes == ("box without area dropped",)
    assert source.passed_over.counts == {"member .txt": 4}


def test_broken_members_are_counted_and_named(tmp_path: Path) -> None:
    tar = write(
        tmp_path / "a.tar",
        range(20),
        _3={"png": b"no picture"},
        _5={"cls": b""},
        _7={"png": b""},
        _8={"png": b"\x89PNG"},
    )
    source = open_source(config(str(tar), max_skipped=0.2))
    broken = {sample.name: sample.reason for sample in read(source) if isinstance(sample, Broken)}
    assert [name.rpartition("/")[2] for name in broken] == ["0003", "0005", "0007", "0008"]
    assert list(broken.values())[1:3] == ["it has no label", "it has no image"]
    labels = source.labels("train")
    assert labels is not None and labels[5] == -1 and all(name.startswith(f"{tar}/photos/") for name in broken)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    masks = {f"_{k}": {"mask.png": encode_png(np.zeros((12, 15 + (k < 4)), np.uint8))} for k in range(5)}
    source = open_source(config(str(write(tmp_path / "a.tar", range(5), **masks))))
    with pytest.raises(Exception, match=r"0004 is 15 x 12 and its image 16 x 12"):
        read(source)


def _truncated(tars: Path) -> str:
    data = (tars / "x-train-00.tar").read_bytes()
    (tars / "cut.tar").write_bytes(data[:7000])
    return str(tars / "cut.tar")


def _damaged(tars: Path) -> str:
    data = bytearray((tars / "x-train-00.tar").read_bytes())
    data[5120 + 100] ^= 255  # in a header, which tarfile takes for the end of the archive
    (tars / "bent.tar").write_bytes(data)
    return str(tars / "bent.tar")


def _cut_gzip(tars: Path) -> str:
    (tars / "cut.tar.gz").write_bytes(gzip.compress((tars / "x-train-00.tar").read_bytes())[:300])
    return str(tars / "cut.tar.gz")


def _words(tars: Path) -> str:
    return str(write(tars / "words.tar", range(3), _1={"cls": b"dog"}))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("{folder}/x-{{train-00,val}}.tar", "x-val.tar is listed for train, and its name speaks of val"),
        ("{folder}/none.tar", "none.tar cannot be read (No such file or directory)"),
        ("{url}/none.tar", "none.tar cannot be fetched (the server refuses it)"),
        ("http://127.0.0.1:1/a.tar", "a.tar cannot be fetched (its host does not answer)"),
        ("pipe:exit 3", "pipe:exit 3 cannot be fetched (exit status 3)"),
        ("pipe:cat {folder}/x-train-00.tar; exit 4", "cannot be fetched (exit status 4)"),
        ("pipe:true", "pipe:true cannot be fetched (it is empty)"),
        ("pipe:echo no tar", "pipe:echo no tar is truncated after 0 samples: write it again, or leave it out"),
        ("foo://a.tar", "foo://a.tar cannot be fetched"),
        ("s3://b/a.tar", "'pipe:aws s3 cp s3://b/a.tar -' for example; tars of a bucket are used as they are by --set"),
        ("-", "'-': '-' is no tar"),
        ("a-{{0..", "cannot be expanded"),
        ("${{NO_SUCH}}/a.tar", "missing environment variable WDS_NO_SUCH"),
        ("{folder}", "is a folder, and source 'webdataset' needs names of tars"),
        ("{folder}/x-train-00.tar::{folder}/x-train-00.tar", "is listed 2 times for train"),
        (_truncated, "cut.tar is truncated after"),
        (_damaged, "bent.tar is not a tar file, or damaged, at byte 5120"),
        (_cut_gzip, "cut.tar.gz is damaged"),
        (_words, "words.tar: the label of photos/0001 is b'dog'; labels are numbers from 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    name: Any, said: str, tars: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    root = name(tars) if callable(name) else name.format(folder=tars, url=server.url)
    assert said in refusal(config(root))


def test_names_that_mean_nothing(tars: Path) -> None:
    shutil.copy(tars / "x-train-01.tar", tars / "test-01.tar")
    root = f"{tars}/x-train-00.tar::{tars}/test-01.tar"
    assert "--splits classes" in refusal(config(root))
    assert open_source(config(root, splits="classes")).splits == {"train": 20}
    assert "is told the tars of each split" in refusal(config(root, splits="train=a,val=b"))


def test_a_tar_of_two_splits_is_refused(tars: Path) -> None:
    root = f"{tars}/x-train-{{00..02}}.tar"
    assert "1 images are listed for train and for test" in refusal(config(root, test=f"{tars}/x-train-01.tar"))


def test_a_name_is_needed() -> None:
    assert "needs names of tars" in refusal(DataConfig(source="webdataset"))
