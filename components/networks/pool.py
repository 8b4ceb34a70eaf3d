"""A history of generated pictures, so that a discriminator does not forget what it has learned to see through.

Source: Shrivastava et al. 2017, section 2.3, as used by Zhu et al. 2017, section 4.

Legend of shape suffixes: B samples of a slice, N samples of the global batch, P pictures in the pool.
"""

import torch
from torch import Tensor, nn


class ImagePool(nn.Module):
    """The ``size`` pictures that were generated first, half of the later ones taking the place of a random one.

    It is read as it was when a step began, and changed at the end of the step by the samples of the whole batch in
    their order. With batches of one sample that is what a pool asked picture by picture does. The pictures are
    buffers: a checkpoint has them.
    """

    pictures_P3HW: Tensor
    held: Tensor  # (), how many of them are there

    def __init__(self, size: int, side: int) -> None:
        super().__init__()
        self.register_buffer("pictures_P3HW", torch.zeros(size, 3, side, side))
        self.register_buffer("held", torch.zeros((), dtype=torch.int64))

    def mix(self, fake_B3HW: Tensor, swap_B: Tensor, slot_B: Tensor) -> Tensor:
        """The pictures to show: those in ``slot_B`` where ``swap_B`` says so, once it is full, else the new ones."""
        old_B = swap_B & (self.held >= len(self.pictures_P3HW))
        return torch.where(old_B.view(-1, 1, 1, 1), self.pictures_P3HW[slot_B].to(fake_B3HW.dtype), fake_B3HW)

    @torch.no_grad()
    def add(self, fake_N3HW: Tensor, swap_N: Tensor, slot_N: Tensor) -> None:
        """Fill the pool; once it is full, put the pictures where ``swap_N`` says so into ``slot_N``."""
        size = len(self.pictures_P3HW)
        for fake_3HW, swap, slot in zip(fake_N3HW, swap_N, slot_N, strict=True):
            filling = self.held < size  # a tensor, as the place is: the device need not be waited for
            place_1 = torch.where(filling, self.held, slot).view(1)
            fake_13HW, there_13HW = fake_3HW[None].to(self.pictures_P3HW.dtype), self.pictures_P3HW[place_1]
            self.pictures_P3HW.index_copy_(0, place_1, torch.where(filling | swap, fake_13HW, there_13HW))
            self.held += filling
