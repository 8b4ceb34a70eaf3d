"""The table, audited: every figure of a small real run, recomputed from the files that it left by other software.

`audit` shares one thing with the house, the loader of encoders. Shards are read by tarfile, probes are scikit-learn's,
intervals are scipy's.
"""

import csv
import io
import json
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


def audit(home: Path, shards: Path, scores: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """{recipe: (val, test) of every seed}: the stored encoder, a probe of the chosen layer at the chosen penalty."""
    tracker, found = open_tracker(home), dict[str, list[tuple[float, float]]]()
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
        both = (probe.score(scaler.transform(features[split]), data[split][1]) for split in ("val", "test"))
        found.setdefault(score["recipe"], []).append((next(both), next(both)))
    return found


def interval(values: np.ndarray) -> float:
    """Half of Student's 95 % interval; 0 for one seed."""
    return float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)) if len(values) > 1 else 0.0


def shares(
    own: np.ndarray, random: np.ndarray, supervised: np.ndarray, n: int
) -> tuple[float | None, float, float, float]:
    """The share of the gap and half its interval, the gap and half its own; from test scores by seed."""
    gap, share = (supervised - random).mean(), (own - random).mean() / (supervised - random).mean()
    drawn = [1.96**2 * p * (1 - p) / (n + 2) for p in ((s.mean() * n + 1) / (n + 2) for s in (own, random, supervised))]
    width = np.sqrt(interval(supervised - random) ** 2 + drawn[1] + drawn[2])
    error = np.sqrt(
        interval(own - random - share * (supervised - random)) ** 2
        + drawn[0] + (1 - share) ** 2 * drawn[1] + share**2 * drawn[2]
    )  # fmt: skip
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


def check(table: dict[str, Any], found: dict[str, list[tuple[float, float]]]) -> None:
    """Every figure of the table against the audit, and against the scores that it stands on."""
    stored: dict[str, list[float]] = {}
    for score in table["scores"]:
        val, test = found[score["recipe"]][len(stored.setdefault(score["recipe"], []))]
        stored[score["recipe"]].append(score["value"])
        assert score["n"] == IMAGES["test"] and score["split"] == "test"
        assert test == pytest.approx(score["value"], abs=TOLERANCE)
        assert val == pytest.approx(score["layers"][score["layer"]], abs=TOLERANCE)
        tried = score["protocol"]["layers"]
        assert score["layers"] == {name: max(layer["val"].values()) for name, layer in tried.items()}
        assert score["layer"] == max(score["layers"], key=lambda name: score["layers"][name])
        assert all(layer["val"][str(layer["penalty"])] == max(layer["val"].values()) for layer in tried.values())
    random, supervised = (np.array(stored[end]) for end in ("random", "supervised"))
    for row in table["rows"]:
        name = row["recipe"]
        own, again = np.array(stored[name]), np.array(found[name][: len(stored[name])])
        assert row["seeds"] == len(own) and row["epochs"] == (0 if name in ("random", "rescaled") else EPOCHS)
        assert row["test"] == pytest.approx(100 * own.mean(), abs=0.006)
        assert [row["val"], row["test"]] == pytest.approx(100 * again.mean(0), abs=100 * TOLERANCE)
        assert row["±"] == (pytest.approx(100 * interval(own), abs=0.006) if len(own) > 1 else None)
        share, error, gap, width = shares(own, random, supervised, IMAGES["test"])
        assert row["gap closed"] == (None if share is None else pytest.approx(share, abs=6e-4))
        by_definition = share is None or name in ("random", "supervised")
        assert row["gap ±"] == (None if by_definition else pytest.approx(error, abs=6e-4))
        if share is None:
            assert any(f"{100 * gap:+.1f} ± {100 * width:.1f} points" in note for note in table["notes"])


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
