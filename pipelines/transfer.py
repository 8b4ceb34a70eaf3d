"""encoder -> scores: a benchmark's fixed protocol, run by one worker."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field

from components.config import BenchmarkConfig, DataConfig, Recipe
from components.data.labels import check_labels_seen
from components.errors import UserError
from components.keys import deciding
from components.networks.encoder import CONFIG_FILE, WEIGHTS_FILE, load_encoder
from components.tasks.base import parts_of
from components.transfer.metrics.statistics import Measured
from components.transfer.protocol import (
    UNTESTED,
    Score,
    check_benchmark,
    get_benchmark,
)
from infra.storage import sha256_of
from infra.tracking import open_tracker
from pipelines.data.opening import read_index_file
from pipelines.data.prepared import Prepared, place_of
from pipelines.data.raw_data import facts_of
from pipelines.encoders import fetch_encoder
from pipelines.prepare import prepare_step
from pipelines.pretrain import pretrain_step
from pipelines.recipe_checks import SOURCES, data_name
from pipelines.scoring import Scoring, score
from pipelines.session import Session
from pipelines.steps import scheduling
from pipelines.steps.results import Results, StepResult, StepValue
from pipelines.steps.step import Planned, Step, StepRun
from pipelines.training.job import Pretrained
from pipelines.workers.payload import packed

VERSION = 2  # the probe's grid of penalties is widened where its end is best
ABOUT = (
    "Encoders pretrained without labels on {source}. The alias `best` is on the highest score on the validation split. "
    "The files, `config.json` and `encoder.safetensors`, need no pickle; to score one: "
    "`genoise transfer --encoder models:/{name}@best`"
)
_REGISTERING = threading.Lock()  # steps run side by side, and the best is found by comparing


class Scored(Score, StepValue):
    """The score of an encoder, and what became of it."""

    model: str | None = Field(None, description="the registered model that the encoder became")

    @property
    def best_val(self) -> float:
        """The validation score of the layer that was chosen by it."""
        return self.layers[self.layer]


def measured_of(scores: Mapping[int, Scored]) -> Measured:
    """Scores by seed, at least one, as statistics take them; samples of the images only where all have as many."""
    resampled = [score.resampled for score in scores.values()]
    known = all(resampled) and len({len(each) for each in resampled}) == 1
    return Measured(
        {seed: score.value for seed, score in scores.items()},
        min(score.n for score in scores.values()),
        np.mean(resampled, 0) if known else np.empty(0),
        next(score.metric for score in scores.values()),
    )


def transfer(
    encoder: str, benchmark: BenchmarkConfig, data: DataConfig, session: Session, normalization: str | None = None
) -> StepResult[Scored]:
    """Score an encoder: a folder, ``s3://``, ``models:/NAME@best`` or ``runs:/ID/encoder``, or a file of weights, which
    expects ``normalization`` (`fetch_encoder`).

    Raises UserError for data without labels, OutsideError for an encoder that is not there.
    """
    return scheduling.run(external_step(encoder, benchmark, data, session, normalization), session, "transfer")


def plan(
    encoder: str, benchmark: BenchmarkConfig, data: DataConfig, session: Session, normalization: str | None = None
) -> list[Planned]:
    """The steps that `transfer` would run or reuse."""
    return scheduling.plan([external_step(encoder, benchmark, data, session, normalization)], session)


def transfer_step(recipe: Recipe, benchmark: BenchmarkConfig) -> Step[Scored]:
    """The step that scores a recipe's encoder on a benchmark; the score is logged at the encoder's model too."""
    trained, data = _inputs(recipe, benchmark, ("val", "test"))

    def body(run: StepRun, done: Results) -> Scored:
        scored = recipe.scored_on(benchmark.name)
        value = _score(run, done[data].value, done[trained].value.encoder, benchmark, scored)
        return _published(run, done[trained], done[data].value, recipe, benchmark, value)

    return Step(
        name="transfer",
        label=f"{benchmark.name}: {recipe.name}, seed {recipe.training.seed}",
        version=VERSION,
        config={"benchmark": deciding(benchmark), "size": recipe.data.size},
        value=Scored,
        body=body,
        inputs=(trained, data),
    )


def validation_step(recipe: Recipe, benchmark: BenchmarkConfig) -> Step[Scored]:
    """As `transfer_step`, without the test split: for whoever still chooses. The value's ``split`` is ``val``."""
    trained, data = _inputs(recipe, benchmark, ("val",))
    return Step(
        name="validate",
        label=f"{benchmark.name} on val: {recipe.name}, seed {recipe.training.seed}",
        version=VERSION,
        config={"benchmark": deciding(benchmark), "size": recipe.data.size},
        value=Scored,
        body=lambda run, done: _score(
            run, done[data].value, done[trained].value.encoder, benchmark, recipe.scored_on(benchmark.name), "test"
        ),
        inputs=(trained, data),
    )


def _inputs(
    recipe: Recipe, benchmark: BenchmarkConfig, splits: Sequence[str]
) -> tuple[Step[Pretrained], Step[Prepared]]:
    """The training, and the data to be scored on; the training does not begin before that is known to have what the
    benchmark needs, and labels such as occur in its training split."""
    scored = recipe.scored_on(benchmark.name)
    check_data(benchmark, scored)
    data = prepare_step(scored)

    def check(done: Results) -> None:
        check_prepared(benchmark, scored, done[data].value, splits)

    return replace(pretrain_step(recipe), after=(data,), ready=check), data


def check_data(benchmark: BenchmarkConfig, data: DataConfig) -> None:
    """Raise UserError where data is known to lack a field that the benchmark needs."""
    facts = facts_of(data)
    if facts is not None:
        _check_needs(benchmark, data, facts.fields, facts.labels)


def check_prepared(
    benchmark: BenchmarkConfig, data: DataConfig, prepared: Prepared, splits: Sequence[str] = ()
) -> None:
    """As `check_data`, of what is known once it is prepared: fields of shards of others, labels of the ``splits`` that
    training lacks, and classes with too few training samples."""
    kind = get_benchmark(benchmark)
    needs = set(kind.needs) - {"label"}
    fields = tuple(read_index_file(prepared.index_file).fields) if needs else ()
    _check_needs(benchmark, data, fields, prepared.label_classes)
    if "label" in kind.needs:
        check_labels_seen(prepared.unseen, splits)
    if kind.check_counts is not None:
        index = read_index_file(prepared.index_file)
        counts = (index.labels or {}).get("train", {})
        kind.check_counts(benchmark, {index.classes[int(label)]: n for label, n in counts.items()})


def _check_needs(benchmark: BenchmarkConfig, data: DataConfig, fields: Sequence[str], labels: int) -> None:
    for need in get_benchmark(benchmark).needs:
        if need == "label" and not labels:
            raise UserError(
                f"benchmark {benchmark.name!r} needs labels, and {data_name(data)} has none: score on labelled images, "
                "such as --on ./labelled (images in folders by class, shards, or cifar10:PATH)"
            )
        alternatives = need.split("|")
        if need != "label" and not set(alternatives) & set(fields):
            raise UserError(
                f"benchmark {benchmark.name!r} needs the field {' or '.join(map(repr, alternatives))}, and "
                f"{data_name(data)} has {', '.join(fields)}: score on {SOURCES[alternatives[0]]}, such as --on voc:PATH"
            )


def external_step(
    encoder: str, benchmark: BenchmarkConfig, data: DataConfig, session: Session, normalization: str | None
) -> Step[Scored]:
    """The step for an encoder from anywhere; its weights' digest, not its name, says whether a score can be reused."""
    tracker = open_tracker(session.home, session.tracking_uri)
    folder = fetch_encoder(encoder, tracker, session.folder("cache"), normalization)
    check_data(benchmark, data)
    check_benchmark(benchmark, load_encoder(folder))
    digests = {name: sha256_of(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
    prepared = prepare_step(data)
    return Step(
        name="transfer",
        label=f"{benchmark.name}: {encoder}",
        version=VERSION,
        config={"benchmark": deciding(benchmark), "size": data.size, "encoder": digests},
        value=Scored,
        body=lambda run, done: _score(run, done[prepared].value, str(folder), benchmark, data),
        inputs=(prepared,),
        params={"encoder": encoder, "benchmark": benchmark.model_dump(mode="json")},
    )


def _score(
    run: StepRun, prepared: Prepared, encoder: str, benchmark: BenchmarkConfig, data: DataConfig, unseen: str = ""
) -> Scored:
    """Run the benchmark where there is a free core or GPU, without the split ``unseen``; store the protocol too.

    ``data``: what was ``prepared``.
    """
    session = run.session
    folder = run.tracker.models.fetch_encoder(encoder, session.folder("cache"))
    files = packed(folder, (CONFIG_FILE, WEIGHTS_FILE))
    place = place_of(prepared, data.size, str(session.folder("cache")))
    splits = [split for split in prepared.samples if split != unseen]
    check_prepared(benchmark, data, prepared, splits)
    told = Scoring(files, place, splits, benchmark, run.run_id, str(run.folder), run.recorder)
    value = Scored.from_json(run.groups.once(score, told))
    counted = value.protocol.get("unseen_of", "samples")
    for split, share in value.protocol.get("unseen", {}).items():
        run.say(f"{share:.1%} of the {split} {counted} are of classes that training has none of: scored as wrong")
    run.tracker.log_dict(run.run_id, value.to_json(), "score.json")
    run.log_metrics(_metrics(value))
    run.tracker.describe(run.run_id, f"{_story(value)}\n\nThe protocol is in `score.json`.")
    return value


def _metrics(value: Scored) -> dict[str, float]:
    layers = {f"val/{layer}": score for layer, score in value.layers.items()}
    others = {f"{value.split}/{metric}": score for metric, score in value.others.items()}
    own = {f"val/{value.metric}": value.best_val, f"{value.split}/{value.metric}": value.value}
    return layers | others | own


def _story(value: Scored) -> str:
    """The score in one sentence."""
    beside = "".join(f", {metric} {score:.1%}" for metric, score in value.others.items())
    scores = f"{value.best_val:.1%} on val" + ("" if value.split == "val" else f", {value.value:.1%} on test")
    story = f"{value.benchmark}: {value.metric} {scores}{beside}; chosen on val: {value.layer}"
    return f"{story}; {UNTESTED}" if value.split == "val" else story


def _published(
    run: StepRun,
    trained: StepResult[Pretrained],
    scored_on: Prepared,
    recipe: Recipe,
    benchmark: BenchmarkConfig,
    value: Scored,
) -> Scored:
    """The score, put on the encoder's model; what was learned without labels is registered, the highest as `best`."""
    model_id = trained.value.model_id
    name, metric = f"genoise-{recipe.data.source}", benchmark.name
    place = recipe.place_of(benchmark.name)
    if place:  # scores on other images are another measure, and their best another model
        name, metric = f"{name}-on-{place.source}", f"{metric} on {scored_on.index[:8]}"
    scores = {f"{metric}/{key}": number for key, number in _metrics(value).items()}
    run.tracker.log_metrics(trained.run_id, scores, model_id=model_id)
    parts = parts_of(recipe.task, recipe.options)
    if not parts.players or "label" in parts.needs:
        return value
    with _REGISTERING:
        version, _ = run.tracker.models.register_encoder(
            name,
            model_id,
            f"{metric}/val/{value.metric}",
            value.best_val,
            description=f"{recipe.name}, seed {recipe.training.seed}: {recipe.summary}\n\n{_story(value)}",
            about=ABOUT.format(name=name, source=recipe.data.source),
        )
    return Scored.from_json(value.to_json() | {"model": f"models:/{name}/{version}"})
