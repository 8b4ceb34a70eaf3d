"""State dicts of others: read from a file without running code, and freed from what stands around the network."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from components.errors import UserError, first_of

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
FIRST = ("conv1.weight", "features.0.weight")  # the first convolution, as ResNets and AlexNet call it
HEADS = ("fc", "classifier", "head", "projector", "projection_head", "prediction_head")
_NESTS = ("state_dict", "model")  # under which trainers keep the weights beside an optimizer
# What trainers put in front of a network's own names.
_WRAPPERS = {"module", "model", "backbone", "encoder", "encoder_q", "trunk", "net", "network", "_orig_mod"}
_COPIES = re.compile(r"(^|[._])(k|ema|momentum|target|teacher)([._]|$)")  # networks that follow the one that learns
_BLOCK = re.compile(r"(^|\.)layer\d+\.")
_NAMED = 4  # keys that a note names


@dataclass(frozen=True)
class StateDict:
    """A network's tensors under its own names, and what was taken away to find them."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def read_state_dict(file: Path) -> StateDict:
    """The tensors of one network in ``file``, safetensors or what torch.save wrote of a state dict, on the CPU.

    It may be nested under ``state_dict`` or ``model``; prefixes such as ``module.`` or ``encoder_q.`` and heads
    (HEADS) are taken away. Raises UserError for a file that is broken, holds more than weights or several networks.
    """
    within, notes = _tensors_in(file), []
    found = _prefixes(within)
    if len(found) > 1:
        found = [each for each in found if not _COPIES.search(each)] or found
    if len(found) > 1:
        names = first_of([each.rstrip(".") or "one without a name" for each in found], _NAMED)
        raise UserError(
            f"{file} holds {len(found)} networks, {names}: save the state dict of the one that you mean alone"
        )
    prefix = found[0] if found else _wrapped(within)
    inside = {key.removeprefix(prefix): value for key, value in within.items() if key.startswith(prefix)}
    if prefix:
        notes.append(f"the prefix {prefix} is taken away")
    heads = [key for key in inside if key.partition(".")[0] in HEADS]
    others = [key for key in within if not key.startswith(prefix)]
    if left := [*heads, *others]:
        notes.append(f"left out: {first_of(left, _NAMED)}")
    return StateDict({key: value for key, value in inside.items() if key not in heads}, tuple(notes))


def _tensors_in(file: Path) -> dict[str, Tensor]:
    """{key: tensor} of a file, out of its nest."""
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise UserError(f"{file} is not a whole safetensors file ({error}): copy it again") from None
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: a broken archive, a class that would have to run
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"{file} cannot be read as weights alone ({reason}): save the state dict, "
            "torch.save(model.state_dict(), 'weights.pt'), or safetensors"
        ) from None
    return _unnested(content, file)


def _unnested(content: object, file: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        if tensors := _tensors_of(content):
            return tensors
        nested = {str(key): tensors for key, value in content.items() if (tensors := _tensors_of(value))}
        for name in (*_NESTS, *(nested if len(nested) == 1 else ())):
            if name in nested:
                return nested[name]
        if nested:
            raise UserError(f"{file} holds {', '.join(nested)}: save the state dict of the one that you mean alone")
    raise UserError(f"{file} holds no state dict: save one with torch.save(model.state_dict(), 'weights.pt')")


def _tensors_of(content: object) -> dict[str, Tensor]:
    """The tensors of a mapping that has a first convolution somewhere; else {}."""
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return tensors if any(value.dim() == 4 for value in tensors.values()) else {}


def _prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """What stands in front of each first convolution."""
    found: dict[str, None] = {}
    for key, value in tensors.items():
        for first in FIRST:
            if value.dim() == 4 and (key == first or key.endswith(f".{first}")):
                prefix = key.removesuffix(first)
                if not _BLOCK.search(prefix):
                    found[prefix] = None
    return list(found)


def _wrapped(keys: Iterable[str]) -> str:
    """The wrappers that stand in front of every key."""
    keys, prefix = list(keys), ""
    while keys:
        words = {key.partition(".")[0] for key in keys if key.partition(".")[0] not in HEADS}
        if len(words) != 1 or not words <= _WRAPPERS:
            return prefix
        word = f"{words.pop()}."
        prefix, keys = prefix + word, [key.removeprefix(word) for key in keys if key.startswith(word)]
    return prefix
