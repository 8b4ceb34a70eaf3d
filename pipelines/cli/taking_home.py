"""What leaves the house: encoders as files of other tools, and vectors of images."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import HOME, Home, Json, Normalization, Quiet, TrackingUri
from pipelines.session import Session

Encoder = Annotated[
    str, typer.Argument(metavar="ENCODER", help="A folder, an MLflow URI as pretrain prints it, or a file of weights.")
]


def export(
    encoder: Encoder,
    to: Annotated[str, typer.Option(metavar="FOLDER", help="Where the files go.")],
    format_: Annotated[
        str,
        typer.Option("--format", metavar="NAME", help="safetensors, torchvision, timm, torch-export or onnx."),
    ] = "safetensors",
    normalization: Normalization = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make and check the files; keep nothing.")] = False,
    json_: Json = False,
    home: Home = HOME,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write an encoder as files that other tools open.

    They are read again and compared with the encoder before the command ends. README.md is a model card: data, recipe,
    weights of the losses, scores with their protocols, and a program that loads the files.

    \b
    Formats:
      safetensors   config.json and encoder.safetensors, for Génoise and for torch alone
      torchvision   weights under its names, of ResNet-18, -34, -50 and AlexNet of width 64
      timm          the same of ResNets, as create_model("local-dir:FOLDER") takes them
      torch-export  a graph (.pt2) for torch alone, any number of images of any size
      onnx          a graph for onnxruntime and others; pip install 'genoise[export]'

    \b
    Examples:
      genoise export models:/genoise-shapes@best --to ./mine --format onnx
      genoise export runs:/0123abcd/encoder --to ./for-torchvision --format torchvision
      genoise export ./theirs.pth --normalization half --to ./ours
    """
    from pipelines import export as pipeline
    from pipelines import terminal

    session = Session(home, tracking_uri, None, dry_run, quiet=True)
    done = pipeline.export(encoder, to, format_, session, normalization, overwrite)
    for line in done["not_asked"]:
        terminal.note(f"not read by its own code: {line}")
    shown = {key: value for key, value in done.items() if key not in ("checks", "not_asked")}
    for reader, off in done["checks"].items():
        shown[f"largest difference, read by {reader}"] = f"{off:.1e} of a layer's largest feature"
    terminal.show_facts(shown, "would export" if dry_run else "exported")
    if json_:
        terminal.last_line(done)


def embed(
    encoder: Encoder,
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder of images, or one.")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="features.npy or features.parquet.")],
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Layer of the encoder.", show_default="the deepest")
    ] = None,
    pooling: Annotated[
        str, typer.Option(metavar="HOW", help="mean or max over the map; none: all its values.")
    ] = "mean",
    size: Annotated[
        int | None,
        typer.Option(
            min=8,
            max=1024,
            metavar="PIXELS",
            help="Side at which images are seen.",
            show_default="32 for the small stem, 224 for the large one",
        ),
    ] = None,
    normalization: Normalization = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made; make nothing.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
    home: Home = HOME,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a vector per image.

    Rows are in the order of the images' names. Beside features.npy lies features.names.txt, a name per row;
    features.parquet has the columns file and features. Broken images are skipped, counted and named.

    \b
    Examples:
      genoise embed models:/genoise-shapes@best ~/photos --to features.npy
      genoise embed ./encoder ~/photos --to features.parquet --layer layer3 --size 96
      genoise embed ./dino_resnet50.pth ~/photos --to features.parquet
    """
    from pipelines import embed as pipeline
    from pipelines import terminal

    asked = {"to": to, "layer": layer, "pooling": pooling, "size": size, "overwrite": overwrite}
    wanted = pipeline.EmbedRequest.parse(asked, "--")
    session = Session(home, tracking_uri, None, dry_run, quiet)
    made = pipeline.embed(encoder, images, wanted, session, normalization)
    terminal.show_facts(made, "would make" if dry_run else "made")
    if json_:
        terminal.last_line(made)
