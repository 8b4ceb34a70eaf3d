"""MLflow through the tracker: a real sqlite store, a real server, and servers that do not do their part."""

import json
import pickle
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.errors import OutsideError
from infra.local import Server, free_port, serve_mlflow
from infra.tracking import (
    FINGERPRINT,
    TAG_LIMIT,
    OfAlias,
    OfRun,
    Place,
    Tracker,
    flatten,
    open_tracker,
    read_address,
    shown,
)
from infra.tracking.addresses import Address, OfModel, OfVersion

pytestmark = pytest.mark.xdist_group("mlflow")
SOON_S = 100.0  # MLflow's own defaults retry for four minutes


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "config.json").write_text('{"name": "alexnet"}')
    (folder / "encoder.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture(params=["sqlite", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Tracker:
    """A tracker over either kind of store."""
    if request.param == "sqlite":
        found: Tracker = request.getfixturevalue("tracker")
        return found
    server: Server = request.getfixturevalue("mlflow_server")
    return Tracker(server.url, experiment=tmp_path.name)


def test_a_run_keeps_what_it_is_told(store: Tracker, tmp_path: Path) -> None:
    parent = store.start_run("workflow")
    run = store.start_run("step", parent, {"a": "1"}, {"data": {"size": 32, "root": None}, "task": "rotation"})
    store.log_metrics(run, {"loss/l1": 0.5, "lr": float("nan")}, step=3)
    store.set_tags(run, {"b": "x" * (TAG_LIMIT + 1)})
    store.log_text(run, "hello", "notes/a.txt")
    store.log_image(run, np.zeros((8, 16, 3), np.uint8), "samples/grey | colour", step=3)
    store.log_table(run, [{"task": "rotation", "top1": 0.5}, {"task": "random"}], "table.json")
    found = store.get_run(run)
    assert (found.name, found.status, found.tags["mlflow.parentRunId"]) == ("step", "RUNNING", parent)
    assert found.params == {"data.size": "32", "data.root": "null", "task": "rotation"}
    assert found.metrics["loss/l1"] == 0.5 and np.isnan(found.metrics["lr"])
    assert found.tags["a"] == "1" and found.tags["b"] == "x" * TAG_LIMIT
    assert store.read_text(run, "notes/a.txt") == "hello"
    table = {"columns": ["task", "top1"], "data": [["rotation", 0.5], ["random", None]]}
    assert json.loads(store.read_text(run, "table.json")) == table
    images = [p.name for p in store.download_artifacts(run, "images", tmp_path / "got").iterdir()]
    assert sorted(name.rsplit(".")[-1] for name in images) == ["png", "webp"]
    assert all(name.startswith("samples~grey - colour+step+3+") for name in images)


def test_a_run_is_cut_off_and_continued(store: Tracker) -> None:
    run = store.start_run("step", tags={FINGERPRINT: "f"})
    assert [r.run_id for r in store.unfinished("f")] == [run]
    store.finish(run, "KILLED")
    assert [r.run_id for r in store.unfinished("f")] == [run]
    store.resume_run(run, parent="p")
    assert store.get_run(run).status == "RUNNING" and store.get_run(run).tags["mlflow.parentRunId"] == "p"
    assert store.search({FINGERPRINT: "f"}, "FINISHED") == []
    store.finish(run)
    assert [r.run_id for r in store.search({FINGERPRINT: "f"}, "FINISHED")] == [run]
    assert store.unfinished("f") == []


def test_many_metrics_go_in_few_requests(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tracker.start_run("step")
    calls = []
    log_batch = tracker.client.log_batch

    def counted(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        log_batch(*arguments, **options)

    monkeypatch.setattr(tracker.client, "log_batch", counted)
    tracker.log_metric_batch(run, [({"a": step, "b": 2.0 * step}, step, 1.0) for step in range(600)])
    assert len(calls) == 2  # 1,000 values a request
    history = tracker.client.get_metric_history(run, "b")
    assert [(m.step, m.value) for m in history] == [(step, 2.0 * step) for step in range(600)]


def test_threads_write_to_their_own_runs(tracker: Tracker) -> None:
    def work(number: int) -> None:
        run = tracker.start_run(f"step {number}")
        for step in range(5):
            tracker.log_metrics(run, {"number": number}, step)
        tracker.finish(run)
        done[number] = run

    done: dict[int, str] = {}
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        found = tracker.get_run(done[number])
        assert (found.name, found.metrics, found.status) == (f"step {number}", {"number": number}, "FINISHED")


def test_a_database_file_is_asked_by_one_thread_at_a_time(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its pool holds 15 connections; the steps of a large table ask from a hundred threads.
    together, inside = [0], threading.Lock()
    search = tracker.client.search_runs

    def counted(*args: Any, **kwargs: Any) -> Any:
        with inside:
            together[0] += 1
        time.sleep(0.01)  # room for another thread to come in, if it may
        with inside:
            assert together[0] == 1
            together[0] -= 1
        return search(*args, **kwargs)

    monkeypatch.setattr(tracker.client, "search_runs", counted)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda k: tracker.search({"a": str(k)}), range(20)))


def test_it_can_be_sent_to_another_process(tracker: Tracker) -> None:
    run = tracker.start_run("step")
    copy: Tracker = pickle.loads(pickle.dumps(tracker))
    copy.log_metrics(run, {"a": 1.0})
    assert tracker.get_run(run).metrics == {"a": 1.0}


def test_mlflow_is_imported_late() -> None:
    code = "import sys, infra.tracking, infra.storage; sys.exit('mlflow' in sys.modules or 'boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# Encoders


def test_an_encoder_becomes_a_model_with_scores(store: Tracker, encoder: Path, tmp_path: Path) -> None:
    run = store.start_run("pretrain")
    model = store.models.log_encoder(run, encoder, scores={"linear/top1": 0.5}, params={"task": "rotation"})
    store.log_metrics(run, {"linear/top5": 0.9}, model_id=model)
    stored = store.client.get_logged_model(model)
    assert {m.key: m.value for m in stored.metrics or []} == {"linear/top1": 0.5, "linear/top5": 0.9}
    assert (stored.name, stored.params, stored.source_run_id) == ("encoder", {"task": "rotation"}, run)
    for uri in (f"models:/{model}", f"runs:/{run}/encoder", f"runs:/{run}", str(encoder), f"file://{encoder}"):
        folder = store.models.fetch_encoder(uri, tmp_path / "cache")
        assert (folder / "encoder.safetensors").read_bytes() == b"weights"
        assert (folder / "config.json").is_file()


def test_the_alias_moves_only_to_a_higher_score(store: Tracker, encoder: Path, tmp_path: Path) -> None:
    name = f"model-{tmp_path.name}"
    run = store.start_run("pretrain")
    models = [store.models.log_encoder(run, encoder) for _ in range(3)]
    assert store.models.register_encoder(name, models[0], "linear/top1", 0.5) == (1, True)
    assert store.models.register_encoder(name, models[1], "linear/top1", 0.4) == (2, False)
    assert store.client.get_model_version_by_alias(name, "best").version in ("1", 1)
    assert store.models.register_encoder(name, models[2], "linear/top1", 0.6) == (3, True)
    assert store.models.register_encoder(name, models[1], "linear/top1", 0.4) == (2, False)  # again: no new version
    assert len(store.client.search_model_versions(f"name = '{name}'")) == 3
    for uri in (f"models:/{name}@best", f"models:/{name}/1"):
        assert (store.models.fetch_encoder(uri, tmp_path / "cache") / "config.json").is_file()


def test_a_registered_encoder_says_what_it_is(store: Tracker, encoder: Path, tmp_path: Path) -> None:
    name = f"model-{tmp_path.name}"
    model = store.models.log_encoder(store.start_run("pretrain"), encoder, tags={"recipe": "rotation"})
    store.models.register_encoder(name, model, "linear/top1", 0.5, description="51 %", about="encoders of shapes")
    version = store.client.get_model_version(name, "1")
    assert (version.description, version.tags["recipe"]) == ("51 %", "rotation")
    assert store.client.get_registered_model(name).description == "encoders of shapes"
    store.models.register_encoder(
        name, model, "linear/top1", 0.5, description="worse than untrained", tags={"learned": "no"}
    )
    version = store.client.get_model_version(name, "1")
    assert (version.description, version.tags["learned"]) == ("worse than untrained", "no")
    store.models.tag_version(f"models:/{name}/1", {"learned": "yes"})
    assert store.client.get_model_version(name, "1").tags["learned"] == "yes"
    store.client.delete_model_version(name, "1")
    store.models.tag_version(f"models:/{name}/1", {"learned": "no"})  # finished work is not lost for a tag
    store.models.tag_version("models:/nobody/1", {"learned": "no"})


def test_a_run_says_what_it_is(store: Tracker) -> None:
    assert f"/experiments/{store.experiment_id}/" in store.page("http://host:5000")
    run = store.start_run("pretrain")
    store.describe(run, "**what it is**")
    assert store.get_run(run).tags["mlflow.note.content"] == "**what it is**"


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("runs:/0123", OfRun("0123", "")),
        ("runs:///0123/encoder", OfRun("0123", "encoder")),
        ("models:/genoise-shapes@best", OfAlias("genoise-shapes", "best")),
        ("models:/genoise-shapes/3", OfVersion("genoise-shapes", "3")),
        ("models:/m-0123", OfModel("m-0123")),
        ("s3://bucket/runs:/x", Place("s3://bucket/runs:/x")),
        ("runs/0123", Place("runs/0123")),
        ("file:///a%3Fb", Place("file:///a%3Fb")),
    ],
)
def test_an_address_is_read_in_one_place(uri: str, address: Address) -> None:
    assert read_address(uri) == address


def test_a_place_is_a_folder_or_a_bucket() -> None:
    folders = [Place(url).folder for url in ("a/b", "file:///a%3Fb", "s3://bucket/a")]
    assert folders == [Path("a/b"), Path("/a?b"), None]


@pytest.mark.parametrize(
    "uri", ["models:/none@best", "models:/none/1", "models:/m-123", "runs:/123/encoder", "no/folder"]
)
def test_an_encoder_that_is_not_there(store: Tracker, uri: str, tmp_path: Path) -> None:
    with pytest.raises(OutsideError) as caught:
        store.models.fetch_encoder(uri, tmp_path)
    assert uri in str(caught.value) or "123" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.xdist_group("s3")
def test_an_encoder_in_a_bucket(tracker: Tracker, s3: Server, encoder: Path, tmp_path: Path) -> None:
    from infra.storage import open_storage

    url = f"s3://shards/{tmp_path.name}"
    for file in encoder.iterdir():
        open_storage(url).upload(file, file.name)
    folder = tracker.models.fetch_encoder(url, tmp_path / "cache")
    assert (folder / "encoder.safetensors").read_bytes() == b"weights"
    with pytest.raises(OutsideError, match=r"it has no config\.json"):
        tracker.models.fetch_encoder(f"{url}/nothing", tmp_path / "cache")


# What goes wrong with servers: one line, and soon


def one_line(tracker: Tracker) -> str:
    started = time.monotonic()
    with pytest.raises(OutsideError) as caught:
        tracker.check()
    assert time.monotonic() - started < SOON_S
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_server() -> None:
    assert "does not answer" in one_line(Tracker(f"http://127.0.0.1:{free_port()}"))


def test_a_server_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "does not answer" in one_line(Tracker(f"http://127.0.0.1:{silent.getsockname()[1]}"))


def test_a_name_that_does_not_exist() -> None:
    assert "does not answer" in one_line(Tracker("http://user:secret@no-such-host.invalid:5000"))


def test_a_server_of_another_kind(s3_server: Server) -> None:
    assert s3_server.url in one_line(Tracker(s3_server.url))


def test_a_server_that_dies(tracker: Tracker, tmp_path: Path) -> None:
    with serve_mlflow(tmp_path / "home") as server:
        over_http = Tracker(server.url)
        run = over_http.start_run("step")
    started = time.monotonic()
    with pytest.raises(OutsideError, match="does not answer"):
        over_http.log_metrics(run, {"a": 1.0})
    assert time.monotonic() - started < SOON_S


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "file").write_text("")
    assert "choose another --home" in one_line(open_tracker(tmp_path / "file" / "home"))


def test_a_password_is_not_shown() -> None:
    assert shown("https://user:secret@host:5000/x") == "https://***@host:5000/x"
    assert shown("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}
