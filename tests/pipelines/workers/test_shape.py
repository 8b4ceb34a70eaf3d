"""What workers are given: cores, their fair part of those beside a GPU, and shares of one."""

import pytest

from components.config import TrainingConfig
from components.errors import UserError
from pipelines.workers.shape import Need, Shape

CPUS = [{"CPU": 4.0}, {"CPU": 8.0}]
GPUS = [{"CPU": 16.0, "GPU": 1.0}, {"CPU": 64.0, "GPU": 8.0}, {"CPU": 4.0}]


@pytest.mark.parametrize(
    ("settings", "nodes", "shape"),
    [
        ({}, CPUS, Shape(1, 1, 0)),
        ({"cpus": 3, "workers": 2}, CPUS, Shape(2, 3, 0)),
        ({"gpus": 0.5}, CPUS, Shape(1, 1, 0)),  # there is none to share
        ({}, GPUS, Shape(1, 7, 1.0)),  # of 64 cores beside eight GPUs, less one
        ({}, GPUS[:1], Shape(1, 15, 1.0)),
        ({"gpus": 0.25}, GPUS[:1], Shape(1, 3, 0.25)),
        ({"gpus": 0.01}, GPUS[:1], Shape(1, 1, 0.01)),
        ({"cpus": 2, "workers": 4}, GPUS, Shape(4, 2, 1.0)),
    ],
)
def test_what_each_worker_is_given(settings: dict[str, float], nodes: list[dict[str, float]], shape: Shape) -> None:
    assert Need.of(TrainingConfig.parse(settings)).on(nodes) == shape


def test_shares_of_a_gpu_add_up() -> None:
    need = Need(gpus=0.25)
    assert need.places(GPUS[:1]) == 4 and need.places(GPUS) == 36
    assert need.on(GPUS[:1]).needs == {"CPU": 3, "GPU": 0.25}
    assert (need.share(gpus=True), need.share(gpus=False)) == (0.25, 1)
    assert Need(gpus=0.1).places([{"CPU": 16.0, "GPU": 1.0}]) == 10  # whatever a tenth is in binary


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        *(
            ({"gpus": wrong}, r"^gpus: must be above 0 and at most 1, .*--set training.workers=2 \(given: ")
            for wrong in (0, -1, 1.5, 2, "all", True, None, float("nan"))
        ),
        ({"gpus": 0.5, "workers": 2}, r"share of a GPU, for one worker alone.*--set training.workers=1"),
        ({"cpus": 0}, r"^cpus: must be 1 or more, or auto \(given: 0\)"),
        ({"cpus": "all"}, r"^cpus: must be 1 or more, or auto \(given: 'all'\)"),
    ],
)
def test_what_no_worker_can_have(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        TrainingConfig.parse(settings)
