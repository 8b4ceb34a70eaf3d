"""How well segmentations agree with the truth: intersection over union, and shares of pixels.

Legend of shape suffixes: N judged images, K values of a mask (0, the background, and the classes), h, w of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.data.arrays import UInt8
from components.data.scramble import Int64

Floats = NDArray[np.float64]


def confusion(truth_hw: UInt8, guess_hw: UInt8 | Int64, values: int) -> Int64:
    """Pixels by their true value (row) and the one that was guessed (column), (K, K) for ``values`` of them.

    Pixels whose true value is ``values`` or more, such as 255, do not count. Guesses must lie below ``values``.
    """
    known_hw = truth_hw < values
    pairs = truth_hw[known_hw].astype(np.int64) * values + guess_hw[known_hw]
    return np.bincount(pairs, minlength=values * values).reshape(values, values)


@dataclass(frozen=True)
class Overlaps:
    """Pixels of every image and value, each float64 (N, K): what scores are made of."""

    right_NK: Floats  # of that value, and guessed so
    true_NK: Floats  # of that value
    guessed_NK: Floats  # guessed to be of it, where the truth is known

    @classmethod
    def of(cls, confusions: Sequence[Int64]) -> "Overlaps":
        """Of one matrix per image, as `confusion` returns it."""
        all_NKK = np.stack(confusions).astype(np.float64)
        return cls(np.einsum("nkk->nk", all_NKK).copy(), all_NKK.sum(2), all_NKK.sum(1))

    def iou(self, weight_N: Floats | None = None) -> Floats:
        """Intersection over union of every value, (K,), over all pixels of all images (Everingham et al. 2010).

        Not a number where a value is neither in the truth nor guessed. ``weight_N``: how often each image counts.
        """
        right_K, true_K, guessed_K = self._summed(weight_N)
        return _ratio(right_K, true_K + guessed_K - right_K)

    def miou(self, weight_N: Floats | None = None) -> float:
        """The mean of `iou` over the values that are in the truth or guessed; 0 where there is none.

        Those that are in neither are left out, as the authors of FCN do (Long et al. 2015, section 5; their evaluation
        takes the mean of what is a number).
        """
        return _mean(self.iou(weight_N))

    def pixel_accuracy(self, weight_N: Floats | None = None) -> float:
        """The share of the known pixels that are right; 0 where there is none."""
        right_K, true_K, _ = self._summed(weight_N)
        return _mean(_ratio(right_K.sum(keepdims=True), true_K.sum(keepdims=True)))

    def mean_accuracy(self, weight_N: Floats | None = None) -> float:
        """The mean share of the pixels of a value that are right, over the values that are in the truth."""
        right_K, true_K, _ = self._summed(weight_N)
        return _mean(_ratio(right_K, true_K))

    def _summed(self, weight_N: Floats | None) -> tuple[Floats, Floats, Floats]:
        weight_N = np.ones(len(self.right_NK)) if weight_N is None else weight_N
        return weight_N @ self.right_NK, weight_N @ self.true_NK, weight_N @ self.guessed_NK


def _ratio(part_K: Floats, whole_K: Floats) -> Floats:
    """Not a number where ``whole_K`` is 0."""
    shares_K: Floats = np.divide(part_K, whole_K, out=np.full(len(part_K), np.nan), where=whole_K > 0)
    return shares_K


def _mean(values_K: Floats) -> float:
    """Over what is a number."""
    known = values_K[~np.isnan(values_K)]
    return float(known.mean()) if len(known) else 0.0
