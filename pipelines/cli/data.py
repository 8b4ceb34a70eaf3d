"""Prepared data, looked at and verified."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import HOME, Address, Home, Json, Quiet
from pipelines.session import Session


def data_show(
    url: Annotated[str, typer.Argument(metavar="URL", help="The data set: a folder or s3://bucket/prefix.")],
    split: Annotated[str, typer.Option(metavar="NAME", help="train, val or test.")] = "train",
    count: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="How many samples.")] = 24,
    to: Annotated[Path, typer.Option(metavar="FILE", help="The picture to write.")] = Path("sheet.png"),
    json_: Json = False,
    home: Home = HOME,
) -> None:
    """Make a contact sheet: samples with labels, boxes, masks, pairs.

    Of unpaired data both domains are shown.

    \b
    Examples:
      genoise data show ./shards
      genoise data show s3://bucket/photos --split val --count 60 --to photos.png
    """
    from pipelines import terminal
    from pipelines.data.contact_sheet import show

    facts = {"sheet": str(to), **show(url, split, count, to, Session(home).folder("cache"))}
    terminal.show_facts(facts, "shown")
    if json_:
        terminal.last_line(facts)


def data_verify(
    url: Annotated[str, typer.Argument(metavar="URL", help="The data set: a folder or s3://bucket/prefix.")],
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="How many of each shard to decode.")] = 16,
    json_: Json = False,
    quiet: Quiet = False,
    home: Home = HOME,
    address: Address = None,
) -> None:
    """Check every shard against its sha256 and decode some samples of each.

    What is damaged or missing is named, with exit code 2.

    \b
    Examples:
      genoise data verify ./shards
      genoise data verify s3://bucket/photos --samples 1000 --address auto
    """
    from pipelines import terminal
    from pipelines.data.verifying import verify

    facts = verify(url, samples, Session(home, None, address, quiet=quiet))
    terminal.show_rows(facts["rows"], f"every shard of {facts['url']} is what its index says")
    if json_:
        terminal.last_line(facts)
