"""encoder -> files that other tools open, each checked against the encoder, with a model card beside them."""

import json
import tempfile
from pathlib import Path
from typing import Any

from components.data.shards import replacing
from components.errors import UserError
from components.exchange.card import Origin, card
from components.exchange.formats import export as export_files
from components.networks.encoder import load_encoder
from components.tasks.base import parts_of, resolve_weights
from infra.errors import OutsideError
from infra.storage import is_remote
from infra.tracking import Place, Tracker, open_tracker, read_address
from pipelines.encoders import fetch_encoder
from pipelines.paths import check_folder, writing
from pipelines.recipes import load_recipe
from pipelines.session import Session
from pipelines.steps.results import Json
from pipelines.steps.workflow import INPUTS, STEP
from pipelines.training.task_files import RECIPE_FILE

CARD_FILE = "README.md"
SCORE_FILE = "score.json"  # of a run that scored
NEWEST = 1000  # runs that scored are looked through for those of this encoder


def export(
    uri: str, to: str, name: str, session: Session, normalization: str | None = None, overwrite: bool = False
) -> Json:
    """Write the encoder at ``uri`` (`fetch_encoder`) into the folder ``to`` in the format ``name``, with a card.

    Returns the ``folder``, its ``files``, the ``checks``: {who read them: the largest difference of a feature, as a
    share of the largest of its layer}, and who was not ``asked`` and why. Everything is written elsewhere first, and
    appears when it was found to be right; in a dry run not even then. Raises UserError as `export_files` does, and
    where something would be lost.
    """
    folder = _place(to)
    tracker = open_tracker(session.home, session.tracking_uri)
    encoder = load_encoder(fetch_encoder(uri, tracker, session.folder("cache"), normalization))
    with tempfile.TemporaryDirectory() as made:
        done = export_files(encoder, Path(made), name)
        (Path(made) / CARD_FILE).write_text(card(encoder, name, done, origin_of(uri, tracker)))
        files = (*done.files, CARD_FILE)
        there = [file for file in files if (folder / file).exists()]
        if there and not overwrite:
            raise UserError(f"{there[0]} is in {folder} already: give another --to, or --overwrite")
        if not session.dry_run:
            _move(Path(made), files, folder)
    return {
        "format": name,
        "folder": str(folder),
        "files": list(files),
        "checks": done.checks,
        "not_asked": done.unchecked,
    }


def origin_of(uri: str, tracker: Tracker) -> Origin:
    """What is known of where an encoder comes from: of one that a run has left its recipe, weights and scores."""
    run_id = None if isinstance(read_address(uri), Place) else tracker.models.source_run(uri)
    if run_id is None:
        return Origin(Path(uri).name)
    try:
        text = tracker.read_text(run_id, RECIPE_FILE)
    except OutsideError:  # a run of an earlier version left none
        return Origin(uri, scores=_scores(run_id, tracker))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / RECIPE_FILE
        file.write_text(text)
        recipe = load_recipe(str(file))
    terms = parts_of(recipe.task, recipe.options).terms
    return Origin(uri, recipe, resolve_weights(recipe.task, terms, recipe.weights), _scores(run_id, tracker))


def _scores(run_id: str, tracker: Tracker) -> list[dict[str, Any]]:
    """The scores of the encoder that a run has left, the newest of each benchmark and split."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for run in tracker.search({STEP: "transfer"}, "FINISHED", NEWEST):
        consumed = json.loads(run.tags.get(INPUTS, "{}")).values()
        if run_id in consumed or run.params.get("encoder") == f"runs:/{run_id}/encoder":
            score = json.loads(tracker.read_text(run.run_id, SCORE_FILE))
            found.setdefault((score["benchmark"], score["split"]), score)
    return list(found.values())


def _place(to: str) -> Path:
    """The folder that is written into; UserError where that cannot be."""
    if is_remote(to):
        raise UserError(f"--to {to}: a folder of this machine would be right; copy it from there")
    folder = Path(to).expanduser()
    check_folder(folder)
    return folder


def _move(made: Path, files: tuple[str, ...], folder: Path) -> None:
    """Give the files their place, each whole or not at all. OutsideError where nothing can be written."""
    for file in files:
        with writing(folder / file), replacing(folder / file) as out:
            out.write((made / file).read_bytes())
