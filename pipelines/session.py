"""Where a command works: the home folder, the tracking server, the cluster, and how much it may do and say."""

from dataclasses import dataclass
from pathlib import Path

from components.data.cache import scratch, use_cache
from components.errors import UserError


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
    def tracking(self) -> str:
        """The tracking server's address: the one that was asked for, or the database in the home folder."""
        return self.tracking_uri or f"sqlite:///{self.folder('mlflow.db')}"
