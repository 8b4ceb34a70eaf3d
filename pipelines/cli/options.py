"""The options that several commands have, each declared once, and how a command gets what is made of them."""

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NewType

import typer

from components.errors import UserError
from pipelines.session import Session

if TYPE_CHECKING:
    from components.config import BenchmarkConfig, DataConfig

HOME = Path(".genoise")  # the home folder where none is named
Told = NewType("Told", list[str])  # "key=value": what --set says, and --splits, which is a short form of one key

Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON, the last of the output.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Overrule one key, such as training.epochs=2; may be repeated."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say which steps would run and which are reused; run nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Home = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        envvar="GENOISE_HOME",
        help="Folder for the database, shards, checkpoints and encoders.",
        callback=Path.expanduser,  # Ray quotes the arguments of a job: no shell does it
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow server, such as http://host:5000.",
        show_default="a file in the home",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Ray cluster: HOST:6379 from one of its machines, auto for the one that runs here, or local for none.",
        show_default="RAY_ADDRESS, else this machine",
    ),
]
Source = Annotated[str | None, typer.Option(metavar="NAME", help="Where images come from.", show_default="shapes")]
Root = Annotated[
    str | None, typer.Option(metavar="PATH", help="Folder or archive with the raw data.", show_default=False)
]
Splits = Annotated[
    str | None,
    typer.Option(
        metavar="WHICH",
        help="Which folder is which split: train=A+B,val=C,test=D; a table FILE.csv (file,split[,label]); or classes.",
        show_default="by names that leave no doubt",
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE",
        help="Labelled images that score: a folder, shards, s3://..., or SOURCE:PATH.",
        show_default="those that are trained on",
    ),
]
Benchmark = Annotated[str, typer.Option(metavar="NAME", help="Of `genoise benchmarks`.")]
Benchmarks = Annotated[
    list[str] | None,
    typer.Option(
        "--benchmark",
        metavar="NAME[=PLACE]",
        help="Of `genoise benchmarks`, with the images that it scores on; several: with commas, or repeated.",
        show_default="the recipe's",
    ),
]
Files = Annotated[
    Path | None,
    typer.Option(
        "--to",
        metavar="FOLDER",
        help="Where the table goes as files: Markdown, LaTeX, CSV, JSON, a picture, a page.",
        show_default="only to MLflow",
    ),
]
Normalization = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What weights of others expect of RGB: imagenet, half, none, or MEAN/DEVIATION as r,g,b/r,g,b.",
        show_default="imagenet",
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="URL", help="Where the shards go: a folder or s3://bucket/prefix.", show_default="the home"
    ),
]
Run = Annotated[
    str,
    typer.Option(
        metavar="URI", help="Trained run: runs:/ID as pretrain prints it, or a folder or s3:// with its files."
    ),
]
PictureSeed = Annotated[int, typer.Option(min=0, metavar="N", help="Of z, masks and all that is random.")]
Seeds = Annotated[
    int, typer.Option(min=1, metavar="N", help="Trainings per row, with seeds 0, 1, ...; from 2 on with an interval.")
]


@dataclass(frozen=True)
class Judged:
    """By what, and on which data, encoders from anywhere are scored."""

    benchmark: "BenchmarkConfig"
    data: "DataConfig"


def session(
    dry_run: DryRun = False,
    quiet: Quiet = False,
    home: Home = HOME,
    tracking_uri: TrackingUri = None,
    address: Address = None,
) -> Session:
    """Where a command works."""
    return Session(home, tracking_uri, address, dry_run, quiet)


def told(set_: Set = None, splits: Splits = None) -> Told:
    """What a command is told of its recipes."""
    return Told([*(set_ or []), *([f"data.splits={json.dumps(splits)}"] if splits is not None else [])])


def judged(
    benchmark: Benchmark = "linear",
    source: Source = None,
    root: Root = None,
    splits: Splits = None,
    on: On = None,
    set_: Set = None,
) -> Judged:
    """What a command is told of the score that it wants."""
    from pipelines.recipes import load_places

    if on is not None and (source or root):
        raise UserError("--on says where the images are: leave out --source and --root")
    places = load_places(source, root, benchmark=benchmark, overrides=set_ or [], splits=splits, on=on)
    return Judged(places.benchmark, places.data)


# kind of a parameter: who makes it of options
MADE_OF: dict[Any, Callable[..., Any]] = {Session: session, Told: told, Judged: judged}


def with_shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with options in place of each parameter that `MADE_OF` lists; they are those of its maker."""
    own = inspect.signature(command, eval_str=True).parameters
    makers = {name: MADE_OF[each.annotation] for name, each in own.items() if each.annotation in MADE_OF}
    options = {name: list(inspect.signature(maker).parameters.values()) for name, maker in makers.items()}

    @functools.wraps(command)
    def run(**given: Any) -> None:
        made = {name: maker(**{o.name: given.pop(o.name) for o in options[name]}) for name, maker in makers.items()}
        command(**given, **made)

    every = [option for name, each in own.items() for option in options.get(name, [each])]
    named: Any = run  # typer reads the signature
    named.__signature__ = inspect.Signature([each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in every])
    named.__annotations__ = {}
    return run
