"""What ran: the command, the versions of packages, the revision of the code."""

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "ray", "mlflow", "numpy")


def command_line() -> str:
    """The command that this process runs, to be shown at its run."""
    return shlex.join(["genoise", *sys.argv[1:]])[:1000]


def origin() -> dict[str, str]:
    """What ran: versions, and the git revision where the code lies in a repository."""
    found = {"genoise.python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[f"genoise.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    here = Path(__file__).parent
    git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        revision = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        found["mlflow.source.git.commit"] = revision
    except (OSError, subprocess.SubprocessError):
        pass  # installed from a package, or no git on this machine
    return found
