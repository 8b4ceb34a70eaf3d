"""docs/recipes.md says what the configuration says."""

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
    ProbeConfig,
    Recipe,
    TrainingConfig,
)
from pipelines.cli.task_facts import option_facts

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
SECTIONS: dict[str, type[Config]] = {
    "A recipe": Recipe,
    "data": DataConfig,
    "encoder": EncoderConfig,
    "training": TrainingConfig,
    "training.augment": AugmentConfig,
    "training.optimizer": OptimizerConfig,
    "benchmark": ProbeConfig,
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
