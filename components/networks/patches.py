"""Patches of a picture: cut out, pasted back, equalized, and compared by a head that sees several of them.

Legend of shape suffixes: B samples, P patches of a sample, N patches of all samples, C channels, H height, W width,
D features, G groups of patches that are compared, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.networks.encoder import Encoder

_PLACES = 3  # a side of the map that the head sees, at most: where something lies in a patch matters


def _places(corner_BP2: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of samples, rows and columns that together have the shape (B, P, side, side)."""
    span = torch.arange(side, device=corner_BP2.device)
    rows_BPH1 = corner_BP2[..., 0, None, None] + span[:, None]
    columns_BP1W = corner_BP2[..., 1, None, None] + span
    return torch.arange(len(corner_BP2), device=corner_BP2.device)[:, None, None, None], rows_BPH1, columns_BP1W


def cut_patches(image_BCHW: Tensor, corner_BP2: Tensor, side: int) -> Tensor:
    """(B, P, C, side, side): squares whose upper left pixels (row, column) are ``corner_BP2``, int64."""
    return image_BCHW.movedim(1, -1)[_places(corner_BP2, side)].movedim(-1, 2)


def paste_patches(patches_BPCHW: Tensor, corner_BP2: Tensor, size: int) -> Tensor:
    """(B, C, size, size): grey pictures with the patches in their places, later ones on top."""
    B, _, C, side, _ = patches_BPCHW.shape
    canvas_BHWC = patches_BPCHW.new_full((B, size, size, C), 0.5)
    for k in range(patches_BPCHW.shape[1]):  # in turn: where patches overlap, one index assignment has no order
        canvas_BHWC[_places(corner_BP2[:, k : k + 1], side)] = patches_BPCHW[:, k : k + 1].movedim(2, -1)
    return canvas_BHWC.movedim(-1, 1)


def resized(patches_NCHW: Tensor, side: int) -> Tensor:
    """Patches of that side: as they are, or enlarged bilinearly for an encoder that takes no smaller ones."""
    if patches_NCHW.shape[-1] == side:
        return patches_NCHW
    return F.interpolate(patches_NCHW, size=(side, side), mode="bilinear", align_corners=False)


def encode_patches(trunk: Encoder, patches_BPCHW: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The encoder's deepest maps (N, C, H, W) of RGB patches, shown to it with that ``side``, and their numbers (B, P).

    What `PatchHead` takes: row n of the maps is the patch of number n.
    """
    native_NCHW = trunk.convert(resized(patches_BPCHW.flatten(0, 1), side))
    numbers_N = torch.arange(len(native_NCHW), device=native_NCHW.device)
    return trunk.deepest(native_NCHW), numbers_N.view(patches_BPCHW.shape[:2])


def equalize(patches_BPCHW: Tensor, image_BCHW: Tensor) -> Tensor:
    """Every channel of every patch gets the mean and the deviation of its whole picture; a flat one stays flat."""
    variance_BPC11, mean_BPC11 = torch.var_mean(patches_BPCHW, (3, 4), correction=0, keepdim=True)
    deviation_BC11, middle_BC11 = torch.std_mean(image_BCHW, (2, 3), correction=0, keepdim=True)
    standard_BPCHW = (patches_BPCHW - mean_BPC11) * (variance_BPC11 + 1e-5).rsqrt()
    return standard_BPCHW * deviation_BC11[:, None] + middle_BC11[:, None]


class PatchHead(nn.Module):
    """Maps of several patches to logits: one layer for each patch alone, shared (fc6), then two for all together.

    Source: Doersch et al. 2015, figure 3; Noroozi and Favaro 2016, figure 3. Widths follow the encoder's: 8 and 16
    times it, where the published ones are 4096 and 4096, and 512 and 4096; without dropout and response normalization.
    """

    def __init__(self, channels: int, side: int, patches: int, width: int, classes: int) -> None:
        """``channels`` and ``side`` are those of a patch's map; ``patches`` are compared with each other."""
        super().__init__()
        side = min(side, _PLACES)
        self.embed = nn.Sequential(
            nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Linear(channels * side**2, 8 * width), nn.ReLU(inplace=True)
        )
        self.compare = nn.Sequential(
            nn.Linear(patches * 8 * width, 16 * width), nn.ReLU(inplace=True), nn.Linear(16 * width, classes)
        )
        for part in (*self.embed, *self.compare):
            if isinstance(part, nn.Linear):  # as `initialize_he` does for convolutions
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                nn.init.zeros_(part.bias)

    def forward(self, maps_NCHW: Tensor, groups_GP: Tensor) -> Tensor:
        """Logits (G, K) of groups of patches; ``groups_GP`` says which of the N patches, in order, make a group."""
        embedded_ND = self.embed(maps_NCHW)
        logits_GK: Tensor = self.compare(embedded_ND[groups_GP].flatten(1))
        return logits_GK
