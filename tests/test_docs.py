"""docs/recipes.md says what the configuration says."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic_core import PydanticUndefined

from components.config import (
    AugmentConfig,
    Config,
    DataConfig,
    EncoderConfig,
    OptimizerConfig,
    Recipe,
    TrainingConfig,
)
from components.data.images import decode_full
from components.data.sources import base
from components.data.sources.base import Broken, open_source
from components.errors import UserError
from components.transfer import protocol
from components.transfer.protocol import all_protocols
from pipelines.cli.task_facts import option_facts
from tests.components.transfer.test_probe import TwoLayers, data

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
SECTIONS: dict[str, type[Config]] = {
    "A recipe": Recipe,
    "data": DataConfig,
    "encoder": EncoderConfig,
    "training": TrainingConfig,
    "training.augment": AugmentConfig,
    "training.optimizer": OptimizerConfig,
    **{f"benchmark: {each.kind}": type(each) for each in all_protocols().values()},
}


def rows(config: type[Config]) -> list[str]:
    """The Markdown table of a configuration."""
    lines = ["| key | range | default | meaning |", "| --- | --- | --- | --- |"]
    for name, fact in option_facts(config).items():
        choices = fact["type"] if " | " in fact["type"] and "null" not in fact["type"] else fact["range"]
        lines.append(
            f"| `{name}` | {choices.replace('|', 'or')} | {_default(fact['default'])} | {fact['description']} |"
        )
    return lines


def _default(value: Any) -> str:
    if isinstance(value, Config):
        return ""
    return "required" if value is PydanticUndefined else f"`{json.dumps(value)}`"


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_is_there_as_it_is(title: str) -> None:
    _, _, section = PAGE.read_text().partition(f"\n## {title}\n")
    table = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    assert table == rows(SECTIONS[title])


def module_of(page: str, name: str, registry: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Import the first program of a page as the module ``name``; what it registers is forgotten after the test."""
    registry.all()  # what is first imported below would be forgotten with the module
    monkeypatch.setattr(registry, "known", dict(registry.known))
    monkeypatch.setattr(registry, "places", dict(registry.places))
    (folder / f"{name}.py").write_text(PAGE.with_name(page).read_text().partition("```python\n")[2].partition("```")[0])
    monkeypatch.syspath_prepend(folder)
    importlib.import_module(name)


def test_the_benchmark_that_the_docs_add_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module_of("adding-a-benchmark.md", "class_means", protocol._REGISTRY, monkeypatch, tmp_path)
    score = protocol.run_benchmark(protocol.get_protocol("class_means"), TwoLayers(), data())
    assert score.layer == "colour" and score.value > 0.6


def test_the_source_that_the_docs_add_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module_of("adding-a-source.md", "arrays", base._REGISTRY, monkeypatch, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 3), np.uint8)
    np.savez(tmp_path / "train.npz", images=images, labels=np.arange(6) % 3)
    config = DataConfig(source="arrays", root=str(tmp_path))
    source = open_source(config)
    assert source.splits == {"train": 6} and source.classes == ("0", "1", "2")
    for k, sample in enumerate(source.read_many("train", range(6))):
        assert not isinstance(sample, Broken)
        assert np.array_equal(decode_full(sample.members["png"]), images[k])
        assert int(sample.members["cls"]) == k % 3
    other = config.model_copy(update={"options": {"images": "pictures"}})
    with pytest.raises(UserError, match="no array 'pictures' in train\\.npz, which has images, labels"):
        open_source(other).read("train", 0)
