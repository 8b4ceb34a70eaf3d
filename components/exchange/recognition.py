"""Which architecture a state dict is of, by the names and shapes of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from components.config import EncoderConfig
from components.errors import UserError, first_of
from components.exchange.state_dicts import read_state_dict
from components.networks.encoder import Encoder, build_encoder

# Architectures whose names others share, and where their width stands: the channels of one of these tensors.
_WIDTHS = {
    "resnet18": ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight"),
    "resnet34": ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight"),
    "resnet50": ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight"),
    "alexnet": ("features.0.weight",),
}
_COUNTER = "num_batches_tracked"  # of batches, which old files lack and nothing but training reads
_SHOWN = 5  # keys of each kind that an error names
_STEMS = {
    ("alexnet", "large"): "11 x 11 with stride 4",
    ("alexnet", "small"): "3 x 3 with stride 1",
    ("resnet", "large"): "7 x 7 with stride 2, and a pool",
    ("resnet", "small"): "3 x 3 with stride 1, and no pool",
}


@dataclass(frozen=True)
class Recognized:
    """An encoder made of a state dict, and what is to be said about it."""

    encoder: Encoder
    notes: tuple[str, ...]


def import_encoder(file: Path, normalization: str) -> Recognized:
    """The encoder in a state dict with the names of torchvision or timm, on the CPU, in evaluation mode.

    Architecture, width, stem and number of stages are those that its tensors have. ``normalization``: what it expects
    RGB to be standardized with, which no state dict says. Raises UserError where a key or a shape does not fit.
    """
    found = read_state_dict(file)
    config = recognize(found.tensors, file).model_copy(update={"normalization": normalization})
    encoder = build_encoder(config)
    tensors = {key: value for key, value in encoder.state_dict().items() if key.endswith(_COUNTER)} | found.tensors
    kinds = {str(value.dtype).removeprefix("torch.") for value in found.tensors.values() if value.is_floating_point()}
    encoder.load_state_dict(tensors)
    for key, value in encoder.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{file}: {key} has values that are not finite: take weights of a training that went well")
    notes = [f"read as {_words(config)}", *found.notes]
    if kinds - {"float32"}:
        notes.append(f"{', '.join(sorted(kinds - {'float32'}))} became float32")
    return Recognized(encoder.eval(), tuple(notes))


def recognize(tensors: Mapping[str, Tensor], where: Path) -> EncoderConfig:
    """The configuration whose network has exactly these names and shapes; UserError with the nearest names if none."""
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    candidates = {config.name: (config, shapes_of(config)) for name in _WIDTHS if (config := _guess(name, shapes))}
    names = ", ".join(_WIDTHS)
    if not candidates:
        raise UserError(
            f"{where} holds none of {names} under the names of torchvision or timm; it begins with "
            f"{first_of(list(shapes), _SHOWN)}"
        )
    # The most keys in common; of ResNet-18 and -34, which share theirs, the one that lacks fewer.
    config, expected = max(candidates.values(), key=lambda each: (_common(shapes, each[1]), -len(each[1])))
    stages = _stages(config)
    for depth in range(stages, 0, -1):  # a network may have been cut short
        cut = config.model_copy(update={"depth": depth if depth < stages else None})
        if not _misfits(shapes, shapes_of(cut)):
            return cut
    misfits = _misfits(shapes, expected)
    if _common(shapes, expected) < len(shapes) / 2:
        names = f"none of {names}; of {config.name}, the nearest"
        raise UserError(f"{where} holds {names}, {misfits}")
    raise UserError(f"{where} does not fit {config.name} of width {config.width}: {misfits}")


def shapes_of(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a network's tensors; none is made."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in build_encoder(config).state_dict().items()}


def _guess(name: str, shapes: Mapping[str, tuple[int, ...]]) -> EncoderConfig | None:
    """The whole network called ``name`` that the tensors can be of; None where nothing says how wide it is."""
    widths = [shapes[key][0] for key in _WIDTHS[name] if shapes.get(key)]
    if not widths or widths[0] < 4:
        return None
    first = shapes.get(_WIDTHS[name][0], ())
    stem = "small" if first[2:] == (3, 3) else "large"
    norm = "batch" if any(key.endswith("running_mean") for key in shapes) else "none"
    return EncoderConfig.parse({"name": name, "width": widths[0], "stem": stem, "norm": norm})


def _stages(config: EncoderConfig) -> int:
    with torch.device("meta"):
        return len(build_encoder(config).layers)


def _common(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> int:
    return sum(expected.get(key) == shape for key, shape in shapes.items())


def _misfits(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
    """What does not fit, in words; "" where all does."""
    missing = [key for key in expected if key not in shapes and not key.endswith(_COUNTER)]
    unknown = [key for key in shapes if key not in expected]
    nearest = {
        key: get_close_matches(key, missing, 1) or get_close_matches(key, expected, 1) for key in unknown[:_SHOWN]
    }
    lost = [key for key in missing if [key] not in nearest.values()]
    wrong = [key for key, shape in shapes.items() if key in expected and expected[key] != shape]
    parts = []
    if unknown:
        hints = [f"{key} (nearest: {near[0]})" if (near := nearest.get(key)) else key for key in unknown]
        parts.append(f"{_count(unknown)} it does not have: {first_of(hints, _SHOWN)}")
    if wrong:
        parts.append(
            f"{_count(wrong)} of another shape: "
            + first_of([f"{key} {shapes[key]} instead of {expected[key]}" for key in wrong], _SHOWN)
        )
    if lost:
        parts.append(f"{_count(lost)} missing: {first_of(lost, _SHOWN)}")
    return "; ".join(parts)


def _count(keys: list[str]) -> str:
    return f"{len(keys)} key" + "s" * (len(keys) > 1)


def _words(config: EncoderConfig) -> str:
    stem = _STEMS[config.name.rstrip("0123456789"), config.stem]
    stages = "" if config.depth is None else f", its first {config.depth} stages"
    norm = "batch normalization" if config.norm == "batch" else "no normalization layers"
    return f"{config.name} of width {config.width}{stages}: first convolution {stem}; {norm}"
