"""The rules of the house, read from every file: imports run one way, and the outside world has one door each."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ("pipelines", "components", "infra")
FILES = sorted(path.relative_to(ROOT).as_posix() for top in HOUSE for path in (ROOT / top).rglob("*.py"))
SOURCES = {path: (ROOT / path).read_text() for path in FILES}

# Third-party packages that have one door. Folders end with a slash.
DOORS = {
    "ray": ("pipelines/", "infra/cluster.py"),
    "mlflow": ("infra/tracking/",),
    "boto3": ("infra/storage/bucket.py",),
    "botocore": ("infra/storage/bucket.py",),
    "typer": ("pipelines/cli/", "pipelines/__main__.py"),
    "rich": ("pipelines/terminal.py",),
    "simplejpeg": ("components/data/",),
    "webdataset": ("components/data/sources/webdataset.py",),
}
# What the engine's machine needs: torch and a few small packages.
COMPONENTS_MAY_USE = {"torch", "numpy", "pydantic", "yaml", "safetensors", "PIL", "simplejpeg", "webdataset"}
# A file that is loaded must not be able to run code.
NEVER = {"pickle", "cPickle", "_pickle", "dill", "shelve", "marshal", "joblib"}

# Inside components, top to bottom: what a part may import of the others. The small files stand below everything.
SMALL = {"errors", "registry", "keys", "config", "draws", "parallel", "color", "losses"}
PARTS = {
    "errors": set(),
    "registry": {"errors"},
    "draws": set(),
    "parallel": set(),
    "keys": set(),
    "config": {"errors", "keys"},
    "losses": {"errors", "config"},
    "color": {"errors", "config"},
    "networks": SMALL,
    "exchange": SMALL | {"networks"},
    "data": SMALL,
    "tasks": SMALL | {"networks"},
    "engine": SMALL | {"networks", "data", "tasks"},
    "transfer": SMALL | {"networks", "data"},
    "pictures": SMALL | {"networks", "data", "tasks"},
}


def imports(path: str, source: str) -> Iterator[str]:
    """Full dotted names of everything that the file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = PurePosixPath(path).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def broken_rules(path: str, source: str) -> list[str]:
    """One sentence for every rule that the file at ``path`` (relative to the root) breaks."""
    top = path.split("/")[0]
    part = _part(path.removesuffix(".py").replace("/", "."))
    broken = []
    for name in imports(path, source):
        package = name.split(".")[0]
        if package in NEVER:
            broken.append(f"{name}: nothing here is read or written with pickle")
        if package in DOORS and not path.startswith(DOORS[package]):
            broken.append(f"{name}: only {' and '.join(DOORS[package])} may import {package}")
        if package in HOUSE and top != "pipelines" and package != top:
            broken.append(f"{name}: {top} may not import {package}")
        if package in ("tests", "benchmarks"):
            broken.append(f"{name}: the house stands without its {package}")
        if _is_task(name) and path not in (_file_of_task(name), "components/tasks/__init__.py"):
            broken.append(f"{name}: tasks are asked for by name, through components.tasks.base")
        if top != "components":
            continue
        if package == "PIL" and part != "data":
            broken.append(f"{name}: among the components only data opens image files")
        if package not in {*COMPONENTS_MAY_USE, *HOUSE, *sys.stdlib_module_names}:
            broken.append(f"{name}: components do with {', '.join(sorted(COMPONENTS_MAY_USE))}")
        if package == "components" and part and _part(name) not in {None, part, *PARTS[part]}:
            broken.append(f"{name}: components.{part} may not import components.{_part(name)}")
    return broken


def _part(name: str) -> str | None:
    """components.networks.encoder.Encoder -> networks; None for the package itself."""
    parts = name.split(".")
    if parts[0] == "components" and len(parts) > 1 and parts[1] != "__init__":
        return parts[1]
    return None


def _is_task(name: str) -> bool:
    parts = name.split(".")
    return parts[:2] == ["components", "tasks"] and len(parts) > 2 and parts[2] != "base"


def _file_of_task(name: str) -> str:
    return f"components/tasks/{name.split('.')[2]}.py"


def test_rules() -> None:
    assert not [f"{path}: {rule}" for path, source in SOURCES.items() for rule in broken_rules(path, source)]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("components/engine/engine.py", "import ray"),
        ("components/engine/engine.py", "from ray.train import report"),
        ("components/engine/engine.py", "def f():\n    import ray"),
        ("components/engine/engine.py", "import pipelines.table"),
        ("components/engine/engine.py", "from infra import storage"),
        ("components/engine/engine.py", "from components.tasks.rotation import Rotation"),
        ("components/engine/engine.py", "from components.transfer import probe"),
        ("components/networks/norm.py", "from components.tasks.base import Task"),
        ("components/networks/norm.py", "from ..tasks import base"),
        ("components/networks/norm.py", "import torchvision"),
        ("components/networks/norm.py", "from PIL import Image"),
        ("components/losses.py", "from components import networks"),
        ("components/tasks/rotation.py", "from components.data.loader import Loader"),
        ("components/tasks/rotation.py", "from components.tasks.random import Random"),
        ("components/data/reader.py", "import pickle"),
        ("infra/storage/folder.py", "import components.config"),
        ("infra/storage/folder.py", "import mlflow"),
        ("infra/storage/folder.py", "import ray"),
        ("infra/tracking/runs.py", "import boto3"),
        ("pipelines/table.py", "import mlflow"),
        ("pipelines/table.py", "from botocore.config import Config"),
        ("pipelines/table.py", "from components.tasks.rotation import Rotation"),
        ("pipelines/table.py", "from tests import conftest"),
    ],
)
def test_each_rule_can_be_broken(path: str, line: str) -> None:
    assert broken_rules(path, line)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("pipelines/table.py", "import ray.train"),
        ("pipelines/table.py", "from components.tasks.base import get_task"),
        ("pipelines/table.py", "from infra.tracking import Tracker"),
        ("infra/cluster.py", "import ray"),
        ("infra/tracking/runs.py", "from infra.errors import OutsideError"),
        ("components/engine/engine.py", "from components.tasks.base import Task"),
        ("components/tasks/rotation.py", "from components import losses\nfrom components.tasks.base import Task"),
        ("components/tasks/rotation.py", "from components.networks.encoder import build_encoder"),
        ("components/data/images.py", "from PIL import Image\nimport simplejpeg"),
    ],
)
def test_the_rules_allow_what_they_should(path: str, line: str) -> None:
    assert not broken_rules(path, line)


# The rooms of pipelines, from the ground up; a file of one imports from its own room and from those below.
ROOMS = {"workers": 0, "steps": 1, "data": 2, "tables": 2, "training": 3, "sweeps": 4, "cli": 5}


def climbs(path: str, source: str) -> list[str]:
    """The rooms above its own from which the file at ``path`` imports."""
    own = ROOMS.get(path.split("/")[1], max(ROOMS.values()))
    rooms = {name.split(".")[1] for name in imports(path, source) if name.startswith("pipelines.")}
    return [f"{path}: {room}" for room in rooms & ROOMS.keys() if ROOMS[room] > own]


def test_rooms_import_downwards() -> None:
    files = {path: source for path, source in SOURCES.items() if path.startswith("pipelines/")}
    assert len(files) > 50 and not [climb for path, source in files.items() for climb in climbs(path, source)]
    assert climbs("pipelines/steps/step.py", "from pipelines.sweeps import trials")
    assert {path.split("/")[1] for path in files if path.count("/") > 1} == ROOMS.keys()  # none is forgotten


def test_every_part_of_components_has_its_place() -> None:
    parts = {_part(path.removesuffix(".py").replace("/", ".")) for path in FILES if path.startswith("components/")}
    assert parts - {None} <= PARTS.keys()


def texts_in(source: str) -> set[str]:
    nodes = ast.walk(ast.parse(source))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_the_engine_names_no_task_and_no_fact_of_one() -> None:
    tasks = {path.stem for path in (ROOT / "components" / "tasks").glob("*.py")} - {"base", "__init__"}
    engine = {path: texts_in(source) for path, source in SOURCES.items() if path.startswith("components/engine/")}
    assert len(engine) > 5 and {path: texts & tasks for path, texts in engine.items() if texts & tasks} == {}
    assert not [text for texts in engine.values() for text in texts if re.search(r"discriminator|generator", text)]


def test_a_file_can_be_read_in_one_sitting() -> None:
    most = {"components/engine/engine.py": 320, "pipelines/__main__.py": 100}
    lines = {path: len(source.splitlines()) for path, source in SOURCES.items()}
    assert {path: count for path, count in lines.items() if count > most.get(path, 400)} == {}


def works_at_import(source: str) -> list[str]:
    """The calls whose results nobody keeps: those are work. Decorators and definitions are not."""
    body = ast.parse(source).body
    return [ast.unparse(node) for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)]


def test_no_module_works_at_import() -> None:
    assert {path: calls for path, source in SOURCES.items() if (calls := works_at_import(source))} == {}
    assert works_at_import("import os\nos.mkdir('x')") == ["os.mkdir('x')"]


def unsafe_loads(source: str) -> list[str]:
    """torch.load unpickles; with ``weights_only=True`` it cannot run what a file brings along."""
    calls = [ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call for call in calls if call.startswith("torch.load(") and "weights_only=True" not in call]


def test_weights_are_loaded_without_code() -> None:
    assert {path: calls for path, source in SOURCES.items() if (calls := unsafe_loads(source))} == {}
    assert unsafe_loads("torch.load('x')") and not unsafe_loads("torch.load('x', weights_only=True)")
