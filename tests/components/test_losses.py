"""Every term against its formula, written out with loops and math."""

import math
from collections.abc import Callable
from itertools import product
from typing import get_args

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
    torch.autograd.backward(loss)
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


# -- two players -------------------------------------------------------------------------------------------------------

REAL, FAKE = [2.0, -1.0, 0.5], [1.5, -0.3, -4.0]
# form: discriminator on a real and on a fake logit; generator on a fake one, and on a real one in which it has a part
FORMS: dict[str, tuple[Callable[[float], float], ...]] = {
    "minimax": (
        lambda r: -math.log(sigmoid(r)),
        lambda f: -math.log(1 - sigmoid(f)),
        lambda f: math.log(1 - sigmoid(f)),
        lambda r: math.log(sigmoid(r)),
    ),
    "non_saturating": (
        lambda r: -math.log(sigmoid(r)),
        lambda f: -math.log(1 - sigmoid(f)),
        lambda f: -math.log(sigmoid(f)),
        lambda r: -math.log(1 - sigmoid(r)),
    ),
    "least_squares": (lambda r: (r - 1) ** 2, lambda f: f**2, lambda f: (f - 1) ** 2, lambda r: r**2),
    "hinge": (lambda r: max(0.0, 1 - r), lambda f: max(0.0, 1 + f), lambda f: -f, lambda r: r),
    "wasserstein": (lambda r: -r, lambda f: f, lambda f: -f, lambda r: r),
}


@pytest.mark.parametrize("form", get_args(losses.Form))
def test_adversarial_forms(form: losses.Form) -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    on_real, on_fake, made, had = (
        sum(f(x) for x in xs) / 3 for f, xs in zip(FORMS[form], (REAL, FAKE, FAKE, REAL), strict=True)
    )
    assert losses.discriminator(real, fake, form).item() == pytest.approx(on_real + on_fake, rel=1e-5)
    assert losses.adversarial(fake, form).item() == pytest.approx(made, rel=1e-5)
    assert losses.adversarial(fake, form, real).item() == pytest.approx(made + had, rel=1e-5)
    assert losses.discriminator(real.bfloat16(), fake, form).dtype == torch.float32


@pytest.mark.parametrize("form", get_args(losses.Form))
def test_following_each_gradient_helps_its_player(form: losses.Form) -> None:
    """Real logits up and fake ones down for the discriminator, the other way round for the other player."""
    real, fake = (torch.tensor([0.2, 0.4], requires_grad=True) for _ in range(2))
    down, up = torch.autograd.grad(losses.discriminator(real, fake, form), (real, fake))
    assert (down < 0).all() and (up > 0).all()
    up, down = torch.autograd.grad(losses.adversarial(fake, form, real), (real, fake))
    assert (down < 0).all() and (up > 0).all()


def curved(picture: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """A critic with two patches a sample, not linear in either input."""
    return torch.stack([(picture**2).sum((1, 2, 3)) * vector[:, 0], torch.sin(picture).sum((1, 2, 3))], 1)


def test_slopes_are_those_of_autograd_sample_by_sample() -> None:
    picture, vector = torch.randn(3, 2, 4, 4), torch.randn(3, 2)
    squares = []
    for b in range(3):
        x, v = picture[b : b + 1].clone().requires_grad_(), vector[b : b + 1].clone().requires_grad_()
        gx, gv = torch.autograd.grad(curved(x, v).mean(), (x, v))
        squares.append((gx.square().sum() + gv.square().sum()).item())
    expected = sum((math.sqrt(s) - 1) ** 2 for s in squares) / 3
    assert losses.gradient_penalty(curved, picture, vector).item() == pytest.approx(expected, rel=1e-5)
    assert losses.r1(curved, picture, vector).item() == pytest.approx(sum(squares) / 6, rel=1e-5)


def test_penalties_teach_the_critic_and_not_its_inputs() -> None:
    """A linear critic w x has slope w everywhere: the gradients are known."""
    w, x = torch.tensor([3.0, 4.0], requires_grad=True), torch.randn(5, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(losses.gradient_penalty(lambda x: x @ w, x), w)
    torch.testing.assert_close(slope, 2 * (5 - 1) * w.detach() / 5)
    (slope,) = torch.autograd.grad(losses.r1(lambda x: x @ w, x), w)
    torch.testing.assert_close(slope, w.detach())
    assert x.grad is None


def test_a_flat_critic_has_finite_penalties() -> None:
    w = torch.zeros(2, requires_grad=True)
    penalty = losses.gradient_penalty(lambda x: x @ w, torch.randn(3, 2))
    torch.autograd.backward(penalty)
    assert penalty.item() == pytest.approx(1, abs=1e-5) and w.grad is not None and w.grad.isfinite().all()


def test_accuracies() -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    found = {k: round(v.item(), 3) for k, v in losses.accuracies(real, fake).items()}
    assert found == {"discriminator/accuracy_real": 0.667, "discriminator/accuracy_fake": 0.667}
    halves = losses.accuracies(torch.tensor([0.6, 0.4]), torch.tensor([0.4, 0.1]), "least_squares")
    assert [v.item() for v in halves.values()] == [0.5, 1.0]
    assert losses.accuracies(real, fake, "wasserstein") == {}


def test_diversity() -> None:
    real = torch.randn(64, 3, 4, 4)
    (alike,) = losses.diversity(0.5 * real.flip(0), real).values()
    assert alike.item() == pytest.approx(0.5, rel=1e-3)
    (collapsed,) = losses.diversity(real[:1].expand(64, -1, -1, -1), real).values()
    assert collapsed.item() == 0
    (alone,) = losses.diversity(real[:1], real[:1]).values()
    assert alone.item() == 1


def test_diversity_is_that_within_a_label() -> None:
    real, labels = torch.randn(5, 3, 2, 2), torch.tensor([2, 0, 2, 1, 0])
    (one_each,) = losses.diversity(real[labels], real, labels).values()
    assert one_each.item() == 0, "different labels look different, but each has one picture"
    fake = torch.randn(5, 3, 2, 2)
    pairs = [(0, 2), (1, 4)]
    squares = [sum((x[i] - x[j]).square().sum().item() for i, j in pairs) for x in (fake, real)]
    (ratio,) = losses.diversity(fake, real, labels).values()
    assert ratio.item() == pytest.approx(math.sqrt(squares[0] / squares[1]), rel=1e-5)
    (nobody,) = losses.diversity(fake, real, torch.arange(5)).values()
    assert nobody.item() == 1
