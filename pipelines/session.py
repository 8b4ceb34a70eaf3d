"""Where a command works: the home folder, the tracking server, the cluster, and how much it may do and say."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from components.data.cache import scratch, use_cache
from components.errors import UserError
from infra.errors import OutsideError
from infra.tracking import database_uri


@dataclass(frozen=True)
class Session:
    """The surroundings of one command; nothing in here changes a result."""

    home: Path  # everything that is kept between commands lies below it
    tracking_uri: str | None = None  # MLflow; None: a database in the home folder
    address: str | None = None  # of a Ray cluster; None: the one in RAY_ADDRESS, else this machine
    dry_run: bool = False  # say what would run, and run nothing
    quiet: bool = False  # no progress

    def __post_init__(self) -> None:
        """Raw files that are unpacked or downloaded go into the home of the newest session. Raises UserError."""
        try:
            str(self.home).encode()
        except UnicodeEncodeError:
            raise UserError(f"--home {str(self.home)!r}: this name is not UTF-8: choose another --home") from None
        use_cache(self.home.absolute() / "cache", self.dry_run)

    def folder(self, name: str) -> Path:
        """The absolute folder called ``name`` in the home folder: data, runs, locks, cache or mlartifacts.

        A dry run keeps nothing: its cache is a temporary folder.
        """
        return scratch() if self.dry_run and name == "cache" else self.home.absolute() / name

    def run_folder(self, fingerprint: str) -> Path:
        """Where the step with that fingerprint works: the same folder when it was cut off and is continued."""
        return self.folder("runs") / fingerprint[:16]

    @property
    def cluster(self) -> str | None:
        """The address of a Ray cluster that others use too; None where Ray is this command's own.

        As infra.cluster has it, which cannot be asked without importing Ray.
        """
        address = self.address or os.environ.get("RAY_ADDRESS")
        return None if address in (None, "", "local") else address

    @property
    def private(self) -> bool:
        """Whether Ray runs on this machine alone."""
        return self.cluster is None

    def check_home(self) -> None:
        """Fail now if nothing can be written into the home folder; writes nothing itself."""
        home = self.home.absolute()
        there = next(path for path in (home, *home.parents) if os.path.lexists(path))
        if not there.is_dir():
            raise OutsideError(f"cannot keep anything in {home}, for {there} is no folder: choose another --home")
        if not os.access(there, os.W_OK | os.X_OK):
            raise OutsideError(f"cannot write into {there}: choose another --home, or change its permissions")

    def make_home(self) -> None:
        """Make the home folder, and write into it. Raises OutsideError, one line, where that cannot be done."""
        self.check_home()
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.home) as probe:
                probe.write(b"0")
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OutsideError(f"cannot write into {self.home.absolute()} ({reason}): choose another --home") from error

    @property
    def tracking(self) -> str:
        """The tracking server's address: the one that was asked for, or the database in the home folder."""
        return self.tracking_uri or database_uri(self.folder("mlflow.db"))
