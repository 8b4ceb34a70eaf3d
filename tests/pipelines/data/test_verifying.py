"""What verify says: every damaged shard and broken sample by name, and a row per split where all is well."""

from pathlib import Path

import pytest

from components.config import DataConfig
from components.data.shards import Index
from components.data.verify import ShardState, look_at, one_by_one
from components.errors import UserError
from pipelines.__main__ import run
from pipelines.data.verifying import check, rows
from tests.components.data.test_growth import fill, grow
from tests.components.data.test_hostile import bomb, write


def states(index: Index, folder: Path, samples: int = 3) -> list[ShardState]:
    return [look_at(one, folder / next(iter(one.splits.values()))[0].name, samples) for one in one_by_one(index)]


def test_what_is_whole_is_decoded(tmp_path: Path) -> None:
    index, _ = grow(fill(tmp_path / "raw", *range(40)), tmp_path / "out")
    found = states(index, tmp_path / "out")
    check(found, "here")
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("train-*.tar"))
    assert {"split": "train", "shards": 4, "samples": 32, "bytes": size, "decoded": 11} in rows(found)


@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_what_is_damaged_is_named(tmp_path: Path, damage: str) -> None:
    index, _ = grow(fill(tmp_path / "raw", *range(40)), tmp_path / "out")
    path = tmp_path / "out" / "train-000002.tar"
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "short":
        path.write_bytes(content[:-512])
    if damage == "flipped":
        content[2000] ^= 1
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"^here: 1 of 5 shards are damaged: train-000002.tar \(") as caught:
        check(states(index, tmp_path / "out"), "here")
    assert "\n" not in str(caught.value)


def test_samples_that_do_not_decode_are_named(tmp_path: Path) -> None:
    """A tar that its index describes truly, and that holds a bomb."""
    from components.data.foreign_tars import index_of, look_into

    good = (tmp_path / "raw" / "000-0.png", fill(tmp_path / "raw", 0))[0].read_bytes()
    for name, data in (("train.tar", bomb()), ("val.tar", good)):
        write(tmp_path / name, [("a.png", data), ("b.png", good)])
    facts = [look_into(tmp_path / name, name) for name in ("train.tar", "val.tar")]
    index = index_of(facts, DataConfig(source="shards"), "here")
    said = r"^here: 1 of 4 samples that were tried do not decode: train.tar:a \(50000 x 50000 is more than 64 million"
    with pytest.raises(UserError, match=said):
        check(states(index, tmp_path), "here")


@pytest.mark.parametrize("command", ["verify", "show"])
@pytest.mark.parametrize(
    ("place", "said"), [("no/such", "no/such/index.json"), ("s3://", "a folder or s3://bucket/prefix would be right")]
)
def test_a_place_without_a_data_set_is_one_line(
    command: str, place: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", command, place, "--home", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("genoise: error: ") and err.count("\n") == 1 and said in err
