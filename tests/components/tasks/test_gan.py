"""GAN, conditional GAN, BiGAN: who is asked what, what is drawn, and that no cut of a batch changes any form."""

from typing import Any

import pytest
import torch
from torch import Tensor

from components import losses
from components.config import EncoderConfig, TrainingConfig
from components.draws import Draws
from components.engine import Engine
from components.errors import UserError
from components.networks.norm import BatchNorm2d
from components.tasks.base import Batch, Task, build_task, resolve_weights

SIZE, B, CLASSES = 16, 6, 3
GAME = [
    ("gan", {"form": "minimax"}, "batch"),
    ("gan", {"form": "least_squares"}, "batch"),
    ("gan", {"form": "hinge", "spectral_norm": True}, "none"),
    ("gan", {"form": "wasserstein", "penalty": "gradient_penalty", "critic_steps": 2}, "none"),
    ("gan", {"penalty": "r1"}, "instance"),
    ("cgan", {"penalty": "gradient_penalty", "spectral_norm": True}, "none"),
    ("cgan", {"condition": "edges", "penalty": "r1"}, "none"),
    ("cgan", {"mode_seeking": True}, "batch"),
    ("bigan", {"form": "hinge", "regress": True}, "batch"),
]
games = pytest.mark.parametrize(("name", "options", "norm"), GAME, ids=str)


def make(name: str, options: dict[str, Any], norm: str = "none", classes: int = CLASSES) -> Task:
    return build_task(name, options, EncoderConfig.parse({"name": "dcgan", "width": 4, "norm": norm}), SIZE, classes, 0)


def batch_of(count: int = B) -> Batch:
    g = torch.Generator().manual_seed(3)
    pictures = {key: torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=g).byte() for key in ("image", "edges")}
    return {**pictures, "label": torch.arange(count) % CLASSES}


def inputs_of(task: Task, count: int = B, first: int = 0) -> dict[str, Tensor]:
    batch = {key: value / 255 if value.ndim == 4 else value for key, value in batch_of(count).items()}
    return task.inputs(batch, Draws(0, torch.arange(first, first + count)))


def trained(task: Task, parts: int) -> dict[str, Tensor]:
    """The task after two steps of plain gradient descent."""
    config = TrainingConfig.model_validate(
        {"batch": B, "micro_batches": parts, "warmup": 0.0, "optimizer": {"name": "sgd", "lr": 0.01, "weight_decay": 0}}
    )
    engine = Engine(task, config, resolve_weights(task.name, task.terms, dict.fromkeys(task.terms, 0.7)), 2)
    for step in range(2):
        engine.train_step(batch_of(), torch.arange(step * B, (step + 1) * B), B, measure=step == 1)
    return task.state_dict()


@games
def test_micro_batches_change_no_form_of_the_loss(name: str, options: dict[str, Any], norm: str) -> None:
    start = make(name, options, norm).state_dict()
    whole, cut = (trained(make(name, options, norm).eval(), parts) for parts in (1, 3))
    floating = [key for key in whole if whole[key].is_floating_point()]
    largest = max(1.0, *(whole[key].abs().max().item() for key in floating))
    assert max((whole[key] - cut[key]).abs().max().item() for key in floating) < 1e-5 * largest
    assert max((whole[key] - start[key]).abs().max().item() for key in floating) > 1e-4


@games
def test_terms_are_those_that_were_asked_for(name: str, options: dict[str, Any], norm: str) -> None:
    task = make(name, options, norm)
    inputs = inputs_of(task)
    outputs = task(inputs)
    found = {term for player in task.players for term in task.losses(player, inputs, outputs) if "/" not in term}
    expected = {"discriminator", "adversarial"} | ({"latent"} if options.get("regress") else set())
    expected |= {"mode_seeking"} if options.get("mode_seeking") else set()
    assert found == set(task.terms) == expected | ({options["penalty"]} if "penalty" in options else set())
    assert task.players["generator"].every == options.get("critic_steps", 1)


def test_the_terms_of_a_gan_are_the_losses_of_its_logits() -> None:
    task = make("gan", {"form": "wasserstein", "penalty": "gradient_penalty"}).eval()
    inputs = inputs_of(task)
    fake = task(inputs)["prediction"]
    discriminator = task.get_submodule("discriminator")
    real_logits, fake_logits = discriminator(inputs["real"]), discriminator(fake)
    found = task.losses("discriminator", inputs, {"prediction": fake.detach()})
    assert found["discriminator"].item() == pytest.approx((fake_logits.mean() - real_logits.mean()).item(), abs=1e-6)
    total = 0.0
    for b in range(B):  # Gulrajani et al. 2017, algorithm 1, one sample at a time
        share = inputs["share"][b].item()
        between = (share * inputs["real"][b] + (1 - share) * fake[b])[None].detach().requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(between).sum(), between)
        total += (slope.norm().item() - 1) ** 2 / B
    assert found["gradient_penalty"].item() == pytest.approx(total, rel=1e-4)
    assert task.losses("generator", inputs, {"prediction": fake})["adversarial"].item() == pytest.approx(
        -fake_logits.mean().item(), abs=1e-6
    )


@pytest.mark.parametrize(("prior", "least", "most"), [("uniform", -1.0, 1.0), ("normal", -6.0, 6.0)])
def test_noise_belongs_to_samples_and_has_its_distribution(prior: str, least: float, most: float) -> None:
    task = make("gan", {"prior": prior, "latent": 40})
    z_BZ = inputs_of(task, 500)["z"]
    assert least <= z_BZ.min() and z_BZ.max() < most
    assert z_BZ.mean().item() == pytest.approx(0, abs=0.03)
    assert z_BZ.var().item() == pytest.approx(1 / 3 if prior == "uniform" else 1, rel=0.05)
    assert torch.equal(inputs_of(task, 3, first=7)["z"], z_BZ[7:10])


@pytest.mark.parametrize("condition", ["label", "colour", "edges"])
def test_both_players_hear_the_condition(condition: str) -> None:
    task = make("cgan", {"condition": condition}).eval()
    assert task.needs == {"label": ("image", "label"), "colour": ("image",), "edges": ("image", "edges")}[condition]
    inputs = inputs_of(task)
    other = {**inputs, "condition": inputs["condition"].roll(1, 0)}
    assert not torch.equal(task(inputs)["prediction"], task(other)["prediction"])
    outputs = task(inputs)
    for player in task.players:
        a, b = (task.losses(player, given, outputs) for given in (inputs, other))
        assert any(a[term] != b[term] for term in a), player


def test_mode_seeking_compares_two_pictures_of_a_condition_with_their_noise() -> None:
    task = make("cgan", {"mode_seeking": True}).eval()
    inputs = inputs_of(task)
    plain = inputs_of(make("cgan", {}))
    assert torch.equal(plain["z"], inputs["z"]) and not torch.equal(inputs["z"], inputs["second_z"])
    outputs = task(inputs)
    swapped = task({**inputs, "z": inputs["second_z"], "second_z": inputs["z"]})
    torch.testing.assert_close(swapped["prediction"], outputs["second"])
    total = 0.0
    for b in range(B):  # Mao et al. 2019, equation 2: one over the ratio
        apart = [(outputs["prediction"] - outputs["second"])[b], (inputs["z"] - inputs["second_z"])[b]]
        pictures, noise = (sum(abs(x) for x in each.flatten().tolist()) / each.numel() for each in apart)
        total += 1 / (pictures / noise + 1e-5) / B
    assert task.losses("generator", inputs, outputs)["mode_seeking"].item() == pytest.approx(total, rel=1e-4)


def test_mode_seeking_turns_the_generator_back_to_its_noise() -> None:
    task = make("cgan", {"mode_seeking": True}, "batch")
    config = TrainingConfig.model_validate({"batch": B, "warmup": 0.0, "optimizer": {"lr": 5e-3}})
    engine = Engine(task, config, {"mode_seeking": 1.0}, 20)
    values = [engine.train_step(batch_of(), torch.arange(k * B, (k + 1) * B), B) for k in range(20)]
    assert values[-1]["loss/mode_seeking"] < 0.5 * values[0]["loss/mode_seeking"]


def test_the_vector_condition_is_the_mean_colour() -> None:
    task = make("cgan", {"condition": "colour"})
    expected = [[2 * channel.mean().item() / 255 - 1 for channel in picture.float()] for picture in batch_of()["image"]]
    torch.testing.assert_close(inputs_of(task)["condition"], torch.tensor(expected))


def test_a_conditional_gan_needs_labels_only_for_its_labels() -> None:
    with pytest.raises(UserError, match="task 'cgan' needs labels, and the data has none") as error:
        make("cgan", {}, classes=0)
    assert "\n" not in str(error.value)
    make("cgan", {"condition": "colour"}, classes=0)


def test_a_bigan_s_players_want_opposite_labels_of_both_pairs() -> None:
    task = make("bigan", {}).eval()
    inputs = inputs_of(task)
    outputs = task(inputs)
    discriminator = task.get_submodule("discriminator")
    real = discriminator(inputs["real"], outputs["code"])
    fake = discriminator(outputs["generated"], inputs["z"])
    judged = task.losses("discriminator", inputs, outputs)["discriminator"].item()
    assert judged == pytest.approx(losses.discriminator(real, fake).item())
    inverted = losses.discriminator(fake, real).item()
    assert task.losses("generator", inputs, outputs)["adversarial"].item() == pytest.approx(inverted)


def test_a_bigan_s_encoder_and_generator_learn_from_both_pairs() -> None:
    task = make("bigan", {})
    inputs = inputs_of(task)
    torch.autograd.backward(task.losses("generator", inputs, task(inputs))["adversarial"])
    for network in ("trunk", "code", "generator"):
        assert all(p.grad is not None and p.grad.any() for p in getattr(task, network).parameters()), network


def test_latent_regression_is_the_mean_square_between_z_and_its_return() -> None:
    task = make("bigan", {"regress": True}).eval()
    inputs = inputs_of(task)
    outputs = task(inputs)
    maps = task.encoder()((outputs["generated"] + 1) / 2)
    code = task.get_submodule("code")(maps["conv4"].flatten(1))
    expected = (code - inputs["z"]).square().sum().item() / inputs["z"].numel()
    assert task.losses("generator", inputs, outputs)["latent"].item() == pytest.approx(expected, rel=1e-5)
    assert not any("running" in key or "regressed" in key for key in make("bigan", {}).terms)


def test_regressed_pictures_leave_no_trace_in_the_encoder_s_statistics() -> None:
    states = []
    for regress in (False, True):
        task = make("bigan", {"regress": regress}, "batch")
        task(inputs_of(task))
        states.append({k: v for k, v in task.encoder().state_dict().items() if "running" in k})
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_pictures_are_of_the_same_noise_every_time() -> None:
    for name, title in (("gan", "prediction"), ("cgan", "prediction"), ("bigan", "generated")):
        task = make(name, {}, "batch").eval()
        first, second = (task.samples(inputs_of(task))[title] for _ in range(2))
        assert torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert list(make("cgan", {"condition": "edges"}).samples(inputs_of(make("cgan", {"condition": "edges"})))) == [
        "input",
        "prediction",
        "real",
    ]


def test_the_average_of_a_generator_has_the_statistics_of_the_latest_one() -> None:
    task = make("gan", {}, "batch")
    engine = Engine(task, TrainingConfig(batch=B, ema=0.9), resolve_weights(task.name, task.terms, {}), 4)
    for step in range(4):
        engine.train_step(batch_of(), torch.arange(step * B, (step + 1) * B), B)
    assert engine.average is not None
    norms = [
        [part for part in t.get_submodule("generator").modules() if isinstance(part, BatchNorm2d)]
        for t in (task, engine.average)
    ]
    for now, mean in zip(*norms, strict=True):
        assert torch.equal(now.running_var, mean.running_var) and not torch.equal(now.weight, mean.weight)
