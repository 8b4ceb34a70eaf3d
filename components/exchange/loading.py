"""How an exported encoder is loaded by those who open it: a short program for each format, which its card shows."""

from pathlib import Path

from components.exchange import plain
from components.exchange.formats import MODEL_FILE, ONNX_FILE, PROGRAM_FILE, is_plain
from components.networks.encoder import Encoder

_STANDARDIZED = """about = json.loads(Path("config.json").read_text())
mean, std = (torch.tensor(about[name]).view(3, 1, 1) for name in ("mean", "std"))
"""
_SMALL = """model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)  # the small stem: no stride,
model.maxpool = torch.nn.Identity()  # and no pool
"""


def program(encoder: Encoder, name: str) -> str:
    """A program that makes features of RGB in [0, 1], (B, 3, H, W), in the folder of an export in format ``name``."""
    return {
        "safetensors": _safetensors,
        "torchvision": _torchvision,
        "timm": _timm,
        "torch-export": _program,
        "onnx": _onnx,
    }[name](encoder)


def _safetensors(encoder: Encoder) -> str:
    if is_plain(encoder):
        use = '\n\nmaps = PlainEncoder(".")(torch.rand(2, 3, 64, 64))  # {layer: (B, C, h, w)} of RGB in [0, 1]\n'
        return Path(plain.__file__).read_text().rstrip() + use
    return """import torch
from components.networks.encoder import load_encoder  # pip install genoise

maps = load_encoder(".")(torch.rand(2, 3, 64, 64))  # {layer: (B, C, h, w)} of RGB in [0, 1]
"""


def _torchvision(encoder: Encoder) -> str:
    name = encoder.config.name
    if name == "alexnet":
        build = f'''model = {name}(weights=None)
model.load_state_dict(load_file("{MODEL_FILE}"), strict=False)  # there is no classifier
model = model.features.eval()
'''
    else:
        build = f'''model = {name}(weights=None)
{_SMALL if encoder.config.stem == "small" else ""}model.fc = torch.nn.Identity()
model.load_state_dict(load_file("{MODEL_FILE}"))
model.eval()
'''
    return f"""import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torchvision.models import {name}

{_STANDARDIZED}{build}
rgb = torch.rand(2, 3, 64, 64)  # in [0, 1]
features = model((rgb - mean) / std)
"""


def _timm(encoder: Encoder) -> str:
    if encoder.config.stem == "small":
        build = f'''model = timm.create_model("{encoder.config.name}", num_classes=0)
{_SMALL}model.load_state_dict(load_file("{MODEL_FILE}"))
'''
        loader = "from safetensors.torch import load_file\n"
    else:
        build, loader = 'model = timm.create_model("local-dir:.", pretrained=True, num_classes=0)\n', ""
    return f"""import json
from pathlib import Path

import timm
import torch
{loader}
{_STANDARDIZED}{build}model.eval()

rgb = torch.rand(2, 3, 64, 64)  # in [0, 1]
features = model((rgb - mean) / std)  # (B, {encoder.channels[encoder.layers[-1]]}), means over the last map
"""


def _program(encoder: Encoder) -> str:
    return f'''import torch

# Without guards, which refuse images whose deepest map is one place wide.
model = torch.export.load("{PROGRAM_FILE}").module(check_guards=False)
maps = model(torch.rand(2, 3, 64, 64))  # {{layer: (B, C, h, w)}} of RGB in [0, 1]: {", ".join(encoder.layers)}
'''


def _onnx(encoder: Encoder) -> str:
    return f'''import numpy
import onnxruntime

session = onnxruntime.InferenceSession("{ONNX_FILE}", providers=["CPUExecutionProvider"])
rgb = numpy.random.rand(2, 3, 64, 64).astype("float32")  # in [0, 1]
maps = dict(zip([output.name for output in session.get_outputs()], session.run(None, {{"rgb": rgb}})))
'''
