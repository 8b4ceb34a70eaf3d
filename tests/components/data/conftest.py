"""A small prepared data set, and the functions to make others."""

from collections.abc import Callable
from pathlib import Path

import pytest

from components.config import DataConfig
from components.data.planning import plan_shards
from components.data.shards import Index, build_index, build_shard, write_index
from components.data.sources.base import open_source

Prepare = Callable[[DataConfig, Path], Index]


def prepare_into(config: DataConfig, folder: Path) -> Index:
    """Source to shards, in one process."""
    source = open_source(config)
    results = [build_shard(source, config, plan, folder) for plan in plan_shards(source, config)]
    index = build_index(source, config, results)
    write_index(index, folder)
    return index


@pytest.fixture(scope="session")
def prepare() -> Prepare:
    return prepare_into


@pytest.fixture(scope="session")
def scenes_config() -> DataConfig:
    return DataConfig(source="shapes", size=32, samples=230, validation=0.004, shard_samples=50)


@pytest.fixture(scope="session")
def scenes(scenes_config: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    """230 training, 40 validation and 1,000 test scenes. Tests must not change the folder."""
    folder = tmp_path_factory.mktemp("scenes")
    return folder, prepare_into(scenes_config, folder)
