"""Whether pictures show the class that they should, and whether those of one class differ as real ones do.

Legend of shape suffixes: B samples, C channels, H height, W width, K classes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Classifier = Callable[[Tensor], Tensor]  # uint8 (B, 3, H, W) -> int64 (B,), the class that each picture shows


class ByClass:
    """What a classifier says of sets of pictures whose classes are known, one of them the real ones."""

    def __init__(self, classifier: Classifier, classes: int, protocol: Mapping[str, Any]) -> None:
        """``protocol``: what a report has to say of the classifier."""
        self.classifier, self.classes, self.protocol = classifier, classes, protocol
        self._right: dict[str, int] = {}
        self._count: dict[str, Tensor] = {}  # (K,)
        self._sums: dict[str, Tensor] = {}  # (2, K, C, H, W): of the pictures, of their squares

    @property
    def titles(self) -> tuple[str, ...]:
        """The titles of the sets that were added."""
        return tuple(self._count)

    def add(self, pictures: Mapping[str, Tensor], label_B: Tensor) -> None:
        """{title: uint8 (B, C, H, W)} of the samples with the classes ``label_B``."""
        for title, picture_BCHW in pictures.items():
            label_B = label_B.to(picture_BCHW.device)
            right = int((self.classifier(picture_BCHW) == label_B).sum())
            x_BCHW = picture_BCHW.double() / 255
            powers = torch.stack([x_BCHW, x_BCHW.square()])
            sums = powers.new_zeros(2, self.classes, *x_BCHW.shape[1:]).index_add_(1, label_B, powers)
            self._right[title] = self._right.get(title, 0) + right
            self._count[title] = self._count.get(title, 0) + torch.bincount(label_B, minlength=self.classes)
            self._sums[title] = self._sums.get(title, 0) + sums

    def values(self, title: str, real: str) -> dict[str, float]:
        """``classified``: share of pictures that show their class. ``diversity``, of the class where it is least: root
        of the variance of its pictures, a mean over pixels, over that of the real ones; near 0 they are all the same.
        """
        made_K, real_K = self._variances(title), self._variances(real)
        known_K = real_K > 0  # one picture of a class has no variance
        least = (made_K / real_K)[known_K].min().sqrt() if known_K.any() else torch.tensor(1.0)
        return {"classified": self._right[title] / int(self._count[title].sum()), "diversity": float(least)}

    def _variances(self, title: str) -> Tensor:
        means = self._sums[title] / self._count[title].clamp_min(1).view(-1, 1, 1, 1)
        return (means[1] - means[0].square()).clamp_min(0).flatten(1).mean(1)
