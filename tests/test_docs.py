"""docs/recipes.md says what the configuration says."""

import importlib
import json
from pathlib import Path
from typing import Any

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


def test_the_benchmark_that_the_docs_add_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(protocol._REGISTRY, "known", dict(protocol._REGISTRY.known))
    monkeypatch.setattr(protocol._REGISTRY, "places", dict(protocol._REGISTRY.places))
    page = PAGE.with_name("adding-a-benchmark.md").read_text()
    (tmp_path / "class_means.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("class_means")
    score = protocol.run_benchmark(protocol.get_protocol("class_means"), TwoLayers(), data())
    assert score.layer == "colour" and score.value > 0.6
