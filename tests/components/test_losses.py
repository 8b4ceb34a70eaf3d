"""Every term against its formula, written out with loops and math."""

import math
from itertools import product

import pytest
import torch

from components import losses


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_l2() -> None:
    prediction, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    pairs = list(zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True))
    assert losses.l2(prediction, target).item() == pytest.approx(sum((p - t) ** 2 for p, t in pairs) / 24)


def test_l2_with_weights_is_divided_by_what_counts() -> None:
    prediction, target = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    weight_B1HW = torch.tensor([0.0, 1, 10, 1, 0, 0, 0, 1]).view(2, 1, 2, 2)
    total = 0.0
    for b, c, h, w in product(range(2), range(3), range(2), range(2)):
        total += weight_B1HW[b, 0, h, w].item() * (prediction[b, c, h, w] - target[b, c, h, w]).item() ** 2
    counted = 3 * 4  # channels times pixels with a weight
    share = (weight_B1HW > 0).float().mean()
    assert losses.l2(prediction, target, weight_B1HW, share).item() == pytest.approx(total / counted)


def test_cross_entropy() -> None:
    logits_BK, labels_B = torch.randn(3, 4), torch.tensor([2, 0, 3])
    expected = 0.0
    for row, label in zip(logits_BK.tolist(), labels_B.tolist(), strict=True):
        expected -= math.log(math.exp(row[label]) / sum(math.exp(x) for x in row))
    assert losses.cross_entropy(logits_BK, labels_B).item() == pytest.approx(expected / 3)


def test_soft_cross_entropy() -> None:
    B, Q, N, H, W = 2, 6, 3, 2, 2
    logits = torch.randn(B, Q, H, W)
    index = torch.rand(B, Q, H, W).argsort(1)[:, :N]
    shares = torch.rand(B, N, H, W)
    shares /= shares.sum(1, keepdim=True)
    weight = torch.rand(B, H, W)
    total = 0.0
    for b, h, w in product(range(B), range(H), range(W)):
        target = [0.0] * Q
        for n in range(N):
            target[int(index[b, n, h, w])] += shares[b, n, h, w].item()
        exponentials = [math.exp(x) for x in logits[b, :, h, w].tolist()]
        for q in range(Q):
            total -= weight[b, h, w].item() * target[q] * math.log(exponentials[q] / sum(exponentials))
    actual = losses.soft_cross_entropy(logits, index, shares, weight, weight.mean())
    assert actual.item() == pytest.approx(total / weight.sum().item(), rel=1e-5)


def test_nothing_that_counts_is_zero_and_not_nan() -> None:
    nothing = torch.zeros(2, 2)
    assert losses.weighted_mean(torch.randn(2, 2), nothing, nothing.mean()).item() == 0


def test_discriminator_and_adversarial() -> None:
    real, fake = [2.0, -1.0, 0.5], [1.5, -0.3, -4.0]
    expected = sum(-math.log(sigmoid(r)) for r in real) / 3 + sum(-math.log(1 - sigmoid(f)) for f in fake) / 3
    assert losses.discriminator(torch.tensor(real), torch.tensor(fake)).item() == pytest.approx(expected, rel=1e-5)
    expected = sum(-math.log(sigmoid(f)) for f in fake) / 3
    assert losses.adversarial(torch.tensor(fake)).item() == pytest.approx(expected, rel=1e-5)


def test_a_discriminator_that_is_sure_gives_finite_losses_and_gradients() -> None:
    fake = torch.tensor([-200.0], requires_grad=True)
    loss = losses.adversarial(fake)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(200.0)
    assert fake.grad is not None and fake.grad.item() == pytest.approx(-1.0)


def test_low_precision_is_left_at_the_door() -> None:
    low, high = torch.randn(8, 5).bfloat16(), torch.randn(8, 5, dtype=torch.float64)
    labels = torch.arange(8) % 5
    assert losses.l2(low, torch.randn(8, 5)).dtype == torch.float32
    assert losses.cross_entropy(low, labels).dtype == torch.float32
    assert torch.equal(losses.adversarial(low), losses.adversarial(low.float()))
    assert torch.equal(losses.discriminator(low, low), losses.discriminator(low.float(), low.float()))
    assert losses.l2(high, high).dtype == torch.float64
