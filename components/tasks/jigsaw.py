"""Jigsaw: in which of a set of orders are these tiles?

Legend of shape suffixes: B samples, T tiles, C channels, H height, W width, K permutations.
"""

import math
from functools import lru_cache
from itertools import permutations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from components import color, losses
from components.config import EncoderConfig, OptimizerConfig
from components.draws import Draws
from components.errors import UserError
from components.networks.decoders import deepest_shape, fitting_side
from components.networks.encoder import build_encoder
from components.networks.patches import PatchHead, cut_patches, encode_patches, equalize, paste_patches
from components.tasks.base import Batch, Player, Task, Tensors, Term, register

_PERMUTATIONS = 100  # of nine tiles, unless the recipe says otherwise


@register
class Jigsaw(Task):
    """Cross-entropy over a set of permutations; the same trunk looks at every tile, and a head at all of them.

    Against shortcuts: every tile lies at random within its cell, so that edges do not continue; all tiles of a picture
    have the same mean and deviation, so that brightness does not tell neighbours; and some pictures are grey, so that
    the shift of colours that a lens makes from the centre outwards does not tell the place.
    """

    name = "jigsaw"
    summary = "Tell in which order the tiles of a picture were laid"
    source = "Noroozi & Favaro 2016, Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles"
    makes_pictures = False
    terms = {"cross_entropy": Term(1.0, "Noroozi & Favaro 2016, section 3.2", (0.1, 10.0))}
    players = {"solver": Player(("trunk", "head"), OptimizerConfig(lr=1e-3))}

    class Options(Task.Options):
        """What may be said under ``options``."""

        grid: int = Field(3, ge=2, le=3, description="tiles along a side")
        permutations: int | None = Field(
            None, ge=2, le=10_000, description="size of the set of orders; null: 100 of nine tiles, all 24 of four"
        )
        jitter: int | None = Field(
            None,
            ge=0,
            description="pixels by which a tile is smaller than its cell, in which it lies at random; null: 15 %",
        )
        equalize: bool = Field(
            True, description="give every channel of every tile the mean and the deviation of the whole picture"
        )
        grey: float = Field(0.3, ge=0, le=1, description="share of the pictures whose tiles are without colour")

    order_KT: Tensor
    cell_T2: Tensor

    def __init__(self, options: Options, encoder: EncoderConfig, image_size: int, classes: int) -> None:
        super().__init__(options, encoder, image_size, classes)
        self.options = options
        self.image_size = image_size
        tiles = options.grid**2
        cell = image_size // options.grid
        self.jitter = round(0.15 * cell) if options.jitter is None else options.jitter
        self.side = cell - self.jitter
        if self.side < 2:
            raise UserError(
                f"options.jitter={self.jitter} leaves tiles of {self.side} pixels in cells of {cell}: "
                f"give at most {cell - 2}"
            )
        count = min(_PERMUTATIONS, math.factorial(tiles)) if options.permutations is None else options.permutations
        if count > math.factorial(tiles):
            raise UserError(f"options.permutations={count}: {tiles} tiles have {math.factorial(tiles)} orders")
        self.register_buffer("order_KT", permutation_set(tiles, count), persistent=False)
        first = (image_size - options.grid * cell) // 2
        steps = first + cell * torch.arange(options.grid)
        self.register_buffer("cell_T2", torch.cartesian_prod(steps, steps), persistent=False)
        self.trunk = build_encoder(encoder)
        self.seen_side = fitting_side(self.trunk, self.side)
        channels, side = deepest_shape(self.trunk, self.seen_side)
        self.head = PatchHead(channels, side, tiles, encoder.width, count)

    @torch.no_grad()
    def inputs(self, batch: Batch, draws: Draws) -> Tensors:
        image_B3HW = batch["image"]
        permutation_B = draws.integers(len(self.order_KT))
        corner_BT2 = self._shuffled(permutation_B) + draws.integers(self.jitter + 1, *self.cell_T2.shape)
        grey_B111 = draws.bernoulli(self.options.grey, 1, 1, 1)
        seen_B3HW = torch.where(grey_B111, color.luma(image_B3HW), image_B3HW)
        tiles_BT3HW = cut_patches(seen_B3HW, corner_BT2, self.side)
        if self.options.equalize:
            tiles_BT3HW = equalize(tiles_BT3HW, seen_B3HW)
        return {"image": image_B3HW, "tiles": tiles_BT3HW, "permutation": permutation_B}

    def _shuffled(self, permutation_B: Tensor) -> Tensor:
        """(B, T, 2): the cell that the tile shown at each place comes from."""
        return self.cell_T2[self.order_KT[permutation_B]]

    def forward(self, inputs: Tensors) -> Tensors:
        return {"logits": self.head(*encode_patches(self.trunk, inputs["tiles"], self.seen_side))}

    def losses(self, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
        return {"cross_entropy": losses.cross_entropy(outputs["logits"], inputs["permutation"])}

    @torch.no_grad()
    def samples(self, inputs: Tensors) -> dict[str, Tensor]:
        """The tiles as shown, and put back as predicted."""
        tiles_BT3HW, middle = inputs["tiles"], self.jitter // 2
        shown_BT2 = self.cell_T2.expand(len(tiles_BT3HW), -1, -1)
        predicted_BT2 = self._shuffled(self(inputs)["logits"].argmax(1))
        shown, solved = (
            paste_patches(tiles_BT3HW, corner_BT2 + middle, self.image_size)
            for corner_BT2 in (shown_BT2, predicted_BT2)
        )
        return {"input": shown.clamp(0, 1), "prediction": solved.clamp(0, 1), "truth": inputs["image"]}


@lru_cache(maxsize=4)
def permutation_set(tiles: int, count: int) -> Tensor:
    """(K, T) int64: ``count`` orders of ``tiles`` tiles that differ in as many places as possible.

    Greedy: the order with the largest sum of Hamming distances to those already chosen is next (Noroozi and Favaro
    2016, algorithm 1). Theirs begins with a random one; here the first is the natural order, and among equal sums the
    one that is farthest from its nearest neighbour wins, then the first in lexical order: the set has no randomness.
    """
    orders_NT = np.array(list(permutations(range(tiles))), np.int8)
    total_N, nearest_N = np.zeros(len(orders_NT), np.int64), np.full(len(orders_NT), tiles, np.int64)
    chosen = [0]
    while len(chosen) < count:
        distance_N = (orders_NT != orders_NT[chosen[-1]]).sum(1)
        total_N += distance_N
        np.minimum(nearest_N, distance_N, out=nearest_N)
        rank_N = np.where(nearest_N > 0, total_N * (tiles + 1) + nearest_N, -1)  # chosen ones have distance 0
        chosen.append(int(rank_N.argmax()))
    return torch.from_numpy(orders_NT[chosen].astype(np.int64))
