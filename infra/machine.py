"""What this machine gives to this process."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def cores(groups: Path = CGROUPS) -> int:
    """Cores that this process may use, at least 1: those it is bound to, or fewer where a container's share is less."""
    return max(1, min(len(os.sched_getaffinity(0)), *_quotas(groups)))


def _quotas(groups: Path) -> list[int]:
    """The shares that control groups allow, in cores, rounded up; of both versions of Linux's control groups."""
    shares = [_read(groups / "cpu.max").split()]
    shares += [[_read(groups / "cpu" / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]]
    numbers = [(int(share[0]), int(share[1])) for share in shares if len(share) == 2 and all(map(str.isdigit, share))]
    return [math.ceil(quota / period) for quota, period in numbers if quota > 0 and period > 0] + [1 << 20]


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
