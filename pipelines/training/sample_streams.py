"""What a task reads of a prepared split: its samples, and the images of other streams that join each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from components.data.dataset import ShardedDataset
from components.data.loader import Loader
from components.data.order import Order, Plan
from components.data.scramble import Int64, make_key
from components.errors import UserError
from components.parallel import World
from components.tasks.base import Batch
from pipelines.data.opening import open_split, read_index_file
from pipelines.data.prepared import DataPlace

STREAMS = ("other", "another")  # of the second domain; of the same images once more


@dataclass(frozen=True)
class Streams:
    """The data sets of one split that a task reads side by side: its own, and those whose images join the batch."""

    own: ShardedDataset
    others: Mapping[str, ShardedDataset] = field(default_factory=dict)

    @classmethod
    def open(cls, data: DataPlace, split: str, needs: Sequence[str]) -> "Streams":
        """The streams that ``needs`` names.

        Raises UserError for a field, or a second domain, that the data lacks.
        """
        own = open_split(data, split, [name for name in needs if name not in STREAMS])
        others = {"another": own} if "another" in needs else {}
        if "other" in needs:
            if f"other_{split}" not in read_index_file(data.index_file).splits:
                raise UserError(
                    "the task needs images of two domains, and the data has one: prepare them with the source unpaired"
                )
            others["other"] = open_split(data, f"other_{split}", ("image",))
        return cls(own, others)

    def __len__(self) -> int:
        """Samples that can be had with images that no other sample has beside it."""
        return min(len(data) for data in (self.own, *self.others.values()))

    @property
    def replaced(self) -> dict[str, str]:
        """Samples that did not decode so far, "shard:key", and why."""
        return {name: why for data in (self.own, *self.others.values()) for name, why in data.replaced.items()}

    def get(self, ids: Int64) -> Batch:
        """As the data set's own, with the other streams' images, always the same ones beside a sample."""
        batch = self.own.get(ids)
        for name, data in self.others.items():
            batch[name] = data.get((ids + len(data) // 2) % len(data))["image"]
        return batch

    def examples(self, count: int) -> Batch:
        """The first samples."""
        return self.get(np.arange(min(count, len(self.own))))

    def load(self, plan: Plan, seed: int, world: World, device: torch.device, threads: int = 2) -> Loader:
        """The loader of a rank; every stream has an order of its own. So many ``threads`` decode."""
        own = Order(self.own.shard_sizes, seed)
        others = {
            name: (data, Order(data.shard_sizes, int(make_key(seed, "stream", name) >> 1)))
            for name, data in self.others.items()
        }
        return Loader(self.own, own, plan, world.rank, world.size, threads, others=others, device=device)
