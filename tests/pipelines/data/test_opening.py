"""Prepared data is opened several times in a process: its index is read once, and each of its shards hashed once."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.config import DataConfig
from components.data.shards import index_name
from pipelines.data import opening
from pipelines.data.prepared import DataPlace
from pipelines.training.sample_streams import Streams
from tests.components.data.conftest import prepare_into


def test_what_a_process_knows_of_a_data_set_it_asks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_into(DataConfig(source="shapes", size=24, samples=60, shard_samples=25), tmp_path)
    index = opening.read_index_at(str(tmp_path))
    file = tmp_path / index_name(index)
    file.write_bytes(index.to_bytes())
    work: Counter[str] = Counter()

    def counted(name: str, argument: int) -> None:
        before = getattr(opening, name)

        def call(*arguments: Any) -> Any:
            work[str(arguments[argument])] += 1
            return before(*arguments)

        monkeypatch.setattr(opening, name, call)

    counted("parse_index", 1)
    counted("verify_shard", 0)
    place = DataPlace(str(tmp_path), str(file), 24, str(tmp_path / "cache"))
    for _ in range(2):  # the training, and its probe
        for split in ("train", "val"):
            streams = Streams.open(place, split, ["image"])
            streams.get(np.arange(len(streams)))
    shards = {entry.name for entries in index.splits.values() for entry in entries if entry.name[:4] != "test"}
    assert work == {str(file): 1, **{str(tmp_path / name): 1 for name in shards}}
