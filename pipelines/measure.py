"""trained task -> what its pictures are worth: nearness to the truth, distance to real pictures. By one worker."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from components.config import Recipe
from components.data.arrays import UInt8
from components.errors import UserError, unknown
from components.keys import deciding
from components.networks.encoder import CONFIG_FILE, WEIGHTS_FILE, load_encoder
from components.pictures.classes import ByClass
from components.pictures.extractors import Extractor, encoder_extractor, script_extractor
from components.pictures.make import make_pictures
from components.pictures.measure import (
    COMPARED,
    MeasureConfig,
    PictureScore,
    check_enough,
    chosen,
    measure_pictures,
    no_truth,
    picture_rows,
)
from components.tasks.base import check_pictures, get_task
from infra.storage import sha256_of
from infra.tracking import open_tracker
from pipelines.data.prepared import DataPlace, Prepared, place_of
from pipelines.data.raw_data import Facts, facts_of
from pipelines.picture_requests import Measurement
from pipelines.prepare import prepare_step
from pipelines.recipe_checks import check_fields
from pipelines.session import Session
from pipelines.steps import scheduling
from pipelines.steps.results import Json, StepResult, StepValue
from pipelines.steps.step import Planned, Step, StepRun
from pipelines.training.noise import noise
from pipelines.training.picture_strip import strip
from pipelines.training.sample_streams import Streams
from pipelines.training.task_files import RECIPE_FILE, TASK_FILE, Trained, fetch_task, load_task, recipe_of
from pipelines.workers.payload import Files, own_device, packed, unpacked

VERSION = 1
SHOWN = 8  # samples in a picture
SCRIPT_FILE = "extractor.pt"


class Measured(PictureScore, StepValue):
    """What the pictures of a trained run are worth."""

    @property
    def rows(self) -> list[Json]:
        """Rows of a table: the pictures that the task makes, and what doing nothing would get."""
        return [{"pictures": title, **values} for title, values in self.values.items()]


def measure(wanted: Measurement, session: Session) -> StepResult[Measured]:
    """Measure the pictures of a trained run. Raises UserError where nothing can be measured."""
    return scheduling.run(measure_step(wanted, session), session, "measure")


def plan(wanted: Measurement, session: Session) -> list[Planned]:
    """The steps that `measure` would run or reuse."""
    return scheduling.plan([measure_step(wanted, session)], session)


def measure_step(wanted: Measurement, session: Session) -> Step[Measured]:
    """The step that measures; see `measure`."""
    folder = fetch_task(wanted.run, session)
    recipe = recipe_of(folder, wanted.overrides)
    check_pictures(get_task(recipe.task))
    config = wanted.config
    files, digest = _extractor_files(wanted.extractor, config, session)
    judge, judge_digest = _classifier_files(wanted.classifier, session)
    _check_measurable(load_task(folder, recipe.data.size), wanted, judge, facts_of(recipe.data))
    prepared = prepare_step(recipe.data)
    trained = {
        "weights": sha256_of(folder / TASK_FILE),
        "recipe": recipe.model_dump(mode="json", include={"task", "options"}) | {"encoder": deciding(recipe.encoder)},
        "size": recipe.data.size,
    }
    return Step(
        name="measure",
        label=f"measure {recipe.name}, {config.split}",
        version=VERSION,
        config={"trained": trained, "extractor": digest, "measure": config.model_dump(mode="json"), **judge_digest},
        value=Measured,
        body=lambda run, done: _measure(run, done[prepared].value, recipe, folder, files, judge, config),
        inputs=(prepared,),
        params={
            "run": wanted.run,
            "extractor": wanted.extractor or "none",
            "classifier": wanted.classifier or "none",
            "measure": config.model_dump(mode="json"),
        },
    )


def _check_measurable(trained: Trained, wanted: Measurement, classifier: Files, facts: Facts | None) -> None:
    """Raise UserError where the data, as far as it is known, or the task's pictures leave nothing to be measured."""
    task, config = trained.task, wanted.config
    if not (wanted.extractor or classifier):
        batch = noise(task, 2, trained.side)
        batch |= {field: batch[field] % max(1, trained.classes) for field in ("label", "mask") if field in batch}
        rows = make_pictures(task, batch, torch.arange(2), config.seed, torch.device("cpu"))
        if not any(title in rows and rows[title].shape == rows["truth"].shape for title in COMPARED if "truth" in rows):
            raise no_truth(task.name)
    if facts is None:
        return
    if config.split not in facts.samples:
        raise unknown("split", config.split, facts.samples)
    check_fields(task.name, task.needs, facts, (config.split,))
    if wanted.extractor:
        check_enough(len(chosen(facts.samples[config.split], config.samples)), config.split)
    if classifier:
        with unpacked(classifier) as folder:
            check_classes(load_task(folder).classes, facts.labels)


def check_classes(known: int, labels: int) -> None:
    """Raise UserError where a classifier knows other classes than the data has."""
    if known != labels:
        raise UserError(f"--classifier knows {known} classes, and the data has {labels}: train it on this data")


def _classifier_files(uri: str | None, session: Session) -> tuple[Files, Json]:
    """The files of a trained run that classifies, and what a fingerprint has to say of it."""
    if uri is None:
        return {}, {}
    folder = fetch_task(uri, session)
    recipe = recipe_of(folder)
    if recipe.task != "supervised":
        raise UserError(
            f"--classifier {uri}: task {recipe.task!r} tells no classes: a run of the recipe supervised would be right"
        )
    files = packed(folder, (TASK_FILE, RECIPE_FILE))
    encoder = json.dumps(deciding(recipe.encoder), sort_keys=True, separators=(",", ":"))
    return files, {"classifier": {"weights": sha256_of(folder / TASK_FILE), "encoder": encoder}}


def _extractor_files(uri: str | None, config: MeasureConfig, session: Session) -> tuple[Files, dict[str, str]]:
    """An extractor's files and their digests; whether it can be used is said here, before anything runs."""
    if uri is None:
        if config.layer or config.resize:
            raise UserError("--layer and --resize are about an extractor: give --extractor, or leave them out")
        return {}, {}
    if Path(uri).is_file():
        if config.layer:
            raise UserError(f"--layer is about an encoder, and {uri} is a file: leave it out")
        paths = {SCRIPT_FILE: Path(uri)}
    else:
        tracker = open_tracker(session.home, session.tracking_uri)
        folder = tracker.models.fetch_encoder(uri, session.folder("cache"))
        paths = {name: folder / name for name in (CONFIG_FILE, WEIGHTS_FILE)}
    files = {name: path.read_bytes() for name, path in paths.items()}
    _open_extractor(files, config.layer, torch.device("cpu"))
    return files, {name: sha256_of(path) for name, path in paths.items()}


def _open_extractor(files: Files, layer: str | None, on: torch.device) -> Extractor:
    if SCRIPT_FILE in files:
        return script_extractor(files[SCRIPT_FILE], on)
    with unpacked(files) as folder:
        return encoder_extractor(load_encoder(folder).to(on), layer)


def _measure(
    run: StepRun,
    prepared: Prepared,
    recipe: Recipe,
    folder: Path,
    extractor: Files,
    classifier: Files,
    config: MeasureConfig,
) -> Measured:
    """Measure where there is a free core or GPU; log the figures, the first pictures and the worst ones."""
    files = packed(folder, (TASK_FILE, RECIPE_FILE))
    data = place_of(prepared, recipe.data.size, str(run.session.folder("cache")))
    found, pictures = run.groups.once(_run, Measuring(files, data, extractor, classifier, config))
    value = Measured.from_json(found)
    run.tracker.log_dict(run.run_id, found, "pictures.json")
    metrics = {f"{config.split}/{title}/{k}": v for title, each in value.values.items() for k, v in each.items()}
    run.log_metrics(metrics)
    for key, picture_HW3 in pictures.items():
        run.tracker.log_image(run.run_id, picture_HW3, key)
    run.tracker.describe(run.run_id, _story(value, recipe))
    return value


@dataclass(frozen=True)
class Measuring:
    """What a worker is told that measures pictures."""

    task: Files
    data: DataPlace
    extractor: Files  # none: empty
    classifier: Files  # none: empty
    asked: MeasureConfig


def _run(told: Measuring) -> tuple[Json, dict[str, UInt8]]:
    """Load task, extractor and classifier, measure; returns the score as JSON, and pictures by name."""
    data, asked, on = told.data, told.asked, own_device()
    with unpacked(told.task) as folder:
        task = load_task(folder, data.size).task.to(on)
    by_class = _by_class(told.classifier, data, on)
    needs = tuple(dict.fromkeys([*task.needs, "image", "label"])) if by_class else task.needs
    split = Streams.open(data, asked.split, needs)
    score = measure_pictures(task, split, asked, _with_digest(told.extractor, asked.layer, on), on, by_class)
    first = np.arange(min(SHOWN, len(split)))
    shown = {"first": first} | ({"worst": np.array(score.worst)} if score.worst else {})
    pictures = {
        name: strip({title: x.float() / 255 for title, x in picture_rows(task, split, ids, asked.seed, on).items()})
        for name, ids in shown.items()
    }
    return score.model_dump(mode="json"), pictures


def _by_class(files: Files, data: DataPlace, on: torch.device) -> ByClass | None:
    """What judges classes; UserError where the classifier knows others than the data has."""
    if not files:
        return None
    with unpacked(files) as folder:
        trained = load_task(folder, data.size)
        protocol = {"sha256": sha256_of(folder / TASK_FILE), "encoder": trained.recipe.encoder.model_dump()}
    check_classes(trained.classes, data.label_classes)
    task = trained.task.to(on)

    def says(picture_B3HW: torch.Tensor) -> torch.Tensor:
        logits_BK: torch.Tensor = task({"image": picture_B3HW.float() / 255})["logits"]
        return logits_BK.argmax(1)

    return ByClass(says, trained.classes, protocol)


def _with_digest(files: Files, layer: str | None, on: torch.device) -> Extractor | None:
    """The extractor, whose protocol says which weights it has."""
    if not files:
        return None
    with unpacked(files) as folder:
        weights = sha256_of(folder / (SCRIPT_FILE if SCRIPT_FILE in files else WEIGHTS_FILE))
    extractor = _open_extractor(files, layer, on)
    return replace(extractor, protocol={**extractor.protocol, "sha256": weights})


def _story(value: Measured, recipe: Recipe) -> str:
    figures = ", ".join(f"{name} {number:.4g}" for name, number in value.values["prediction"].items())
    warnings = "".join(f"\n\n{warning}" for warning in value.warnings)
    return f"{recipe.name} on {value.n} samples of {value.split}: {figures}{warnings}\n\nSee `pictures.json`."
