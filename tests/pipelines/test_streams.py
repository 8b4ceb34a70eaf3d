"""What joins a sample from the other streams."""

from typing import Any

import torch

from components.data.scramble import Int64
from pipelines.streams import Streams


class Numbers:
    """Pictures that are their number."""

    def __init__(self, count: int, first: int = 0) -> None:
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def get(self, ids: Int64) -> dict[str, torch.Tensor]:
        return {"image": torch.from_numpy(ids) + self.first}


def test_every_sample_is_joined_by_another_one_and_nobody_joins_twice() -> None:
    own: Any = Numbers(10)
    others: Any = {"another": own, "other": Numbers(7, first=100)}
    samples = Streams(own, others)
    ids = torch.arange(len(samples)).numpy()
    batch = samples.get(ids)
    assert len(samples) == 7 and batch["image"].tolist() == ids.tolist()
    for name, known in (("another", range(10)), ("other", range(100, 107))):
        joined = batch[name].tolist()
        assert len(set(joined)) == 7 and set(joined) <= set(known)
    assert (batch["another"] != batch["image"]).all()
    parts = torch.cat([samples.get(ids[:3])["other"], samples.get(ids[3:])["other"]])
    assert torch.equal(parts, batch["other"])
