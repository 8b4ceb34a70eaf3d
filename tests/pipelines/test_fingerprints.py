"""Fingerprints stay: what was finished before the code was rearranged is reused after it.

The values in fingerprints.json were written by the code of commit aa5868b, before `pipelines/` got its rooms. Where a
step's result changes on purpose, its version is raised, and the file is written anew with the reason in the commit:
`python -m tests.pipelines.test_fingerprints`.
"""

import json
import os
from base64 import b64decode
from pathlib import Path
from tempfile import mkdtemp

import pytest

from components.transfer.protocol import get_protocol
from pipelines import table
from pipelines.pretrain import pretrain_step
from pipelines.recipes import load_recipe, load_recipes, recipes
from pipelines.session import Session
from pipelines.sweep import search_step, verdict_step
from pipelines.sweeps.config import make_sweep
from pipelines.transfer import transfer_step

KNOWN = Path(__file__).with_name("fingerprints.json")
SCENES = ("data.samples=1000",)
# The folders of recipes that have a source of their own: always the same files, with the same times.
FOLDERS = {"unpaired": ("trainA", "trainB", "testA", "testB"), "pairs": ("train", "val", "test")}
PNG = b64decode("iVBORw0KGgoAAAANSUhEUgAAABAAAAAIAQAAAAATUd2zAAAADklEQVR4nGP4f4DhPwMYAwAqUAX7KTNUkwAAAABJRU5ErkJggg==")


def raw_images(folder: Path, source: str) -> tuple[str, ...]:
    """Lays images out as ``source`` wants them; the settings by which a recipe finds them."""
    for split in FOLDERS.get(source, ()):
        for number in range(200):
            path = folder / source / split / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(PNG)
            os.utime(path, ns=(10**18, 10**18))
    return (f"data.root={folder / source}",) if source in FOLDERS else SCENES


def of_recipe(name: str, folder: Path) -> dict[str, str]:
    """The fingerprints of a recipe's training, and of its score where the images have labels."""
    source = load_recipe(name).data.source
    recipe = load_recipe(name, raw_images(folder, source))
    trained = pretrain_step(recipe)
    found = {"prepare": trained.inputs[0].fingerprint, "pretrain": trained.fingerprint}
    if source not in FOLDERS:
        found["transfer"] = transfer_step(recipe, get_protocol(recipe.benchmarks[0])).fingerprint
    return found


def of_table(folder: Path) -> list[str]:
    chosen = load_recipes(["rotation", "bigan"], SCENES)
    return [planned.fingerprint for planned in table.plan(chosen, 2, Session(folder, dry_run=True))]


def of_sweep(*names: str) -> list[str]:
    chosen = load_recipes(names, SCENES)
    wanted = make_sweep(chosen, len(names) > 1, None, "tpe", "none", [], 4, None, 0)
    search = search_step(wanted)
    return [search.fingerprint, verdict_step(wanted, search, 3).fingerprint]


def everything(folder: Path) -> dict[str, object]:
    return {
        "recipes": {name: of_recipe(name, folder) for name in recipes()},
        "table": of_table(folder),
        "sweep": of_sweep("context_encoder"),
        "universal": of_sweep("context_encoder", "bigan"),
    }


@pytest.mark.parametrize("name", json.loads(KNOWN.read_text())["recipes"] if KNOWN.exists() else [])
def test_a_recipe_has_the_fingerprints_that_it_had(name: str, tmp_path: Path) -> None:
    assert of_recipe(name, tmp_path) == json.loads(KNOWN.read_text())["recipes"][name]


def test_no_recipe_is_missing() -> None:
    assert [*json.loads(KNOWN.read_text())["recipes"]] == [*recipes()]


def test_a_table_has_the_fingerprints_that_it_had(tmp_path: Path) -> None:
    assert of_table(tmp_path) == json.loads(KNOWN.read_text())["table"]


@pytest.mark.parametrize(
    ("kind", "names"), [("sweep", ["context_encoder"]), ("universal", ["context_encoder", "bigan"])]
)
def test_a_sweep_has_the_fingerprints_that_it_had(kind: str, names: list[str]) -> None:
    assert of_sweep(*names) == json.loads(KNOWN.read_text())[kind]


if __name__ == "__main__":
    KNOWN.write_text(json.dumps(everything(Path(mkdtemp())), indent=1) + "\n")
