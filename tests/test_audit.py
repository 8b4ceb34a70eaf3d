"""The table, audited: every figure of a small real run, recomputed from the files that it left by other software.

`audit` shares one thing with the house, the loader of encoders. Shards are read by tarfile, probes are scikit-learn's,
intervals are scipy's.
"""

import csv
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn.functional import adaptive_avg_pool2d

from components.networks.encoder import load_encoder
from infra.tracking import open_tracker
from tests.e2e.jobs import Home, sets

IMAGES = {"train": 3000, "test": 2000}
EPOCHS = 8
SETTINGS = {
    "data.validation": 0.2,
    "encoder.width": 8,
    "training.epochs": EPOCHS,
    "training.batch": 64,
    "training.probe_every": 8,
}
TOLERANCE = 0.01  # of a score in [0, 1]: two solvers that stop at 1e-5 nats of the optimum differ in a few images
DRAWN = 0.12  # of an interval: a bootstrap of 1000 samples beside the formula, of images that differ in a few

Audited = dict[
    str, list[tuple[float, float, np.ndarray]]
]  # recipe: of each seed val, test, which test images are right


def samples(shards: Path, split: str) -> tuple[torch.Tensor, np.ndarray]:
    """Images (N, 3, 32, 32) in [0, 1] and labels of a split, in the order of the shards."""
    index = json.loads((shards / "index.json").read_text())
    images, labels = [], []
    for shard in index["splits"][split]:
        with tarfile.open(shards / shard["name"]) as tar:
            members = {member.name: file.read() for member in tar if (file := tar.extractfile(member))}
        images += [np.asarray(Image.open(io.BytesIO(v)).convert("RGB")) for k, v in members.items() if "png" in k]
        labels += [int(v) for k, v in members.items() if k.endswith(".cls")]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255, np.array(labels)


def audit(home: Path, shards: Path, scores: list[dict[str, Any]]) -> Audited:
    """What the stored encoder is worth by a probe of the chosen layer at the chosen penalty."""
    tracker, found = open_tracker(home), Audited()
    data = {split: samples(shards, split) for split in ("train", "val", "test")}
    for score in scores:
        inputs = json.loads(tracker.get_run(score["run_id"]).tags["genoise.inputs"])
        run = next(run_id for label, run_id in inputs.items() if label.startswith("pretrain"))
        encoder = load_encoder(tracker.models.fetch_encoder(f"runs:/{run}/encoder", home / "cache")).eval()
        features = {}
        for split, (images, _) in data.items():
            with torch.no_grad():
                maps = encoder(images)[score["layer"]]
            side = min(int((1024 / maps.shape[1]) ** 0.5), maps.shape[2])
            features[split] = adaptive_avg_pool2d(maps, side).flatten(1).double().numpy()
        scaler = StandardScaler().fit(features["train"])
        penalty, y = score["protocol"]["layers"][score["layer"]]["penalty"], data["train"][1]
        probe = LogisticRegression(C=1 / (penalty * len(y)), max_iter=2000).fit(scaler.transform(features["train"]), y)
        val, test = (probe.predict(scaler.transform(features[k])) == data[k][1] for k in ("val", "test"))
        found.setdefault(score["recipe"], []).append((val.mean(), test.mean(), test))
    return found


def interval(values: np.ndarray) -> float:
    """Half of Student's 95 % interval; 0 for one seed."""
    return float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)) if len(values) > 1 else 0.0


def drawn(right_N: np.ndarray) -> float:
    """Half of the 95 % interval of a mean over test images."""
    return float(1.96 * right_N.std(ddof=1) / np.sqrt(len(right_N)))


Ends = tuple[np.ndarray, np.ndarray]  # of a recipe: test scores by seed, and how right each image is, mean over seeds


def shares(own: Ends, random: Ends, supervised: Ends) -> tuple[float | None, float, float, float]:
    """The share of the gap and half its interval, the gap and half its own; by seed and by image, in pairs."""
    whole, part = supervised[0] - random[0], own[0] - random[0]
    gap, share = whole.mean(), part.mean() / whole.mean()
    width = np.hypot(interval(whole), drawn(supervised[1] - random[1]))
    left = own[1] - random[1] - share * (supervised[1] - random[1])
    error = np.hypot(interval(part - share * whole), drawn(left))
    return (share if gap > width else None), error / gap, gap, width


def unpack(cifar: Path, to: Path) -> None:
    """The first images of CIFAR-10's sheets, as a folder with splits and classes."""
    with (cifar / "labels.csv").open(newline="") as rows:
        labels = {(row["sheet"], int(row["index"])): row["label"] for row in csv.DictReader(rows)}
    for split, count in IMAGES.items():
        for sheet in (f"{split}/sheet_{k:03}.webp" for k in range(count // 1000)):
            tiles = np.asarray(Image.open(cifar / sheet).convert("RGB")).reshape(25, 32, 40, 32, 3).swapaxes(1, 2)
            for k, tile in enumerate(tiles.reshape(1000, 32, 32, 3)):
                path = to / split / f"class{labels[sheet, k]}" / f"{Path(sheet).stem}-{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(tile).save(path)


def check(table: dict[str, Any], found: Audited) -> None:
    """Every figure of the table against the audit, and against the scores that it stands on."""
    stored: dict[str, list[float]] = {}
    for score in table["scores"]:
        val, test, _ = found[score["recipe"]][len(stored.setdefault(score["recipe"], []))]
        stored[score["recipe"]].append(score["value"])
        assert score["n"] == IMAGES["test"] and score["split"] == "test"
        assert test == pytest.approx(score["value"], abs=TOLERANCE)
        assert val == pytest.approx(score["layers"][score["layer"]], abs=TOLERANCE)
        tried = score["protocol"]["layers"]
        assert score["layers"] == {name: max(layer["val"].values()) for name, layer in tried.items()}
        assert score["layer"] == max(score["layers"], key=lambda name: score["layers"][name])
        assert all(layer["val"][str(layer["penalty"])] == max(layer["val"].values()) for layer in tried.values())
    measured = {
        name: (np.array(own), np.mean([right for _, _, right in found[name][: len(own)]], 0))
        for name, own in stored.items()
    }
    for row in table["rows"]:
        name = row["recipe"]
        own, right = measured[name]
        again = np.array([each[:2] for each in found[name][: len(own)]])
        assert row["seeds"] == len(own) and row["epochs"] == (0 if name in ("random", "rescaled") else EPOCHS)
        assert row["test"] == pytest.approx(100 * own.mean(), abs=0.006)
        assert [row["val"], row["test"]] == pytest.approx(100 * again.mean(0), abs=100 * TOLERANCE)
        assert row["seeds ±"] == (pytest.approx(100 * interval(own), abs=0.006) if len(own) > 1 else None)
        assert row["images ±"] == pytest.approx(100 * drawn(right), rel=DRAWN)
        assert row["±"] == pytest.approx(np.hypot(100 * interval(own), row["images ±"]), abs=0.02)
        share, error, gap, width = shares(measured[name], measured["random"], measured["supervised"])
        assert row["gap closed"] == (None if share is None else pytest.approx(share, abs=6e-4))
        by_definition = share is None or name in ("random", "supervised")
        assert row["gap ±"] == (None if by_definition else pytest.approx(error, rel=DRAWN))
        if share is None:
            said = next(re.search(r"it is (\S+) ± (\S+) points", note) for note in table["notes"] if "no gap" in note)
            assert said and [float(said[1]), float(said[2])] == pytest.approx(
                [100 * gap, 100 * width], rel=DRAWN, abs=0.06
            )


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(900)
def test_every_figure_of_the_table_is_found_again_in_the_files(shared_data: Path, tmp_path: Path) -> None:
    unpack(shared_data / "cifar10", tmp_path / "raw")
    home, shards = Home(tmp_path / "home"), tmp_path / "shards"
    places = {"data.source": "folder", "data.root": str(tmp_path / "raw"), "data.url": str(shards)}
    command = ["table", "autoencoder", "--json", "--quiet", *sets(places | SETTINGS), "--seeds"]
    try:
        two, one = (home.run(*command, seeds).last for seeds in ("2", "1"))  # the second runs nothing
    finally:
        home.end()
    found = audit(home.folder, shards, two["scores"])
    assert {row["recipe"] for row in two["rows"]} == {"random", "rescaled", "autoencoder", "supervised"} == found.keys()
    check(two, found)
    check(one, found)
    assert all(row["gap closed"] is not None for row in one["rows"]), "a gap is there to be audited"
