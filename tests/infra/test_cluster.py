"""The cluster's configuration, checked without a cloud, and a private Ray instance on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.cluster import connect, shared_address
from infra.errors import OutsideError

ROOT = Path(__file__).resolve().parents[2]


def prepared() -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text()))
    validate_config(config)
    return config


def test_ray_accepts_the_cluster_file() -> None:
    config = prepared()
    types = config["available_node_types"]
    head, gpu = types[config["head_node_type"]], types["gpu"]
    assert config["provider"]["type"] == "aws"
    assert "GPU" not in head["resources"] and head["max_workers"] == 0
    assert gpu["resources"]["GPU"] == 1 and gpu["min_workers"] == 0 < gpu["max_workers"]


def test_the_nodes_install_the_project_and_ask_for_the_token() -> None:
    config = prepared()
    source = next(place for place, from_ in config["file_mounts"].items() if Path(from_).resolve() == Path.cwd())
    commands = " ".join(config["setup_commands"])
    assert f"pip install --quiet '{source}[" in commands  # or Ray would install a nightly wheel of its own
    assert "RAY_AUTH_MODE=token" in commands
    assert any(place.endswith("/.ray/auth_token") for place in config["file_mounts"])


def test_no_key_stands_in_the_cluster_file() -> None:
    text = (ROOT / "ray_cluster.yaml").read_text()
    assert "AWS_SECRET" not in text and "AKIA" not in text


def test_what_counts_as_a_shared_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert [shared_address(a) for a in (None, "", "local", "auto", "10.0.0.1:6379")] == [
        *(None, None, None),
        *("auto", "10.0.0.1:6379"),
    ]
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert shared_address() == "10.0.0.2:6379"
    assert shared_address("10.0.0.1:6379") == "10.0.0.1:6379"


def test_a_client_address_is_refused() -> None:
    with pytest.raises(OutsideError, match="ray job submit"):
        connect("ray://10.0.0.1:10001")


PRIVATE = """
import json, os, ray
from infra.cluster import OBJECT_STORE_BYTES, connect, cpus
found = connect(min_cpus=3)

@ray.remote
def look():
    import pipelines.session
    return os.environ.get("PYTHONPATH"), pipelines.session.__file__

print(json.dumps({"resources": found, "cpus": cpus(), "store": OBJECT_STORE_BYTES, "worker": ray.get(look.remote()),
                  "namespace": ray.get_runtime_context().namespace, "here": os.environ.get("PYTHONPATH")}))
"""


@pytest.mark.distributed
def test_a_private_instance(tmp_path: Path) -> None:
    """Started from another folder: its workers find the project, it is small, quiet, and leaves the environment be."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PYTHONPATH")}
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}){PRIVATE}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["cpus"] >= 3 and found["namespace"] == "genoise"
    assert found["resources"]["object_store_memory"] == found["store"]
    assert found["worker"] == [str(ROOT), str(ROOT / "pipelines" / "session.py")]
    assert found["here"] is None
    assert done.stderr.strip() == ""


def test_a_cluster_that_is_not_there() -> None:
    with pytest.raises(OutsideError, match=r"cannot reach the Ray cluster at 127\.0\.0\.1:9: .*refused") as caught:
        connect("127.0.0.1:9")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("address", "blamed"), [("10.0.0.1", "--address"), (None, "RAY_ADDRESS")])
def test_who_named_a_cluster_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, address: str | None, blamed: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1")
    monkeypatch.setattr("ray.init", failing)
    with pytest.raises(OutsideError, match=r"^cannot reach the Ray cluster at 10\.0\.0\.1: timed out") as caught:
        connect(address)
    assert f"correct {blamed}," in str(caught.value)


def test_a_private_instance_that_does_not_start_is_no_fault_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", failing)
    with pytest.raises(OutsideError, match=r"^Ray did not start on this machine: timed out.* busy") as caught:
        connect()
    assert "ADDRESS" not in str(caught.value) and "ray status" not in str(caught.value)


def failing(**_: object) -> None:
    raise RuntimeError("timed out\nwhile it started")
