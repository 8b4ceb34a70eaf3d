"""All commands of the command line, in the order in which help lists them."""

import typer

from pipelines.cli.catalogue import benchmarks, recipes, tasks
from pipelines.cli.comparison import compare
from pipelines.cli.data import data_show, data_verify
from pipelines.cli.jobs import demo, prepare, pretrain, table, transfer
from pipelines.cli.options import with_shared_options
from pipelines.cli.pictures import generate, measure
from pipelines.cli.servers import local_s3, ui
from pipelines.cli.sweeps import sweep
from pipelines.cli.taking_home import embed, export

HELP = """Pretrain image encoders by generative self-supervision, and score them by what they are for: transfer.

    \b
    Start here:
      genoise demo                        the whole job on built-in scenes, in minutes
      genoise recipes                     what can be pretrained
      genoise tasks colorization          one task: its terms, weights and options
      genoise ui                          the runs, pictures and encoders in a browser
      genoise COMMAND --help              examples for each command

    Every finished step is an MLflow run and is reused: the same command again goes on where the last one ended.
    """


def build_app() -> typer.Typer:
    """The command line."""
    app = typer.Typer(
        name="genoise",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
        help=HELP,
    )
    data = typer.Typer(rich_markup_mode=None, help="Look at prepared data.")
    local = typer.Typer(rich_markup_mode=None, help="Servers on this machine, to try things with.")
    app.add_typer(data, name="data")
    app.add_typer(local, name="local")
    for command in (
        demo,
        prepare,
        pretrain,
        transfer,
        compare,
        table,
        sweep,
        measure,
        generate,
        export,
        embed,
        tasks,
        recipes,
        benchmarks,
        ui,
    ):
        app.command()(with_shared_options(command))
    data.command("show")(with_shared_options(data_show))
    data.command("verify")(with_shared_options(data_verify))
    local.command("s3")(with_shared_options(local_s3))
    return app
