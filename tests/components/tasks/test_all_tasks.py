"""What every task has to hold, whatever it learns."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components import losses
from components.config import EncoderConfig
from components.draws import Draws
from components.tasks.base import Batch, Parts, Task, Tensors, all_tasks, build_task, parts_of

SIZE, B, CLASSES = 16, 7, 3
TRAINED: list[tuple[str, dict[str, Any]]] = [
    ("autoencoder", {}),
    ("autoencoder", {"drop": 0.5}),
    ("bigan", {}),
    ("bigan", {"regress": True, "form": "least_squares"}),
    ("cgan", {}),
    ("cgan", {"condition": "colour", "prior": "normal"}),
    ("cgan", {"condition": "edges"}),
    ("cgan", {"mode_seeking": True}),
    ("gan", {}),
    ("gan", {"form": "least_squares", "spectral_norm": True}),
    ("colorization", {}),
    ("colorization", {"rebalance": None, "soft_neighbours": 1, "skip_grey": None}),
    ("colorization", {"target": "regression"}),
    ("colorization", {"target": "regression", "rebalance": None}),
    ("context_encoder", {}),
    ("context_encoder", {"mask": "random"}),
    ("cyclegan", {"patch": 16}),
    ("cyclegan", {"patch": 16, "domains": "grey", "encoder": "other", "pool": 0}),
    ("pix2pix", {"patch": 16}),
    ("pix2pix", {"patch": 16, "pair": "edges", "skips": False, "dropout": 0, "form": "least_squares"}),
    ("pix2pix", {"patch": 16, "pair": "sobel"}),
    ("pix2pix", {"patch": 16, "pair": "target", "direction": "backward"}),
    ("context_prediction", {}),
    ("context_prediction", {"colour": "keep"}),
    ("jigsaw", {}),
    ("jigsaw", {"grid": 2, "equalize": False, "grey": 0}),
    ("masked_autoencoder", {}),
    ("masked_autoencoder", {"norm_pixels": False, "mask_ratio": 0.5, "patch": 4, "decoder_depth": 1}),
    ("rotation", {}),
    ("simclr", {}),
    ("simclr", {"temperature": 0.2, "jitter": 1.0, "smallest_crop": 0.5, "projection": 16}),
    ("split_brain", {}),
    ("split_brain", {"target": "regression"}),
    ("split_brain", {"split": "diagonal"}),
    ("split_brain", {"split": "diagonal", "target": "regression"}),
    ("super_resolution", {}),
    ("super_resolution", {"factor": 4, "filter": "area"}),
    ("supervised", {}),
]
# What changes the parts of a task, beside the options above.
MORE_PARTS: list[tuple[str, dict[str, Any]]] = [
    ("gan", {"critic_steps": 5}),
    ("gan", {"penalty": "r1"}),
    ("gan", {"penalty": "gradient_penalty", "form": "wasserstein"}),
    ("cgan", {"penalty": "r1", "mode_seeking": True, "critic_steps": 2}),
    ("cgan", {"condition": "target", "penalty": "gradient_penalty"}),
    ("pix2pix", {"patch": 16, "pair": "grey", "direction": "backward"}),
]
BASELINES: list[tuple[str, dict[str, Any]]] = [("random", {}), ("rescaled", {})]
trained = pytest.mark.parametrize(("name", "options"), TRAINED, ids=str)
every = pytest.mark.parametrize(("name", "options"), TRAINED + BASELINES, ids=str)


def make_batch(count: int = B, size: int = SIZE) -> Batch:
    """Coarse random colours, so that neighbours are alike; the first image is grey."""
    g = torch.Generator().manual_seed(1)

    def picture() -> Tensor:
        coarse = torch.rand(count, 3, 4, 4, generator=g)
        return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")

    image_B3HW = picture()
    image_B3HW[0] = image_B3HW[0].mean(0, keepdim=True)
    label_B = torch.arange(count) % CLASSES
    return {
        "image": image_B3HW,
        "label": label_B,
        "edges": picture(),
        **{k: picture() for k in ("target", "other", "another")},
    }


def make_task(name: str, options: dict[str, Any], size: int = SIZE, **encoder: Any) -> Task:
    task = build_task(name, options, EncoderConfig(**{"width": 4} | encoder), size, CLASSES, seed=0)
    task.initialize(make_batch(size=size))
    return task


def make_inputs(task: Task, batch: Batch, first: int = 0) -> Tensors:
    return task.inputs(batch, Draws(5, torch.arange(first, first + len(batch["image"]))))


def freeze_others(task: Task, player: str) -> None:
    for name, spec in task.players.items():
        for network in spec.networks:
            getattr(task, network).requires_grad_(name == player)


def terms_of(task: Task, player: str, inputs: Tensors, outputs: Tensors) -> Tensors:
    """The player's losses without the facts that are only logged."""
    return {k: v for k, v in task.losses(player, inputs, outputs).items() if "/" not in k}


def all_losses(task: Task, inputs: Tensors) -> Tensors:
    return losses_of(task, inputs, task(inputs))


def losses_of(task: Task, inputs: Tensors, outputs: Tensors) -> Tensors:
    return {k: v for player in task.players for k, v in terms_of(task, player, inputs, outputs).items()}


def test_no_task_is_left_out() -> None:
    here = {name for name in all_tasks() if all_tasks()[name].__module__ == f"components.tasks.{name}"}
    assert here == {name for name, _ in TRAINED + BASELINES}


@pytest.mark.parametrize(("name", "options"), TRAINED + BASELINES + MORE_PARTS, ids=str)
def test_the_parts_are_known_before_any_network_is_built(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*_: Any, **__: Any) -> None:
        raise AssertionError("a network was built")

    with monkeypatch.context() as patched:
        patched.setattr(nn.Module, "__init__", built)
        parts = parts_of(name, options)
    task = build_task(name, options, EncoderConfig(width=4, norm="none"), SIZE, CLASSES, seed=0)
    assert parts == Parts(task.terms, task.players, task.needs)
    assert list(parts.players) == list(task.players), "players act in their order"


@pytest.mark.parametrize(
    ("name", "options", "terms"),
    [
        ("bigan", {}, {"discriminator", "adversarial"}),
        ("bigan", {"regress": True}, {"discriminator", "adversarial", "latent"}),
        ("gan", {"penalty": "r1"}, {"discriminator", "adversarial", "r1"}),
        ("cgan", {"mode_seeking": True}, {"discriminator", "adversarial", "mode_seeking"}),
        ("colorization", {}, {"cross_entropy"}),
        ("colorization", {"target": "regression"}, {"l2"}),
        ("split_brain", {"target": "regression"}, {"l2"}),
        ("super_resolution", {}, {"l2", "adversarial", "discriminator"}),
        ("super_resolution", {"perceptual": "runs:/0/encoder"}, {"l2", "adversarial", "discriminator", "perceptual"}),
    ],
)
def test_options_bring_terms(name: str, options: dict[str, Any], terms: set[str]) -> None:
    assert parts_of(name, options).terms.keys() == terms <= all_tasks()[name].terms.keys()


@trained
def test_every_term_is_there_once_and_finite(name: str, options: dict[str, Any]) -> None:
    task = make_task(name, options)
    inputs = make_inputs(task, make_batch())
    outputs = task(inputs)
    terms = [k for player in task.players for k in terms_of(task, player, inputs, outputs)]
    assert sorted(terms) == sorted(task.terms)
    for term, loss in all_losses(task, inputs).items():
        assert loss.shape == () and loss.isfinite() and loss > 0, term


@trained
def test_whoever_logs_the_facts_of_a_game_says_what_they_are_signs_of(name: str, options: dict[str, Any]) -> None:
    task = make_task(name, options)
    inputs = make_inputs(task, make_batch())
    outputs = task(inputs)
    facts = {fact for player in task.players for fact in task.losses(player, inputs, outputs)} - task.terms.keys()
    assert {*task.signs} == {sign for sign in (losses.WON, losses.COLLAPSED) if facts & {*sign.facts}}
    watched = {fact for sign in task.signs for fact in sign.facts}
    assert watched == {fact for fact in facts if "accuracy" in fact or "diversity" in fact}


@trained
def test_every_parameter_has_one_player_and_learns_from_it_alone(name: str, options: dict[str, Any]) -> None:
    task = make_task(name, options)
    owners = [id(p) for spec in task.players.values() for n in spec.networks for p in getattr(task, n).parameters()]
    assert sorted(owners) == sorted(id(p) for p in task.parameters())
    inputs = make_inputs(task, make_batch())
    for player, spec in task.players.items():
        task.requires_grad_(True)
        outputs = task(inputs)
        seen = {k: v.detach() for k, v in outputs.items()} if spec.detached else outputs
        freeze_others(task, player)
        task.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack([*terms_of(task, player, inputs, seen).values()]).sum())
        for key, parameter in task.named_parameters():
            if key.split(".")[0] in spec.networks:
                assert parameter.grad is not None and parameter.grad.any(), (player, key)
            else:
                assert parameter.grad is None, (player, key)


@trained
def test_losses_do_not_depend_on_how_the_batch_is_cut(name: str, options: dict[str, Any]) -> None:
    task, batch = make_task(name, options).eval(), make_batch()
    whole = all_losses(task, make_inputs(task, batch))
    cuts = [(0, 2), (2, 3), (3, B)]
    parts = [make_inputs(task, {k: v[a:b] for k, v in batch.items()}, first=a) for a, b in cuts]
    shares = [(b - a) / B for a, b in cuts]
    for entry in task.global_means(parts[0]):
        mean = torch.stack([part[entry] * share for part, share in zip(parts, shares, strict=True)]).sum()
        for part in parts:
            part[entry] = mean
    outputs = [task(part) for part in parts]
    for entry in task.joint:
        rows = torch.cat([each[entry] for each in outputs])
        outputs = [{**each, entry: rows} for each in outputs]
    sliced = [losses_of(task, part, seen) for part, seen in zip(parts, outputs, strict=True)]
    for term, loss in whole.items():
        together = sum(losses[term].item() * share for losses, share in zip(sliced, shares, strict=True))
        assert together == pytest.approx(loss.item(), rel=1e-5), term


@pytest.mark.parametrize(
    ("name", "options", "entry"),
    [
        ("autoencoder", {"drop": 0.5}, "kept"),
        ("context_encoder", {"mask": "random"}, "hidden"),
        ("jigsaw", {}, "tiles"),
        ("context_prediction", {}, "patches"),
        ("masked_autoencoder", {}, "visible"),
        ("simclr", {}, "first"),
        ("simclr", {}, "second"),
    ],
)
def test_random_inputs_belong_to_samples(name: str, options: dict[str, Any], entry: str) -> None:
    task, batch = make_task(name, options), make_batch()
    whole = make_inputs(task, batch)[entry]
    part = make_inputs(task, {k: v[3:5] for k, v in batch.items()}, first=3)[entry]
    assert torch.equal(part, whole[3:5])
    assert not torch.equal(whole[3], whole[4])
    assert not torch.equal(make_inputs(task, batch, first=100)[entry], whole)


@trained
def test_a_few_steps_of_each_player_alone_reduce_its_loss(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    task, batch = make_task(name, options, width=8), make_batch()
    for player in task.players:
        freeze_others(task, player)
        optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], lr=3e-3)
        history = []
        for _ in range(25):
            inputs = make_inputs(task, batch)
            losses = terms_of(task, player, inputs, task(inputs))
            loss = torch.stack([task.terms[term].weight * value for term, value in losses.items()]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            history.append(loss.item())
        assert history[-1] < 0.8 * history[0], (player, history)


@trained
def test_pictures_are_pictures(name: str, options: dict[str, Any]) -> None:
    task, batch = make_task(name, options).eval(), make_batch()
    pictures = task.samples(make_inputs(task, batch))
    assert len(pictures) >= 2
    for title, picture in pictures.items():
        assert picture.shape == (B, 3, SIZE, SIZE), title
        assert picture.dtype == torch.float32 and picture.min() >= 0 and picture.max() <= 1, title
    if "truth" in pictures:
        torch.testing.assert_close(pictures["truth"], batch["image"], rtol=0, atol=1e-6)


@trained
def test_low_precision_gives_nearly_the_same_losses_in_full_precision(name: str, options: dict[str, Any]) -> None:
    task = make_task(name, options)
    inputs = make_inputs(task, make_batch())
    full = all_losses(copy.deepcopy(task), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        low = all_losses(task, inputs)
    for term, loss in low.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(full[term].item(), rel=0.1), term


@every
@pytest.mark.parametrize(
    ("size", "encoder"),
    [
        (32, {}),
        (96, {"stem": "large"}),
        (224, {"stem": "large"}),
        (40, {"name": "resnet18", "norm": "none"}),
        (32, {"name": "vit", "depth": 2}),
    ],
    ids=str,
)
def test_all_sizes_and_encoders(name: str, options: dict[str, Any], size: int, encoder: dict[str, Any]) -> None:
    batch = make_batch(2, size)
    task = build_task(name, options, EncoderConfig(**{"width": 4} | encoder), size, CLASSES, seed=0)
    task.initialize(batch)
    assert all(loss.isfinite() for loss in all_losses(task, make_inputs(task, batch)).values())
    maps = task.eval().encoder()(batch["image"])
    assert tuple(maps) == task.encoder().layers
    assert all(isinstance(map_, Tensor) and map_.isfinite().all() for map_ in maps.values())


@every
def test_the_seed_alone_decides_the_networks(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = build_task(name, options, EncoderConfig(width=4), SIZE, CLASSES, seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    second = build_task(name, options, EncoderConfig(width=4), SIZE, CLASSES, seed=3).state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize(("name", "options"), BASELINES, ids=str)
def test_baselines_have_nothing_to_train(name: str, options: dict[str, Any]) -> None:
    task = make_task(name, options)
    assert not task.players and not task.terms
    assert task.samples(make_inputs(task, make_batch())) == {}


def test_rescaling_changes_the_random_encoder() -> None:
    random, rescaled = make_task("random", {}).encoder(), make_task("rescaled", {}).encoder()
    assert [p.shape for p in random.parameters()] == [p.shape for p in rescaled.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(random.parameters(), rescaled.parameters(), strict=True))


def test_threads_that_build_at_once_do_not_draw_from_each_other() -> None:
    def state(seed: int) -> dict[str, Tensor]:
        return build_task("autoencoder", {}, EncoderConfig(width=16), SIZE, CLASSES, seed).state_dict()

    seeds = [0, 1] * 8
    alone = [state(0), state(1)]
    with ThreadPoolExecutor(8) as threads:
        for seed, found in zip(seeds, threads.map(state, seeds), strict=True):
            assert all(torch.equal(found[key], value) for key, value in alone[seed].items())
