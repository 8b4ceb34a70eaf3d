"""The formats in which an encoder leaves, each checked against the encoder before it is handed over."""

import importlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.errors import UserError, unknown
from components.exchange.graphs import INPUT, save_onnx, save_program
from components.exchange.plain import PlainEncoder
from components.networks.encoder import CONFIG_FILE, WEIGHTS_FILE, Encoder, load_encoder, save_encoder
from components.networks.normalization import mean_and_deviation

TOLERANCE = 1e-5  # of a feature, as a share of the largest of its layer
MODEL_FILE, PROGRAM_FILE, ONNX_FILE = "model.safetensors", "encoder.pt2", "encoder.onnx"
THEIR_WIDTH = 64  # of torchvision's and timm's networks
_PLAIN = ("resnet18", "resnet34", "resnet50", "alexnet")  # what `PlainEncoder` reads
_SHAPES = ((1, 64, 64), (3, 107, 73), (2, 64, 96))  # of the images that a check is made with: B, H, W

Maps = Mapping[str, Tensor]
Reader = Callable[[Tensor], Maps]  # of RGB in [0, 1]


@dataclass(frozen=True)
class Exported:
    """What was written, and how near it is to the encoder.

    ``checks``: {who read it: the largest difference of a feature, as a share of the largest of its layer}.
    """

    files: tuple[str, ...]
    checks: dict[str, float]
    unchecked: tuple[str, ...] = field(default=())  # who could not be asked, and what to type so that it can


def formats() -> tuple[str, ...]:
    """The names of all formats."""
    return tuple(_WRITERS)


def export(encoder: Encoder, folder: Path, name: str) -> Exported:
    """Write ``encoder`` into ``folder`` in the format ``name``, read it again, and compare.

    Raises UserError for an unknown format, one that the encoder's architecture does not have or that needs a package
    which is not there, and where a feature differs by more than TOLERANCE.
    """
    if name not in _WRITERS:
        raise unknown("format", name, _WRITERS)
    done = _WRITERS[name](encoder.cpu().eval(), folder)
    for reader, off in done.checks.items():
        if not off <= TOLERANCE:
            raise UserError(
                f"--format {name}: read by {reader} features differ by {off:.1e} of their layer's largest, more than "
                f"{TOLERANCE:g}: nothing is written; --format safetensors keeps the encoder as it is"
            )
    return done


def difference(encoder: Encoder, read: Reader) -> float:
    """The largest difference between a feature and what ``read`` says it is, as a share of the largest of its layer.

    Over images of noise of several sizes, and all layers that ``read`` returns.
    """
    most, generator = 0.0, torch.Generator().manual_seed(0)
    with torch.no_grad():
        for batch, height, width in _SHAPES:
            rgb_BCHW = torch.rand(batch, 3, height, width, generator=generator)
            try:
                expected = encoder(rgb_BCHW)
            except UserError:  # sides that this architecture does not take
                continue
            for layer, map_BCHW in read(rgb_BCHW).items():
                largest = float(expected[layer].abs().max()) or 1.0
                off = float((map_BCHW - expected[layer]).abs().max()) / largest
                most = max(most, math.inf if math.isnan(off) else off)
    return most


def missing_package(name: str, *packages: str, extra: str | None = None) -> str | None:
    """What to type for a format where one of its packages cannot be imported; None where all can.

    ``extra``: of ours, that has them.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except (ImportError, RuntimeError) as error:  # a torchvision that was not built for this torch
            reason = f"{package} is not there" if isinstance(error, ModuleNotFoundError) else f"{package}: {error}"
            todo = f"'genoise[{extra}]'" if extra else " ".join(packages)
            return f"--format {name} needs {' and '.join(packages)} ({reason}): pip install {todo}"
    return None


def normalized(encoder: Encoder) -> dict[str, list[float]]:
    """What RGB in [0, 1] is standardized with, as the files say it."""
    mean, std = mean_and_deviation(encoder.config.normalization)
    return {"mean": list(mean), "std": list(std)}


def _safetensors(encoder: Encoder, folder: Path) -> Exported:
    """Our own files; what they are read by besides us is said in them."""
    save_encoder(encoder, folder)
    config = folder / CONFIG_FILE
    about = json.loads(config.read_text()) | {"weights": WEIGHTS_FILE, **normalized(encoder)}
    config.write_text(json.dumps(about, indent=2) + "\n")
    checks = {"genoise": difference(encoder, load_encoder(folder))}
    if is_plain(encoder):
        checks["torch alone"] = difference(encoder, PlainEncoder(str(folder)))
    return Exported((CONFIG_FILE, WEIGHTS_FILE), checks)


def is_plain(encoder: Encoder) -> bool:
    """Whether `PlainEncoder` can read it."""
    config = encoder.config
    plain_norm = config.norm == "batch" or (config.norm == "none" and config.name in _PLAIN)
    return config.name in _PLAIN and config.input == "rgb" and plain_norm


def _torchvision(encoder: Encoder, folder: Path) -> Exported:
    _check_theirs(encoder, "torchvision")
    about = {"library": "torchvision", "architecture": encoder.config.name}
    return _written_as_theirs(encoder, folder, "torchvision", about, _model_of_torchvision)


def _timm(encoder: Encoder, folder: Path) -> Exported:
    if encoder.config.name == "alexnet":
        raise UserError("timm has no AlexNet: take --format torchvision, onnx, torch-export or safetensors")
    _check_theirs(encoder, "timm")
    channels = encoder.channels[encoder.layers[-1]]
    pretrained = {
        **normalized(encoder),
        "input_size": [3, 224, 224],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "num_classes": 0,
        "pool_size": [7, 7],
        "first_conv": "conv1",
        "classifier": "fc",
    }
    about = {
        "architecture": encoder.config.name,
        "num_classes": 0,
        "num_features": channels,
        "global_pool": "avg",
        "pretrained_cfg": pretrained,
    }
    return _written_as_theirs(encoder, folder, "timm", about, _model_of_timm)


def _check_theirs(encoder: Encoder, library: str) -> None:
    """UserError where the encoder is not of an architecture of theirs."""
    config = encoder.config
    wrong = None
    if config.name not in _PLAIN:
        wrong = f"has no {config.name}"
    elif config.input != "rgb":
        wrong = f"sees RGB, and this encoder {config.input}"
    elif config.width != THEIR_WIDTH:
        wrong = f"has {config.name} of width {THEIR_WIDTH}, and this one is {config.width} wide"
    elif config.norm != ("none" if config.name == "alexnet" else "batch"):
        wrong = f"has {config.name} with another normalization than {config.norm}"
    elif config.depth is not None:
        wrong = f"has {config.name} whole, and of this one {config.depth} stages were kept"
    elif config.name == "alexnet" and config.stem != "large":
        wrong = "has alexnet with the large stem, and this one has the small one"
    if wrong:
        raise UserError(f"{library} {wrong}: take --format safetensors, onnx or torch-export")


def _written_as_theirs(
    encoder: Encoder, folder: Path, library: str, about: Mapping[str, Any], model_of: Callable[[str], Any]
) -> Exported:
    """The weights, with what ``library`` asks (``about``); ``model_of``: its network of that name, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in encoder.state_dict().items()}
    save_file(tensors, folder / MODEL_FILE, metadata={"format": "pt"})
    ours = {"stem": encoder.config.stem, "weights": MODEL_FILE, "layers": encoder.channels, **normalized(encoder)}
    (folder / CONFIG_FILE).write_text(json.dumps({**about, **ours}, indent=2) + "\n")
    plain = PlainEncoder(str(folder))
    checks = {"torch alone": difference(encoder, plain)}
    needed = missing_package(library, library)
    if needed is None:
        checks[library] = difference(encoder, _theirs(model_of(encoder.config.name), encoder, plain))
    return Exported((CONFIG_FILE, MODEL_FILE), checks, (needed,) if needed else ())


def _model_of_torchvision(name: str) -> Any:
    models: Any = importlib.import_module("torchvision.models")
    return getattr(models, name)(weights=None)


def _model_of_timm(name: str) -> Any:
    timm: Any = importlib.import_module("timm")
    return timm.create_model(name, num_classes=0)


def _theirs(model: Any, encoder: Encoder, plain: PlainEncoder) -> Reader:
    """What a network of torchvision or timm gives out for its layers, with the weights that ``plain`` has read."""
    if encoder.config.name == "alexnet":
        model.load_state_dict(plain.weights, strict=False)  # without the classifier
        ends = dict(zip(("1", "4", "7", "9", "11"), encoder.layers, strict=True))  # its rectifiers
        parts = [(ends.get(name), part) for name, part in model.features.named_children()][:12]  # not the last pool
    else:
        if encoder.config.stem == "small":
            model.conv1 = nn.Conv2d(3, THEIR_WIDTH, 3, 1, 1, bias=False)
            model.maxpool = nn.Identity()
        model.fc = nn.Identity()
        model.load_state_dict(plain.weights)
        rectifier = model.relu if hasattr(model, "relu") else model.act1
        parts = [(None, model.conv1), (None, model.bn1), ("stem", rectifier), (None, model.maxpool)]
        parts += [(layer, getattr(model, layer)) for layer in encoder.layers[1:]]
    model.eval()

    def read(rgb_BCHW: Tensor) -> Maps:
        x_BCHW, maps = (rgb_BCHW - plain.mean) / plain.std, {}
        for layer, part in parts:
            x_BCHW = part(x_BCHW)
            if layer:
                maps[layer] = x_BCHW.clone()  # what comes next may work in place
        return maps

    return read


def _program(encoder: Encoder, folder: Path) -> Exported:
    folder.mkdir(parents=True, exist_ok=True)
    save_program(encoder, folder / PROGRAM_FILE)
    # Its guards refuse images whose deepest map is one place wide, of which it gives the right numbers as well.
    read: Any = torch.export.load(folder / PROGRAM_FILE).module(check_guards=False)
    _write_about(encoder, folder, PROGRAM_FILE)
    return Exported((CONFIG_FILE, PROGRAM_FILE), {"torch.export": difference(encoder, read)})


def _onnx(encoder: Encoder, folder: Path) -> Exported:
    needed = missing_package("onnx", "onnx", "onnxscript", "onnxruntime", extra="export")
    if needed:
        raise UserError(needed)
    folder.mkdir(parents=True, exist_ok=True)
    save_onnx(encoder, folder / ONNX_FILE)
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(folder / ONNX_FILE), providers=["CPUExecutionProvider"])
    layers = [output.name for output in session.get_outputs()]

    def read(rgb_BCHW: Tensor) -> Maps:
        found = session.run(layers, {INPUT: rgb_BCHW.numpy()})
        return {layer: torch.from_numpy(values) for layer, values in zip(layers, found, strict=True)}

    _write_about(encoder, folder, ONNX_FILE)
    return Exported((CONFIG_FILE, ONNX_FILE), {"onnxruntime": difference(encoder, read)})


def _write_about(encoder: Encoder, folder: Path, file: str) -> None:
    """What a graph cannot say of itself."""
    about = {"graph": file, "input": INPUT, "range": [0, 1], "layers": encoder.channels}
    (folder / CONFIG_FILE).write_text(json.dumps(about, indent=2) + "\n")


_WRITERS: dict[str, Callable[[Encoder, Path], Exported]] = {
    "safetensors": _safetensors,
    "torchvision": _torchvision,
    "timm": _timm,
    "torch-export": _program,
    "onnx": _onnx,
}
