"""What a cluster has no room for, said when it is reached: a machine's own Ray is asked before anything is written."""

from types import SimpleNamespace
from typing import Any

import pytest

from components.errors import UserError
from pipelines.recipes import load_recipe
from pipelines.training import training_run

NODES = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0}]


@pytest.mark.parametrize(
    ("workers", "nodes", "said"),
    [
        (4, NODES, "training.workers=4 needs 4 GPUs and the cluster has 2: --set training.workers=2 or fewer, or a"),
        (3, NODES[1:], None),
        (2, [{"CPU": 8.0, "GPU": 1.0}], "needs 2 GPUs and the cluster has 1: --set training.workers=1, or a larger"),
        (8, NODES[1:], "training.workers=8 needs 8 CPUs and the cluster has 4: --set training.workers=4 or fewer, or"),
    ],
)
def test_more_workers_than_a_cluster_has_places_for(
    monkeypatch: pytest.MonkeyPatch, workers: int, nodes: list[dict[str, float]], said: str | None
) -> None:
    total = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
    monkeypatch.setattr(training_run, "connect", lambda _: total)
    monkeypatch.setattr(training_run, "nodes", lambda: nodes)
    run: Any = SimpleNamespace(session=SimpleNamespace(address="cluster"))
    recipe = load_recipe("rotation", [f"training.workers={workers}"])
    if said is None:
        assert training_run._shape(recipe, run).workers == workers
        return
    with pytest.raises(UserError) as caught:
        training_run._shape(recipe, run)
    assert said in str(caught.value) and "\n" not in str(caught.value)
