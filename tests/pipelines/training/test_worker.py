"""What a worker refuses before it trains: what nobody knew before there was a machine to look at."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.errors import UserError
from pipelines.recipes import load_recipe
from pipelines.training import worker


@pytest.mark.parametrize(
    ("device", "setting", "said"),
    [
        ("cuda", "training.compile=false", "torch on its workers cannot use them"),
        ("cpu", "training.compile=true", r"needs a C\+\+ compiler .* on every worker's machine: none"),
    ],
)
def test_what_a_machine_lacks_is_said_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, device: str, setting: str, said: str
) -> None:
    monkeypatch.setenv("CXX", "none-that-is-there")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device(device))
    job: Any = SimpleNamespace(recipe=load_recipe("rotation", [setting]))  # nothing else of it is looked at
    with pytest.raises(UserError, match=said):
        worker.train_worker(job)
