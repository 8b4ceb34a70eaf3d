"""What joins a sample from the other streams."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.config import DataConfig
from components.data.order import Plan
from components.data.scramble import Int64
from components.draws import Draws
from components.parallel import World
from pipelines.data.prepared import DataPlace, Prepared
from pipelines.recipes import load_recipe
from pipelines.training.sample_streams import Streams
from pipelines.training.training_run import train
from tests.components.data.conftest import prepare_into


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


@pytest.fixture
def place(tmp_path: Path) -> DataPlace:
    """60 scenes of 28 px, of which windows of 24 px are trained on."""
    data = DataConfig(source="shapes", size=28, samples=60, shard_samples=25)
    prepare_into(data, tmp_path / "shards")
    shards = tmp_path / "shards"
    return DataPlace(str(shards), f"{shards}/index.json", 24, str(tmp_path / "cache"), margin=4)


@pytest.mark.parametrize("ranks", [1, 2])
def test_training_sees_a_window_that_belongs_to_the_position_and_others_the_centre(
    place: DataPlace, ranks: int
) -> None:
    streams = Streams.open(place, "train", ["image", "mask"])
    whole = Streams.open(replace(place, size=28, margin=0), "train", ["image", "mask"])
    seen: set[tuple[int, int]] = set()
    for rank in range(ranks):
        for loaded in streams.load(Plan(60, 20, 2), 3, World(rank, ranks), torch.device("cpu")).iterate():
            expected = whole.get(loaded.ids)
            corners = Draws(3, loaded.positions, "crop image").integers(5, 2).tolist()
            for row, (top, left) in enumerate(corners):
                for field in ("image", "mask"):
                    window = expected[field][row, ..., top : top + 24, left : left + 24]
                    assert torch.equal(loaded.batch[field][row], window)
                seen.add((top, left))
    assert len(seen) > 20, "of 25 places"
    assert torch.equal(streams.examples(8)["image"], whole.examples(8)["image"][..., 2:26, 2:26])


def test_the_crop_of_a_recipe_reaches_its_training(
    place: DataPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened(Exception):
        pass

    def stop(data: DataPlace, split: str, needs: list[str]) -> None:
        raise Opened(original(data, split, needs).own)

    original = Streams.open
    monkeypatch.setattr(Streams, "open", stop)
    nobody: Any = SimpleNamespace(log_params=print, describe=print, log_text=print)
    session = SimpleNamespace(folder=lambda name: tmp_path / name)
    run: Any = SimpleNamespace(session=session, tracker=nobody, run_id="r", folder=tmp_path, recorder=None)
    prepared = Prepared(url=place.url, index="i", index_file=place.index_file, samples={"train": 60}, classes=0)
    recipe = load_recipe("autoencoder", ["training.augment.crop=4", "data.size=24", "training.batch=20"])
    with pytest.raises(Opened) as caught:
        train(recipe, prepared, run, None)
    (own,) = caught.value.args
    assert (own.size, own.margin) == (24, 4)
