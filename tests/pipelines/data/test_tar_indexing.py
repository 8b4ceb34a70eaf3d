"""Which files of a place are taken for the tars of others, and what is said of the rest."""

from pathlib import Path

import pytest

from components.config import DataConfig
from components.data.foreign_tars import index_of, look_into
from components.errors import UserError
from pipelines.data.tar_indexing import _notes, _tars
from tests.components.data.test_foreign_tars import tar_of


@pytest.mark.parametrize("name", ["train-001 (1).tar", "val-000.TAR", "_train.tar", "données.tar"])
def test_a_tar_whose_name_no_shard_can_have_is_refused(tmp_path: Path, name: str) -> None:
    tar_of(tmp_path / "train.tar", ["a.png"])
    tar_of(tmp_path / name, ["b.png"])
    with pytest.raises(UserError, match="cannot be a shard's name: rename to letters, digits") as caught:
        _tars(str(tmp_path))
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    for name in ("test.tar.gz", "val.tgz", "sub/val.tar", "._train.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"nor a tar \(\._train.tar, sub/val.tar, test.tar.gz, val.tgz: compressed"):
        _tars(str(tmp_path))
    tar_of(tmp_path / "train.tar", ["a.png", "b.png", "noextension"])
    tars, others = _tars(str(tmp_path))
    assert list(tars) == ["train.tar"] and others == ["._train.tar", "sub/val.tar", "test.tar.gz", "val.tgz"]
    facts = [look_into(tmp_path / "train.tar", "train.tar")]
    index = index_of(facts, DataConfig(source="shards", validation=0.5), "here")
    assert list(_notes(facts, index, others)) == [
        "compressed tars, hidden ones, and those in folders below, are not read: ._train.tar, sub/val.tar, "
        "test.tar.gz, val.tgz",
        "1 members are hidden or have no extension, and are passed over, in train.tar",
        "no tar is of the validation split: 1 samples were held back, a part of every class",
    ]
