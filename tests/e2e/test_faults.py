"""From bucket to bucket with faults on the way: every 20th request fails, others break off, a shard arrives short, the
server is started again. The shards, and the weights, are those of a job that met no fault, bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from infra.local import Server
from infra.storage import open_storage
from pipelines.training.checkpoints import Checkpoints
from tests.e2e.jobs import DATA, PRETRAIN, STEPS, TRAINING, Home, differences, sets
from tests.faults import Faults, Proxy

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("ray"), pytest.mark.timeout(900)]


def test_from_bucket_to_bucket_with_faults(
    new_home: Callable[..., Home],
    undisturbed: Home,
    prepared: Path,
    s3: Server,
    s3_restart: Callable[[], None],
    tmp_path: Path,
) -> None:
    faulty = new_home()
    faults = Faults(error_every=20, reset_every=17, truncate="train-000000.tar", restart=s3_restart)
    with Proxy(s3.url, faults) as proxy:
        known = {**s3.environment, "AWS_ENDPOINT_URL": proxy.url}
        data = f"s3://shards/{tmp_path.name}/shapes"
        done = faulty.run("prepare", "shapes", "--to", data, *sets(DATA), "--quiet", "--json", environment=known)
        (folder,) = (prepared / "data").iterdir()
        assert done.last["reused"] is False
        assert open_storage(data).read_bytes("index.json") == (folder / "index.json").read_bytes()

        places = {
            "data.source": "shards",
            "data.url": data,
            "training.checkpoints": f"s3://shards/{tmp_path.name}/kept",
        }
        faults.restart_at = len(proxy.requests) + 30
        run = faulty.run(*PRETRAIN, *sets({**TRAINING, **places}), environment=known)
        assert run.last["value"]["steps"] == STEPS
        assert all(proxy.done[fault] for fault in ("error", "reset", "truncate", "restart")), proxy.done

    checkpoints = Checkpoints(f"{places['training.checkpoints']}/{faulty.job.name}")
    found = checkpoints.newest(tmp_path / "into")
    assert found and found[0] == STEPS
    state = torch.load(found[1] / "state.pt", weights_only=True)
    assert differences(state, undisturbed.last_state()) == []
    assert not list(faulty.job.glob("checkpoint_*"))  # they are in the bucket, and nowhere else
    files = [each.encoder_file(each.step_run("pretrain").info.run_id) for each in (faulty, undisturbed)]
    assert files[0] == files[1]
    secret = s3.environment["AWS_SECRET_ACCESS_KEY"].encode()
    texts = [
        path for path in faulty.folder.rglob("*") if path.is_file() and path.suffix not in (".tar", ".safetensors")
    ]
    assert texts and not [path for path in texts if secret in path.read_bytes()]
