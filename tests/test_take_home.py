"""The programs of docs/take-home.md load what `genoise export` writes, in a process that has nothing of ours."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.exchange import plain
from components.exchange.formats import export
from tests.components.exchange.test_formats import need
from tests.components.exchange.test_recognition import network

PAGE = (Path(__file__).parents[1] / "docs" / "take-home.md").read_text()
NEEDS = {"torch and safetensors alone": (), "timm": ("timm",), "onnxruntime": ("onnx", "onnxscript", "onnxruntime")}
FORMATS = {"torch and safetensors alone": "torchvision", "timm": "timm", "onnxruntime": "onnx"}
# What the programs leave is written down, so that it can be compared.
KEPT = """
import torch
from safetensors.torch import save_file
found = maps if "maps" in globals() else {"features": features}
seen = {layer: torch.as_tensor(values).detach().contiguous() for layer, values in found.items()}
save_file(seen | {"rgb": torch.as_tensor(rgb)}, "seen.safetensors")
"""


def program(title: str) -> str:
    """The program under a heading, whose images have a name."""
    section = PAGE.partition(f"\n## With {title}\n")[2].partition("\n## ")[0]
    text = section.partition("```python\n")[2].partition("```")[0]
    noise = "torch.rand(2, 3, 64, 64)"
    return f"import torch\nrgb = {noise}\n{text.replace(noise, 'rgb')}" if noise in text else text


@pytest.mark.slow
@pytest.mark.parametrize("title", NEEDS)
def test_the_programs_give_the_features_of_the_encoder(title: str, tmp_path: Path) -> None:
    need(FORMATS[title], *NEEDS[title])
    encoder = network(width=64, normalization="half")
    export(encoder, tmp_path, FORMATS[title])
    # -I: neither this folder nor what the environment names is searched for modules.
    done = subprocess.run(
        [sys.executable, "-I", "-c", program(title) + KEPT], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seen = load_file(tmp_path / "seen.safetensors")
    with torch.no_grad():
        maps = encoder(seen.pop("rgb"))
    if "features" in seen:
        torch.testing.assert_close(seen["features"], maps["layer4"].mean((2, 3)), rtol=1e-5, atol=1e-5)
        return
    assert seen.keys() == maps.keys()
    for layer, map_BCHW in maps.items():
        assert (seen[layer] - map_BCHW).abs().max() <= 1e-5 * map_BCHW.abs().max()


def test_the_page_shows_the_reader_that_exports_are_checked_with() -> None:
    assert Path(plain.__file__).read_text().rstrip() in program("torch and safetensors alone")


def test_the_reader_needs_nothing_of_ours() -> None:
    text = Path(plain.__file__).read_text()
    assert not [
        name for name in ("components", "pipelines", "infra") if f"from {name}" in text or f"import {name}" in text
    ]
