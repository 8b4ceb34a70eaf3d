"""What is run: from raw images to shards, encoders, scores and tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import (
    Benchmarks,
    Files,
    Json,
    Judged,
    Normalization,
    On,
    Root,
    Seeds,
    Set,
    Splits,
    Told,
    Url,
)
from pipelines.session import Session

if TYPE_CHECKING:
    from components.config import Recipe


def demo(
    set_: Set = None,
    *,
    session: Session,
    json_: Json = False,
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

    settings = [*demo_settings(machine.cores() if session.private else 2), *(set_ or [])]
    _table(load_recipes(DEMO, settings), 1, session, json_, settings)


def prepare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="One of the names below.")],
    root: Root = None,
    splits: Splits = None,
    url: Url = None,
    set_: Set = None,
    *,
    session: Session,
    json_: Json = False,
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
      webdataset  val=NAMES test=NAMES version=TEXT: tars by name, with braces, ::, http, pipe:

    \b
    Examples:
      genoise prepare shapes --to ./shards
      genoise prepare folder --root ~/photos --to s3://bucket/photos --set data.resize=256 --set data.encode=jpeg
      genoise prepare folder --root ~/scans --splits train=site_a+site_b,val=site_c,test=site_d
      genoise prepare cifar10 --root ./cifar-10-binary.tar.gz --to ./cifar10
      genoise prepare pairs --root ./facades.tar --set data.options.image=right --set data.options.target=left
      genoise prepare webdataset --root 'https://host/photos-{0000..0099}.tar'
    """
    from pipelines.recipes import load_places

    data = load_places(source, root, url, overrides=set_ or [], splits=splits).data
    from pipelines import prepare as pipeline
    from pipelines import terminal

    if session.dry_run:
        terminal.show_plan(pipeline.plan(data, session), json_)
    else:
        terminal.show_step("prepared", pipeline.prepare(data, session), json_)


def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or path of a .yaml file.")],
    *,
    told: Told,
    session: Session,
    json_: Json = False,
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

    (loaded,) = load_recipes([recipe], told)
    from pipelines import pretrain as pipeline
    from pipelines import terminal

    if session.dry_run:
        terminal.show_plan(pipeline.plan(loaded, session), json_)
    else:
        terminal.show_step("pretrained", pipeline.pretrain(loaded, session), json_)


def transfer(
    encoder: Annotated[
        str,
        typer.Option(
            metavar="URI",
            help="Encoder: a folder, an MLflow URI as pretrain prints it, or a file of weights of others.",
        ),
    ],
    normalization: Normalization = None,
    *,
    judged: Judged,
    session: Session,
    json_: Json = False,
) -> None:
    """Score an encoder on a benchmark.

    Choices, such as the layer, are made on the validation split; what was chosen is scored, once, on the test split.

    Weights of others are read from a file: safetensors, or a state dict that torch.save wrote (.pt, .pth, .ckpt), with
    torchvision's or timm's names for ResNet-18, -34, -50 or AlexNet.

    \b
    Examples:
      genoise transfer --encoder models:/genoise-shapes@best --benchmark linear
      genoise transfer --encoder ./encoder --benchmark linear --source cifar10 --root ./cifar-10-binary.tar.gz
      genoise transfer --encoder ./encoder --on ./labelled
      genoise transfer --encoder ./dino_resnet50.pth --normalization imagenet --on ./labelled
      genoise transfer --encoder ./encoder --benchmark linear --set benchmark.layers=[conv3,conv4]
    """
    from pipelines import terminal
    from pipelines import transfer as pipeline

    if session.dry_run:
        terminal.show_plan(
            pipeline.plan(encoder, judged.benchmark, judged.data, session, normalization=normalization), json_
        )
    else:
        scored = pipeline.transfer(encoder, judged.benchmark, judged.data, session, normalization=normalization)
        if scored.value.split == "val":
            from components.transfer.protocol import UNTESTED

            terminal.note(UNTESTED)
        terminal.show_step("scored", scored, json_)


def table(
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="[RECIPE]...", help="Names or .yaml files; none: every built-in task.")
    ] = None,
    seeds: Seeds = 1,
    benchmark: Benchmarks = None,
    on: On = None,
    to: Files = None,
    *,
    told: Told,
    session: Session,
    json_: Json = False,
) -> None:
    """Pretrain and score several recipes in one table.

    Random, rescaled and supervised encoders stand beside them, so that a score can be read. Where the images have no
    labels, others that have some score the encoders: --on, or for one benchmark --benchmark NAME=PLACE.

    \b
    Examples:
      genoise table
      genoise table rotation my/recipe.yaml --seeds 3
      genoise table rotation --set data.source=folder --set data.root=./photos --on ./labelled
      genoise table rotation --benchmark linear,knn,detection=voc:./cells --to ./table
      genoise table --set data.source=cifar10 --set data.root=./cifar-10-binary.tar.gz --seeds 3
    """
    from pipelines.recipes import comparable, load_recipes

    _table(load_recipes(recipes or comparable(), told, on, benchmark or []), seeds, session, json_, told, to)


def _table(
    recipes: "list[Recipe]", seeds: int, session: Session, json_: bool, overrides: list[str], to: Path | None = None
) -> None:
    from pipelines import table as pipeline
    from pipelines import terminal
    from pipelines.tables.texts import shown

    if session.dry_run:
        terminal.show_plan(pipeline.plan(recipes, seeds, session, overrides=overrides, to=to), json_)
        return
    result = pipeline.make_table(recipes, seeds, session, overrides=overrides, to=to)
    terminal.show_rows(shown(result.rows))
    for note in result.notes:
        terminal.text(f"note: {note}")
    if json_:
        terminal.text(result.to_json())
