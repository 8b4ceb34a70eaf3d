"""Typed, frozen, strict configuration: everything a recipe may say, its meaning, its range and its default."""

import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from components.errors import UserError, nearest_keys, unknown
from components.keys import KeysOf, Role, keys_of

# Marks an option that names an encoder (``Field(json_schema_extra=ENCODER_URI)``): components see a local folder, the
# pipelines fetch it from wherever it is.
ENCODER_URI: dict[str, Any] = {"format": "encoder-uri"}


class Config(BaseModel):
    """Base of all configuration. Unknown keys are errors; values do not change after construction."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: dict[str, Any], where: str = "") -> Self:
        """Validate ``values``; raise UserError with one line that names the key, the value and the fix.

        ``where`` is put before the key, so that the reader finds it (``training.`` or ``recipe 'x': ``).
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _readable(cls, error, where) from None

    def canonical(self) -> str:
        """The one JSON text of this configuration; equal configurations have equal texts."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def _readable(model: type[BaseModel], error: ValidationError, where: str) -> UserError:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = (where + ".".join(path)).removesuffix(".")
    if first["type"] == "extra_forbidden":
        owner: Any = model
        for part in path[:-1]:
            owner = (
                getattr(owner.model_fields[part].annotation, "model_fields", None)
                and owner.model_fields[part].annotation
            )
            if owner is None:
                break
        beside = [where + ".".join([*path[:-1], name]) for name in (owner.model_fields if owner else [])]
        near = nearest_keys(key, keys_of(model, where)) or (None if len(path) > 1 or where else [])
        return unknown("key", key, beside, near=near)
    said = first["msg"].removeprefix("Value error, ")
    given = f" (given: {first['input']!r})" if path and not isinstance(first["input"], dict) else ""
    return UserError(f"{key}: {said[:1].lower()}{said[1:]}{given}" if key else said)


class DataConfig(Config):
    """Where images come from and how they are laid into shards."""

    source: Annotated[str, Role.SHOWN] = Field("shapes", description="name of a source: shapes, cifar10, folder, ...")
    root: Annotated[str | None, Role.PLACE] = Field(
        None, description="folder or archive with the raw data, or names of tars; shapes needs none"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="the source's own options; see sources.md")
    url: Annotated[str | None, Role.PLACE] = Field(
        None, description="where the shards go or already are: a folder or s3://bucket/prefix"
    )
    splits: Annotated[str | None, Role.CUT] = Field(
        None,
        description="which folder or tar is which split: train=NAME,val=NAME,test=NAME, a table FILE.csv, or classes",
        exclude_if=lambda value: value is None,  # the key came later: what was prepared without it stays known
    )
    size: Annotated[int, Role.SHOWN] = Field(
        32, ge=8, le=1024, description="side of the square images that the networks see, in pixels"
    )
    samples: Annotated[int | None, Role.GROWS] = Field(
        None, ge=1, description="use only that many training samples (None: all)"
    )
    validation: Annotated[float, Role.CUT, Role.GROWS] = Field(
        0.1, gt=0, lt=1, description="share of the training split held back for choices"
    )
    shard_samples: Annotated[int, Role.LAID, Role.GROWS] = Field(1000, ge=1, description="samples per shard")
    max_skipped: Annotated[float, Role.CUT, Role.GROWS] = Field(
        0.01, ge=0, le=1, description="share of broken images past which preparation stops"
    )
    resize: Annotated[int | None, Role.LAID] = Field(
        None, ge=8, description="shrink images with a longer shorter side to that many pixels"
    )
    encode: Annotated[Literal["keep", "jpeg", "webp", "png"], Role.LAID] = Field(
        "keep", description="format in which the shards hold images"
    )
    quality: Annotated[int, Role.LAID] = Field(
        90, ge=1, le=100, description="of JPEG and WebP that `resize` and `encode` write"
    )
    seed: Annotated[int, Role.CUT] = Field(
        0, ge=0, description="seed of the split, and of the scenes when the source is procedural"
    )

    @field_validator("root", "url", "splits")
    @classmethod
    def _is_written_in_utf8(cls, place: str | None) -> str | None:
        """Places are written into runs and records; the names of files below them may be anything."""
        try:
            (place or "").encode()
        except UnicodeEncodeError:
            raise ValueError("this name is not UTF-8: rename it, or use a link to it with another name") from None
        return place


class EncoderConfig(Config):
    """The network whose features are transferred."""

    name: Annotated[str, Role.SHOWN] = Field(
        "alexnet", description="name of a network: alexnet, resnet18, resnet34, resnet50, ..."
    )
    width: Annotated[int, Role.SHOWN] = Field(
        32, ge=4, description="channels of the first stage (64 is the published width)"
    )
    depth: int | None = Field(None, ge=1, description="number of stages kept; None keeps them all")
    norm: Literal["batch", "instance", "none"] = Field(
        "batch", description="normalization between convolution and activation"
    )
    stem: Literal["small", "large"] = Field("small", description="small: for 32 to 96 px; large: as published")
    input: Literal["rgb", "lab", "l", "ab", "l+ab", "diagonal"] = Field(
        "rgb", description="what the trunk sees; set by the task"
    )
    normalization: Annotated[str, Role.LATER] = Field(
        "imagenet", description="of RGB: imagenet, half, none, or MEAN/DEVIATION such as 0.5,0.5,0.5/0.25,0.25,0.25"
    )


class OptimizerConfig(Config):
    """One player's optimizer. A task states the published one; a recipe may overrule any key."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0, description="largest learning rate of the schedule")
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the two averages of adam and adamw")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(True, description="of sgd: look ahead along the momentum")
    weight_decay: float = Field(0.0, ge=0, description="added to the gradient; decoupled from it in adamw")


class AugmentConfig(Config):
    """Drawn for the global batch (see components.draws); on the device, but for windows, which the loader cuts."""

    flip: bool = Field(True, description="mirror left and right with probability one half")
    shift: int = Field(0, ge=0, description="random translation by up to that many pixels, borders reflected")
    crop: Annotated[int, Role.LATER] = Field(
        0, ge=0, description="pictures are that many pixels larger than `data.size`, and a random window is trained on"
    )


class TrainingConfig(Config):
    """How a task is trained. None of it changes what the task's losses mean."""

    epochs: Annotated[float, Role.SHOWN, Role.BESIDE] = Field(
        4, ge=0, description="passes over the training split; 0 trains nothing"
    )
    batch: Annotated[int, Role.SHOWN, Role.BESIDE] = Field(
        128, ge=1, description="samples per optimizer step, over all workers and micro-batches"
    )
    micro_batches: Annotated[int, Role.HOW] = Field(
        1, ge=1, description="parts into which each worker cuts its share of a batch"
    )
    workers: Annotated[int, Role.HOW, Role.BESIDE] = Field(1, ge=1, description="Ray Train workers")
    cpus: Annotated[int | Literal["auto"], Role.HOW, Role.BESIDE] = Field(
        "auto", description="CPU cores of each worker; auto: one, or beside a GPU the fair part of its machine's cores"
    )
    gpus: Annotated[float, Role.HOW, Role.BESIDE] = Field(
        1.0, gt=0, le=1, description="share of a GPU of each worker, where there are GPUs; below 1 for one worker alone"
    )
    seed: Annotated[int, Role.SHOWN, Role.BESIDE] = Field(
        0, ge=0, description="of weights, order of samples, augmentation and noise"
    )
    precision: Annotated[Literal["fp32", "bf16"], Role.BESIDE] = Field(
        "fp32", description="bf16: automatic mixed precision"
    )
    channels_last: Annotated[bool, Role.BESIDE] = Field(
        True, description="memory layout of images and weights; faster convolutions"
    )
    compile: bool = Field(False, description="torch.compile; pays off in long trainings")
    record: Annotated[bool, Role.HOW] = Field(
        True, description="GPUs: record a step once and replay it without Python (CUDA graphs)"
    )
    sync_batch_norm: bool = Field(True, description="share batch statistics among workers")
    optimizer: Annotated[dict[str, Any], KeysOf(OptimizerConfig)] = Field(
        default_factory=dict, description="overrules keys of every player's optimizer"
    )
    players: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="overrules keys of one player's optimizer"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="learning rate over the run, to zero"
    )
    warmup: float = Field(0.05, ge=0, le=1, description="share of the run in which the learning rate rises from zero")
    clip: float | None = Field(None, gt=0, description="largest gradient norm of a player")
    ema: float | None = Field(None, gt=0, lt=1, description="decay per step of the averaged weights; None: no average")
    augment: Annotated[AugmentConfig, Role.BESIDE] = Field(AugmentConfig(), description="see below")
    checkpoint_every: Annotated[int, Role.HOW] = Field(200, ge=1, description="steps between checkpoints")
    checkpoints: Annotated[str | None, Role.HOW] = Field(
        None, description="where they go: a folder or s3://bucket/prefix; None: the home"
    )
    log_every: Annotated[int, Role.HOW] = Field(20, ge=1, description="steps between log lines")
    probe_every: Annotated[float, Role.BESIDE] = Field(
        1.0, gt=0, description="epochs between probes of the encoder on the validation split"
    )
    sample_every: Annotated[float, Role.HOW] = Field(1.0, gt=0, description="epochs between sample pictures")
    record_ids: Annotated[bool, Role.HOW] = Field(False, description="write the ids of the samples of every step")
    max_failures: Annotated[int, Role.HOW] = Field(3, ge=0, description="lost workers survived before the job gives up")

    @field_validator("gpus", mode="before")
    @classmethod
    def _a_share_of_one(cls, value: object) -> object:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
            raise ValueError(
                "must be above 0 and at most 1, a worker's share of one GPU; for two GPUs: --set training.workers=2"
            )
        return value

    @field_validator("cpus", mode="before")
    @classmethod
    def _cores_or_auto(cls, value: object) -> object:
        if value != "auto" and not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            raise ValueError("must be 1 or more, or auto")
        return value

    @model_validator(mode="after")
    def _ranks_have_a_gpu_each(self) -> Self:
        if self.gpus < 1 and self.workers > 1:
            raise ValueError(
                f"gpus={self.gpus:g} is a share of a GPU, for one worker alone: several sum their gradients over NCCL, "
                "which wants a GPU for each; give --set training.workers=1, or --set training.gpus=1"
            )
        return self


def _positive(values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
    if not values or min(values) <= 0:
        raise ValueError(f"{info.field_name} must be positive numbers, at least one")
    return values


Positives = Annotated[tuple[float, ...], AfterValidator(_positive)]  # of which each is tried


class BenchmarkConfig(Config):
    """A transfer protocol: its name in reports, and its kind (see components.transfer.protocol)."""

    name: str
    kind: str


class FrozenConfig(BenchmarkConfig):
    """A protocol that scores frozen features, layer by layer."""

    layers: tuple[str, ...] | None = Field(None, description="layers to score; None scores every layer")
    features: int = Field(1024, ge=16, description="largest number of features a layer is pooled to")
    samples: int | None = Field(None, ge=10, description="training samples of the probe; None uses all")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the encoder; the probe itself is float32")
    recalibrate: Annotated[Literal["none", "train"], Role.LATER] = Field(
        "none", description="train: batch normalization's statistics are estimated again on up to 5000 training images"
    )


class ProbeConfig(FrozenConfig):
    """The protocol of a linear probe; it is stored beside every score."""

    name: str = "linear"
    kind: Literal["linear"] = "linear"
    penalties: Positives = Field(
        (1e-4, 1e-3, 1e-2, 1e-1),
        description="L2 penalties tried on the validation split; widened by tens where an end is best",
    )
    iterations: int = Field(100, ge=1, description="iterations of L-BFGS at most, for each penalty")


class Recipe(Config):
    """One row of the table: a task, its data, its network, its training, its weights, its benchmarks."""

    name: Annotated[str, Role.SHOWN] = Field(description="the name of the row; by default that of the file")
    summary: Annotated[str, Role.NOTE] = Field("", description="what it is, in a line")
    task: Annotated[str, Role.SHOWN] = Field(description="name of a task; see `genoise tasks`")
    options: dict[str, Any] = Field(
        default_factory=dict, description="the task's own options; see `genoise tasks NAME`"
    )
    data: DataConfig = Field(DataConfig(), description="see below")
    score_on: Annotated[DataConfig | None, Role.NOTE] = Field(
        None, description="labelled data that scores the encoder, with the keys of `data`; null: `data` itself"
    )
    encoder: EncoderConfig = Field(EncoderConfig(), description="see below")
    training: TrainingConfig = Field(TrainingConfig(), description="see below")
    weights: dict[str, float] = Field(
        default_factory=dict, description="term: weight; terms not named keep their default"
    )
    weight_changes: dict[int, dict[str, float]] = Field(
        default_factory=dict, description="step: weights that count from there on, laid over those before"
    )
    search: Annotated[dict[str, Any], Role.NOTE] = Field(
        default_factory=dict, description="key: range or choices, for `genoise sweep`"
    )
    benchmarks: Annotated[tuple[str, ...], Role.NOTE] = Field(
        ("linear",), description="names of the protocols that score the encoder"
    )
    benchmark_data: Annotated[dict[str, DataConfig], Role.NOTE] = Field(
        default_factory=dict,
        description="benchmark: data that it scores on, with the keys of `data`; others: `score_on`",
    )

    @property
    def scored(self) -> DataConfig:
        """The data that the encoder is scored on by benchmarks that have none of their own."""
        return self.score_on or self.data

    def scored_on(self, benchmark: str) -> DataConfig:
        """The data that a benchmark scores the encoder on."""
        return self.place_of(benchmark) or self.data

    def place_of(self, benchmark: str) -> DataConfig | None:
        """The same where it is named for that; None where it is `data`, as a matter of course."""
        return self.benchmark_data.get(benchmark, self.score_on)

    @property
    def places(self) -> tuple[DataConfig, ...]:
        """All data other than `data` that may score the encoder, in the order in which they are named."""
        return (*([self.score_on] if self.score_on else []), *self.benchmark_data.values())

    @model_validator(mode="before")
    @classmethod
    def _as_large(cls, values: Any) -> Any:
        """An encoder is scored at the size of its training, unless somebody says another: `_one_size` refuses that."""
        if not isinstance(values, dict):
            return values
        data = values.get("data", {})
        size = data.get("size") if isinstance(data, dict) else getattr(data, "size", None)

        def sized(place: Any) -> Any:
            return {"size": size, **place} if isinstance(place, dict) and size is not None else place

        each = values.get("benchmark_data")
        named = (
            {"benchmark_data": {name: sized(place) for name, place in each.items()}} if isinstance(each, dict) else {}
        )
        return {**values, **({"score_on": sized(values["score_on"])} if "score_on" in values else {}), **named}

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        named = {f"benchmark_data.{name}": place for name, place in self.benchmark_data.items()}
        for key, place in {"score_on": self.scored, **named}.items():
            if place.size != self.data.size:
                raise ValueError(
                    f"{key}.size={place.size}: an encoder is scored at the size of its training, "
                    f"data.size={self.data.size}: leave {key}.size out"
                )
        return self

    @model_validator(mode="after")
    def _weights(self) -> Self:
        for key, weights in [("weights", self.weights), *self.weight_changes.items()]:
            for term, weight in weights.items():
                if not math.isfinite(weight) or weight < 0:
                    where = key if key == "weights" else f"weight_changes.{key}"
                    raise ValueError(f"{where}.{term} must be a finite number of at least 0 (given: {weight})")
        return self
