"""Encoders: what a task leaves behind. RGB in, an ordered dict of named feature maps out; saved without pickle.

An architecture is one file beside this one: subclass `Encoder`, register a builder with `@register_encoder`.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.color import rgb_to_lab, scale_lab
from components.config import EncoderConfig
from components.errors import UserError, unknown
from components.keys import deciding
from components.networks.normalization import mean_and_deviation
from components.registry import Registry

FORMAT = "genoise-encoder/1"  # of config.json and encoder.safetensors; a file with another one is refused
CONFIG_FILE = "config.json"  # what the encoder is built from
WEIGHTS_FILE = "encoder.safetensors"  # its parameters and buffers

HALVES = {"l+ab": ("l", "ab"), "diagonal": ("lab", "lab")}  # inputs that two trunks share: what each of them sees
INPUT_CHANNELS = {"rgb": 3, "lab": 3, "l": 1, "ab": 2, "l+ab": 3, "diagonal": 3}  # of what a trunk sees, by input


class Encoder(nn.Module):
    """A fully convolutional network with named layers, from shallow to deep.

    It takes RGB whatever its trunk sees: the conversion is part of it, so a saved encoder needs nothing else.
    ``channels`` is {layer: number of channels}; ``layers`` its names in order; ``config`` is what it was built from.
    """

    _mean: Tensor  # (3, 1, 1)
    _std: Tensor

    def __init__(self, config: EncoderConfig, channels: dict[str, int]) -> None:
        """``channels`` names every layer of the whole architecture; ``config.depth`` keeps the first of them.

        Raises UserError if ``config.depth`` is larger than the number of layers, and for a normalization that is none.
        """
        super().__init__()
        depth = len(channels) if config.depth is None else config.depth
        if depth > len(channels):
            raise UserError(
                f"encoder.depth: {config.name} has {len(channels)} stages, not {depth}: give 1 to {len(channels)}"
            )
        self.config = config
        self.channels = dict(list(channels.items())[:depth])
        self.layers = tuple(self.channels)
        mean, std = mean_and_deviation(config.normalization)
        # Not persistent: state dicts keep exactly the key names that torchvision gives them.
        self.register_buffer("_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, rgb_BCHW: Tensor) -> dict[str, Tensor]:
        """RGB (B, 3, H, W) in [0, 1] to {layer: (B, channels[layer], h, w)}, after the activation, shallow to deep."""
        return self.encode(self.convert(rgb_BCHW))

    def convert(self, rgb_BCHW: Tensor) -> Tensor:
        """RGB (B, 3, H, W) in [0, 1] to what the trunk sees, (B, INPUT_CHANNELS[config.input], H, W), float32.

        rgb: standardized as ``config.normalization`` says, by default with ImageNet's mean and deviation; all others:
        CIE Lab, or a part of it, as `scale_lab` has it, about [-1, 1].
        """
        rgb_BCHW = rgb_BCHW.float()  # Lab is steep near black, and bf16 has 8 bits
        if self.config.input == "rgb":
            return (rgb_BCHW - self._mean) / self._std
        lab_B3HW = rgb_to_lab(rgb_BCHW)
        parts = {"l": lab_B3HW[:, :1], "ab": lab_B3HW[:, 1:]}
        return scale_lab(parts.get(self.config.input, lab_B3HW))

    def encode(self, native_BCHW: Tensor) -> dict[str, Tensor]:
        """The trunk alone: what `convert` returned, or something like it, to {layer: feature map}."""
        raise NotImplementedError

    def deepest(self, native_BCHW: Tensor) -> Tensor:
        """The map of the last layer alone, (B, C, h, w), of what `encode` takes."""
        return self.encode(native_BCHW)[self.layers[-1]]

    def select(self, names: Iterable[str] | None) -> tuple[str, ...]:
        """The layers called ``names``, shallow to deep; None means all. UserError for one that does not exist."""
        if names is None:
            return self.layers
        wanted = set(names)
        for name in sorted(wanted - set(self.layers)):
            raise unknown(f"layer of {self.config.name}", name, self.layers)
        return tuple(layer for layer in self.layers if layer in wanted)


class Chain(Encoder):
    """Layers one behind the other; the keys are ``features.N``, counted on from layer to layer."""

    def chain(self, stages: dict[str, list[nn.Module]]) -> None:
        """``stages`` is {layer: the modules that lead from the layer before to its map}, shallow to deep."""
        self.features = nn.Sequential(*itertools.chain.from_iterable(stages.values()))
        self._ends = dict(zip(itertools.accumulate(map(len, stages.values())), stages, strict=True))

    def encode(self, native_BCHW: Tensor) -> dict[str, Tensor]:
        maps, x_BCHW = {}, native_BCHW
        for number, module in enumerate(self.features, 1):
            x_BCHW = module(x_BCHW)
            if number in self._ends:
                maps[self._ends[number]] = x_BCHW
        return maps


class TwoTrunks(Encoder):
    """Two trunks of half the width, each with its own half of the input; the maps of equal layers are concatenated.

    Source: Zhang et al. 2017 (Split-Brain), section 3.2. ``l+ab``: lightness and colour. ``diagonal``: all channels of
    the pixels on or above the diagonal from the upper left to the lower right corner, and of those below; what a
    trunk does not see is zero.
    """

    def __init__(self, config: EncoderConfig, builder: "Builder") -> None:
        """``builder`` makes one trunk. Raises UserError for a width that is not even."""
        if config.width % 2:
            raise UserError(f"encoder.width: {config.width} channels cannot be cut in two: give an even number")
        half = {"width": config.width // 2}
        trunks = [builder(config.model_copy(update=half | {"input": seen})) for seen in HALVES[config.input]]
        super().__init__(config, {layer: 2 * channels for layer, channels in trunks[0].channels.items()})
        self.trunks = nn.ModuleList(trunks)

    def split(self, native_B3HW: Tensor) -> list[Tensor]:
        """What `convert` returned, as each trunk sees it."""
        if self.config.input == "l+ab":
            return [native_B3HW[:, :1], native_B3HW[:, 1:]]
        height, width = native_B3HW.shape[2:]
        above_HW = above_diagonal(height, width, native_B3HW.device)
        return [native_B3HW * above_HW, native_B3HW * ~above_HW]

    def encode_apart(self, native_B3HW: Tensor) -> list[dict[str, Tensor]]:
        """The maps of each trunk."""
        parts = self.split(native_B3HW)
        return [cast(Encoder, trunk).encode(part) for trunk, part in zip(self.trunks, parts, strict=True)]

    def encode(self, native_B3HW: Tensor) -> dict[str, Tensor]:
        first, second = self.encode_apart(native_B3HW)
        return {layer: torch.cat([first[layer], second[layer]], dim=1) for layer in self.layers}


def above_diagonal(height: int, width: int, device: torch.device) -> Tensor:
    """(H, W) bool: pixels whose centre is on or above the line from the upper left to the lower right corner."""
    rows_H, columns_W = torch.arange(height, device=device), torch.arange(width, device=device)
    return (2 * columns_W + 1) * height >= ((2 * rows_H + 1) * width)[:, None]


def initialize_he(module: nn.Module) -> None:
    """Convolutions from N(0, 2 / fan out), biases zero (He et al. 2015, section 2.2): activations keep their scale."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


Builder = Callable[[EncoderConfig], Encoder]
_B = TypeVar("_B", bound=Builder)
_REGISTRY: Registry[Builder] = Registry("components.networks", "encoder")


def register_encoder(name: str) -> Callable[[_B], _B]:
    """Decorator of an Encoder class, or of a function that builds one: makes the architecture known by ``name``."""

    def add(builder: _B) -> _B:
        _REGISTRY.register(name, builder, builder)
        return builder

    return add


def all_encoders() -> dict[str, Builder]:
    """Every architecture, by name: each module beside this file is imported once and registers itself."""
    return _REGISTRY.all()


def build_encoder(config: EncoderConfig) -> Encoder:
    """A freshly initialized encoder (from torch's random state); UserError for an unknown name or too many stages."""
    builder = _REGISTRY.get(config.name)
    return TwoTrunks(config, builder) if config.input in HALVES else builder(config)


def save_encoder(encoder: Encoder, folder: str | Path) -> None:
    """Write ``config.json`` and ``encoder.safetensors`` into ``folder``, which is made if need be.

    Each file appears whole or not at all; the configuration comes last, so a folder that has one is complete.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors wants plain strides; a channels-last weight is the same numbers in another order.
    tensors = {key: value.detach().cpu().contiguous() for key, value in encoder.state_dict().items()}
    weights, config = folder / f"{WEIGHTS_FILE}.partial", folder / f"{CONFIG_FILE}.partial"
    save_file(tensors, weights, metadata={"format": "pt"})
    about = {"format": FORMAT, "encoder": deciding(encoder.config), "layers": encoder.channels}
    config.write_text(json.dumps(about, indent=2) + "\n")
    os.replace(weights, folder / WEIGHTS_FILE)
    os.replace(config, folder / CONFIG_FILE)


def load_encoder(folder: str | Path) -> Encoder:
    """The encoder that `save_encoder` wrote, bit for bit, on the CPU, in evaluation mode.

    Raises UserError if the folder or a file is missing, broken, of another format, or does not fit its configuration.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no encoder folder {folder}: give one that holds {CONFIG_FILE} and {WEIGHTS_FILE}")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no {name}: an encoder is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    encoder = build_encoder(_read_config(folder / CONFIG_FILE))
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS_FILE} is not a whole safetensors file ({error}): copy it again") from None
    _check_fit(tensors, encoder.state_dict(), folder)
    encoder.load_state_dict(tensors)
    return encoder.eval()


def _read_config(path: Path) -> EncoderConfig:
    try:
        about = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): copy it again") from None
    found = about.get("format") if isinstance(about, dict) else None
    if found != FORMAT or not isinstance(about.get("encoder"), dict):
        raise UserError(f"{path} has format {found!r}, this version reads {FORMAT!r}: save the encoder again")
    return EncoderConfig.parse(about["encoder"], f"{path}: encoder.")


def _check_fit(found: dict[str, Tensor], expected: dict[str, Tensor], folder: Path) -> None:
    """UserError with the first tensor that is missing, superfluous, or of another shape."""
    where = f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE}"
    fix = "take both files from the same encoder"
    for key in sorted(expected.keys() - found.keys()):
        raise UserError(f"{where}: {key} is missing; {fix}")
    for key in sorted(found.keys() - expected.keys()):
        raise UserError(f"{where}: {key} is not part of the network; {fix}")
    for key, value in expected.items():
        if found[key].shape != value.shape:
            raise UserError(f"{where}: {key} is {tuple(found[key].shape)} instead of {tuple(value.shape)}; {fix}")
