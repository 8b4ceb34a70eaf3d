"""An exported encoder in torch and safetensors alone: this file runs by itself, and may be copied.

It reads ResNet-18, -34 and -50 and AlexNet from the files that `genoise export` writes.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F


class PlainEncoder:
    """Feature maps of RGB in [0, 1], (B, 3, H, W): {layer: (B, C, h, w)}, shallow to deep."""

    def __init__(self, folder: str) -> None:
        about = json.loads((Path(folder) / "config.json").read_text())
        self.mean, self.std = (torch.tensor(about[name]).view(3, 1, 1) for name in ("mean", "std"))
        self.weights = load_file(Path(folder) / about["weights"])

    def __call__(self, rgb: Tensor) -> dict[str, Tensor]:
        x = (rgb - self.mean) / self.std
        return self.alexnet(x) if "features.0.weight" in self.weights else self.resnet(x)

    def conv(self, x: Tensor, name: str, norm: str = "", stride: int = 1, padding: int | None = None) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        x = F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2 if padding is None else padding)
        if f"{norm}.running_mean" not in self.weights:
            return x
        mean, var = self.weights[f"{norm}.running_mean"], self.weights[f"{norm}.running_var"]
        return F.batch_norm(x, mean, var, self.weights[f"{norm}.weight"], self.weights[f"{norm}.bias"])

    def resnet(self, x: Tensor) -> dict[str, Tensor]:
        large = self.weights["conv1.weight"].shape[-1] == 7
        maps = {"stem": F.relu(self.conv(x, "conv1", "bn1", stride=2 if large else 1))}
        x = F.max_pool2d(maps["stem"], 3, 2, 1) if large else maps["stem"]
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            block = 0
            while f"{stage}.{block}.conv1.weight" in self.weights:
                x = self.block(x, f"{stage}.{block}", 2 if stage != "layer1" and block == 0 else 1)
                maps[stage] = x
                block += 1
        return maps

    def block(self, x: Tensor, at: str, stride: int) -> Tensor:
        strides = (1, stride, 1) if f"{at}.conv3.weight" in self.weights else (stride, 1)
        y = x
        for k, step in enumerate(strides, 1):
            y = self.conv(y, f"{at}.conv{k}", f"{at}.bn{k}", step)
            y = F.relu(y) if k < len(strides) else y
        if f"{at}.downsample.0.weight" in self.weights:
            x = self.conv(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
        return F.relu(x + y)

    def alexnet(self, x: Tensor) -> dict[str, Tensor]:
        large = self.weights["features.0.weight"].shape[-1] == 11
        numbers = sorted(int(key.split(".")[1]) for key, value in self.weights.items() if value.dim() == 4)
        maps: dict[str, Tensor] = {}
        for k, number in enumerate(numbers, 1):
            if k in (2, 3):
                x = F.max_pool2d(x, 3 if large else 2, 2)
            x = self.conv(
                x,
                f"features.{number}",
                f"features.{number + 1}",
                stride=4 if large and k == 1 else 1,
                padding=2 if large and k < 3 else 1,
            )
            x = maps[f"conv{k}"] = F.relu(x)
        return maps
