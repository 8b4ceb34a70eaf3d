"""Sums and joins over the ranks of a real process group."""

from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from components.parallel import World


def _rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=3)
    world = World.current()
    rows = torch.arange(rank * 10, rank * 10 + 2 * rank, dtype=torch.float64).view(rank, 2)  # rank 0 has none
    joined = {"float": world.join(rows), "bool": world.join(rows % 4 == 0), "int": world.join(rows.long())}
    torch.save(joined, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
def test_rows_are_joined_in_the_order_of_the_ranks(tmp_path: Path) -> None:
    spawn(_rank, args=(str(tmp_path),), nprocs=3)  # type: ignore[no-untyped-call]  # torch gives it no types
    expected = torch.tensor([[10, 11], [20, 21], [22, 23]])
    for rank in range(3):
        joined = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert joined["float"].equal(expected.double())
        assert joined["int"].equal(expected)
        assert joined["bool"].equal(expected % 4 == 0)
