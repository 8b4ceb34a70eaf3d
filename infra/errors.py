"""Errors about the outside world, written for the reader."""


class OutsideError(Exception):
    """A server, bucket, disk or cluster does not do its part. The message is one line: what, where, what to try."""


class Interrupted(KeyboardInterrupt):
    """The command was told to end, by Ctrl-C or SIGTERM. The message says what was kept, where there is something."""
