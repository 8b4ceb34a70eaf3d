"""Two encoders beside each other."""

from typing import Annotated

import typer

from pipelines.cli.options import Json, Judged, Normalization
from pipelines.session import Session


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Encoder, as for transfer; several seeds with commas.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The other one; as many seeds, paired in order.")],
    margin: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="POINTS",
            help="Ask whether A is no worse than B, up to that many points.",
            show_default="whether A is better",
        ),
    ] = None,
    normalization: Normalization = None,
    *,
    judged: Judged,
    session: Session,
    json_: Json = False,
) -> None:
    """Say whether one encoder is better than another.

    Both are scored as `genoise transfer` does it, on the same images by the same protocol; what has a score keeps it.
    The difference is paired: its interval is that of bootstrap samples of the test images, drawn alike for both, and of
    the seeds where there are several.

    \b
    Examples:
      genoise compare models:/genoise-shapes@best runs:/ID/encoder
      genoise compare ./rotation ./dino_resnet50.pth --benchmark knn --on ./labelled
      genoise compare ./a0,./a1,./a2 ./b0,./b1,./b2 --on cifar10:./cifar-10-binary.tar.gz
      genoise compare ./small ./large --margin 0.5
    """
    from pipelines import compare as pipeline
    from pipelines import terminal

    a, b = (tuple(part for part in text.split(",") if part) for text in (first, second))
    question = pipeline.Question(a, b, judged.benchmark, judged.data, margin, normalization)
    if session.dry_run:
        terminal.show_plan(pipeline.plan(question, session), json_)
        return
    answer = pipeline.compare(question, session)
    terminal.show_rows(answer.rows())
    terminal.text(answer.sentence)
    for note in answer.notes:
        terminal.text(f"note: {note}")
    if json_:
        terminal.last_line(answer.to_json())
