"""Checkpoints of a step on disk: which of them are whole, and which is the newest.

Ray Train keeps its own account of checkpoints in a snapshot that is not written atomically, so a process killed at the
wrong moment leaves one that cannot be read. Here a checkpoint says by itself whether it is whole: its files are listed
with their digests.
"""

import json
import shutil
from pathlib import Path

from infra.storage import sha256_of

LIST = "files.json"  # {"step": ..., "files": {name: sha256}}
NAMES, SNAPSHOT = "checkpoint_*", "checkpoint_manager_snapshot.json"  # as Ray Train calls them


def seal(folder: Path, step: int) -> None:
    """List the files of a checkpoint that was taken after ``step`` steps; to be called when all are written."""
    files = {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}
    (folder / LIST).write_text(json.dumps({"step": step, "files": files}))


def step_of(folder: Path) -> int | None:
    """The step after which a checkpoint was taken; None where it is not whole."""
    try:
        listed = json.loads((folder / LIST).read_text())
        whole = all(sha256_of(folder / name) == digest for name, digest in listed["files"].items())
    except (OSError, ValueError):
        return None
    return int(listed["step"]) if whole else None


def keep_newest(folder: Path) -> tuple[int, Path] | None:
    """The whole checkpoint of the highest step in a step's ``folder``, and that step; all others are removed.

    So is Ray Train's snapshot, which may be damaged: no training may be running in there.
    """
    known = {path: step_of(path) for path in folder.glob(NAMES) if path.is_dir()}
    whole = {path: step for path, step in known.items() if step is not None}
    newest = max(whole, key=lambda path: whole[path], default=None)
    for path in known:
        if path != newest:
            shutil.rmtree(path)
    (folder / SNAPSHOT).unlink(missing_ok=True)
    return (whole[newest], newest) if newest else None
