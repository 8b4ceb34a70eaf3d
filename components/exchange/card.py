"""The model card of an exported encoder: a README.md as the Hugging Face hub shows it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from components.config import Recipe
from components.exchange.formats import Exported
from components.exchange.loading import program
from components.networks.encoder import Encoder

# What is known of the data that sources stand for.
LICENCES = {
    "shapes": "scenes that are drawn by a program; nobody's pictures",
    "cifar10": "none is stated by its authors (Krizhevsky 2009)",
}
_PLACES = ("root", "url", "splits", "checkpoints", "benchmark_data")
UNKNOWN = "not known here: ask who made the images"
_LIBRARIES = {
    "timm": "timm",
    "torchvision": "pytorch",
    "torch-export": "pytorch",
    "safetensors": "pytorch",
    "onnx": "onnx",
}


@dataclass(frozen=True)
class Origin:
    """Where an encoder comes from, as far as it is known."""

    uri: str
    recipe: Recipe | None = None
    weights: Mapping[str, float] | None = None  # of the losses, those that were not overruled too
    scores: Sequence[Mapping[str, Any]] = ()  # as benchmarks left them


def card(encoder: Encoder, name: str, exported: Exported, origin: Origin) -> str:
    """The text of README.md for ``encoder`` in the format ``name``."""
    title = origin.recipe.name if origin.recipe else encoder.config.name
    head = {
        "license": "unknown",
        "library_name": _LIBRARIES[name],
        "pipeline_tag": "image-feature-extraction",
        "tags": ["genoise", "self-supervised-learning", encoder.config.name],
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {title}: {encoder.config.name} of width {encoder.config.width}",
        _about(encoder),
        "## How to load it",
        f"```python\n{program(encoder, name).rstrip()}\n```",
        _checked(exported),
        *_data(origin.recipe),
        *_training(origin),
        *_scores(origin.scores),
    ]
    return "\n\n".join(parts) + "\n"


def _about(encoder: Encoder) -> str:
    config = encoder.config
    seen = {"rgb": f"RGB in [0, 1], standardized as `{config.normalization}`"}.get(
        config.input, f"RGB in [0, 1], of which the network sees `{config.input}`"
    )
    channels = ", ".join(f"`{layer}` ({count})" for layer, count in encoder.channels.items())
    stem = "small: 3 x 3, made for 32 to 96 pixels" if config.stem == "small" else "large: as published"
    return (
        f"An image encoder pretrained with Génoise. It takes {seen}, images of any size, and gives the maps of its "
        f"layers (channels): {channels}. Stem: {stem}. Normalization layers: {config.norm}.\n\n"
        "The standardization is not folded into the first convolution: images are padded with zeros behind it, so at "
        "the border no other weights give the same features."
    )


def _checked(exported: Exported) -> str:
    lines = [f"- read by {reader}: {off:.1e}" for reader, off in exported.checks.items()]
    return (
        "The files were read again and compared with the original. Largest difference of a feature, as a share of the "
        "largest of its layer:\n\n" + "\n".join(lines)
    )


def _data(recipe: Recipe | None) -> list[str]:
    if recipe is None:
        return ["## Data", f"Trained elsewhere: what on is {UNKNOWN}."]
    data = recipe.data
    samples = "its training split" if data.samples is None else f"{data.samples} samples of its training split"
    return [
        "## Data",
        f"Source `{data.source}`: {samples}, {data.size} x {data.size} pixels. "
        f"Licence of the data: {LICENCES.get(data.source, UNKNOWN)}. "
        "That of these weights is for whoever shares them to say.",
    ]


def _training(origin: Origin) -> list[str]:
    if origin.recipe is None:
        return []
    recipe = origin.recipe
    rows = [f"| `{term}` | {weight:g} |" for term, weight in (origin.weights or {}).items()]
    nothing = "No loss: the network is not trained."
    table = "| term of the loss | weight |\n| --- | --- |\n" + "\n".join(rows) if rows else nothing
    text = yaml.safe_dump(_without_places(recipe.model_dump(mode="json")), sort_keys=False, allow_unicode=True).rstrip()
    return [
        "## Training",
        f"Task `{recipe.task}`, recipe `{recipe.name}`, seed {recipe.training.seed}, "
        f"{recipe.training.epochs:g} epochs.",
        table,
        f"<details><summary>The whole recipe</summary>\n\n```yaml\n{text}\n```\n\n</details>",
    ]


def _without_places(values: Any) -> Any:
    """A recipe without its places: they are of the machine that trained, and nobody else's."""
    if isinstance(values, dict):
        return {key: _without_places(value) for key, value in values.items() if key not in _PLACES}
    return values


def _scores(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    if not scores:
        return ["## Scores", "None is known: `genoise transfer --encoder` makes one."]
    rows = [
        f"| {each['benchmark']} | {each['metric']} | {each['split']} | {each['value']:.4f} | {each['n']} "
        f"| {each.get('layer') or ''} |"
        for each in scores
    ]
    protocols = [
        f"<details><summary>Protocol of {each['benchmark']}</summary>\n\n```json\n"
        f"{json.dumps(each['protocol'], indent=1)}\n```\n\n</details>"
        for each in scores
    ]
    table = "| benchmark | metric | split | score | samples | layer |\n| --- | --- | --- | --- | --- | --- |\n"
    return ["## Scores", table + "\n".join(rows), *protocols]
