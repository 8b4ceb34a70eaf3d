"""Batch normalization shared by two ranks is that of one process with all the samples.

Legend of shape suffixes: B samples, C channels, H height, W width.
"""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from components.networks.norm import BatchNorm2d, InstanceNorm2d, each, set_sync

SLICES = ((0, 5), (5, 7))  # unequal: averaging the ranks' means would be wrong
CHANNELS = 6
CASES = ("affine", "plain", "average", "channels_last", "bf16")


def case(name: str) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network, its 7 images, and the factors that make its loss depend on every output differently."""
    torch.manual_seed(3)
    norm: dict[str, BatchNorm2d] = {
        "affine": BatchNorm2d(CHANNELS),
        "plain": BatchNorm2d(CHANNELS, affine=False),
        "average": BatchNorm2d(CHANNELS, momentum=None),
        "channels_last": BatchNorm2d(CHANNELS),
        "bf16": BatchNorm2d(CHANNELS),
    }
    network = nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3, bias=False),
        norm[name],
        nn.ReLU(inplace=True),
        nn.Conv2d(CHANNELS, 2, 1, bias=False),
        BatchNorm2d(2),
    )
    for part in network:
        if isinstance(part, BatchNorm2d) and part.affine:
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias)
    images_BCHW = torch.randn(7, 3, 8, 8) * torch.tensor([1.0, 3.0, 0.2]).view(3, 1, 1)
    images_BCHW += torch.arange(7.0).view(7, 1, 1, 1)  # the samples differ in their means: so do the slices
    if name == "channels_last":
        images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
    return network, images_BCHW, torch.randn(7, 2, 6, 6)


def run(name: str, start: int, stop: int) -> dict[str, Tensor]:
    """Two training steps without an optimizer and one evaluation, on the samples from ``start`` to ``stop``."""
    network, images_BCHW, factors_BCHW = case(name)
    set_sync(network, True)
    x_BCHW = images_BCHW[start:stop].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=name == "bf16"):
        network(x_BCHW.detach() * 2 + 1)
        y_BCHW = network(x_BCHW)
    (y_BCHW.float() * factors_BCHW[start:stop]).square().sum().backward()
    found = {"output": y_BCHW.detach(), "input gradient": x_BCHW.grad}
    found |= {f"gradient {key}": value.grad for key, value in network.named_parameters()}
    found |= {f"buffer {key}": value.clone() for key, value in network.named_buffers()}
    found["evaluated"] = network.eval()(x_BCHW).detach()
    assert all(value is not None for value in found.values())
    return {key: value for key, value in found.items() if value is not None}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save({name: run(name, *SLICES[rank]) for name in CASES}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What `run` finds for every case, on each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(folder),), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def joined(key: str, first: Tensor, second: Tensor) -> Tensor:
    """Outputs side by side, gradients of parameters summed, buffers equal."""
    if key.startswith("buffer"):
        assert torch.equal(first, second), f"{key} differs between the ranks"
        return first
    return first + second if key.startswith("gradient") else torch.cat([first, second])


@pytest.mark.distributed
@pytest.mark.xdist_group("norm")
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one_process(name: str, ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    alone = run(name, 0, 7)
    assert alone.keys() == ranks[0][name].keys() == ranks[1][name].keys()
    for key, value in alone.items():
        together = joined(key, ranks[0][name][key], ranks[1][name][key])
        assert together.dtype == value.dtype
        error = (together.float() - value.float()).norm() / value.float().norm()
        # bf16 keeps 8 bits of every activation; the statistics, in float32, must not add to that.
        limit = 2e-2 if name == "bf16" else 1e-6 if key.startswith(("output", "buffer", "evaluated")) else 1e-5
        assert error <= limit, f"{key} is off by {error:.1e}"


def test_one_process_is_torch() -> None:
    """Without other ranks, and in evaluation, nothing differs from nn.BatchNorm2d: not a bit."""
    torch.manual_seed(0)
    x_BCHW = torch.randn(4, CHANNELS, 5, 5)
    ours, theirs = BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS)
    set_sync(ours, True)
    for mode in (True, False):
        assert torch.equal(ours.train(mode)(x_BCHW), theirs.train(mode)(x_BCHW))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


def test_set_sync_reaches_every_layer() -> None:
    network = nn.Sequential(BatchNorm2d(2), nn.Sequential(BatchNorm2d(3)), nn.BatchNorm2d(4))
    set_sync(network, True)
    assert [part.sync for part in network.modules() if isinstance(part, BatchNorm2d)] == [True, True]
    set_sync(network, False)
    assert not any(part.sync for part in network.modules() if isinstance(part, BatchNorm2d))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [1, 3])
def test_instance_normalization_is_torch_s(memory_format: torch.memory_format, count: int) -> None:
    x_BCHW = (torch.randn(count, 4, 5, 6) * 3 + 1).contiguous(memory_format=memory_format).requires_grad_()
    factor_BCHW = torch.randn(count, 4, 5, 6)
    ours, usual = InstanceNorm2d().eval()(x_BCHW), nn.InstanceNorm2d(4)(x_BCHW)
    assert ours.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(ours, usual)
    gradients = [torch.autograd.grad((y * factor_BCHW).sum(), x_BCHW)[0] for y in (ours, usual)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(InstanceNorm2d()(torch.randn(2, 3, 1, 1)), torch.zeros(2, 3, 1, 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("norm", "calls"), [(InstanceNorm2d(), 1), (BatchNorm2d(4), 3)])
def test_batches_share_a_call_but_no_statistics(norm: nn.Module, calls: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm)
    called: list[int] = []
    network[0].register_forward_hook(lambda *_: called.append(1))
    batches = [torch.randn(2, 3, 6, 6) * k for k in (1, 2, 3)]
    together = each(network, *batches)
    assert len(called) == calls
    for batch, out in zip(batches, together, strict=True):
        torch.testing.assert_close(out, network(batch))
