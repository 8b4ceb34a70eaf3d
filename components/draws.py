"""Randomness that does not depend on how a batch is cut.

Every number is a pure function of (seed, stream, call, sample position, element): a counter-based generator (Salmon
et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; the mixer is splitmix64's, Steele et al. 2014). A rank
draws for its own samples only and gets what a single process would have got for them, on any device.

Shapes: B samples of the slice at hand, E elements that are drawn for each.
"""

import hashlib
import math

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_GOLDEN_INVERSE = -1018231460777725123  # 0xf1de83e19937733d: their product is 1, modulo 2^64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch shifts arithmetically)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finalizer: int64 in, int64 of independent-looking bits out; wraps on overflow as intended."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _key(seed: int, stream: str) -> int:
    """64 bits that stand for both."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


_key._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compile calls it instead of looking into it


class Draws:
    """Random numbers for the samples at ``positions_B`` (int64: places in the stream of all samples ever consumed).

    Calls are numbered: the same sequence of calls gives the same numbers. ``stream`` separates users that must not
    see each other's numbers (augmentation, a task's inputs).
    """

    def __init__(self, seed: int, positions_B: Tensor, stream: str = "task") -> None:
        self._key = _key(seed, stream)
        self._positions_B = positions_B
        self._call = 0

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        self._call += 1
        rows_B = _mix(_mix(self._positions_B * _GOLDEN + self._key) + self._call)
        elements_E = torch.arange(1, math.prod(shape) + 1, device=rows_B.device)
        # rows + elements * golden; in this form, as torch.compile would take the other product for 32-bit indices.
        sums_BE = (elements_E[None, :] + (rows_B * _GOLDEN_INVERSE)[:, None]).mul_(_GOLDEN)
        return _mix(sums_BE).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) float32, uniform in [0, 1)."""
        return _shift_right(self._bits(shape), 40).float() * 2.0**-24

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal (Box and Muller 1958)."""
        radius = torch.sqrt(-2.0 * torch.log1p(-self.uniform(*shape)))
        return radius * torch.cos((2.0 * math.pi) * self.uniform(*shape))

    def integers(self, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64, uniform in 0 .. high - 1 (bias below high / 2^31)."""
        return _shift_right(self._bits(shape), 33) % high

    def bernoulli(self, probability: float, *shape: int) -> Tensor:
        """(B, *shape) bool, true with ``probability``."""
        return self.uniform(*shape) < probability
