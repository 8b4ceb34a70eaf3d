"""The main job: source to shards, distributed pretraining, encoder, transfer score, one table; all of it in MLflow."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.networks.encoder import load_encoder
from infra.tracking import open_tracker
from tests.e2e.jobs import MAIN_JOB, Home

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("ray"), pytest.mark.timeout(900)]

MakeHome = Callable[..., Home]
ROWS = {"random", "rescaled", "context_encoder", "supervised"}


def steps(home: Home, kind: str) -> dict[str, Any]:
    """The MLflow runs of one kind of step, by label."""
    return {run.info.run_name: run for run in home.runs() if run.data.tags.get("genoise.step") == kind}


def test_the_last_line_is_the_table(main_job: tuple[Home, str]) -> None:
    _, out = main_job
    table = json.loads(out.splitlines()[-1])
    assert {row["recipe"] for row in table["rows"]} == ROWS
    assert all(0 < row["test"] < 100 and row["seeds"] == 1 for row in table["rows"])
    closed = {row["recipe"]: row["gap closed"] for row in table["rows"]}
    if closed["supervised"] is not None:
        assert (closed["random"], closed["supervised"]) == (0.0, 1.0)
    else:  # so short a training may leave no gap that is larger than chance
        assert set(closed.values()) == {None} and "the gap is within its interval" in " ".join(table["notes"])
    for score in table["scores"]:
        assert score["benchmark"] == "linear" and score["split"] == "test"
        assert score["protocol"]["config"]["penalties"] and score["layer"] in score["layers"]
    shown = [line.split()[0] for line in out.splitlines()[:-1] if line.split() and line.split()[0] in ROWS]
    assert shown == [row["recipe"] for row in table["rows"]]


def test_every_step_is_a_run_below_the_workflow(main_job: tuple[Home, str]) -> None:
    home, _ = main_job
    workflow = next(run for run in home.runs() if run.info.run_name == "table")
    below = [run for run in home.runs() if run.data.tags.get("mlflow.parentRunId") == workflow.info.run_id]
    names = sorted(run.data.tags["genoise.step"] for run in below)
    assert names == ["pretrain"] * 4 + ["transfer"] * 4  # the shards were there
    assert all(run.info.status == "FINISHED" for run in [workflow, *below])
    files = {file.path for file in home.client().list_artifacts(workflow.info.run_id)}
    assert files >= {"table.json", "table.md", "table.tex", "table.csv", "table.html", "table.png", "scores.json"}


def test_training_is_recorded(main_job: tuple[Home, str]) -> None:
    home, _ = main_job
    run = steps(home, "pretrain")["pretrain context_encoder, seed 0"]
    terms = {"l2", "adversarial", "discriminator"}
    wanted = {f"loss/{term}" for term in terms} | {"gradient_norm/generator", "gradient_norm/discriminator"}
    wanted |= {f"gradient_norm/term/{term}" for term in ("l2", "adversarial")}
    wanted |= {"images_per_second", "data_wait_share", "probe/top1"}
    assert wanted <= run.data.metrics.keys()
    history = home.client().get_metric_history(run.info.run_id, "loss/l2")
    assert [metric.step for metric in history] == [4, 8, 12, 16]
    weights = {term: float(run.data.params[f"effective_weights.{term}"]) for term in terms}
    assert weights == {"l2": 0.999, "adversarial": 0.001, "discriminator": 1.0}
    pictures = [file.path for file in home.client().list_artifacts(run.info.run_id, "images")]
    assert {int(found[1]) for path in pictures if (found := re.search(r"step\W(\d+)", path))} >= {8, 16}
    assert "task: context_encoder" in open_tracker(home.folder).read_text(run.info.run_id, "recipe.yaml")


def test_workers_that_trained_before_leave_the_same_weights_as_fresh_ones(
    main_job: tuple[Home, str], new_home: MakeHome
) -> None:
    home, _ = main_job
    trainings = [run for run in steps(home, "pretrain").values() if "images_per_second" in run.data.metrics]
    last = max(trainings, key=lambda run: run.info.start_time)
    assert len(trainings) == 2
    fresh, recipe = new_home(), last.info.run_name.removeprefix("pretrain ").split(",")[0]
    run_id = fresh.run("pretrain", recipe, "--json", "--quiet", *MAIN_JOB[3:]).last["run_id"]
    assert fresh.encoder_file(run_id) == home.encoder_file(last.info.run_id)


def test_the_encoder_is_a_model_with_its_scores(main_job: tuple[Home, str]) -> None:
    home, out = main_job
    tracker = open_tracker(home.folder)
    folder = tracker.models.fetch_encoder("models:/genoise-shapes@best", home.folder / "cache")
    encoder = load_encoder(folder)
    maps = encoder(torch.rand(2, 3, 32, 32))
    assert tuple(maps) == encoder.layers and all(map_BCHW.isfinite().all() for map_BCHW in maps.values())
    version = home.client().get_model_version_by_alias("genoise-shapes", "best")
    trained = steps(home, "pretrain")["pretrain context_encoder, seed 0"]
    assert version.run_id == trained.info.run_id
    (output,) = trained.outputs.model_outputs
    model = home.client().get_logged_model(output.model_id)
    scores = {metric.key: metric.value for metric in model.metrics}
    row = next(row for row in json.loads(out.splitlines()[-1])["rows"] if row["recipe"] == "context_encoder")
    assert 100 * scores["linear/test/top1"] == pytest.approx(row["test"], abs=0.01)
    assert 100 * scores["linear/val/top1"] == pytest.approx(row["val"], abs=0.01)


def test_the_same_command_again_reuses_every_step_without_ray(main_job: tuple[Home, str], tmp_path: Path) -> None:
    home, out = main_job
    before = len(home.runs())
    again = home.run(*MAIN_JOB, environment={"RAY_TMPDIR": str(tmp_path)})
    assert again.code == 0, again.err
    assert again.out == out
    assert len(home.runs()) == before + 1  # the workflow itself
    assert not list(tmp_path.iterdir())  # where Ray starts, it leaves its logs
