"""What a worker is sent and given: files, by their bytes, and a device to work on."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from components.errors import UserError

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


def own_device() -> torch.device:
    """Where a single worker computes: its GPU; or the CPU, with one thread."""
    on = device()
    if on.type == "cpu":
        torch.set_num_threads(1)
    return on


def no_cuda() -> UserError:
    """The error where Ray gives a worker a GPU that its torch cannot use."""
    return UserError(
        "the cluster has GPUs, and torch on its workers cannot use them (built without CUDA, or no driver): install a "
        "build with CUDA there, or start Ray there without GPUs (`ray start --num-gpus 0`)"
    )


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpus() -> int:
    """How many GPUs of this machine torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
