"""Errors about the outside world, written for the reader."""

import errno
import os

# Faults of a disk, which a write says without naming its file.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}
_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class OutsideError(Exception):
    """A server, bucket, disk or cluster does not do its part. The message is one line: what, where, what to try."""


class Interrupted(KeyboardInterrupt):
    """The command was told to end, by Ctrl-C or SIGTERM. The message says what was kept, where there is something."""


def disk_fault(error: BaseException) -> str | None:
    """One line about the file or folder that could not be used, or the disk; None for any other error.

    An error that Ray hands over from another process is looked into.
    """
    error = getattr(error, "cause", error)
    if not isinstance(error, OSError) or (error.filename is None and error.errno not in _DISK):
        return None
    what = "a file" if error.filename is None else os.fsdecode(error.filename)
    reason = error.strerror or type(error).__name__
    todo = "make room there, or choose" if error.errno in _ROOM else "choose a place that you may write to:"
    return f"cannot use {what} ({reason}): {todo} another --home or path"
