"""One small pure function per term. Each returns a scalar: a mean over the samples of the slice at hand.

Inputs of lower precision (bf16) are converted to fp32 before anything is computed.

Legend of shape suffixes: B samples, C channels, H height, W width, K classes, Q bins, N soft-encoding neighbours or
views, Z values of a projection.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PSNR_MOST = 100.0  # decibels of pictures that are equal, whose ratio has no bound


def _full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _in_full(device: torch.device) -> AbstractContextManager[object]:
    """Inside, products of matrices keep their precision, too."""
    known = torch.amp.is_autocast_available(device.type)  # not of the device `meta`
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def weighted_mean(values: Tensor, weight: Tensor, denominator: Tensor) -> Tensor:
    """mean(weight * values) / denominator; zero where the denominator is zero, that is where no element counts.

    ``denominator`` is a scalar taken over the global batch (`Task.global_means`), so that means over the slices of
    a batch average to the value of the whole batch.
    """
    return (weight * values).mean() / denominator.clamp_min(1e-12)


def l2(prediction: Tensor, target: Tensor, weight: Tensor | None = None, denominator: Tensor | None = None) -> Tensor:
    """Mean squared error per element; with ``weight`` (broadcastable) and ``denominator``, see `weighted_mean`."""
    squared = (_full(prediction) - _full(target)).square()
    if weight is None or denominator is None:
        return squared.mean()
    return weighted_mean(squared, weight, denominator)


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error per element."""
    return (_full(prediction) - _full(target)).abs().mean()


def cross_entropy(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """-log p of the right class. ``labels_B``: int64 in 0 .. K - 1."""
    return F.cross_entropy(_full(logits_BK), labels_B)


def nt_xent(first_BZ: Tensor, second_BZ: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding the other view of a sample among all other views, by cosine over ``temperature``.

    Two views of every sample, row by row; a mean over all 2 B views. The normalized temperature-scaled cross-entropy
    of Chen et al. 2020, equation 1.
    """
    views_NZ = F.normalize(torch.cat([_full(first_BZ), _full(second_BZ)]), dim=1)
    with _in_full(views_NZ.device):
        logits_NN = views_NZ @ views_NZ.T / temperature
    itself_NN = torch.eye(len(views_NZ), dtype=torch.bool, device=views_NZ.device)
    partner_N = torch.arange(len(views_NZ), device=views_NZ.device).roll(len(first_BZ))
    return F.cross_entropy(logits_NN.masked_fill(itself_NN, -torch.inf), partner_N)


def soft_cross_entropy(
    logits_BQHW: Tensor, index_BNHW: Tensor, shares_BNHW: Tensor, weight_BHW: Tensor, denominator: Tensor
) -> Tensor:
    """Zhang et al. 2016 equation 2: weighted cross-entropy per pixel with a soft target.

    The target of a pixel has ``shares_BNHW`` at the bins ``index_BNHW`` and nothing elsewhere.
    """
    # sum_n s_n (log Z - logit_n), with sum_n s_n = 1: no (B, Q, H, W) target and no (B, Q, H, W) log-probabilities.
    logits_BQHW = _full(logits_BQHW)
    target_BHW = (shares_BNHW * logits_BQHW.gather(1, index_BNHW)).sum(1)
    return weighted_mean(logits_BQHW.logsumexp(1) - target_BHW, weight_BHW, denominator)


# -- two players -------------------------------------------------------------------------------------------------------

Form = Literal["minimax", "non_saturating", "least_squares", "hinge", "wasserstein"]
FORM = "what the players minimize: minimax, non_saturating, least_squares, hinge, wasserstein; see components.losses"


def _verdict(logits: Tensor, real: bool, form: Form) -> Tensor:
    """What a discriminator pays for logits that should have said real, or fake."""
    logits = _full(logits)
    if form == "least_squares":
        return (logits - float(real)).square().mean()
    margin = logits if real else -logits
    if form == "hinge":
        return F.relu(1 - margin).mean()
    if form == "wasserstein":
        return -margin.mean()
    return F.softplus(-margin).mean()


def _persuasion(logits: Tensor, real: bool, form: Form) -> Tensor:
    """What the other player pays for logits that it wants to say real, or fake."""
    if form == "minimax":
        return -_verdict(logits, not real, form)
    return _verdict(logits, real, "wasserstein" if form == "hinge" else form)


def discriminator(real_B: Tensor, fake_B: Tensor, form: Form = "non_saturating") -> Tensor:
    """The discriminator's loss from logits of any shape: the plain sum of its mean on real and on fake samples.

    minimax, non_saturating: -log D(real) - log(1 - D(fake)), D the sigmoid of the logit (Goodfellow et al. 2014,
    equation 1); least_squares: (real - 1)^2 + fake^2 (Mao et al. 2017, equation 9, without its factors 1/2);
    hinge: max(0, 1 - real) + max(0, 1 + fake) (Lim and Ye 2017; Miyato et al. 2018, equation 16);
    wasserstein: fake - real (Arjovsky et al. 2017, equation 2), which needs a critic whose slope is bounded.
    """
    return _verdict(real_B, True, form) + _verdict(fake_B, False, form)


def adversarial(fake_B: Tensor, form: Form = "non_saturating", real_B: Tensor | None = None) -> Tensor:
    """The generator's loss from logits of any shape, the counterpart of `discriminator`.

    minimax: log(1 - D(fake)) (Goodfellow et al. 2014, equation 1); non_saturating: -log D(fake) (there, section 3);
    least_squares: (fake - 1)^2; hinge and wasserstein: -fake. ``real_B``: logits of real samples in which this player
    has a part as well (BiGAN's encoder) and which it wants to be called fake, by the mirrored formula.
    """
    loss = _persuasion(fake_B, True, form)
    return loss if real_B is None else loss + _persuasion(real_B, False, form)


# Compiled graphs have no second derivatives. torch.compiler.disable would import the compiler into every process.
@torch._disable_dynamo  # type: ignore[attr-defined]
def _squared_slopes(critic: Callable[..., Tensor], points: Sequence[Tensor]) -> Tensor:
    """(B,): squared norm of the gradient of each sample's mean logit with respect to all its ``points``."""
    leaves = [point.detach().requires_grad_() for point in points]
    logits = _full(critic(*leaves))
    gradients = torch.autograd.grad(logits.reshape(len(logits), -1).mean(1).sum(), leaves, create_graph=True)
    return torch.stack([_full(gradient).flatten(1).square().sum(1) for gradient in gradients]).sum(0)


def gradient_penalty(critic: Callable[..., Tensor], *points: Tensor) -> Tensor:
    """(|gradient| - 1)^2 of a critic that judges every sample by itself (no batch normalization).

    ``points``: its inputs, each (B, ...), on the lines between real and generated ones (Gulrajani et al. 2017,
    equation 3). With patches of logits, a sample's value is their mean.
    """
    squares_B: Tensor = _squared_slopes(critic, points)
    return ((squares_B + 1e-12).sqrt() - 1).square().mean()  # the root of zero has no slope


def r1(critic: Callable[..., Tensor], *points: Tensor) -> Tensor:
    """|gradient|^2 / 2 of a critic at real samples (Mescheder et al. 2018, equation 9, without its gamma)."""
    squares_B: Tensor = _squared_slopes(critic, points)
    return squares_B.mean() / 2


def mode_seeking(first_BCHW: Tensor, second_BCHW: Tensor, first_BZ: Tensor, second_BZ: Tensor) -> Tensor:
    """1 / ratio, the ratio of the distance of two pictures of one condition to that of the noise they are made from.

    Both distances are mean absolute differences. Source: Mao et al. 2019 (MSGAN), equation 2, as its authors' code
    minimizes it, but sample by sample, so that it is a mean over samples.
    """
    pictures_B = (_full(first_BCHW) - _full(second_BCHW)).abs().flatten(1).mean(1)
    return (1 / (pictures_B / (first_BZ - second_BZ).abs().mean(1) + 1e-5)).mean()


@dataclass(frozen=True)
class Sign:
    """What the facts of a task say of a training that has gone wrong.

    It is there while every one of ``facts`` is above, or below, the bound; where one is not logged it is not there.
    """

    name: str
    facts: tuple[str, ...]
    warning: str  # a format of the value that is nearest to the bound
    above: float = float("inf")
    below: float = float("-inf")

    def seen(self, values: Mapping[str, float]) -> float | None:
        """The value that is nearest to the bound, where the sign is there; else None."""
        if any(fact not in values for fact in self.facts):
            return None
        found = [values[fact] for fact in self.facts]
        if min(found) > self.above:
            return min(found)
        return max(found) if max(found) < self.below else None


REAL, FAKE, DIVERSITY = "discriminator/accuracy_real", "discriminator/accuracy_fake", "generator/diversity"
# A discriminator that is right more often than 99 %, on both sides, teaches nobody anything.
WON = Sign(
    "won",
    (REAL, FAKE),
    "the discriminator is right on {:.1%}: it has won, the adversarial term teaches little",
    above=0.99,
)
# Pictures that are closer to each other than a tenth of the distance of real ones are all the same.
COLLAPSED = Sign(
    "collapsed",
    (DIVERSITY,),
    "the generator has collapsed: its pictures differ {:.0%} as much as real ones do",
    below=0.1,
)


@torch.no_grad()
def accuracies(real_B: Tensor, fake_B: Tensor, form: Form = "non_saturating") -> dict[str, Tensor]:
    """What a discriminator gets right, each in [0, 1]; nothing for a Wasserstein critic, whose zero means nothing."""
    if form == "wasserstein":
        return {}
    border = 0.5 if form == "least_squares" else 0.0
    return {
        REAL: (real_B > border).float().mean(),
        FAKE: (fake_B < border).float().mean(),
    }


@torch.no_grad()
def psnr(picture_BCHW: Tensor, truth_BCHW: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio of pictures in [0, 1], in decibels; PSNR_MOST where they are equal."""
    error_B = (_full(picture_BCHW) - _full(truth_BCHW)).square().flatten(1).mean(1)
    return -10 * error_B.clamp_min(10 ** (-PSNR_MOST / 10)).log10()


@torch.no_grad()
def diversity(fake_BCHW: Tensor, real_BCHW: Tensor, label_B: Tensor | None = None) -> dict[str, Tensor]:
    """Distance of generated pictures from each other over that of real ones: near 0, the generator has collapsed.

    Root of the mean squared distance of neighbours in the batch; with labels, of neighbours of one label, so that a
    single picture for each is a collapse as well. 1 where no sample has a neighbour.
    """
    label_B = torch.zeros(len(fake_BCHW), device=fake_BCHW.device) if label_B is None else label_B
    order_B = label_B.argsort(stable=True)
    alike_B = label_B[order_B][1:] == label_B[order_B][:-1]
    fake, real = (
        (_full(x)[order_B].diff(dim=0).square().flatten(1).mean(1) * alike_B).sum() for x in (fake_BCHW, real_BCHW)
    )
    ratio = (fake / real.clamp_min(1e-12)).sqrt()
    return {DIVERSITY: torch.where(alike_B.any(), ratio, 1.0)}
