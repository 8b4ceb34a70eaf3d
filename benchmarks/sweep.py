"""A sweep against as many plain trainings, one after another, on the same cores; and where the sweep's time goes.

    python -m benchmarks.sweep [--trials 6] [--json]

Both sides are commands in fresh homes that hold the same shards: `genoise sweep` with random weights and no verdict,
and `genoise pretrain` once for each training that the sweep ran. What a sweep does beyond training (scores on
validation, proposals, the page) is counted on its side.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from infra.tracking import open_tracker

RECIPE = "context_encoder"
SETTINGS: dict[str, Any] = {
    "data.samples": 8000,
    "encoder.width": 16,
    "training.batch": 64,
    "training.epochs": 3,
    "training.probe_every": 0.5,
    "training.precision": "bf16",
}
SETS = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]


def run(home: Path, *arguments: str) -> float:
    """Seconds of a command in ``home``."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "pipelines", *arguments, "--home", str(home), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def spent(home: Path) -> dict[str, float]:
    """Mean seconds of a trial's parts: its training loop, what Ray Train needs around it, the score on validation."""
    client = open_tracker(home).client
    runs: list[Any] = client.search_runs([each.experiment_id for each in client.search_experiments()])
    seconds: dict[str, list[float]] = {"loop": [], "around the loop": [], "validation": []}
    for each in runs:
        whole = (each.info.end_time - each.info.start_time) / 1000
        if each.data.tags.get("genoise.step") == "validate":
            seconds["validation"].append(whole)
        elif "images_per_second" in each.data.metrics:
            history = client.get_metric_history(each.info.run_id, "images_per_second")
            speed = statistics.mean(metric.value for metric in history)
            loop = SETTINGS["data.samples"] * SETTINGS["training.epochs"] / speed
            seconds["loop"].append(loop)
            seconds["around the loop"].append(whole - loop)
    return {name: statistics.mean(values) for name, values in seconds.items()}


def main(arguments: list[str]) -> None:
    """Run both sides once, the plain trainings first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=6, help="of the sweep; it trains the published weights as well")
    parser.add_argument("--json", action="store_true", help="the figures as JSON in the last line")
    options = parser.parse_args(arguments)
    trainings = options.trials + 1
    with tempfile.TemporaryDirectory() as folder:
        plain, swept = Path(folder, "plain"), Path(folder, "swept")
        run(plain, "prepare", "shapes", "--set", f"data.samples={SETTINGS['data.samples']}")
        shutil.copytree(plain, swept)
        one_by_one = sum(run(plain, "pretrain", RECIPE, *SETS, "--set", f"training.seed={k}") for k in range(trainings))
        trials = ["--trials", str(options.trials), "--searcher", "random", "--seeds", "0"]
        sweep = run(swept, "sweep", RECIPE, *SETS, *trials)
        parts = spent(swept)
    ratio = sweep / one_by_one
    figures = {"trainings": trainings, "plain_s": one_by_one, "sweep_s": sweep, "ratio": ratio, **parts}
    print(f"{trainings} trainings one after another {one_by_one:.0f} s, the sweep {sweep:.0f} s: {ratio:.2f}")
    print("of a trial: " + ", ".join(f"{name} {value:.1f} s" for name, value in parts.items()))
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
