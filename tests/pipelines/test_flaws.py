"""200 small folders, tars and recipes with one flaw each: each comes out right, or is refused in one line, or the
culprit is left out and named. None ends in a traceback, and none passes in silence."""

from pathlib import Path

import numpy as np
import pytest

from components.config import DataConfig
from components.data.dataset import ShardedDataset
from components.data.foreign_tars import index_of, look_into
from components.data.shards import Index
from components.data.sources.base import open_source
from components.errors import UserError
from pipelines.__main__ import run
from tests.components.data.conftest import prepare_into
from tests.pipelines.flaws import Outcome, Picture, Tars, flawed_folder, flawed_recipe, flawed_tars

FOLDERS, TARS, RECIPES = 90, 60, 50
CONFIG = DataConfig(size=12, max_skipped=0.5, validation=0.2)


def config_of(outcome: Outcome, **values: object) -> DataConfig:
    given = dict(option.removeprefix("data.").split("=", 1) for option in outcome.options)
    return DataConfig.model_validate({**CONFIG.model_dump(), **values, **given})


def check(flaw: str, outcome: Outcome, error: UserError | None, report: str) -> None:
    """The error is one line that names the culprit; or there is none, and the culprit stands in the report."""
    said = str(error) if error else report
    if outcome.refused:
        assert error, f"{flaw}: passed, and should have been refused"
        assert "\n" not in said, flaw
    else:
        assert not error, f"{flaw}: {error}"
    for text in outcome.refused or outcome.named:
        assert text in said, f"{flaw}: {text!r} is not named in {said!r}"


def check_samples(flaw: str, folder: Path, index: Index, truth: list[Picture]) -> None:
    """Every picture is there once, in its split, with its class; and nothing else is."""
    found = []
    for split in index.splits:
        fields = tuple(field for field in ("image", "label") if field in index.fields)
        data = ShardedDataset(index, split, lambda name: folder / name, 12, fields, max_replaced=1)
        batch = data.get(np.arange(len(data), dtype=np.int64))
        greys = batch["image"].float().mean((1, 2, 3)).round().int().tolist()
        labels = [index.classes[label] for label in batch["label"].tolist()] if "label" in batch else [None] * len(data)
        found += [(grey, label, split) for grey, label in zip(greys, labels, strict=True)]
    assert sorted(grey for grey, *_ in found) == pytest.approx(sorted(p.grey for p in truth), abs=1), flaw
    for grey, label, split in found:
        true = min(truth, key=lambda picture: abs(picture.grey - grey))
        assert label == true.label, f"{flaw}: {true} came out with class {label}"
        assert split == true.split or (true.split is None and split in ("train", "val")), (
            f"{flaw}: {true} is in {split}"
        )


@pytest.mark.parametrize("seed", range(FOLDERS))
def test_folders(tmp_path: Path, home: Path, seed: int) -> None:
    flaw, laid, outcome = flawed_folder(tmp_path / "raw", seed)
    config = config_of(outcome, source="folder", root=str(tmp_path / "raw"))
    error, report = None, ""
    try:
        source = open_source(config)
        index = prepare_into(config, tmp_path / "shards")
        report = f"{source.passed_over.in_words()} {index.left_out} {[skip.name for skip in index.skipped]}"
        check_samples(flaw, tmp_path / "shards", index, list(laid.pictures.values()))
    except UserError as caught:
        error = caught
    check(flaw, outcome, error, report)


@pytest.mark.parametrize("seed", range(TARS))
def test_tars(tmp_path: Path, seed: int) -> None:
    flaw, tars, outcome = flawed_tars(tmp_path / "tars", seed)
    config = config_of(outcome, source="shards", url=str(tmp_path / "tars"))
    error, report = None, ""
    try:
        facts = [look_into(path, path.name) for path in sorted((tmp_path / "tars").glob("*.tar"))]
        index = index_of(facts, config, str(tmp_path / "tars"))
        report = check_tars(flaw, tmp_path / "tars", index, tars, outcome)
    except UserError as caught:
        error = caught
    check(flaw, outcome, error, report)


def check_tars(flaw: str, folder: Path, index: Index, tars: Tars, outcome: Outcome) -> str:
    """As `check_samples`, of every sample that is not the culprit; what was replaced, in words."""
    replaced: dict[str, str] = {}
    for split in index.splits:
        data = ShardedDataset(index, split, lambda name: folder / name, 12, ("image", "label"), max_replaced=1)
        for place in range(len(data)):
            key = data.key(place)
            batch = data.get(np.array([place]))
            if key not in tars.pictures and key.rpartition("/")[2] not in tars.pictures:
                continue
            true = tars.pictures.get(key) or tars.pictures[key.rpartition("/")[2]]
            grey = round(float(batch["image"].float().mean()))
            assert abs(grey - true.grey) <= 1, f"{flaw}: {key} is {grey}, not {true.grey}"
            assert index.classes[int(batch["label"])] == true.label, f"{flaw}: class of {key}"
            assert true.split in (split, None), f"{flaw}: {key} is in {split}"
        replaced |= data.replaced
    total = sum(index.samples(split) for split in index.splits)
    assert total == len(tars.pictures) + len(outcome.named), f"{flaw}: {total} samples"
    return str(replaced)


@pytest.mark.parametrize("seed", range(RECIPES))
def test_recipes(tmp_path: Path, home: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    line, outcome = flawed_recipe(tmp_path / "recipe.yaml", seed)
    code = run(["pretrain", str(tmp_path / "recipe.yaml"), "--dry-run"])
    out, err = capsys.readouterr()
    assert code == 2 and not out and err.count("\n") == 1, f"{line}: {code} {out} {err}"
    for text in outcome.refused:
        assert text in err, f"{line}: {text!r} is not named in {err!r}"
    assert not home.exists()
