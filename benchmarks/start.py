"""How long a training takes until its first step: the first one of a command, those after it, the trials of a sweep.

    python -m benchmarks.start [--rounds 2] [--json]

Commands in fresh homes that hold the same shards. From the start of a training's MLflow run to its first log line;
of the first training, from the start of the command. One training at a time: each has all cores.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra import machine
from infra.tracking import open_tracker

RECIPES = ["rotation", "autoencoder", "context_encoder", "colorization"]
SETTINGS: dict[str, Any] = {
    "data.samples": 2000,
    "encoder.width": 8,
    "training.batch": 64,
    "training.epochs": 1,
    "training.log_every": 1,
    "training.workers": 1,
    "training.cpus": machine.cores(),
}
SETS = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
COMMANDS = {
    "table": ["table", *RECIPES, "--seeds", "1", *SETS],
    "sweep": ["sweep", "context_encoder", "--searcher", "random", "--trials", "3", "--seeds", "0", *SETS],
}


def run(home: Path, *arguments: str) -> float:
    """Run a command in ``home``; returns when it began, in seconds since 1970."""
    began = time.time()
    command = [sys.executable, "-m", "pipelines", *arguments, "--home", str(home), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return began


def first_steps(home: Path) -> list[tuple[float, float]]:
    """(when its run began, when its first step was logged) of every training, in seconds, in their order."""
    client = open_tracker(home).client
    runs: list[Any] = client.search_runs([each.experiment_id for each in client.search_experiments()])
    found = []
    for each in runs:
        losses = [key for key in each.data.metrics if key.startswith("loss/")]
        if each.data.tags.get("genoise.step") == "pretrain" and losses:
            history = client.get_metric_history(each.info.run_id, losses[0])
            found.append((each.info.start_time / 1000, min(metric.timestamp for metric in history) / 1000))
    return sorted(found)


def measure(prepared: Path, name: str) -> dict[str, list[float]]:
    """Seconds until the first step, of a command in a fresh home: of its first training, and of those after it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(shutil.copytree(prepared, Path(folder) / "home"))
        began = run(home, *COMMANDS[name])
        (_, first), *others = first_steps(home)
        return {"first": [first - began], "further": [step - start for start, step in others]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the commands and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    found: dict[str, dict[str, list[float]]] = {name: {"first": [], "further": []} for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "home"
        run(prepared, "prepare", "shapes", "--set", f"data.samples={SETTINGS['data.samples']}")
        for _ in range(asked.rounds):
            for name in COMMANDS:
                for which, seconds in measure(prepared, name).items():
                    found[name][which] += seconds
    for name, each in found.items():
        for which, seconds in each.items():
            middle = statistics.median(seconds)
            if asked.json:
                facts = {"command": name, "training": which, "seconds": round(middle, 2), "n": len(seconds)}
                facts |= {"least": round(min(seconds), 2), "most": round(max(seconds), 2)}
                print(json.dumps({"benchmark": "start", **facts}))
            else:
                spread = f"{min(seconds):.1f} to {max(seconds):.1f}, {len(seconds)} trainings"
                print(f"{name:6} {which:8} {middle:6.1f} s to the first step ({spread})")


if __name__ == "__main__":
    main()
