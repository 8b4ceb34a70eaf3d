"""A trained task as files: it comes back bit for bit, without pickle, and what is wrong with them is said."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from components.config import EncoderConfig
from components.errors import UserError
from components.networks.encoder import build_encoder, save_encoder
from components.tasks.base import build_task
from infra.errors import OutsideError
from infra.local import Server
from infra.storage import open_storage
from infra.tracking import Tracker
from pipelines.session import Session
from pipelines.training.task_files import RECIPE_FILE, TASK_FILE, fetch_task, load_task, recipe_of, save_task
from tests.pipelines.trained import CLASSES, SIZE, trained


def test_every_weight_comes_back(tmp_path: Path) -> None:
    folder = trained(tmp_path, "context_encoder")
    found = load_task(folder)
    wanted = build_task("context_encoder", {}, found.recipe.encoder, SIZE, CLASSES, seed=1).state_dict()
    state = found.task.state_dict()
    assert state.keys() == wanted.keys() and any(key.startswith("discriminator") for key in state)
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    assert (found.classes, found.side, found.task.training) == (CLASSES, SIZE, False)


def test_networks_may_share_weights(tmp_path: Path) -> None:
    task = build_task("autoencoder", {}, load_task(trained(tmp_path, "autoencoder")).recipe.encoder, SIZE, 0, seed=2)
    task.again = task.get_submodule("trunk")
    task.turned = nn.Parameter(torch.arange(6.0).view(2, 3).T)
    save_task(task, 0, tmp_path)
    found = load_file(tmp_path / TASK_FILE)
    assert torch.equal(found["turned"], task.turned)
    assert sum(key.startswith("again.") for key in found) == sum(key.startswith("trunk.") for key in found)


def test_an_encoder_that_judged_the_training_is_not_needed(tmp_path: Path) -> None:
    save_encoder(build_encoder(EncoderConfig(width=4)), tmp_path / "judge")
    folder = trained(tmp_path / "task", "super_resolution", perceptual=tmp_path / "judge")
    assert any(key.startswith("judge.") for key in load_file(folder / TASK_FILE))
    shutil.rmtree(tmp_path / "judge")
    found = load_task(folder).task.state_dict()
    saved = load_file(folder / TASK_FILE)
    assert found.keys() == {key for key in saved if not key.startswith("judge.")}
    assert all(torch.equal(value, saved[key]) for key, value in found.items())


def test_other_sizes_where_the_networks_allow_it(tmp_path: Path) -> None:
    assert load_task(trained(tmp_path / "free", "colorization"), side=64).side == 64
    with pytest.raises(UserError, match="bound to the 16 pixels"):
        load_task(trained(tmp_path / "bound", "context_encoder"), side=64)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    folder = trained(tmp_path, "autoencoder")
    whole = (folder / TASK_FILE).read_bytes()
    (folder / TASK_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_task(folder)
    save_file({"a": torch.zeros(1)}, folder / TASK_FILE)
    with pytest.raises(UserError, match="has format None"):
        load_task(folder)
    trained(tmp_path / "other", "colorization")
    (folder / TASK_FILE).write_bytes((tmp_path / "other" / TASK_FILE).read_bytes())
    with pytest.raises(UserError, match="does not fit"):
        load_task(folder)


def test_only_the_data_of_a_trained_run_can_be_overruled(tmp_path: Path) -> None:
    folder = trained(tmp_path, "autoencoder")
    assert recipe_of(folder, ["data.root=elsewhere"]).data.root == "elsewhere"
    with pytest.raises(UserError, match=r"only data\.\*"):
        recipe_of(folder, ["training.epochs=2"])
    with pytest.raises(UserError, match="'random' makes no pictures"):
        recipe_of(trained(tmp_path / "baseline", "random"))


def test_a_run_hands_out_its_task(tmp_path: Path, empty_store: Path, home: Path) -> None:
    folder = trained(tmp_path / "files", "autoencoder")
    session = Session(home)
    with pytest.raises(UserError, match="no runs in"):
        fetch_task("runs:/0123abcd", session)
    assert not home.exists()
    home.mkdir()
    (home / "mlflow.db").write_bytes((empty_store / "mlflow.db").read_bytes())
    tracker = Tracker(f"sqlite:///{home}/mlflow.db", home / "mlartifacts")
    run_id = tracker.start_run("pretrain")
    with pytest.raises(OutsideError, match=f"has no {TASK_FILE}"):
        fetch_task(f"runs:/{run_id}", session)
    for name in (TASK_FILE, RECIPE_FILE):
        tracker.log_artifacts(run_id, folder / name)
    for uri in (f"runs:/{run_id}", f"runs:/{run_id}/encoder", str(folder), f"file://{folder}"):
        assert (fetch_task(uri, session) / TASK_FILE).read_bytes() == (folder / TASK_FILE).read_bytes()
    with pytest.raises(OutsideError, match="not found"):
        fetch_task("runs:/0123abcd", session)
    for nowhere in (str(home), "models:/genoise-shapes@best"):  # a model is an encoder, without the task's networks
        with pytest.raises(UserError, match="no trained task at"):
            fetch_task(nowhere, session)


@pytest.mark.xdist_group("s3")
def test_a_bucket_hands_out_a_task(tmp_path: Path, s3: Server, home: Path) -> None:
    folder, url = trained(tmp_path / "files", "autoencoder"), f"s3://shards/{tmp_path.name}"
    with pytest.raises(UserError, match=f"no trained task at {url}"):
        fetch_task(url, Session(home))
    for name in (TASK_FILE, RECIPE_FILE):
        open_storage(url).upload(folder / name, name)
    assert load_task(fetch_task(url, Session(home))).recipe.task == "autoencoder"
