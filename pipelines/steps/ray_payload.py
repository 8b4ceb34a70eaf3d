"""What a Ray task is sent and given: files, by their bytes, and a device to work on."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch

from infra.cluster import connect
from pipelines.session import Session

Files = dict[str, bytes]  # {path below a folder: content}


def packed(folder: Path, names: Iterable[str]) -> Files:
    """The files of a folder that are called ``names``."""
    return {name: (folder / name).read_bytes() for name in names}


@contextmanager
def unpacked(files: Files) -> Iterator[Path]:
    """Inside, a local folder with ``files``, on any machine."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Path(folder)


def on_one_device(task: Any, session: Session) -> Any:
    """A Ray task that runs where there is a free GPU, or a free core on a cluster without any."""
    gpus = connect(session.address).get("GPU", 0.0)
    return task.options(num_cpus=1, num_gpus=1 if gpus else 0)


def own_device() -> torch.device:
    """Within such a task: its GPU; or the CPU, with as many threads as the task has cores."""
    on = device()
    if on.type == "cpu":
        resources = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]  # Ray's own
        torch.set_num_threads(int(resources.get("CPU", 1)))
    return on


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
