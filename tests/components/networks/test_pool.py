"""The image pool against one that is asked picture by picture, as the paper describes it."""

import torch
from torch import Tensor

from components.networks.pool import ImagePool

SIZE = 5


class NaivePool:
    """A list: pictures until it is full, then each new one is swapped with a random one, or is not."""

    def __init__(self) -> None:
        self.pictures: list[Tensor] = []

    def query(self, picture: Tensor, swap: bool, slot: int) -> Tensor:
        if len(self.pictures) < SIZE:
            self.pictures.append(picture)
            return picture
        if not swap:
            return picture
        old, self.pictures[slot] = self.pictures[slot], picture
        return old


def drawn(count: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    fake = torch.randn(count, 3, 2, 2, generator=g)
    return fake, torch.rand(count, generator=g) < 0.5, torch.randint(SIZE, (count,), generator=g)


def test_with_batches_of_one_it_is_the_paper_s() -> None:
    pool, naive = ImagePool(SIZE, 2), NaivePool()
    fake, swap, slot = drawn(40)
    for k in range(40):
        row = slice(k, k + 1)
        shown = pool.mix(fake[row], swap[row], slot[row])
        pool.add(fake[row], swap[row], slot[row])
        assert torch.equal(shown[0], naive.query(fake[k], bool(swap[k]), int(slot[k])))
        held = int(pool.held)
        assert torch.equal(pool.pictures_P3HW[:held], torch.stack(naive.pictures))


def test_a_batch_leaves_the_pool_as_its_samples_one_by_one() -> None:
    whole, single = ImagePool(SIZE, 2), ImagePool(SIZE, 2)
    fake, swap, slot = drawn(40)
    for start in range(0, 40, 8):  # the pool is filled in the middle of a batch
        rows = slice(start, start + 8)
        whole.add(fake[rows], swap[rows], slot[rows])
        for k in range(start, start + 8):
            single.add(fake[k : k + 1], swap[k : k + 1], slot[k : k + 1])
        assert torch.equal(whole.pictures_P3HW, single.pictures_P3HW) and whole.held == single.held


def test_a_batch_reads_the_pool_as_it_was() -> None:
    pool = ImagePool(SIZE, 2)
    fake, _, slot = drawn(12)
    always = torch.ones(12, dtype=torch.bool)
    assert torch.equal(pool.mix(fake, always, slot), fake), "not before it is full"
    pool.add(fake[:SIZE], always[:SIZE], slot[:SIZE])
    assert torch.equal(pool.mix(fake, always, slot), fake[:SIZE][slot])
    assert torch.equal(pool.mix(fake, ~always, slot), fake)
    low = pool.mix(fake.bfloat16(), always, slot)
    assert low.dtype == torch.bfloat16 and torch.equal(low, fake[:SIZE][slot].bfloat16())
