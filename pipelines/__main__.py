"""The command line: `genoise ...`, or `python -m pipelines ...`: runs one command and says how it ended.

Everything heavy is imported inside the commands, the pipelines only once the input is known to be good: help and
complaints come at once. Bad input is one line on stderr and exit code 2; only the truly unexpected shows a traceback.
"""

import io
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from components.errors import Diverged, UserError
from infra import ending
from infra.errors import OutsideError, disk_fault
from pipelines.cli.app import build_app

# typer brings a click of its own and exports one of its errors; this is the base of them all.
_UsageError: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = build_app()


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Unexpected exceptions pass."""
    from pipelines import terminal

    ending.reset()
    try:
        code = app(list(arguments) or ["--help"], prog_name="genoise", standalone_mode=False) or 0
    except (UserError, OutsideError) as error:
        # Ray hands over an error of a remote step inside its own, whose text is a traceback.
        terminal.error(str(getattr(error, "cause", error)))
        return 2
    except Diverged as error:
        terminal.error(f"training diverged at {error}")
        return 1
    except _UsageError as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "genoise"
        terminal.error(f"{error.format_message()} Try: {command} --help")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130  # as typer makes of the first
    except Exception as error:  # of any place that a command reads or writes; a mistake of the program passes
        fault = disk_fault(error)
        if fault is None:
            raise
        terminal.error(fault)
        return 2
    if code == 130:
        ending.hush()
        _leave_ray()
        kept = ending.story() or "finished steps stay finished"
        terminal.note(f"interrupted; {kept}, and the same command goes on from there")
        code = ending.code()
    return int(code)


def main() -> NoReturn:
    """The entry point of `genoise`."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: names of files need not be UTF-8
    ending.install()
    code = run(sys.argv[1:])
    with ending.deferred():  # all is done: a signal that comes only now changes nothing
        if ending.begun() and code == ending.code():
            ending.leave_process()
        _leave_ray()
    sys.exit(code)


def _leave_ray() -> None:
    """Leave Ray where it was used; all threads that used it have ended."""
    if "ray" in sys.modules:
        from infra.cluster import leave

        leave()


if __name__ == "__main__":
    main()
