"""Recipes: short YAML files that name a row of the table. The built-in ones lie in the folder beside this file.

A recipe may say ``extends: other`` (a built-in name, or a path from its own folder) and then states only what differs.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import create_model

from components.config import BenchmarkConfig, Config, DataConfig, Recipe
from components.errors import UserError, unknown
from pipelines.recipe_parts import check_parts

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")  # a number in YAML 1.2, a text in YAML 1.1
BUILT_IN = Path(__file__).with_name("recipes")
BASE = "base"  # what the built-in recipes share; not a recipe itself
LARGE_IMAGES = 96  # from this side on, an encoder starts as published; below, with a stem for small images

DEMO = ("random", "rescaled", "rotation", "colorization", "context_encoder", "supervised")
# Small enough for two cores and five minutes: what it shows is the job, not how good a task can be.
DEMO_SETTINGS = (
    "data.samples=4000",
    "encoder.width=16",
    "training.workers=2",
    "training.batch=64",
    "training.epochs=5",
    "training.probe_every=2.5",
)


def demo_settings(cores: int) -> tuple[str, ...]:
    """The demo's settings on so many cores: its two workers, or one where there is no core for a second."""
    return DEMO_SETTINGS if cores > 1 else (*DEMO_SETTINGS, "training.workers=1")


class Places(Config):
    """What `genoise prepare` and `genoise transfer` can be told with ``--set``."""

    data: DataConfig = DataConfig()
    benchmark: BenchmarkConfig


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-3 as a number, as people mean it, and refuses a key that is there twice."""

    yaml_implicit_resolvers = {
        first: [*resolvers, ("tag:yaml.org,2002:float", _EXPONENT)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def recipes() -> tuple[str, ...]:
    """The names of the built-in recipes."""
    return tuple(sorted(path.stem for path in BUILT_IN.glob("*.yaml") if path.stem != BASE))


def comparable() -> tuple[str, ...]:
    """The built-in recipes with the data and the network that most share: as rows they differ by their task alone."""
    loaded = {name: load_recipe(name) for name in recipes()}
    shared = loaded["random"]
    return tuple(name for name, each in loaded.items() if (each.data, each.encoder) == (shared.data, shared.encoder))


def load_recipe(
    name_or_path: str, overrides: Sequence[str] = (), on: str | None = None, benchmarks: Sequence[str] = ()
) -> Recipe:
    """A built-in recipe by its name, or the recipe in a .yaml file, with ``key=value`` texts laid over it.

    Keys are dotted (``training.epochs``), values are YAML. ``on``: a place (see `data_at`) whose images score the
    encoder, whatever places the recipe names. ``benchmarks``: names, or ``NAME=PLACE``, instead of the recipe's own.
    Raises UserError for an unknown recipe or key, and for a value out of its range. What only the task can judge is
    left to `check_recipe`.
    """
    path = _find(name_or_path, Path(), recipes())
    read = _read(path)
    placed: dict[str, Any] = {"score_on": data_at(on), "benchmark_data": {}} if on is not None else {}
    if benchmarks:
        asked = places_of(benchmarks)
        named = {name: data_at(place) for name, place in asked.items() if place}
        own = (read | placed).get("benchmark_data") or {}
        placed |= {
            "benchmarks": [*asked],
            "benchmark_data": {**own, **named} if isinstance(own, dict) else own,
        }
    values = _overridden({"name": path.stem, **read, **placed}, overrides)
    try:
        return _with_stem(Recipe.parse(values), values)
    except UserError as error:
        raise _in_its_file(error, path, _plain) from None


def places_of(benchmarks: Sequence[str]) -> dict[str, str]:
    """{benchmark: place} of ``NAME`` and ``NAME=PLACE``, several of them with commas between; no place is "".

    Raises UserError for a name that is none, is there twice, or is followed by nothing.
    """
    from components.transfer.protocol import get_protocol

    found: dict[str, str] = {}
    for text in (part.strip() for each in benchmarks for part in each.split(",")):
        name, equals, place = text.partition("=")
        if not name or bool(equals) != bool(place):
            raise UserError(
                f"benchmarks {','.join(benchmarks)}: {text!r} must be NAME or NAME=PLACE, such as "
                "linear,detection=voc:./cells"
            )
        if get_protocol(name).name in found:
            raise UserError(f"benchmark {name!r} is there twice: scores of one benchmark are of one data set")
        found[name] = place
    return found


def load_recipes(
    names_or_paths: Sequence[str],
    overrides: Sequence[str] = (),
    on: str | None = None,
    benchmarks: Sequence[str] = (),
) -> list[Recipe]:
    """Several recipes, each checked by its task; raises UserError, also where two have the same name."""
    loaded: dict[str, Recipe] = {}
    said: dict[str, str] = {}
    for name_or_path in names_or_paths:
        recipe = load_recipe(name_or_path, overrides, on, benchmarks)
        if recipe.name in loaded:
            raise UserError(
                f"two recipes are called {recipe.name!r}: give one of them another `name`, or leave it out "
                f"(they are {said[recipe.name]} and {name_or_path})"
            )
        said[recipe.name] = name_or_path
        try:
            loaded[recipe.name] = check_recipe(recipe)
        except UserError as error:
            path = _find(name_or_path, Path(), recipes())
            named = _in_its_file(error, path, lambda file: check_recipe(_plain(file)))
            where = f"recipe {recipe.name!r}: " if len(names_or_paths) > 1 and named is error else ""
            raise UserError(f"{where}{named}") from None
    return list(loaded.values())


def check_recipe(recipe: Recipe) -> Recipe:
    """Ask the task what the recipe alone cannot know: options, terms, players, network, benchmarks, search; UserError.

    Returns the recipe as it will run: a task without players trains nothing, whatever the recipe says.
    """
    from components.networks.encoder import build_encoder
    from components.transfer.protocol import check_benchmark, get_protocol

    parts = check_parts(recipe)
    encoder = build_encoder(recipe.encoder)
    for benchmark in recipe.benchmarks:
        check_benchmark(get_protocol(benchmark), encoder)
    for benchmark in recipe.benchmark_data:
        get_protocol(benchmark)
    if recipe.search:
        from pipelines.sweeps.space import space_of

        space_of(recipe, parts.terms)
    if parts.players:
        return recipe
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": 0.0})})


def write_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every key written out; `load_recipe` reads it back as the same recipe."""
    values = recipe.model_dump(mode="json")
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120).rstrip()


def load_places(
    source: str | None = None,
    root: str | None = None,
    url: str | None = None,
    benchmark: str = "linear",
    overrides: Sequence[str] = (),
    splits: str | None = None,
    on: str | None = None,
) -> Places:
    """Data and benchmark for commands that take no recipe; what is not given is what the built-in recipes share.

    ``on``: a place (see `data_at`) instead of ``source`` and ``root``.
    """
    from components.transfer.protocol import get_protocol

    places = {"source": source, "root": root, "url": url, "splits": splits}
    given = {key: value for key, value in places.items() if value is not None}
    shared = _read(BUILT_IN / f"{BASE}.yaml").get("data", {})
    given |= data_at(on) if on is not None else {}
    protocol = get_protocol(benchmark)
    asked = create_model("Places", __base__=Places, benchmark=(type(protocol), protocol))  # with the keys of its kind
    return asked.parse(_overridden({"data": {**shared, **given}, "benchmark": protocol.model_dump()}, overrides))


def _plain(path: Path) -> Recipe:
    """The recipe in a file as it is, with nothing laid over it."""
    values = {"name": path.stem, **_read(path)}
    return _with_stem(Recipe.parse(values), values)


def _in_its_file(error: UserError, path: Path, load: Callable[[Path], Recipe]) -> UserError:
    """``error`` with the name of the file that it comes from: of ``path``, or of one that it extends.

    The very same error where no file has it alone: then it is about what was laid over it, or a built-in recipe.
    """
    files = [file for file in _family(path) if file.parent != BUILT_IN]
    if "field required" in str(error):  # what a recipe lacks is for the last one to say
        files = files[-1:]
    for file in files:
        try:
            load(file)
        except UserError as alone:
            if str(alone).removeprefix(f"{file}: ") == str(error):
                return UserError(f"{file}: {error}")
    return error


def _family(path: Path) -> list[Path]:
    """The files that a recipe is made of, the one that extends no other first. All of them could be read."""
    parent = yaml.load(path.read_text(encoding="utf-8"), _Loader).get("extends")
    return [*(_family(_parent(path, parent)) if parent is not None else ()), path]


def _parent(path: Path, parent: object) -> Path:
    """The file that ``path`` extends; raises UserError, which names ``path``."""
    try:
        return _find(str(parent), path.parent, (BASE, *recipes()))
    except UserError as error:
        raise UserError(f"{path}: extends: {error}") from None


def data_at(place: str) -> dict[str, str]:
    """The keys of ``data`` for what lies at a place: shards in a folder or bucket, else raw images or an archive.

    ``SOURCE:PATH`` says which source reads it, ``shapes`` alone names one that needs no place. Raises UserError.
    """
    from components.data.foreign_tars import NAME
    from components.data.sources.base import all_sources

    source, colon, path = place.partition(":")
    if source in ("shards", *all_sources()) and (colon or not Path(place).exists()):
        return {"source": source} | ({"url" if source == "shards" else "root": path} if path else {})
    if place.startswith("s3://"):
        return {"source": "shards", "url": place}
    at = Path(place).expanduser()
    if not at.exists():
        names = ", ".join(all_sources())
        raise UserError(
            f"nothing at {place}: a folder of images or of shards, an archive, s3://bucket/prefix, or SOURCE:PATH "
            f"would be right (sources are {names})"
        )
    if at.is_dir() and any(path.name == "index.json" or NAME.fullmatch(path.name) for path in at.iterdir()):
        return {"source": "shards", "url": str(at)}
    return {"source": "folder", "root": str(at)}


def _find(name_or_path: str, folder: Path, names: Iterable[str]) -> Path:
    if name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path:
        path = folder / name_or_path
        if not path.is_file():
            raise UserError(
                f"no recipe file at {path}: give the path of a .yaml file, or one of {', '.join(recipes())}"
            )
        return path
    if name_or_path not in names:
        raise unknown("recipe", name_or_path, names)
    return BUILT_IN / f"{name_or_path}.yaml"


def _read(path: Path, readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's values laid over those of the recipes that it extends."""
    if path.resolve() in readers:
        raise UserError(f"{path}: extends itself, by way of {', '.join(reader.name for reader in readers)}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}, line {line}: not valid YAML: {error.problem}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe is `key: value` lines, such as `task: rotation`")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    inherited = _read(_parent(path, parent), (*readers, path.resolve()))
    own_to_each = {"name", "summary"}
    return _merged({key: value for key, value in inherited.items() if key not in own_to_each}, values)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``: sections are merged key by key, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _overridden(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {text!r}: must be key=value, for example --set training.epochs=2")
        try:
            nested = yaml.load(value, _Loader)
        except yaml.YAMLError:
            raise UserError(f"--set {text!r}: the value is not valid YAML; put quotes around a text") from None
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        values = _merged(values, nested)
    return values


def _with_stem(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Choose the encoder's stem by the size of the images, unless the recipe says one."""
    if "stem" in (values.get("encoder") or {}):
        return recipe
    stem = "small" if recipe.data.size < LARGE_IMAGES else "large"
    return recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"stem": stem})})
