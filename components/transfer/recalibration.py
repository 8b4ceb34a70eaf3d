"""Statistics of batch normalization, estimated again on the images that a probe sees.

An encoder that was trained on something else than whole images, such as patches, remembers the means and variances of
that; in evaluation its layers are then off the scale that they were trained at (Li et al. 2016, "Revisiting Batch
Normalization for Practical Domain Adaptation").
"""

import copy
from typing import Literal

import numpy as np
import torch
from torch import nn

from components.data.scramble import make_key, permute
from components.networks.encoder import Encoder
from components.transfer.features import BATCH, Dataset, evaluating, features_of, reproducible

IMAGES = 5000  # at most
How = Literal["none", "train"]


def recalibrated(encoder: Encoder, train: Dataset, how: How, device: torch.device | str = "cpu") -> Encoder:
    """``encoder`` itself for "none", or where it has no batch normalization; else a copy, in evaluation mode, with the
    statistics of up to IMAGES training images, as the data set gives them.

    They are means over batches of BATCH images, drawn from the whole split: with neighbours that are alike, every batch
    would be normalized by what it shares. Deterministic; no label is read.
    """
    norms = [each for each in encoder.modules() if isinstance(each, nn.BatchNorm2d) and each.track_running_stats]
    if how == "none" or not norms:
        return encoder
    again, device = copy.deepcopy(encoder).to(device), torch.device(device)
    norms = [each for each in again.modules() if isinstance(each, nn.BatchNorm2d) and each.track_running_stats]
    before = [each.momentum for each in norms]
    ids = permute(np.arange(min(IMAGES, len(train)), dtype=np.int64), len(train), make_key("recalibration"))
    with torch.no_grad(), evaluating(again), reproducible(device, "fp32"):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
            norm.train()
        for batch in np.array_split(ids, max(1, len(ids) // BATCH)):
            features_of(again, train.get(batch)["image"], (), 0, device)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return again.eval()
