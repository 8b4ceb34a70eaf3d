"""What trained runs make: measured, and made."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import HOME, Home, Json, PictureSeed, Quiet, Run, Set, TrackingUri
from pipelines.session import Session


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
    *,
    session: Session,
    json_: Json = False,
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

    wanted = Measurement(run, config, extractor, classifier, set_ or [])
    if session.dry_run:
        terminal.show_plan(pipeline.plan(wanted, session), json_)
        return
    result = pipeline.measure(wanted, session)
    before = " before, reused" if result.reused else ""
    terminal.show_rows(result.value.rows, f"measured on {result.value.n} samples{before}: run {result.run_id}")
    for warning in result.value.warnings:
        terminal.note(warning)
    if json_:
        terminal.last_line(terminal.step_facts(result))


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
    from pipelines.picture_requests import PictureRequest

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
    wanted = PictureRequest.parse(asked, "--")
    from pipelines import generate as pipeline
    from pipelines import terminal

    session = Session(home, tracking_uri, None, dry_run, quiet)
    made = (pipeline.plan if dry_run else pipeline.generate)(run, wanted, session)
    terminal.show_facts(made, "would make" if dry_run else "made")
    if json_:
        terminal.last_line(made)
